"""The built-in phantom: a small BIDS-like data set of made-up heads or bodies, for tests and first runs.

Two groups of heads differ as health (NC) and Alzheimer's disease (AD) do: wider ventricles and sulci, a thinner cortex.
Those of bodies differ in the fat under the skin.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import NDArray
from tqdm import tqdm

from medsynth.data.datalist.datalist import PAIRS
from medsynth.data.phantom import anatomy, trunk
from medsynth.data.phantom.anatomy import Figure, build_head, smooth_field
from medsynth.data.phantom.trunk import build_body
from medsynth.errors import MedsynthError

RECIPE_VERSION = 2  # raise it whenever the same arguments come to give other bytes
MODALITIES = ("T1w", "T2w", "FLAIR", "CT")
SEGMENTATION = "dseg"  # in names of label maps
STORAGE_ORIENTATIONS = ("PSR", "LPS", "RAS", "LAS")
HELD_OUT_SHARE = 0.15  # of each group for validation, and as much for the test
SPACING_RANGE_MM = (0.5, 8.0)
CT_RANGE_HU = (-1000, 3000)

BRIGHTNESS = {  # T1w, T2w and FLAIR, where white matter in T1w is 1, and Hounsfield units in CT
    "air": (0.0, 0.0, 0.0, -1000.0),
    "skin": (0.50, 0.35, 0.40, 40.0),
    "fat": (1.10, 0.75, 0.70, -90.0),
    "muscle": (0.46, 0.24, 0.34, 55.0),
    "bone": (0.06, 0.05, 0.05, 1500.0),
    "marrow": (0.60, 0.42, 0.40, 550.0),
    "csf": (0.20, 1.15, 0.12, 8.0),
    "vitreous": (0.18, 1.20, 0.14, 10.0),
    "lens": (0.45, 0.20, 0.30, 70.0),
    "grey": (0.64, 0.62, 0.70, 39.0),
    "white": (1.00, 0.42, 0.52, 29.0),
    "basal": (0.72, 0.52, 0.64, 40.0),
    "pallidum": (0.86, 0.36, 0.50, 43.0),
    "thalamus": (0.80, 0.52, 0.62, 38.0),
    "cerebellum": (0.68, 0.60, 0.66, 39.0),
    "ventricle": (0.18, 1.20, 0.10, 6.0),
    "choroid": (0.50, 0.80, 0.55, 60.0),
    "lesion": (0.84, 0.75, 0.95, 23.0),
}

BODY_BRIGHTNESS = {  # the same of a trunk; FLAIR is not made of it
    "air": (0.0, 0.0, 0.0, -1000.0),
    "foam": (0.0, 0.0, 0.0, -940.0),
    "table": (0.0, 0.0, 0.0, 150.0),
    "skin": (0.50, 0.35, 0.40, 40.0),
    "fat": (1.10, 0.80, 0.70, -100.0),
    "muscle": (0.46, 0.22, 0.34, 55.0),
    "bone": (0.08, 0.06, 0.05, 1000.0),
    "marrow": (0.75, 0.50, 0.40, 340.0),
    "disc": (0.42, 0.62, 0.40, 90.0),
    "csf": (0.20, 1.15, 0.12, 8.0),
    "cord": (0.55, 0.40, 0.50, 35.0),
    "lung": (0.05, 0.07, 0.05, -840.0),
    "vessel": (0.18, 0.14, 0.12, 20.0),
    "blood": (0.26, 0.12, 0.20, 45.0),
    "heart": (0.48, 0.30, 0.36, 50.0),
    "liver": (0.64, 0.28, 0.40, 60.0),
    "spleen": (0.42, 0.56, 0.50, 50.0),
    "kidney": (0.54, 0.62, 0.50, 36.0),
    "medulla": (0.40, 0.82, 0.60, 30.0),
    "bowel": (0.50, 0.42, 0.40, 42.0),
    "content": (0.34, 0.72, 0.30, 22.0),
    "gas": (0.02, 0.02, 0.02, -980.0),
}

HEAD_CLASSES = {  # of label maps, and the tissues that they hold
    "fluid": ("csf",),
    "ventricles": ("ventricle", "choroid"),
    "cortex": ("grey",),
    "white_matter": ("white",),
    "deep_grey_matter": ("basal", "pallidum", "thalamus"),
    "cerebellum": ("cerebellum",),
    "lesions": ("lesion",),
}
BODY_CLASSES = {
    "bone": ("bone", "marrow"),
    "muscle": ("muscle",),
    "lungs": ("lung",),
    "heart": ("heart",),
    "liver": ("liver",),
    "spleen": ("spleen",),
    "kidneys": ("kidney", "medulla"),
}


@dataclass(frozen=True)
class Region:
    """What is particular to a part of the body.

    Args:
        build: seed, group and spacing in mm -> the figure.
        groups: names of the two.
        brightness: of each tissue in each of `MODALITIES`.
        classes: of the label maps, in the order of their codes from 1 on.
        modalities: that can be made.
        reach_mm: from the middle of the grid to its edges, at most.
        plural: its name.
    """

    build: Callable[[Any, str, float], Figure]
    groups: tuple[str, str]
    brightness: Mapping[str, Sequence[float]]
    classes: Mapping[str, Sequence[str]]
    modalities: tuple[str, ...]
    reach_mm: float
    plural: str


REGIONS = {
    "head": Region(build_head, anatomy.GROUPS, BRIGHTNESS, HEAD_CLASSES, MODALITIES, 120, "heads"),
    "body": Region(build_body, trunk.GROUPS, BODY_BRIGHTNESS, BODY_CLASSES, ("T1w", "T2w", "CT"), 210, "bodies"),
}


def mri(rng: np.random.Generator, figure: Figure, modality: str) -> NDArray[np.int16]:
    """A magnitude image: per-scan contrast, coil shading, Rician noise and an arbitrary scale."""
    column = MODALITIES.index(modality)
    region = REGIONS[figure.region]
    contrast = [region.brightness[tissue][column] * rng.normal(1, 0.03) for tissue in figure.tissues]
    signal = figure.flatten(contrast)
    signal *= 1 + np.float32(0.03) * smooth_field(rng, figure.shape, figure.spacing_mm, 7.0, region.reach_mm)
    shading = np.float32(rng.uniform(0.04, 0.12))
    signal *= np.exp(shading * smooth_field(rng, figure.shape, figure.spacing_mm, 80.0))
    noise = np.float32(rng.uniform(0.015, 0.03)) * rng.standard_normal((2, *figure.shape), dtype=np.float32)
    scale = np.float32(500 * rng.lognormal(0, 0.25))
    return np.rint(scale * np.hypot(signal + noise[0], noise[1])).astype(np.int16)


def ct(rng: np.random.Generator, figure: Figure) -> NDArray[np.int16]:
    """Hounsfield units with detector noise."""
    brightness, column = REGIONS[figure.region].brightness, MODALITIES.index("CT")
    hounsfield = figure.flatten([brightness[tissue][column] for tissue in figure.tissues])
    hounsfield += np.float32(rng.uniform(4, 8)) * rng.standard_normal(figure.shape, dtype=np.float32)
    return np.rint(np.clip(hounsfield, *CT_RANGE_HU)).astype(np.int16)


def draw_modality(figure: Figure, modality: str, seed: int | Sequence[int]) -> NDArray[np.int16]:
    """The figure as this modality shows it, on its grid; the noise depends on no other modality."""
    rng = np.random.default_rng(seed).spawn(len(MODALITIES))[MODALITIES.index(modality)]
    return ct(rng, figure) if modality == "CT" else mri(rng, figure, modality)


def label_map(figure: Figure) -> NDArray[np.uint8]:
    """The code of the class of each voxel, on the figure's grid; 0 where no class is."""
    codes = np.zeros(len(figure.tissues), np.uint8)
    for code, tissues in enumerate(REGIONS[figure.region].classes.values(), 1):
        codes[[figure.tissues.index(tissue) for tissue in tissues]] = code
    return codes[figure.labels()]


def write_dataset(
    folder: str | Path,
    subjects: int = 24,
    spacing_mm: float = 2.0,
    seed: int = 0,
    modalities: Sequence[str] = ("T1w",),
    region: str = "head",
) -> Path:
    """Write made-up heads or bodies as a BIDS-like tree, half of them of each group; reuse them if they exist.

    Each has a label map (`REGIONS[region].classes`), on the grid of the images.

    The tree appears in one step when it is complete, so a stopped run leaves nothing incomplete, and several
    processes may ask for the same one at once.

    Args:
        folder: the tree's root; it does not exist yet, is empty, or holds this very data set.
        subjects: how many, 2 or more.
        spacing_mm: edge of the cubic voxels.
        seed: the same seed gives the same bytes.
        modalities: of `MODALITIES` (of bodies, no FLAIR), on one grid for each subject; the datalist is of the first.
            If there are more, `pairs.json` beside it lists the first as sources and the second as targets.
        region: of `REGIONS`.

    Returns: the path of `datalist.json` in the folder.

    Raises:
        MedsynthError: the arguments make no data set, the folder holds something else, or it cannot be written.
    """
    folder = Path(folder).absolute()
    recipe = check_recipe(subjects, spacing_mm, seed, modalities, region)
    if not holds_dataset(folder, recipe):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as workplace:
                tree = Path(workplace) / folder.name
                write_tree(tree, recipe)
                rename_to(tree, folder, recipe)
        except OSError as error:
            reason = error.strerror or error
            raise MedsynthError(f"cannot write the phantom to {folder}: {reason}: choose another folder") from error
    return folder / "datalist.json"


def check_recipe(subjects: int, spacing_mm: float, seed: int, modalities: Sequence[str], region: str) -> dict:
    """The arguments as plain values that decide every byte of the data set."""
    if region not in REGIONS:
        raise MedsynthError(f"phantom region is {region!r}: choose one of {', '.join(REGIONS)}")
    known = REGIONS[region].modalities
    unknown = [name for name in modalities if name not in known]
    if unknown or not modalities or len(set(modalities)) < len(modalities):
        raise MedsynthError(f"phantom modalities {list(modalities)}: name one or more of {', '.join(known)} once")
    if subjects < 2 or seed < 0:
        raise MedsynthError(f"phantom of {subjects} subjects, seed {seed}: need 2 or more subjects and a seed from 0")
    low, high = SPACING_RANGE_MM
    if not low <= spacing_mm <= high:
        raise MedsynthError(f"phantom spacing of {spacing_mm} mm: need {low} to {high} mm")
    return {
        "version": RECIPE_VERSION,
        "subjects": int(subjects),
        "spacing_mm": float(spacing_mm),
        "seed": int(seed),
        "modalities": list(modalities),
    } | ({} if region == "head" else {"region": region})


def holds_dataset(folder: Path, recipe: dict) -> bool:
    """Whether the folder holds the data set of this recipe; anything else in it is refused, not overwritten."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = dict(json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"][0]["Recipe"])
    except (OSError, ValueError, LookupError, TypeError):
        raise MedsynthError(f"{folder} holds something other than a phantom: choose another folder") from None
    if found.get("version") != RECIPE_VERSION:
        raise MedsynthError(f"{folder} holds the phantom of another version of medsynth: remove this folder")
    if found != recipe:
        raise MedsynthError(f"{folder} holds another phantom, {found}, not {recipe}: choose another folder")
    return True


def rename_to(tree: Path, folder: Path, recipe: dict) -> None:
    """Give the finished tree its name, unless another process was first with the same data set."""
    try:
        tree.rename(folder)
    except OSError:
        if not holds_dataset(folder, recipe):
            raise


def write_tree(tree: Path, recipe: dict) -> None:
    """All files of a data set."""
    tree.mkdir()
    people, region = {}, REGIONS[recipe.get("region", "head")]
    for number in tqdm(range(recipe["subjects"]), desc="phantom", unit="subject"):
        seed, name = (recipe["seed"], number), f"sub-{number + 1:03d}"
        figure = region.build(seed, region.groups[number % 2], recipe["spacing_mm"])
        orientation = STORAGE_ORIENTATIONS[number // 2 % len(STORAGE_ORIENTATIONS)]
        for modality in recipe["modalities"]:
            save(tree / image_path(name, modality), draw_modality(figure, modality, seed), figure.affine, orientation)
        save(tree / image_path(name, SEGMENTATION), label_map(figure), figure.affine, orientation)
        people[name] = figure.subject
    rows = ["participant_id\tage\tsex\tgroup"]
    rows += [f"{name}\t{person.age}\t{person.sex}\t{person.group}" for name, person in people.items()]
    (tree / "participants.tsv").write_text("\n".join(rows) + "\n")
    names = {str(code): name for code, name in enumerate(("background", *region.classes))}
    lines = ["index\tname", *(f"{code}\t{name}" for code, name in names.items())]
    (tree / "dseg.tsv").write_text("\n".join(lines) + "\n")
    write_json(tree / "dataset_description.json", description(recipe))
    write_json(tree / "datalist.json", datalist(people, recipe["modalities"][:1], region.groups) | {"labels": names})
    if len(recipe["modalities"]) > 1:
        write_json(tree / PAIRS, datalist(people, recipe["modalities"][:2], region.groups))


def image_path(subject: str, modality: str) -> str:
    """Where an image or the label map lies in the tree."""
    return f"{subject}/{'ct' if modality == 'CT' else 'anat'}/{subject}_{modality}.nii.gz"


def save(path: Path, image: NDArray[np.integer], affine: NDArray[np.float64], orientation: str) -> None:
    """Write a nearly-RAS image with its axes stored in another order and direction; the bytes hold no time or name."""
    reorientation = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    nifti = nib.Nifti1Image(image, affine).as_reoriented(reorientation)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(nifti.affine, code="scanner")
    nifti.set_sform(nifti.affine, code="scanner")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0))


def description(recipe: dict) -> dict:
    """`dataset_description.json`, which also identifies a data set that can be reused."""
    return {
        "Name": f"medsynth phantom: made-up {REGIONS[recipe.get('region', 'head')].plural}, no person's data",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [{"Name": "medsynth", "Recipe": recipe}],
    }


def datalist(people: dict[str, Any], modalities: Sequence[str], groups: Sequence[str]) -> dict:
    """The Decathlon-style list of one modality with label maps, or of a source and a target, each group split alike."""
    keys = ("image",) if len(modalities) == 1 else ("source", "target")
    splits: dict[str, list[dict]] = {"training": [], "validation": [], "test": []}
    for group in groups:
        members = [name for name, person in people.items() if person.group == group]
        held_out = round(HELD_OUT_SHARE * len(members)) or int(len(members) > 2)
        cut = len(members) - 2 * held_out
        parts = {
            "training": members[:cut],
            "validation": members[cut : cut + held_out],
            "test": members[cut + held_out :],
        }
        for split, names in parts.items():
            for name in names:
                files = {key: image_path(name, modality) for key, modality in zip(keys, modalities, strict=True)}
                if len(modalities) == 1:
                    files["segmentation"] = image_path(name, SEGMENTATION)
                splits[split].append(files | {"subject": name, "label": group})
    return {"name": "phantom", "modalities": {str(i): name for i, name in enumerate(modalities)}, **splits}


def write_json(path: Path, content: dict) -> None:
    """JSON as people read it."""
    path.write_text(json.dumps(content, indent=2) + "\n")
