"""Solver of the flow's ordinary differential equation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def heun(
    velocity: Callable[[Tensor, float], Tensor],
    points: Tensor,
    start: float,
    end: float,
    steps: int,
    hold: Callable[[Tensor, float], Tensor] | None = None,
) -> Tensor:
    """Follow a velocity from one time to another in equal steps of second order.

    Args:
        velocity: (points, time) -> how fast each point moves.
        points: where they are at `start`.
        start, end: times; `end` may come first.
        steps: each calls `velocity` twice.
        hold: (points, time) -> the points, some of them put back where they are known to be.

    Reference: Karras et al., EDM, arXiv:2206.00364, algorithm 1.
    """
    step = (end - start) / steps
    for index in range(steps):
        time = start + index * step
        slope = velocity(points, time)
        points = points + step * (slope + velocity(points + step * slope, time + step)) / 2
        points = points if hold is None else hold(points, time + step)
    return points
