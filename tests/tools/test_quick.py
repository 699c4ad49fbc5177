from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
HEAVY = ("torch", "monai", "ignite", "matplotlib", "optuna", "SimpleITK", "sklearn", "skimage")
RUN = f"""
import atexit, pathlib, runpy, sys
del sys.argv[0]
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
atexit.register(lambda: print("IMPORTED", *[name for name in {HEAVY} if name in sys.modules]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MISTAKES = [
    ("make_datalist.py nowhere {tmp}/new.json", "there is no folder nowhere: give the one with the scans"),
    ("make_datalist.py {tmp} {tmp}/there.json", "there.json is there already: give another name, or --overwrite"),
    ("make_datalist.py {tmp} {tmp}/new.json --label dx", "--label dx names a column of a table"),
    ("make_datalist.py {tmp} {tmp}/new.json --source *_T1w*", "pairs need both --source and --target"),
    ("tune.py bundles/nowhere", "there is no bundles/nowhere: give a bundle's folder"),
    ("tune.py bundles/vqvae --trials 0", "--trials 0: give 1 or more"),
    ("pack_bundle.py bundles/vqvae --checkpoint nowhere/model.pt", "there is no model nowhere/model.pt"),
    ("pack_bundle.py {tmp}/vqvae --checkpoint {tmp}/model.pt", "pack/vqvae.zip is there already: remove it"),
    ("compare.py {tmp} nowhere", "there is no folder nowhere: give those of runs that were evaluated"),
    ("compare.py {tmp} {tmp} --output {tmp}", "report.html is there already: give another --output, or --overwrite"),
    ("export_weights.py nowhere/model.pt {tmp}", "there is no model nowhere/model.pt"),
    ("export_weights.py {tmp}/model.pt {tmp}", "networks.json is there already: give another folder, or --overwrite"),
    ("make_phantom.py {tmp}", "holds something other than a phantom"),
    ("benchmark.py beauty", "invalid choice: 'beauty'"),
]


def run(tool: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, what was said, and which of the heavy packages were imported."""
    command = [sys.executable, "-c", RUN, str(ROOT / "tools" / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    said, _, imported = done.stdout.rpartition("IMPORTED")
    return done.returncode, said + done.stderr, imported.strip()


@pytest.mark.parametrize("tool", TOOLS)
def test_help_and_a_misspelt_option_are_answered_before_heavy_packages_are_imported(tool):
    status, said, imported = run(tool, "--help")
    assert (status, imported) == (0, "")
    assert said.startswith(f"usage: {tool}")
    status, said, imported = run(tool, "--hepl")
    assert (status, imported) == (2, "")
    assert f"{tool}: error: " in said


@pytest.mark.parametrize(("command", "line"), MISTAKES)
def test_mistakes_of_the_command_line_are_reported_before_heavy_packages_are_imported(tmp_path, command, line):
    for name in ("there.json", "report.html", "networks.json", "model.pt", "pack/vqvae.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    status, said, imported = run(*command.replace("{tmp}", str(tmp_path)).split())
    assert status in (1, 2)
    assert line in said
    assert imported == ""


def test_the_forms_that_can_be_packed_are_those_that_can_be_written():
    from medsynth.packaging.deploy import FORMS

    (given,) = (
        ast.literal_eval(statement.value)
        for statement in ast.parse((ROOT / "tools" / "pack_bundle.py").read_text()).body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "FORMS"
    )
    assert set(given) == set(FORMS)


def test_every_benchmark_is_a_subject():
    _, said, _ = run("benchmark.py", "--help")
    modules = (ROOT / "tools" / "benchmarks").glob("*.py")
    subjects = {path.stem for path in modules if "def add_options" in path.read_text()}
    assert {subject for subject in subjects if f"\n    {subject}" in said} == subjects
