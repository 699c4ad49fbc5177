"""The page in a real browser: it opens from disk, draws, sorts and pages through volumes, without a complaint."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsynth.evaluation.report import figures
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.page import Cell, Column, Gallery, Page, Section, Table, Viewer, Volume
from medsynth.evaluation.report.verdict import Verdict

browser = pytest.importorskip("browser", reason="tests/report is not on the path")
pytestmark = pytest.mark.skipif(
    browser.find_chromium() is None, reason="no Chromium: apt-get install chromium, then these tests run"
)


def volume(name: str, voxels: np.ndarray, low: float, high: float) -> Volume:
    content = nib.Nifti1Image(voxels.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])).to_bytes()
    return Volume(name, gzip.compress(content), low, high, "HU")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A report with a table and two subjects of volumes, open in a browser."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 28, 20)), indexing="ij")
    height = np.broadcast_to(np.arange(20) * 10.0, (24, 28, 20))
    ball = np.where(sum(axis**2 for axis in axes) < 0.8, 100 + height, 0)
    cases = {
        name: [volume("synthetic", ball + shift, 0, 300), volume("target", ball, 0, 300),
               volume("error", np.full_like(ball, shift), -50, 50)]
        for name, shift in (("sub-1", 20.0), ("sub-2", 5.0))
    }  # fmt: skip
    columns = [Column("Subject", numeric=False), Column("MAE")]
    rows = [[Cell(n, n), Cell(str(v), v)] for n, v in (("s10", 9.0), ("s2", 100.0), ("s1", 20.0))] + [
        [Cell("s3", "s3"), Cell("–")]
    ]
    picture = Figure("grid", "Grid", "A ball", "A slice.", figures.grid(ball.transpose(2, 0, 1)[:4] / 300, 2))
    page = Page(
        "A report", "Of a ball.", [Verdict("Fidelity", "good", "Round.", ["mae 20"])],
        [Section("pictures", "Pictures", [], [Gallery([picture]), Table("Subjects", columns, rows)]),
         Section("volumes", "Volumes", [], [Viewer(cases, "A note.")])],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.html(), encoding="utf-8")
    with browser.Browser() as window:
        window.open(path)
        window.wait("document.querySelector('[data-viewer]').dataset.state === 'ready'")
        yield window


def first_column(window) -> list[str]:
    return window.run("[...document.querySelectorAll('#pictures tbody tr')].map(r => r.cells[0].textContent)")


def canvas(window, index: int = 0) -> tuple[float, float, float, float]:
    """Of a view: its left, top, width and height in the window."""
    window.run(f"document.querySelectorAll('canvas')[{index}].scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = f"document.querySelectorAll('canvas')[{index}].getBoundingClientRect()"
    return tuple(window.run(f"(() => {{ const b = {box}; return [b.x, b.y, b.width, b.height] }})()"))


def slice_text(window) -> str:
    return window.run("document.querySelector('[data-number]').textContent")


def test_tables_sort_by_click_and_by_keyboard_with_missing_values_last(opened):
    opened.run("document.querySelectorAll('#pictures th button')[1].click()")
    assert first_column(opened) == ["s10", "s1", "s2", "s3"]
    opened.run("document.querySelectorAll('#pictures th button')[1].focus()")
    opened.press("Enter", 13, "\r")
    assert first_column(opened) == ["s2", "s1", "s10", "s3"]
    assert opened.run("document.querySelectorAll('#pictures thead th')[1].getAttribute('aria-sort')") == "descending"
    opened.run("document.querySelectorAll('#pictures th button')[0].click()")
    assert first_column(opened) == ["s1", "s2", "s3", "s10"]


def test_volumes_are_drawn_and_differ_from_each_other(opened, tmp_path):
    left, top, width, height = canvas(opened)
    picture = Image.open(io.BytesIO(opened.screenshot(tmp_path / "view.png"))).convert("L")
    view = np.asarray(picture.crop((round(left), round(top), round(left + width), round(top + height))))
    assert view.max() > 150
    assert view.std() > 30
    assert opened.run("document.querySelectorAll('canvas').length") == 3


def test_the_views_are_linked_and_tell_the_values_at_the_cross(opened):
    left, top, width, height = canvas(opened, 1)
    opened.click(left + 0.5 * width, top + 0.5 * height)
    text = opened.run("document.querySelector('[data-readout]').textContent")
    values = {part.split()[0]: float(part.split()[1].replace("−", "-")) for part in text.split(": ")[1].split(" · ")}
    assert values["target"] > 100
    assert values["synthetic"] - values["target"] == pytest.approx(values["error"], abs=0.6)


def test_the_wheel_and_the_arrow_keys_page_through_the_slices(opened):
    left, top, width, height = canvas(opened)
    opened.click(left + 0.5 * width, top + 0.5 * height)
    before = slice_text(opened)
    opened.wheel(left + 0.5 * width, top + 0.5 * height, 120)
    opened.wait(f"document.querySelector('[data-number]').textContent !== {before!r}")
    opened.run("document.querySelector('[data-slice]').focus()")
    opened.press("Home", 36)
    assert slice_text(opened) == "1 of 20"
    opened.press("ArrowRight", 39)
    assert slice_text(opened) == "2 of 20"


def test_another_subject_and_another_plane_can_be_chosen(opened):
    opened.run("""(() => { const menu = document.querySelector('[data-case]'); menu.selectedIndex = 1;
        menu.dispatchEvent(new Event('change')); })()""")
    opened.wait("document.querySelector('[data-viewer]').dataset.state === 'ready'")
    opened.run("""(() => { const menu = document.querySelector('[data-plane]'); menu.value = 'coronal';
        menu.dispatchEvent(new Event('change')); })()""")
    assert slice_text(opened).endswith("of 28")
    assert "error 5.00" in opened.run("document.querySelector('[data-readout]').textContent")


def test_nothing_is_wider_than_a_narrow_window_and_the_page_prints(opened, tmp_path):
    opened.resize(500, 800)
    assert opened.run("document.documentElement.scrollWidth") <= 500
    opened.resize(1200, 900)
    opened.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_went_wrong_and_nothing_was_asked_of_the_network(opened):
    opened.run("1")
    assert opened.problems == []
