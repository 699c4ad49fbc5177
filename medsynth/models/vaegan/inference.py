"""What a user gets from a trained VAE-GAN: new images, reconstructions, edited images, strips between two images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor
from tqdm import tqdm

from medsynth.data.io.dicom_segmentation import check_highdicom
from medsynth.errors import MedsynthError, check_bool
from medsynth.inference.generate import (
    BLOCK,
    Drawn,
    Request,
    blocks,
    check_batch_size,
    check_request,
    refuse_unread,
    sampled,
    square,
    write_images,
)
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.label_maps import (
    LabelSlice,
    check_label_maps,
    conditions_of,
    has_segmentations,
    is_datalist,
    read_label_slices,
    segmentation_classes,
    write_images_of,
)
from medsynth.inference.paths import STEPS, great_circle, strip_facts
from medsynth.inference.reconstruct import covariates_of, label_index, read_stacks, reconstruct, tell_of_unknown
from medsynth.inference.route import forced
from medsynth.models.flow.deformation import deformed
from medsynth.models.flow.solver import solver_settings
from medsynth.models.vaegan.edit import Edit, LabelMapEdit
from medsynth.models.vaegan.network import VaeGan
from medsynth.run.recipe import LoadedModel

MODES = {"generate": False, "reconstruct": True, "interpolate": None, "edit": True}  # and whether they need an input
UNREAD = {"reconstruct": ("label", "position", "covariates"), "edit": ("position",)}  # of a request, by mode
WITH_LABEL_MAPS = ("generate", "edit")
MIDDLE = 0.5  # position of the slice that stands for an image, unless another is requested


class VaeGanInference:
    """Writes what is asked for to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        inferer: calls the network on a batch of slices.
        mode: `generate`; `reconstruct`: the inputs as the network sees them, noise left out; `edit`: the inputs of
            another class, with other covariates or of another label map; `interpolate`: strips of `STEPS` images, from
            each input to the next, or from one new image to another, as many as hold `num_images`.
        request: what to generate, interpolate or change.
        input: where the inputs of `run` are; None: there are none.
        batch_size: slices reconstructed or edited at a time.
        steps: of the prior's solver; None: `SOLVER_STEPS`.
        guidance: how strictly the prior follows conditions; 1 as learned, more exaggerates them.
        segmentations: label maps to generate images of, as `read_label_slices` takes them; None: those that the model
            draws, if it knows label maps. To edit images, changed ones, as `changed_maps` takes them; None: none.
        deform: how much these are moved, bent and mirrored first; 0: not at all, 1: as images in training.
        dicom: of scans that are edited by label maps, write DICOM series and DICOM SEG besides.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        inferer: Inferer,
        mode: str,
        request: Request,
        input: str | None,
        batch_size: int,
        steps: int | None = None,
        guidance: float = 1.0,
        segmentations: str | None = None,
        deform: float = 0.0,
        dicom: bool = False,
    ) -> None:
        check_request(model, VaeGan, "VAE-GAN", mode, MODES, input is not None)
        check_batch_size(batch_size)
        check_bool("dicom", dicom)
        self.draws_maps = mode == "generate" and model.network.map_prior is not None
        check_label_maps(model, segmentations, deform, output.layout, self.draws_maps)
        self.solver, self.condition = solver_settings(steps, guidance), request.condition(model)
        self.segmentations, self.deform, self.dicom = segmentations, deform, dicom
        self.model, self.output, self.inferer = model, output, inferer
        self.mode, self.request, self.batch_size = mode, request, batch_size
        self._check_use(input is not None)

    def _check_use(self, has_input: bool) -> None:
        """Refuse what changes nothing in this mode, an edit that is to change nothing, and what is not installed."""
        mode, request, segmentations = self.mode, self.request, self.segmentations
        refuse_unread(request, mode, UNREAD.get(mode, ("label", "covariates") if has_input else ()))
        if segmentations is not None and mode not in WITH_LABEL_MAPS:
            raise MedsynthError(f"mode is {mode}, where segmentations change nothing: leave segmentations null")
        if segmentations is not None and request.position is not None:
            raise MedsynthError("position is given, and label maps say themselves where they are: leave position null")
        if self.dicom and (mode != "edit" or segmentations is None or self.model.preprocessing["modality"] == "image"):
            raise MedsynthError(
                "dicom is for volumes that label maps change: add --mode edit and --segmentations, or leave dicom false"
            )
        if self.dicom:
            check_highdicom()
        if mode != "edit":
            return
        if self.deform:
            raise MedsynthError("mode is edit, where deform changes nothing: leave deform 0")
        if segmentations is None and self.condition["label"] is None and not request.covariates:
            raise MedsynthError("mode is edit and nothing is to change: give --label, --covariates or --segmentations")
        if segmentations is not None and is_datalist(segmentations):
            raise MedsynthError(f"segmentations is {segmentations}: give a changed label map, or a folder of them")

    def run(self, inputs: Sequence[dict[str, Any]] = ()) -> None:
        """Do it; `find_inputs` looks for the inputs once the constructor has checked the request."""
        request, model = self.request, self.model
        settings = {"Mode": self.mode} | {name.capitalize(): value for name, value in self.solver.items()}
        if self.mode == "reconstruct":
            reconstruct(inputs, model, self.inferer, self.output, self.batch_size)
        elif self.mode == "edit":
            tell_of_unknown(inputs)
            edit = Edit(request, self.condition["label"], self.solver)
            if self.segmentations is not None:
                of_maps = LabelMapEdit(model, edit, self.output, self.batch_size, settings, self.dicom)
                of_maps.run(inputs, self.segmentations)
                return
            reconstruct(inputs, model, edit, self.output, self.batch_size, "edit", edit.facts, settings)
        elif self.draws_maps or self.segmentations is not None:
            self.draw_label_maps(settings)
        elif self.mode == "generate":
            drawn = sampled(model.network.sample, request, self.condition | self.solver)
            columns = square(request.num_images)
            write_images(drawn, request.num_images, request, model, self.output, columns, settings=settings)
        else:
            strips = -(-request.num_images // STEPS) if not inputs else len(inputs) - 1
            if strips < 1:
                raise MedsynthError(
                    "mode is interpolate and there is one input: give a folder or a datalist of several"
                )
            ends = self.real_ends(inputs) if inputs else self.new_ends(strips)
            drawn = (image for pair in ends for image in strip(model.network, *pair, self.solver))
            settings |= forced(*inputs)
            facts = strip_facts(strips)
            write_images(drawn, strips * STEPS, request, model, self.output, STEPS, facts, settings)

    def draw_label_maps(self, settings: dict[str, Any]) -> None:
        """Generate images of label maps, given or drawn, see `write_images_of`."""
        model, may_mirror = self.model, self.model.preprocessing["plane"] != "sagittal"
        if self.segmentations is None:
            given = list(self.new_maps())
        else:
            given = read_label_slices(self.segmentations, model, model.network.conditions.covariates)
            settings |= {"Deform": self.deform}

        def change(indices: Tensor, names: Sequence[str], seed: int) -> Tensor:
            return deformed(indices, names, self.deform, seed, may_mirror)

        how = change if self.deform else None
        write_images_of(given, self.images_of, how, self.request, model, self.output, settings)

    def new_maps(self) -> Iterator[LabelSlice]:
        """As many as images are requested, under what is requested."""
        request = replace(self.request, seed=self.request.random_seed(0, 2))  # the images have noise of their own
        drawn = sampled(self.model.network.map_prior.sample, request, self.condition | self.solver)
        for indices, label, position, covariates in tqdm(drawn, "drawing label maps", self.request.num_images):
            yield LabelSlice(indices, None, None, label, position, torch.tensor(covariates))

    @torch.inference_mode()
    def images_of(self, maps: Sequence[LabelSlice]) -> Iterator[Drawn]:
        """An image of each label map, under what is requested, else under what is known of it."""
        network, start = self.model.network, 0
        prior = network.prior
        for count, seed in blocks(self.request):
            own, start = maps[start : start + count], start + count
            random = torch.Generator().manual_seed(seed)
            noise = torch.randn(BLOCK, *prior.shape, generator=random)[:count]
            facts = conditions_of(own, self.request, self.condition["label"], network.conditions)
            device = prior.mean.device
            given = network.given(torch.stack([one.indices for one in own]).to(device))
            z = prior.travel(noise.to(device), *(fact.to(device) for fact in facts), **self.solver, given=given)
            images = network.decode(z).clamp(-1, 1).cpu()
            yield from zip(images, *(fact.tolist() for fact in facts), strict=True)

    def new_ends(self, strips: int) -> Iterator[tuple[Point, Point]]:
        """Pairs of random points."""
        prior = self.model.network.prior
        for number in range(strips):
            random = torch.Generator().manual_seed(self.request.random_seed(number))
            facts = prior.conditions.sample(2, generator=random, **self.condition)
            noise = torch.randn(2, *prior.shape, generator=random).to(prior.mean.device)
            yield tuple((noise[i : i + 1], *(fact[i : i + 1] for fact in facts)) for i in range(2))

    def real_ends(self, inputs: Sequence[dict[str, Any]]) -> Iterator[tuple[Point, Point]]:
        """Each input's slice at the requested position, and the next one's."""
        before, model, prior, count = None, self.model, self.model.network.prior, 0
        wanted = MIDDLE if self.request.position is None else self.request.position
        for _, entry, stack in read_stacks(inputs, model):
            away = (stack.positions - wanted).abs().nan_to_num(0.0)
            nearest = int(away.argmin()) if away.any() else len(away) // 2
            chosen = slice(nearest, nearest + 1)
            facts = (
                torch.tensor([label_index(entry, model)]),
                stack.positions[chosen],
                covariates_of(entry, model)[None],
            )
            facts = tuple(fact.to(prior.mean.device) for fact in facts)
            latents = model.network.latents(stack.slices[chosen].to(prior.mean.device))
            point = (prior.travel(latents, *facts, self.solver["steps"], backwards=True), *facts)
            if before is not None:
                yield before, point
            before, count = point, count + 1
        if count < 2:
            raise MedsynthError(
                f"{count} of the {len(inputs)} inputs can be used, and a strip goes from one to another: give more"
            )


def for_evaluation(
    model: LoadedModel, output: ImageFolder, request: Request, real: str | None, **solver: Any
) -> VaeGanInference:
    """What draws the images of an evaluation: of deformed label maps of its training patients, if the model knows such.

    Args:
        real: datalist of the real images.
        solver: `steps` and `guidance`.
    """
    maps = real if real and segmentation_classes(model) and has_segmentations(real) else None
    how = solver | {"segmentations": maps, "deform": 1.0 if maps else 0.0}
    return VaeGanInference(model, output, SimpleInferer(), "generate", request, None, BLOCK, **how)


Point = tuple[Tensor, ...]
"""Noise (1, latent_channels, h, w), label (1,), position (1,) and covariates (1, K)."""


@torch.inference_mode()
def strip(network: VaeGan, start: Point, end: Point, solver: dict[str, Any]) -> Iterator[Drawn]:
    """The images between two points: along the great circle of the noise, with the conditions in step.

    A class, and what is unknown at one of the points, is that of the nearer point.
    """
    shares = torch.linspace(0, 1, STEPS).tolist()
    flat = start[0].flatten(1), end[0].flatten(1)
    noise = torch.cat([great_circle(*flat, share) for share in shares]).view(-1, *start[0].shape[1:])
    nearer = [start if share < MIDDLE else end for share in shares]
    label, *of_nearer = (torch.cat(facts) for facts in zip(*(point[1:] for point in nearer), strict=True))
    between = []
    for one, other, near in zip(start[2:], end[2:], of_nearer, strict=True):
        values = torch.cat([one.lerp(other, share) for share in shares])
        between.append(torch.where(values.isnan(), near, values))
    position, covariates = between
    latents = network.prior.travel(noise, label, position, covariates, **solver)
    images = network.decode(latents).clamp(-1, 1).cpu()
    yield from zip(images, label.tolist(), position.tolist(), covariates.tolist(), strict=True)
