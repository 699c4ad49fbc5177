"""Make the figure of edits by label maps, of a head of the FLAIR phantom that the model has not seen.

python docs/images/make_edits.py runs/flair/model.pt data/flair docs/images/edits.png
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

WIDER, RADIUS_MM = 2, 7.0  # voxels all round; of the lesion
CROP = (slice(14, 86), slice(8, 104))  # voxels, to the right and to the front, that the figure shows
ZOOM, GAP = 3, 4  # pixels a voxel and between pictures
COLOURS = np.array(  # by code
    [
        (0, 0, 0),
        (60, 90, 160),
        (90, 200, 250),
        (200, 120, 90),
        (235, 225, 205),
        (170, 90, 160),
        (120, 170, 90),
        (250, 220, 40),
    ],
    np.uint8,
)


def ventricles(codes: np.ndarray, of: dict[str, int], spacing: np.ndarray) -> np.ndarray:
    """The ventricles wider; what lies around them recedes."""
    grown = ndimage.binary_dilation(codes == of["ventricles"], iterations=WIDER)
    return np.where(grown & (codes > 0), of["ventricles"], codes)


def lesion(codes: np.ndarray, of: dict[str, int], spacing: np.ndarray) -> np.ndarray:
    """A ball of lesion where white matter of the left hemisphere is thickest."""
    depth = ndimage.distance_transform_edt(codes == of["white_matter"], spacing)
    depth[codes.shape[0] // 2 :] = 0
    centre = np.array(np.unravel_index(depth.argmax(), codes.shape))
    away = np.linalg.norm((np.indices(codes.shape).T - centre) * spacing, axis=-1).T
    return np.where((away < RADIUS_MM) & (codes == of["white_matter"]), of["lesions"], codes)


def canonical(path: Path) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.load(path))


def grey(values: np.ndarray, most: float) -> np.ndarray:
    return np.repeat((255 * np.clip(values / most, 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def edited(model: str, scan: Path, new_map: nib.Nifti1Image, workplace: Path) -> np.ndarray:
    """The scan as it is with another label map."""
    nib.save(new_map, workplace / "new_dseg.nii.gz")
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", "bundles/vaegan/inference.json", "--checkpoint", model, "--mode", "edit"]
    command += ["--input", scan, "--segmentations", workplace / "new_dseg.nii.gz", "--output_dir", workplace / "out"]
    subprocess.run([str(word) for word in command], check=True)
    return canonical(next((workplace / "out" / "images").glob("*.nii.gz"))).get_fdata()


def main(model: str, data: str, output: str) -> None:
    content = json.loads(Path(data, "datalist.json").read_text())
    entry = content["test"][0]
    of = {name: int(code) for code, name in content["labels"].items()}
    scan, own = Path(data, entry["image"]), canonical(Path(data, entry["segmentation"]))
    before, codes = canonical(scan).get_fdata(), np.asarray(own.dataobj).astype(np.uint8)
    most, rows = np.percentile(before, 99.5), []
    for change in (ventricles, lesion):
        new = change(codes, of, np.array(own.header.get_zooms())).astype(np.uint8)
        level = (new != codes).sum(axis=(0, 1)).argmax()
        with tempfile.TemporaryDirectory() as workplace:
            after = edited(model, scan, nib.Nifti1Image(new, own.affine), Path(workplace))
        pictures = (grey(before, most), COLOURS[codes], COLOURS[new], grey(after, most))
        rows.append([picture[:, :, level][CROP] for picture in pictures])
    tiles = [[np.rot90(tile).repeat(ZOOM, 0).repeat(ZOOM, 1) for tile in row] for row in rows]
    height, width = tiles[0][0].shape[:2]
    figure = np.full((2 * (height + GAP) - GAP, 4 * (width + GAP) - GAP, 3), 255, np.uint8)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            top, left = y * (height + GAP), x * (width + GAP)
            figure[top : top + height, left : left + width] = tile
    Image.fromarray(figure).save(output, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
