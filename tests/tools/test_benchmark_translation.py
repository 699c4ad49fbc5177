from __future__ import annotations

import pytest
import torch

from medsynth.data.preprocessing.pipelines import Preprocessing


@pytest.fixture
def translation(benchmark, monkeypatch):
    translation = benchmark("translation")
    monkeypatch.setattr(translation, "SLICES", 8)
    return translation


def test_a_step_trains_all_four_networks(translation, tmp_path):
    trainer = translation.full_trainer(translation.made_up_head(tmp_path, 32), 32, 1, tmp_path)
    networks = [*trainer.network.children(), *trainer.discriminator.children()]
    before = [[p.detach().clone() for p in network.parameters()] for network in networks]
    translation.step(trainer)
    for network, old in zip(networks, before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), old, strict=True))
    assert len(networks) == 4


def test_a_step_from_two_sources_trains_the_one_direction_that_takes_both(translation, tmp_path):
    path = translation.made_up_head(tmp_path, 32)
    trainer = translation.full_trainer(path, 32, 1, tmp_path, translation.CONTRASTS)
    (network,) = trainer.network.children()
    before = [p.detach().clone() for p in network.parameters()]
    translation.step(trainer)
    assert network.contrasts == 2
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("contrasts", [(), ("T1w", "T2w")])
def test_the_translation_of_a_volume_is_timed_from_file_to_file(translation, tmp_path, contrasts):
    path = translation.made_up_head(tmp_path, 32)
    network = translation.UNetVae(0, [8], 16, [3, 5], True, contrasts=len(contrasts) or 1).eval()
    assert translation.slices_per_second(network, Preprocessing("mri", None, None, 32), path, contrasts) > 0
    assert (tmp_path / "out.nii.gz").is_file()
