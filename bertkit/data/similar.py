"""Texts that are nearly the same: candidates by MinHash and banding, each one then compared in full.

Two texts are alike by the Jaccard similarity of their shingles, stretches of :data:`SHINGLE` characters, each counted
as often as it occurs. Upper and lower case, punctuation and white space do not count. MinHash (Broder 1997, *On the
resemblance and containment of documents*) is rensa's; bands of its digests find the pairs worth comparing (Leskovec,
Rajaraman, Ullman, *Mining of Massive Datasets*, 3.4). No pair is returned that was not compared.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")
THRESHOLD = 0.8
"""Similarity from which texts are nearly the same."""
SHINGLE = 4
"""Characters of a shingle: a changed letter costs four, a changed word about nine of a sentence's hundred. Longer ones
see no typo in a short text, shorter ones find all long texts of a language alike."""
SLOTS = 256
"""Numbers of a MinHash digest; the similarity that it shows has a standard deviation of at most 0.03."""
BAND = 8
"""Slots of a band. Two texts share one of the 32 bands with probability 0.997 where their similarity is 0.8, 0.99996 at
0.85, 0.12 at 0.5."""
SLACK = 0.1
"""What a digest may say below the threshold for a pair to be compared in full: four standard deviations."""
NEIGHBOURS = 5
"""Texts before it, and at the start, of those that share a band with a text, to which it is compared: bounds the work
where thousands of texts are alike, and leaves out nothing where at most 11 are."""
CHUNK = 2_000_000
"""Characters that are hashed at once; bounds memory."""
PRIME = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: the usual multiplier of multiplicative hashing (Knuth, TAOCP 3, 6.4)."""


class Alike(NamedTuple):
    """Two texts that are nearly the same."""

    first: int
    """Index of the earlier text."""
    second: int
    """Index of the later text."""
    similarity: float
    """At least the threshold, at most 1."""


def normal(text: str) -> str:
    """Return a text with what does not count taken out: its words in lower case, with single spaces between them.

    Each Chinese character is a word. Of a text without words, white space alone is taken out.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_WORD_CHARACTERS).split()) or " ".join(folded.split())


class _WordCharacters(dict[int, str]):
    """Code point -> what it becomes, found out when it is first asked for."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.category(char)
        if kind[0] in "PZC" or kind == "Sk":
            made = " "
        elif kind[0] == "S" or unicodedata.name(char, "").startswith("CJK UNIFIED"):
            made = f" {char} "
        else:
            made = char
        self[code] = made
        return made


_WORD_CHARACTERS = _WordCharacters()


def alike(texts: Sequence[str], *, threshold: float = THRESHOLD) -> list[Alike]:
    """Return the pairs of texts that are nearly the same, by index.

    Args:
        texts: different ones, as :func:`normal` makes them.
        threshold: similarity from which a pair is returned; made for 0.8, below 0.7 many pairs are missed.
    """
    if len(texts) < 2:
        return []
    digests = _digests(texts)
    first, second = _candidates(digests)
    likely = _estimates(digests, first, second) >= threshold - SLACK
    pairs = list(zip(first[likely].tolist(), second[likely].tolist(), strict=True))
    compared = zip(pairs, _compared(texts, pairs), strict=True)
    return [Alike(one, other, similarity) for (one, other), similarity in compared if similarity >= threshold]


def jaccard(first: str, second: str) -> float:
    """Return the similarity of two texts as :func:`normal` makes them, 0 to 1."""
    return next(_compared((first, second), [(0, 1)]))


def _compared(texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> Iterator[float]:
    """Yield the Jaccard similarity of pairs of texts: shingles of both over shingles of either."""
    import numpy as np

    for part in _chunks(pairs, [len(texts[one]) + len(texts[other]) for one, other in pairs]):
        sides = [_numbered([texts[pair[side]] for pair in part]) for side in (0, 1)]
        shingles = np.concatenate([hashes for hashes, _ in sides])
        owners = np.concatenate([np.repeat(np.arange(len(part)), np.diff(offsets)) for _, offsets in sides])
        order = np.lexsort((shingles, owners))
        shingles, owners = shingles[order], owners[order]
        # Within a text no shingle is there twice, so two that are equal are one of each.
        shared = (shingles[1:] == shingles[:-1]) & (owners[1:] == owners[:-1])
        both = np.bincount(owners[1:][shared], minlength=len(part))
        yield from (both / (np.bincount(owners) - both)).tolist()


def _numbered(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the shingles of texts one text behind another, and where each text's begin and end.

    The same shingle's first, second, ... occurrence in a text are different ones, so that ``no no no`` is not ``no``.

    Returns:
        ``(n,)`` uint64: a hash of the characters and of which occurrence it is; ``(len(texts) + 1,)`` int64.
    """
    import numpy as np

    padded = [f" {text} ".ljust(SHINGLE) for text in texts]
    sizes = np.array([len(text) - SHINGLE + 1 for text in padded], dtype=np.int64)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    starts = np.concatenate([[0], np.cumsum(sizes + SHINGLE - 1)[:-1]])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
    hashes = np.zeros(len(places), dtype=np.uint64)
    for step in range(SHINGLE):
        hashes = _mixed(hashes + codes[places + step])
    return _mixed(hashes + _occurrences(hashes, sizes)), offsets


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return other numbers for numbers ``(n,)`` uint64, one to one, as unlike as can be where those are neighbours.

    The finaliser of splitmix64 (Steele, Lea, Flood 2014, *Fast splittable pseudorandom number generators*).
    """
    import numpy as np

    mixed = numbers + np.uint64(PRIME)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _occurrences(hashes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return how often each hash stood in its text before, ``(n,)`` uint64."""
    import numpy as np

    owners = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((hashes, owners))
    ordered, texts = hashes[order], owners[order]
    fresh = np.concatenate([[True], (ordered[1:] != ordered[:-1]) | (texts[1:] != texts[:-1])])
    places = np.arange(len(hashes))
    begun = np.maximum.accumulate(np.where(fresh, places, 0))
    counts = np.empty(len(hashes), dtype=np.uint64)
    counts[order] = places - begun
    return counts


def _digests(texts: Sequence[str]) -> np.ndarray:
    """Return the MinHash digest of each text, ``(len(texts), SLOTS)`` uint32."""
    import numpy as np
    from rensa import RMinHash

    parts = []
    for part in _chunks(texts, [len(text) for text in texts]):
        shingles, offsets = _numbered(part)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets.astype(np.uint64), SLOTS, 1)
        parts.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(parts)


def _chunks(items: Sequence[Item], sizes: Sequence[int]) -> Iterator[Sequence[Item]]:
    """Yield items in stretches of at most 2,000, and of :data:`CHUNK` characters unless one alone has more."""
    start = size = 0
    for index, more in enumerate(sizes):
        if index > start and (size + more > CHUNK or index - start == 2000):
            yield items[start:index]
            start, size = index, 0
        size += more
    if items:
        yield items[start:]


def _candidates(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that share a band of their digests: two arrays of indices, the smaller in the first."""
    import numpy as np

    number = len(digests)
    found = np.empty(0, dtype=np.int64)
    for start in range(0, SLOTS, BAND):
        keys = np.zeros(number, dtype=np.uint64)
        for slot in range(start, start + BAND):
            keys = _mixed(keys + digests[:, slot])
        order = np.argsort(keys, kind="stable")
        pairs = [first * number + second for first, second in _neighbours(keys[order], order)]
        found = np.unique(np.concatenate([found, *pairs]))
    return found // number, found % number


def _neighbours(keys: np.ndarray, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of indices that share a key: each with those just before it, and with the first that have it.

    Args:
        keys: ``(n,)`` uint64, sorted.
        order: ``(n,)`` int64, the index that each key is of; ascending where keys are equal.
    """
    import numpy as np

    places = np.arange(len(keys))
    fresh = np.concatenate([[True], keys[1:] != keys[:-1]])
    heads = np.maximum.accumulate(np.where(fresh, places, 0))
    for step in range(NEIGHBOURS):
        before = places - step - 1
        there = before >= heads
        yield order[before[there]], order[there]
        head = heads + step
        there = head < places
        yield order[head[there]], order[there]


def _estimates(digests: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the similarity of pairs that their digests show, ``(n,)`` float64."""
    import numpy as np

    parts = [
        (digests[first[start : start + 100_000]] == digests[second[start : start + 100_000]]).mean(axis=1)
        for start in range(0, len(first), 100_000)
    ]
    return np.concatenate(parts) if parts else np.empty(0)
