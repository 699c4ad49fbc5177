"""Read, check, write and split datalists."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medsynth.errors import MedsynthError, is_number
from medsynth.storage import write_text

SPLITS = ("training", "validation", "test")
IMAGE, PAIR = ("image",), ("source", "target")  # keys of the images of an entry
PAIRS = "pairs.json"  # lists a phantom's pairs, beside its datalist of single images
BESIDE = ("segmentation", "mask")  # keys of what may lie beside them
HELD_OUT = 0.1  # part of the training patients that validate where no others are given
UNKNOWN_LABELS = ("", "n/a", "N/A", "nan")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Datalist:
    """The images of a study, split by patient.

    Args:
        name: of the study.
        splits: for `training`, `validation` and `test`, lists of entries
            {"image": absolute path, "subject": str, "label": str or None}, or with "source" and "target", or one of
            these two, instead of "image"; pictures may have a "position" from 0 to 1, any image the paths of a
            "segmentation" and a "mask", and "covariates", numbers by name. Where the source is several contrasts,
            "sources" are their paths by name, and "source" is the first of them.
        modalities: what the images show, as MONAI writes it: {"0": "T1w"}.
        digest: SHA-256 of the file that it was read from.
        segmentation_classes: what the codes of its label maps stand for, in the order of the codes; `labels` in the
            file, as MONAI writes it: {"0": "background", "1": "ventricles"}.
    """

    name: str
    splits: dict[str, list[dict[str, Any]]]
    modalities: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    segmentation_classes: dict[int, str] = field(default_factory=dict)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Those of all splits."""
        return [entry for split in SPLITS for entry in self.splits[split]]

    def split(self, name: str) -> list[dict[str, Any]]:
        """The entries of `training`, `validation` or `test`.

        Raises:
            MedsynthError: there are none.
        """
        if not self.splits[name]:
            raise MedsynthError(
                f"the datalist {self.name} has no {name} images: make it again with a share for them, such as "
                "--split 0.8 0.2 0"
            )
        return self.splits[name]

    def only(self, labels: str | Sequence[str] | None) -> Datalist:
        """The images of some classes; None: all, those of unknown class among them.

        Raises:
            MedsynthError: a class that no training image has.
        """
        if labels is None:
            return self
        wanted = [str(label) for label in ([labels] if isinstance(labels, (str, int, float)) else labels)]
        if not wanted or (unknown := sorted(set(wanted) - set(self.classes))):
            raise MedsynthError(
                f"labels names {', '.join(unknown) if wanted else 'no class'}, and the training images of {self.name} "
                f"have {'the classes ' + ', '.join(self.classes) if self.classes else 'no classes'}: "
                "name some of them, or leave labels null"
            )
        chosen = {split: [e for e in entries if e["label"] in wanted] for split, entries in self.splits.items()}
        return replace(self, splits=chosen)

    @property
    def classes(self) -> list[str]:
        """Labels of the training split, sorted."""
        return sorted({entry["label"] for entry in self.splits["training"]} - {None})

    @property
    def contrasts(self) -> list[str]:
        """Names of those that sources of training entries have, sorted; none if there are fewer than two.

        Raises:
            MedsynthError: other entries have more of them.
        """
        known = _contrasts_of(self.splits["training"])
        if unknown := sorted(_contrasts_of(self.entries) - known):
            raise MedsynthError(
                f"datalist {self.name} has sources of {', '.join(unknown)}, and no training subject has any: nothing "
                "can be learned from them; move some to training, or leave them out"
            )
        return sorted(known) if len(known) > 1 else []

    @property
    def covariates(self) -> list[str]:
        """Names of those that training images have, sorted."""
        return covariates_of(self.splits["training"])


def read(path: str | os.PathLike, keys: Sequence[str] = IMAGE) -> Datalist:
    """Read and check a datalist: every file is there, and no subject is in two splits.

    Args:
        path: of the file.
        keys: `IMAGE` or `PAIR`: what each entry has to have, at least one of them.
    """
    path = Path(path)
    if path.is_dir():
        raise MedsynthError(
            f"datalist {path} is a folder: list its images with tools/make_datalist.py {path} data/mine.json"
        )
    try:
        content = path.read_bytes()
        values = json.loads(content)
    except OSError as error:
        raise MedsynthError(f"datalist {path}: {error.strerror}: make one with tools/make_datalist.py") from error
    except ValueError as error:
        raise MedsynthError(f"datalist {path} is not JSON ({error}): make one with tools/make_datalist.py") from error
    if not isinstance(values, dict) or not isinstance(values.get("training"), list):
        raise MedsynthError(f'datalist {path} has no list "training": make one with tools/make_datalist.py')
    splits = {split: _read_split(path, keys, split, values.get(split, [])) for split in SPLITS}
    if not splits["training"]:
        raise MedsynthError(
            f'datalist {path}: "training" is empty, and nothing can be learned from it: move subjects there'
        )
    _check_subjects(path, splits)
    _check_contrasts(path, splits)
    _check_files(path, splits)
    digest = hashlib.sha256(content).hexdigest()
    try:
        from medsynth.data.io.segmentations import checked_classes  # imports MONAI: writing a list goes without

        classes = checked_classes(values.get("labels", {}))
    except MedsynthError as error:
        raise MedsynthError(f"datalist {path}: {error}") from error
    return Datalist(str(values.get("name", path.stem)), splits, values.get("modalities", {}), digest, classes)


def write(path: str | os.PathLike, datalist: Datalist) -> None:
    """Write a datalist, whole or not at all; image paths relative to it."""
    path = Path(path)
    values: dict[str, Any] = {"name": datalist.name, "modalities": datalist.modalities}
    if datalist.segmentation_classes:
        values["labels"] = {str(code): name for code, name in datalist.segmentation_classes.items()}
    for split in SPLITS:
        values[split] = [_written(entry, path) for entry in datalist.splits[split]]
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def files_of(entry: dict[str, Any]) -> dict[str, str]:
    """The paths in an entry: its "image", or its "source" and "target" as far as it has them.

    Of several contrasts, the keys are "source T1w" and so on.
    """
    found: dict[str, str] = {}
    for key in (*IMAGE, *PAIR):
        if key == "source" and "sources" in entry:
            found |= {f"{key} {name}": file for name, file in entry["sources"].items()}
        elif key in entry:
            found[key] = entry[key]
    return found


def domain_of_file(key: str) -> str:
    """What a key of `files_of` belongs to: `source` of "source T1w"."""
    return key.partition(" ")[0]


def contrast_of_file(key: str) -> str:
    """The contrast of a key of `files_of`: `T1w` of "source T1w"; of one without, the key itself."""
    return key.partition(" ")[2] or key


def covariates_of(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the covariates that some entries have, sorted."""
    return sorted({name for entry in entries for name in entry.get("covariates") or ()})


def split_by_patient(
    entries: Sequence[dict[str, Any]], fractions: Sequence[float], seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Deal subjects, each with all its images, to training, validation and test.

    Every class is dealt in the same shares, to the nearest subject.

    Args:
        entries: with "subject" and "label"; a subject of several labels counts for the first of them.
        fractions: shares of training, validation and test; they sum to 1.
        seed: of the order in which the subjects of a class are dealt.
    """
    check_shares(fractions)
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        images[entry["subject"]].append(entry)
    subjects = sorted(images)
    np.random.default_rng(seed).shuffle(subjects)
    subjects.sort(key=lambda subject: images[subject][0]["label"] or "")
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    dealt = np.zeros(len(SPLITS))
    for number, subject in enumerate(subjects, start=1):
        furthest_behind = int(np.argmax(np.asarray(fractions) * number - dealt))
        dealt[furthest_behind] += 1
        splits[SPLITS[furthest_behind]] += images[subject]
    return {split: sorted(chosen, key=lambda entry: list(files_of(entry).values())) for split, chosen in splits.items()}


def check_shares(fractions: Sequence[float]) -> None:
    """Refuse shares of training, validation and test that do not sum to 1."""
    if len(fractions) != len(SPLITS) or not min(fractions) >= 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise MedsynthError(f"split is {list(fractions)}: give three shares that sum to 1, such as 0.7 0.15 0.15")


def hold_out(entries: Sequence[dict[str, Any]], seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Take validation patients from the training patients: a tenth, at least one, of each class in equal shares.

    Of sources without target and of targets without source, a tenth each.

    Returns: what is left to train on, and what was taken; nothing where there is one patient alone.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        kinds[entry["subject"]] |= files_of(entry).keys()
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[tuple(sorted(kinds[entry["subject"]]))].append(entry)
    taken: set[str] = set()
    for group in groups.values():
        subjects = sorted({entry["subject"] for entry in group})
        held = split_by_patient(group, (1 - HELD_OUT, HELD_OUT, 0.0), seed)["validation"]
        taken |= {entry["subject"] for entry in held} or set(subjects[-1:] if len(subjects) > 1 else [])
    return [e for e in entries if e["subject"] not in taken], [e for e in entries if e["subject"] in taken]


def _read_split(path: Path, keys: Sequence[str], split: str, values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise MedsynthError(f'datalist {path}: "{split}" is not a list of entries')
    return [_read_entry(path, keys, f"{split} entry {number}", value) for number, value in enumerate(values, start=1)]


def _read_entry(path: Path, keys: Sequence[str], where: str, value: Any) -> dict[str, Any]:
    for some in (keys, ("subject",)):
        if not isinstance(value, dict) or all(value.get(key) in (None, "") for key in some):
            missing, needed = ('" or "'.join(names) for names in (some, keys))
            advice, pairs = f'each needs "{needed}" and "subject"', path.with_name(PAIRS)
            if "source" in some and path != pairs and pairs.is_file():
                advice = f"the pairs are in {pairs}"
            elif isinstance(value, dict) and value.get("source"):
                advice = "these are pairs, for bundles/translation; tools/make_datalist.py lists single images"
            raise MedsynthError(f'datalist {path}: {where} has no "{missing}": {advice}')
    value = _with_sources(path, where, value)
    label = value.get("label")
    named = (*keys, *BESIDE)
    files = {key: os.path.normpath(path.parent.absolute() / str(value[key])) for key in named if value.get(key)}
    position = value.get("position")
    if position is not None and not (is_number(position) and 0 <= position <= 1):
        raise MedsynthError(f'datalist {path}: {where} has the "position" {position!r}: write a number from 0 to 1')
    covariates = value.get("covariates")
    if covariates is not None and not (isinstance(covariates, dict) and all(map(is_number, covariates.values()))):
        raise MedsynthError(
            f'datalist {path}: {where} has the "covariates" {covariates!r}: write a number for each name, such as '
            '{"age": 35.8}, and leave out what is unknown'
        )
    return {key: item for key, item in value.items() if key not in named} | {
        **files,
        "subject": str(value["subject"]),
        "label": None if label is None or str(label).strip() in UNKNOWN_LABELS else str(label),
    }


def _with_sources(path: Path, where: str, value: dict[str, Any]) -> dict[str, Any]:
    """The entry with its contrasts as "sources", and the first of them as its "source"; others unchanged."""
    given = value.get("source")
    if not isinstance(given, dict):
        return {key: item for key, item in value.items() if key != "sources"}
    files = {name: file for name, file in given.items() if file not in (None, "")}
    if not files:
        raise MedsynthError(
            f"datalist {path}: {where}, {value['subject']}, has no source: give the file of one contrast, such as "
            '{"T1w": "T1w.nii.gz"}, or leave the subject out'
        )
    found = {name: os.path.normpath(path.parent.absolute() / str(file)) for name, file in files.items()}
    return value | {"source": next(iter(found.values())), "sources": found}


def _contrasts_of(entries: Sequence[dict[str, Any]]) -> set[str]:
    return {name for entry in entries for name in entry.get("sources", ())}


def _check_contrasts(path: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse a list in which some sources have the name of a contrast and others have none."""
    sources = [entry for entries in splits.values() for entry in entries if "source" in entry]
    unnamed, names = [one["source"] for one in sources if "sources" not in one], sorted(_contrasts_of(sources))
    if unnamed and names:
        raise MedsynthError(
            f"datalist {path}: {unnamed[0]} is a source without a contrast, and others are {', '.join(names)}: name "
            f'each, such as {{"{names[0]}": "scan.nii.gz"}}'
        )


def _check_files(path: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    entries = [entry for entries in splits.values() for entry in entries]
    images = [(image, entry.get("frame")) for entry in entries for image in files_of(entry).values()]
    if missing := [image for image, _ in images if not Path(image).is_file()]:
        raise MedsynthError(
            f"datalist {path}: {len(missing)} of {len(images)} images do not exist, the first is {missing[0]}: "
            "paths are relative to the datalist; move it back or make it again"
        )
    (image, _), times = Counter(images).most_common(1)[0]
    if times > 1:
        raise MedsynthError(f"datalist {path}: {image} is listed {times} times: keep one of them")


def _check_subjects(path: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    seen: dict[str, str] = {}
    for split, entries in splits.items():
        for subject in {entry["subject"] for entry in entries}:
            if subject in seen:
                raise MedsynthError(
                    f"datalist {path}: subject {subject} is in {seen[subject]} and in {split}: results on a patient "
                    "who was trained on mean nothing; keep each subject in one list"
                )
            seen[subject] = split


def _written(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    """An entry as it stands in the file."""
    files = {key: _relative(entry[key], path) for key in (*IMAGE, *PAIR, *BESIDE) if entry.get(key)}
    if "sources" in entry:
        files["source"] = {name: _relative(file, path) for name, file in entry["sources"].items()}
    return {key: item for key, item in entry.items() if key != "sources"} | files


def _relative(image: str, path: Path) -> str:
    return Path(os.path.relpath(image, path.resolve().parent)).as_posix()
