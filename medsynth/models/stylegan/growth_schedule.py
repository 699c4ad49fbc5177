"""The schedule of progressive growing: resolutions, fade-in and batch sizes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medsynth.errors import MedsynthError, is_number
from medsynth.nn.progressive import resolutions_up_to

logger = logging.getLogger(__name__)

MOST_OF_A_RUN = 0.5  # that growing may take; in a short run, all phases are shortened by one factor


@dataclass(frozen=True)
class Phase:
    """The pixels per side of a step, the share of the finest layers in the image, and the number of images."""

    resolution: int
    alpha: float
    batch_size: int


class GrowingSchedule:
    """Resolution and fade-in by the number of images that the discriminator has seen. It is part of a run's state.

    At each resolution but the first, new layers fade in, alpha going from 0 to 1 in a straight line; then all train on.
    The last resolution lasts for the rest of the run.

    Args:
        image_size: the last resolution.
        grows: false for an architecture that has all resolutions from the start.
        fade_kimg: thousands of images in which layers fade in, from the second resolution on; the last number counts
            for all finer ones.
        stable_kimg: thousands of images after that, from the first resolution on, likewise.
        batch_sizes: images per step and process, from the first resolution on, likewise.
        group: images per group of the minibatch standard deviation.

    Raises:
        MedsynthError: an impossible number, or a batch that does not hold whole groups.

    Reference: Karras et al., PGGAN, arXiv:1710.10196, section 2 and appendix A.
    """

    def __init__(
        self,
        image_size: int,
        grows: bool,
        fade_kimg: Sequence[float],
        stable_kimg: Sequence[float],
        batch_sizes: Sequence[int],
        group: int,
    ) -> None:
        self.resolutions = resolutions_up_to(image_size)
        _check("fade_kimg", fade_kimg, 0)
        _check("stable_kimg", stable_kimg, 0)
        _check("batch_sizes", batch_sizes, 1)
        for size in batch_sizes:
            check_batch(size, group)
        levels = range(len(self.resolutions))
        last = levels[-1]
        self.fades = [1000 * (_at(fade_kimg, level - 1) if level and grows else 0) for level in levels]
        self.stables = [1000 * (_at(stable_kimg, level) if level < last and grows else 0) for level in levels]
        self.batch_sizes = [int(_at(batch_sizes, level)) for level in levels]
        self.images, self.steps, self.pace = 0, 0, 1.0

    def fit(self, images: int) -> None:
        """Shorten the phases if they would take too large a part of a run of so many images."""
        whole = sum(self.fades) + sum(self.stables)
        if whole > MOST_OF_A_RUN * images:
            self.pace = whole / (MOST_OF_A_RUN * images)
            logger.info("A short run: it grows %.3g times as fast as with fade_kimg and stable_kimg", self.pace)

    def now(self) -> Phase:
        """The phase of the next step."""
        seen = self.images * self.pace
        for resolution, fade, stable, batch_size in zip(
            self.resolutions, self.fades, self.stables, self.batch_sizes, strict=True
        ):
            if seen < fade + stable or resolution == self.resolutions[-1]:
                return Phase(resolution, min(1.0, seen / fade) if fade else 1.0, batch_size)
            seen -= fade + stable
        raise AssertionError("the last resolution has no end")

    def step(self, images: int) -> None:
        """Count a step on so many images of all processes."""
        self.images += images
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "steps": self.steps, "pace": self.pace}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images, self.steps, self.pace = state["images"], state["steps"], state["pace"]


def check_batch(size: int, group: int) -> None:
    """Refuse a batch that cannot be divided into groups whose images are compared with each other."""
    if size < group or size % group:
        raise MedsynthError(
            f"a batch of {size}: the discriminator compares groups of {group} images, so give a multiple of {group}"
        )


def _check(name: str, numbers: Sequence[float], least: float) -> None:
    good = (
        isinstance(numbers, (list, tuple))
        and len(numbers)
        and all(is_number(number) and number >= least for number in numbers)
    )
    if not good:
        raise MedsynthError(f"{name} is {numbers!r}: give a list of numbers, one a resolution, {least} or more")


def _at(numbers: Sequence[float], level: int) -> float:
    return numbers[min(level, len(numbers) - 1)]
