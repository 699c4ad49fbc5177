from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.evaluation.report.compare import compare
from medsynth.evaluation.report.folder import ReportFolder
from medsynth.storage import save_plain

FACTS = {
    "real": "real.json",
    "real_sha256": "abc",
    "split": "test",
    "patients": 8,
    "seed": 0,
    "preprocessing": {"image_size": 64},
}


@pytest.fixture
def run(tmp_path, measure) -> Callable[..., Path]:
    """A run folder with an evaluation of made-up values."""

    def make(name: str, values: dict[str, float | None], **facts: object) -> Path:
        folder = tmp_path / name
        (folder / "evaluation").mkdir(parents=True)
        measures = {key: measure(key, value, 3.0, 20.0).to_dict() for key, value in values.items()}
        (folder / "evaluation/metrics.json").write_text(json.dumps(measures))
        (folder / "evaluation/provenance.json").write_text(json.dumps(FACTS | facts))
        (folder / "provenance.json").write_text(json.dumps({"wall_seconds": 600}))
        (folder / "losses.csv").write_text("iteration,seconds,images\n10,5,100\n20,10,300\n")
        return folder

    return make


def configure(folder: Path, seed: int, channels: int = 32) -> Path:
    """Write a run's configuration."""
    paths = {"output_dir": str(folder), "log": f"{folder}/train.log"}
    (folder / "config.json").write_text(json.dumps({"seed": seed, "channels": channels} | paths))
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_runs_are_ranked_measure_by_measure_by_their_distance_from_the_best_value(run, tmp_path):
    a = run("a", {"fd_self": 10.0, "gradient_ratio": 1.2, "coverage": None})
    b = run("b", {"fd_self": 30.0, "gradient_ratio": 0.9, "coverage": 0.5})
    c = run("c", {"fd_self": 10.0, "gradient_ratio": 0.7, "coverage": 0.6})
    compare([a, b, c], ReportFolder(tmp_path / "out"))
    table = rows(tmp_path / "out")
    assert [row["run"] for row in table] == ["a", "b", "c"]
    assert [row["fd_self_rank"] for row in table] == ["1", "3", "1"]
    assert [row["gradient_ratio_rank"] for row in table] == ["2", "1", "3"]
    assert [row["coverage_rank"] for row in table] == ["", "2", "1"]
    assert "below PCA-GMM" in (tmp_path / "out/report.html").read_text()


def test_the_cost_is_read_from_the_run_folders(run, tmp_path):
    a, b = run("a", {"fd_self": 10.0}), run("b", {"fd_self": 30.0})
    save_plain(a / "model.pt", {"weights": {"one": torch.zeros(3, 4), "two": torch.zeros(5)}})
    compare([a, b], ReportFolder(tmp_path / "out"))
    first, second = rows(tmp_path / "out")
    assert (float(first["training minutes"]), float(first["images/s"]), int(first["parameters"])) == (10, 30, 17)
    assert second["parameters"] == ""


def test_runs_that_differ_by_their_seed_alone_are_one_with_mean_and_range(run, tmp_path):
    seeds = [configure(run(f"s{s}", {"fd_self": value}), seed=s) for s, value in enumerate((11.0, 11.8, 14.1))]
    other = configure(run("other", {"fd_self": 20.0}), seed=0, channels=64)
    compare([*seeds, other], ReportFolder(tmp_path / "out"))
    first, second = rows(tmp_path / "out")
    assert (first["run"], first["seeds"], second["run"], second["seeds"]) == ("s0, s1, s2", "3", "other", "1")
    assert [float(first[f"fd_self{end}"]) for end in ("", "_low", "_high")] == pytest.approx([12.3, 11.0, 14.1])
    assert (first["fd_self_rank"], second["fd_self_low"]) == ("1", "")
    assert "12.3 (11.0 to 14.1)" in (tmp_path / "out/report.html").read_text()


def test_deviations_to_both_sides_do_not_cancel(run, tmp_path):
    seeds = [configure(run(f"s{s}", {"gradient_ratio": value}), seed=s) for s, value in enumerate((0.8, 1.2))]
    steady = configure(run("steady", {"gradient_ratio": 0.9}), seed=0, channels=64)
    compare([*seeds, steady], ReportFolder(tmp_path / "out"))
    assert [row["gradient_ratio_rank"] for row in rows(tmp_path / "out")] == ["2", "1"]


def test_two_evaluations_of_one_run_and_runs_without_a_configuration_are_not_merged(run, tmp_path):
    twice = [configure(run(name, {"fd_self": 10.0}), seed=0) for name in ("a", "b")]
    bare = [run(name, {"fd_self": 10.0}) for name in ("c", "d")]
    compare([*twice, *bare], ReportFolder(tmp_path / "out"))
    assert [row["run"] for row in rows(tmp_path / "out")] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"real_sha256": "other"}, "s0 and s1 were evaluated with another real_sha256 abc and other"),
        ({"split": "validation"}, "s0 and s1 were evaluated with another split test and validation"),
    ],
)
def test_runs_read_on_other_patients_are_neither_merged_nor_ranked_and_the_page_says_so(run, tmp_path, facts, told):
    runs = [configure(run("s0", {"fd_self": 10.0}), seed=0), configure(run("s1", {"fd_self": 30.0}, **facts), seed=1)]
    compare(runs, ReportFolder(tmp_path / "out"))
    assert [(row["run"], row["fd_self_rank"]) for row in rows(tmp_path / "out")] == [("s0", ""), ("s1", "")]
    assert f"Not comparable, so not ranked: {told}." in (tmp_path / "out/report.html").read_text()


def test_a_run_without_an_evaluation_is_told_what_to_do(run, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MedsynthError, match="none holds no evaluation .* run evaluation .*none/model.pt"):
        compare([run("a", {"fd_self": 10.0}), tmp_path / "none"], ReportFolder(tmp_path / "out"))
    with pytest.raises(MedsynthError, match="one run is nothing to compare"):
        compare([tmp_path / "a"], ReportFolder(tmp_path / "out"))


def test_runs_without_floors_are_not_judged_and_the_page_says_why(run, tmp_path):
    folders = [run(name, {"fd_self": 10.0, "swd": 5.0}) for name in "ab"]
    for table in (folder / "evaluation/metrics.json" for folder in folders):
        measures = json.loads(table.read_text())
        without = {"floor": None, "note": "of slices", "no_floor": "2 held-out subjects, needs 4"}
        table.write_text(json.dumps({name: values | without for name, values in measures.items()}))
    compare(folders, ReportFolder(tmp_path / "out"))
    assert "Cannot be judged: 2 held-out subjects, needs 4." in (tmp_path / "out/report.html").read_text()


def test_measures_of_planes_are_compared_under_their_names(run, tmp_path):
    a = run("a", {"fd_pca/axial": 5.0, "fd_pca/coronal": 9.0})
    b = run("b", {"fd_pca/axial": 8.0, "fd_pca/coronal": 7.0})
    compare([a, b], ReportFolder(tmp_path / "out"))
    ranks = [(row["fd_pca/axial_rank"], row["fd_pca/coronal_rank"]) for row in rows(tmp_path / "out")]
    assert ranks == [("1", "2"), ("2", "1")]
