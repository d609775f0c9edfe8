"""Spoilt files of every format: one kind of error, two seconds, 512 MiB (R9, S06-S08).

150 files a format, 2,500 in the long form; always the same.
`python tests/fuzz.py` does this by hand, and prints what it found.
"""

import fuzz
import pytest

BOMBS = range(150, 450, 100)
"""700 MB of zeros behind a sound header, or 2000 sequences in one another."""


@pytest.mark.parametrize("kind", fuzz.KINDS)
@pytest.mark.parametrize("files", [150, pytest.param(2500, marks=pytest.mark.long)])
def test_R9_S06_S07_S08_a_spoilt_file_is_read_or_refused_and_costs_little(kind, files):
    numbers = [*range(files), *BOMBS]
    assert {fuzz.spoilt(kind, number)[0] for number in BOMBS} == {"bomb"}

    account = fuzz.fuzz(kind, numbers)

    assert account.findings == []
    assert set(account.outcomes) == {"read", "refused"}
    assert account.outcomes.total() == len(numbers)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_the_spoilt_files_are_always_the_same(kind):
    assert fuzz.spoilt(kind, 7) == fuzz.spoilt(kind, 7)
