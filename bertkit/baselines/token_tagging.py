"""The baseline of token tagging: each word's most frequent tag in train, without a look at the words around it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bertkit.adapters.base import Adapter, Example, Feature, Prediction
from bertkit.adapters.token_tagging import Aligned, TokenTagging
from bertkit.baselines import Baseline
from bertkit.data import Split
from bertkit.errors import ConfigError
from bertkit.events import Listener

if TYPE_CHECKING:
    import numpy as np

UNSEEN = 1e-3
"""Count given to a tag that a word never had, so that a legal sequence can always be found."""


def fit(
    adapter: Adapter, splits: Mapping[str, Split], *, seed: int, vectors: Path | None, tell: Listener
) -> Iterator[Baseline]:
    """Yield ``majority``; see :class:`bertkit.baselines.Fit`. Nothing is drawn, so that ``seed`` changes nothing."""
    assert isinstance(adapter, TokenTagging)
    if vectors is not None:
        raise ConfigError(f"--vectors {vectors} is for classification and regression; tagging has no such baseline.")
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in splits["train"].examples:
        for word, tag in zip(adapter.sentence(example).words, adapter.gold(example), strict=True):
            counts[word][tag] += 1
    whole = sum(counts.values(), Counter())
    tables = {word: _logits(adapter.labels, tags) for word, tags in counts.items()}
    unknown = _logits(adapter.labels, whole)
    most = max(adapter.labels, key=lambda label: whole[label])
    yield Baseline(
        name="majority",
        summary=f"the most frequent tag of each of {len(counts):,} words, decoded as the encoder's; others '{most}'",
        predict=lambda examples: _predict(adapter, examples, tables, unknown),
    )


def _logits(labels: Sequence[str], tags: Counter[str]) -> np.ndarray:
    """Return log frequencies ``(K,)`` float64, not normalised."""
    import numpy as np

    return np.log([tags[label] + UNSEEN for label in labels])


def _predict(
    adapter: TokenTagging, examples: Sequence[Example], tables: Mapping[str, np.ndarray], unknown: np.ndarray
) -> list[Prediction]:
    """Return what the adapter decodes from the frequencies of each word's tags."""
    import numpy as np

    reduced, features = [], []
    for index, example in enumerate(examples):
        words = adapter.sentence(example).words
        every = list(range(len(words)))
        aligned = Aligned(num_words=len(words), words=every, places=every, past_limit=[])
        features.append(Feature(example=index, input_ids=[], aligned=aligned))
        reduced.append(np.array([tables.get(word, unknown) for word in words]))
    return adapter.decode(reduced, features, examples)
