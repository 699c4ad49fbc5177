"""What every generator here may be told of the image it makes: its class and where in the head it lies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNKNOWN_CLASS = -1


class Conditioning(nn.Module):
    """An optional class index and an optional slice position become one vector.

    Args:
        num_classes: classes to tell apart; 0 ignores labels.
        use_position: whether the slice position counts.
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
            position: (N,) from 0 (inferior) to 1 (superior end of the brain), NaN where unknown; None: unknown for all.
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
