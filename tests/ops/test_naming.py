"""Names of files: what scans and masks share, and what is left."""

import re

import pytest

from nnunet_bridge.ops.naming import (
    mask_naming,
    natural_key,
    scan_groups,
    scan_pattern,
    segmentation_pattern,
)

INDEX, STRUCTURE = r"(?P<index>\d+)", r"(?P<structure>[^_]+)"
CODE = r"(?P<code>[^_.]+)"
SCANS = [("6", "9B"), ("7", "3C"), ("12", "4D")]


def read(pattern, stem):
    """Return structure and side that the pattern finds in a stem."""
    match = re.fullmatch(pattern, stem)
    return match and (match["structure"], match.groupdict().get("side"))


def test_names_are_sorted_by_their_numbers_and_numbers_before_words():
    names = ["b", "10_a", "2_b", "a2", "a10", "7"]

    assert sorted(names, key=natural_key) == ["2_b", "7", "10_a", "a2", "a10", "b"]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["6_MR_x_9B", "7_MR_x_3C"], r"(?P<index>\d+)_.*_(?P<code>[^_]+)"),
        (["6_9B", "7_3C"], r"(?P<index>\d+)_(?P<code>[^_]+)"),
        (["6", "7"], r"(?P<index>\d+)"),
        (["patient 1", "patient 2"], r"[A-Za-z]+[ _-]*(?P<index>\d+)"),
        (["knee7 of May", "knee8 of June"], r"\D*(?P<index>\d+)\D.*"),
    ],
)
def test_the_strictest_pattern_that_tells_the_scans_apart_is_taken(names, pattern):
    assert scan_pattern(names) == pattern
    assert len(scan_groups(pattern, [*names, "strange"])) == len(names)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("{n}_tibia_{c}", {("tibia", None)}),
        ("{n}_L_tibia_{c}", {("tibia", "L")}),
        ("{n}_tibia_L_{c}", {("tibia", "L")}),
        ("{n}__L__tibia__{c}", {("tibia", "L")}),
        ("{n}_left_tibia_{c}", {("tibia", "left")}),
        ("{n}_distal tibia_{c}", {("distal tibia", None)}),
        ("{n}_distal_tibia_{c}", {("distal_tibia", None)}),
        ("{n}_L_distal_tibia_{c}", {("distal_tibia", "L")}),
        ("{c}-{n}-tibia", {("tibia", None)}),
        ("{n} {c} tibia", {("tibia", None)}),
        ("tibia_{n}_{c}", {("tibia", None)}),
        ("{n}_L_{c}", {("L", None)}),
    ],
)
def test_the_pattern_finds_structure_and_side_of_every_mask(words, found):
    stems = [words.format(n=n, c=c) for n, c in SCANS]

    naming = mask_naming(stems, SCANS)

    assert {read(naming.pattern, stem) for stem in stems} == found
    assert set(naming.structures.values()) == {structure for structure, _ in found}
    assert list(naming.structures) == stems


@pytest.mark.parametrize(
    ("stems", "pattern"),
    [
        (
            ["6_L_tibia_9B", "7_tibia_3C"],
            rf"{INDEX}_(?:(?P<side>[LRM])_)?{STRUCTURE}_{CODE}",
        ),
        (
            ["6_L_tibia_9B", "7_R_tibia_3C", "12_M_tibia_4D"],
            rf"{INDEX}_(?:(?P<side>[LRM])_)?{STRUCTURE}_{CODE}",
        ),
        (
            ["6_tibia_left_9B", "7_tibia_right_3C"],
            rf"{INDEX}_{STRUCTURE}(?:_(?P<side>left|right))?_{CODE}",
        ),
        (
            ["6-tibia--9B", "7-femur--3C"],
            rf"{INDEX}\-{STRUCTURE}\-\-{CODE}",
        ),
    ],
)
def test_the_pattern_is_what_a_person_would_write_into_a_recipe(stems, pattern):
    assert mask_naming(stems, SCANS).pattern == pattern


def test_files_of_another_scan_or_another_form_are_left_out():
    stems = ["6_tibia_9B", "7_tibia_3C", "12_femur_4D", "9B_6_tibia", "note", "8_x_1Z"]

    naming = mask_naming(stems, SCANS)

    assert naming.structures == {
        "6_tibia_9B": "tibia", "7_tibia_3C": "tibia", "12_femur_4D": "femur"
    }  # fmt: skip
    assert mask_naming(["note", "6_9B"], SCANS).pattern == ""


def test_a_number_may_have_leading_zeros_and_a_code_any_case():
    assert mask_naming(["006_tibia_9b"], SCANS).structures == {"006_tibia_9b": "tibia"}


def test_segmentations_have_no_structure_in_their_name():
    pattern = segmentation_pattern(["6_9B", "7_3C", "other"], SCANS)

    assert pattern == r"(?P<index>\d+)_(?P<code>[^_.]+)\.seg\.nrrd"
    assert segmentation_pattern(["6_bones_9B"], SCANS).count(".*") == 1
    assert segmentation_pattern(["other"], SCANS) == ""
