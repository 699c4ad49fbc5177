"""Slices back to files: NIfTI in the user's units and geometry, or PNG, each with a sidecar that describes it."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.utils import make_grid, save_image

from medsynth.data.io import sources
from medsynth.data.io.dicom_export import export
from medsynth.data.io.dicom_segmentation import export_segmentation
from medsynth.data.io.sources import Source
from medsynth.data.io.writing import ALIGNED, nifti, png, safe
from medsynth.errors import MedsynthError
from medsynth.storage import disk_errors, write_bytes, write_text

BIDS_VERSION = "1.10.0"
ENDINGS = {"nifti": ".nii.gz", "png": ".png"}  # of files, by format
GRID_COLUMNS = 9
MOST_LOGGED = 20  # inputs that are logged at level INFO
DESCRIPTIONS = ("images.csv", "grid.png", "dataset_description.json", "dataset.json")
LAYOUTS = {"images": ("images", "segmentations"), "nnunet": ("imagesTr", "labelsTr")}
"""Folders of images and of label maps."""
ENDS = {"images": ("", "_dseg"), "nnunet": ("_0000", "")}  # of the names of images and of label maps
EXTRAS = ("latents.npz", "projected.npz", "interpolation.gif")  # what some modes write beside the images

log = logging.getLogger(__name__)


def digits(count: int) -> int:
    """Figures that numbers below `count` are written with, so that names sort like numbers."""
    return max(4, len(str(count - 1)))


class ImageFolder:
    """The folder of a model's images: `images/`, `images.csv`, `grid.png`, `dataset_description.json`, and more.

    Images may have label maps, in `segmentations/` with their names in `dseg.tsv`; in nnU-Net's layout, images are in
    `imagesTr/`, label maps in `labelsTr/`, and `dataset.json` describes them.

    Nothing is written before the first image, and `finish` writes the rest.

    Attributes:
        images: the folder in it that holds them.
        rows: of images.csv, so far.
        ending: of the images' file names.

    Args:
        folder: to write to; it need not exist.
        stem: of the system, the beginning of every name.
        model_digest: SHA-256 of the model.pt.
        overwrite: replace all images of an earlier call; if false, a folder that has some is refused.
        format: of ENDINGS; `png` is for pictures.
        modalities: of the model's images.
        layout: of LAYOUTS; `nnunet` is for images with label maps.
    """

    def __init__(
        self,
        folder: str | Path,
        stem: str,
        model_digest: str,
        overwrite: bool = False,
        format: str = "nifti",
        modalities: Sequence[str] = (),
        layout: str = "images",
    ) -> None:
        _check_format(format, modalities)
        if layout not in LAYOUTS:
            raise MedsynthError(f"layout is {layout!r}: choose one of {', '.join(LAYOUTS)}")
        self.folder, self.stem, self.model_digest = Path(folder), stem, model_digest
        self.format, self.ending = format, ENDINGS[format]
        self._names: dict[str, str] = {}
        self._logged = 0
        self.rows: list[dict[str, Any]] = []
        self.layout, self.modalities = layout, modalities
        self.images, self.segmentations = (self.folder / name for name in LAYOUTS[layout])
        parts = [self.images, self.segmentations, *(self.folder / name for name in (*DESCRIPTIONS, *EXTRAS, "dicom"))]
        if not overwrite and (found := [path for path in parts if path.exists()]):
            raise MedsynthError(f"{found[0]} is there already: give another output_dir, or --overwrite true")
        there = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            why = "no write access is granted" if there.is_dir() else "it is a file"
            raise MedsynthError(f"cannot write to {there}: {why}: give another output_dir")

    def name_after(self, inputs: Mapping[str, str | Path]) -> None:
        """With PNG, give each image the name of the picture that it is made from; with NIfTI, change nothing.

        Args:
            inputs: the name that `write` will get -> the input's file.

        Raises:
            MedsynthError: two inputs have one name, or a user's file already has it; nothing is written then.
        """
        if self.format != "png":
            return
        first: dict[str, str | Path] = {}
        for name, path in inputs.items():
            self._names[name] = own = Path(str(path).removesuffix(".gz")).stem
            if own.casefold() in first:
                raise MedsynthError(
                    f"{first[own.casefold()]} and {path} would both become {own}.png: rename one, or leave format out"
                )
            first[own.casefold()] = path
            files = [self.images / f"{own}{ending}" for ending in (".png", ".json")]
            if (found := [file for file in files if file.exists()]) and not _is_synthetic(files[1]):
                raise MedsynthError(f"{found[0]} is there and was not made by medsynth: give another output_dir")

    def write(
        self,
        name: str,
        array: np.ndarray,
        affine: np.ndarray,
        facts: dict[str, Any],
        sidecar: dict[str, Any],
        code: int = ALIGNED,
        segmentation: np.ndarray | None = None,
    ) -> None:
        """Write one image (rows, columns, slices) and its sidecar, and its label map.

        Args:
            name: what follows the stem, without any part of an input's name; see `name_after`.
            facts: for the sidecar and, in small letters, for its row in images.csv; there, those that are
                dictionaries become a column for each of their keys, as it is written.
            sidecar: for the sidecar alone.
            code: NIfTI's, of the coordinates.
            segmentation: codes of its label map, like the image; None: it has none.
        """
        image = png(array) if self.format == "png" else nifti(array, affine, code=code)
        if not self.rows:
            self._open(self.images)
        own, of_labels = (f"{self._full(name)}{end}" for end in ENDS[self.layout])
        row = {"file": f"{self.images.name}/{own}{self.ending}"}
        if segmentation is not None:
            codes = segmentation.astype(np.uint8 if segmentation.max() < 256 else np.uint16)
            labels = png(codes) if self.format == "png" else nifti(codes, affine, code=code)
            row["segmentation"] = f"{self.segmentations.name}/{of_labels}{self.ending}"
            sidecar = sidecar | {"Segmentation": row["segmentation"]}
            with disk_errors(self.segmentations):
                self.segmentations.mkdir(exist_ok=True)
            write_bytes(self.folder / row["segmentation"], labels)
        content = self._origin() | facts | sidecar
        # the sidecar first: no image is ever without one
        write_text(self.images / f"{own}.json", json.dumps(content, indent=4) + "\n")
        write_bytes(self.images / f"{own}{self.ending}", image)
        row |= {key.lower(): value for key, value in facts.items() if not isinstance(value, dict)}
        for group in (value for value in facts.values() if isinstance(value, dict)):
            row |= {key: value for key, value in group.items() if key not in row}
        self.rows.append(row)

    def log_source(self, name: str, source: Source) -> None:
        """Log which input became which image; no sidecar does, since inputs may be named after patients.

        Beyond the first `MOST_LOGGED` inputs, at debug level, so that other lines stay visible.
        """
        level = logging.INFO if self._logged < MOST_LOGGED else logging.DEBUG
        self._logged += 1
        log.log(level, "%s%s is made from %s", self._full(name), self.ending, source.path)

    def write_dicom(
        self,
        name: str,
        array: np.ndarray,
        affine: np.ndarray,
        modality: str,
        source: Source | None = None,
        segmentation: tuple[np.ndarray, Mapping[int, str]] | None = None,
    ) -> None:
        """Write one image again, as a DICOM series that refers to that which it was made from, if there is one.

        Args:
            segmentation: codes of its label map and their names, for a DICOM SEG beside the series; None: it has none.
        """
        files = sources.files(source) if source is not None and sources.is_dicom(source.path) else ()
        derivation = f"Synthetic: made by medsynth {version('medsynth')}, model {self.stem} {self.model_digest[:16]}"
        folder = self.folder / "dicom" / self._full(name)
        # a series of this name is of an earlier call that is to be replaced: `__init__` has checked it
        export(array, affine, folder, modality, derivation, files, overwrite=True)
        if segmentation is not None:
            export_segmentation(*segmentation, folder, folder.with_name(f"{folder.name}_dseg.dcm"))

    def finish(self, grid: Tensor, columns: int = GRID_COLUMNS) -> None:
        """Write what describes the images together.

        Args:
            grid: (N, C, H, W) in [-1, 1], shown row by row.
            columns: in the grid.
        """
        self.write_grid(grid, columns)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "images.csv", table.getvalue())
        description = {"Name": f"Synthetic images of {self.stem}", "BIDSVersion": BIDS_VERSION}
        description |= {"DatasetType": "derivative", "GeneratedBy": [_software()]}
        write_text(self.folder / "dataset_description.json", json.dumps(description, indent=4) + "\n")

    def describe_segmentations(self, classes: Mapping[int, str]) -> None:
        """Write the names of the codes of the label maps, as BIDS and as nnU-Net have them."""
        if self.layout == "images":
            rows = [f"{code}\t{name}" for code, name in classes.items()]
            write_text(self.segmentations / "dseg.tsv", "\n".join(["index\tname", *rows]) + "\n")
            return
        channel = {"ct": "CT"}.get(next(iter(self.modalities), ""), "zscore")  # how nnU-Net normalizes
        content = {"channel_names": {"0": channel}, "labels": {name: code for code, name in classes.items()}}
        content |= {"numTraining": len(self.rows), "file_ending": self.ending}
        write_text(self.folder / "dataset.json", json.dumps(content, indent=4) + "\n")

    def write_grid(self, images: Tensor, columns: int = GRID_COLUMNS, name: str | None = None) -> None:
        """Write (N, C, H, W) in [-1, 1] row by row to grid.png, or to a grid of that name."""
        picture = io.BytesIO()
        save_image(make_grid((images + 1) / 2, nrow=columns).clamp(0, 1), picture, format="png")
        write_bytes(self.folder / (f"grid_{safe(name)}.png" if name else "grid.png"), picture.getvalue())

    def write_extra(self, name: str, content: bytes) -> None:
        """Write one of EXTRAS."""
        if not self.rows:
            self._open(self.folder)
        write_bytes(self.folder / name, content)

    def _full(self, name: str) -> str:
        """Of a file, without its ending."""
        return self._names.get(name, f"{self.stem}_{name}")

    def _origin(self) -> dict[str, Any]:
        return {
            "Synthetic": True,
            "GeneratedBy": [_software()],
            "Model": self.stem,
            "ModelDigest": self.model_digest,
            "Date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _open(self, folder: Path) -> None:
        """Make the folder, and remove what an earlier call wrote."""
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*(self.folder / name for name in (*DESCRIPTIONS, *EXTRAS)), *self.folder.glob("grid_*.png")):
                path.unlink(missing_ok=True)
            sidecars = [file for images, _ in LAYOUTS.values() for file in (self.folder / images).glob("*.json")]
            for sidecar in sidecars:
                if _is_synthetic(sidecar):
                    if labels := read_sidecar(sidecar).get("Segmentation"):
                        beside = self.folder / Path(labels).parent.name / Path(labels).name
                        beside.unlink(missing_ok=True)
                        (beside.parent / "dseg.tsv").unlink(missing_ok=True)
                    for ending in ENDINGS.values():
                        sidecar.with_suffix(ending).unlink(missing_ok=True)
                    shutil.rmtree(self.folder / "dicom" / sidecar.stem, ignore_errors=True)
                    (self.folder / "dicom" / f"{sidecar.stem}_dseg.dcm").unlink(missing_ok=True)
                    sidecar.unlink()


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spread; a single one is in the middle."""
    shown = min(count, most)
    return [count * (2 * i + 1) // (2 * shown) for i in range(shown)]


def in_rows(columns: int, *sets: Sequence[Tensor]) -> list[Tensor]:
    """Images of equally many sets for a grid: a row of the first, below it the same of the second, and so on."""
    return [
        image
        for start in range(0, len(sets[0]), columns)
        for images in sets
        for image in images[start : start + columns]
    ]


def _check_format(format: str, modalities: Sequence[str]) -> None:
    if format not in ENDINGS:
        raise MedsynthError(f"format is {format!r}: choose one of {', '.join(ENDINGS)}")
    if format == "png" and (others := set(modalities) - {"image"}):
        raise MedsynthError(
            "format png is for models of pictures (modality image), and this one is of "
            f"{' and '.join(sorted(others))}: leave format out"
        )


def _software() -> dict[str, str]:
    return {"Name": "medsynth", "Version": version("medsynth")}


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """The content of an image's sidecar, {} if it has none."""
    path = Path(path)
    try:
        content = json.loads(path.with_name(path.name.removesuffix(".gz").rsplit(".", 1)[0] + ".json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_synthetic(sidecar: Path) -> bool:
    """Whether an image was made here, so that it may be replaced; others in the folder are left alone."""
    content = read_sidecar(sidecar)
    try:
        return content["Synthetic"] is True and content["GeneratedBy"][0]["Name"] == "medsynth"
    except (KeyError, TypeError, IndexError):
        return False
