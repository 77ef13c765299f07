"""Texts that are nearly the same: the pairs that comparing all with all finds, and no others."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from bertkit.data import similar
from bertkit.data.similar import THRESHOLD, alike, jaccard, normal

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sentences(number: int, *, words: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join("".join(rng.choices(LETTERS, k=rng.randint(2, 8))) for _ in range(words)) for _ in range(number)]


def changed(text: str, number: int, seed: int) -> str:
    """Return a text with some words replaced."""
    rng, words = random.Random(seed), text.split()
    for place in rng.sample(range(len(words)), number):
        words[place] = "another"
    return " ".join(words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A  fine,\tfilm!", "a fine film"),
        ("it's", "it s"),
        ("ＦＵＬＬ width", "full width"),
        ("我去。", "我 去"),
        ("C++ 😀", "c + + 😀"),
        ("...", "..."),
        ("", ""),
        ("की कि", "की कि"),
    ],
)
def test_normal_form_keeps_the_words_alone(text: str, expected: str) -> None:
    assert normal(text) == expected


def test_similarity_is_shared_shingles_over_all() -> None:
    # " abcd " and " abcx " have three shingles each, of which " abc" is in both.
    assert jaccard("abcd", "abcx") == pytest.approx(1 / 5)
    assert jaccard("abcd", "abcd") == 1
    assert jaccard("abcd", "efgh") == 0


def test_repeated_words_are_counted() -> None:
    assert jaccard("no no no no", "no no") < THRESHOLD
    assert alike(["no no no no", "no no", "no"]) == []


@pytest.mark.slow
def test_pairs_are_those_of_comparing_all() -> None:
    texts = sentences(60, words=25)
    texts += [changed(text, 1 + index % 4, index) for index, text in enumerate(texts)]
    texts = list(dict.fromkeys(texts))
    expected = {
        (one, other): jaccard(texts[one], texts[other])
        for one, other in combinations(range(len(texts)), 2)
        if jaccard(texts[one], texts[other]) >= THRESHOLD
    }
    assert len(expected) >= 20
    found = {(pair.first, pair.second): pair.similarity for pair in alike(texts)}
    assert found == expected


def test_one_word_of_a_long_text_makes_a_near_duplicate_and_of_a_short_one_does_not() -> None:
    (long,) = sentences(1, words=30)
    assert [pair.similarity > THRESHOLD for pair in alike([long, changed(long, 1, 0)])] == [True]
    assert alike(["the film was good", "the film was bad", "good", "goods", "a", "b", "ok", "no"]) == []


def test_one_character_of_a_chinese_sentence_makes_a_near_duplicate() -> None:
    text = "今天新入手的耳机我和我的小伙伴们都觉得好棒"
    assert len(alike([normal(text), normal(text.replace("棒", "好"))])) == 1
    assert alike([normal("今天很好"), normal("明天很好")]) == []


@pytest.mark.slow
def test_many_texts_that_are_alike_are_found_each_and_not_compared_with_all() -> None:
    (middle,) = sentences(1, words=40)
    texts = [f"{middle} {number}" for number in range(600)]
    found = alike(texts)
    assert {pair.second for pair in found} == set(range(1, 600))
    assert len(found) < 600 * 599 / 4
    assert all(pair.first < pair.second and pair.similarity >= THRESHOLD for pair in found)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(40, words=20)
    texts += [changed(text, 1, 0) for text in texts]
    whole = alike(texts)
    monkeypatch.setattr(similar, "CHUNK", 100)
    assert alike(texts) == whole
    assert whole


def test_fewer_than_two_texts_have_no_pairs() -> None:
    assert alike([]) == alike(["one"]) == []


def test_lone_surrogates_are_compared_like_any_character() -> None:
    assert jaccard("a \ud800 text of some length", "a \ud800 text of some length") == 1
