"""Bias field correction of magnetic resonance images."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils.enums import CommonKeys as Keys

from medsynth.data.io import itk

ESTIMATION_MM = 8.0  # grid on which the field, which is smooth, is estimated
ITERATIONS = (50, 50, 50, 50)  # at most, on control points that get denser


class CorrectBias(Transform):
    """Divide a volume (1, X, Y, Z) by its bias field, found by N4; the mean of its logarithm over the head is set to 0.

    Reference: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29(6), 2010.
    """

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        volume = data[Keys.IMAGE]
        image = itk.image_of(np.maximum(volume[0].numpy(), 0), volume.affine.numpy())
        sides = zip(image.GetSpacing(), image.GetSize(), strict=True)
        steps = [max(1, min(round(ESTIMATION_MM / mm), size // 8)) for mm, size in sides]
        small = sitk.BinShrink(image, steps)
        correction = sitk.N4BiasFieldCorrectionImageFilter()
        correction.SetNumberOfWorkUnits(1)  # the order of sums must not depend on the machine
        correction.SetMaximumNumberOfIterations(ITERATIONS)
        head = sitk.OtsuThreshold(small, 0, 1)
        correction.Execute(small, head)
        field = correction.GetLogBiasFieldAsImage(image)
        inside = sitk.GetArrayViewFromImage(sitk.Resample(head, image, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
        log_field = sitk.GetArrayFromImage(field)
        log_field -= log_field[inside].mean()
        corrected = torch.from_numpy(np.exp(-log_field).T) * volume.as_tensor()[0]
        return data | {
            Keys.IMAGE: MetaTensor(corrected[None], meta=volume.meta, applied_operations=volume.applied_operations)
        }
