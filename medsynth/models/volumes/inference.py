"""What a user gets from a trained volume generator: new volumes, edited ones, and regions drawn anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medsynth.data.io import sources
from medsynth.data.io.masks import read_mask
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.preparation import log_notes
from medsynth.data.preprocessing.slice_space import VolumeSpace
from medsynth.data.preprocessing.volume_grid import (
    PLANES_SHOWN,
    VolumePreprocessing,
    grid_transforms,
    plain,
    prepare_volume,
    three_planes,
)
from medsynth.errors import MedsynthError, check_bool
from medsynth.inference.blending import blended, resampled
from medsynth.inference.generate import Drawn, Request, check_request, slice_space, square, write_images
from medsynth.inference.image_folder import ImageFolder
from medsynth.inference.label_maps import (
    LabelSlice,
    check_label_maps,
    conditions_of,
    read_label_volumes,
    write_images_of,
)
from medsynth.inference.reconstruct import closeness, covariates_of, label_index, tell_of_unknown
from medsynth.inference.route import Input, Made, Route, origin
from medsynth.models.flow.solver import solver_settings
from medsynth.models.volumes.augmentation import deformed
from medsynth.models.volumes.network import VolumeFlow
from medsynth.run.recipe import LoadedModel

MODES = {"generate": False, "edit": True, "inpaint": True}  # and whether they need an input
BLEND_MM = 6.0  # from the edge of a mask inwards, over which what is drawn takes the place of what was there

log = logging.getLogger(__name__)


class VolumeInference:
    """Writes what is asked for to a folder.

    Args:
        model: from `load_model`.
        output: the folder.
        mode: `generate`; `edit`: the inputs with another class or other covariates, on the model's grid; `inpaint`:
            the region of `mask` drawn anew, on the input's own grid, what is outside untouched.
        request: what to generate or change.
        input: where the inputs of `run` are; None: there are none.
        mask: path of the region to draw anew.
        steps: of the solver; None: `SOLVER_STEPS`.
        guidance: how strictly conditions are followed; 1 as learned, more exaggerates them.
        dicom: write DICOM series besides.
        segmentations: label maps to generate volumes of, as `read_label_volumes` takes them; None: none.
        deform: how much these are moved, bent and mirrored first; 0: not at all, 1: as volumes in training.
    """

    def __init__(
        self,
        model: LoadedModel,
        output: ImageFolder,
        mode: str,
        request: Request,
        input: str | None = None,
        mask: str | None = None,
        steps: int | None = None,
        guidance: float = 1.0,
        dicom: bool = False,
        segmentations: str | None = None,
        deform: float = 0.0,
    ) -> None:
        check_request(model, VolumeFlow, "volume generator", mode, MODES, input is not None)
        check_bool("dicom", dicom)
        check_label_maps(model, segmentations, deform, output.layout)
        self.solver, self.condition = solver_settings(steps, guidance), request.condition(model)
        self.segmentations, self.deform, self.dicom, self.mask = segmentations, deform, dicom, mask
        self.model, self.output, self.mode, self.request = model, output, mode, request
        self._check_use()

    def _check_use(self) -> None:
        """Refuse what changes nothing in this mode, an edit that is to change nothing, and a mask that is not there."""
        mode, mask = self.mode, self.mask
        if (mask is not None) != (mode == "inpaint"):
            raise MedsynthError(
                "mode is inpaint and there is no mask: give the region to draw anew with --mask"
                if mask is None
                else f"mode is {mode}, where mask changes nothing: add --mode inpaint"
            )
        if mask is not None and not Path(mask).is_file():
            raise MedsynthError(f"mask {mask} does not exist: give an image that is above 0 where to draw anew")
        if self.segmentations is not None and mode != "generate":
            raise MedsynthError(f"mode is {mode}, where segmentations change nothing: leave segmentations null")
        if mode == "edit" and self.condition["label"] is None and not self.request.covariates:
            raise MedsynthError("mode is edit and nothing is to change: give --label or --covariates")

    def run(self, inputs: Sequence[dict[str, Any]] = ()) -> None:
        """Do it; `find_inputs` looks for the inputs once the constructor has checked the request."""
        settings = {"Mode": self.mode} | {name.capitalize(): value for name, value in self.solver.items()}
        count = self.request.num_images
        if self.segmentations is not None:
            self.draw_label_maps(settings | {"Deform": self.deform})
            return
        if self.mode == "generate":
            drawn, columns = self.drawn(), square(count)
            write_images(
                drawn, count, self.request, self.model, self.output, columns, settings=settings, dicom=self.dicom
            )
            return
        if self.mode == "edit":
            tell_of_unknown(inputs)
        elif len(inputs) > 1:
            raise MedsynthError(f"there is one mask and {len(inputs)} inputs: give one input")
        make = {"edit": self.edited, "inpaint": self.inpainted}[self.mode]
        Route(self.mode, self.read, lambda batch: (make(one, settings) for one in batch)).run(inputs, self.output)
        log.info("grid.png shows %s", PLANES_SHOWN)

    @torch.inference_mode()
    def drawn(self) -> Iterator[Drawn]:
        """New volumes, each from a seed of its own."""
        how = self.condition | self.solver
        for index in range(self.request.num_images):
            drawn = self.model.network.sample(1, self.request.random_seed(index), **how)
            volume, *facts = (part.cpu()[0] for part in drawn)
            yield volume, *(fact.tolist() for fact in facts)

    def draw_label_maps(self, settings: dict[str, Any]) -> None:
        """Generate volumes of label maps, see `write_images_of`."""
        model, request = self.model, self.request
        given = read_label_volumes(self.segmentations, model, model.network.conditions.covariates)

        def change(indices: Tensor, names: Sequence[str], seed: int) -> Tensor:
            return deformed(indices, names, self.deform, seed)

        how = change if self.deform else None
        write_images_of(given, self.volumes_of, how, request, model, self.output, settings, self.dicom)

    @torch.inference_mode()
    def volumes_of(self, maps: Sequence[LabelSlice]) -> Iterator[Drawn]:
        """A volume of each label map, from a seed of its own, under what is requested, else under what is known."""
        network, label = self.model.network, self.condition["label"]
        for index, one in enumerate(maps):
            noise = network.noise(1, torch.Generator().manual_seed(self.request.random_seed(index)))
            facts = conditions_of([one], self.request, label, network.conditions)
            here = [part.to(noise[0].device) for part in (one.indices[None], *facts)]
            volume = network.draw(noise, here[1:], **self.solver, segmentation=here[0])
            yield volume[0].cpu(), *(fact[0].tolist() for fact in facts)

    def read(self, source: Source) -> Prepared:
        """An input on the model's grid."""
        preprocessing = VolumePreprocessing.from_dict(self.model.preprocessing)
        stored, facts = prepare_volume(source, preprocessing, grid_transforms(preprocessing))
        if stored is None:
            raise MedsynthError(facts["error"])
        log_notes([source.path], [facts])
        image = plain(torch.from_numpy(stored).float()[None], preprocessing.size, preprocessing.finer)
        finer, edges = preprocessing.finer, np.multiply(preprocessing.margins, preprocessing.finer)
        to_stored = nib.affines.from_matvec(finer * np.eye(3), edges + (finer - 1) / 2)
        space = replace(slice_space(self.model), bounds=tuple(facts["bounds"]))
        return Prepared(image, np.array(facts["affine"]) @ to_stored, space)

    @torch.inference_mode()
    def edited(self, one: Input, settings: dict[str, Any]) -> Made:
        """An input under other conditions: to its noise under its own, and back."""
        own = self.own_conditions(one)
        label, position, covariates = own
        network, image = self.model.network, one.ready.image.to(label.device)
        covariates = network.conditions.requested(covariates, self.request.covariates)
        if self.condition["label"] is not None:
            label = torch.full_like(label, self.condition["label"])
        noise = network.invert(image, own, self.solver["steps"])
        made = network.draw(noise, (label, position, covariates), **self.solver).cpu()
        changed = {"Label": self.request.label or one.entry.get("label")}
        changed |= {"Covariates": dict(self.request.covariates)} if self.request.covariates else {}
        changed |= closeness(made, one.ready.image)
        values = one.ready.space.to_units(made[0, 0].numpy())
        return self.made(one, values, one.ready.affine, changed, settings, made)

    @torch.inference_mode()
    def inpainted(self, one: Input, settings: dict[str, Any]) -> Made:
        """An input whose masked region is drawn anew, on its own grid."""
        own, ready, network = self.own_conditions(one), one.ready, self.model.network
        values, affine = sources.read_exact(one.source)
        try:
            where, note = read_mask(self.mask, values.shape, affine)
        except MedsynthError as error:
            raise MedsynthError(f"mask {self.mask} {error}") from error
        if note:
            log.warning("mask %s %s, and covers %d voxels", self.mask, note, where.sum())
        reach = np.ceil(nib.affines.voxel_sizes(ready.affine).max() / nib.affines.voxel_sizes(affine)).astype(int)
        wider = ndimage.maximum_filter(where, size=2 * (reach // 2) + 1).astype(np.float32)  # none falls between voxels
        coarse = resampled(wider, affine, ready.affine, ready.image.shape[2:], 0.0) > 0
        if not coarse.any():
            raise MedsynthError(
                f"{one.source.path} lies outside of the region of the mask {self.mask}: give a mask of this image"
            )
        image, kept = ready.image.to(own[0].device), torch.from_numpy(~coarse)[None, None].to(own[0].device)
        random = torch.Generator().manual_seed(self.request.random_seed(one.index))
        made = network.draw(network.noise(1, random), own, **self.solver, known=(image, kept)).cpu()
        low, high = ready.space.bounds
        drawn = low + (resampled(made[0, 0].numpy(), ready.affine, affine, values.shape, -1.0) + 1) * (high - low) / 2
        inside = ndimage.distance_transform_edt(where, nib.affines.voxel_sizes(affine))
        result = blended(values, drawn, np.minimum(inside / BLEND_MM, 1))
        return self.made(one, result, affine, {"Label": one.entry.get("label")}, settings, made)

    def own_conditions(self, one: Input) -> tuple[Tensor, Tensor, Tensor]:
        """Class, position, which is unknown, and covariates of an input."""
        device = self.model.network.levels[0].mean.device
        label = torch.tensor([label_index(one.entry, self.model)], device=device)
        covariates = covariates_of(one.entry, self.model)[None].to(device)
        return label, torch.full((1,), torch.nan, device=device), covariates

    def made(
        self,
        one: Input,
        values: np.ndarray,
        affine: np.ndarray,
        facts: dict[str, Any],
        settings: dict[str, Any],
        shown: Tensor,
    ) -> Made:
        """What is written: values on their grid, and a picture of before and after."""
        facts = {"Label": None, "Split": one.entry.get("split"), "Index": one.index, "Seed": self.request.seed} | facts
        sidecar = {"Units": one.ready.space.units, **origin(one.source), **settings}
        pair = [(three_planes(one.ready.image)[0], three_planes(shown)[0])]
        dicom = one.ready.space.modality if self.dicom else None
        return Made(values, affine, facts, sidecar, pair, dicom=dicom)


@dataclass(frozen=True)
class Prepared:
    """An input (1, 1, X, Y, Z) in [-1, 1] on the model's grid, where that lies, and what its values stand for."""

    image: Tensor
    affine: np.ndarray
    space: VolumeSpace
