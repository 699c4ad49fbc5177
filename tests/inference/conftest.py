from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medsynth.bundle.recipe import save_model
from medsynth.data.output import SliceSpace
from medsynth.data.pipelines import Preprocessing
from medsynth.networks.vaegan import VaeGan

SIZE = 16


@pytest.fixture
def model_pt(tmp_path: Path) -> Callable[..., Path]:
    """Write the model.pt of an untrained VAE-GAN of 16 pixels."""

    def write(
        modality: str = "mri", bounds: tuple[float, float] | None = None, spacing_mm: float = 4.0, classes=("AD", "NC")
    ) -> Path:
        torch.manual_seed(0)
        arguments = {"image_size": SIZE, "latent_features": 8, "num_classes": len(classes), "mixture_components": 2}
        network = VaeGan(**arguments)
        latents, labels = torch.randn(200, 8), torch.randint(0, max(len(classes), 1), (200,))
        positions = torch.rand(200) if modality != "image" else torch.full((200,), torch.nan)
        network.start_from(torch.rand(50, 1, SIZE, SIZE))
        network.fit_density(latents, labels if classes else labels - 1, positions, seed=0)
        definition = {"_target_": "medsynth.networks.vaegan.VaeGan"} | arguments
        preprocessing = Preprocessing(modality, None, None, SIZE).to_dict()
        spacing = (spacing_mm, spacing_mm) if modality != "image" else (1.0, 1.0)
        space = SliceSpace(modality, spacing, 2.0, bounds)
        path = tmp_path / "model.pt"
        save_model(path, network, definition, preprocessing, list(classes), {"slices": space.to_dict()})
        return path

    return write


@pytest.fixture
def ball() -> np.ndarray:
    """A head of 40 mm radius at 2 mm, right-anterior-superior, with a bright ball at its right front."""
    axes = np.meshgrid(*(2.0 * (np.arange(n) - n / 2) for n in (60, 64, 50)), indexing="ij")
    volume = np.where(sum(axis**2 for axis in axes) < 40**2, 100.0, 0.0)
    landmark = sum((axis - at) ** 2 for axis, at in zip(axes, (16, 12, 6), strict=True)) < 9**2
    return np.where(landmark, 400.0, volume).astype(np.float32)
