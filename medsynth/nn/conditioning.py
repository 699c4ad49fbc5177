"""The conditions of a generated image: its class and its slice position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNKNOWN_CLASS = -1
UNKNOWN_POSITION = -1.0  # in buffers, which hold no NaN: checks of weights take that for divergence
QUANTILES = 65  # of the positions of a class


class Conditioning(nn.Module):
    """Embeds an optional class index and an optional slice position in one vector.

    Args:
        num_classes: number of classes; 0 ignores labels.
        use_position: whether the slice position is an input.
        features: length of the vector.

    Reference: Fourier features after Tancik et al., arXiv:2006.10739.
    """

    def __init__(self, num_classes: int, use_position: bool, features: int) -> None:
        super().__init__()
        self.num_classes, self.use_position, self.features = num_classes, use_position, features
        self.classes = nn.Embedding(num_classes + 1, features) if num_classes else None
        self.place = nn.Linear(9, features) if use_position else None
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(4), persistent=False)

    def forward(self, label: Tensor | None, position: Tensor | None, like: Tensor) -> Tensor:
        """Embed the condition of each image.

        Args:
            label: (N,) class indices, `UNKNOWN_CLASS` (-1) where unknown; None: unknown for all.
            position: (N,) from 0 (150 mm below the top of the head) to 1 (the top); NaN: unknown; None: all are.
            like: any tensor with N rows, for device and type.

        Returns: (N, features); zeros where neither is in use.
        """
        count = like.shape[0]
        condition = like.new_zeros(count, self.features)
        if self.classes is not None:
            if label is None:
                label = torch.full((count,), UNKNOWN_CLASS, device=like.device)
            condition = condition + self.classes(label % (self.num_classes + 1))
        if self.place is not None and position is not None:
            known = (~position.isnan())[:, None].to(like.dtype)
            angles = position.nan_to_num()[:, None].to(like.dtype) * self.frequencies.to(like.dtype)
            waves = torch.cat([known, angles.sin() * known, angles.cos() * known], dim=1)
            condition = condition + self.place(waves)
        return condition


class TrainingConditions(nn.Module):
    """The frequencies of classes and slice positions in the training set, from which those of new images are drawn.

    Before `fit`, class and position are unknown; positions stay so where the training images have none.

    Args:
        num_classes: classes of the training set.
    """

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        shares = torch.zeros(num_classes + 1)
        shares[UNKNOWN_CLASS] = 1
        self.register_buffer("class_shares", shares)
        self.register_buffer("positions", torch.full((num_classes + 1, QUANTILES), UNKNOWN_POSITION))

    @property
    def has_positions(self) -> bool:
        """Whether the training images had positions."""
        return bool((self.positions >= 0).any())

    @torch.no_grad()
    def fit(self, labels: Tensor, positions: Tensor) -> None:
        """Store the frequencies of labels (M,), -1 where unknown, and the quantiles of each class's positions (M,)."""
        rows, known = labels % len(self.class_shares), ~positions.isnan()  # -1, unknown, becomes the last row
        for row in range(len(self.class_shares)):
            members = rows == row
            self.class_shares[row] = members.float().mean()
            spread = positions[members & known] if (members & known).any() else positions[known]
            if len(spread):
                shares = torch.linspace(0, 1, QUANTILES, device=spread.device)
                self.positions[row] = torch.quantile(spread.float(), shares)

    def sample(
        self,
        count: int,
        label: int | None = None,
        position: float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw conditions.

        Args:
            label: class index; None: classes as frequent as in the training set.
            position: in [0, 1]; None: positions as in the training set's images of the class.
            generator: random state on the CPU.

        Returns: labels (count,), -1 where unknown, and positions (count,), NaN where unknown.
        """
        device = self.class_shares.device
        rows = self.class_shares.cpu().multinomial(count, replacement=True, generator=generator)
        ranks = torch.rand(count, generator=generator) * (QUANTILES - 1)
        if label is not None:
            rows.fill_(label)
        below = ranks.long().clamp(max=QUANTILES - 2)
        quantiles = self.positions.cpu()[rows]
        low, high = (quantiles.gather(1, (below + step)[:, None]).squeeze(1) for step in (0, 1))
        spread = torch.where(low >= 0, low.lerp(high, ranks - below), torch.nan)
        positions = spread if position is None else torch.full((count,), float(position))
        labels = torch.where(rows == len(self.class_shares) - 1, UNKNOWN_CLASS, rows)
        return labels.to(device), positions.to(device)
