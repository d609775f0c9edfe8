"""A rule of cleaning: sensible from birth, and the same after a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import InputError

rules = st.one_of(
    st.just(CleaningRule("none")),
    st.builds(CleaningRule, st.just("slice"), ratio=st.floats(0, 1)),
    st.builds(
        CleaningRule,
        st.just("volume"),
        min_volume_mm3=st.floats(0, 1e9),
        keep_largest=st.none() | st.integers(1, 9),
    ),
    st.builds(
        CleaningRule,
        st.just("volume"),
        keep_largest=st.integers(1, 9),
        each_side=st.booleans(),
    ),
)


@given(rule=rules)
def test_a_rule_reads_back_equal_whatever_stands_beside_it(rule):
    assert CleaningRule.from_json({**rule.as_json(), "accepted": True}) == rule


@given(rule=rules)
def test_the_words_of_a_rule_begin_with_its_name(rule):
    assert rule.as_text().startswith(rule.name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "3d"}, "Choose 'slice' or 'volume'"),
        ({"ratio": 1.5}, "between 0 and 1, not 1.5"),
        ({"ratio": float("nan")}, "between 0 and 1, not nan"),
        ({"min_volume_mm3": -1.0}, "0 mm3 or more"),
        ({"min_volume_mm3": float("inf")}, "0 mm3 or more"),
        ({"keep_largest": 0}, "At least one piece"),
        ({"name": "volume", "each_side": True}, "needs --keep N"),
    ],
)
def test_a_rule_without_sense_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        CleaningRule(**words)


@pytest.mark.parametrize(
    "content", [{}, {"rule": 1}, {"rule": "3d"}, {"rule": "slice", "ratio": "x"}]
)
def test_what_describes_no_rule_is_refused(content):
    with pytest.raises(InputError):
        CleaningRule.from_json(content)


def test_a_rule_may_keep_pieces_of_any_size():
    rule = CleaningRule("volume", min_volume_mm3=0.0, keep_largest=1)

    assert rule.min_volume_mm3 == 0


@pytest.mark.parametrize("ratio", [0, 1])
def test_a_ratio_may_be_any_share_from_0_to_1(ratio):
    assert CleaningRule("slice", ratio=ratio).ratio == ratio
