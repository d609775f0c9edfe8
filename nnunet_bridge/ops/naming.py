"""Split the names of files, folders and segments into words.

Names come glued, in capitals, with any separator: ``leftFemurKnee101``,
``P01_Femur-L``, ``hemi-L_label-femur``. A single letter stays with its digits, because
``P01``, ``9B``, ``L1`` and ``T1w`` are one word each.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

_CHUNK = re.compile(r"[^\W_]+")
_RUN = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_UMLAUTS = str.maketrans({
    "ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss",
    "ẞ": "SS", "æ": "ae", "Æ": "Ae", "ø": "oe", "Ø": "Oe", "å": "aa", "Å": "Aa",
    "œ": "oe", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
})  # fmt: skip


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that puts 2 before 10.

    Examples
    --------
    >>> sorted(["10_a", "2_b"], key=natural_key)
    ['2_b', '10_a']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(p)) if p.isdecimal() else (1, p) for p in parts if p)


def composed(name: str) -> str:
    """Return a name in which a letter and its accents are one character, as in NFC.

    macOS stores them apart.
    """
    return unicodedata.normalize("NFC", name)


def without_accents(text: str) -> str:
    """Return a text without accents: `ü` becomes `u`, and `ß` becomes `ss`."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(c for c in plain if not unicodedata.combining(c))


def transliterated(text: str) -> str:
    """Return a text in ASCII, as a German writes it: `ü` becomes `ue`.

    Examples
    --------
    >>> transliterated("Knie-Übung Fémur")
    'Knie-Uebung Femur'
    """
    plain = without_accents(composed(text).translate(_UMLAUTS))
    return plain.encode("ascii", "ignore").decode("ascii")


def words_of(name: str) -> tuple[str, ...]:
    """Return the words and numbers of a name, case-folded and without accents.

    Examples
    --------
    >>> words_of("leftFemurKnee101"), words_of("P01_TIBIA-L")
    (('left', 'femur', 'knee', '101'), ('p01', 'tibia', 'l'))
    >>> words_of("4_R_Fémur_9B.T1w")
    ('4', 'r', 'femur', '9b', 't1w')
    """
    return tuple(
        word
        for chunk in _CHUNK.findall(without_accents(name))
        for word in _words_of_chunk(chunk)
    )


def _words_of_chunk(chunk: str) -> Iterator[str]:
    runs = _RUN.findall(chunk)
    begin = 0
    while begin < len(runs):
        end = begin + 1
        while end < len(runs) and _belong_together(runs[end - 1], runs[end]):
            end += 1
        yield "".join(runs[begin:end]).casefold()
        begin = end


def _belong_together(one: str, other: str) -> bool:
    """Whether two runs are a letter and its digits, in either order."""
    letter, digits = (other, one) if one.isdigit() else (one, other)
    return len(letter) == 1 and digits.isdigit() and not letter.isdigit()


def number_in(word: str) -> str:
    """Return the number in a word without leading zeros; empty without one.

    Examples
    --------
    >>> number_in("007"), number_in("p01"), number_in("anna")
    ('7', '1', '')
    """
    digits = re.sub(r"\D", "", word) if re.search(r"\d", word) else ""
    return str(int(digits)) if digits.isascii() and digits else ""


def plain_word(word: str) -> str:
    """Return a word with its numbers without leading zeros.

    Examples
    --------
    >>> plain_word("p001"), plain_word("000")
    ('p1', '0')
    """
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), word)


def marks(words: Sequence[str]) -> frozenset[str]:
    """Return what two names may share: words, numbers of any padding, and their pairs.

    A number that stands alone is more than one inside a word, so it has a mark more.

    Examples
    --------
    >>> marks(("p01", "femur")) & marks(("patient", "1"))
    frozenset({'1'})
    >>> sorted(marks(("sub", "01")) & marks(("sub", "1", "ses", "2")))
    ['#1', '1', 'sub', 'sub 1']
    """
    found = set()
    numbers: list[str] = []
    for place, word in enumerate(words):
        number = number_in(word)
        found.add(number or word)
        before = words[place - 1] if place else ""
        if number and before.isalpha():
            found.add(f"{before} {number}")
        if number and word.isdigit():
            found.add(f"#{number}")
            found.update(f"{other} {number}" for other in numbers[-1:])
            numbers.append(number)
        elif number:
            found.add(plain_word(word))
    return frozenset(found)
