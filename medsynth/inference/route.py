"""The route of inputs through a network: read each, call the network, write the result on the input's grid."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsynth.data.io import sources
from medsynth.data.io.sources import Source
from medsynth.data.io.writing import ALIGNED
from medsynth.data.preprocessing.preparation import reason
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import GRID_COLUMNS, ImageFolder, digits, in_rows, spread

MOST_SHOWN = 36  # inputs in the grid, or slices where fewer inputs have several each

log = logging.getLogger(__name__)

Shown = Sequence[tuple[Tensor, ...]]
"""For the grid: images (C, H, W) in [-1, 1] that belong together, such as a slice before and after, and more such."""

Inputs = Sequence[Mapping[str, Any]]
"""{"image": path}, with "frame" for a frame of a 4D file, and further entries of a datalist."""


class Input(NamedTuple):
    """An input: its number, what a datalist says of it, its file, and the network's input."""

    index: int
    entry: Mapping[str, Any]
    source: Source
    ready: Any


@dataclass(frozen=True)
class Made:
    """What a network made of an input, in units and on a grid that overlays the input.

    Args:
        values, affine, facts, sidecar, code: see `ImageFolder.write`.
        deviation: standard deviation of several samples, and its description, for a file of its own; None: not written.
        dicom: modality of the DICOM series that is written besides; None: none is.
        segmentation: codes of its label map, see `ImageFolder.write`; None: it has none.
        classes: names of these codes, for a DICOM SEG beside the DICOM series.
    """

    values: np.ndarray
    affine: np.ndarray
    facts: dict[str, Any]
    sidecar: dict[str, Any]
    shown: Shown
    code: int = ALIGNED
    deviation: tuple[np.ndarray, str] | None = None
    dicom: str | None = None
    segmentation: np.ndarray | None = None
    classes: Mapping[int, str] = field(default_factory=dict)

    def write(self, name: str, source: Source, output: ImageFolder) -> None:
        """Write it to the folder."""
        output.write(name, self.values, self.affine, self.facts, self.sidecar, self.code, self.segmentation)
        output.log_source(name, source)
        if self.dicom:
            labels = (self.segmentation, self.classes) if self.segmentation is not None else None
            output.write_dicom(name, self.values, self.affine, self.dicom, source, labels)
        if self.deviation:
            values, quantity = self.deviation
            output.write(
                f"{name}_std", values, self.affine, self.facts, self.sidecar | {"Quantity": quantity}, self.code
            )


def side_by_side(shown: Shown) -> tuple[Tensor, int]:
    """The grid and its columns: images that belong together in a row, up to four sets a row."""
    return torch.stack([image for images in shown for image in images]), len(shown[0]) * min(len(shown), 4)


def one_below_the_other(shown: Shown) -> tuple[Tensor, int]:
    """The grid and its columns: images that belong together in a column; incomplete rows are left out."""
    columns = min(GRID_COLUMNS, len(shown))
    whole = shown if len(shown[0]) == 1 else shown[: len(shown) // columns * columns]
    return torch.stack(in_rows(columns, *zip(*whole, strict=True))), columns


@dataclass(frozen=True)
class Route:
    """How inputs go through a network into a folder.

    Args:
        name: of what is made, for file names.
        read: prepares an input; what is wrong with it is a MedsynthError, in words that follow the file's name.
        make: inputs, at most `batch_size` of them -> what the network makes of each.
        done: of the inputs, for the log.
        layout: of the grid, and its columns.
        own_names: as PNG, each image has the name of its input, see `ImageFolder.name_after`.
    """

    name: str
    read: Callable[[Source], Any]
    make: Callable[[Sequence[Input]], Iterable[Made]]
    done: str = "inputs are"
    layout: Callable[[Shown], tuple[Tensor, int]] = side_by_side
    own_names: bool = False
    batch_size: int = 1

    def run(self, inputs: Inputs, output: ImageFolder) -> None:
        """Write what the network makes of each input that is `usable`, numbered in their order.

        The grid shows at most `MOST_SHOWN` inputs, evenly spread.
        """
        if any(output.images.resolve() in Path(entry["image"]).resolve().parents for entry in inputs):
            raise MedsynthError(f"the input is in {output.images}, which will be replaced: give another output_dir")
        names = [f"{self.name}_{index:0{digits(len(inputs))}d}" for index in range(len(inputs))]
        if self.own_names:
            output.name_after({name: entry["image"] for name, entry in zip(names, inputs, strict=True)})
        count, shown, chosen = 0, [], spread(len(inputs), MOST_SHOWN)
        ready = usable(inputs, self.read, self.name)
        while batch := list(itertools.islice(ready, self.batch_size)):
            for one, made in zip(batch, self.make(batch), strict=True):
                made = replace(made, sidecar=made.sidecar | forced(one.entry))
                made.write(names[one.index], one.source, output)
                count += 1
                if one.index in chosen or not shown:
                    shown += made.shown
        output.finish(*self.layout(shown))
        grid = output.folder / "grid.png"
        way = "above" if self.layout is one_below_the_other else "left of"
        words = f": each input is {way} what is made of it" if len(shown[0]) > 1 else ""
        log.info("%d of %d %s in %s; look at %s%s", count, len(inputs), self.done, output.folder, grid, words)


def usable(inputs: Inputs, read: Callable[[Source], Any], title: str) -> Iterator[Input]:
    """Prepare inputs one by one, as the progress bar of this title shows.

    Inputs that cannot be used are left out, and reported at the end; if none can be used, it is an error.
    """
    reasons: list[str] = []
    for index, entry in enumerate(tqdm(inputs, desc=title, unit="input")):
        source = Source.of(entry)
        try:
            ready = read(source)
        except Exception as error:  # transforms wrap what they raise
            subject = f"{entry['subject']}: " if source.contrasts else ""
            reasons.append(f"{subject}{source.path} {reason(error)}")
            continue
        yield Input(index, entry, source, ready)
    if len(reasons) == len(inputs):
        raise MedsynthError(f"none of the {len(inputs)} inputs can be used: {reasons[0]}")
    for line in reasons:
        log.warning("left out: %s", line)


def some_slices(count: int, inputs: int) -> list[int]:
    """Which of an input's slices are in the grid."""
    return spread(count, max(1, MOST_SHOWN // inputs))


def forced(*entries: Mapping[str, Any]) -> dict[str, str]:
    """For sidecars: why inputs are not of the kind that the model learned, see `suitability.suitable`."""
    reasons = dict.fromkeys(entry["forced"] for entry in entries if "forced" in entry)
    return {"Forced": "; ".join(reasons)} if reasons else {}


def origin(source: Source) -> dict[str, Any]:
    """Which input an image is made from, for its sidecar: a digest, since files may be named after patients.

    Of several contrasts, the digest is that of the first, and their names and all digests are there.
    """
    digests = [sources.digest(one) for one in source.parts.values()]
    found = {"InputDigest": digests[0], "Sources": [f"hash://sha256/{digest}" for digest in digests]}
    return found | ({"Contrasts": list(source.parts)} if source.contrasts else {})
