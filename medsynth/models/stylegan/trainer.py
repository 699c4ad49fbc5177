"""Training of StyleGAN."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.distributed import mean_of_all
from medsynth.errors import MedsynthError, check_whole
from medsynth.losses.adversarial import ADVERSARIAL_LOSSES, check_adversarial_loss
from medsynth.losses.regularization import gradient_penalty, interpolate_images, path_lengths
from medsynth.losses.similarity import SMALLEST_SCALE, energy_score, sliced_patch_distance
from medsynth.models.stylegan.adaptive_augmentation import AdaptiveAugmentation
from medsynth.models.stylegan.growth_schedule import GrowingSchedule, Phase, check_batch
from medsynth.models.stylegan.network import StyleGan
from medsynth.nn.stylegan_discriminator import StyleGanDiscriminator
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import losses

FEWEST_OF_A_CLASS = 50  # slices
PENALTY_IMAGES = 4  # of a step of WGAN-GP
PROJECTIONS = 8  # of the patches of a scale
PATH_LENGTH_MOMENTUM = 0.01

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StyleGanLoss:
    """The adversarial loss, and the weights of the other terms.

    Args:
        adversarial_loss: `logistic`, non-saturating with R1, or `wasserstein`, WGAN-GP.
        r1: the weight of R1, half the squared slope of the discriminator at real images, is this times the squared
            resolution over the images a step.
        r1_interval: steps from one R1 to the next, which counts for all of them.
        gradient_penalty: weight of the penalty of WGAN-GP, taken in every step.
        patch: weight of the sliced Wasserstein distance between the patches of generated and real images.
        energy: weight of the energy score, which makes images of one class and slice position as varied as real ones;
            it draws a second image for each.
        path_length: weight of the path-length penalty of the generator; 0 leaves it out.
        path_length_interval: steps from one such penalty to the next, which counts for all of them.

    Reference: R1: Mescheder et al., arXiv:1801.04406; its weight: Karras et al., arXiv:2006.06676, appendix; lazy
    regularization and path length: arXiv:1912.04958, section 3.
    """

    adversarial_loss: str
    r1: float
    r1_interval: int
    gradient_penalty: float
    patch: float
    energy: float
    path_length: float
    path_length_interval: int

    def __post_init__(self) -> None:
        check_adversarial_loss("loss#adversarial_loss", self.adversarial_loss)
        for name in ("r1_interval", "path_length_interval"):
            check_whole(f"loss#{name}", getattr(self, name), 1, "1 for every step, or more")


class MovingMean(nn.Module):
    """The exponential moving mean of a scalar; 0 before the first value."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.tensor(0.0))

    def follow(self, value: Tensor) -> Tensor:
        """Update the mean with `value` and return it."""
        return self.value.lerp_(mean_of_all(value.detach()), self.momentum)


class StyleGanTrainer(AdversarialTrainer):
    """Per step: update the generator, then the discriminator on the same fakes.

    A batch of the loader is split into steps, whose size the growing schedule sets for each resolution. Generated
    images get the classes and positions of the real ones.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network, discriminator: the two networks.
        network_optimizer, discriminator_optimizer: their optimizers.
        ema: keeps the moving average of `network`, which validation and users see.
        growing: resolutions and steps.
        augmentation: of what the discriminator sees.
        loss: what both minimize.
        style_mixing: share of the images that have two styles, one up to some layer, the other from there on.
        classes: names of the class indices.

    Reference: Karras et al., StyleGAN, arXiv:1812.04948.
    """

    def __init__(
        self,
        network: StyleGan,
        discriminator: StyleGanDiscriminator,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        growing: GrowingSchedule,
        augmentation: AdaptiveAugmentation,
        loss: StyleGanLoss,
        style_mixing: float,
        classes: Sequence[str],
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.growing, self.augmentation, self.loss = growing, augmentation.to(self.state.device), loss
        self.style_mixing = style_mixing
        self.path_length_mean = MovingMean(PATH_LENGTH_MOMENTUM).to(self.state.device)
        check_batch(self.data_loader.batch_size, discriminator.deviation.group)
        check_classes(self.data_loader.dataset.labels, classes)
        self.average(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        found: dict[str, list[Tensor]] = {}
        images, start = batch["image"], 0
        while start < len(images):
            phase = self.growing.now()
            part = slice(start, start + phase.batch_size)
            self.grow_to(phase)
            real = at_resolution(images[part], phase.resolution, phase.alpha)
            for name, value in self.step(real, batch["label"][part], batch["position"][part]).items():
                found.setdefault(name, []).append(value)
            self.growing.step(len(real) * idist.get_world_size())
            start += phase.batch_size
        means = {name: torch.stack(values).mean() for name, values in found.items()}
        facts = {"resolution": self.network.resolution, "alpha": self.network.alpha}
        facts["augmentation"] = self.augmentation.probability
        return losses(**means, **{name: value.float().clone() for name, value in facts.items()})

    def grow_to(self, phase: Phase) -> None:
        """Bring both networks to a phase, and log a new resolution."""
        if phase.resolution != int(self.network.resolution):
            logger.info("Training at %d x %d pixels", phase.resolution, phase.resolution)
        self.network.grow_to(phase.resolution, phase.alpha)
        self.discriminator.grow_to(phase.resolution, phase.alpha)

    def step(self, real: Tensor, label: Tensor, position: Tensor) -> dict[str, Tensor]:
        """One update of both networks; their losses."""
        generator_loss, discriminator_loss = ADVERSARIAL_LOSSES[self.loss.adversarial_loss]
        lazy = self.growing.steps

        with self.autocast(), frozen(self.discriminator):
            fake = self.network.synthesis.draw(self.styles(label, position)).clamp(-1, 1)  # as users get them
            generator = generator_loss(self.discriminator(self.augmentation(fake), label, position))
        found, total = {"generator": generator}, generator
        if self.loss.patch and real.shape[-1] >= SMALLEST_SCALE:
            found["patch"] = sliced_patch_distance(fake, real, PROJECTIONS)
            total = total + self.loss.patch * found["patch"]
        if self.loss.energy:
            with self.autocast():
                other = self.network.synthesis.draw(self.styles(label, position)).clamp(-1, 1)
            found["energy"] = energy_score(fake, other, real)
            total = total + self.loss.energy * found["energy"]
        if self.loss.path_length and lazy % self.loss.path_length_interval == 0:
            found["path_length"] = self.path_length_penalty(label, position)
            total = total + self.loss.path_length * self.loss.path_length_interval * found["path_length"]
        self.update(self.network_optimizer, total)

        both = self.augmentation(torch.cat([real, fake.detach()]))
        with self.autocast():
            real_score, fake_score = self.discriminator(both, label.repeat(2), position.repeat(2)).chunk(2)
        found["discriminator"] = total = discriminator_loss(real_score, fake_score)
        self.augmentation.follow(real_score)
        scores = partial(self.discriminator, label=label, position=position)
        if self.loss.adversarial_loss == "wasserstein":
            few = slice(PENALTY_IMAGES)
            scores = partial(self.discriminator, label=label[few], position=position[few])
            between = interpolate_images(*(images[few] for images in both.chunk(2)))
            found["penalty"] = gradient_penalty(scores, between, target=1.0)
            total = total + self.loss.gradient_penalty * found["penalty"]
        elif lazy % self.loss.r1_interval == 0:
            found["penalty"] = gradient_penalty(scores, both.chunk(2)[0].detach().requires_grad_(), target=0.0)
            weight = self.loss.r1 * real.shape[-1] ** 2 / len(real)
            total = total + weight / 2 * self.loss.r1_interval * found["penalty"]
        self.update(self.discriminator_optimizer, total)
        return {name: value.detach() for name, value in found.items()}

    def styles(self, label: Tensor, position: Tensor) -> Tensor:
        """A style for each layer (N, num_layers, style_features), of one latent vector or of two."""
        network, count = self.network, len(label)
        latents = torch.randn(2, count, network.latent_features, device=label.device)
        one, other = (network.mapping(latent, label, position) for latent in latents)
        network.follow(one.detach(), label)
        used = 2 * self.network.synthesis.level() + 2
        crossing = torch.randint(1, used, (count,), device=label.device)
        crossing[torch.rand(count, device=label.device) >= self.style_mixing] = used
        late = torch.arange(network.num_layers, device=label.device) >= crossing[:, None]
        return torch.where(late[..., None], other[:, None], one[:, None])

    def path_length_penalty(self, label: Tensor, position: Tensor) -> Tensor:
        """The mean squared deviation of path lengths from their moving mean, in float32, at half as many images."""
        half = -(-len(label) // 2)
        styles = self.styles(label[:half], position[:half])
        lengths = path_lengths(self.network.synthesis.draw(styles), styles)
        return (lengths - self.path_length_mean.follow(lengths.mean())).square().mean()

    def begin(self) -> None:
        """Fit the schedule to the run, and learn classes and positions."""
        state, loader = self.state, self.data_loader
        per_iteration = loader.batch_size * idist.get_world_size()
        self.growing.fit(state.max_epochs * state.epoch_length * per_iteration)
        self.grow_to(self.growing.now())
        dataset = loader.dataset
        self.network.conditions.fit(torch.as_tensor(dataset.labels), torch.as_tensor(dataset.positions))
        self.generator.load_state_dict(self.network.state_dict())

    def stateful(self) -> dict[str, object]:
        """All of `AdversarialTrainer`, the schedule, the probability of augmentation and the mean path length."""
        return super().stateful() | {
            "growing": self.growing,
            "augmentation": self.augmentation,
            "path_length_mean": self.path_length_mean,
        }

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) samples in [-1, 1] on the CPU."""
        return self.generator.sample(count, seed)[0].cpu()


def at_resolution(images: Tensor, resolution: int, alpha: float) -> Tensor:
    """Real images (N, 1, H, W) at a resolution that fades in: (N, 1, resolution, resolution)."""
    images = F.adaptive_avg_pool2d(images, resolution)
    if alpha < 1:
        coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="nearest")
        images = coarse.lerp(images, alpha)
    return images


def check_classes(labels: Sequence[int], classes: Sequence[str]) -> None:
    """Refuse a class that is too rare to be learned."""
    for index, name in enumerate(classes):
        count = sum(int(label) == index for label in labels)
        if count < FEWEST_OF_A_CLASS:
            raise MedsynthError(
                f"class {name!r} has {count} training slices, and {FEWEST_OF_A_CLASS} or more are needed to learn it: "
                "add images, or take the label away from these"
            )
