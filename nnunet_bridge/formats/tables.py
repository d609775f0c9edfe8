"""Tables of scores, volumes and quality ratings, as CSV and JSON.

Numbers are written at full precision. An undefined measure is an empty cell in CSV and
null in JSON, never 0, NaN or infinity. A file that would not change is not written.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.quality import Quality
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.files import write_if_changed

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


def score_row(score: BoneScore) -> Row:
    """Return a score by column."""
    return _row(score, SCORE_COLUMNS)


def write_scores(file: Path, scores: Iterable[BoneScore]) -> None:
    """Write ``scores.csv``."""
    _write_csv(file, SCORE_COLUMNS, map(score_row, scores))


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
                    structure=row["structure"],
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


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_if_changed(file, text.getvalue().encode("utf-8"))
