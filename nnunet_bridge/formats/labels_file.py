"""Read the label table of nnU-Net's ``dataset.json``, or number the labels."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import LabelRegion, LabelTable
from nnunet_bridge.core.partly import CasesPartlyDrawn, PartlyDrawn
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import read_json

CASE_LABELS = "labels.nii.gz"
"""Name of the labelmap in the folder of a case that `predict` writes."""

WHOLE_SCAN_LABELS = "labels_whole_scan.nii.gz"
"""The same on the grid of the whole scan, if the image was cropped."""

IGNORE = "ignore"  # nnU-Net's name for voxels that training ignores
DATASET_FILE = "dataset.json"
PARTLY_DRAWN = "partly_drawn"  # our key in it, which nnU-Net leaves alone
MOST_UNNAMED = 255  # largest value that counts as a label without a table


def read_label_table(dataset_json: Path, *, regions: bool = False) -> LabelTable:
    """Read the labels of a ``dataset.json``: ``{"background": 0, "tibia": 1, ...}``.

    With `regions`, a name may stand for several values, as in ``{"whole": [1, 2]}``;
    each value is then a label that is named for the regions that share it.

    Raises `InputError` if the file cannot be read, has no labels, their values are not
    1, 2, ... without gap, or it has regions and may not; nnU-Net's ``ignore`` must have
    the highest value.
    """
    content = _content(dataset_json)
    labels = _labels(content, dataset_json)
    united = [name for name, value in labels.items() if isinstance(value, list)]
    found: tuple[LabelRegion, ...] = ()
    if united:
        if PARTLY_DRAWN in content:
            raise InputError(
                f"{dataset_json}: regions ({', '.join(united)}) cannot be partly "
                f"drawn. Give every structure one value, or remove {PARTLY_DRAWN}.",
                code="N12",
            )
        if not regions:
            raise InputError(
                f"{dataset_json} has regions of several labels ({', '.join(united)}). "
                "Only `score`, `compare` and `status` know regions: plan, train and "
                "predict with nnU-Net's own commands."
            )
        found = _regions(labels)
        labels = _parts_of(found, labels)
    odd = [name for name, value in labels.items() if type(value) is not int]
    if odd:
        raise InputError(
            f"{dataset_json}: {', '.join(odd)} must have one whole number each "
            '(the {"1": "tibia"} of nnU-Net 1 is not supported).'
        )
    numbers = sorted(labels.values())
    if labels.get("background") != 0 or numbers.count(0) != 1:
        raise InputError(f"{dataset_json}: 0 must be 'background', and nothing else.")
    names = sorted(labels, key=labels.__getitem__)
    if numbers != list(range(len(names))):
        must = "nnU-Net needs label values without gap: 0, 1, 2, ..."
        held = ", ".join(map(str, numbers))
        raise InputError(f"{dataset_json}: {must}, not {held}.", code="N01")
    has_ignore = IGNORE in names
    if has_ignore and names[-1] != IGNORE:
        raise InputError(f"{dataset_json}: '{IGNORE}' must have the highest value.")
    structures = [name for name in names[1:] if name != IGNORE]
    table = LabelTable.from_names(structures, has_ignore=has_ignore)
    partly = _partly_drawn(content, structures)
    return replace(table, regions=found, partly_drawn=partly)


def _partly_drawn(content: JsonObject, structures: Collection[str]) -> CasesPartlyDrawn:
    """Return the cases in which not everything was drawn.

    Raises `InputError` if their entry is not what `convert` writes.
    """
    entries, known = content.get(PARTLY_DRAWN, {}), set(structures)
    try:
        cases = {case: PartlyDrawn.from_json(one) for case, one in entries.items()}
    except (AttributeError, ValueError) as error:
        wanted = '{"msk_004": {"not_drawn": ["pelvis"]}, ...}'
        raise InputError(
            f"{PARTLY_DRAWN} of {DATASET_FILE} must be {wanted}."
        ) from error
    named = {name for one in cases.values() for name in one.not_drawn | one.on_both}
    if unknown := sorted(named - known):
        raise InputError(
            f"{PARTLY_DRAWN} of {DATASET_FILE} names {', '.join(unknown)}, which is no "
            f"label: the labels are {', '.join(structures)}."
        )
    return cases


def _regions(labels: Mapping[str, Any]) -> tuple[LabelRegion, ...]:
    """Return the structures of a dataset with regions, each with its values."""
    listed = {n: v if isinstance(v, list) else [v] for n, v in labels.items()}
    return tuple(
        LabelRegion(name, tuple(values))
        for name, values in listed.items()
        if name not in ("background", IGNORE)
    )


def _parts_of(
    regions: Sequence[LabelRegion], labels: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a label for every value, named for the regions that share it.

    Examples
    --------
    >>> whole, core = LabelRegion("whole", (1, 2)), LabelRegion("core", (2,))
    >>> _parts_of([whole, core], {"background": 0})
    {'background': 0, 'whole only': 1, 'whole+core': 2}
    """
    parts = {name: labels[name] for name in ("background", IGNORE) if name in labels}
    for value in dict.fromkeys(v for region in regions for v in region.values):
        sharing = [region for region in regions if value in region.values]
        name = "+".join(region.name for region in sharing)
        if len(sharing) == 1 and len(sharing[0].values) > 1:
            name += " only"
        parts[name if name not in parts else f"{name} ({value})"] = value
    return parts


def find_label_file(labels_dir: Path) -> Path | None:
    """Return the ``dataset.json`` that describes the label files of a folder, if any.

    nnU-Net puts it beside its predictions; in a raw dataset it lies one folder above
    ``labelsTr`` and ``labelsTs``, and in what `predict` writes one above each case.
    """
    folders = [labels_dir]
    if labels_dir.name.startswith("labels") or (labels_dir / CASE_LABELS).is_file():
        folders.append(labels_dir.parent)
    for folder in folders:
        if (folder / DATASET_FILE).is_file():
            return folder / DATASET_FILE
    return None


def number_labels(highest: int) -> LabelTable:
    """Return the table ``label_1``, ``label_2``, ... for files without a table.

    Raises `InputError` if `highest` is not a plausible label: the file may be an image.
    """
    if highest > MOST_UNNAMED:
        raise InputError(
            f"The value {highest} is not a plausible label: is this an image? If not, "
            f"name the labels in a {DATASET_FILE}."
        )
    return LabelTable.from_names([f"label_{value + 1}" for value in range(highest)])


def _content(dataset_json: Path) -> JsonObject:
    try:
        content = read_json(dataset_json)
    except OSError as error:
        raise InputError(f"Cannot read {dataset_json}: {error.strerror}.") from error
    return content if isinstance(content, dict) else {}


def _labels(content: JsonObject, dataset_json: Path) -> dict[str, Any]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        form = '"labels": {"background": 0, "tibia": 1, ...}'
        raise InputError(f"{dataset_json} has no labels: expected {form}.")
    return labels
