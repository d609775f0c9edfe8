"""Read structure and side from the words of a name, by a vocabulary.

The words come in any order and in several languages; glued ones (``leftfemur``,
``TIBIAL``) are split into known words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from nnunet_bridge.ops.naming import number_in, transliterated, words_of

ALIKE = 0.8
"""Similarity (of at most 1) from which a name counts as a misspelt known one."""

_LONGEST_PHRASE = 6
_SHORT = 3  # letters; a name as short is given up for any longer one
_PIECE = 3  # least letters of a word inside a glued one
_LETTERS = ("l", "r")
_VERTEBRA = re.compile(r"t(3|4|5|6|7|8|9|10|11|12)")


@dataclass(frozen=True, slots=True)
class Reading:
    """The structures and the side in a name."""

    structures: tuple[str, ...]  # canonical names, in the order of the words
    side: str  # `left`, `right`, `middle`, or empty
    rest: tuple[str, ...] = ()  # words without a meaning here; numbers are left out


@dataclass(frozen=True)
class Vocabulary:
    """The words that are known; see ``formats/vocabulary.toml``."""

    names: Mapping[str, tuple[str, ...]]  # canonical name -> its other names, in order
    sides: Mapping[str, frozenset[str]]  # side -> its words; `both` means neither
    pairs: tuple[tuple[str, str], ...]
    """Words for left and right that count only if a study has both."""

    kinds: Mapping[str, frozenset[str]]
    """``mask``, ``image``, ``sequence``, ``visit``, ``group``, ``idle`` -> words."""

    muscles: frozenset[str] = frozenset()  # canonical names; they have no middle
    mask_parts: tuple[str, ...] = ()  # parts of the names of masks
    mask_abbreviations: frozenset[str] = frozenset()
    silenced: frozenset[str] = field(default=frozenset({"t1", "t2"}))
    """Names of structures that mean something else, in most studies."""

    whole: frozenset[str] = frozenset()
    """Words that are not split: ``femurr`` alone is a slip, not a right femur."""

    def for_study(self, words: Collection[str]) -> Vocabulary:
        """Return the vocabulary of a study, whose masks have these words."""
        sides = dict(self.sides)
        for left, right in self.pairs:
            if left in words and right in words and not {*_LETTERS} <= set(words):
                sides["left"] |= {left}
                sides["right"] |= {right}
        thoracic = any(map(_VERTEBRA.fullmatch, words))
        silenced = frozenset() if thoracic else self.silenced
        lettered = {w for w in words if {*_LETTERS} & {*self._pieces(w)}}
        whole = frozenset(lettered) if len(lettered) == 1 else frozenset()
        return replace(self, sides=sides, silenced=silenced, whole=whole)

    @cached_property
    def order(self) -> dict[str, int]:
        """The rank of each canonical name."""
        return {name: rank for rank, name in enumerate(self.names)}

    def has_kind(self, kind: str, words: Iterable[str]) -> bool:
        """Whether one of the words is of a kind."""
        return not self.kinds[kind].isdisjoint(words)

    def identifying_words(self, name: str) -> tuple[str, ...]:
        """Return the words of a name that may identify a patient; not ``T1``."""
        idle = frozenset.union(*(self.kinds[k] for k in ("mask", "image", "sequence")))
        return tuple(word for word in words_of(name) if word not in idle)

    def has_no_meaning(self, word: str) -> bool:
        """Whether a word names neither a patient nor a structure."""
        return any(word in words for words in self.kinds.values())

    def read(self, words: Sequence[str], without: Collection[str] = ()) -> Reading:
        """Return structure and side of the words of a name.

        Words in `without` are known to name something else, such as the patient.
        """
        kept = tuple(w for w in self.split_glued(words) if w not in without)
        found, side, rest = self._reading(kept)
        if not found:
            glued = [part for word in rest for part in self._pieces(word) or (word,)]
            if len(glued) > len(rest):
                found, more, rest = self._reading(tuple(glued))
                side = side or more
        return Reading(tuple(found), side, rest)

    def split_glued(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return the words, with known ones that are glued together apart."""
        return tuple(
            part
            for word in words
            for part in (
                (word,) if word in self._known else self._pieces(word) or (word,)
            )
        )

    def nearest(self, word: str) -> str:
        """Return the known structure whose name is most similar, or nothing."""
        if len(word) <= _SHORT + 1:
            return ""
        near = difflib.get_close_matches(word, self._single, n=1, cutoff=ALIKE)
        return self._phrases[near[0],] if near else ""

    def _reading(
        self, words: tuple[str, ...]
    ) -> tuple[list[str], str, tuple[str, ...]]:
        """Return structures, side and the rest; a side may part a name, or be in it."""
        without = [word for word in words if word not in self._side_of]
        phrases = max(
            self._phrases_in(without),
            self._phrases_in(words),
            key=lambda found: sum(len(phrase) for _, phrase in found),
        )
        longer = [one for one in phrases if sum(map(len, one[1])) > _SHORT]
        found = list(dict.fromkeys(name for name, _ in longer or phrases))
        used = {word for _, phrase in phrases for word in phrase}
        left = [word for word in words if word not in used]
        sides = {side for word in left if (side := self._side_of.get(word))}
        if found and self.muscles.issuperset(found):
            sides.discard("middle")  # the M of musculus
        side = sides.pop() if len(sides) == 1 else ""
        rest = tuple(
            word
            for word in left
            if word not in self._side_of
            and not word.isdigit()
            and not self.has_no_meaning(word)
        )
        return found, "" if side == "both" else side, rest

    def _phrases_in(self, words: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """Return the structures in the words with the words that name them."""
        found, at = [], 0
        while at < len(words):
            for length in range(min(_LONGEST_PHRASE, len(words) - at), 0, -1):
                phrase = tuple(words[at : at + length])
                name = self._phrases.get(phrase) or self._phrases.get(
                    tuple(sorted(phrase))
                )
                if name and not (length == 1 and phrase[0] in self.silenced):
                    found.append((name, phrase))
                    at += length - 1
                    break
            at += 1
        return found

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], str]:
        """The words of every name, as they stand and sorted, and what they mean."""
        meant: dict[tuple[str, ...], str] = {}
        for name, others in self.names.items():
            for other in (name.replace("_", " "), *others):
                for written in (other, transliterated(other)):
                    words = words_of(written)
                    meant.setdefault(words, name)
                    meant.setdefault(tuple(sorted(words)), name)
        return meant

    @cached_property
    def _single(self) -> list[str]:
        return [p[0] for p in self._phrases if len(p) == 1 and len(p[0]) > _SHORT]

    @cached_property
    def _side_of(self) -> dict[str, str]:
        return {word: side for side, words in self.sides.items() for word in words}

    @cached_property
    def _known(self) -> frozenset[str]:
        words = {word for phrase in self._phrases for word in phrase}
        return frozenset(words.union(self._side_of, *self.kinds.values()))

    @cached_property
    def _splits(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _pieces(self, word: str) -> tuple[str, ...]:
        """Return the known words of which a glued one consists, or nothing."""
        if len(word) <= _SHORT or number_in(word) or word in self.whole:
            return ()
        if word not in self._splits:
            self._splits[word] = self._split(word)
        return self._splits[word]

    def _split(self, word: str) -> tuple[str, ...]:
        known = self._known

        @cache
        def parts(begin: int) -> tuple[str, ...] | None:
            """Return the fewest known words from here to the end."""
            if begin == len(word):
                return ()
            best: tuple[str, ...] | None = None
            for end in range(begin + 1, len(word) + 1):
                piece = word[begin:end]
                at_an_end = begin == 0 or end == len(word)
                letter = piece in _LETTERS and at_an_end
                if piece == word or not (
                    letter or (len(piece) >= _PIECE and piece in known)
                ):
                    continue
                rest = parts(end)
                if rest is not None and (best is None or len(rest) + 1 < len(best)):
                    best = (piece, *rest)
            return best

        return parts(0) or ()
