from __future__ import annotations

from dataclasses import replace

import pytest

from medsynth.evaluation.report.verdict import NO_PROOF, privacy, standing, utility, verdicts
from medsynth.evaluation.report.verdict_paired import paired_verdicts

REAL = {
    "fd_self": 3.0, "kid_self": 40.0, "fd_pca": 3.2, "fd_radiomics": 6.8, "swd": 12.0, "psd": 0.15,
    "psd_top_third": 0.1, "intensity_w1": 2.5, "gradient_ratio": 1.01, "precision": 0.82, "recall": 0.9,
    "coverage": 0.8, "c2st_auc": 0.5, "ms_ssim_pairs": 0.645, "duplicates": 0.0, "closer_to_train": 0.45,
    "authenticity": 0.45, "membership_auc": 0.5,
}  # fmt: skip
GMM = {
    "fd_self": 73, "kid_self": 5192, "fd_pca": 3.4, "fd_radiomics": 157, "swd": 54, "psd": 1.6, "intensity_w1": 25,
    "gradient_ratio": 0.9, "precision": 0.63, "recall": 0.77, "coverage": 0.63, "c2st_auc": 0.98,
    "ms_ssim_pairs": 0.662,
}  # fmt: skip
BLUR = {
    "fd_self": 123, "kid_self": 9020, "fd_radiomics": 155, "swd": 74, "psd": 3.3, "psd_top_third": -5.0,
    "intensity_w1": 14, "gradient_ratio": 0.79, "c2st_auc": 1.0,
}  # fmt: skip
NOISE = {
    "fd_self": 44, "kid_self": 2134, "swd": 24, "psd": 0.5, "psd_top_third": 2.0, "intensity_w1": 8,
    "gradient_ratio": 1.17,
}  # fmt: skip
COLLAPSE = {
    "fd_self": 16, "kid_self": 343, "fd_pca": 17, "swd": 31, "recall": 0.65, "coverage": 0.21, "ms_ssim_pairs": 0.67,
}  # fmt: skip
COPIES = {"closer_to_train": 1.0, "authenticity": 0.0, "membership_auc": 0.99}
PEER = {
    "fd_self": 138, "kid_self": 14217, "fd_pca": 39, "fd_radiomics": 593, "swd": 118, "psd": 1.3, "intensity_w1": 88,
    "precision": 0.13, "recall": 0.66, "coverage": 0.13, "c2st_auc": 1.0,
}  # fmt: skip


@pytest.fixture
def judged(measure):
    """Verdicts by topic, of real-like values with some changed."""

    def judge(**changed):
        values = {name: value * 1.1 if name in ("fd_self", "swd") else value for name, value in REAL.items()} | changed
        measures = [
            measure(name, value, REAL[name], GMM.get(name), **({"target": 0.645} if name == "ms_ssim_pairs" else {}))
            for name, value in values.items()
        ]
        return {verdict.topic: verdict for verdict in verdicts(measures)}

    return judge


def test_real_images_of_other_subjects_are_judged_close_to_real_varied_and_not_copied(judged):
    found = judged()
    assert [found[topic].grade for topic in ("Fidelity", "Diversity", "Privacy")] == ["good"] * 3


@pytest.mark.parametrize(
    ("changed", "told"),
    [(BLUR, "Soft: detail is missing; gradients are 0.79 of real ones"), (NOISE, "Grainy: noise, or texture")],
)
def test_corrupted_images_are_not_praised_and_the_words_say_what_is_wrong(judged, changed, told):
    verdict = judged(**changed)["Fidelity"]
    assert verdict.grade in ("mixed", "poor")
    assert "fd_self" in " ".join([verdict.headline, *verdict.reasons])
    assert told in verdict.reasons[0]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"gradient_ratio": 0.93}, "soft"),
        ({"psd": 1.0, "psd_top_third": -2.0}, "soft"),
        ({"gradient_ratio": 1.09}, "grainy"),
        ({"psd": 1.0, "psd_top_third": 2.0}, "grainy"),
        ({"psd": 1.0}, "of another texture"),
        ({"c2st_auc": 0.95}, "told from real images by a classifier"),
        ({"gradient_ratio": 0.9, "c2st_auc": 1.0}, "soft and told from real images by a classifier"),
    ],
)
def test_good_distances_do_not_excuse_what_they_cannot_see(judged, changed, fault):
    verdict = judged(**changed)["Fidelity"]
    assert verdict.headline == f"Good distances, but {fault}."
    assert verdict.grade == "mixed"


@pytest.mark.parametrize("changed", [{"gradient_ratio": 0.96}, {"psd": 0.4, "psd_top_third": -0.4}, {"c2st_auc": 0.6}])
def test_what_real_images_vary_by_is_no_fault(judged, changed):
    assert judged(**changed)["Fidelity"].grade == "good"


def test_a_collapse_to_few_subjects_is_caught_by_coverage(judged):
    verdict = judged(**COLLAPSE)["Diversity"]
    assert verdict.grade in ("mixed", "poor")
    assert verdict.headline == "Worse than a PCA-GMM in 3 of 3 measures."
    assert any("21% of the real images, where real images of other subjects reach 80%" in r for r in verdict.reasons)


def test_copies_are_caught_even_where_all_else_is_perfect(judged):
    verdict = judged(**COPIES)["Privacy"]
    assert verdict.grade == "poor"
    assert "closer_to_train, authenticity, membership_auc" in verdict.reasons[0]


def test_losing_to_a_pca_gmm_is_the_headline(judged):
    verdict = judged(**PEER)["Fidelity"]
    assert verdict.grade == "poor"
    assert verdict.headline == "Worse than a PCA-GMM in 8 of 10 measures."


def test_bad_images_get_no_clearance_for_privacy(judged):
    assert judged(**PEER)["Privacy"].grade == "unknown"


@pytest.mark.parametrize("changed", [{}, COPIES, PEER])
def test_privacy_always_says_that_it_is_no_proof(judged, changed):
    assert judged(**changed)["Privacy"].reasons[-1] == NO_PROOF
    assert privacy({}, readable=True).reasons == [NO_PROOF]


def test_what_could_not_be_computed_is_said_and_not_judged(measure):
    few = [measure("fd_self", None, note="3 synthetic images, needs 50 or more"), measure("swd", None, note="too few")]
    fidelity = verdicts(few)[0]
    assert fidelity.grade == "unknown"
    assert verdicts([])[0].headline == "Cannot be judged: too few measures were computed."
    assert "fd_self: 3 synthetic images, needs 50 or more" in fidelity.reasons


def test_a_distance_is_counted_in_units_of_the_floor(measure):
    place = standing(measure("fd_self", 12.0, 3.0, 6.0))
    assert (place.times, place.baseline_times, place.loses) == (4.0, 2.0, True)
    assert standing(measure("recall", 0.6, 0.8)).times == pytest.approx(0.4 / 0.2)
    assert standing(measure("gradient_ratio", 0.9, 1.05)).times == pytest.approx(0.1 / 0.05)
    assert standing(measure("fd_self", 12.0)).times is None


def test_a_negative_unbiased_distance_is_no_distance(measure):
    assert standing(measure("kid_self", -5.0, 30.0)).times == 0


@pytest.mark.parametrize(
    ("value", "interval", "grade"),
    [(0.9, (0.85, 0.95), "good"), (0.7, (0.65, 0.75), "poor"), (0.81, (0.75, 0.86), "mixed")],
)
def test_utility_compares_with_training_on_real_images_alone(measure, value, interval, grade):
    alone = measure("utility_tstr", 0.78, 0.8, interval=(0.7, 0.85))
    added = measure("utility_augmented", value, 0.8, interval=interval)
    assert utility({"utility_tstr": alone, "utility_augmented": added}).grade == grade


def test_utility_says_what_segmenters_learn_where_images_have_label_maps(measure):
    found = {f"utility_{name}": measure(f"utility_{name}", 0.78, 0.8) for name in ("tstr", "augmented")}
    found["dice_tstr"] = measure("dice_tstr", 0.71, 0.82, baseline=0.4)
    found["dice_augmented"] = measure("dice_augmented", 0.83, 0.82)
    told = utility(found).reasons[-1]
    assert told.endswith(
        "of 0.71, on real ones alone 0.82, on real and synthetic ones 0.83, on painted label maps 0.4."
    )


def test_a_prediction_that_loses_to_a_lookup_of_intensities_is_told(measure):
    lost = [measure("mae", 120.0, baseline=100.0), measure("psnr", 20.0, baseline=24.0)]
    won = [measure("mae", 60.0, baseline=100.0), measure("psnr", 26.0, baseline=24.0)]
    assert "Worse than a lookup of intensities in 2 of 2" in paired_verdicts(lost, 9)[0].headline
    assert paired_verdicts(won, 9)[0].grade == "good"
    assert any("2 subject(s) only" in reason for reason in paired_verdicts(won, 2)[0].reasons)


def test_one_measure_alone_is_a_reason_to_look_and_not_yet_a_finding(measure):
    verdict = privacy({"closer_to_train": measure("closer_to_train", 0.68, floor=0.55)}, readable=True)
    assert verdict.grade == "mixed"
    assert verdict.headline == "Closer to the training images than expected, by one measure."
    assert verdict.reasons[0].startswith("Caught by closer_to_train. Look at the nearest pairs")


def test_copies_are_named_whatever_the_other_measures_say(judged):
    found = privacy({}, readable=False, copies=[f"{i}.png is nearly a training image of s{i}" for i in range(25)])
    assert (found.grade, found.headline) == ("poor", "25 of the images are nearly a training image each.")
    assert found.reasons[1] == "0.png is nearly a training image of s0"
    assert found.reasons[-2] == "And 5 more."


def test_without_copies_the_measures_say_what_they_need(measure):
    few = measure("authenticity", None, note="4 synthetic images, needs 16 or more")
    found = privacy({"authenticity": few}, readable=True)
    assert found.headline == "No near-duplicate found; more cannot be said."
    assert found.reasons[0] == "authenticity: 4 synthetic images, needs 16 or more."


def of_volumes(measure, **changed):
    planes = ("axial", "coronal", "sagittal")
    names = ("fd_pca", "swd", "psd", "psd_top_third", "gradient_ratio", "recall")
    values = {f"{name}/{plane}": REAL[name] for name in names for plane in planes}
    values |= {f"step_ratio/{plane}": 1.0 for plane in planes} | {"fd_pca/volume": 5.0, "variance_ratio": 1.0}
    floors = dict(values)
    values |= {key.replace("__", "/"): value for key, value in changed.items()}
    return [measure(name, value, floors[name]) for name, value in values.items()]


def test_volumes_are_judged_by_their_planes_and_smearing_between_slices_is_named(measure):
    fidelity, diversity, *_ = verdicts(of_volumes(measure))
    assert (fidelity.grade, diversity.grade) == ("good", "good")
    fidelity, *_ = verdicts(of_volumes(measure, step_ratio__coronal=0.8))
    assert fidelity.headline == "Good distances, but smeared between slices."
    assert any("0.80 of the real one (coronal slices)" in reason for reason in fidelity.reasons)
    fidelity, *_ = verdicts(of_volumes(measure, step_ratio__axial=1.2, gradient_ratio__sagittal=0.8))
    assert "flickering between slices" in fidelity.headline
    assert "soft" in fidelity.headline
    _, diversity, *_ = verdicts(of_volumes(measure, variance_ratio=0.5))
    assert "variance_ratio" in diversity.headline


def test_volumes_without_floors_are_not_judged_and_the_headline_says_why(measure):
    why = "16 training and 2 held-out subjects, needs 4 of each: give more"
    measures = [replace(one, floor=None, note="in 2 components", no_floor=why) for one in of_volumes(measure)]
    measures += [measure("closer_to_train", 0.5, 0.5), measure("copies_control", 1.0)]
    fidelity, diversity, _, found = verdicts(measures)
    assert fidelity.headline == diversity.headline == f"Cannot be judged: {why}."
    assert fidelity.reasons[0].startswith("fd_pca/axial, fd_pca/coronal, ")
    assert found.headline.startswith("Not conclusive: whether these images are real enough")
    assert {one.grade for one in (fidelity, diversity, found)} == {"unknown"}


def test_volumes_that_are_few_must_be_closer_by_more_than_chance_and_the_control_must_be_found(measure):
    def found(interval, control):
        closer = measure("closer_to_train", 0.7, 0.55, interval=interval)
        return privacy({"closer_to_train": closer, "copies_control": measure("copies_control", control)}, True)

    assert found((0.4, 0.9), 1.0).grade == "good"
    assert found((0.6, 0.8), 1.0).grade == "mixed"
    assert found((0.4, 0.9), 0.5).grade == "unknown"
    assert "only 50% are found" in found((0.4, 0.9), 0.5).headline
