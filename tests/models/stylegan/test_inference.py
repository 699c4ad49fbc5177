from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.image import psnr
from medsynth.inference.generate import Request, sampled
from medsynth.inference.paths import STEPS
from medsynth.models.stylegan.inference import Strip, StyleGanInference, animation, mixed, mixing_table
from medsynth.models.stylegan.latents_file import WrittenLatents, as_npz, latents_of_images
from medsynth.models.stylegan.network import StyleGan
from medsynth.models.stylegan.projection import Projection
from medsynth.run.recipe import LoadedModel

SIZE, LAYERS = 32, 6


@pytest.fixture
def network() -> StyleGan:
    """Untrained, with classes 0 and 1 and positions from 0 to 1, and the means of W that it really has."""
    torch.manual_seed(0)
    network = StyleGan(SIZE, 8, 8, 16, 4, 2, True, "progressive").eval()
    network.conditions.fit(torch.arange(100) % 2, torch.linspace(0, 1, 100))
    styles, labels, _ = network.draw(400)
    network.style_means.copy_(torch.stack([styles[labels == 0].mean(0), styles[labels == 1].mean(0), styles.mean(0)]))
    return network


@pytest.fixture
def model(network) -> LoadedModel:
    return LoadedModel(network, {"modality": "mri"}, ["AD", "NC"], {}, "", {})


@pytest.fixture
def inference(model):
    """With what matters to a test; nothing is written."""

    def make(**options) -> StyleGanInference:
        usual = {"mode": "generate", "request": Request(9, None, None, 3), "truncation": 1.0, "path": "linear"}
        return StyleGanInference(model, None, projection=None, input=None, batch_size=4, **usual | options)

    return make


def test_a_class_that_the_model_does_not_know_is_refused_before_anything_is_drawn(inference):
    with pytest.raises(MedsynthError, match="label is 'MCI', which the model does not know"):
        inference(request=Request(9, "MCI", None, 3))


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_a_strip_begins_and_ends_at_its_ends(inference, network, path):
    strip = inference(path=path)._strip(0)
    styles = strip.styles(STEPS)
    torch.testing.assert_close(styles[[0, -1]], torch.cat([strip.start, strip.end]))
    assert (styles[0] - styles[-1]).abs().max() > 0.1
    images = list(strip.images(STEPS))
    assert len({label for _, label, _ in images}) == 1
    with torch.no_grad():
        end = network.synthesis(network.spread(strip.end), noise="fixed").clamp(-1, 1)[0]
    torch.testing.assert_close(images[-1][0], end, atol=1e-4, rtol=1e-4)


def test_only_the_ends_of_a_strip_have_a_position_unless_it_is_asked_for(inference):
    positions = [position for *_, position in inference()._strip(0).images(4)]
    assert [math.isnan(position) for position in positions] == [False, True, True, False]
    asked = inference(request=Request(9, "NC", 0.5, 3))._strip(0)
    assert [(label, position) for _, label, position in asked.images(4)] == [(1, 0.5)] * 4


def test_a_straight_way_has_its_middle_in_the_middle_and_a_circle_keeps_its_distance_from_the_centre(network):
    start, end, centre = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    straight, circle = (Strip(network, start, end, middle, 0, 0.5, 0.5).styles(3)[1] for middle in (None, centre))
    torch.testing.assert_close(straight, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(circle, torch.tensor([1 + math.sqrt(2), 1 + math.sqrt(2)]))


@pytest.mark.parametrize(
    ("layers", "group", "taken"),
    [
        (8, "coarse", [0, 1, 2, 3]),
        (8, "middle", [4, 5]),
        (8, "fine", [6, 7]),
        (6, "coarse", [0, 1]),
        (12, "fine", [8, 9, 10, 11]),
    ],
)
def test_a_mixture_has_the_layers_of_a_group_from_the_second_and_all_others_from_the_first(layers, group, taken):
    result = mixed(torch.zeros(1, layers, 2), torch.ones(1, layers, 2), group)
    assert result[0, :, 0].nonzero().squeeze(1).tolist() == taken


def test_a_mixture_takes_what_it_shows_at_low_resolution_from_coarse_styles(network):
    first, second = network.spread(network.draw(2, generator=torch.Generator().manual_seed(1))[0]).split(1)
    with torch.no_grad():
        images = {
            group: network.synthesis(mixed(first, second, group), noise="none")
            for group in ("coarse", "middle", "fine")
        }
        one, other = (network.synthesis(styles, noise="none") for styles in (first, second))
    assert not any(torch.allclose(image, other) for image in images.values())
    network.synthesis.resolution.fill_(8)  # only the coarse layers draw now
    with torch.no_grad():
        for group, source in (("coarse", second), ("middle", first), ("fine", first)):
            drawn = network.synthesis(mixed(first, second, group), noise="none")
            torch.testing.assert_close(drawn, network.synthesis(source, noise="none"))
    assert not torch.allclose(one, other)


def test_a_mixing_table_says_what_each_image_is_made_of(network):
    styles = network.draw(16, label=1)[0]
    mean = network.style_means[1:2]
    images, names = mixing_table(network, styles, mean)
    assert images.shape == (81, 1, SIZE, SIZE)
    assert names[:2] == ["mean", "A1"]
    assert names[9:11] == ["B1", "A1 with coarse of B1"]
    assert names[-1] == "A8 with fine of B8"
    assert len(set(names)) == 81
    with torch.no_grad():
        last = mixed(network.spread(styles[7:8]), network.spread(styles[15:]), "fine")
        expected = network.synthesis(torch.cat([network.spread(mean), last]), noise="fixed").clamp(-1, 1)
    torch.testing.assert_close(images[[0, -1]], expected, atol=1e-4, rtol=1e-4)


def test_an_animation_goes_there_and_back(tmp_path):
    strips = [[torch.full((1, 16, 16), value) for value in (-1.0, 0.0, 1.0)]] * 2
    picture = Image.open(io.BytesIO(animation(strips)))
    assert picture.n_frames == 4
    brightness = []
    for frame in range(4):
        picture.seek(frame)
        brightness.append(np.asarray(picture.convert("L"))[64, 64])
    assert brightness == [0, 128, 255, 128]


@pytest.mark.parametrize(("space", "least"), [("w", 30), ("w+", 26)])
def test_projection_finds_a_generated_image_again(network, space, least):
    with torch.no_grad():
        for layer in network.synthesis.to_image:
            layer.conv.weight *= 0.25  # an untrained network goes far beyond [-1, 1]
        styles, labels, positions = network.draw(1, generator=torch.Generator().manual_seed(5))
        images = network.synthesis(network.spread(styles), noise="none")
        start = network.synthesis(network.spread(network.truncate(styles, 0.0, labels)), noise="none")
    projection = Projection(150, space, 0.1)
    with torch.inference_mode():  # as `reconstruct` calls it
        found = projection(images, network, labels, positions)
    before, after = (psnr(drawn.clamp(-1, 1), images.clamp(-1, 1), 2.0).item() for drawn in (start, found))
    assert after > before + 8
    assert after > least
    assert projection.found.shape == ((1, 16) if space == "w" else (1, LAYERS, 16))


def test_latents_are_those_of_the_images_that_are_generated(model, network):
    request = Request(20, None, None, 7)
    columns = latents_of_images(model, request, 0.7, "stylegan", ".png")
    images = list(sampled(network.sample, request, request.condition(model) | {"truncation": 0.7}))
    assert [{0: "AD", 1: "NC"}[label] for _, label, _ in images] == columns["label"].tolist()
    assert columns["position"] == pytest.approx([position for *_, position in images])
    with torch.no_grad():  # an untrained network adds no noise
        again = network.synthesis(network.spread(torch.from_numpy(columns["w"])), noise="none").clamp(-1, 1)
    torch.testing.assert_close(again, torch.stack([image for image, *_ in images]), atol=1e-4, rtol=1e-4)
    assert columns["image"][19] == f"images/stylegan_{columns['label'][19]}_7_0019.png"


def test_written_latents_belong_to_their_images_and_to_no_others(tmp_path):
    columns = {"w": np.arange(6.0).reshape(3, 2), "image": np.array([f"images/{name}.nii.gz" for name in "abc"])}
    (tmp_path / "latents.npz").write_bytes(as_npz(columns))
    some = ImageSet(np.zeros((2, 4, 4), np.float32), ["c.nii.gz", "a.nii.gz"])
    for folder in (tmp_path, tmp_path / "images"):
        assert WrittenLatents(folder)(some).tolist() == [[4, 5], [0, 1]]
    assert WrittenLatents(tmp_path)(ImageSet(np.zeros((1, 4, 4), np.float32), ["IXI002"])) is None
    assert WrittenLatents(tmp_path / "else/where")(some) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": 1.5}, r"truncation is 1.5: give a number from 0, the mean image, to 1"),
        ({"truncation": -0.1}, "truncation is -0.1"),
        ({"truncation": "half"}, "truncation is 'half'"),
        ({"path": "curved"}, "path is 'curved': choose one of linear, spherical"),
        ({"mode": "dream"}, "mode is 'dream': choose one of generate, interpolate, mix, project, embed"),
        ({"mode": "project"}, "mode is project and there is no input: give an image"),
    ],
)
def test_mistakes_are_told(inference, options, message):
    with pytest.raises(MedsynthError, match=message):
        inference(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "w", 0.1), "steps is 0: give 1 or more"), ((10, "z", 0.1), "space is 'z': choose one of w, w+")],
)
def test_impossible_projections_are_refused(arguments, message):
    with pytest.raises(MedsynthError, match=message.replace("+", r"\+")):
        Projection(*arguments)
