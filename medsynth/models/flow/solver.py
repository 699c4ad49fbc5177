"""Solver of the flow's ordinary differential equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from medsynth.errors import MedsynthError, check_whole, is_number

SOLVER_STEPS = 8  # of Heun's method, each two evaluations of the network; more change nothing that is seen


def solver_settings(steps: int | None, guidance: float) -> dict[str, Any]:
    """`steps` and `guidance` as a flow takes them, checked; steps of None are `SOLVER_STEPS`."""
    steps = SOLVER_STEPS if steps is None else steps
    check_whole("steps", steps, 1)
    if not is_number(guidance) or not 0 <= guidance < float("inf"):
        raise MedsynthError(f"guidance is {guidance!r}: give 1, or a larger number such as 2")
    return {"steps": steps, "guidance": guidance}


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
