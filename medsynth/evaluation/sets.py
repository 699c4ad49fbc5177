"""The report on a set of synthetic images beside the real ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from medsynth.data.datalist.datalist import Datalist
from medsynth.data.preprocessing.cache import default_folder
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.inception import inception_distance
from medsynth.evaluation.metrics.distribution.separation import separation
from medsynth.evaluation.metrics.distribution.set_measures import LEAST_IMAGES, UnpairedResult, evaluate_unpaired
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.segmentation_utility import segmentation_measures
from medsynth.evaluation.report.compared_sets import Preparation, Sets, read_sets
from medsynth.evaluation.report.folder import ReportFolder, provenance
from medsynth.evaluation.report.page import Page
from medsynth.evaluation.report.sections import effect_section, image_sections, measure_section, subject_section
from medsynth.evaluation.report.verdict import Verdict, verdicts
from medsynth.evaluation.report.volumes.comparison import compare_volumes
from medsynth.evaluation.report.volumes.volume_sets import are_volumes, read_volumes

log = logging.getLogger(__name__)

Latents = Callable[[ImageSet], np.ndarray | None]
"""Latent vectors (N, D) of images, None if they have none; its `name` says what they are, such as z."""


class UnpairedEvaluation:
    """Compares synthetic images with real ones and writes the report.

    Args:
        real: datalist of the real images; None: the built-in phantom.
        synthetic: folder or datalist of the synthetic images; None: those that `generator` makes.
        output: where to.
        preparation: how images become slices.
        num_images: take that many synthetic images; None: all.
        seed: of everything random in the measures.
        device: for the networks among the measures.
        utility: whether to train on synthetic images and test on real ones, which takes minutes.
        inception: TorchScript file of an Inception network for `fd_inception`; None: leave it out.
        generator: has `run()`, which writes images to its `output.images`.
        latents: of a model, for a map of its latent space.
    """

    def __init__(
        self,
        real: str | Datalist | None,
        synthetic: str | None,
        output: ReportFolder,
        preparation: Preparation,
        num_images: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        utility: bool = True,
        inception: str | None = None,
        generator: Any = None,
        latents: Latents | None = None,
    ) -> None:
        self.real, self.synthetic, self.output, self.preparation = real, synthetic, output, preparation
        self.num_images, self.seed, self.device = num_images, seed, device
        self.utility, self.inception, self.generator, self.latents = utility, inception, generator, latents

    def run(self) -> list[Verdict]:
        """Read, measure, write, and log the verdicts."""
        synthetic = self.synthetic
        if synthetic is None and self.generator is not None:
            self.generator.run()
            synthetic = str(self.generator.output.images)
        if are_volumes(synthetic, self.preparation):
            return self._compare_volumes(synthetic)
        sets = read_sets(self.real, synthetic, self.preparation, self.num_images, self.seed)
        log.info(
            "comparing %d synthetic images with %d of %d real subjects in training and %d of %d held out: some minutes",
            *(len(sets.synthetic), len(sets.train), sets.train.subject_count),
            *(len(sets.held_out), sets.held_out.subject_count),
        )
        if len(sets.synthetic) < LEAST_IMAGES:
            log.warning(
                "most measures need %d synthetic images or more and will be left out: give more, better 1,000",
                LEAST_IMAGES,
            )
        result = evaluate_unpaired(
            sets.train,
            sets.held_out,
            sets.synthetic,
            seed=self.seed,
            cache_dir=self.preparation.cache_dir or default_folder(),
            utility=self.utility,
        )
        if self.utility and sets.labelled is not None:
            log.info("training four segmenters: some minutes")
            result.measures.extend(segmentation_measures(*sets.labelled, self.seed, sets.facts["pixel_mm"]))
        if self.inception is not None:
            three = (sets.train, sets.held_out, sets.synthetic)
            result.measures.append(inception_distance(self.inception, *three, self.seed, self.device))
        if self.latents is not None:
            result.measures.append(latent_classes(self.latents, sets.synthetic))
        copies = copies_in_words(sets, result)
        for line in copies:
            log.warning("%s", line)
        found = verdicts(result.measures, copies)
        facts = sets.facts | {
            "seed": self.seed,
            "data_range": [0.0, 1.0],
            "mask": "none, whole slices",
            "features_sha256": result.network_digest,
            "seconds": result.seconds,
            "left_out": sets.left_out,
        } | provenance()  # fmt: skip
        page = make_page(sets, result, found, facts, self.latents, self.seed)
        self.output.write(result.measures, result.subjects, page, facts)
        self._log(found)
        return found

    def _compare_volumes(self, synthetic: str) -> list[Verdict]:
        """The report on whole volumes, which no network learns from."""
        if self.inception is not None:
            raise MedsynthError("inception is for slices, and the synthetic images are volumes: leave it out")
        sets = read_volumes(self.real, synthetic, self.preparation, self.num_images, self.seed)
        found, measures, rows, page, facts = compare_volumes(sets, self.seed, self.device, self.utility)
        self.output.write(measures, rows, page, facts)
        self._log(found)
        return found

    def _log(self, found: list[Verdict]) -> None:
        for verdict in found:
            log.info("%-9s %s", verdict.topic, verdict.headline)
        log.info("the report is %s", self.output.folder / "report.html")


def copies_in_words(sets: Sets, result: UnpairedResult) -> list[str]:
    """Each synthetic image that is nearly a training image, by its file, and whose image that is."""
    return [
        f"{sets.names[pair.synthetic]} is nearly a training image of {sets.train.subjects[pair.train]}: "
        f"{pair.distance:.2g} apart, where {pair.usual:.2g} is usual between subjects"
        for pair in result.copies
    ]


def latent_classes(latents: Latents, images: ImageSet) -> Measure:
    """How well classes are separated in a latent space, such as `knn_classes_w`: by nearest neighbours."""
    name, vectors = f"knn_classes_{latents.name}", latents(images)
    measure = partial(Measure, name, unit="", direction="near", n=len(images))
    if vectors is None:
        return measure(value=None, note="no latent vectors stand beside the images")
    try:
        found = separation(vectors, images.labels, images.subjects)
    except CannotMeasure as reason:
        return measure(value=None, note=str(reason))
    return measure(value=found.knn_accuracy, note=f"of synthetic images, in {latents.name}; chance {found.chance:.2f}")


def make_page(
    sets: Sets, result: UnpairedResult, found: list[Verdict], facts: dict[str, Any], latents: Latents | None, seed: int
) -> Page:
    """The page, worst cases first."""
    left_out = f" {len(sets.left_out)} images could not be used." if sets.left_out else ""
    summary = (
        f"{len(sets.synthetic):,} synthetic images beside {len(sets.train):,} real ones of "
        f"{sets.train.subject_count} subjects that the generator learned from, and {len(sets.held_out):,} of "
        f"{sets.held_out.subject_count} subjects that it never saw. {sets.patients.words}{left_out}"
    )
    sections = [
        measure_section(result.measures, facts),
        effect_section(result.class_effects),
        *image_sections(sets, result, latents, seed),
        subject_section(
            result.subjects, "Real held-out subjects: the share of their images that synthetic ones recall and cover."
        ),
    ]
    return Page("Synthetic beside real images", summary, found, [s for s in sections if s], shown_facts(sets, facts))


def shown_facts(sets: Sets, facts: dict[str, Any]) -> dict[str, str]:
    """What the page prints about its making."""
    preparation = facts["preprocessing"]
    pixel = facts["pixel_mm"]
    network = (facts["features_sha256"] or "none")[:16]
    return {
        "real images": f"{facts['real']} (SHA-256 {facts['real_sha256'][:16]}…)",
        "synthetic images": facts["synthetic"],
        "model": f"SHA-256 {facts['model_sha256'][:16]}…" if facts["model_sha256"] else "unknown: no sidecars",
        "prepared as": f"{preparation['modality']}, window {preparation['window'] or 'its own'}, "
        f"{sets.synthetic.images.shape[1]} x {sets.synthetic.images.shape[2]} pixels"
        + (f" of {pixel[0]:.3g} x {pixel[1]:.3g} mm" if pixel else ""),
        **({"label maps": facts["label_maps"]} if facts["label_maps"] else {}),
        "data range": "0 (black) to 1 (white); whole slices, no mask; foreground is above 0.1",
        "feature network": f"learned from the real training images alone, SHA-256 {network}",
        "seed": str(facts["seed"]),
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "command": " ".join(facts["command"]),
        "written": facts["written"],
    }
