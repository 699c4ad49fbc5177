"""Rigid registration of a pair of volumes, and how well a pair is aligned, by mutual information."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

BINS = 32  # of the joint histogram
COARSE_MM, MIDDLE_MM = 8.0, 4.0  # grids on which the search begins
TURNS_RAD = (-math.pi / 6, 0.0, math.pi / 6)  # of the starts, about one axis at a time
FOLLOWED, FINALISTS = 6, 2  # starts that are followed on the coarse grid, and on the next
SAMPLES = 100_000  # voxels that are sampled
SEED = 1  # of their choice
FWHM_TO_VARIANCE = 1 / (8 * math.log(2))  # of a Gaussian
HEAD_RADIUS_MM = 80.0
ABOVE_CHANCE = 1.5  # times the mutual information by chance: less does not count as alignment
CHANCE_SHIFT_MM = 24.0  # beyond it, what overlaps is no longer the same anatomy
MISALIGNED_MM = 4.0  # headers that are wrong are off by more; patients move by less between the scans of a session
ALIGNED_SHARE = 0.85  # of the mutual information above chance, that of two scans that need no registration


@dataclass(frozen=True)
class Alignment:
    """What registering a pair found.

    Args:
        transform: takes points of the source, in mm, to the same anatomy in the target.
        offset_mm: by how much the headers are off: how far it moves the voxels of a head, root mean square.
        before: mutual information of the pair as its headers say, in nats.
        after: that of the registered pair.
        chance: that of the registered pair once shifted by `CHANCE_SHIFT_MM`, the median of six directions.
    """

    transform: sitk.Transform
    offset_mm: float
    before: float
    after: float
    chance: float

    @property
    def failed(self) -> bool:
        """Whether even the registered pair shares no more information than misaligned ones do."""
        return self.after < ABOVE_CHANCE * self.chance

    @property
    def misaligned(self) -> bool:
        """Whether the headers are clearly off: far away, and with much mutual information to gain."""
        if self.failed:
            return True
        share = (self.before - self.chance) / max(self.after - self.chance, 1e-6)
        return self.offset_mm > MISALIGNED_MM and share < ALIGNED_SHARE


def align(source: sitk.Image, target: sitk.Image) -> Alignment:
    """Find the rigid transform that aligns two volumes of a head; the same arguments give the same result.

    Many starts (the headers', the middles of both volumes and their centres of mass laid on each other, and turns of
    all these) are followed on a coarse grid, the best of them on finer ones.

    Reference: Mattes et al., IEEE TMI 22(1), 2003 (mutual information).
    """
    source, target = sitk.Cast(source, sitk.sitkFloat32), sitk.Cast(target, sitk.sitkFloat32)
    coarse, middle = (tuple(_shrunk(image, mm) for image in (source, target)) for mm in (COARSE_MM, MIDDLE_MM))
    headers, *others = _starts(source, target)
    starts = [headers, *_best(coarse, others)[:FOLLOWED]]
    headers, *others = (_follow(*coarse, start, step_mm=4.0) for start in starts)
    finalists = _distinct([headers, *_best(coarse, others)])[:FINALISTS]
    best = _best(middle, [_follow(*middle, transform, step_mm=2.0) for transform in finalists])[0]
    best = _follow(source, target, best, step_mm=1.0)
    shifts = [_shifted(best, shift) for shift in CHANCE_SHIFT_MM * np.vstack([np.eye(3), -np.eye(3)])]
    return Alignment(
        best,
        distance_mm(best, sitk.Euler3DTransform(), _middle(source)),
        mutual_information(source, target, sitk.Euler3DTransform()),
        mutual_information(source, target, best),
        float(np.median([mutual_information(source, target, shifted) for shifted in shifts])),
    )


def distance_mm(one: sitk.Euler3DTransform, other: sitk.Euler3DTransform, centre: Sequence[float]) -> float:
    """How far apart two rigid transforms take the points of a sphere as large as a head, root mean square.

    Reference: Jenkinson, Measuring transformation error by RMS deviation, FMRIB TR99MJ1, eq. 9.
    """
    turn = np.reshape(np.subtract(one.GetMatrix(), other.GetMatrix()), (3, 3))
    shift = np.subtract(one.TransformPoint(centre), other.TransformPoint(centre))
    return math.sqrt(HEAD_RADIUS_MM**2 / 5 * np.trace(turn.T @ turn) + shift @ shift)


def mutual_information(source: sitk.Image, target: sitk.Image, transform: sitk.Transform) -> float:
    """Mattes mutual information in nats where both volumes are; 0 where they do not overlap."""
    method = _method(source)
    method.SetInitialTransform(transform)
    try:
        return -method.MetricEvaluate(source, target)
    except RuntimeError:  # no sample of the source falls into the target
        return 0.0


def resample(target: sitk.Image, source: sitk.Image, transform: sitk.Transform | None = None) -> sitk.Image:
    """The target on the source's grid, interpolated once; its lowest value where it does not reach.

    Cubic, and clipped to the target's range, which the interpolation would otherwise leave at edges. Where the
    source's voxels are wider, the target is averaged over about their width.
    """
    values = sitk.GetArrayViewFromImage(target)
    low, high = float(values.min()), float(values.max())
    axes, source_axes = (np.reshape(image.GetDirection(), (3, 3)) for image in (target, source))
    widths = np.abs(axes.T @ source_axes) @ source.GetSpacing()
    variances = FWHM_TO_VARIANCE * np.maximum(widths**2 - np.square(target.GetSpacing()), 0)
    if variances.max() > 0.1 * min(target.GetSpacing()) ** 2:
        target = sitk.DiscreteGaussian(target, variances.tolist(), maximumKernelWidth=64, useImageSpacing=True)
    moved = sitk.Resample(target, source, transform or sitk.Transform(), sitk.sitkBSpline3, low, sitk.sitkFloat32)
    return sitk.Clamp(moved, sitk.sitkFloat32, low, high)


def better_shift(source: sitk.Image, registered: sitk.Image) -> tuple[int, int, int] | None:
    """A shift of the registered target by one or two voxels along an axis that aligns it better, None if there is none.

    Args:
        registered: on the source's grid.
    """
    best, aligned = None, mutual_information(source, registered, sitk.Transform())
    axes = np.reshape(source.GetDirection(), (3, 3)) * source.GetSpacing()
    for axis, voxels in itertools.product(range(3), (-2, -1, 1, 2)):
        shift = sitk.TranslationTransform(3, (axes[:, axis] * voxels).tolist())
        if (shifted := mutual_information(source, registered, shift)) > aligned:
            best, aligned = tuple(voxels * (i == axis) for i in range(3)), shifted
    return best


def _starts(source: sitk.Image, target: sitk.Image) -> Iterator[sitk.Euler3DTransform]:
    """The headers' own first."""
    initializer = sitk.CenteredTransformInitializerFilter
    masses = [image - float(sitk.GetArrayViewFromImage(image).min()) for image in (source, target)]
    centred = [
        sitk.CenteredTransformInitializer(*masses, sitk.Euler3DTransform(), way)
        for way in (initializer.GEOMETRY, initializer.MOMENTS)
    ]
    middle = sitk.Euler3DTransform()
    middle.SetCenter(_middle(source))
    turns = [turn for turn in itertools.product(TURNS_RAD, repeat=3) if np.count_nonzero(turn) <= 1]
    for start, turn in itertools.product((middle, *centred), sorted(turns, key=np.count_nonzero)):
        turned = sitk.Euler3DTransform(start)
        turned.SetRotation(*turn)
        yield turned


def _follow(source: sitk.Image, target: sitk.Image, start: sitk.Transform, step_mm: float) -> sitk.Euler3DTransform:
    """Climb from a start to the nearest peak of mutual information; back to the start where they do not overlap."""
    method, moved = _method(source), sitk.Euler3DTransform(start)
    method.SetInitialTransform(moved, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(step_mm, minStep=0.01, numberOfIterations=100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    try:
        method.Execute(source, target)
    except RuntimeError:  # as above
        return start
    return moved


def _method(source: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # the order of sums must not depend on the machine
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()  # differences where a sample lies, instead of a filtered volume
    if (voxels := source.GetNumberOfPixels()) > SAMPLES:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(SAMPLES / voxels, SEED)
    return method


def _best(pair: tuple[sitk.Image, sitk.Image], transforms: Sequence[sitk.Euler3DTransform]) -> list:
    """By mutual information, less where only a corner of the volumes overlaps; the best first."""
    source, target = pair

    def score(transform: sitk.Euler3DTransform) -> float:
        inside = sitk.Resample(target * 0 + 1, source, transform, sitk.sitkNearestNeighbor, 0.0)
        return mutual_information(source, target, transform) * float(sitk.GetArrayViewFromImage(inside).mean())

    return sorted(transforms, key=score, reverse=True)


def _distinct(transforms: Sequence[sitk.Euler3DTransform]) -> list[sitk.Euler3DTransform]:
    """Without those that are next to one before them."""
    chosen: list[sitk.Euler3DTransform] = []
    for transform in transforms:
        if all(distance_mm(transform, other, transform.GetCenter()) > COARSE_MM / 2 for other in chosen):
            chosen.append(transform)
    return chosen


def _shrunk(image: sitk.Image, mm: float) -> sitk.Image:
    """Averaged over blocks of whole voxels, about `mm` wide."""
    sides = zip(image.GetSize(), image.GetSpacing(), strict=True)
    return sitk.BinShrink(image, [max(1, min(size, round(mm / spacing))) for size, spacing in sides])


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])


def _shifted(transform: sitk.Euler3DTransform, shift_mm: Sequence[float]) -> sitk.Euler3DTransform:
    moved = sitk.Euler3DTransform(transform)
    moved.SetTranslation((np.add(transform.GetTranslation(), shift_mm)).tolist())
    return moved
