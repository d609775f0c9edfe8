"""Names are split into words, whatever glues them together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.ops.naming import marks, natural_key, transliterated, words_of

WORDS = st.sampled_from(["femur", "left", "knee", "anna", "p01", "101", "9b"])


@examples(100)
@given(words=st.lists(WORDS, min_size=1), between=st.sampled_from("_- ./+"))
def test_any_separator_parts_words(words, between):
    assert words_of(between.join(words)) == tuple(words)
    assert words_of(between.join(words).upper()) == tuple(words)


@examples(100)
@given(st.lists(st.sampled_from(["femur", "left", "knee", "anna"]), min_size=1))
def test_capitals_part_words(words):
    camel = "".join(word.capitalize() for word in words)

    assert words_of(camel) == tuple(words)
    assert words_of(camel[0].lower() + camel[1:]) == tuple(words)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("P01", "p1_femur", {"1", "p1"}),
        ("KNEE-101", "leftFemurKnee101", {"101", "#101", "knee", "knee 101"}),
        ("sub-01_ses-2", "sub-02_ses-1", {"1", "2", "#1", "#2", "sub", "ses"}),
        ("9B", "b9", {"9"}),
    ],
)
def test_two_names_share_marks(one, other, shared):
    assert marks(words_of(one)) & marks(words_of(other)) == shared


@examples(100)
@given(st.text())
def test_any_text_is_split_and_transliterated(text):
    assert all(words_of(text)) or words_of(text) == ()
    assert transliterated(text).isascii()
    assert natural_key(text) == natural_key(text.casefold())
