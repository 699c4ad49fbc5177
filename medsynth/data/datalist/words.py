"""Words in the names of files and folders: contrasts, label maps, and what varies between the files of one patient."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

MRI = (
    "T1w|T2w|PDw|T1|T2|PD|T1n|T1c|T1ce|T1gd|T1post|T1pre|T1km|T2f|T2FLAIR|FLAIR|MPRAGE|MP2RAGE|UNIT1|FSPGR|SPGR|"
    "T1map|T2map|T2star|T2starw|T2starmap|STIR|TIRM|SWI|QSM|MRA|TOF|DWI|ADC|DTI|ASL|PWI|bold|inplaneT[12]|MR|MRI"
)
CT = "CT|CTA|NCCT|CECT|LDCT|CBCT"
PET = "PET|FDG"
CONTRASTS = f"{MRI}|{CT}|{PET}"
CONTRAST = re.compile(rf"[_-]({CONTRASTS}|PT)$", re.IGNORECASE)  # PT begins the names of patients, too
FIRST_CONTRAST = re.compile(rf"^({CONTRASTS})([_-]|(?=\d))", re.IGNORECASE)
MODALITIES = {"MRI": MRI, "CT": CT, "PET": f"{PET}|PT"}
OF_CONTRAST = re.compile(r"(?<![^\W_])(?:echo|inv|part|flip|mt|ce)-[^\W_]+")
"""Entities of BIDS that distinguish contrasts."""

LABEL_MAP = re.compile(
    r"(?<![A-Za-z0-9])([a-z0-9]*seg|segs|segmentations?|[a-z0-9]*masks?|labels?(?:tr|ts|va)?|labelmaps?|gt|ground_?truth|rois?|"
    r"pve|prob(?:map|ability|abilities)?s?)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
"""What only label maps, masks and probability maps are called; an image that was masked is `masked`."""
SEGMENTATION = re.compile(
    r"(?<![A-Za-z0-9])(d?seg|segs|segmentations?|masks?|labels?(?:tr|ts|va)?|labelmaps?|gt|ground_?truth)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
MASK = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:desc-)?(?:brain|head|body|patient|foreground)[_-]?)?masks?(?![A-Za-z0-9])", re.IGNORECASE
)
"""What masks of the brain, the head or the body are called."""
IMAGE_WORD = re.compile(
    r"(?<![A-Za-z0-9])(images?(?:tr|ts|va)?|imgs?|img|case|scans?|slices?)(?![A-Za-z0-9])", re.IGNORECASE
)

SEPARATORS = r"[ _.+-]+"
CHANNEL = re.compile(r"[_-](0\d{3})$")  # of nnU-Net: what a name ends with
DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d(?P<a>[-_.]?)(?:0[1-9]|1[0-2])(?P=a)(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|[12]\d|3[01])(?P<b>[-_.])(?:0[1-9]|1[0-2])(?P=b)(?:19|20)\d\d)"
    r"(?:[-_. T]?(?:[01]\d|2[0-3])(?P<c>[-_.:]?)[0-5]\d(?P=c)[0-5]\d(?:\.\d+)?)?(?!\d)"
)
ENTITY = re.compile(
    r"(?<![^\W_])(?:ses|run|task|acq|ce|rec|dir|echo|inv|part|flip|mt|chunk|space|res|den|desc|label|mod|proc|hemi|split|atlas|"
    r"recording|tracer)-[^\W_]+",
    re.IGNORECASE,
)
"""What BIDS writes in the name of a file besides the subject."""
COUNTED = re.compile(
    r"(?:ses|sess|session|visit|timepoint|time|tp|run|echo|part|acq|rep|repeat|series|month|week|year|day|followup|fu|follow|up|"
    r"baseline|bl|channel|ch|inv|te|mo|mth|wk|yr)\d*",
    re.IGNORECASE,
)
TIME = re.compile(
    rf"{COUNTED.pattern}|\d+(?:st|nd|rd|th)|\d+(?:mo|m|months?|wk|w|weeks?|yr|y|years?|d|days?)|initial|screening|pre|post|"
    r"preop|postop|pretreatment|posttreatment|before|after|early|late|first|second|third|last",
    re.IGNORECASE,
)
"""Words for time points, sessions, runs, echoes and parts."""
PROCESSING = re.compile(
    r"brain|bet|stripped|skullstripped|masked|defaced|n3|n4|bias|biascorr|corrected|reg|registered|coreg|warped|resampled|"
    r"norm|normali[sz]ed|preproc|processed|raw|orig|original",
    re.IGNORECASE,
)
"""Words for steps of processing."""
VARYING = re.compile(
    rf"{TIME.pattern}|{PROCESSING.pattern}|[a-z]*mask|masks|[a-z]*seg|mag|magnitude|phase|real|imag|imaginary|inphase|"
    r"outphase|opposed|water|fat|gd|gad|ce|contrast|native|arterial|venous|portal|delayed|ax|axial|tra|cor|coronal|sag|"
    r"sagittal|2d|3d|left|right|lh|rh",
    re.IGNORECASE,
)
"""All that varies between the files of one patient, but for contrasts."""
SHORT = re.compile(r"[mtvwdye]\d{1,4}", re.IGNORECASE)
"""Short for a time point or a session (m12, v2), or for a patient: the former behind a word with figures."""


def stem(path: str | Path) -> str:
    """A file's name without its ending, `.nii.gz` and all."""
    return re.sub(r"(\.nii)?\.[^.]+$", "", Path(path).name)


def without_contrast(name: str) -> str:
    """A name without the contrast that begins or ends it."""
    return FIRST_CONTRAST.sub("", CONTRAST.sub("", name)) or name


def bare(name: str) -> str:
    """A name without what varies between the files of one patient; empty if nothing else is in it."""
    parts = re.split(f"({SEPARATORS})", DATE.sub("", ENTITY.sub("", FIRST_CONTRAST.sub("", CONTRAST.sub("", name)))))
    kept: list[str] = []
    counted = False
    for gap, word in zip(["", *parts[1::2]], parts[::2], strict=True):
        varies = bool(
            re.fullmatch(CONTRASTS, word, re.IGNORECASE)
            or VARYING.fullmatch(word)
            or (re.search(r"\d", "".join(kept)) and (counted if word.isdecimal() else SHORT.fullmatch(word)))
        )
        counted = varies and bool(COUNTED.fullmatch(word))
        if word and not varies:
            kept.append(gap + word)
    return "".join(kept).strip(" _.+-")


def is_time(name: str) -> bool:
    """Whether a folder's name is a date, a time point, a session or a run, and nothing else."""
    rest = DATE.sub("", name)
    words = [word for word in re.split(SEPARATORS, rest) if word]
    return all(word.isdecimal() or TIME.fullmatch(word) for word in words) and (
        rest != name or any(map(TIME.fullmatch, words))
    )


def contrast_in(path: Path) -> str:
    """The contrast that a file's name says, else the innermost of its folders that names one; else empty."""
    for name in (stem(path), *reversed(path.parts[:-1])):
        words = [word for word in re.split(SEPARATORS, name) if re.fullmatch(CONTRASTS, word, re.IGNORECASE)]
        single = CONTRAST.search(name) or FIRST_CONTRAST.match(name)
        if found := words[-1] if words else single and single[1]:
            return "_".join((*OF_CONTRAST.findall(name), found))
    return ""


def modality_of(contrast: str) -> str | None:
    """`MRI`, `CT` or `PET`; None for a contrast of none of these."""
    word = contrast.rsplit("_", 1)[-1]
    return next((name for name, words in MODALITIES.items() if re.fullmatch(words, word, re.IGNORECASE)), None)


def fits(path: Path, pattern: str) -> bool:
    """Whether a file's name, or its path from the folder of all on if the pattern has a slash, fits a pattern."""
    return fnmatch.fnmatchcase(f"/{path.as_posix()}" if "/" in pattern else path.name, pattern)
