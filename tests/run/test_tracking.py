from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType

import pytest
from ignite.engine import Events
from monai.handlers import MLFlowHandler

from medsynth.errors import as_line


@pytest.fixture
def without_mlflow(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))


@pytest.fixture
def logged(monkeypatch):
    """What a run gives to MONAI's handler for its losses, which MLflow is taken out of: (iteration, losses)."""
    mlflow, telemetry, records = ModuleType("mlflow"), ModuleType("mlflow.telemetry"), []
    mlflow.__spec__ = importlib.util.spec_from_loader("mlflow", None)
    telemetry.set_telemetry_client = lambda: records.append(os.environ["MLFLOW_DISABLE_TELEMETRY"])
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.telemetry", telemetry)

    def initialize(self, **options):
        self.every, self.losses = options["iteration_log"], options.get("output_transform")

    def attach(self, engine):
        if self.every:
            engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=self.every), self.log)

    def log(self, engine):
        records.append((engine.state.iteration, self.losses(engine.state.output)))

    for method in (initialize, attach, log):
        name = "__init__" if method is initialize else method.__name__
        monkeypatch.setattr(MLFlowHandler, name, method, raising=False)
    return records


def test_tracking_without_mlflow_says_what_to_install(toy_run, without_mlflow):
    with pytest.raises(RuntimeError, match="instantiate") as caught:
        toy_run(tracking="mlflow", max_epochs=1)
    assert "pip install 'medsynth[mlflow]'" in as_line(caught.value)


def test_a_run_without_tracking_needs_no_mlflow(toy_run, without_mlflow):
    assert (toy_run(max_epochs=1) / "model.pt").exists()


def test_all_losses_of_every_tenth_iteration_go_to_the_handler(toy_run, logged):
    toy_run(tracking="mlflow", max_epochs=3)
    telemetry, *losses = logged
    assert telemetry == "true"
    assert [iteration for iteration, _ in losses] == [10, 20]
    assert all(set(values) == {"train/error", "train/double"} for _, values in losses)
    assert all(values["train/double"] == pytest.approx(2 * values["train/error"]) for _, values in losses)


def test_a_run_is_in_the_database_in_its_folder(toy_run):
    mlflow = pytest.importorskip("mlflow")
    folder = toy_run(tracking="mlflow", max_epochs=3)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns.db")
    (experiment,) = (item for item in client.search_experiments() if item.name == "monai_experiment")
    (run,) = client.search_runs(experiment.experiment_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["max_epochs"] == "3"
    steps = {
        name: [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        for name in ("train/error", "train/double", "val_error")
    }
    assert steps == {"train/error": [10, 20], "train/double": [10, 20], "val_error": [1, 2, 3]}
