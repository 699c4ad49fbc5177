"""The sections of a report on sets of images: measures, pictures, maps, subjects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medsynth.evaluation.metrics.catalog import entry, is_of_class
from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.class_effect import POSITIONS, Effect
from medsynth.evaluation.metrics.distribution.image_set import ImageSet, random_indices
from medsynth.evaluation.metrics.distribution.privacy import nearest
from medsynth.evaluation.metrics.distribution.separation import separation
from medsynth.evaluation.metrics.distribution.set_measures import UnpairedResult
from medsynth.evaluation.metrics.result import Measure
from medsynth.evaluation.report import figures
from medsynth.evaluation.report import maps as embedding
from medsynth.evaluation.report.compared_sets import Sets
from medsynth.evaluation.report.figures import CLASS_STYLES, HELD_OUT, REAL, SYNTHETIC, Figure, Group
from medsynth.evaluation.report.maps import MOST_POINTS
from medsynth.evaluation.report.page import DASH, Cell, Column, Gallery, Section, Table, number, numeric
from medsynth.evaluation.report.verdict import AS_REAL, NEAR_REAL, NO_PROOF, Standing, standing

GRID = 81
MOST_CLASSES = 6  # with grids of their own
SHOWN_PAIRS = 16
LEAST_POINTS = 10  # of a map


def measure_section(measures: Sequence[Measure], facts: dict[str, Any]) -> Section:
    """The table of all measures, and a picture of it."""
    standings = [standing(measure) for measure in measures]
    rows = [_measure_row(one) for one in standings]
    columns = [
        Column("Measure", numeric=False),
        Column("Value"),
        Column("95 % interval", help="bootstrap over the real held-out subjects"),
        Column("Real floor", help="the same measure of real images of other subjects"),
        Column(
            "Baseline",
            help="the same measure of a PCA-GMM, a Gaussian mixture in PCA space, fitted in seconds; of dice and hd95: "
            "of painted label maps, each class in a Gaussian of its intensities",
        ),
        Column("Best", numeric=False),
        Column("Times floor", help="distance from the best value over that of the floor"),
        Column("n", help="synthetic images"),
    ]
    caption = (
        f"Images in [0, 1], whole slices, no mask; seed {facts['seed']}. The floor is the same measure between real "
        "images of training and held-out subjects, as many as are compared here: no generator can be expected below it."
    )
    blocks: list[Any] = []
    known = [one for one in standings if one.times is not None and not _is_part(one.measure.name)]
    known = [one for one in known if not is_of_class(one.measure.name)]
    if known:
        picture = figures.against_floor(
            [p.measure.name for p in known], [p.times for p in known], [p.baseline_times for p in known]
        )
        alt = "; ".join(f"{p.measure.name} {p.times:.1f} times the floor" for p in known)
        text = (
            f"One line per measure. Dots within the shaded band (up to {AS_REAL:g} times the floor) are where real "
            "images of other subjects would be; a dot to the right of its diamond loses to a PCA-GMM."
        )
        blocks.append(Gallery([Figure("against_floor", "How far from real", alt, text, picture)]))
    return Section("measures", "Measures", [], [*blocks, Table(caption, columns, rows)])


def _measure_row(row: Standing) -> list[Cell]:
    measure = row.measure
    best = {"lower": "low", "higher": "high", "near": f"near {number(measure.target)}"}[measure.direction]
    interval = f"{number(measure.interval[0])} to {number(measure.interval[1])}" if measure.interval else DASH
    note = " ".join(part for part in (_about(measure.name), measure.remark) if part)
    value = Cell(number(measure.value), measure.value, strong=True)
    name = f"{measure.name} ({measure.unit})" if measure.unit else measure.name
    ratio = row.times
    times = Cell(DASH) if ratio is None else Cell(_times(ratio), ratio, strong=ratio > NEAR_REAL)
    return [
        Cell(name, measure.name, detail=note),
        value,
        Cell(interval, measure.interval[0] if measure.interval else None),
        numeric(measure.floor),
        numeric(measure.baseline),
        Cell(best, best),
        times,
        numeric(measure.n),
    ]


def _is_part(name: str) -> bool:
    return name.rpartition("_")[2].isdigit()


def _about(name: str) -> str:
    """One line of the catalog; for a part, such as `swd_64`, its scale."""
    if _is_part(name):
        return f"the same at {name.rpartition('_')[2]} pixels a side"
    part = name.partition("/")[2]
    if is_of_class(name):
        return f"{entry(name).about}; {part}"
    return entry(name).about + (f"; {'whole volumes' if part == 'volume' else f'{part} slices'}" if part else "")


def _times(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def image_sections(
    sets: Sets, result: UnpairedResult, latents: Callable[[ImageSet], np.ndarray | None] | None, seed: int
) -> list[Section | None]:
    """Worst cases, grids, maps, spectra and the nearest pairs."""
    return [
        _worst(sets, result),
        _grids(sets, seed),
        _maps(sets, result, latents, seed),
        _spectra(sets),
        _nearest(sets, result),
    ]


def _worst(sets: Sets, result: UnpairedResult) -> Section | None:
    """The synthetic images farthest from any real one."""
    features = _features(result)
    if features is None:
        return None
    fake, real = result.indices["synthetic"], result.indices["held_out"]
    found = nearest(features["synthetic"], features["held_out"])
    usual = np.sqrt(np.median(nearest(features["train"], features["held_out"]).distance))
    worst = np.argsort(-found.distance, kind="stable")[:SHOWN_PAIRS]
    times = np.sqrt(found.distance[worst]) / usual
    notes = [
        f"{sets.names[i].split('.')[0][-30:]}\n{time:.1f} times" for i, time in zip(fake[worst], times, strict=True)
    ]
    similar = sets.held_out.images[real[found.index[worst]]]
    png = figures.pairs(sets.synthetic.images[fake[worst]], similar, notes, ("synthetic", "most similar real image"))
    alt = f"{len(worst)} synthetic images, each beside the real held-out image most similar to it."
    text = (
        "The synthetic images farthest from every held-out real image, the farthest first. The number is that "
        "distance, over the median distance of a real training image to its nearest held-out one (1: as real images)."
    )
    return Section(
        "worst", "Worst cases first", [], [Gallery([Figure("worst", "Least similar to real images", alt, text, png)])]
    )


def _nearest(sets: Sets, result: UnpairedResult) -> Section | None:
    """The synthetic images nearest to a training image."""
    if not result.nearest_pairs:
        return None
    pairs = result.nearest_pairs[:SHOWN_PAIRS]
    fake, real = [pair.synthetic for pair in pairs], [pair.train for pair in pairs]
    notes = [
        f"{sets.train.subjects[pair.train][:24]}\n{pair.distance / pair.usual:.2f} of usual"
        if pair.usual
        else "identical"
        for pair in pairs
    ]
    png = figures.pairs(sets.synthetic.images[fake], sets.train.images[real], notes)
    lowest = min((pair.distance / pair.usual for pair in pairs if pair.usual), default=float("nan"))
    alt = f"{len(pairs)} synthetic images beside their nearest training images; the first at {lowest:.2f} of usual."
    text = (
        "Nearest first, with the training subject. The number is the distance, over that from this training image to "
        "the most similar image of another subject: well below 1, the two may show the same person."
    )
    figure = Figure("nearest_pairs", "Nearest to a training image", alt, text, png)
    return Section("nearest", "Nearest pairs (privacy)", [NO_PROOF], [Gallery([figure])])


def _grids(sets: Sets, seed: int) -> Section:
    """81 random images of each set, and of each class."""
    labels = [label for label in sets.classes if (sets.synthetic.labels == label).any()][:MOST_CLASSES]
    shown: list[Figure] = []
    for label in [None, *labels] if len(labels) > 1 else [None]:
        for kind, images in (("real", sets.held_out), ("synthetic", sets.synthetic)):
            chosen = np.arange(len(images)) if label is None else np.flatnonzero(images.labels == label)
            if not len(chosen):
                continue
            chosen = chosen[random_indices(len(chosen), GRID, seed)]
            what = f"{kind} images" + (f" of class {label}" if label else "")
            note = f"{len(chosen)} at random, black 0, white 1" + (
                f"; {images.take(chosen).subject_count} held-out subjects" if kind == "real" else ""
            )
            name = f"grid_{kind}" + (f"_{_file_name(label)}" if label else "")
            png = figures.grid(images.images[chosen], columns=min(9, len(chosen)))
            shown.append(Figure(name, what.capitalize(), f"Grid of {len(chosen)} {what}.", note + ".", png, width=520))
    text = "Real images on the left are of subjects that the generator never saw. No image was selected by hand."
    return Section("grids", "Real and synthetic images", [text], [Gallery(shown)])


def effect_section(effects: Sequence[Effect]) -> Section | None:
    """How the classes differ in the dark pixels of the brain, real and synthetic; None without two classes."""
    if not effects:
        return None
    columns = [Column("Classes", numeric=False)]
    for kind in ("Real", "Synthetic"):
        columns += [Column(f"{kind}, first"), Column(f"{kind}, second"), Column(f"{kind}, effect")]
    columns.append(Column("Ratio", help="synthetic over real effect: 1 is as in reality, below 0 reversed"))
    rows = []
    for effect in effects:
        cells = [Cell(" less ".join(effect.classes), effect.classes[0])]
        for found in (effect.real, effect.synthetic):
            cells += [*(Cell(f"{mean:.1%}", float(mean)) for mean in found.means), numeric(float(found.effect))]
        rows.append([*cells, numeric(effect.ratio)])
    caption = (
        f"Dark pixels within the skull (ventricles and other fluid in T1-weighted slices), in slices at positions "
        f"{POSITIONS[0]:g} to {POSITIONS[1]:g}, compared position by position. Effect: difference over the pooled "
        "standard deviation of slices. Real: training and held-out subjects together."
    )
    return Section("classes", "Do the classes differ as in reality?", [], [Table(caption, columns, rows)])


def _file_name(label: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in label)


def _maps(
    sets: Sets, result: UnpairedResult, latents: Callable[[ImageSet], np.ndarray | None] | None, seed: int
) -> Section | None:
    """Maps of the images' features, and of the latent space of the model."""
    chosen = {name: random_indices(len(result.indices[name]), MOST_POINTS, seed) for name in ("held_out", "synthetic")}
    some = {name: getattr(sets, name).take(result.indices[name][rows]) for name, rows in chosen.items()}
    spaces: dict[str, dict[str, np.ndarray]] = {}
    if (features := _features(result)) is not None:
        spaces["image features"] = {name: features[name][rows] for name, rows in chosen.items()}
    if latents is not None:
        vectors = {name: latents(images) for name, images in some.items()}
        spaces[f"latents {latents.name}"] = {name: found for name, found in vectors.items() if found is not None}
    shown: list[Figure] = []
    rows: list[list[Cell]] = []
    for space, parts in spaces.items():
        if sum(map(len, parts.values())) < LEAST_POINTS:
            continue
        images = {name: some[name] for name in parts}
        shown += _pictures(space, np.concatenate(list(parts.values())), images, seed)
        rows += _separations(space, np.concatenate(list(parts.values())), images)
    if not shown:
        return None
    columns = [
        Column("Do these differ?", numeric=False),
        Column("Silhouette", help="-1 to 1; 0: they lie over each other"),
        Column("k-NN accuracy", help="15 neighbours of other subjects, mean over the groups"),
        Column("Chance"),
        Column("Images"),
    ]
    caption = "Computed in all dimensions, not in the map. A k-NN accuracy at chance means: not separated."
    text = (
        "Maps reduce many dimensions to two: distances between clouds and their sizes mean little. Rely on the numbers "
        "below."
    )
    return Section("maps", "Maps of features", [text], [Gallery(shown), Table(caption, columns, rows)])


def _pictures(space: str, features: np.ndarray, some: dict[str, ImageSet], seed: int) -> list[Figure]:
    """t-SNE, and UMAP where it is installed."""
    is_fake = _is_synthetic(some)
    labels = np.concatenate([images.labels for images in some.values()])
    both = [Group("real, held out", ~is_fake, REAL, "o"), Group("synthetic", is_fake, SYNTHETIC, "x")]
    kinds = [group for group in both if group.members.any()]
    panels = {"Real and synthetic" if len(kinds) > 1 else "All": kinds}
    classes = sorted(set(labels.tolist()) - {""})[: len(CLASS_STYLES)]
    if len(classes) > 1:
        for kind in kinds:
            panels[f"Classes, {kind.name.partition(',')[0]}"] = [
                Group(name, kind.members & (labels == name), *CLASS_STYLES[i]) for i, name in enumerate(classes)
            ]
    found = []
    for method, embed in (("t-SNE", embedding.tsne), ("UMAP", embedding.umap)):
        if (points := embed(features, seed)) is not None:
            name = f"{method}_{space}".lower().replace("-", "").replace(" ", "_")
            alt = f"{method} map of the {space} of {(~is_fake).sum()} real and {is_fake.sum()} synthetic images."
            caption = f"{method} of {len(points)} images, seed {seed}."
            found.append(
                Figure(name, f"{method} of {space}", alt, caption, figures.scatter(points, panels), width=1072)
            )
    return found


def _is_synthetic(some: dict[str, ImageSet]) -> np.ndarray:
    """(N,) of all images in turn."""
    return np.concatenate([np.full(len(images), name == "synthetic") for name, images in some.items()])


def _separations(space: str, features: np.ndarray, some: dict[str, ImageSet]) -> list[list[Cell]]:
    """A row for real against synthetic, and one for the classes of each."""
    is_fake = _is_synthetic(some)
    subjects = np.concatenate([images.subjects for images in some.values()])
    labels = np.concatenate([images.labels for images in some.values()])
    kinds = np.where(is_fake, "synthetic", "real")
    present = np.unique(kinds).tolist()
    asked = [("real and synthetic", np.full(len(features), True), kinds)] if len(present) > 1 else []
    asked += [(f"classes of {kind} images", (kinds == kind) & (labels != ""), labels) for kind in present]
    rows = []
    for name, members, groups in asked:
        try:
            found = separation(features[members], groups[members], subjects[members])
            cells = [numeric(value) for value in found]
        except CannotMeasure as reason:
            cells = [Cell(DASH, detail=str(reason)), Cell(DASH), Cell(DASH)]
        rows.append([Cell(f"{space}: {name}", name), *cells, numeric(int(members.sum()))])
    return rows


def _features(result: UnpairedResult) -> dict[str, np.ndarray] | None:
    """The best available features."""
    return result.features.get("self") or result.features.get("pca")


def subject_section(rows: Sequence[dict[str, Any]], caption: str) -> Section | None:
    """A table that sorts, one row a subject; also in metrics.csv."""
    if not rows:
        return None
    names = list(rows[0])
    columns = [Column(name.replace("_", " "), numeric=not isinstance(rows[0][name], str)) for name in names]
    cells = [
        [Cell(row[name], row[name]) if isinstance(row[name], str) else numeric(row[name], 4) for name in names]
        for row in rows
    ]
    return Section("subjects", "Subject by subject", [], [Table(caption, columns, cells)])


def _spectra(sets: Sets) -> Section:
    images = {
        "real, training": sets.train.images,
        "real, held out": sets.held_out.images,
        "synthetic": sets.synthetic.images,
    }
    colours = (REAL, HELD_OUT, SYNTHETIC)
    text = (
        "Where the synthetic line (red-orange) leaves the two real ones, images are blurred (below, at the right) or "
        "noisy (above). The two real lines differ by chance."
    )
    pictures = [
        Figure("spectra", "Power spectra", "Mean power at each spatial frequency, real and synthetic.", text,
               figures.spectra(images, colours)),
        Figure("intensities", "Intensities", "Histograms of foreground intensities, real and synthetic.",
               "Pixels above 0.1 of full scale.", figures.intensities(images, colours)),
    ]  # fmt: skip
    return Section("texture", "Texture and brightness", [], [Gallery(pictures)])
