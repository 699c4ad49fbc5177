"""MLflow beside TensorBoard: what MONAI adds to a run for `--tracking mlflow`, fitted to medsynth's engines."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from ignite.engine import Engine
from monai.bundle import ConfigParser

from medsynth.errors import MedsynthError

EVERY = 10  # iterations between two records of the losses; each waits for the device and the database
_HANDLER = "MLFlowHandler"


def losses_of(output: dict[str, Any]) -> dict[str, float]:
    """The losses of an iteration, under the names that TensorBoard has."""
    return {f"train/{name}": float(value) for name, value in output["losses"].items()}


def is_tenth(engine: Engine, iteration: int) -> bool:
    """Whether to record the losses of this iteration."""
    return iteration % EVERY == 0


def prepare_tracking(parser: ConfigParser) -> None:
    """Fit the handlers of `--tracking mlflow`, if there are any, before they are built.

    MONAI's read one loss under the key `loss` in every iteration. Also keeps MLflow from reporting how it is used.

    Raises:
        MedsynthError: tracking is asked for, and MLflow is not installed.
    """
    items = parser.ref_resolver.items
    handlers = [id for id, item in items.items() if _is_handler(item.get_config())]
    if not handlers:
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if importlib.util.find_spec("mlflow") is None:
        raise MedsynthError("--tracking mlflow needs MLflow: pip install 'medsynth[mlflow]', or leave --tracking out")
    from mlflow.telemetry import set_telemetry_client

    set_telemetry_client()  # reads that variable, which came too late for the first time
    for handler in handlers:
        config = items[handler].get_config()
        if config.get("iteration_log"):
            ours = {"output_transform": losses_of, "iteration_log": is_tenth}
            items[handler].update_config(config | {name: f"${function.__name__}" for name, function in ours.items()})
            for name, function in ours.items():
                parser.ref_resolver.resolved_content[f"{handler}::{name}"] = function


def _is_handler(config: Any) -> bool:
    return isinstance(config, dict) and config.get("_target_") == _HANDLER
