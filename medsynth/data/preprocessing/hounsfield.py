"""CT whose values are not Hounsfield units: mended where one cause fits, refused where none or several do."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medsynth.errors import MedsynthError

AIR_HU = -1000.0
NO_AIR_HU = -500.0  # CT that shows air has values below it, MRI has none
PADDING_HU = -1500.0  # what is below lies outside the scanner's circle: no tissue, and no noise, is so low
WRAPPED = 2**16  # between a negative value and what it becomes in 16 bits without sign
HIGHEST, LOWEST_WRAPPED = 12_000, 60_000  # metal is below, and wrapped padding above
TWELVE_BITS = (1000, 1024)  # that scanners and converters add, so that air is 0 or 24
LARGE = (8192, 32768)
TISSUE_HU = (-200.0, 350.0)  # the 25th and the 60th percentile of what is no gas lie in it
GAS_HU, LUNG_HU = -700.0, -970.0  # below are gas and lungs, and above it lungs and tissue
LEAST_TISSUE = 0.02  # of a scan
LEAST_AIR = 0.05  # of gas, that is no padding
MOST_OFF = 50.0  # of air from -1000 HU
APART = 8.0  # between how far air is off with either 12-bit offset, for one of them to be right
AIR_WIDTH = 7  # HU of the window in which the mode is searched
SAMPLES = 200_000


def mended(values: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Hounsfield units, and what was done to get them; None if nothing had to be.

    An offset of 1000, 1024, 8192 or 32,768 is subtracted, negative values that were stored without their sign get it
    back, and padding outside the scanner's circle becomes air. Metal above 3071 HU stays as it is.

    Args:
        values: of a CT volume, finite, of any shape.

    Raises:
        MedsynthError: they are no Hounsfield units and cannot be brought to them, in words that follow the file's name.
    """
    low, high = float(values.min()), float(values.max())
    if is_windowed(values):
        raise MedsynthError(
            f"holds values from {low:g} to {high:g}, as after a window, and CT needs Hounsfield units (air -1000, "
            "water 0): export it again in these, or take --modality mri, which needs no units"
        )
    note = None
    if high > LOWEST_WRAPPED:
        values, note = _signed(values), f"{WRAPPED:,} subtracted from negative values that had lost their sign"
    elif (offset := _offset(values.ravel()[:: 1 + values.size // SAMPLES])) and _is_solid(values > offset + GAS_HU):
        values, note = values - offset, f"{offset:,} subtracted, so that air has -1000 HU and water 0"
    if values.min() < PADDING_HU:
        values = np.where(values < PADDING_HU, values.dtype.type(AIR_HU), values)
    return values, note


def is_windowed(values: np.ndarray) -> bool:
    """Whether values have the range that a window leaves of CT: 0 to 255, or 0 or -1 to 1. MRI may have it, too."""
    low, high = float(values.min()), float(values.max())
    return low < high and ((low >= -1 and high <= 1) or (low >= 0 and 200 < high <= 255))


def is_offset_ct(values: np.ndarray) -> bool:
    """Whether finite values can be nothing but CT that has a large offset or has lost its sign."""
    wrapped = values > LOWEST_WRAPPED
    if wrapped.any():
        return bool(wrapped.mean() > LEAST_AIR and not ((values > HIGHEST) & ~wrapped).any())
    sample = values.ravel()[:: 1 + values.size // SAMPLES]
    return any(_fits(sample, offset) for offset in LARGE)


def _signed(values: np.ndarray) -> np.ndarray:
    if ((values > HIGHEST) & (values < LOWEST_WRAPPED)).any():
        raise MedsynthError(
            f"holds values up to {values.max():g}: negative Hounsfield units lost their sign, and were then mixed with "
            "others: export it again with signed values"
        )
    return np.where(values > LOWEST_WRAPPED, values - values.dtype.type(WRAPPED), values)


def _offset(values: np.ndarray) -> int:
    """What was added to the Hounsfield units of a sample; 0 if nothing."""
    values = values[values > PADDING_HU]
    if not values.size or np.mean(values < -200) > 1e-3:
        return 0
    for offset in LARGE:
        if _fits(values, offset):
            return offset
    if not _fits(values, sum(TWELVE_BITS) / 2):
        return 0
    air = _air(values[values < TWELVE_BITS[0] - 850])
    far = [abs(air - (offset + AIR_HU)) for offset in TWELVE_BITS]
    if not min(far) < MOST_OFF or abs(far[0] - far[1]) < APART:
        raise MedsynthError(
            f"holds CT with an offset of 1000 or 1024 (air has {air:g}, soft tissue about 1050), and which is not "
            "clear: subtract it, the negative of the rescale intercept, and save it again"
        )
    return TWELVE_BITS[int(np.argmin(far))]


def _is_solid(tissue: np.ndarray) -> bool:
    """Whether tissue fills what it encloses; the skull of a template whose background is 0 does not."""
    return np.count_nonzero(tissue) > ndimage.binary_fill_holes(tissue).sum() / 2


def _air(gas: np.ndarray) -> float:
    """Its mode; padding, which has the lowest value, left out where there is other gas. NaN if there is none."""
    if not gas.size:
        return np.nan
    other = gas[gas > gas.min()]
    counts = np.bincount(np.round((other if other.size > LEAST_AIR * gas.size else gas) - gas.min()).astype(int))
    return float(gas.min() + ndimage.uniform_filter1d(np.float64(counts), AIR_WIDTH, mode="constant").argmax())


def _fits(values: np.ndarray, offset: float) -> bool:
    """Whether what is no gas is soft tissue for the greater part, and more than the lungs.

    In a template whose background is 0, bone may look like soft tissue, and the brain like many more lungs.
    """
    tissue = values[values > offset + GAS_HU]
    lungs = np.count_nonzero((values > offset + LUNG_HU) & (values <= offset + GAS_HU))
    if tissue.size < max(LEAST_TISSUE * values.size, lungs):
        return False
    low, high = np.percentile(tissue, (25, 60)) - offset
    return bool(low > TISSUE_HU[0] and high < TISSUE_HU[1])
