"""Sentences of a line, and its Chinese words.

Sentences are those of sentencex (Wikimedia; rules and abbreviations for 300 languages, Chinese stops too): small, fast,
without a model, and released several times a year, which pySBD (2021) and blingfire (2021) are not. Words are those of
rjieba, whose kernel is jieba's algorithm in Rust; jieba itself had its last release in 2020.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from bertkit.data.subwords import UNSPACED
from bertkit.errors import ConfigError

LANGUAGE = "en"
"""Whose abbreviations sentencex knows; its stops are those of all scripts."""
MOST_CHARACTERS = 20_000
"""Of a piece; beyond, the next sentence begins a new one. It bounds the memory that a line takes to be tokenised."""
LETTER = f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in UNSPACED)}]"
"""A character of a script without spaces."""
GAP = re.compile(rf"(?<={LETTER})[ \t\u3000]+(?={LETTER})")


@dataclass(slots=True, kw_only=True)
class Piece:
    """A text to be tokenised: a line, or a part of a long one."""

    text: str
    sentences: list[int]
    """Where each begins, in code points; the first is 0."""
    words: list[int] = field(default_factory=list)
    """Where Chinese words begin, as far as nothing else tells."""
    apart: bool = True
    """Whether white space or the end of a line stands before it."""


Text = str | list[str] | list[list[str]]


class Splitter:
    """Makes pieces of lines."""

    def __init__(self, sentences: Literal["split", "lines"], words: Literal["", "spaces", "segmenter"]) -> None:
        """Load what is needed.

        Raises:
            ConfigError: if the segmenter is wanted and not installed.
        """
        self._sentences = _segmenter() if sentences == "split" else _one_sentence
        self._cut = _word_cutter() if words == "segmenter" else None
        self._by_spaces = words == "spaces"

    def pieces(self, text: Text) -> Iterator[Piece]:
        """Yield the pieces of a line, in order; none for white space alone."""
        if isinstance(text, str):
            yield from self._pieces(text, [], self._sentences)
        else:
            for sentence in text:
                yield from self._pieces(*_joined(sentence), _one_sentence)

    def _pieces(self, line: str, given: list[int], sentences: Callable[[str], list[int]]) -> Iterator[Piece]:
        """Yield the pieces of a text whose words begin at ``given``, where they are known."""
        if self._by_spaces and not given:
            line, given = _without_gaps(line)
        if not line.strip():
            return
        found = sentences(line)
        words = self._words(line) if self._cut is not None else given
        for start, end, starts in _bounded(found):
            inside = [place - start for place in words if start <= place < end] if words else []
            apart = start == 0 or line[start - 1].isspace()
            yield Piece(text=line[start:end], sentences=[place - start for place in starts], words=inside, apart=apart)

    def _words(self, line: str) -> list[int]:
        if self._cut is None or not re.search(LETTER, line):
            return []
        return [0, *accumulate(map(len, self._cut(line)))]


def _segmenter() -> Callable[[str], list[int]]:
    from sentencex import segment

    def starts(line: str) -> list[int]:
        sizes = [len(sentence) for sentence in segment(LANGUAGE, line)]
        return [0, *accumulate(sizes[:-1])] if sizes else [0]

    return starts


def _one_sentence(line: str) -> list[int]:
    return [0]


def _word_cutter() -> Callable[[str], Sequence[str]]:
    try:
        from rjieba import cut
    except ImportError as error:
        raise ConfigError(
            "pretrain.words = 'segmenter' needs rjieba: pip install 'bertkit[chinese]', or give the words with spaces "
            "between them and take 'spaces'."
        ) from error
    found: Callable[[str], Sequence[str]] = cut
    return found


def _joined(part: str | list[str]) -> tuple[str, list[int]]:
    """Return a text, and where its words begin, if it comes in words; no space between two Chinese ones."""
    if isinstance(part, str):
        return part, []
    text, starts = "", []
    for word in part:
        gap = " " if text and word and not (re.match(LETTER, text[-1]) and re.match(LETTER, word)) else ""
        starts.append(len(text) + len(gap))
        text += gap + word
    return text, starts


def _without_gaps(line: str) -> tuple[str, list[int]]:
    """Take out spaces between ideographs, and return where they were, in what is left."""
    kept = GAP.split(line)
    return "".join(kept), [0, *accumulate(map(len, kept[:-1]))]


def _bounded(starts: list[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Yield start, end and sentence starts of pieces that end as soon as they have :data:`MOST_CHARACTERS`."""
    begin = 0
    for place in range(1, len(starts)):
        if starts[place] - starts[begin] >= MOST_CHARACTERS:
            yield starts[begin], starts[place], starts[begin:place]
            begin = place
    yield starts[begin], 2**62, starts[begin:]
