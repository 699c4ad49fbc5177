from __future__ import annotations

import pytest
import torch

from medsynth.models.translation.unpaired_losses import pixel_distribution_distance, self_similarity, structure_distance


def flat(*values: float) -> torch.Tensor:
    """Images of one value each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 16, 16).clone()


EVERYWHERE = torch.ones(1, 1, 16, 16)


def test_place_distance_by_hand():
    fake, real = flat(0.0, 0.5), flat(0.25, 1.0)
    across = (0.25 + 1.0 + 0.25 + 0.5) / 4
    assert pixel_distribution_distance(fake, real, EVERYWHERE, 1.0).item() == pytest.approx(2 * across - 0.5 - 0.75)
    assert pixel_distribution_distance(fake, real, EVERYWHERE, 0.5).item() == pytest.approx(2 * across - 0.25 - 0.75)


def test_sets_that_are_distributed_alike_are_not_apart_in_the_mean():
    random = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 2, 4, 1, 16, 16, generator=random)
    alike = [pixel_distribution_distance(one, other, EVERYWHERE, 1.0) for one, other in drawn]
    apart = [pixel_distribution_distance(one, 0.5 * other, EVERYWHERE, 1.0) for one, other in drawn]
    assert torch.stack(alike).mean().item() == pytest.approx(0, abs=0.004)
    assert torch.stack(apart).mean().item() > 0.02


def test_where_values_lie_matters_and_inside_the_head_more():
    fake = flat(0.0, 0.0)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    inside, outside = flat(0.0, 0.0), flat(0.0, 0.0)
    inside[..., :8], outside[..., 8:] = 1, 1
    assert pixel_distribution_distance(fake, inside, mask, 1.0) == pytest.approx(
        11 * pixel_distribution_distance(fake, outside, mask, 1.0)
    )


def test_translations_take_the_values_of_other_patients_at_their_places():
    fake = torch.zeros(2, 1, 16, 16, requires_grad=True)
    real = flat(0.6, 0.6)
    real[..., 8:] = -0.6
    optimizer = torch.optim.Adam([fake], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        pixel_distribution_distance(fake, real, EVERYWHERE, 0.6).backward()
        optimizer.step()
    assert (fake - real).abs().mean() < 0.1


def edges(seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(24, 24), mode="nearest") * 2 - 1


def test_structure_does_not_see_contrast_or_its_sign_but_sees_a_shift():
    image, mask = edges(), torch.ones(1, 1, 24, 24)
    assert structure_distance(image, image, mask).item() == 0
    inverted = structure_distance(-0.7 * image + 0.2, image, mask)
    shifted = structure_distance(image.roll(2, dims=3), image, mask)
    assert inverted < 0.02
    assert shifted > 5 * inverted
    assert structure_distance(edges(1), image, mask) > 5 * inverted


def test_self_similarity_is_1_where_nothing_changes():
    flat_image = torch.zeros(1, 1, 12, 12)
    assert torch.equal(self_similarity(flat_image), torch.ones(1, 8, 12, 12))


def test_self_similarity_by_hand_at_an_edge():
    image = torch.zeros(1, 1, 24, 24)
    image[..., 12:] = 1
    found = self_similarity(image)[0, :, 12, 11]
    differences = torch.tensor([1, 1, 0, 0, 1, 2, 1, 2]) / 3  # columns of the patch that change, for each of `STEPS`
    assert torch.allclose(found, (-differences / (differences.mean() + 1e-3)).exp(), atol=1e-5)
