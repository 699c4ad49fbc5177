"""Training of the VAE-GAN prior over the codes of a VQ-VAE."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.errors import check_whole
from medsynth.losses.adversarial import discriminator_hinge, generator_hinge
from medsynth.losses.regularization import gradient_penalty, kl_divergence
from medsynth.losses.similarity import energy_score
from medsynth.models.vqvae.priors.code_map_sets import CodeMaps
from medsynth.models.vqvae.priors.gan import CodeDiscriminator, CodeGan
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import LONGEST_GRADIENT, check_weights, losses

PENALTY_MAPS = 4  # a step that the critic's penalty is taken at


@dataclass(frozen=True)
class CodeGanWeights:
    """What each term counts in the total loss of encoder and generator (all but the penalty) and of the critic.

    Args:
        reconstruction: cross-entropy of a training slice's codes, given its latent vector, in nats a place.
        kl: Kullback-Leibler divergence of encoded latent vectors from normal noise, in nats a place of the map.
        adversarial: minus the critic's scores of generated maps (hinge loss).
        energy: energy score of two maps drawn for the conditions of a real one.
        penalty: the critic's squared slope at real maps (R1).
    """

    reconstruction: float
    kl: float
    adversarial: float
    energy: float
    penalty: float

    def __post_init__(self) -> None:
        check_weights(self)


class CodeGanTrainer(AdversarialTrainer):
    """Per batch: update encoder and generator, then the critic on the same maps.

    The first half of a batch is encoded and reconstructed. For each slice of the second half, two maps are drawn from
    noise for its class and position.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network: encoder, generator and the frozen stage one.
        discriminator: the critic of code maps.
        network_optimizer, discriminator_optimizer: of either.
        ema: keeps the moving average of `network`, which validation and users see.
        weights: of the loss terms.
        flip: learn from mirrored slices as well.

    References: Larsen et al., VAE-GAN, arXiv:1512.09300; the energy score as in Bouchacourt et al., DISCO nets,
    arXiv:1606.02556.
    """

    def __init__(
        self,
        network: CodeGan,
        discriminator: CodeDiscriminator,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        weights: CodeGanWeights,
        flip: bool,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        check_whole("batch_size", self.data_loader.batch_size, 2)  # one slice to encode, and one to draw beside
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.weights, self.flip = weights, flip
        self.average(ema)

    @cached_property
    def maps(self) -> CodeMaps:
        """The training slices as code maps, made when they are first needed: by then a resumed run has its weights."""
        return CodeMaps(self.data_loader.dataset, self.network.stage_one, self.flip)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        network, critic = self.network, self.discriminator
        label, position, indices = batch["label"], batch["position"], self.maps.of(batch["index"])
        codes = network.stage_one.embed(indices)
        real, half = network.scaled(codes), len(label) // 2
        fake_label, fake_position = (torch.cat([rows, rows[half:]]) for rows in (label, position))

        with self.autocast(), frozen(critic):
            mean, log_variance = network.encode(codes[:half])
            encoded = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            latent = torch.cat([encoded, network.noise(2 * (len(label) - half))])
            logits = network.logits(latent, fake_label, fake_position)
            fake = network.scaled(network.choose(logits)[0])
            terms = {
                "reconstruction": F.cross_entropy(logits[:half].movedim(-1, 1), indices[:half]),
                "kl": kl_divergence(mean, log_variance) / indices[0].numel(),
                "adversarial": generator_hinge([critic(fake, fake_label, fake_position)]),
                "energy": energy_score(*fake[half:].chunk(2), real[half:]),
            }
        total = sum(getattr(self.weights, name) * term for name, term in terms.items())
        self.update(self.network_optimizer, total, longest=LONGEST_GRADIENT)

        fake = fake.detach()
        with self.autocast():
            told_apart = discriminator_hinge([critic(real, label, position)], [critic(fake, fake_label, fake_position)])
        penalty = self.penalty(real, label, position)
        self.update(self.discriminator_optimizer, told_apart + self.weights.penalty * penalty)
        return losses(total=total, **terms, critic=told_apart, penalty=penalty)

    def penalty(self, real: Tensor, label: Tensor, position: Tensor) -> Tensor:
        """The critic's squared slope at a few real maps, in float32."""
        few = slice(PENALTY_MAPS)
        maps = real[few].detach().requires_grad_()
        return gradient_penalty(lambda maps: self.discriminator(maps, label[few], position[few]), maps, 0.0)

    def begin(self) -> None:
        """Learn the training set's classes and positions."""
        self.network.conditions.fit(*self.maps.conditions())
        self.generator.load_state_dict(self.network.state_dict())

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) samples in [-1, 1] on the CPU."""
        return self.generator.sample(count, seed)[0].cpu()
