from __future__ import annotations

import numpy as np
import pytest

from medsynth.evaluation.metrics.paired.fourier_ring import FourierRing
from medsynth.evaluation.metrics.paired.upscaling_measures import MEASURES, summarize
from medsynth.models.superres.upscaling_sections import Case, superres_sections
from medsynth.models.superres.upscaling_verdict import superres_verdicts

BASELINES = ["nearest", "spline"]


@pytest.fixture
def rows():
    """Of four subjects, for each method: PSNR, and what else is given, everything else alike."""

    def make(**methods: dict[str, float]) -> dict[str, list[dict[str, float]]]:
        common = dict.fromkeys(MEASURES, 1.0)
        return {
            name.replace("_", " "): [common | values | {"psnr_head": values["psnr_head"] + i % 2} for i in range(6)]
            for name, values in methods.items()
        }

    return make


def verdicts(rows, compared=None):
    found = superres_verdicts(rows, summarize(rows, "network", BASELINES, 0), "network", BASELINES, compared)
    return {verdict.topic: verdict for verdict in found}


def test_a_network_that_loses_to_an_interpolation_is_told_to_at_the_top(rows):
    found = verdicts(rows(nearest={"psnr_head": 20}, spline={"psnr_head": 22}, network={"psnr_head": 21}))
    (topic, *_), closeness = found, found["Closeness"]
    assert topic == "Closeness"
    assert closeness.grade == "poor"
    assert "loses to spline in PSNR inside the patient: interpolate instead" in closeness.headline


def test_a_loss_in_structural_similarity_alone_counts_too(rows):
    found = verdicts(
        rows(nearest={"psnr_head": 20}, spline={"psnr_head": 20}, network={"psnr_head": 23, "ssim_head": 0.5})
    )
    assert found["Closeness"].grade == "poor"
    assert "in SSIM inside the patient" in found["Closeness"].headline


def test_a_loss_in_the_air_alone_is_said_beside_the_gain(rows):
    found = verdicts(rows(nearest={"psnr_head": 20}, spline={"psnr_head": 20}, network={"psnr_head": 23, "ssim": 0.9}))
    assert found["Closeness"].grade == "mixed"
    assert (
        "inside the patient, by 3.00 dB, but it loses to nearest in SSIM of whole slices" in found["Closeness"].headline
    )


def test_finer_and_nearer_is_good_and_the_gain_is_said(rows):
    methods = rows(
        nearest={"psnr_head": 20}, spline={"psnr_head": 22}, network={"psnr_head": 23.5, "resolution_mm": 0.8}
    )
    found = verdicts(methods)
    assert found["Closeness"].grade == found["Resolution"].grade == "good"
    assert "by 1.50 dB" in found["Closeness"].headline


@pytest.mark.parametrize(("mm", "grade"), [(1.2, "poor"), (0.99, "mixed"), (0.8, "mixed")])
def test_sharpness_is_not_taken_for_truth(rows, mm, grade):
    network = {"psnr_head": 23, "resolution_mm": mm, "gradient_ratio": 1.4}
    found = verdicts(rows(nearest={"psnr_head": 20}, spline={"psnr_head": 22}, network=network))
    assert found["Resolution"].grade == grade


def test_the_price_beside_another_network_is_said(rows):
    values = {"nearest": 20, "spline": 21, "network": 22, "compared_network": 22.7}
    methods = rows(**{name: {"psnr_head": value} for name, value in values.items()})
    found = verdicts(methods, "compared network")
    assert "-0.70 dB" in found["Price"].headline


def test_the_page_s_parts_show_every_method_the_worst_subject_first(rows):
    methods = rows(nearest={"psnr_head": 20}, spline={"psnr_head": 22}, network={"psnr_head": 23, "resolution_mm": 0.8})
    ring = FourierRing(np.linspace(0.01, 0.25, 20), np.linspace(1, 0, 20))
    image, head = np.random.default_rng(0).random((70, 130)), np.zeros((70, 130), bool)
    head[10:60, 30:100] = True
    images = dict.fromkeys([*methods, "truth"], image)
    cases = [Case(f"s{i}", 9, images, head, dict.fromkeys(methods, ring), (2.0, 2.0)) for i in range(6)]
    sections = superres_sections(methods, summarize(methods, "network", BASELINES, 0), cases, "network", 2)
    table, gallery, curves, subjects = (section.blocks[0] for section in sections)
    assert [row[0].text for row in table.rows] == ["nearest", "spline", "network"]
    assert [row[1].strong for row in table.rows] == [False, False, True]
    assert len(gallery.figures) == 3
    assert curves.figures[0].png.startswith(b"\x89PNG")
    assert [row[0].text for row in subjects.rows] == ["s0", "s2", "s4", "s1", "s3", "s5"]
