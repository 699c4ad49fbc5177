"""A learned codebook: latent vectors become indices of its codes, and indices become codes again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from medsynth.distributed import all_reduce, same_everywhere

SMOOTHING = 1e-5  # added to each code's count, so that none is divided by 0
MOST_TO_START_FROM = 32_768  # latent vectors for the k-means of the first codes
KMEANS_ITERATIONS = 30  # at most
COPY_NOISE = 1e-3  # standard deviation of the noise on copies, in units of the latents


class Codebook(nn.Module):
    """Codes that follow the latent vectors nearest to them, as moving averages; no gradient reaches them.

    All processes have the same codes: what they learn from is summed over them.

    Args:
        num_codes: how many.
        code_features: length of each.
        cosine: compare directions, not distances; latent vectors and codes are normalized to length 1.

    Attributes:
        codes: (num_codes, code_features).
        counts, sums: moving averages, per code, of the number of its latent vectors per step, and of their sum.
        usage: (num_codes,), how often each code was chosen since `usage` was last set to 0.

    Reference: van den Oord et al., VQ-VAE, arXiv:1711.00937, appendix A.1; small codes and cosine distance: Yu et al.,
    arXiv:2110.04627, section 3.2.
    """

    def __init__(self, num_codes: int, code_features: int, cosine: bool = False) -> None:
        super().__init__()
        self.num_codes, self.code_features, self.cosine = num_codes, code_features, cosine
        codes = self.prepared(torch.randn(num_codes, code_features))
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", codes.clone())
        self.register_buffer("usage", torch.zeros(num_codes, dtype=torch.float64))

    def prepared(self, vectors: Tensor) -> Tensor:
        """(M, code_features) as they are compared."""
        return F.normalize(vectors, dim=1) if self.cosine else vectors

    def quantize(self, latents: Tensor) -> Tensor:
        """Latents (N, code_features, ...) -> indices (N, ...) of the nearest codes; the name is MONAI's."""
        return self._nearest(self._rows(latents)).view(latents.shape[0], *latents.shape[2:])

    def embed(self, indices: Tensor) -> Tensor:
        """Indices (N, ...) -> the codes (N, code_features, ...), exactly."""
        return F.embedding(indices, self.codes).movedim(-1, 1)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace latents (N, code_features, ...) by codes.

        Returns: the codes, with a straight-through gradient to the latents; their indices (N, ...); the mean squared
        distance of latents from codes, whose gradient goes to the latents only (commitment loss).
        """
        indices = self.quantize(latents)
        codes = self.embed(indices)
        latents = self.prepared(latents.float())
        return latents + (codes - latents).detach(), indices, F.mse_loss(latents, codes)

    @torch.no_grad()
    def start(self, latents: Tensor, seed: int) -> None:
        """Take the centres of k-means clusters of latents (N, code_features, ...) as codes.

        If there are fewer latents than codes, noisy copies of them are added.
        """
        rows = self._rows(latents)
        some = torch.linspace(0, len(rows) - 1, min(len(rows), MOST_TO_START_FROM), device=rows.device).long()
        rows = rows[some]
        while len(rows) < self.num_codes:
            rows = torch.cat([rows, rows + COPY_NOISE * torch.randn_like(rows)])
        means = KMeans(self.num_codes, n_init=1, max_iter=KMEANS_ITERATIONS, random_state=seed).fit(rows.cpu().numpy())
        self.codes.copy_(self.prepared(torch.from_numpy(means.cluster_centers_)))
        self.counts.copy_(torch.from_numpy(means.labels_).bincount(minlength=self.num_codes))
        self.counts *= self.num_codes / len(rows)  # less than a step's, so that these centres are soon replaced
        self.sums.copy_(self.codes * self.counts[:, None])
        self.usage.zero_()
        same_everywhere(self)

    @torch.no_grad()
    def learn(self, latents: Tensor, indices: Tensor, decay: float, restart_below: float) -> None:
        """Move each code towards the latents that chose it; then restart codes that hardly any chose.

        Args:
            latents, indices: of a batch, as `quantize` takes and returns them.
            decay: of the moving averages, per step.
            restart_below: share of an even share of the latents below which a code is replaced by a random latent of
                the batch.
        """
        rows, chosen = self._rows(latents), indices.flatten()
        counts = chosen.bincount(minlength=self.num_codes).to(rows.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, rows)
        counts, sums = all_reduce(torch.cat([counts[:, None], sums], dim=1)).tensor_split([1], dim=1)
        counts = counts.squeeze(1)
        self.usage += counts
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        total = self.counts.sum()
        smooth = (self.counts + SMOOTHING) / (total + self.num_codes * SMOOTHING) * total
        self.codes.copy_(self.prepared(self.sums / smooth[:, None]))
        dead = (self.counts < restart_below * total / self.num_codes).nonzero().squeeze(1)
        if len(dead):
            self.codes[dead] = rows[torch.randint(len(rows), (len(dead),), device=rows.device)]
            self.counts[dead] = total / self.num_codes
            self.sums[dead] = self.codes[dead] * self.counts[dead, None]
            same_everywhere(self)

    def _rows(self, latents: Tensor) -> Tensor:
        """(N, code_features, ...) -> (M, code_features), one per position, as they are compared."""
        return self.prepared(latents.detach().float().movedim(1, -1).reshape(-1, self.code_features))

    def _nearest(self, rows: Tensor) -> Tensor:
        """(M, code_features) -> (M,), by least squared distance."""
        with torch.autocast(rows.device.type, enabled=False):
            return torch.addmm(self.codes.square().sum(dim=1), rows, self.codes.T, beta=-0.5).argmax(dim=1)


def perplexity(usage: Tensor) -> float:
    """The number of equally frequent codes that would have the same entropy as `usage`, how often each was chosen."""
    share = usage.double() / usage.sum()
    return float(torch.special.entr(share).sum().exp())


def code_colours(codebook: Codebook) -> Tensor:
    """(num_codes, 3) in [-1, 1]: the principal components of the codes, so that similar codes have similar colours."""
    codes = codebook.codes - codebook.codes.mean(dim=0)
    _, _, axes = torch.linalg.svd(codes, full_matrices=False)
    ranks = (codes @ axes[:3].T).argsort(dim=0).argsort(dim=0)
    return 2 * ranks / (len(codes) - 1) - 1
