"""Training steps of other libraries; import it only where they are installed."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from pythae.models import VAEGAN, VAEGANConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
from pythae.trainers import CoupledOptimizerAdversarialTrainer
from torch import Tensor, nn

from benchmarks.train import Step, closest_width

LATENT_FEATURES = 64


def pythae_step(size: int, batch_size: int, parameters: int, device: str) -> Step:
    """pythae's VAEGAN, updated as its trainer does, with convolutional networks like those it ships for 64 pixels."""
    model = vaegan(size, closest_width(lambda width: [vaegan(size, width)], range(8, 257), parameters)).to(device)
    parts = {"encoder": model.encoder, "decoder": model.decoder, "discriminator": model.discriminator}
    optimizers = {f"{name}_optimizer": torch.optim.Adam(part.parameters(), 1e-4) for name, part in parts.items()}
    trainer = SimpleNamespace(**optimizers)

    def step(images: Tensor) -> None:
        output = model({"data": (images + 1) / 2})
        CoupledOptimizerAdversarialTrainer._optimizers_step(trainer, output)

    return step, [model], "float32"


def vaegan(size: int, width: int) -> VAEGAN:
    """The model with networks of that width at half resolution."""
    config = VAEGANConfig(input_dim=(1, size, size), latent_dim=LATENT_FEATURES, reconstruction_layer=3)
    return VAEGAN(config, Encoder(size, width), Decoder(size, width), Discriminator(size, width)).train()


def channels(size: int, width: int) -> list[int]:
    """Down to 4 x 4: doubling, at most eight times `width`."""
    return [1] + [min(width * 2**level, 8 * width) for level in range((size // 4).bit_length() - 1)]


def down(size: int, width: int) -> list[nn.Module]:
    """Convolutions that halve the grid until it is 4 x 4."""
    widths = channels(size, width)
    return [
        nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
        for a, b in zip(widths[:-1], widths[1:], strict=True)
    ]


class Encoder(BaseEncoder):
    """Images to mean and log-variance."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*down(size, width), nn.Flatten())
        self.mean, self.log_variance = (nn.Linear(16 * channels(size, width)[-1], LATENT_FEATURES) for _ in range(2))

    def forward(self, x: Tensor) -> ModelOutput:
        features = self.layers(x)
        return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))


class Decoder(BaseDecoder):
    """Latent vectors to images in [0, 1]."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        widths = channels(size, width)[::-1]
        hidden = [
            nn.Sequential(nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(widths[:-2], widths[1:-1], strict=True)
        ]
        start = nn.Sequential(nn.Linear(LATENT_FEATURES, 16 * widths[0]), nn.Unflatten(1, (widths[0], 4, 4)))
        self.layers = nn.Sequential(start, *hidden, nn.ConvTranspose2d(widths[-2], 1, 4, 2, 1), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


class Discriminator(BaseDiscriminator):
    """Images to the probability that they are real."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        last = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels(size, width)[-1], 1), nn.Sigmoid())
        self.layers = nn.ModuleList([*down(size, width), last])
        self.depth = len(self.layers)

    def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> ModelOutput:
        output = ModelOutput()
        for level, layer in enumerate(self.layers[: max(output_layer_levels or [self.depth])], start=1):
            x = layer(x)
            output[f"embedding_layer_{level}"] = x
        output["embedding"] = x
        return output
