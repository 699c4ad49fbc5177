"""The measures of unpaired sets by name: unit, what is better, and what each is in words."""

from __future__ import annotations

import math
from typing import NamedTuple

from medsynth.evaluation.metrics.result import Direction


class Entry(NamedTuple):
    """What is the same for every value of a measure.

    Attributes:
        about: one line for readers of a report.
        limits: that no value can pass.
    """

    direction: Direction
    unit: str
    about: str
    target: float | None = None
    limits: tuple[float, float] = (0.0, math.inf)


OF_CLASSES = ("dice_", "hd95_", "area_ratio")  # how measures begin that the classes of label maps have too
SHARE = (0.0, 1.0)
ANY = (-math.inf, math.inf)

CATALOG = {
    "fd_self": Entry("lower", "%", "Fréchet distance in features of a network trained on the real training images"),
    "kid_self": Entry("lower", "x1e3", "kernel distance (unbiased MMD) in the same features", limits=ANY),
    "fd_pca": Entry("lower", "%", "Fréchet distance in 64 principal components: large-scale anatomy and diversity"),
    "fd_radiomics": Entry("lower", "%", "Fréchet distance of 22 radiomics values: grey values and texture"),
    "fd_inception": Entry("lower", "", "Fréchet distance in features of the Inception network that was given"),
    "swd": Entry("lower", "x1e3", "sliced Wasserstein distance of patches, mean of all scales"),
    "psd": Entry("lower", "dB", "difference of the mean power spectra"),
    "psd_top_third": Entry("near", "dB", "the same, finest third, with its sign: below 0 is too smooth", 0.0, ANY),
    "ms_ssim_pairs": Entry(
        "near", "", "likeness of random pairs: above the real images', too little diversity", None, SHARE
    ),
    "intensity_w1": Entry("lower", "x1e3", "Wasserstein distance of foreground intensities"),
    "gradient_ratio": Entry("near", "", "sharpness: mean gradient, synthetic over real", 1.0),
    "step_ratio": Entry(
        "near", "", "change from each slice to the next, synthetic over real: below 1 smears, above 1 flickers", 1.0
    ),
    "variance_ratio": Entry("near", "", "variance of volumes, synthetic over real: below 1 is too alike", 1.0),
    "label_volume": Entry("near", "", "mean volume of a class in label maps, synthetic over real", 1.0),
    "precision": Entry("higher", "", "share of synthetic images that lie among real ones", None, SHARE),
    "recall": Entry("higher", "", "share of real images that lie among synthetic ones", None, SHARE),
    "coverage": Entry("higher", "", "share of real images with a synthetic one near them", None, SHARE),
    "c2st_auc": Entry("near", "", "how well a classifier tells real from synthetic (area under ROC curve)", 0.5, SHARE),
    "c2st_f1": Entry("near", "", "the same classifier's F1 of 'synthetic'", 0.5, SHARE),
    "closer_to_train": Entry("near", "", "share nearer to a training image than to a held-out one", 0.5, SHARE),
    "authenticity": Entry(
        "near", "", "share farther from training images than those are from other subjects'", 0.5, SHARE
    ),
    "membership_auc": Entry("near", "", "how well an attacker tells who was in the training set", 0.5, SHARE),
    "copies_control": Entry(
        "higher", "", "share of training volumes that are found to be copies after being turned and bent", None, SHARE
    ),
    "copies": Entry("lower", "", "share of synthetic images that are nearly a training image", None, SHARE),
    "duplicates": Entry("lower", "", "share of synthetic images with a near copy among the others", None, SHARE),
    "silhouette_classes": Entry("near", "", "how far the classes lie apart in the feature space", None, (-1.0, 1.0)),
    "knn_classes": Entry(
        "near", "", "share whose class its nearest neighbours tell, classes counted equally", None, SHARE
    ),
    "class_effect": Entry(
        "near", "", "difference of the classes in dark pixels of the brain (ventricles), over the real one", 1.0, ANY
    ),
    "utility_tstr": Entry("higher", "", "train on synthetic, test on real images", None, ANY),
    "utility_augmented": Entry("higher", "", "train on real plus synthetic, test on real images", None, ANY),
    "dice_tstr": Entry(
        "higher", "", "Dice in real patients of a segmenter that learned from synthetic images alone", None, SHARE
    ),
    "dice_augmented": Entry("higher", "", "the same, learned from real and synthetic images", None, SHARE),
    "dice_shown": Entry(
        "higher", "", "Dice of a segmenter that learned from real images, in synthetic ones", None, SHARE
    ),
    "hd95_tstr": Entry("lower", "mm", "95 % Hausdorff distance where dice_tstr is measured"),
    "hd95_augmented": Entry("lower", "mm", "95 % Hausdorff distance where dice_augmented is measured"),
    "hd95_shown": Entry("lower", "mm", "95 % Hausdorff distance where dice_shown is measured"),
    "area_ratio": Entry(
        "near", "", "area that this segmenter finds in synthetic images over that in real held-out ones", 1.0
    ),
}
"""`swd_<pixels>` are parts of `swd`. Of volumes, `fd_pca/axial` is of axial slices, `fd_pca/volume` of whole ones."""


def entry(name: str) -> Entry:
    """The entry of a measure, or of what it is a part of."""
    base = base_name(name)
    return CATALOG.get(base) or CATALOG[base.rpartition("_")[0]]


def is_of_class(name: str) -> bool:
    """Whether it is a measure of one class of label maps, such as `dice_tstr/cortex`."""
    return "/" in name and name.startswith(OF_CLASSES)


def base_name(name: str) -> str:
    """Of a measure, without the plane of the slices, or the class, that it was taken from."""
    return name.partition("/")[0]


NO_DIAGNOSIS = "; says nothing about diagnosis"
PAIRED = {
    "mae": Entry("lower", "units", "mean absolute error"),
    "mae_air": Entry("lower", "units", "mean absolute error where the target is below -200 HU"),
    "mae_soft": Entry("lower", "units", "mean absolute error where the target is from -200 to 300 HU"),
    "mae_bone": Entry("lower", "units", "mean absolute error where the target is above 300 HU"),
    "rmse": Entry("lower", "units", "root mean square error"),
    "nrmse": Entry("lower", "", "the same over the range of the target in the mask"),
    "psnr": Entry("higher", "dB", "peak signal-to-noise ratio over the data range", limits=ANY),
    "ssim": Entry("higher", "", "structural similarity, scikit-image's map averaged in the mask", limits=(-1.0, 1.0)),
    "ms_ssim": Entry("higher", "", "structural similarity over five scales", limits=SHARE),
    "synthrad2023_mae": Entry("lower", "HU", "SynthRAD2023 mean absolute error"),
    "synthrad2023_psnr": Entry("higher", "dB", "SynthRAD2023 PSNR, range -1024 to 3000 HU", limits=ANY),
    "synthrad2023_ssim": Entry("higher", "", "SynthRAD2023 SSIM", limits=(-1.0, 1.0)),
    "synthrad2025_mae": Entry("lower", "HU", "SynthRAD2025 mean absolute error"),
    "synthrad2025_psnr": Entry("higher", "dB", "SynthRAD2025 PSNR, range -1024 to 3071 HU", limits=ANY),
    "synthrad2025_ms_ssim": Entry("higher", "", "SynthRAD2025 MS-SSIM", limits=SHARE),
    "bone_dice": Entry("higher", "", "overlap (Dice) of what is above 250 HU", limits=SHARE),
    "bias": Entry("near", "units", "mean difference, prediction less target", 0.0, ANY),
    "agreement_low": Entry("near", "units", "Bland-Altman, lower limit of agreement of voxels", 0.0, ANY),
    "agreement_high": Entry("near", "units", "Bland-Altman, upper limit of agreement of voxels", 0.0, ANY),
    "slice_step_ratio": Entry("near", "", "change from slice to slice over the target's: above 1 is flicker", 1.0),
    "slice_flicker": Entry("lower", "units", "deviation over slices of the slice's mean error"),
    "binary_bce": Entry("lower", "", f"binary cross-entropy of grey values taken for probabilities{NO_DIAGNOSIS}"),
    "binary_auc": Entry(
        "higher", "", f"ROC AUC of grey values for 'upper half of the range'{NO_DIAGNOSIS}", limits=SHARE
    ),
    "binary_f1": Entry(
        "higher", "", f"F1 of 'in the upper half of the range', prediction against target{NO_DIAGNOSIS}", limits=SHARE
    ),
    "discriminator_auc": Entry(
        "near",
        "",
        f"how well the model's own discriminator tells real slices from predicted ones{NO_DIAGNOSIS}",
        0.5,
        SHARE,
    ),
}
"""Measures of pairs; "units" are the image's own."""
