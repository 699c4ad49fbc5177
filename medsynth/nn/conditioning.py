"""The conditions of a generated image: its class, its slice position and its covariates, such as age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medsynth.errors import MedsynthError

UNKNOWN_CLASS = -1
UNKNOWN_POSITION = -1.0  # in buffers, which hold no NaN: checks of weights take that for divergence
QUANTILES = 65  # of the positions and of each covariate of a class


class Conditioning(nn.Module):
    """Embeds an optional class index, an optional slice position and optional covariates in one vector.

    Args:
        num_classes: number of classes; 0 ignores labels.
        use_position: whether the slice position is an input.
        features: length of the vector.
        covariates: how many there are; 0 ignores them.

    Reference: Fourier features after Tancik et al., arXiv:2006.10739.
    """

    def __init__(self, num_classes: int, use_position: bool, features: int, covariates: int = 0) -> None:
        super().__init__()
        self.num_classes, self.use_position, self.features = num_classes, use_position, features
        self.classes = nn.Embedding(num_classes + 1, features) if num_classes else None
        self.place = nn.Linear(9, features) if use_position else None
        self.measures = nn.Linear(3 * covariates, features) if covariates else None
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(4), persistent=False)

    def forward(
        self, label: Tensor | None, position: Tensor | None, like: Tensor, covariates: Tensor | None = None
    ) -> Tensor:
        """Embed the condition of each image.

        Args:
            label: (N,) class indices, `UNKNOWN_CLASS` (-1) where unknown; None: unknown for all.
            position: (N,) from 0 to 1, see `Preprocessing`; NaN: unknown; None: all are.
            like: any tensor with N rows, for device and type.
            covariates: (N, K), standardized (`TrainingConditions.standardize`); NaN: unknown; None: all are.

        Returns: (N, features); zeros where none is in use.
        """
        count = like.shape[0]
        condition = like.new_zeros(count, self.features)
        if self.classes is not None:
            if label is None:
                label = torch.full((count,), UNKNOWN_CLASS, device=like.device)
            condition = condition + self.classes(label % (self.num_classes + 1))
        if self.place is not None:
            if position is None:
                position = like.new_full((count,), torch.nan)
            known = (~position.isnan())[:, None].to(like.dtype)
            angles = position.nan_to_num()[:, None].to(like.dtype) * self.frequencies.to(like.dtype)
            waves = torch.cat([known, angles.sin() * known, angles.cos() * known], dim=1)
            condition = condition + self.place(waves)
        if self.measures is not None:
            if covariates is None:
                covariates = torch.full((count, self.measures.in_features // 3), torch.nan, device=like.device)
            known, value = (~covariates.isnan()).to(like.dtype), covariates.nan_to_num().to(like.dtype)
            condition = condition + self.measures(torch.cat([known, value, value.square()], dim=1))
        return condition


class TrainingConditions(nn.Module):
    """The frequencies of classes, slice positions and covariates in the training set, from which new ones are drawn.

    Before `fit`, all of them are unknown; positions and each covariate stay so where no training image has one.

    Position and covariates are drawn independently of each other given the class, although in patients they may go
    together: give several covariates by hand where their combination matters.

    Args:
        num_classes: classes of the training set.
        covariates: names of the K covariates.

    Attributes:
        covariate_mean, covariate_deviation: (K,), of the training images; 0 and 1 before `fit`.
        covariate_lowest, covariate_highest: (K,), likewise; where nothing is known, 0 and -1, an empty range.
        covariate_quantiles: (classes + 1, K, QUANTILES), values that training images of a class have.

    A model without covariates has no such buffers, so that its state is that of earlier versions.
    """

    def __init__(self, num_classes: int = 0, covariates: Sequence[str] = ()) -> None:
        super().__init__()
        self.covariates = tuple(covariates)
        shares = torch.zeros(num_classes + 1)
        shares[UNKNOWN_CLASS] = 1
        self.register_buffer("class_shares", shares)
        self.register_buffer("positions", torch.full((num_classes + 1, QUANTILES), UNKNOWN_POSITION))
        if count := len(self.covariates):
            self.register_buffer("covariate_mean", torch.zeros(count))
            self.register_buffer("covariate_deviation", torch.ones(count))
            self.register_buffer("covariate_lowest", torch.zeros(count))
            self.register_buffer("covariate_highest", torch.full((count,), -1.0))
            self.register_buffer("covariate_quantiles", torch.zeros(num_classes + 1, count, QUANTILES))

    @property
    def has_positions(self) -> bool:
        """Whether the training images had positions."""
        return bool((self.positions >= 0).any())

    @torch.no_grad()
    def fit(self, labels: Tensor, positions: Tensor, covariates: Tensor | None = None) -> None:
        """Store the frequencies of labels and, class by class, the quantiles of positions and covariates.

        Args:
            labels: (M,), -1 where unknown.
            positions: (M,), NaN where unknown.
            covariates: (M, K), NaN where unknown; None: all are.
        """
        rows, known = labels % len(self.class_shares), ~positions.isnan()  # -1, unknown, becomes the last row
        for row in range(len(self.class_shares)):
            members = rows == row
            self.class_shares[row] = members.float().mean()
            spread = positions[members & known] if (members & known).any() else positions[known]
            if len(spread):
                shares = torch.linspace(0, 1, QUANTILES, device=spread.device)
                self.positions[row] = torch.quantile(spread.float(), shares)
        for column in range(len(self.covariates) if covariates is not None else 0):
            self._fit_covariate(column, covariates[:, column], rows)

    def _fit_covariate(self, column: int, values: Tensor, rows: Tensor) -> None:
        known = ~values.isnan()
        if not known.any():
            return
        everyone = values[known].double()
        deviation = everyone.std(correction=0)
        self.covariate_mean[column] = everyone.mean()
        self.covariate_deviation[column] = deviation if deviation > 0 else 1.0
        self.covariate_lowest[column], self.covariate_highest[column] = everyone.min(), everyone.max()
        for row in range(len(self.class_shares)):
            members = (rows == row) & known
            spread = (values[members] if members.any() else everyone).sort().values
            # the middles of equal shares, not interpolated: a code such as 0 or 1 stays one
            ranks = (torch.arange(QUANTILES, device=spread.device) + 0.5) / QUANTILES * len(spread)
            self.covariate_quantiles[row, column] = spread[ranks.long()].float()

    def standardize(self, covariates: Tensor) -> Tensor:
        """Covariates (N, K) in their own units -> mean 0 and deviation 1 over the training images; NaN stays."""
        return (covariates - self.covariate_mean) / self.covariate_deviation if self.covariates else covariates

    def check(self, covariates: Mapping[str, float]) -> None:
        """Refuse values that no model of these training images can know.

        Raises:
            MedsynthError: an unknown name, or a value outside the range of the training images.
        """
        if unknown := [name for name in covariates if name not in self.covariates]:
            known = f"it knows {', '.join(self.covariates)}" if self.covariates else "it was trained without covariates"
            raise MedsynthError(
                f"covariates names {', '.join(map(str, unknown))}, which the model does not know: {known}, or leave "
                "covariates null"
            )
        for name, value in covariates.items():
            column = self.covariates.index(name)
            low, high = self.covariate_lowest[column].item(), self.covariate_highest[column].item()
            if low > high:
                raise MedsynthError(f"{name} of none of the model's training images was known: leave it out")
            if not low <= torch.tensor(float(value), dtype=self.covariate_lowest.dtype).item() <= high:
                raise MedsynthError(
                    f"covariates has {name} {value:g}, and the training images have {low:g} to {high:g}: give a value "
                    "in this range, since outside it the model would only guess"
                )

    def sample(
        self,
        count: int,
        label: int | None = None,
        position: float | None = None,
        generator: torch.Generator | None = None,
        covariates: Mapping[str, float] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw conditions.

        Args:
            label: class index; None: classes as frequent as in the training set, of those whose images have, or come
                nearest to, the requested covariates.
            position: in [0, 1]; None: positions as in the training set's images of the class.
            generator: random state on the CPU.
            covariates: by name, some of them or all; the others as in the training set's images of the class.

        Returns: labels (count,), -1 where unknown, positions (count,), NaN where unknown, and covariates (count, K) in
            their own units, NaN where no training image had them.
        """
        device = self.class_shares.device
        rows = self._shares_beside(covariates).multinomial(count, replacement=True, generator=generator)
        ranks = torch.rand(count, generator=generator) * (QUANTILES - 1)
        if label is not None:
            rows.fill_(label)
        below = ranks.long().clamp(max=QUANTILES - 2)
        quantiles = self.positions.cpu()[rows]
        low, high = (quantiles.gather(1, (below + step)[:, None]).squeeze(1) for step in (0, 1))
        spread = torch.where(low >= 0, low.lerp(high, ranks - below), torch.nan)
        positions = spread if position is None else torch.full((count,), float(position))
        labels = torch.where(rows == len(self.class_shares) - 1, UNKNOWN_CLASS, rows)
        drawn = self.requested(self._sample_covariates(rows, generator), covariates)
        return labels.to(device), positions.to(device), drawn.to(device)

    def _shares_beside(self, covariates: Mapping[str, float] | None) -> Tensor:
        """(classes + 1,), on the CPU: `class_shares`, 0 of classes whose images are far from such covariates."""
        shares = self.class_shares.cpu()
        distances = torch.zeros_like(shares)
        for name, value in (covariates or {}).items():
            column = self.covariates.index(name)
            found = self.covariate_quantiles[:, column].cpu()  # from the least to the greatest
            beyond = (found[:, 0] - value).clamp_min(0) + (value - found[:, -1]).clamp_min(0)
            distances += beyond / self.covariate_deviation[column].cpu()
        return shares * (distances <= distances[shares > 0].min())

    def requested(self, covariates: Tensor, values: Mapping[str, float] | None) -> Tensor:
        """Covariates (N, K) with the requested values, by name, in the place of their own."""
        result = covariates.clone()
        for name, value in (values or {}).items():
            result[:, self.covariates.index(name)] = float(value)
        return result

    def _sample_covariates(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """(N, K) for classes, the last row for the unknown one; on the CPU."""
        shape = len(rows), len(self.covariates)
        if not self.covariates:
            return torch.empty(shape)
        ranks = torch.randint(QUANTILES, shape, generator=generator)
        drawn = self.covariate_quantiles.cpu()[rows].gather(2, ranks[..., None]).squeeze(2)
        return drawn.where((self.covariate_lowest <= self.covariate_highest).cpu(), torch.nan)
