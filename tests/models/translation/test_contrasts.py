"""What several contrasts change in the network, the batches and the training."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.translation.augmentation import DROPPED, Augmentation, drop_contrasts
from medsynth.models.translation.evaluation import fewer_contrasts
from medsynth.models.translation.inference import check_sources
from medsynth.models.translation.network import Translator, UNetVae, middle, present
from medsynth.models.translation.pair_slices import PairDataset

SMALL = {"neighbours": 1, "channels": [8, 16], "latent_channels": 2, "kernel_sizes": [3, 5], "use_position": True}


def test_one_source_has_the_weights_of_a_network_for_each_direction():
    torch.manual_seed(0)
    forth, back = UNetVae(**SMALL), UNetVae(**SMALL)
    torch.manual_seed(0)
    both = Translator(16, **SMALL).state_dict()
    expected = {f"source_to_target.{name}": value for name, value in forth.state_dict().items()}
    expected |= {f"target_to_source.{name}": value for name, value in back.state_dict().items()}
    assert both.keys() == expected.keys()
    assert all(torch.equal(both[name], expected[name]) for name in both)


def test_a_contrast_that_is_air_everywhere_is_missing():
    image = torch.full((3, 4, 8, 8), -1.0)
    image[0, 1, 2, 3] = 0.5  # a neighbour of the first contrast
    image[1, 3] = 0.0
    image[2] += 1e-6  # as interpolation may leave it
    assert present(image, 2).tolist() == [[True, False], [False, True], [False, False]]


def test_the_network_is_told_which_contrasts_are_there():
    network = Translator(16, **SMALL, contrasts=["T1w", "T2w"])
    image = torch.rand(1, 6, 16, 16)
    image[:, 3:] = -1
    seen = []
    network.source_to_target.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(image)
    assert seen[0].shape[1] == 4 * 6 + 2 + 2
    assert (seen[0][0, -2] == 1).all()
    assert (seen[0][0, -1] == 0).all()
    assert not hasattr(network, "target_to_source")


def test_the_middle_of_several_contrasts_is_the_brightest():
    slices = torch.arange(6.0)[None, :, None, None].expand(2, 6, 1, 1)
    assert middle(slices, 2).flatten().tolist() == [4, 4]
    assert middle(slices[:, :3]).flatten().tolist() == [1, 1]


def test_contrasts_are_dropped_at_random_but_never_all_that_are_there():
    torch.manual_seed(0)
    source = torch.rand(4000, 6, 2, 2)
    source[:1000, :3] = -1  # of a quarter, the first is missing
    kept = present(drop_contrasts(source, 2), 2)
    assert (kept.sum(dim=1) >= 1).all()
    assert kept[:1000, 1].all()
    one = (kept[1000:].sum(dim=1) == 1).float().mean().item()
    assert one == pytest.approx(2 * DROPPED * (1 - DROPPED) + DROPPED**2, abs=0.03)
    both = kept.all(dim=1)
    assert torch.equal(drop_contrasts(source[both], 1), source[both])


def test_augmentation_leaves_a_missing_contrast_missing():
    source = torch.full((8, 2, 32, 32), -1.0)
    source[:, 0] = 0.3
    changed = Augmentation(rotation_degrees=20, scaling=0.2, shift=0.1, contrast=0.5)([source], [False])[0]
    assert present(changed, 2).tolist() == [[True, False]] * 8


@pytest.fixture
def entries(tmp_path):
    """Two subjects of a brain that differs from contrast to contrast; the second lacks T1w."""
    radius = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (20, 22, 12)), indexing="ij"))
    values = {"T1w": 300, "T2w": 200, "FLAIR": 100}
    for name, value in values.items():
        noise = np.random.default_rng(value).integers(-20, 20, radius.shape)
        head = np.where(radius < 0.8, value + noise, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(head, np.diag([8.0, 8, 8, 1])), tmp_path / f"{name}.nii.gz")
    paths = {name: str(tmp_path / f"{name}.nii.gz") for name in values}
    both = {"T2w": paths["T2w"], "T1w": paths["T1w"]}
    beside = {"target": paths["FLAIR"], "label": None}
    return [
        {"source": paths["T2w"], "sources": both, "subject": "a"} | beside,
        {"source": paths["T2w"], "sources": {"T2w": paths["T2w"]}, "subject": "b"} | beside,
        {"source": paths["T2w"], "sources": both, "subject": "c", "label": None},
    ]


def dataset(entries, tmp_path, window=(0.0, 400.0)) -> PairDataset:
    preprocessing = Preprocessing("mri", window, None, 32, neighbours=1)
    return PairDataset(entries, preprocessing, preprocessing, cache_dir=tmp_path / "cache", contrasts=["T1w", "T2w"])


def test_channels_are_in_the_order_of_the_contrasts_and_missing_ones_are_air(entries, tmp_path):
    slices = dataset(entries, tmp_path)
    assert slices.subjects == ["a"] * (len(slices) // 2) + ["b"] * (len(slices) // 2)  # c has no target
    assert slices.mask.all()
    of_a, of_b = slices[len(slices) // 4], slices[len(slices) * 3 // 4]
    assert of_a["source"].shape == (6, 32, 32)
    brain = of_a["target"][1] > -1
    for image, value in ((of_a["source"][1], 300), (of_a["source"][4], 200), (of_a["target"][1], 100)):
        assert image[brain].mean().item() == pytest.approx(value / 200 - 1, abs=0.03)
    assert (of_b["source"][:3] == -1).all()
    assert torch.equal(of_b["source"][3:], of_a["source"][3:])


def test_an_unknown_contrast_is_refused_by_subject(entries, tmp_path):
    entries[1]["sources"] = {"PD": entries[1]["source"]}
    with pytest.raises(MedsynthError, match="b has a source of PD, and the contrasts are T1w, T2w"):
        dataset(entries, tmp_path)


def test_what_is_measured_with_fewer_contrasts():
    assert fewer_contrasts([]) == {}
    assert fewer_contrasts(["a", "b"]) == {"only a": ["a"], "only b": ["b"]}
    assert list(fewer_contrasts("abc")) == [f"{word} {name}" for word in ("only", "without") for name in "abc"]
    assert fewer_contrasts("abc")["without b"] == ["a", "c"]


@pytest.mark.parametrize(
    ("own", "contrasts", "told"),
    [
        ({"a": "1", "b": "2"}, (), "s1 has the sources a, b, and this model takes one image"),
        ({"a": "1", "c": "2"}, ("a", "b"), "s1 has a source of c, and this model knows a, b"),
        ({}, ("a", "b"), "s1 has a source without the name of a contrast"),
    ],
)
def test_sources_of_a_datalist_have_to_be_those_of_the_model(own, contrasts, told):
    with pytest.raises(MedsynthError, match=told):
        check_sources({"subject": "s1"} | ({"sources": own} if own else {}), contrasts)
