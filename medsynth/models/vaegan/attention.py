"""Attention for convolutional features: what matters (channels) and where (places)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """One gate per channel, from the average and the maximum over all places through a shared bottleneck.

    Reference: Woo et al., CBAM, arXiv:1807.06521, eq. 2.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.bottleneck = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape, each channel scaled by its gate in (0, 1)."""
        largest = F.adaptive_max_pool2d(features, 1).flatten(1)
        gate = self.bottleneck(features.mean(dim=(2, 3))) + self.bottleneck(largest)
        return features * torch.sigmoid(gate)[:, :, None, None]


class SpatialAttention(nn.Module):
    """One gate per place, from the average and the maximum over the channels.

    Reference: Woo et al., CBAM, arXiv:1807.06521, eq. 3.
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, each place scaled by its gate in (0, 1)."""
        places = features.permute(0, 2, 3, 1)  # a view of what lies in memory with channels last
        summary = torch.stack([places.mean(dim=3), places.max(dim=3).values], dim=1)
        return features * torch.sigmoid(self.conv(summary))


class ChannelSpatialAttention(nn.Sequential):
    """Channel, then spatial attention: the convolutional block attention module (CBAM).

    Reference: Woo et al., CBAM, arXiv:1807.06521, fig. 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(ChannelAttention(channels), SpatialAttention())
