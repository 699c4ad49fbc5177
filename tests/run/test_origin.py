from __future__ import annotations

import json
import shlex
from pathlib import Path

import monai.bundle
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow

from medsynth.packaging.root import bundle_root
from medsynth.run.origin import Origin, config_origin

CONFIG = {
    "imports": ["$from medsynth.run.origin import config_origin", "$from medsynth.packaging.root import bundle_root"],
    "origin": "$config_origin()",
    "root": "$bundle_root()",
    "initialize": ["$@origin", "$@root"],
    "run": [],
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A configuration and one on top of it."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, content in (("a.json", CONFIG), ("b.json", {"width": 2}), ("metadata.json", {})):
        (folder / name).write_text(json.dumps(content))
    return [str(folder / "a.json"), str(folder / "b.json")]


def test_the_origin_in_a_run_of_monai_is_its_parser_files_and_folder(files, tmp_path):
    parser = create_workflow(config_file=files, width=3).parser
    assert parser.get_parsed_content("origin") == Origin(parser, tuple(files), tmp_path / "configs")
    assert parser.get_parsed_content("origin").parser["width"] == 3
    assert parser.get_parsed_content("root") == str(tmp_path)


def test_the_origin_in_a_workflow_built_in_python_is_its_folder(files, tmp_path):
    workflow = ConfigWorkflow(files[0], logging_file=False)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("origin") == Origin(workflow.parser, (), tmp_path / "configs")
    assert workflow.parser.get_parsed_content("root") == str(tmp_path)


def test_the_origin_in_a_parser_alone_has_no_folder():
    parser = ConfigParser(CONFIG)
    assert parser.get_parsed_content("origin") == Origin(parser)
    assert parser.get_parsed_content("root") == "."


def test_outside_of_a_configuration_nothing_is_found():
    assert config_origin() == Origin()
    assert bundle_root() == "."


def test_commands_are_of_the_configuration_beside_and_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "a bundle"
    folder.mkdir()
    (folder / "evaluate.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"datalist": "data/mine.json"}')
    config = {"imports": ["$from medsynth.run import origin"], "checkpoint": str(tmp_path / "model.pt")}
    config |= {"inference": ["$print(origin.evaluation_command())", "$print(origin.command('training'))"]}
    (folder / "inference.json").write_text(json.dumps(config))
    (folder / "metadata.json").write_text("{}")
    monai.bundle.run("inference", config_file=str(folder / "inference.json"))
    judge, train = capsys.readouterr().out.splitlines()[-2:]
    assert shlex.split(judge)[:7] == [
        *["python", "-m", "monai.bundle", "run", "evaluation", "--config_file"],
        f"{folder}/evaluate.json",
    ]
    assert shlex.split(judge)[7:] == [
        "--checkpoint", f"{tmp_path}/model.pt", "--output_dir", f"{tmp_path}/evaluation", "--real", "data/mine.json",
    ]  # fmt: skip
    assert train == "None"
