"""The recipe: every mistake at once, and names that are never guessed."""

import pytest

from nnunet_bridge.core.errors import RecipeError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.formats.recipe import read_recipe, recipe_from, shipped_recipes

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
    with pytest.raises(Refused, match="no side"):
        recipe.label_of("tibia", "")


def test_K15_ignored_voxels_get_the_highest_label():
    recipe = recipe_from(with_part(merge={"missing": "ignore"}))

    assert recipe.table.names == ("tibia", "femur")
    assert recipe.table.ignore_value == 3


def test_the_digest_changes_with_anything_in_the_recipe():
    one = recipe_from(GOOD).digest()

    assert one == recipe_from(GOOD).digest()
    assert one != recipe_from(with_part(merge={"overlap": "priority"})).digest()
