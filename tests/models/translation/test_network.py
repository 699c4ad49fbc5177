from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.models.translation.network import Translator, UNetVae, coordinates

SMALL = {"neighbours": 0, "channels": (8, 16, 16), "latent_channels": 4, "kernel_sizes": (3, 5), "use_position": True}


def awake(**arguments) -> UNetVae:
    """A network whose last layers no longer start at 0."""
    torch.manual_seed(0)
    network = UNetVae(**SMALL | arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_any_multiple_of_the_stride_will_do(size):
    network = awake()
    assert network.stride == 8
    answer, mean, log_variance = network.translate(torch.rand(2, 1, *size), None, sample=True)
    assert answer.shape == (2, 1, *size)
    assert mean.shape == log_variance.shape == (2, 4, size[0] // 8, size[1] // 8)


def test_another_size_is_refused_with_the_nearest_one():
    with pytest.raises(MedsynthError, match="24 x 20: this network needs a multiple of 8, such as 24"):
        awake()(torch.rand(1, 1, 24, 20))
    with pytest.raises(MedsynthError, match="image_size 100 x 100: .* multiple of 8, such as 96"):
        Translator(100, **SMALL)


def test_samples_differ_and_the_mean_does_not():
    network, image = awake(), torch.rand(1, 1, 16, 16)
    assert torch.equal(network(image), network(image))
    assert not torch.equal(network(image, sample=True), network(image, sample=True))


def test_the_answer_depends_on_where_the_slice_and_the_pixel_are():
    network, image = awake(), torch.zeros(1, 1, 32, 32)
    low, high = (network(image, torch.tensor([position])) for position in (0.1, 0.9))
    assert not torch.allclose(low, high)
    assert not torch.allclose(low, low.flip(-1), atol=1e-4)
    assert torch.equal(network(image, torch.tensor([torch.nan])), network(image))


def test_without_position_a_slice_is_a_slice():
    network, image = awake(use_position=False), torch.rand(1, 1, 16, 16)
    assert torch.equal(network(image, torch.tensor([0.1])), network(image, torch.tensor([0.9])))


def test_places_run_from_the_first_row_and_column_to_the_last():
    rows, columns = coordinates(torch.zeros(1, 5, 3, 2))[0]
    assert rows.tolist() == [[-1, -1], [0, 0], [1, 1]]
    assert columns.tolist() == [[-1, 1], [-1, 1], [-1, 1]]


def test_every_parameter_learns():
    network = awake(neighbours=1, kernel_sizes=(3, 5))
    network.translate(torch.rand(2, 3, 16, 16), torch.rand(2), sample=True)[0].square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]


def test_the_directions_share_no_weight():
    translator = Translator(16, **SMALL | {"channels": (8, 8)})
    with torch.no_grad():
        translator.source_to_target.head.bias.fill_(0.25)
    image = torch.full((1, 1, 16, 16), -0.5)
    fake_target, fake_source = translator(image, image)
    assert fake_target.unique().tolist() == [0.25]
    assert fake_source.unique().tolist() == [0]


@pytest.mark.parametrize("mistake", [{"channels": ()}, {"channels": (12,)}, {"kernel_sizes": (4,)}])
def test_what_cannot_be_built_is_told(mistake):
    with pytest.raises(MedsynthError, match="give"):
        UNetVae(**SMALL | mistake)
