"""Training of the attention VAE-GAN, and then of the prior over its latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.distributed import same_everywhere
from medsynth.errors import MedsynthError, check_whole, is_number
from medsynth.losses.adversarial import ADVERSARIAL_LOSSES, check_adversarial_loss
from medsynth.losses.regularization import gradient_penalty, interpolate_images, kl_divergence
from medsynth.losses.similarity import (
    clamped,
    feature_distance,
    sliced_patch_distance,
    spectral_distance,
    structural_dissimilarity,
)
from medsynth.models.flow.label_map_prior import fit_label_maps
from medsynth.models.flow.learning import FACTS, augmented_loss, fit, spread_images
from medsynth.models.vaegan.critic import VaeGanCritic
from medsynth.models.vaegan.network import VaeGan
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen, shifted
from medsynth.training.base_trainer import LONGEST_GRADIENT, check_weights, losses, replayed
from medsynth.training.replay import Named
from medsynth.training.schedule import TwoParts

PROJECTIONS = 16  # of the patches of a scale
PENALTY_IMAGES = 8
MAP_INTERVAL = 4  # steps of the prior from one step of the prior over label maps to the next


@dataclass(frozen=True)
class VaeGanWeights:
    """What each term counts in the loss of encoder and decoder (all but the penalty) and of the critic (the penalty).

    Args:
        l1: mean absolute difference of image and reconstruction, in [-1, 1].
        ssim: 1 - SSIM of image and reconstruction.
        patch: sliced Wasserstein distance between the patches of reconstructions and of images, against blur.
        spectrum: divergence of the local power spectra of reconstruction and image, likewise.
        feature: distance of image and reconstruction in the critic's features.
        kl: Kullback-Leibler divergence in nats per pixel.
        adversarial: what the critic makes of the reconstruction, over the root of the number of pixels: a critic of
            slope 1 then pulls as hard as `l1` does, at any size.
        penalty: the critic's gradient penalty.
    """

    l1: float
    ssim: float
    patch: float
    spectrum: float
    feature: float
    kl: float
    adversarial: float
    penalty: float

    def __post_init__(self) -> None:
        check_weights(self)


class VaeGanTrainer(AdversarialTrainer):
    """First encoder and decoder against the critic; then, with both at rest, the priors over z and over label maps.

    Per batch of the first part: update encoder and decoder on reconstructions, then the critic, which tells these from
    images. It joins when reconstructions are sharp enough to learn from. What it sees is shifted by a few pixels, real
    and fake images alike, another way every time: otherwise its gradient has the raster of its strided convolutions.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp, cuda_graphs: as `BaseTrainer`.
        network: encoder, decoder and prior.
        discriminator: the critic.
        network_optimizer, discriminator_optimizer, prior_optimizer: of encoder and decoder, of the critic, of the
            priors.
        ema: keeps the moving average of `network`, which validation and users see.
        schedule: of the learning rates; decides when the second part begins.
        weights: of the loss terms.
        adversarial_loss: `wasserstein`, with the penalty between real and fake images, or `logistic`, with the penalty
            at real images, R1.
        critic_from: share of the first part after which the critic joins.
        penalty_interval: iterations from one gradient penalty to the next, which counts for all of them.

    Reference: Larsen et al., arXiv:1512.09300, algorithm 1; two stages: Rombach et al., latent diffusion,
    arXiv:2112.10752; WGAN-GP: arXiv:1704.00028; R1: arXiv:1801.04406; lazy penalties: arXiv:1912.04958, section 3.1;
    shifts of both: arXiv:2006.10738.
    """

    shows = "reconstructions of training slices, and new slices once the prior learns (from prior_from of the run on)"

    def __init__(
        self,
        network: VaeGan,
        discriminator: VaeGanCritic,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        prior_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        schedule: TwoParts,
        weights: VaeGanWeights,
        adversarial_loss: str,
        critic_from: float,
        penalty_interval: int,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        if not is_number(critic_from) or not 0 <= critic_from <= 1:
            raise MedsynthError(f"critic_from is {critic_from!r}: give a share from 0 to 1, such as 0.4")
        check_whole("penalty_interval", penalty_interval, 1)
        self.network, self.discriminator, self.ema, self.schedule = network, discriminator, ema, schedule
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.prior_optimizer = prior_optimizer
        self.weights, self.adversarial_loss = weights, check_adversarial_loss("adversarial_loss", adversarial_loss)
        self.critic_from, self.penalty_interval = critic_from, penalty_interval
        self.has_prior = False  # in Python: reading the network's own word each time would wait for the GPU
        schedule.attach(self)
        self.average_in_proportion(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        real = batch["image"]
        if self.schedule.in_second:
            if not self.has_prior:
                self.begin_prior()
            names = (*FACTS, "segmentation") if self.network.segmentation_classes else FACTS
            facts = {name: batch[name] for name in names}
            found = self.prior_step(image=real, facts=facts)
            self.descend(self.prior_optimizer, LONGEST_GRADIENT)
            if self.network.map_prior and self.state.iteration % MAP_INTERVAL == 0:
                found |= self.map_prior_step(facts=facts)
                self.descend(self.prior_optimizer, LONGEST_GRADIENT)
            return losses(**found)

        has_critic = self.weights.adversarial > 0 and self.schedule.done >= self.critic_from
        made = self.autoencoder_step(real=real, has_critic=has_critic)
        self.descend(self.network_optimizer, LONGEST_GRADIENT)
        if has_critic:
            due = self.state.iteration % self.penalty_interval == 0
            made["losses"] |= self.critic_step(real=real, fake=made["fake"], with_penalty=due)
            self.descend(self.discriminator_optimizer)
        return losses(**made["losses"])

    @replayed("network_optimizer")
    def autoencoder_step(self, real: Tensor, has_critic: bool) -> Named:
        """The gradients of encoder and decoder; `fake`, reconstructions like `real` (N, 1, H, W), and `losses`."""
        weights = self.weights
        with self.autocast(), frozen(self.discriminator):
            mean, log_variance = self.network.encode(real)
            fake = clamped(self.network.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean)))
            terms = {
                "l1": F.l1_loss(fake, real),
                "kl": kl_divergence(mean.flatten(1), log_variance.flatten(1)) / real[0].numel(),
            }
            if weights.ssim:
                terms["ssim"] = structural_dissimilarity(fake, real)
            if weights.patch:
                terms["patch"] = sliced_patch_distance(fake, real, PROJECTIONS)
            if weights.spectrum:
                terms["spectrum"] = spectral_distance(fake, real)
            if has_critic:
                shown, shown_real = shifted(fake, real)
                features = self.discriminator.features(shown)
                raised = ADVERSARIAL_LOSSES[self.adversarial_loss][0](self.discriminator.scores(features))
                terms["adversarial"] = raised / real[0].numel() ** 0.5
                if weights.feature:
                    with torch.no_grad():
                        target = self.discriminator.features(shown_real)
                    terms["feature"] = feature_distance(features, target)
        total = sum(getattr(weights, name) * term for name, term in terms.items())
        total.backward()
        return {"fake": fake.detach(), **losses(total=total, **terms)}

    @replayed("discriminator_optimizer")
    def critic_step(self, real: Tensor, fake: Tensor, with_penalty: bool) -> dict[str, Tensor]:
        """The gradients of the critic; its losses."""
        real, fake = shifted(real, fake)
        with self.autocast():
            scores = self.discriminator(torch.cat([real, fake])).chunk(2)
        found = {"critic": ADVERSARIAL_LOSSES[self.adversarial_loss][1](*scores)}
        found["critic"].backward()
        if with_penalty:
            few = real[:PENALTY_IMAGES].clone().requires_grad_()
            if self.adversarial_loss == "wasserstein":
                few = interpolate_images(real[:PENALTY_IMAGES], fake[:PENALTY_IMAGES])
            slope = 1.0 if self.adversarial_loss == "wasserstein" else 0.0
            found["penalty"] = gradient_penalty(self.discriminator, few, slope)
            (self.penalty_interval * self.weights.penalty * found["penalty"]).backward()
        return {name: value.detach() for name, value in found.items()}

    @replayed("prior_optimizer")
    def prior_step(self, image: Tensor, facts: Named) -> dict[str, Tensor]:
        """The gradients of the prior; its loss."""
        network = self.network
        with self.autocast():
            loss = augmented_loss(network.prior, network.latents, image, facts, network.given)
        loss.backward()
        return {"flow": loss.detach()}

    @replayed("prior_optimizer")
    def map_prior_step(self, facts: Named) -> dict[str, Tensor]:
        """The gradients of the prior over label maps; its loss."""
        with self.autocast():
            loss = self.network.map_prior.loss(facts["segmentation"], facts)
        loss.backward()
        return {"map_flow": loss.detach()}

    def begin_prior(self) -> None:
        """Put encoder and decoder to rest at their moving average, and tell the prior how z is distributed.

        Nothing happens in a run that is resumed after this.
        """
        self.has_prior = True
        if self.network.prior.is_fitted:
            return
        self.network.load_state_dict(self.generator.state_dict())
        fit(self.network.prior, self.network.latents, self.data_loader.dataset)
        if self.network.map_prior:
            fit_label_maps(self.network.map_prior, self.data_loader.dataset)
        same_everywhere(self.network)
        self.generator.load_state_dict(self.network.state_dict())

    @property
    def averaged_iterations(self) -> int:
        """Of the present part."""
        return self.state.iteration - (self.schedule.second_from or 0)

    def stateful(self) -> dict[str, object]:
        """And the prior's optimizer, and where the second part began."""
        return super().stateful() | {"prior_optimizer": self.prior_optimizer, "schedule": self.schedule}

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) in [-1, 1] on the CPU: samples, or, before the prior, reconstructions."""
        network = self.generator.eval()
        if network.prior.is_fitted:
            return network.sample(count, seed)[0].cpu()
        return network(spread_images(self.data_loader.dataset, count).to(self.state.device)).cpu()
