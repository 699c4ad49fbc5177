"""The anatomy of the phantom's trunk: from the iliac crests to the upper chest, arms raised, on the table of a scanner.

Layers are painted from the skin inwards, as in `anatomy`. Body coordinates: x to the right, y anterior, z superior, in
mm, origin in the middle of the first lumbar vertebra's section. Nothing here is learned from a person's scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsynth.data.phantom.anatomy import (
    Array,
    Figure,
    Indices,
    Tube,
    blend,
    body_coordinates,
    draw_grid,
    ellipsoid,
    mirror,
    smooth_field,
    tube,
)

GROUPS = ("slim", "stout")
TISSUES = (
    "air", "foam", "table", "skin", "fat", "muscle", "bone", "marrow", "disc", "csf", "cord", "lung", "vessel", "blood",
    "heart", "liver", "spleen", "kidney", "medulla", "bowel", "content", "gas",
)  # fmt: skip

FIELD_OF_VIEW_MM = (396.0, 300.0, 324.0)
FIELD_CENTRE_MM = (0.0, -14.0, 0.0)
SKIN_MM = 2.0
HEIGHTS_MM = (-170, -110, -40, 40, 110, 170)  # at which the half axes of the skin are given
HALF_WIDTHS_MM = (162, 156, 142, 148, 156, 150)
HALF_DEPTHS_MM = (106, 102, 98, 106, 108, 98)
VERTEBRA_MM, DISC_MM = 31.0, 7.0
RIB_MM, RIB_SLOPE = 27.0, 0.5  # from rib to rib; how much lower it is for each mm further in front
TABLE_MM = 5.0  # of its plates

SPINE: Tube = (((0, -40, -180), 22), ((0, -26, -80), 22), ((0, -32, 0), 20), ((0, -42, 90), 17), ((0, -40, 180), 15))
DESCENDING_AORTA: Tube = (((-24, -20, 112), 12), ((-16, -6, 0), 11), ((-8, 4, -100), 9))
AORTIC_ARCH: Tube = (((-4, 22, 62), 15), ((2, 22, 98), 14), ((-12, 0, 124), 13), ((-24, -20, 112), 12))
VENA_CAVA: Tube = (((20, 0, -150), 11), ((22, -2, 0), 12), ((18, 6, 55), 12))
TRACHEA: Tube = (((0, 0, 180), 9), ((0, -8, 100), 9), ((26, -10, 80), 6))
PSOAS: Tube = (((32, -32, 0), 8), ((42, -22, -90), 20), ((58, -4, -180), 22))


@dataclass(frozen=True)
class Person:
    """One made-up person; `fat_mm` is the thickness of the fat under the skin."""

    group: str
    age: int
    sex: str
    size: Array
    fat_mm: float


def build_body(seed: int | Sequence[int], group: str, spacing_mm: float) -> Figure:
    """The trunk of a made-up person; the same seed in the other group is the same person with other fat."""
    person, grid, pose, texture = np.random.default_rng(seed).spawn(4)
    affine, shape = draw_grid(grid, spacing_mm, FIELD_OF_VIEW_MM, FIELD_CENTRE_MM, tilt_degrees=1.5)
    body = Figure(draw_person(person, group), affine, shape, tissues=TISSUES, region="body")
    p = body_coordinates(pose, body)
    skin = outline(p)
    paint_table(body, p, skin)
    inside = np.flatnonzero(skin < spacing_mm)
    q, skin = p.reshape(3, -1)[:, inside], skin.ravel()[inside]
    fat_mm = body.subject.fat_mm * (1 + 0.4 * q[1] / 100)
    muscle = skin + fat_mm.astype(np.float32)
    back = np.float32(34) * np.clip(-q[1] / 85, 0, 1) * np.exp(-((q[0] / 70) ** 2))
    cavity = muscle + np.float32(13) + back
    body.paint("skin", skin, inside)
    body.paint("fat", skin + np.float32(SKIN_MM), inside)
    body.paint("muscle", muscle, inside)
    body.paint("fat", np.maximum(muscle + 6, np.abs(cavity - 9) - 0.8), inside)
    body.paint("fat", cavity, inside)
    paint_chest(body, texture, q, inside, cavity)
    paint_abdomen(body, texture, q, inside, cavity)
    paint_bones(body, q, inside, cavity)
    return body


def draw_person(rng: np.random.Generator, group: str) -> Person:
    """A person of this group."""
    age, sex = int(np.clip(rng.normal(58, 12), 25, 88)), str(rng.choice(["F", "M"]))
    size = rng.normal(1.0, 0.03) * rng.normal(1.0, 0.02, 3) * (1.02 if sex == "M" else 0.97)
    fat_mm = rng.normal(9, 1.5) + 12 * GROUPS.index(group)
    return Person(group, age, sex, np.clip(size, 0.9, 1.08).astype(np.float32), float(np.clip(fat_mm, 5, 27)))


def outline(p: Array) -> Array:
    """Signed distance to the skin, an ellipse in each section."""
    width, depth = (np.interp(p[2], HEIGHTS_MM, axes).astype(np.float32) for axes in (HALF_WIDTHS_MM, HALF_DEPTHS_MM))
    u, v = p[0] / width, p[1] / depth
    level = np.sqrt(u * u + v * v)
    return (level - 1) * (level + np.float32(1e-3)) / np.sqrt((u / width) ** 2 + (v / depth) ** 2 + np.float32(1e-9))


def paint_table(body: Figure, p: Array, skin: Array) -> None:
    """A mattress of foam on a curved plate, with a second plate below; the patient lies on the mattress."""
    top = np.float32(-118) + p[0] ** 2 * np.float32(1 / 1600)  # of the upper plate
    wide = np.abs(p[0]) - 195
    body.paint("foam", np.maximum(np.maximum(top - p[1], p[1] - top - 26), wide))
    body.paint("air", skin - 2)  # the mattress gives way
    for plate in (top, np.full_like(top, -142)):
        body.paint("table", np.maximum(np.abs(p[1] - plate + np.float32(TABLE_MM / 2)) - TABLE_MM / 2, wide))


def diaphragm(q: Array) -> Array:
    """Height of its two domes above each point, negative above them."""
    x, y = q[0], q[1]
    right = 46 - ((x - 72) / 9) ** 2 - ((y - 5) / 9.5) ** 2
    left = 36 - ((x + 72) / 9) ** 2 - ((y - 5) / 9.5) ** 2
    return np.maximum(np.maximum(right, left), -75) - q[2]


def paint_chest(body: Figure, rng: np.random.Generator, q: Array, where: Indices, cavity: Array) -> None:
    """Lungs with their vessels, heart, great vessels and trachea, in the fat of the mediastinum."""
    near = np.flatnonzero((cavity < 1) & (q[2] > -100))
    q, where, cavity = q[:, near], where[near], cavity[near]
    grain = smooth_field(rng, body.shape, body.spacing_mm, 5.0, reach_mm=210).ravel()[where]
    heart = ellipsoid(q, (-22, 22, 44), (50, 44, 48))
    middle = ellipsoid(q, (0, -10, 90), (32, 68, 240))
    lungs = np.maximum(np.maximum(cavity + 2, diaphragm(q) + 2), np.maximum(3 - heart, 3 - middle))
    body.paint("lung", lungs, where)
    body.paint("vessel", np.maximum(lungs + 3, 4 * (np.float32(1.9) - grain)), where)
    body.paint("heart", np.maximum(heart, diaphragm(q) - 2), where)
    for centre, radii in (((4, 32, 50), (17, 22, 28)), ((-38, 16, 40), (20, 18, 28)), ((-6, -2, 66), (26, 14, 14))):
        body.paint("blood", ellipsoid(q, centre, radii), where)
    body.paint("blood", blend(tube(q, AORTIC_ARCH), ellipsoid(q, (-24, 14, 92), (22, 12, 12)), 4), where)
    body.paint("muscle", np.maximum(tube(q, TRACHEA) - 2, diaphragm(q)), where)
    body.paint("gas", tube(q, TRACHEA), where)


def paint_abdomen(body: Figure, rng: np.random.Generator, q: Array, where: Indices, cavity: Array) -> None:
    """Liver, spleen, stomach, kidneys, bowel and muscles of the back, in fat; aorta and vena cava."""
    near = np.flatnonzero((cavity < 1) & (q[2] < 130))
    q, where, cavity = q[:, near], where[near], cavity[near]
    grain = smooth_field(rng, body.shape, body.spacing_mm, 13.0, reach_mm=210).ravel()[where]
    below = np.maximum(cavity + 4, 3 - diaphragm(q))
    side = mirror(q)
    belly = np.maximum(below + 5, np.maximum(ellipsoid(q, (0, 26, -85), (118, 58, 85)), 14 - side[1] - 0.2 * side[0]))
    body.paint("bowel", np.maximum(belly, -6 * (grain + np.float32(0.25))), where)
    body.paint("content", np.maximum(belly + 2, 6 * (np.float32(0.25) - grain)), where)
    body.paint("gas", np.maximum(belly + 4, 6 * (np.float32(1.25) - grain)), where)
    stomach = np.maximum(below, ellipsoid(q, (-58, 32, 2), (40, 36, 42)))
    body.paint("bowel", stomach, where)
    body.paint("content", stomach + 4, where)
    body.paint("gas", np.maximum(stomach + 4, 44 - q[1]), where)
    liver = blend(ellipsoid(q, (72, 2, 6), (72, 84, 66)), ellipsoid(q, (10, 40, 18), (60, 36, 30)), 10)
    body.paint("liver", np.maximum(below, liver), where)
    body.paint("blood", np.maximum(ellipsoid(q, (66, 4, 8), (60, 60, 46)), 7 * (np.float32(1.8) - grain)), where)
    body.paint("spleen", np.maximum(below, ellipsoid(q, (-98, -34, 6), (28, 42, 44))), where)
    body.paint("muscle", tube(side, PSOAS), where)
    kidney = ellipsoid(side + np.float32([[0], [0], [6]]) * (q[0] > 0), (62, -42, -52), (27, 23, 52))
    body.paint("kidney", kidney, where)
    body.paint("medulla", np.maximum(kidney + 7, 3 * np.sin(q[2] / 4)), where)
    body.paint("fat", ellipsoid(side, (52, -38, -55), (14, 11, 26)), where)
    body.paint("blood", tube(q, DESCENDING_AORTA), where)
    body.paint("blood", tube(q, VENA_CAVA), where)


def paint_bones(body: Figure, q: Array, where: Indices, cavity: Array) -> None:
    """Vertebrae with discs and canal, ribs, sternum and iliac wings: compact bone around marrow."""
    column = tube(q, SPINE)
    level = q[2] - np.float32(VERTEBRA_MM) * np.round(q[2] / np.float32(VERTEBRA_MM))  # from the middle of a disc
    behind = q[1] - np.interp(q[2], [z for (_, _, z), _ in SPINE], [y for (_, y, _), _ in SPINE]).astype(np.float32)
    canal = np.hypot(q[0], behind + 27) - 8
    arch = np.maximum(canal - 6, np.abs(level) - 13)
    spinous = np.maximum(np.maximum(np.abs(q[0]) - 4, np.abs(np.abs(level) - 8) - 6), np.abs(behind + 43) - 11)
    transverse = np.maximum(np.maximum(np.abs(q[0]) - 36, np.abs(np.abs(level) - 9) - 5), np.abs(behind + 27) - 5)
    body.paint("bone", np.minimum(np.minimum(column, arch), np.minimum(spinous, transverse)), where)
    body.paint("marrow", np.maximum(column + 2, np.float32(DISC_MM / 2 + 2) - np.abs(level)), where)
    body.paint("marrow", np.minimum(spinous, transverse) + 2, where)
    body.paint("disc", np.maximum(column, np.abs(level) - np.float32(DISC_MM / 2)), where)
    body.paint("csf", canal, where)
    body.paint("cord", canal + 4, where)

    drop = q[2] + np.float32(RIB_SLOPE) * q[1]
    along = drop - np.float32(RIB_MM) * np.round(drop / np.float32(RIB_MM))
    rib = np.hypot(cavity - 6, np.float32(0.9) * along) - 5
    rib = np.maximum(rib, np.maximum(0.75 * q[1] - 48 - q[2], 16 - np.abs(q[0])))
    wing = np.abs(ellipsoid(mirror(q), (58, -16, -196), (66, 74, 92))) - 5
    wing = np.maximum(np.maximum(wing, 28 - np.abs(q[0])), np.maximum(q[1] - 50, 2 - cavity - 14))
    plate = np.maximum(np.maximum(np.abs(cavity - 6) - 6, np.abs(q[0]) - 17), np.maximum(30 - q[2], 20 - q[1]))
    for bone in (rib, wing, plate):
        body.paint("bone", bone, where)
        body.paint("marrow", bone + np.float32(2.2), where)
