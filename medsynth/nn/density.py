"""The distribution of the training set's latent vectors, stored with the network that made them."""

from __future__ import annotations

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

MOST_POINTS = 20_000  # more make the fit slower, not better
EM_ITERATIONS = 50  # at most
ADDED_VARIANCE = 1e-4  # of each coordinate of a Gaussian, as it is scaled for the fit
SMALLEST_UNIFORM = 1e-6  # 4.75 standard deviations from the mean of a normal distribution
POINTS_PER_COORDINATE = 0.7  # of a Gaussian; with fewer, samples come close to copies, with more, less like the data


class GaussianMixtureDensity(nn.Module):
    """A Gaussian mixture over slice position and latent vector together; before `fit`, the normal prior.

    The aggregate posterior of a VAE's encoder differs from its normal prior, so some vectors drawn from the prior lie
    where the decoder was hardly trained. A density fitted to the posterior avoids this. The position is one more
    coordinate of the mixture and each class has component weights of its own, so that both can be chosen.

    Args:
        components: number of Gaussians.
        features: length of a latent vector.
        num_classes: classes of the training set.

    Reference: Ghosh et al., arXiv:1903.12436, section 4 (ex-post density estimation).
    """

    def __init__(self, components: int, features: int, num_classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("has_position", torch.tensor(False))
        self.register_buffer("class_shares", torch.full((num_classes + 1,), 1 / (num_classes + 1)))
        self.register_buffer("weights", torch.full((num_classes + 1, components), 1 / components))
        self.register_buffer("means", torch.zeros(components, 1 + features))
        self.register_buffer("factors", torch.eye(1 + features).repeat(components, 1, 1))

    @property
    def has_positions(self) -> bool:
        """Whether all training images had positions."""
        return bool(self.has_position)

    @torch.no_grad()
    def fit(self, latents: Tensor, labels: Tensor, positions: Tensor, scale: Tensor, seed: int = 0) -> None:
        """Fit by expectation maximization, with fewer Gaussians where the vectors are few.

        Args:
            latents: (M, features), M at least 2.
            scale: (features,), the weight of each in the distances of the k-means start.
            labels: (M,) class indices, -1 where unknown.
            positions: (M,) in [0, 1]; a set without positions has NaN.
            seed: of the k-means start.
        """
        classes, (components, coordinates) = len(self.class_shares), self.means.shape
        latents, labels, positions, scale = (values.cpu() for values in (latents, labels, positions, scale))
        has_position = not positions.isnan().any()
        first = positions if has_position else torch.zeros_like(positions)
        scale = torch.cat([scale.new_ones(1), scale]).double()
        points = torch.cat([first[:, None], latents], dim=1).double() * scale
        if len(points) > MOST_POINTS:
            some = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:MOST_POINTS]
            points, labels = points[some], labels[some]
        used = max(1, min(components, int(len(points) / (POINTS_PER_COORDINATE * coordinates))))
        mixture = GaussianMixture(used, reg_covar=ADDED_VARIANCE, max_iter=EM_ITERATIONS, random_state=seed).fit(
            points.numpy()
        )

        responsibilities = torch.from_numpy(mixture.predict_proba(points.numpy())).float()
        rows = labels % classes  # -1, unknown, becomes the last row
        self.weights.zero_()
        for row in range(classes):
            members = rows == row
            share = responsibilities[members] if members.any() else responsibilities
            self.weights[row, :used] = share.mean(dim=0)
            self.class_shares[row] = members.float().mean()
        self.means[:used] = (torch.from_numpy(mixture.means_) / scale).to(self.means)
        factors = torch.linalg.cholesky(torch.from_numpy(mixture.covariances_)) / scale[:, None]
        self.factors[:used] = factors.to(self.factors)
        self.has_position.fill_(has_position)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        label: int | Tensor | None = None,
        position: float | Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        even: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw latent vectors with the class and the position that they belong to.

        Args:
            count: how many.
            label: class index, or one for each vector, -1 for unknown; None: classes as frequent as in the training
                set, at `position` if that is given.
            position: slice position in [0, 1], or one for each vector; None: positions as in the training set.
            generator: random state; None: PyTorch's own, of the device that the density is on.
            temperature: how far vectors lie from the centres of their Gaussians; 1: as the training set's, less: less.
                Positions stay as spread as they are.
            even: draw from a scrambled Sobol sequence: each vector has the same distribution, and together they cover
                the density more evenly.

        Returns: latent vectors (count, features), labels (count,) with -1 for unknown, positions (count,) or NaN.

        Reference: Owen, Randomly permuted (t,m,s)-nets and (t,s)-sequences, 1995.
        """
        means, factors, device = self.means, self.factors, self.means.device
        source = generator.device if generator else device
        uniform = _even(count, 2 + means.shape[1], generator).to(device) if even else None

        def choose(weights: Tensor, coordinate: int) -> Tensor:
            if uniform is not None:
                return _chosen(weights, uniform[:, coordinate])
            race = torch.empty(weights.shape, device=source).exponential_(generator=generator)
            return (weights / race.to(device)).argmax(dim=1)

        weights = self.weights.expand(count, -1, -1)
        if position is not None:
            position = torch.as_tensor(position, dtype=means.dtype, device=device).expand(count)
            deviation = factors[:, 0, 0]
            likely = (((position[:, None] - means[:, 0]) / deviation).square() / -2).exp() / deviation
            weights = torch.where(self.has_position, weights * likely[:, None] + 1e-12, weights)
        if label is None:
            rows = choose(self.class_shares * weights.sum(dim=2), 0)
        else:
            rows = torch.as_tensor(label, device=device).expand(count) % len(self.class_shares)
        component = choose(weights[torch.arange(count, device=device), rows], 1)
        if uniform is not None:
            normal = torch.special.ndtri(uniform[:, 2:].double()).to(means)
        else:
            normal = torch.randn(count, means.shape[1], generator=generator, device=source).to(device)
        if position is not None:  # it is the first coordinate, so its factor alone decides it
            placed = (position - means[component, 0]) / factors[component, 0, 0]
            normal[:, 0] = torch.where(self.has_position, placed, normal[:, 0])
        normal[:, 1:] *= temperature
        points = means[component] + torch.einsum("nij,nj->ni", factors[component], normal)

        labels = torch.where(rows == len(self.class_shares) - 1, -1, rows)
        return points[:, 1:], labels, torch.where(self.has_position, points[:, 0].clamp(0, 1), torch.nan)


def _even(count: int, coordinates: int, generator: torch.Generator | None) -> Tensor:
    """(count, coordinates) of a scrambled Sobol sequence, between 0 and 1, both excluded."""
    seed = int(torch.randint(2**31, (), generator=generator))
    uniform = SobolEngine(coordinates, scramble=True, seed=seed).draw(count)
    return uniform.clamp(SMALLEST_UNIFORM, 1 - SMALLEST_UNIFORM)


def _chosen(weights: Tensor, uniform: Tensor) -> Tensor:
    """An index per row of weights (N, K), with probabilities proportional to them, by numbers (N,) from 0 to 1."""
    up_to = weights.cumsum(dim=1)
    return (uniform[:, None] >= up_to / up_to[:, -1:]).sum(dim=1).clamp_max(weights.shape[1] - 1)
