"""Case tables: what spreadsheets save, and every mistake with its line."""

import contextlib
import csv
import io
import os
import stat
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.case_table import Drawing, Role, Split, TableRow
from nnunet_bridge.core.errors import RecipeError, UsageError
from nnunet_bridge.formats.case_table import (
    COLUMNS,
    add_rows,
    change_lines,
    read_case_table,
    read_lines,
    write_case_table,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
TRIMMED = TEXT.map(str.strip)
STARTS = st.sampled_from(["", "=", "+", "-", "@", "'", "''", "'=", "\t", "\r", "\n"])
NAMES = st.binary(min_size=1, max_size=12).map(lambda b: b.replace(b"\0", b"x"))
FILES = st.tuples(STARTS, st.one_of(TEXT, NAMES.map(os.fsdecode))).map("".join)
ROWS = st.lists(
    st.builds(
        TableRow,
        file=FILES,
        role=st.sampled_from(Role),
        case=TRIMMED,
        patient=st.tuples(STARTS, TRIMMED).map("".join).map(str.strip),
        visit=TRIMMED,
        split=st.sampled_from([None, *Split]),
        channel=TRIMMED,
        structure=TRIMMED,
        side=st.sampled_from(["", "left", "right", "middle"]),
        value=st.none() | st.integers(0, 70000),
        state=st.sampled_from(Drawing),
        series=TRIMMED,
        note=st.tuples(STARTS, TEXT).map("".join),
    ),
    max_size=5,
)


@given(rows=ROWS)
def test_any_rows_are_read_as_they_were_written(rows, tmp_path):
    write_case_table(rows, tmp_path / "cases.csv")

    assert read_case_table(tmp_path / "cases.csv") == tuple(rows)


def cells(row):
    """Return the cells of a row as a person would type them, by column."""
    values = {name: getattr(row, name) for name in COLUMNS}
    return {name: "" if value is None else str(value) for name, value in values.items()}


PLAIN = st.text(st.sampled_from("aÄß é0.-\n\"'/,;"), max_size=8).map(
    lambda text: ("x" + text).strip()
)


@dataclass(frozen=True)
class Dialect:
    """How a spreadsheet saves a table."""

    delimiter: str
    lineterminator: str
    quoting: int
    encoding: str
    hint: bool
    capitals: bool

    def saved(self, columns, lines):
        """Return the bytes of a file; Python's writer is the oracle."""
        stream = io.StringIO(newline="")
        if self.hint:
            stream.write(f"sep={self.delimiter}{self.lineterminator}")
        form = {key: getattr(self, key) for key in ("delimiter", "quoting")}
        writer = csv.writer(stream, lineterminator=self.lineterminator, **form)
        writer.writerow([c.title() if self.capitals else c for c in columns])
        for line in lines:
            writer.writerow([line.get(name, "any; thing") for name in columns])
            writer.writerow(["" for _ in columns])  # spreadsheets leave empty lines
        return stream.getvalue().encode(self.encoding)


DIALECTS = st.builds(
    Dialect,
    delimiter=st.sampled_from(",;\t"),
    lineterminator=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    hint=st.booleans(),
    capitals=st.booleans(),
)
PLAIN_ROWS = st.lists(
    st.builds(
        TableRow,
        file=PLAIN,
        role=st.sampled_from(Role),
        patient=PLAIN,
        structure=PLAIN,
        value=st.none() | st.integers(1, 9),
        note=PLAIN,
    ),
    min_size=1,
    max_size=4,
)


@given(
    rows=PLAIN_ROWS,
    columns=st.permutations([*COLUMNS, "colour", "by"]),
    dialect=DIALECTS,
)
def test_every_dialect_of_a_spreadsheet_is_read(rows, columns, dialect, tmp_path):
    file = tmp_path / "cases.csv"
    file.write_bytes(dialect.saved(columns, map(cells, rows)))

    assert read_case_table(file) == tuple(rows)


def test_every_mistake_is_named_with_its_line(tmp_path):
    file = tmp_path / "cases.csv"
    file.write_text(
        'file;role;note;value;state;side;split\n"a";mask;"two\nlines";1;;;\n'
        "b;msk;;one;gone;up;maybe\nc;;;;;;\nd;mask;;;;;;too;many\n"
    )

    with pytest.raises(RecipeError) as caught:
        read_case_table(file)

    text = str(caught.value)
    assert text.startswith("cases.csv has 7 mistakes:")
    assert "line 4: role “msk” is unknown; write image, mask," in text
    assert "line 4: value “one” is not a whole number" in text
    assert "line 4: state “gone” is unknown" in text
    assert "line 4: side “up” is unknown; write left, right or middle" in text
    assert "line 4: split “maybe” is unknown; write train or test" in text
    assert "line 5: role is empty" in text
    assert "line 6: it has more cells than there are columns" in text


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "file,file,role\n", "\0\1\2"])
def test_a_file_that_is_no_table_is_refused_in_words(text, tmp_path):
    (tmp_path / "cases.csv").write_text(text)

    with pytest.raises(RecipeError, match="column"):
        read_case_table(tmp_path / "cases.csv")


@given(content=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content, tmp_path):
    file = tmp_path / "cases.csv"
    file.write_bytes(b"file,role\n" + content)

    with contextlib.suppress(RecipeError):
        read_case_table(file)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no case table .*cases\.csv"):
        read_case_table(tmp_path / "cases.csv")


def test_whole_numbers_of_spreadsheets_are_read(tmp_path):
    (tmp_path / "cases.csv").write_text(
        "file;role;value\na;labelmap;2.0\nb;labelmap;3,0\n"
    )

    assert [r.value for r in read_case_table(tmp_path / "cases.csv")] == [2, 3]


def test_a_table_is_private_and_replaces_a_link(tmp_path):
    file, elsewhere = tmp_path / "cases.csv", tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    file.symlink_to(elsewhere)

    write_case_table([TableRow("a", Role.IMAGE)], file)

    assert elsewhere.read_text() == "untouched"
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_table_with_the_same_rows_is_not_written_again_but_made_private(tmp_path):
    file, rows = tmp_path / "cases.csv", [TableRow("ä", Role.IMAGE)]
    write_case_table(rows, file)
    os.utime(file, ns=(1, 1))
    file.chmod(0o644)

    write_case_table(rows, file)

    assert file.stat().st_mtime_ns == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_cell_is_a_formula(tmp_path):
    row = TableRow("=cmd|' /C calc'!A0", Role.IMAGE, patient="+1", note="@SUM(A1)")
    write_case_table([row], tmp_path / "cases.csv")

    with (tmp_path / "cases.csv").open(newline="") as stream:
        written = list(csv.reader(stream))[1]
    assert not [cell for cell in written if cell[:1] in tuple("=+-@")]


@given(first=ROWS, more=ROWS, delimiter=st.sampled_from(",;"))
def test_added_rows_leave_the_others_as_they_were(first, more, delimiter, tmp_path):
    file = tmp_path / "cases.csv"
    write_case_table(first, file)
    text = file.read_bytes()
    if delimiter == ";":
        text = b"file;colour;role\r\na;red;image"
        file.write_bytes(text)

    add_rows(more, file)

    assert (
        file.read_bytes()
        .removeprefix(b"\xef\xbb\xbf")
        .startswith(text.removeprefix(b"\xef\xbb\xbf"))
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = read_case_table(file)
    if delimiter == ";":
        assert [(r.file, r.role) for r in found[1:]] == [(r.file, r.role) for r in more]
    else:
        assert found == (*first, *more)


def records(text, dialect):
    """Return what Python's reader makes of a table, without its empty lines."""
    lines = io.StringIO(text, newline="")
    if dialect.hint:
        assert lines.readline() == f"sep={dialect.delimiter}{dialect.lineterminator}"
    reader = csv.reader(lines, delimiter=dialect.delimiter)
    titles, *rows = [cells for cells in reader if any(c.strip() for c in cells)]
    return [dict(zip(map(str.lower, titles), cells, strict=True)) for cells in rows]


@given(
    rows=PLAIN_ROWS,
    columns=st.permutations([*COLUMNS, "colour", "by"]),
    lacks=st.sampled_from(["", "side", "visit", "colour"]),
    dialect=DIALECTS,
    which=st.integers(0, 3),
)
def test_a_changed_cell_leaves_every_other_cell_as_it_was(
    rows, columns, lacks, dialect, which, tmp_path
):
    file = tmp_path / "cases.csv"
    columns = [name for name in columns if name != lacks]
    file.write_bytes(dialect.saved(columns, map(cells, rows)))
    before = records(file.read_bytes().decode(dialect.encoding), dialect)
    lines, sha256 = read_lines(file)
    line = lines[which % len(rows)]
    change = {"patient": "=1+1", "side": "left"}

    change_lines(file, {line.number: change}, sha256=sha256)

    after = records(file.read_bytes().decode("utf-8-sig"), dialect)
    wanted = {"patient": "'=1+1", "side": "left"}
    before = [{"side": "", **row} for row in before]
    before[which % len(rows)] |= wanted
    assert after == before


def test_lines_that_are_not_changed_keep_their_bytes(tmp_path):
    file = tmp_path / "cases.csv"
    lines = ['"file" ; role;mine', '"a";"image"; x', "", "b;mask;'1", 'c;"mask";']
    file.write_text("\n".join(lines))
    found, sha256 = read_lines(file)

    change_lines(file, {found[1].number: {"role": "surface"}}, sha256=sha256)

    lines[3] = "b;surface;'1"
    assert file.read_text() == "\n".join(lines)


def test_a_table_that_has_changed_since_is_not_written(tmp_path):
    file = tmp_path / "cases.csv"
    write_case_table([TableRow("a", Role.IMAGE, case="c1")], file)
    _, sha256 = read_lines(file)
    add_rows([TableRow("b", Role.IMAGE, case="c2")], file)
    content = file.read_bytes()

    with pytest.raises(UsageError, match=r"cases\.csv was changed by another program"):
        change_lines(file, {2: {"case": "c3"}}, sha256=sha256)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: {"role": "picture"}}, "line 2: role .picture. is unknown"),
        ({2: {"value": "x"}}, "line 2: value .x. is not a whole number"),
        ({9: {"role": "mask"}}, "no such line or column"),
        ({2: {"colour": "red"}}, "no such line or column"),
    ],
)
def test_a_change_that_would_be_a_mistake_is_refused(change, message, tmp_path):
    file = tmp_path / "cases.csv"
    write_case_table([TableRow("a", Role.IMAGE, case="c1")], file)
    content = file.read_bytes()

    with pytest.raises((RecipeError, UsageError), match=message):
        change_lines(file, change, sha256=read_lines(file)[1])
    assert file.read_bytes() == content


def test_a_line_with_a_mistake_is_shown_and_can_be_mended(tmp_path):
    file = tmp_path / "cases.csv"
    file.write_text("file,role\na,picture\nb,maske\n")
    lines, sha256 = read_lines(file)
    assert [(line.cells["role"], line.row()) for line in lines] == [
        ("picture", None),
        ("maske", None),
    ]

    change_lines(file, {2: {"role": "image"}}, sha256=sha256)

    assert file.read_text().splitlines() == ["file,role", "a,image", "b,maske"]
