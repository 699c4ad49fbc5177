"""The report on a translation: held-out images are translated and compared with their targets.

If no held-out subject has both images, translations and other patients' real images are compared as sets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medsynth.data.datalist.datalist import PAIR, Datalist
from medsynth.data.datasets.loader import SliceLoader
from medsynth.data.phantom import default
from medsynth.errors import MedsynthError
from medsynth.evaluation.metrics.paired.pair_measures import Row
from medsynth.evaluation.report.compared_sets import Preparation
from medsynth.evaluation.report.folder import ReportFolder
from medsynth.evaluation.report.held_out import held_out_entries
from medsynth.evaluation.report.paired import PairedEvaluation
from medsynth.evaluation.sets import UnpairedEvaluation
from medsynth.inference.image_folder import ImageFolder
from medsynth.models.translation.inference import (
    DIRECTIONS,
    TranslationInference,
    check_sources,
    contrasts_of,
    domains,
    preprocessing_of,
    slice_network,
    volume_inferer,
)
from medsynth.models.translation.pair_slices import PairDataset
from medsynth.run.recipe import LoadedModel

BOTH = "both"

log = logging.getLogger(__name__)


class TranslationEvaluation:
    """Translates the held-out images of a datalist and reports on each direction.

    Of several contrasts, the report also says how good translations of `fewer_contrasts` are, in subjects who have all.

    Args:
        model: from `load_model`.
        real: datalist of pairs, or of sources and targets; None: the built-in phantom.
        output_dir: for the report and the translations; of both directions, each in a folder of its own.
        direction: of `DIRECTIONS`, or `both`.
        planes, overlap, batch_size, num_samples: as for inference.
        split: patients of the datalist that count: `validation`, `test` or `both`.
        seed: of draws and of the bootstrap.
        overwrite: replace an existing report.
        cache_dir: folder of prepared slices; None: as in training.
        num_workers: processes that prepare slices.
    """

    def __init__(
        self,
        model: LoadedModel,
        real: str | None,
        output_dir: str,
        direction: str,
        planes: Sequence[str] | None,
        overlap: float,
        batch_size: int,
        num_samples: int,
        split: str,
        seed: int,
        overwrite: bool,
        cache_dir: str | None,
        num_workers: int,
    ) -> None:
        self.model, self.seed = model, seed
        self.preparation = Preparation(split=split, cache_dir=cache_dir, num_workers=num_workers)
        names = list(DIRECTIONS) if direction == BOTH else [direction]
        folders = {name: Path(output_dir) / name if direction == BOTH else Path(output_dir) for name in names}
        self.reports = {name: ReportFolder(folder, overwrite) for name, folder in folders.items()}
        inferers = {name: volume_inferer(model, name, planes, overlap, batch_size) for name in names}
        self.contrasts = contrasts_of(model, direction)
        self.data = default.load(real, keys=PAIR)
        others = held_out_entries(self.data, split)
        self.held_out = [entry for entry in others if entry.keys() >= set(PAIR)]
        for entry in with_image(others, "source", self.data.name) if self.contrasts else self.held_out:
            check_sources(entry, self.contrasts)
        self.translators, self.fewer = {}, {}
        file_format = "png" if "image" in model.modalities else "nifti"  # as its truth is, to be compared
        for name, folder in folders.items():
            given, made = domains(name)
            entries = self.held_out or with_image(others, given, self.data.name)
            if not self.held_out:
                with_image(others, made, self.data.name)
            inputs = [entry | {"image": entry[given]} for entry in entries]
            images = ImageFolder(folder, "translation", model.digest, overwrite, file_format, model.modalities)
            translator = TranslationInference(model, images, inferers[name], name, num_samples, seed, dicom=False)
            self.translators[name] = translator, inputs
        whole = [entry for entry in self.held_out if entry.get("sources", {}).keys() >= set(self.contrasts)]
        for words, kept in fewer_contrasts(self.contrasts).items() if whole else ():
            images = ImageFolder(
                Path(output_dir) / words.replace(" ", "_"), "translation", model.digest, overwrite, file_format
            )
            inputs = [_with_sources(entry, kept) for entry in whole]
            inferer = inferers[direction]
            translator = TranslationInference(model, images, inferer, direction, num_samples, seed, dicom=False)
            self.fewer[words] = translator, inputs

    def run(self) -> None:
        """Translate, compare, write."""
        for translator, inputs in self.fewer.values():
            translator.run(inputs)
        fewer = {words: str(translator.output.images) for words, (translator, _) in self.fewer.items()}
        for name, (translator, inputs) in self.translators.items():
            translator.run(inputs)
            images = str(translator.output.images)
            if self.held_out:
                how = {"split": self.preparation.split, "seed": self.seed, "more": self._opinions(name), "fewer": fewer}
                PairedEvaluation(self.data, images, self.reports[name], **how).run()
            else:
                made = only(self.data, domains(name)[1])
                log.info("no held-out subject has both images: translations are compared with real images as sets")
                UnpairedEvaluation(
                    made, images, self.reports[name], self.preparation, seed=self.seed, utility=False
                ).run()

    def _opinions(self, direction: str) -> dict[str, Row]:
        """Of the discriminator, on the slices of each subject."""
        if self.model.discriminator is None or not self.model.extra.get("discriminator_learned", True):
            log.info("the model's discriminators have learned nothing: they are not asked for an opinion")
            return {}
        source, target = (preprocessing_of(self.model, domain) for domain in PAIR)
        where = (self.preparation.cache_dir, self.preparation.num_workers)
        dataset = PairDataset(self.held_out, source, target, (), *where, max_bad_fraction=1.0, contrasts=self.contrasts)
        found = discriminator_aucs(self.model, dataset, direction)
        return {subject: {"discriminator_auc": auc} for subject, auc in found.items()}


def fewer_contrasts(contrasts: Sequence[str]) -> dict[str, list[str]]:
    """Each contrast alone and, of three or more, all but one, by words for them; none of a source of one image."""
    alone = {f"only {name}": [name] for name in contrasts}
    without = {f"without {name}": [other for other in contrasts if other != name] for name in contrasts}
    return alone | (without if len(contrasts) > 2 else {})


def _with_sources(entry: dict[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """An input of some of the contrasts of an entry."""
    sources = {name: file for name, file in entry["sources"].items() if name in kept}
    return entry | {"image": next(iter(sources.values())), "sources": sources}


def with_image(entries: Sequence[dict[str, Any]], key: str, name: str) -> list[dict[str, Any]]:
    """Held-out entries of the datalist `name` that have a source, or a target.

    Raises:
        MedsynthError: there are none.
    """
    found = [entry for entry in entries if key in entry]
    if not found:
        splits = " or ".join(dict.fromkeys(entry["split"] for entry in entries))
        raise MedsynthError(
            f"the datalist {name} has no {splits} subject with a {key}, and what was trained on proves nothing: hold "
            "some out; to translate alone, use inference.json"
        )
    return found


def only(data: Datalist, key: str) -> Datalist:
    """The sources, or the targets, of a datalist of two domains as one image set."""
    splits = {
        split: [entry | {"image": entry[key]} for entry in entries if key in entry]
        for split, entries in data.splits.items()
    }
    return replace(data, name=f"{key} images of {data.name}", splits=splits)


@torch.inference_mode()
def discriminator_aucs(model: LoadedModel, dataset: PairDataset, direction: str) -> dict[str, float]:
    """Subject -> how well the model's own discriminator separates its real slices from translated ones.

    It is the area under the ROC curve of the scores: 0.5 where it cannot tell them, 1 where it always can, 0 where it
    is always fooled.
    """
    given, made = domains(direction)
    translate, discriminator = slice_network(model, direction, sample=False), getattr(model.discriminator, made)
    middle = dataset.preprocessing[made].neighbours
    scores: dict[str, list[Tensor]] = {"fake": [], "real": []}
    device = next(model.network.parameters()).device
    for batch in SliceLoader(dataset, 16, shuffle=False, device=device, drop_last=False):
        scores["fake"].append(_scores(discriminator, translate(batch[given], batch["position"])))
        scores["real"].append(_scores(discriminator, batch[made][:, middle, None]))
    fake, real = (torch.cat(parts).numpy() for parts in scores.values())
    subjects = np.array(dataset.subjects)
    aucs = {}
    for subject in dict.fromkeys(dataset.subjects):
        own = subjects == subject
        labels = np.repeat([0, 1], np.count_nonzero(own))
        aucs[subject] = float(roc_auc_score(labels, np.concatenate([fake[own], real[own]])))
    return aucs


def _scores(discriminator: nn.Module, slices: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N,), the mean over the patches, then over the scales."""
    return torch.stack([scores.mean((1, 2, 3)) for scores, _ in discriminator(slices)]).mean(0).cpu()
