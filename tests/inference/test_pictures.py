from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.errors import MedsynthError
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.pictures import PictureInferer, write_pictures
from medsynth.inference.volumes import VolumeRequest

PICTURES = Preprocessing("image", None, None, 32)
SPACE = SliceSpace("image", (1.0, 1.0), 1.0, (0.0, 255.0))


@pytest.fixture
def ramp(tmp_path):
    """A smooth picture of some size."""

    def save(name: str, shape: tuple[int, int]):
        rows, columns = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
        Image.fromarray((40 + 150 * rows + 50 * columns).round().astype(np.uint8)).save(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def through(tmp_path):
    """Write what a network makes of pictures; the folder of images."""

    def write(inputs, network=lambda slices, _: slices, **options):
        output = ImageFolder(tmp_path / "out", "toy", "abc", False, "png", ["image"])
        request = VolumeRequest("source_to_target", SPACE, **options)
        write_pictures(inputs, network, PictureInferer(PICTURES, 2), output, request)
        return tmp_path / "out" / "images"

    return write


@pytest.mark.parametrize("shape", [(37, 50), (50, 37), (32, 32), (9, 17)])
def test_a_picture_comes_back_from_the_identity_at_its_own_size(ramp, shape):
    path = ramp("a.png", shape)
    ready = PictureInferer(PICTURES).read(Source(str(path)))
    original = np.asarray(Image.open(path)) / 127.5 - 1
    back = ready.back(ready.image)
    assert back.shape == shape
    assert ready.image.shape == (1, 32, 32)
    assert np.abs(back - original).mean() < 0.01
    assert np.abs(back - original).max() < 0.1


@pytest.mark.parametrize(("size", "shape"), [(48, (55, 352)), (48, (323, 544)), (112, (45, 160))])
def test_the_black_padding_of_a_picture_is_removed(tmp_path, size, shape):
    Image.fromarray(np.full(shape, 255, np.uint8)).save(tmp_path / "white.png")
    ready = PictureInferer(replace(PICTURES, image_size=size)).read(Source(str(tmp_path / "white.png")))
    assert ready.back(ready.image).min() > 0.999


def test_pictures_keep_their_names_sizes_and_values_and_the_network_gets_their_positions(ramp, through):
    seen = []
    shapes = {"s1_a.png": (37, 50), "s1_b.png": (32, 32), "s2_a.png": (20, 20)}
    inputs = [{"image": str(ramp(name, shape)), "position": 0.5} for name, shape in shapes.items()]
    del inputs[2]["position"]
    folder = through(inputs, lambda slices, positions: seen.extend(positions.tolist()) or -slices)
    assert seen[:2] == [0.5, 0.5]
    assert np.isnan(seen[2])
    assert {path.name for path in folder.glob("*.png")} == set(shapes)
    for name, shape in shapes.items():
        made, given = (np.asarray(Image.open(path), dtype=float) for path in (folder / name, folder.parents[1] / name))
        assert made.shape == shape
        assert np.abs(255 - given - made).mean() < 1.5


def test_a_damaged_picture_is_left_out(ramp, through, tmp_path):
    (tmp_path / "b.png").write_bytes(b"damaged")
    folder = through([{"image": str(ramp("a.png", (8, 8)))}, {"image": str(tmp_path / "b.png")}])
    assert [path.name for path in folder.glob("*.png")] == ["a.png"]


def test_a_deviation_of_samples_cannot_be_png(ramp, through):
    with pytest.raises(MedsynthError, match="does not fit into PNG"):
        through([{"image": str(ramp("a.png", (8, 8)))}], num_samples=2)
