"""What must not be shared with a model: paths of this machine, names of people, subjects and files."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medsynth.errors import MedsynthError
from medsynth.storage import load_plain

_PATH = re.compile(
    r"""(?<![\w.:/<)\]}~-])(?<!bundle_root\ \+\ ')  # no URL, no part of a relative path, nothing below the bundle
    (?:~?/(?:[\w.+-]+/)+[\w.+-]*|[A-Za-z]:\\[\w.+-])""",
    re.VERBOSE,
)
_COMMON_USERS = {"root", "user", "admin", "ubuntu", "runner", "jovyan", "docker"}
_TEXTS = {".json", ".md", ".conf", ".txt", ""}


def is_path(value: str) -> bool:
    """Whether a setting is a path on this machine, not a choice such as `mri`; expressions are not."""
    return not value.startswith(("$", "@", "%")) and ("/" in value or "\\" in value or Path(value).exists())


def names_of(datalist: Path | None) -> set[str]:
    """Subjects and file names of a datalist, as far as they differ from ordinary words; none if it does not exist."""
    try:
        lists = [] if datalist is None else json.loads(datalist.read_text()).values()
    except (OSError, ValueError, AttributeError):
        return set()
    entries = [entry for items in lists if isinstance(items, list) for entry in items if isinstance(entry, dict)]
    given = [entry[key] for entry in entries for key in ("image", "source", "target") if entry.get(key)]
    files = {Path(path).name for one in given for path in (one.values() if isinstance(one, dict) else [one]) if path}
    return {name for name in files | {str(entry.get("subject", "")) for entry in entries} if _is_identifying(name)}


def refuse_leaks(folder: Path, names: Iterable[str]) -> None:
    """Search all files that are to be shared.

    Args:
        folder: of the packed bundle: texts, and files that `load_plain` reads.
        names: that must not occur in it.

    Raises:
        MedsynthError: a file contains a path of this machine, the user or one of `names`.
    """
    user = getpass.getuser()
    forbidden = {*names, *([] if user in _COMMON_USERS or len(user) < 3 else [user])}
    words = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(forbidden))) + r")(?!\w)") if forbidden else None
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for text in _texts(path):
            found = _PATH.search(text) or (words and words.search(text))
            if found:
                raise _leak(path.relative_to(folder), found.group())
        if path.suffix in (".ts", ".onnx"):
            content = path.read_bytes()
            for location in (str(Path.home()), str(Path.cwd()), sys.prefix, str(Path(__file__).parents[1])):
                if len(location) > 1 and f"{location}/".encode() in content:
                    raise _leak(path.relative_to(folder), location)


def _leak(path: Path, found: str) -> MedsynthError:
    return MedsynthError(
        f"{path} would reveal '{found}', a path or name of this machine or its data: remove it from the "
        "configuration that it comes from"
    )


def _is_identifying(name: str) -> bool:
    """Whether a name is neither short, a number nor a lower-case word, which occur elsewhere too."""
    return len(name) >= 4 and not name.isdigit() and any(not character.islower() for character in name)


def _texts(path: Path) -> Iterator[str]:
    if path.suffix in _TEXTS:
        yield path.read_text()
    elif path.suffix == ".pt":
        yield from _strings(load_plain(path))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
