"""What a study may change in a training configuration, and its objectives."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from optuna import Trial

from medsynth.errors import MedsynthError, is_number

_RANGE = {"low", "high", "log", "step"}
_DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class SearchSpace:
    """Ranges and choices for keys of a training configuration.

    Attributes:
        objectives: columns of metrics.csv -> `minimize` or `maximize`; the first is the default objective of a
            study.
        keys: key of the configuration -> `{"low": .., "high": ..}`, with `"log": true` or a `"step"` if wanted, or
            `{"choices": [..]}`.
        defaults: what the configuration has for them, for the first trial.
    """

    objectives: dict[str, str]
    keys: dict[str, dict[str, Any]]
    defaults: dict[str, Any]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value for each key: an overlay of the configuration."""
        return {key: _suggest(trial, key, domain) for key, domain in self.keys.items()}

    def chosen(self, names: Sequence[str] | None) -> dict[str, str]:
        """The objectives of these names; None: the first one alone.

        Raises:
            MedsynthError: the search space has no such objective.
        """
        names = names or list(self.objectives)[:1]
        for name in names:
            if name not in self.objectives:
                raise MedsynthError(f"objective {name!r}: choose among {', '.join(self.objectives)}")
        return {name: self.objectives[name] for name in names}

    def first_trial(self) -> dict[str, Any]:
        """The configuration's own values where they lie in the space, as Optuna knows them."""
        return {key: _stored(value) for key, value in self.defaults.items() if _lies_in(value, self.keys[key])}


def read_search_space(path: Path, config: Path) -> SearchSpace:
    """Read the tune.json beside a training configuration.

    Raises:
        MedsynthError: it is missing or damaged, or has a key that the configuration lacks or a range without values.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise MedsynthError(f"search space {path}: {error.strerror}: write one as CONTRIBUTING.md has it") from error
    except ValueError as error:
        raise MedsynthError(f"search space {path} is not JSON: {error}") from error
    objectives, keys = (content.get(name) if isinstance(content, dict) else None for name in ("objectives", "keys"))
    if not (isinstance(objectives, dict) and isinstance(keys, dict) and objectives and keys):
        raise MedsynthError(f"search space {path}: needs 'objectives' and 'keys', each with at least one entry")
    for name, direction in objectives.items():
        if direction not in _DIRECTIONS:
            raise MedsynthError(f"{path}: objective {name} is {direction!r}: choose {' or '.join(_DIRECTIONS)}")
    parser = ConfigParser(config=ConfigParser.load_config_file(config))
    for key, domain in keys.items():
        if key not in parser:
            near = difflib.get_close_matches(key, parser.config, n=1)
            advice = f": the nearest is '{near[0]}'" if near else ""
            raise MedsynthError(f"{path}: '{key}' is not a key of {config}{advice}")
        _check_domain(domain, f"{path}: {key}")
    return SearchSpace(objectives, keys, {key: parser[key] for key in keys})


def _check_domain(domain: Any, where: str) -> None:
    if isinstance(domain, dict) and set(domain) == {"choices"} and isinstance(domain["choices"], list):
        if not domain["choices"]:
            raise MedsynthError(f"{where} has no choices: give at least one")
        return
    if not (isinstance(domain, dict) and {"low", "high"} <= set(domain) <= _RANGE):
        raise MedsynthError(f'{where} is {domain}: give {{"low": .., "high": ..}} or {{"choices": [..]}}')
    low, high = domain["low"], domain["high"]
    if not (is_number(low) and is_number(high)) or low > high:
        raise MedsynthError(f"{where}: low is {low!r} and high {high!r}: give numbers, the smaller one as low")
    if domain.get("log") and low <= 0:
        raise MedsynthError(f"{where}: a range with log begins above 0, not at {low}")
    if domain.get("log") and domain.get("step"):
        raise MedsynthError(f"{where}: a range has either log or a step")


def _lies_in(value: Any, domain: dict[str, Any]) -> bool:
    if "choices" in domain:
        return value in domain["choices"]
    return isinstance(value, (int, float)) and domain["low"] <= value <= domain["high"]


def _suggest(trial: Trial, key: str, domain: dict[str, Any]) -> Any:
    if "choices" in domain:
        values = {_stored(value): value for value in domain["choices"]}
        return values[trial.suggest_categorical(key, list(values))]
    log, step = domain.get("log", False), domain.get("step")
    if isinstance(domain["low"], int) and isinstance(domain["high"], int):
        return trial.suggest_int(key, domain["low"], domain["high"], step=step or 1, log=log)
    return trial.suggest_float(key, domain["low"], domain["high"], step=step, log=log)


def _stored(value: Any) -> Any:
    """As Optuna can store it: a list as its text."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value
