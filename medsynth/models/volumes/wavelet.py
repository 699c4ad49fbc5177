"""The Haar wavelet in three dimensions: eight bands of half the length, of which the first is the coarser volume."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bands(volumes: Tensor) -> Tensor:
    """(N, 1, X, Y, Z) with even axes -> (N, 8, X / 2, Y / 2, Z / 2); band 0 is the mean over each 2 x 2 x 2 voxels.

    The other bands are differences of these voxels along one, two or three axes, scaled likewise. Nothing is lost.

    Reference: Mallat, IEEE Trans. Pattern Anal. 11 (1989) 674; of volumes for diffusion, Friedrich et al., WDM,
    arXiv:2402.19043.
    """
    return F.conv3d(volumes, _weights(volumes) / 8, stride=2)


def volumes(bands: Tensor) -> Tensor:
    """The inverse of `bands`."""
    return F.conv_transpose3d(bands, _weights(bands), stride=2)


def _weights(like: Tensor) -> Tensor:
    """(8, 1, 2, 2, 2) of signs."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=like.dtype, device=like.device)
    return torch.einsum("ai,bj,ck->abcijk", pair, pair, pair).reshape(8, 1, 2, 2, 2)
