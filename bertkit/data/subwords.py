"""Which tokens of a vocabulary begin a word, found from the tokenizer itself and not from its name.

======================  ==========================================================================
a token begins a word    where the tokenizer
======================  ==========================================================================
without ``##``           is WordPiece, or BPE with a prefix for what continues (BERT, ELECTRA)
with ``▁``               writes a space so (SentencePiece: ALBERT, XLM-R, DeBERTa-v3)
with ``Ġ``               writes bytes as letters (byte-level BPE: RoBERTa, ModernBERT)
after ``</w>``           marks ends (XLM, GPT)
always                   has whole words alone
======================  ==========================================================================

SentencePiece and byte-level BPE glue punctuation to the word before (``world`` ``.``), and know no words at all in
scripts without spaces. As in ALBERT's create_pretraining_data.py, punctuation and symbols are words by themselves
there, and so is each piece in such a script (Chinese, Japanese, Thai, Lao, Khmer, Burmese).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
"""Code points of scripts that have no spaces between words."""
UNSPACED_LEADS = range(0xE2, 0xF5)
"""First bytes of UTF-8 of most such scripts, of punctuation and symbols beyond Latin-1, and of emoji; what an
incomplete character is taken for."""
CONTINUATION = range(0x80, 0xC0)
"""Bytes of UTF-8 that are not the first of a character."""
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
"""How SentencePiece writes a byte of a character that its vocabulary lacks."""
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that byte-level BPE writes as the character of that number; the others follow from 256 on (Radford et al.,
GPT-2, encoder.py)."""


MARKED, ALONE, ENDS, GLUED, OPENS = 1, 2, 4, 8, 16
"""What a token does to words, as bits: has a mark of its own that a word begins; begins with a character that stands
alone; ends with one, so that the next token begins a word; goes on in any case (the rest of a character); is nothing
but a mark, which the next token belongs to."""


@dataclass(frozen=True, kw_only=True)
class Subwords:
    """What each token of a vocabulary of V ids does to words."""

    bits: np.ndarray
    """``(V,)`` uint8."""

    def starts(self, ids: np.ndarray, special: np.ndarray, continues: np.ndarray | None = None) -> np.ndarray:
        """Say of each token of a row whether it begins a word.

        Args:
            ids: ``(T,)`` integers.
            special: ``(T,)`` bool; each is a word by itself.
            continues: ``(T,)`` bool: goes on with the Chinese word before it, as the corpus knows.

        Returns:
            ``(T,)`` bool.
        """
        bits = self.bits[ids]
        found = bits & (MARKED | ALONE) != 0
        before, after = bits[:-1], bits[1:]
        found[1:] |= (before & ENDS != 0) & (after & GLUED == 0)
        found[1:] &= (before & OPENS == 0) | (after & MARKED != 0)
        if continues is not None:
            found &= ~continues
        found |= special
        found[1:] |= special[:-1]
        found[:1] = True
        return np.asarray(found)


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Subwords:
    """Find the kind of a tokenizer, and look at each of its tokens.

    Raises:
        ModelError: if it is not a fast one, or of a kind whose words cannot be told.
    """
    pieces = tokenizer.get_vocab()
    look = _looking(_description(tokenizer), type(tokenizer).__name__)
    bits = np.zeros(max(pieces.values()) + 1, dtype=np.uint8)
    for piece, number in pieces.items():
        bits[number] = look(piece) if piece else MARKED
    bits[[*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]] = MARKED | ENDS
    return Subwords(bits=bits)


def _description(tokenizer: Any) -> dict[str, Any]:
    """Return what tokenizer.json holds, but for the vocabulary.

    Raises:
        ModelError: if there is no such thing.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"The tokenizer {type(tokenizer).__name__} is not a fast one, so it cannot be told where its words begin: "
            "set pretrain.whole_words = false, or take an encoder with a tokenizer.json."
        )
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _looking(description: dict[str, Any], name: str) -> Callable[[str], int]:
    """Return the function that gives the bits of a piece."""
    model = description["model"]
    kind, steps = model.get("type"), {step["type"]: step for step in _steps(description)}
    if kind == "WordLevel":
        return lambda piece: MARKED
    if prefix := model.get("continuing_subword_prefix"):
        return lambda piece: 0 if piece.startswith(prefix) else MARKED
    if suffix := model.get("end_of_word_suffix"):
        return lambda piece: ENDS if piece.endswith(suffix) else 0
    if "ByteLevel" in steps:
        return _of_bytes
    if "Metaspace" in steps or _replaces_spaces(steps):
        mark = steps.get("Metaspace", {}).get("replacement", "▁")
        return lambda piece: _of_marked(piece, mark)
    about = f"model {kind}, {', '.join(steps) or 'no other steps'}"
    raise ModelError(
        f"It cannot be told where the words of the tokenizer {name} begin ({about}): it is neither WordPiece nor "
        "SentencePiece nor byte-level BPE. Set pretrain.whole_words = false."
    )


def _steps(description: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of normalizer, pre-tokenizer and decoder, those of sequences one by one."""
    names = ("normalizer", "pre_tokenizer", "decoder")
    waiting = [description.get(name) for name in names]
    while waiting:
        step = waiting.pop(0)
        if step and step["type"] == "Sequence":
            waiting += next(value for key, value in step.items() if key != "type")
        elif step:
            yield step


def _replaces_spaces(steps: dict[str, dict[str, Any]]) -> bool:
    """Say whether spaces become ``▁`` in the normalizer, as in tokenizers that were converted from SentencePiece."""
    return "▁" in (steps.get("Replace", {}).get("content"), steps.get("Prepend", {}).get("prepend"))


def _of_marked(piece: str, mark: str) -> int:
    if byte := BYTE_PIECE.fullmatch(piece):
        return _of_text(bytes([int(byte[1], 16)]))
    body = piece.lstrip(mark)
    if not body:
        return MARKED | OPENS
    return MARKED * piece.startswith(mark) | ALONE * _stands_alone(body[0]) | ENDS * _stands_alone(body[-1])


def _of_bytes(piece: str) -> int:
    if not all(letter in BYTES for letter in piece):
        return MARKED | ENDS  # an added token, which is text
    text = bytes(BYTES[letter] for letter in piece)
    if text.startswith(b" "):
        return MARKED | (_of_text(text.lstrip(b" ")) & ENDS if text.strip(b" ") else OPENS)
    return _of_text(text)


def _byte_letters() -> dict[str, int]:
    """Return the letters that byte-level BPE writes bytes as."""
    others = [number for number in range(256) if number not in PRINTABLE]
    return {chr(number): number for number in PRINTABLE} | {
        chr(256 + place): number for place, number in enumerate(others)
    }


BYTES = _byte_letters()


def _of_text(piece: bytes) -> int:
    """Return the bits of the bytes of a piece, of which the first and the last character may be incomplete."""
    text = piece.decode("utf-8", "replace")
    ends = ENDS * (text[-1] != "\ufffd" and _stands_alone(text[-1]))
    if piece[0] in CONTINUATION:
        return GLUED | ends
    return ALONE * (piece[0] in UNSPACED_LEADS if text[0] == "\ufffd" else _stands_alone(text[0])) | ends


def _stands_alone(char: str) -> bool:
    """Say whether a character is no part of a word with letters beside it: space, punctuation, symbol, ideograph."""
    category = unicodedata.category(char)
    if category[0] in "PSZ" or category == "Cc":
        return True
    return category[0] != "M" and any(first <= ord(char) <= last for first, last in UNSPACED)
