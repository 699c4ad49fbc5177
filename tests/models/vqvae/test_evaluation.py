from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.image import psnr
from medsynth.models.vqvae.averages import AveragesPsnr, averages
from medsynth.models.vqvae.evaluation import (
    BASELINE,
    ReconstructionEvaluation,
    evaluation_of,
    measured,
    sections,
    summarized,
    verdicts,
)
from medsynth.models.vqvae.network import SliceVqVae


@pytest.fixture
def network() -> SliceVqVae:
    torch.manual_seed(0)
    return SliceVqVae(16, (8, 8), 0, num_codes=16, code_features=4, cosine=False).eval()


@pytest.fixture
def cases(network):
    """Of three subjects."""
    return [measured(name, torch.rand(3, 1, 16, 16) * 2 - 1, network) for name in "abc"]


def test_a_subject_is_measured_in_0_to_1_beside_averages_over_each_code_s_place(network):
    smooth = torch.linspace(-1, 1, 16).expand(2, 1, 16, 16).contiguous()
    case = measured("a", smooth, network)
    assert case.slices == 2
    assert case.usage.sum() == 2 * 16
    assert case.baseline["psnr"] > 25  # what is smooth is all in its averages
    fake = (network(smooth) + 1) / 2
    assert case.row["psnr"] == pytest.approx(psnr(fake, (smooth + 1) / 2, 1.0).mean().item())
    assert np.array_equal(case.images["truth"], (smooth[1, 0].numpy() + 1) / 2)


def test_a_validation_measures_the_averages_of_the_same_images(network):
    images, measure = torch.rand(3, 1, 16, 16) * 2 - 1, AveragesPsnr(network)
    for part in images.split(2):
        measure.update((torch.zeros_like(part), part))
    assert measure.compute() == pytest.approx(measured("a", images, network).baseline["psnr"], abs=1e-4)
    torch.testing.assert_close(averages(images, 16), images.mean(dim=(2, 3), keepdim=True).expand_as(images))


def test_the_entropy_is_of_a_subject_s_codes_and_the_usage_of_all(network, cases):
    usage = torch.stack([case.usage for case in cases]).sum(dim=0)
    by_name = {measure.name: measure for measure in summarized(cases, usage, network, 0)}
    assert by_name["bits_per_pixel"].value == 4 / 16
    share = cases[0].usage[cases[0].usage > 0] / cases[0].usage.sum()
    assert cases[0].row["entropy_per_pixel"] == pytest.approx(-(share * share.log2()).sum().item() / 16, rel=1e-5)
    assert by_name["codes_used"].value == (usage > 0).double().mean()
    assert by_name["psnr"].baseline == pytest.approx(np.mean([case.baseline["psnr"] for case in cases]))


def test_an_untrained_network_is_no_better_than_averages_and_a_perfect_one_is(network, cases):
    usage = torch.ones(16)
    closeness, codebook = verdicts(summarized(cases, usage, network, 0))
    assert closeness.grade == "poor"
    assert "no better than averages over each code's pixels: train longer" in closeness.headline
    assert codebook.grade == "good"
    assert codebook.headline == "16 codes are used like 16 equally frequent ones."
    for case in cases:
        case.row.update(psnr=case.baseline["psnr"] + 5, ssim=1.0)
    usage[1:] = 0
    closeness, codebook = verdicts(summarized(cases, usage, network, 0))
    assert closeness.grade == "good"
    assert codebook.grade == "mixed"


def test_the_page_shows_the_worst_subject_first(network, cases):
    for case, value in zip(cases, (30.0, 20.0, 25.0), strict=True):
        case.row["psnr"] = value
    usage = torch.stack([case.usage for case in cases]).sum(dim=0)
    _, images, subjects = sections(cases, summarized(cases, usage, network, 0))
    assert [row[0].text for row in subjects.blocks[0].rows] == ["b", "c", "a"]
    assert [figure.title for figure in images.blocks[0].figures] == ["b", "c", "a"]
    assert BASELINE in cases[0].images


def test_the_model_of_another_system_is_refused():
    with pytest.raises(MedsynthError, match="holds a Linear: give the model.pt of a VQ-VAE"):
        ReconstructionEvaluation(SimpleNamespace(network=torch.nn.Linear(1, 1)), None, None).run()


def test_a_prior_or_given_images_are_judged_as_images(network):
    stage_one, prior = SimpleNamespace(network=network), SimpleNamespace(network=SimpleNamespace(stage_one=network))
    assert evaluation_of(stage_one, None, "images", "codes") == "codes"
    assert evaluation_of(prior, None, "images", "codes") == "images"
    assert evaluation_of(stage_one, "folder", "images", "codes") == "images"
