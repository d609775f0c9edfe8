"""DICOM SEG and RTSTRUCT among and beside scans: found, paired, converted."""

import nibabel
import numpy as np
import pytest
from command import bridge
from dicom_base import base, new_uids, save
from drawn_dicom import completed, write_seg, write_structures
from small_study import FEMUR, GRID, TIBIA

from nnunet_bridge.formats.case_table import read_case_table

NAMES = ("Femur L", "Schienbein rechts")


def series(folder, patient, *, number=6, count=12, names=None):
    slices = completed(base(n=count, uids=new_uids()))
    for one in slices:
        one.PatientID, one.SeriesNumber = patient, number
        one.PixelData = bytes([number, len(patient)]) + one.PixelData[2:]
    save(slices, folder, names=names)
    return slices


def segmentation(slices, file):
    """Write a SEG of the two bones."""
    write_seg(file, slices, FEMUR + 2 * TIBIA, NAMES)


def structures(slices, file):
    """Write a structure set of the two bones, whose masks are boxes."""
    contours = {}
    for name, mask in zip(NAMES, (FEMUR, TIBIA), strict=True):
        low, high = np.argwhere(mask).min(0) - 0.4, np.argwhere(mask).max(0) + 0.4
        ends = ((low[0], low[1]), (high[0], low[1]), (high[0], high[1]))
        contours[name] = [
            GRID.to_patient([(*end, k) for end in (*ends, (low[0], high[1]))])
            for k in np.unique(np.nonzero(mask)[2])
        ]
    write_structures(file, slices, contours)


@pytest.mark.parametrize("write", [segmentation, structures])
def test_init_pairs_dicom_drawings_by_their_series_and_convert_reads_them(
    write, tmp_path
):
    study = tmp_path / "study"
    anna, bert, carl = study / "anna", study / "bert" / "mr", study / "carl"
    # Among the slices, named like one; fewer files are sampled than there are.
    own = series(anna, "P1", names=[f"IM{k:03d}" for k in range(12)])
    write(own, anna / "IM0051")
    # Of another folder than all others: only its reference tells whose it is.
    other = series(bert, "PP2")
    write(other, study / "drawn" / "x17.dcm")
    # Of the shorter of two series: it is chosen, because the drawing refers to it.
    series(carl / "long", "PPP3", number=3, count=15)
    short = series(carl / "short", "PPP3", number=4)
    write(short, carl / "y.dcm")

    message = bridge("init", study, "-o", tmp_path / "dataset.toml", "--json")
    words = ("-r", tmp_path / "dataset.toml", "-w", tmp_path / "work", "--json")
    result = bridge("convert", study, *words, check=False)

    assert result.exit_code == 0, result.output
    rows = read_case_table(tmp_path / "cases.csv")
    assert '"unused": []' in message.stdout, message.stdout
    found = {(r.case, r.file, r.value) for r in rows if r.role == "segmentation"}
    files = ("anna/IM0051", "drawn/x17.dcm", "carl/y.dcm")
    by_file = {row.file: row.case for row in rows}
    cases = [by_file[file] for file in files]
    assert found == {
        (case, file, n) for case, file in zip(cases, files, strict=True) for n in (1, 2)
    }
    images = {r.case: r.file for r in rows if r.role == "image"}
    assert [images[case] for case in cases] == ["anna", "bert/mr", "carl/short"]
    (dataset,) = (tmp_path / "work" / "nnUNet_raw").iterdir()
    for case in cases:
        labels = nibabel.load(dataset / "labelsTr" / f"{case}.nii.gz")
        turned = np.asarray(labels.dataobj)
        np.testing.assert_array_equal(turned, TIBIA + 2 * FEMUR)
