"""One self-contained HTML page: what to read first, tables that sort, figures, and volumes to scroll through."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from markupsafe import Markup

from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.verdict import Verdict

TEMPLATES = Path(__file__).parent / "templates"
NIIVUE = Path(__file__).parent / "vendor" / "niivue.umd.js"
DASH = "–"  # where there is no value


@dataclass(frozen=True)
class Column:
    """Of a table.

    Args:
        title: its heading.
        numeric: whether it sorts and lines up as numbers.
        help: what the heading means.
    """

    title: str
    numeric: bool = True
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Args:
        text: as it is read.
        value: as it is sorted; None goes last.
        detail: in smaller letters below.
        strong: stands out.
    """

    text: str
    value: float | str | None = None
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each its heading."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Gallery:
    """Figures, side by side where there is room."""

    figures: Sequence[Figure]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Volume:
    """For the viewer.

    Args:
        name: `source`, `synthetic`, `target` or `error`.
        nifti: the file, compressed.
        low, high: the values shown as the ends of the colours.
        unit: of the values.
    """

    name: str
    nifti: bytes
    low: float
    high: float
    unit: str

    @property
    def base64(self) -> str:
        return base64.b64encode(self.nifti).decode()


@dataclass(frozen=True)
class Viewer:
    """Volumes of some subjects on one grid, their views linked.

    Args:
        cases: name of a subject -> its volumes.
        note: what was done to show them.
    """

    cases: dict[str, Sequence[Volume]]
    note: str
    kind: ClassVar[str] = "viewer"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Args:
        id: for links.
        paragraphs: before the blocks.
        blocks: tables, galleries and viewers, in order.
    """

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    blocks: Sequence[Table | Gallery | Viewer] = ()


@dataclass(frozen=True)
class Page:
    """A whole report.

    Args:
        title: heading and name of the tab.
        summary: what was compared, in a sentence or two.
        verdicts: what to read first.
        sections: the rest, in order.
        facts: name -> value, printed small at the end: how the page can be made again.
        reload_seconds: after which a browser loads the page again; None: never.
    """

    title: str
    summary: str
    verdicts: Sequence[Verdict] = ()
    sections: Sequence[Section] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    reload_seconds: int | None = None

    def html(self) -> str:
        """The page with its styles, scripts and pictures; nothing is loaded from elsewhere."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
        environment.globals["inline"] = lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8"))
        viewers = any(block.kind == "viewer" for section in self.sections for block in section.blocks)
        niivue = Markup(embeddable(NIIVUE.read_text(encoding="utf-8"))) if viewers else None
        return environment.get_template("report.html.j2").render(page=self, niivue=niivue)


def embeddable(script: str) -> str:
    """A script that can stand in a page: no end tag, and no address that looks as if something were loaded."""
    return re.sub(r"http://", r"http:\\/\\/", script.replace("</script", r"<\/script"))


def number(value: float | None, digits: int = 3) -> str:
    """Three figures that count, whole numbers as they are, a true minus sign, and a dash for no value."""
    if value is None or not math.isfinite(value):
        return DASH
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits - 1
    return f"{value:,.{min(decimals, 4)}f}".replace("-", "−")


def numeric(value: float | None, digits: int = 3, **options: Any) -> Cell:
    """A number's cell."""
    known = value is not None and math.isfinite(value)
    return Cell(number(value, digits), value if known else None, **options)


def plain(value: Any) -> str:
    """A fact as it is printed."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
