"""Tables of scores and volumes, as CSV and JSON, at full precision.

In CSV a measure that is not defined is an empty cell, in JSON it is null; never 0, NaN
or infinity.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.quality import Quality
from nnunet_bridge.core.scores import STATES, BoneScore, StructureVolume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import read_json, write_if_changed

Row: TypeAlias = dict[str, str | float | int | None]

CONTRACT_COLUMNS = (
    "case",
    "structure",
    "state",
    "dice",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_reference_mm3",
    "volume_prediction_mm3",
    "volume_error_cm3",
    "volume_error_percent",
)
"""Scripts of others rely on these, in this order."""

SCORE_COLUMNS = (
    *CONTRACT_COLUMNS,
    "iou",
    "hd_mm",
    "volume_error_mm3",
    "volume_error_abs_mm3",
    "volume_error_abs_percent",
)
VOLUME_COLUMNS = ("case", "structure", "side", "volume_mm3", "volume_cm3", "voxels")
REASON_COLUMNS = (
    *("case", "light", "structure", "kind", "level"),
    *("value", "expected_least", "expected_most", "message"),
)


def score_row(score: BoneScore) -> Row:
    """Return a score by column."""
    return {
        "case": score.case_id,
        "structure": score.structure,
        "state": score.state,
        "dice": score.dice,
        "hd95_mm": score.hd95_mm,
        "assd_mm": score.assd_mm,
        "nsd": score.nsd,
        "volume_reference_mm3": score.volume_reference_mm3,
        "volume_prediction_mm3": score.volume_prediction_mm3,
        "volume_error_cm3": score.volume_error_cm3,
        "volume_error_percent": score.volume_error_percent,
        "iou": score.iou,
        "hd_mm": score.hd_mm,
        "volume_error_mm3": score.volume_error_mm3,
        "volume_error_abs_mm3": score.volume_error_abs_mm3,
        "volume_error_abs_percent": score.volume_error_abs_percent,
    }


def volume_row(volume: StructureVolume) -> Row:
    """Return a volume by column."""
    return {
        "case": volume.case_id,
        "structure": volume.structure,
        "side": volume.side,
        "volume_mm3": volume.volume_mm3,
        "volume_cm3": volume.volume_cm3,
        "voxels": volume.voxels,
    }


def write_scores(file: Path, scores: Iterable[BoneScore]) -> None:
    """Write ``scores.csv``; whole or absent, and only if it changes."""
    _write_csv(file, SCORE_COLUMNS, [score_row(score) for score in scores])


def read_scores(file: Path, *, configuration: str = "") -> tuple[BoneScore, ...]:
    """Return the scores in a ``scores.csv``; columns after the contract's may lack.

    Parameters
    ----------
    file : Path
    configuration : str
        Which model made the predictions; the table does not say.

    Raises
    ------
    InputError
        If the file is no such table; the message names the line.
    """
    rows = _read_csv(file, CONTRACT_COLUMNS)
    return tuple(
        _score(row, configuration, f"{file}, line {line}") for line, row in rows
    )


def write_scores_json(file: Path, content: JsonObject) -> None:
    """Write ``scores.json``; whole or absent, and only if it changes.

    Parameters
    ----------
    file : Path
    content : dict
        With ``configuration``, and ``cases``: each with its rows in ``structures``.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_if_changed(file, text.encode("utf-8"))


def read_scores_json(file: Path) -> tuple[BoneScore, ...]:
    """Return the scores in a ``scores.json``.

    Raises
    ------
    InputError
        If the file is no such table.
    """
    try:
        content = read_json(file)
        configuration = str(content["configuration"])
        rows = [row for case in content["cases"] for row in case["structures"]]
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} holds no scores ({error!r}).") from error
    return tuple(_score(row, configuration, str(file)) for row in rows)


def write_volumes(file: Path, volumes: Iterable[StructureVolume]) -> None:
    """Write ``volumes.csv``; whole or absent, and only if it changes."""
    _write_csv(file, VOLUME_COLUMNS, [volume_row(volume) for volume in volumes])


def read_volumes(file: Path) -> tuple[StructureVolume, ...]:
    """Return the volumes in a ``volumes.csv``.

    Raises
    ------
    InputError
        If the file is no such table; the message names the line.
    """
    return tuple(
        StructureVolume(
            case_id=row["case"],
            structure=row["structure"],
            side=row["side"],
            voxels=int(_number(row, "voxels", f"{file}, line {line}")),
            volume_mm3=_number(row, "volume_mm3", f"{file}, line {line}"),
        )
        for line, row in _read_csv(file, VOLUME_COLUMNS)
    )


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


def _score(row: Mapping[str, Any], configuration: str, where: str) -> BoneScore:
    if row.get("state") not in STATES:
        raise InputError(f"{where}: {row.get('state')!r} is no state of a score.")
    return BoneScore(
        case_id=str(row.get("case")),
        structure=str(row.get("structure")),
        configuration=configuration,
        state=row["state"],
        dice=_measure(row, "dice", where),
        hd95_mm=_measure(row, "hd95_mm", where),
        assd_mm=_measure(row, "assd_mm", where),
        nsd=_measure(row, "nsd", where),
        volume_reference_mm3=_number(row, "volume_reference_mm3", where),
        volume_prediction_mm3=_number(row, "volume_prediction_mm3", where),
        iou=_measure(row, "iou", where),
        hd_mm=_measure(row, "hd_mm", where),
    )


def _measure(row: Mapping[str, Any], column: str, where: str) -> float | None:
    """Return a number, or None where the cell is empty."""
    return None if row.get(column) in ("", None) else _number(row, column, where)


def _number(row: Mapping[str, Any], column: str, where: str) -> float:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: {row.get(column)!r} is no number of {column}."
        ) from error


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_if_changed(file, text.getvalue().encode("utf-8"))


def _read_csv(file: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers; refuse a table that begins otherwise."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            header = tuple(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no CSV table ({error}).") from error
    if header[: len(columns)] != tuple(columns):
        raise InputError(
            f"{file} has the columns {', '.join(header)}; "
            f"expected {', '.join(columns)}."
        )
    ragged = [line for line, row in rows if None in row or None in row.values()]
    if ragged:
        raise InputError(f"{file}, line {ragged[0]}: expected {len(header)} cells.")
    return rows
