import numpy as np
import pytest

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.catalog import CATALOG, entry
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.set_measures import GROUPS, evaluate_unpaired


@pytest.fixture
def evaluate(make_slices, short_training, tmp_path):
    def run(synthetic, train=None, held_out=None, **options):
        train, held_out = train or make_slices(16, seed=1), held_out or make_slices(14, seed=2)
        return evaluate_unpaired(train, held_out, synthetic, 0, tmp_path, **options)

    return run


def test_copies_of_training_images_are_caught(evaluate, make_slices):
    train = make_slices(16, seed=1)
    found = evaluate(ImageSet(train.images, labels=train.labels, positions=train.positions), train, utility=False)
    assert found["closer_to_train"].value == 1
    assert found["authenticity"].value == 0
    assert (found["copies"].value, found["copies"].floor, found["copies"].baseline) == (1, 0, 0)
    assert found["membership_auc"].value > 0.95
    assert found["closer_to_train"].floor < 0.8
    assert [(pair.synthetic, round(pair.distance, 3)) for pair in found.nearest_pairs[:3]] == [
        (pair.train, 0) for pair in found.nearest_pairs[:3]
    ]


def test_one_image_again_and_again_is_caught(evaluate, make_slices):
    same = np.repeat(make_slices(1, seed=5).images[5:6], 150, 0)
    noise = 0.004 * np.random.default_rng(0).standard_normal(same.shape)
    found = evaluate(ImageSet((same + noise).clip(0, 1).astype(np.float32)), utility=False)
    assert found["duplicates"].value == 1
    assert found["duplicates"].floor < 0.9  # slices of one subject are alike here
    assert found["coverage"].value < 0.2 < found["coverage"].floor
    assert found["ms_ssim_pairs"].value > found["ms_ssim_pairs"].target + 0.1


def test_every_measure_has_its_floor_baseline_and_interval(evaluate, make_slices):
    synthetic, *real = (make_slices(count, seed=seed, ventricles=True) for seed, count in ((3, 13), (1, 16), (2, 14)))
    found = evaluate(synthetic, *real)
    names = {measure.name for measure in found.measures}
    assert {"copies", *(name for group in GROUPS for name in group.names)} <= names <= {*CATALOG, "swd_32", "swd_16"}
    for measure in found.measures:
        assert entry(measure.name).direction == measure.direction
        assert measure.n == 156
        assert measure.value is not None, measure
        assert measure.floor is not None, measure
        assert measure.baseline is not None, measure
        if measure.interval:
            assert measure.interval[0] <= measure.value <= measure.interval[1], measure
    assert found["class_effect"].value == pytest.approx(1, abs=0.3)
    assert found["swd"].value == pytest.approx((found["swd_32"].value + found["swd_16"].value) / 2)
    assert {row["subject"] for row in found.subjects} == {f"2-{number}" for number in range(14)}
    assert found.features["self"]["synthetic"].shape == (156, 128)


def test_the_same_seed_gives_the_same_numbers(evaluate, make_slices):
    first, again = (evaluate(make_slices(13, seed=3), utility=False) for _ in range(2))
    assert first.measures == again.measures
    assert first.network_digest == again.network_digest


def test_three_images_get_a_reason_and_no_number(evaluate, make_slices):
    found = evaluate(make_slices(1, per_subject=3))
    assert [measure.name for measure in found.measures if measure.value is not None] == ["copies"]
    assert found["fd_pca"].note == "3 synthetic images, needs 50 or more"


def test_one_held_out_subject_gets_a_reason_and_no_number(evaluate, make_slices):
    found = evaluate(make_slices(13, seed=3), held_out=make_slices(1, per_subject=100, seed=2))
    assert [measure.name for measure in found.measures if measure.value is not None] == ["copies"]
    assert "1 subject only" in found["swd"].note


def test_few_subjects_have_no_floor_and_that_is_said(evaluate, make_slices):
    found = evaluate(make_slices(13, seed=3), held_out=make_slices(3, per_subject=50, seed=2), utility=False)
    assert found["fd_pca"].value is not None
    assert found["fd_pca"].floor is None
    assert found["fd_pca"].no_floor.startswith("16 training and 3 held-out subjects, needs 4 of each: give more")
    assert found["fd_pca"].remark == f"no floor: {found['fd_pca'].no_floor}"


def test_images_without_labels_get_no_number_between_classes(evaluate, make_slices):
    synthetic = ImageSet(make_slices(13, seed=3).images)
    found = evaluate(synthetic, utility=False)
    assert found["knn_classes"].value is None
    assert "0 class" in found["knn_classes"].note


def test_another_size_is_refused(evaluate, make_slices):
    with pytest.raises(MedsynthError, match="slices 32 x 32, small 16 x 16|small 16 x 16"):
        evaluate(ImageSet(make_slices(13, seed=3).images[:, ::2, ::2], name="small"))


def test_a_subject_on_both_sides_is_refused(evaluate, make_slices):
    train = make_slices(5, seed=1)
    with pytest.raises(MedsynthError, match="5 subject.s. in both"):
        evaluate(make_slices(13, seed=3), train, make_slices(14, seed=1))


def test_copies_are_named_among_few_images_and_few_training_images(tmp_path):
    rng = np.random.default_rng(0)
    train, held_out, others = rng.random((3, 12, 16, 16), dtype=np.float32)
    subjects = [f"s{index // 2}" for index in range(12)]
    real = [ImageSet(images, [f"{name}{s}" for s in subjects]) for images, name in ((train, "t"), (held_out, "h"))]
    synthetic = ImageSet(np.concatenate([others[:2], train[5:6]]))
    result = evaluate_unpaired(*real, synthetic, seed=0, cache_dir=tmp_path, utility=False)
    assert [(pair.synthetic, pair.train) for pair in result.copies] == [(2, 5)]
    share = result["copies"]
    assert (share.value, share.floor, share.n, share.direction, share.note) == (1 / 3, 0, 3, "lower", "1 of 3 images")


def test_copies_of_a_single_training_subject_cannot_be_told(tmp_path):
    images = np.random.default_rng(0).random((3, 6, 16, 16), dtype=np.float32)
    real = [ImageSet(one, [name] * 6) for one, name in zip(images, "th", strict=False)]
    result = evaluate_unpaired(*real, ImageSet(images[2]), seed=0, cache_dir=tmp_path, utility=False)
    assert result["copies"].value is None
    assert "one subject only" in result["copies"].note
    assert result.copies == []
