"""Whom figures are read on: patients of the datalist's validation, of its test, or of both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medsynth.data.datalist.datalist import Datalist
from medsynth.errors import MedsynthError

READ_ON = {"validation": ("validation",), "test": ("test",), "both": ("validation", "test")}

log = logging.getLogger(__name__)


def check_split(split: Any) -> None:
    """Refuse what is none of `READ_ON`."""
    if split not in list(READ_ON):
        raise MedsynthError(f"split is {split!r}: give {', '.join(READ_ON)}")


def held_out_entries(data: Datalist, split: str = "test") -> list[dict[str, Any]]:
    """Images of patients that the generator did not learn from, each with its "split".

    A datalist without test patients gives those of validation instead, and the log says so.

    Args:
        split: `validation`, `test` or `both`.

    Raises:
        MedsynthError: there are none.
    """
    found = [entry | {"split": name} for name in READ_ON[split] for entry in data.splits[name]]
    if not found and split == "test" and data.splits["validation"]:
        log.warning("the datalist %s has no test patients: figures are read on its validation patients", data.name)
        return held_out_entries(data, "validation")
    if not found:
        raise MedsynthError(
            f"the datalist {data.name} holds no {'validation' if split == 'validation' else 'validation or test'} "
            "subjects: real images that the generator did not see are needed to compare with; make it again with a "
            "share for them, such as --split 0.7 0.15 0.15"
        )
    return found


@dataclass(frozen=True)
class Patients:
    """Those whose images were measured.

    Args:
        counts: split -> patients; None stands for a folder, which has no splits.
    """

    counts: dict[str | None, int]

    @classmethod
    def of(cls, entries: Iterable[dict[str, Any]], measured: Iterable[str]) -> Patients:
        """Count the subjects whose images were measured, each of which may be named often."""
        splits = {entry["subject"]: entry.get("split") for entry in entries}
        return cls(dict(Counter(splits[subject] for subject in dict.fromkeys(measured))))

    @property
    def facts(self) -> dict[str, Any]:
        """For metrics.json and provenance.json."""
        split = "both" if len(self.counts) > 1 else next(iter(self.counts))
        return {"split": split, "patients": sum(self.counts.values())}

    @property
    def words(self) -> str:
        """For the top of the page."""
        number = " and ".join(f"{count} {split}" if split else f"{count}" for split, count in self.counts.items())
        read = f"Figures are read on {number} {'patient' if sum(self.counts.values()) == 1 else 'patients'}"
        if "validation" in self.counts:
            return f"{read}: validation chose the model, so the figures flatter it."
        if "test" in self.counts:
            return f"{read}, who taught and chose nothing."
        return f"{read}; whether they taught or chose the model is not known."
