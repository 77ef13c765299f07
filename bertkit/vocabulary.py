"""A new WordPiece vocabulary (Wu et al., arXiv:1609.08144, section 4.1) of a corpus, with BERT's special tokens.

The trainer of the tokenizers library meets the characters inside words in an order that changes from process to
process, and breaks ties by it. It is therefore told all characters beforehand, in the order of their code points: the
texts are read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bertkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Ids 0 to 4: what ``BertConfig`` and ``BertTokenizer`` of transformers take for granted."""
PREFIX = "##"
LEAST_COUNT = 2
"""Times that a character or a pair must be there to become a token."""
CHARACTER_SHARE = 0.75
"""Of the vocabulary that single characters may take; the rarest are left out and read as [UNK]."""
CHUNK = 1_000_000
"""Characters that are counted at one time."""


def train(texts: Iterable[str], size: int, *, lowercase: bool = True, max_length: int = 512) -> PreTrainedTokenizerBase:
    """Train a BERT tokenizer: it saves in Hugging Face's layout and opens in ``AutoTokenizer``.

    The same texts give the same vocabulary, token for token.

    Args:
        texts: read twice, as a stream: a list, or what :func:`bertkit.data.corpus.texts` gives; no iterator.
        size: of the vocabulary, special tokens included; exactly so many.
        lowercase: also takes accents off, as BERT's uncased models do.
        max_length: ``model_max_length`` of the tokenizer.

    Raises:
        ConfigError: if ``size`` is too small for anything.
        DataError: if the texts are too few for so many tokens; says how many they give.
    """
    from transformers import BertTokenizer

    if iter(texts) is texts:
        raise TypeError("train() reads the texts twice: give a list, or an object that begins anew, and no iterator")
    if size < 4 * len(SPECIAL):
        raise ConfigError(
            f"A vocabulary of {size} tokens is too small: {len(SPECIAL)} are special. Give some thousand."
        )
    backend = _backend(lowercase)
    whole, inner = _characters(texts, backend, int(CHARACTER_SHARE * size) - len(SPECIAL))
    pieces = _trained(texts, backend, size, whole, inner)
    if len(pieces) < size:
        raise DataError(
            f"The corpus is too small for a vocabulary of {size} tokens: it gives {len(pieces)}. Ask for at most that "
            "many, or give more text."
        )
    tokenizer: Any = BertTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        do_lower_case=lowercase,
        model_max_length=max_length,
    )
    return tokenizer


def _backend(lowercase: bool) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = BertPreTokenizer()
    return backend


def _trained(texts: Iterable[str], backend: Any, size: int, whole: list[str], inner: list[str]) -> list[str]:
    """Return the vocabulary in the order of ids: special tokens, characters, characters inside words, the others."""
    from tokenizers.trainers import WordPieceTrainer

    first = [*SPECIAL, *(PREFIX + char for char in inner)]
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=LEAST_COUNT,
        show_progress=False,
        # What stands here has its number before any text is looked at.
        special_tokens=first,
        initial_alphabet=whole,
        limit_alphabet=len(whole),
    )
    backend.train_from_iterator(iter(texts), trainer)
    numbers = backend.get_vocab()
    known = {*first, *whole}
    rest = sorted((piece for piece in numbers if piece not in known), key=numbers.__getitem__)
    return [*SPECIAL, *whole, *first[len(SPECIAL) :], *rest]


def _characters(texts: Iterable[str], backend: Any, most: int) -> tuple[list[str], list[str]]:
    """Return the characters that words have, and those that are not the first of one, by code point.

    Args:
        texts: read once.
        backend: says how texts are normalised and cut into words.
        most: of both together; the commonest are kept.

    Raises:
        DataError: if the texts hold no word.
    """
    counts = np.zeros(0x110000, dtype=np.int64)
    inside = np.zeros(0x110000, dtype=bool)
    splits = _Splits(backend)
    for text in _chunks(texts):
        codes = np.frombuffer(backend.normalizer.normalize_str(text).encode("utf-32-le"), dtype=np.uint32)
        alone, space = splits.of(codes)
        np.add.at(counts, codes[~space], 1)
        inside[codes[1:][~alone[1:] & ~alone[:-1]]] = True
    found = np.flatnonzero(counts >= LEAST_COUNT)
    if not len(found):
        raise DataError("The corpus holds no text that a vocabulary could be made of.")
    commonest = found[np.lexsort((found, -counts[found]))]
    room = np.cumsum(1 + inside[commonest])
    kept = np.sort(commonest[room <= most])
    return [chr(code) for code in kept], [chr(code) for code in kept if inside[code]]


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts joined by line ends, some together."""
    waiting, size = [], 0
    for text in texts:
        waiting.append(text)
        size += len(text) + 1
        if size >= CHUNK:
            yield "\n".join(waiting)
            waiting, size = [], 0
    yield "\n".join(waiting)


class _Splits:
    """Knows which characters stand alone: spaces, and what the pre-tokenizer makes a word by itself."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.known, self.alone, self.space = (np.zeros(0x110000, dtype=bool) for _ in range(3))

    def of(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, per character, whether it stands alone and whether it is a space: both ``(T,)`` bool."""
        there = np.unique(codes)
        for code in there[~self.known[there]].tolist():
            parts = [part for part, _ in self.backend.pre_tokenizer.pre_tokenize_str(f"a{chr(code)}a")]
            self.known[code], self.alone[code], self.space[code] = True, len(parts) > 1, parts == ["a", "a"]
        return self.alone[codes], self.space[codes]
