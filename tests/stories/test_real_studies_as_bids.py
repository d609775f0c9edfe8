"""Real hippocampi and spines as BIDS, with a made second contrast on another grid.

And, as the long form, in every layout of the shared script.
"""

import csv
import importlib.util
import json
import re

import nibabel
import numpy as np
import pytest
import SimpleITK
from command import bridge

PATIENTS = 3
NAMES = {
    "hippocampus": ("anterior", "posterior"),
    "spine": ("L1", "L2", "L3", "L4", "L5"),
}
SCANS = "Raw DICOM MRI Scans"
MASKS = "Raw NIFITI Segmentation Masks (3D Slicer Output)"


@pytest.fixture
def source(test_data, request):
    """A real study, as the shared script reads scans and masks."""
    name = request.param
    folder, file = test_data / f"study_{name}", test_data.parent / "layouts"
    file /= "make_layouts.py"
    if not (folder.is_dir() and file.is_file()):
        pytest.skip(f"{folder} or {file} is absent")
    spec = importlib.util.spec_from_file_location("make_layouts", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.BONES = {name: value for value, name in enumerate(NAMES[name], start=1)}
    study = script.Study.__new__(script.Study)
    study.masks = {}
    for mask in sorted((folder / MASKS).glob("*.nii.gz")):
        number, structure, _ = mask.name.split("_")
        study.masks.setdefault(int(number), {})["M", structure] = mask
    whole = [n for n, own in study.masks.items() if len(own) == len(NAMES[name])]
    study.ids = sorted(whole)[:PATIENTS]
    scans = {int(p.name.split("_")[0]): p for p in (folder / SCANS).iterdir()}
    study.scans = {number: scans[number] for number in study.ids}
    return study, script


def second_contrast(first):
    """Return the inverse of an image on a coarser grid that is turned by 7 degrees."""
    turned = SimpleITK.Image(
        [int(0.8 * n) for n in first.GetSize()], first.GetPixelID()
    )
    turned.SetSpacing([1.2 * size for size in first.GetSpacing()])
    cos, sin = np.cos(np.radians(7)), np.sin(np.radians(7))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    direction = np.reshape(first.GetDirection(), (3, 3)) @ turn
    turned.SetDirection(direction.ravel().tolist())
    middle = first.TransformContinuousIndexToPhysicalPoint(
        [(n - 1) / 2 for n in first.GetSize()]
    )
    half = np.array([(n - 1) / 2 for n in turned.GetSize()]) * turned.GetSpacing()
    turned.SetOrigin((np.array(middle) - direction @ half).tolist())
    moved = SimpleITK.Resample(first, turned)
    values = SimpleITK.GetArrayFromImage(moved).astype(np.int16)
    inverse = SimpleITK.GetImageFromArray((values.max() - values).astype(np.int16))
    inverse.CopyInformation(turned)
    return inverse


def write_bids(source, names, folder):
    for number in source.ids:
        sub = f"sub-{number:02d}"
        anat = folder / sub / "anat"
        drawn = folder / "derivatives" / "manual" / sub / "anat"
        anat.mkdir(parents=True)
        drawn.mkdir(parents=True)
        first = source.volume(number)
        SimpleITK.WriteImage(first, str(anat / f"{sub}_T1w.nii.gz"))
        second = second_contrast(first)
        SimpleITK.WriteImage(second, str(anat / f"{sub}_T2w.nii.gz"))
        labels = nibabel.Nifti1Image(*source.multilabel(number))
        nibabel.save(labels, drawn / f"{sub}_dseg.nii.gz")
    rows = "".join(f"{value}\t{name}\n" for name, value in names.items())
    table = folder / "derivatives" / "manual" / "dseg.tsv"
    table.write_text(f"index\tname\n{rows}")


def add_second_channel(folder):
    """Edit recipe and table as a person would: T2w is an image, not left out."""
    table = folder / "cases.csv"
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if found := re.search(r"_(T[12]w)\.nii\.gz", row["file"]):
            row |= {"role": "image", "channel": found[1], "note": ""}
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    recipe = folder / "dataset.toml"
    two = 'channels = ["T1w", "T2w"]\nresample_channels = true'
    recipe.write_text(recipe.read_text().replace('channel = "MRI"', two))


def assert_equal(file, source, number):
    """Require the labels of a patient as the script reads its masks."""
    wanted = nibabel.Nifti1Image(*source.multilabel(number))
    wanted, found = map(nibabel.as_closest_canonical, (wanted, nibabel.load(file)))
    np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-3)
    assert np.array_equal(found.dataobj, wanted.dataobj)


@pytest.mark.parametrize("source", NAMES, indirect=True)
def test_masks_are_equal_and_the_second_contrast_lies_on_the_first(source, tmp_path):
    source, script = source
    names = script.BONES
    write_bids(source, names, tmp_path / "bids")
    bridge("init", tmp_path / "bids", "-o", tmp_path / "dataset.toml")
    add_second_channel(tmp_path)

    words = ("-r", tmp_path / "dataset.toml", "-w", tmp_path / "work", "--json")
    result = bridge("convert", tmp_path / "bids", *words)

    assert len(json.loads(result.stdout)["cases"]) == PATIENTS
    dataset = next((tmp_path / "work" / "nnUNet_raw").iterdir())
    described = json.loads((dataset / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, **names}
    assert described["channel_names"] == {"0": "T1w", "1": "T2w"}
    for place, number in enumerate(source.ids, start=1):
        case, sub = f"msk_{place:03d}", f"sub-{number:02d}"
        assert_equal(dataset / "labelsTr" / f"{case}.nii.gz", source, number)
        anat = tmp_path / "bids" / sub / "anat"
        kind = SimpleITK.sitkFloat32
        moving = SimpleITK.ReadImage(str(anat / f"{sub}_T2w.nii.gz"), kind)
        first, second = (
            SimpleITK.ReadImage(str(dataset / "imagesTr" / f"{case}_{n:04d}.nii.gz"))
            for n in (0, 1)
        )
        lowest = float(SimpleITK.GetArrayViewFromImage(moving).min())
        words = SimpleITK.Transform(), SimpleITK.sitkLinear, lowest, kind
        resampled = SimpleITK.Resample(moving, first, *words)
        values, expected = map(SimpleITK.GetArrayFromImage, (second, resampled))
        np.testing.assert_allclose(values, expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.long
@pytest.mark.parametrize("source", NAMES, indirect=True)
def test_masks_are_equal_in_every_shared_layout(source, tmp_path):
    source, script = source
    for name, lay_out in script.LAYOUTS.items():
        folder = tmp_path / name
        (folder / "study").mkdir(parents=True)
        lay_out(source, folder / "study")
        words = ("-r", folder / "dataset.toml", "-w", folder / "work")
        bridge("init", folder / "study", "-o", folder / "dataset.toml")

        bridge("convert", folder / "study", *words)

        labels = next((folder / "work" / "nnUNet_raw").iterdir()) / "labelsTr"
        for place, number in enumerate(source.ids, start=1):
            assert_equal(labels / f"msk_{place:03d}.nii.gz", source, number)
