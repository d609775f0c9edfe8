"""One table of a study with its codebook; a methods paragraph of what files say."""

import csv
import json

import pytest
from command import bridge
from small_study import RECIPE, four_patients

from nnunet_bridge.core.quality import Quality
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.core.words import ScoreState, Side
from nnunet_bridge.formats.tables import SCORE_COLUMNS, write_scores, write_volumes
from nnunet_bridge.pipeline.prediction.record import PredictionRecord
from nnunet_bridge.pipeline.prediction.results import VARIABLES


def table_of(file):
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def written(tmp_path):
    """Return what `run` leaves: predictions and scores of a model, of two visits."""
    out, scores = (tmp_path / "work" / n / "2d" for n in ("predictions", "scores"))
    sizes = {"a": 1000, "b": 3000}
    volumes = [
        StructureVolume(case, "tibia", Side.MERGED, voxels, voxels * 2.0)
        for case, voxels in sizes.items()
    ]
    write_volumes(out / "volumes.csv", volumes)
    for volume in volumes:
        write_volumes(out / volume.case_id / "volumes.csv", [volume])
        PredictionRecord(
            model="2d", volumes_mm3={"tibia": volume.volume_mm3}, quality=Quality(())
        ).write(out / volume.case_id)
    score = BoneScore(
        "a", "tibia", "", ScoreState.SCORED, 0.9, 1.5, 0.5, None, 1900.0, 2000.0
    )
    write_scores(scores / "scores.csv", [score])
    return tmp_path


def test_volumes_scores_and_ratings_of_a_case_share_a_row(written):
    found = bridge("results", written / "work", "-o", written / "t", "--json")

    first, second = table_of(written / "t" / "results.csv")
    assert json.loads(found.stdout)["rows"] == 2
    assert (first["source"], first["case"], first["structure"]) == ("2d", "a", "tibia")
    assert (float(first["volume_cm3"]), float(first["dice"])) == (2.0, 0.9)
    assert float(first["volume_error_cm3"]) == pytest.approx(0.1)
    assert (first["rating"], second["rating"]) == ("green", "green")
    assert (second["volume_cm3"], second["dice"]) == ("6.0", "")
    assert "patient" not in first
    assert "side" not in first


def test_the_codebook_has_every_column_of_the_table_and_no_other(written):
    bridge("results", written / "work", "-o", written / "t")

    header = list(table_of(written / "t" / "results.csv")[0])
    codes = table_of(written / "t" / "codebook.csv")
    assert [row["variable"] for row in codes] == header
    assert all(row["meaning"] for row in codes)
    assert set(SCORE_COLUMNS) <= VARIABLES.keys()


def test_the_case_table_adds_patient_and_visit_and_makes_the_table_private(written):
    cases = written / "cases.csv"
    cases.write_text(
        "file,role,case,patient,visit\ns1,image,a,Müller,1\ns2,image,b,=x,2\n"
    )

    bridge("results", written / "work", "-o", written / "t", "--cases", cases)

    file = written / "t" / "results.csv"
    rows = [(row["patient"], row["visit"]) for row in table_of(file)]
    assert rows == [("Müller", "1"), ("'=x", "2")]  # no formula for a spreadsheet
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")


def test_two_tables_that_disagree_are_refused(written):
    other = written / "work" / "again" / "2d" / "volumes.csv"
    write_volumes(other, [StructureVolume("a", "tibia", Side.MERGED, 1, 2.0)])

    result = bridge("results", written / "work", "-o", written / "t", check=False)

    assert result.exit_code == 3
    assert "volume_cm3 of tibia in a differs" in " ".join(result.output.split())


def test_a_folder_without_tables_and_a_foreign_case_table_are_refused(written):
    (written / "empty").mkdir()
    cases = written / "cases.csv"
    cases.write_text("file,role,case\ns1,image,zzz\n")
    words = "-o", written / "t"

    none = bridge("results", written / "empty", *words, check=False)
    foreign = bridge("results", written / "work", *words, "--cases", cases, check=False)

    assert (none.exit_code, foreign.exit_code) == (3, 3)
    assert "names none of the cases" in " ".join(foreign.output.split())


@pytest.fixture
def described(tmp_path):
    """Return a workspace with a converted study."""
    four_patients(tmp_path / "study")
    (tmp_path / "study" / "dataset.toml").write_text(RECIPE % 'test = "test_masks"')
    bridge("convert", tmp_path / "study", "-w", tmp_path / "work", check=False)
    return tmp_path / "work"


def test_a_paragraph_states_the_data_and_lists_what_no_file_says(described):
    found = json.loads(bridge("describe", "1", "-w", described, "--json").stdout)

    text = " ".join(found["sentences"])
    assert "The dataset holds 4 cases of 4 patients: 2 for training and 2" in text
    assert "2 structures are tibia, femur" in text
    assert "Voxels measure 0.75 x 0.75 x 4 mm, with 12 slices a case" in text
    assert "Cross-validation" not in text
    assert "trained" not in text
    assert any("no run is finished" in one for one in found["missing"])
    assert any("--comparison" in one for one in found["missing"])
