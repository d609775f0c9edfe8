"""Rate the quality of predicted cases; write the page that shows the worst first."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.quality import MemberAgreement, Quality, TrainingStructures
from nnunet_bridge.core.records import from_record
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.html import quality_page as html
from nnunet_bridge.formats.labels_file import CASE_LABELS
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.formats.preview import thumbnail
from nnunet_bridge.formats.tables import write_reasons
from nnunet_bridge.nnunet.names import agreement_file
from nnunet_bridge.ops.edges import edge_strength
from nnunet_bridge.ops.quality import judge
from nnunet_bridge.pipeline.prediction.outputs import CASE_MESHES, CASE_PREVIEW
from nnunet_bridge.pipeline.prediction.record import RECORD, PredictionRecord

QUALITY_PAGE = "quality.html"
QUALITY_TABLE = "quality.csv"


def case_quality(
    labelmap: Labelmap,
    image: Volume,
    predicted_dir: Path,
    case_id: str,
    training: TrainingStructures | None,
) -> Quality:
    """Return the quality rating of a prediction, on the slices that the network saw.

    `image` and `labelmap` lie on one grid.

    `predicted_dir` may contain the `agreement_file` of the case; a damaged one is an
    `InputError`. `training` has the ranges of the training labels, if they are known.
    """
    file = agreement_file(predicted_dir, case_id)
    content = read_json(file) if file.is_file() else {}
    agreement = from_record(MemberAgreement, content, "table of agreements")
    known = training is not None and training.edges is not None
    edges = edge_strength(image, labelmap) if known else None
    return judge(labelmap, agreement, training, edges)


def write_quality(out: Path, labels: LabelTable) -> tuple[html.CaseQuality, ...]:
    """Write the page and the table of all finished cases of a folder.

    Cases of earlier calls are included, the worst first. A case that was predicted
    before there were quality ratings has none.
    """
    records = sorted(out.glob(f"*/{RECORD}"))
    found = [_case_quality(record.parent, labels) for record in records]
    newest_s = max((record.stat().st_mtime for record in records), default=0.0)
    cases = tuple(sorted((case for case in found if case), key=_worst_first))
    rated = [(case.case_id, case.quality) for case in cases if case.quality]
    write_reasons(out / QUALITY_TABLE, rated)
    html.write_quality_page(
        out / QUALITY_PAGE,
        html.QualityContent(
            models=tuple(dict.fromkeys(case.model for case in cases)),
            created=format_instant(newest_s),
            cases=cases,
            colours=tuple((label.name, label.hex_colour) for label in labels),
        ),
    )
    return cases


def _case_quality(case_dir: Path, labels: LabelTable) -> html.CaseQuality | None:
    """Return a finished case; None if its record or labels cannot be read."""
    try:
        record = PredictionRecord.read(case_dir)
        return html.CaseQuality(
            case_id=case_dir.name,
            model=record.model,
            quality=record.quality,
            volumes_mm3=tuple(record.volumes_mm3.items()),
            picture=_picture(case_dir, labels),
            links=tuple(_links(case_dir)),
        )
    except (OSError, ValueError, BridgeError):
        return None


def _links(case_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield words and relative address of a case's pictures, labels and meshes."""
    meshes = sorted((case_dir / CASE_MESHES).glob("[!.]*"))
    named = [("pictures", case_dir / CASE_PREVIEW), ("labels", case_dir / CASE_LABELS)]
    for words, file in (*named, *((f"mesh of {file.stem}", file) for file in meshes)):
        if file.is_file():
            yield words, quote(file.relative_to(case_dir.parent).as_posix())


def _picture(case_dir: Path, labels: LabelTable) -> str:
    """Return the preview of a case, or its labels alone, as a ``data:`` URL."""
    preview = case_dir / CASE_PREVIEW
    if preview.is_file():
        return thumbnail(preview)
    return thumbnail(read_labelmap(case_dir / CASE_LABELS, labels))


def _worst_first(case: html.CaseQuality) -> tuple[float, ...]:
    if case.quality is None:
        return (1.0,)
    return tuple(-float(part) for part in case.quality.rank)
