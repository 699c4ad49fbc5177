from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.handlers import EMAHandler

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.superres.degradation import Degradation
from medsynth.models.superres.network import RRDBNet
from medsynth.models.superres.trainer import SuperResolutionTrainer, SuperResolutionWeights
from medsynth.nn.patch_discriminator import MultiScalePatchDiscriminator
from medsynth.nn.resampling import average, spline


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> SliceDataset:
    """A few slices of a phantom at 4 mm, with their neighbours."""
    from medsynth.data.datalist import datalist
    from medsynth.data.phantom import phantom

    folder = tmp_path_factory.mktemp("superres")
    path = phantom.write_dataset(folder / "phantom", subjects=4, spacing_mm=5.0)
    preprocessing = Preprocessing("mri", None, None, 48, neighbours=1, keep_pixels=True)
    return SliceDataset(datalist.read(path).entries[:2], preprocessing, cache_dir=folder / "cache")


@pytest.fixture
def trainer(slices):
    """A trainer of a tiny network; `second` says whether the second stage has begun."""

    def build(second: bool = False, **options) -> SuperResolutionTrainer:
        torch.manual_seed(0)
        kind = options.pop("kind", "area")
        network = RRDBNet(2, kind, 8, "dense", 1, 4, 0.2, 1, "subpixel", True)
        discriminator = MultiScalePatchDiscriminator(channels=8, num_layers=1, num_scales=1)
        return SuperResolutionTrainer(
            **{
                "device": torch.device("cpu"),
                "max_epochs": 1,
                "train_data_loader": SliceLoader(slices, 4),
                "epoch_length": 1,
                "amp": False,
                "network": network,
                "discriminator": discriminator,
                "network_optimizer": torch.optim.Adam(network.parameters(), 1e-3),
                "discriminator_optimizer": torch.optim.Adam(discriminator.parameters(), 1e-3),
                "ema": EMAHandler(network, momentum=0.5),
                "degradation": Degradation(2, kind),
                "weights": SuperResolutionWeights(adversarial=0.1, feature=0.1),
                "schedule": SimpleNamespace(second_stage=lambda engine: second, attach=lambda engine: None),
                "patch_size": 24,
                "examples": slices,
            }
            | options
        )

    return build


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])


def test_the_first_stage_trains_the_network_alone_on_pixels(trainer):
    first = trainer()
    before = weights(first.network), weights(first.discriminator)
    first.run()
    assert set(first.state.output["losses"]) == {"pixel"}
    assert not torch.equal(weights(first.network), before[0])
    assert torch.equal(weights(first.discriminator), before[1])


def test_the_second_stage_trains_both_against_each_other(trainer):
    second = trainer(second=True)
    before = weights(second.discriminator)
    second.run()
    assert set(second.state.output["losses"]) == {"total", "pixel", "adversarial", "feature", "discriminator"}
    assert not torch.equal(weights(second.discriminator), before)


@pytest.mark.parametrize("name", ["adversarial", "feature"])
def test_terms_of_the_second_stage_move_the_network_by_their_weights(trainer, name):
    def moved(**terms):
        one = trainer(second=True, weights=SuperResolutionWeights(**{"adversarial": 0.0, "feature": 0.0} | terms))
        one.run()
        return weights(one.network)

    assert torch.equal(moved(), moved())
    assert not torch.equal(moved(), moved(**{name: 1.0}))


def test_patches_are_parts_of_slices_that_were_made_coarse_as_a_whole(trainer, slices):
    one = trainer(patch_size=None)
    images = torch.stack([slices[i]["image"] for i in range(3)])
    low, base, high = one.patches(*one.prepare({"image": images}, torch.device("cpu")), torch.rand(3).double())
    assert torch.equal(low, average(images, 2))
    assert torch.equal(high, images[:, 1:2])
    assert torch.allclose(average(base, 2), low[:, 1:2], atol=1e-5)
    assert (base - spline(low[:, 1:2], 2)).abs().mean() < 0.05
    cut = trainer(patch_size=24)
    low, base, high = cut.patches(*one.prepare({"image": images}, torch.device("cpu")), torch.rand(3).double())
    assert low.shape == (3, 3, 12, 12)
    assert torch.allclose(average(high, 2), low[:, 1:2], atol=1e-5)  # the same place on both grids
    assert torch.allclose(average(base, 2), low[:, 1:2], atol=1e-5)


def test_pictures_show_coarse_interpolated_found_true_and_error_in_a_row(trainer):
    images = trainer().sample(10, seed=0)
    assert images.shape == (10, 1, 48, 48)
    coarse, base, found, truth, error = images[5:]
    assert torch.allclose(average(truth[None], 2), average(coarse[None], 2), atol=1e-5)
    assert torch.allclose(found, base, atol=0.2)  # not trained
    assert torch.allclose(error, (4 * (found - truth).abs() - 1).clamp(max=1), atol=1e-5)


def test_a_patch_larger_than_the_slices_is_the_whole_slice(trainer):
    assert trainer(patch_size=64).patch == trainer(patch_size=None).patch == 48 // 2


@pytest.mark.parametrize(
    ("patch_size", "told"),
    [
        (25, "patch_size is 25: give null for the usual size, or a multiple of scale 2 from 16 on"),
        (8, "patch_size is 8"),
        ("half", "patch_size is 'half'"),
    ],
)
def test_a_patch_that_cannot_be_cut_is_told(trainer, patch_size, told):
    with pytest.raises(MedsynthError) as raised:
        trainer(patch_size=patch_size)
    assert told in str(raised.value)
