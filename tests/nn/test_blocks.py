from __future__ import annotations

import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.nn import blocks
from medsynth.nn.blocks import (
    ChannelNorm,
    MinibatchDeviation,
    ResidualDown,
    SelfAttention,
    StyledNorm,
    binomial_blur,
    image_levels,
)


@pytest.mark.parametrize(("size", "levels"), [(16, 2), (32, 3), (64, 4), (128, 5), (256, 6)])
def test_an_image_size_halves_down_to_four(size, levels):
    assert image_levels(size) == levels


@pytest.mark.parametrize(("size", "nearest"), [(65, 64), (100, 128), (48, 64), (63, 64), (250, 256), (4, 16), (3, 16)])
def test_other_sizes_are_refused_with_the_nearest_that_works(size, nearest):
    with pytest.raises(MedsynthError, match=f"image_size {size}: .*set --image_size {nearest}$"):
        image_levels(size)
    image_levels(nearest)


def test_the_binomial_blur_by_hand():
    dot = torch.zeros(1, 2, 5, 5)
    dot[0, 1, 2, 2] = 16
    found = binomial_blur(dot)
    assert not found[0, 0].any()
    assert found[0, 1, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert found.sum() == 16


def test_the_binomial_blur_removes_a_raster_and_leaves_flat_and_sloping_features_as_they_are():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    for raster in ((-1) ** (rows + columns), (-1) ** rows, (-1) ** columns):
        assert binomial_blur(3 + raster[None, None])[..., 1:-1, 1:-1] == pytest.approx(torch.full((1, 1, 6, 6), 3.0))
    slope = (2 * rows - columns)[None, None]
    assert torch.allclose(binomial_blur(slope)[..., 1:-1, 1:-1], slope[..., 1:-1, 1:-1])


@pytest.mark.parametrize("normalize", [False, True])
def test_residual_down_halves_the_grid_and_keeps_images_apart(normalize):
    torch.manual_seed(0)
    block = ResidualDown(8, 16, normalize)
    features = torch.randn(3, 8, 12, 10)
    assert block(features).shape == (3, 16, 6, 5)
    assert torch.allclose(block(features)[1:2], block(features[1:2]), atol=1e-5)


def test_residual_down_without_normalization_feels_the_scale_of_its_input():
    torch.manual_seed(0)
    features = torch.randn(1, 8, 8, 8)
    for normalize, grows in ((False, True), (True, False)):
        block = ResidualDown(8, 8, normalize)
        torch.nn.init.zeros_(block.shortcut.weight)
        ratio = block(10 * features).std() / block(features).std()
        assert (ratio > 2) == grows


def test_styled_norm_gives_each_channel_the_mean_and_deviation_of_its_style():
    torch.manual_seed(0)
    norm = StyledNorm(8, 3)  # one channel a group
    features, style = 5 + 3 * torch.randn(2, 8, 16, 16), torch.randn(2, 3)
    scale, shift = norm.scale_shift(style).chunk(2, dim=1)
    styled = norm(features, style)
    assert torch.allclose(styled.mean(dim=(2, 3)), shift, atol=1e-4)
    assert torch.allclose(styled.std(dim=(2, 3), unbiased=False), (1 + scale).abs(), atol=1e-3)


def test_styled_norm_forgets_the_scale_of_its_input():
    torch.manual_seed(0)
    norm, features, style = StyledNorm(16, 3), torch.randn(2, 16, 8, 8), torch.randn(2, 3)
    assert torch.allclose(norm(100 * features, style), norm(features, style), atol=1e-3)


def test_minibatch_deviation_by_hand():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 4.0], [5.0, 4.0]])[:, :, None, None].repeat(1, 1, 2, 3)
    added = MinibatchDeviation(group=2)(features)
    assert added.shape == (4, 3, 2, 3)
    assert torch.equal(added[:, :2], features)
    # deviations within pairs: (1, 0) and (0, 0), plus the square root of 1e-8 where there is none
    assert added[:2, 2] == pytest.approx(torch.full((2, 2, 3), 0.5), abs=1e-4)
    assert added[2:, 2] == pytest.approx(torch.zeros(2, 2, 3), abs=2e-4)


def test_minibatch_deviation_takes_fewer_images_where_the_batch_does_not_divide():
    features = torch.randn(6, 2, 2, 2)
    added = MinibatchDeviation(group=4)(features)
    assert torch.equal(added, torch.cat([MinibatchDeviation(group=2)(pair) for pair in features.split(2)]))


def test_minibatch_deviation_does_not_mix_the_halves_of_a_stacked_batch():
    torch.manual_seed(0)
    deviation, real, fake = MinibatchDeviation(group=4), torch.randn(8, 3, 4, 4), torch.zeros(8, 3, 4, 4)
    stacked = deviation(torch.cat([real, fake]))
    assert torch.equal(stacked, torch.cat([deviation(real), deviation(fake)]))
    assert stacked[:8, 3].min() > 0.5
    assert stacked[8:, 3].max() < 1e-3


def test_minibatch_deviation_has_a_finite_gradient_for_equal_images():
    features = torch.ones(4, 2, 2, 2, requires_grad=True)
    MinibatchDeviation()(features).sum().backward()
    assert features.grad.isfinite().all()


def test_the_channel_norm_by_hand():
    features = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, 8.0]]).view(3, 2, 1, 1).expand(-1, -1, 2, 3)
    found = ChannelNorm(2)(features)
    assert found.shape == (3, 2, 2, 3)
    expected = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [-1.0, 1.0]]).view(3, 2, 1, 1).expand(-1, -1, 2, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not list(ChannelNorm(2, affine=False).parameters())


def test_the_channel_norm_of_a_place_depends_on_that_place_alone():
    torch.manual_seed(0)
    norm, features = ChannelNorm(8), torch.randn(2, 8, 5, 7)
    torch.nn.init.normal_(norm.norm.weight)
    torch.testing.assert_close(norm(features)[..., 2:4, 3:5], norm(features[..., 2:4, 3:5]))


@pytest.fixture
def attention() -> SelfAttention:
    """Of two heads, whose output matters."""
    torch.manual_seed(0)
    attention = SelfAttention(64)
    torch.nn.init.normal_(attention.out.weight, std=0.1)
    return attention


def test_self_attention_starts_as_the_identity():
    features = torch.randn(2, 32, 3, 5)
    assert torch.equal(SelfAttention(32)(features), features)


def test_self_attention_of_one_head_by_hand():
    attention = SelfAttention(2)
    assert attention.heads == 1
    with torch.no_grad():  # query 0, so that all places count alike; key and value are what is normalized
        attention.query_key_value.weight.copy_(torch.cat([torch.zeros(2, 2), torch.eye(2), torch.eye(2)]))
        attention.query_key_value.bias.zero_()
        attention.out.weight.copy_(torch.eye(2))
    features = torch.tensor([[1.0, 3.0], [9.0, 7.0], [0.0, 4.0], [2.0, 4.0]]).T.reshape(1, 2, 2, 2)
    # normalized, three places are (-1, 1) and one (1, -1): the mean is (-0.5, 0.5)
    expected = features + torch.tensor([-0.5, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(attention(features), expected, atol=1e-4, rtol=0)


def test_self_attention_moves_with_its_places_and_keeps_images_apart(attention):
    features = torch.randn(3, 64, 4, 6)
    found = attention(features)
    torch.testing.assert_close(attention(features.flip(3)), found.flip(3))
    torch.testing.assert_close(attention(features.transpose(2, 3)), found.transpose(2, 3))
    torch.testing.assert_close(attention(features[1:2]), found[1:2])
    changed = features.clone()
    changed[0, :, 0, 0] += torch.randn(64)
    assert (attention(changed)[0, :, -1, -1] - found[0, :, -1, -1]).abs().max() > 1e-4


def test_fused_attention_and_attention_as_matrix_products_are_the_same(attention, monkeypatch):
    assert attention.heads == 2
    features = torch.randn(2, 64, 5, 3)
    found = attention(features)
    monkeypatch.setattr(blocks, "FEW_PLACES", 0)
    torch.testing.assert_close(attention(features), found, atol=1e-5, rtol=1e-4)
