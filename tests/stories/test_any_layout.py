"""From a lab's own folder to an equal labelmap, with nothing typed."""

import importlib.util
import json
import shutil
from pathlib import Path

import layouts
import nibabel
import numpy as np
import pytest
from command import bridge
from layouts import Layout

from nnunet_bridge.formats.case_table import read_case_table
from nnunet_bridge.pipeline.ingest.phantom_study import (
    PhantomParameters,
    write_phantom_study,
)

DEFAULT_DATA = Path(__file__).parents[3] / "shared" / "data"
LAYOUTS = (
    *("patient_folder", "segmentation_beside_dicom", "one_labelmap_a_patient"),
    *("nifti_images", "nested_masks", "names_seg_dash", "names_capital"),
    "surface_meshes",
)


def canonical(image):
    """Return voxels and affine of a NIfTI image in RAS order."""
    turned = nibabel.as_closest_canonical(image)
    return np.asarray(turned.dataobj).astype(np.uint8), turned.affine


def converted(study, out):
    """Run init and convert as they are typed; return rows, init's JSON and labels."""
    message = bridge("init", study, "-o", out / "dataset.toml", "--json")
    words = ("-r", out / "dataset.toml", "-w", out / "work", "--json")
    result = bridge("convert", study, *words, check=False)
    assert result.exit_code == 0, result.output
    labels = next((out / "work" / "nnUNet_raw").iterdir()) / "labelsTr"
    names = json.loads((labels.parent / "dataset.json").read_text())["labels"]
    assert names == {"background": 0, **layouts.BONES}
    return read_case_table(out / "cases.csv"), json.loads(message.stdout), labels


def assert_equal(file, voxels, affine):
    """Require the same labelmap in the same place."""
    expected, there = canonical(nibabel.Nifti1Image(voxels, affine))
    found, here = canonical(nibabel.load(file))
    np.testing.assert_allclose(here, there, atol=1e-3)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def script(test_data):
    """The shared script that lays a study out in eight ways."""
    file = test_data.parent / "layouts" / "make_layouts.py"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    spec = importlib.util.spec_from_file_location("make_layouts", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(script, tmp_path_factory):
    """A phantom study, as the script reads it."""
    parameters = PhantomParameters(6, 1, shape=(64, 32, 40), spacing_mm=(6, 6, 18))
    folder = write_phantom_study(tmp_path_factory.mktemp("s") / "study", parameters)
    return script.Study(folder.folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_shared_layout_becomes_the_same_labelmap(script, source, tmp_path, name):
    study = tmp_path / "study"
    study.mkdir()
    script.LAYOUTS[name](source, study)

    rows, message, labels = converted(study, tmp_path)

    assert (len(message["cases"]), message["unused"], message["unknown"]) == (4, [], [])
    images = [row for row in rows if row.role == "image"]
    for row, number in zip(images, source.ids, strict=True):
        voxels, affine = source.multilabel(number)
        assert_equal(labels / f"{row.case}.nii.gz", voxels, affine)


OWN = {
    "camel, nested": Layout(place="nested", name="glued", words="capital"),
    "german, MHA": Layout(place="structures", words="german", image="mha", mask="mha"),
    "french, NRRD": Layout(words="french", image="nrrd", mask="nrrd", ids="word"),
    "loose DICOM beside masks": Layout(place="beside", name="glued", ids="knee"),
    "zips": Layout(image="zip", words="latin", ids="hospital"),
    "one folder": Layout(place="one folder", image="nii.gz", name="camel"),
    "BIDS, labelmaps": Layout(
        place="bids", image="nii.gz", mask="labelmap", table="dseg.tsv", ids="sub"
    ),
    "two sites": Layout(place="site", words="spanish", one_grid=True),
    "segmentations": Layout(place="patient masks", mask="seg.nrrd", words="german"),
}


@pytest.mark.parametrize("layout", OWN.values(), ids=OWN)
def test_further_layouts_become_the_labelmap_that_was_drawn(tmp_path, layout):
    study = tmp_path / "study"
    truth = layout.write(study)

    rows, message, labels = converted(study, tmp_path)

    assert layouts.wrong_rows(rows, truth) == []
    assert (message["unused"], message["unknown"]) == ([], [])
    for row in rows:
        if row.role == "image":
            number = truth.images[row.file]
            expected = np.zeros(layouts.SHAPE, np.uint8)
            for (bone, _), voxels in layouts.drawings(number).items():
                expected[voxels > 0] = layouts.BONES[bone]
            file = labels / f"{row.case}.nii.gz"
            assert_equal(file, expected, layout.affine(number))


def test_several_forms_in_one_study(tmp_path):
    study = tmp_path / "study"
    truth = layouts.Truth()
    forms = ("nii.gz", "seg.nrrd", "labelmap", "nrrd")
    for number, form in enumerate(forms, start=1):
        layout = Layout(place="patient", words="en", mask=form)
        for_one = layout.write_patient(study, number)
        truth.images |= for_one.images
        truth.drawn |= for_one.drawn
    layouts.write_table(study / "labels.txt")

    rows, _, labels = converted(study, tmp_path)

    assert layouts.wrong_rows(rows, truth) == []
    assert len(list(labels.iterdir())) == len(forms)


def test_real_hippocampi_in_folders_of_patients(test_data, tmp_path):
    source = test_data / "study_hippocampus"
    if not source.is_dir():
        pytest.skip(f"{source} is absent")
    study, expected = tmp_path / "study", {}
    masks = source / "Raw NIFITI Segmentation Masks (3D Slicer Output)"
    for number in range(1, 5):
        (scan,) = (source / "Raw DICOM MRI Scans").glob(f"{number}_*")
        folder = study / f"Proband {number:03d}"
        shutil.copytree(scan, folder / "MRT")
        whole = None
        for value, part in enumerate(("anterior", "posterior"), start=1):
            (mask,) = masks.glob(f"{number}_{part}_*")
            name = f"Hippocampus{part.capitalize()}.nii.gz"
            shutil.copy(mask, folder / name)
            image = nibabel.load(mask)
            drawn = np.asarray(image.dataobj) > 0
            whole = np.zeros(drawn.shape, np.uint8) if whole is None else whole
            whole[drawn] = np.where(whole[drawn] == 0, value, 0)
        expected[number] = whole, image.affine

    message = bridge("init", study, "-o", tmp_path / "dataset.toml", "--json")
    words = ("-r", tmp_path / "dataset.toml", "-w", tmp_path / "work")
    bridge("convert", study, *words)

    assert json.loads(message.stdout)["structures"] == ["anterior", "posterior"]
    labels = next((tmp_path / "work" / "nnUNet_raw").iterdir()) / "labelsTr"
    for number, (voxels, affine) in expected.items():
        assert_equal(labels / f"msk_{number:03d}.nii.gz", voxels, affine)
