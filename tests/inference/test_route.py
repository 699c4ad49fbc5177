from __future__ import annotations

import csv
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from medsynth.data.io.sources import Source
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import MOST_LOGGED, ImageFolder
from medsynth.inference.route import MOST_SHOWN, Made, Route, one_below_the_other, side_by_side


def read(source: Source) -> float:
    """The number in a file; as of a volume, what is wrong is raised from within a pipeline."""

    def number(path: str) -> float:
        if "bad" in Path(path).name:
            raise MedsynthError("holds no number")
        return float(Path(path).read_text())

    return Compose([number])(source.path)


class Doubling:
    """The steps of a network that doubles, and the batches that it got."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def make(self, batch):
        self.batches.append([one.ready for one in batch])
        for one in batch:
            values, image = np.full((2, 2, 1), 2 * one.ready, np.float32), torch.full((1, 2, 2), float(one.index))
            yield Made(values, np.eye(4), {"Index": one.index}, {"Units": "none"}, [(image, -image)])

    def route(self, **options) -> Route:
        return Route("twice", read, self.make, **options)


@pytest.fixture
def inputs(tmp_path):
    """Inputs of these names, which hold 0, 1, 2 ..."""

    def make(*names: str) -> list[dict[str, str]]:
        for number, name in enumerate(names):
            (tmp_path / name).write_text(str(number))
        return [{"image": str(tmp_path / name)} for name in names]

    return make


@pytest.fixture
def output(tmp_path) -> ImageFolder:
    return ImageFolder(tmp_path / "out", "toy", "abc")


def value(output: ImageFolder, file: str) -> float:
    return nib.load(output.folder / file).get_fdata()[0, 0, 0]


def test_a_bad_input_among_good_ones_is_named_and_left_out(inputs, output, caplog):
    caplog.set_level(logging.INFO)
    Doubling().route().run(inputs("a", "bad", "c"), output)
    rows = list(csv.DictReader((output.folder / "images.csv").open()))
    assert {row["file"]: row["index"] for row in rows} == {
        "images/toy_twice_0000.nii.gz": "0",
        "images/toy_twice_0002.nii.gz": "2",
    }
    assert value(output, "images/toy_twice_0002.nii.gz") == 4
    folder = output.folder.parent
    assert f"left out: {folder / 'bad'} holds no number" in caplog.messages
    assert f"toy_twice_0002.nii.gz is made from {folder / 'c'}" in caplog.messages
    told = f"2 of 3 inputs are in {output.folder}; look at {output.folder / 'grid.png'}"
    assert f"{told}: each input is left of what is made of it" in caplog.messages


def test_inputs_that_are_all_bad_are_one_error_and_nothing_is_written(inputs, output):
    with pytest.raises(MedsynthError, match=r"^none of the 2 inputs can be used: .*bad1 holds no number$"):
        Doubling().route().run(inputs("bad1", "bad2"), output)
    assert not output.folder.exists()


def test_a_mistake_of_the_code_is_not_a_bad_input(inputs, output):
    entries = inputs("a", "b")
    Path(entries[1]["image"]).write_text("two")
    with pytest.raises(RuntimeError, match="applying transform"):
        Doubling().route().run(entries, output)


def test_inputs_inside_the_output_folder_are_refused(inputs, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(MedsynthError, match="which will be replaced: give another output_dir"):
        Doubling().route().run(inputs("images/a"), ImageFolder(tmp_path, "toy", "abc", overwrite=True))
    assert (tmp_path / "images" / "a").read_text() == "0"


@pytest.mark.parametrize(
    ("names", "batches"), [("abcde", [[0, 1], [2, 3], [4]]), (["a", "bad", "c", "d", "bad4"], [[0, 2], [3]])]
)
def test_batches_are_full_and_a_bad_last_input_loses_no_other(inputs, output, names, batches):
    network = Doubling()
    network.route(batch_size=2).run(inputs(*names), output)
    assert network.batches == batches
    assert len(output.rows) == sum(map(len, batches))


def test_of_many_inputs_those_in_the_grid_are_spread_over_all(inputs, output):
    seen = []

    def layout(shown):
        seen.extend(int(image[0, 0, 0]) for image, _ in shown)
        return side_by_side(shown)

    count = 2 * MOST_SHOWN
    Doubling().route(layout=layout).run(inputs(*map(str, range(count))), output)
    assert seen[0] == 0  # there must be one, even if no other can be used
    assert seen[1:] == list(range(1, count, 2))


def test_the_log_names_the_first_inputs_and_hides_the_others_below_its_level(inputs, output, caplog):
    caplog.set_level(logging.DEBUG, "medsynth")
    Doubling().route().run(inputs(*map(str, range(MOST_LOGGED + 2))), output)
    levels = [record.levelno for record in caplog.records if "is made from" in record.message]
    assert levels == [logging.INFO] * MOST_LOGGED + [logging.DEBUG] * 2


def test_a_deviation_has_a_file_of_its_own_that_says_what_it_is(inputs, output):
    def make(batch):
        for _ in batch:
            deviation = (np.full((2, 2, 1), 3, np.float32), "spread in each voxel")
            shown = [(torch.zeros(1, 2, 2),)]
            yield Made(np.zeros((2, 2, 1), np.float32), np.eye(4), {}, {}, shown, deviation=deviation)

    Route("twice", read, make).run(inputs("a"), output)
    assert [row["file"] for row in output.rows] == ["images/toy_twice_0000.nii.gz", "images/toy_twice_0000_std.nii.gz"]
    assert value(output, output.rows[1]["file"]) == 3
    assert "spread in each voxel" in (output.images / "toy_twice_0000_std.json").read_text()


def test_layouts_put_together_what_belongs_together():
    pairs = [(torch.full((1, 1, 1), float(i)), torch.full((1, 1, 1), float(-i))) for i in range(1, 12)]
    grid, columns = side_by_side(pairs)
    assert (grid[:4].flatten().tolist(), columns) == ([1, -1, 2, -2], 8)
    grid, columns = one_below_the_other(pairs)  # nine of eleven: the others would not stand below each other
    assert (grid.flatten().tolist(), columns) == ([*range(1, 10), *range(-1, -10, -1)], 9)
    grid, columns = one_below_the_other([pair[:1] for pair in pairs])
    assert (grid.flatten().tolist(), columns) == ([*range(1, 12)], 9)
