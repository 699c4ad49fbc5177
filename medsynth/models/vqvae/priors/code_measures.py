"""Distances between generated and real code maps, without decoding them."""

from __future__ import annotations

import torch
from torch import Tensor

UNSEEN = 0.5  # added to the count of every code, so that no code has probability 0


def code_shares(codes: Tensor, num_codes: int) -> Tensor:
    """(num_codes,) how often each code occurs in maps (N, h, w) of integers; they sum to 1."""
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double()
    return counts / counts.sum()


def histogram_divergence(real: Tensor, fake: Tensor, num_codes: int) -> float:
    """Kullback-Leibler divergence of the frequencies of codes, of real maps from generated ones, in nats.

    Lower is better, 0 is equal. `UNSEEN` is added to the count of every code.

    Args:
        real, fake: (N, h, w) and (M, h, w) integers below `num_codes`.
    """
    p, q = (_smoothed(torch.bincount(codes.flatten(), minlength=num_codes)) for codes in (real, fake))
    return (p * (p / q).log()).sum().item()


def pair_divergence(real: Tensor, fake: Tensor, num_codes: int) -> float:
    """Jensen-Shannon divergence of neighbouring pairs of codes, in nats: 0 is equal, ln 2 has no pair in common.

    It is the mean of the divergence of pairs side by side and that of pairs one above the other. It grows as maps get
    fewer: compare it with that of as many other real maps.

    Args:
        real, fake: (N, h, w) and (M, h, w) integers below `num_codes`, at least 2 a side.
    """
    divergences = []
    for first, second in ((_CUT_RIGHT, _CUT_LEFT), (_CUT_BOTTOM, _CUT_TOP)):
        p, q = (code_shares(codes[first] * num_codes + codes[second], num_codes**2) for codes in (real, fake))
        middle = (p + q) / 2
        divergences.append((_relative(p, middle) + _relative(q, middle)) / 2)
    return sum(divergences) / 2


_CUT_RIGHT, _CUT_LEFT = (..., slice(None, -1)), (..., slice(1, None))
_CUT_BOTTOM, _CUT_TOP = (..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))


def _smoothed(counts: Tensor) -> Tensor:
    return (counts + UNSEEN).double() / (counts + UNSEEN).sum()


def _relative(p: Tensor, q: Tensor) -> float:
    """Kullback-Leibler divergence of shares p from q, which is 0 nowhere that p is not."""
    found = p > 0
    return (p[found] * (p[found] / q[found]).log()).sum().item()
