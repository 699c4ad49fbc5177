"""Discriminators of image patches at several scales."""

from __future__ import annotations

import torch.nn.functional as F
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medsynth.errors import MedsynthError

NORMS = ("spectral", "instance")


class MultiScalePatchDiscriminator(nn.Module):
    """The same kind of patch discriminator at each scale of an average-pooled pyramid.

    Args:
        in_channels: channels of an image.
        channels: features after the first layer; they double with each layer.
        num_layers: layers that follow it, all but the last of which halve the grid.
        num_scales: of the pyramid; scales at which an image would be smaller than `smallest` are left out.
        norm: `spectral` (of the weights) or `instance` (of the features).

    Attributes:
        smallest: pixels a side that one scale needs.

    Reference: Wang et al., pix2pixHD, arXiv:1711.11585, section 3.2; spectral normalization: Miyato et al.,
    arXiv:1802.05957.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        channels: int,
        num_layers: int,
        num_scales: int,
        norm: str = "spectral",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise MedsynthError(f"norm of the discriminator is {norm!r}: choose one of {', '.join(NORMS)}")
        if min(num_scales, num_layers, channels) < 1:
            raise MedsynthError(
                f"the discriminator has {num_scales} scales, {num_layers} layers and {channels} channels: "
                "give 1 or more of each"
            )
        self.smallest = 3 * 2**num_layers
        features = ("instance", {"affine": True}) if norm == "instance" else ""
        self.scales = nn.ModuleList(
            PatchDiscriminator(2, channels, in_channels, num_layers_d=num_layers, norm=features)
            for _ in range(num_scales)
        )
        if norm == "spectral":
            for module in self.scales.modules():
                if isinstance(module, nn.Conv2d):
                    spectral_norm(module)

    def forward(self, image: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Score images, finest scale first.

        Args:
            image: (N, in_channels, H, W) in [-1, 1].

        Returns: for each scale, scores (N, 1, h, w), one per patch, higher for more real, and all features.
        """
        found = []
        for discriminator in self.scales:
            *features, scores = discriminator(image)
            found.append((scores.float(), features))
            image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
            if min(image.shape[-2:]) < self.smallest:
                break
        return found


class Discriminators(nn.Module):
    """One discriminator per domain of a translation.

    Args:
        channels, num_layers, num_scales, norm: of each, see `MultiScalePatchDiscriminator`.
    """

    def __init__(self, channels: int, num_layers: int, num_scales: int, norm: str) -> None:
        super().__init__()
        settings = {"channels": channels, "num_layers": num_layers, "num_scales": num_scales, "norm": norm}
        self.source = MultiScalePatchDiscriminator(**settings)
        self.target = MultiScalePatchDiscriminator(**settings)
