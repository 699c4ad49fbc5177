"""The report on predictions beside their targets, subject by subject."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from tqdm import tqdm

from medsynth.data.datalist.datalist import Datalist
from medsynth.data.io.masks import read_mask
from medsynth.data.io.sources import Source, is_picture
from medsynth.data.preprocessing.foreground import AXES, find_patient
from medsynth.data.preprocessing.hounsfield import NO_AIR_HU, is_offset_ct, mended
from medsynth.data.preprocessing.pipelines import PLANES
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.paired.lookup import Lookup, histogram_matching, intensity_lookup
from medsynth.evaluation.metrics.paired.pair_measures import Row, body_mask, check_geometry, evaluate_pair, summarize
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.folder import ReportFolder, provenance
from medsynth.evaluation.report.held_out import Patients, check_split
from medsynth.evaluation.report.page import Page, plain
from medsynth.evaluation.report.paired_sections import Case, case_sections, paired_measures, subject_table
from medsynth.evaluation.report.predictions import Pair, Volume, bounds_of, find_pairs, read
from medsynth.evaluation.report.verdict import Verdict
from medsynth.evaluation.report.verdict_paired import paired_verdicts

MOST_TRAINING_PAIRS = 8  # that baselines are fitted to
MOST_VOXELS = 200_000  # of each of them
MOST_CASES = 3  # in the viewer: the worst, the median, the best

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A pair in memory: voxels (X, Y, Z) of one grid, in units, or from 0 to 1 where these mean nothing.

    Args:
        source: None where it is unknown or on another grid.
        slice_axis: along which the slices were predicted one by one.
    """

    prediction: np.ndarray
    target: np.ndarray
    source: np.ndarray | None
    mask: np.ndarray
    affine: np.ndarray
    slice_axis: int


class PairedEvaluation:
    """Compares predictions with their targets and writes the report.

    Args:
        target: datalist or folder of the targets.
        prediction: folder of the predictions.
        output: where to.
        modality: `ct` for Hounsfield units, else `mri` or `image`; None: as the targets look.
        data_range: lowest and highest possible value; None: that of CT, or of all targets. MRI whose sidecars say how
            it was prepared is compared from 0 to 1, each image between its own bounds.
        split: patients of the datalist that count: `validation`, `test` or `both`.
        seed: of the bootstrap.
        more: subject -> measures of `catalog.PAIRED` that were taken elsewhere.
        fewer: folders of predictions that were made from fewer contrasts, by which.
    """

    def __init__(
        self,
        target: str | Datalist | None,
        prediction: str | None,
        output: ReportFolder,
        modality: str | None = None,
        data_range: Sequence[float] | None = None,
        split: str = "test",
        seed: int = 0,
        more: Mapping[str, Row] | None = None,
        fewer: Mapping[str, str] | None = None,
    ) -> None:
        check_split(split)
        self.target, self.prediction, self.output, self.split = target, prediction, output, split
        self.modality, self.data_range, self.seed, self.more = modality, data_range, seed, more or {}
        self.fewer = fewer or {}

    def run(self) -> list[Verdict]:
        """Read, measure, write, and log the verdicts."""
        pairs, training, patients = find_pairs(self.target, self.prediction, self.split)
        if self.data_range is not None:  # then values are what they are
            pairs, training = ([replace(pair, recipe=None) for pair in some] for some in (pairs, training))
        modality, data_range = self._scale(pairs)
        curves = _baselines(training, modality)
        rows: list[Row] = []
        others: dict[str, list[Row]] = {name: [] for name in curves}
        for pair in tqdm(pairs, desc="comparing", unit="pair"):
            loaded = load(pair, modality)
            how = (loaded.target, loaded.mask, modality, data_range, loaded.slice_axis)
            rows.append(evaluate_pair(loaded.prediction, *how) | self.more.get(pair.subject, {}))
            for name, curve in curves.items():
                if loaded.source is not None:
                    others[name].append(evaluate_pair(curve(loaded.source), *how))
        whole = {name: found for name, found in others.items() if len(found) == len(pairs)}
        measures = self._with_fewer(summarize(rows, modality, self.seed, whole), modality, data_range)
        found = paired_verdicts(measures, len(pairs))
        self._write(pairs, patients, rows, measures, found, modality, data_range)
        for verdict in found:
            log.info("%-11s %s", verdict.topic, verdict.headline)
        log.info("the report is %s", self.output.folder / "report.html")
        return found

    def _with_fewer(
        self, measures: Sequence[Measure], modality: str, data_range: tuple[float, float] | None
    ) -> list[Measure]:
        """The measures, with the means of the predictions from fewer contrasts."""
        found: dict[str, list[Row]] = {}
        for name, folder in self.fewer.items():
            pairs, _, _ = find_pairs(self.target, folder, self.split)
            found[name] = []
            for pair in tqdm(pairs, desc=f"comparing, {name}", unit="pair"):
                one = load(pair, modality)
                found[name].append(
                    evaluate_pair(one.prediction, one.target, one.mask, modality, data_range, one.slice_axis)
                )
        means = [
            {name: float(np.mean([row[m.name] for row in rows])) for name, rows in found.items() if m.name in rows[0]}
            for m in measures
        ]
        return [replace(measure, by_contrasts=mean or None) for measure, mean in zip(measures, means, strict=True)]

    def _scale(self, pairs: Sequence[Pair]) -> tuple[str, tuple[float, float] | None]:
        """Modality and data range; None for CT, which has its own."""
        if self.data_range is not None:
            return self.modality or "mri", _checked_range(self.data_range)
        recipe = pairs[0].recipe
        if recipe is not None and recipe.target.modality == "image":
            return "image", recipe.bounds
        if self.modality == "ct" or (recipe is not None and recipe.has_units):
            return "ct", None
        if recipe is not None:
            return "mri", (0.0, 1.0)
        targets = [read(pair.target).voxels for pair in pairs]
        low, high = float(min(t.min() for t in targets)), float(max(t.max() for t in targets))
        if self.modality is None and low < NO_AIR_HU:
            log.info("targets have values down to %.0f: taken for Hounsfield units (modality ct)", low)
            return "ct", None
        if self.modality is None and all(map(is_offset_ct, targets)):
            log.info(
                "targets have values from %.0f to %.0f, as CT with an offset: taken for it (modality ct)", low, high
            )
            return "ct", None
        if low == high:
            raise MedsynthError(f"all targets have the one value {low:g}: there is nothing to compare with")
        log.info("data range of the targets: %g to %g; give window to state another", low, high)
        return self.modality or "mri", (low, high)

    def _write(
        self,
        pairs: Sequence[Pair],
        patients: Patients,
        rows: Sequence[Row],
        measures: Sequence[Measure],
        found: Sequence[Verdict],
        modality: str,
        data_range: tuple[float, float] | None,
    ) -> None:
        order = np.argsort([-row["mae"] for row in rows], kind="stable")
        shown = sorted({0, len(order) // 2, len(order) - 1})[:MOST_CASES]
        cases = [_case(pairs[order[i]], rows[order[i]], modality) for i in shown]
        scaled = pairs[0].recipe is not None and not pairs[0].recipe.has_units
        unit = "HU" if modality == "ct" else "parts of each image's intensity range" if scaled else "stored units"
        low, high = data_range or (-1024.0, 3071.0)
        facts = (
            {
                "targets": self.target.name if isinstance(self.target, Datalist) else str(self.target),
                "predictions": str(self.prediction),
                "modality": modality,
                "seed": self.seed,
                "data_range": [low, high],
                "mask": "the entry's mask, else the body, found in the target",
            }
            | patients.facts
            | provenance()
        )
        table = [{"subject": pair.subject} | row for pair, row in zip(pairs, rows, strict=True)]
        sections = [
            paired_measures(measures, unit, (low, high)),
            *case_sections(cases, rows, unit),
            subject_table([table[i] for i in order], unit),
        ]
        said = f"in {unit}; data range {low:g} to {high:g}, inside the body"
        summary = f"{len(pairs)} predictions beside their targets, {said}. {patients.words}"
        printed = {name.replace("_", " "): plain(value) for name, value in facts.items()}
        self.output.write(measures, table, Page("Predictions beside targets", summary, found, sections, printed), facts)


def _checked_range(data_range: Any) -> tuple[float, float]:
    try:
        low, high = map(float, data_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise MedsynthError(f'window is {data_range!r}: for pairs give the data range, such as --window "[0, 255]"')
    return low, high


def load(pair: Pair, modality: str) -> Loaded:
    """Read a pair; its grids must be one.

    Raises:
        MedsynthError: they are not, there is no body to be found, or the mask cannot be used.
    """
    prediction, target = read(pair.prediction), read(pair.target)
    check_geometry(prediction.voxels.shape, prediction.affine, target.voxels.shape, target.affine, pair.subject)
    if not np.isfinite(prediction.voxels).all() or not np.isfinite(target.voxels).all():
        raise MedsynthError(f"{pair.subject}: values that are not finite (NaN): mend or leave out the image")
    if modality == "ct":
        prediction, target = _in_hu(pair.prediction, prediction), _in_hu(pair.target, target)
    source = None if pair.source is None else read(pair.source)
    if source is not None and not _one_grid(source, target):
        source = None
    try:
        mask = _inside(pair, target, modality)
    except CannotMeasure as error:
        raise MedsynthError(f"{pair.subject}: {error}") from error
    recipe = pair.recipe
    if recipe is not None and not recipe.has_units:
        target = target.between(bounds_of(pair.target, recipe.target))
        prediction = target if pair.prediction == pair.target else prediction.between(recipe.bounds)
    if recipe is not None and recipe.source.modality == "mri" and source is not None:
        source = source.between(bounds_of(pair.source, recipe.source))
    plane = "axial" if recipe is None else recipe.target.plane
    axis = slice_axis(target.affine, plane)
    seen = None if source is None else source.voxels
    return Loaded(prediction.voxels, target.voxels, seen, mask, target.affine, axis)


def _inside(pair: Pair, target: Volume, modality: str) -> np.ndarray:
    """True inside the patient, on the target's grid: from the mask that is given, or as it is found in the target."""
    if pair.mask is not None:
        return _read_mask(pair, target)
    if pair.recipe is None or pair.recipe.target.region != "body" or modality == "image":
        return body_mask(target.voxels, modality)
    image = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(target.voxels))[None], affine=torch.from_numpy(target.affine)
    )
    turn = Orientation(AXES, labels=None)
    upright = turn(image)
    found = find_patient(upright[0].numpy(), tuple(map(float, upright.pixdim)), modality, "body").whole_mask()
    back = MetaTensor(torch.from_numpy(found)[None], meta=upright.meta, applied_operations=upright.applied_operations)
    return turn.inverse(back)[0].numpy()


def _read_mask(pair: Pair, target: Volume) -> np.ndarray:
    """The mask of a pair on the grid of its target."""
    if is_picture(pair.mask.path):
        mask = read(pair.mask).voxels > 0
        if mask.shape != target.voxels.shape or not mask.any():
            what = (
                f"of {mask.shape[:2]} pixels where the target has {target.voxels.shape[:2]}" if mask.any() else "empty"
            )
            raise MedsynthError(f"{pair.subject}: the mask {pair.mask.path} is {what}: correct it, or leave it out")
        return mask
    try:
        mask, note = read_mask(pair.mask, target.voxels.shape, target.affine)
    except MedsynthError as error:
        raise MedsynthError(f"{pair.subject}: the mask {pair.mask.path} {error}") from error
    if note:
        log.warning("%s: the mask %s %s", pair.subject, pair.mask.path, note)
    return mask


def _in_hu(file: Source, volume: Volume) -> Volume:
    try:
        values, note = mended(volume.voxels)
    except MedsynthError as error:
        raise MedsynthError(f"{file.path} {error}") from error
    if note:
        log.info("%s: %s", file.path, note)
    return replace(volume, voxels=values)


def slice_axis(affine: np.ndarray, plane: str) -> int:
    """The axis of a volume that goes through the slices of a plane."""
    across = "RAS".index({"L": "R", "P": "A", "I": "S"}.get(PLANES[plane][2], PLANES[plane][2]))
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return int(np.abs(directions[across]).argmax())


def _one_grid(one: Volume, other: Volume) -> bool:
    return one.voxels.shape == other.voxels.shape and np.allclose(one.affine, other.affine, atol=1e-2)


def _baselines(training: Sequence[Pair], modality: str) -> dict[str, Lookup]:
    """What intensities alone predict, fitted to training pairs; none where there are no sources."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in training[:MOST_TRAINING_PAIRS]:
        loaded = load(pair, modality)
        if loaded.source is not None:
            step = max(1, int(loaded.mask.sum()) // MOST_VOXELS)
            found.append((loaded.source[loaded.mask][::step], loaded.target[loaded.mask][::step]))
    if not found:
        return {}
    sources, targets = (np.concatenate(part) for part in zip(*found, strict=True))
    return {
        "histogram matching": histogram_matching(sources, targets),
        "intensity lookup": intensity_lookup(sources, targets),
    }


def _case(pair: Pair, row: Row, modality: str) -> Case:
    loaded = load(pair, modality)
    images = (loaded.prediction, loaded.target, loaded.source, loaded.mask)
    return Case(pair.subject, row["mae"], *images, loaded.affine, _source_unit(pair))


def _source_unit(pair: Pair) -> str:
    if pair.recipe is None:
        return "stored units"
    return "HU" if pair.recipe.source.modality == "ct" else "of its range"
