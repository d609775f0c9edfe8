"""Tell from the paths of images whose they are, and of which visit.

The patient is named by the first part of the path that differs between the images. What
all images share (``scans``, ``DICOM``), sequences (``T1_Dixon``) and visits (``ses-1``)
name no patient.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunet_bridge.ops.naming import words_of
from nnunet_bridge.ops.vocabulary import Vocabulary

_CHUNK = re.compile(r"[^\W_]+")
_DATE = re.compile(r"(?:19|20)\d{2}[-_.]?\d{2}[-_.]?\d{2}")
_CHANNEL = re.compile(r"_\d{4}$")
_SOURCE = re.compile(r"\d+_.*_(?P<code>[^_]+)")
"""The source's form of a folder: number, sequence, code of the patient."""


@dataclass(frozen=True, slots=True)
class Whose:
    """The patient and the visit of an image, as its path names them."""

    patient: str
    visit: str
    named: bool = True  # whether the name is more than a sequence or a kind of file


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
) -> tuple[Whose, ...]:
    """Return patient and visit of each image; `paths` end with a name, no ending."""
    parts = [[_part(text, vocabulary) for text in path] for path in paths]
    every = [{w for part in path for w in part.words} for path in parts]
    common = frozenset.intersection(*map(frozenset, every)) if len(paths) > 1 else None
    common = common or frozenset()
    firsts = [_first(path, common) for path in parts]
    alone = _alone(parts, firsts, common, vocabulary)
    source = all(_SOURCE.fullmatch(path[at].text) for path, at in zip(parts, firsts, strict=True))
    named = []
    for path, at in zip(parts, firsts, strict=True):
        texts = [path[at].text]
        if not alone[texts[0]]:
            below = [n for n in range(at + 1, len(path)) if path[n].own(common)]
            texts += [path[n].text for n in below[:1]]
        match = _SOURCE.fullmatch(texts[0]) if source else None
        patient = match["code"] if match else "/".join(texts)
        visit = " ".join(dict.fromkeys(part.visit for part in path if part.visit))
        named.append(Whose(patient, visit, bool(path[at].words)))
    return tuple(named)


def _part(text: str, vocabulary: Vocabulary) -> _Part:
    """Take visit, sequence and channel off a part, if something is left of it."""
    bare, visit = _without_visit(_CHANNEL.sub("", text), vocabulary)
    kept = bare
    for chunk in _CHUNK.findall(bare):
        if _is_idle(chunk, vocabulary):
            kept = re.sub(rf"(?<![^\W_]){re.escape(chunk)}(?![^\W_])", "", kept, count=1)
    kept_text = re.sub(r"^[\W_]+|[\W_]+$", "", kept)
    words = tuple(
        word
        for word in vocabulary.split_glued(words_of(bare))
        if not vocabulary.says_nothing(word)
    )
    name = kept_text if re.search(r"\d", kept_text) or len(kept_text) > 1 else bare
    return _Part(name if words and kept_text else text, visit, words)


def _is_idle(chunk: str, vocabulary: Vocabulary) -> bool:
    """Whether a chunk is a sequence or says what kind of file it is."""
    words = words_of(chunk)
    kinds = ("sequence", "image", "mask")
    return all(any(w in vocabulary.kinds[kind] for kind in kinds) for w in words)


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


def _first(path: Sequence[_Part], common: frozenset[str]) -> int:
    """Return the place of the part that names the patient."""
    own = (n for n, part in enumerate(path) if part.own(common))
    named = (n for n, part in enumerate(path) if part.words)
    return next(own, next(named, len(path) - 1))


def _alone(
    parts: Sequence[Sequence[_Part]],
    firsts: Sequence[int],
    common: frozenset[str],
    vocabulary: Vocabulary,
) -> dict[str, bool]:
    """Return for each first part whether it names one patient, not a group of them.

    It names a group if it is called one, or if what stands below it differs, and occurs
    below no other.
    """
    below: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path, at in zip(parts, firsts, strict=True):
        own = (part.own(common) for part in path[at + 1 :])
        below[path[at].text].add(next((words for words in own if words), ()))
    often = Counter(words for each in below.values() for words in each)
    return {
        text: not (len(inside - {()}) > 1 and _are_patients(text, inside, often, vocabulary))
        for text, inside in below.items()
    }


def _are_patients(
    text: str,
    inside: Iterable[tuple[str, ...]],
    often: Counter[tuple[str, ...]],
    vocabulary: Vocabulary,
) -> bool:
    group = vocabulary.has_kind("group", vocabulary.split_glued(words_of(text)))
    return group or all(often[words] == 1 for words in inside)

