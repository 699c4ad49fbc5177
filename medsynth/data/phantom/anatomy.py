"""The anatomy of the built-in phantom: a made-up head as a stack of tissue layers on a voxel grid.

Layers are painted from the skin inwards. A layer is a tissue and its share of each voxel, which comes from a signed
distance (mm, negative inside) in head coordinates: x to the right, y anterior, z superior, origin at the anterior
commissure. Positions follow the usual landmarks of stereotactic atlases; each subject deforms them, and atrophy widens
ventricles and sulci and thins the cortex. Nothing here is learned from a person's scan.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Array = NDArray[np.float32]
Indices = NDArray[np.intp]  # into the raveled grid
Tube = Sequence[tuple[Sequence[float], float]]

GROUPS = ("NC", "AD")
TISSUES = (
    "air", "skin", "fat", "muscle", "bone", "marrow", "csf", "vitreous", "lens", "grey", "white", "basal", "pallidum",
    "thalamus", "cerebellum", "ventricle", "choroid", "lesion",
)  # fmt: skip
LABELS = {tissue: number for number, tissue in enumerate(TISSUES)}

FIELD_OF_VIEW_MM = (196.0, 232.0, 196.0)
FIELD_CENTRE_MM = (0.0, -12.0, 4.0)
SKIN_MM = 1.8
FAR_MM = 30.0
TABLE_MM = 1.9  # each of the two plates of compact bone around the marrow

# One side (x > 0) of what comes in pairs, as chains of (point, radius) in mm.
FRONTAL_HORN_AND_BODY: Tube = (
    ((7, 33, 0), 2.4), ((8, 24, 8), 5.4), ((9, 7, 16), 6.0), ((12, -18, 20), 5.6), ((21, -38, 15), 6.8),
)  # fmt: skip
OCCIPITAL_HORN: Tube = (((22, -38, 14), 6.6), ((26, -54, 9), 5.2), ((24, -76, 4), 1.8))
TEMPORAL_HORN: Tube = (((23, -40, 11), 5.5), ((34, -32, -6), 2.6), ((31, -10, -18), 1.8))
CHOROID: Tube = (((20, -36, 17), 1.8), ((24, -42, 10), 2.4))
CAUDATE: Tube = (((13, 20, 2), 5.0), ((14.5, 12, 8), 6.2), ((17, 0, 16), 4.0), ((20, -20, 21), 2.2))
PETROUS: Tube = (((64, -32, -42), 11.0), ((44, -26, -40), 9.0), ((16, -12, -40), 4.0))
CLIVUS: Tube = (((0, 6, -32), 6.0), ((0, -13, -58), 4.0))
BRAINSTEM: Tube = (((0, -16, -8), 14.0), ((0, -24, -20), 12.0), ((0, -42, -60), 7.0), ((0, -48, -110), 6.0))
ZYGOMA: Tube = (((64, 2, -46), 2.5), ((56, 38, -50), 3.5), ((44, 58, -54), 4.5), ((24, 66, -58), 3.5))
MANDIBLE: Tube = (((50, 0, -52), 4.0), ((47, 8, -78), 4.5), ((44, 16, -110), 5.0))
ORBITAL_CONE: Tube = (((28, 48, -36), 12.0), ((13, 22, -31), 4.0))
LATERAL_RECTUS: Tube = (((42, 60, -36), 1.6), ((37, 42, -35), 2.6), ((17, 24, -31), 1.4))
MEDIAL_RECTUS: Tube = (((21, 58, -36), 1.6), ((18, 42, -35), 2.4), ((14, 24, -31), 1.4))
TEMPORALIS = ((69, 12, -12), (6, 30, 28))  # centre and radii
OPTIC_NERVE: Tube = (((29, 50, -36), 2.0), ((23, 36, -33), 2.2), ((10, 18, -26), 2.2))


@dataclass(frozen=True)
class Subject:
    """One made-up person. Atrophy is about 0 in health and 1 in dementia."""

    group: str
    age: int
    sex: str
    atrophy: float
    size: Array
    skull_mm: float
    scalp_mm: float


@dataclass
class Figure:
    """A subject on a grid whose axes run nearly right, anterior and superior: its layers in painting order.

    Args:
        subject: a made-up person, with a `size`.
        affine, shape: of the grid.
        layers: tissue, voxels and the tissue's share of each.
        tissues: names of those that may be painted; the first is what surrounds the figure.
        region: of `phantom.REGIONS`.
    """

    subject: Any
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    layers: list[tuple[str, Indices, Array]] = field(default_factory=list)
    tissues: tuple[str, ...] = TISSUES
    region: str = "head"

    @property
    def spacing_mm(self) -> float:
        """The voxel's edge."""
        return float(np.linalg.norm(self.affine[:3, 0]))

    def paint(self, tissue: str, distance: Array, where: Indices | None = None) -> None:
        """Put `tissue` where `distance` is negative; its share falls from 1 to 0 across one voxel's width."""
        within = np.flatnonzero(distance < 0.5 * self.spacing_mm)
        share = np.minimum(np.float32(0.5) - distance.ravel()[within] / np.float32(self.spacing_mm), 1)
        self.layers.append((tissue, within if where is None else where[within], share))

    def flatten(self, values: Sequence[float]) -> Array:
        """The image in which each tissue of `tissues` has its value."""
        image = np.full(math.prod(self.shape), values[0], np.float32)
        for tissue, where, share in self.layers:
            under = image[where]
            image[where] = under + share * (np.float32(values[self.tissues.index(tissue)]) - under)
        return image.reshape(self.shape)

    def labels(self) -> NDArray[np.uint8]:
        """The index in `tissues` of each voxel: the last layer that fills at least half of it."""
        labels = np.zeros(math.prod(self.shape), np.uint8)
        for tissue, where, share in self.layers:
            labels[where] = np.where(share >= 0.5, self.tissues.index(tissue), labels[where])
        return labels.reshape(self.shape)


def build_head(seed: int | Sequence[int], group: str, spacing_mm: float) -> Figure:
    """The head of a made-up person; the same seed in the other group is the same person with other atrophy."""
    person, grid, shape, folds, texture = np.random.default_rng(seed).spawn(5)
    head = Figure(draw_subject(person, group), *draw_grid(grid, spacing_mm))
    p = body_coordinates(shape, head)
    core = only_where(np.abs(p[2] + 44) < 30, p, skull_base)
    cavity, hulls = brain_outlines(p, core)

    paint_face(head, texture, p, cavity)
    paint_orbits(head, p, cavity)
    paint_skull(head, texture, p, cavity, core)
    inside = np.flatnonzero(cavity < spacing_mm)
    hulls = {name: hull.ravel()[inside] for name, hull in hulls.items()}
    brain = p.reshape(3, -1)[:, inside]
    paint_hindbrain(head, brain, inside, hulls)
    paint_cerebrum(head, folds, brain, inside, hulls["cerebrum"])
    paint_deep_brain(head, texture, brain, inside)
    return head


def draw_subject(rng: np.random.Generator, group: str) -> Subject:
    """A person of this group."""
    age = int(np.clip(rng.normal(72, 7), 55, 90))
    sex = str(rng.choice(["F", "M"]))
    atrophy = rng.normal(0.1, 0.22) + 0.02 * (age - 72) + GROUPS.index(group)
    size = rng.normal(1.0, 0.02) * rng.normal(1.0, 0.02, 3) * (1.015 if sex == "M" else 0.985)
    return Subject(
        group,
        age,
        sex,
        atrophy=float(np.clip(atrophy, -0.4, 1.8)),
        size=np.clip(size, 0.93, 1.06).astype(np.float32),
        skull_mm=float(np.clip(rng.normal(6.6, 0.6), 5.6, 8.0)),
        scalp_mm=float(np.clip(rng.normal(5.4, 0.7), 4.0, 7.5)),
    )


def draw_grid(
    rng: np.random.Generator,
    spacing_mm: float,
    field_mm: Sequence[float] = FIELD_OF_VIEW_MM,
    centre_mm: Sequence[float] = FIELD_CENTRE_MM,
    tilt_degrees: float = 3,
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Affine and shape of a grid around the figure; about every second one is a little oblique."""
    tilt = rng.normal(0, tilt_degrees, 3) * rng.integers(0, 2)
    extents_mm = np.add(field_mm, 4 * rng.integers(0, 3, 3))
    shape = tuple(int(size) for size in np.ceil(extents_mm / spacing_mm))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() * spacing_mm
    centre = np.add(centre_mm, rng.normal(0, 1.5, 3))
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine, shape


def body_coordinates(rng: np.random.Generator, figure: Figure) -> Array:
    """(3, *shape): where each voxel lies in the undeformed figure."""
    pose = Rotation.from_euler("xyz", np.clip(rng.normal(0, 2, 3), -4, 4), degrees=True).as_matrix()
    to_body = (pose @ figure.affine[:3]) / figure.subject.size[:, None]
    i, j, k = np.ix_(*(np.arange(size, dtype=np.float32) for size in figure.shape))
    p = np.stack([(a * i + (b * j + (c * k + d))).astype(np.float32) for a, b, c, d in to_body])
    for axis in range(3):
        p[axis] += np.float32(1.6) * smooth_field(rng, figure.shape, figure.spacing_mm, 40.0)
    return p


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing_mm: float, scale_mm: float, reach_mm: float = 120
) -> Array:
    """A random field of mean 0, standard deviation 1 and this length scale, whatever the spacing of the grid.

    Args:
        reach_mm: from the middle of the grid; its edges may lie further out by twice the scale.
    """
    knots = np.arange(-reach_mm, reach_mm + 1, scale_mm, dtype=np.float32)
    values = rng.standard_normal((len(knots),) * 3, dtype=np.float32)
    weights = []
    for size in shape:
        coordinates = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(spacing_mm)
        row = np.exp(-0.5 * ((coordinates[:, None] - knots) / np.float32(scale_mm)) ** 2)
        weights.append(row / np.linalg.norm(row, axis=1, keepdims=True))
    values = (weights[0] @ values.reshape(len(knots), -1)).reshape(shape[0], len(knots), len(knots))
    return (weights[1] @ values) @ weights[2].T


def ellipsoid(p: Array, centre: Sequence[float], radii: Sequence[float | Array]) -> Array:
    """Signed distance, to first order, of the points (3, ...) to an ellipsoid."""
    level, slope = np.float32(0), np.float32(1e-9)
    for coordinate, middle, radius in zip(p, centre, radii, strict=True):
        scaled = (coordinate - np.float32(middle)) * np.float32(1 / radius)
        level = level + scaled * scaled
        slope = slope + (scaled * np.float32(1 / radius)) ** 2
    level = np.sqrt(level)
    return (level - 1) * (level + np.float32(1e-3)) / np.sqrt(slope)


def tube(p: Array, chain: Tube, growth: float = 1.0) -> Array:
    """Signed distance of the points to a chain of (point, radius), the radii times `growth`."""
    nearest = None
    for (start, start_radius), (end, end_radius) in zip(chain[:-1], chain[1:], strict=True):
        along = np.subtract(end, start).astype(np.float32)
        x, y, z = (coordinate - np.float32(first) for coordinate, first in zip(p, start, strict=True))
        t = np.clip((x * along[0] + y * along[1] + z * along[2]) / (along @ along), 0, 1)
        away = np.sqrt((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2)
        distance = away - np.float32(growth) * (np.float32(start_radius) + t * np.float32(end_radius - start_radius))
        nearest = distance if nearest is None else np.minimum(nearest, distance)
    return nearest


def blend(a: Array, b: Array, width_mm: float) -> Array:
    """The union of two signed distances, rounded where they meet."""
    h = np.clip(0.5 + (b - a) * np.float32(0.5 / width_mm), 0, 1)
    return b + (a - b) * h - np.float32(width_mm) * h * (1 - h)


def mirror(p: Array) -> Array:
    """Both sides onto the right one."""
    return np.stack([np.abs(p[0]), p[1], p[2]])


def shear(p: Array, slope: float, y: float) -> Array:
    """Turn what follows outwards behind `y`: how nuclei and ears lie."""
    return np.stack([p[0] + np.float32(slope) * (p[1] - np.float32(y)), p[1], p[2]])


def only_where(near: NDArray[np.bool_], p: Array, distance: Callable[[Array], Array]) -> Array:
    """The distance where it matters, and `FAR_MM` elsewhere."""
    result = np.full(near.shape, FAR_MM, np.float32)
    result[near] = distance(p[:, near])
    return result


def skull_base(p: Array) -> Array:
    """Signed distance to the bone between the lobes: petrous pyramids, sphenoid and clivus."""
    sphenoid = ellipsoid(p, (0, 18, -36), (15, 15, 11))
    return np.minimum(np.minimum(tube(mirror(p), PETROUS), sphenoid), tube(p, CLIVUS))


def cerebellum_outline(p: Array) -> Array:
    """Signed distance to the hemispheres and the vermis of the cerebellum."""
    hemispheres = ellipsoid(mirror(p), (24, -64, -36), (29, 27, 21))
    return blend(hemispheres, ellipsoid(p, (0, -66, -33), (14, 23, 20)), 5)


def brainstem_outline(p: Array) -> Array:
    """Signed distance to midbrain, pons, medulla and spinal cord."""
    return blend(tube(p, BRAINSTEM), ellipsoid(p, (0, -26, -32), (17, 12, 13)), 4)


def brain_outlines(p: Array, core: Array) -> tuple[Array, dict[str, Array]]:
    """Signed distances to the inside of the skull, and to the smooth outlines of the parts of the brain."""
    height = np.where(p[2] < 14, np.float32(38), np.float32(64))
    low = p[2] < 18
    cerebrum = ellipsoid(p, (0, -17, 14), (67, 88, height))
    temporal = only_where(low, p, lambda q: ellipsoid(mirror(q), (43, -8, -20), (24, 42, 23)))
    cerebellum = only_where(low & (p[1] < 0), p, cerebellum_outline)
    stem = only_where(low & (np.abs(p[0]) < 50), p, brainstem_outline)
    midbrain = only_where(low, p, lambda q: ellipsoid(q, (0, -24, -17), (22, 18, 12)))
    cerebrum = blend(cerebrum, temporal, 5)
    whole = blend(blend(cerebrum, cerebellum, 10), stem, 8)
    cerebrum = np.maximum(np.maximum(cerebrum, 2.5 - cerebellum), np.maximum(2 - core, -midbrain))
    return whole - 2, {"cerebrum": cerebrum, "cerebellum": np.maximum(cerebellum, 3 - stem), "brainstem": stem}


def paint_face(head: Figure, rng: np.random.Generator, p: Array, cavity: Array) -> None:
    """Skin, fat, muscles, facial bones and the air in the nose and sinuses."""
    outside = np.flatnonzero(cavity > -head.spacing_mm)
    p, cavity = p.reshape(3, -1)[:, outside], cavity.ravel()[outside]
    grain = smooth_field(rng, head.shape, head.spacing_mm, 4.0).ravel()[outside]
    skin = cavity - np.float32(head.subject.skull_mm + head.subject.scalp_mm)
    skin = blend(skin, ellipsoid(p, (0, 34, -54), (62, 50, 66)), 10)
    skin = blend(skin, ellipsoid(p, (0, 84, -50), (13, 20, 17)), 8)
    skin = blend(skin, ellipsoid(p, (0, -36, -90), (60, 62, 70)), 16)
    skin = np.minimum(skin, ellipsoid(shear(mirror(p), 0.45, -26), (84, -26, -36), (3.5, 15, 26)))
    head.paint("skin", skin, outside)

    within = np.flatnonzero(skin < 0)
    outside, side, grain, skin = outside[within], mirror(p[:, within]), grain[within], skin[within]
    head.paint("fat", skin + np.float32(SKIN_MM), outside)
    head.paint("muscle", np.minimum(skin + 6 + grain, np.maximum(ellipsoid(side, *TEMPORALIS), skin + 3.5)), outside)
    head.paint("fat", np.maximum(skin + 6, 5 - 4 * np.abs(grain)), outside)

    low = np.flatnonzero(side[2] < 0)
    where, side, grain = outside[low], side[:, low], grain[low]
    bones = np.minimum(tube(side, ZYGOMA), tube(side, MANDIBLE))
    nose = ellipsoid(side, (0, 58, -56), (14, 30, 17))
    sinuses = np.minimum(ellipsoid(side, (31, 46, -64), (13, 16, 14)), ellipsoid(side, (7, 46, -36), (7, 20, 11)))
    head.paint("bone", np.minimum(bones, np.minimum(nose, sinuses) - 2), where)
    head.paint("marrow", bones + np.float32(TABLE_MM), where)
    head.paint("muscle", nose, where)
    head.paint("air", np.maximum(nose, np.maximum(0.5 - 2 * np.abs(grain), 1.5 - side[0])), where)
    head.paint("air", np.maximum(sinuses, -2.5 + grain), where)
    head.paint("air", ellipsoid(side, (0, 6, -74), (9, 9, 22)), where)


def paint_orbits(head: Figure, p: Array, cavity: Array) -> None:
    """Eyes, their muscles and nerve, in the fat of the orbits."""
    near = np.flatnonzero((p[1] > 15) & (p[1] < 85) & (np.abs(p[2] + 36) < 22))
    side = mirror(p.reshape(3, -1)[:, near])
    orbit = blend(ellipsoid(side, (31, 58, -36), (17, 16, 17)), tube(side, ORBITAL_CONE), 6)
    orbit = np.maximum(orbit, 3 - cavity.ravel()[near])
    eye = ellipsoid(side, (31.5, 61, -36), (12, 12.2, 12))
    head.paint("bone", np.maximum(orbit - 2.2, side[1] - 60), near)
    head.paint("fat", orbit, near)
    head.paint("muscle", np.minimum(tube(side, LATERAL_RECTUS), tube(side, MEDIAL_RECTUS)), near)
    head.paint("white", tube(side, OPTIC_NERVE), near)
    head.paint("muscle", eye, near)
    head.paint("vitreous", eye + 1.2, near)
    head.paint("lens", ellipsoid(side, (31.5, 69, -36), (4.5, 2.4, 4.5)), near)


def paint_skull(head: Figure, rng: np.random.Generator, p: Array, cavity: Array, core: Array) -> None:
    """Two tables of bone with marrow between, the skull's base with its air cells, and the fluid inside."""
    half = np.float32(head.subject.skull_mm / 2)
    grain = smooth_field(rng, head.shape, head.spacing_mm, 9.0)
    half = half * np.clip(1 + (p[2] + 20) / 50, 0.5, 1)  # thin around the cerebellum and the temporal lobes
    head.paint("bone", cavity - 2 * half)
    diploe = np.abs(cavity - half) - (half - np.float32(TABLE_MM)) + np.float32(0.25) * grain
    head.paint("marrow", diploe)
    head.paint("air", np.maximum(ellipsoid(mirror(p), (9, 69, -6), (8, 4, 9)), 2 - cavity))
    head.paint("csf", cavity)
    head.paint("bone", core)
    head.paint("marrow", np.maximum(core + 3, 2 * grain))
    head.paint("air", np.maximum(core + 3, 2 + 3 * grain - np.abs(p[0]) / 16))
    head.paint("air", ellipsoid(p, (0, 22, -37), (10, 9, 8)))


def paint_hindbrain(head: Figure, q: Array, where: Indices, hulls: dict[str, Array]) -> None:
    """Brainstem and cerebellum: folia are shells around the fourth ventricle."""
    hull = hulls["cerebellum"] + np.float32(0.4 * head.subject.atrophy)
    from_ventricle = np.sqrt(q[0] ** 2 * np.float32(0.5) + (q[1] + 40) ** 2 + (q[2] + 30) ** 2)
    leaf = np.sin(from_ventricle * np.float32(2 * np.pi / 5.0))
    head.paint("cerebellum", hull, where)
    head.paint("csf", np.maximum(hull, np.maximum(2 * (0.9 - leaf), -6 - hull)), where)
    head.paint("white", hull + 9 + 3 * leaf, where)
    head.paint("white", hulls["brainstem"], where)
    head.paint("ventricle", ellipsoid(q, (0, -45, -34), (7, 4.5, 9)), where)


def fold_distance(head: Figure, rng: np.random.Generator, q: Array, where: Indices, near: NDArray[np.bool_]) -> Array:
    """Distance to the nearest sulcus: where a random field, which varies more along the surface than inwards, is 0."""
    lattice_mm, reach_mm = 3.0, (90, 120, 96)
    noise = rng.standard_normal([int(2 * reach / lattice_mm) for reach in reach_mm], dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 4.1 / lattice_mm) - ndimage.gaussian_filter(noise, 8.0 / lattice_mm)
    centre = np.stack([np.sign(q[0, near]) * 24, np.full(near.sum(), -17), np.full(near.sum(), 6)]).astype(np.float32)
    ray = q[:, near] - centre
    to_surface = np.sqrt((ray[0] / 43) ** 2 + (ray[1] / 87) ** 2 + (ray[2] / 66) ** 2)
    source = centre + ray * (np.float32(0.45) + np.float32(0.55) / np.maximum(to_surface, 0.55))
    source = (source + np.float32(reach_mm)[:, None]) / np.float32(lattice_mm)

    fold = np.zeros(math.prod(head.shape), np.float32)
    fold[where[near]] = ndimage.map_coordinates(noise, source, order=1, mode="nearest")
    steepness = np.sqrt(sum(g * g for g in np.gradient(fold.reshape(head.shape), head.spacing_mm))).ravel()[where]
    fold = np.abs(fold[where])
    return fold / np.maximum(steepness, 0.3 * steepness[near].mean())


def fissures(q: Array) -> tuple[Array, Array]:
    """Distances to the fissure between the hemispheres and to the Sylvian fissure with the insula at its bottom."""
    x, y, z = mirror(q)
    callosum = np.minimum(ellipsoid(q, (0, -7, 5), (1e3, 40, 21)), ellipsoid(q, (0, -14, -8), (1e3, 18, 16)))
    between = np.hypot(x, np.maximum(-callosum, 0))
    course = np.float32(0.42) * (12 - y) - np.float32(0.25) * (x - 50) - 4 * np.sin(y / 11 + x / 15)
    above = z + 7 - course
    sylvian = np.hypot(0.92 * above, np.maximum(np.maximum(38 - x, np.abs(y + 9) - 34), 0))
    insula = np.hypot(x - 38 - 0.02 * above**2, np.maximum(np.maximum(np.abs(above) - 11, np.abs(y - 1) - 22), 0))
    return between, np.minimum(sylvian, insula)


def paint_cerebrum(head: Figure, rng: np.random.Generator, q: Array, where: Indices, hull: Array) -> None:
    """The folded ribbon of grey matter around the white matter, by depth below the nearest outer or sulcal surface."""
    atrophy = head.subject.atrophy
    depths, folds = rng.spawn(2)
    sulcus_mm = 17 + 4 * smooth_field(depths, head.shape, head.spacing_mm, 14.0).ravel()[where]
    sheet = fold_distance(head, folds, q, where, hull < 2 * head.spacing_mm)
    between, sylvian = fissures(q)
    heart = ellipsoid(mirror(q), (0, -12, 7), (37, 46, 25))  # no sulcus reaches the basal ganglia
    sulci = np.hypot(sheet, np.maximum(np.maximum(np.minimum(-hull, between) - sulcus_mm, -heart), 0))
    surfaces = ((-hull, 0.3, 0.5), (sulci, 0.55, 0.45), (between, 1.0, 0.5), (sylvian, 1.3, 0.9))
    depth = np.minimum.reduce([distance - np.float32(gap + widening * atrophy) for distance, gap, widening in surfaces])
    head.paint("grey", -depth, where)
    head.paint("white", np.float32(3.3 - 0.6 * atrophy) - depth, where)


def paint_deep_brain(head: Figure, rng: np.random.Generator, q: Array, where: Indices) -> None:
    """Ventricles, nuclei, and the age spots around the ventricles."""
    atrophy = head.subject.atrophy
    side = mirror(q)
    near = np.flatnonzero(ellipsoid(side, (18, -16, 4), (34, 68, 38)) < 0)
    side, where = side[:, near], where[near]
    growth = math.exp(0.42 * atrophy)
    lateral = np.minimum(tube(side, FRONTAL_HORN_AND_BODY, growth), tube(side, OCCIPITAL_HORN, growth))
    lateral = np.minimum(lateral, tube(side, TEMPORAL_HORN, growth))
    caudate = tube(side - np.float32([[1.6 * atrophy], [0], [0]]), CAUDATE)
    lateral = np.maximum(np.maximum(lateral, -caudate), np.float32(0.8) - side[0])
    spots = smooth_field(rng, head.shape, head.spacing_mm, 6.0).ravel()[where]

    head.paint("lesion", np.maximum(lateral - np.float32(0.3 + 1.1 * atrophy) - spots, side[2] - 40), where)
    head.paint("basal", caudate, where)
    head.paint("basal", ellipsoid(shear(side, 0.28, 2), (26.5, 2, 2), (5, 17, 11)), where)
    head.paint("pallidum", ellipsoid(shear(side, 0.45, -2), (19.5, -2, 0), (4, 9, 7)), where)
    head.paint("thalamus", ellipsoid(shear(side, 0.3, -18), (10.5, -18, 8), (8, 14, 8.5)), where)
    head.paint("ventricle", lateral, where)
    head.paint("choroid", tube(side, CHOROID), where)
    head.paint("ventricle", ellipsoid(side, (0, -9, 1), (1.8 + 1.5 * max(atrophy, 0), 13, 10)), where)
    head.paint("csf", ellipsoid(side, (0, -43, -1), (9, 5, 7)), where)
