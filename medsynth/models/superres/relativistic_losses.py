"""Relativistic adversarial losses: images should look more real than others, not real in themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def relativistic(raised: Sequence[Tensor], lowered: Sequence[Tensor]) -> Tensor:
    """Raise the scores of some images above the mean of others, and lower theirs; one tensor per scale, mean of both.

    A discriminator raises the true images' scores and lowers the fake ones', a generator the reverse.

    Reference: Jolicoeur-Martineau, arXiv:1807.00734; Wang et al., ESRGAN, arXiv:1809.00219, eq. 1 and 2.
    """
    per_scale = [
        (F.softplus(low.mean() - high).mean() + F.softplus(low - high.mean()).mean()) / 2
        for high, low in zip(raised, lowered, strict=True)
    ]
    return torch.stack(per_scale).mean()
