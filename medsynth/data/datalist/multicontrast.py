"""Several contrasts of each subject: named, matched, and chosen where only their target is given."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medsynth.data.datalist.contrasts import counted, patterns_of, ranked
from medsynth.data.datalist.layout import images_by_subject
from medsynth.data.datalist.words import contrast_in, fits, modality_of, stem
from medsynth.data.io.sources import is_picture
from medsynth.errors import MedsynthError

OTHER_MODALITIES = ("CT", "PET")  # which are no sources beside MRI

Named = Mapping[str, Sequence[tuple[Any, Any]]]
"""Images of one subject by contrast, each after a name that it shares with those that belong to it."""


def contrast_name(pattern: str, shown: Collection[str]) -> str:
    """Of the images that a pattern chooses: the contrast that all of them show, else what the pattern says."""
    found = set(shown)
    if len(found) == 1 and (name := found.pop()):
        return name
    return re.sub(r"[^A-Za-z0-9]+", "_", stem(pattern)).strip("_") or pattern


def grouped(images: Named) -> list[dict[str, Any]]:
    """What belongs together, at most one image of each contrast: all of a subject, or else those of equal names."""
    groups: dict[Any, dict[str, Any]] = defaultdict(dict)
    single = all(len(some) < 2 for some in images.values())
    for contrast, some in images.items():
        for number, (own, image) in enumerate(some):
            name = "" if single else own
            # two files of one name, in two folders: nothing says which belong together
            groups[(name, contrast, number) if contrast in groups[name] else name][contrast] = image
    return list(groups.values())


def grouped_contrasts(subject: str, images: Named) -> list[dict[str, Any]]:
    """The same, where each group has to be clear.

    Args:
        images: their paths.

    Raises:
        MedsynthError: names don't say which of two images of one contrast belongs to the others.
    """
    groups, most = grouped(images), max(images, key=lambda contrast: len(images[contrast]))
    names = [name for name, _ in images[most]]
    if len(groups) > len(names) or len(set(names)) < len(names) > 1:
        one, two = (path for _, path in images[most][:2])
        raise MedsynthError(
            f"{subject} has two files of {most}, {one} and {two}, and names don't say which of them belongs to the "
            "other contrasts: give a pattern that fits one of them alone, or put the other elsewhere"
        )
    return groups


def sources_of_target(folder: Path, target: str) -> tuple[list[str], str, str]:
    """What a folder is made for, if only the target is given: all other contrasts of MRI are sources.

    Args:
        target: a contrast, such as `flair`, or a pattern of names, such as `*_FLAIR.nii.gz`.

    Returns: the patterns of the sources, that of the target, and a line that says what was chosen.

    Raises:
        MedsynthError: no such contrast, or no other.
    """
    images, _ = images_by_subject(folder)
    contrasts = {
        Path(one["image"]).relative_to(folder.absolute()): one["contrast"]
        for one in images
        if not is_picture(one["image"])
    }
    patterns = patterns_of({path: contrast for path, contrast in contrasts.items() if contrast})
    named = next((name for name in patterns if name.lower() == target.lower()), None)
    pattern = patterns[named] if named else target
    taken = {contrast for path, contrast in contrasts.items() if fits(path, pattern)}
    sources = [
        name
        for name in ranked(list(contrasts.values()))
        if name in patterns and name not in taken and modality_of(name) not in OTHER_MODALITIES
    ]
    if not taken or not sources:
        lack = f"no images of --target {target}" if not taken else f"no other contrast of MRI than --target {target}"
        raise MedsynthError(
            f"{folder} holds {lack}: it has {counted(list(contrasts.values())) or 'no volumes'}; give a pattern for "
            "each with --source and --target"
        )
    chosen = [patterns[name] for name in sources]
    words = " ".join(f"--source '{one}'" for one in chosen)
    return chosen, pattern, f"{counted(list(contrasts.values()))}: {words} --target '{pattern}' were chosen"


def known_contrast(path: Path, names: Sequence[str]) -> str | None:
    """Which of these contrasts a file shows, by its name or its folders; None if it is none of them."""
    shown = contrast_in(path).lower()
    by_word = next((name for name in names if name.lower() == shown), None)
    words = re.split(r"[^A-Za-z0-9]+", stem(path))
    return by_word or next((name for name in names if not shown and set(name.split("_")) <= set(words)), None)


def without_name(path: Path, contrast: str) -> str:
    """What the files of one subject, or of one of its sessions, have in common: a path without its contrast."""
    words = r"[^A-Za-z0-9]+".join(map(re.escape, contrast.split("_")))
    return re.sub(rf"(?<![A-Za-z0-9]){words}(?![A-Za-z0-9])", "", path.as_posix(), flags=re.IGNORECASE)
