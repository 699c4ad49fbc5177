from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "make_phantom.py"


@pytest.mark.parametrize(
    ("modalities", "bundle", "listed", "more"),
    [
        (["T1w"], "vaegan", "datalist.json", {}),
        (["CT"], "vaegan", "datalist.json", {"--modality": "ct"}),
        (["T1w", "CT"], "translation", "pairs.json", {}),
    ],
)
def test_the_next_command_trains_on_the_images_or_on_the_pairs(
    tmp_path, monkeypatch, capsys, modalities, bundle, listed, more
):
    folder = tmp_path / "my heads"
    arguments = [str(folder), "--subjects", "2", "--spacing_mm", "8", "--modalities", *modalities]
    monkeypatch.setattr(sys, "argv", ["make_phantom.py", *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")
    written, printed = capsys.readouterr().out.splitlines()
    assert written == str(folder / "datalist.json")
    words = shlex.split(printed.removeprefix("next: "))
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    options = {"--config_file": f"bundles/{bundle}/train.json", "--datalist": str(folder / listed), **more}
    assert dict(zip(words[5::2], words[6::2], strict=True)) == options | {"--output_dir": "runs/my heads"}
    assert (folder / listed).is_file()


def test_of_several_contrasts_the_next_command_lists_all_but_the_last_as_sources():
    command = runpy.run_path(str(TOOL))["next_command"](Path("data/heads"), ["T1w", "T2w", "FLAIR"])
    assert shlex.split(command) == [
        *("python", "tools/make_datalist.py", "data/heads", "data/heads.json", "--source", "*_T1w.nii.gz"),
        *("--source", "*_T2w.nii.gz", "--target", "*_FLAIR.nii.gz"),
    ]
