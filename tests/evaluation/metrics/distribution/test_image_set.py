import numpy as np
import pytest

from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.distribution.image_set import ImageSet, random_indices

IMAGE = np.full((1, 4, 4), 0.5, np.float32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 4, 4), np.float32), "needs .images, rows, columns."),
        (np.zeros((4, 4), np.float32), "needs .images, rows, columns."),
        (np.zeros((1, 4, 4), np.uint8), "uint8 values, needs floats"),
        (np.full((2, 4, 4), np.nan), "2 of 2 images hold NaN or infinity, first number 0"),
        (np.full((1, 4, 4), 255.0), "values from 255 to 255, needs"),
    ],
)
def test_images_that_cannot_be_measured_are_refused_in_one_line(images, message):
    with pytest.raises(MedsynthError, match=f"synthetic: .*{message}"):
        ImageSet(images, name="synthetic")


def test_a_column_of_another_length_is_refused():
    with pytest.raises(MedsynthError, match="2 labels for 1 images"):
        ImageSet(IMAGE, labels=["AD", "NC"])


def test_unknown_labels_and_positions_have_one_form():
    images = ImageSet(np.repeat(IMAGE, 3, 0), labels=["AD", None, ""])
    assert images.labels.tolist() == ["AD", "", ""]
    assert images.classes == ["AD"]
    assert np.isnan(images.positions).all()
    assert images.subject_count == 3


def test_digest_tells_all_that_differs():
    sets = [ImageSet(IMAGE), ImageSet(IMAGE + 0.1), ImageSet(IMAGE, ["b"]), ImageSet(IMAGE, labels=["AD"])]
    assert len({images.digest() for images in sets}) == 4
    assert ImageSet(IMAGE).digest() == ImageSet(IMAGE.copy()).digest()


def test_random_indices_are_different_ascending_and_the_same_each_time():
    found = random_indices(100, 30, seed=3)
    assert (np.diff(found) > 0).all()
    assert found.tolist() == random_indices(100, 30, seed=3).tolist()
    assert random_indices(5, 30, seed=3).tolist() == [0, 1, 2, 3, 4]
