"""Texts with the lengths of real data and the words of the embedded reviews: benchmarks need no download.

Lengths are log-normal. SST-2's training rows are phrases: most have a few words, their mean is 13 tokens, special
ones included; windows of SQuAD have 154 on average, at most 384.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

REVIEWS = Path(__file__).parent.parent / "tasks" / "demo" / "reviews" / "train.jsonl"
TOKENS_PER_WORD = 1.06
"""Of the words below with a WordPiece vocabulary of 30,000."""
SPECIAL = 2
"""Tokens that the tokenizer adds to a row."""


@cache
def words() -> tuple[str, ...]:
    """Return the words of the embedded training reviews, each as often as it occurs."""
    rows = REVIEWS.read_text(encoding="utf-8").splitlines()
    return tuple(word for row in rows for word in re.findall(r"[a-z]+", json.loads(row)["text"].lower()))


def sst2_like(count: int, seed: int) -> list[str]:
    """Return texts as long as SST-2's training rows: 13 tokens on average, at most about 60."""
    return _texts(count, seed, mean=13.3, spread=0.75, longest=60)


def windows_like(count: int, seed: int) -> list[str]:
    """Return texts as long as windows of SQuAD: 154 tokens on average, at most about 384."""
    return _texts(count, seed, mean=154, spread=0.4, longest=384)


def _texts(count: int, seed: int, *, mean: float, spread: float, longest: int) -> list[str]:
    """Return texts of a log-normal number of words.

    Args:
        count: of texts.
        seed: the same seed gives the same texts.
        mean: tokens of a text, special ones included.
        spread: standard deviation of the logarithm.
        longest: tokens of a text at most, in the mean over its words.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    middle = np.log((mean - SPECIAL) / TOKENS_PER_WORD) - spread**2 / 2
    most = int((longest - SPECIAL) / TOKENS_PER_WORD)
    lengths = np.clip(np.rint(rng.lognormal(middle, spread, count)), 1, most).astype(int)
    drawn = rng.choice(np.array(words()), int(lengths.sum()))
    return [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])] if count else []
