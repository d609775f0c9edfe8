"""One table of a study's volumes, scores and ratings, with a codebook.

A row is a structure of a case in one source: a folder that `predict` or `score` wrote,
named by its last part, so that the volumes and the scores of a model share a row.
R, SPSS and Excel read both files without options: UTF-8 with a mark where a letter
needs it, commas, a point in numbers, an empty cell for what is not known.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import ScoreState, Side
from nnunet_bridge.formats.case_table import read_case_table
from nnunet_bridge.formats.tables import (
    SCORE_COLUMNS,
    Row,
    read_scores,
    read_volumes,
    score_row,
    write_results,
)
from nnunet_bridge.pipeline.prediction.outputs import CASE_VOLUMES
from nnunet_bridge.pipeline.prediction.record import RECORD, PredictionRecord

_Key: TypeAlias = tuple[str, str, str]  # source, case, structure

TABLE, CODEBOOK = "results.csv", "codebook.csv"
_SIDES = ", ".join(f"{side}" for side in Side if side)
_STATES = ", ".join(ScoreState)

VARIABLES: dict[str, tuple[str, str, str]] = {
    "source": ("folder of the prediction or of its scores, such as the model", "", ""),
    "case": ("case id", "", ""),
    "patient": ("patient, of the case table", "", ""),
    "visit": ("visit, of the case table", "", ""),
    "structure": ("structure", "", ""),
    "side": ("side of the body, where labels have sides", "", _SIDES),
    "volume_cm3": ("volume of the prediction: voxels times their volume", "cm3", ""),
    "voxels": ("voxels of the prediction", "", ""),
    "rating": ("quality rating of the case", "", "green, amber, red"),
    "state": ("who holds the structure, reference or prediction", "", _STATES),
    "dice": ("Dice coefficient", "0 to 1", ""),
    "hd95_mm": ("95th percentile of the surface distance", "mm", ""),
    "assd_mm": ("mean surface distance", "mm", ""),
    "nsd": ("share of the surfaces within the tolerance of `score`", "0 to 1", ""),
    "volume_reference_mm3": ("volume of the reference", "mm3", ""),
    "volume_prediction_mm3": ("volume of the scored prediction", "mm3", ""),
    "volume_error_cm3": ("prediction minus reference", "cm3", ""),
    "volume_error_percent": ("prediction minus reference", "% of the reference", ""),
    "iou": ("intersection over union (Jaccard)", "0 to 1", ""),
    "hd_mm": ("largest surface distance (Hausdorff)", "mm", ""),
    "volume_error_mm3": ("prediction minus reference", "mm3", ""),
    "volume_error_abs_mm3": ("size of the difference", "mm3", ""),
    "volume_error_abs_percent": ("size of the difference", "% of the reference", ""),
}
"""Column -> what it holds, its unit, its words."""


@dataclass(frozen=True, slots=True)
class ResultsSummary:
    """The two files, and what they hold."""

    table: Path
    codebook: Path
    rows: int
    cases: int
    sources: tuple[str, ...]
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `results --json` prints."""
        return json_of(self, "exit_code")

    def as_text(self) -> str:
        """Return two lines for a person."""
        cases, sources = counted(self.cases, "case"), ", ".join(self.sources)
        rows = counted(self.rows, "row")
        return f"{self.table}: {rows}, {cases}; {sources}\n{self.codebook}"


def gather_results(
    folders: Sequence[Path], out: Path, case_table: Path | None = None
) -> ResultsSummary:
    """Write ``results.csv`` and ``codebook.csv`` of everything below some folders.

    `case_table` adds patients and visits, which make the table private.

    Raises `InputError` if the folders hold no table, or two tables say different things
    of the same structure of the same case.
    """
    found: dict[_Key, Row] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.csv")):
            for key, row in _rows_of(file):
                _add(found, key, row, file)
    if not found:
        where = ", ".join(map(str, folders))
        raise InputError(f"{where} holds no volumes.csv and no scores.csv.")
    cases = {case for _, case, _ in found}
    people = _people(case_table, cases) if case_table else {}
    rows: list[Row] = []
    for (source, case, structure), row in sorted(found.items()):
        patient, visit = people.get(case, ("", ""))
        place = {"source": source, "case": case, "structure": structure}
        rows.append({**place, "patient": patient, "visit": visit, **row})
    used = [n for n in VARIABLES if any(row.get(n) not in ("", None) for row in rows)]
    cells = [{name: row.get(name) for name in used} for row in rows]
    write_results(out / TABLE, used, cells, private=bool(people))
    write_results(out / CODEBOOK, _HEAD, map(_codes, used))
    sources = tuple(dict.fromkeys(key[0] for key in sorted(found)))
    return ResultsSummary(out / TABLE, out / CODEBOOK, len(rows), len(cases), sources)


_HEAD = ("variable", "meaning", "unit", "words", "missing")


def _codes(name: str) -> Row:
    meaning, unit, words = VARIABLES[name]
    missing = "empty: not measured, or not defined"
    return dict(zip(_HEAD, (name, meaning, unit, words, missing), strict=True))


def _rows_of(file: Path) -> Iterable[tuple[_Key, Row]]:
    """Yield what a table of `predict` or `score` says; nothing for any other file."""
    source = file.parent.name
    if file.name == CASE_VOLUMES and not (file.parent / RECORD).exists():
        ratings: dict[str, str] = {}  # each case has a row for every structure
        for volume in read_volumes(file):
            case = volume.case_id
            if case not in ratings:
                ratings[case] = _rating(file.parent / case)
            row: Row = {"volume_cm3": volume.volume_cm3, "voxels": volume.voxels}
            row |= {"side": str(volume.side), "rating": ratings[case]}
            yield (source, case, volume.structure), row
    elif file.name == "scores.csv":
        for score in read_scores(file):
            scored = score_row(score)
            kept = {name: scored[name] for name in SCORE_COLUMNS[2:]}
            yield (source, score.case_id, score.structure), kept


def _rating(case_dir: Path) -> str:
    if not (case_dir / RECORD).is_file():
        return ""
    quality = PredictionRecord.read(case_dir).quality
    return str(quality.level) if quality else ""


def _add(found: dict[_Key, Row], key: _Key, row: Row, file: Path) -> None:
    known = found.setdefault(key, {})
    if odd := [name for name in row if known.get(name, row[name]) != row[name]]:
        source, case, structure = key
        raise InputError(
            f"{file}: {odd[0]} of {structure} in {case} differs from another table of "
            f"{source!r}: rename one of the folders, or name fewer."
        )
    known.update(row)


def _people(case_table: Path, cases: Collection[str]) -> Mapping[str, tuple[str, str]]:
    """Return patient and visit of the cases; refuse a table that names none of them."""
    rows = read_case_table(case_table)
    people = {row.case: (row.patient, row.visit) for row in rows if row.case in cases}
    if not people:
        raise InputError(f"{case_table} names none of the cases in its column case.")
    return people
