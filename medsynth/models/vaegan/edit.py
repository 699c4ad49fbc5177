"""Real images changed: as they would be of another class, with other covariates, or of another label map."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medsynth.data.io import sources
from medsynth.data.io.segmentations import names_beside, read_segmentation
from medsynth.data.io.sources import Source
from medsynth.data.io.writing import form_code
from medsynth.errors import MedsynthError
from medsynth.inference.blending import blended, resampled
from medsynth.inference.generate import Request
from medsynth.inference.image_folder import ImageFolder, spread
from medsynth.inference.label_maps import check_names, known_classes, written_codes
from medsynth.inference.reconstruct import Stack, covariates_of, label_index, stack_reader
from medsynth.inference.route import MOST_SHOWN, Input, Made, Route, one_below_the_other, origin
from medsynth.models.vaegan.network import VaeGan
from medsynth.run.recipe import LoadedModel

MARGIN_MM = 10.0  # around where two label maps differ, over which the change of the image fades
MARGIN_PIXELS = 4.0  # the same, of pictures
NEAR = 0.4  # part of the margin over which the image's own detail comes back

log = logging.getLogger(__name__)


class Edit:
    """Goes from slices to their noise under their own conditions, and back under others.

    Under its own conditions, a slice comes back as its reconstruction, but for the error of the solver.

    Args:
        request: the new class and covariates.
        label: index of the new class; None: that of each image.
        solver: steps and guidance.

    Attributes:
        facts: what is changed, for sidecars and tables.
    """

    def __init__(self, request: Request, label: int | None, solver: dict[str, Any]) -> None:
        self.label, self.covariates, self.solver = label, request.covariates or {}, solver
        self.facts = ({} if label is None else {"Label": request.label}) | (
            {"Covariates": dict(self.covariates)} if self.covariates else {}
        )

    def __call__(
        self,
        slices: Tensor,
        network: VaeGan,
        label: Tensor,
        position: Tensor,
        covariates: Tensor | None = None,
        own_map: Tensor | None = None,
        new_map: Tensor | None = None,
    ) -> Tensor:
        """(N, 1, H, W) with their own conditions -> the edited slices; label maps (N, 1, H, W) are indices."""
        own = covariates if covariates is not None else slices.new_zeros(len(slices), 0)
        other = network.conditions.requested(own, self.covariates)
        new_label = label if self.label is None else torch.full_like(label, self.label)
        before, after = (None if one is None else network.given(one) for one in (own_map, new_map))
        latents, steps, prior = network.latents(slices), self.solver["steps"], network.prior
        noise = prior.travel(latents, label, position, own, steps, backwards=True, given=before)
        latents = prior.travel(noise, new_label, position, other, **self.solver, given=after)
        return network.decode(latents).clamp(-1, 1)


@dataclass(frozen=True)
class Relabelled:
    """An image with its own label map and a changed one.

    Args:
        stack: its slices, with those of its own label map.
        new_map: (N, 1, H, W), those of the changed one.
        values, affine: of the image on its own grid, (X, Y, Z), and (4, 4) to mm.
        codes: (X, Y, Z) of the changed label map.
        differs: (X, Y, Z), where the label maps do.
        digest: SHA-256 of the changed label map.
    """

    stack: Stack
    new_map: Tensor
    values: np.ndarray
    affine: np.ndarray
    codes: np.ndarray
    differs: np.ndarray
    digest: str

    @property
    def slices(self) -> Tensor:
        """Numbers of the slices that are drawn, those whose label map changes."""
        return (self.stack.segmentation != self.new_map).flatten(1).any(dim=1).nonzero()[:, 0]


class LabelMapEdit:
    """Writes the images that belong to changed label maps, each on its own grid.

    Where the label maps differ, what the model draws of the changed one takes the place of what its pixels show. Around
    that, the image changes by the difference of what is drawn and its reconstruction, so that it retains its detail.
    Both fade over a margin; beyond, the image is as it was, bit for bit.

    Args:
        edit: draws the slices.
        batch_size: slices at a time.
        settings: for the sidecars.
        dicom: write DICOM series and DICOM SEG besides.
    """

    def __init__(
        self,
        model: LoadedModel,
        edit: Edit,
        output: ImageFolder,
        batch_size: int,
        settings: Mapping[str, Any],
        dicom: bool,
    ) -> None:
        self.model, self.edit, self.output, self.batch_size = model, edit, output, batch_size
        self.settings, self.classes = settings, known_classes(model)
        self.is_of_pictures = model.preprocessing["modality"] == "image"
        self.dicom = model.preprocessing["modality"] if dicom else None

    def run(self, inputs: Sequence[dict[str, Any]], segmentations: str) -> None:
        """Edit those inputs of which `changed_maps` finds a changed label map."""
        changed = changed_maps(inputs, segmentations)
        chosen = [entry for entry in inputs if _key(Source.of(entry)) in changed]
        own = {_key(Source.of(entry)): entry["segmentation"] for entry in chosen}
        for maps in (own, changed):
            check_names(*names_beside(maps.values()), self.classes)

        def read(source: Source) -> Relabelled:
            return self.read(source, own[_key(source)], changed[_key(source)])

        def make(batch: Sequence[Input]) -> Iterator[Made]:
            return (self.made(one, len(chosen)) for one in batch)

        Route("edit", read, make, "images are edited", one_below_the_other).run(chosen, self.output)
        self.output.describe_segmentations(written_codes(self.classes, self.output.layout)[0])

    def read(self, source: Source, own: str, changed: Path) -> Relabelled:
        """An image and its two label maps.

        Raises:
            MedsynthError: these cannot be used, or nothing changes, in words that follow the image's name.
        """
        reader = stack_reader(self.model, self.classes)
        stack, other = (reader(replace(source, segmentation=str(path))) for path in (own, changed))
        codes = np.array(list(self.classes))
        if self.is_of_pictures:
            values, affine = stack.volume(stack.slices), stack.affine
            before, after = (codes[one.filled(one.segmentation[:, 0].numpy(), 0)] for one in (stack, other))
        else:
            values, affine = sources.read_exact(source)
            before, after = (read_segmentation(path, values.shape, affine)[0] for path in (own, changed))
        found = Relabelled(
            stack, other.segmentation, values, affine, after, before != after, sources.digest(str(changed))
        )
        if not found.differs.any():
            raise MedsynthError(f"has the label map {own}, and {changed} is equal to it: there is nothing to change")
        if not after.any():
            raise MedsynthError(f"has a label map {changed} that is empty: it holds nothing but 0")
        if not len(found.slices):
            raise MedsynthError(
                f"has a label map {changed} that differs by less than the model's pixels, or outside of its slices"
            )
        return found

    @torch.inference_mode()
    def made(self, one: Input, inputs: int) -> Made:
        """The edited image on its own grid."""
        ready, stack = one.ready, one.ready.stack
        drawn, decoded = stack.slices.clone(), stack.slices.clone()
        for part in ready.slices.split(self.batch_size):
            drawn[part], decoded[part] = self.draw(stack, ready.new_map, part, one.entry)
        away = self.away(ready)
        near, share = np.clip(1 - away / NEAR, 0, 1), np.clip(1 - away, 0, 1)
        change = near * self.on_own_grid(ready, drawn - stack.slices)
        change += (1 - near) * self.on_own_grid(ready, drawn - decoded)
        values = (ready.values + change).clip(ready.values.min(), ready.values.max())
        result = blended(ready.values, values, share)
        facts = {"Label": one.entry["label"], "Split": one.entry.get("split"), "Index": one.index}
        facts |= {"Slices": len(ready.slices), "ChangedVoxels": int(ready.differs.sum())} | self.edit.facts
        sidecar = {"Units": stack.space.units, **origin(one.source), **self.settings}
        sidecar |= {"SegmentationOrigin": "given", "SegmentationDigest": ready.digest}
        some = ready.slices[spread(len(ready.slices), max(1, MOST_SHOWN // inputs))]
        shares = self.of_slices(ready, share)[some]
        shown = list(zip(stack.slices[some], stack.slices[some].lerp(drawn[some], shares), strict=True))
        classes, codes = written_codes(self.classes, self.output.layout)
        labels = codes[np.searchsorted(list(self.classes), ready.codes)]
        code = {} if self.is_of_pictures else {"code": form_code(one.source.path)}
        labelled = {"segmentation": labels, "classes": classes, "dicom": self.dicom}
        return Made(result, ready.affine, facts, sidecar, shown, **labelled, **code)

    def away(self, ready: Relabelled) -> np.ndarray:
        """Distance of each voxel from where the label maps differ; 1 is the margin."""
        spacing = nib.affines.voxel_sizes(ready.affine)
        margin = MARGIN_PIXELS * spacing[0] if self.is_of_pictures else MARGIN_MM
        return ndimage.distance_transform_edt(~ready.differs, spacing) / margin

    def on_own_grid(self, ready: Relabelled, slices: Tensor) -> np.ndarray:
        """Differences of slices (N, 1, H, W) in [-1, 1], in the image's units on its own grid; 0 outside."""
        stack = ready.stack
        low, high = stack.space.bounds
        units = stack.filled(slices[:, 0].numpy(), 0) * ((high - low) / 2)
        if self.is_of_pictures:
            return units
        return resampled(units, stack.affine, ready.affine, ready.values.shape, 0.0)

    def of_slices(self, ready: Relabelled, volume: np.ndarray) -> Tensor:
        """A volume on the image's own grid, at the slices (N, 1, H, W)."""
        stack = ready.stack
        shape = *stack.slices.shape[2:], int(stack.slice_indices[-1]) + 1
        there = volume if self.is_of_pictures else resampled(volume, ready.affine, stack.affine, shape, 0.0)
        return torch.from_numpy(np.moveaxis(there[..., stack.slice_indices], -1, 0)).float()[:, None]

    def draw(self, stack: Stack, new_map: Tensor, part: Tensor, entry: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Slices of these numbers (N, 1, H, W) as they are drawn of the changed label map, and reconstructed."""
        network, count = self.model.network, len(part)
        facts = torch.full((count,), label_index(entry, self.model)), stack.positions[part]
        facts = *facts, covariates_of(entry, self.model).repeat(count, 1), stack.segmentation[part], new_map[part]
        slices, *facts = (one.to(network.prior.mean.device) for one in (stack.slices[part], *facts))
        return self.edit(slices, network, *facts).cpu(), network(slices).cpu()


def changed_maps(inputs: Sequence[dict[str, Any]], segmentations: str) -> dict[tuple[str, int | None], Path]:
    """The changed label map of each input that has one: the file of the name of its own one, or the only file.

    Raises:
        MedsynthError: there is none.
    """
    path = Path(segmentations)
    files = {file.name: file for file in (sources.find_images(path) if path.is_dir() else [path])}
    with_maps = [entry for entry in inputs if entry.get("segmentation")]
    if not with_maps:
        raise MedsynthError(
            f"{inputs[0]['image']} has no label map of its own, which says what changes: lay it beside, named like the "
            "image with _dseg for the contrast, or list both in a datalist (tools/make_datalist.py --segmentation)"
        )
    if len(inputs) == len(files) == 1:
        return {_key(Source.of(inputs[0])): next(iter(files.values()))}
    names = {_key(Source.of(entry)): Path(entry["segmentation"]).name for entry in with_maps}
    found = {key: files[name] for key, name in names.items() if name in files}
    if not found:
        raise MedsynthError(
            f"segmentations {path} holds no file of the name of an image's own label map, such as "
            f"{next(iter(names.values()))}: name the changed ones like these"
        )
    log.info("%d of %d images have a changed label map", len(found), len(inputs))
    return found


def _key(source: Source) -> tuple[str, int | None]:
    return source.path, source.frame
