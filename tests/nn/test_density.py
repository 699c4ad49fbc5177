from __future__ import annotations

import pytest
import torch

from medsynth.nn.density import GaussianMixtureDensity

SHARES = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([[0.25, -2.0, 1.0], [0.7, 3.0, 0.0]])  # position and two features
FACTORS = torch.tensor(
    [[[0.08, 0, 0], [0.5, 0.3, 0], [-0.2, 0.1, 0.4]], [[0.06, 0, 0], [-0.4, 0.5, 0], [0.3, 0.2, 0.2]]]
)


def draw(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latent vectors, labels and positions from the mixture; the component is the class."""
    random = torch.Generator().manual_seed(seed)
    component = SHARES.multinomial(count, replacement=True, generator=random)
    normal = torch.randn(count, 3, generator=random)
    points = MEANS[component] + torch.einsum("nij,nj->ni", FACTORS[component], normal)
    return points[:, 1:], component, points[:, 0]


@pytest.fixture(scope="module")
def fitted() -> GaussianMixtureDensity:
    density = GaussianMixtureDensity(components=2, features=2, num_classes=2)
    density.fit(*draw(8000), scale=torch.ones(2))
    return density


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_before_fitting_it_is_the_normal_prior():
    latents, labels, positions = GaussianMixtureDensity(5, 3).sample(20000, generator=generator())
    assert latents.mean(dim=0) == pytest.approx(torch.zeros(3), abs=0.03)
    assert latents.T.cov() == pytest.approx(torch.eye(3), abs=0.04)
    assert (labels == -1).all()
    assert positions.isnan().all()


def test_fitted_to_a_mixture_it_draws_with_the_mean_and_covariance_of_it(fitted):
    latents, _, positions = fitted.sample(20000, generator=generator())
    drawn, truth = torch.cat([positions[:, None], latents], dim=1), draw(20000, seed=1)
    truth = torch.cat([truth[2][:, None], truth[0]], dim=1)
    assert drawn.mean(dim=0) == pytest.approx(truth.mean(dim=0), abs=0.06)
    assert drawn.T.cov() == pytest.approx(truth.T.cov(), abs=0.15)


def test_a_temperature_draws_vectors_nearer_to_what_is_usual_at_their_positions(fitted):
    latents, labels, positions = fitted.sample(5000, generator=generator())
    usual, _, same = fitted.sample(5000, generator=generator(), temperature=1e-6)
    nearer, *_ = fitted.sample(5000, generator=generator(), temperature=0.5)
    assert torch.equal(positions, same)
    torch.testing.assert_close(nearer - usual, (latents - usual) / 2, atol=1e-4, rtol=0)
    assert (latents - usual).std() > 0.2
    slope = (FACTORS[:, 1:, 0] / FACTORS[:, :1, 0])[labels]
    expected = MEANS[labels, 1:] + slope * (positions - MEANS[labels, 0])[:, None]
    assert (usual - expected).abs().mean() < 0.1


@pytest.mark.parametrize("position", [0.2, 0.45, 0.8])
def test_at_a_position_it_draws_the_conditional_mixture(fitted, position):
    latents, _, positions = fitted.sample(20000, position=position, generator=generator())
    assert positions == pytest.approx(torch.full((20000,), position), abs=1e-5)

    covariance = FACTORS @ FACTORS.mT
    slope = covariance[:, 1:, 0] / covariance[:, :1, 0]
    means = MEANS[:, 1:] + slope * (position - MEANS[:, :1])
    within = covariance[:, 1:, 1:] - slope[:, :, None] * covariance[:, None, 0, 1:]
    density = torch.distributions.Normal(MEANS[:, 0], FACTORS[:, 0, 0]).log_prob(torch.tensor(position)).exp()
    shares = SHARES * density / (SHARES * density).sum()
    mean = shares @ means
    between = torch.einsum("k,ki,kj->ij", shares, means - mean, means - mean)
    assert latents.mean(dim=0) == pytest.approx(mean, abs=0.15)
    assert latents.T.cov() == pytest.approx(torch.einsum("k,kij->ij", shares, within) + between, abs=0.4)


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_is_drawn_from_its_own_gaussians(fitted, label):
    latents, labels, positions = fitted.sample(4000, label=label, generator=generator())
    assert (labels == label).all()
    assert latents.mean(dim=0) == pytest.approx(MEANS[label, 1:], abs=0.1)
    assert positions.mean().item() == pytest.approx(MEANS[label, 0].item(), abs=0.02)


def test_classes_are_drawn_as_often_as_they_were_seen(fitted):
    _, labels, _ = fitted.sample(20000, generator=generator())
    assert (labels == 1).float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert set(labels.tolist()) == {0, 1}


def test_images_without_a_label_are_drawn_without_one():
    latents, labels, positions = draw(600)
    labels[labels == 0] = -1
    density = GaussianMixtureDensity(2, 2, num_classes=2)
    density.fit(latents, labels, positions, torch.ones(2))
    drawn = density.sample(4000, generator=generator())[1]
    assert (drawn == -1).float().mean().item() == pytest.approx(0.3, abs=0.06)
    assert not (drawn == 0).any()


def test_a_class_never_seen_can_still_be_asked_for():
    latents, labels, positions = draw(200)
    density = GaussianMixtureDensity(2, 2, num_classes=3)
    density.fit(latents, labels, positions, torch.ones(2))
    latents, labels, _ = density.sample(20, label=2, generator=generator())
    assert (labels == 2).all()
    assert latents.isfinite().all()


def test_a_set_without_positions_has_none_to_draw():
    latents, labels, positions = draw(400)
    density = GaussianMixtureDensity(2, 2, num_classes=2)
    density.fit(latents, labels, torch.full_like(positions, torch.nan), torch.ones(2))
    for position in (None, 0.5):
        drawn, _, positions = density.sample(2000, position=position, generator=generator())
        assert positions.isnan().all()
        assert drawn.mean(dim=0) == pytest.approx(latents.mean(dim=0), abs=0.3)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_points_give_finite_vectors_near_them(count):
    latents, labels, positions = draw(count)
    density = GaussianMixtureDensity(8, 2, num_classes=2)
    density.fit(latents, labels, positions, torch.ones(2))
    drawn = density.sample(500, generator=generator())[0]
    assert drawn.isfinite().all()
    assert drawn.mean(dim=0) == pytest.approx(latents.mean(dim=0), abs=0.6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_equal_points_give_that_point():
    density = GaussianMixtureDensity(4, 2)
    density.fit(torch.full((50, 2), 3.0), torch.full((50,), -1), torch.full((50,), 0.5), torch.ones(2))
    assert density.sample(100, generator=generator())[0] == pytest.approx(torch.full((100, 2), 3.0), abs=0.1)


def test_a_position_far_from_all_seen_ones_gives_finite_vectors(fitted):
    for position in (-5.0, 0.0, 1.0, 5.0):
        assert fitted.sample(50, position=position, generator=generator())[0].isfinite().all()


def test_the_generator_decides_what_is_drawn(fitted):
    first, again, other = (fitted.sample(9, generator=generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_the_scale_of_the_features_changes_no_moment():
    latents, labels, positions = draw(4000)
    density = GaussianMixtureDensity(2, 2, num_classes=2)
    density.fit(latents, labels, positions, scale=torch.tensor([20.0, 0.2]))
    drawn = density.sample(20000, generator=generator())[0]
    assert drawn.T.cov() == pytest.approx(latents.T.cov(), abs=0.25)


def test_it_comes_back_from_its_state(fitted):
    other = GaussianMixtureDensity(2, 2, num_classes=2)
    other.load_state_dict(fitted.state_dict())
    drawn = (density.sample(9, position=0.4, generator=generator()) for density in (fitted, other))
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_each_vector_can_have_a_class_and_a_position_of_its_own(fitted):
    asked_labels = torch.tensor([0, 1, -1]).repeat(4000)
    asked_positions = torch.tensor([0.25, 0.7, 0.7, 0.25]).repeat(3000)
    latents, labels, positions = fitted.sample(12000, asked_labels, asked_positions, generator())
    assert torch.equal(labels, asked_labels)
    assert torch.allclose(positions, asked_positions, atol=1e-5)
    for label in (0, 1):
        mine = (asked_labels == label) & (asked_positions == MEANS[label, 0])
        alone = fitted.sample(4000, label=label, position=MEANS[label, 0].item(), generator=generator(1))[0]
        assert latents[mine].mean(dim=0) == pytest.approx(alone.mean(dim=0), abs=0.1)
        assert latents[mine].std(dim=0) == pytest.approx(alone.std(dim=0), abs=0.1)


def test_even_draws_have_the_same_distribution_and_fill_it_more_evenly_than_chance(fitted):
    latents, _, positions = fitted.sample(8192, generator=generator(), even=True)
    drawn, truth = torch.cat([positions[:, None], latents], dim=1), draw(50_000, seed=1)
    truth = torch.cat([truth[2][:, None], truth[0]], dim=1)
    assert drawn.mean(dim=0) == pytest.approx(truth.mean(dim=0), abs=0.06)
    assert drawn.T.cov() == pytest.approx(truth.T.cov(), abs=0.15)

    expected = 64 * fitted.class_shares[1].item()
    for seed in range(8):  # a point in each 64th: off by one at most, where chance deviates by 3.7
        labels = fitted.sample(64, generator=generator(seed), even=True)[1]
        assert abs((labels == 1).sum().item() - expected) <= 1
    assert not torch.equal(*(fitted.sample(9, generator=generator(seed), even=True)[0] for seed in (0, 1)))
    assert torch.equal(*(fitted.sample(9, generator=generator(5), even=True)[0] for _ in range(2)))
