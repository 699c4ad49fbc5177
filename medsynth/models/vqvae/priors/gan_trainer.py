"""Training of the GAN prior over the codes of a VQ-VAE."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.distributed import same_everywhere
from medsynth.errors import MedsynthError
from medsynth.losses.adversarial import discriminator_hinge, generator_hinge
from medsynth.losses.regularization import gradient_penalty
from medsynth.losses.similarity import feature_distance, sliced_patch_distance
from medsynth.models.vqvae.priors.code_map_sets import CodeMaps
from medsynth.models.vqvae.priors.gan import MOST_TO_FIT, CodeDiscriminator, CodeGan
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import check_weights, losses

CODE_PATCH = 3  # places a side of the patches of code maps


@dataclass(frozen=True)
class CodeGanWeights:
    """What each term counts in the total loss of the generator (all but the penalty) and of the critics (the penalty).

    Args:
        reconstruction: how badly a training slice's codes are told from its latent vector, as the head measures it.
        commitment: how far generated embeddings are from their codes; for `snap`.
        adversarial: what the critics of codes and of decoded images think of generated maps.
        feature: distance of the mean features that the critics see in generated and in real maps.
        patch: sliced Wasserstein distance of patches, of code maps and of decoded images.
        coarse_reconstruction: squared error of decoded images' principal components, as a share of their variance.
        penalty: the critics' squared slope at real maps (R1).
    """

    reconstruction: float
    commitment: float
    adversarial: float
    feature: float
    patch: float
    coarse_reconstruction: float
    penalty: float

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True)
class Cooling:
    """A temperature that falls evenly on a logarithmic scale.

    Args:
        start, end: temperatures.
        iterations: from one to the other.
    """

    start: float
    end: float
    iterations: int

    def __post_init__(self) -> None:
        if not (0 < self.end <= self.start and self.iterations >= 1):
            raise MedsynthError(
                f"temperature falls from {self.start} to {self.end} in {self.iterations} iterations: give an end above "
                "0, a start that is not lower, and 1 or more iterations"
            )

    def __call__(self, iteration: int) -> float:
        """The temperature at an iteration."""
        return self.start * (self.end / self.start) ** min(1.0, iteration / self.iterations)


class CodeGanTrainer(AdversarialTrainer):
    """Per batch: update the generator on maps of training slices and on new ones, then the critics on both.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network: generator, density and the frozen stage one.
        discriminator: the critics of codes and of decoded images.
        network_optimizer, discriminator_optimizer: of the two.
        ema: keeps the moving average of `network`, which validation and users see.
        weights: of the loss terms.
        temperature: of the Gumbel-softmax, by iteration.
        instance_noise: standard deviation of the noise on real and generated codes that the critic sees, in standard
            deviations of the codes times the temperature.
        decoded_images: of a step's maps, decoded for the critic of images.
        penalty_images: maps a step that the critics' penalty is taken at.
        flip: learn from mirrored slices as well.
    """

    def __init__(
        self,
        network: CodeGan,
        discriminator: CodeDiscriminator,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        weights: CodeGanWeights,
        temperature: Cooling,
        instance_noise: float,
        decoded_images: int,
        penalty_images: int,
        flip: bool,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.weights, self.temperature, self.instance_noise = weights, temperature, instance_noise
        self.decoded_images, self.penalty_images, self.flip = decoded_images, penalty_images, flip
        self.average(ema)

    @cached_property
    def maps(self) -> CodeMaps:
        """The training slices as code maps, made when they are first needed: by then a resumed run has its weights."""
        return CodeMaps(self.data_loader.dataset, self.network.stage_one, self.flip, self.network.components.scores)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        network, weights, label, position = self.network, self.weights, batch["label"], batch["position"]
        indices, latent = self.maps.of(batch["index"])
        half = len(label) // 2  # the critics see maps of training slices' latent vectors and of new ones
        drawn = network.latents(len(label) - half)
        latent, fake_label, fake_position = (
            torch.cat([known[:half], new]) for known, new in zip((latent, label, position), drawn, strict=True)
        )
        shown = torch.linspace(0, len(label) - 1, min(self.decoded_images, len(label))).long()
        real, temperature = network.stage_one.embed(indices), self.temperature(engine.state.iteration)
        with self.autocast(), torch.no_grad():
            real_images = network.stage_one.decode(real[shown])

        with self.autocast(), frozen(self.discriminator):
            proposal = network(latent, fake_label, fake_position)
            fake, chosen = network.choose(proposal, temperature)
            fake_images = network.stage_one.decode(fake[shown])
            features = self.discriminator.features(self.with_instance_noise(fake, temperature), fake_images)
            terms = {
                "reconstruction": network.head.error(proposal[:half], indices[:half], network.codes),
                "adversarial": generator_hinge(self.scores(features, fake_label, fake_position, shown)),
                "coarse_reconstruction": network.components.missed(fake_images, latent[shown]),
                "patch": sliced_patch_distance(fake, real, patch=CODE_PATCH)
                + sliced_patch_distance(fake_images, real_images),
            }
            if weights.commitment:
                terms["commitment"] = network.head.error(proposal, chosen, network.codes)
            if weights.feature:
                with torch.no_grad():
                    target = self.discriminator.features(self.with_instance_noise(real, temperature), real_images)
                terms["feature"] = sum(
                    feature_distance(_means(mine), _means(theirs))
                    for mine, theirs in zip(features, target, strict=True)
                )
        total = sum(getattr(weights, name) * term for name, term in terms.items())
        self.update(self.network_optimizer, total, longest=1.0)

        fake, fake_images = fake.detach(), fake_images.detach()
        network.follow(fake_images[shown >= half], real_images)
        with self.autocast():
            features = self.discriminator.features(self.with_instance_noise(real, temperature), real_images)
            real_scores = self.scores(features, label, position, shown)
            features = self.discriminator.features(self.with_instance_noise(fake, temperature), fake_images)
            fake_scores = self.scores(features, fake_label, fake_position, shown)
        critic = discriminator_hinge(real_scores, fake_scores)
        penalty = self.penalty(real, real_images, label, position, shown)
        self.update(self.discriminator_optimizer, critic + weights.penalty * penalty)
        return losses(total=total, **terms, critic=critic, penalty=penalty)

    def with_instance_noise(self, codes: Tensor, temperature: float) -> Tensor:
        """Codes (N, features, h, w) with noise, so that the critic cannot go by how exactly they are codes."""
        return codes + self.instance_noise * temperature * self.discriminator.deviation * torch.randn_like(codes)

    def scores(
        self, features: tuple[list[Tensor], list[Tensor]], label: Tensor, position: Tensor, shown: Tensor
    ) -> list[Tensor]:
        """What the critics think of maps (N,) and of the images (M,) that those `shown` decode to."""
        of_codes, of_images = features
        return [
            self.discriminator.codes.scores(of_codes, label, position),
            self.discriminator.images.scores(of_images, label[shown], position[shown]),
        ]

    def penalty(self, codes: Tensor, images: Tensor, label: Tensor, position: Tensor, shown: Tensor) -> Tensor:
        """The critics' squared slopes at a few real maps and images, in float32."""
        few = slice(self.penalty_images)
        critics = self.discriminator
        of_codes = partial(critics.codes, label=label[few], position=position[few])
        of_images = partial(critics.images, label=label[shown][few], position=position[shown][few])
        codes = (codes[few] / critics.deviation).detach().requires_grad_()
        images = critics.folded(images[few]).detach().requires_grad_()
        return gradient_penalty(of_codes, codes, 0.0) + gradient_penalty(of_images, images, 0.0)

    @torch.no_grad()
    def begin(self) -> None:
        """Fit components, density and linear maps to the training set."""
        dataset = self.data_loader.dataset
        some = np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_TO_FIT)).astype(np.int64)
        self.network.components.fit(dataset.read(some)[:, None].float().to(self.state.device))
        same_everywhere(self.network)
        self.network.fit(*self.maps.all(), seed=0)
        same_everywhere(self.network)
        self.discriminator.deviation.copy_(self.network.codes.std(dim=0)[:, None, None])
        same_everywhere(self.discriminator)
        self.generator.load_state_dict(self.network.state_dict())

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) samples in [-1, 1] on the CPU."""
        return self.generator.sample(count, seed)[0].cpu()


def _means(features: list[Tensor]) -> list[Tensor]:
    return [layer.mean(dim=0) for layer in features]
