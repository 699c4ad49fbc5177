"""Two-dimensional maps of features."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

MOST_POINTS = 750  # of a set in a map: more hide each other and take minutes
PERPLEXITY = 30


def tsne(features: NDArray, seed: int) -> NDArray[np.float64]:
    """(N, D) -> (N, 2), t-distributed stochastic neighbour embedding.

    Reference: van der Maaten & Hinton, J. Mach. Learn. Res. 9 (2008) 2579; scikit-learn's Barnes-Hut version.
    """
    perplexity = min(PERPLEXITY, max(2, (len(features) - 1) // 3))
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(features, np.float32))


def umap(features: NDArray, seed: int) -> NDArray[np.float64] | None:
    """(N, D) -> (N, 2) by UMAP, None if umap-learn is not installed."""
    if importlib.util.find_spec("umap") is None:
        return None
    from umap import UMAP  # takes seconds to import, and few have it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return UMAP(n_neighbors=min(15, len(features) - 1), random_state=seed).fit_transform(features)
