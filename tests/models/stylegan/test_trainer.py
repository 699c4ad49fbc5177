from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.data.datasets.loader import SliceLoader
from medsynth.errors import MedsynthError
from medsynth.models.stylegan.adaptive_augmentation import AdaptiveAugmentation
from medsynth.models.stylegan.growth_schedule import GrowingSchedule
from medsynth.models.stylegan.network import StyleGan
from medsynth.models.stylegan.trainer import StyleGanLoss, StyleGanTrainer, at_resolution, check_classes
from medsynth.nn.stylegan_discriminator import StyleGanDiscriminator

SIZE, CLASSES = 16, ("left", "right")
LOSS = {
    "adversarial_loss": "logistic",
    "r1": 0.01,
    "r1_interval": 4,
    "gradient_penalty": 10.0,
    "patch": 0.0,
    "energy": 0.0,
    "path_length": 0.0,
    "path_length_interval": 2,
}


class Sides:
    """Slices that are bright on the left in class 0 and on the right in class 1; what a trainer reads of a dataset."""

    def __init__(self, count: int = 120) -> None:
        random = np.random.default_rng(0)
        self.labels = np.arange(count) % 2
        self.positions = random.random(count).astype(np.float32)
        self.images = np.full((count, SIZE, SIZE), -0.8, dtype=np.float32)
        self.images[self.labels == 0, :, : SIZE // 2] = 0.6
        self.images[self.labels == 1, :, SIZE // 2 :] = 0.6
        self.images += 0.05 * random.standard_normal(self.images.shape).astype(np.float32)
        self.views, self.stored_slices = {"image": np.arange(count)[:, None]}, self

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.images[indices])

    def facts(self, indices: np.ndarray) -> dict[str, Tensor]:
        facts = {"label": self.labels[indices], "position": self.positions[indices], "index": indices}
        return {name: torch.from_numpy(values) for name, values in facts.items()}


@pytest.fixture
def build() -> Callable[..., StyleGanTrainer]:
    """A trainer whose networks depend on nothing but the seed."""

    def make(
        batch_sizes: tuple[int, ...] = (16, 8),
        fade_kimg: float = 0.064,
        stable_kimg: float = 0.032,
        length: int = 100,
        style_mixing: float = 0.5,
        architecture: str = "progressive",
        target: float | None = None,
        **loss,
    ) -> StyleGanTrainer:
        torch.manual_seed(0)
        network = StyleGan(SIZE, 8, 8, 16, 2, 2, True, architecture)
        discriminator = StyleGanDiscriminator(SIZE, 8, 2, True, architecture, 4)
        optimizers = [torch.optim.Adam(part.parameters(), 0.005, (0.0, 0.99)) for part in (network, discriminator)]
        growing = GrowingSchedule(
            SIZE, architecture == "progressive", [fade_kimg], [stable_kimg], list(batch_sizes), group=4
        )
        return StyleGanTrainer(
            network,
            discriminator,
            *optimizers,
            EMAHandler(network, momentum=0.1, handle_buffers="copy"),
            growing,
            AdaptiveAugmentation(target, kimg=1),
            StyleGanLoss(**(LOSS | loss)),
            style_mixing,
            CLASSES,
            device="cpu",
            max_epochs=1,
            train_data_loader=SliceLoader(Sides(), 16),
            epoch_length=length,
            amp=False,
        )

    return make


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def iterate(trainer: StyleGanTrainer, times: int = 1) -> list[dict[str, float]]:
    """The losses of some iterations."""
    batches = iter(trainer.data_loader)
    outputs = [trainer._iteration(trainer, next(batches)) for _ in range(times)]
    return [{name: value.item() for name, value in output["losses"].items()} for output in outputs]


def test_each_class_learns_its_own_images(build):
    trainer = build(length=120, patch=1.0)
    torch.manual_seed(1)
    trainer.run()
    for label, side in ((0, slice(None, SIZE // 2)), (1, slice(SIZE // 2, None))):
        images = trainer.generator.sample(32, 0, label=label)[0]
        assert images[..., side].mean() > images.mean() + 0.2


def test_a_batch_is_cut_into_steps_that_fit_the_resolution_and_grows(build):
    trainer = build()
    trainer.begin()
    reported = iterate(trainer, 7)
    # 32 images at 8 pixels, 64 in which 16 pixels fade in, step by step of 8; the last step of an iteration is told
    assert [row["resolution"] for row in reported] == [8, 8, 16, 16, 16, 16, 16]
    assert [row["alpha"] for row in reported] == pytest.approx([1, 1, 0.125, 0.375, 0.625, 0.875, 1])
    assert (trainer.growing.images, trainer.growing.steps) == (7 * 16, 2 + 5 * 2)


def test_lazy_terms_come_at_their_intervals(build):
    trainer = build(batch_sizes=(16, 16), path_length=1.0)
    trainer.begin()
    reported = iterate(trainer, 8)
    assert [i for i, row in enumerate(reported) if "penalty" in row] == [0, 4]
    assert [i for i, row in enumerate(reported) if "path_length" in row] == [0, 2, 4, 6]


@pytest.mark.parametrize("interval", [1, 4])
def test_r1_weighs_as_much_whatever_its_interval(build, monkeypatch, interval):
    trainer, seen = build(r1_interval=interval, r1=0.5), []
    trainer.begin()
    monkeypatch.setattr(trainer, "update", lambda optimizer, loss, longest=None: seen.append(loss.item()))
    (row,) = iterate(trainer)
    # gamma / 2 times the interval; gamma is 0.5 times 8 pixels squared over 16 images
    assert seen[1] == pytest.approx(row["discriminator"] + 0.5 * 64 / 16 / 2 * interval * row["penalty"], rel=1e-4)


@pytest.mark.parametrize(
    "loss", [{}, {"adversarial_loss": "wasserstein"}, {"patch": 1.0}, {"energy": 5.0}, {"path_length": 2.0}]
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_every_part_in_use_trains_with_every_loss(build, loss, bfloat16):
    trainer = build(stable_kimg=0, fade_kimg=0, style_mixing=1.0, **loss)
    trainer.bfloat16 = bfloat16
    trainer.begin()
    before = weights_of(trainer.network), weights_of(trainer.discriminator)
    for row in iterate(trainer, 3):
        assert all(math.isfinite(value) for value in row.values())
    for start, network in zip(before, (trainer.network, trainer.discriminator), strict=True):
        idle = {name for name, parameter in network.named_parameters() if torch.equal(start[name], parameter)}
        assert {name for name in idle if ".0.conv" not in name and start[name].numel() > 1} == set()


def test_the_generator_s_update_leaves_the_discriminator_as_it_is_and_the_reverse(build, monkeypatch):
    trainer, seen = build(), []
    trainer.begin()

    def spy(optimizer, loss, **how):
        before = [weights_of(network) for network in (trainer.network, trainer.discriminator)]
        StyleGanTrainer.update(trainer, optimizer, loss, **how)
        after = [weights_of(network) for network in (trainer.network, trainer.discriminator)]
        seen.append([any(not torch.equal(b[name], a[name]) for name in b) for b, a in zip(before, after, strict=True)])

    monkeypatch.setattr(trainer, "update", spy)
    iterate(trainer)
    assert seen == [[True, False], [False, True]]


def test_the_discriminator_sees_images_as_users_get_them(build, monkeypatch):
    trainer, seen = build(), []
    trainer.begin()
    with torch.no_grad():
        trainer.network.synthesis.to_image[0].conv.bias.fill_(9.0)
    monkeypatch.setattr(trainer.augmentation, "forward", lambda images: seen.append(images) or images)
    iterate(trainer)
    assert seen[0].shape == (16, 1, 8, 8)
    assert (seen[0] == 1).all()
    assert seen[1][:16].abs().max() < 1  # real ones
    assert (seen[1][16:] == 1).all()


def test_two_styles_cross_at_a_layer_that_is_in_use(build):
    trainer = build(style_mixing=1.0)
    label, position = torch.zeros(200, dtype=torch.long), torch.zeros(200)
    for resolution, used in ((8, 2), (16, 4)):
        trainer.network.grow_to(resolution, 1.0)
        styles = trainer.styles(label, position)
        crossings = (styles[:, 1:] != styles[:, :-1]).any(dim=2)
        assert (crossings.sum(dim=1) == 1).all()
        assert set(crossings.float().argmax(dim=1).tolist()) == set(range(used - 1))
    assert (build(style_mixing=0.0).styles(label, position).std(dim=1) < 1e-6).all()


def test_real_images_fade_in_as_generated_ones_do():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 16, 16)
    fine, coarse = F.avg_pool2d(images, 2), F.avg_pool2d(images, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(at_resolution(images, 8, 1.0), fine)
    assert torch.allclose(at_resolution(images, 8, 0.0), coarse)
    assert torch.allclose(at_resolution(images, 8, 0.25), 0.75 * coarse + 0.25 * fine)
    assert torch.equal(at_resolution(images, 16, 1.0), images)


def test_samples_have_the_classes_and_positions_of_the_training_set(build):
    trainer = build()
    trainer.begin()
    _, labels, positions = trainer.generator.sample(300, 0)
    assert 100 < labels.sum() < 200
    assert positions.mean().item() == pytest.approx(float(Sides().positions.mean()), abs=0.06)


def test_the_moving_average_follows_resolution_and_alpha(build):
    trainer = build(length=4)
    trainer.run()
    assert (int(trainer.generator.resolution), float(trainer.generator.alpha)) == (16, float(trainer.network.alpha))


def test_skip_has_all_resolutions_from_the_start(build):
    trainer = build(architecture="skip")
    trainer.begin()
    (row,) = iterate(trainer)
    assert (row["resolution"], row["alpha"]) == (16, 1)


def test_a_class_with_few_slices_is_refused_by_name():
    with pytest.raises(MedsynthError, match="class 'old' has 49 training slices, and 50 or more are needed"):
        check_classes([0] * 80 + [1] * 49 + [-1] * 5, ["young", "old"])
    check_classes([0] * 50 + [1] * 50, ["young", "old"])


def test_a_game_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(MedsynthError, match="loss#adversarial_loss is 'hinge': choose one of logistic, wasserstein"):
        StyleGanLoss(**(LOSS | {"adversarial_loss": "hinge"}))
