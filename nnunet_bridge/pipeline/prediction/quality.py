"""Rate the quality of predicted cases; write the page that shows the worst first."""

from __future__ import annotations

from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.quality import MemberAgreement, Quality, TrainingStructures
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.html.quality_page import (
    CaseQuality,
    QualityContent,
    write_quality_page,
)
from nnunet_bridge.formats.labels_file import CASE_LABELS
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.formats.preview import thumbnail
from nnunet_bridge.formats.tables import write_reasons
from nnunet_bridge.nnunet.names import agreement_file
from nnunet_bridge.ops.quality import judge
from nnunet_bridge.pipeline.prediction.outputs import CASE_PREVIEW, RECORD

QUALITY_PAGE = "quality.html"
QUALITY_TABLE = "quality.csv"


def case_quality(
    labelmap: Labelmap,
    predicted_dir: Path,
    case_id: str,
    training: TrainingStructures | None,
) -> Quality:
    """Return the quality rating of a prediction.

    Parameters
    ----------
    labelmap : Labelmap
        On the slices that the network saw.
    predicted_dir : Path
        May contain the `agreement_file` of the case.
    case_id : str
    training : TrainingStructures or None
        Ranges of the training labels; None if they are unknown.

    Raises
    ------
    InputError
        If the agreement file is damaged.
    """
    file = agreement_file(predicted_dir, case_id)
    agreement = MemberAgreement()
    if file.is_file():
        agreement = MemberAgreement.from_json(read_json(file))
    return judge(labelmap, agreement, training)


def recorded_quality(record: JsonObject) -> Quality | None:
    """Return the quality rating in a ``prediction.json``; None if there is none."""
    try:
        return Quality.from_json(record["quality"])
    except (KeyError, InputError):
        return None


def write_quality(out: Path, labels: LabelTable) -> tuple[CaseQuality, ...]:
    """Write the page and the table of all finished cases of a folder.

    Cases of earlier calls are included. A case that was predicted before there were
    quality ratings has none.

    Returns
    -------
    cases : tuple of CaseQuality
        The worst first.
    """
    records = sorted(out.glob(f"*/{RECORD}"))
    found = [_case_quality(record.parent, labels) for record in records]
    newest_s = max((record.stat().st_mtime for record in records), default=0.0)
    cases = tuple(sorted((case for case in found if case), key=_worst_first))
    write_reasons(
        out / QUALITY_TABLE,
        [(case.case_id, case.quality) for case in cases if case.quality],
    )
    write_quality_page(
        out / QUALITY_PAGE,
        QualityContent(
            models=tuple(dict.fromkeys(case.model for case in cases)),
            created=format_instant(newest_s),
            cases=cases,
            colours=tuple((label.name, label.hex_colour) for label in labels),
        ),
    )
    return cases


def _case_quality(case_dir: Path, labels: LabelTable) -> CaseQuality | None:
    """Return a finished case; None if its record or labels cannot be read."""
    try:
        record = read_json(case_dir / RECORD)
        return CaseQuality(
            case_id=case_dir.name,
            model=str(record["model"]),
            quality=recorded_quality(record),
            volumes_mm3=tuple(
                (str(name), float(volume))
                for name, volume in record["volumes_mm3"].items()
            ),
            picture=_picture(case_dir, labels),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BridgeError):
        return None


def _picture(case_dir: Path, labels: LabelTable) -> str:
    """Return the preview of a case, or its labels alone, as a ``data:`` URL."""
    preview = case_dir / CASE_PREVIEW
    if preview.is_file():
        return thumbnail(preview)
    return thumbnail(read_labelmap(case_dir / CASE_LABELS, labels))


def _worst_first(case: CaseQuality) -> tuple[float, ...]:
    if case.quality is None:
        return (1.0,)
    return tuple(-float(part) for part in case.quality.rank)
