import numpy as np
import pytest

from medsynth.evaluation.metrics.distribution.distances import (
    fit_pca,
    frechet_distance,
    frechet_percent,
    gaussian_frechet,
    kid,
    kth_neighbour,
    prdc,
)


def test_frechet_of_commuting_gaussians_by_hand():
    value = gaussian_frechet(np.zeros(2), np.diag([4.0, 9.0]), np.array([3.0, 4.0]), np.diag([1.0, 16.0]))
    assert value == pytest.approx(3**2 + 4**2 + (2 - 1) ** 2 + (3 - 4) ** 2)


def test_frechet_agrees_with_the_published_formula_for_covariances_that_do_not_commute():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    a, b = (m @ m.T for m in rng.standard_normal((2, 5, 5)))
    mean = rng.standard_normal(5)
    published = mean @ mean + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert gaussian_frechet(np.zeros(5), a, mean, b) == pytest.approx(published, rel=1e-9)


def test_frechet_of_singular_covariances_is_finite():
    line = np.ones((3, 3))
    assert gaussian_frechet(np.zeros(3), line, np.zeros(3), 4 * line) == pytest.approx(3.0)  # (2 - 1)^2 x variance 3


def test_frechet_distance_takes_sample_moments():
    real, fake = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])  # deviations sqrt 2 and sqrt 8, means 1 and 3
    assert frechet_distance(real, fake) == pytest.approx(4 + 2)


def test_frechet_percent_does_not_depend_on_the_unit_of_the_features():
    real, fake, train = np.random.default_rng(0).standard_normal((3, 50, 4))
    value = frechet_percent(real, fake, train)
    assert frechet_percent(10 * real, 10 * fake, 10 * train) == pytest.approx(value)
    assert value == pytest.approx(100 * frechet_distance(real, fake) / train.var(0, ddof=1).sum())


def test_kid_by_hand():
    # kernels (xy + 1)^3 of one-dimensional features: real pair (1, 2): 27, fake pair (0, -1): 1, across: 1, 0, 1, -1
    assert kid([[1.0], [2.0]], [[0.0], [-1.0]]) == pytest.approx(1e3 * (27 + 1 - 2 * (1 + 0 + 1 - 1) / 4))


def test_kid_has_no_bias_with_few_images():
    rng = np.random.default_rng(0)
    values = [kid(*rng.standard_normal((2, 10, 3))) for _ in range(2000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_prdc_by_hand():
    # On a line, k = 1, each image a subject: real radii 1, 1, 2 (places 0, 1, 3), fake radii 4.5, 4.5 (places 0.5, 5).
    result = prdc([[0.0], [1.0], [3.0]], [[0.5], [5.0]], real_subjects=["a", "b", "c"], k=1)
    assert result.precision == pytest.approx(1 / 2)  # 5 lies on the edge of the ball of 3, not in it
    assert result.recall == pytest.approx(1.0)
    assert result.density == pytest.approx((2 + 0) / 2)
    assert result.coverage == pytest.approx(2 / 3)


def test_prdc_agrees_with_the_published_implementation():
    """The formulas of github.com/clovaai/generative-evaluation-prdc, written out."""
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((60, 3)), 1.5 * rng.standard_normal((70, 3)) + 0.3

    def distances(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    real_radii = np.sort(distances(real, real), axis=1)[:, 5]  # column 0 is the image itself
    fake_radii = np.sort(distances(fake, fake), axis=1)[:, 5]
    across = distances(real, fake)
    expected = (
        (across < real_radii[:, None]).any(0).mean(),
        (across < fake_radii[None]).any(1).mean(),
        (across < real_radii[:, None]).sum(0).mean() / 5,
        (across.min(1) < real_radii).mean(),
    )
    assert prdc(real, fake, np.arange(60), k=5) == pytest.approx(expected)


def test_balls_reach_past_slices_of_the_same_subject():
    features = np.array([[0.0], [0.1], [5.0], [7.0]])
    subjects = np.array(["a", "a", "b", "c"])
    np.testing.assert_allclose(kth_neighbour(features, subjects, 1), np.array([5.0, 4.9, 2.0, 2.0]) ** 2)


def test_pca_gives_back_images_of_its_own_rank():
    rng = np.random.default_rng(0)
    basis, weights = rng.random((3, 8, 6)), rng.random((20, 3))
    images = (np.tensordot(weights, basis, 1) / 3).astype(np.float32)
    pca = fit_pca(images, 3)
    np.testing.assert_allclose(pca.images(pca(images)), images, atol=1e-5)
    np.testing.assert_allclose(pca(images).var(0, ddof=1), pca.variance, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: frechet_distance(x, x[:, :2]), "3 values a row and fake ones 2"),
        (lambda x: frechet_distance(x, np.where(x > 0, x, np.nan)), "fake features: NaN"),
        (lambda x: frechet_distance(x[:1], x), "at least 2 rows"),
        (lambda x: frechet_percent(x, x, np.ones((4, 3))), "no variance"),
        (lambda x: prdc(x, x, ["a"] * 9), "one subject only"),
        (lambda x: prdc(x, x, ["a"] * 6 + ["b"] * 3), "fewer than k = 5 images of other subjects"),
        (lambda x: prdc(x, x[:4], list(range(9))), "4 images, needs more than k = 5"),
        (lambda x: fit_pca(np.abs(x).clip(0, 1)[:, None], 9), "too many"),
    ],
)
def test_wrong_input_gets_a_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).standard_normal((9, 3)))
