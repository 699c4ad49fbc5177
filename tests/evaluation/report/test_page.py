from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest

from medsynth.errors import MedsynthError
from medsynth.evaluation.report import figures
from medsynth.evaluation.report.figures import Figure
from medsynth.evaluation.report.folder import ReportFolder, as_csv
from medsynth.evaluation.report.page import (
    Cell,
    Column,
    Gallery,
    Page,
    Section,
    Table,
    Viewer,
    Volume,
    embeddable,
    number,
)
from medsynth.evaluation.report.paired_sections import _upright, levels
from medsynth.evaluation.report.verdict import Verdict


class Outline(HTMLParser):
    """Headings, images and ids of a page; fails on tags that are not closed."""

    def __init__(self, html):
        super().__init__()
        self.headings, self.images, self.ids, self.links, self.open = [], [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(heads):
    """One of everything."""
    picture = Figure("discs", "Discs", "A grid of discs", "How to read it", figures.grid(heads[:9], 3))
    columns = [Column("Name", numeric=False), Column("Size")]
    rows = [[Cell("b", "b"), Cell("10", 10.0)], [Cell("a", "a"), Cell("9", 9.0)], [Cell("c <&>", "c"), Cell("–")]]
    volume = Volume("target", gzip.compress(nib.Nifti1Image(heads, np.eye(4)).to_bytes()), 0.0, 1.0, "HU")
    sections = [
        Section("pictures", "Pictures", ["A paragraph."], [Gallery([picture]), Table("Sizes", columns, rows)]),
        Section("volumes", "Volumes", [], [Viewer({"sub-1": [volume]}, "A note.")]),
    ]
    verdicts = [Verdict("Fidelity", "poor", "Blurred.", ["fd_self 100, floor 3"])]
    return Page("A report", "Of discs.", verdicts, sections, {"seed": "0"})


def test_the_page_is_one_file_that_asks_for_nothing_else(page):
    html = page.html()
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert not re.search(r"<(script|img|link|iframe)[^>]+(src|href)=[\"'](?!data:)", html)
    assert "@import" not in html
    assert "url(" not in html.split("</style>")[0]


def test_the_page_is_well_formed_with_headings_in_order_and_a_text_for_each_picture(page):
    outline = Outline(page.html())
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert all(image["alt"] for image in outline.images)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link[1:] for link in outline.links} <= set(outline.ids)


def test_what_users_named_is_escaped(page):
    assert "c &lt;&amp;&gt;" in page.html()


def test_the_viewer_s_script_is_only_there_where_there_are_volumes(page):
    assert "niivue" in page.html()
    without = Page("A report", "Of discs.", page.verdicts, page.sections[:1])
    assert "niivue" not in without.html()


def test_an_embedded_script_neither_ends_the_element_nor_names_addresses():
    assert embeddable('a = "</script>"; // http://x') == 'a = "<\\/script>"; // http:\\/\\/x'


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0.0, "0.00"), (12.345, "12.3"), (-0.5, "−0.500"), (1234.5, "1,234"),
     (1234567, "1,234,567"), (1e-5, "1.00e−05")],
)  # fmt: skip
def test_numbers_have_three_figures_that_count(value, text):
    assert number(value) == text


def test_a_report_is_written_whole_and_not_over_another(page, tmp_path, measure):
    measures = [measure("fd_self", 12.0, 3.0, interval=(10.0, 14.0)), measure("swd", None, note="too few")]
    measures.append(measure("psnr", float("inf")))
    ReportFolder(tmp_path / "r").write(measures, [{"subject": "a", "recall": 0.5}], page, {"seed": 3, "mask": "none"})
    written = json.loads((tmp_path / "r/metrics.json").read_text())
    assert written["fd_self"]["value"] == 12.0
    assert written["fd_self"]["interval"] == [10.0, 14.0]
    assert written["fd_self"]["seed"] == 3
    assert written["swd"]["value"] is None
    assert written["psnr"]["value"] is None
    assert written["swd"]["note"] == "too few"
    assert (tmp_path / "r/metrics.csv").read_text() == "subject,recall\na,0.5\n"
    assert (tmp_path / "r/figures/discs.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MedsynthError, match="is there already: give another output_dir, or --overwrite true"):
        ReportFolder(tmp_path / "r")
    ReportFolder(tmp_path / "r", overwrite=True)


def test_rows_that_lack_a_column_leave_it_empty():
    assert as_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"


def test_volumes_in_the_page_keep_their_units_to_half_a_level(heads):
    low, high = -100.0, 900.0
    shown = nib.Nifti1Image.from_bytes(gzip.decompress(levels(heads * 1000 - 100, np.diag([2, 2, 3, 1]), low, high)))
    assert np.abs(shown.get_fdata() - (heads * 1000 - 100)).max() <= (high - low) / 255 / 2 + 1e-3
    assert shown.header.get_zooms() == (2, 2, 3)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PLS", "ARS", "LAI"])
def test_axial_planes_are_shown_with_the_patient_s_right_on_the_left_and_the_front_on_top(codes):
    canonical = np.zeros((4, 6, 2))
    canonical[3, 5] = 1  # right, anterior
    stored = nib.Nifti1Image(canonical, np.diag([2.0, 2, 2, 1])).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    shown = _upright(stored.get_fdata()[..., 0], stored.affine)
    assert shown.shape == (6, 4)
    assert shown[0, 0] == 1
