"""The degradation of fine images to coarse ones, as a scanner with fewer pixels would take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medsynth.errors import MedsynthError, is_number
from medsynth.nn.resampling import average, truncate
from medsynth.nn.slice_profile import PROFILES, Profile, is_profile, to_slices

KINDS = {"kspace": truncate, "area": average}
OF_MODALITY = {"mri": "kspace", "ct": "area", "image": "area"}
SCALES = (2, 4)
LEAST_RATIO = 1.5  # of the distance between slices to the fine spacing: below, there is nothing to gain
MOST_FILL = 2.0  # of a slice's thickness to the distance between slices: farther slices tell next to nothing new
EXAMPLE = [0.1, 0.4, 1.0, 0.4, 0.1]  # of a given profile

Range = Sequence[float]


def degrade(
    images: Tensor,
    scale: float,
    kind: Profile,
    noise: Range | None = None,
    blur: Range | None = None,
    fill: float = 1.0,
) -> Tensor:
    """The coarse images (..., rows / scale, columns / scale) of fine ones, both of the same field of view.

    With a profile of slices, the rows are what thick slices consist of: (..., rows / scale rounded, columns).

    Args:
        images: (..., rows, columns) in [-1, 1], -1 being no signal.
        scale: 2 or 4; of thick slices, the distance between them in fine rows, at least `LEAST_RATIO`.
        kind: `kspace` (MRI): the outer frequencies are not measured; `area` (CT): the mean over each coarse pixel;
            `box`, `gaussian` or weights: the profile of thick slices, see `medsynth.nn.slice_profile`.
        noise: (low, high), range of the standard deviation, as a share of the intensity range; one draw per image. With
            `kspace` it is Rician: in both parts of a complex signal, of which the magnitude is taken.
        blur: (low, high), range of the standard deviation of a Gaussian in fine pixels; one draw per image.
        fill: of thick slices, thickness over the distance between them.

    Raises:
        MedsynthError: an unknown scale or kind, an invalid range, or sides that are no multiples of the scale.
    """
    check(scale, kind, noise, blur, fill)
    through = is_profile(kind)
    if not through and any(side % scale for side in images.shape[-2:]):
        rows, columns = images.shape[-2:]
        raise MedsynthError(f"{rows} x {columns} pixels are no multiples of scale {scale}: crop or pad them")
    fine = images.float()
    if blur is not None:
        fine = _blurred(fine, _draws(blur, fine))
    coarse = to_slices(fine, round(fine.shape[-2] / scale), kind, fill) if through else KINDS[kind](fine, scale)
    if noise is None:
        return coarse
    deviation = 2 * _draws(noise, coarse)
    noisy = coarse + deviation * torch.randn_like(coarse)
    return torch.hypot(noisy + 1, deviation * torch.randn_like(coarse)) - 1 if kind == "kspace" else noisy


@dataclass(frozen=True)
class Degradation:
    """`degrade` with its settings, which are checked.

    Args:
        scale, kind, noise, blur, fill: as `degrade` takes them.
    """

    scale: float
    kind: Profile
    noise: Range | None = None
    blur: Range | None = None
    fill: float = 1.0

    def __post_init__(self) -> None:
        check(self.scale, self.kind, self.noise, self.blur, self.fill)

    def __call__(self, images: Tensor) -> Tensor:
        """The coarse images of fine ones."""
        return degrade(images, self.scale, self.kind, self.noise, self.blur, self.fill)

    @property
    def multiple(self) -> int:
        """What sides of fine images must be a multiple of."""
        return 1 if is_profile(self.kind) else self.scale

    def fitting(self, images: Tensor) -> Tensor:
        """Fine images without the last rows where these fill no whole thick slice."""
        if not is_profile(self.kind):
            return images
        return images[..., : round(int((images.shape[-2] + 0.5) / self.scale) * self.scale), :]


def kind_of(degradation: Profile | None, modality: str, direction: str = "in_plane") -> Profile:
    """The kind of degradation: None stands for `kspace` for `mri` and `area` for others, or `box` through the plane.

    Raises:
        MedsynthError: a kind that is not one of that direction.
    """
    in_plane = direction == "in_plane"
    if degradation is None:
        return OF_MODALITY.get(modality, "area") if in_plane else "box"
    if not (degradation in tuple(KINDS) if in_plane else is_profile(degradation)):
        kinds = ", ".join(KINDS) if in_plane else f"{', '.join(PROFILES)}, or give weights such as {EXAMPLE}"
        raise MedsynthError(f"degradation is {degradation!r}: choose one of {kinds} (direction {direction})")
    return degradation


def check(
    scale: float, kind: Profile, noise: Range | None = None, blur: Range | None = None, fill: float = 1.0
) -> None:
    """Refuse arguments that `degrade` does not support."""
    if is_profile(kind):
        _check_slices(scale, kind, fill)
    elif kind not in tuple(KINDS):
        raise MedsynthError(f"degradation is {kind!r}: choose one of {', '.join((*KINDS, *PROFILES))}")
    elif scale not in SCALES:
        raise MedsynthError(f"scale is {scale!r}: choose 2 or 4")
    for name, given in (("noise", noise), ("blur", blur)):
        if given is None:
            continue
        numbers = isinstance(given, (list, tuple)) and all(isinstance(value, (int, float)) for value in given)
        if not (numbers and len(given) == 2 and 0 <= given[0] <= given[1] < math.inf):
            raise MedsynthError(f"{name} is {given!r}: give null or [low, high], not below 0, such as [0.0, 0.02]")


def _check_slices(scale: float, profile: Profile, fill: float) -> None:
    weights = [1.0] if isinstance(profile, str) else profile
    if not (all(is_number(weight) and weight >= 0 for weight in weights) and any(weights)):
        raise MedsynthError(
            f"degradation is {profile!r}: give weights of equally wide parts across a slice, finite numbers of 0 or "
            f"more, not all 0, such as {EXAMPLE}"
        )
    if not LEAST_RATIO <= scale < math.inf:
        raise MedsynthError(f"slices lie {scale:.3g} fine pixels apart: {LEAST_RATIO} or more are needed")
    if not 0 < fill <= MOST_FILL:
        raise MedsynthError(
            f"slices are {fill:.3g} times as thick as the distance between them: more than 0, and up to {MOST_FILL:g} "
            "times, can be used: check thickness and gap"
        )


def _draws(bounds: Range, images: Tensor) -> Tensor:
    """One number per image, uniform in a range: (..., 1, 1)."""
    return torch.empty(*images.shape[:-2], 1, 1, device=images.device).uniform_(*bounds)


def _blurred(images: Tensor, deviation: Tensor) -> Tensor:
    """Convolve each image with a Gaussian of `deviation` pixels; mirrored at the edges."""
    flat, deviation = images.reshape(1, -1, *images.shape[-2:]), deviation.reshape(-1, 1).clamp_min(1e-3)
    radius = min(math.ceil(4 * deviation.max().item()), min(images.shape[-2:]) - 1)
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernels = torch.softmax(-0.5 * (offset / deviation) ** 2, dim=1)[:, None]
    flat = F.pad(flat, [radius] * 4, mode="reflect")
    flat = F.conv2d(flat, kernels[..., None], groups=len(kernels))
    return F.conv2d(flat, kernels[:, :, None], groups=len(kernels)).reshape(images.shape)
