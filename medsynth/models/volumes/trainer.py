"""Training of the flows over the wavelet bands of volumes."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import Tensor

from medsynth.data.datasets.volumes import VolumeDataset
from medsynth.data.preprocessing.volume_grid import PLANES_SHOWN, plain, three_planes
from medsynth.distributed import same_everywhere
from medsynth.models.flow.learning import FACTS
from medsynth.models.volumes.augmentation import moved, moved_segmentation, random_points
from medsynth.models.volumes.network import Pyramid, VolumeFlow
from medsynth.training.base_trainer import LONGEST_GRADIENT, BaseTrainer, losses
from medsynth.training.schedule import Schedule

FITTED_TO = 64  # volumes, whose bands say how these are scaled


class VolumeFlowTrainer(BaseTrainer):
    """Per batch: move volumes in ways that the flows are told, and lower the loss of every level on their bands.

    Label maps, where the volumes have them, are moved with them, and mirrored ones change left and right.

    The coarsest level learns from whole volumes, the others from as large a crop of each: a step takes the memory of
    one volume, and of a batch of crops, however large the volumes are.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp: as `BaseTrainer`.
        network: the flows.
        network_optimizer: of all levels.
        ema: keeps the moving average of `network`, which validation and users see.
        schedule: of the learning rate.
    """

    shows = PLANES_SHOWN

    def __init__(
        self,
        network: VolumeFlow,
        network_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        schedule: Schedule,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.network_optimizer, self.ema = network, network_optimizer, ema
        self.dataset: VolumeDataset = self.data_loader.dataset
        schedule.attach(self)
        self.average_in_proportion(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        parts = [self._moved(*one) for one in zip(*(batch[name].split(1) for name in self.dataset.views), strict=True)]
        augmentation = torch.cat([numbers for numbers, _ in parts])
        with self.autocast():
            found = self.network.losses([one for _, one in parts], augmentation, *(batch[name] for name in FACTS))
        self.update(self.network_optimizer, sum(found.values()), LONGEST_GRADIENT)
        return losses(flow=sum(found.values()) / len(found), **found)

    def _moved(self, stored: Tensor, segmentation: Tensor | None = None) -> tuple[Tensor, Pyramid]:
        """How a volume was moved, and what the flows learn of it."""
        preprocessing = self.dataset.preprocessing
        points, numbers = random_points(1, preprocessing.size, stored.device)
        image = moved(stored, points, numbers, preprocessing.finer)
        if segmentation is not None:
            names = list(self.dataset.segmentation["classes"].values())
            segmentation = moved_segmentation(segmentation, points, numbers, names, preprocessing.finer)
        return numbers, self.network.cropped(self.network.pyramid(image, segmentation))

    def begin(self) -> None:
        """Tell the flows how bands are distributed, and which conditions there are."""
        preprocessing, count = self.dataset.preprocessing, len(self.dataset)
        few = np.linspace(0, count - 1, min(count, FITTED_TO)).astype(np.int64)
        stored = (self.dataset[int(index)]["image"][None].to(self.state.device) for index in few)
        images = torch.cat([plain(one, preprocessing.size, preprocessing.finer) for one in stored])
        facts = self.dataset.facts(np.arange(count))
        self.network.fit(images, *(facts[name] for name in FACTS))
        same_everywhere(self.network)
        self.generator.load_state_dict(self.network.state_dict())

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, 1, H, W) in [-1, 1] on the CPU: the middles of new volumes, in three planes."""
        return three_planes(self.generator.eval().sample(count, seed)[0].cpu())
