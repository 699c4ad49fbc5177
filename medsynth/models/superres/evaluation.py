"""The report on super-resolution: held-out scans are degraded, upscaled again and compared with the originals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Transform
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from tqdm import tqdm

from medsynth.data.io.sources import Source, read_header
from medsynth.data.phantom import default
from medsynth.data.preprocessing.pipelines import PLANES, Preprocessing, locate, read_picture, volume_bounds
from medsynth.data.preprocessing.preparation import channel_slices
from medsynth.data.preprocessing.transforms import ChooseSlices, ResampleInPlane, ScaleToUnit
from medsynth.errors import MedsynthError, check_whole
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.paired.fourier_ring import FourierRing
from medsynth.evaluation.metrics.paired.interpolation import INTERPOLATIONS
from medsynth.evaluation.metrics.paired.pair_measures import body_mask
from medsynth.evaluation.metrics.paired.upscaling_measures import Row, measure_subject, summarize
from medsynth.evaluation.report.folder import ReportFolder, provenance
from medsynth.evaluation.report.held_out import Patients, check_split, held_out_entries
from medsynth.evaluation.report.page import Page, plain
from medsynth.evaluation.report.verdict import Verdict
from medsynth.inference.image_folder import spread
from medsynth.models.superres.degradation import Degradation
from medsynth.models.superres.direction import across, thick_plane
from medsynth.models.superres.inference import SliceUpscaler, load_upscaler
from medsynth.models.superres.network import RRDBNet
from medsynth.models.superres.upscaling_sections import Case, superres_sections
from medsynth.models.superres.upscaling_verdict import superres_verdicts
from medsynth.nn.slice_profile import is_profile
from medsynth.run.recipe import LoadedModel, load_model

NETWORK, COMPARED, FIRST_STAGE = "network", "compared network", "first stage"
FIRST_STAGE_FILE = "model_first_stage.pt"  # beside the model.pt of a run with an adversarial stage
PIXELS = (1.0, 1.0)  # of a picture, whose spacing nobody knows
OTHER = "body"  # any `modality` but CT: the head is found by Otsu's threshold, for intensities are in the window

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """A held-out scan's slices.

    Args:
        slices: (N, C, H, W) in [-1, 1], each in the middle of its neighbours; sides are multiples of the scale.
        head: (N, H, W), true inside the patient.
        spacing_mm: between rows and between columns.
    """

    slices: Tensor
    head: np.ndarray
    spacing_mm: tuple[float, float]

    @property
    def images(self) -> np.ndarray:
        """(N, H, W) in [0, 1]."""
        return _unit(self.slices[:, self.slices.shape[1] // 2])

    def transposed(self) -> Truth:
        """Rows become columns."""
        rows, columns = self.spacing_mm
        return Truth(self.slices.transpose(2, 3), self.head.transpose(0, 2, 1), (columns, rows))

    def fitting(self, degradation: Degradation) -> Truth:
        """Without the last rows where these fill no whole thick slice."""
        slices = degradation.fitting(self.slices)
        return replace(self, slices=slices, head=self.head[:, : slices.shape[2]])


def read_truth(source: Source, preprocessing: Preprocessing, scale: int, most_slices: int) -> Truth:
    """Evenly spread slices of a scan, prepared as for training but at their full size.

    Raises:
        MedsynthError: what is wrong with it, in words that follow the file's name.
    """
    read, cut = _steps(preprocessing)
    located = Compose(read)({"source": source})
    data = Compose(cut)(located)
    rows, columns = (side // scale * scale for side in data[Keys.IMAGE].shape[1:])
    planes = data[Keys.IMAGE][:, :rows, :columns]
    channels = channel_slices(data, preprocessing.neighbours)
    middle = channels[:, preprocessing.neighbours]
    some = spread(len(channels), most_slices)
    spacing_mm = tuple(data.get("spacing_mm", PIXELS)[:2])
    if preprocessing.modality != "image" and (source.mask or preprocessing.region == "body"):
        inside = MetaTensor(torch.from_numpy(located["inside"])[None].float(), meta=located[Keys.IMAGE].meta)
        whole = Compose(cut)(located | {Keys.IMAGE: inside, "bounds": (0.0, 1.0)})[Keys.IMAGE]
        return Truth(planes[channels[some]], whole[middle[some], :rows, :columns].numpy() > 0, spacing_mm)
    try:
        head = body_mask(np.moveaxis(_unit(planes[middle]), 0, -1), OTHER)
    except CannotMeasure as error:
        raise MedsynthError(f"shows no patient in the intensity window: {error}") from error
    return Truth(planes[channels[some]], np.moveaxis(head, -1, 0)[some], spacing_mm)


def read_cuts(source: Source, preprocessing: Preprocessing, degradation: Degradation, most_slices: int) -> Truth:
    """Cuts across the slices of a scan whose voxels are alike on all sides, these as rows; thick slices, as they are.

    What lies between thick slices is not known. In their plane, a network is judged as it learns.
    """
    plane, transposed = thick_plane(read_header(source)), False
    if plane is None:
        plane, transposed = across(preprocessing.plane)
    truth = read_truth(source, replace(preprocessing, plane=plane), 1, most_slices)
    return (truth.transposed() if transposed else truth).fitting(degradation)


def _steps(preprocessing: Preprocessing) -> tuple[list[Transform], list[Transform]]:
    """The steps of the training pipeline that read, and that cut slices, but for the last, which sets one size."""
    if preprocessing.modality == "image":
        return read_picture(preprocessing), [ScaleToUnit()]
    axes, spacing = PLANES[preprocessing.plane], preprocessing.spacing_mm
    return [*locate(preprocessing), volume_bounds(preprocessing)], [
        Orientationd(Keys.IMAGE, axcodes=axes, labels=None),
        ChooseSlices(axes, preprocessing.positions, preprocessing.min_foreground, preprocessing.neighbours),
        *([] if spacing is None else [ResampleInPlane(spacing)]),
        ScaleToUnit(),
    ]


class SuperResolutionEvaluation:
    """Degrades held-out scans as in training, and compares the model's results with those of interpolations.

    Args:
        model: from `load_model`.
        checkpoint: its file.
        real: datalist; None: the built-in phantom.
        output: the report's folder.
        upscaler: of the model's network.
        compare: model.pt of another model of the same kind; None: that of the first stage, if there is one.
        slices_per_subject: number of slices, evenly spread.
        split: patients of the datalist that count: `validation`, `test` or `both`.
        seed: of the noise in the degradation and of the bootstrap.
    """

    def __init__(
        self,
        model: LoadedModel,
        checkpoint: str,
        real: str | None,
        output: ReportFolder,
        upscaler: SliceUpscaler,
        compare: str | None = None,
        slices_per_subject: int = 30,
        split: str = "test",
        seed: int = 0,
    ) -> None:
        check_whole("slices_per_subject", slices_per_subject, 1)
        check_split(split)
        self.preprocessing = Preprocessing.from_dict(model.preprocessing)
        network = upscaler.network
        self.degradation = Degradation(
            network.scale, network.degradation, model.extra.get("noise"), model.extra.get("blur"), network.fill
        )
        self.interpolations = _interpolations(network)
        self.model, self.real, self.output = model, real, output
        self.slices_per_subject, self.split, self.seed = slices_per_subject, split, seed
        first_stage = Path(checkpoint).with_name(FIRST_STAGE_FILE)
        others = {COMPARED: compare} if compare else {FIRST_STAGE: first_stage} if first_stage.is_file() else {}
        self.upscalers = {NETWORK: upscaler} | {name: _other(path, upscaler) for name, path in others.items()}

    def run(self) -> list[Verdict]:
        """Read, degrade, measure, write, and log the verdicts."""
        data = default.load(self.real)
        entries = held_out_entries(data, self.split)
        rows: dict[str, list[Row]] = {}
        cases: list[Case] = []
        reasons: list[str] = []
        for index, entry in enumerate(tqdm(entries, desc="evaluating", unit="subject")):
            source = Source.of(entry)
            try:
                truth = self._truth(source)
            except MedsynthError as error:
                reasons.append(f"{source.path} {error}")
                continue
            cases.append(self._case(entry["subject"], truth, self.seed + index, rows))
        if not cases:
            raise MedsynthError(f"none of the {len(entries)} held-out images can be used: {reasons[0]}")
        for reason in reasons:
            log.warning("left out: %s", reason)
        patients = Patients.of(entries, [case.subject for case in cases])
        return self._write(rows, cases, data.digest, patients)

    def _truth(self, source: Source) -> Truth:
        if is_profile(self.degradation.kind):
            return read_cuts(source, self.preprocessing, self.degradation, self.slices_per_subject)
        return read_truth(source, self.preprocessing, self.degradation.scale, self.slices_per_subject)

    def _case(self, subject: str, truth: Truth, seed: int, rows: dict[str, list[Row]]) -> Case:
        """Measure a subject, adding a row for each method."""
        made, coarse = self._made(truth, seed)
        rings: dict[str, FourierRing] = {}
        for method, images in made.items():
            row, rings[method] = measure_subject(images, truth.images, truth.head, truth.spacing_mm)
            rows.setdefault(method, []).append(row)
        shown = len(coarse) // 2
        images = {method: images[shown] for method, images in made.items()} | {"truth": truth.images[shown]}
        return Case(subject, len(coarse), images, truth.head[shown], rings, truth.spacing_mm)

    def _made(self, truth: Truth, seed: int) -> tuple[dict[str, np.ndarray], Tensor]:
        """The result of each method, (N, H, W) clipped to [0, 1], and the coarse slices."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            coarse = self.degradation(truth.slices)
        middle = coarse[:, coarse.shape[1] // 2]
        made = {name: _unit(method(middle)) for name, method in self.interpolations.items()}
        return made | {name: _unit(upscaler(coarse)) for name, upscaler in self.upscalers.items()}, coarse

    def _write(
        self, rows: dict[str, list[Row]], cases: Sequence[Case], digest: str, patients: Patients
    ) -> list[Verdict]:
        baselines = list(self.interpolations)
        measures = summarize(rows, NETWORK, baselines, self.seed)
        _, *compared = self.upscalers
        found = superres_verdicts(rows, measures, NETWORK, baselines, *compared)
        made, scale = _in_words(self.degradation), self.degradation.scale
        facts = (
            {
                "real": str(self.real or default.PHANTOM_FOLDER),
                "datalist": digest,
                "model": self.model.digest,
                "scale": scale,
                "degradation": made,
                "seed": self.seed,
                "data_range": "the intensity window of each scan as [0, 1]; scans and all results are clipped to it",
                "mask": "the entry's mask, else the patient, found in the scan",
                "slices_per_subject": self.slices_per_subject,
            }
            | patients.facts
            | provenance()
        )
        table = [
            {"subject": case.subject, "slices": case.slices}
            | {f"{name}_{method}": value for method, found in rows.items() for name, value in found[index].items()}
            for index, case in enumerate(cases)
        ]
        summary = (
            f"{len(cases)} scans made coarser {scale:.3g} times ({made}) and finer again by a network and by "
            f"{len(baselines)} interpolations, beside the truth. {patients.words}"
        )
        printed = {name.replace("_", " "): plain(value) for name, value in facts.items()}
        sections = superres_sections(rows, measures, cases, NETWORK, scale)
        self.output.write(measures, table, Page("Super-resolution", summary, found, sections, printed), facts)
        for verdict in found:
            log.info("%-11s %s", verdict.topic, verdict.headline)
        log.info("the report is %s", self.output.folder / "report.html")
        return found


def _other(path: str | Path, upscaler: SliceUpscaler) -> SliceUpscaler:
    """The upscaler of another model.pt, which must have the same scale, degradation and neighbours."""
    network = upscaler.network
    model = load_model(path, next(network.parameters()).device)
    other = load_upscaler(model, upscaler.tile_size, None, upscaler.ensemble, upscaler.batch_size, upscaler.amp)
    for name in ("scale", "degradation", "neighbours", "fill"):
        own, its = getattr(network, name), getattr(other.network, name)
        if own != its:
            raise MedsynthError(f"compare has {name} {its}, and checkpoint {own}: give models of one kind")
    return other


def _in_words(degradation: Degradation) -> str:
    kinds = {
        "kspace": "k-space truncation",
        "area": "averages over areas",
        "box": "thick slices, even profile",
        "gaussian": "thick slices, Gaussian profile",
    }
    kind = degradation.kind
    named = kinds[kind] if isinstance(kind, str) else f"thick slices, given profile of {len(kind)} weights"
    extra = [f"{name} {getattr(degradation, name)}" for name in ("noise", "blur") if getattr(degradation, name)]
    thick = [f"{degradation.fill:.3g} of the distance between them"] if is_profile(kind) else []
    return ", ".join([named, *thick, *extra])


def _interpolations(network: RRDBNet) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name: coarse (N, rows, columns) -> fine, for the grids of a network."""
    grids, scale = network.grids, network.scale
    if is_profile(network.degradation):
        return {"nearest": grids.nearest, "linear": partial(_linear, scale=scale), "spline": grids.interpolation}
    return {name: partial(method, scale=scale) for name, method in INTERPOLATIONS.items()}


def _linear(images: Tensor, scale: float) -> Tensor:
    """Between slices, (N, slices, columns); beyond the centres of the first and last, these again."""
    rows = round(images.shape[1] * scale)
    return F.interpolate(images[:, None].float(), size=(rows, images.shape[2]), mode="bilinear")[:, 0]


def _unit(images: Tensor) -> np.ndarray:
    """[-1, 1] -> [0, 1], clipped, because truncation overshoots."""
    return ((images + 1) / 2).clamp(0, 1).numpy()
