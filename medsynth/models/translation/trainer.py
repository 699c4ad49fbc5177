"""Training of a translation between two domains: on pairs, on images without partner, or on both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.data.datalist.datalist import PAIR
from medsynth.errors import MedsynthError, check_whole
from medsynth.losses.adversarial import (
    discriminator_hinge,
    discriminator_least_squares,
    generator_hinge,
    generator_least_squares,
)
from medsynth.losses.regularization import kl_divergence
from medsynth.losses.similarity import feature_distance, inside_patient, masked_dissimilarity, masked_l1
from medsynth.models.translation.augmentation import Augmentation, drop_contrasts
from medsynth.models.translation.domain_loader import DomainLoader
from medsynth.models.translation.image_pool import ImagePool
from medsynth.models.translation.network import Translator, middle
from medsynth.models.translation.unpaired_losses import pixel_distribution_distance, structure_distance
from medsynth.nn.patch_discriminator import Discriminators
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import LONGEST_GRADIENT, check_weights, losses

OTHER = dict(zip(PAIR, reversed(PAIR), strict=True))
OBJECTIVES = {
    "least_squares": (generator_least_squares, discriminator_least_squares),
    "hinge": (generator_hinge, discriminator_hinge),
}


@dataclass(frozen=True)
class TranslationWeights:
    """The weight of each term in the loss of the generators; each term is the mean of both directions.

    Args:
        l1: of pairs, mean absolute difference of translation and truth inside the patient, in [-1, 1].
        ssim: of pairs, 1 - SSIM of translation and truth inside the patient.
        feature: of pairs, distance of translation and truth in the discriminator's features.
        adversarial: adversarial loss of the translation.
        cycle: mean absolute difference of an image and its translation there and back.
        identity: mean absolute change of an image by the generator that leads to its own domain.
        pixel_distribution: energy distance between the values of translations and of other patients' images, at each
            pixel.
        structure: difference of the self-similarity (MIND) of an image and of its translation.
        kl: Kullback-Leibler divergence of the latent map in nats per pixel.
    """

    l1: float
    ssim: float
    feature: float
    adversarial: float
    cycle: float
    identity: float
    pixel_distribution: float
    structure: float
    kl: float

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True)
class WithoutPartner:
    """How images without partner are trained on.

    Args:
        variety: weight of the translations' variety in `pixel_distribution`; see `pixel_distribution_distance`.
        cycle_interval: where `pixel_distribution` can be computed, batches from one that trains `adversarial`, `cycle`
            and `identity`, which cost three times as much, to the next.
    """

    variety: float
    cycle_interval: int

    def __post_init__(self) -> None:
        if not isinstance(self.variety, (int, float)) or not 0 <= self.variety <= 1:
            raise MedsynthError(f"variety is {self.variety!r}: give a number from 0 to 1")
        check_whole("cycle_interval", self.cycle_interval, 1, "1 for every batch, or more")


class TranslationTrainer(AdversarialTrainer):
    """Per batch: update both generators, then both discriminators on the same fakes and on some of earlier steps.

    Pairs train `l1`, `ssim` and `feature`; images without partner `adversarial`, `cycle`, `identity`, `structure` and,
    in batches of one slice position, `pixel_distribution`; both `kl`. Several contrasts are translated to the target
    alone, and some of them are left out at random (`drop_contrasts`).

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`; the loader is
            a `DomainLoader`.
        network: the generators.
        discriminator: one per domain.
        network_optimizer, discriminator_optimizer: their optimizers.
        ema: keeps the moving average of `network`, which validation and users see.
        weights: of the loss terms. One of weight 0 is not computed, and discriminators that no term needs do not learn.
        without_partner: how images without partner are trained on.
        objective: the adversarial loss, `least_squares` or `hinge`.
        all_terms_on_pairs: whether pairs train the terms of images without partner as well.
        augmentation: of each batch.
        pool_size: number of earlier fakes stored per domain.

    Raises:
        MedsynthError: weights that leave some of the data without a term.

    Reference: Zhu et al., CycleGAN, arXiv:1703.10593, eq. 3; for pairs, Isola et al., pix2pix, arXiv:1611.07004, eq. 4.
    """

    def __init__(
        self,
        network: Translator,
        discriminator: Discriminators,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        weights: TranslationWeights,
        without_partner: WithoutPartner,
        objective: str,
        all_terms_on_pairs: bool,
        augmentation: Augmentation,
        pool_size: int,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        if objective not in OBJECTIVES:
            raise MedsynthError(f"objective is {objective!r}: choose one of {', '.join(OBJECTIVES)}")
        require_terms(weights, all_terms_on_pairs, self.data_loader)
        if network.contrasts and all_terms_on_pairs:
            raise MedsynthError(
                "all_terms_on_pairs needs both directions, and several sources have one: set it to false"
            )
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.weights, self.all_terms_on_pairs, self.augmentation = weights, all_terms_on_pairs, augmentation
        self.without_partner = without_partner
        self.generator_loss, self.discriminator_loss = OBJECTIVES[objective]
        self.contrasts = {"source": max(1, len(network.contrasts)), "target": 1}
        self.from_domain = {"source": network.source_to_target}
        if not network.contrasts:
            self.from_domain["target"] = network.target_to_source
        self.discriminators = {"source": discriminator.source, "target": discriminator.target}
        self.pools = {name: ImagePool(pool_size) for name in PAIR}
        preprocessing = self.data_loader.dataset.preprocessing
        self.calibrated = [preprocessing[name].modality == "ct" for name in PAIR]
        self.average(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor | bool]) -> dict[str, dict[str, Tensor]]:
        batch = self.augmented(batch)
        pixel_distribution = bool(self.weights.pixel_distribution and batch["same_position"])
        cycle = not pixel_distribution or engine.state.iteration % self.without_partner.cycle_interval == 0
        batch |= {"pixel_distribution": pixel_distribution, "cycle": cycle}
        with self.autocast(), frozen(self.discriminator):
            made = {
                there: self.translated(here, there, batch) for here, there in OTHER.items() if here in self.from_domain
            }
        found = [terms for _, terms in made.values()]
        terms = {name: sum(own[name] for own in found) / len(found) for name in found[0]}
        total = sum(getattr(self.weights, name) * term for name, term in terms.items())
        self.update(self.network_optimizer, total, longest=LONGEST_GRADIENT)

        if terms.keys() & {"adversarial", "feature"}:
            with self.autocast():
                judged = [
                    self.discriminator_loss(
                        self.scores(name, middle(batch[name])),
                        self.scores(name, self.pools[name].exchange(made[name][0])),
                    )
                    for name in PAIR
                    if name in made
                ]
            terms["discriminator"] = sum(judged) / len(judged)
            self.update(self.discriminator_optimizer, terms["discriminator"])
        return losses(total=total, **terms)

    def translated(self, here: str, there: str, batch: dict[str, Tensor | bool]) -> tuple[Tensor, dict[str, Tensor]]:
        """One direction: the images of `here` as those of `there`, (N, 1, H, W), and its terms of the loss."""
        forth, back, weights = self.from_domain[here], self.from_domain.get(there), self.weights
        image, other, position = batch[here], batch[there], batch[f"{here}_position"]
        real, truth = middle(image, self.contrasts[here]), middle(other, self.contrasts[there])
        mask = inside_patient(self.body(batch, here, there), real, truth)
        fake, mean, log_variance = forth.translate(image, position, sample=True)
        terms = {"kl": kl_divergence(mean.flatten(1), log_variance.flatten(1)) / real[0].numel()}
        if batch["paired"]:
            if weights.l1:
                terms["l1"] = masked_l1(fake, truth, mask)
            if weights.ssim:
                terms["ssim"] = masked_dissimilarity(fake, truth, mask).mean()
            if weights.feature:
                with torch.no_grad():
                    wanted = self.features(there, truth)
                terms["feature"] = feature_distance(self.features(there, fake), wanted)
        if not batch["paired"] or self.all_terms_on_pairs:
            if batch["pixel_distribution"]:
                terms["pixel_distribution"] = pixel_distribution_distance(
                    fake, truth, mask.amax(dim=0, keepdim=True), self.without_partner.variety
                )
            if weights.structure:
                terms["structure"] = structure_distance(fake, real, mask)
            if batch["cycle"] and weights.adversarial:
                terms["adversarial"] = self.generator_loss(self.scores(there, fake))
            if batch["cycle"] and weights.cycle:
                again = back.translate(fake.expand_as(image), position, sample=True)[0]
                terms["cycle"] = masked_l1(again, real, inside_patient(self.body(batch, here), real))
            if batch["cycle"] and weights.identity:
                same = forth.translate(other, batch[f"{there}_position"], sample=True)[0]
                terms["identity"] = masked_l1(same, truth, inside_patient(self.body(batch, there), truth))
        return fake, terms

    @staticmethod
    def body(batch: dict[str, Tensor | bool], *domains: str) -> Tensor | None:
        """(N, 1, H, W), above 0 where the patient is in the slices of one of the domains; None if that is not known."""
        known = [batch[f"{domain}_body"] for domain in domains if f"{domain}_body" in batch]
        return torch.stack(known).amax(0) if known else None

    def scores(self, domain: str, image: Tensor) -> list[Tensor]:
        """The discriminator's scores of images (N, 1, H, W) of a domain, one map per scale."""
        return [scores for scores, _ in self.discriminators[domain](image)]

    def features(self, domain: str, image: Tensor) -> list[Tensor]:
        """The discriminator's features of images (N, 1, H, W) of a domain, at all scales and layers."""
        return [layer for _, features in self.discriminators[domain](image) for layer in features]

    @torch.no_grad()
    def augmented(self, batch: dict[str, Tensor | bool]) -> dict[str, Tensor | bool]:
        """The batch, changed at random; both images of a pair alike, and images without partner all alike."""
        names = [*PAIR, *(name for name in ("source_body", "target_body") if name in batch)]
        calibrated = [*self.calibrated, True, True][: len(names)]
        images = self.augmentation([batch[name] for name in names], calibrated, together=not batch["paired"])
        images = [image.contiguous(memory_format=torch.channels_last) for image in images]
        times = len(images[0]) // len(batch["source"])
        if self.contrasts["source"] > 1:
            images[0] = drop_contrasts(images[0], self.contrasts["source"])
        positions = {name: batch[name].repeat(times) for name in ("source_position", "target_position")}
        return batch | dict(zip(names, images, strict=True)) | positions

    def stateful(self) -> dict[str, object]:
        """All of `AdversarialTrainer`, and the earlier fakes."""
        return super().stateful() | {f"{name}_pool": pool for name, pool in self.pools.items()}


def require_terms(weights: TranslationWeights, all_terms_on_pairs: bool, loader: DomainLoader) -> None:
    """Refuse weights that leave some of the data without a term to learn from."""
    of_pairs = weights.l1 or weights.ssim or weights.feature
    of_unpaired = weights.adversarial or weights.cycle or weights.pixel_distribution
    if loader.has_unpaired and not of_unpaired:
        raise MedsynthError(
            "some training images have no partner, and the weights of what they can train, pixel_distribution, "
            "adversarial and cycle, are 0: list pairs alone, or give --weights#pixel_distribution 1"
        )
    if loader.has_pairs and not of_pairs and not (all_terms_on_pairs and of_unpaired):
        raise MedsynthError(
            "the weights of what pairs train, l1, ssim and feature, are 0: give --weights#l1 1, --paired false to "
            "ignore the pairing, or --all_terms_on_pairs true"
        )
