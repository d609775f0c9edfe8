"""One hostile file among three patients: the other two are converted, always (F15).

Every byte that a file system takes may stand in a name, and every file may hold
anything. `check` and `convert` agree on each case.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from command import bridge
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from small_study import LAB, MASKS, RECIPE, SCANS, patient

from nnunet_bridge.core.cases import run_case

NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
ENDINGS = st.sampled_from([b"", b".nii.gz", b".seg.nrrd", b".mha", b".dcm", b".zip"])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean") / "study"
    for index in (1, 2, 3):
        patient(root, index, f"{index}A")
    (root / "dataset.toml").write_text(RECIPE % "")
    return root


def outcomes(command, study, work):
    """Return the outcome of every case, the exit code, and what was said."""
    done = bridge(
        command, study, "-r", study / "dataset.toml", "-w", work, "--json", check=False
    )
    answer = json.loads(done.stdout)
    assert "Internal error" not in answer.get("error", ""), answer
    return {case["case"]: case["outcome"] for case in answer["cases"]}, done.exit_code


def converted_beside(study, work):
    """Convert; require that the first and third patient are there, as `check` said."""
    said, _ = outcomes("check", study, work)
    done, code = outcomes("convert", study, work)
    assert done == said
    assert {"msk_001", "msk_003"} <= done.keys()
    assert "refused" not in (done["msk_001"], done["msk_003"])
    images = {file.name for file in (work / "nnUNet_raw" / LAB / "imagesTr").iterdir()}
    assert {"msk_001_0000.nii.gz", "msk_003_0000.nii.gz"} <= images
    assert code == (4 if "refused" in done.values() else 0)
    return done


SECOND = f"{SCANS}/2_AutoBindWATER_650_2A"
PLACES = ("", SCANS, SECOND, MASKS, f"{MASKS}/below")
STEMS = st.sampled_from([b"", b"2_tibia_2A", b"9_", b"2_Auto_2A"])


@examples(20)
@given(
    parts=st.tuples(STEMS, NAMES, ENDINGS),
    place=st.sampled_from(PLACES),
    folder=st.booleans(),
)
def test_F15_whatever_bytes_a_name_has_the_other_cases_are_converted(
    study, tmp_path_factory, parts, place, folder
):
    root = tmp_path_factory.mktemp("hostile")
    shutil.copytree(study, root / "study")
    file = root / "study" / place / os.fsdecode(b"".join(parts)[:200])
    file.parent.mkdir(exist_ok=True)
    try:
        if folder:
            file.mkdir()
            file /= "a"
        file.write_bytes(b"DICM" * 40)
    except OSError:  # a name that this file system does not take
        return

    converted_beside(root / "study", root / "work")


def segmentation(**fields):
    """Return a ``.seg.nrrd`` of eight voxels with these fields of its first segment."""
    named = {"Segment1_Name": "tibia", "Segment1_Layer": 0, "Segment1_LabelValue": 1}
    lines = [f"{key}:={value}" for key, value in {**named, **fields}.items()]
    head = (
        "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\n"
        "sizes: 2 2 2\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\n"
        "space origin: (0,0,0)\n"
    )
    return (head + "\n".join(lines) + "\n\n").encode() + bytes(8)


def deep(folder):
    """Make folders in one another until the path is longer than the system's limit."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("2_tibia_2A.nii.gz", os.O_CREAT, dir_fd=here))
    os.close(here)


def loop(folder):
    (folder / "2_loop_2A.nii.gz").symlink_to("2_loop_2A.nii.gz")


def written(name, **fields):
    return lambda folder: (folder / name).write_bytes(segmentation(**fields))


HOSTILE = {
    "a segment of 5000 digits": (
        MASKS,
        written("2_2A.seg.nrrd", **{f"Segment{'1' * 5000}_Name": "a"}),
    ),
    "a layer below zero": (MASKS, written("2_2A.seg.nrrd", Segment1_Layer=-3)),
    "a value of 5000 digits": (
        MASKS,
        written("2_2A.seg.nrrd", Segment1_LabelValue="1" * 5000),
    ),
    "a long path beside masks": (MASKS, deep),
    "a long path beside scans": (SCANS, deep),
    "a long path in a scan": (SECOND, deep),
    "a long path in the study": ("", deep),
    "a link to itself": (MASKS, loop),
    "a pipe in a scan": (SECOND, lambda folder: os.mkfifo(folder / "a.dcm")),
    "a pipe like a mask": (MASKS, lambda folder: os.mkfifo(folder / "2_x_2A.nii.gz")),
    "a pipe like a segment": (MASKS, lambda folder: os.mkfifo(folder / "x.seg.nrrd")),
}


@pytest.mark.parametrize(("place", "spoil"), HOSTILE.values(), ids=HOSTILE)
def test_F15_one_hostile_file_does_not_end_the_study(study, tmp_path, place, spoil):
    shutil.copytree(study, tmp_path / "study")
    spoil(tmp_path / "study" / place)

    try:
        done = bridge(
            "init", tmp_path / "study", "-o", tmp_path / "a.toml", check=False
        )
        assert done.exit_code in (0, 4), done.output
        converted_beside(tmp_path / "study", tmp_path / "work")
    finally:
        remove(tmp_path / "study")


def remove(folder):
    """Remove folders of any depth; `shutil` gives up at long paths."""
    for _, _, _, here in os.fwalk(folder, topdown=False):
        for entry in list(os.scandir(here)):
            remover = os.rmdir if entry.is_dir(follow_symlinks=False) else os.unlink
            remover(entry.name, dir_fd=here)


def test_F04_a_damaged_description_of_the_dataset_is_written_again(study, tmp_path):
    work, file = tmp_path / "work", tmp_path / "work" / "nnUNet_raw" / LAB
    done, _ = outcomes("convert", study, work)
    good = (file / "dataset.json").read_text()
    for content in ("{", "[" * 100_000, "\xff", ""):
        (file / "dataset.json").write_text(content, encoding="latin-1")

        assert outcomes("convert", study, work) == (done, 0)

        assert (file / "dataset.json").read_text() == good


def test_F15_what_no_reader_expected_refuses_one_case_and_faults_of_the_disk_go_on():
    def fails():
        raise IndexError("index -3\x1b[2J")

    report, result = run_case("msk_001", fails)

    assert (report.refused, report.codes, result) == (True, ("F15",), None)
    assert "IndexError" in report.messages[0]
    assert report.messages[0].isprintable()
    with pytest.raises(FileNotFoundError):
        run_case("msk_001", Path("/nothing/here").read_bytes)
