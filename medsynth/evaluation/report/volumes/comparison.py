"""Measure volumes and make the page of the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medsynth.data.preprocessing.volume_grid import three_planes
from medsynth.evaluation.metrics.distribution.image_set import random_indices
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.segmentation_utility import segmentation_measures
from medsynth.evaluation.metrics.volumes.label_volumes import LabelMaps, label_volumes, labelled_slices
from medsynth.evaluation.metrics.volumes.measures import VolumesResult, evaluate_volumes
from medsynth.evaluation.metrics.volumes.volume_set import through_patient
from medsynth.evaluation.report import figures
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.folder import provenance
from medsynth.evaluation.report.page import Gallery, Page, Section, Viewer, Volume
from medsynth.evaluation.report.paired_sections import levels
from medsynth.evaluation.report.sections import measure_section, subject_section
from medsynth.evaluation.report.verdict import NO_PROOF, Verdict, verdicts
from medsynth.evaluation.report.volumes.volume_sets import Volumes

SHOWN, SHOWN_PAIRS, VIEWED = 12, 8, 3
GHOSTS = (
    "The PCA-GMM of volumes is a Gaussian in the principal components of the training volumes. It scores well in "
    "Fréchet distances and looks like ghosts: several patients over each other. Read patches (swd) and spectra (psd) "
    "beside these distances, and look at the pictures."
)

log = logging.getLogger(__name__)


def compare_volumes(
    sets: Volumes, seed: int, device: str, utility: bool = True
) -> tuple[list[Verdict], list[Measure], list[dict[str, Any]], Page, dict[str, Any]]:
    """Verdicts, measures, rows of the subjects, the page, and facts for provenance.json.

    Args:
        utility: whether segmenters learn from axial slices, where the volumes have label maps.
    """
    log.info(
        "comparing %d synthetic volumes with %d of training and %d held out: some minutes",
        *(len(sets.synthetic), len(sets.train), len(sets.held_out)),
    )
    result = evaluate_volumes(sets.train, sets.held_out, sets.synthetic, seed, device)
    if sets.maps is not None:
        result.measures.extend(label_volumes(sets.maps, sets.held_out.subjects, seed))
        if utility:
            log.info("training three segmenters: some minutes")
            result.measures.extend(_of_segmenters(sets, sets.maps, seed))
    copies = [
        f"{sets.names[pair.synthetic]} is nearly a training volume of {sets.train.subjects[pair.train]}: "
        f"{pair.distance:.2g} apart after registration, where {pair.usual:.2g} is usual between subjects"
        for pair in result.copying.copies
    ]
    for line in copies:
        log.warning("%s", line)
    found = verdicts(result.measures, copies)
    facts = sets.facts | {
        "seed": seed,
        "data_range": [0.0, 1.0],
        "mask": "none, whole volumes",
        "seconds": result.seconds,
        "left_out": sets.left_out,
    } | provenance()  # fmt: skip
    return found, result.measures, result.subjects, make_page(sets, result, found, facts), facts


def _of_segmenters(sets: Volumes, maps: LabelMaps, seed: int) -> list[Measure]:
    where = through_patient(sets.train, "axial")
    pairs = (sets.train, maps.train), (sets.held_out, maps.held_out), (sets.synthetic, maps.synthetic)
    return segmentation_measures(*(labelled_slices(*pair, "axial", where) for pair in pairs), maps.names, seed)


def make_page(sets: Volumes, result: VolumesResult, found: list[Verdict], facts: dict[str, Any]) -> Page:
    """The page: pictures before all else but the measures."""
    left_out = f" {len(sets.left_out)} could not be used." if sets.left_out else ""
    summary = (
        f"{len(sets.synthetic):,} synthetic volumes beside {len(sets.train):,} real ones that the generator learned "
        f"from, and {len(sets.held_out):,} of subjects that it never saw. {sets.patients.words}{left_out}"
    )
    sections = [
        _pictures(sets, result, facts["seed"]),
        measure_section(result.measures, facts),
        _viewer(sets, result),
        _nearest(sets, result),
        subject_section(
            result.subjects, "Real held-out subjects: whether synthetic volumes recall (1) and cover (1) theirs."
        ),
    ]
    return Page("Synthetic beside real volumes", summary, found, [s for s in sections if s], _shown(facts))


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    """What the page prints about its making."""
    recipe = facts["preprocessing"]
    size, spacing = (" x ".join(f"{value:g}" for value in recipe[name]) for name in ("size", "spacing_mm"))
    return {
        "real volumes": f"{facts['real']} (SHA-256 {facts['real_sha256'][:16]}…)",
        "synthetic volumes": facts["synthetic"],
        "model": f"SHA-256 {facts['model_sha256'][:16]}…" if facts["model_sha256"] else "unknown: no sidecars",
        "prepared as": f"{recipe['modality']}, window {recipe['window'] or 'its own'}, {size} voxels of {spacing} mm",
        "data range": "0 (black) to 1 (white); whole volumes, no mask; foreground is above 0.1",
        "seed": str(facts["seed"]),
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "command": " ".join(facts["command"]),
        "written": facts["written"],
    }


def planes(volumes: np.ndarray) -> np.ndarray:
    """(N, X, Y, Z) in [0, 1] -> (N, H, W): the middle planes side by side."""
    return (three_planes(torch.from_numpy(2 * volumes - 1)[:, None])[:, 0].numpy() + 1) / 2


def _pictures(sets: Volumes, result: VolumesResult, seed: int) -> Section:
    """Three planes of real and synthetic volumes and of the baseline."""
    kinds = {"real": sets.held_out, "synthetic": sets.synthetic, "baseline": result.baseline}
    notes = {"real": "held-out subjects", "synthetic": "at random", "baseline": "PCA-GMM of volumes: ghosts"}
    shown = []
    for kind, volumes in kinds.items():
        chosen = random_indices(len(volumes), SHOWN, seed)
        png = figures.grid(planes(volumes.volumes[chosen]), columns=2)
        alt = f"{len(chosen)} {kind} volumes, each in an axial, a coronal and a sagittal plane."
        shown.append(Figure(f"grid_{kind}", kind.capitalize(), alt, f"{len(chosen)} {notes[kind]}.", png, width=520))
    text = "The middle axial, coronal and sagittal plane of each. No volume was selected by hand."
    return Section("grids", "Real, synthetic and baseline volumes", [text, GHOSTS], [Gallery(shown)])


def _nearest(sets: Volumes, result: VolumesResult) -> Section:
    """The synthetic volumes nearest to a training volume."""
    pairs = result.copying.pairs[:SHOWN_PAIRS]
    notes = [f"{sets.train.subjects[pair.train][:24]}\n{pair.distance / pair.usual:.2f} of usual" for pair in pairs]
    fake, real = [pair.synthetic for pair in pairs], [pair.train for pair in pairs]
    png = figures.pairs(planes(sets.synthetic.volumes[fake]), planes(sets.train.volumes[real]), notes, columns=2)
    lowest = pairs[0].distance / pairs[0].usual
    alt = f"{len(pairs)} synthetic volumes beside their nearest training volumes; the first at {lowest:.2f} of usual."
    text = (
        "Nearest first, with the training subject. Each volume is laid over the training volumes most like it, "
        "mirrored, too: affinely, then with a small smooth bend. The number is how unlike their fine detail is then, "
        "over what is usual between different subjects: well below 1, the two may show the same person."
    )
    figure = Figure("nearest_pairs", "Nearest to a training volume", alt, text, png)
    control = (
        f"Positive control: of training volumes that were turned, bent, brightened and half of them mirrored, "
        f"{result.copying.found:.0%} are found to be copies of themselves."
    )
    return Section("nearest", "Nearest pairs (privacy)", [control, NO_PROOF], [Gallery([figure])])


def _viewer(sets: Volumes, result: VolumesResult) -> Section:
    """The volumes nearest to training ones beside these, a held-out one and the baseline."""
    spacing = sets.facts["preprocessing"]["spacing_mm"]
    cases = {}
    for number, pair in enumerate(result.copying.pairs[:VIEWED]):
        held_out, ghost = number % len(sets.held_out), number % len(result.baseline)
        volumes = {
            "synthetic": sets.synthetic.volumes[pair.synthetic],
            "nearest training": sets.train.volumes[pair.train],
            "real, held out": sets.held_out.volumes[held_out],
            "PCA-GMM": result.baseline.volumes[ghost],
        }
        cases[sets.names[pair.synthetic].split(".")[0]] = _for_viewer(volumes, spacing)
    note = "The synthetic volumes nearest to training volumes, with 256 grey levels."
    return Section("volumes", "Volumes", [], [Viewer(cases, note)])


def _for_viewer(volumes: dict[str, np.ndarray], spacing: Sequence[float]) -> list[Volume]:
    affine = nib.affines.from_matvec(np.diag(spacing))
    return [Volume(name, levels(one, affine, 0.0, 1.0), 0.0, 1.0, "") for name, one in volumes.items()]
