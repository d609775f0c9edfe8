"""The anatomy of a lower limb: measures in mm, and the solids they describe.

Every length is that of an adult of average height. The anatomy is written once, for a
limb seen along three axes: **lateral** (away from the other leg), **posterior** and
**up**. Femur, thigh and hip bone are seen from the hip joint centre (the midline lies
at -90); tibia, fibula, foot and shank from the joint line of the knee; trunk and spine
from the middle between the hip joint centres.
"""

from __future__ import annotations

import numpy as np

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.ops.solids import Loft, Solid, ball, tube, union, within

HIP_LATERAL_MM = 90.0
FEMUR_MM = 420.0
"""Hip joint centre to the joint line of the knee."""

BUTTOCK_FOLD_UP_MM = -50.0
LEG_OVER_MIDLINE_MM = 12.0

HEAD_RADIUS_MM = 24.0
HIP_GAP_MM = 4.0
CUP_RADIUS_MM = 38.0
CUP_OPENING = np.array([0.72, -0.33, -0.61])
"""Unit vector from the acetabulum outwards, forwards and down."""

CUP_DEPTH_MM = 9.0
CUP_MARGIN_MM = 2.0
SYMPHYSIS_LATERAL_MM = -86.5

FEMUR_SHAFT = Loft(
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

TIBIA_SHAFT = Loft(
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
FIBULA = Loft(
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

ILIAC_WING = Loft(
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

SPINE = Loft(
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
TRUNK = Loft(
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
THIGH = Loft(
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
SHANK = Loft(
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


def femur(points: FloatArray) -> FloatArray:
    """Return the (N,) distance to the thigh bone, head and condyles included."""
    shaft_and_ends = (
        FEMUR_SHAFT.distance(points),
        tube(points, FEMUR_NECK),
        ball(points, *GREATER_TROCHANTER),
        ball(points, *LESSER_TROCHANTER),
        ball(points, *MEDIAL_CONDYLE),
        ball(points, *LATERAL_CONDYLE),
    )
    body = union(shaft_and_ends, blend_mm=8.0)
    return np.minimum(body, ball(points, (0, 0, 0), HEAD_RADIUS_MM))


def tibia(points: FloatArray) -> FloatArray:
    """Return the (N,) distance to the shin bone with its inner ankle."""
    parts = (
        TIBIA_SHAFT.distance(points),
        ball(points, *TIBIAL_TUBEROSITY),
        ball(points, *MEDIAL_MALLEOLUS),
    )
    return union(parts, blend_mm=6.0)


def patella(points: FloatArray) -> FloatArray:
    """Return the (N,) distance to the knee cap."""
    return ball(points, *PATELLA)


def foot(points: FloatArray) -> FloatArray:
    """Return the (N,) distance to ankle bone and heel."""
    return np.minimum(ball(points, *TALUS), ball(points, *CALCANEUS))


def hip_bone(points: FloatArray) -> FloatArray:
    """Return the (N,) distance to wing, cup, ischium and pubis of one side."""
    parts = (
        ball(points, (0, 0, 0), CUP_RADIUS_MM),
        _iliac_wing(points),
        tube(points, ISCHIUM),
        tube(points, LOWER_RAMUS),
        tube(points, UPPER_RAMUS),
        ball(points, *PUBIC_BODY),
    )
    bone = union(parts, blend_mm=8.0)
    for_the_head = ball(points, (0, 0, 0), HEAD_RADIUS_MM + HIP_GAP_MM)
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
    """Return the (N,) distance to a plate that flares out and turns to the sacrum."""
    lateral, posterior, up = points.T
    turn = np.maximum(posterior - ILIUM_TURN_FROM_MM, 0)
    middle = ILIUM_FLARE * (up - ILIUM_FOOT_UP_MM) - ILIUM_TURN_PER_MM * turn**2
    steepness = np.sqrt(1 + ILIUM_FLARE**2 + (2 * ILIUM_TURN_PER_MM * turn) ** 2)
    flattened = np.stack([(lateral - middle) / steepness, posterior, up], axis=1)
    return ILIAC_WING.distance(flattened)


SOLIDS: dict[str, Solid] = {
    "tibia": tibia,
    "femur": femur,
    "fibula": FIBULA.distance,
    "pelvis": hip_bone,
    "patella": patella,
    "foot": foot,
    "spine": SPINE.distance,
    "thigh": THIGH.distance,
    "shank": SHANK.distance,
    "trunk": TRUNK.distance,
}
"""Bones first, then what the skin covers."""


def distance(part: str, points: FloatArray) -> FloatArray:
    """Return the (N,) distance in mm to a part, or `FAR_MM` beyond its box.

    Parameters
    ----------
    part : str
        A name of `SOLIDS`.
    points : (N, 3) float64
        Lateral, posterior and up in mm, from where this part is seen.
    """
    return within(SOLIDS[part], points, BOXES_MM[part])
