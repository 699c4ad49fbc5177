"""Reports of several runs side by side: measures ranked, and what each run cost."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import CATALOG
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.folder import ReportFolder, provenance
from medsynth.evaluation.report.page import DASH, Cell, Column, Gallery, Page, Section, Table, number, numeric
from medsynth.evaluation.report.verdict import Verdict, gap, standing, verdicts
from medsynth.storage import load_plain

SAME = ("real_sha256", "seed", "preprocessing")  # what has to be equal for numbers to be comparable


@dataclass(frozen=True)
class Evaluated:
    """A run and its evaluation.

    Args:
        facts: of the evaluation's provenance.json.
        grid: a picture of its images; None if there is none.
        cost: minutes, images/s and parameters, if the run folder has them.
    """

    name: str
    measures: dict[str, Measure]
    facts: dict[str, Any]
    grid: bytes | None
    cost: dict[str, float | None]


def read_run(folder: Path) -> Evaluated:
    """A run folder with `evaluation/` in it, or the folder of an evaluation itself.

    Raises:
        MedsynthError: it was not evaluated.
    """
    evaluation = folder if (folder / "metrics.json").is_file() else folder / "evaluation"
    run = evaluation.parent if (evaluation.parent / "losses.csv").is_file() else folder
    try:
        table = json.loads((evaluation / "metrics.json").read_text())
        facts = json.loads((evaluation / "provenance.json").read_text())
        measures = {name: _measure(name, values) for name, values in table.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MedsynthError(
            f"{folder} holds no evaluation that can be read: make one with python -m monai.bundle run evaluation "
            f"--config_file bundles/<stem>/evaluate.json --output_dir {folder / 'evaluation'}"
        ) from error
    if "real_sha256" not in facts:
        raise MedsynthError(f"{folder} is an evaluation of pairs: sets of generated images can be compared here")
    grid = evaluation / "figures" / "grid_synthetic.png"
    return Evaluated(folder.name, measures, facts, grid.read_bytes() if grid.is_file() else None, _cost(run))


def compare(folders: Sequence[Path], output: ReportFolder) -> Page:
    """Write one page on runs that were evaluated on the same real images.

    Raises:
        MedsynthError: fewer than two runs, or numbers that cannot be compared.
    """
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise MedsynthError("one run is nothing to compare: name two or more")
    if len(set(names)) < len(names):
        runs = [Evaluated(str(f), r.measures, r.facts, r.grid, r.cost) for f, r in zip(folders, runs, strict=True)]
    for run in runs[1:]:
        differing = [name for name in SAME if run.facts.get(name) != runs[0].facts.get(name)]
        if differing:
            raise MedsynthError(
                f"{runs[0].name} and {run.name} were evaluated with another {' and '.join(differing)}: evaluate both "
                "on the same real images with the same settings"
            )
    ranks = {name: _ranks(name, runs) for name in CATALOG if any(name in run.measures for run in runs)}
    page = _page(runs, ranks)
    rows = [{"run": run.name} | _row(run, ranks, i) for i, run in enumerate(runs)]
    output.write([], rows, page, {"runs": [run.name for run in runs]} | provenance())
    return page


def _measure(name: str, values: dict[str, Any]) -> Measure:
    known = {key: values.get(key) for key in ("value", "unit", "direction", "n", "target", "floor", "baseline", "note")}
    interval = values.get("interval")
    return Measure(name, **known, interval=tuple(interval) if interval else None)


def _cost(run: Path) -> dict[str, float | None]:
    """What training took."""
    minutes = speed = parameters = None
    if (run / "provenance.json").is_file() and "wall_seconds" in (content := _json(run / "provenance.json")):
        minutes = content["wall_seconds"] / 60
    if (run / "losses.csv").is_file():
        with (run / "losses.csv").open() as file:
            rows = list(csv.DictReader(file))
        if rows and float(rows[-1]["seconds"]) > 0:
            speed = float(rows[-1]["images"]) / float(rows[-1]["seconds"])
    if (run / "model.pt").is_file():
        parameters = sum(tensor.numel() for tensor in load_plain(run / "model.pt")["weights"].values())
    return {"training minutes": minutes, "images/s": speed, "parameters": parameters}


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {}


def _ranks(name: str, runs: Sequence[Evaluated]) -> list[int | None]:
    """1 for the run nearest to ideal; equal values share a rank; None where there is no value or no ideal."""
    found = [run.measures.get(name) for run in runs]
    gaps = [None if measure is None or measure.value is None else gap(measure, measure.value) for measure in found]
    known = [value for value in gaps if value is not None]
    return [None if own is None else 1 + sum(other < own for other in known) for own in gaps]


def _row(run: Evaluated, ranks: dict[str, list[int | None]], index: int) -> dict[str, Any]:
    values = {name: run.measures[name].value for name in ranks if name in run.measures}
    return values | {f"{name}_rank": found[index] for name, found in ranks.items()} | run.cost


def _page(runs: Sequence[Evaluated], ranks: dict[str, list[int | None]]) -> Page:
    columns = [Column("Measure", numeric=False), *(Column(run.name) for run in runs), Column("Real floor")]
    rows = [_cells(name, runs, found) for name, found in ranks.items()]
    caption = (
        "The better of two numbers has the lower rank (#1 in bold); a difference within the intervals is none. "
        "“Below PCA-GMM”: worse than a model fitted in seconds."
    )
    firsts = [Cell("measures ranked first", "first")]
    firsts += [numeric(sum(found[i] == 1 for found in ranks.values())) for i in range(len(runs))]
    rows.append([*firsts, Cell(DASH)])
    cost = [[Cell(name, name), *(numeric(run.cost[name]) for run in runs)] for name in runs[0].cost]
    grids = [
        Figure(f"grid_{i}", run.name, f"Grid of images of {run.name}.", "At random.", run.grid, width=520)
        for i, run in enumerate(runs)
        if run.grid is not None
    ]
    sections = [
        Section("words", "Verdicts", [], [_verdict_table(runs)]),
        Section("measures", "Measures", [], [Table(caption, columns, rows)]),
        Section("cost", "Cost", [], [Table("Of training, from the run folders.", columns[:-1], cost)]),
        Section("grids", "Images", [], [Gallery(grids)]),
    ]
    facts = {name: str(runs[0].facts[name]) for name in ("real", "real_sha256", "seed", "preprocessing")}
    summary = f"{len(runs)} runs on the same real images, evaluated with the same seed."
    return Page("Runs side by side", summary, [], sections, facts)


def _verdict_table(runs: Sequence[Evaluated]) -> Table:
    found: list[list[Verdict]] = [verdicts(list(run.measures.values())) for run in runs]
    rows = [
        [Cell(parts[0].topic, parts[0].topic), *(Cell(f"{part.sign} {part.headline}", part.grade) for part in parts)]
        for parts in zip(*found, strict=True)
    ]
    columns = [Column("", numeric=False), *(Column(run.name, numeric=False) for run in runs)]
    return Table("In words; each run's own report has the reasons.", columns, rows, sortable=False)


def _cells(name: str, runs: Sequence[Evaluated], ranks: Sequence[int | None]) -> list[Cell]:
    cells = []
    for run, rank in zip(runs, ranks, strict=True):
        measure = run.measures.get(name)
        if measure is None or measure.value is None:
            cells.append(Cell(DASH, detail=measure.note or "" if measure else ""))
            continue
        notes = [f"{number(measure.interval[0])} to {number(measure.interval[1])}"] if measure.interval else []
        notes += ["below PCA-GMM"] if standing(measure).loses else []
        text = number(measure.value) + (f" #{rank}" if rank else "")
        cells.append(Cell(text, measure.value, detail="; ".join(notes), strong=rank == 1))
    floors = [run.measures[name].floor for run in runs if name in run.measures]
    entry = CATALOG[name]
    title = f"{name} ({entry.unit})" if entry.unit else name
    return [Cell(title, name, detail=entry.about), *cells, numeric(next((f for f in floors if f is not None), None))]
