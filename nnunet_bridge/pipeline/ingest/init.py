"""Write the recipe of a study folder from its names and headers.

Only names, the headers of one scan and those of segmentations are read. Guesses are
marked in the recipe by comments; unknown names are listed with the nearest known one
and never become structures.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.dicom.headers import Damaged, HeaderReader, NotUsed
from nnunet_bridge.formats.files import clear_os_errors, write_text
from nnunet_bridge.formats.recipe import (
    folded,
    read_recipe,
    shipped_recipes,
    split_side,
)
from nnunet_bridge.formats.slicer import (
    is_mask_file,
    is_segmentation,
    mask_stem,
    read_segment_names,
)
from nnunet_bridge.ops.naming import (
    MaskNaming,
    mask_naming,
    natural_key,
    scan_groups,
    scan_pattern,
    segmentation_pattern,
)
from nnunet_bridge.pipeline.ingest.matching import plan_study

ALIKE = 0.75
"""Similarity (of at most 1) from which a name counts as a misspelt known one."""

WATER = "WATER"
"""The contrast of a Dixon scan in which bones are segmented."""

_TRIED_FILES = 3


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that is not known as a structure."""

    name: str
    nearest: str  # the most similar known name; empty if none is similar
    where: str  # the file with this name


@dataclass(frozen=True, slots=True)
class InitSummary:
    """The content of a study, and the recipe that was written."""

    recipe_file: Path
    cases: tuple[JsonObject, ...]
    structures: tuple[str, ...]
    unknown: tuple[Unknown, ...]

    @property
    def exit_code(self) -> int:
        """0: a recipe was written."""
        return 0

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        return {
            "recipe": str(self.recipe_file),
            "cases": list(self.cases),
            "structures": list(self.structures),
            "unknown": [
                {"name": one.name, "nearest": one.nearest, "file": one.where}
                for one in self.unknown
            ],
        }

    def as_text(self) -> str:
        """Return the content of the study and the next step."""
        drawn = sum(case["split"] == "train" for case in self.cases)
        lines = [f"{self.recipe_file}: {len(self.cases)} cases, {drawn} for training."]
        lines.append(f"  structures: {', '.join(self.structures)}")
        for one in self.unknown:
            near = f"; did you mean {one.nearest}?" if one.nearest else ""
            lines.append(f"  unknown: {one.name!r} of {one.where}{near}")
        lines.append("Read the recipe, then run `nnunet-bridge check` with it.")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Found:
    """The scans and masks of a study folder."""

    scans_dir: str
    scan_dirs: tuple[Path, ...]
    mask_dirs: tuple[str, ...]
    test_dirs: tuple[str, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Names:
    """The structures, by the names of files and segments."""

    labels: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    unknown: tuple[Unknown, ...]


def write_recipe(study: Path, out: Path, *, force: bool = False) -> InitSummary:
    """Write the recipe of a study.

    Raises
    ------
    UsageError
        If `out` exists and `force` is false.
    InputError
        If the folder holds no DICOM scans, or no masks of them.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists: name another file with -o, or use --force.")
    found = _look_through(study)
    names = [folder.name for folder in found.scan_dirs]
    pattern = scan_pattern(names)
    groups = scan_groups(pattern, names)
    single = [file for file in found.masks if not is_segmentation(file.name)]
    several = [file for file in found.masks if is_segmentation(file.name)]
    naming = mask_naming([mask_stem(file.name) for file in single], groups)
    written, unread = _written_names(single, several, naming)
    if not written:
        raise InputError(
            f"{study} holds {len(found.masks)} mask files, but no name contains both a "
            f"structure and a scan such as {names[0]!r}: rename them, or write the "
            "recipe yourself (docs/how-to/write-a-recipe.md)."
        )
    known = _understood(written)
    in_one = segmentation_pattern([mask_stem(file.name) for file in several], groups)
    text = _text(study, found, known, (pattern, naming.pattern, in_one))
    with clear_os_errors(f"write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    cases = tuple(
        {"case": plan.case_id, "split": plan.split, "masks": len(plan.masks)}
        for plan in plan_study(study, read_recipe(out)).cases
    )
    unknown = (*known.unknown, *(Unknown(name, "", name) for name in unread))
    return InitSummary(out, cases, known.labels, unknown)


def _look_through(study: Path) -> _Found:
    if not study.is_dir():
        raise InputError(f"{study} is not a folder.")
    folders = [study, *_folders(study)]
    scans = {
        folder: [
            one for one in _folders(folder) if any(True for _ in _image_types(one))
        ]
        for folder in folders
    }
    root = max(folders, key=lambda folder: len(scans[folder]))
    if not scans[root]:
        images = sum(1 for _ in study.rglob("*.nii*"))
        hint = f" (it holds {images} NIfTI files)" if images else ""
        raise InputError(
            f"{study} holds no folder with one DICOM folder per patient{hint}: recipes "
            "read scans from DICOM."
        )
    masks = {
        folder: [
            f for f in sorted(folder.iterdir()) if f.is_file() and is_mask_file(f.name)
        ]
        for folder in _folders(study)
        if folder != root
    }
    drawn = [folder for folder in masks if masks[folder]]
    test = [folder for folder in drawn if "test" in folder.name.casefold()]
    if len(test) == len(drawn):
        test = []
    return _Found(
        root.name if root != study else ".",
        tuple(scans[root]),
        tuple(folder.name for folder in drawn if folder not in test),
        tuple(folder.name for folder in test),
        tuple(file for folder in drawn for file in masks[folder]),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def _image_types(folder: Path, most: int = _TRIED_FILES) -> Iterator[tuple[str, ...]]:
    """Yield the image types of the first DICOM files of a scan."""
    files = (p for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != ".")
    for _, file in zip(range(most), files, strict=False):
        try:
            for header in HeaderReader().read(file, file.name):
                yield header.contrast.image_type
        except (NotUsed, Damaged, OSError):
            continue


def _written_names(
    single: Sequence[Path], several: Sequence[Path], naming: MaskNaming
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the names of structures with their files, and the files without any."""
    written, unread = [], []
    for file in single:
        structure = naming.structures.get(mask_stem(file.name))
        if structure is None:
            unread.append(file.name)
        else:
            written.append((structure, file.name))
    for file in several:
        try:
            written += [(name, file.name) for name in read_segment_names(file)]
        except Refused:
            unread.append(file.name)
    return written, unread


def _understood(written: Iterable[tuple[str, str]]) -> _Names:
    """Tell structures from misspelt names, by known names and by frequency."""
    known, order = _known_names()
    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, file in written:
        whole = folded(name)
        bare = whole if whole in known else split_side(whole)[0]
        by_name.setdefault(bare, []).append((name, file))
    often = Counter({bare: len(uses) for bare, uses in by_name.items()})
    usual = {bare for bare in by_name if 2 * often[bare] >= max(often.values())}
    structures: dict[str, str] = {}
    unknown = []
    for bare, uses in by_name.items():
        others = [*usual - {bare}, *known]
        near = difflib.get_close_matches(bare, others, n=1, cutoff=ALIKE)
        if bare in known:
            structures[bare] = known[bare]
        elif bare in usual:
            structures[bare] = _label(uses[0][0])
        else:
            name, file = uses[0]
            nearest = known.get(near[0], near[0]) if near else ""
            unknown.append(Unknown(name, nearest, file))
    labels = sorted(set(structures.values()), key=natural_key)
    labels.sort(key=lambda label: order.get(label, len(order)))
    aliases: dict[str, set[str]] = {}
    for bare, label in structures.items():
        if bare != folded(label):
            aliases.setdefault(label, set()).add(bare)
    return _Names(
        tuple(labels),
        {label: tuple(sorted(names)) for label, names in aliases.items()},
        tuple(unknown),
    )


def _known_names() -> tuple[dict[str, str], dict[str, int]]:
    """Return all names in shipped recipes, and the order of their labels."""
    known: dict[str, str] = {}
    order: dict[str, int] = {}
    for name in shipped_recipes():
        recipe = read_recipe(name)
        for label in recipe.structures:
            known.setdefault(folded(label), label)
            order.setdefault(label, len(order))
        for label, others in recipe.aliases.items():
            for other in others:
                known.setdefault(split_side(folded(other))[0], label)
    return known, order


def _label(written: str) -> str:
    """Return a name as a label: as written, without its side."""
    bare = split_side(folded(written))[0].split()
    kept = [word for word in re.split(r"[\s_,.-]+", written) if word]
    own = [word for word in kept if word.casefold() in bare]
    return "_".join(own or kept)


_RECIPE = """\
# Written by `nnunet-bridge init` from the names and headers of {scans} scans.
# Check what is marked as guessed, then run `nnunet-bridge check`.
{left_out}
[dataset]
id = 1                    # guessed: any number of 1..999 that is free
name = "{name}"    # guessed: the name of the folder
channel = "MRI"           # guessed; "CT" for computed tomography
case = "{case}"

[scans]
folder = {scans_dir}
pattern = '{pattern}'    # guessed from {first_scan}
{contrast}
[masks]
folder = {mask_dirs}
{mask_patterns}
[labels]                  # the order is guessed
{labels}

[labels.aliases]
{aliases}
[merge]
sides = "merge"           # "separate": left and right are two labels
overlap = "background"
missing = "refuse"        # until you declare why a structure is not drawn

[region]
crop = "none"
"""


def _text(
    study: Path, found: _Found, names: _Names, patterns: tuple[str, str, str]
) -> str:
    """Return the recipe as text; guesses are marked by comments."""
    scans = [folder.name for folder in found.scan_dirs]
    groups = scan_groups(patterns[0], scans)
    one_number_each = len({int(number) for number, _ in groups}) == len(groups)
    misfits = len(scans) - len(groups)
    left_out = f"# {misfits} scan folders do not fit the pattern.\n" if misfits else ""
    title = study.resolve().name.title()
    return _RECIPE.format(
        scans=len(scans),
        left_out=left_out,
        name=re.sub(r"[^A-Za-z0-9]+", "", title) or "Study",
        case="case_{index:03d}" if one_number_each else "case_{index:03d}-{code}",
        scans_dir=_quoted(found.scans_dir),
        pattern=patterns[0],
        first_scan=_quoted(scans[0]),
        contrast=_contrast(found.scan_dirs[0]),
        mask_dirs=_listed(found.mask_dirs),
        mask_patterns=_mask_patterns(found, *patterns[1:]),
        labels="\n".join(
            f"{_key(name)} = {value}" for value, name in enumerate(names.labels, 1)
        ),
        aliases="".join(f"{line}\n" for line in _aliases(names)),
    )


def _mask_patterns(found: _Found, masks: str, segments: str) -> str:
    lines = []
    if masks:
        single = (f.name for f in found.masks if not is_segmentation(f.name))
        lines.append(f"pattern = '{masks}'    # guessed from {_quoted(next(single))}")
    if segments:
        lines.append(f"segmentation = '{segments}'")
    if found.test_dirs:
        lines.append(f"test = {_listed(found.test_dirs)}    # guessed: by its name")
    return "".join(f"{line}\n" for line in lines)


def _aliases(names: _Names) -> Iterator[str]:
    """Yield the aliases, then the unknown names as comments."""
    for label, others in sorted(names.aliases.items()):
        yield f"{_key(label)} = {_listed(others)}"
    for one in names.unknown:
        alias = f"{_key(one.nearest or '?')} = [{_quoted(one.name)}]"
        where = f"{_quoted(one.name)} of {_quoted(one.where)}"
        yield f"# unknown: {where}; perhaps: {alias}"


def _contrast(scan_dir: Path) -> str:
    """Return the line that chooses one contrast, if the scan mixes several."""
    files = sum(1 for _ in scan_dir.iterdir())
    kinds = set(_image_types(scan_dir, files))
    if len(kinds) < 2:  # noqa: PLR2004 - one is no choice
        return ""
    common = set.intersection(*map(set, kinds))
    words = sorted({word for kind in kinds for word in kind} - common)
    chosen = WATER if WATER in words else words[0]
    mixed = f"guessed: the first scan mixes {', '.join(words)}"
    return f'image_type = "{chosen}"    # {mixed}\n'


def _listed(words: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, words))}]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)
