"""Convolutional building blocks that several networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError

FEW_PLACES = 1024  # up to which attention as matrix products takes less time than fused, and little memory


def image_levels(image_size: int, smallest: int = 4) -> int:
    """How often `image_size` halves until `smallest` is reached, twice at least.

    Raises:
        MedsynthError: if it does not halve to `smallest` exactly, or not at least twice.
    """
    levels = (image_size // smallest).bit_length() - 1
    if levels < 2 or smallest * 2**levels != image_size:
        nearest = smallest * 2 ** max(round(math.log2(max(image_size, 1) / smallest)), 2)
        raise MedsynthError(
            f"image_size {image_size}: this network needs {smallest} times a power of two, such as {nearest}; "
            f"set --image_size {nearest}"
        )
    return levels


def binomial_blur(features: Tensor) -> Tensor:
    """Weights of 1/4, 1/2, 1/4 along rows and columns: removes the checkerboard of an upsampled (N, C, H, W).

    Reference: Zhang, arXiv:1904.11486; in a generator, Karras et al., StyleGAN, arXiv:1812.04948, section 2.
    """
    weights = 0.5 - 0.25 * torch.arange(-1, 2, dtype=features.dtype, device=features.device).abs()
    kernel = torch.outer(weights, weights).expand(features.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(features, (1, 1, 1, 1), mode="replicate"), kernel, groups=features.shape[1])


class ResidualDown(nn.Module):
    """Two convolutions that halve the grid, beside an averaging shortcut.

    Args:
        channels_in, channels_out: features in and out.
        normalize: group normalization before each convolution (a Wasserstein critic must go without: its penalty
            constrains each image's gradient on its own).

    Reference: He et al., arXiv:1603.05027, the pre-activation order.
    """

    def __init__(self, channels_in: int, channels_out: int, normalize: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in) if normalize else nn.Identity()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels_in) if normalize else nn.Identity()
        self.conv2 = nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H / 2, W / 2)."""
        hidden = self.conv1(F.leaky_relu(self.norm1(features), 0.2))
        hidden = self.conv2(F.leaky_relu(self.norm2(hidden), 0.2))
        return hidden.add_(self.shortcut(F.avg_pool2d(features, 2)))


class StyledNorm(nn.Module):
    """Group normalization whose scale and shift come from a style vector.

    Reference: Huang & Belongie, AdaIN, arXiv:1703.06868, with groups for instances.
    """

    def __init__(self, channels: int, style_features: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels, affine=False)
        self.scale_shift = nn.Linear(style_features, 2 * channels)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(N, channels, H, W), (N, style_features) -> (N, channels, H, W)."""
        scale, shift = self.scale_shift(style)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(features), 1 + scale)


class MinibatchDeviation(nn.Module):
    """Adds one channel, the standard deviation within groups of the batch, so that a discriminator sees mode collapse.

    Args:
        group: images compared with each other; fewer where the batch does not divide by it.

    Reference: Karras et al., PGGAN, arXiv:1710.10196, section 3.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + 1, H, W)."""
        n, _, h, w = features.shape
        group = math.gcd(n, self.group)
        grouped = features.float().unflatten(0, (n // group, group))
        variance = (grouped - grouped.mean(dim=1, keepdim=True)).square().mean(dim=1)  # faster than PyTorch's
        deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
        channel = deviation.repeat_interleave(group)[:, None, None, None].expand(n, 1, h, w)
        return torch.cat([features, channel.to(features.dtype)], dim=1)


class ChannelNorm(nn.Module):
    """Normalizes the features of each place, over its channels: fully convolutional, and fast with channels last.

    Args:
        channels: features of a place.
        affine: whether scale and shift are learned.

    Reference: Ba et al., layer normalization, arXiv:1607.06450; in a convolutional network, Liu et al., ConvNeXt,
    arXiv:2201.03545.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=affine)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, ...), with two or three axes of places -> the same shape."""
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)


class SelfAttention(nn.Module):
    """Every place attends to every other, and what it finds is added; starts as the identity.

    MONAI's `SpatialAttentionBlock` with `ChannelNorm` for its group normalization, which takes longer than the rest.

    Args:
        channels: features of a place.
        head_features: of a head of the attention; one head where they don't divide the channels.

    Reference: Zhang et al., SAGAN, arXiv:1805.08318.
    """

    def __init__(self, channels: int, head_features: int = 32) -> None:
        super().__init__()
        self.heads = channels // head_features if channels % head_features == 0 else 1
        self.norm = ChannelNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, ...), with two or three axes of places -> the same shape."""
        places = self.norm(features).movedim(1, -1)
        parts = self.query_key_value(places).flatten(1, -2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = _attended(*parts).transpose(1, 2).reshape(places.shape)
        return features + self.out(attended).movedim(-1, 1)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(N, heads, places, features) each -> what the queries find."""
    if query.shape[2] > FEW_PLACES:
        return F.scaled_dot_product_attention(query, key, value)
    scores = query @ (key * key.shape[3] ** -0.5).transpose(2, 3)  # the backward pass is 5 times as fast on a CPU
    return scores.softmax(dim=3) @ value
