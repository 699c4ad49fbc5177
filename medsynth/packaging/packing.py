"""A trained system as a bundle, as MONAI's model zoo has them: it runs without this repository.

Reference: MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle import ConfigParser

from medsynth.errors import MedsynthError
from medsynth.packaging.card import model_card, read_evaluation, read_facts
from medsynth.packaging.deploy import describe_formats, export_network
from medsynth.packaging.leaks import is_path, names_of, refuse_leaks
from medsynth.run.recipe import LoadedModel, load_model
from medsynth.storage import disk_errors, write_bytes, write_text

CONFIGS = ("train*.json", "inference.json", "evaluate.json")
LICENSE = Path(__file__).parents[2] / "LICENSE"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_ROOT = "$from medsynth.packaging.root import bundle_root"
_OF_THE_RUN = ("output_dir", "datalist", "cache_dir", "checkpoint", "resume", "num_workers")  # not of the model


def pack_bundle(
    bundle: Path,
    checkpoint: Path,
    output: Path | None = None,
    evaluation: Path | None = None,
    export: str | None = None,
) -> Path:
    """Write `<output>/<stem>/` and `<output>/<stem>.zip`.

    The training configuration has the settings from the checkpoint's run folder, without its paths.

    Args:
        bundle: folder of the system, such as `bundles/vaegan`.
        checkpoint: model.pt of a run.
        output: folder to write to; None: `pack` beside the checkpoint.
        evaluation: metrics.json of the checkpoint's evaluation, for the model card.
        export: `torchscript` or `onnx`, to write the network in that form as well; None: neither.

    Returns: the folder of the packed bundle.

    Raises:
        MedsynthError: no bundle, no checkpoint of it, an existing output, or paths or names in what is
            to be packed.
    """
    metadata, configs = read_bundle(bundle)
    model = load_model(checkpoint)
    _require_network_of(bundle, configs, model, checkpoint)
    name, output = bundle.resolve().name, output or checkpoint.parent / "pack"
    target = output / name
    for path in (target, output / f"{name}.zip"):
        if path.exists():
            raise MedsynthError(f"{path} is there already: remove it, or give another --output")
    judged = None if evaluation is None else read_evaluation(evaluation, model)
    run = read_facts(checkpoint.with_name("config.json"))
    metadata = packed_metadata(metadata, model)
    training = read_facts(checkpoint.with_name("provenance.json")) | {
        "made_up": "datalist" in run and not run["datalist"]
    }
    example = _example(configs["inference.json"], model)
    card = model_card(name, metadata, model, training, judged, _limits(bundle), example)
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=output) as scratch:
        folder = Path(scratch) / name
        with disk_errors(output):
            for part in ("configs", "models", "docs"):
                (folder / part).mkdir(parents=True)
            shutil.copyfile(bundle / "logging.conf", folder / "configs" / "logging.conf")
        for file, config in of_the_model(configs, model).items():
            settings = {key: value for key, value in run.items() if key not in _OF_THE_RUN}
            trained = with_settings(config, settings) if _trained_by(config, run) else config
            _write_json(folder / "configs" / file, packed_config(trained))
        _write_json(folder / "configs" / "metadata.json", metadata)
        write_text(folder / "docs" / "README.md", card)
        write_text(folder / "LICENSE", LICENSE.read_text())
        write_bytes(folder / "models" / "model.pt", checkpoint.read_bytes())
        if export is not None:
            export_network(export, model, metadata, folder / "models")
        refuse_leaks(folder, names_of(Path(run["datalist"]) if run.get("datalist") else None))
        with disk_errors(output):
            shutil.make_archive(str(Path(scratch) / name), "zip", root_dir=scratch, base_dir=name)
            shutil.move(Path(scratch) / f"{name}.zip", output / f"{name}.zip")
            folder.rename(target)
    return target


def inference_command(folder: Path) -> str:
    """Runs a packed bundle, from where the user stands."""
    config = folder / "configs" / "inference.json"
    example = _example(json.loads(config.read_text()), load_model(folder / "models" / "model.pt"))
    return f"python -m monai.bundle run inference --config_file {shlex.quote(str(config))} {example}"


def read_bundle(bundle: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The metadata of a bundle's folder, and its configurations by file name, `%` macros put in.

    Raises:
        MedsynthError: it is not the folder of a bundle that trains and infers.
    """
    found = {path.name: path for pattern in CONFIGS for path in sorted(bundle.glob(pattern))}
    missing = [name for name in ("train.json", "inference.json") if name not in found]
    missing += [name for name in ("metadata.json", "logging.conf") if not (bundle / name).is_file()]
    if missing:
        raise MedsynthError(
            f"{bundle} is not the folder of a bundle that can be packed: it has no {missing[0]}; give one such as "
            "bundles/vaegan"
        )
    return json.loads((bundle / "metadata.json").read_text()), {name: _inlined(path) for name, path in found.items()}


def of_the_model(configs: dict[str, dict[str, Any]], model: LoadedModel) -> dict[str, dict[str, Any]]:
    """The configurations, with the one that trains the model as `train.json`, where MONAI looks for its network.

    Its network is that of the model, so that no data are needed to build it. Where a later stage trained the model, the
    training of the other stages is left out.
    """
    target = model.definition["_target_"]
    own = next(file for file, config in configs.items() if _network_target(config) == target)
    others = {file: config for file, config in configs.items() if file != own}
    if own != "train.json":
        others = {file: config for file, config in others.items() if not file.startswith("train")}
    return {"train.json": configs[own] | {"network_def": model.definition}} | others


def _network_target(config: dict[str, Any]) -> str | None:
    return config["network_def"]["_target_"] if _defines_network(config) else None


def with_settings(config: Any, settings: Any) -> Any:
    """A configuration with the plain values of a run that used it; its paths and expressions are unchanged."""
    if isinstance(config, dict):
        known = settings if isinstance(settings, dict) and settings.get("_target_") == config.get("_target_") else {}
        added = {name: value for name, value in known.items() if name not in config and _is_plain(value)}
        changed = {name: with_settings(value, known.get(name, value)) for name, value in config.items()}
        return changed | (added if "_target_" in config else {})
    if isinstance(config, list) and not _is_plain(config):
        known = settings if isinstance(settings, list) and len(settings) == len(config) else config
        return [with_settings(old, new) for old, new in zip(config, known, strict=True)]
    computed = isinstance(config, str) and config.startswith("$")
    return config if computed or not _is_plain(settings) else settings


def packed_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose paths are relative to the bundle's folder."""
    if "bundle_root" not in config:  # an overlay of another file
        return config
    packed = dict(config, bundle_root="$bundle_root()", imports=[*config.get("imports", []), _ROOT])
    for name, path in (("checkpoint", "models/model.pt"), ("output_dir", _packed_path(config.get("output_dir")))):
        if name in packed:
            packed[name] = f"$@bundle_root + '/{path}'"
    return packed


def packed_metadata(metadata: dict[str, Any], model: LoadedModel) -> dict[str, Any]:
    """The metadata with the versions that the bundle is made with, and formats as this model has them.

    The network of a latent model reconstructs images, so that its format is that of the autoencoder.
    """
    formats = describe_formats(metadata["network_data_format"], model)
    latent = hasattr(model.network, "sample") and formats["inputs"]["image"]["format"] != "latent"
    required = {name: _version(name, known) for name, known in metadata["required_packages_version"].items()}
    return {"schema": SCHEMA} | metadata | {
        "monai_version": _release(monai.__version__),
        "pytorch_version": _release(torch.__version__),
        "numpy_version": np.__version__,
        "required_packages_version": required,
        "network_data_format": formats,
        **({"autoencoder_data_format": formats} if latent else {}),
    }  # fmt: skip


def _inlined(path: Path) -> dict[str, Any]:
    text = path.read_text()
    if '"%' not in text:
        return json.loads(text)
    parser = ConfigParser(config=ConfigParser.load_config_file(path))
    try:
        parser.resolve_macro_and_relative_ids()
    except (OSError, KeyError, ValueError) as error:
        raise MedsynthError(f"{path}: a % reference cannot be read ({error}): work in the root of the clone") from error
    return parser.get()


def _require_network_of(bundle: Path, configs: dict[str, dict[str, Any]], model: LoadedModel, checkpoint: Path) -> None:
    own = {config["network_def"]["_target_"] for config in configs.values() if _defines_network(config)}
    target = model.definition["_target_"]
    if target not in own:
        raise MedsynthError(
            f"{checkpoint} holds a {target.rpartition('.')[2]}, and {bundle} trains "
            f"{' or '.join(sorted(name.rpartition('.')[2] for name in own))}: give a checkpoint of this bundle"
        )


def _defines_network(config: dict[str, Any]) -> bool:
    return isinstance(config.get("network_def"), dict) and "_target_" in config["network_def"]


def _trained_by(config: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether a run's configuration came from this one, judged by its network."""
    if not (_defines_network(config) and _defines_network(run)):
        return False
    return config["network_def"]["_target_"] == run["network_def"]["_target_"]


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a word or a list of them, and not a path."""
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%")) and not is_path(value)
    return value is None or isinstance(value, (bool, int, float))


def _packed_path(output_dir: Any) -> str:
    """`runs/vaegan/images` -> `images`; of a run folder itself: `run`."""
    return "/".join(PurePosixPath(str(output_dir)).parts[2:]) or "run"


def _example(inference: dict[str, Any], model: LoadedModel) -> str:
    """Arguments of inference that need nothing but the model, or else some scans."""
    if hasattr(model.network, "sample"):
        return "--output_dir generated"
    mode = "--mode reconstruct " if "mode" in inference else ""
    return f"{mode}--input scans/ --output_dir results"


def _limits(bundle: Path) -> str:
    """The sections on the bundle's page whose headings begin so."""
    page = bundle / "README.md"
    text = page.read_text() if page.exists() else ""
    found = re.findall(r"^## Limits[^\n]*\n+(.*?)(?=^## |\Z)", text, re.DOTALL | re.M)
    return "\n".join(section.strip() for section in found)


def _release(number: str) -> str:
    return number.partition("+")[0]


def _version(package: str, known: str) -> str:
    try:
        return _release(version(package))
    except PackageNotFoundError:
        return known


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=4) + "\n")
