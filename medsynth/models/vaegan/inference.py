"""What a user gets from a trained VAE-GAN: new images, reconstructions, and strips between two images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from medsynth.inference.generate import Drawn, Request, check_batch_size, check_request, sampled, square, write_images
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.paths import STEPS, great_circle
from medsynth.inference.reconstruct import reconstruct
from medsynth.models.vaegan.network import VaeGan, check_temperature
from medsynth.run.recipe import LoadedModel

MODES = {"generate": False, "reconstruct": True, "interpolate": False}  # and whether they need an input


class VaeGanInference:
    """Writes what is asked for to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        inferer: calls the network on a batch of slices.
        mode: `generate`; `reconstruct`: the inputs as the network sees them, noise left out; `interpolate`: strips of
            `STEPS` images from one sample to another, as many as hold `num_images`.
        request: what to generate or interpolate.
        inputs: what to reconstruct, from `find_inputs`.
        batch_size: slices reconstructed at a time.
        temperature: of what is generated or interpolated; None: the model's own.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        inferer: Inferer,
        mode: str,
        request: Request,
        inputs: Sequence[dict[str, Any]],
        batch_size: int,
        temperature: float | None = None,
    ) -> None:
        check_request(model, VaeGan, "VAE-GAN", mode, MODES, bool(inputs))
        check_batch_size(batch_size)
        self.temperature = model.network.temperature if temperature is None else check_temperature(temperature)
        self.model, self.output, self.inferer = model, output, inferer
        self.mode, self.request, self.inputs, self.batch_size = mode, request, inputs, batch_size

    def run(self) -> None:
        """Do it."""
        if self.mode == "reconstruct":
            reconstruct(self.inputs, self.model, self.inferer, self.output, self.batch_size)
            return
        request, model = self.request, self.model
        condition = request.condition(model) | {"temperature": self.temperature}
        if self.mode == "generate":
            drawn = sampled(model.network.sample, request, condition)
            count, columns = request.num_images, square(request.num_images)
        else:
            strips = -(-request.num_images // STEPS)
            drawn = (image for number in range(strips) for image in strip(model.network, request, condition, number))
            count, columns = strips * STEPS, STEPS
        write_images(drawn, count, request, model, self.output, columns)


@torch.inference_mode()
def strip(network: VaeGan, request: Request, condition: dict[str, Any], number: int) -> Iterator[Drawn]:
    """The images between two samples of one class: along the great circle of z, with positions in equal steps.

    All images of a strip share the decoder's noise, so that only z and the position change.
    """
    seed = request.random_seed(number)
    random = torch.Generator().manual_seed(seed)
    label, temperature = condition["label"], condition["temperature"]
    if label is None:
        label = network.density.sample(1, generator=random)[1].item()
    latents, labels, positions = network.density.sample(2, label, request.position, random, temperature)
    device = latents.device
    for share in torch.linspace(0, 1, STEPS).tolist():
        latent = great_circle(latents[:1], latents[1:], share)
        position = positions[:1].lerp(positions[1:], share)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            image = network.draw(latent, labels[:1], position)
        yield image[0].clamp(-1, 1).cpu(), labels[0].item(), position.item()
