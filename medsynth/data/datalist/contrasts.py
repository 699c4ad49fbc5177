"""Contrasts and modalities of the images of a folder, and which of them make pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from medsynth.data.datalist.subjects import study_id
from medsynth.data.datalist.words import CHANNEL, MODALITIES, contrast_in, fits, modality_of, stem
from medsynth.data.io import dicom
from medsynth.data.io.sources import is_dicom
from medsynth.errors import MedsynthError

SOURCES = ("t1n", "t1w", "t1")  # of pairs of two contrasts of a study, the first that is there
TARGETS = ("t2f", "flair", "t2w", "t2")


def contrasts_of(paths: Mapping[Path, Path], channels: Mapping[str, str]) -> dict[Path, str]:
    """The contrast of each image, by its name, folder or DICOM header; empty where nothing says it.

    Args:
        paths: of each image, its path from the folder of all on.
        channels: from `subjects.channels_of`.
    """
    found, spelling = {}, {}
    for path, part in paths.items():
        if channels:
            number = CHANNEL.search(stem(part))[1]
            contrast = channels[number] if channels[number] != number else f"channel {number}"
        else:
            contrast = contrast_in(part) or (_dicom_modality(path) if is_dicom(path) else "")
        found[path] = spelling.setdefault(contrast.lower(), contrast)
    return found


def patterns_of(contrasts: Mapping[Path, str]) -> dict[str, str]:
    """For each contrast, a pattern that only its images fit; contrasts for which there is none are left out.

    Args:
        contrasts: of each image, its path from the folder of all on.
    """
    paths = defaultdict(list)
    for path, contrast in contrasts.items():
        paths[contrast].append(path)
    found = {}
    for contrast, own in paths.items():
        others = [path for path in contrasts if contrasts[path] != contrast]
        for pattern in _candidates(own):
            if all(fits(path, pattern) for path in own) and not any(fits(path, pattern) for path in others):
                found[contrast] = pattern
                break
    return found


def default_pair(contrasts: Mapping[Path, str], channels: Mapping[str, str]) -> tuple[str, str] | None:
    """The contrasts of source and target of the pairs that a folder is made for; None where it is for none.

    These are MRI (or cone-beam CT) and CT; of studies of known file names and of nnU-Net's channels, two contrasts.

    Args:
        contrasts: of each image, its path from the folder of all on.
        channels: from `subjects.channels_of`.
    """
    names = list(dict.fromkeys(contrasts.values()))
    if "" in names or len(names) < 2:
        return None
    if channels:
        first, second, *_ = sorted(names, key=lambda name: min(stem(p)[-4:] for p in contrasts if contrasts[p] == name))
        return first, second
    lower = {name.lower(): name for name in names}
    if len(names) == 2 and lower.keys() == {"cbct", "ct"}:
        return lower["cbct"], lower["ct"]
    modalities = {name: modality_of(name) for name in names}
    if len(names) == 2 and set(modalities.values()) == {"MRI", "CT"}:
        first, second = sorted(names, key=lambda name: modalities[name] == "CT")
        return first, second
    if set(modalities.values()) == {"MRI"} and all(
        study_id(p) and not study_id(p).startswith("sub-") for p in contrasts
    ):
        source, target = (next((lower[name] for name in some if name in lower), None) for some in (SOURCES, TARGETS))
        return (source, target) if source and target else None
    return None


def counted(contrasts: Sequence[str]) -> str:
    """Contrasts and how often each occurs, the most frequent first."""
    return ", ".join(f"{name or 'unknown'} ({count})" for name, count in Counter(contrasts).most_common())


def ranked(contrasts: Sequence[str]) -> list[str]:
    """Contrasts in the order in which they are proposed: T1, then the most frequent first."""
    names = [name for name, _ in Counter(filter(None, contrasts)).most_common()]
    return sorted(names, key=lambda name: name.lower() not in SOURCES)


def advice(contrasts: Sequence[str], patterns: Mapping[str, str]) -> str:
    """How to choose among contrasts, on the command line."""
    some = [patterns[name] for name in ranked(contrasts) if name in patterns]
    if not some:
        return "put each into a folder of its own, or give --pattern"
    pairs = f", or make pairs with --source '{some[0]}' --target '{some[1]}'" if len(some) > 1 else ""
    return f"choose with --pattern '{some[0]}'{pairs}"


def check_modalities(where: Path, contrasts: Sequence[str], patterns: Mapping[str, str]) -> None:
    """Refuse images of several modalities in one set.

    Raises:
        MedsynthError: with the number of each, and how to choose.
    """
    names = {contrast: modality_of(contrast) for contrast, _ in Counter(contrasts).most_common()}
    found = [modality for modality in MODALITIES if modality in names.values()]
    if len(found) > 1:
        first = [next(name for name in names if names[name] == modality) for modality in found]
        raise MedsynthError(
            f"{where} holds {' and '.join(found)} ({counted(contrasts)}), which one set must not mix: "
            f"{advice(first, patterns)}"
        )


def _candidates(paths: Sequence[Path]) -> list[str]:
    """Patterns that files of one contrast may fit, the best first."""
    endings = {path.name[len(stem(path)) :] for path in paths}
    ending = endings.pop() if len(endings) == 1 else ".*"
    names = {stem(path) for path in paths}
    shortest = min(names, key=len)
    common = 0
    while common < len(shortest) and len({name[-common - 1] for name in names}) == 1:
        common += 1
    end = shortest[len(shortest) - common :]
    cuts = [index for index, letter in enumerate(end) if letter in "_-. "]
    tails = [f"*{end[index:]}{ending}" for index in reversed(cuts)]
    start = contrast_in(Path(shortest)) if len(names) > 1 else ""
    heads = [f"{shortest[: len(start)]}*"] if start and shortest.lower().startswith(start.lower()) else []
    alone = [f"{shortest}{ending}"] if len(names) == 1 else []
    folders = {path.parent.name for path in paths}
    return [*alone, *tails, *heads, *([f"*/{folder}/*" for folder in folders] if len(folders) == 1 else [])]


def _dicom_modality(path: Path) -> str:
    try:
        return {"PT": "PET"}.get(found := dicom.modality_of(path), found)
    except MedsynthError:
        return ""
