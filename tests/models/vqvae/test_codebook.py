from __future__ import annotations

import math
import os
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from medsynth.models.vqvae.codebook import SMOOTHING, Codebook, code_colours, perplexity


def codebook(codes: list[list[float]], cosine: bool = False) -> Codebook:
    """One that has these codes, each as if chosen once a step."""
    book = Codebook(len(codes), len(codes[0]), cosine)
    book.codes.copy_(book.prepared(torch.tensor(codes)))
    book.sums.copy_(book.codes)
    return book


def places(*vectors: list[float]) -> torch.Tensor:
    """Latents (1, features, vectors, 1)."""
    return torch.tensor(vectors).T[None, :, :, None]


def test_indices_become_codes_and_the_same_indices_again_exactly():
    torch.manual_seed(0)
    book = Codebook(64, 4)
    indices = torch.randint(64, (3, 5, 7))
    embedded = book.embed(indices)
    assert embedded.shape == (3, 4, 5, 7)
    assert torch.equal(embedded[1, :, 2, 3], book.codes[indices[1, 2, 3]])
    assert torch.equal(book.quantize(embedded), indices)


def test_the_nearest_code_is_chosen_by_distance_or_by_direction():
    latents = places([3.0, 0.5], [0.0, 1.0])
    codes = [[1.0, 0.0], [3.0, 3.0], [0.0, 1.0]]
    assert codebook(codes).quantize(latents).flatten().tolist() == [0, 2]
    near = places([2.9, 2.0])
    assert codebook(codes).quantize(near).item() == 1
    assert codebook(codes, cosine=True).quantize(10 * latents).flatten().tolist() == [0, 2]


def test_the_distance_is_the_true_one():
    torch.manual_seed(0)
    book, latents = Codebook(32, 8), torch.randn(2, 8, 4, 4)
    rows = latents.movedim(1, -1).reshape(-1, 8)
    assert torch.equal(book.quantize(latents).flatten(), torch.cdist(rows, book.codes).argmin(dim=1))


def test_gradients_go_straight_through_and_commitment_pulls_latents_to_their_codes():
    book = codebook([[1.0, 0.0], [0.0, 4.0]])
    latents = places([2.0, 0.0], [0.0, 3.0]).requires_grad_()
    embedded, indices, commitment = book(latents)
    assert torch.equal(embedded.detach(), book.embed(indices))
    assert commitment.item() == pytest.approx((1 + 0 + 0 + 1) / 4)
    weights = torch.arange(4.0).view(1, 2, 2, 1)
    (through,) = torch.autograd.grad((embedded * weights).sum(), latents, retain_graph=True)
    assert torch.equal(through, weights)
    (pull,) = torch.autograd.grad(commitment, latents)
    assert torch.allclose(pull, places([0.5, 0.0], [0.0, -0.5]))
    assert not book.codes.requires_grad


def test_codes_are_moving_averages_with_laplace_smoothing():
    book, latents = codebook([[0.0, 0.0], [10.0, 0.0]]), places([2.0, 0.0], [1.0, 1.0], [12.0, 4.0])
    book.learn(latents, book.quantize(latents), decay=0.9, restart_below=0.0)
    counts = [0.9 * 1 + 0.1 * 2, 0.9 * 1 + 0.1 * 1]
    sums = [[0.1 * 3, 0.1 * 1], [0.9 * 10 + 0.1 * 12, 0.1 * 4]]
    total = sum(counts)
    expected = [
        [value / ((count + SMOOTHING) / (total + 2 * SMOOTHING) * total) for value in row]
        for count, row in zip(counts, sums, strict=True)
    ]
    torch.testing.assert_close(book.counts, torch.tensor(counts))
    torch.testing.assert_close(book.codes, torch.tensor(expected))
    assert book.usage.tolist() == [2, 1]


def test_a_code_that_nothing_chooses_stays_finite():
    book, latents = codebook([[0.0, 0.0], [100.0, 0.0]]), torch.randn(4, 2, 8, 8)
    for _ in range(200):
        book.learn(latents, book.quantize(latents), decay=0.5, restart_below=0.0)
    assert book.codes.isfinite().all()


def test_cosine_codes_stay_on_the_unit_sphere():
    torch.manual_seed(0)
    book, latents = Codebook(8, 4, cosine=True), 7 * torch.randn(4, 4, 8, 8)
    book.learn(latents, book.quantize(latents), decay=0.5, restart_below=0.1)
    torch.testing.assert_close(book.codes.norm(dim=1), torch.ones(8))
    embedded, _, commitment = book(latents)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(4, 8, 8))
    assert commitment < 1  # of directions: the lengths don't count


def test_a_dead_code_becomes_one_of_the_latents_and_the_others_stay():
    torch.manual_seed(0)
    book, latents = codebook([[0.0, 0.0], [50.0, 50.0]]), 1 + torch.rand(2, 2, 4, 4)
    for _ in range(8):
        before = book.counts[1].item()
        book.learn(latents, book.quantize(latents), decay=0.5, restart_below=0.01)
        if book.counts[1] > before:
            break
    rows = latents.movedim(1, -1).reshape(-1, 2)
    assert (rows == book.codes[1]).all(dim=1).any()
    assert book.counts[1] == pytest.approx(book.counts.sum().item() / 3, rel=0.1)  # an even share of what was there
    kept = book.codes[0].clone()
    book.learn(latents, torch.zeros(2, 4, 4, dtype=torch.long), decay=1.0, restart_below=0.01)
    torch.testing.assert_close(book.codes[0], kept, rtol=1e-3, atol=1e-3)


def test_k_means_finds_the_clusters_that_the_latents_have():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    latents = (centres[torch.arange(400) % 4] + 0.1 * torch.randn(400, 2)).T.reshape(2, 20, 20)[None]
    book = Codebook(4, 2)
    book.usage += 1
    book.start(latents, seed=0)
    found = book.codes[torch.cdist(centres, book.codes).argmin(dim=1)]
    torch.testing.assert_close(found, centres, rtol=0, atol=0.05)
    torch.testing.assert_close(book.counts, torch.ones(4))
    assert not book.usage.any()


def test_fewer_latents_than_codes_are_enough_to_start_from():
    torch.manual_seed(0)
    book = Codebook(16, 4)
    book.start(torch.randn(1, 4, 1, 5), seed=0)
    assert book.codes.isfinite().all()
    assert len(book.codes.unique(dim=0)) == 16


def learn_in_one_of_two(rank: int, folder: Path) -> None:
    """What each process does: start, learn and restart codes from latents of its own."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    idist.get_world_size()
    torch.manual_seed(rank)
    book = Codebook(8, 4)
    book.start(torch.randn(2, 4, 8, 8), seed=rank)
    for _ in range(3):
        latents = torch.randn(2, 4, 8, 8) + rank
        book.learn(latents, book.quantize(latents), decay=0.5, restart_below=0.9)
    torch.save(book.state_dict(), folder / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # without the clean-up of the process that this one was split from


def test_all_processes_have_the_same_codes_from_the_latents_of_all(tmp_path):
    fork = mp.get_context("fork")
    processes = [fork.Process(target=learn_in_one_of_two, args=(rank, tmp_path), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["usage"].sum() == 3 * 2 * 2 * 64  # steps, processes, images, places
    for name, value in one.items():
        assert torch.equal(value, other[name])


def test_perplexity_counts_the_codes_that_are_really_in_use():
    assert perplexity(torch.tensor([5, 5, 5, 5, 0, 0])) == pytest.approx(4)
    assert perplexity(torch.tensor([9, 0, 0])) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert perplexity(torch.tensor([3, 1])) == pytest.approx(math.exp(entropy))


def test_like_codes_have_like_colours():
    book = codebook([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [9.0, 0.0, 0.0], [9.0, 0.3, 0.0], [9.0, 0.0, 0.02]])
    colours = code_colours(book)
    assert colours.shape == (5, 3)
    assert colours.abs().max() <= 1
    assert (colours[0] - colours[1])[0].abs() < (colours[0] - colours[2])[0].abs()
