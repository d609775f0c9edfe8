"""Studies as labs keep them: every form of image and mask, with the rows of its table.

Everything is written by nibabel, SimpleITK, pynrrd and pydicom, never by the package,
so that what it makes of the files can be compared with what went into them.
"""

import shutil
import zipfile

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
from dicom_base import base, enhanced, expected, save
from small_study import AFFINE, FEMUR, TIBIA

from nnunet_bridge.core.case_table import Role, TableRow
from nnunet_bridge.formats.case_table import write_case_table
from nnunet_bridge.formats.recipe import read_recipe

RAS = np.diag([-1.0, -1, 1, 1]) @ AFFINE
RECIPE = """
[dataset]
id = 3
name = "Any"
table = "cases.csv"
[labels]
tibia = 1
femur = 2
[labels.aliases]
femur = ["Oberschenkel"]
"""
LABELS = TIBIA + 2 * FEMUR
PATELLA = np.zeros_like(TIBIA)
PATELLA[15:18, 20:24, 5:7] = 1
SPACING, ORIGIN = [0.75, 0.75, 4.0], AFFINE[:3, 3].tolist()


def by_simpleitk(file, voxels):
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def by_nibabel(file, voxels):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, RAS), file)


def by_pynrrd(file, voxels, **fields):
    header = {
        "space": "left-posterior-superior",
        "space directions": AFFINE[:3, :3].T,
        "space origin": AFFINE[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
        **fields,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    nrrd.write(str(file), voxels, header)


def segments(*names):
    fields = {}
    for number, name in enumerate(names):
        fields |= {
            f"Segment{number}_Name": name,
            f"Segment{number}_ID": f"Segment_{number}",
            f"Segment{number}_Layer": "0",
            f"Segment{number}_LabelValue": str(number + 1),
        }
    return fields


# Images: each returns the path of the row, below the folder of the patient.
def dicom_folder(folder):
    save(base(), folder / "dicom")
    return "dicom"


def nested_dicom(folder):
    save(base(), folder / "mri" / "ST1" / "SE6", names=[f"I{k}" for k in range(12)])
    return "mri"


def loose_dicom(folder):
    save(base(), folder)
    return "."


def enhanced_file(folder):
    folder.mkdir(parents=True, exist_ok=True)
    enhanced(base()).save_as(folder / "scan.dcm", enforce_file_format=True)
    return "scan.dcm"


def zipped_dicom(folder):
    files = save(base(), folder / "for the zip")
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"PAT/{file.name}")
    shutil.rmtree(folder / "for the zip")
    return "scan.zip"


def nifti_image(folder):
    by_nibabel(folder / "T1.nii.gz", expected().astype(np.int16))
    return "T1.nii.gz"


def nrrd_image(folder):
    by_simpleitk(folder / "T1.nrrd", expected().astype(np.int16))
    return "T1.nrrd"


def mha_image(folder):
    by_simpleitk(folder / "T1.mha", expected().astype(np.float32))
    return "T1.mha"


IMAGES = (
    *(dicom_folder, nested_dicom, loose_dicom, enhanced_file, zipped_dicom),
    *(nifti_image, nrrd_image, mha_image),
)


# Masks: each returns the rows without the patient.
def mask(file, structure, **more):
    return {"file": file, "role": Role.MASK, "structure": structure, **more}


def nifti_masks(folder):
    by_nibabel(folder / "Tibia.nii.gz", TIBIA)
    by_nibabel(folder / "Oberschenkel.nii", FEMUR.astype(np.float64))
    return [mask("Tibia.nii.gz", "tibia"), mask("Oberschenkel.nii", "Oberschenkel")]


def nrrd_and_mha_masks(folder):
    by_simpleitk(folder / "m" / "t.nrrd", TIBIA)
    by_simpleitk(folder / "m" / "f.mha", FEMUR * 255)
    return [mask("m/t.nrrd", "tibia"), mask("m/f.mha", "femur")]


def labelmap_rows(file):
    own = {"file": file, "role": Role.LABELMAP}
    return [
        {**own, "structure": "femur", "value": 7},
        {**own, "structure": "tibia", "value": 3},
        {"file": file, "role": Role.IGNORE, "value": 9},
    ]


def nifti_labelmap(folder):
    by_nibabel(folder / "all.nii.gz", 3 * TIBIA + 7 * FEMUR + 9 * PATELLA)
    return labelmap_rows("all.nii.gz")


def nrrd_labelmap(folder):
    by_simpleitk(folder / "all.nrrd", (3 * TIBIA + 7 * FEMUR).astype(np.float32))
    return labelmap_rows("all.nrrd")


def flipped_labelmap(folder):
    """The same on a grid of another axis order: it is put back losslessly."""
    image = nibabel.Nifti1Image(3 * TIBIA + 7 * FEMUR, RAS)
    turned = nibabel.as_closest_canonical(image)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(turned, folder / "ras.nii.gz")
    return labelmap_rows("ras.nii.gz")


def two_values_of_one_structure(folder):
    lower = TIBIA.copy()
    lower[:, :, :5] = 0
    by_nibabel(folder / "parts.nii.gz", 3 * TIBIA + lower + 7 * FEMUR)
    own = {"file": "parts.nii.gz", "role": Role.LABELMAP, "structure": "tibia"}
    return [*labelmap_rows("parts.nii.gz"), {**own, "value": 4}]


def segmentation(folder):
    fields = segments("Tibia", " oberschenkel")
    by_pynrrd(folder / "s.seg.nrrd", LABELS, **fields)
    return [{"file": "s.seg.nrrd", "role": Role.SEGMENTATION}]


def numbered_segments(folder):
    """Segments with names of no meaning, the second of which is left out."""
    fields = segments("Segment_1", "Segment_2", "Segment_3")
    by_pynrrd(folder / "n.seg.nrrd", TIBIA + 2 * PATELLA + 3 * FEMUR, **fields)
    own = {"file": "n.seg.nrrd", "role": Role.SEGMENTATION}
    return [
        {**own, "structure": "tibia", "value": 1},
        {"file": "n.seg.nrrd", "role": Role.IGNORE, "value": 2},
        {**own, "structure": "femur", "value": 3},
    ]


def mixed(folder):
    by_nibabel(folder / "tib.nii.gz", TIBIA)
    by_pynrrd(folder / "fem.seg.nrrd", FEMUR, **segments("Femur"))
    own = {"file": "fem.seg.nrrd", "role": Role.SEGMENTATION}
    return [mask("tib.nii.gz", "tibia"), own]


MASKS = (
    *(nifti_masks, nrrd_and_mha_masks, nifti_labelmap, nrrd_labelmap),
    *(flipped_labelmap, two_values_of_one_structure, segmentation),
    *(numbered_segments, mixed),
)


def patient_rows(study, name, image, masks):
    """Write a patient in these forms; return the rows of the table."""
    folder = study / name
    found = image(folder)
    rows = [{"file": found, "role": Role.IMAGE}, *masks(folder)]
    places = {row["file"]: name if row["file"] == "." else f"{name}/{row['file']}"
              for row in rows}  # fmt: skip
    return [TableRow(**{**r, "file": places[r["file"]], "patient": name}) for r in rows]


def write_study(study, rows, recipe=RECIPE):
    """Write recipe and table; return the recipe as it is read."""
    study.mkdir(parents=True, exist_ok=True)
    (study / "dataset.toml").write_text(recipe)
    write_case_table(rows, study / "cases.csv")
    return read_recipe(study / "dataset.toml")
