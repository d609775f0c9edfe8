"""The anatomy of a lower limb: measures in mm, and the solids they describe.

Every length is that of an adult of average height. The anatomy is written once, for a
limb seen along three axes: **lateral** (away from the other leg), **posterior** and
**up**. Femur, thigh and hip bone are seen from the hip joint centre (the midline lies
at -90); tibia, fibula, foot and shank from the joint line of the knee; trunk and spine
from the middle between the hip joint centres.
"""

import numpy as np

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.ops.solids import Loft, Solid, ball, tube, union, within

HIP_LATERAL_MM = 90.0
FEMUR_MM = 420.0  # hip joint centre to the joint line of the knee

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
    (-408, -392, -362, -310, -200, -110, -60, -30),
    (0, 0, 4, 13, 29, 41, 45, 47),
    (3, 2, 0, -6, -9, 0, 7, 9),
    (36, 36, 25, 17, 15, 16, 18.5, 17),
    (26, 25, 20, 16, 15, 16, 18, 17),
)
FEMUR_NECK = ((0, 0, 0, 17), (24, 4, -20, 15.5), (45, 8, -45, 19))
GREATER_TROCHANTER = ((52, 14, -8), (16, 19, 22))
LESSER_TROCHANTER = ((29, 20, -68), (11, 11, 16))
MEDIAL_CONDYLE = ((-24, 7, -395), (18, 32, 22))
LATERAL_CONDYLE = ((24, 7, -395), (17, 32, 21.5))
PATELLA = ((2, -44, -380), (21, 10, 21))

TIBIA_SHAFT = Loft(
    (-361, -350, -325, -275, -190, -115, -65, -35, -16, -4),
    (-3, -3, -4, -6, -6, -5, -3, -1, 0, 0),
    (2, 2, 3, 3, 1, 0, 2, 4, 5, 5),
    (21, 20, 15, 13, 13.5, 16, 21, 30, 37, 37),
    (17, 17, 14, 13.5, 15.5, 18.5, 21, 24, 25, 25),
    crest=0.13,
)
TIBIAL_TUBEROSITY = ((4, -19, -46), (10, 8, 18))
MEDIAL_MALLEOLUS = ((-20, -1, -366), (8.5, 13, 15))
FIBULA = Loft(
    (-390, -370, -340, -295, -200, -100, -52, -28, -14),
    (31, 32, 31, 31, 33, 38, 41, 42, 42),
    (11, 10, 11, 15, 19, 22, 24, 25, 26),
    (8, 11, 10.5, 9.5, 9.5, 9.5, 10, 12.5, 9),
    (9, 13, 12, 9.5, 9.5, 9.5, 10, 13, 9),
)
"""Thicker than life below its head, so that thick slices can hold it."""

TALUS = ((0, 4, -386), (21, 28, 20))
CALCANEUS = ((4, 32, -424), (20, 38, 22))

ILIAC_WING = Loft(
    (18, 45, 78, 108, 132, 147),
    (0, 0, 0, 0, 0, 0),
    (8, 15, 13, 13, 9, 5),
    (11, 9, 7.5, 7.5, 8.5, 6),
    (20, 30, 60, 63, 46, 14),
    squareness=3.5,
)
ILIUM_FLARE = 0.42  # how far the wing leans outwards: mm a mm of height

ILIUM_FOOT_UP_MM = 25.0
ILIUM_TURN_PER_MM = 0.0085
ILIUM_TURN_FROM_MM = -20.0
"""Behind this, the wing turns to the sacrum, with the square of the distance."""

ISCHIUM = ((3, 20, -18, 19), (-10, 33, -58, 16), (-20, 30, -86, 18))
LOWER_RAMUS = ((-22, 24, -88, 13), (-50, -8, -74, 10.5), (-72, -34, -48, 11.5))
UPPER_RAMUS = ((-12, -22, 2, 16), (-44, -40, -4, 12.5), (-74, -44, -18, 12.5))
PUBIC_BODY = ((-76, -42, -32), (13, 12, 22))

SPINE = Loft(
    (-12, 15, 50, 90, 125, 150, 260),
    (0, 0, 0, 0, 0, 0, 0),
    (88, 92, 86, 66, 42, 32, 30),
    (9, 18, 30, 36, 34, 27, 26),
    (7, 10, 15, 22, 22, 20, 19),
)
TRUNK = Loft(
    (-95, -55, 0, 60, 140, 280),
    (0, 0, 0, 0, 0, 0),
    (28, 22, 16, 12, 8, 4),
    (95, 155, 172, 170, 158, 146),
    (60, 92, 106, 108, 104, 98),
    squareness=2.4,
)
BOWELS = ((0, -6, 125), (102, 66, 145))
BLADDER = ((0, -28, 14), (33, 25, 27))
GLUTEAL_CLEFT = ((0, 122, 5), (6, 42, 66))
THIGH = Loft(
    (-470, -420, -380, -310, -200, -100, 0, 60),
    (1, 0, 0, 0, 0, 0, 0, 0),
    (4, 2, 2, 7, 11, 14, 15, 15),
    (57, 57, 57, 62, 74, 81, 82, 70),
    (58, 61, 62, 65, 76, 86, 92, 80),
)
SHANK = Loft(
    (-520, -440, -390, -350, -285, -180, -110, -40, 40),
    (3, 4, 6, 7, 7, 5, 5, 4, 0),
    (-20, -2, 8, 9, 12, 20, 20, 8, 3),
    (38, 40, 46, 44, 44, 52, 60, 61, 56),
    (96, 74, 50, 44, 46, 57, 63, 62, 60),
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

BONES = ("tibia", "femur", "fibula", "pelvis", "patella", "foot", "spine")
CORTEX_MM = dict(zip(BONES, (5.0, 5.0, 3.5, 3.0, 3.0, 2.5, 2.5), strict=True))
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
    "patella": lambda points: ball(points, *PATELLA),
    "foot": lambda points: np.minimum(ball(points, *TALUS), ball(points, *CALCANEUS)),
    "spine": SPINE.distance,
    "thigh": THIGH.distance,
    "shank": SHANK.distance,
    "trunk": TRUNK.distance,
}
"""Bones first, then what the skin covers."""


def distance(part: str, points: FloatArray) -> FloatArray:
    """Return the (N,) distance in mm to a part of `SOLIDS`; `FAR_MM` beyond its box.

    `points` are (N, 3): lateral, posterior and up in mm, from where the part is seen.
    """
    return within(SOLIDS[part], points, BOXES_MM[part])
