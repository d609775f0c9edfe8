"""Read the patient and the visit of images from their paths.

The patient is named by the first part of the path that differs between the images. What
all images share (``scans``, ``DICOM``), sequences (``T1_Dixon``) and visits (``ses-1``)
name no patient.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnunet_bridge.ops.naming import plain_word, words_of
from nnunet_bridge.ops.vocabulary import Vocabulary

_CHUNK = re.compile(r"[^\W_]+")
_DATE = re.compile(r"(?:19|20)\d{2}[-_.]?\d{2}[-_.]?\d{2}")
_CHANNEL = re.compile(r"_\d{4}$")
_SOURCE = re.compile(r"\d+_.*_(?P<code>[^_]+)")
"""The source's form of a folder: number, sequence, code of the patient."""

_CODE = re.compile(r"\d[a-z]")  # ``3T`` may be a field strength, or a code
_RARE = 8  # a word of one in so many images belongs to them alone
_FEWEST_IMAGES = 4


@dataclass(frozen=True, slots=True)
class PatientVisit:
    """The patient and the visit of an image, as its path names them."""

    patient: str
    visit: str
    key: frozenset[str]
    """Words that name patient and visit; images with the same belong together."""

    named: bool  # whether the name is more than a sequence or a kind of file
    name: str  # as the folder or file has it, for the order of patients


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a path."""

    text: str
    visit: str
    words: tuple[str, ...]  # without those that name no patient

    def own(self, common: frozenset[str]) -> tuple[str, ...]:
        """Return the words that not every image has."""
        return tuple(word for word in self.words if word not in common)


def name_patients(
    paths: Sequence[tuple[str, ...]], vocabulary: Vocabulary
) -> tuple[PatientVisit, ...]:
    """Return patient and visit of each image; `paths` end with a name, no ending."""
    idle = _idle_words(paths, vocabulary)
    parts = [[_part(text, vocabulary, idle) for text in path] for path in paths]
    every = [frozenset(w for part in path for w in part.words) for path in parts]
    common = frozenset.intersection(*every) if len(paths) > 1 else frozenset()
    firsts = [_first(path, common) for path in parts]
    groups, repeated = _groups(parts, firsts, common, vocabulary)
    coded = _coded(paths)
    named = []
    for path, raw, at in zip(parts, paths, firsts, strict=True):
        used = [at]
        if path[at].text in groups:
            below = (n for n in range(at + 1, len(path)) if path[n].own(common))
            inner = next(below, at)
            alone = path[inner].own(common) not in repeated
            used = [inner] if alone else [at, inner]
        last = used[-1]
        match = _SOURCE.fullmatch(raw[last]) if raw[:last] in coded else None
        visit = " ".join(dict.fromkeys(part.visit for part in path if part.visit))
        names = [path[n] for n in used]
        words = [w for part in names for w in part.own(common) or words_of(part.text)]
        when = " ".join(words_of(visit))  # one word: 1 of ses-2 is not 2 of ses-1
        named.append(
            PatientVisit(
                match["code"] if match else "/".join(part.text for part in names),
                visit,
                frozenset(map(plain_word, (*words, when))) - {""},
                bool(path[at].words),
                "/".join(raw[n] for n in used),
            )
        )
    return tuple(named)


def _idle_words(
    paths: Sequence[tuple[str, ...]], vocabulary: Vocabulary
) -> Callable[[str], bool]:
    """Return the test for words that name no patient.

    A code such as ``3T`` names a patient if hardly any other image has it.
    """
    every = (frozenset(w for part in path for w in words_of(part)) for path in paths)
    often = Counter(word for words in every for word in words)
    most = len(paths) // _RARE or 1

    def is_idle(word: str) -> bool:
        rare = len(paths) >= _FEWEST_IMAGES and often[word] <= most
        code = rare and _CODE.fullmatch(word)
        return vocabulary.has_no_meaning(word) and not code

    return is_idle


def _part(text: str, vocabulary: Vocabulary, idle: Callable[[str], bool]) -> _Part:
    """Take visit, sequence and channel off a part, if something is left of it."""
    bare, visit = _without_visit(_CHANNEL.sub("", text), vocabulary)
    bare, side = _without_side(bare, vocabulary)
    visit = " ".join(filter(None, (visit, side)))
    kept = bare
    for chunk in _CHUNK.findall(bare):
        if _describes_a_file(chunk, vocabulary) and all(map(idle, words_of(chunk))):
            alone = rf"(?<![^\W_]){re.escape(chunk)}(?![^\W_])"
            kept = re.sub(alone, "", kept, count=1)
    kept = re.sub(r"^[\W_]+|[\W_]+$", "", kept)
    glued = vocabulary.split_glued(words_of(bare))
    words = tuple(word for word in glued if not idle(word))
    return _Part(kept if words and kept else text, visit, words)


def _describes_a_file(chunk: str, vocabulary: Vocabulary) -> bool:
    """Whether a chunk names a sequence or a kind of file."""
    words = words_of(chunk)
    kinds = [vocabulary.kinds[kind] for kind in ("sequence", "image", "mask")]
    return all(any(word in kind for kind in kinds) for word in words)


def _without_visit(text: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """Return a name without its visit (``ses-1``, ``followup``, a date), and that."""
    words = "|".join(sorted(vocabulary.kinds["visit"], key=len, reverse=True))
    found = re.search(
        rf"(?<![^\W_])(?:{words})[\W_]?\d*(?![^\W_])", text, re.IGNORECASE
    ) or _DATE.search(text)
    if not found:
        return text, ""
    rest = re.sub(r"^[\W_]+|[\W_]+$", "", text[: found.start()] + text[found.end() :])
    return rest, re.sub(r"^[\W_]+|[\W_]+$", "", found[0])


def _without_side(text: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """Return a name without a side that is a word of its own, and that side.

    The left and the right knee of a patient are two scans.
    """
    sides = vocabulary.sides["left"] | vocabulary.sides["right"]
    found = [chunk for chunk in _CHUNK.findall(text) if chunk.casefold() in sides]
    if len(found) != 1:
        return text, ""
    rest = re.sub(rf"(?<![^\W_]){re.escape(found[0])}(?![^\W_])", "", text, count=1)
    return re.sub(r"^[\W_]+|[\W_]+$", "", rest), found[0]


def _first(path: Sequence[_Part], common: frozenset[str]) -> int:
    """Return the place of the part that names the patient."""
    own = (n for n, part in enumerate(path) if part.own(common))
    named = (n for n, part in enumerate(path) if part.words)
    return next(own, next(named, len(path) - 1))


def _coded(paths: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the folders in which every image is named as the source names them."""
    named: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for path in paths:
        for at, text in enumerate(path):
            named[path[:at]].append(bool(_SOURCE.fullmatch(text)))
    return {folder for folder, fits in named.items() if all(fits)}


def _groups(
    parts: Sequence[Sequence[_Part]],
    firsts: Sequence[int],
    common: frozenset[str],
    vocabulary: Vocabulary,
) -> tuple[set[str], set[tuple[str, ...]]]:
    """Return the first parts that name a group of patients, and names in several.

    A part does if several names stand below it, and it is called a group, or none of
    these names occurs elsewhere, as that of a series would.
    """
    below: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path, at in zip(parts, firsts, strict=True):
        own = (part.own(common) for part in path[at + 1 :])
        below[path[at].text].add(next((words for words in own if words), ()))
    often = Counter(words for each in below.values() for words in each)

    def is_group(text: str, inside: set[tuple[str, ...]]) -> bool:
        if len(inside - {()}) < 2:  # noqa: PLR2004 - one name is no group
            return False
        words = vocabulary.split_glued(words_of(text))
        return vocabulary.has_kind("group", words) or all(
            often[words] == 1 for words in inside
        )

    groups = {text for text, inside in below.items() if is_group(text, inside)}
    return groups, {words for words, count in often.items() if count > 1}
