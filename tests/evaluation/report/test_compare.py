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

FACTS = {"real": "real.json", "real_sha256": "abc", "seed": 0, "preprocessing": {"image_size": 64}}


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


def test_numbers_of_different_real_images_are_not_compared(run, tmp_path):
    a, b = run("a", {"fd_self": 10.0}), run("b", {"fd_self": 30.0}, real_sha256="other", seed=1)
    with pytest.raises(MedsynthError, match="a and b were evaluated with another real_sha256 and seed"):
        compare([a, b], ReportFolder(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_without_an_evaluation_is_told_what_to_do(run, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MedsynthError, match="none holds no evaluation .* python -m monai.bundle run evaluation"):
        compare([run("a", {"fd_self": 10.0}), tmp_path / "none"], ReportFolder(tmp_path / "out"))
    with pytest.raises(MedsynthError, match="one run is nothing to compare"):
        compare([tmp_path / "a"], ReportFolder(tmp_path / "out"))
