from __future__ import annotations

import torch

from medsynth.models.translation.image_pool import ImagePool


def numbered(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1)


def test_a_pool_that_fills_hands_out_what_comes():
    pool = ImagePool(4)
    assert pool.exchange(numbered(0, 3)).flatten().tolist() == [0, 1, 2]
    assert [image.item() for image in pool.images] == [0, 1, 2]


def test_a_full_pool_swaps_half_of_what_comes_with_what_was_there():
    torch.manual_seed(0)
    pool, earlier = ImagePool(50), set(range(50))
    pool.exchange(numbered(0, 50))
    handed = pool.exchange(numbered(100, 200)).flatten().tolist()
    swapped = [number for place, number in enumerate(handed) if number != 100 + place]
    assert 70 < len(swapped) < 130
    assert earlier & set(swapped)
    assert len(pool.images) == 50
    assert len(set(handed) | {image.item() for image in pool.images}) == 250  # nothing is lost, nothing doubled


def test_a_pool_of_none_hands_out_what_comes():
    assert ImagePool(0).exchange(numbered(5, 3)).flatten().tolist() == [5, 6, 7]


def test_a_restored_pool_goes_on_alike():
    pool, other = ImagePool(3), ImagePool(3)
    pool.exchange(numbered(0, 3))
    other.load_state_dict(pool.state_dict())
    answers = []
    for each in (pool, other):
        torch.manual_seed(1)
        answers.append(each.exchange(numbered(10, 8)))
    assert torch.equal(*answers)
