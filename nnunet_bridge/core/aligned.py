"""Tables as aligned text, and numbers in them."""

from __future__ import annotations

from collections.abc import Sequence


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
