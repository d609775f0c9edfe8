"""Draft the rows of a case table from what a study folder holds.

Every guess and its reason stands in the row's note. What could not be placed gets no
row; it is listed with what to do.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_bridge.core.case_table import DRAWN_ROLES, Role, Split, TableRow
from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.formats.mask_values import distinct_labels
from nnunet_bridge.formats.slicer import PREDICTED, read_values
from nnunet_bridge.ops.naming import natural_key, number_in, words_of
from nnunet_bridge.ops.pairing import Drawing, Pairing, ScanNames, pair_all
from nnunet_bridge.ops.patients import PatientVisit, name_patients
from nnunet_bridge.ops.vocabulary import Reading, Vocabulary
from nnunet_bridge.pipeline.ingest.survey import FoundDrawing, FoundImage, Survey

CASE_ID = "msk_{index:03d}"
NOT_KNOWN = re.compile(r"""('[^']*'|"[^"]*") (may be .*|is not known)""")
VALUE_WITHOUT_NAME = re.compile(r"which structure\? .*")
"""What a note says of a name that is not known, and of a value without a name."""

WATER = "WATER"  # the contrast of a Dixon scan in which bones are segmented
_WATER = (WATER, "W")
_FEWEST_SLICES = 3
_TEST_WORDS = ("test", "testing", "ts", "testset", "heldout")
_SEVERAL_WORDS = ("labels", "labelmap", "labelmaps", "multilabel", "dseg", "structures")
_USUAL = 0.6  # a word in so many names of masks is not a structure
_IDLE_NAMES = ("segment", "label", "value", "structure", "class", "region", "object")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that is not known as a structure."""

    name: str
    nearest: str  # the most similar known name; empty if none is similar
    where: str  # the file with this name


@dataclass(frozen=True, slots=True)
class Draft:
    """The rows of a study, and what is left to a person."""

    rows: tuple[TableRow, ...]
    structures: tuple[str, ...]  # in the order of their labels
    unknown: tuple[Unknown, ...]
    unused: tuple[tuple[str, str], ...]  # file, and why it is not used
    image_type: str = ""  # contrast to choose, where a series mixes several
    contrasts: tuple[str, ...] = ()  # those that are mixed
    modality: str = "MR"


@dataclass(frozen=True, slots=True)
class _Part:
    """One structure of a file."""

    structure: str  # empty if it is unknown
    side: str
    value: int | None
    note: str = ""
    unknown: Unknown | None = None  # if its name is not known

    @property
    def claim(self) -> tuple[str, str]:
        """What only one file of a patient may hold."""
        return self.side, self.structure

    def row(self, file: str, role: Role, why: str) -> TableRow:
        """Return the row of this structure, without its patient."""
        return TableRow(
            file,
            role,
            structure=self.structure,
            side=self.side,
            value=self.value,
            note="; ".join(filter(None, (why, self.note))),
        )


@dataclass(slots=True, eq=False)
class _Scan:
    """A patient at a visit, while its files are gathered."""

    whose: PatientVisit
    images: list[FoundImage]
    files: list[tuple[FoundDrawing, Pairing]] = field(default_factory=list)

    @property
    def names(self) -> ScanNames:
        """Return what drawings are compared with."""
        return ScanNames(
            tuple(image.parts for image in self.images),
            tuple(image.place for image in self.images),
            tuple(image.folder for image in self.images),
        )

    @property
    def words(self) -> frozenset[str]:
        """The words of its images' names, which name no structure."""
        return frozenset(
            w for image in self.images for part in image.parts for w in words_of(part)
        )


def draft_rows(
    study: Path,
    survey: Survey,
    vocabulary: Vocabulary,
    progress: Progress | None = None,
) -> Draft:
    """Return the rows of a study."""
    scans = _scans(survey.images, vocabulary)
    unused = list(survey.unused)
    pairs = pair_all(
        [Drawing(one.parts, one.grid) for one in survey.drawings],
        [scan.names for scan in scans],
        vocabulary.identifying_words,
    )
    for drawing, by_name in zip(survey.drawings, pairs, strict=True):
        pairing = _by_series(drawing, scans) or by_name
        if pairing.scan is None:
            unused.append((drawing.file, f"{pairing.why}; {_HOW_TO_PLACE}"))
        else:
            scans[pairing.scan].files.append((drawing, pairing))
    names = (name for one in survey.drawings for name in (one.name, *one.segments))
    words = {word for name in names for word in words_of(name)}
    reader = _Structures(study, survey, vocabulary.for_study(words))
    rows: list[TableRow] = []
    tests = _for_testing(scans, vocabulary)
    for number, (_, scan) in enumerate(
        steps(progress, "read masks", [(scan.whose.patient, scan) for scan in scans])
    ):
        own = _rows_of(scan, reader, unused)
        split = Split.TEST if tests[number] else None
        case_id = CASE_ID.format(index=number + 1)
        rows += [replace(row, case=case_id, split=split) for row in own]
    image_type, contrasts = _contrast(scans, rows)
    kinds = {
        image.dicom.modality for scan in scans for image in scan.images if image.dicom
    }
    return Draft(
        tuple(rows),
        reader.in_order(rows),
        tuple(reader.unknown),
        tuple(unused),
        image_type,
        contrasts,
        "CT" if kinds == {"CT"} else "MR",
    )


def _by_series(drawing: FoundDrawing, scans: Sequence[_Scan]) -> Pairing | None:
    """Return the scan whose series a DICOM file refers to; None if it is not here."""
    for number, scan in enumerate(scans):
        uids = [image.dicom.uid if image.dicom else "" for image in scan.images]
        own = tuple(n for n, uid in enumerate(uids) if uid in drawing.series)
        if own:
            return Pairing(number, "it refers to this series", on_grid=own)
    return None


_HOW_TO_PLACE = "add a row with its patient, or with the role ignore"


def _scans(images: Sequence[FoundImage], vocabulary: Vocabulary) -> list[_Scan]:
    """Return the images by patient and visit, in natural order."""
    # The name of a DICOM folder is nearer to the scanner than that of a copy.
    images = sorted(images, key=lambda image: (image.dicom is None, image.file))
    named = name_patients([image.parts for image in images], vocabulary)
    found: dict[frozenset[str], _Scan] = {}
    for image, whose in zip(images, named, strict=True):
        found.setdefault(whose.key, _Scan(whose, [])).images.append(image)
    scans = _joined(list(found.values()))
    _join_patients(scans)
    _give_visits(scans)
    return sorted(scans, key=_order)


def _order(scan: _Scan) -> tuple[object, ...]:
    return natural_key(scan.whose.name), natural_key(scan.whose.visit)


def _joined(scans: Sequence[_Scan]) -> list[_Scan]:
    """Join DICOM scans with files that hold the same images.

    Both lie on one grid, and the words of one name are among those of the other; one
    word, or a number, is enough where no other scan has this grid.
    """
    files = [scan for scan in scans if not any(image.dicom for image in scan.images)]
    joined = [scan for scan in scans if any(image.dicom for image in scan.images)]
    for scan in files:
        same = [
            one
            for one in joined
            if one.whose.visit == scan.whose.visit and _share_a_grid(scan, one)
        ]
        twins = [
            one for one in same if _are_named_alike(scan, one, alone=len(same) == 1)
        ]
        if len(twins) == 1:
            twins[0].images += scan.images
        else:
            joined.append(scan)
    return joined


def _share_a_grid(files: _Scan, dicom: _Scan) -> bool:
    return any(
        file.grid and image.dicom and image.place and image.place.lies_on(file.grid)
        for file in files.images
        for image in dicom.images
    )


def _are_named_alike(one: _Scan, other: _Scan, *, alone: bool) -> bool:
    small, large = sorted((one.whose.key, other.whose.key), key=len)
    if small <= large and (alone or len(small) > 1):
        return True
    numbers = [{number_in(word) for word in key} - {""} for key in (small, large)]
    return alone and bool(numbers[0]) and numbers[0] == numbers[1]


def _give_visits(scans: Sequence[_Scan]) -> None:
    """Set the visits of a patient to 1, 2, ... unless names tell them apart."""
    by_patient: dict[str, list[_Scan]] = defaultdict(list)
    for scan in scans:
        by_patient[scan.whose.patient].append(scan)
    for own in by_patient.values():
        own.sort(key=_order)
        if len({scan.whose.visit for scan in own}) < len(own):
            for number, scan in enumerate(own, start=1):
                scan.whose = replace(scan.whose, visit=str(number))


def _join_patients(scans: Sequence[_Scan]) -> None:
    """Give examinations of one Patient ID one patient, whatever their folders say.

    An ID that most of the patients have is no ID, nor one of several of a patient.
    """
    by_id: dict[str, list[_Scan]] = defaultdict(list)
    ids: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        for patient in {i.dicom.patient for i in scan.images if i.dicom} - {""}:
            by_id[patient].append(scan)
            ids[scan.whose.patient].add(patient)
    for own in by_id.values() if all(len(each) == 1 for each in ids.values()) else ():
        studies = {i.dicom.study for scan in own for i in scan.images if i.dicom}
        if 1 < len(own) <= len(scans) / 2 and len(studies) >= len(own):
            name = min((scan.whose.patient for scan in own), key=natural_key)
            for scan in own:
                scan.whose = replace(scan.whose, patient=name)


def _for_testing(scans: Sequence[_Scan], vocabulary: Vocabulary) -> list[bool]:
    """Return for each scan whether it lies in a folder for testing; not if all do."""

    def says_test(parts: tuple[str, ...]) -> bool:
        words = {w for p in parts[:-1] for w in vocabulary.split_glued(words_of(p))}
        return not words.isdisjoint(_TEST_WORDS)

    tests = [
        any(says_test((*image.folder, "")) for image in scan.images)
        or any(says_test(one.parts) for one, _ in scan.files)
        for scan in scans
    ]
    return [False] * len(scans) if all(tests) else tests


def _contrast(
    scans: Sequence[_Scan], rows: Sequence[TableRow]
) -> tuple[str, tuple[str, ...]]:
    """Return the contrast to choose, and all, if a series in use mixes several."""
    used = {row.file for row in rows if row.role is Role.IMAGE}
    for scan in scans:
        for image in scan.images:
            kinds = image.dicom.kinds if image.dicom and image.file in used else ()
            if len(kinds) > 1:
                common = frozenset.intersection(*map(frozenset, kinds))
                words = sorted({word for kind in kinds for word in kind} - common)
                return min(words, key=lambda word: word not in _WATER), tuple(words)
    return "", ()


def _rows_of(
    scan: _Scan, reader: _Structures, unused: list[tuple[str, str]]
) -> list[TableRow]:
    """Return the rows of one patient: images, drawings, and what is left out."""
    read = [(*reader.read(one, scan), one, pair.why) for one, pair in scan.files]
    drawn: list[TableRow] = []
    claimed: dict[tuple[str, str], str] = {}
    for role, parts, one, why in sorted(read, key=lambda r: DRAWN_ROLES.index(r[0])):
        twice = next((part for part in parts if part.claim in claimed), None)
        if twice and role is Role.SURFACE:
            note = f"left out: {claimed[twice.claim]} has the structure as voxels"
            drawn.append(TableRow(one.file, Role.IGNORE, note=note))
        elif claimed and parts and not any(part.structure for part in parts):
            note = "left out: its values have no names, and the patient has other masks"
            drawn.append(TableRow(one.file, Role.IGNORE, note=note))
        elif twice:
            has = f"{claimed[twice.claim]} has {' '.join(filter(None, twice.claim))}"
            text = f"{has} of {scan.whose.patient} already; {_HOW_TO_PLACE}"
            unused.append((one.file, text))
        elif not parts:
            unused.append((one.file, "it holds no structure: is it empty?"))
        else:
            reader.unknown |= {part.unknown: None for part in parts if part.unknown}
            claimed |= {part.claim: one.file for part in parts if part.structure}
            drawn += [part.row(one.file, role, why) for part in parts]
    order = reader.vocabulary.order
    drawn.sort(
        key=lambda row: (
            row.role is Role.IGNORE,
            row.value or 0,
            order.get(row.structure, len(order)),
            row.side,
        )
    )
    patient, visit = scan.whose.patient, scan.whose.visit
    rows = (*_image_rows(scan), *drawn)
    return [replace(row, patient=patient, visit=visit) for row in rows]


def _image_rows(scan: _Scan) -> list[TableRow]:
    """Return the row of the image that is used, then those of the others."""
    chosen, why = _chosen(scan)
    rows = [TableRow(chosen.file, Role.IMAGE, series=_series(chosen, scan), note=why)]
    for other in scan.images:
        if other.file != chosen.file:
            text = "another image of the patient: exchange the roles, or name channels"
            rows.append(TableRow(other.file, Role.IGNORE, note=text))
    return rows


def _chosen(scan: _Scan) -> tuple[FoundImage, str]:
    """Return the image on whose grid the drawings lie, or the likeliest, and why."""
    if len(scan.images) == 1:
        return scan.images[0], ""
    count = f"1 of {len(scan.images)} images"
    votes = Counter(
        n for _, pairing in scan.files for n in pairing.on_grid if n < len(scan.images)
    )
    most = max(votes.values(), default=0)
    images = [image for n, image in enumerate(scan.images) if votes[n] == most]
    water = [image for image in images if WATER.casefold() in _words(image)]
    stacks = [i for i in water or images if i.slices >= _FEWEST_SLICES]
    best = max(stacks or images, key=lambda i: (i.dicom is not None, i.slices))
    if most:
        return best, f"{count}: the masks lie on its grid, or refer to it"
    how = "a water image" if best in water else "it has most slices"
    return best, f"guessed, {count}: {how}"


def _words(image: FoundImage) -> set[str]:
    texts = [image.parts[-1]]
    if image.dicom:
        texts += [image.dicom.description, *(w for k in image.dicom.kinds for w in k)]
    return {word for text in texts for word in words_of(text)}


def _series(image: FoundImage, scan: _Scan) -> str:
    """Return what names a series among others in its folder; empty if it is alone."""
    if image.dicom is None or not image.shares_folder:
        return ""
    beside = [o.dicom for o in scan.images if o is not image and o.file == image.file]
    for name in ("number", "description"):
        own = getattr(image.dicom, name)
        others = [getattr(one, name).casefold() for one in beside if one]
        # Series of another patient may have the same number and description.
        if own and own.casefold() not in others and not image.shares_patients:
            return str(own)
    return image.dicom.uid


class _Structures:
    """Reads the structures of drawings: by names, and by values where names lack."""

    def __init__(self, study: Path, survey: Survey, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.unknown: dict[Unknown, None] = {}  # in the order of their files
        self._study, self._tables = study, survey.value_names
        names = [set(words_of(one.name)) for one in survey.drawings]
        often = Counter(word for words in names for word in words)
        self._usual = {w for w, count in often.items() if count > _USUAL * len(names)}

    def in_order(self, rows: Iterable[TableRow]) -> tuple[str, ...]:
        """Return the structures of the rows in the order of their labels."""
        rows = [row for row in rows if row.structure]
        names = sorted({row.structure for row in rows}, key=natural_key)
        order = self.vocabulary.order
        names.sort(key=lambda name: order.get(name, len(order)))
        values = {(row.structure, row.value) for row in rows}
        if all(row.role is Role.LABELMAP for row in rows) and (
            sorted(v or 0 for _, v in values) == list(range(1, len(names) + 1))
        ):
            names = [name for name, _ in sorted(values, key=lambda one: one[1] or 0)]
        return tuple(names)

    def read(self, one: FoundDrawing, scan: _Scan) -> tuple[Role, list[_Part]]:
        """Return the role of a file and its structures."""
        if one.role is Role.SEGMENTATION:
            return one.role, list(self._segments(one, scan))
        own, text = self._own_words(one, scan)
        several = set(_SEVERAL_WORDS).intersection(words_of(one.name))
        if one.role is Role.SURFACE or (len(own.structures) == 1 and not several):
            return one.role, [self._of_text(text, own, None, one.file)]
        return self._by_values(one, own, text)

    def _own_words(self, one: FoundDrawing, scan: _Scan) -> tuple[Reading, str]:
        """Return what the name says, or else the folders; and the part that says it."""
        best, text = Reading((), ""), one.name
        for part in (one.name, *reversed(one.parts[:-1])):
            found = self.vocabulary.read(words_of(part), without=scan.words)
            side = best.side or self.vocabulary.read(words_of(part)).side
            if part == one.name:
                best = replace(found, rest=self._telling(found.rest, scan))
            elif found.structures and not best.structures:
                best, text = replace(best, structures=found.structures), part
            best = replace(best, side=side)
        return best, text

    def _telling(self, rest: tuple[str, ...], scan: _Scan) -> tuple[str, ...]:
        """Return the words that may name a structure.

        Numbers of the patient do not, nor words that most masks have in their names.
        """
        numbers = {number_in(word) for word in scan.words} - {""}
        own = tuple(word for word in rest if number_in(word) not in numbers)
        return tuple(word for word in own if word not in self._usual) or own

    def _of_text(
        self, text: str, found: Reading, value: int | None, file: str
    ) -> _Part:
        """Return the structure that a name means, and how it was understood."""
        if len(found.structures) == 1:
            structure = found.structures[0]
            plain = set(words_of(structure)) <= set(words_of(text))
            note = "" if plain else f"{structure} from {text!r}"
            return _Part(structure, found.side, value, note)
        name = "_".join(found.structures or found.rest or words_of(text))
        nearest = self.vocabulary.nearest(name)
        note = f"{name!r} may be {nearest}" if nearest else f"{name!r} is not known"
        unknown = Unknown(name, nearest, file)
        return _Part(nearest or name, found.side, value, note, unknown)

    def _segments(self, one: FoundDrawing, scan: _Scan) -> Iterator[_Part]:
        for number, name in enumerate(one.segments, start=1):
            if name.startswith(PREDICTED):
                continue
            found, text = self.vocabulary.read(words_of(name)), name
            if not found.structures and len(one.segments) == 1 and _is_idle(name):
                found, text = self._own_words(one, scan)
            yield self._of_text(text, found, number, one.file)

    def _by_values(
        self, one: FoundDrawing, own: Reading, text: str
    ) -> tuple[Role, list[_Part]]:
        """Return a labelmap's structures by value; of one value, maybe a mask."""
        try:
            grid, voxels, _ = read_values(self._study / one.file)
        except BridgeError:  # without a place, or damaged: `check` says so
            return Role.MASK, [self._of_text(text, own, None, one.file)]
        whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
        whole = whole if whole.any() else (voxels > 0).astype(np.uint8)  # scaled
        values = [int(value) for value in distinct_labels(whole) if value > 0]
        names = self._names_beside(one.file, values)
        alone = own.structures or (own.rest and names.keys().isdisjoint(values))
        if len(values) == 1 and alone:
            return Role.MASK, [self._of_text(text, own, None, one.file)]
        parts = []
        for value in values:
            name = names.get(value, "")
            found = self.vocabulary.read(words_of(name))
            if name and not _is_idle(name):
                parts.append(self._of_text(name, found, value, one.file))
            else:
                unknown = Unknown(f"value {value}", "", one.file)
                note = _described(grid, voxels == value)
                parts.append(_Part("", "", value, note, unknown))
        return Role.LABELMAP, parts

    def _names_beside(self, file: str, values: Sequence[int]) -> Mapping[int, str]:
        """Return names from the nearest file that has all values, or one of them."""
        folder = file.split("/")[:-1]

        def distance(table: str) -> tuple[int, str]:
            *own, _ = table.split("/")
            within = folder[: len(own)] == own
            return (len(folder) - len(own) if within else 99 + len(own)), table

        tables = [self._tables[name] for name in sorted(self._tables, key=distance)]
        whole = (table for table in tables if all(v in table for v in values))
        some = (table for table in tables if any(v in table for v in values))
        return next(whole, next(some, {}))


def _is_idle(name: str) -> bool:
    """Whether a name of a segment or a label says nothing, such as ``Segment_1``."""
    words = [word for word in words_of(name) if not word.isdigit()]
    return all(word.rstrip("0123456789") in _IDLE_NAMES for word in words)


def _described(grid: Grid, voxels: BoolArray) -> str:
    """Return volume, side and height of a structure."""
    places = np.argwhere(voxels)
    volume = len(places) * grid.voxel_volume_mm3
    centre = grid.to_patient(places.mean(axis=0))
    ends = grid.to_patient(np.array([(0, 0, 0), grid.shape]) - 0.5)
    across = centre[0] - grid.middle_mm[0]
    side = "left" if across > 0 else "right"
    low, high = sorted(ends[:, 2])
    height = 100 * (centre[2] - low) / max(high - low, 1e-6)
    return (
        f"which structure? {volume:.0f} mm3, {abs(across):.0f} mm {side} of the "
        f"middle, at {height:.0f} % of the height"
    )
