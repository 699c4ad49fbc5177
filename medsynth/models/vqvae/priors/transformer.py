"""A transformer prior over the codes of a VQ-VAE: draws a map code by code, row after row.

Reference: Esser et al., arXiv:2012.09841, section 3.2; the network is MONAI's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import TransformerBlock
from monai.networks.nets import DecoderOnlyTransformer
from torch import Tensor

from medsynth.errors import MedsynthError
from medsynth.models.vqvae.priors.base import CodePrior
from medsynth.nn.conditioning import TrainingConditions

POSITION_BINS = 32


class CodeTransformer(CodePrior):
    """The probability of each code, given all before it, the class and the slice position.

    The first token stands for class and position together.

    Args:
        stage_one: arguments of its `SliceVqVae`.
        features: of a token.
        layers, heads: of attention.
        dropout: of tokens, in training.
        num_classes: classes of the training set; 0 ignores labels.
        use_position: whether the slice position is an input.

    Attributes:
        conditions: classes and positions of training slices, for samples without given ones.
    """

    def __init__(
        self,
        stage_one: dict[str, Any],
        features: int,
        layers: int,
        heads: int,
        dropout: float,
        num_classes: int,
        use_position: bool,
    ) -> None:
        super().__init__(stage_one)
        if features % heads:
            raise MedsynthError(f"features is {features}, which {heads} heads don't divide: give a multiple of {heads}")
        self.num_classes, self.use_position = num_classes, use_position
        self.conditions = TrainingConditions(num_classes)
        self.transformer = DecoderOnlyTransformer(
            num_tokens=self.stage_one.num_codes + (num_classes + 1) * (POSITION_BINS + 1),
            max_seq_len=self.grid**2,
            attn_layers_dim=features,
            attn_layers_depth=layers,
            attn_layers_heads=heads,
            embedding_dropout_rate=dropout,
            use_flash_attention=True,
        )

    def first_tokens(self, labels: Tensor, positions: Tensor) -> Tensor:
        """The tokens (N,) of labels (N,), -1 if unknown, and positions (N,), NaN if unknown."""
        row = labels % (self.num_classes + 1) if self.num_classes else torch.zeros_like(labels)
        bins = (positions.nan_to_num() * POSITION_BINS).long().clamp(0, POSITION_BINS - 1)
        unknown = positions.isnan() if self.use_position else torch.ones_like(positions, dtype=torch.bool)
        return self.stage_one.num_codes + row * (POSITION_BINS + 1) + bins.masked_fill(unknown, POSITION_BINS)

    def logits(self, indices: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Code maps (N, h, w) -> (N, h * w, num_codes): of each code, given those before it."""
        tokens = torch.cat([self.first_tokens(labels, positions)[:, None], indices.flatten(1)[:, :-1]], dim=1)
        return self.transformer(tokens)[..., : self.stage_one.num_codes].float()

    def negative_log_likelihood(self, indices: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Code maps (N, h, w) -> (N,): negative log-likelihood, in nats per code."""
        logits = self.logits(indices, labels, positions)
        return F.cross_entropy(logits.transpose(1, 2), indices.flatten(1), reduction="none").mean(dim=1)

    def draw(self, count: int, label: int | None, position: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Code maps (count, h, w), their labels and positions, by torch's own random state."""
        labels, positions, _ = self.conditions.sample(count, label, position)
        tokens, length = self.first_tokens(labels, positions), self.grid**2
        heads = self.transformer.attn_layers_heads
        shape = (2, count, heads, length, self.transformer.attn_layers_dim // heads)
        cache = [torch.empty(shape, device=tokens.device) for _ in self.transformer.blocks]
        drawn = []
        for index in range(length):
            tokens = self.next_logits(tokens, index, cache).softmax(dim=1).multinomial(1).squeeze(1)
            drawn.append(tokens)
        return torch.stack(drawn, dim=1).unflatten(1, (self.grid, self.grid)), labels, positions

    def next_logits(self, tokens: Tensor, index: int, cache: list[Tensor]) -> Tensor:
        """The logits after the tokens (N,) at `index`, from the cached keys and values of earlier tokens.

        MONAI's network computes all earlier tokens again for each new one.

        Args:
            cache: per layer, keys and values (2, N, heads, h * w, features / heads); those of `index` are added.

        Returns: (N, num_codes).
        """
        network = self.transformer
        features = network.token_embeddings(tokens) + network.position_embeddings.embedding.weight[index]
        for block, cached in zip(network.blocks, cache, strict=True):
            features = features + _attended(block, block.norm1(features), index, cached)
            features = features + block.mlp(block.norm2(features))
        return network.to_logits(features)[:, : self.stage_one.num_codes].float()


def _attended(block: TransformerBlock, features: Tensor, index: int, cached: Tensor) -> Tensor:
    """The attention of the token at `index`, (N, features), to itself and to those before it."""
    attention = block.attn
    query, key, value = (
        layer(features).unflatten(1, (attention.num_heads, -1))
        for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    cached[0, :, :, index], cached[1, :, :, index] = key, value
    seen = cached[..., : index + 1, :]
    return attention.out_proj(F.scaled_dot_product_attention(query[:, :, None], *seen).flatten(1))
