"""Super-resolution by residual-in-residual dense blocks."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsynth.errors import MedsynthError, check_whole
from medsynth.models.superres.degradation import check
from medsynth.models.superres.grids import PixelGrids, SliceGrids
from medsynth.nn.slice_profile import Profile, is_profile

TRUNKS = ("dense", "residual")
UPSAMPLINGS = ("subpixel", "nearest")
FIRST_WEIGHTS = 0.2  # of the usual size: large features make the first steps of the last layer wild


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each reading all earlier features; the result is added back, scaled.

    Args:
        channels: in and out.
        growth: channels that each inner convolution adds.
        residual_scale: weight of what is added back.

    Reference: Wang et al., ESRGAN, arXiv:1809.00219, fig. 4; without normalization.
    """

    def __init__(self, channels: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.grow = nn.ModuleList(nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(4))
        self.fuse = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        seen = [features]
        for conv in self.grow:
            seen.append(F.leaky_relu(conv(torch.cat(seen, dim=1)), 0.2))
        return features + self.residual_scale * self.fuse(torch.cat(seen, dim=1))


class ResidualInResidual(nn.Module):
    """Three dense blocks; their result is added back, scaled again.

    Reference: Wang et al., ESRGAN, arXiv:1809.00219, fig. 4.
    """

    def __init__(self, channels: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.blocks = nn.Sequential(*(ResidualDenseBlock(channels, growth, residual_scale) for _ in range(3)))

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        return features + self.residual_scale * self.blocks(features)


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between; their result is added back, scaled. Starts close to the identity.

    Reference: Lim et al., EDSR, arXiv:1707.02921, fig. 2c.
    """

    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.widen, self.fuse = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        return features + self.residual_scale * self.fuse(F.relu(self.widen(features)))


class NearestUpsampling(nn.Module):
    """Fine pixels from coarse features: upsampled by nearest neighbours and convolved, once or twice.

    Reference: Wang et al., ESRGAN, arXiv:1809.00219; against checkerboards, Odena et al., Distill 2016.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.doubling = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(scale // 2))
        self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 1, scale * h, scale * w)."""
        for conv in self.doubling:
            features = F.leaky_relu(conv(F.interpolate(features, scale_factor=2.0, mode="nearest")), 0.2)
        return self.last(F.leaky_relu(self.refine(features), 0.2))


class SubpixelUpsampling(nn.Module):
    """Fine pixels from coarse features: one channel for each of the scale * scale fine pixels of a coarse one.

    The channels start equal, as with ICNR (here at zero, see `RRDBNet`), so that there is no checkerboard at the start.

    Reference: Shi et al., arXiv:1609.05158; Aitken et al., arXiv:1707.02937.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(channels, scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 1, scale * h, scale * w)."""
        return self.shuffle(self.last(features))


class RRDBNet(nn.Module):
    """A finer image: an interpolation plus learned detail, made consistent with the coarse image.

    Its last layer starts at zero, so an untrained network gives the interpolation. `detail` is local, and an image can
    be cut into overlapping tiles for it; `assemble` takes whole images.

    Args:
        scale: 2 or 4; through the plane, the distance between slices over the fine spacing.
        degradation: how the images were made coarse, `kspace` (truncation) or `area` (averaging), see `degradation`.
            The detail is added to zero filling or to cubic splines accordingly. `box`, `gaussian` or weights: rows
            are thick slices of that profile, and columns stay as they are, see `SliceGrids`.
        channels: of the features.
        trunk: `dense`, of residual-in-residual dense blocks as in the original, or `residual`, of plain residual
            blocks, which learn faster.
        blocks: in the trunk. The original has 23, of 64 channels and growth 32.
        growth: channels that each convolution of a dense block adds.
        residual_scale: weight of each residual; 0.2 in the original, with which few blocks learn slowly.
        neighbours: slices on each side of the image that are further channels.
        upsampling: `subpixel`, with all layers at the coarse resolution, or `nearest`, as in the original.
        consistent: replace what the fine image implies about the coarse one by what was measured. If the coarse image
            has no noise, this never raises the mean squared error.
        fill: through the plane, thickness of the slices over the distance between them.

    Reference: Wang et al., ESRGAN, arXiv:1809.00219.
    """

    def __init__(
        self,
        scale: float,
        degradation: Profile,
        channels: int,
        trunk: str,
        blocks: int,
        growth: int,
        residual_scale: float,
        neighbours: int,
        upsampling: str,
        consistent: bool,
        fill: float = 1.0,
    ) -> None:
        super().__init__()
        check(scale, degradation, fill=fill)
        for name, value, choices in (
            ("trunk", trunk, TRUNKS),
            ("upsampling", upsampling, UPSAMPLINGS),
        ):
            if value not in choices:
                raise MedsynthError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
        for name, value in (("channels", channels), ("blocks", blocks), ("growth", growth)):
            check_whole(name, value, 1)
        self.scale, self.degradation, self.neighbours, self.consistent = scale, degradation, neighbours, consistent
        self.fill = fill
        through = is_profile(degradation)
        self.grids = SliceGrids(scale, degradation, fill) if through else PixelGrids(scale, degradation)
        self.step = self.grids.step
        self.first = nn.Conv2d(self.grids.channels * (1 + 2 * neighbours), channels, 3, padding=1)
        of_trunk = (channels, growth, residual_scale) if trunk == "dense" else (channels, residual_scale)
        block = {"dense": ResidualInResidual, "residual": ResidualBlock}[trunk]
        self.trunk = nn.Sequential(*(block(*of_trunk) for _ in range(blocks)))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        upsample = {"subpixel": SubpixelUpsampling, "nearest": NearestUpsampling}[upsampling]
        self.upsample = upsample(channels, self.step)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, a=0.2)
                nn.init.zeros_(conv.bias)
        for module in (self.first, *(block.fuse for block in self.trunk if trunk == "residual")):
            module.weight.data.mul_(FIRST_WEIGHTS)
        nn.init.zeros_(self.upsample.last.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1 + 2 * neighbours, h, w) coarse images in [-1, 1] -> (N, 1, scale * h, scale * w), float32.

        Through the plane, the columns stay: (N, 1, scale * h rounded, w).
        """
        return self.assemble(images, self.detail(self.seen(images)))

    def at(self, scale: float) -> RRDBNet:
        """The same network, of the same weights, for slices through the plane that lie at another distance."""
        other = copy.copy(self)
        other.scale, other.grids = scale, SliceGrids(scale, self.degradation, self.fill)
        return other

    def interpolation(self, images: Tensor) -> Tensor:
        """Zero filling or splines: (N, 1, scale * h, scale * w)."""
        return self.grids.interpolation(self._middle(images))

    def base(self, images: Tensor) -> Tensor:
        """The output of an untrained network, the consistent interpolation: same shape."""
        return self._consistent(self.interpolation(images), images)

    def seen(self, images: Tensor) -> Tensor:
        """What `detail` takes, on the grid that the network computes on: `step` fine pixels are one."""
        return self.grids.seen(images)

    def detail(self, seen: Tensor) -> Tensor:
        """What the network adds to it, from intensities clipped to [-1, 1]: (N, 1, step * h, step * w)."""
        features = self.first(seen.clamp(-1, 1) + 1)  # air is 0, and gives no features
        return self.upsample(features + self.fuse(self.trunk(features)))

    def assemble(self, images: Tensor, detail: Tensor) -> Tensor:
        """The fine images, from coarse ones and the detail: (N, 1, scale * h, scale * w)."""
        fine = self.interpolation(images)
        return self._consistent(fine + detail[..., : fine.shape[-2], : fine.shape[-1]].float(), images)

    def _consistent(self, fine: Tensor, images: Tensor) -> Tensor:
        """The nearest image that gives the coarse ones."""
        return self.grids.consistent(fine, self._middle(images)) if self.consistent else fine

    def _middle(self, images: Tensor) -> Tensor:
        return images[:, self.neighbours : self.neighbours + 1]
