"""Numbers, bytes, durations, instants and tables as text: one form each, everywhere.

Standard library only, so that ``--help`` stays quick.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

_MINUTE, _HOUR, _TWO_DAYS = 60, 3600, 172_800


def format_bytes(count: float) -> str:
    """Return a number of bytes in decimal units, 0.1 MB at least."""
    megabytes = max(count / 1e6, 0.1)
    if megabytes < 9.95:  # noqa: PLR2004 - below, a digit after the point matters
        return f"{megabytes:.1f} MB"
    if megabytes < 999.5:  # noqa: PLR2004 - above, it would round to 1000 MB
        return f"{megabytes:.0f} MB"
    return f"{megabytes / 1000:.1f} GB"


def counted(count: int, noun: str, verbs: tuple[str, str] = ("", "")) -> str:
    """Return a number with its noun, and the verb that agrees with it.

    Examples
    --------
    >>> counted(1, "slice"), counted(2, "slice", ("exists", "exist"))
    ('1 slice', '2 slices exist')
    """
    plural = count != 1
    return f"{count} {noun}{'s' * plural} {verbs[plural]}".rstrip()


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    Examples
    --------
    >>> [format_duration(s) for s in (4.25, 42, 200, 7330, 200_000)]
    ['4.2 s', '42 s', '3 min 20 s', '2 h 2 min', '2 d 7 h']
    """
    whole = round(seconds)
    if seconds < 9.95 and seconds != whole:  # noqa: PLR2004 - one digit: show a second
        return f"{seconds:.1f} s"
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60} min {whole % 60} s"
    if whole < _TWO_DAYS:
        return f"{whole // _HOUR} h {whole % _HOUR // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // _HOUR} h"


def format_clock(seconds: float | None) -> str:
    """Return a duration without blanks below two days, for a narrow column."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole >= _TWO_DAYS:
        return format_duration(whole)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def now() -> str:
    """Return the present instant for a record: ISO 8601, to the second, with offset."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def format_instant(timestamp: float | None = None) -> str:
    """Return an instant (seconds since 1970, by default the present) for a page."""
    if timestamp is None:
        instant = datetime.now(tz=UTC)
    else:
        instant = datetime.fromtimestamp(timestamp, tz=UTC)
    return instant.strftime("%d %B %Y, %H:%M UTC").lstrip("0")


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text: words aligned left, columns of numbers (or ``-``) right.

    Examples
    --------
    >>> print(aligned(["structure", "dice"], [["tibia", "0.93"], ["fibula", "-"]]))
    structure  dice
    tibia      0.93
    fibula        -
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1:])) for column in columns]
    lines = []
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def number(value: float | None, digits: int) -> str:
    """Return a number with `digits` decimals; ``-`` for None.

    Examples
    --------
    >>> number(0.9254, 2), number(None, 2)
    ('0.93', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def _is_number(cell: str) -> bool:
    if cell == "-":
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
