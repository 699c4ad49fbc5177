"""Layers with an equalized learning rate: weights are drawn from N(0, 1) and scaled each time they are used.

An optimizer that normalizes gradients, such as Adam, then moves all layers at the same relative speed.

Reference: Karras et al., PGGAN, arXiv:1710.10196, section 4.1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU


class EqualizedLinear(nn.Module):
    """A linear layer; the weights in use are the stored ones times gain / sqrt(features_in) and the learning rate.

    Args:
        features_in, features_out: of the vectors.
        gain: standard deviation of the output for a normal input.
        bias: what it starts from.
        learning_rate: relative to that of other layers.
    """

    def __init__(
        self, features_in: int, features_out: int, gain: float = GAIN, bias: float = 0.0, learning_rate: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_out, features_in) / learning_rate)
        self.bias = nn.Parameter(torch.full((features_out,), bias / learning_rate))
        self.scale, self.learning_rate = gain * learning_rate / math.sqrt(features_in), learning_rate

    def forward(self, features: Tensor) -> Tensor:
        """(N, features_in) -> (N, features_out)."""
        return F.linear(features, self.weight * self.scale, self.bias * self.learning_rate)


class EqualizedConv2d(nn.Module):
    """A convolution that keeps or halves the grid; the weights in use are the stored ones times gain / sqrt(fan-in).

    Args:
        channels_in, channels_out: of the features.
        kernel: size per side; odd with stride 1, even with stride 2.
        stride: 1 or 2.
        gain: standard deviation of the output for a normal input.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, gain: float = GAIN
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.scale = gain / math.sqrt(channels_in * kernel**2)
        self.stride, self.padding = stride, (kernel - stride) // 2 if stride > 1 else kernel // 2

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H / stride, W / stride)."""
        return F.conv2d(features, self.weight * self.scale, self.bias, self.stride, self.padding)


def pixel_norm(features: Tensor) -> Tensor:
    """(N, features): each vector scaled to a mean square of 1."""
    return features * (features.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
