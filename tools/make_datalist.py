"""Make a datalist of a folder of images, or of a table that lists them, split by patient.

python tools/make_datalist.py scans/ data/mine.json --participants participants.tsv --label group --split 0.7 0.15 0.15
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from medsynth.data.datalist import datalist
from medsynth.data.datalist.datalist import PAIR, SPLITS, Datalist
from medsynth.data.datalist.listing import is_listing
from medsynth.errors import MedsynthError, refuse_existing, run_tool
from medsynth.storage import disk_errors

if TYPE_CHECKING:
    from medsynth.data.datalist.participants import Covariates
    from medsynth.data.datalist.segmentations import Found
    from medsynth.data.datalist.survey import Survey

# What imports MONAI is imported in functions: help and errors of the command line come at once.

MOST_LINES = 30  # of what was left out
MOST_SERIES = 3  # of DICOM that are named
SHARES = (0.7, 0.15, 0.15)
REGISTERED_EXISTS = "give another name, or --overwrite to replace what is in it"


def main() -> None:
    """Find, split, write, and print what was found."""
    options = parse_options()
    check(options)
    from medsynth.data.datalist.participants import read_covariates, read_participants

    table = read_participants(options.participants, options.label) if options.participants else None
    covariates = read_covariates(options.participants, options.covariates) if options.covariates else None
    found = find(options, table)
    if covariates is not None:
        for entry in found.entries:
            if known := covariates.values.get(entry["subject"]):
                entry["covariates"] = known
    segmentations = segmentations_of(found, options)
    splits = split(found, options.split, options.seed)
    modalities = {str(i): contrast for i, contrast in enumerate(found.contrasts)}
    with disk_errors(options.output):
        options.output.parent.mkdir(parents=True, exist_ok=True)
    classes = segmentations.classes if segmentations else {}
    content = Datalist(options.name or options.output.stem, splits, modalities, segmentation_classes=classes)
    datalist.write(options.output, content)
    print("\n".join(table_of(found, splits, covariates, segmentations)))
    print(f"written to {options.output}")
    if len({entry["subject"] for entry in found.entries}) > 1:
        print(f"next: {next_command(found, options.output)}")


def check(options: argparse.Namespace) -> None:
    """Check the command line alone."""
    if not options.overwrite:
        refuse_existing(options.output, "give another name, or --overwrite to replace it")
        if options.register and options.target:
            refuse_existing(registered(options.output), REGISTERED_EXISTS)
    if not options.folder.exists() and not is_listing(options.folder):
        raise MedsynthError(f"there is no folder {options.folder}: give the one with the scans")
    if options.label and not options.participants and not is_listing(options.folder):
        raise MedsynthError(f"--label {options.label} names a column of a table: give the table with --participants")
    if options.covariates and not options.participants:
        raise MedsynthError(
            f"--covariates {' '.join(options.covariates)} names columns of a table: give the table with --participants"
        )
    if options.split:
        datalist.check_shares(options.split)
        if not options.split[0]:
            raise MedsynthError(f"--split {options.split} leaves no subject to train on: raise its first share")
    if options.source and not options.target:
        raise MedsynthError("pairs need both --source and --target, such as '*_T1w.nii.gz' and '*_FLAIR.nii.gz'")


def registered(output: Path) -> Path:
    """Where registered targets go."""
    return output.with_name(f"{output.stem}_registered")


def find(options: argparse.Namespace, table: dict[str, str | None] | None) -> Survey:
    """Images, or pairs of them that are checked for alignment."""
    from medsynth.data.datalist.layout import survey
    from medsynth.data.datalist.multicontrast import sources_of_target
    from medsynth.data.datalist.pairs import check_alignment, find_pairs, pair_domains
    from medsynth.data.datalist.quick_look import look

    if options.target:
        source, target, chosen = options.source, options.target, ""
        if not source:
            source, target, chosen = sources_of_target(options.folder, target)
        found = find_pairs(options.folder, source, target, table, options.subject_pattern, options.modality)
        found.chosen = chosen
    else:
        found = survey(
            options.folder,
            table,
            options.pattern,
            options.frame,
            options.label,
            options.subject_pattern,
            options.modality,
        )
        if found.pair is not None:
            whole, (source, target) = found, found.pair
            found = find_pairs(options.folder, source, target, table, options.subject_pattern, options.modality)
            found.chosen = (
                f"{counted(whole.shown)}: --source '{source}' and --target '{target}' were chosen; give other "
                "patterns, or one with --pattern"
            )
        if found.layout == "domains":
            pair_domains(found)
    if options.segmentation:
        from medsynth.data.datalist.segmentations import list_segmentations

        list_segmentations(found, options.folder, options.segmentation)
    if any(entry.keys() >= set(PAIR) for entry in found.entries):
        folder = registered(options.output) if options.register else None
        if folder is not None and not options.overwrite:
            refuse_existing(folder, REGISTERED_EXISTS)
        if folder is not None or not options.quick:
            check_alignment(found, folder)
    elif options.register:
        raise MedsynthError("--register aligns pairs: give --source and --target, the patterns of their names")
    if not options.quick:
        look(found)
    return found


def segmentations_of(found: Survey, options: argparse.Namespace) -> Found | None:
    """What the label maps hold; None if there are none, or they were not looked at."""
    from medsynth.data.datalist.segmentations import look_at_segmentations

    listed = any({"image", "segmentation"} <= set(entry) for entry in found.entries)  # pairs have them unread
    if options.segmentation or (listed and not options.quick):
        try:
            segmentations = look_at_segmentations(found.entries)
        except MedsynthError as error:
            if options.segmentation:
                raise
            found.notes.append(f"use_segmentation cannot be used with this list: {error}")
            return None
        found.notes += segmentations.notes
        return segmentations
    return None


def split(found: Survey, shares: list[float] | None, seed: int) -> dict[str, list[dict]]:
    """Split as folders or a table give it, unless shares are given; else by patient.

    If only validation patients are missing, they are taken from the training patients.
    """
    if found.splits is not None and shares is None:
        remaining = set(map(id, found.entries))
        splits = {
            name: [entry for entry in entries if id(entry) in remaining] for name, entries in found.splits.items()
        }
        if not splits["validation"]:
            splits["training"], splits["validation"] = datalist.hold_out(splits["training"], seed)
            count = len({entry["subject"] for entry in splits["validation"]})
            found.notes.append(f"the given split has no validation: {count} of the training patients were moved to it")
    else:
        splits = datalist.split_by_patient(found.entries, shares or SHARES, seed)
    if not splits["training"]:
        raise MedsynthError(f"--split {shares or SHARES} leaves no subject to train on: raise its first share")
    return splits


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of images, with its subfolders; or a .csv or .tsv of paths")
    parser.add_argument("output", type=Path, help="the datalist to write, .json")
    parser.add_argument("--pattern", default="*", help="names of the files to take, such as '*_T1w.nii.gz'")
    parser.add_argument("--frame", type=int, help="which volume of 4D images to take, counted from 0")
    parser.add_argument("--modality", nargs="+", help="of DICOM to take, such as PT for PET; default: CT and MR")
    parser.add_argument(
        "--source",
        action="append",
        help="of pairs: names of the source files, such as '*_T1w.nii.gz'; once for each of several contrasts",
    )
    parser.add_argument(
        "--target",
        help="of pairs: names of the target files, such as '*_FLAIR.nii.gz'; without --source, all other contrasts of "
        "MRI are sources, and it may be a contrast, such as flair",
    )
    parser.add_argument(
        "--register", action="store_true", help="register targets, and further contrasts, to sources, in a new folder"
    )
    parser.add_argument(
        "--subject_pattern",
        help="regular expression that finds the patient, and optionally the slice, in a path below the folder, "
        r"such as '(?P<subject>\d+)_(?P<slice>\d+)$'; default: guessed",
    )
    parser.add_argument(
        "--segmentation",
        metavar="PATTERN",
        help="names of the label maps, one for each image, such as '*_dseg.nii.gz' or 'labels/*.nii.gz'; "
        "default: told by their names",
    )
    parser.add_argument("--participants", type=Path, help="table with a column participant_id, .tsv or .csv")
    parser.add_argument("--label", help="column of that table that holds the class")
    parser.add_argument(
        "--covariates",
        nargs="+",
        metavar="COLUMN",
        help="columns of that table that hold numbers, such as age, or one of two words, which become 0 and 1",
    )
    parser.add_argument(
        "--split",
        type=float,
        nargs=3,
        metavar=tuple(SPLITS),
        help=f"shares; default: as folders or a table give it, else {SHARES}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--name", help="of the study; default: the name of the datalist")
    parser.add_argument(
        "--quick", action="store_true", help="list without a look at values and at the alignment of pairs"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a datalist that is there already")
    return parser.parse_args()


def table_of(
    found: Survey,
    splits: dict[str, list[dict]],
    covariates: Covariates | None = None,
    segmentations: Found | None = None,
) -> list[str]:
    """What was found, what was left out and why, line by line."""
    from medsynth.data.datalist.layout import LAYOUTS

    rows = [
        ("layout", LAYOUTS.get(found.layout, "pairs")),
        *([("pairs", found.chosen)] if found.chosen else []),
        ("subjects", str(len({entry["subject"] for entry in found.entries}))),
        ("images", images_of(found.entries)),
        *([("names", found.example)] if found.example else []),
        ("classes", classes_of(found.entries)),
        *[row for key in datalist.BESIDE if (row := beside(found.entries, key))],
        *(segmentation_rows(segmentations) if segmentations else []),
        *(covariate_rows(found.entries, covariates) if covariates else []),
    ]
    if found.example:  # pictures have no slices, and no millimetres
        rows.append(("sizes", counted(" x ".join(map(str, header.shape[:2])) for header in found.headers)))
    else:
        spacings = (" x ".join(f"{mm:.3g}" for mm in header.spacing_mm) for header in found.headers)
        rows.append(("sizes", counted(" x ".join(map(str, header.shape)) for header in found.headers)))
        rows.append(("spacings in mm", counted(spacings)))
    for split, entries in splits.items():
        subjects = len({entry["subject"] for entry in entries})
        rows.append((split, f"{subjects} subjects, {len(entries)} images: {classes_of(entries)}"))
    rows += left_out_rows(found.left_out)
    rows += [("note", note) for note in found.notes]
    if len({entry["subject"] for entry in found.entries}) == 1:
        rows.append(
            ("note", "there is one subject only: inference can use this list, training needs two patients or more")
        )
    else:
        rows += [("note", f"{split} has no subjects: see --split") for split, entries in splits.items() if not entries]
    return [f"{name:<15} {value}" for name, value in rows]


def images_of(entries: list[dict]) -> str:
    """How many images there are; of a few series of DICOM, also where."""
    from medsynth.data.io.sources import is_dicom, shown

    files = [file for entry in entries for file in datalist.files_of(entry).values()]
    series = [shown(file) for file in files[:MOST_SERIES] if is_dicom(file)]
    more = ", ..." if series and len(files) > MOST_SERIES else ""
    return f"{len(files)}" + (f": {', '.join(series)}{more}" if series else "")


def next_command(found: Survey, output: Path) -> str:
    """The command that chooses one of several contrasts, else the one that trains, with the images' modality."""
    from medsynth.data.datalist.contrasts import ranked
    from medsynth.data.datalist.words import modality_of
    from medsynth.data.io.sources import is_picture

    files = [file for entry in found.entries for file in datalist.files_of(entry).values()]
    is_paired = any(entry.keys() & set(PAIR) for entry in found.entries)
    contrasts = [contrast for contrast in ranked(found.shown) if contrast in found.patterns]
    if len(found.contrasts) > 1 and contrasts and not is_paired:
        again = [] if "--overwrite" in sys.argv else ["--overwrite"]
        return shlex.join(["python", *sys.argv, "--pattern", found.patterns[contrasts[0]], *again])
    modality = {modality_of(contrast) for contrast in found.shown}
    words = [] if is_paired or modality != {"CT"} else ["--modality", "ct"]
    words = ["--modality", "image"] if all(map(is_picture, files)) else words
    words += ["--use_segmentation", "true"] if "--segmentation" in sys.argv else []
    bundle = "translation" if is_paired else "vaegan"
    command = ["python", "-m", "monai.bundle", "run", "training", "--config_file", f"bundles/{bundle}/train.json"]
    names = [] if is_paired else datalist.covariates_of(found.entries)
    known = f' --covariates "{names}"' if names else ""
    return shlex.join([*command, "--datalist", str(output), *words, "--output_dir", f"runs/{output.stem}"]) + known


def beside(entries: list[dict], key: str) -> tuple[str, str] | None:
    """How many images have a mask or a segmentation; None if none has."""
    found = [entry[key] for entry in entries if key in entry]
    return (f"{key}s", f"{len(found)}, such as {found[0]}: no images, listed beside theirs") if found else None


def left_out_rows(left_out: dict[Path, str]) -> list[tuple[str, str]]:
    """What was left out, once for each reason."""
    from medsynth.data.io.sources import shown

    reasons: dict[str, list[Path]] = {}
    for path, reason in left_out.items():
        reasons.setdefault(reason, []).append(path)
    lines = [
        f"{shown(paths[0])} {reason}" + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")
        for reason, paths in reasons.items()
    ]
    rest = [f"and {len(lines) - MOST_LINES} more reasons"] if len(lines) > MOST_LINES else []
    return [("left out", str(len(left_out))), *(("", line) for line in [*lines[:MOST_LINES], *rest])]


def covariate_rows(entries: list[dict], covariates: Covariates) -> list[tuple[str, str]]:
    """Mean, range and number of unknown values of each covariate, over the subjects that have images."""
    subjects = {entry["subject"]: entry.get("covariates", {}) for entry in entries}
    rows = []
    for name in covariates.names:
        values = [known[name] for known in subjects.values() if name in known]
        codes = "".join(f"{word} is {code}, " for code, word in enumerate(covariates.codes.get(name, ())))
        found = f"mean {sum(values) / len(values):.4g}, range {min(values):g} to {max(values):g}, " if values else ""
        unknown = f"unknown for {len(subjects) - len(values)} of {len(subjects)} subjects"
        rows.append((f"covariate {name}", codes + found + unknown))
    return rows


def segmentation_rows(segmentations: Found) -> list[tuple[str, str]]:
    """Code, name, voxels and share of the voxels of each class of the label maps."""
    total = max(1, segmentations.voxels.total())
    return [
        ("label map" if not number else "", f"{code} is {name}: {segmentations.voxels[code]:,} voxels, {share:.2%}")
        for number, (code, name) in enumerate(segmentations.classes.items())
        for share in [segmentations.voxels[code] / total]
    ]


def classes_of(entries: list[dict]) -> str:
    """How many images each class has."""
    return counted(entry["label"] or "unlabelled" for entry in entries) or "none"


def counted(values: Iterable[str], most: int = 5) -> str:
    """Values and how often each occurs, the most frequent first."""
    counts = Counter(values).most_common()
    rest = [f"{len(counts) - most} others"] if len(counts) > most else []
    return ", ".join([f"{value} ({count})" for value, count in counts[:most]] + rest)


if __name__ == "__main__":
    run_tool(main)
