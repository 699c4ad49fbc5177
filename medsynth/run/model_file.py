"""The file model.pt, before anything opens it; without PyTorch, so that the tools answer at once."""

from __future__ import annotations

from pathlib import Path

from medsynth.errors import MedsynthError


def require_model(path: Path | str) -> None:
    """Refuse a model that does not exist.

    Raises:
        MedsynthError: no such file, or the folder of a run.
    """
    if (Path(path) / "model.pt").is_file():
        raise MedsynthError(f"{path} is a folder: give the model in it, {Path(path) / 'model.pt'}")
    if not Path(path).is_file():
        raise MedsynthError(f"there is no model {path}: train one, or give the model.pt of a run as checkpoint")
