"""A split in tokens: how long its texts are, what a limit cuts, which words are unknown to the vocabulary."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bertkit.adapters import words
from bertkit.adapters.base import Adapter, Example, Feature
from bertkit.data import lengths
from bertkit.data.lengths import Bin, Cut

UNCUT = 10**9
"""A length limit that cuts nothing."""
SOME = 500
"""Rows whose words are looked at one by one."""
NAMED = 5
"""Unknown words that are named."""
LANGUAGES = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}
"""First word of a character's Unicode name -> the language that is written so, where it is not called like that."""


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """What a vocabulary does not have."""

    tokens: int
    share: float
    """Of all tokens, special ones left out."""
    words: list[str] = field(default_factory=list)
    """The commonest unknown words of a sample."""
    script: str = ""
    """The writing that most of their letters are of, where it is not Latin."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A split in tokens."""

    lengths: dict[str, float]
    """``median``, ``p99``, ``longest`` and ``keeps_99``, the least limit that leaves 99 % of the rows whole."""
    histogram: list[Bin]
    cuts: list[Cut]
    truncation: dict[str, Any]
    """What ``train.max_length`` cuts, as the task type counts it."""
    unknown: Unknown
    tokens_per_word: float
    """Words as split at white space, punctuation and Chinese characters."""


def measure(adapter: Adapter, examples: Sequence[Example], tokenizer: Any) -> Measured:
    """Tokenize a split's examples uncut, and count.

    Raises:
        ExampleError: for an example that training would refuse as too long.
    """
    import numpy as np

    config = adapter.config
    unlimited = type(adapter)(adapter.task, replace(config, max_length=UNCUT, on_long="truncate"), adapter.labels)
    whole = unlimited.encode(examples, tokenizer)
    sizes = [len(feature) for feature in whole]
    fits = max(sizes) <= config.max_length
    quantiles = {"median": np.median(sizes), "p99": np.quantile(sizes, 0.99), "longest": max(sizes)}
    return Measured(
        lengths={name: float(value) for name, value in quantiles.items()} | {"keeps_99": lengths.keeping(sizes)},
        histogram=lengths.histogram(sizes),
        cuts=lengths.cuts(sizes, (*lengths.LIMITS, config.max_length)),
        truncation=adapter.truncation(whole if fits else adapter.encode(examples, tokenizer), examples),
        unknown=_unknown(adapter, examples, whole, tokenizer),
        tokens_per_word=_per_word(adapter, examples[:SOME], whole[:SOME], tokenizer),
    )


def _unknown(adapter: Adapter, examples: Sequence[Example], whole: Sequence[Feature], tokenizer: Any) -> Unknown:
    """Count unknown tokens; a byte-level vocabulary has none."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in _special(tokenizer):
        return Unknown(tokens=0, share=0.0)
    counts = [feature.input_ids.count(unknown) for feature in whole]
    if not any(counts):
        return Unknown(tokens=0, share=0.0)
    found = [example for example, count in zip(examples, counts, strict=True) if count][:SOME]
    there = Counter(word for example in found for word in _words(adapter, example))
    encoded = tokenizer.backend_tokenizer.encode_batch(list(there), add_special_tokens=False)
    strange = Counter(
        {word: there[word] for word, encoding in zip(there, encoded, strict=True) if unknown in encoding.ids}
    )
    return Unknown(
        tokens=sum(counts),
        share=sum(counts) / max(1, _num_real(whole, tokenizer)),
        words=[word for word, _ in strange.most_common(NAMED)],
        script=script_of(strange.elements()),
    )


def _special(tokenizer: Any) -> set[int]:
    """Return the ids that stand around and between texts."""
    names = ("cls", "sep", "pad", "bos", "eos", "mask")
    return {number for name in names if (number := getattr(tokenizer, f"{name}_token_id")) is not None}


def _num_real(features: Iterable[Feature], tokenizer: Any) -> int:
    special = _special(tokenizer)
    return sum(number not in special for feature in features for number in feature.input_ids)


def _words(adapter: Adapter, example: Example) -> list[str]:
    return [text[start:end] for text in adapter.readings(example).values() for start, end in words.split(text)]


def _per_word(adapter: Adapter, examples: Sequence[Example], whole: Sequence[Feature], tokenizer: Any) -> float:
    return _num_real(whole, tokenizer) / max(1, sum(len(_words(adapter, example)) for example in examples))


def script_of(strange: Iterable[str]) -> str:
    """Return the language, else the script, that most letters of some words are of; empty for Latin letters."""
    letters = Counter(unicodedata.name(char, "").split(" ")[0] for word in strange for char in word if char.isalpha())
    kinds = Counter[str]()
    for name, count in letters.items():
        kinds[LANGUAGES.get(name, name.capitalize())] += count
    if kinds["Japanese"] > kinds["Chinese"] / 4:
        kinds["Japanese"] += kinds.pop("Chinese", 0)
    (name, count), *_ = kinds.most_common(1) or [("", 0)]
    return name if name != "Latin" and count > kinds.total() / 2 else ""
