"""Who is one person, by pixels, headers and names."""

import itertools

import laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.ops.people import (
    PersonEvidence,
    disagreements,
    is_placeholder,
    people_of,
)

OTHERS = {f"z{n}": PersonEvidence(f"Z{n}", f"z{n}", f"z{n} born") for n in range(9)}
"""Nine other people, so that no ID below is that of most scans."""


def persons(**scans):
    found = people_of({**scans, **OTHERS})
    return [found[name] for name in scans]


def evidence(text):
    """Return evidence written as ``code id birth pixels``; a dot is unknown."""
    words = [word.strip(".") for word in text.split()]
    return PersonEvidence(*words, *[""] * (4 - len(words)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A 1 1b", "B 1 1b", True),  # unequal codes of one person
        ("A 1 1b", "A 2 2b", False),  # one code of two persons
        ("A 1 1b", "A 1 1c", False),  # equal IDs of two hospitals, unequal birth dates
        ("A 1 1b", "B 1", True),  # a birth date is missing
        ("A", "A 1 1b", True),
        ("A", "B 1 1b", False),
        ("A 1 1b x", "B 2 2b x", True),  # equal pixels are one person always
        ("A . . x", "B . . y", False),
    ],
)
def test_evidence_decides_in_the_order_pixels_headers_names(one, other, same):
    first, second = persons(a=evidence(one), b=evidence(other))

    assert (first == second) is same


def test_a_scan_without_identity_joins_both_persons_of_its_code():
    found = persons(a=evidence("A 1 1b"), b=evidence("A 2 2b"), c=evidence("A"))

    assert len(set(found)) == 1


@pytest.mark.parametrize(("share", "same"), [(2, True), (3, False)])
def test_an_id_of_more_than_half_of_the_folders_is_not_believed(share, same):
    scans = {str(n): PersonEvidence(f"c{n}", "1", "1b") for n in range(share)}
    scans |= {f"other{n}": PersonEvidence(f"o{n}", f"o{n}") for n in range(4 - share)}

    found = people_of(scans)

    assert (found["0"] == found["1"]) is same


@pytest.mark.parametrize(("scans", "people"), [(2, 1), (3, 3), (5, 5)])
def test_a_code_that_all_of_three_or_more_scans_have_is_not_believed(scans, people):
    found = people_of({str(n): PersonEvidence("A") for n in range(scans)})

    assert len(set(found.values())) == people


def test_ids_still_join_scans_that_all_have_one_code():
    scans = {str(n): PersonEvidence("A", f"i{n // 2}") for n in range(6)}

    assert len(set(people_of(scans).values())) == 3
    assert disagreements(scans)[2] == [list(scans)]


@pytest.mark.parametrize(
    "text", ["", " ", "0", "00000", "Anonymous", "ANON", "N/A", "no-ID", "XXXX", "9999"]
)
def test_placeholders_identify_nobody(text):
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["9B", "11", "ANON017", "P1", "010203-1234", "Anna"])
def test_ids_of_people_are_no_placeholders(text):
    assert not is_placeholder(text)


few = st.sampled_from(["", "1", "2", "3"])
scans = st.lists(
    st.builds(
        lambda code, who, born, pixels: PersonEvidence(
            f"c{code}", who and f"i{who}", who and born and f"b{who}{born}", pixels
        ),
        st.sampled_from("123"),
        few,
        few,
        few,
    ),
    min_size=1,
    max_size=8,
).map(lambda found: {f"s{n}": one for n, one in enumerate(found)} | OTHERS)


@laws.examples(100)
@given(scans)
def test_equal_pixels_and_equal_births_are_always_one_person(found):
    person = people_of(found)

    for one, other in itertools.combinations(found, 2):
        a, b = found[one], found[other]
        if (a.pixels and a.pixels == b.pixels) or (a.birth and a.birth == b.birth):
            assert person[one] == person[other]


@laws.examples(100)
@given(scans)
def test_the_warnings_list_each_person_and_code_that_disagree(found):
    person = people_of(found)

    one_image, unequal, mixed = disagreements(found)

    alike = {pixels: [] for pixels in {scan.pixels for scan in found.values()} - {""}}
    for name, one in found.items():
        if one.pixels:
            alike[one.pixels].append(name)
    assert sorted(one_image) == sorted(g for g in alike.values() if len(g) > 1)
    for group in unequal:
        assert len({person[name] for name in group}) == 1
        assert len({found[name].code for name in group}) > 1
    for group in mixed:
        assert len({found[name].code for name in group}) == 1
        assert len({person[name] for name in group}) > 1
