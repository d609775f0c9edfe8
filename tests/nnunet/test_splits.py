"""Folds by patient: no leak, every case once, every structure to learn from."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.nnunet.splits import Splitting, patient_splits, read_splits

patients_of_cases = st.dictionaries(
    st.from_regex(r"case_[0-9]{2}", fullmatch=True),
    st.sampled_from(["p1", "p2", "p3", "p4", "p5", "p6", "p7"]),
    min_size=2,
    max_size=30,
).filter(lambda patients: len(set(patients.values())) > 1)


@given(patients_of_cases)
def test_no_patient_is_on_both_sides_of_a_fold(patients):
    for fold in patient_splits(patients):
        on_one_side = {patients[case] for case in fold["train"]}
        on_the_other = {patients[case] for case in fold["val"]}
        assert not on_one_side & on_the_other


@given(patients_of_cases)
def test_every_case_is_validated_once_and_trained_on_otherwise(patients):
    splits = patient_splits(patients)

    assert sorted(case for fold in splits for case in fold["val"]) == sorted(patients)
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(patients)
        assert fold["train"]
        assert fold["val"]


@given(patients_of_cases)
def test_splits_do_not_depend_on_the_order_of_the_cases(patients):
    backwards = dict(reversed(patients.items()))

    assert patient_splits(patients) == patient_splits(backwards)


@pytest.mark.parametrize(("cases", "folds"), [(2, 2), (3, 3), (4, 4), (5, 5), (12, 5)])
def test_fewer_than_five_patients_give_fewer_folds(cases, folds):
    splits = patient_splits({f"c{n}": f"p{n}" for n in range(cases)})

    assert len(splits) == folds


def test_one_patient_alone_cannot_be_split():
    with pytest.raises(InputError, match="needs two patients; there is 1"):
        patient_splits({"a": "p", "b": "p"})


@given(patients_of_cases)
def test_one_patient_at_a_time_can_be_left_out(patients):
    splits = patient_splits(patients, folds=0)

    assert len(splits) == len(set(patients.values()))
    for fold in splits:
        assert len({patients[case] for case in fold["val"]}) == 1


@given(
    patients=patients_of_cases,
    rare=st.sets(st.sampled_from(["p1", "p2", "p3", "p4", "p5", "p6", "p7"])),
    folds=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_every_training_part_holds_a_structure_that_two_patients_have(
    patients, rare, folds, seed
):
    holds = {
        case: {"femur", "fibula"} if patient in rare else {"femur"}
        for case, patient in patients.items()
    }

    splits = patient_splits(patients, holds, folds=folds, seed=seed)

    who_has_it = rare & set(patients.values())
    for fold in splits:
        learnt = {structure for case in fold["train"] for structure in holds[case]}
        assert "femur" in learnt
        assert "fibula" in learnt or len(who_has_it) < 2
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(patients)


def test_two_rare_structures_are_spread_without_undoing_each_other():
    patients = {f"c{n}": f"p{n}" for n in range(8)}
    for seed in range(200):
        plain = patient_splits(patients, folds=2, seed=seed)
        together, apart = plain[0]["val"], plain[1]["val"]
        holds = {case: {"femur"} for case in patients}
        for case in together[:2]:
            holds[case].add("fibula")
        for case in (apart if seed % 2 else together)[2:4]:
            holds[case].add("patella")

        splits = patient_splits(patients, holds, folds=2, seed=seed)

        for fold in splits:
            learnt = set().union(*(holds[case] for case in fold["train"]))
            assert learnt == {"femur", "fibula", "patella"}
            assert len(fold["val"]) == 4


def test_a_structure_of_one_patient_cannot_be_everywhere():
    patients = {"a": "p", "b": "q", "c": "r"}

    splits = patient_splits(patients, {"a": {"fibula"}})

    assert splits == patient_splits(patients)


# --- splits of other origin ----------------------------------------------------------

PATIENTS = {"a": "p", "b": "q", "c": "p", "d": "r"}


def written(tmp_path, content):
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content))
    return file


def test_fair_splits_are_taken_as_they_are(tmp_path):
    file = written(tmp_path, [{"train": ["c", "a"], "val": ["b"]}])

    splits = Splitting(file=file).splits(PATIENTS, {})

    assert splits == [{"train": ["a", "c"], "val": ["b"]}]


def test_every_fault_of_the_splits_is_named_at_once(tmp_path):
    file = written(
        tmp_path,
        [
            {"train": ["a", "b"], "val": ["c"]},
            {"train": ["a", "x"], "val": ["a"]},
            {"train": [], "val": ["b"]},
        ],
    )

    with pytest.raises(InputError) as caught:
        read_splits(file, PATIENTS)

    message = str(caught.value)
    assert "fold 0: c is of the same patient as a, which is trained on." in message
    assert "fold 1: there is no case x." in message
    assert "fold 1: a is trained on and validated." in message
    assert "fold 2: `train` names no case." in message


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        ["a"],
        [{"train": ["a"]}],
        [{"train": "a", "val": ["b"]}],
        [{"train": [1], "val": ["b"]}],
        [{"train": ["a"], "val": ["b"], "test": []}],
    ],
)
def test_a_file_of_another_form_is_refused_with_the_form(tmp_path, content):
    with pytest.raises(InputError, match="a fold each"):
        read_splits(written(tmp_path, content), PATIENTS)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    file = tmp_path / "splits.json"
    file.write_text("train: a")

    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_splits(file, PATIENTS)


@given(st.data())
@examples(60)
def test_a_partly_drawn_structure_is_spread_over_the_folds_by_where_it_is_drawn(data):
    cases = [f"case_{n:02d}" for n in range(data.draw(st.integers(5, 30)))]
    some = st.sets(st.sampled_from(cases), min_size=1)
    where = {name: data.draw(some) for name in ("pelvis", "fibula")}
    where["tibia"] = set(cases)
    drawn = {case: [n for n, own in where.items() if case in own] for case in cases}

    splits = patient_splits({case: case for case in cases}, drawn, drawn)

    sizes = [len(fold["val"]) for fold in splits]
    assert sorted(case for fold in splits for case in fold["val"]) == cases
    rarest = min(where, key=lambda name: len(where[name]))
    for name, own in where.items():
        counts = [len(own.intersection(fold["val"])) for fold in splits]
        if name == rarest:
            assert max(counts) - min(counts) <= 1
        if len(own) > 1:
            assert max(counts) < len(own)
    assert max(sizes) - min(sizes) <= 2
