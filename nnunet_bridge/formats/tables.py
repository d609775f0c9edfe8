"""Tables of scores, volumes and quality ratings, as CSV and JSON.

Numbers are written at full precision. An undefined measure is an empty cell in CSV and
null in JSON, never 0, NaN or infinity. A file that would not change is not written.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ScoreState, Side, checked_word
from nnunet_bridge.formats.files import (
    open_to_write,
    read_text,
    whole_file,
    write_if_changed,
)

if TYPE_CHECKING:
    from nnunet_bridge.core.quality import Quality

Row: TypeAlias = dict[str, str | float | int | None]

CONTRACT_COLUMNS = (
    *("case", "structure", "state", "dice", "hd95_mm", "assd_mm", "nsd"),
    *("volume_reference_mm3", "volume_prediction_mm3"),
    *("volume_error_cm3", "volume_error_percent"),
)
"""Scripts of others rely on these columns, in this order."""

SCORE_COLUMNS = (
    *(*CONTRACT_COLUMNS, "iou", "hd_mm"),
    *("volume_error_mm3", "volume_error_abs_mm3", "volume_error_abs_percent"),
)
VOLUME_COLUMNS = ("case", "structure", "side", "volume_mm3", "volume_cm3", "voxels")
REASON_COLUMNS = (
    *("case", "light", "structure", "kind", "level"),
    *("value", "expected_least", "expected_most", "message"),
)


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""First characters of a cell that a spreadsheet would take for a formula, or that we
put before one; such a cell gets a ``'`` in front."""


def guarded(cell: str) -> str:
    """Return a text that no spreadsheet computes as a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def unguarded(cell: str) -> str:
    """Return a text as it was before `guarded`."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA) else cell


def guarded_row(row: Row) -> Row:
    """Return a row whose texts are `guarded`; numbers stay numbers."""
    return {k: guarded(v) if isinstance(v, str) else v for k, v in row.items()}


def score_row(score: BoneScore) -> Row:
    """Return a score by column."""
    return _row(score, SCORE_COLUMNS)


def write_scores(file: Path, scores: Iterable[BoneScore]) -> None:
    """Write ``scores.csv``."""
    _write_csv(file, SCORE_COLUMNS, map(score_row, scores))


MEASURES = ("dice", "hd95_mm", "assd_mm", "nsd", "iou", "hd_mm")
_VOLUMES = ("volume_reference_mm3", "volume_prediction_mm3")


def read_scores(file: Path, model: str = "") -> tuple[BoneScore, ...]:
    """Read a table with columns of ``scores.csv``, of any origin.

    `case` and `structure` are required; `fold` and `repeat` may stand beside the
    measures. Without a column `state`, a row with a number is scored. Raises InputError
    that names every row that cannot be read.
    """
    scores, problems = [], []
    for number, row in enumerate(_csv_rows(file, ("case", "structure")), start=2):
        try:
            scores.append(_score_of(row, model))
        except (InputError, ValueError) as error:
            problems.append(f"row {number}: {error}")
    if problems or not scores:
        why = "\n".join(problems) or "it has no row"
        raise InputError(f"{file} is not a table of scores: {why}")
    return tuple(scores)


def read_patients(file: Path) -> dict[str, str]:
    """Read the patient of every case from a table with `case` and `patient`."""
    return {row["case"]: row["patient"] for row in _csv_rows(file, ("case", "patient"))}


def _score_of(row: Mapping[str, str], model: str) -> BoneScore:
    numbers = {
        key: float(row[key]) if row.get(key) else None for key in (*MEASURES, *_VOLUMES)
    }
    some = any(numbers[key] is not None for key in MEASURES)
    state = row.get("state") or (str(ScoreState.SCORED) if some else "")
    if not state:
        raise InputError("it has neither a number nor a state.")
    if state in (ScoreState.BOTH_EMPTY, ScoreState.NOT_DRAWN):
        numbers |= dict.fromkeys(MEASURES)
    return BoneScore(
        case_id=row["case"],
        structure=row["structure"],
        configuration=model,
        state=checked_word(ScoreState, state, "state"),
        fold=row.get("fold") or "",
        repeat=int(row.get("repeat") or 0),
        **numbers,
    )


def _csv_rows(file: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table that has the required columns, each filled."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(file, "utf-8-sig"), newline=""))
        rows = [
            {k: unguarded((v or "").strip()) for k, v in r.items() if k} for r in reader
        ]
        names = reader.fieldnames or ()
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"Cannot read {file}: {error}.") from error
    if missing := [name for name in required if name not in names]:
        raise InputError(f"{file} lacks the column {', '.join(missing)}.")
    empty = [
        n for n, row in enumerate(rows, start=2) if not all(map(row.get, required))
    ]
    if empty:
        where = ", ".join(map(str, empty))
        raise InputError(f"{file}: {' or '.join(required)} is empty in row {where}.")
    return rows


def write_scores_json(file: Path, content: JsonObject) -> None:
    """Write ``scores.json``."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_if_changed(file, text.encode("utf-8"))


def write_volumes(file: Path, volumes: Iterable[StructureVolume]) -> None:
    """Write ``volumes.csv``."""
    _write_csv(file, VOLUME_COLUMNS, (_row(v, VOLUME_COLUMNS) for v in volumes))


def read_volumes(file: Path) -> tuple[StructureVolume, ...]:
    """Read a ``volumes.csv``; raise `InputError` if it is missing or damaged."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return tuple(
                StructureVolume(
                    case_id=row["case"],
                    structure=unguarded(row["structure"]),
                    side=Side(row["side"]),
                    voxels=int(row["voxels"]),
                    volume_mm3=float(row["volume_mm3"]),
                )
                for row in csv.DictReader(stream)
            )
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (csv.Error, InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is not a table of volumes ({error!r}).") from error


def write_reasons(file: Path, cases: Iterable[tuple[str, Quality]]) -> None:
    """Write ``quality.csv``: a row for each reason of each case, in their order."""
    rows: list[Row] = [
        {
            "case": case_id,
            "light": str(quality.level),
            "structure": reason.structure,
            "kind": reason.kind,
            "level": str(reason.level),
            "value": reason.value,
            "expected_least": reason.expected[0],
            "expected_most": reason.expected[1],
            "message": reason.message,
        }
        for case_id, quality in cases
        for reason in quality.reasons
    ]
    _write_csv(file, REASON_COLUMNS, rows)


def _row(value: BoneScore | StructureVolume, columns: Sequence[str]) -> Row:
    """Return the attributes that the columns name; ``case`` is the case id."""
    return {
        column: getattr(value, "case_id" if column == "case" else column)
        for column in columns
    }


def write_results(
    file: Path, columns: Sequence[str], rows: Iterable[Row], *, private: bool = False
) -> None:
    """Write a table for spreadsheets and statistics; `private` for its owner alone.

    Excel needs a mark to read letters beyond ASCII.
    """
    text = _csv_text(columns, rows)
    mark = b"" if text.isascii() else codecs.BOM_UTF8
    with whole_file(file) as temporary, open_to_write(temporary) as stream:
        if private:
            temporary.chmod(0o600)
        stream.write(mark + text.encode("utf-8"))


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    write_if_changed(file, _csv_text(columns, rows).encode("utf-8"))


def _csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(guarded_row, rows))
    return text.getvalue()
