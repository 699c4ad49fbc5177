"""The latent vectors of the images that a StyleGAN draws."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.inference.generate import BLOCK, Request, blocks, image_name
from medsynth.run.recipe import LoadedModel

LATENTS = "latents.npz"


class WrittenLatents:
    """The vectors w of a StyleGAN's images, from `latents.npz`; other images have none.

    Args:
        folder: with the images; `latents.npz` lies in it or in its parent.
    """

    name = "w"

    def __init__(self, folder: str | Path) -> None:
        self.candidates = [parent / LATENTS for parent in (Path(folder), Path(folder).parent)]

    def __call__(self, images: ImageSet) -> np.ndarray | None:
        """(N, features); None if the images are not those of the folder."""
        path = next((candidate for candidate in self.candidates if candidate.is_file()), None)
        if path is None:
            return None
        with np.load(path, allow_pickle=False) as columns:
            rows = {Path(name).name: row for row, name in enumerate(columns["image"].tolist())}
            found = [rows.get(name) for name in images.subjects.tolist()]
            return None if None in found else columns["w"][found]


@torch.inference_mode()
def latents_of_images(
    model: LoadedModel, request: Request, truncation: float, stem: str, ending: str
) -> dict[str, np.ndarray]:
    """The styles in W of the images that a request draws, with their labels, positions and files, row by row.

    Args:
        stem, ending: of the files' names.

    Returns: `w` (N, features), `label`, "" where unknown, `position`, NaN where unknown, `seed`, `index`, `image`.
    """
    condition = request.condition(model)
    parts: list[tuple[torch.Tensor, ...]] = []
    for count, seed in blocks(request):
        random = torch.Generator().manual_seed(seed)
        drawn = model.network.draw(BLOCK, **condition, truncation=truncation, generator=random)
        parts.append(tuple(part[:count].cpu() for part in drawn))
    styles, labels, positions = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    names = np.array([*model.classes, ""])[labels]
    total = request.num_images
    files = [image_name(name or None, request.seed, i, total) for i, name in enumerate(names)]
    return {
        "w": styles,
        "label": names,
        "position": positions,
        "seed": np.full(total, request.seed),
        "index": np.arange(total),
        "image": np.array([f"images/{stem}_{file}{ending}" for file in files]),
    }


def as_npz(columns: dict[str, Any]) -> bytes:
    """Arrays as a compressed file that `numpy.load` opens without pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()
