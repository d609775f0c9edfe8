"""Labels that are added to the text of a recipe or removed from it."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.errors import RecipeError
from nnunet_bridge.formats.recipe_labels import with_labels

RECIPE = """\
# mine
[dataset]
id = 3  # labels = 1
[labels]                  # the order is the value
tibia = 1   # the shin
"femur links" = 2
  patella=3

[labels.aliases]
tibia = ["shin"]
[merge]
overlap = "background"
"""
NAMES = st.lists(st.text(min_size=1, max_size=9).filter(str.isprintable), max_size=3)


@given(add=NAMES, remove=st.sets(st.sampled_from(["femur links", "patella"])))
def test_values_stay_without_gap_and_all_else_stays(add, remove):
    new = tomllib.loads(with_labels(RECIPE, add=add, remove=remove))

    old = tomllib.loads(RECIPE)
    kept = [n for n in ("tibia", "femur links", "patella") if n not in remove]
    names = list(dict.fromkeys([*kept, *add]))
    aliases = new["labels"].pop("aliases")
    assert aliases == old["labels"].pop("aliases")
    assert new.pop("labels") == {name: n for n, name in enumerate(names, start=1)}
    assert new == {part: old[part] for part in ("dataset", "merge")}


def test_comments_and_other_lines_stay():
    lines = RECIPE.splitlines(keepends=True)
    lines[5:7] = ["  patella=2\n", "fibula = 3\n"]

    assert with_labels(RECIPE, add=["fibula"], remove=["femur links"]) == "".join(lines)


@pytest.mark.parametrize(
    "labels",
    ["labels = {tibia = 1}\n", "labels.tibia = 1\n", "[labels]\ntibia = 0x1\n"],
)
def test_labels_in_another_form_are_left_to_a_person(labels):
    with pytest.raises(RecipeError, match=r"\[labels\]|not valid TOML"):
        with_labels(labels, add=["femur"])
