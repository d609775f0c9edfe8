"""Read and write the case table, as spreadsheets of all countries save it.

A table is UTF-8 (with a byte order mark where it is not plain ASCII, so that Excel
shows umlauts), UTF-16 or Windows-1252; its cells are parted by ``,``, ``;`` or a tab.
Its columns come in any order, with others between them. It names files of patients, so
only its owner may read it.
"""

import codecs
import contextlib
import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from nnunet_bridge.core.case_table import Drawing, Role, Split, TableRow
from nnunet_bridge.core.errors import RecipeError, UsageError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.files import open_to_write, whole_file
from nnunet_bridge.formats.tables import guarded, unguarded

Word = TypeVar("Word", bound=StrEnum)

COLUMNS = (
    *("case", "patient", "visit", "split", "role", "channel", "structure", "side"),
    *("value", "state", "file", "series", "note"),
)
TABLE_SIDES = ("left", "right", "middle")
_NEEDED = ("file", "role")
_AS_WRITTEN = ("file", "note")  # columns whose cells may begin or end with a space
_DELIMITERS = (",", ";", "\t")
_HINT = "sep="  # first line by which Excel names the delimiter
_LINE_END = "\r\n"  # of RFC 4180; Python then quotes every cell that holds one
_MOST_FAULTS = 20
_UTF8_MARK = codecs.BOM_UTF8


def read_case_table(file: Path) -> tuple[TableRow, ...]:
    """Return the rows of a case table; empty lines are left out.

    Raises `RecipeError` if the file cannot be read as a table, with every mistake and
    its line.
    """
    _, header, lines = _parsed(file, _decoded(_content(file)))
    rows, faults = [], []
    for number, cells in lines:
        try:
            rows.append(_row(header, cells, number))
        except _Faults as found:
            faults += [f"line {number}: {fault}" for fault in found.args]
    if faults:
        raise table_faults(file, faults)
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class TableLine:
    """One line of a table as text, whether it has mistakes or not."""

    number: int  # of the line in the file where it begins, from 1
    cells: Mapping[str, str]  # those of `COLUMNS` that are not empty

    def row(self) -> TableRow | None:
        """Return its values; None if it has mistakes."""
        header = _Header(list(self.cells), ",")
        with contextlib.suppress(_Faults):
            cells = [guarded(cell) for cell in self.cells.values()]
            return _row(header, cells, self.number)
        return None


def read_lines(file: Path) -> tuple[tuple[TableLine, ...], str]:
    """Return the lines of a table for a person to correct, and the file's SHA-256.

    Raises `RecipeError` if the file is no table.
    """
    content = _content(file)
    _, header, lines = _parsed(file, _decoded(content))
    found = []
    for number, cells in lines:
        named = zip(header.names, cells, strict=False)
        known = {n: unguarded(c) for n, c in named if n in COLUMNS and c}
        found.append(TableLine(number, known))
    return tuple(found), hashlib.sha256(content).hexdigest()


def change_lines(
    file: Path, changes: Mapping[int, Mapping[str, str]], *, sha256: str
) -> None:
    """Write other texts into cells of a table.

    Other lines, columns and the delimiter stay. A column that the table does not have
    is added at its end.

    Parameters
    ----------
    changes : mapping
        Number of a line, as `read_lines` has it, to column and text.
    sha256 : str
        Of the file when it was read.

    Raises
    ------
    UsageError
        If the file has changed since, or there is no such line or column.
    RecipeError
        If a changed line has mistakes; nothing is written then.
    """
    content = _content(file)
    if hashlib.sha256(content).hexdigest() != sha256:
        text = f"{file.name} was changed by another program or tab since it was read:"
        raise UsageError(f"{text} load it again, then repeat your changes.")
    text, header, lines = _parsed(file, _decoded(content))
    unknown = changes.keys() - {number for number, _ in lines}
    columns = {name for own in changes.values() for name in own}
    if unknown or not columns <= set(COLUMNS):
        raise UsageError(f"{file.name} has no such line or column.")
    more = [name for name in COLUMNS if name in columns - set(header.names)]
    wider = _Header([*header.names, *more], header.delimiter)
    text = _changed(text, wider, len(more), changes)
    _refuse_faults(file, text, changes)
    _write(file, text)


def table_faults(file: Path, faults: Sequence[str]) -> RecipeError:
    """Return the error that lists the mistakes of a table."""
    shown = list(faults[:_MOST_FAULTS])
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    what = f"{file.name} has {counted(len(faults), 'mistake')}:"
    return RecipeError("\n  ".join([what, *shown]))


def write_case_table(rows: Iterable[TableRow], file: Path) -> None:
    """Write a case table that only its owner may read; whole, or not at all.

    A link at the place of the file is replaced, not followed. A file that holds these
    rows already is not written.
    """
    _write(file, _text(rows, COLUMNS, ","), header=COLUMNS)


def add_rows(rows: Iterable[TableRow], file: Path) -> None:
    """Add rows at the end of a case table; what it holds stays as it is.

    Raises `RecipeError` as `read_case_table`.
    """
    text, header, _ = _parsed(file, _decoded(_content(file)))
    end = "" if text.endswith(("\n", "\r")) else _LINE_END
    _write(file, text + end + _text(rows, header.names, header.delimiter))


class _Faults(Exception):  # noqa: N818 - never leaves this module
    """The mistakes of one line."""


class _Header:
    """The columns of a table, in its order, and what parts them."""

    def __init__(self, cells: Sequence[str], delimiter: str) -> None:
        self.names = tuple(cell.strip().casefold() for cell in cells)
        self.delimiter = delimiter

    @property
    def known(self) -> list[str]:
        """The columns that have a meaning."""
        return [name for name in self.names if name in COLUMNS]

    def faults(self) -> list[str]:
        """Return what is wrong with the columns."""
        faults = [
            f"there is no column {quoted(name)}"
            for name in _NEEDED
            if name not in self.names
        ]
        twice = {name for name in self.known if self.known.count(name) > 1}
        return faults + [
            f"the column {quoted(n)} is there twice" for n in sorted(twice)
        ]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        text = f"There is no case table {file}: run `init`, or correct `dataset.table`"
        raise RecipeError(f"{text} of the recipe.") from error
    except OSError as error:
        raise RecipeError(f"Cannot read {file}: {error.strerror}.") from error


def _parsed(file: Path, text: str) -> tuple[str, _Header, list[tuple[int, list[str]]]]:
    """Return text, columns, and the lines with their numbers."""
    first, _, rest = text.partition("\n")
    hint = first.strip().casefold().startswith(_HINT)
    headers = [_header_of(rest if hint else text, each) for each in _DELIMITERS]
    header = max(headers, key=lambda one: len(set(one.known)))
    if faults := header.faults():
        columns = (
            f"its columns are {', '.join(COLUMNS)}; all but file and role may lack"
        )
        raise table_faults(file, [*faults, columns])
    try:
        lines = list(_lines(text, header.delimiter))
    except csv.Error as error:
        raise table_faults(file, [f"it is no table: {error}"]) from error
    return text, header, lines[2 if hint else 1 :]


def _decoded(content: bytes) -> str:
    """Return the text of a table.

    Names of files may hold bytes that are no UTF-8; the mark at the start says that the
    others are.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if content.startswith(_UTF8_MARK):
        return content[len(_UTF8_MARK) :].decode("utf-8", "surrogateescape")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _header_of(text: str, delimiter: str) -> _Header:
    with contextlib.suppress(csv.Error, StopIteration):
        return _Header(next(_lines(text, delimiter))[1], delimiter)
    return _Header((), delimiter)


def _lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of every line that has any, with the number where it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    begin = 1
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield begin, cells
        begin = reader.line_num + 1


def _row(header: _Header, cells: Sequence[str], number: int) -> TableRow:
    if any(cell.strip() for cell in cells[len(header.names) :]):
        raise _Faults("it has more cells than there are columns; quote a cell with one")
    texts = dict.fromkeys(COLUMNS, "")
    texts |= {
        name: unguarded(cell if name in _AS_WRITTEN else cell.strip())
        for name, cell in zip(header.names, cells, strict=False)
        if name in COLUMNS
    }
    faults: list[str] = []
    role = _word(Role, "role", texts, faults)
    state = _word(Drawing, "state", texts, faults)
    split = _word(Split, "split", texts, faults)
    side = texts["side"].casefold()
    if side and side not in TABLE_SIDES:
        faults.append(_unknown("side", texts["side"], TABLE_SIDES))
    value = _value(texts["value"], faults)
    if not role and not texts["role"]:
        faults.append(f"role is empty; write {_either(tuple(Role))}")
    if faults or role is None:
        raise _Faults(*faults)
    plain = ("case", "patient", "visit", "channel", "structure", "series", "note")
    return TableRow(
        file=texts["file"],
        role=role,
        split=split,
        side=side,
        value=value,
        state=state or Drawing.DRAWN,
        line=number,
        **{name: texts[name] for name in plain},
    )


def _word(
    kind: type[Word], column: str, texts: Mapping[str, str], faults: list[str]
) -> Word | None:
    word = texts[column].casefold()
    if word and word not in tuple(kind):
        faults.append(_unknown(column, texts[column], tuple(kind)))
        return None
    return kind(word) if word else None


def _value(text: str, faults: list[str]) -> int | None:
    if not text:
        return None
    whole, _, zeros = text.replace(",", ".").partition(".")
    if whole.isascii() and whole.isdigit() and not zeros.strip("0"):
        return int(whole)
    faults.append(f"value {quoted(text)} is not a whole number")
    return None


def _unknown(column: str, word: str, choices: Sequence[str]) -> str:
    return f"{column} {quoted(word)} is unknown; write {_either(choices)}"


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _text(rows: Iterable[TableRow], columns: Sequence[str], delimiter: str) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=_LINE_END)
    for row in rows:
        cells = {name: guarded(_cell(row, name)) for name in COLUMNS}
        writer.writerow([cells.get(name, "") for name in columns])
    return stream.getvalue()


def _cell(row: TableRow, column: str) -> str:
    if column == "state" and row.state is Drawing.DRAWN:
        return "" if row.role in (Role.IMAGE, Role.IGNORE) else str(row.state)
    value = getattr(row, column)
    return "" if value is None else str(value)


def _changed(
    text: str, header: _Header, more: int, changes: Mapping[int, Mapping[str, str]]
) -> str:
    """Return the text of a table with other cells; `more` of its columns are new."""
    physical = list(io.StringIO(text, newline=""))
    reader = csv.reader(physical, delimiter=header.delimiter)
    new = header.names[len(header.names) - more :]
    written: list[str] = []
    begin, titles = 1, True
    for found in reader:
        cells = [*found, *[""] * (len(header.names) - len(found))]
        raw = "".join(physical[begin - 1 : reader.line_num])
        blank = not any(cell.strip() for cell in cells)
        hint = begin == 1 and raw.strip().casefold().startswith(_HINT)
        if not (blank or hint) and (begin in changes or more):
            if titles:
                cells[len(cells) - more :] = new
            for name, value in changes.get(begin, {}).items():
                cells[header.names.index(name)] = guarded(value)
            end = raw[len(raw.rstrip("\r\n")) :]
            stream = io.StringIO(newline="")
            writer = csv.writer(stream, delimiter=header.delimiter)
            writer.writerow(cells)
            raw = stream.getvalue().removesuffix(_LINE_END) + end
        titles = titles and (blank or hint)
        written.append(raw)
        begin = reader.line_num + 1
    return "".join(written)


def _refuse_faults(file: Path, text: str, changed: Iterable[int]) -> None:
    """Refuse a text in which one of the changed lines has mistakes."""
    _, header, lines = _parsed(file, text)
    faults = []
    for number, cells in lines:
        if number in changed:
            try:
                _row(header, cells, number)
            except _Faults as found:
                faults += [f"line {number}: {fault}" for fault in found.args]
    if faults:
        raise table_faults(file, faults)


def _write(file: Path, text: str, *, header: Sequence[str] = ()) -> None:
    if header:
        text = ",".join(header) + _LINE_END + text
    mark = b"" if text.isascii() else _UTF8_MARK
    content = mark + text.encode("utf-8", "surrogateescape")
    with contextlib.suppress(OSError):
        if not file.is_symlink() and file.read_bytes() == content:
            file.chmod(0o600)
            return
    with whole_file(file) as temporary:
        temporary.chmod(0o600)
        with open_to_write(temporary) as stream:
            stream.write(content)
