"""A synthetic lower limb: a water-like MR image and the bones that are in it.

It is made of smooth closed forms, so that the whole tool can be tried, taught and
tested without a patient. Every length below is in millimetres of an adult of average
height; the limb is then fitted to the height of the field of view.

The anatomy is written once, for a limb seen along three axes: **lateral** (away from
the other leg), **posterior** and **up**. In the patient (LPS+) the lateral axis is +x
on the left and -x on the right. A *solid* is a function from points to distances in
mm: negative inside, positive outside, exact only near the surface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, label
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Volume, VoxelArray, read_only

Place: TypeAlias = tuple[str, str]
"""A structure and a side, such as ``("tibia", "left")``."""

STRUCTURES = ("tibia", "femur", "fibula", "pelvis")
"""Bones that get a mask; the pelvis is the hip bone of one side."""

SIDES = {"left": 1.0, "right": -1.0}
"""Direction of lateral along LPS x."""

GENERATION = 1
"""Raised when the same seed begins to give another patient."""

ADULT_FIELD_MM = 1060.0
"""Height of the field of view that shows an adult from iliac crest to ankle."""

FIELD_CENTRE_UP_MM = -345.0
"""Centre of that field: height over the hip joint centres."""

HIP_LATERAL_MM = 90.0
FEMUR_MM = 420.0
"""Hip joint centre to the joint line of the knee."""

FIELD_CENTRE_POSTERIOR_MM = 12.0
BUTTOCK_FOLD_UP_MM = -50.0
LEG_OVER_MIDLINE_MM = 12.0

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

FAR_MM = 1e3
"""Distance given to points that a solid does not look at."""


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One synthetic patient."""

    volume: Volume
    """int16 image, water-like: muscle bright, fat and cortical bone dark."""

    masks: dict[Place, BoolArray]
    """(I, J, K) mask of every structure and side; no two share a voxel."""


# --------------------------------------------------------------------------- solids


def _ball(
    points: FloatArray, centre: npt.ArrayLike, radii: npt.ArrayLike
) -> FloatArray:
    """Return the (N,) distance in mm to an ellipsoid (a first-order estimate)."""
    offset = points - np.asarray(centre, dtype=np.float64)
    semi_axes = np.broadcast_to(np.asarray(radii, dtype=np.float64), 3)
    level = np.linalg.norm(offset / semi_axes, axis=-1)
    slope = np.linalg.norm(offset / semi_axes**2, axis=-1)
    distance: FloatArray = level * (level - 1) / np.maximum(slope, 1e-9)
    return distance


def _tube(points: FloatArray, stations: npt.ArrayLike) -> FloatArray:
    """Return the (N,) distance in mm to a bent tube of varying radius.

    Parameters
    ----------
    points : (N, 3) float64
    stations : (M, 4) array_like
        Lateral, posterior, up and radius along the tube, in mm.
    """
    rows = np.asarray(stations, dtype=np.float64)
    parts = []
    for start, end in pairwise(rows):
        along = end[:3] - start[:3]
        share = np.clip((points - start[:3]) @ along / (along @ along), 0, 1)
        axis = start[:3] + share[:, None] * along
        radius = start[3] + share * (end[3] - start[3])
        parts.append(np.linalg.norm(points - axis, axis=-1) - radius)
    return _union(parts, blend_mm=2.0)


def _union(parts: Iterable[FloatArray], *, blend_mm: float) -> FloatArray:
    """Return the distance to all parts together, with fillets of about `blend_mm`."""
    first, *others = parts
    joined = first
    for part in others:
        overlap = np.maximum(blend_mm - np.abs(joined - part), 0) / blend_mm
        joined = np.minimum(joined, part) - overlap**2 * blend_mm / 4
    return joined


@dataclass(frozen=True, eq=False)
class _Loft:
    """A solid spanned by elliptical cross sections, smooth from one to the next."""

    stations: tuple[tuple[float, float, float, float, float], ...]
    """Rising: up, then lateral and posterior of the centre, half width, half depth."""

    squareness: float = 2.0
    """Exponent of the superellipse: 2 is an ellipse, 4 nearly a box."""

    crest: float = 0.0
    """How much of a triangle the section is; its edge points forwards."""

    @cached_property
    def _profile(self) -> PchipInterpolator:
        rows = np.asarray(self.stations, dtype=np.float64)
        return PchipInterpolator(rows[:, 0], rows[:, 1:])

    def section(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (N, 2) positions in units of the half axes, and (N, 2) half axes."""
        lowest, highest = self.stations[0][0], self.stations[-1][0]
        profile = self._profile(np.clip(points[:, 2], lowest, highest))
        half_axes: FloatArray = profile[:, 2:]
        return (points[:, :2] - profile[:, :2]) / half_axes, half_axes

    def distance(self, points: FloatArray) -> FloatArray:
        """Return the (N,) distance in mm; the ends are flat."""
        place, half_axes = self.section(points)
        level = (np.abs(place) ** self.squareness).sum(axis=1) ** (1 / self.squareness)
        if self.crest:
            angle = np.arctan2(place[:, 0], -place[:, 1])
            level = level / (1 + self.crest * np.cos(3 * angle))
        lowest, highest = self.stations[0][0], self.stations[-1][0]
        beyond_ends = np.abs(points[:, 2] - (lowest + highest) / 2)
        beyond_ends -= (highest - lowest) / 2
        distance: FloatArray = np.maximum(
            (level - 1) * half_axes.min(axis=1), beyond_ends
        )
        return distance


# -------------------------------------------------------------------------- anatomy
# Femur: from the hip joint centre. Tibia and fibula: from the joint line of the knee.
# Hip bone: from the hip joint centre (the midline lies at -90). Trunk: from the middle
# between the hip joint centres.

HEAD_RADIUS_MM = 24.0
HIP_GAP_MM = 4.0
CUP_RADIUS_MM = 38.0
CUP_OPENING = np.array([0.72, -0.33, -0.61])
"""Unit vector from the acetabulum outwards, forwards and down."""

CUP_DEPTH_MM = 9.0
CUP_MARGIN_MM = 2.0
SYMPHYSIS_LATERAL_MM = -86.5

FEMUR_SHAFT = _Loft(
    (
        (-408.0, 0.0, 3.0, 36.0, 26.0),
        (-392.0, 0.0, 2.0, 36.0, 25.0),
        (-362.0, 4.0, 0.0, 25.0, 20.0),
        (-310.0, 13.0, -6.0, 17.0, 16.0),
        (-200.0, 29.0, -9.0, 15.0, 15.0),
        (-110.0, 41.0, 0.0, 16.0, 16.0),
        (-60.0, 45.0, 7.0, 18.5, 18.0),
        (-30.0, 47.0, 9.0, 17.0, 17.0),
    )
)
FEMUR_NECK = ((0, 0, 0, 17), (24, 4, -20, 15.5), (45, 8, -45, 19))
GREATER_TROCHANTER = ((52, 14, -8), (16, 19, 22))
LESSER_TROCHANTER = ((29, 20, -68), (11, 11, 16))
MEDIAL_CONDYLE = ((-24, 7, -395), (18, 32, 22))
LATERAL_CONDYLE = ((24, 7, -395), (17, 32, 21.5))
PATELLA = ((2, -44, -380), (21, 10, 21))

TIBIA_SHAFT = _Loft(
    (
        (-361.0, -3.0, 2.0, 21.0, 17.0),
        (-350.0, -3.0, 2.0, 20.0, 17.0),
        (-325.0, -4.0, 3.0, 15.0, 14.0),
        (-275.0, -6.0, 3.0, 13.0, 13.5),
        (-190.0, -6.0, 1.0, 13.5, 15.5),
        (-115.0, -5.0, 0.0, 16.0, 18.5),
        (-65.0, -3.0, 2.0, 21.0, 21.0),
        (-35.0, -1.0, 4.0, 30.0, 24.0),
        (-16.0, 0.0, 5.0, 37.0, 25.0),
        (-4.0, 0.0, 5.0, 37.0, 25.0),
    ),
    crest=0.13,
)
TIBIAL_TUBEROSITY = ((4, -19, -46), (10, 8, 18))
MEDIAL_MALLEOLUS = ((-20, -1, -366), (8.5, 13, 15))
FIBULA = _Loft(
    (
        (-390.0, 31.0, 11.0, 8.0, 9.0),
        (-370.0, 32.0, 10.0, 11.0, 13.0),
        (-340.0, 31.0, 11.0, 10.5, 12.0),
        (-295.0, 31.0, 15.0, 9.5, 9.5),
        (-200.0, 33.0, 19.0, 9.5, 9.5),
        (-100.0, 38.0, 22.0, 9.5, 9.5),
        (-52.0, 41.0, 24.0, 10.0, 10.0),
        (-28.0, 42.0, 25.0, 12.5, 13.0),
        (-14.0, 42.0, 26.0, 9.0, 9.0),
    )
)
"""Thicker than life below its head, so that thick slices can hold it."""

TALUS = ((0, 4, -386), (21, 28, 20))
CALCANEUS = ((4, 32, -424), (20, 38, 22))

ILIAC_WING = _Loft(
    (
        (18.0, 0.0, 8.0, 11.0, 20.0),
        (45.0, 0.0, 15.0, 9.0, 30.0),
        (78.0, 0.0, 13.0, 7.5, 60.0),
        (108.0, 0.0, 13.0, 7.5, 63.0),
        (132.0, 0.0, 9.0, 8.5, 46.0),
        (147.0, 0.0, 5.0, 6.0, 14.0),
    ),
    squareness=3.5,
)
ILIUM_FLARE = 0.42
"""How far the wing leans outwards: mm a mm of height."""

ILIUM_FOOT_UP_MM = 25.0
ILIUM_TURN_PER_MM = 0.0085
ILIUM_TURN_FROM_MM = -20.0
"""Behind this, the wing turns to the sacrum, with the square of the distance."""

ISCHIUM = ((3, 20, -18, 19), (-10, 33, -58, 16), (-20, 30, -86, 18))
LOWER_RAMUS = ((-22, 24, -88, 13), (-50, -8, -74, 10.5), (-72, -34, -48, 11.5))
UPPER_RAMUS = ((-12, -22, 2, 16), (-44, -40, -4, 12.5), (-74, -44, -18, 12.5))
PUBIC_BODY = ((-76, -42, -32), (13, 12, 22))

SPINE = _Loft(
    (
        (-12.0, 0.0, 88.0, 9.0, 7.0),
        (15.0, 0.0, 92.0, 18.0, 10.0),
        (50.0, 0.0, 86.0, 30.0, 15.0),
        (90.0, 0.0, 66.0, 36.0, 22.0),
        (125.0, 0.0, 42.0, 34.0, 22.0),
        (150.0, 0.0, 32.0, 27.0, 20.0),
        (260.0, 0.0, 30.0, 26.0, 19.0),
    )
)
TRUNK = _Loft(
    (
        (-95.0, 0.0, 28.0, 95.0, 60.0),
        (-55.0, 0.0, 22.0, 155.0, 92.0),
        (0.0, 0.0, 16.0, 172.0, 106.0),
        (60.0, 0.0, 12.0, 170.0, 108.0),
        (140.0, 0.0, 8.0, 158.0, 104.0),
        (280.0, 0.0, 4.0, 146.0, 98.0),
    ),
    squareness=2.4,
)
BOWELS = ((0, -6, 125), (102, 66, 145))
BLADDER = ((0, -28, 14), (33, 25, 27))
GLUTEAL_CLEFT = ((0, 122, 5), (6, 42, 66))
THIGH = _Loft(
    (
        (-470.0, 1.0, 4.0, 57.0, 58.0),
        (-420.0, 0.0, 2.0, 57.0, 61.0),
        (-380.0, 0.0, 2.0, 57.0, 62.0),
        (-310.0, 0.0, 7.0, 62.0, 65.0),
        (-200.0, 0.0, 11.0, 74.0, 76.0),
        (-100.0, 0.0, 14.0, 81.0, 86.0),
        (0.0, 0.0, 15.0, 82.0, 92.0),
        (60.0, 0.0, 15.0, 70.0, 80.0),
    )
)
SHANK = _Loft(
    (
        (-520.0, 3.0, -20.0, 38.0, 96.0),
        (-440.0, 4.0, -2.0, 40.0, 74.0),
        (-390.0, 6.0, 8.0, 46.0, 50.0),
        (-350.0, 7.0, 9.0, 44.0, 44.0),
        (-285.0, 7.0, 12.0, 44.0, 46.0),
        (-180.0, 5.0, 20.0, 52.0, 57.0),
        (-110.0, 5.0, 20.0, 60.0, 63.0),
        (-40.0, 4.0, 8.0, 61.0, 62.0),
        (40.0, 0.0, 3.0, 56.0, 60.0),
    )
)
FEMORAL_VESSELS = (
    (-30, -52, 10, 6),
    (-28, -46, -80, 6),
    (-34, -12, -220, 5.5),
    (-12, 24, -330, 5.5),
    (0, 44, -430, 5),
)
TIBIAL_VESSELS = ((0, 44, -10, 5), (6, 26, -90, 4.5), (-4, 26, -330, 4))

# Where the muscles lie in a section, in units of its half axes; fat parts them.
THIGH_MUSCLES = (
    (0.02, -0.74),  # rectus femoris
    (0.62, -0.36),  # vastus lateralis
    (0.30, -0.30),  # vastus intermedius
    (-0.42, -0.50),  # vastus medialis
    (-0.74, -0.28),  # sartorius
    (-0.36, 0.08),  # adductors
    (-0.80, 0.14),  # gracilis
    (0.46, 0.52),  # biceps femoris
    (0.02, 0.70),  # semitendinosus
    (-0.42, 0.55),  # semimembranosus
)
SHANK_MUSCLES = (
    (0.34, -0.62),  # tibialis anterior
    (0.62, -0.34),  # extensors
    (0.80, 0.02),  # peroneal muscles
    (0.10, 0.02),  # tibialis posterior
    (0.08, 0.36),  # soleus
    (-0.48, 0.64),  # gastrocnemius, medial head
    (0.46, 0.68),  # gastrocnemius, lateral head
)
TRUNK_MUSCLES = (
    (-0.55, 0.66),  # gluteus maximus
    (0.55, 0.66),
    (-0.80, 0.10),  # gluteus medius and minimus
    (0.80, 0.10),
    (-0.55, -0.45),  # iliopsoas
    (0.55, -0.45),
    (0.0, -0.85),  # abdominal wall
    (-0.2, 0.72),  # erector spinae
    (0.2, 0.72),
)
BOXES_MM = {
    "tibia": ((-60, -60, -410), (60, 60, 25)),
    "femur": ((-65, -65, -440), (90, 65, 50)),
    "fibula": ((5, -25, -415), (75, 60, 10)),
    "pelvis": ((-100, -80, -120), (80, 115, 165)),
    "patella": ((-45, -70, -425), (45, -15, -335)),
    "foot": ((-50, -60, -480), (55, 95, -345)),
    "spine": ((-65, 0, -40), (65, 125, 400)),
    "thigh": ((-150, -150, -470), (150, 150, 60)),
    "shank": ((-120, -140, -520), (120, 140, 40)),
    "trunk": ((-250, -200, -95), (250, 200, 280)),
}
"""(2, 3) lowest and highest lateral, posterior and up at which a solid matters."""

JOINT_SPACE_MM = 9.0
"""Two bones with less than this between them share a joint: cartilage and fluid."""

SEPTUM_MM = 3.0
SKIN_MM = 3.0

FAT_UP_MM = (-860.0, -720.0, -440.0, -380.0, -100.0, 0.0, 120.0)
FAT_MM = (3.0, 6.0, 5.0, 7.0, 13.0, 18.0, 18.0)
"""Thickness of the fat under the skin at the heights over the hip joints above."""

TENDON_UP_MM = (-400.0, -330.0, -270.0, -40.0, 0.0, 40.0, 80.0)
TENDON_SHARE = (0.8, 0.6, 0.0, 0.0, 0.6, 0.6, 0.0)
"""How much of the muscle is tendon and fat at the heights over the knee above."""

CORTEX_MM = {
    "tibia": 5.0,
    "femur": 5.0,
    "fibula": 3.5,
    "pelvis": 3.0,
    "patella": 3.0,
    "foot": 2.5,
    "spine": 2.5,
}
"""Thickness of the dark rim of every bone."""

# Signal of every tissue in a water image, before the coil and the receiver.
MARROW = {
    "tibia": 225.0,
    "femur": 235.0,
    "fibula": 225.0,
    "pelvis": 300.0,
    "patella": 235.0,
    "foot": 225.0,
    "spine": 320.0,
}
CORTEX, FAT, SEPTUM, TENDON, SKIN = 35.0, 105.0, 190.0, 230.0, 330.0
BOWEL, MUSCLE, JOINT, BLOOD, URINE = 400.0, 470.0, 580.0, 700.0, 900.0
MUSCLE_TONES = (0.92, 1.08)
"""Range of the signal of single muscles, as a share."""

FATNESS = (0.7, 1.3)
"""Range of the thickness of fat, as a share: people differ."""

NOISE = 17.0
"""Standard deviation of each of the two channels, in units of signal."""

TEXTURE = 0.04
"""Standard deviation of the grain of tissue, as a share of its signal."""

BIAS = 0.22
"""Largest logarithm of the coil's sensitivity."""

GAIN = (0.8, 1.25)
"""Range of the receiver's gain: MR signal has no unit."""


def _femur(points: FloatArray) -> FloatArray:
    shaft_and_ends = (
        FEMUR_SHAFT.distance(points),
        _tube(points, FEMUR_NECK),
        _ball(points, *GREATER_TROCHANTER),
        _ball(points, *LESSER_TROCHANTER),
        _ball(points, *MEDIAL_CONDYLE),
        _ball(points, *LATERAL_CONDYLE),
    )
    body = _union(shaft_and_ends, blend_mm=8.0)
    return np.minimum(body, _ball(points, (0, 0, 0), HEAD_RADIUS_MM))


def _tibia(points: FloatArray) -> FloatArray:
    parts = (
        TIBIA_SHAFT.distance(points),
        _ball(points, *TIBIAL_TUBEROSITY),
        _ball(points, *MEDIAL_MALLEOLUS),
    )
    return _union(parts, blend_mm=6.0)


def _hip_bone(points: FloatArray) -> FloatArray:
    """Return the distance to wing, cup, ischium and pubis of one side."""
    parts = (
        _ball(points, (0, 0, 0), CUP_RADIUS_MM),
        _iliac_wing(points),
        _tube(points, ISCHIUM),
        _tube(points, LOWER_RAMUS),
        _tube(points, UPPER_RAMUS),
        _ball(points, *PUBIC_BODY),
    )
    bone = _union(parts, blend_mm=8.0)
    for_the_head = _ball(points, (0, 0, 0), HEAD_RADIUS_MM + HIP_GAP_MM)
    opening = np.maximum(
        CUP_DEPTH_MM - points @ CUP_OPENING,
        np.linalg.norm(points, axis=-1) - CUP_RADIUS_MM - CUP_MARGIN_MM,
    )
    beyond_symphysis = SYMPHYSIS_LATERAL_MM - points[:, 0]
    distance: FloatArray = np.maximum.reduce(
        [bone, -for_the_head, -opening, beyond_symphysis]
    )
    return distance


def _iliac_wing(points: FloatArray) -> FloatArray:
    """Return the distance to a plate that flares outwards and turns to the sacrum."""
    lateral, posterior, up = points.T
    turn = np.maximum(posterior - ILIUM_TURN_FROM_MM, 0)
    middle = ILIUM_FLARE * (up - ILIUM_FOOT_UP_MM) - ILIUM_TURN_PER_MM * turn**2
    steepness = np.sqrt(1 + ILIUM_FLARE**2 + (2 * ILIUM_TURN_PER_MM * turn) ** 2)
    flattened = np.stack([(lateral - middle) / steepness, posterior, up], axis=1)
    return ILIAC_WING.distance(flattened)


# ----------------------------------------------------------------------------- pose


@dataclass(frozen=True, slots=True, eq=False)
class _Leg:
    """How one leg lies: its frames turn with hip and knee, and stretch with it."""

    hip_mm: FloatArray
    """(3,) hip joint centre: lateral, posterior, up."""

    thigh: FloatArray
    """(3, 3) columns: the femur's own lateral, posterior and up."""

    shank: FloatArray
    """(3, 3) likewise for the tibia."""

    stretch: FloatArray
    """(3,) size of this leg's bones relative to the adult tables."""

    def in_thigh(self, points: FloatArray) -> FloatArray:
        """Return (N, 3) places seen from the hip joint, in mm of the tables."""
        local: FloatArray = (points - self.hip_mm) @ self.thigh / self.stretch
        return local

    def in_shank(self, points: FloatArray) -> FloatArray:
        """Return (N, 3) places seen from the knee, in mm of the tables."""
        femur = np.array([0, 0, -FEMUR_MM * self.stretch[2]])
        knee = self.hip_mm + self.thigh @ femur
        local: FloatArray = (points - knee) @ self.shank / self.stretch
        return local


def _legs(rng: np.random.Generator) -> dict[str, _Leg]:
    """Return both legs of a patient: alike, but not mirror images."""
    ranges = (ABDUCTION_DEGREES, FLEXION_DEGREES, OUTWARD_TURN_DEGREES)
    common = np.array([rng.uniform(*range_) for range_ in ranges])
    girth, length = rng.uniform(*BONE_GIRTH), rng.uniform(*BONE_LENGTH)
    hip_lateral_mm = HIP_LATERAL_MM * rng.uniform(*HIP_WIDTH)
    return {
        side: _leg(
            rng,
            common + rng.normal(0, SIDE_TURN_DEGREES, 3),
            np.array([girth, girth, length]),
            hip_lateral_mm,
        )
        for side in SIDES
    }


def _leg(
    rng: np.random.Generator,
    angles_degrees: FloatArray,
    stretch: FloatArray,
    hip_lateral_mm: float,
) -> _Leg:
    """Return a leg with the given abduction, flexion and outward rotation."""
    abduction, flexion, outward = angles_degrees
    thigh = Rotation.from_euler("yxz", [-abduction, -flexion, outward], degrees=True)
    bend = [
        -rng.uniform(*KNOCK_KNEE_DEGREES),
        rng.uniform(*KNEE_FLEXION_DEGREES),
        rng.uniform(*TIBIAL_TURN_DEGREES),
    ]
    shank = thigh * Rotation.from_euler("yxz", bend, degrees=True)
    return _Leg(
        hip_mm=np.array([hip_lateral_mm, 0, 0]),
        thigh=thigh.as_matrix(),
        shank=shank.as_matrix(),
        stretch=stretch * rng.uniform(*SIDE_SIZE, 3),
    )


def _grid(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
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


# ---------------------------------------------------------------------------- bones


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
        for structure, solid, frame in (
            ("tibia", _tibia, shank),
            ("femur", _femur, thigh),
            ("fibula", FIBULA.distance, shank),
            ("pelvis", _hip_bone, hip),
            ("patella", lambda near: _ball(near, *PATELLA), thigh),
            ("foot", _foot, shank),
        ):
            distances[structure, side] = _nearby(solid, frame, BOXES_MM[structure])
    distances["spine", "middle"] = _nearby(SPINE.distance, points, BOXES_MM["spine"])
    return distances


def _foot(points: FloatArray) -> FloatArray:
    return np.minimum(_ball(points, *TALUS), _ball(points, *CALCANEUS))


def _nearby(
    solid: Callable[[FloatArray], FloatArray], points: FloatArray, box_mm: npt.ArrayLike
) -> FloatArray:
    """Return the distance to `solid` inside a (2, 3) box, and `FAR_MM` elsewhere."""
    low, high = np.asarray(box_mm, dtype=np.float64)
    near = np.ones(len(points), dtype=np.bool_)
    for axis in range(3):
        near &= (points[:, axis] > low[axis]) & (points[:, axis] < high[axis])
    distance = np.full(len(points), FAR_MM)
    distance[near] = solid(points[near])
    return distance


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


# --------------------------------------------------------------------------- signal


def _cover(
    signal: FloatArray,
    distance: FloatArray,
    value: FloatArray | float,
    edge_mm: float,
) -> FloatArray:
    """Return `signal` with a solid laid over it, its border shared by the voxels."""
    share = np.clip(0.5 - distance / edge_mm, 0, 1)
    return signal + (value - signal) * share


def _skin_distance(points: FloatArray, legs: dict[str, _Leg]) -> FloatArray:
    """Return the (N,) distance to the skin of trunk, thighs and shanks."""
    limbs = np.full(len(points), FAR_MM)
    for side, direction in SIDES.items():
        lateral = points * (direction, 1, 1)
        near = lateral[:, 0] > -LEG_OVER_MIDLINE_MM
        leg, lateral = legs[side], lateral[near]
        thigh = _nearby(THIGH.distance, leg.in_thigh(lateral), BOXES_MM["thigh"])
        shank = _nearby(SHANK.distance, leg.in_shank(lateral), BOXES_MM["shank"])
        limb = _union((thigh, shank), blend_mm=12.0)
        limbs[near] = np.minimum(limbs[near], limb)
    trunk = _nearby(TRUNK.distance, points, BOXES_MM["trunk"])
    return _union((limbs, trunk), blend_mm=30.0)


def _muscles(
    points: FloatArray, legs: dict[str, _Leg], tones: FloatArray
) -> FloatArray:
    """Return the (N,) signal of muscles and the fat between them."""
    signal = _compartments(TRUNK, TRUNK_MUSCLES, points, tones)
    for side, direction in SIDES.items():
        lateral = points * (direction, 1, 1)
        thigh, shank = legs[side].in_thigh(lateral), legs[side].in_shank(lateral)
        own = (lateral[:, 0] > 0) & (points[:, 2] < BUTTOCK_FOLD_UP_MM)
        for loft, seeds, frame, here in (
            (THIGH, THIGH_MUSCLES, thigh, own & (shank[:, 2] > 0)),
            (SHANK, SHANK_MUSCLES, shank, own & (shank[:, 2] <= 0)),
        ):
            signal[here] = _compartments(loft, seeds, frame[here], tones)
        tendon = np.interp(shank[own, 2], TENDON_UP_MM, TENDON_SHARE)
        signal[own] += (TENDON - signal[own]) * tendon
    return signal


def _compartments(
    loft: _Loft, seeds: npt.ArrayLike, points: FloatArray, tones: FloatArray
) -> FloatArray:
    """Return muscle signal around each seed (its Voronoi cell), and fat in between."""
    place, half_axes = loft.section(points)
    centres = np.asarray(seeds, dtype=np.float64)
    reach = np.linalg.norm(place[:, None] - centres, axis=2)
    nearest, second = np.partition(reach, 1, axis=1)[:, :2].T
    to_border_mm = (second - nearest) / 2 * half_axes.min(axis=1)
    tone = tones[reach.argmin(axis=1)]
    return _cover(MUSCLE * tone, to_border_mm - SEPTUM_MM / 2, SEPTUM, SEPTUM_MM)


def _soft_tissue(
    points: FloatArray,
    depth: FloatArray,
    legs: dict[str, _Leg],
    rng: np.random.Generator,
    edge_mm: float,
) -> FloatArray:
    """Return the (N,) signal of a body without bones, `depth` below its skin."""
    tones = rng.uniform(*MUSCLE_TONES, len(THIGH_MUSCLES))
    fat_mm = rng.uniform(*FATNESS) * np.interp(points[:, 2], FAT_UP_MM, FAT_MM)
    tissue = _cover(np.zeros(len(points)), depth, SKIN, edge_mm)
    tissue = _cover(tissue, depth + SKIN_MM, FAT, edge_mm)
    muscle = _muscles(points, legs, tones)
    tissue = _cover(tissue, depth + SKIN_MM + fat_mm, muscle, edge_mm)
    for solid, value in ((BOWELS, BOWEL), (BLADDER, URINE), (GLUTEAL_CLEFT, FAT)):
        tissue = _cover(tissue, _ball(points, *solid), value, edge_mm)
    for side, direction in SIDES.items():
        lateral = points * (direction, 1, 1)
        for tube, frame in (
            (FEMORAL_VESSELS, legs[side].in_thigh(lateral)),
            (TIBIAL_VESSELS, legs[side].in_shank(lateral)),
        ):
            tissue = _cover(tissue, _tube(frame, tube), BLOOD, edge_mm)
    return tissue


def _with_bones(
    signal: FloatArray, distances: dict[Place, FloatArray], edge_mm: float
) -> FloatArray:
    """Return the signal with joints, cortical bone and marrow laid over it."""
    nearest, second = np.partition(np.stack(list(distances.values())), 1, axis=0)[:2]
    signal = _cover(signal, nearest + second - JOINT_SPACE_MM, JOINT, edge_mm)
    for (structure, _), distance in distances.items():
        near = distance < edge_mm
        bone = _cover(signal[near], distance[near], CORTEX, edge_mm)
        depth = distance[near] + CORTEX_MM[structure]
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


# ---------------------------------------------------------------------------- whole


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

    Parameters
    ----------
    seed : int
        The same seed gives the same patient, to the last bit.
    shape : (3,) int
        Voxels along i (right to left), j (front to back) and k (feet to head).
    spacing_mm : (3,) float
        Distance in mm between voxel centres along i, j and k. The limb is fitted to
        the height of the field of view, ``shape[2] * spacing_mm[2]``.

    Returns
    -------
    Phantom
        Image and masks on one grid, plain or up to 3 degrees oblique, in LPS+.

    Examples
    --------
    >>> patient = lower_limb(7, shape=(48, 24, 32), spacing_mm=(8, 8, 24))
    >>> patient.volume.voxels.shape, len(patient.masks)
    ((48, 24, 32), 8)
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
