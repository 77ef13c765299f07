"""Instances of pre-training: what each objective promises, counted."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import RobertaProcessing
from transformers import BertTokenizer, PreTrainedTokenizerFast

from bertkit.data import pairs
from bertkit.data.corpus import Corpus
from bertkit.errors import ConfigError, DataError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]


def bert() -> Any:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


def roberta() -> Any:
    backend = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "<unk>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", unk_token="<unk>")


def corpus_of(documents: list[list[int]], *, chosen: list[int] | None = None) -> Corpus:
    """Return a corpus of documents, each the lengths of its sentences; token number n has id n."""
    sizes = [size for sentences in documents for size in sentences]
    sentence_starts = np.array([0, *accumulate(sizes)], dtype=np.int64)
    return Corpus(
        ids=np.arange(sentence_starts[-1], dtype=np.uint32),
        sentence_starts=sentence_starts,
        document_starts=np.array([0, *accumulate(map(len, documents))], dtype=np.int64),
        documents=np.arange(len(documents)) if chosen is None else np.array(chosen),
        hash="x",
    )


def many(number: int = 300, *, seed: int = 0, longest: int = 60) -> Corpus:
    rng = Random(seed)
    return corpus_of([[rng.randint(1, longest) for _ in range(rng.randint(2, 80))] for _ in range(number)])


def document_of(corpus: Corpus, tokens: np.ndarray) -> np.ndarray:
    bounds = corpus.sentence_starts[corpus.document_starts]
    return np.searchsorted(bounds, tokens, side="right") - 1


def within(count: int, of: int, share: float) -> bool:
    """Say whether a count is within 4 standard errors of its share."""
    return abs(count / of - share) <= 4 * (share * (1 - share) / of) ** 0.5


def made(corpus: Corpus, objective: str, **options: Any) -> pairs.Instances:
    options = {"max_length": 64, "seed": 7} | options
    return pairs.instances(corpus, bert(), objective=objective, **options)  # type: ignore[arg-type]


# --- segments --------------------------------------------------------------------------------------------------------


def test_segments_hold_each_token_once_and_no_two_documents() -> None:
    corpus = many(40)
    ranges = made(corpus, "none").ranges
    assert np.concatenate([corpus.ids[a:b] for a, b, _, _ in ranges]).tolist() == list(range(len(corpus.ids)))
    assert (document_of(corpus, ranges[:, 0]) == document_of(corpus, ranges[:, 1] - 1)).all()


def test_segments_are_full_but_for_short_ones_and_ends_of_documents() -> None:
    corpus = many(40)
    found = made(corpus, "none", short_share=0.0)
    ends = corpus.sentence_starts[corpus.document_starts]
    full = found.lengths == 64
    assert (full | np.isin(found.ranges[:, 1], ends)).all()
    assert found.num_short == 0


def test_short_instances_are_a_tenth_and_of_every_length() -> None:
    corpus = corpus_of([[50] * 12000])
    found = made(corpus, "none", max_length=34)
    assert within(found.num_short, len(found), 0.1)
    short = found.lengths[found.lengths < 34] - 2
    assert set(short.tolist()) == set(range(2, 32))
    # Evenly from 2 to 32: mean 17, standard deviation sqrt((31^2 - 1) / 12) (32 is a full one and not counted).
    assert abs(short.mean() - 16.5) < 4 * ((30**2 - 1) / 12 / len(short)) ** 0.5
    assert not within(made(corpus, "none", max_length=34, short_share=0.11).num_short, len(found), 0.1)


# --- next sentences --------------------------------------------------------------------------------------------------


def test_next_sentences_are_half_true_and_half_of_another_document() -> None:
    corpus = many(2000)
    found = made(corpus, "nsp")
    assert len(found) > 40_000
    assert within(int((found.labels == 0).sum()), len(found), 0.5)
    assert within(found.num_short, len(found), 0.1)
    a, b = document_of(corpus, found.ranges[:, 0]), document_of(corpus, found.ranges[:, 2])
    assert ((a == b) == (found.labels == 0)).all()
    follows = found.ranges[:, 2] >= found.ranges[:, 1]
    assert follows[found.labels == 0].all()


def test_next_sentences_hold_half_where_many_have_no_next() -> None:
    found = made(corpus_of([[30], [20, 30, 10, 20], [5, 7, 9]] * 4000), "nsp", short_share=0.0)
    assert within(int((found.labels == 0).sum()), len(found), 0.5)


def test_next_sentence_goes_back_what_a_random_one_took_the_place_of() -> None:
    # Ten sentences of two tokens fill a row, so nothing is cut, and each token is A or a true B exactly once.
    corpus = corpus_of([[2] * 300] * 5)
    found = made(corpus, "nsp", max_length=23, short_share=0.0)
    used = np.zeros(len(corpus.ids), dtype=int)
    for (a, b, c, d), label in zip(found.ranges, found.labels, strict=True):
        used[a:b] += 1
        used[c:d] += label == 0
    assert (used == 1).all()


def test_next_sentences_fit_and_fill_the_length() -> None:
    found = made(many(200), "nsp", short_share=0.0)
    assert found.lengths.max() == 64
    assert (found.lengths == 64).mean() > 0.9
    assert ((found.ranges[:, 1] > found.ranges[:, 0]) & (found.ranges[:, 3] > found.ranges[:, 2])).all()


def test_next_sentences_take_only_documents_that_are_meant() -> None:
    corpus = corpus_of([[9] * 30] * 6, chosen=[1, 2, 4])
    found = made(corpus, "nsp")
    assert set(document_of(corpus, found.ranges[:, [0, 2]]).ravel().tolist()) == {1, 2, 4}


def test_next_sentences_begin_anywhere_in_the_other_document() -> None:
    corpus = corpus_of([[4] * 20] * 200)
    found = made(corpus, "nsp", short_share=0.0, max_length=500)
    begins = found.ranges[found.labels == 1][:, 2] % 80
    assert len(set((begins // 4).tolist())) == 20


def test_next_sentences_of_one_document_are_refused() -> None:
    with pytest.raises(DataError, match=r"one document, and next-sentence prediction takes .* from another"):
        made(corpus_of([[3, 4, 5]]), "nsp")


@pytest.mark.parametrize("objective", ["nsp", "sop"])
def test_pairs_of_single_sentences_are_refused(objective: str) -> None:
    with pytest.raises(DataError, match=r"No document of the corpus has two sentences.*take --objective mlm"):
        made(corpus_of([[3], [4], [5]]), objective)


# --- sentence orders -------------------------------------------------------------------------------------------------


def test_sentence_orders_are_swapped_half_the_time() -> None:
    corpus = many(2000)
    found = made(corpus, "sop")
    assert within(int((found.labels == 1).sum()), len(found), 0.5)
    assert within(found.num_short, len(found), 0.1)
    assert (document_of(corpus, found.ranges[:, 0]) == document_of(corpus, found.ranges[:, 2])).all()
    behind = found.ranges[:, 0] > found.ranges[:, 2]
    assert (behind == (found.labels == 1)).all()


def test_sentence_orders_take_a_last_sentence_with_the_one_before() -> None:
    found = made(corpus_of([[20, 50, 7]]), "sop", short_share=0.0)
    spans = sorted({(int(row.min()), int(row.max())) for row in found.ranges})
    assert spans[-1][1] == 77
    assert len(found) == 2


def test_sentence_orders_leave_out_and_count_documents_of_one_sentence() -> None:
    found = made(corpus_of([[5], [5, 6], [9]]), "sop")
    assert found.num_left_out == 2
    assert len(found) == 1


# --- truncation ------------------------------------------------------------------------------------------------------


@given(some.integers(1, 80), some.integers(1, 80), some.integers(2, 60))
def test_truncation_keeps_what_cutting_the_longer_one_by_one_keeps(first: int, second: int, room: int) -> None:
    a, b = first, second
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    assert pairs._kept(first, second, room) == (a, b)


def test_truncation_cuts_front_and_back_alike() -> None:
    corpus = corpus_of([[100, 100]] * 4000)
    found = made(corpus, "sop", short_share=0.0)
    front = found.ranges[:, 0] % 100
    cut = 100 - (found.ranges[:, 1] - found.ranges[:, 0])
    assert within(int(front.sum()), int(cut.sum()), 0.5)
    assert 0 < front.min() < front.max() < cut.max()


# --- rows ------------------------------------------------------------------------------------------------------------


def test_instance_has_special_tokens_types_and_label_of_a_pair() -> None:
    corpus = corpus_of([[3, 4]])
    found = made(corpus, "sop", short_share=0.0)
    row = found[0]
    a, b = ([0, 1, 2], [3, 4, 5, 6]) if row.label == 0 else ([3, 4, 5, 6], [0, 1, 2])
    assert row.ids.tolist() == [2, *a, 3, *b, 3]
    assert row.token_type_ids.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert row.special.tolist() == [True, *[False] * len(a), True, *[False] * len(b), True]
    assert found.lengths.tolist() == [len(row.ids)] == [10]
    assert row.ids.dtype == row.token_type_ids.dtype == np.int64
    assert row.continues is None


def test_instance_of_one_segment_has_no_second() -> None:
    row = made(corpus_of([[3]]), "none", short_share=0.0)[0]
    assert row.ids.tolist() == [2, 0, 1, 2, 3]
    assert row.token_type_ids.tolist() == [0] * 5
    assert row.label == -1


def test_instance_follows_the_template_of_the_tokenizer() -> None:
    found = pairs.instances(
        corpus_of([[3, 4]]), roberta(), max_length=64, objective="sop", short_share=0.0, seed=1, epoch=0
    )
    row = found[0]
    assert found.template.num_special == 4
    assert row.ids[row.special].tolist() == [0, 1, 1, 1]
    assert set(row.token_type_ids.tolist()) == {0}


def test_instance_knows_which_tokens_go_on_with_a_word() -> None:
    corpus = corpus_of([[3, 2]])
    object.__setattr__(corpus, "continues", np.array([0, 1, 1, 0, 1], dtype=np.uint8))
    row = made(corpus, "none", short_share=0.0)[0]
    assert row.continues is not None
    assert row.continues.tolist() == [False, False, True, True, False, True, False]


# --- choices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["none", "nsp", "sop"])
def test_instances_depend_on_seed_and_epoch_alone(objective: str) -> None:
    corpus = many(60)
    first = made(corpus, objective)
    again = made(corpus, objective)
    assert np.array_equal(first.ranges, again.ranges)
    assert np.array_equal(first.labels, again.labels)
    for other in (made(corpus, objective, epoch=1), made(corpus, objective, seed=8)):
        assert len(other) != len(first) or not np.array_equal(first.ranges, other.ranges)


@pytest.mark.parametrize("number", [1, 100, 5000])
def test_number_of_instances_can_be_given(number: int) -> None:
    corpus = many(60)
    free, bound = made(corpus, "nsp"), made(corpus, "nsp", number=number)
    assert len(bound) == len(bound.lengths) == len(bound.labels) == number
    known = {tuple(row) for row in free.ranges.tolist()}
    assert {tuple(row) for row in bound.ranges.tolist()} <= known
    if number > len(free):
        assert {tuple(row) for row in bound.ranges.tolist()} == known


def test_number_keeps_labels_and_lengths_beside_their_ranges() -> None:
    corpus = many(60)
    bound = made(corpus, "nsp", number=200)
    spans = bound.ranges[:, 1] - bound.ranges[:, 0] + bound.ranges[:, 3] - bound.ranges[:, 2]
    assert (bound.lengths == spans + 3).all()
    same = document_of(corpus, bound.ranges[:, 0]) == document_of(corpus, bound.ranges[:, 2])
    assert (same == (bound.labels == 0)).all()


def test_length_without_room_for_text_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"max_length = 4 leaves 1 tokens for text beside 3 special ones: give at l.*5"
    ):
        made(many(3), "nsp", max_length=4)


def test_tokenizer_without_separator_is_refused_for_pairs() -> None:
    backend = Tokenizer(WordLevel({"a": 0, "b": 1}))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ConfigError, match="puts no special token between two segments"):
        pairs.instances(many(3), plain, max_length=20, objective="sop")
