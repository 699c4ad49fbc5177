"""The report on a VQ-VAE's reconstructions of held-out images, and on the bits of its codes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medsynth.data.phantom import default
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import ANY, Entry
from medsynth.evaluation.metrics.image import psnr, ssim
from medsynth.evaluation.metrics.paired.upscaling_measures import mean_over_subjects
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.metrics.texture import mean_gradients
from medsynth.evaluation.report import figures
from medsynth.evaluation.report.compared_sets import read_real_datalist
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.folder import ReportFolder, provenance
from medsynth.evaluation.report.held_out import Patients, check_split, held_out_entries
from medsynth.evaluation.report.page import DASH, Cell, Column, Gallery, Page, Section, Table, number, numeric, plain
from medsynth.evaluation.report.verdict import Verdict
from medsynth.inference.reconstruct import read_stacks
from medsynth.models.vqvae.averages import averages
from medsynth.models.vqvae.codebook import perplexity
from medsynth.models.vqvae.inference import is_prior
from medsynth.models.vqvae.map_inference import bits_per_pixel, entropy_per_pixel
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.run.recipe import LoadedModel

BATCH = 64
BASELINE = "averages"
LARGEST_ERROR_PERCENTILE = 99.5  # shown as the ends of the error's colours
FEW_CODES = 0.5  # perplexity over the number of codes: below, the codebook is larger than needed
MEASURES = {
    "psnr": Entry("higher", "dB", "peak signal-to-noise ratio of whole slices, mean over slices", limits=ANY),
    "ssim": Entry("higher", "", "structural similarity of whole slices (11 pixels, Gaussian)", limits=(-1.0, 1.0)),
    "gradient_ratio": Entry("near", "", "sharpness: mean gradient over the truth's", 1.0),
    "entropy_per_pixel": Entry("lower", "bit", "bits a pixel when frequent codes are written with fewer bits"),
}

log = logging.getLogger(__name__)


class Evaluation(Protocol):
    """What writes a report."""

    def run(self) -> list[Verdict]: ...


@dataclass(frozen=True)
class Case:
    """A subject.

    Args:
        row: its measures.
        baseline: the same of `BASELINE`.
        slices: how many were measured.
        images: the middle one (H, W) in [0, 1]: of the baseline, the network and the truth.
        usage: (num_codes,), how often each code was chosen.
    """

    subject: str
    row: dict[str, float]
    baseline: dict[str, float]
    slices: int
    images: dict[str, np.ndarray]
    usage: Tensor


def evaluation_of(model: LoadedModel, synthetic: str | None, of_images: Evaluation, of_codes: Evaluation) -> Evaluation:
    """The evaluation of generated images if there are any or a prior to draw them, else that of stage one.

    Args:
        synthetic: folder or datalist of generated images.
    """
    return of_images if synthetic is not None or is_prior(model) else of_codes


class ReconstructionEvaluation:
    """Encodes and decodes held-out images and reports on the reconstructions, subject by subject.

    The baseline has one exact number per code: the average over the pixels that the code stands for, interpolated by
    splines.

    Args:
        model: from `load_model`, a VQ-VAE.
        real: datalist; None: the built-in phantom.
        output: the report's folder.
        seed: of the bootstrap.
        split: patients of the datalist that count: `validation`, `test` or `both`.
    """

    def __init__(
        self, model: LoadedModel, real: str | None, output: ReportFolder, seed: int = 0, split: str = "test"
    ) -> None:
        check_split(split)
        self.model, self.real, self.output, self.seed, self.split = model, real, output, seed, split

    def run(self) -> list[Verdict]:
        """Read, encode, decode, measure, write, and log the verdicts."""
        network = self.model.network
        if not isinstance(network, SliceVqVae):
            raise MedsynthError(f"the checkpoint holds a {type(network).__name__}: give the model.pt of a VQ-VAE")
        data = read_real_datalist(self.real)
        entries = held_out_entries(data, self.split)
        stacks = read_stacks(entries, self.model)
        cases = [measured(entry["subject"], stack.slices, network) for _, entry, stack in stacks]
        usage = torch.stack([case.usage for case in cases]).sum(dim=0)
        measures = summarized(cases, usage, network, self.seed)
        found = verdicts(measures)
        patients = Patients.of(entries, [case.subject for case in cases])
        facts = (
            {
                "real": str(self.real or default.PHANTOM_FOLDER),
                "datalist": data.digest,
                "model": self.model.digest,
                "seed": self.seed,
                "data_range": "the intensity window of each image as [0, 1]: range 1",
                "mask": "none, whole slices",
            }
            | patients.facts
            | provenance()
        )
        summary = f"{len(cases)} images brought through a codebook and back, beside the truth. {patients.words}"
        printed = {name.replace("_", " "): plain(value) for name, value in facts.items()}
        page = Page("Reconstruction", summary, found, sections(cases, measures), printed)
        table = [{"subject": case.subject, "slices": case.slices} | case.row for case in cases]
        self.output.write(measures, table, page, facts)
        for verdict in found:
            log.info("%-11s %s", verdict.topic, verdict.headline)
        log.info("the report is %s", self.output.folder / "report.html")
        return found


@torch.inference_mode()
def measured(subject: str, slices: Tensor, network: SliceVqVae) -> Case:
    """Encode and decode slices (N, 1, H, W) in [-1, 1], and measure the reconstructions."""
    device = network.codebook.codes.device
    indices = torch.cat([network.encode_indices(part.to(device)).cpu() for part in slices.split(BATCH)])
    fake = torch.cat([network.decode_indices(part.to(device)).cpu() for part in indices.split(BATCH)])
    coarse = averages(slices, network.stride)
    usage = indices.flatten().bincount(minlength=network.num_codes)
    unit = {BASELINE: (coarse + 1) / 2, "network": (fake + 1) / 2, "truth": (slices + 1) / 2}
    row = _closeness(unit["network"], unit["truth"]) | {"entropy_per_pixel": entropy_per_pixel(network, usage)}
    images = {name: part[len(slices) // 2, 0].numpy() for name, part in unit.items()}
    return Case(subject, row, _closeness(unit[BASELINE], unit["truth"]), len(slices), images, usage)


def _closeness(fake: Tensor, real: Tensor) -> dict[str, float]:
    """PSNR, SSIM and gradient ratio of images (N, 1, H, W) in [0, 1]."""
    gradients = [float(mean_gradients(images[:, 0].numpy()).mean()) for images in (fake, real)]
    return {
        "psnr": float(psnr(fake, real, 1.0).mean()),
        "ssim": float(ssim(fake, real, 1.0).mean()),
        "gradient_ratio": gradients[0] / gradients[1],
    }


def summarized(cases: Sequence[Case], usage: Tensor, network: SliceVqVae, seed: int) -> list[Measure]:
    """Means over subjects, then the measures of all subjects together: bits and use of the codes."""
    measures = []
    for name, kind in MEASURES.items():
        others = [case.baseline[name] for case in cases if name in case.baseline]
        more = {"baseline": float(np.mean(others)), "note": f"baseline: {BASELINE}"} if others else {}
        measures.append(mean_over_subjects(name, [case.row[name] for case in cases], kind, seed, **more))
    used = float((usage > 0).double().mean())
    codes = int(usage.sum())
    return [
        *measures,
        Measure("bits_per_pixel", bits_per_pixel(network), "bit", "lower", codes),
        Measure("perplexity", perplexity(usage), "codes", "higher", codes, note=f"of {network.num_codes}"),
        Measure("codes_used", used, "", "higher", codes, note=f"of {network.num_codes}"),
    ]


def verdicts(measures: Sequence[Measure]) -> list[Verdict]:
    """Is it closer than averages are, and is the codebook used?"""
    by_name = {measure.name: measure for measure in measures}
    close, alike = by_name["psnr"], by_name["ssim"]
    reasons = [
        f"PSNR {close.value:.2f} dB (range 1), SSIM {alike.value:.3f}.",
        f"Averages over each code's pixels, interpolated: {close.baseline:.2f} dB, {alike.baseline:.3f}.",
        f"{by_name['bits_per_pixel'].value:.3f} bits a pixel, {by_name['entropy_per_pixel'].value:.3f} with frequent "
        "codes written shorter.",
    ]
    wins = close.value > close.baseline and alike.value > alike.baseline
    headline = f"{close.value:.2f} dB and SSIM {alike.value:.3f} at {by_name['bits_per_pixel'].value:.3f} bits a pixel"
    lost = "" if wins else ", no better than averages over each code's pixels: train longer"
    found = [Verdict("Closeness", "good" if wins else "poor", headline + lost + ".", reasons)]
    effective, codes = by_name["perplexity"], int(by_name["perplexity"].note.split()[-1])
    grade = "good" if effective.value >= FEW_CODES * codes else "mixed"
    headline = f"{codes} codes are used like {effective.value:.0f} equally frequent ones."
    reasons = [f"{by_name['codes_used'].value:.1%} of the codes were used at all, in {effective.n:,} positions."]
    return [*found, Verdict("Codebook", grade, headline, reasons)]


def sections(cases: Sequence[Case], measures: Sequence[Measure]) -> list[Section]:
    """The measures, images of some subjects, and a table of all."""
    ordered = sorted(cases, key=lambda case: case.row["psnr"])
    return [_measures(measures), _images(ordered), _subjects(ordered)]


def _measures(measures: Sequence[Measure]) -> Section:
    columns = [Column("Measure", numeric=False), *(Column(t) for t in ("Network", "95 % interval", BASELINE))]
    columns.append(Column("Unit", numeric=False))
    lines = [
        [
            Cell(measure.name, measure.name, detail=MEASURES[measure.name].about if measure.name in MEASURES else ""),
            numeric(measure.value, 4),
            Cell(" – ".join(number(end, 4) for end in measure.interval) if measure.interval else DASH),
            numeric(measure.baseline, 4),
            Cell(measure.unit, measure.unit),
        ]
        for measure in measures
    ]
    caption = (
        "Means over subjects, with bootstrap intervals over them. Whole slices, air included, in [0, 1] between the "
        "intensity bounds of each image (data range 1). A code stands for a square of pixels; bits a pixel are those "
        "of its index."
    )
    return Section("measures", "Measures", [], [Table(caption, columns, lines)])


def _images(cases: Sequence[Case]) -> Section:
    shown = [cases[i] for i in sorted({0, len(cases) // 2, len(cases) - 1})]
    errors = np.concatenate([np.abs(case.images["network"] - case.images["truth"]).ravel() for case in shown])
    limit = float(np.percentile(errors, LARGEST_ERROR_PERCENTILE)) or 1.0
    made = [
        Figure(
            f"images_{index}",
            case.subject,
            f"{case.subject}: PSNR {case.row['psnr']:.2f} dB.",
            f"The middle slice of {case.slices}; {case.row['psnr']:.2f} dB over all. Below: less the truth.",
            figures.methods_beside_truth(case.images, limit),
        )
        for index, case in enumerate(shown)
    ]
    return Section("images", "Images and errors", ["The worst subject, the median and the best."], [Gallery(made)])


def _subjects(cases: Sequence[Case]) -> Section:
    columns = [Column("Subject", numeric=False), Column("Slices"), *(Column(name) for name in MEASURES)]
    lines = [
        [Cell(case.subject, case.subject), numeric(case.slices), *(numeric(case.row[name], 4) for name in MEASURES)]
        for case in cases
    ]
    return Section("subjects", "Subject by subject", [], [Table("The lowest PSNR first.", columns, lines)])
