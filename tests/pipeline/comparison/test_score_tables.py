"""Score tables of any origin: compared as models are, on the same page."""

import json

import numpy as np
import pytest
from command import bridge
from scipy import stats

HEADER = "case,structure,dice,hd95_mm,fold"


@pytest.fixture
def tables(tmp_path):
    """Two raters on twelve cases of six patients; only a few columns."""
    rng = np.random.default_rng(5)
    first = rng.uniform(0.8, 0.9, 12)
    for name, dice in (("a", first), ("b", first + rng.uniform(0.01, 0.03, 12))):
        rows = [f"c{n},tibia,{value},{n}," for n, value in enumerate(dice)]
        write(tmp_path / f"{name}.csv", rows)
    patients = [f"c{n},p{n // 2}" for n in range(12)]
    (tmp_path / "cases.csv").write_text("\n".join(["case,patient", *patients]))
    return tmp_path


def write(file, rows, header=HEADER):
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")


def compare(folder, *words, check=True):
    names = ("--scores", f"A={folder / 'a.csv'}", "--scores", f"B={folder / 'b.csv'}")
    asked = ["compare", *names, "-o", folder / "out", *words, "--json"]
    result = bridge(*asked, check=check)
    return json.loads(result.stdout) if check else result


def test_two_tables_are_compared_with_the_statistics_of_models(tables):
    found = compare(tables, "--patients", tables / "cases.csv", "--margin", "dice=0.5")

    row = next(r for r in found["results"] if r["metric"] == "dice")
    a, b = (np.loadtxt(tables / f"{x}.csv", delimiter=",", skiprows=1, usecols=2,
                       encoding="utf-8-sig") for x in "ab")  # fmt: skip
    per_patient = (b - a).reshape(6, 2).mean(axis=1)
    assert (row["n"], row["patients"], row["folds"]) == (12, 6, 0)
    assert row["median_difference"] == pytest.approx(np.median(b - a))
    assert row["p"] == pytest.approx(stats.wilcoxon(per_patient).pvalue)
    assert row["answer"] == "equivalent"
    page = (tables / "out/index.html").read_text()
    assert "A against B" in page
    assert json.loads((tables / "out/comparison.json").read_text())["scores"]


def test_without_patients_each_case_is_one_and_the_winner_is_of_these_scores(tables):
    found = compare(tables)

    assert found["patients"] == 12
    assert found["verdict"]["winner"] == "B"
    assert "This is about the patients only" in " ".join(found["verdict"]["sentences"])


def test_states_and_failures_of_a_table_count_as_those_of_models(tables):
    header = "case,structure,state,dice,hd95_mm"
    for name, last in (("a", "c9,fibula,both_empty,,"), ("b", "c9,fibula,invented,,")):
        rows = [f"c{n},fibula,scored,0.8,2.0" for n in range(9)]
        write(tables / f"{name}.csv", [*rows, last, "x,fibula,not_drawn,,"], header)

    found = compare(tables)

    row = next(r for r in found["results"] if r["metric"] == "hd95_mm")
    assert (row["n"], row["n_means"], row["failures_second"]) == (10, 9, 1)
    expected = {
        "model": "B",
        "structure": "fibula",
        "missed": 0,
        "invented": 1,
        "n": 10,
    }
    assert found["failures"] == [expected]
    dice = next(r for r in found["results"] if r["metric"] == "dice")
    assert dice["mean_first"] == pytest.approx((9 * 0.8 + 1) / 10)
    assert dice["mean_second"] == pytest.approx(9 * 0.8 / 10)


def test_a_column_fold_asks_whether_the_folds_agree(tables):
    """Differences of five folds: all cases of a fold share theirs, which cancel out."""
    shifts = [0.02, 0.03, 0.05, 0.02, -0.03]
    for name, sign in (("a", 0), ("b", 1)):
        rows = [
            f"c{n},tibia,{0.8 + sign * shifts[n % 5] + n / 1000},2,{n % 5}"
            for n in range(30)
        ]
        write(tables / f"{name}.csv", rows)

    found = compare(tables)

    row = next(r for r in found["results"] if r["metric"] == "dice")
    low, high = stats.t.interval(0.95, 4, np.mean(shifts), stats.sem(shifts))
    assert row["fold_interval_95"] == pytest.approx([low, high])
    half = (high - low) / 2 * np.sqrt((1 / 5 + 1 / 4) / (1 / 5))
    middle = np.mean(shifts)
    corrected = [middle - half, middle + half]
    assert row["fold_interval_95_corrected"] == pytest.approx(corrected)
    assert row["interval_95"][0] > 0
    assert row["p"] < 0.05
    assert found["verdict"]["winner"] is None
    assert "better for these 5 trainings each" in found["verdict"]["sentences"][0]


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["c0,0.5"], "case,dice", "lacks the column structure"),
        (["c0,,0.5,1,"], HEADER, "structure is empty in row 2"),
        (["c0,tibia,,,"], HEADER, "row 2: it has neither a number nor a state"),
        (["c0,tibia,9,1,"], HEADER, "Dice must be 0..1"),
        (["c0,tibia,much,1,"], HEADER, "row 2"),
        ([], HEADER, "no row"),
        (["c0,tibia,1,1,", "c0,tibia,1,1,"], HEADER, "two scores"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_and_its_row_named(
    tables, rows, header, words
):
    write(tables / "a.csv", rows, header)

    result = compare(tables, check=False)

    assert result.exit_code == 3
    assert words in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1"], "omit DATASET"),
        (["-c", "2d"], "omit DATASET"),
        (["--scores", "A"], "Write NAME=FILE"),
    ],
)
def test_tables_and_models_are_not_asked_for_together(tables, words, said):
    result = compare(tables, *words, check=False)

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_name_is_given_once_and_a_patient_to_every_case(tables):
    twice = compare(tables, "--scores", f"A={tables / 'b.csv'}", check=False)
    (tables / "cases.csv").write_text("case,patient\nc0,p0\n")
    without = compare(tables, "--patients", tables / "cases.csv", check=False)

    assert "same name: A, B, A" in twice.stderr
    assert "patients of c1, c10" in without.stderr
