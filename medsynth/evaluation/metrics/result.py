"""One measured number with unit, direction, interval, floor and baseline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["lower", "higher", "near"]


@dataclass(frozen=True)
class Measure:
    """A measure of a set of synthetic images.

    Attributes:
        name: as in the documentation, such as `fd_self`.
        value: None where it could not be computed; `note` then says why.
        unit: of value, interval, floor and baseline; empty for a share or a ratio.
        direction: what is better; "near": near `target`.
        n: synthetic images (or pairs of images, or subjects) that it was computed from.
        target: the best value of a "near" measure.
        interval: 95 %, of the subjects that happened to be the reference.
        floor: the same measure of real images of other subjects, at the same n.
        baseline: the same measure of a Gaussian mixture in PCA space fitted to the training images, at the same n; of
            segmenters, of painted label maps; of pairs, the best of `baselines`.
        spread: standard deviation over subjects.
        baselines: the same measure of what simple methods predict, by their names.
        by_contrasts: the same measure with fewer contrasts as the source, by which.
        note: what a reader has to know, or why there is no value.
        no_floor: why there is a value and no floor.
    """

    name: str
    value: float | None
    unit: str
    direction: Direction
    n: int
    target: float | None = None
    interval: tuple[float, float] | None = None
    floor: float | None = None
    baseline: float | None = None
    note: str | None = None
    spread: float | None = None
    baselines: dict[str, float] | None = None
    by_contrasts: dict[str, float] | None = None
    no_floor: str | None = None

    @property
    def remark(self) -> str:
        """The note, and why there is no floor; empty where there is neither."""
        return "; ".join(filter(None, (self.note, self.no_floor and f"no floor: {self.no_floor}")))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)
