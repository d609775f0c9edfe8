"""Every command that reports cases reports them in one form (`CaseReport`)."""

import json
import re

import pytest
from click.testing import CliRunner
from dicom_base import base, save
from small_study import GRID, MASKS, SCANS, TIBIA, draw, scan

from nnunet_bridge.cli import main
from nnunet_bridge.core.cases import (
    CaseReport,
    codes_of,
    findings_in,
    findings_record,
    messages_of,
)
from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.nifti import write_labelmap

SCAN = f"study/{SCANS}/4_AutoBindWATER_650_9B"
RECIPE = f"""
[dataset]
id = 1
name = "Tibia"
[scans]
folder = "{SCANS}"
[masks]
folder = "{MASKS}"
[labels]
tibia = 1
"""


@pytest.fixture
def inputs(tmp_path):
    """A study whose scan lacks slices, and folders with a damaged labelmap."""
    slices = base()
    del slices[7], slices[3]
    save(slices, tmp_path / SCAN)
    draw(tmp_path / "study", "4_tibia_9B", TIBIA)
    scan(tmp_path / "study", 5, "7C")
    draw(tmp_path / "study", "5_tibia_7C", TIBIA)
    (tmp_path / "dataset.toml").write_text(RECIPE)
    labels = Labelmap(GRID, TIBIA, LabelTable.from_names(["tibia"]))
    for name in ("predictions", "references"):
        write_labelmap(tmp_path / name / "a.nii.gz", labels)
        (tmp_path / name / "b.nii.gz").write_bytes(b"damaged")
    (tmp_path / "work").mkdir()
    return tmp_path


COMMANDS = {
    "check": ["check", "study", "-r", "dataset.toml"],
    "convert": ["convert", "study", "-r", "dataset.toml", "-w", "work"],
    "image": ["image", SCAN, "-o", "image.nii.gz"],
    "score": ["score", "predictions", "references", "-o", "scores"],
    "clean": ["clean", "predictions", "cleaned"],
    "mesh": ["mesh", "predictions", "-o", "meshes"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_case_has_the_same_form_in_every_command(
    inputs, command, monkeypatch
):
    monkeypatch.chdir(inputs)

    result = CliRunner().invoke(main, [*COMMANDS[command], "--json", "-q"])

    content = json.loads(result.stdout)
    assert result.exit_code == (3 if command == "image" else 4), result.output
    cases = content.get("cases", [content])
    (refused,) = (case for case in cases if case["outcome"] == "refused")
    assert list(refused)[:4] == ["case", "outcome", "codes", "messages"]
    assert refused["codes"] == list(dict.fromkeys(filter(None, refused["codes"])))
    assert refused["codes"]
    heads = [re.match(r"\[([A-Z]\d\d)\] \S", line) for line in refused["messages"]]
    assert {head[1] for head in heads if head} == set(refused["codes"])
    assert len(set(refused["messages"])) == len(refused["messages"])


FINDINGS = (
    Finding("", Outcome.WARNED, "Nothing was found."),
    Finding("G03", Outcome.REFUSED, "“slice 7.dcm” is missing."),
    Finding("G03", Outcome.REFUSED, "“slice 9.dcm” is missing."),
    Finding("G03", Outcome.REFUSED, "“slice 9.dcm” is missing."),
)


def test_codes_are_unique_and_messages_carry_theirs_worst_first():
    assert CaseReport("a", FINDINGS).as_json() == {
        "case": "a",
        "outcome": "refused",
        "codes": ["G03"],
        "messages": [
            "[G03] “slice 7.dcm” is missing.",
            "[G03] “slice 9.dcm” is missing.",
            "Nothing was found.",
        ],
    }


def test_a_record_of_findings_holds_no_name_and_is_read_back():
    record = findings_record(
        [*FINDINGS, Finding("K21", Outcome.WARNED, "4_9B is odd.")], ["4_9B"]
    )

    assert "dcm" not in str(record)
    assert "4_9B" not in str(record)
    assert codes_of(findings_in(record)) == ("G03", "K21")
    assert messages_of(findings_in(record))[0] == "[G03] a file is missing."
