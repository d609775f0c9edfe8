"""The recipe: every mistake at once, and names that are never guessed."""

import signal
import time

import pytest

from nnunet_bridge.core.errors import RecipeError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.formats.recipe import (
    match_name,
    read_recipe,
    recipe_from,
    shipped_recipes,
)

GOOD = {
    "dataset": {"id": 1, "name": "Tibia", "case": "msk_{index:03d}"},
    "labels": {
        "tibia": 1,
        "femur": 2,
        "aliases": {"femur": ["Femur L", "Femur R", "thigh bone"]},
    },
}


def with_part(**parts):
    return {**GOOD, **parts}


@pytest.mark.parametrize("name", ["lower_limb", "hippocampus", "spine"])
def test_the_shipped_recipes_are_valid_and_found_by_name(name):
    recipe = read_recipe(name)

    assert recipe.spec().labels.names
    assert (shipped_recipes()[name].parent / "README.md").is_file()


def test_the_labels_become_a_table_in_the_order_of_their_values():
    recipe = recipe_from({**GOOD, "labels": {"femur": 2, "tibia": 1}})

    assert recipe.spec().labels.names == ("tibia", "femur")
    assert recipe.case_id({"index": "06", "code": "9B"}) == "msk_006"


def test_a_region_is_a_first_slice_and_an_end_behind_it():
    def region(*slices):
        return with_part(region={"crop": "slices", "slices": list(slices)})

    assert recipe_from(region(0, 1)).region.slices == (0, 1)
    for slices in ((3, 3), (5, 3), (-1, 3)):
        with pytest.raises(RecipeError, match="0 <= first < end"):
            recipe_from(region(*slices))


def test_a_case_of_the_table_is_numbered_as_the_recipe_names_its_cases():
    named = {**GOOD["dataset"], "case": "knee_{index:02d}"}
    unnamed = {key: GOOD["dataset"][key] for key in ("id", "name")}

    assert recipe_from(with_part(dataset=named)).numbered_id(7) == "knee_07"
    assert recipe_from({**GOOD, "dataset": unnamed}).numbered_id(7) == "msk_007"


def test_all_mistakes_are_reported_at_once_with_their_place():
    with pytest.raises(RecipeError) as caught:
        recipe_from(
            {
                "dataset": {"id": 0, "nam": "x", "case": "a_{idx}"},
                "labels": {"a": 1, "b": 3, "aliases": {"c": ["x"]}},
                "masks": {"pattern": "("},
                "merge": {"priority": ["bb"], "overlap": "sum"},
                "region": {"crop": "slices"},
                "cases": {"m": {"d": "absent"}},
                "extra": {},
            }
        )

    places = [line.split(":")[0].strip() for line in str(caught.value).split("\n")[1:]]
    assert set(places) == {
        "dataset.id",
        "dataset.name",
        "dataset.nam",
        "dataset.case",
        "masks.pattern",
        "merge.overlap",
        "merge.priority",
        "labels",
        "labels.aliases",
        "region.slices",
        "cases.m",
        "extra",
    }
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"scans": {"pattern": "(?P<code>.+)"}}, r"scans.pattern: needs .*index"),
        ({"masks": {"pattern": r"(?P<index>\d+)"}}, "needs a named group .*structure"),
        ({"region": {"slices": [5, 5]}}, "0 <= first < end"),
        ({"merge": {"priority": ["tibbia"]}}, "did you mean tibia"),
        ({"labels": {"tibia": 1, "ignore": 2}}, "nnU-Net reserves"),
        ({"labels": {"tibia": 1, "Tibia ": 2}}, "differ only in case"),
        ({"labels": {"a": 1, "b": 2, "aliases": {"a": ["x"], "b": ["X"]}}}, "already"),
        ({"dataset": {"id": 1, "name": "x", "case": "same"}}, "would get one id"),
        (
            {"dataset": {"id": 1, "name": "x", "case": "a_{index:04d}"}},
            "reads '_0000'",
        ),
    ],
)
def test_a_mistake_says_what_to_do(part, message):
    with pytest.raises(RecipeError, match=message):
        recipe_from(with_part(**part))


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "dataset.toml").write_text("[dataset\n")

    with pytest.raises(RecipeError, match="not valid TOML"):
        read_recipe(tmp_path / "dataset.toml")
    with pytest.raises(RecipeError, match="There is no recipe"):
        read_recipe("no_such_recipe")


@pytest.mark.parametrize(
    ("written", "side", "meant"),
    [
        ("tibia", "left", ("tibia", "left")),
        (" TIBIA ", "", ("tibia", "")),
        ("Femur L", "", ("femur", "left")),
        ("thigh  bone", "", ("femur", "")),
        ("right tibia", "", ("tibia", "right")),
        ("tibia_left", "", ("tibia", "left")),
    ],
)
def test_K21_names_are_compared_folded_and_trimmed(written, side, meant):
    assert recipe_from(GOOD).structure_of(written, side) == meant


@pytest.mark.parametrize("written", ["femurr", "fem", "femur tibia", ""])
def test_K21_an_unknown_name_is_refused_with_the_nearest(written):
    with pytest.raises(Refused) as caught:
        recipe_from(GOOD).structure_of(written)

    assert caught.value.code == "K21"
    assert written != "femurr" or "Did you mean femur?" in str(caught.value)


def test_L1_is_a_vertebra_and_not_a_left_side():
    assert read_recipe("spine").structure_of("L1") == ("L1", "")


def test_separate_sides_get_labels_of_their_own():
    recipe = recipe_from(
        {
            "dataset": GOOD["dataset"],
            "labels": {"tibia": 1, "pelvis_middle": 2},
            "merge": {"sides": "separate"},
        }
    )

    assert recipe.table.names == ("tibia_left", "tibia_right", "pelvis_middle")
    assert recipe.table["tibia_right"].side == "right"
    assert recipe.label_of("tibia", "left").value == 1
    assert recipe.label_of("pelvis", "").value == 3
    with pytest.raises(Refused, match=r"no side, .* tibia_left, tibia_right: name"):
        recipe.label_of("tibia", "")


def test_K15_ignored_voxels_get_the_highest_label():
    recipe = recipe_from(with_part(merge={"missing": "ignore"}))

    assert recipe.table.names == ("tibia", "femur")
    assert recipe.table.ignore_value == 3


def test_the_digest_changes_with_anything_in_the_recipe():
    one = recipe_from(GOOD).digest()

    assert one == recipe_from(GOOD).digest()
    assert one != recipe_from(with_part(merge={"overlap": "priority"})).digest()


def test_a_job_asks_for_one_gpu_eight_cores_and_a_day_by_default():
    slurm = recipe_from(GOOD).slurm

    assert (slurm.gpus, slurm.cpus, slurm.memory_gb) == (1, 8, 32)
    assert (slurm.time, slurm.partition, slurm.at_once) == ("1-00:00:00", None, None)


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [("gpus", 0, 64), ("cpus", 1, 1024), ("memory_gb", 1, 16384)],
)
def test_a_job_asks_for_what_a_computer_can_have(key, least, most):
    for value in (least, most):
        assert getattr(recipe_from(with_part(slurm={key: value})).slurm, key) == value
    for value in (least - 1, most + 1):
        with pytest.raises(RecipeError, match=rf"slurm\.{key}"):
            recipe_from(with_part(slurm={key: value}))


@pytest.mark.parametrize(("name", "valid"), [("T", True), ("", False)])
def test_a_channel_has_a_name(name, valid):
    part = {"dataset": {**GOOD["dataset"], "channel": name}}
    if valid:
        assert recipe_from(with_part(**part)).spec().channels == ("T",)
    else:
        with pytest.raises(RecipeError, match=r"dataset\.channel"):
            recipe_from(with_part(**part))


def test_options_of_a_command_overrule_the_scans_of_a_recipe():
    recipe = recipe_from(with_part(scans={"folder": "MR", "echo": 1}))

    other = recipe.with_scans(echo=2, overlap="mean")

    assert (other.scans.folder, other.scans.echo) == ("MR", 2)
    assert (other.scans.overlap, recipe.scans.overlap) == ("mean", "refuse")
    assert other.labels == recipe.labels
    with pytest.raises(RecipeError, match=r"scans\.overlap"):
        recipe.with_scans(overlap="both")


@pytest.mark.parametrize(
    ("part", "lines"),
    [
        (
            {"labels": {"femur": 1, "femurs": 2}, "merge": {"priority": ["femurr"]}},
            ["merge.priority: unknown label 'femurr'; did you mean femur?"],
        ),
        (
            {"masks": {"values": {"tibbia": 3, "femur": 4}}},
            ["masks.values: unknown label 'tibbia'; did you mean tibia?"],
        ),
        (
            {"cases": {"msk_001": {"skull": "absent"}}},
            ["cases.msk_001: unknown label 'skull'"],
        ),
        (
            {"dataset": {"id": 1, "name": "T", "case": "a_{index:03d}_{code}_{x}"}},
            ["dataset.case: {x} is not a named group of scans.pattern (code, index)"],
        ),
    ],
)
def test_a_mistake_is_reported_once_with_one_suggestion(part, lines):
    with pytest.raises(RecipeError) as caught:
        recipe_from(with_part(**part))

    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == lines


def nested(depth):
    return "(" * depth + "(?P<index>a)" + ")" * depth


HOSTILE = {
    "2000 nested groups": {"scans": {"pattern": nested(2000)}},
    "a repetition of 10^12": {"scans": {"pattern": "(?P<index>a{1000000000000})"}},
    "a width of 10^9": {
        "dataset": {**GOOD["dataset"], "case": "m_{index:01000000000d}"}
    },
    "a width from another name": {
        "dataset": {**GOOD["dataset"], "case": "m_{index:{code}}"}
    },
    "an attribute": {"dataset": {**GOOD["dataset"], "case": "{index.__class__}"}},
    "100,000 labels": {"labels": {f"l{n}": n + 1 for n in range(100_000)}},
    "256 labels": {"labels": {f"l{n}": n + 1 for n in range(256)}},
    "a label without a name": {"labels": {"": 1}},
    "a label of spaces": {"labels": {" \t": 1}},
    "a label of escape codes": {"labels": {"a\x1b[2J": 1}},
    "a label of 1,000 letters": {"labels": {"a" * 1000: 1}},
    "10,000 unknown labels": {
        "merge": {"priority": [f"bone{n}" for n in range(10_000)]}
    },
}


@pytest.mark.parametrize("part", HOSTILE.values(), ids=HOSTILE)
def test_R9_a_hostile_recipe_is_refused_in_bounded_time(part):
    begin = time.process_time()

    with pytest.raises(RecipeError):
        recipe_from(with_part(**part))

    assert time.process_time() - begin < 1


def test_255_labels_are_allowed():
    labels = {f"l{n}": n + 1 for n in range(255)}

    assert len(recipe_from({**GOOD, "labels": labels}).table) == 255


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 100_000, "a = 1" + "0" * 5000, "#" * (1 << 20) + "\na=1"]
)
def test_R9_a_file_that_no_recipe_needs_is_refused(tmp_path, content):
    (tmp_path / "dataset.toml").write_text(content)

    with pytest.raises(RecipeError):
        read_recipe(tmp_path)


@pytest.mark.parametrize("pattern", ["(?P<index>(a+)+)b", "(?P<index>(a|a)*)b"])
def test_R9_an_exponential_pattern_ends_with_the_name_that_it_was_tried_on(pattern):
    begin = time.process_time()

    with pytest.raises(RecipeError, match=r"takes more than 1 s for the name .aaaa"):
        match_name(pattern, "a" * 40)

    assert time.process_time() - begin < 2
    assert match_name(pattern, "aab")["index"] == "aa"
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
