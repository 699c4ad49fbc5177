"""A set of images as the measures see it: each kind of feature computed once, when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.class_effect import dark_share
from medsynth.evaluation.metrics.distribution.distances import PcaFeatures, fit_pca
from medsynth.evaluation.metrics.distribution.features import SelfFeatures, self_features
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.evaluation.metrics.distribution.radiomics import radiomics

PCA_COMPONENTS = 64

Array = NDArray[np.float64]


class Extractors:
    """All that turns images into features, learned from the training images alone.

    Args:
        all_train: every real training image, for the feature network.
        train: enough of them for all else.
        seed, cache_dir: of the feature network, see `self_features`; without a folder there is none.
        components: principal ones.
    """

    def __init__(
        self,
        all_train: ImageSet,
        train: ImageSet,
        seed: int,
        cache_dir: Path | str | None,
        components: int = PCA_COMPONENTS,
    ) -> None:
        self.all_train, self.train, self.seed, self.cache_dir = all_train, train, seed, cache_dir
        self.components = components

    @cached_property
    def network(self) -> SelfFeatures:
        """The self-trained network."""
        return self_features(self.all_train, self.seed, self.cache_dir)

    @cached_property
    def pca(self) -> PcaFeatures:
        """Principal components."""
        if len(self.train) <= 2 * self.components:
            raise CannotMeasure(
                f"{len(self.train)} training images, needs more than {2 * self.components} for principal components"
            )
        return fit_pca(self.train.images, self.components)

    @cached_property
    def radiomics_scale(self) -> tuple[Array, Array]:
        """Mean and deviation of the training images' radiomics."""
        values = radiomics(self.train.images)
        return values.mean(0), values.std(0) + 1e-9


class View:
    """A set and its features.

    Args:
        images: the set.
        extractors: shared by all sets that are compared.
    """

    def __init__(self, images: ImageSet, extractors: Extractors) -> None:
        self.set, self.extractors = images, extractors

    def __len__(self) -> int:
        return len(self.set)

    @cached_property
    def learned(self) -> Array:
        """(N, D) features of the self-trained network, standardized."""
        return self.extractors.network(self.set.images)

    @cached_property
    def pca(self) -> Array:
        """(N, components) principal components."""
        return self.extractors.pca(self.set.images)

    @cached_property
    def radiomics(self) -> Array:
        """(N, 22) radiomics, standardized."""
        mean, deviation = self.extractors.radiomics_scale
        return (radiomics(self.set.images) - mean) / deviation

    @cached_property
    def dark(self) -> Array:
        """(N,) shares of dark pixels within the skull."""
        return dark_share(self.set.images)

    def take(self, indices: NDArray[np.int64]) -> View:
        """Some of the images, with the features that are computed already."""
        part = View(self.set.take(indices), self.extractors)
        for name in ("learned", "pca", "radiomics", "dark"):
            if name in self.__dict__:
                part.__dict__[name] = self.__dict__[name][indices]
        return part
