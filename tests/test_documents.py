"""The documents name only files, keys, options and measures that exist."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import pytest

from medsynth.evaluation.metrics.catalog import CATALOG, PAIRED

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("bundles/*/README.md")),
]
COMMAND = re.compile(r"(?:-m monai\.bundle run|\bpython3? (?=\S+\.py\b))[^`\n]*")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
MONAI_OPTIONS = set(inspect.signature(monai.bundle.run).parameters) - {"override"}
TRACKING_OPTIONS = {"tracking_uri", "experiment_name", "run_name"}


def commands_of(text: str) -> list[list[str]]:
    """The words of each run of a bundle and of each Python script, in code blocks and in lines of text."""
    found = COMMAND.findall(text.replace("\\\n", " "))
    return [shlex.split(part) for line in found for part in line.split(" && ") if COMMAND.match(part)]


def problems(words: list[str]) -> list[str]:
    """What a command names that does not exist."""
    missing = [word for word in words if word.startswith(("bundles/", "tools/", "docs/images/")) and not exists(word)]
    if missing:
        return [f"no file {name}" for name in missing]
    return list(problems_of_run(words[3:]) if words[0] == "-m" else problems_of_script(words[1], words[2:]))


def exists(word: str) -> bool:
    return "<" in word or word.endswith(".png") or (ROOT / word).exists()


def problems_of_run(words: list[str]) -> Iterator[str]:
    """Of what follows `python -m monai.bundle run`: the workflow, and overrides that are no key."""
    options = dict(zip(words, [*words[1:], ""], strict=True))
    given = options.get("--config_file", "")
    names = ast.literal_eval(given) if given.startswith("[") else [given]
    configs = [read_config(name) for name in names if not name.startswith("runs/")]
    if None in configs:
        yield f"no configuration {given!r}"
        return
    if not any(words[0] in config for config in configs):
        yield f"{given} has no workflow {words[0]!r}"
    known = MONAI_OPTIONS | (TRACKING_OPTIONS if "--tracking" in options else set())
    yield from unknown_keys([name for name in option_names(words) if name not in known], configs, given)


def read_config(name: str) -> dict[str, Any] | None:
    """A configuration of `bundles/`, or what a pack holds of it; None if it is not there."""
    path = ROOT / re.sub(r"^packs/(\w+)/configs/", r"bundles/\1/", name)
    return json.loads(path.read_text()) if path.is_file() else None


def unknown_keys(names: list[str], configs: list[dict[str, Any]], given: str) -> Iterator[str]:
    for name in names:
        if not any(has_key(config, name.split("#")) for config in configs):
            yield f"{given} has no key {name!r}"


def has_key(value: Any, path: list[str]) -> bool:
    """Whether nested dictionaries hold such a key."""
    if not path:
        return True
    return isinstance(value, dict) and path[0] in value and has_key(value[path[0]], path[1:])


def option_names(words: list[str]) -> list[str]:
    return [word[2:].partition("=")[0] for word in words if re.match(r"--[a-zA-Z]", word)]


def problems_of_script(name: str, words: list[str]) -> Iterator[str]:
    """Options that are not in the script's source; what follows `--` are keys of the bundle's training."""
    if not (ROOT / name).is_file():
        yield f"no file {name}"
        return
    cut = words.index("--") if "--" in words else len(words)
    own, passed_on = words[:cut], words[cut + 1 :]
    known = set().union(*map(options_in, sources_of(ROOT / name, own)))
    yield from (f"{name} has no option --{option}" for option in option_names(own) if option not in known)
    if passed_on:
        config = own[0] if own[0].endswith(".json") else f"{own[0]}/train.json"
        yield from unknown_keys(option_names(passed_on), [read_config(config) or {}], config)


def sources_of(script: Path, words: list[str]) -> list[Path]:
    """The script and the modules beside it that it imports; of the benchmarks, that of the subject."""
    beside = [script.with_name("benchmarks") / f"{word}.py" for word in words[:1] if script.stem == "benchmark"]
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = script.parent / node.module.replace(".", "/")
            beside += [module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in node.names)]
    beside = [path for path in beside if path.is_file()]
    chosen = [path for path in beside if path.stem in words[:1]]
    return [script, *(chosen or beside)]


def options_in(path: Path) -> set[str]:
    """Names of the `--options` that a source passes to `add_argument`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    added = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    names = [argument.value for call in added for argument in call.args if isinstance(argument, ast.Constant)]
    return {name[2:] for name in names if name.startswith("--")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_files_keys_and_options_that_exist(path):
    found = [(" ".join(words), wrong) for words in commands_of(path.read_text()) if (wrong := problems(words))]
    assert not found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("python -m monai.bundle run training --config_file bundles/vaegan/train.json --max_epoch 3", "'max_epoch'"),
        (
            "python -m monai.bundle run training --config_file bundles/vaegan/train.json --weights#sim 3",
            "'weights#sim'",
        ),
        ("python -m monai.bundle run trainig --config_file bundles/vaegan/train.json", "workflow 'trainig'"),
        ("python -m monai.bundle run training --config_file bundles/vaegann/train.json", "no file bundles/vaegann"),
        ("python -m monai.bundle run training --max_epochs 3", "no configuration"),
        ("torchrun -m monai.bundle run training \\\n --config_file bundles/vaegan/train.json --sed 1", "'sed'"),
        ("`python tools/make_datalist.py scans/ data/mine.json --partcipants table.tsv`", "--partcipants"),
        ("pip install -e . && python tools/make_datalists.py scans/ data/mine.json", "no file tools/make_datalists.py"),
        ("python tools/tune.py bundles/vaegan --trials 5 -- --max_epoch 10", "'max_epoch'"),
        ("python tools/benchmark.py priors --seconds 4", "--seconds"),
    ],
)
def test_a_misspelt_command_is_found(text, problem):
    (words,) = commands_of(f"Some text.\n\n{text}\n\nMore text.")
    (found,) = problems(words)
    assert problem in found


def test_a_right_command_passes():
    text = """
    python -m monai.bundle run training --config_file "['bundles/vaegan/train.json','runs/a/best.json']" --weights#l1 1
    python -m monai.bundle run training --config_file bundles/vaegan/train.json --tracking mlflow --run_name a
    python tools/tune.py bundles/vaegan --trials 5 -- --datalist data/mine.json --spacing_mm "[2.0, 2.0]"
    python tools/benchmark.py vqvae --seconds 4
    """
    assert [problems(words) for words in commands_of(text)] == [[], [], [], []]


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_readme_and_ci_run_the_same_checks():
    steps = ["ruff check .", "lint-imports", "mkdocs build --strict", "pytest -n auto --dist loadscope"]
    assert 'pip install -e ".[dev]" && ' + " && ".join(steps) in (ROOT / "README.md").read_text()
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert [line.removesuffix(' "$@"') for line in script[-len(steps) :]] == steps


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    assert [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()] == []


def test_the_reference_has_every_measure():
    text = (ROOT / "docs/reference/metrics.md").read_text()
    assert [name for name in CATALOG | PAIRED if f"`{name}`" not in text] == []
