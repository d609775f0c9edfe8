"""Read the vocabulary of structures and sides that comes with the package."""

import tomllib
from functools import cache
from pathlib import Path

from nnunet_bridge.ops.naming import transliterated, without_accents
from nnunet_bridge.ops.vocabulary import Vocabulary

FILE = Path(__file__).with_name("vocabulary.toml")


@cache
def read_vocabulary() -> Vocabulary:
    """Return the vocabulary; its words are case-folded and without accents."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    names = {**content["bones"], **content["soft"]}
    sides = {s: words for s, words in content["sides"].items() if s != "pairs"}
    return Vocabulary(
        names={name: tuple(others) for name, others in names.items()},
        sides={side: _folded(words) for side, words in sides.items()},
        pairs=tuple((left, right) for left, right in content["sides"]["pairs"]),
        kinds={kind: _folded(words) for kind, words in content["words"].items()},
        muscles=frozenset(content["soft"]),
        mask_parts=tuple(content["unused_masks"]["parts"]),
        mask_abbreviations=frozenset(content["unused_masks"]["words"]),
    )


def _folded(words: list[str]) -> frozenset[str]:
    """Return words without accents; umlauts in both ways of writing."""
    both = (fold(word) for word in words for fold in (without_accents, transliterated))
    return frozenset(both)
