"""Find the images of a command, under the ids that they have in a dataset.

A study whose recipe names a case table has the images of its rows. An image that was
converted before keeps the id of its case, by the hashes in the manifest, so that a
prediction and its reference have one name.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.formats.dicom.zipped import is_zip
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.manifest import read_manifest
from nnunet_bridge.formats.recipe import RECIPE_FILE, read_recipe
from nnunet_bridge.pipeline.ingest.inputs import (
    ImageSource,
    files_of,
    find_images,
    without_twins,
)
from nnunet_bridge.pipeline.ingest.matching import plan_study
from nnunet_bridge.pipeline.ingest.planned import ScanFiles

_TRIED_FILES = 3  # several scans may hold the same file, such as a licence


def find_known_images(
    paths: Sequence[Path],
    dataset_dir: Path,
    *,
    unpack_dir: Path | None = None,
    channels: int = 1,
) -> tuple[ImageSource, ...]:
    """Return the images at the paths of a command, as `inputs.find_images` does.

    Raises the same errors.
    """
    listed: list[ImageSource] = []
    others = []
    for number, path in enumerate(paths):
        own = _images_of_table(path, unpack_dir and unpack_dir / f"table{number}")
        listed += own
        others += [] if own else [path]
    found: tuple[ImageSource, ...] = ()
    if others:
        found = find_images(others, unpack_dir=unpack_dir, channels=channels)
    return _as_converted(without_twins([*listed, *found]), dataset_dir)


def _images_of_table(study: Path, unpack_dir: Path | None) -> list[ImageSource]:
    """Return the images in the case table of a study; none without one."""
    file = study / RECIPE_FILE
    recipe = read_recipe(file) if file.is_file() else None
    if recipe is None or recipe.case_table is None:
        return []
    cases = plan_study(study, recipe).cases
    return [_image_of(c.case_id, c.scan, unpack_dir) for c in cases if c.scan]


def _image_of(case_id: str, scan: ScanFiles, unpack_dir: Path | None) -> ImageSource:
    if is_zip(scan.path):
        own_dir = unpack_dir and unpack_dir / case_id
        (source,) = find_images([scan.path], unpack_dir=own_dir)
        return replace(source, case_id=case_id)
    more = tuple(_image_of(case_id, one, unpack_dir) for one in scan.more)
    return ImageSource(case_id, scan.path, scan.series, scan.others, more=more)


def _as_converted(
    sources: Sequence[ImageSource], dataset_dir: Path
) -> tuple[ImageSource, ...]:
    """Return the images under the ids that a manifest has for their files."""
    ids = _ids_by_hash(dataset_dir)
    renamed = [
        replace(source, case_id=next(_ids_of(source, ids), source.case_id))
        for source in sources
    ]
    uses = Counter(source.case_id.casefold() for source in renamed)
    return tuple(
        new if uses[new.case_id.casefold()] == 1 else old
        for new, old in zip(renamed, sources, strict=True)
    )


def _ids_by_hash(dataset_dir: Path) -> dict[str, set[str]]:
    """Return the cases that used a file with this SHA-256."""
    ids: dict[str, set[str]] = defaultdict(set)
    try:
        records = read_manifest(dataset_dir).cases
    except InputError:
        return ids
    for record in records:
        for sha256 in record.input_hashes.values():
            ids[sha256].add(record.case)
    return ids


def _ids_of(source: ImageSource, ids: dict[str, set[str]]) -> Iterator[str]:
    """Yield the case of an image, by the first files that belong to one case alone."""
    if not ids:
        return
    for _, file in islice(files_of(source.packed or source.path), _TRIED_FILES):
        found = ids.get(sha256_of(file), set())
        if len(found) == 1:
            yield from found
