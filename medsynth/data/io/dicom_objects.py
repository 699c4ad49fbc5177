"""What a DICOM object is: a scan, an image that is listed only on request, or none; by its SOP class and modality."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import pydicom
from pydicom.uid import UID

STORAGE = "1.2.840.10008.5.1.4.1.1."  # what the UIDs of all storage classes begin with (DICOM PS3.4 B.5)
SCANS = ("2", "4")  # CT and MR, single, enhanced or converted: the number after that
ON_REQUEST = ("1", "3", "5", "6", "12", "13", "14", "20", "30", "128", "130")
"""Radiography, ultrasound, angiography, tomosynthesis, optical and nuclear images, parametric maps, PET."""
SPECTROSCOPY = "4.2"
MODALITIES = ("CT", "MR")
NO_SCANS = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTIMAGE", "SR", "PR", "KO", "DOC", "REG", "FID", "HC")
"""Modalities (PS3.3 C.7.3.1.1.1) of objects that describe images."""
TILES = (0x0019_0010, 0x0019_100A)  # Siemens' number of images in a mosaic, after the name of its private block
SCOUT = re.compile(r"locali[sz]er|scout|survey|topogram|scanogram", re.IGNORECASE)
MAPS = frozenset(
    "ADC EADC FA COLFA MD MIP MINIP MNIP PROJECTION MAP P PHASE RCBF RCBV CBF CBV RELCBF RELCBV MTT TTP TMAX".split()  # noqa: SIM905
)
"""Words of image types (PS3.3 C.7.6.1.1.2) of what was computed from scans."""


def no_scan(facts: pydicom.Dataset) -> str | None:
    """Why an object cannot be used, in words that follow the file's name; None if it is an image."""
    number, modality = _number(facts), _modality(facts)
    is_image = number is None or (number.split(".")[0] in SCANS + ON_REQUEST and number != SPECTROSCOPY)
    if is_image and modality not in NO_SCANS:
        return None
    return f"is a DICOM object that is no scan ({_named(facts)}): give the CT or MR images that it belongs to"


def to_ask_for(facts: pydicom.Dataset) -> str | None:
    """The modality of images that are listed only on request; None for CT and MR."""
    number, modality = _number(facts), _modality(facts)
    is_scan = number is None or number.split(".")[0] in SCANS
    return None if is_scan and modality in (*MODALITIES, "") else modality or "OT"


def not_listed(facts: pydicom.Dataset, modalities: Collection[str] | None) -> str | None:
    """Why images are left out of a list, in words that follow the file's name; None if they are not.

    Args:
        modalities: that the user asks for; None: CT and MR.
    """
    asked = to_ask_for(facts)
    if modalities is None:
        return asked and f"is no CT or MR scan ({_named(facts)}): it is listed only on request, --modality {asked}"
    own = asked or _modality(facts)
    wanted = [modality.upper() for modality in modalities]
    return None if own in wanted else f"has the modality {own or 'unknown'}, and --modality is {' '.join(wanted)}"


def is_scout(facts: pydicom.Dataset) -> bool:
    """Whether it is a localizer."""
    described = [*_types(facts), facts.get("SeriesDescription"), facts.get("ProtocolName")]
    return any(SCOUT.search(str(text)) for text in described)


def is_mosaic(facts: pydicom.Dataset) -> bool:
    """Whether slices are tiles of one picture, as Siemens stores them; enhanced files may keep the word alone."""
    is_enhanced = "PerFrameFunctionalGroupsSequence" in facts or int(facts.get("NumberOfFrames") or 1) > 1
    count = facts[TILES[1]].value if TILES[1] in facts else 0
    says_so = any("MOSAIC" in text.upper() for text in _types(facts)) or (str(count).isdecimal() and int(count) > 1)
    return not is_enhanced and says_so


def derived(facts: pydicom.Dataset) -> str | None:
    """What was computed from scans, such as ADC; None if nothing says so."""
    types = list(_types(facts))
    texts = types[2:] + ([str(facts.get("SeriesDescription"))] if types[:1] == ["DERIVED"] else [])
    words = (word for text in texts for word in re.findall(r"[A-Za-z0-9]+", text.upper()))
    return next((word for word in words if word in MAPS), None)


def _types(facts: pydicom.Dataset) -> Iterator[str]:
    """Values of the image type, then of the frame types of an enhanced file."""
    frames = [
        group[name][0]
        for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for group in (facts.get(sequence) or [])[:1]
        for name in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")
        if group.get(name)
    ]
    for values in (facts.get("ImageType"), *(frame.get("FrameType") for frame in frames)):
        yield from [values] if isinstance(values, str) else map(str, values or ())


def _number(facts: pydicom.Dataset) -> str | None:
    """Of the standard storage class, such as 66.4; None if it is another one or unknown."""
    found = _class(facts)
    return found.removeprefix(STORAGE) if found.startswith(STORAGE) else None


def _class(facts: pydicom.Dataset) -> UID:
    meta = getattr(facts, "file_meta", None) or pydicom.Dataset()
    return UID(str(facts.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))


def _modality(facts: pydicom.Dataset) -> str:
    return str(facts.get("Modality") or "").strip().upper()


def _named(facts: pydicom.Dataset) -> str:
    """Class and modality."""
    named = [_class(facts).name if _number(facts) else "", _modality(facts) and f"modality {_modality(facts)}"]
    return ", ".join(filter(None, named)) or "of an unknown kind"
