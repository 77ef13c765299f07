"""Masked-LM targets: shares over a million tokens, whole words, reproducibility."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import BertTokenizer, PreTrainedTokenizerFast

from bertkit.data import masking
from bertkit.data.masking import IGNORED, Masker, rng_of
from bertkit.errors import ModelError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASK = 4
FIRST = len(SPECIAL)


def bert(words: int = 600, continuing: int = 400) -> Any:
    vocab = [*SPECIAL, *(f"w{n}" for n in range(words)), *(f"##c{n}" for n in range(continuing))]
    return BertTokenizer(vocab={word: number for number, word in enumerate(vocab)})


def rows(number: int, *, length: int = 128, seed: int = 0, vocabulary: int = 1000) -> Iterator[Any]:
    """Yield ids and special flags of rows ``[CLS] A [SEP] B [SEP]``, a tenth of them shorter."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        size = length if rng.random() < 0.9 else int(rng.integers(5, length))
        ids = rng.integers(FIRST, FIRST + vocabulary, size=size)
        special = np.zeros(size, dtype=bool)
        special[[0, size // 2, size - 1]] = True
        ids[special] = (2, 3, 3)
        yield ids, special


def counted(masker: Masker, *, number: int = 8800) -> dict[str, float]:
    """Return counts over a million tokens."""
    counts = dict.fromkeys(("tokens", "chosen", "masked", "random", "kept", "special"), 0.0)
    for instance, (ids, special) in enumerate(rows(number)):
        seen, labels = masker.masked(ids, special, rng_of(3, 0, instance))
        chosen = labels != IGNORED
        masked, kept = chosen & (seen == MASK), chosen & (seen == ids)
        counts["tokens"] += (~special).sum()
        counts["chosen"] += chosen.sum()
        counts["masked"] += masked.sum()
        counts["kept"] += kept.sum()
        counts["random"] += (chosen & ~masked & ~kept).sum()
        counts["special"] += (chosen & special).sum() + (seen != ids)[~chosen].sum()
    return counts


def deviations(counts: dict[str, float], *, vocabulary: int = 1000) -> dict[str, float]:
    """Return by how many standard errors each share is away from 15, 80, 10 and 10 %."""
    # One random token in a vocabulary is the same one again, and looks as if it was kept.
    expected = {"chosen": 0.15, "masked": 0.8, "random": 0.1 * (1 - 1 / vocabulary), "kept": 0.1 * (1 + 1 / vocabulary)}
    found = {}
    for name, share in expected.items():
        of = counts["tokens" if name == "chosen" else "chosen"]
        found[name] = abs(counts[name] / of - share) / (share * (1 - share) / of) ** 0.5
    return found


@pytest.mark.slow
@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_hold_over_a_million_tokens(whole_words: bool) -> None:
    counts = counted(Masker(bert(), whole_words=whole_words))
    assert counts["tokens"] > 1_000_000
    assert counts["special"] == 0
    away = deviations(counts)
    if whole_words:
        # A row whose last free places fit no word has some fewer: near, and never above.
        assert 0.145 < counts["chosen"] / counts["tokens"] < 0.1501
        del away["chosen"]
    assert max(away.values()) < 4, away


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"share": 0.147}, "chosen"),
        ({"mask_share": 0.79, "random_share": 0.105}, "masked"),
        ({"mask_share": 0.8, "random_share": 0.095}, "random"),
        ({"mask_share": 0.8, "random_share": 0.095}, "kept"),
    ],
)
def test_a_wrong_share_would_be_seen(wrong: dict[str, float], name: str) -> None:
    assert deviations(counted(Masker(bert(), **wrong)))[name] > 4


def test_random_tokens_come_from_the_whole_vocabulary_and_are_no_special_ones() -> None:
    masker = Masker(bert(20, 0), mask_share=0.0, random_share=1.0)
    drawn = np.zeros(25)
    for instance, (ids, special) in enumerate(rows(3000, vocabulary=20)):
        seen, labels = masker.masked(ids, special, rng_of(1, 0, instance))
        drawn += np.bincount(seen[labels != IGNORED], minlength=25)
    assert (drawn[:FIRST] == 0).all()
    total = drawn.sum()
    assert (abs(drawn[FIRST:] - total / 20) < 4 * (total / 20 * 0.95) ** 0.5).all()


def test_special_tokens_are_never_chosen_wherever_they_stand() -> None:
    masker = Masker(bert(), share=0.99)
    ids = np.array([2, 1, 10, 0, 4, 11, 3, 1])
    special = np.array([True, False, False, False, False, False, True, False])
    for instance in range(200):
        seen, labels = masker.masked(ids, special, rng_of(1, 0, instance))
        assert set(np.flatnonzero(labels != IGNORED).tolist()) <= {2, 5}
        assert (seen[[0, 1, 3, 4, 6, 7]] == ids[[0, 1, 3, 4, 6, 7]]).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_row_of_special_tokens_has_nothing_to_predict(whole_words: bool) -> None:
    ids = np.array([2, 3, 3])
    seen, labels = Masker(bert(), whole_words=whole_words).masked(ids, np.ones(3, dtype=bool), rng_of(1, 0, 0))
    assert (labels == IGNORED).all()
    assert (seen == ids).all()


def test_short_row_has_one_prediction() -> None:
    ids, special = np.array([2, 10, 11, 3]), np.array([True, False, False, True])
    for instance in range(50):
        _, labels = Masker(bert()).masked(ids, special, rng_of(1, 0, instance))
        assert (labels != IGNORED).sum() == 1


def test_number_of_predictions_is_rounded_up_or_down_by_chance() -> None:
    ids, special = np.arange(5, 105), np.zeros(100, dtype=bool)
    masker = Masker(bert(), share=0.153)
    numbers = [(masker.masked(ids, special, rng_of(1, 0, n))[1] != IGNORED).sum() for n in range(2000)]
    assert set(numbers) == {15, 16}
    assert abs(np.mean(numbers) - 15.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5


@pytest.mark.parametrize("whole_words", [False, True])
def test_predictions_have_a_maximum(whole_words: bool) -> None:
    masker = Masker(bert(), most=7, whole_words=whole_words)
    numbers = [
        (masker.masked(ids, special, rng_of(1, 0, n))[1] != IGNORED).sum() for n, (ids, special) in enumerate(rows(300))
    ]
    assert max(numbers) == 7
    assert np.mean(numbers) > 6


def test_labels_are_the_true_tokens_and_the_input_is_left_alone() -> None:
    (ids, special), *_ = rows(1)
    before = ids.copy()
    seen, labels = Masker(bert()).masked(ids, special, rng_of(1, 0, 0))
    chosen = labels != IGNORED
    assert (labels[chosen] == before[chosen]).all()
    assert (ids == before).all()
    assert seen.dtype == labels.dtype == np.int64


def test_masks_depend_on_seed_epoch_and_instance_alone() -> None:
    (ids, special), *_ = rows(1)
    masker = Masker(bert())

    def masks(*key: int) -> list[int]:
        return masker.masked(ids, special, rng_of(*key))[0].tolist()  # type: ignore[no-any-return]

    assert masks(1, 2, 3) == masks(1, 2, 3)
    assert len({tuple(masks(*key)) for key in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2))}) == 5
    # Two counts that are near must not give the same draws shifted.
    first, second = rng_of(1, 0, 0).random(1000), rng_of(1, 0, 1).random(1000)
    assert not set(first.tolist()) & set(second.tolist())


# --- whole words -----------------------------------------------------------------------------------------------------


def test_whole_words_are_predicted_whole() -> None:
    tokenizer = bert()
    masker = Masker(tokenizer, whole_words=True)
    several = 0
    for instance, (ids, special) in enumerate(rows(300)):
        _, labels = masker.masked(ids, special, rng_of(1, 0, instance))
        chosen = labels != IGNORED
        begins = special | (ids < FIRST + 600)
        begins[1:] |= special[:-1]
        word = np.cumsum(begins)
        for number in np.unique(word[chosen]):
            assert chosen[word == number].all()
            several += (word == number).sum() > 1
    assert several > 500


def test_tokens_of_a_word_are_shown_each_by_its_own_chance() -> None:
    masker = Masker(bert(), whole_words=True, share=0.9)
    ids, special = np.array([2, 10, 700, 701, 702, 703, 704, 705, 3]), np.array([True, *[False] * 7, True])
    shown = {tuple((masker.masked(ids, special, rng_of(1, 0, n))[0] == MASK).tolist()) for n in range(300)}
    assert len(shown) > 5


def test_word_that_would_exceed_the_number_is_passed_over() -> None:
    # One word of five tokens and two of one; two predictions: both small ones, always.
    ids = np.array([2, 10, 700, 701, 702, 703, 11, 12, 3])
    special = np.array([True, *[False] * 7, True])
    masker = Masker(bert(), whole_words=True, share=2 / 7 + 1e-9, most=2)
    for instance in range(100):
        _, labels = masker.masked(ids, special, rng_of(1, 0, instance))
        assert np.flatnonzero(labels != IGNORED).tolist() == [6, 7]


def test_words_are_chosen_alike_wherever_they_stand() -> None:
    masker = Masker(bert(), whole_words=True)
    ids, special = np.arange(5, 105), np.zeros(100, dtype=bool)
    counts = np.zeros(100)
    for instance in range(4000):
        counts += masker.masked(ids, special, rng_of(1, 0, instance))[1] != IGNORED
    assert (abs(counts / 4000 - 0.15) < 4.5 * (0.15 * 0.85 / 4000) ** 0.5).all()


def test_chinese_words_of_the_corpus_are_predicted_whole() -> None:
    characters = "使用语言模型来预测"
    vocab = {word: number for number, word in enumerate([*SPECIAL, *characters])}
    masker = Masker(BertTokenizer(vocab=vocab), whole_words=True, share=0.5)
    ids, special = np.arange(5, 14), np.zeros(9, dtype=bool)
    continues = np.array([0, 1, 0, 1, 0, 1, 0, 0, 1], dtype=bool)
    words = [{0, 1}, {2, 3}, {4, 5}, {6}, {7, 8}]
    alone = 0
    for instance in range(100):
        chosen = set(np.flatnonzero(masker.masked(ids, special, rng_of(1, 0, instance), continues=continues)[1] >= 0))
        assert all(word <= chosen or not word & chosen for word in words)
        plain = set(np.flatnonzero(masker.masked(ids, special, rng_of(1, 0, instance))[1] >= 0))
        alone += any(word & plain and not word <= plain for word in words)
    assert alone > 50


def test_tokenizer_without_a_mask_token_is_named() -> None:
    backend = Tokenizer(WordLevel({"a": 0}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="has no mask token, so nothing can be masked"):
        Masker(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_masking_has_its_recipe_as_defaults() -> None:
    assert (masking.SHARE, masking.MASK_SHARE, masking.RANDOM_SHARE) == (0.15, 0.8, 0.1)
