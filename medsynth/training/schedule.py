"""Learning rates that follow how much of a run is over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from medsynth import distributed
from medsynth.errors import MedsynthError, check_whole, is_number

if TYPE_CHECKING:
    from medsynth.run.run import Run


FIRST_RATE = 0.01  # share of the full rate, at the start of a warm-up
ROUNDING = 1e-9  # share of a run: no rounding error may add a step to the first stage


class Schedule:
    """Sets learning rates before each iteration, from the share of the run that is over.

    The share follows iterations or the clock, whichever is further; so a run with `max_minutes` ends with the rate that
    it should end with. The clock starts with the first iteration: preparing images takes no part of the schedule. After
    such an end, the same command spreads the rest of the schedule over its own time.

    Subclasses give the share of the full rate in `factor`.

    Args:
        optimizers: their rates are set.
        max_minutes: of this process, as for `TimeLimit`; None: iterations alone count, and a resumed run has the rates
            of an uninterrupted one.
    """

    def __init__(self, run: Run, optimizers: Sequence[Optimizer], max_minutes: float | None = None) -> None:
        self.run = run
        self.max_minutes = max_minutes
        self.optimizers = optimizers
        self._full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self._began = 0.0  # when the schedule, or its present part, did, in seconds of this process

    def attach(self, engine: Engine) -> None:
        """Set the rates of `engine`'s optimizers."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def _begin(self) -> None:
        self._began = self.run.session_seconds

    def share(self, engine: Engine) -> float:
        """How much of the run is over, from 0 to 1."""
        state = engine.state
        by_iterations = (state.iteration - 1) / (state.max_epochs * state.epoch_length)
        return min(1.0, max(by_iterations, self.clock_share(engine)))

    def clock_share(self, engine: Engine) -> float:
        """How much of it is over by the clock of `max_minutes`; 0 without a limit."""
        if self.max_minutes is None:
            return 0.0
        before = self.run.start_iteration / (engine.state.max_epochs * engine.state.epoch_length)
        by_clock = before + (1 - before) * self._spent()
        return min(1.0, distributed.all_reduce(by_clock, "MAX"))

    def _spent(self) -> float:
        """Share of the time from `_began` to `max_minutes`."""
        left = max(1e-9, 60 * self.max_minutes - self._began)
        return (self.run.session_seconds - self._began) / left

    def factor(self, share: float) -> float:
        """Share of the full rate, when `share` of the run is over."""
        raise NotImplementedError

    def rate(self, engine: Engine) -> float:
        """Share of the full rate for the iteration that starts."""
        return self.factor(self.share(engine))

    # `LambdaLR` counts steps of its own and warns of a rate that is set before a step; it takes 6 us, this 2 us
    def _set(self, engine: Engine) -> None:
        factor = self.rate(engine)
        for optimizer, rates in zip(self.optimizers, self._full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):  # a restored optimizer has new groups
                group["lr"] = rate * factor


class LinearDecay(Schedule):
    """The full rate for the first half of the run, then in a straight line to 0.

    Reference: Zhu et al., CycleGAN, arXiv:1703.10593, section 4.
    """

    def factor(self, share: float) -> float:
        """1 up to a half, 0 at the end."""
        return min(1.0, 2 * (1 - share))


class RootDecay(Schedule):
    """The inverse square root of iterations; with a time limit, times a straight line to 0 in its second half.

    Iterations count from the run's first, whatever its epochs, so that a prolonged run has the rates of an
    uninterrupted one.

    Args:
        optimizers, max_minutes: as `Schedule`.
        iterations: after which the rate is the full one over the square root of 2.
    """

    def __init__(
        self, run: Run, optimizers: Sequence[Optimizer], iterations: int, max_minutes: float | None = None
    ) -> None:
        super().__init__(run, optimizers, max_minutes)
        check_whole("decay_iterations", iterations, 1)
        self.iterations = iterations

    def rate(self, engine: Engine) -> float:
        """1 at first; 0 only at the end of the time limit."""
        root = (1 + (engine.state.iteration - 1) / self.iterations) ** -0.5
        return root * min(1.0, 2 * (1 - self.clock_share(engine)))


class TwoStages(Schedule):
    """A warm-up and half a cosine to 0; the second stage, where there is one, starts again at a lower rate.

    Args:
        optimizers, max_minutes: as `Schedule`.
        warm_up: share of the run in which the rate rises from 0.
        second_epochs: number of last epochs, which form the second stage.
        max_epochs: of the run.
        second_rate: share of the full rate that the second stage starts at.

    Reference: Loshchilov & Hutter, SGDR, arXiv:1608.03983, eq. 5.
    """

    def __init__(
        self,
        run: Run,
        optimizers: Sequence[Optimizer],
        max_epochs: int,
        max_minutes: float | None = None,
        second_epochs: int = 0,
        warm_up: float = 0.02,
        second_rate: float = 0.1,
    ) -> None:
        super().__init__(run, optimizers, max_minutes)
        if not isinstance(second_epochs, int) or not 0 <= second_epochs < max_epochs:
            raise MedsynthError(
                f"adversarial_epochs is {second_epochs!r}, of {max_epochs} max_epochs: give 0, or fewer than all"
            )
        self.first_share = (max_epochs - second_epochs) / max_epochs - ROUNDING
        self.has_second = second_epochs > 0
        self.warm_up, self.second_rate = warm_up, second_rate

    def second_stage(self, engine: Engine) -> bool:
        """Whether it has begun."""
        return self.has_second and self.share(engine) >= self.first_share

    def factor(self, share: float) -> float:
        """Rises to 1, then falls to 0 by the end of the stage."""
        if self.has_second and share >= self.first_share:
            return self.second_rate * _half_cosine((share - self.first_share) / (1 - self.first_share))
        done = share / self.first_share
        return min(1.0, done / self.warm_up + FIRST_RATE) * _half_cosine(done)


class TwoParts(Schedule):
    """Two parts of a run that train different networks, each with a warm-up and a straight line to 0 at its end.

    A run that is resumed in its second part stays there, however much longer it is to last.

    Args:
        optimizers, max_minutes: as `Schedule`.
        first_share: of the run, that the first part takes.

    Attributes:
        second_from: number of iterations in the first part; None: it is not over.
        in_second: whether the second part has begun.
        done: how much of the part is over, from 0 to 1.
    """

    WARM_UP, DECAY = 0.02, 0.5  # shares of a part

    def __init__(
        self, run: Run, optimizers: Sequence[Optimizer], first_share: float, max_minutes: float | None = None
    ) -> None:
        super().__init__(run, optimizers, max_minutes)
        if not is_number(first_share) or not 0 < first_share < 1:
            raise MedsynthError(f"prior_from is {first_share!r}: give a share between 0 and 1, such as 0.3")
        self.first_share = first_share
        self.done = 0.0
        self.second_from: int | None = None

    @property
    def in_second(self) -> bool:
        return self.second_from is not None

    def state_dict(self) -> dict[str, int]:
        return {"second_from": -1 if self.second_from is None else self.second_from}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.second_from = None if state["second_from"] < 0 else int(state["second_from"])

    def rate(self, engine: Engine) -> float:
        """Rises to 1, and falls to 0 by the end of the part."""
        if not self.in_second:
            self.done = self.share(engine) / self.first_share
            if self.done >= 1 - ROUNDING:
                self.second_from, self._began = engine.state.iteration - 1, self.run.session_seconds
        if self.in_second:
            self.done = self._share_of_second(engine)
        return self.factor(self.done)

    def _share_of_second(self, engine: Engine) -> float:
        before, state = self.second_from, engine.state
        done = (state.iteration - 1 - before) / max(1, state.max_epochs * state.epoch_length - before)
        if self.max_minutes is not None:
            done = max(done, distributed.all_reduce(self._spent(), "MAX"))
        return min(1.0, done)

    def factor(self, share: float) -> float:
        """Of the full rate, when `share` of the part is over."""
        return min(1.0, share / self.WARM_UP + FIRST_RATE) * min(1.0, (1 - share) / self.DECAY)


def _half_cosine(done: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, done))
