"""Distances between two images, or between two sets of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ABOVE_AIR = -0.9  # a twentieth of the range above the darkest
CELL = 4  # pixels of a cell of the foreground
GAP = 5  # cells that a gap to be closed may be wide: sinuses and ventricles
OUTSIDE_WEIGHT = 0.1
WINDOW = 7  # pixels a side, of SSIM
LUMINANCE, CONTRAST = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # that keep SSIM's terms finite; Wang et al. 2004, with range 2
PATCH = 7
SMALLEST_SCALE = 16  # pixels; patches of a coarser one would show whole heads
COARSEST = 8  # pixels, of what the energy score compares
TILE = 16  # pixels a side, of local spectra; of small images, half a side
QUIET = 0.1  # share of the mean power below which differences count little: air and its noise
LEAST_POWER = 1e-8
LEAK = 0.01  # weight of what exceeds [-1, 1]
MOST_PATCHES = 16  # per side: more sharpen the estimate less than they cost


def clamped(drawn: Tensor, leak: float = LEAK) -> Tensor:
    """Images clamped to [-1, 1], as users get them, but with small gradients beyond.

    A network whose images are compared as they are has to hit black exactly, in the air that fills half of a slice.
    """
    return drawn.clamp(-1, 1).lerp(drawn, leak)


def foreground(*images: Tensor) -> Tensor:
    """The mask of the head: what is brighter than air in any of the images, with its gaps closed.

    Args:
        images: (N, 1, H, W) each, in [-1, 1], of the same slices.

    Returns: (N, 1, H, W), 1 or 0; at most `CELL` pixels wider than the head.
    """
    size = images[0].shape[-2:]
    bright = torch.stack(list(images)).amax(dim=0) > ABOVE_AIR
    cells = F.pad(F.max_pool2d(bright.float(), CELL, ceil_mode=True), [GAP // 2] * 4)  # room to grow and shrink again
    closed = -F.max_pool2d(-F.max_pool2d(cells, GAP, 1, GAP // 2), GAP, 1)
    return F.interpolate(closed, scale_factor=CELL, mode="nearest")[..., : size[0], : size[1]]


def inside_patient(body: Tensor | None, *images: Tensor) -> Tensor:
    """(N, 1, H, W), 1 or 0: where `body` (N, 1, H, W) is above 0, or the `foreground` of images without such pixels."""
    if body is None:
        return foreground(*images)
    known = body.amax(dim=(1, 2, 3), keepdim=True) > 0
    found = (body > 0).float()
    return found if known.all() else torch.where(known, found, foreground(*images))


def masked_l1(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference inside a mask; pixels outside count a little, so that air stays dark.

    Args:
        image, target: (N, C, H, W).
        mask: (N, 1, H, W), 1 inside and 0 outside.
    """
    return mean_in_head((image.float() - target.float()).abs(), mask)


def mean_in_head(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values (N, C, H, W) inside a mask (N or 1, 1, H, W) of 1 and 0; those outside count a little."""
    weight = mask + OUTSIDE_WEIGHT
    return (values * weight).mean() / weight.mean()


def masked_dissimilarity(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - SSIM inside a mask, of each image; what lies outside does not count. Window 7 x 7, uniform.

    Args:
        image, target: (N, 1, H, W) in [-1, 1].
        mask: (N, 1, H, W), 1 inside and 0 outside.

    Returns: (N,); 0 is identical.
    """
    share = mask.mean(dim=(1, 2, 3)).clamp_min(1e-3)
    return _dissimilarity(torch.where(mask > 0, image, target), target) / share


def structural_dissimilarity(image: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM of images in [-1, 1]; 0 is identical. Window 7 x 7, uniform."""
    return _dissimilarity(image, target).mean()


def _dissimilarity(image: Tensor, target: Tensor) -> Tensor:
    """(N,), of each image; raised to [0, 2], since the luminance term is for intensities that are not negative."""
    # with gradient 33 ms for 16 images of 128 x 128; `monai.losses.SSIMLoss` takes 188 ms
    with torch.autocast(image.device.type, enabled=False):  # variances are small differences of large numbers
        one, other = image.float() + 1, target.float() + 1
        maps = torch.cat([one, other, one * one + other * other, one * other], dim=1)
        mean_one, mean_other, squares, product = _window_means(maps).chunk(4, dim=1)
        mean_squares, mean_product = mean_one.square() + mean_other.square(), mean_one * mean_other
        luminance = (2 * mean_product + LUMINANCE) / (mean_squares + LUMINANCE)
        structure = (2 * (product - mean_product) + CONTRAST) / (squares - mean_squares + CONTRAST)
        return 1 - (luminance * structure).flatten(1).mean(dim=1)


def _window_means(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> the mean of each window. As two matrix products: several times as fast as pooling on a CPU."""
    rows, columns = (
        torch.ones(length - WINDOW + 1, length, device=maps.device).triu().tril(WINDOW - 1) / WINDOW
        for length in maps.shape[-2:]
    )
    return rows @ maps @ columns.T


def feature_distance(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of a discriminator's features, each layer relative to the target's mean magnitude.

    Reference: Larsen et al., arXiv:1512.09300, eq. 6, with all layers and an L1 distance.
    """
    layers = [
        (mine - theirs).abs().mean() / (theirs.abs().mean() + 1e-6)
        for mine, theirs in zip(features, target, strict=True)
    ]
    return torch.stack(layers).mean()


def energy_score(one: Tensor, other: Tensor, real: Tensor) -> Tensor:
    """Energy score of two random images of one condition; its mean is lowest if they are distributed as the real one.

    It falls as they come nearer to the real image and as they move apart, so samples become as varied as real images.
    Distances are root mean squares of differences, of whole images and of coarser versions.

    Args:
        one, other, real: (N, C, H, W) in [-1, 1]; each row of `one` and `other` is drawn for the row of `real`.

    Reference: Gneiting & Raftery, Strictly proper scoring rules, JASA 102 (2007), eq. 22.
    """
    one, other, real = one.float(), other.float(), real.float()
    scores = []
    while True:
        near = (_distance(one, real) + _distance(other, real)) / 2
        scores.append((near - _distance(one, other) / 2).mean())
        if one.shape[-1] <= COARSEST:
            return torch.stack(scores).mean()
        one, other, real = (F.avg_pool2d(images, 2) for images in (one, other, real))


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return ((one - other).square().flatten(1).mean(dim=1) + 1e-8).sqrt()


def sliced_patch_distance(fake: Tensor, real: Tensor, projections: int = 16, patch: int = PATCH) -> Tensor:
    """Sliced Wasserstein distance between the patches of two sets of images, in standard deviations; 0: equal.

    At each scale of a Laplacian pyramid, patches are projected onto random directions, and the sorted values of
    both sets are compared. Unlike a discriminator, this target does not change during training. The finest detail, what
    a 3 x 3 mean removes, is a scale of its own, because it is weak compared with the rest.

    Args:
        fake, real: (N, C, H, H), equally many, in any order.
        projections: random directions per scale.
        patch: pixels per side of a patch.

    Reference: Rabin et al., Wasserstein barycenter and its application to texture mixing, SSVM 2011; the pyramid of
    Karras et al., arXiv:1710.10196, section 5; as a loss, Elnekave & Weiss, arXiv:2203.11862.
    """
    fake, real = fake.float(), real.float()
    detail = [images - F.avg_pool2d(images, 3, 1, padding=1, count_include_pad=False) for images in (fake, real)]
    scales = [_sliced_distance(*detail, projections, patch)]
    while fake.shape[-1] >= 2 * SMALLEST_SCALE:
        coarser = [F.avg_pool2d(images, 2) for images in (fake, real)]
        bands = [
            images - F.interpolate(coarse, scale_factor=2, mode="bilinear")
            for images, coarse in zip((fake, real), coarser, strict=True)
        ]
        scales.append(_sliced_distance(*bands, projections, patch))
        fake, real = coarser
    scales.append(_sliced_distance(fake, real, projections, patch))
    return torch.stack(scales).mean()


def _sliced_distance(fake: Tensor, real: Tensor, projections: int, patch: int) -> Tensor:
    """Of one scale, relative to the standard deviation of the real images' projections."""
    directions = torch.randn(projections, real.shape[1], patch, patch, device=real.device)
    directions = directions / directions.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    stride = max(1, real.shape[-1] // MOST_PATCHES)
    of_fake, of_real = (
        F.conv2d(images, directions, stride=stride).transpose(0, 1).flatten(1).sort(dim=1).values
        for images in _cropped_at_random(fake, real, patch, stride)
    )
    return ((of_fake - of_real).abs().mean(dim=1) / (of_real.std(dim=1) + 1e-6)).mean()


def _cropped_at_random(fake: Tensor, real: Tensor, patch: int, stride: int) -> list[Tensor]:
    """The same random crop of both sets, which holds a whole and constant number of patches."""
    length = real.shape[-1] - stride + 1
    length -= (length - patch) % stride
    first = torch.randint(real.shape[-1] - length + 1, (), device=real.device)
    pixels = torch.arange(length, device=real.device) + first
    return [images.index_select(2, pixels).index_select(3, pixels) for images in (fake, real)]


def spectral_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Itakura-Saito divergence of the local power spectra of two images; 0: equal.

    Repeated upsampling leaves too little power at some frequencies and too much (grain, a checkerboard) at others, and
    a discriminator with strided convolutions hardly sees this. Power is compared in overlapping tiles: that of whole
    images can be made of single bright or dark pixels, which have power at all frequencies. Of detail that cannot be
    known the divergence is lowest at the mean power; with differences of logarithms it would be lower, a blur.

    Args:
        fake, real: (N, C, H, H), pairs.

    Reference: Durall et al., Watch your up-convolution, arXiv:2003.01826, with spectra of whole images; Fevotte et al.,
    Nonnegative matrix factorization with the Itakura-Saito divergence, Neural Computation 21 (2009), of local spectra
    of sound.
    """
    side = min(TILE, real.shape[-1] // 4 * 2)
    crops = _cropped_at_random(fake.float(), real.float(), side, side // 2)
    of_fake, of_real = (_tile_powers(images, side) for images in crops)
    quiet = QUIET * of_real.mean(dim=0) + LEAST_POWER
    ratio = (of_real + quiet) / (of_fake + quiet)
    return (ratio - ratio.log() - 1).mean()


def _tile_powers(images: Tensor, side: int) -> Tensor:
    """(N, C, H, H) -> (tiles, side // 2): the mean power on rings from 1 cycle per side to Nyquist; Hann windows."""
    tiles = images.unfold(2, side, side // 2).unfold(3, side, side // 2).flatten(0, 3)
    window = torch.hann_window(side, device=images.device)
    tiles = (tiles - tiles.mean(dim=(1, 2), keepdim=True)) * torch.outer(window, window)
    power = torch.view_as_real(torch.fft.fft2(tiles, norm="ortho")).square().sum(dim=-1)
    cycles = torch.fft.fftfreq(side, 1 / side, device=images.device)
    radius = torch.hypot(cycles[:, None], cycles).round()
    rings = (radius == torch.arange(1, side // 2 + 1, device=images.device)[:, None, None]).flatten(1).float()
    with torch.autocast(images.device.type, enabled=False):  # powers span many orders of magnitude
        return power.flatten(1) @ (rings / rings.sum(dim=1, keepdim=True)).T
