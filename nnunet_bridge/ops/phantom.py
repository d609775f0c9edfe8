"""A synthetic lower limb: a water-like MR image and the bones that are in it.

It is made of smooth closed forms, so that the whole tool can be tried, taught and
tested without a patient. Here a patient is drawn from chance: size, pose, tissue and
noise. The bones themselves are in `anatomy`; the limb is fitted to the height of the
field of view. In the patient (LPS+) the lateral axis of the anatomy is +x on the left
and -x on the right.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, label
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Volume, VoxelArray, read_only
from nnunet_bridge.ops import anatomy
from nnunet_bridge.ops.solids import FAR_MM, Loft, ball, tube, union

Place: TypeAlias = tuple[str, str]
"""A structure and a side, such as ``("tibia", "left")``."""

STRUCTURES = ("tibia", "femur", "fibula", "pelvis")
"""Bones that get a mask; the pelvis is the hip bone of one side."""

SIDES = {"left": 1.0, "right": -1.0}  # direction of lateral along LPS x
GENERATION = 1  # raised when the same seed begins to give another patient

ADULT_FIELD_MM = 1060.0
"""Height of the field of view that shows an adult from iliac crest to ankle."""

FIELD_CENTRE_UP_MM = -345.0  # centre of that field: height over the hip joint centres

FIELD_CENTRE_POSTERIOR_MM = 12.0

# How patients differ: each number is drawn evenly from its range.
BODY_SIZE = (0.95, 1.02)
BONE_GIRTH = (0.97, 1.05)
BONE_LENGTH = (0.96, 1.03)
HIP_WIDTH = (0.98, 1.03)
ABDUCTION_DEGREES = (1.0, 5.0)
FLEXION_DEGREES = (-1.0, 2.0)
OUTWARD_TURN_DEGREES = (0.0, 14.0)
KNOCK_KNEE_DEGREES = (-1.0, 2.0)
KNEE_FLEXION_DEGREES = (0.0, 4.0)
TIBIAL_TURN_DEGREES = (-3.0, 6.0)

SIDE_TURN_DEGREES = 1.0
"""Standard deviation of every angle of the hip between the sides."""

SIDE_SIZE = (0.99, 1.01)

# How patients lie in the scanner: largest deviation to either side.
LIE_DEGREES = 1.5
LIE_SHIFT_MM = (12.0, 8.0, 10.0)
OBLIQUE_SHARE = 0.5
MOST_OBLIQUE_DEGREES = 3.0
ISOCENTRE_DRIFT_MM = (12.0, 20.0, 60.0)

# Signal of every tissue in a water image, before the coil and the receiver.
_MARROW = (225.0, 235.0, 225.0, 300.0, 235.0, 225.0, 320.0)
MARROW = dict(zip(anatomy.BONES, _MARROW, strict=True))
CORTEX, FAT, SEPTUM, TENDON, SKIN = 35.0, 105.0, 190.0, 230.0, 330.0
BOWEL, MUSCLE, JOINT, BLOOD, URINE = 400.0, 470.0, 580.0, 700.0, 900.0
MUSCLE_TONES = (0.92, 1.08)  # range of the signal of single muscles, as a share
FATNESS = (0.7, 1.3)  # range of the thickness of fat, as a share: people differ
NOISE = 17.0  # standard deviation of each of the two channels, in units of signal
TEXTURE = 0.04  # standard deviation of the grain of tissue, as a share of its signal
BIAS = 0.22  # largest logarithm of the coil's sensitivity
GAIN = (0.8, 1.25)  # range of the receiver's gain: MR signal has no unit


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One synthetic patient."""

    volume: Volume  # int16 image, water-like: muscle bright, fat and cortical bone dark
    masks: dict[Place, BoolArray]
    """(I, J, K) mask of every structure and side; no two share a voxel."""


@dataclass(frozen=True, slots=True, eq=False)
class _Leg:
    """How one leg lies: its frames turn with hip and knee, and stretch with it."""

    hip_mm: FloatArray  # (3,) hip joint centre: lateral, posterior, up
    thigh: FloatArray  # (3, 3) columns: the femur's own lateral, posterior and up
    shank: FloatArray  # (3, 3) likewise for the tibia
    stretch: FloatArray  # (3,) size of this leg's bones relative to the adult tables

    def in_thigh(self, points: FloatArray) -> FloatArray:
        """Return (N, 3) places seen from the hip joint, in mm of the tables."""
        return (points - self.hip_mm) @ self.thigh / self.stretch

    def in_shank(self, points: FloatArray) -> FloatArray:
        """Return (N, 3) places seen from the knee, in mm of the tables."""
        femur = np.array([0, 0, -anatomy.FEMUR_MM * self.stretch[2]])
        knee: FloatArray = self.hip_mm + self.thigh @ femur
        return (points - knee) @ self.shank / self.stretch


def _legs(rng: np.random.Generator) -> dict[str, _Leg]:
    """Return both legs of a patient: alike, but not mirror images."""
    ranges = (ABDUCTION_DEGREES, FLEXION_DEGREES, OUTWARD_TURN_DEGREES)
    common = np.array([rng.uniform(*range_) for range_ in ranges])
    girth, length = rng.uniform(*BONE_GIRTH), rng.uniform(*BONE_LENGTH)
    hip_lateral_mm = anatomy.HIP_LATERAL_MM * rng.uniform(*HIP_WIDTH)
    legs = {}
    for side in SIDES:
        abduction, flexion, outward = common + rng.normal(0, SIDE_TURN_DEGREES, 3)
        hip = [-abduction, -flexion, outward]
        knee = [
            -rng.uniform(*KNOCK_KNEE_DEGREES),
            rng.uniform(*KNEE_FLEXION_DEGREES),
            rng.uniform(*TIBIAL_TURN_DEGREES),
        ]
        thigh = Rotation.from_euler("yxz", hip, degrees=True)
        shank = thigh * Rotation.from_euler("yxz", knee, degrees=True)
        legs[side] = _Leg(
            hip_mm=np.array([hip_lateral_mm, 0, 0]),
            thigh=thigh.as_matrix(),
            shank=shank.as_matrix(),
            stretch=np.array([girth, girth, length]) * rng.uniform(*SIDE_SIZE, 3),
        )
    return legs


def _grid(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: tuple[float, ...]
) -> Grid:
    """Return the scanner's grid: plain or slightly oblique, off the isocentre."""
    oblique = rng.random() < OBLIQUE_SHARE
    angles = rng.uniform(-MOST_OBLIQUE_DEGREES, MOST_OBLIQUE_DEGREES, 3) * oblique
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] *= spacing_mm
    centre_mm = rng.uniform(-1, 1, 3) * ISOCENTRE_DRIFT_MM
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine.round(6))


def _body_points(rng: np.random.Generator, grid: Grid, scale: float) -> FloatArray:
    """Return (N, 3) voxel centres in adult mm: left, posterior, up from the hips."""
    centre = (np.array(grid.shape) - 1) / 2
    indices = np.indices(grid.shape).reshape(3, -1).T
    from_centre_mm = (indices - centre) * grid.spacing_mm / scale
    angles = rng.uniform(-LIE_DEGREES, LIE_DEGREES, 3)
    lie = Rotation.from_euler("xyz", angles, degrees=True)
    shift_mm = rng.uniform(-1, 1, 3) * LIE_SHIFT_MM
    middle_mm = np.array([0.0, FIELD_CENTRE_POSTERIOR_MM, FIELD_CENTRE_UP_MM])
    points: FloatArray = from_centre_mm @ lie.as_matrix() + middle_mm + shift_mm
    return points


def _bone_distances(
    points: FloatArray, legs: dict[str, _Leg]
) -> dict[Place, FloatArray]:
    """Return the (N,) distance to every bone, first the labelled ones."""
    distances = {}
    for side, direction in SIDES.items():
        leg = legs[side]
        lateral = points * (direction, 1, 1)
        thigh, shank = leg.in_thigh(lateral), leg.in_shank(lateral)
        hip = lateral - leg.hip_mm
        frames = (shank, thigh, shank, hip, thigh, shank)  # in the order of the bones
        for structure, frame in zip(anatomy.BONES, frames, strict=False):
            distances[structure, side] = anatomy.distance(structure, frame)
    distances["spine", "middle"] = anatomy.distance("spine", points)
    return distances


def _masks(distances: dict[Place, FloatArray]) -> dict[Place, BoolArray]:
    """Return the (N,) mask of every labelled bone; a voxel goes to the deepest one."""
    deepest = np.minimum.reduce(list(distances.values()))
    free = deepest < 0
    masks = {}
    for place, distance in distances.items():
        mask = free & (distance == deepest)
        free = free & ~mask
        if place[0] in STRUCTURES:
            masks[place] = mask
    return masks


def _drawn(body: BoolArray, mask: BoolArray, grid: Grid) -> BoolArray:
    """Return the read-only (I, J, K) mask a person would draw of the body's voxels.

    A rim thinner than a voxel may leave single voxels beside the bone; a person leaves
    them out, and so do we: one bone is one piece, face to face.
    """
    whole = np.zeros(body.shape, dtype=np.bool_)
    whole[body] = mask
    pieces, _ = label(whole.reshape(grid.shape))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return read_only((pieces == sizes.argmax()) & (pieces > 0))


def _cover(
    signal: FloatArray, distance: FloatArray, value: FloatArray | float, edge_mm: float
) -> FloatArray:
    """Return `signal` with a solid laid over it, its border shared by the voxels."""
    share = np.clip(0.5 - distance / edge_mm, 0, 1)
    return signal + (value - signal) * share


def _skin_distance(points: FloatArray, legs: dict[str, _Leg]) -> FloatArray:
    """Return the (N,) distance to the skin of trunk, thighs and shanks."""
    limbs = np.full(len(points), FAR_MM)
    for side, direction in SIDES.items():
        lateral = points * (direction, 1, 1)
        near = lateral[:, 0] > -anatomy.LEG_OVER_MIDLINE_MM
        leg, lateral = legs[side], lateral[near]
        thigh = anatomy.distance("thigh", leg.in_thigh(lateral))
        shank = anatomy.distance("shank", leg.in_shank(lateral))
        limb = union((thigh, shank), blend_mm=12.0)
        limbs[near] = np.minimum(limbs[near], limb)
    trunk = anatomy.distance("trunk", points)
    return union((limbs, trunk), blend_mm=30.0)


def _muscles(
    points: FloatArray, legs: dict[str, _Leg], tones: FloatArray
) -> FloatArray:
    """Return the (N,) signal of muscles and the fat between them."""
    signal = _compartments(anatomy.TRUNK, anatomy.TRUNK_MUSCLES, points, tones)
    for side, direction in SIDES.items():
        lateral = points * (direction, 1, 1)
        thigh, shank = legs[side].in_thigh(lateral), legs[side].in_shank(lateral)
        own = (lateral[:, 0] > 0) & (points[:, 2] < anatomy.BUTTOCK_FOLD_UP_MM)
        for loft, seeds, frame, here in (
            (anatomy.THIGH, anatomy.THIGH_MUSCLES, thigh, own & (shank[:, 2] > 0)),
            (anatomy.SHANK, anatomy.SHANK_MUSCLES, shank, own & (shank[:, 2] <= 0)),
        ):
            signal[here] = _compartments(loft, seeds, frame[here], tones)
        tendon = np.interp(shank[own, 2], anatomy.TENDON_UP_MM, anatomy.TENDON_SHARE)
        signal[own] += (TENDON - signal[own]) * tendon
    return signal


def _compartments(
    loft: Loft, seeds: npt.ArrayLike, points: FloatArray, tones: FloatArray
) -> FloatArray:
    """Return muscle signal around each seed (its Voronoi cell), and fat in between."""
    place, half_axes = loft.section(points)
    centres = np.asarray(seeds, dtype=np.float64)
    reach = np.linalg.norm(place[:, None] - centres, axis=2)
    nearest, second = np.partition(reach, 1, axis=1)[:, :2].T
    to_border_mm = (second - nearest) / 2 * half_axes.min(axis=1)
    tone = tones[reach.argmin(axis=1)]
    septum_mm = anatomy.SEPTUM_MM
    return _cover(MUSCLE * tone, to_border_mm - septum_mm / 2, SEPTUM, septum_mm)


def _soft_tissue(
    points: FloatArray,
    depth: FloatArray,
    legs: dict[str, _Leg],
    rng: np.random.Generator,
    edge_mm: float,
) -> FloatArray:
    """Return the (N,) signal of a body without bones, `depth` below its skin."""
    tones = rng.uniform(*MUSCLE_TONES, len(anatomy.THIGH_MUSCLES))
    fat_mm = np.interp(points[:, 2], anatomy.FAT_UP_MM, anatomy.FAT_MM)
    fat_mm *= rng.uniform(*FATNESS)
    tissue = _cover(np.zeros(len(points)), depth, SKIN, edge_mm)
    tissue = _cover(tissue, depth + anatomy.SKIN_MM, FAT, edge_mm)
    muscle = _muscles(points, legs, tones)
    tissue = _cover(tissue, depth + anatomy.SKIN_MM + fat_mm, muscle, edge_mm)
    solids = (anatomy.BOWELS, anatomy.BLADDER, anatomy.GLUTEAL_CLEFT)
    for solid, value in zip(solids, (BOWEL, URINE, FAT), strict=True):
        tissue = _cover(tissue, ball(points, *solid), value, edge_mm)
    for side, direction in SIDES.items():
        lateral = points * (direction, 1, 1)
        for stations, frame in (
            (anatomy.FEMORAL_VESSELS, legs[side].in_thigh(lateral)),
            (anatomy.TIBIAL_VESSELS, legs[side].in_shank(lateral)),
        ):
            tissue = _cover(tissue, tube(frame, stations), BLOOD, edge_mm)
    return tissue


def _with_bones(
    signal: FloatArray, distances: dict[Place, FloatArray], edge_mm: float
) -> FloatArray:
    """Return the signal with joints, cortical bone and marrow laid over it."""
    nearest, second = np.partition(np.stack(list(distances.values())), 1, axis=0)[:2]
    signal = _cover(signal, nearest + second - anatomy.JOINT_SPACE_MM, JOINT, edge_mm)
    for (structure, _), distance in distances.items():
        near = distance < edge_mm
        bone = _cover(signal[near], distance[near], CORTEX, edge_mm)
        depth = distance[near] + anatomy.CORTEX_MM[structure]
        signal[near] = _cover(bone, depth, MARROW[structure], edge_mm)
    return signal


def _measured(signal: FloatArray, grid: Grid, rng: np.random.Generator) -> VoxelArray:
    """Return the (I, J, K) int16 image a scanner would make of the (N,) signal."""
    true = signal.reshape(grid.shape)
    texture = gaussian_filter(rng.normal(0, 1, grid.shape), 1.0)
    texture *= TEXTURE / texture.std()
    image = true * (1 + texture) * _coil_field(grid, rng)
    real, imaginary = rng.normal(0, NOISE, (2, *grid.shape))
    magnitude = np.hypot(image + real, imaginary) * rng.uniform(*GAIN)
    measured: VoxelArray = np.round(magnitude).astype(np.int16)
    return measured


def _coil_field(grid: Grid, rng: np.random.Generator) -> FloatArray:
    """Return the (I, J, K) sensitivity: slow waves of at most `BIAS` about 1."""
    log_field = np.zeros(grid.shape)
    for axis, size in enumerate(grid.shape):
        across = np.linspace(-1, 1, size)
        slope, bow = rng.uniform(-1, 1, 2)
        wave = slope * across + bow * np.cos(np.pi * across * rng.uniform(0.5, 1.2))
        log_field += np.expand_dims(wave, [a for a in range(3) if a != axis])
    field: FloatArray = np.exp(BIAS * log_field / np.abs(log_field).max())
    return field


def places() -> list[Place]:
    """Return every structure and side that has a mask."""
    return [(structure, side) for side in SIDES for structure in STRUCTURES]


def lower_limb(
    seed: int,
    *,
    shape: tuple[int, int, int] = (96, 48, 64),
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 12.0),
) -> Phantom:
    """Return a synthetic patient: both legs from pelvis to ankle.

    The same seed gives the same patient, to the last bit. The limb is fitted to the
    height of the field of view, ``shape[2] * spacing_mm[2]``. Image and masks lie on
    one grid in LPS+, plain or up to 3 degrees oblique: i runs from right to left, j
    from front to back, k from the feet to the head.
    """
    rng = np.random.default_rng(seed)
    grid = _grid(rng, shape, spacing_mm)
    scale = shape[2] * spacing_mm[2] / ADULT_FIELD_MM * rng.uniform(*BODY_SIZE)
    points = _body_points(rng, grid, scale)
    legs = _legs(rng)
    edge_mm = min(spacing_mm) / scale
    skin = _skin_distance(points, legs)
    body = skin < edge_mm
    inside = points[body]
    distances = _bone_distances(inside, legs)
    tissue = _soft_tissue(inside, skin[body], legs, rng, edge_mm)
    signal = np.zeros(len(points))
    signal[body] = _with_bones(tissue, distances, edge_mm)
    return Phantom(
        Volume(grid, _measured(signal, grid, rng)),
        {place: _drawn(body, mask, grid) for place, mask in _masks(distances).items()},
    )
