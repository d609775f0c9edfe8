"""FAULTS K01-K23 at the command: outcome, codes and exit code of every row.

Each fault is planted in the only case of a small study, as the matrix says to make it;
`nnunet-bridge check --json` must name it.
"""

import json

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from click.testing import CliRunner
from dicom_base import base
from small_study import (
    AFFINE,
    FEMUR,
    GRID,
    MASKS,
    RECIPE,
    TIBIA,
    box,
    draw,
    patient,
    scan,
)

from nnunet_bridge.cli import main
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import LPS_FROM_RAS, write_volume
from nnunet_bridge.formats.slicer_write import write_segmentation

RAS = LPS_FROM_RAS @ AFFINE


def check(study, masks="", rest=""):
    """Return exit code, outcome, codes and text of the one case."""
    file = study.with_name("dataset.toml")
    file.write_text(RECIPE % masks + rest)
    words = ["check", str(study), "-r", str(file), "--json", "-q"]
    result = CliRunner().invoke(main, words)
    (case,) = json.loads(result.stdout)["cases"]
    return (
        result.exit_code,
        case["outcome"],
        case["codes"],
        " ".join(case["messages"]),
    )


def as_sitk(mask):
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0).copy())
    image.SetSpacing(GRID.spacing_mm.tolist())
    image.SetOrigin(AFFINE[:3, 3].tolist())
    return image


def redraw(study, image, name="1_tibia_1A"):
    """Replace the tibia by what SimpleITK makes of it."""
    sitk.WriteImage(image, str(study / MASKS / f"{name}.nii.gz"))


def resampled(mask, factor):
    sizes = [round(n / factor) for n in GRID.shape]
    spacing = (GRID.spacing_mm * np.array(GRID.shape) / sizes).tolist()
    origin = (AFFINE[:3, 3] + (np.array(spacing) - GRID.spacing_mm) / 2).tolist()
    return sitk.Resample(
        as_sitk(mask), sizes, sitk.Transform(), sitk.sitkNearestNeighbor, origin,
        spacing, np.eye(3).ravel().tolist(),
    )  # fmt: skip


def plain(study, voxels, affine=RAS, name="1_tibia_1A.nii.gz", **header):
    """Replace the tibia by what nibabel writes."""
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(header.get("sform", affine), header.get("sform_code", 1))
    image.set_qform(header.get("qform", affine), header.get("qform_code", 1))
    if "units" in header:
        image.header.set_xyzt_units(header["units"])
    nibabel.save(image, study / MASKS / name)


def shifted(voxels):
    affine = AFFINE.copy()
    affine[0, 3] += voxels * 0.75
    return Grid(GRID.shape, affine)


def large(places):
    """Return the tibia on a grid that reaches beyond the image by 10 columns."""
    mask = np.zeros((42, 32, 12), np.uint8)
    mask[:32] = box(slice(4, 16), slice(8, 20), slice(2, 10))
    mask[32 : 32 + places, 4, 4] = 1
    return mask


def segments(study, *names, **keys):
    for bone in ("tibia", "femur"):
        (study / MASKS / f"1_{bone}_1A.nii.gz").unlink()
    file = study / MASKS / "1_1A.seg.nrrd"
    parts = [(n, (1, 2, 3), m) for n, m in zip(names, (TIBIA, FEMUR), strict=True)]
    write_segmentation(file, GRID, [(n, c, m.astype(bool)) for n, c, m in parts])
    content = file.read_bytes()
    for old, new in keys.items():
        content = content.replace(f"{old}:=".encode(), f"{new}:=".encode())
    file.write_bytes(content)
    return file


def with_slope(study, slope):
    plain(study, TIBIA * np.uint8(255), name="1_tibia_1A.nii")
    (study / MASKS / "1_tibia_1A.nii.gz").unlink()
    file = study / MASKS / "1_tibia_1A.nii"
    content = bytearray(file.read_bytes())
    content[112:116] = np.float32(slope).tobytes()
    file.write_bytes(content)


def one_voxel(study):
    for bone in ("tibia", "femur"):
        (study / MASKS / f"1_{bone}_1A.nii.gz").unlink()
    header = {
        "space": "left-posterior-superior",
        "space directions": np.eye(3).tolist(),
        "space origin": [0, 0, 0],
        "Segment0_Name": "tibia", "Segment0_Layer": "0", "Segment0_LabelValue": "1",
        "Segment1_Name": "femur", "Segment1_Layer": "0", "Segment1_LabelValue": "2",
    }  # fmt: skip
    file = study / MASKS / "1_1A.seg.nrrd"
    nrrd.write(str(file), np.zeros((1, 1, 1), np.uint8), header)


def black(study, columns):
    slices = base()
    for ds in slices:
        values = np.frombuffer(ds.PixelData, "<u2").reshape(32, 32).copy()
        values[:, columns] = 0
        ds.PixelData = values.tobytes()
    scan(study, 1, "1A", slices)


def sides(study, left, right):
    (study / MASKS / "1_tibia_1A.nii.gz").unlink()
    draw(study, "1_L_tibia_1A", left)
    draw(study, "1_R_tibia_1A", right)
    draw(study, "1_femur_1A", box(slice(14, 18)))


def cut(study, kept):
    file = study / MASKS / "1_tibia_1A.nii.gz"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])


def bit(study):
    plain(study, np.random.default_rng(0).integers(0, 2, GRID.shape).astype(np.uint8))
    file = study / MASKS / "1_tibia_1A.nii.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def without_place(study, mask, bones=("tibia", "femur")):
    for bone in bones:
        whole = {"tibia": TIBIA, "femur": FEMUR}[bone]
        plain(study, mask(whole), np.eye(4), f"1_{bone}_1A.nii.gz")


def speckled():
    mask = TIBIA.copy()
    mask[14:19, 28, 10] = 1
    return mask


SHEARED = RAS.copy()
SHEARED[0, 2] = 1.0
MOVED = RAS.copy()
MOVED[0, 3] += 5
MICRONS = RAS.copy()
MICRONS[:3] *= 1000
METRES = RAS.copy()
METRES[:3] /= 1000
ABSURD = RAS.copy()
ABSURD[:3] *= 1000
TWO = TIBIA * np.uint8(3)
TWO[4] *= 2
TWO[TWO == 6] = 7
HALF = TIBIA.astype(np.float32)
HALF[4, 8:11] *= 0.25
NAN = TIBIA.astype(np.float32)
NAN[0, 0, 0] = np.nan
ELSEWHERE = AFFINE.copy()
ELSEWHERE[2, 3] += 50
OVERLAP = box(slice(11, 28))
SLIGHT = box(slice(20, 28))
SLIGHT[11, 8, 3] = 1


def permuted(study):
    redraw(study, sitk.PermuteAxes(as_sitk(TIBIA), [2, 0, 1]))


def flipped(study):
    redraw(study, sitk.Flip(as_sitk(TIBIA), [True, False, True]))


def misspelt(study, name):
    (study / MASKS / "1_femur_1A.nii.gz").rename(study / MASKS / f"1_{name}_1A.nii.gz")


def enlarged(study, places):
    draw(study, "1_tibia_1A", large(places), grid=Grid((42, 32, 12), AFFINE))
    draw(study, "1_femur_1A", box(slice(26, 31)))


TIBIAS_OF_TWO = ("1_tibia_1A", "2_tibia_2B")
OK, FIX, WARN, REFUSE = (
    (0, "accepted"),
    (0, "fixed"),
    (0, "warned"),
    (3, "refused"),
)
PART, STATED = (lambda mask: mask[:, :, 2:-1]), "slices = [2, -1]"

ROWS = {
    "K01 flipped": (flipped, FIX, ["K01"], "turned or flipped"),
    "K01 permuted": (permuted, FIX, ["K02"], "voxel by voxel"),
    "K02 cropped": (
        lambda s: redraw(s, as_sitk(TIBIA)[4:12, 8:14, 3:9]),
        FIX, ["K02"], "cropped, padded or turned",
    ),
    "K02 larger": (lambda s: enlarged(s, 0), FIX, ["K02"], "padded"),
    "K02 a voxel outside": (
        lambda s: enlarged(s, 1), WARN, ["K02"], "1 of 1153 voxels",
    ),
    "K02 more outside": (
        lambda s: enlarged(s, 9), REFUSE, ["K02"], "9 of 1161",
    ),
    "K03 oversampled": (
        lambda s: redraw(s, resampled(TIBIA, 0.5)), FIX, ["K03"], "+0.00%",
    ),
    "K03 by 0.7": (
        lambda s: redraw(s, resampled(TIBIA, 0.7)), REFUSE, ["K03"], "by +6.5%",
    ),
    "K03 by 1.3": (
        lambda s: redraw(s, resampled(TIBIA, 1.3)), REFUSE, ["K03"], "limit 2%",
    ),
    "K04 by 1e-5": (
        lambda s: draw(s, "1_tibia_1A", TIBIA, grid=shifted(1e-5)), OK, [], "",
    ),
    "K04 by 0.01": (
        lambda s: draw(s, "1_tibia_1A", TIBIA, grid=shifted(0.01)), OK, [], "",
    ),
    "K04 by 0.1": (
        lambda s: draw(s, "1_tibia_1A", TIBIA, grid=shifted(0.1)),
        WARN, ["K04"], "0.075 mm beside",
    ),
    "K04 by 0.5": (
        lambda s: draw(s, "1_tibia_1A", TIBIA, grid=shifted(0.5)),
        REFUSE, ["K05"], "0.3",
    ),
    "K05 50 mm off": (
        lambda s: draw(s, "1_tibia_1A", TIBIA, grid=Grid(GRID.shape, ELSEWHERE)),
        REFUSE, ["K05"], "50.00 mm away",
    ),
    "K05 identity": (
        lambda s: without_place(s, lambda m: m), REFUSE, ["K05"], "identity matrix",
    ),
    "K06 255": (lambda s: plain(s, TIBIA * np.uint8(255)), FIX, ["K06"], "255"),
    "K06 several": (lambda s: plain(s, TWO), REFUSE, ["K06"], "3, 7"),
    "K07 nearly whole": (
        lambda s: plain(s, TIBIA * np.float32(1 + 2e-7)), FIX, ["K07"], "rounded",
    ),
    "K07 fractions": (lambda s: plain(s, HALF), REFUSE, ["K07"], "0.25"),
    "K07 slope 1/255": (lambda s: with_slope(s, 1 / 255), OK, [], ""),
    "K07 NaN": (lambda s: plain(s, NAN), REFUSE, ["K07"], "NaN"),
    "K08 4-D": (
        lambda s: plain(s, np.stack([TIBIA] * 2, -1)), REFUSE, ["K08"], "32, 32, 12, 2",
    ),
    "K09 segments": (lambda s: segments(s, "tibia", "Femur "), OK, [], ""),
    "K09 no layer": (
        lambda s: segments(s, "tibia", "femur", Segment1_Layer="Segment1_Loyer"),
        REFUSE, ["K09"], "no Layer",
    ),
    "K10 one voxel": (one_voxel, REFUSE, ["K14"], "is empty"),
    "K11 two places": (
        lambda s: plain(s, TIBIA, qform=MOVED, qform_code=1, sform_code=2),
        REFUSE, ["K11"], "5.000 mm apart",
    ),
    "K11 no place": (
        lambda s: plain(s, TIBIA, sform_code=0, qform_code=0),
        REFUSE, ["K11"], "has no place in the patient",
    ),
    "K11 shear": (
        lambda s: plain(s, TIBIA, sform=SHEARED, qform_code=0),
        REFUSE, ["K11"], "not perpendicular",
    ),
    "K12 microns": (lambda s: plain(s, TIBIA, MICRONS, units="micron"), OK, [], ""),
    "K12 metres": (lambda s: plain(s, TIBIA, METRES, units="meter"), OK, [], ""),
    "K12 absurd": (
        lambda s: plain(s, TIBIA, ABSURD), REFUSE, ["K12"], "750",
    ),
    "K13 right": (lambda s: sides(s, FEMUR, TIBIA), OK, [], ""),
    "K13 exchanged": (lambda s: sides(s, TIBIA, FEMUR), REFUSE, ["K13"], "12.0 mm"),
    "K13 single": (
        lambda s: (s / MASKS / "1_tibia_1A.nii.gz").rename(
            s / MASKS / "1_L_tibia_1A.nii.gz"
        ),
        WARN, ["K13"], "beyond the middle",
    ),
    "K14 empty": (
        lambda s: draw(s, "1_femur_1A", FEMUR * 0), REFUSE, ["K14"], "femur is empty",
    ),
    "K15 not drawn": (
        lambda s: (s / MASKS / "1_femur_1A.nii.gz").unlink(),
        REFUSE, ["K15"], "femur is missing",
    ),
    "K16 large": (
        lambda s: draw(s, "1_femur_1A", OVERLAP), REFUSE, ["K16"], "36 voxels",
    ),
    "K16 slight": (
        lambda s: draw(s, "1_femur_1A", SLIGHT), FIX, ["K16"], "1 voxels",
    ),
    "K17 another code": (
        lambda s: (s / MASKS / "1_femur_1A.nii.gz").rename(
            s / MASKS / "1_femur_9Z.nii.gz"
        ),
        REFUSE, ["K17"], "another code",
    ),
    "K17 in air": (
        lambda s: black(s, slice(18, None)), REFUSE, ["K17", "K18"], "100% of femur",
    ),
    "K18 partly": (lambda s: black(s, slice(27, None)), REFUSE, ["K18"], "12.5%"),
    "K19 cut": (lambda s: cut(s, 0.9), REFUSE, ["K19"], "damaged"),
    "K19 bit": (bit, REFUSE, ["K19"], "damaged"),
    "K20 part of the stack": (
        lambda s: without_place(s, PART), REFUSE, ["K20"], "has 9 slices, the image 12",
    ),
    "K21 misspelt": (lambda s: misspelt(s, "femurr"), REFUSE, ["K21"], "mean femur"),
    "K21 trimmed": (lambda s: misspelt(s, "FEMUR "), OK, [], ""),
    "K21 twice": (
        lambda s: draw(s, "1_Femur _1A", FEMUR), REFUSE, ["K21"], "drawn twice",
    ),
    "K22 specks": (lambda s: draw(s, "1_tibia_1A", speckled()), WARN, ["K22"], "98.3%"),
}  # fmt: skip


@pytest.fixture
def study(tmp_path):
    root = tmp_path / "study"
    patient(root, 1, "1A")
    return root


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_masks_has_its_outcome_codes_figures_and_exit_code(study, row):
    plant, (exit_code, outcome), codes, message = ROWS[row]
    plant(study)

    found = check(study)

    assert found[:3] == (exit_code, outcome, codes), found[3]
    assert message in found[3]


OPTIONS = {
    "K05 identity": ('ignore_place = "msk_001"', "", WARN, ["K05"], "ignore_place"),
    "K05 50 mm off": ('ignore_place = ["msk_001"]', "", WARN, ["K05"], "50.00 mm"),
    "K06 several": ("values.tibia = [3, 7]", "", FIX, ["K06"], "288 voxels"),
    "K07 fractions": ("threshold = 0.5", "", FIX, ["K07"], "from 0.5 on"),
    "K14 empty": ("", '[cases.msk_001]\nfemur = "absent"', OK, [], ""),
    "K15 not drawn": ("", '[cases.msk_001]\nfemur = "ignore"', WARN, ["K15"], "97.7%"),
    "K16 large": ("", "[merge]\noverlap_limit_percent = 20", FIX, ["K16"], "36"),
    "K20 part of the stack": (STATED, "", WARN, ["K20"], "slices 2 to 10 of 12"),
}


@pytest.mark.parametrize("row", OPTIONS)
def test_what_a_row_refuses_the_recipe_can_settle_by_name(study, row):
    masks, rest, (exit_code, outcome), codes, message = OPTIONS[row]
    ROWS[row][0](study)

    found = check(study, masks, rest)

    assert found[:3] == (exit_code, outcome, codes), found[3]
    assert message in found[3]


@pytest.mark.parametrize(
    "wrong", ["[2, 10]", "[9, 2]", "[5, 14]", "{msk_002 = [2, -1]}"]
)
def test_K20_a_stated_range_that_does_not_fit_is_refused(study, wrong):
    without_place(study, PART)

    assert check(study, f"slices = {wrong}")[1:3] == ("refused", ["K20"])


def test_K20_masks_on_stated_slices_are_still_looked_for_in_air(study):
    black(study, slice(18, None))
    without_place(study, PART)

    assert check(study, STATED)[1:3] == ("refused", ["K17", "K18", "K20"])


def test_K06_values_that_are_not_meant_are_left_out_with_their_number(study):
    plain(study, TWO)

    _, outcome, codes, message = check(study, "values.tibia = 3")

    assert (outcome, codes) == ("warned", ["K06"])
    assert "36 voxels of other values were left out" in message
    assert check(study, "values.tibia = 5")[1:3] == ("refused", ["K06"])


def test_K07_a_threshold_is_for_probabilities_only(study):
    plain(study, HALF * 9)

    assert check(study, "threshold = 0.5")[1:3] == ("refused", ["K07"])


def test_K17_masks_of_two_patients_on_one_grid_pass_but_their_pairs_are_recorded(
    study, tmp_path
):
    """Geometry cannot tell; the hash of the pair changes, and the manifest has it."""
    patient(study, 2, "2B")
    brighter = base()
    for ds in brighter:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") + 7).tobytes()
    scan(study, 2, "2B", brighter)
    draw(study, "1_tibia_1A", box(slice(5, 13)))
    file = study.with_name("dataset.toml")
    file.write_text(RECIPE % "")
    work = tmp_path / "work"
    words = ["convert", str(study), "-r", str(file), "-w", str(work), "--json", "-q"]

    def pairs():
        work.mkdir(exist_ok=True)
        assert CliRunner().invoke(main, words).exit_code == 0
        manifest = work / "nnUNet_raw" / "Dataset001_Tibia" / "manifest.json"
        cases = json.loads(manifest.read_text())["cases"]
        return [case["pair_sha256"] for case in cases]

    before = pairs()
    one, other = (study / MASKS / f"{name}.nii.gz" for name in TIBIAS_OF_TWO)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    after = pairs()

    assert len({*before, *after}) == 4


def write_striped(study):
    """Write a scan whose content is a textured cube, and the mask of the cube."""
    rng = np.random.default_rng(3)
    cube = np.zeros((64, 64, 30), bool)
    cube[10:40, 14:44, 5:22] = True
    slices = base(30, size=64)
    for k, ds in enumerate(slices):
        values = 300 + 500 * cube[:, :, k].T + rng.integers(0, 60, (64, 64))
        ds.PixelData = values.astype("<u2").tobytes()
    scan(study, 1, "1A", slices)
    return cube.astype(np.uint8), Grid((64, 64, 30), AFFINE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m: np.flip(m, 0), "flipped along i"),
        (lambda m: np.flip(m, 1), "flipped along j"),
        (lambda m: np.flip(m, 2), "flipped along k"),
        (lambda m: np.roll(m, 3, 1), "moved by -3 voxels along j (-2.2 mm)"),
        (lambda m: np.roll(m, -4, 2), "moved by +4 voxels along k (+16.0 mm)"),
        (lambda m: m, ""),
    ],
    ids=["flip i", "flip j", "flip k", "shift j", "shift k", "as it is"],
)
def test_K23_a_mask_that_fits_better_elsewhere_is_worth_a_warning(
    tmp_path, wrong, message
):
    study = tmp_path / "study"
    mask, grid = write_striped(study)
    path = study / MASKS / "1_tibia_1A.nii.gz"
    write_volume(path, Volume(grid, np.ascontiguousarray(wrong(mask))))
    declared = '[cases.msk_001]\nfemur = "absent"'

    exit_code, outcome, codes, text = check(study, rest=declared)

    assert exit_code == 0
    assert (outcome, codes) == (("warned", ["K23"]) if message else ("accepted", []))
    assert message in text


@pytest.mark.parametrize(
    ("row", "masks", "field", "kept", "option"),
    [
        ("K01 flipped", "", "method", "pasted", {}),
        ("K03 oversampled", "", "method", "whole factor", {}),
        ("K04 by 0.1", "", "method", "snapped", {}),
        (
            "K05 50 mm off", 'ignore_place = "msk_001"', "method", "stated place",
            {"ignore_place": ["msk_001"]},
        ),
        ("K06 255", "", "read_as", "one value", {}),
        (
            "K06 several", "values.tibia = [3, 7]", "read_as", "values 3, 7",
            {"values": {"tibia": [3, 7]}},
        ),
        ("K07 nearly whole", "", "read_as", "rounded", {}),
        (
            "K07 fractions", "threshold = 0.5", "read_as", "threshold 0.5",
            {"threshold": 0.5},
        ),
        (
            "K20 part of the stack", STATED, "method", "stated slices",
            {"slices": [2, -1]},
        ),
    ],
)  # fmt: skip
def test_the_manifest_keeps_how_a_mask_was_read_and_placed_and_what_was_stated(  # noqa: PLR0913, PLR0917 - a row has five words
    study, tmp_path, row, masks, field, kept, option
):
    ROWS[row][0](study)
    file = study.with_name("dataset.toml")
    file.write_text(RECIPE % masks)
    (tmp_path / "work").mkdir()
    words = ["convert", str(study), "-r", str(file), "-w", str(tmp_path / "work")]

    assert CliRunner().invoke(main, words).exit_code == 0

    folder = tmp_path / "work" / "nnUNet_raw" / "Dataset001_Tibia"
    manifest = json.loads((folder / "manifest.json").read_text())
    (case,) = manifest["cases"]
    (tibia,) = [mask for mask in case["masks"] if mask["structure"] == "tibia"]
    assert tibia[field] == kept
    assert tibia["voxels_after"] > 0
    assert {key: manifest["options"]["masks"][key] for key in option} == option
    assert set(case["content"]) >= {"judged", "contrast", "fits_better"}
    assert row.split()[0] in {found["code"] for found in case["findings"]}
    assert "1_tibia_1A" not in json.dumps(manifest)
