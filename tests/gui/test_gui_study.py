"""The study of the page: its case table, its pictures and the results of its cases."""

import csv
import io
import json
import os
import shutil
import time
import tomllib
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
import pytest
from PIL import Image

RAS = np.diag([-1.0, -1.0, 3.0, 1.0])
SHAPE = (160, 120, 6)
HOSTILE = "<img src=x onerror=alert(1)>.nii.gz"
COLUMNS = ["patient", "role", "structure", "side", "value", "file", "colour", "note"]
RECIPE = """\
[dataset]
id = 7
name = "Knees"
table = "cases.csv"
[labels]  # by hand
tibia = 1
tibbia = 2
femur = 3
[masks]
threshold = 0.5
"""


def box(start):
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[60:90, start : start + 25, 1:5] = 1
    return voxels


def image():
    voxels = np.random.default_rng(3).integers(0, 400, SHAPE).astype(np.int16)
    return voxels + np.int16(300) * (box(40) | box(80))


def save(file, voxels):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, RAS), file)


def write_table(file, rows):
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, "", delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def table_of(file):
    """Return the rows of a table as Python's csv module reads them."""
    text = file.read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))


@pytest.fixture
def knees(tmp_path):
    """Three patients with hostile names; the tibiae have an unknown name."""
    study = tmp_path / "knees"
    rows = []
    for patient, name in (("'=1+1", HOSTILE), ("b", "--force.nii"), ("c", "c.nii.gz")):
        folder = study / patient.strip("'")
        save(folder / name, image())
        save(folder / "tibbia.nii.gz", box(40))
        save(folder / "femur.nii.gz", box(80))
        place = folder.name
        mask = {"patient": patient, "role": "mask", "side": "left"}
        note = "same folder; 'tibbia' is not known"
        tibia = {"structure": "tibbia", "file": f"{place}/tibbia.nii.gz", "note": note}
        femur = {"structure": "femur", "file": f"{place}/femur.nii.gz", "colour": "a;b"}
        scan = {"role": "image", "file": f"{place}/{name}", "colour": "red"}
        rows += [{"patient": patient, **scan}, {**mask, **tibia}, {**mask, **femur}]
    (study / "dataset.toml").write_text(RECIPE)
    write_table(study / "cases.csv", rows)
    return study


@pytest.fixture
def chosen(page, knees):
    """The page, with this study."""
    assert page.post("/api/study/choose", study=str(knees))[0] == 200
    page.study, page.table = knees, knees / "cases.csv"
    return page


def test_a_chosen_study_is_one_state_for_all_tabs_and_is_kept(page, knees):
    assert page.get("/api/state")[1]["study"] == {
        "study": None,
        "recipe": None,
        "changed": 0,
    }

    status, now = page.post("/api/study/choose", study=str(knees))

    assert (status, now["study"]) == (200, str(knees))
    assert now["recipe"] == str(knees / "dataset.toml")
    assert page.get("/api/state")[1]["study"] == now
    kept = json.loads((page.workspace / "runs" / "gui.json").read_text())
    assert (kept["study"], kept["recipe"]) == (now["study"], now["recipe"])


def test_a_study_outside_the_roots_is_refused(page, knees):
    assert page.post("/api/study/choose", study="/etc")[0] == 403
    (knees / "dataset.toml").write_text(RECIPE.replace("cases.csv", "/etc/passwd"))
    page.post("/api/study/choose", study=str(knees))

    assert page.get("/api/study/cases")[0] == 403
    assert "outside the folders" in page.get("/api/study")[1]["fault"]


def test_rows_that_are_edited_are_those_that_a_script_reads(chosen):
    before = table_of(chosen.table)
    found = chosen.get("/api/study/cases")[1]
    shown = [row for case in found["cases"] for row in case["rows"]]
    assert [row["file"] for row in shown] == [row["file"] for row in before]
    assert shown[0]["patient"] == "=1+1"
    assert shown[0]["file"] == f"=1+1/{HOSTILE}"
    changes = {
        shown[4]["line"]: {"structure": "femur", "side": "right", "note": "=x"},
        shown[5]["line"]: {"role": "ignore", "state": ""},
    }

    answer = chosen.post("/api/study/save", sha256=found["sha256"], changes=changes)

    assert answer[0] == 200
    before[4] |= {"structure": "femur", "side": "right", "note": "'=x"}
    before[5] |= {"role": "ignore"}
    assert table_of(chosen.table) == [{**row, "state": ""} for row in before]
    assert chosen.table.stat().st_mode & 0o777 == 0o600


def test_an_unknown_name_is_mended_in_all_its_rows_at_once(chosen):
    before = table_of(chosen.table)
    about = chosen.get("/api/study")[1]
    (unknown,) = about["unknown"]
    assert (unknown["name"], unknown["rows"]) == ("tibbia", 3)

    _, after = chosen.post(
        "/api/study/save", sha256=about["sha256"], names=[["tibbia", "tibia", "right"]]
    )

    assert after["unknown"] == []
    for row in before:
        if row["structure"] == "tibbia":
            row |= {"structure": "tibia", "side": "right", "note": "same folder"}
    assert table_of(chosen.table) == before
    recipe = (chosen.study / "dataset.toml").read_text()
    assert recipe == RECIPE.replace("tibbia = 2\nfemur = 3", "femur = 2")


def test_a_new_structure_gets_the_next_value(chosen):
    about = chosen.get("/api/study")[1]
    names = [["tibbia", "Patella (L)", ""]]

    chosen.post("/api/study/save", sha256=about["sha256"], names=names)

    labels = tomllib.loads((chosen.study / "dataset.toml").read_text())["labels"]
    assert labels == {"tibia": 1, "femur": 2, "Patella (L)": 3}
    structures = [row["structure"] for row in table_of(chosen.table)]
    assert structures == ["", "Patella (L)", "femur"] * 3


def test_a_table_that_was_changed_on_the_disk_is_not_overwritten(chosen):
    sha256 = chosen.get("/api/study")[1]["sha256"]
    with chosen.table.open("a") as stream:
        stream.write("d;image;;;;d.nii;;\r\n")
    content = chosen.table.read_bytes()

    status, answer = chosen.post(
        "/api/study/save", sha256=sha256, changes={2: {"side": "left"}}
    )

    assert status == 400
    assert answer["error"].startswith("cases.csv was changed by another program or tab")
    assert chosen.table.read_bytes() == content


@pytest.mark.parametrize(
    "request_body",
    [
        {},
        {"changes": []},
        {"changes": {"x": {}}},
        {"changes": {"2": "text"}},
        {"names": [["a"]]},
        {"names": [["unheard", "tibia", ""]]},
        {"changes": {"3": {"structure": ""}}, "names": [["tibbia", "a\nb", ""]]},
    ],
)
def test_a_request_that_is_no_correction_is_refused_and_writes_nothing(
    chosen, request_body
):
    files = chosen.table, chosen.study / "dataset.toml"
    before = [file.read_bytes() for file in files]
    sha256 = {"sha256": chosen.get("/api/study")[1]["sha256"]} if request_body else {}

    assert chosen.post("/api/study/save", **sha256, **request_body)[0] == 400
    assert [file.read_bytes() for file in files] == before


def test_a_name_that_is_not_utf_8_is_shown_and_kept(chosen):
    name = os.fsdecode(b"\xff\xfe.nii")
    text = chosen.table.read_bytes() + b"d;image;;;;\xff\xfe.nii;;\r\n"
    chosen.table.write_bytes(b"\xef\xbb\xbf" + text)
    found = chosen.get("/api/study/cases")[1]
    row = found["cases"][-1]["rows"][0]
    assert row["file"] == name

    changes = {row["line"]: {"patient": "e"}}
    chosen.post("/api/study/save", sha256=found["sha256"], changes=changes)

    assert chosen.table.read_bytes().endswith(b"\r\ne;image;;;;\xff\xfe.nii;;\r\n")


def test_five_hundred_cases_are_listed_page_by_page(chosen):
    """A page costs little more than reading the file, and sends a page only."""
    row = {"role": "mask", "structure": "femur", "side": "left"}
    write_table(
        chosen.table,
        [
            {**row, "patient": f"p{n}", "file": f"p{n}/{m}.nii.gz", "note": "x" * 40}
            for n in range(500)
            for m in range(10)
        ],
    )
    begin = time.process_time()
    table_of(chosen.table)
    by_csv = time.process_time() - begin

    begin = time.process_time()
    status, _, body = chosen.ask("/api/study/cases?page=25")
    own = time.process_time() - begin

    found, last = json.loads(body), range(480, 500)
    assert (status, found["found"], found["pages"]) == (200, 500, 25)
    assert [case["case"] for case in found["cases"]] == [f"p{n}/" for n in last]
    assert len(body) < 60_000 < chosen.table.stat().st_size
    assert own < 40 * by_csv
    assert chosen.get("/api/study/cases", query="P499/")[1]["found"] == 1


def test_the_picture_of_a_case_has_the_pixels_of_its_files(chosen):
    """Its pixels are square, so its longest side needs no other size than 160."""
    case = chosen.get("/api/study/cases")[1]["cases"][0]["case"]

    status, headers, body = chosen.ask(
        "/api/thumbnail?case=" + case.replace("+", "%2B")
    )

    assert (status, headers["content-type"]) == (200, "image/png")
    shown = np.asarray(Image.open(io.BytesIO(body)).convert("RGB")).astype(int)
    # Voxels run to the left and to the back of the patient, as the picture does.
    voxels, drawn = (
        np.asarray(nibabel.load(chosen.study / "=1+1" / name).dataobj)
        for name in (HOSTILE, "tibbia.nii.gz")
    )
    middle = drawn.sum((0, 1)).argmax()
    low, high = np.percentile(voxels, [0.5, 99.5])
    grey = np.rint(255 * np.clip((voxels[..., middle] - low) / (high - low), 0, 1)).T
    bare = np.ones(grey.shape, bool)
    for start in (40, 80):
        bare[start : start + 25, 60:90] = False
    assert shown.shape == (120, 160, 3)
    np.testing.assert_allclose(
        shown[bare], np.repeat(grey[bare][:, None], 3, 1), atol=1
    )
    inside = shown[45:60, 65:85], shown[85:100, 65:85]
    colours = [np.ptp(part, axis=-1).min() for part in inside]
    assert min(colours) > 15, "each mask has a colour"


def test_a_picture_that_cannot_be_drawn_says_why(chosen):
    (chosen.study / "c" / "c.nii.gz").write_bytes(b"no image")

    assert "c.nii.gz" in chosen.get("/api/thumbnail", case="c/")[1]["reason"]
    assert "no case 'z'" in chosen.get("/api/thumbnail", case="z")[1]["reason"]


def test_a_study_with_patterns_shows_its_cases_as_check_reads_them(page, tmp_path):
    study = tmp_path / "phantoms"
    masks = study / "masks"
    for index, code in ((1, "A"), (2, "B")):
        save(study / "scans" / f"{index}_knee_{code}" / "scan.nii.gz", image())
        save(masks / f"{index}_L_tibia_{code}.nii.gz", box(40))
    recipe = RECIPE.replace('table = "cases.csv"', "")
    recipe = recipe.replace("threshold = 0.5", 'folder = "masks"')
    (study / "dataset.toml").write_text(f'{recipe}[scans]\nfolder = "scans"\n')
    page.post("/api/study/choose", study=str(study))

    status, found = page.get("/api/study/cases")

    assert (status, found["table"]) == (200, False), found
    assert [case["case"] for case in found["cases"]] == ["case_001", "case_002"]
    assert found["cases"][1]["masks"] == [
        {"file": "masks/2_L_tibia_B.nii.gz", "structure": "tibia", "side": "left"}
    ]


def job_of(page, command, values, result, *, started=2e9):
    """Write the files of a finished job, as its runner does."""
    folder = page.workspace / "runs" / "jobs" / f"job-{command}"
    folder.mkdir(parents=True)
    facts = {
        "command": command,
        "values": values,
        "words": [command],
        "started": started,
    }
    (folder / "job.json").write_text(json.dumps(facts))
    (folder / "output.json").write_text(json.dumps(result))
    (folder / "end.json").write_text('{"exit_code": 0, "ended": 2}')
    return folder.name


def test_the_synthetic_patients_become_the_study_when_they_are_made(page, knees):
    made = {"study": str(knees), "recipe": str(knees / "dataset.toml"), "patients": 3}
    job_of(page, "demo", {"folder": str(knees.parent)}, made)

    assert page.get("/api/state")[1]["study"]["study"] == str(knees)

    other = knees.parent / "other"
    other.mkdir()
    page.post("/api/study/choose", study=str(other))
    now = page.get("/api/state")[1]["study"]
    assert (now["study"], now["recipe"]) == (str(other), None)


def test_two_studies_with_one_name_have_recipes_of_their_own(page, knees, tmp_path):
    other = tmp_path / "elsewhere" / "knees"
    shutil.copytree(knees, other)
    written = []
    for study in (knees, other):
        (study / "dataset.toml").unlink()
        page.post("/api/study/choose", study=str(study))
        out = page.get("/api/study")[1]["own"]
        page.finished(page.start("init", study=str(study), out=out))
        written.append(out)
    first, second = map(Path, written)
    content = first.read_bytes()
    second.write_text(second.read_text() + "# the second\n")

    page.post("/api/study/choose", study=str(knees))

    assert page.get("/api/study")[1]["recipes"] == [str(first)]
    assert first.read_bytes() == content
    assert first.is_relative_to(page.workspace / "studies")


def test_channels_and_values_of_a_labelmap_are_chosen_and_converted(page, tmp_path):
    study = tmp_path / "dixon"
    labels = 3 * box(40) + 5 * box(80)
    columns = ["patient", "role", "channel", "structure", "value", "file"]
    lines = [";".join(columns)]
    for patient in ("a", "b"):
        save(study / patient / "water.nii.gz", image())
        save(study / patient / "fat.nii.gz", 400 - image())
        save(study / patient / "labels.nii.gz", labels)
        lines += [
            f"{patient};image;water;;;{patient}/water.nii.gz",
            f"{patient};image;;;;{patient}/fat.nii.gz",
            f"{patient};labelmap;;tibia;3;{patient}/labels.nii.gz",
            f"{patient};labelmap;;femur;;{patient}/labels.nii.gz",
        ]
    (study / "cases.csv").write_text("\n".join(lines))
    channels = 'channels = ["water", "fat"]\n[labels]\ntibia = 1\nfemur = 2\n'
    (study / "dataset.toml").write_text(RECIPE.partition("[labels]")[0] + channels)
    page.post("/api/study/choose", study=str(study))
    about = page.get("/api/study")[1]
    assert (about["channels"], about["fault"]) == (["water", "fat"], "")
    found = page.get("/api/study/cases")[1]
    changes = {}
    for case in found["cases"]:
        _, fat, _, femur = case["rows"]
        changes |= {fat["line"]: {"channel": "fat"}, femur["line"]: {"value": "5"}}

    saved = page.post("/api/study/save", sha256=found["sha256"], changes=changes)
    places = {"study": str(study), "recipe": about["recipe"]}
    job = page.finished(page.start("convert", **places))

    assert (saved[0], job["state"]) == (200, "done"), job["error"]
    case = quote(found["cases"][0]["case"])
    _, headers, body = page.ask(f"/api/thumbnail?case={case}")
    assert headers["content-type"] == "image/png", body
    dataset = job["result"]["dataset"]
    shown = page.get("/api/look/cases", dataset=dataset)[1]["cases"]
    assert [len(case["images"]) for case in shown] == [2, 2]
    written = np.asarray(nibabel.load(shown[0]["reference"]).dataobj)
    assert [int((written == value).sum()) for value in (1, 2)] == [
        int((labels == value).sum()) for value in (3, 5)
    ]


def test_files_that_init_did_not_place_are_listed_until_they_have_a_line(page, knees):
    save(knees / "b" / "shape.nii.gz", np.zeros((3, 3, 3), np.uint8))
    for file in ("dataset.toml", "cases.csv"):
        (knees / file).unlink()
    page.post("/api/study/choose", study=str(knees))
    out = page.get("/api/study")[1]["own"]
    unused = page.finished(page.start("init", study=str(knees), out=out))["result"]
    listed = page.get("/api/study")[1]["unused"]

    assert [one["file"] for one in listed] == ["b/shape.nii.gz"]
    assert listed == unused["unused"]
    table = Path(out).with_name("cases.csv")
    columns = table.read_text("utf-8-sig").splitlines()[0].split(",")
    line = {"file": "b/shape.nii.gz", "role": "ignore"}
    with table.open("a", newline="") as stream:
        csv.DictWriter(stream, columns, "").writerow(line)
    assert page.get("/api/study")[1]["unused"] == []


def test_a_new_study_is_looked_through_and_checked(page, knees):
    (knees / "dataset.toml").unlink()
    (knees / "cases.csv").unlink()
    page.post("/api/study/choose", study=str(knees))
    out = page.get("/api/study")[1]["own"]
    page.finished(page.start("init", study=str(knees), out=out))
    assert page.get("/api/study")[1]["recipe"] == out
    about = page.get("/api/study")[1]
    assert [one["name"] for one in about["unknown"]] == ["tibbia"]
    page.post(
        "/api/study/save", sha256=about["sha256"], names=[["tibbia", "tibia", ""]]
    )

    job = page.finished(page.start("check", study=str(knees), recipe=out))

    found = page.get("/api/cases", job=job["id"])[1]
    assert found["counts"] == {"accepted": 3}, found
    body = page.ask(f"/api/thumbnail?case={found['cases'][0]['case']}")[2]
    assert body.startswith(b"\x89PNG")


def test_results_are_filtered_by_outcome_and_paged(page):
    words = ("accepted", "refused", "warned", "accepted")
    cases = [
        {
            "case": f"c{n:03d}",
            "outcome": words[n % 4],
            "messages": [f"[K02] <b>{n}</b>"],
        }
        for n in range(500)
    ]
    job = job_of(page, "check", {"study": "/s"}, {"cases": cases, "dataset": "D"})

    status, found = page.get("/api/cases", job=job, outcome="refused", page=7)

    assert (status, found["pages"], found["found"]) == (200, 7, 125)
    assert found["cases"] == [one for one in cases if one["outcome"] == "refused"][120:]
    assert found["counts"] == {"refused": 125, "warned": 125, "accepted": 250}
    assert page.get("/api/cases", job=job, page="x")[1]["page"] == 1
    assert page.get("/api/cases", job="../x")[0] == 400
    failed = job_of(page, "convert", {"study": "/s"}, {"error": "x", "cases": []})
    assert page.get("/api/cases", job=failed)[1]["dataset"] is None
