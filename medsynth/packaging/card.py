"""The model card of a packed bundle: its data, measures, intended use, limits and privacy audit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report.page import number
from medsynth.evaluation.report.verdict import verdicts
from medsynth.run.recipe import LoadedModel

_UNKNOWN = "Unknown: no evaluation was given."
_MEASURE_FIELDS = set(Measure.__dataclass_fields__) - {"name"}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured.

    Attributes:
        measures: of metrics.json, in its order.
        facts: of the provenance.json beside it; empty if there is none.
    """

    measures: list[Measure]
    facts: dict[str, Any]


def read_evaluation(path: Path, model: LoadedModel) -> Evaluation:
    """Read a metrics.json.

    Raises:
        MedsynthError: no such file, not one of medsynth's, or of another model.
    """
    try:
        table = json.loads(path.read_text())
        measures = [
            Measure(name, **{key: value for key, value in values.items() if key in _MEASURE_FIELDS})
            for name, values in table.items()
        ]
    except OSError as error:
        raise MedsynthError(f"evaluation {path}: {error.strerror}: give the metrics.json of an evaluation") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise MedsynthError(f"{path} is not the metrics.json of an evaluation: give one that medsynth wrote") from error
    facts = read_facts(path.with_name("provenance.json"))
    judged = facts.get("model_sha256")
    if judged not in (None, model.digest):
        raise MedsynthError(
            f"{path} judges another model (SHA-256 {judged[:16]}…, the checkpoint's is {model.digest[:16]}…): evaluate "
            "this checkpoint, or leave --evaluation out"
        )
    return Evaluation(measures, facts)


def read_facts(path: Path) -> dict[str, Any]:
    """A provenance.json; empty if it is not there or cannot be read."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def model_card(
    name: str,
    metadata: dict[str, Any],
    model: LoadedModel,
    training: dict[str, Any],
    evaluation: Evaluation | None,
    limits: str,
    example: str,
) -> str:
    """The card, in Markdown.

    Args:
        name: of the bundle's folder.
        metadata: of the bundle.
        training: provenance.json of the run, and whether its data was `made_up`; empty if unknown.
        limits: of the system, as its page has them; empty if it has none.
        example: arguments of inference that work with this model.
    """
    use = metadata.get("intended_use", "Research only; not for diagnosis")
    parts = [
        f"# {metadata['name']}\n\n{metadata['description']}.",
        f"**{use}.** Not a medical device. Its images are synthetic: they show what is usual in the training data, not "
        "what is true of a patient.",
        f"## Use\n\n{_use(name, metadata, example)}",
        f"## Intended use\n\n{use}. {metadata['task']}.",
        f"## Data\n\n{_bullets(_data(model, training))}",
        f"## Training\n\n{_bullets(_training(model, training))}",
        f"## Measures\n\n{_UNKNOWN if evaluation is None else _measures(evaluation)}",
        f"## Privacy audit\n\n{_privacy(evaluation)}",
        f"## Limits\n\n{limits or 'Not written down for this system.'}",
        "## Licence\n\nApache-2.0 for the code, see LICENSE. The terms of the training data apply to the weights and "
        "to what they generate.",
    ]
    return "\n\n".join(parts) + "\n"


def _use(name: str, metadata: dict[str, Any], example: str) -> str:
    packages = " ".join(sorted(metadata["required_packages_version"]))
    return (
        "A configuration of MONAI is a program: run it only if you trust where it comes from.\n\n"
        "```sh\npip install medsynth\npython -m monai.bundle run inference --config_file "
        f"{name}/configs/inference.json {example}\n```\n\n"
        "The keys at the top of each file in `configs/` can be overridden in this way. In Python, the network with its "
        "weights is\n\n"
        f'```python\nmonai.bundle.load("{name}", bundle_dir=".")\n'
        "```\n\n"
        f"Packages: {packages}."
    )


def _data(model: LoadedModel, training: dict[str, Any]) -> dict[str, Any]:
    recipes = model.preprocessing
    if "modality" in recipes:
        recipes = {"": recipes}
    settings = {
        f"{domain} {field}".strip().replace("_", " "): recipe[field] or "as the images have it"
        for domain, recipe in recipes.items()
        for field in ("modality", "window", "spacing_mm", "image_size", "size", "region", "plane", "positions")
        if field in recipe
    }
    return {
        "Which scans": "none: made-up heads" if training.get("made_up") else "not part of this bundle",
        **settings,
        "classes": ", ".join(model.classes) or "none",
        "SHA-256 of the datalist": training.get("datalist_sha256", "unknown"),
    }


def _training(model: LoadedModel, training: dict[str, Any]) -> dict[str, Any]:
    versions = training.get("versions", {})
    return {
        "network": model.definition["_target_"],
        "SHA-256 of model.pt": model.digest,
        "iterations until these weights": model.extra.get("iteration", "unknown"),
        "images seen by the run": training.get("images_seen", "unknown"),
        "minutes of the run": round(training["wall_seconds"] / 60, 1) if "wall_seconds" in training else "unknown",
        "device": training.get("device", "unknown"),
        "seed": training.get("seed", "unknown"),
        "commit": training.get("git_commit") or "unknown",
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()) or "unknown",
        "validation when they were chosen": ", ".join(
            f"{name} {value:.4g}" for name, value in model.extra.get("metrics", {}).items()
        )
        or "none",
    }


def _measures(evaluation: Evaluation) -> str:
    rows = ["| measure | value | unit | 95 % interval | real floor | n | better |", "|---|---|---|---|---|---|---|"]
    for measure in evaluation.measures:
        interval = "" if measure.interval is None else " to ".join(number(end) for end in measure.interval)
        better = f"near {measure.target:g}" if measure.target is not None else measure.direction
        floor = "" if measure.floor is None else number(measure.floor)
        value = number(measure.value) if measure.value is not None else "none"
        rows.append(f"| {measure.name} | {value} | {measure.unit} | {interval} | {floor} | {measure.n} | {better} |")
    digest = evaluation.facts.get("real_sha256")
    source = f" of the datalist with SHA-256 {digest}" if digest else ""
    return (
        f"Against held-out subjects{source}. The interval is a bootstrap over them, the floor the same measure of real "
        "images of other subjects.\n\n" + "\n".join(rows)
    )


def _privacy(evaluation: Evaluation | None) -> str:
    warning = (
        "A generative model can remember patients, and no test proves that it does not. Treat the weights and their "
        "images under the rules of the scans they came from, until those who are responsible for the data decide "
        "otherwise."
    )
    found = [] if evaluation is None else [v for v in verdicts(evaluation.measures) if v.topic == "Privacy"]
    if not found:
        return f"{_UNKNOWN if evaluation is None else 'Not part of this evaluation.'} {warning}"
    (verdict,) = found
    return "\n".join([f"**{verdict.headline}**", "", *(f"- {reason}" for reason in verdict.reasons), "", warning])


def _bullets(facts: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
