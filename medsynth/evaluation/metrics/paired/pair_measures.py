"""Measure predictions against their true counterparts: one row of numbers a subject, then all subjects together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import PAIRED, Entry
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution import replicates as resampling
from medsynth.evaluation.metrics.intervals import bootstrap_interval
from medsynth.evaluation.metrics.paired.binary import binary_scores
from medsynth.evaluation.metrics.paired.structural import Mask, ms_ssim, ssim
from medsynth.evaluation.metrics.paired.synthrad import RANGE_2025_HU, synthrad
from medsynth.evaluation.metrics.result import Measure

AIR_BELOW_HU = -200.0
BONE_ABOVE_HU = 300.0
BONE_OVERLAP_ABOVE_HU = 250.0  # thinner bone too
AFFINE_TOLERANCE_MM = 1e-2

Row = dict[str, float]


def check_geometry(
    prediction_shape: Sequence[int],
    prediction_affine: ArrayLike,
    target_shape: Sequence[int],
    target_affine: ArrayLike,
    name: str,
) -> None:
    """MedsynthError unless two volumes have one grid: shape, spacing, orientation and origin.

    Args:
        prediction_affine, target_affine: (4, 4), voxels to mm.
        name: of the pair.
    """
    advice = "bring both onto one grid first; nothing is resampled here"
    if tuple(prediction_shape) != tuple(target_shape):
        found = " and ".join(" x ".join(map(str, shape)) for shape in (prediction_shape, target_shape))
        raise MedsynthError(f"{name}: prediction and target have {found} voxels: {advice}")
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in (*target_shape, 1, 1)[:3]])).reshape(3, -1)
    points = [
        np.asarray(affine)[:3, :3] @ corners + np.asarray(affine)[:3, 3:]
        for affine in (prediction_affine, target_affine)
    ]
    apart = np.linalg.norm(points[0] - points[1], axis=0).max()
    if not apart <= AFFINE_TOLERANCE_MM:
        raise MedsynthError(f"{name}: prediction and target lie up to {apart:.3g} mm apart: {advice}")


def body_mask(target: NDArray, modality: str) -> Mask:
    """The largest part of a volume that stands out from the air, its holes filled.

    Args:
        target: (X, Y, Z) or (X, Y), HU for `ct`.
        modality: `ct` (above -200 HU), anything else by Otsu's threshold, halved because tissue is brighter than air.
    """
    threshold = AIR_BELOW_HU if modality == "ct" else 0.5 * threshold_otsu(target)
    labels, _ = ndimage.label(target > threshold)
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.size:
        raise CannotMeasure("nothing stands out from the air: give a mask")
    return ndimage.binary_fill_holes(labels == 1 + sizes.argmax())


def evaluate_pair(
    prediction: NDArray,
    target: NDArray,
    mask: Mask,
    modality: str,
    data_range: tuple[float, float] | None = None,
    slice_axis: int = -1,
) -> Row:
    """All measures of a prediction, inside the mask.

    Args:
        prediction, target: (X, Y, Z), or (X, Y): HU for `ct`. A volume of one slice is measured as that slice.
        mask: same shape, true inside the body.
        modality: `ct` adds the tissues and the SynthRAD measures.
        data_range: lowest and highest possible value; None: -1024 to 3071 HU, for `ct` only.
        slice_axis: along which slices follow each other.

    Returns: name -> value, see `catalog.PAIRED`; what the mask is too small for or has no voxels of is left out.

    Raises:
        MedsynthError: shapes differ, values that are no numbers, an empty mask, no data range.
    """
    data_range = _checked(prediction, target, mask, modality, data_range)
    if target.ndim == 3 and target.shape[slice_axis] == 1:
        prediction, target, mask = (volume.take(0, slice_axis) for volume in (prediction, target, mask))
    width = data_range[1] - data_range[0]
    truth = target[mask].astype(np.float64)
    found = prediction[mask].astype(np.float64)
    row = voxel_errors(found, truth, width)
    if modality == "ct":
        row |= tissue_errors(found, truth)
        row |= synthrad(prediction, target, mask) if target.ndim == 3 else {}
    if data_range == RANGE_2025_HU and "synthrad2025_ms_ssim" in row:
        row["ms_ssim"] = row["synthrad2025_ms_ssim"]
    with contextlib.suppress(CannotMeasure):
        row["ssim"] = ssim(prediction, target, mask, width)
        if "ms_ssim" not in row:
            row["ms_ssim"] = ms_ssim(prediction, target, mask, width)
    row |= binary_scores(found, truth, data_range)
    if target.ndim == 3:
        row |= slice_consistency(*(np.moveaxis(volume, slice_axis, -1) for volume in (prediction, target, mask)))
    return row


def _checked(
    prediction: NDArray, target: NDArray, mask: Mask, modality: str, data_range: tuple[float, float] | None
) -> tuple[float, float]:
    if not prediction.shape == target.shape == mask.shape or target.ndim not in (2, 3):
        raise MedsynthError(
            f"prediction {prediction.shape}, target {target.shape} and mask {mask.shape}: needs one shape, 2D or 3D"
        )
    for name, volume in (("prediction", prediction), ("target", target)):
        broken = np.count_nonzero(~np.isfinite(volume))
        if broken:
            raise MedsynthError(f"{name}: {broken} values are NaN or infinite: mend or leave out the image")
    if not mask.any():
        raise MedsynthError("the mask is empty: give one that is above 0 inside the body")
    if data_range is None and modality != "ct":
        raise MedsynthError(f"modality {modality} has no range of its own: give data_range, lowest and highest value")
    return RANGE_2025_HU if data_range is None else data_range


def voxel_errors(prediction: NDArray, target: NDArray, width: float) -> Row:
    """MAE, RMSE, NRMSE, PSNR, bias and limits of agreement of (voxels,) values.

    NRMSE is RMSE over the range of the target (scikit-image's "min-max"); the limits of agreement of Bland and Altman
    hold 95 % of normal differences: bias -+ 1.96 deviations.
    """
    difference = prediction - target
    rmse = float(np.sqrt(np.mean(difference**2)))
    bias, deviation = float(difference.mean()), float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    spread = float(target.max() - target.min())
    return {
        "mae": float(np.abs(difference).mean()),
        "rmse": rmse,
        **({"nrmse": rmse / spread} if spread > 0 else {}),
        "psnr": float(20 * np.log10(width / rmse)) if rmse > 0 else float("inf"),
        "bias": bias,
        "agreement_low": bias - 1.96 * deviation,
        "agreement_high": bias + 1.96 * deviation,
        "mean_prediction": float(prediction.mean()),
        "mean_target": float(target.mean()),
    }


def tissue_errors(prediction_hu: NDArray, target_hu: NDArray) -> Row:
    """MAE of (voxels,) values where the target is air (below -200 HU), soft tissue or bone (above 300 HU); and the
    overlap, Dice, of what is above 250 HU.
    """
    tissue = (target_hu >= AIR_BELOW_HU).astype(np.int8) + (target_hu > BONE_ABOVE_HU)
    sums = np.bincount(tissue, np.abs(prediction_hu - target_hu), 3)
    counts = np.bincount(tissue, minlength=3)
    names = ("mae_air", "mae_soft", "mae_bone")
    row = {name: float(sums[code] / counts[code]) for code, name in enumerate(names) if counts[code]}
    found, true = (values > BONE_OVERLAP_ABOVE_HU for values in (prediction_hu, target_hu))
    bone = np.count_nonzero(found) + np.count_nonzero(true)
    return row | ({"bone_dice": 2 * np.count_nonzero(found & true) / bone} if bone else {})


def slice_consistency(prediction: NDArray, target: NDArray, mask: Mask) -> Row:
    """How evenly slices follow each other, along the last axis, inside the mask.

    `slice_step_ratio`: mean absolute change from slice to slice over the target's (1 is best; above: flicker, below:
    smoothed). `slice_flicker`: standard deviation over slices of the slice's mean error (lower is better).
    """
    both = mask[..., 1:] & mask[..., :-1]
    steps = [np.abs(np.diff(volume, axis=-1)[both]).mean(dtype=np.float64) for volume in (prediction, target)]
    error = np.where(mask, prediction - target, 0)
    axes = tuple(range(mask.ndim - 1))
    voxels = mask.sum(axes)
    means = error.sum(axes, dtype=np.float64)[voxels > 0] / voxels[voxels > 0]
    ratio = {"slice_step_ratio": float(steps[0] / steps[1])} if both.any() and steps[1] > 0 else {}
    return ratio | {"slice_flicker": float(means.std())}


def summarize(
    rows: Sequence[Row], modality: str, seed: int, baselines: dict[str, Sequence[Row]] | None = None
) -> list[Measure]:
    """The mean of each measure over subjects, with a bootstrap interval over them.

    Args:
        rows: of `evaluate_pair`, one a subject.
        baselines: the same of what each simple method predicts; `baseline` is the best of them.
    """
    if not rows:
        raise MedsynthError("no pair to measure: give predictions and their targets")
    unit = "HU" if modality == "ct" else ""
    return [_summary(name, rows, unit, seed, baselines or {}) for name in PAIRED if any(name in row for row in rows)]


def _summary(name: str, rows: Sequence[Row], unit: str, seed: int, baselines: dict[str, Sequence[Row]]) -> Measure:
    kind = PAIRED[name]
    values = np.array([row[name] for row in rows if name in row])
    interval = None
    if len(values) > 1 and np.isfinite(values).all():
        replicates = resampling.mean(values, np.arange(len(values)))
        interval = bootstrap_interval(float(values.mean()), replicates, len(values), seed, kind.limits)
    notes = [] if len(values) == len(rows) else [f"in {len(values)} of {len(rows)} subjects"]
    others = {
        method: float(np.mean([row[name] for row in found]))
        for method, found in baselines.items()
        if all(name in row for row in found)
    }
    best = min(others, key=lambda method: _loss(others[method], kind)) if others else None
    return Measure(
        name,
        float(values.mean()),
        unit if kind.unit == "units" else kind.unit,
        kind.direction,
        len(values),
        target=kind.target,
        interval=interval,
        baseline=others[best] if best else None,
        note="; ".join(notes) or None,
        spread=float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None,
        baselines=others or None,
    )


def _loss(value: float, kind: Entry) -> float:
    if kind.direction == "near":
        return abs(value - kind.target)
    return value if kind.direction == "lower" else -value
