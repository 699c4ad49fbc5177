"""Attention for convolutional features: what matters (channels) and where (places)."""

from __future__ import annotations

import torch
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
        gate = self.bottleneck(features.mean(dim=(2, 3))) + self.bottleneck(features.amax(dim=(2, 3)))
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
        summary = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        return features * torch.sigmoid(self.conv(summary))


class ChannelSpatialAttention(nn.Sequential):
    """Channel, then spatial attention: the convolutional block attention module (CBAM).

    Reference: Woo et al., CBAM, arXiv:1807.06521, fig. 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(ChannelAttention(channels), SpatialAttention())
