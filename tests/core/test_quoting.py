"""Names from files stand in quotes that no name can forge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.quoting import quoted, without_names, without_quotes


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tibia 5A.nii.gz", "tibia 5A.nii.gz"),
        ("Müller_脛骨", "Müller_脛骨"),
        ("a”b“c", "a?b?c"),
        ("a\nb\tc", "a?b?c"),
        ("\u202egpj.exe", "?gpj.exe"),
        ("a\x1b[31m", "a?[31m"),
    ],
)
def test_a_quoted_name_shows_what_can_be_printed(name, shown):
    assert quoted(name) == f"“{shown}”"


@given(st.lists(st.text(max_size=12), max_size=3))
def test_quotes_can_always_be_removed_with_the_name_in_them(names):
    message = " and ".join(quoted(name) for name in names)

    assert without_quotes(message) == " and ".join("a file" for _ in names)


def test_names_of_folders_are_removed_without_quotes_too():
    assert without_names("“x” in 4_9B/MR and 4_9B", ["4_9B"]) == (
        "a file in a file/MR and a file"
    )
