from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.handlers import EMAHandler

from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.models.vqvae.trainer import CodebookLearning, VqVaeTrainer, VqVaeWeights
from medsynth.nn.patch_discriminator import MultiScalePatchDiscriminator

WEIGHTS = {"l1": 1.0, "patch": 0.0, "spectrum": 0.1, "commitment": 0.25, "adversarial": 0.5, "feature": 0.1}
LEARNING = {"warmup": 2, "decay": 0.9, "restart_below": 0.1}


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> SliceDataset:
    """Those of two phantom heads."""
    from medsynth.data.datalist import datalist
    from medsynth.data.phantom import phantom

    folder = tmp_path_factory.mktemp("vqvae")
    path = phantom.write_dataset(folder / "phantom", subjects=4, spacing_mm=6.0)
    entries = datalist.read(path).entries[:2]
    return SliceDataset(entries, Preprocessing("mri", None, None, 32), cache_dir=folder / "cache")


@pytest.fixture
def trainer(slices):
    """A trainer of a tiny network; `second` says whether the second stage has begun."""

    def build(second: bool = False, weights: dict | None = None, learning: dict | None = None, **options):
        torch.manual_seed(0)
        network = SliceVqVae(32, (8, 8), 0, 16, 4, cosine=False)
        discriminator = MultiScalePatchDiscriminator(channels=8, num_layers=1, num_scales=1)
        return VqVaeTrainer(
            **{
                "device": torch.device("cpu"),
                "max_epochs": 1,
                "train_data_loader": SliceLoader(slices, 4),
                "epoch_length": 6,
                "amp": False,
                "network": network,
                "discriminator": discriminator,
                "network_optimizer": torch.optim.Adam(network.parameters(), 1e-3),
                "discriminator_optimizer": torch.optim.Adam(discriminator.parameters(), 1e-3),
                "ema": EMAHandler(network, momentum=0.5, handle_buffers="copy"),
                "weights": VqVaeWeights(**WEIGHTS | (weights or {})),
                "codebook": CodebookLearning(**LEARNING | (learning or {})),
                "schedule": SimpleNamespace(second_stage=lambda engine: second, attach=lambda engine: None),
            }
            | options
        )

    return build


def parameters(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])


def losses_of_all_steps(one: VqVaeTrainer) -> list[set[str]]:
    from ignite.engine import Events

    names = []
    one.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: names.append(set(engine.state.output["losses"])))
    one.run()
    return names


def test_latents_pass_as_they_are_until_the_codes_are_taken_from_them(trainer):
    one = trainer()
    untouched = one.network.codebook.codes.clone()
    names = losses_of_all_steps(one)
    assert names == [{"total", "l1", "spectrum"}] * 2 + [{"total", "l1", "spectrum", "commitment"}] * 4
    codebook = one.network.codebook
    assert not torch.equal(codebook.codes, untouched)
    assert codebook.usage.sum() == 4 * 4 * 64  # steps, slices, places
    latents = one.network.encode(one.data_loader.dataset.read(torch.arange(4).numpy())[:, None].float())
    assert (codebook.embed(codebook.quantize(latents)) - latents).square().mean() < latents.var()


def test_a_run_without_an_epoch_is_refused(trainer):
    with pytest.raises(MedsynthError, match="max_epochs is -1: give a whole number, 1 or more"):
        trainer(max_epochs=-1)


def test_a_warm_up_ends_in_the_first_half_of_the_first_epoch(trainer):
    assert trainer(learning={"warmup": 1000}).warmup == 3
    one = trainer(learning={"warmup": 1000}, epoch_length=1)
    assert losses_of_all_steps(one) == [{"total", "l1", "spectrum", "commitment"}]
    assert one.network.codebook.usage.any()


def test_training_lowers_the_loss_and_the_average_follows(trainer, slices):
    one = trainer(max_epochs=15)
    images = torch.stack([slices[i]["image"] for i in range(0, len(slices), 3)])
    before = (one.network(images) - images).abs().mean()
    one.run()
    assert (one.generator(images) - images).abs().mean() < 0.6 * before
    assert torch.equal(one.generator.codebook.codes, one.network.codebook.codes)


def test_a_discriminator_learns_in_the_second_stage_alone(trainer):
    first, second = trainer(), trainer(second=True)
    before = parameters(first.discriminator)
    first.run()
    second.run()
    assert torch.equal(parameters(first.discriminator), before)
    assert not torch.equal(parameters(second.discriminator), before)
    terms = {"total", "l1", "spectrum", "commitment", "adversarial", "feature", "discriminator"}
    assert set(second.state.output["losses"]) == terms


@pytest.mark.parametrize("name", ["commitment", "patch", "spectrum"])
def test_a_term_moves_the_network_by_its_weight(trainer, name):
    def moved(weight: float) -> torch.Tensor:
        one = trainer(weights={name: weight})
        one.run()
        return parameters(one.network)

    assert torch.equal(moved(0.5), moved(0.5))
    assert not torch.equal(moved(0.0), moved(0.5))


def test_the_adaptive_weight_makes_both_gradients_of_the_last_layer_equally_long(trainer):
    one = trainer(second=True)
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    fake = one.network.decoder(one.network.encode(images))
    terms = {"l1": (fake - images).abs().mean()} | one.second_stage_terms(fake, images)
    weight = one.adaptive_weight(terms)
    last = one.network.last_layer
    norms = [torch.autograd.grad(terms[name], last, retain_graph=True)[0].norm() for name in ("l1", "adversarial")]
    assert weight.item() == pytest.approx(0.5 * norms[0].item() / norms[1].item(), rel=1e-3)
    assert not weight.requires_grad


@pytest.mark.parametrize(
    ("part", "mistake", "told"),
    [
        (VqVaeWeights, WEIGHTS | {"spectrum": -1}, "weights#spectrum is -1"),
        (VqVaeWeights, WEIGHTS | {"l1": 0}, "weights#l1 is 0"),
        (CodebookLearning, LEARNING | {"warmup": -1}, "codebook#warmup is -1"),
        (CodebookLearning, LEARNING | {"decay": 1.0}, "codebook#decay is 1.0"),
        (CodebookLearning, LEARNING | {"restart_below": "never"}, "codebook#restart_below is 'never'"),
    ],
)
def test_a_setting_that_cannot_be_is_told(part, mistake, told):
    with pytest.raises(MedsynthError) as refused:
        part(**mistake)
    assert told in str(refused.value)
