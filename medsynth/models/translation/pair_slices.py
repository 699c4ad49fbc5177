"""Slices of pairs of volumes or pictures, for translation: both on one grid, with the same crop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.datalist import pairs
from medsynth.data.datalist.datalist import PAIR, domain_of_file, files_of
from medsynth.data.datasets.slices import PreparedSlices
from medsynth.data.io.sources import Source
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.picture_range import choose_range
from medsynth.data.preprocessing.pipelines import Preprocessing, find, image, take_slices, volume_bounds
from medsynth.data.preprocessing.preparation import (
    DTYPES,
    PICTURES_A_FILE,
    Preparation,
    Result,
    channel_slices,
    facts_of,
    identity,
    reason,
    recipe,
)
from medsynth.data.preprocessing.region import choose_region
from medsynth.data.preprocessing.slice_space import SliceSpace
from medsynth.data.preprocessing.spacing import fit_spacing
from medsynth.errors import MedsynthError

BODY = "body"

log = logging.getLogger(__name__)


class PairDataset(PreparedSlices):
    """Slices of pairs and of single images of two domains; the views `source` and `target` show the same slice.

    A target is resampled onto its source's grid, and both are cropped around the patient in the source; pictures are
    scaled to fit, each by itself. If a subject has only one of them, the view of the other is -1 everywhere. Items also
    have `mask` (2,), which of the two exist, and, if some entry has a mask or the region is `body`, the view `body`
    (1, H, W), above 0 inside the patient; -1 everywhere where that is not known.

    Of several contrasts, the view `source` has the channels of one after the other, -1 where one is missing, and
    entries without a source or a target are left out.

    Args:
        entries: {"source": path, "target": path, "subject": str, "label": str or None}, or with one of the paths.
        source, target: the preprocessing of each domain; except for modality, window and bias correction, that of the
            source is used for both.
        classes, cache_dir, num_workers, max_bad_fraction: as for `SliceDataset`.
        contrasts: names of those that make up a source, in the order of the channels; none: it is one image.

    Attributes:
        mask: (N, 2), which of source and target exist.
        preprocessing: {"source": ..., "target": ...}, with the chosen spacing.
        spaces: {"source": ..., "target": ...} of those that exist, the meaning of pixels and values; if images have
            intensity bounds of their own, the median ones; of pictures, the most frequent.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        source: Preprocessing,
        target: Preprocessing,
        classes: Sequence[str] = (),
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        max_bad_fraction: float = 0.1,
        contrasts: Sequence[str] = (),
    ) -> None:
        self.contrasts = tuple(contrasts)
        if contrasts:
            entries = _with_known_sources(entries, contrasts)
        if not entries:
            raise MedsynthError("there are no pairs to take slices from: name some in the datalist")
        if "image" in (source.modality, target.modality) and source.modality != target.modality:
            raise MedsynthError(
                f"the sources are of modality {source.modality} and the targets of {target.modality}: pictures can be "
                "translated to pictures alone, give --modality image, or volumes of both"
            )
        if source.modality == "image" and contrasts:
            raise MedsynthError("several sources are of volumes, and these are pictures: list one source")
        source, target = (
            choose_range([Source.of(entry, key) for entry in entries if entry.get(key)], own, cache_dir, num_workers)
            for key, own in zip(PAIR, (source, target), strict=True)
        )
        source = choose_region(entries, source, cache_dir, num_workers)
        source = fit_spacing(entries, source, cache_dir, num_workers)
        self.preprocessing = {"source": source, "target": _like(target, source)}
        store, how = Cache(cache_dir), ["pair", *map(recipe, self.preprocessing.values())]
        one = partial(prepare_pair, preprocessing=self.preprocessing)
        size = PICTURES_A_FILE if source.modality == "image" else 1
        records, self._lease = Preparation(entries, size, pair_identity, how, one, store).all(
            num_workers, "preparing pairs"
        )
        super().__init__(entries, records, store, classes, max_bad_fraction)
        sources = [f"source {name}" for name in contrasts] or ["source"]
        views, start = {key: [] for key in (*sources, "target", BODY)}, 0
        for facts in self._images:
            rows, starts = channel_slices(facts, source.neighbours), {}
            for key in facts["present"]:
                starts[key] = start
                start += len(facts.get("planes", [0]))
            for key in views:
                views[key].append(rows + starts[key] if key in starts else np.full_like(rows, -1))
        self.views = {key: np.concatenate(parts) for key, parts in views.items()}
        self.views = {"source": np.concatenate([self.views.pop(key) for key in sources], axis=1)} | self.views
        body = self.views.pop(BODY)[:, source.neighbours, None]
        self.views |= {BODY: body} if (body >= 0).any() else {}
        self.mask = np.stack([(self.views[key] >= 0).any(axis=1) for key in PAIR], axis=1)
        self.spaces = {key: self._space(key) for key in PAIR if self.mask[:, PAIR.index(key)].any()}

    def _space(self, key: str) -> SliceSpace:
        own = self.preprocessing[key]
        found = [tuple(facts["bounds"][key]) for facts in self._images if key in facts["bounds"]]
        bounds = Counter(found).most_common(1)[0][0] if own.modality == "image" else np.median(found, axis=0)
        return SliceSpace(own.modality, self.spacing_mm, self.slice_mm, tuple(map(float, bounds)), own.plane)

    def recipes(self) -> dict[str, dict[str, Any]]:
        """`preprocessing` as plain values, for model.pt."""
        return {key: one.to_dict() for key, one in self.preprocessing.items()}

    def units(self) -> dict[str, dict[str, Any]]:
        """`spaces` as plain values, for model.pt."""
        return {key: space.to_dict() for key, space in self.spaces.items()}

    def facts(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """`label`, `position`, `index` (N,) and `mask` (N, 2) of these slices."""
        return super().facts(indices) | {"mask": torch.from_numpy(self.mask[indices])}


def prepare_pair(entry: Mapping[str, Any], preprocessing: Mapping[str, Preprocessing]) -> Result:
    """Slices (M, H, W) of each source, then as many of the target; or of the only one. Then of the patient, if known.

    The facts are those of the first source, or of the target alone; `bounds` are by domain, and `present` are the
    names, as `files_of` has them.
    """
    present = [key for key in PAIR if entry.get(key)]
    domain = preprocessing[present[0]]
    try:
        if domain.modality == "image":
            return _prepared_pictures(entry, present, preprocessing)
        located = {}
        for key, volume in pairs.read_entry(entry).items():
            own = domain_of_file(key)
            steps = Compose([*find(preprocessing[own]), volume_bounds(preprocessing[own])])
            located[key] = steps({Keys.IMAGE: volume, "source": Source.of(entry, own)})
        first = next(iter(located.values()))
        if entry.get("mask") or domain.region == "body":
            inside = MetaTensor(torch.from_numpy(first["inside"])[None].float(), meta=first[Keys.IMAGE].meta)
            located[BODY] = {Keys.IMAGE: inside, "bounds": (0.0, 1.0), "air": 0.0}
        cut = {}
        for key, data in located.items():
            take = Compose(take_slices(domain if key == BODY else preprocessing[domain_of_file(key)]))
            cut[key] = take(data | {"patient": first["patient"]})
    except Exception as error:
        return None, {"error": reason(error)}
    planes = torch.cat([one[Keys.IMAGE] for one in cut.values()]).to(DTYPES[domain.modality])
    bounds: dict[str, list[float]] = {}
    for key, one in cut.items():
        if key != BODY:
            bounds.setdefault(domain_of_file(key), list(one["bounds"]))
    notes = [note for one in cut.values() for note in one.get("notes", [])]
    facts = facts_of(next(iter(cut.values())) | {"notes": list(dict.fromkeys(notes))})
    return planes.numpy(), facts | {"bounds": bounds, "present": list(cut)}


def _prepared_pictures(
    entry: Mapping[str, Any], present: Sequence[str], preprocessing: Mapping[str, Preprocessing]
) -> Result:
    cut = {}
    for key in present:
        try:
            cut[key] = image(preprocessing[key])({"source": Source.of(entry, key)})
        except Exception as error:
            raise MedsynthError(f"{'' if key == present[0] else f'and {entry[key]}: it '}{reason(error)}") from error
    bounds = {key: list(cut[key]["bounds"]) for key in present}
    planes = torch.cat([cut[key][Keys.IMAGE] for key in present]).to(DTYPES["image"])
    return planes.numpy(), facts_of(cut[present[0]]) | {"bounds": bounds, "present": present}


def pair_identity(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of all files, which changes with any of them."""
    beside = (entry.get("frame"), entry.get("mask"))
    return {key: identity(Source(file, *beside)) for key, file in files_of(entry).items() if file and key != "image"}


def _with_known_sources(entries: Sequence[dict[str, Any]], contrasts: Sequence[str]) -> list[dict[str, Any]]:
    """Those of pairs, whose sources are of known contrasts."""
    for entry in entries:
        if unknown := sorted(set(entry.get("sources", ())) - set(contrasts)):
            raise MedsynthError(
                f"{entry['subject']} has a source of {unknown[0]}, and the contrasts are {', '.join(contrasts)}: leave "
                "it out"
            )
    pairs = [entry for entry in entries if "sources" in entry and entry.get("target")]
    if len(pairs) < len(entries):
        log.warning(
            "several sources learn from pairs alone: %d of %d entries without a source or a target are left out",
            len(entries) - len(pairs),
            len(entries),
        )
    return pairs


def _like(target: Preprocessing, source: Preprocessing) -> Preprocessing:
    """The target's intensities in the source's geometry."""
    own = ("modality", "window", "bias_correction")
    return Preprocessing.from_dict(source.to_dict() | {name: target.to_dict()[name] for name in own})
