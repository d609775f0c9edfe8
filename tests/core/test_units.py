"""Bytes, durations and instants have one form each, whose figure can be read back."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.units import (
    aligned,
    counted,
    format_bytes,
    format_clock,
    format_duration,
    format_instant,
    now,
)

SIZE = {"MB": 1e6, "GB": 1e9}
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def test_only_one_thing_is_singular():
    verbs = ("is", "are")

    texts = [counted(number, "slice", verbs) for number in (0, 1, 2)]

    assert texts == ["0 slices are", "1 slice is", "2 slices are"]
    assert counted(1, "file") == "1 file"


@given(st.integers(0, 10**14))
def test_a_size_reads_back_to_half_of_its_last_digit(count):
    figure, unit = format_bytes(count).split()

    shown = float(figure) * SIZE[unit]
    digit = SIZE[unit] * (0.1 if "." in figure else 1)
    assert abs(shown - max(count, 100_000)) <= digit / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.1 MB"),
        (9_900_000, "9.9 MB"),
        (10_400_000, "10 MB"),
        (999_400_000, "999 MB"),
        (999_500_000, "1.0 GB"),
        (999_600_000, "1.0 GB"),
        (24_660_000_000, "24.7 GB"),
    ],
)
def test_megabytes_end_where_gigabytes_begin(count, text):
    assert format_bytes(count) == text


def seconds_of(text):
    words = text.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return sum(float(figure) * SECONDS[unit] for figure, unit in pairs)


@given(st.floats(0, 1e7))
def test_a_duration_reads_back_to_its_smaller_unit(seconds):
    text = format_duration(seconds)

    smallest = SECONDS[text.split()[-1]]
    error_s = seconds - seconds_of(text)
    assert -0.5 <= error_s < max(smallest, 0.51)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (9.94, "9.9 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (172_799, "47 h 59 min"),
        (172_800, "2 d 0 h"),
    ],
)
def test_a_duration_never_shows_60_of_a_unit(seconds, text):
    assert format_duration(seconds) == text


@given(st.floats(0, 172_799))
def test_a_clock_holds_no_blank_and_reads_back(seconds):
    text = format_clock(seconds)

    parts = [int(part) for part in text.split(":")]
    shown = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    assert shown == round(seconds)
    assert all(part < 60 for part in parts[1:])
    assert all(len(part) == 2 for part in text.split(":")[1:])


def test_a_clock_counts_days_from_two_on():
    assert format_clock(172_800) == format_duration(172_800) == "2 d 0 h"
    assert format_clock(None) == ""


def test_the_present_is_an_iso_instant_with_a_colon_in_its_offset():
    text = now()

    assert text[-3] == ":"
    away = abs(datetime.now(tz=UTC) - datetime.fromisoformat(text))
    assert away < timedelta(seconds=5)


def test_a_page_names_the_instant_without_leading_zero():
    second = datetime(2026, 3, 2, 7, 5, 59, tzinfo=UTC).timestamp()

    assert format_instant(second) == "2 March 2026, 07:05 UTC"
    read = datetime.strptime(f"{format_instant()} +0000", "%d %B %Y, %H:%M UTC %z")
    age = datetime.now(tz=UTC) - read
    assert timedelta(0) <= age < timedelta(minutes=2)


def test_a_column_is_one_of_numbers_only_if_every_row_is():
    rows = [["1", "x", "-"], ["10", "2", "1e-3"], ["-", "30", "nan"]]

    assert aligned(["a", "long", "figure"], rows).splitlines() == [
        " a  long  figure",
        " 1  x          -",
        "10  2       1e-3",
        " -  30       nan",
    ]
