"""Words of a raw text: split at white space, punctuation and each CJK character, with offsets into the text as given.

Every character that is no white space belongs to exactly one word, so that nothing that was read goes untagged.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from itertools import accumulate

JOINER = "\u200d"
"""ZERO WIDTH JOINER: glues two emoji into one picture (Unicode TR 51, 2.3)."""
IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2FA1F),
    (0x30000, 0x323AF),
)
"""Code points of the CJK ideographs, compatibility forms included (Unicode 16, chapter 18)."""
SKIN_TONES = range(0x1F3FB, 0x1F400)
"""Emoji modifiers, symbols that change the emoji before them (Unicode TR 51, 2.4)."""
FLAG_LETTERS = range(0x1F1E6, 0x1F200)
"""Regional indicators, of which two make a flag (Unicode TR 51, 1.5)."""


class Kind(Enum):
    """What a character does to the word before it."""

    SPACE = auto()
    """Ends it and belongs to none."""
    LETTER = auto()
    """Goes on with a word of letters: letters, digits, whatever is nothing else."""
    SINGLE = auto()
    """A word by itself: punctuation, an ideograph."""
    SYMBOL = auto()
    """A word by itself, unless it is glued to the symbol before."""
    EXTENSION = auto()
    """Belongs to the character before: marks, variation selectors, format and control characters."""


def split(text: str) -> list[tuple[int, int]]:
    """Return start and end of every word, in code points, end exclusive."""
    words: list[tuple[int, int]] = []
    start, base = 0, Kind.SPACE
    for place, char in enumerate(text):
        kind = _kind(char)
        if base is not Kind.SPACE:
            if _joins(text, start, place, base, kind):
                base = kind if base is Kind.EXTENSION else base
                continue
            words.append((start, place))
        start, base = place, kind
    if base is not Kind.SPACE:
        words.append((start, len(text)))
    return words


def _joins(text: str, start: int, place: int, base: Kind, kind: Kind) -> bool:
    """Say whether the character at ``place`` goes on with the word that began at ``start``.

    ``base`` is the kind of the word's first character, or of the first that is no extension.
    """
    if kind is Kind.EXTENSION:
        return True
    if kind is Kind.LETTER:
        return base in (Kind.LETTER, Kind.EXTENSION)
    if kind is Kind.SYMBOL and base is Kind.SYMBOL:
        half_flag = place == start + 1 and ord(text[start]) in FLAG_LETTERS and ord(text[place]) in FLAG_LETTERS
        return half_flag or text[place - 1] == JOINER
    return False


def is_ideograph(char: str) -> bool:
    """Say whether a character is a CJK ideograph."""
    return any(first <= ord(char) <= last for first, last in IDEOGRAPHS)


@lru_cache(maxsize=1 << 16)
def _kind(char: str) -> Kind:
    code, category = ord(char), unicodedata.category(char)
    if char.isspace():
        return Kind.SPACE
    # Lone surrogates (Cs), private (Co) and unassigned (Cn) characters are nobody's extension.
    if category[0] == "M" or category in ("Cc", "Cf") or code in SKIN_TONES:
        return Kind.EXTENSION
    if category[0] == "S":
        return Kind.SYMBOL
    if category[0] == "P" or is_ideograph(char):
        return Kind.SINGLE
    return Kind.LETTER


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A text and where its words stand in it."""

    text: str
    spans: list[tuple[int, int]]
    """Start and end of each word, in code points of ``text``, end exclusive."""

    @property
    def words(self) -> list[str]:
        """Return the words themselves."""
        return [self.text[start:end] for start, end in self.spans]

    def covered(self, start: int, end: int) -> range:
        """Return the words that a piece of the text touches; empty where it holds white space alone."""
        first = bisect_right(self.spans, start, key=lambda span: span[1])
        return range(first, max(first, bisect_left(self.spans, end, key=lambda span: span[0])))


def of_text(text: str) -> Sentence:
    """Return a text with the words that :func:`split` finds."""
    return Sentence(text=text, spans=split(text))


def of_words(words: Sequence[str]) -> Sentence:
    """Return words as they are, in the text that single spaces between them make."""
    ends = list(accumulate((len(word) for word in words), lambda end, length: end + 1 + length, initial=-1))[1:]
    spans = [(end - len(word), end) for end, word in zip(ends, words, strict=True)]
    return Sentence(text=" ".join(words), spans=spans)
