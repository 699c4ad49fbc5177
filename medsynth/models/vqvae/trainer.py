"""Training of a VQ-VAE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.errors import MedsynthError, check_whole
from medsynth.losses.adversarial import discriminator_hinge, generator_hinge
from medsynth.losses.similarity import clamped, feature_distance, sliced_patch_distance, spectral_distance
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.nn.patch_discriminator import MultiScalePatchDiscriminator
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import LONGEST_GRADIENT, check_weights, losses
from medsynth.training.schedule import TwoStages

IMAGES_TO_START_FROM = 512  # of whose latents the first codes are taken
ENCODED_AT_ONCE = 64  # images
LARGEST_ADAPTIVE_WEIGHT = 1e4
SMALLEST_GRADIENT = 1e-6


@dataclass(frozen=True)
class VqVaeWeights:
    """The weight of each term in the loss of the network.

    Args:
        l1: mean absolute difference of image and reconstruction, in [-1, 1].
        patch: sliced Wasserstein distance between the patches of reconstructions and of images, against blur.
        spectrum: divergence of the local power spectra of reconstruction and image, likewise.
        commitment: mean squared distance of latents from their codes; trains the encoder only.
        adversarial: in the second stage, adversarial loss of the reconstruction, times the adaptive weight that makes
            its gradient as long as that of `l1`.
        feature: in the second stage, distance of image and reconstruction in the discriminator's features.
    """

    l1: float
    patch: float
    spectrum: float
    commitment: float
    adversarial: float
    feature: float

    def __post_init__(self) -> None:
        check_weights(self)
        if not self.l1:
            raise MedsynthError("weights#l1 is 0, and reconstructions need not be like their images: give 1")


@dataclass(frozen=True)
class CodebookLearning:
    """How the codes follow the latents.

    Args:
        warmup: iterations in which latents are not quantized, before the first codes are taken from them; half of the
            first epoch at most.
        decay: of the moving averages that the codes are, per step.
        restart_below: share of an even share of the latents below which a code is restarted.
    """

    warmup: int
    decay: float
    restart_below: float

    def __post_init__(self) -> None:
        check_whole("codebook#warmup", self.warmup, 0, "a number of iterations, 0 or more")
        if not isinstance(self.decay, (int, float)) or not 0 <= self.decay < 1:
            raise MedsynthError(f"codebook#decay is {self.decay!r}: give a number from 0 to below 1, such as 0.99")
        if not isinstance(self.restart_below, (int, float)) or not 0 <= self.restart_below < 1:
            raise MedsynthError(f"codebook#restart_below is {self.restart_below!r}: give 0 for never, to below 1")


class VqVaeTrainer(AdversarialTrainer):
    """Per batch: update encoder and decoder, then the codes and, in the second stage, the discriminator.

    The second stage, if there is one, is that of VQGAN.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network: encoder, codebook and decoder.
        discriminator: of images; learns in the second stage only.
        network_optimizer, discriminator_optimizer: their optimizers.
        ema: keeps the moving average of `network` (its codes are copied), which validation and users see.
        weights: of the loss terms.
        codebook: how the codes learn.
        schedule: of the learning rate; decides when the second stage begins.

    Reference: van den Oord et al., arXiv:1711.00937, eq. 3 and appendix A.1; second stage: Esser et al., VQGAN,
    arXiv:2012.09841, section 3.1.
    """

    def __init__(
        self,
        network: SliceVqVae,
        discriminator: MultiScalePatchDiscriminator,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        weights: VqVaeWeights,
        codebook: CodebookLearning,
        schedule: TwoStages,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.weights, self.codebook, self.schedule = weights, codebook, schedule
        self.warmup = min(codebook.warmup, self.state.epoch_length // 2)
        schedule.attach(self)
        self.average(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        real, weights, network = batch["image"], self.weights, self.network
        has_codes = engine.state.iteration > self.warmup
        second = self.schedule.second_stage(engine)
        if engine.state.iteration == self.warmup + 1:
            self.start_codes()

        with self.autocast(), frozen(self.discriminator):
            latents = network.encode(real)
            codes, indices, commitment = network.codebook(latents)
            fake = clamped(network.decoder(codes if has_codes else latents).float())
            terms = {"l1": F.l1_loss(fake, real)}
            if weights.patch:
                terms["patch"] = sliced_patch_distance(fake, real)
            if weights.spectrum:
                terms["spectrum"] = spectral_distance(fake, real)
            if has_codes:
                terms["commitment"] = commitment
            if second:
                terms |= self.second_stage_terms(fake, real)
        total = sum(getattr(weights, name) * term for name, term in terms.items() if name != "adversarial")
        if second:
            total = total + self.adaptive_weight(terms) * terms["adversarial"]
        self.update(self.network_optimizer, total, longest=LONGEST_GRADIENT)
        if has_codes:
            network.codebook.learn(latents, indices, self.codebook.decay, self.codebook.restart_below)
        if not second:
            return losses(total=total, **terms)

        with self.autocast():
            scores = [[score for score, _ in self.discriminator(images)] for images in (real, fake.detach())]
        discriminator = discriminator_hinge(*scores)
        self.update(self.discriminator_optimizer, discriminator)
        return losses(total=total, **terms, discriminator=discriminator)

    def second_stage_terms(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The adversarial loss of reconstructions, and their distance from the images in the features."""
        found = self.discriminator(fake)
        terms = {"adversarial": generator_hinge([scores for scores, _ in found])}
        if self.weights.feature:
            with torch.no_grad():
                wanted = [layer for _, layers in self.discriminator(real) for layer in layers]
            terms["feature"] = feature_distance([layer for _, layers in found for layer in layers], wanted)
        return terms

    def adaptive_weight(self, terms: dict[str, Tensor]) -> Tensor:
        """The weight that makes the adversarial gradient at the last layer as long as that of `l1`.

        Reference: arXiv:2012.09841, eq. 7.
        """
        weights, last = self.weights, self.network.last_layer
        wanted, given = (
            torch.autograd.grad(term, last, retain_graph=True)[0].norm()
            for term in (weights.l1 * terms["l1"], terms["adversarial"])
        )
        return weights.adversarial * (wanted / (given + SMALLEST_GRADIENT)).clamp(max=LARGEST_ADAPTIVE_WEIGHT)

    @torch.no_grad()
    def start_codes(self) -> None:
        """Take the first codes from the latents of slices that are spread over the training set."""
        dataset = self.data_loader.dataset
        index = np.linspace(0, len(dataset) - 1, min(len(dataset), IMAGES_TO_START_FROM)).astype(np.int64)
        images = dataset.read(index)[:, None].float().to(self.state.device)
        with self.autocast():
            latents = torch.cat([self.network.encode(part) for part in images.split(ENCODED_AT_ONCE)])
        self.network.codebook.start(latents, seed=0)
        self.generator.codebook.load_state_dict(self.network.codebook.state_dict())
