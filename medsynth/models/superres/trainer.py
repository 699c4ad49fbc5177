"""Training of a super-resolution network: on pixels first, then optionally against a discriminator as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from monai.inferers import Inferer
from torch import Tensor, nn

from medsynth.data.datasets.slices import SliceDataset
from medsynth.distributed import share_of_draws
from medsynth.errors import MedsynthError, is_whole
from medsynth.losses.similarity import feature_distance, foreground
from medsynth.models.superres.degradation import Degradation
from medsynth.models.superres.network import RRDBNet
from medsynth.models.superres.patches import random_patches, random_symmetry
from medsynth.models.superres.relativistic_losses import relativistic
from medsynth.nn.patch_discriminator import MultiScalePatchDiscriminator
from medsynth.nn.resampling import average
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import check_weights, losses, use_bfloat16
from medsynth.training.schedule import TwoStages

SMALL_ERROR = 0.1  # of intensities in [-1, 1]; below it the loss is squared, which learns faster at first than L1
USUAL_PATCH = 44  # coarse pixels per side: at the edges of smaller ones, a network of 20 layers sees too little
ERRORS_SHOWN = 4.0  # times their size, in pictures


@dataclass(frozen=True)
class SuperResolutionWeights:
    """The weight of each term in the second stage; that of the difference of pixels is 1.

    Args:
        adversarial: relativistic adversarial loss of the result against the truth.
        feature: distance of result and truth in the discriminator's features.
    """

    adversarial: float
    feature: float

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True)
class CoarseToFine:
    """For MONAI's `prepare_batch`: the coarse images and the fine ones that they were made from.

    Args:
        degradation: makes fine images coarse.
        neighbours: slices on each side of the one that is upscaled.
    """

    degradation: Degradation
    neighbours: int = 0

    def __call__(
        self, batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) and (N, 1, H, W)."""
        slices = self.degradation.fitting(batch["image"].to(device, non_blocking=non_blocking))
        return self.degradation(slices), slices[:, self.neighbours : self.neighbours + 1]


class MixedPrecisionInferer(Inferer):
    """Calls a network in bfloat16 where the device gains by it, as training does.

    Args:
        device: of the network.
        amp: whether to use bfloat16.
    """

    def __init__(self, device: torch.device | str, amp: bool) -> None:
        self.device = torch.device(device)
        self.bfloat16 = use_bfloat16(self.device, amp)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Tensor) -> Tensor:
        """The output of the network."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return network(inputs, *args)


class SuperResolutionTrainer(AdversarialTrainer):
    """Per batch: degrade whole slices, crop patches, update the network and, in the second stage, the discriminator.

    The second stage is that of ESRGAN, with the discriminator's features instead of those of a network trained on
    photographs.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network: gets the moving average's weights as `ema` keeps them.
        discriminator: of fine patches; learns in the second stage only.
        network_optimizer, discriminator_optimizer: their optimizers.
        ema: keeps the moving average of `network`, which validation and users see.
        degradation: makes fine slices coarse.
        weights: of the second stage.
        schedule: of the learning rate; decides when the second stage begins.
        patch_size: fine pixels per side, at most, of a patch; None: `USUAL_PATCH` coarse ones.
        examples: slices for the pictures.

    Reference: Wang et al., ESRGAN, arXiv:1809.00219, sections 3.2 and 3.3.
    """

    shows = "in a row, a coarse validation slice, interpolated, the network's, the truth, and four times the error"

    def __init__(
        self,
        network: RRDBNet,
        discriminator: MultiScalePatchDiscriminator,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        degradation: Degradation,
        weights: SuperResolutionWeights,
        schedule: TwoStages,
        patch_size: int | None,
        examples: SliceDataset,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        self.weights, self.schedule, self.degradation, self.examples = weights, schedule, degradation, examples
        self.prepare = CoarseToFine(degradation, network.neighbours)
        side = self.data_loader.dataset.stored_slices.shape[-1]
        self.patch = _checked_patch(patch_size, side, network.step) // network.step
        schedule.attach(self)
        self.average(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        draws = share_of_draws(self.data_loader.seed, engine.state.iteration, len(batch["image"]), 2)
        slices = {"image": random_symmetry(batch["image"], draws[:, 0])}
        low, base, high = self.patches(*self.prepare(slices, engine.state.device), draws[:, 1])
        second = self.schedule.second_stage(engine)

        with self.autocast(), frozen(self.discriminator):
            fine = base + self.network.detail(low).float()
            terms = {"pixel": F.smooth_l1_loss(fine, high, beta=SMALL_ERROR)}
            if second:
                found, target = self.discriminator(fine), self.discriminator(high)
                terms["adversarial"] = relativistic(_scores(found), _scores(target))
                terms["feature"] = feature_distance(_features(found), _features(target))
        total = terms["pixel"] + sum(getattr(self.weights, name) * terms[name] for name in terms if name != "pixel")
        self.update(self.network_optimizer, total)
        if not second:
            return losses(**terms)

        with self.autocast():
            real, fake = self.discriminator(high), self.discriminator(fine.detach())
            discriminator = relativistic(_scores(real), _scores(fake))
        self.update(self.discriminator_optimizer, discriminator)
        return losses(total=total, **terms, discriminator=discriminator)

    @torch.no_grad()
    def patches(self, coarse: Tensor, fine: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches of the head at the same locations, which (N,) draws choose: seen by the network, interpolated, fine.

        The images were made coarse as a whole, since k-space is not local.
        """
        views = (self.network.seen(coarse), self.network.base(coarse), fine)
        likely = average(foreground(fine), self.network.step)
        return tuple(random_patches(views, min(self.patch, *likely.shape[-2:]), likely, draws))

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) in rows of five: coarse, interpolated, the network's, the truth, and where they differ.

        The slices are spread over the examples; errors are four times as bright.
        """
        rows = max(1, count // 5)
        chosen = np.linspace(0, len(self.examples) - 1, 2 * rows + 1)[1::2].astype(int)
        slices = torch.stack([self.examples[index]["image"] for index in chosen.tolist()])
        torch.manual_seed(seed)
        coarse, fine = self.prepare({"image": slices}, self.state.device)
        middle = coarse[:, self.network.neighbours :][:, :1]
        found = self.generator.eval()(coarse)
        error = (ERRORS_SHOWN * (found - fine).abs() - 1).clamp(max=1)
        shown = [self.network.grids.nearest(middle), self.generator.interpolation(coarse), found, fine, error]
        return torch.stack(shown, dim=1).flatten(0, 1)[:count].cpu()


def _checked_patch(patch_size: int | None, side: int, scale: int) -> int:
    """Fine pixels per side, no more than the slices have."""
    if patch_size is None:
        patch_size = USUAL_PATCH * scale
    if not is_whole(patch_size) or patch_size < 8 * scale or patch_size % scale:
        raise MedsynthError(
            f"patch_size is {patch_size!r}: give null for the usual size, or a multiple of scale {scale} from "
            f"{8 * scale} on"
        )
    return min(patch_size, side)


def _scores(scales: list[tuple[Tensor, list[Tensor]]]) -> list[Tensor]:
    return [scores for scores, _ in scales]


def _features(scales: list[tuple[Tensor, list[Tensor]]]) -> list[Tensor]:
    return [layer for _, layers in scales for layer in layers]
