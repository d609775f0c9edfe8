"""Studies whose images have several channels: water and fat, T1 and T2."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from command import bridge
from dicom_base import each, expected, save
from dixon import OFFSET, dixon, shuffled
from small_study import FEMUR, GRID, MASKS, SCANS, TIBIA, draw

from nnunet_bridge.core.errors import RecipeError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.formats.recipe import recipe_from

RECIPE = """
[dataset]
id = 1
name = "Tibia"
case = "msk_{{index:03d}}"
channels = {channels}
{dataset}
[scans]
folder = "Raw DICOM MRI Scans"
[masks]
folder = "masks"
[labels]
tibia = 1
femur = 2
{more}
"""


def write_recipe(study, channels=("water", "fat"), dataset="", more=""):
    words = {"channels": json.dumps(list(channels)), "dataset": dataset, "more": more}
    (study / "dataset.toml").write_text(RECIPE.format(**words))


def masks(study, index):
    draw(study, f"{index}_tibia_{index}A", TIBIA)
    draw(study, f"{index}_femur_{index}A", FEMUR)


def scan_folder(study, index):
    return study / SCANS / f"{index}_Dixon_{index}A"


def patient(study, index, seed=0, **words):
    save(shuffled(dixon(index=index, **words), seed), scan_folder(study, index))
    masks(study, index)


def convert(study, check=True):
    work = study.parent / "work"
    result = bridge("convert", study, "-w", work, "--json", check=check)
    return result, work / "nnUNet_raw" / "Dataset001_Tibia"


def messages(result):
    cases = json.loads(result.stdout)["cases"]
    return {case["case"]: "\n".join(case["messages"]) for case in cases}


def stored(contrast, index):
    """Return the (i, j, k) values that the slices of a contrast were given."""
    return expected() + OFFSET[contrast] + index


@pytest.mark.parametrize("series", ["one", "each"])
def test_channels_are_found_by_the_words_of_dixon_in_any_order(tmp_path, series):
    study = tmp_path / "study"
    for index in (1, 2):
        patient(study, index, seed=index, series=series)
    write_recipe(study, ["opposed", "fat", "water", "in"])

    _, dataset = convert(study)

    names = json.loads((dataset / "dataset.json").read_text())["channel_names"]
    assert names == {"0": "opposed", "1": "fat", "2": "water", "3": "in"}
    for index in (1, 2):
        for number, name in names.items():
            file = dataset / "imagesTr" / f"msk_{index:03d}_{int(number):04d}.nii.gz"
            voxels = np.asarray(nib.load(file).dataobj)
            # By nibabel, in RAS: our files keep the axes of the scan.
            assert np.array_equal(voxels, stored(name, index)), (index, name)
    manifest = json.loads((dataset / "manifest.json").read_text())
    case = manifest["cases"][0]
    assert case["channels"] == list(names.values())
    assert [one["name"] for one in case["more_channels"]] == list(names.values())[1:]
    assert case["more_channels"][0]["contrast"]["image_type"][-1] == "F"
    assert case["files"] == {"used": 48 + 2, "excluded": 0, "failed": 0}


def test_a_second_run_keeps_all_channels_and_a_damaged_one_is_written_again(tmp_path):
    study = tmp_path / "study"
    patient(study, 1)
    patient(study, 2)
    write_recipe(study)
    _, dataset = convert(study)
    file = dataset / "imagesTr" / "msk_001_0001.nii.gz"
    whole = file.read_bytes()

    again = json.loads(convert(study)[0].stdout)["cases"]
    file.write_bytes(whole[:-100])
    mended = json.loads(convert(study)[0].stdout)["cases"]

    assert [case["rewritten"] for case in again] == [False, False]
    assert [case["rewritten"] for case in mended] == [True, False]
    assert file.read_bytes() == whole


def test_a_case_is_written_with_all_channels_or_none(tmp_path, monkeypatch):
    study = tmp_path / "study"
    patient(study, 1)
    write_recipe(study)

    def full(file, image):
        if file.name.endswith("_0001.nii.gz"):
            raise OSError(28, "No space left on device")
        write_volume(file, image)

    monkeypatch.setattr(
        "nnunet_bridge.pipeline.ingest.dataset_writer.write_volume", full
    )

    assert convert(study, check=False)[0].exit_code not in (0, 4)
    assert list((tmp_path / "work").rglob("*.nii.gz")) == []


def test_a_channel_is_chosen_by_description_echo_time_or_number(tmp_path):
    study = tmp_path / "study"
    for index in (1, 2):
        found = dixon(
            names=("water", "fat", "in"), series="each", index=index,
            words=dict.fromkeys(("water", "fat", "in"), "M"),
        )  # fmt: skip
        each(found["water"], SeriesDescription="T1 TSE sag", EchoTime=9.0)
        each(found["fat"], SeriesDescription="T2 TSE sag FAT SAT", EchoTime=80.0)
        each(found["in"], SeriesDescription="PD", EchoTime=30.0)
        save(shuffled(found, index), scan_folder(study, index))
        masks(study, index)
    more = '[channels.late]\necho_time_ms = 80\n[channels.third]\nseries = "8"'
    write_recipe(study, ["T1", "late", "third"], more=more)

    _, dataset = convert(study)

    for number, name in enumerate(["water", "fat", "in"]):
        file = dataset / "imagesTr" / f"msk_001_{number:04d}.nii.gz"
        assert np.array_equal(np.asarray(nib.load(file).dataobj), stored(name, 1))
    described = json.loads((dataset / "dataset.json").read_text())
    own = {"late": {"echo_time_ms": 80.0}, "third": {"series": "8"}}
    assert described["channel_series"] == own
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["options"]["channels"]["third"]["series"] == "8"


def test_one_channel_may_have_a_choice_too(tmp_path):
    study = tmp_path / "study"
    patient(study, 1)
    write_recipe(study, ["fat"], more='[channels.fat]\nimage_type = "F"')

    _, dataset = convert(study)

    (file,) = (dataset / "imagesTr").iterdir()
    assert np.array_equal(np.asarray(nib.load(file).dataobj), stored("fat", 1))


def test_D17_a_patient_without_one_channel_is_refused_by_name(tmp_path):
    study = tmp_path / "study"
    patient(study, 1)
    patient(study, 2, names=("water", "in"))
    alone = dixon(names=("water",), words={"water": "M"})
    save(shuffled(alone), scan_folder(study, 3))
    masks(study, 3)
    twice = dixon(names=("water", "fat"), series="each")
    other = dixon(names=("fat",), index=4)
    each(other["fat"], SeriesNumber=99)
    for ds in other["fat"]:
        ds.StudyInstanceUID = twice["fat"][0].StudyInstanceUID
        ds.FrameOfReferenceUID = twice["fat"][0].FrameOfReferenceUID
    slices = shuffled({**twice, "more": other["fat"]})
    save(slices, scan_folder(study, 4))
    masks(study, 4)
    write_recipe(study)

    result, dataset = convert(study, check=False)

    said = messages(result)
    assert result.exit_code == 4
    assert "Channel" not in said["msk_001"]
    assert (
        "[D04] Channel fat: No images have the image type F or FAT" in said["msk_002"]
    )
    assert "`image_type` in [channels.fat]" in said["msk_002"]
    assert "[D17] The channels water and fat are the same images" in said["msk_003"]
    assert "[D01] Channel fat: The folder holds 2 sets of images" in said["msk_004"]
    assert "series 99" in said["msk_004"]
    assert (
        "Choose one with `series` in [channels.fat] of the recipe." in said["msk_004"]
    )
    assert sorted(file.name for file in (dataset / "imagesTr").iterdir()) == [
        "msk_001_0000.nii.gz",
        "msk_001_0001.nii.gz",
    ]


COARSE = Grid((20, 24, 10), np.array(
    [[1.1, 0, 0, -11.7], [0, 0, 5.2, -12.4], [0, -1.3, 0, -70.9], [0, 0, 0, 1.0]]
).dot(np.diag([1, 1, 1, 1])))  # fmt: skip


def of_files(study, **second):
    """Write a study of files with a case table: T1 on the grid of the masks, and T2."""
    study.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    first = rng.integers(1, 900, GRID.shape).astype(np.int16)
    first[TIBIA + FEMUR > 0] += 2000
    write_volume(study / "a" / "t1.nii.gz", Volume(GRID, first))
    grid = second.pop("grid", COARSE)
    voxels = rng.integers(5, 900, grid.shape).astype(np.int16)
    write_volume(study / "a" / "t2.nii.gz", Volume(grid, voxels))
    draw(study, "tibia", TIBIA, "a")
    draw(study, "femur", FEMUR, "a")
    table = ["file,role,patient,channel,structure", "a/t2.nii.gz,image,A,T2,"]
    table += ["a/t1.nii.gz,image,A,T1,", "a/tibia.nii.gz,mask,A,,tibia"]
    table += ["a/femur.nii.gz,mask,A,,femur"]
    (study / "cases.csv").write_text("\n".join(table) + "\n")
    return voxels


def test_G21_a_contrast_on_another_grid_is_interpolated_if_the_recipe_says_so(tmp_path):
    study = tmp_path / "study"
    of_files(study)
    write_recipe(study, ["T1", "T2"], 'table = "cases.csv"')
    refused, _ = convert(study, check=False)
    words = 'table = "cases.csv"\nresample_channels = true'
    write_recipe(study, ["T1", "T2"], words)

    result, dataset = convert(study)

    assert refused.exit_code == 3
    assert "`resample_channels = true` in [dataset]" in messages(refused)["msk_001"]
    assert (
        "Channel T2, 20 x 24 x 10 voxels of 1.1 x 1.3 x 5.2 mm, was interpolated"
        in (messages(result)["msk_001"])
    )
    reference = SimpleITK.ReadImage(str(study / "a" / "t1.nii.gz"))
    moving = SimpleITK.ReadImage(str(study / "a" / "t2.nii.gz"), SimpleITK.sitkFloat32)
    lowest = float(SimpleITK.GetArrayViewFromImage(moving).min())
    wanted = SimpleITK.Resample(
        moving,
        reference,
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        lowest,
        SimpleITK.sitkFloat32,
    )
    file = dataset / "imagesTr" / "msk_001_0001.nii.gz"
    found = SimpleITK.ReadImage(str(file))
    assert found.GetSize() == reference.GetSize()
    values = SimpleITK.GetArrayFromImage(found)
    np.testing.assert_allclose(
        values, SimpleITK.GetArrayFromImage(wanted), rtol=0, atol=1e-2
    )
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["options"]["dataset"]["resample_channels"] is True
    (channel,) = manifest["cases"][0]["more_channels"]
    outside = (
        np.count_nonzero(SimpleITK.GetArrayFromImage(wanted) == lowest) / values.size
    )
    assert channel["placed"] == "resampled"
    assert channel["share_outside"] == pytest.approx(outside, abs=2e-3)


def test_G21_a_channel_whose_axes_are_turned_loses_nothing(tmp_path):
    affine = GRID.affine.copy()
    affine[:3, 3] = GRID.to_patient([31, 0, 11])
    affine[:3, [0, 2]] *= -1
    affine[:, [0, 1]] = affine[:, [1, 0]]
    study = tmp_path / "study"
    voxels = of_files(study, grid=Grid((32, 32, 12), affine))
    write_recipe(study, ["T1", "T2"], 'table = "cases.csv"')

    result, dataset = convert(study)

    file = dataset / "imagesTr" / "msk_001_0001.nii.gz"
    turned = voxels.transpose(1, 0, 2)[::-1, :, ::-1]
    assert np.array_equal(np.asarray(nib.load(file).dataobj), turned)
    assert "axes of channel T2 were turned" in messages(result)["msk_001"]


def test_G21_a_channel_of_another_place_is_refused(tmp_path):
    study = tmp_path / "study"
    affine = COARSE.affine.copy()
    affine[:3, 3] += (15, 0, 0)  # of 24 mm
    of_files(study, grid=Grid(COARSE.shape, affine))
    words = 'table = "cases.csv"\nresample_channels = true'
    write_recipe(study, ["T1", "T2"], words)

    result, _ = convert(study, check=False)

    assert "[G21] Channel T2 covers only" in messages(result)["msk_001"]


def test_D17_channels_of_two_patients_are_refused(tmp_path):
    study = tmp_path / "study"
    for name, slices in dixon(names=("water", "fat")).items():
        save(each(slices, PatientID=f"P-{name}"), study / name)
    draw(study, "tibia", TIBIA, MASKS)
    draw(study, "femur", FEMUR, MASKS)
    rows = ["file,role,patient,channel,structure"]
    rows += ["water,image,A,water,", "fat,image,A,fat,"]
    rows += ["masks/tibia.nii.gz,mask,A,,tibia", "masks/femur.nii.gz,mask,A,,femur"]
    (study / "cases.csv").write_text("\n".join(rows) + "\n")
    write_recipe(study, dataset='table = "cases.csv"')

    result, _ = convert(study, check=False)

    assert "water and fat are of two patients" in messages(result)["msk_001"]


def test_D04_an_image_with_suppressed_fat_is_not_the_channel_fat(tmp_path):
    study = tmp_path / "study"
    words = {"water": "W", "fat": "M"}
    found = dixon(names=("water", "fat"), series="each", words=words)
    each(found["fat"], SeriesDescription="T1 FAT SAT")
    save(shuffled(found), scan_folder(study, 1))
    masks(study, 1)
    write_recipe(study)

    result, _ = convert(study, check=False)

    assert "[D04] Channel fat: No images" in messages(result)["msk_001"]


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("a/t2.nii.gz,image,A,T2,\n", "", "The case has no image of the channel T2"),
        (",T2,", ",T1,", "are both the channel T1"),
        ("A,T2,", "A,,", "has no channel, but other images of the case have one"),
        ("t2.nii.gz,image", "t1.nii.gz,image", "T1 and T2 are the same images"),
        ("t2.nii.gz,image", "t3.nii.gz,image", "does not exist"),
    ],
)
def test_D17_images_that_are_not_the_channels_are_refused(
    tmp_path, line, instead, said
):
    study = tmp_path / "study"
    of_files(study)
    table = study / "cases.csv"
    table.write_text(table.read_text().replace(line, instead))
    write_recipe(study, ["T1", "T2"], 'table = "cases.csv"')

    result, _ = convert(study, check=False)

    assert result.exit_code == 3
    assert said in messages(result)["msk_001"]


def test_folders_and_series_of_the_table_are_channels(tmp_path):
    study = tmp_path / "study"
    found = dixon(names=("water", "fat", "in"), series="each", index=1)
    save(shuffled({n: found[n] for n in ("water", "fat")}), study / "dixon")
    save(found["in"], study / "dixon" / "inside")
    draw(study, "tibia", TIBIA, MASKS)
    draw(study, "femur", FEMUR, MASKS)
    rows = ["file,role,patient,channel,structure,series"]
    rows += ["dixon,image,A,F,,7", "dixon,image,A,W,,6", "dixon/inside,image,A,IP,,"]
    rows += ["masks/tibia.nii.gz,mask,A,,tibia,", "masks/femur.nii.gz,mask,A,,femur,"]
    (study / "cases.csv").write_text("\n".join(rows) + "\n")
    write_recipe(study, ["W", "IP", "F"], 'table = "cases.csv"')

    _, dataset = convert(study)

    for number, name in enumerate(["water", "in", "fat"]):
        file = dataset / "imagesTr" / f"msk_001_{number:04d}.nii.gz"
        assert np.array_equal(np.asarray(nib.load(file).dataobj), stored(name, 1))
    (case,) = json.loads((dataset / "manifest.json").read_text())["cases"]
    assert case["files"] == {"used": 36 + 2, "excluded": 0, "failed": 0}
    table = (
        (study / "cases.csv").read_text().replace(",F,", ",X,").replace(",W,", ",F,")
    )
    (study / "cases.csv").write_text(table.replace(",X,", ",W,"))

    convert(study)  # series of one folder, exchanged

    water = np.asarray(nib.load(dataset / "imagesTr" / "msk_001_0002.nii.gz").dataobj)
    assert np.array_equal(water, stored("water", 1))


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"channels": {"fat": {"echo": 1}}}, "channels.fat: unknown channel"),
        ({"dataset": {"channels": ["a", "A"]}}, "two channels have one name"),
        ({"dataset": {"channels": ["a"], "channel": "b"}}, "dataset.channel: leave"),
        ({"dataset": {"resample_channels": True}}, "needs several `channels`"),
        (
            {"dataset": {"channels": ["a", "b"]}, "scans": {"image_type": "W"}},
            "write it into [channels.NAME]",
        ),
        (
            {"dataset": {"channels": ["a"]}, "channels": {"a": {"series": "1.2.3"}}},
            "is the UID of one patient's series",
        ),
    ],
)
def test_mistakes_about_channels_are_named(parts, fault):
    dataset = {"id": 1, "name": "Tibia", **parts.get("dataset", {})}

    with pytest.raises(RecipeError) as raised:
        recipe_from({"labels": {"tibia": 1}, **parts, "dataset": dataset})

    assert fault in str(raised.value)
