from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference.generate import Request
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.reconstruct import find_inputs
from medsynth.models.vqvae.inference import CodeInferer, VqVaeInference
from medsynth.models.vqvae.network import SliceVqVae
from medsynth.run.recipe import LoadedModel


@pytest.fixture
def infer(tmp_path):
    """What an untrained network makes of an input; returns the folder of the images."""
    network = SliceVqVae(16, (8, 8), 1, 16, 4, cosine=False).eval()
    space = SliceSpace("image", (1.0, 1.0), 1.0, (0.0, 255.0)).to_dict()
    model = LoadedModel(network, Preprocessing("image", None, None, 16).to_dict(), [], {}, "", {"slices": space})

    def run(mode: str, path, **options):
        output = ImageFolder(tmp_path / mode, "vqvae", "", **options)
        inference = VqVaeInference(model, output, CodeInferer(), mode, Request(1, None, None, 0), str(path), 4)
        inference.run(find_inputs(str(path)))
        return output.images

    return run


def test_code_maps_stay_nifti_and_their_pictures_may_be_png(infer, tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    with pytest.raises(MedsynthError, match="mode is encode and format is png, and code maps are NIfTI"):
        infer("encode", tmp_path / "a.png", format="png")
    codes = infer("encode", tmp_path / "a.png")
    decoded, made = infer("decode", codes, format="png"), infer("reconstruct", tmp_path / "a.png", format="png")
    pixels = np.asarray(Image.open(decoded / "vqvae_decode_0000.png"))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(made / "vqvae_reconstruct_0000.png")))
