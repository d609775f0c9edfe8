"""Spoilt files of every format: one kind of error, two seconds, 512 MiB (R9, S06-S08).

150 files a format by default, 2,500 with NNUNET_BRIDGE_LONG_TESTS=1; always the same.
`python tests/fuzz.py` does this by hand, and prints what it found.
"""

import fuzz
import pytest

BOMBS = range(150, 450, 100)
"""700 MB of zeros behind a sound header, or 2000 sequences in one another."""


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_R9_S06_S07_S08_a_spoilt_file_is_read_or_refused_and_costs_little(
    kind, long_tests
):
    numbers = [*range(2500 if long_tests else 150), *BOMBS]
    assert {fuzz.spoilt(kind, number)[0] for number in BOMBS} == {"bomb"}

    account = fuzz.fuzz(kind, numbers)

    assert account.findings == []
    assert set(account.outcomes) == {"read", "refused"}
    assert account.outcomes.total() == len(numbers)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_the_spoilt_files_are_always_the_same(kind):
    assert fuzz.spoilt(kind, 7) == fuzz.spoilt(kind, 7)
