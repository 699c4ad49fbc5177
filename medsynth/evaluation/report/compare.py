"""Reports of several runs side by side, runs of several seeds as one: measures ranked, and what they cost."""

from __future__ import annotations

import csv
import json
import logging
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import CATALOG, base_name, entry
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.folder import ReportFolder, provenance
from medsynth.evaluation.report.page import DASH, Cell, Column, Gallery, Page, Section, Table, number, numeric
from medsynth.evaluation.report.verdict import Verdict, gap, standing, verdicts
from medsynth.storage import load_plain

SAME = ("real_sha256", "split", "patients", "preprocessing")  # what has to be equal for numbers to be comparable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A run and its evaluation.

    Args:
        facts: of the evaluation's provenance.json.
        grid: a picture of its images; None if there is none.
        cost: minutes, images/s and parameters, if the run folder has them.
        config: the run's configuration; None if there is none.
    """

    name: str
    measures: dict[str, Measure]
    facts: dict[str, Any]
    grid: bytes | None
    cost: dict[str, float | None]
    config: dict[str, Any] | None

    @property
    def terms(self) -> str:
        """What it was evaluated on and how: numbers of equal terms can be compared."""
        return json.dumps([self.facts.get(name) for name in SAME], sort_keys=True)


@dataclass(frozen=True)
class Compared:
    """A run, or runs that differ by their seed alone.

    Args:
        runs: one a seed.
    """

    runs: Sequence[Evaluated]

    @property
    def name(self) -> str:
        """The names of the runs."""
        return ", ".join(run.name for run in self.runs)

    def found(self, name: str) -> list[Measure]:
        """A measure of each run that has a value of it."""
        return [
            run.measures[name] for run in self.runs if name in run.measures and run.measures[name].value is not None
        ]

    @property
    def measures(self) -> dict[str, Measure]:
        """The mean of each measure over the seeds."""
        names = dict.fromkeys(name for run in self.runs for name in run.measures)
        return {name: _mean(self.found(name)) or self.runs[0].measures.get(name) for name in names}

    def cost(self, name: str) -> float | None:
        """The mean over the seeds."""
        return _average([run.cost[name] for run in self.runs])

    def gap(self, name: str) -> float | None:
        """How far the measure is from the best: the mean of the runs' distances, because deviations don't cancel."""
        return _average([gap(measure, measure.value) for measure in self.found(name)])


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
            f"{folder} holds no evaluation that can be read: make one with {_evaluation_command(folder)}"
        ) from error
    if "real_sha256" not in facts:
        raise MedsynthError(f"{folder} is an evaluation of pairs: sets of generated images can be compared here")
    grid = evaluation / "figures" / "grid_synthetic.png"
    return Evaluated(
        folder.name,
        measures,
        facts,
        grid.read_bytes() if grid.is_file() else None,
        _cost(run),
        _json(run / "config.json"),
    )


def _evaluation_command(folder: Path) -> str:
    """Judges the run of a folder on the data that it learned from."""
    config = _json(folder / "config.json") or {}
    bundle = config.get("bundle_root", "bundles/<stem>")
    words = ["python", "-m", "monai.bundle", "run", "evaluation", "--config_file", f"{bundle}/evaluate.json"]
    words += ["--checkpoint", str(folder / "model.pt"), "--output_dir", str(folder / "evaluation")]
    return shlex.join(words + (["--real", str(config["datalist"])] if config.get("datalist") else []))


def compare(folders: Sequence[Path], output: ReportFolder) -> Page:
    """Write one page on evaluated runs; those that differ by their seed alone are one column.

    Runs that were not evaluated on the same real images are neither merged nor ranked, and the page says so.

    Raises:
        MedsynthError: fewer than two runs.
    """
    runs = [read_run(folder) for folder in folders]
    if len(runs) < 2:
        raise MedsynthError("one run is nothing to compare: name two or more")
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=str(folder)) for folder, run in zip(folders, runs, strict=True)]
    warning = _not_comparable(runs)
    if warning:
        log.warning("%s", warning)
    groups = merge_seeds(runs)
    found = dict.fromkeys(name for run in runs for name in run.measures)
    names = [name for known in CATALOG for name in found if base_name(name) == known]
    ranks = {name: [None] * len(groups) if warning else _ranks(name, groups) for name in names}
    page = _page(groups, ranks, warning)
    rows = [_row(group, ranks, i) for i, group in enumerate(groups)]
    output.write([], rows, page, {"runs": [run.name for run in runs]} | provenance())
    return page


def merge_seeds(runs: Sequence[Evaluated]) -> list[Compared]:
    """Runs of one configuration, evaluated alike, together; those without a configuration, or of one seed, alone."""
    alike: dict[str, list[Evaluated]] = defaultdict(list)
    for index, run in enumerate(runs):
        alike[str(index) if run.config is None else run.terms + _settings(run.config)].append(run)
    groups = []
    for some in alike.values():
        seeds = {run.config["seed"] for run in some if run.config and "seed" in run.config}
        groups += [Compared(some)] if len(seeds) == len(some) else [Compared([run]) for run in some]
    return groups


def _settings(config: dict[str, Any]) -> str:
    """A configuration without its seed, its folder and the paths below it."""
    folder = str(config.get("output_dir"))
    text = json.dumps(
        {key: value for key, value in config.items() if key not in ("seed", "output_dir")}, sort_keys=True
    )
    return text.replace(json.dumps(folder)[1:-1], "")


def _not_comparable(runs: Sequence[Evaluated]) -> str:
    """Which runs were evaluated otherwise than the first, in words; empty if none."""
    parts = []
    for run in runs[1:]:
        differing = [name for name in SAME if run.facts.get(name) != runs[0].facts.get(name)]
        said = [f"{name} {runs[0].facts.get(name)} and {run.facts.get(name)}" for name in differing]
        parts += [f"{runs[0].name} and {run.name} were evaluated with another {'; '.join(said)}"] if differing else []
    return f"Not comparable, so not ranked: {'. '.join(parts)}." if parts else ""


def _average(values: Sequence[float | None]) -> float | None:
    """The mean of those known; None of none. Equal numbers keep their kind."""
    known = [value for value in values if value is not None]
    return (known[0] if len(set(known)) == 1 else sum(known) / len(known)) if known else None


def _mean(found: Sequence[Measure]) -> Measure | None:
    """Value, floor, baseline and interval, each the mean; None of none."""
    if len(found) < 2:
        return found[0] if found else None
    means = {name: _average([getattr(measure, name) for measure in found]) for name in ("value", "floor", "baseline")}
    ends = [measure.interval for measure in found if measure.interval]
    interval = tuple(map(_average, zip(*ends, strict=True))) if ends else None
    return replace(found[0], **means, interval=interval)


def _measure(name: str, values: dict[str, Any]) -> Measure:
    kept = ("value", "unit", "direction", "n", "target", "floor", "baseline", "note", "no_floor")
    interval = values.get("interval")
    return Measure(name, **{key: values.get(key) for key in kept}, interval=tuple(interval) if interval else None)


def _cost(run: Path) -> dict[str, float | None]:
    """What training took."""
    minutes = speed = parameters = None
    if "wall_seconds" in (content := _json(run / "provenance.json") or {}):
        minutes = content["wall_seconds"] / 60
    if (run / "losses.csv").is_file():
        with (run / "losses.csv").open() as file:
            rows = list(csv.DictReader(file))
        if rows and float(rows[-1]["seconds"]) > 0:
            speed = float(rows[-1]["images"]) / float(rows[-1]["seconds"])
    if (run / "model.pt").is_file():
        parameters = sum(tensor.numel() for tensor in load_plain(run / "model.pt")["weights"].values())
    return {"training minutes": minutes, "images/s": speed, "parameters": parameters}


def _json(path: Path) -> dict[str, Any] | None:
    """A file's content; None if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _ranks(name: str, groups: Sequence[Compared]) -> list[int | None]:
    """1 for the runs nearest to ideal; equal values share a rank; None where there is no value or no ideal."""
    gaps = [group.gap(name) for group in groups]
    known = [value for value in gaps if value is not None]
    return [None if own is None else 1 + sum(other < own for other in known) for own in gaps]


def _row(group: Compared, ranks: dict[str, list[int | None]], index: int) -> dict[str, Any]:
    """Of metrics.csv: the mean of each measure, with the lowest and the highest where there are several seeds."""
    row: dict[str, Any] = {"run": group.name, "seeds": len(group.runs)}
    for name, found in ranks.items():
        values = [measure.value for measure in group.found(name)]
        row |= {name: _average(values), f"{name}_rank": found[index]}
        row |= {f"{name}_low": min(values), f"{name}_high": max(values)} if len(values) > 1 else {}
    return row | {name: group.cost(name) for name in group.runs[0].cost}


def _page(groups: Sequence[Compared], ranks: dict[str, list[int | None]], warning: str) -> Page:
    runs = [run for group in groups for run in group.runs]
    columns = [Column("Measure", numeric=False), *(Column(group.name) for group in groups)]
    rows = [_cells(name, groups, found) for name, found in ranks.items()]
    caption = (
        "The better of two numbers has the lower rank (#1 in bold); a difference within the intervals is none. "
        "Runs that differ by their seed alone are one column: mean (lowest to highest). "
        "“Below PCA-GMM”: worse than a model fitted in seconds."
    )
    rows.append([Cell("seeds", "seeds"), *(numeric(len(group.runs)) for group in groups)])
    if not warning:  # else there is no common floor either
        columns.append(Column("Real floor"))
        firsts = [numeric(sum(found[i] == 1 for found in ranks.values())) for i in range(len(groups))]
        rows = [[*row, _floor(name, groups)] for name, row in zip([*ranks, "seeds"], rows, strict=True)]
        rows.append([Cell("measures ranked first", "first"), *firsts, Cell(DASH)])
    cost = [[Cell(name, name), *(numeric(group.cost(name)) for group in groups)] for name in runs[0].cost]
    grids = [
        Figure(f"grid_{i}", run.name, f"Grid of images of {run.name}.", "At random.", run.grid, width=520)
        for i, run in enumerate(runs)
        if run.grid is not None
    ]
    sections = [
        Section("words", "Verdicts", [], [_verdict_table(groups)]),
        Section("measures", "Measures", [], [Table(caption, columns, rows)]),
        Section("cost", "Cost", [], [Table("Of training, from the run folders.", columns[: len(groups) + 1], cost)]),
        Section("grids", "Images", [], [Gallery(grids)]),
    ]
    if warning:
        return Page("Runs side by side", f"{len(runs)} runs. {warning}", [], sections, {})
    facts = {name: str(runs[0].facts.get(name)) for name in ("real", *SAME)}
    facts["seed"] = ", ".join(dict.fromkeys(str(run.facts.get("seed")) for run in runs))
    on = f"split {facts['split']}, {facts['patients']} patients; evaluated with seed {facts['seed']}"
    return Page("Runs side by side", f"{len(runs)} runs on the same real images ({on}).", [], sections, facts)


def _verdict_table(groups: Sequence[Compared]) -> Table:
    found: list[list[Verdict]] = [verdicts(list(group.measures.values())) for group in groups]
    rows = [
        [Cell(parts[0].topic, parts[0].topic), *(Cell(f"{part.sign} {part.headline}", part.grade) for part in parts)]
        for parts in zip(*found, strict=True)
    ]
    columns = [Column("", numeric=False), *(Column(group.name, numeric=False) for group in groups)]
    return Table("In words; each run's own report has the reasons.", columns, rows, sortable=False)


def _cells(name: str, groups: Sequence[Compared], ranks: Sequence[int | None]) -> list[Cell]:
    cells = []
    for group, rank in zip(groups, ranks, strict=True):
        measure, values = group.measures.get(name), [found.value for found in group.found(name)]
        if not values:
            cells.append(Cell(DASH, detail=measure.note or "" if measure else ""))
            continue
        text, notes = number(measure.value), []
        if len(values) > 1:
            text += f" ({number(min(values))} to {number(max(values))})"
        elif measure.interval:
            notes.append(f"{number(measure.interval[0])} to {number(measure.interval[1])}")
        notes += ["below PCA-GMM"] if standing(measure).loses else []
        cells.append(Cell(text + (f" #{rank}" if rank else ""), measure.value, "; ".join(notes), strong=rank == 1))
    kind = entry(name)
    title = f"{name} ({kind.unit})" if kind.unit else name
    return [Cell(title, name, detail=kind.about), *cells]


def _floor(name: str, groups: Sequence[Compared]) -> Cell:
    return numeric(_average([measure.floor for group in groups for measure in group.found(name)]))
