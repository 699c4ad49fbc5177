"""Files that are complete or absent, and hold tensors and plain values only."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medsynth.errors import MedsynthError

PLAIN = (type(None), bool, int, float, str)
"""What can be saved beside PyTorch's types, which are imported where they are needed: the tools must answer at once."""


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn an error of the disk at `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free some space there and give the same command again"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            advice = "write access is needed: give another output_dir, or change its permissions"
        else:
            advice = "give another output_dir"
        raise MedsynthError(f"cannot write {path}: {error.strerror or error}: {advice}") from error


def write_bytes(path: Path | str, content: bytes, former: Path | None = None) -> None:
    """Write `content` beside `path` and rename: a kill at any moment leaves the old file or the new one.

    Args:
        former: store the earlier file at `path` under this name.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if former is not None and path.exists():
                path.replace(former)
            beside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_text(path: Path | str, text: str) -> None:
    """`write_bytes` for text."""
    write_bytes(path, text.encode())


def save_plain(path: Path | str, content: dict[str, Any], former: Path | None = None) -> None:
    """Save tensors and plain values for `load_plain`.

    Serialized in memory first: a full disk then fails before the earlier file is touched.
    """
    import torch

    of_torch = (torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device)
    _require_plain(content, "content", (*PLAIN, *of_torch))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue(), former)


def load_plain(path: Path | str) -> dict[str, Any]:
    """What `save_plain` wrote, on the CPU; no code in the file is run.

    Raises:
        MedsynthError: the file is missing, cut short, or holds anything but tensors and plain values.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MedsynthError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        raise MedsynthError(
            f"{path} is refused: it is not a torch file of tensors and plain values alone, and opening others "
            "may run code: use a file that medsynth wrote"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise MedsynthError(f"{path} is damaged or is not a medsynth file: make or copy it again") from error
    if not isinstance(content, dict):
        raise MedsynthError(f"{path} is not a medsynth file: it holds a {type(content).__name__}, not a dictionary")
    return content


def _require_plain(value: Any, where: str, plain: tuple[type, ...]) -> None:
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _require_plain(key, f"a key of {where}", plain)
            _require_plain(item, f"{where}[{key!r}]", plain)
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            _require_plain(item, f"{where}[{i}]", plain)
    elif type(value) not in plain:
        raise TypeError(f"{where} is a {type(value).__name__}: only tensors and plain values can be saved")
