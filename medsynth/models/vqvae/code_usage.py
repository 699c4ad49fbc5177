"""The use of a codebook, measured during training."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys as Keys

from medsynth.models.vqvae.codebook import perplexity
from medsynth.models.vqvae.network import SliceVqVae

COLLAPSED = 0.1  # perplexity over the number of codes, and less

log = logging.getLogger(__name__)


class CodeUsage(Metric):
    """Perplexity of the codes that training chose since the last validation, an epoch or more, and the share used.

    Warns if only a few codes are left in use.

    Args:
        network: the one that is trained; its `usage` is reset.
    """

    def __init__(self, network: SliceVqVae) -> None:
        self.network = network
        super().__init__(from_engine([Keys.PRED]))

    def reset(self) -> None:
        """Nothing to forget: usage is counted in training."""

    def update(self, output: Any) -> None:
        """Nothing to learn from held-out images."""

    def compute(self) -> dict[str, float]:
        """`perplexity`, at most the number of codes, and `codes_used`, in [0, 1]; NaN if none was chosen yet."""
        usage = self.network.codebook.usage
        if not usage.any():
            return {"perplexity": float("nan"), "codes_used": float("nan")}
        found = {"perplexity": perplexity(usage), "codes_used": float((usage > 0).double().mean())}
        usage.zero_()
        return found

    def completed(self, engine: Engine, name: Any) -> None:
        """Put both under their own names; warn of a collapse."""
        found = self.compute()
        engine.state.metrics |= found | {str(name): found["perplexity"]}
        warn_of_collapse(found["perplexity"], self.network.num_codes)


def warn_of_collapse(found: float, codes: int) -> None:
    """Warn if the perplexity is that of only a few codes."""
    if found < COLLAPSED * codes:
        log.warning(
            "the codebook has collapsed: its %d codes are used like %.0f (perplexity). In stage one, halve "
            "learning_rate or raise codebook#restart_below; with fewer codes or smaller code_features it takes less to "
            "fill",
            codes,
            found,
        )
