"""demo/reviews: sizes, balance, and nothing that stands in two places."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from bertkit.catalog import find_task
from bertkit.data import Dataset, sources

LEAST = {"train": 800, "validation": 200, "test": 200}


@pytest.fixture(scope="module")
def reviews() -> Dataset:
    return sources.load(find_task("demo/reviews"))


def texts(reviews: Dataset, split: str) -> list[str]:
    return [example["text"] for example in reviews.splits[split].examples]


def grams(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def near_pairs(places: list[tuple[str, str]], threshold: float = 0.5) -> list[tuple[str, str]]:
    """Return the texts of different splits whose word-3-gram Jaccard is over ``threshold``, found by shared 3-grams."""
    sets = [grams(text) for _, text in places]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(sets):
        for gram in found:
            holders[gram].append(index)
    shared = Counter((a, b) for rows in holders.values() for i, a in enumerate(rows) for b in rows[i + 1 :])
    return [
        (places[a][1], places[b][1])
        for (a, b), both in shared.items()
        if places[a][0] != places[b][0] and both / len(sets[a] | sets[b]) > threshold
    ]


def test_splits_are_large_enough(reviews: Dataset) -> None:
    assert reviews.splits.keys() == LEAST.keys()
    for split, least in LEAST.items():
        assert len(reviews.splits[split].examples) >= least
    assert sum(len(split.examples) for split in reviews.splits.values()) >= 1200


@pytest.mark.parametrize("split", LEAST)
def test_labels_are_balanced(reviews: Dataset, split: str) -> None:
    labels = Counter(example["label"] for example in reviews.splits[split].examples)
    assert labels.keys() == {"negative", "positive"}
    assert all(0.45 <= count / labels.total() <= 0.55 for count in labels.values())


@pytest.mark.parametrize("split", LEAST)
def test_texts_are_clean(reviews: Dataset, split: str) -> None:
    assert [text for text in texts(reviews, split) if not text or text != text.strip() or "\n" in text] == []


def test_no_text_stands_twice(reviews: Dataset) -> None:
    counts = Counter(" ".join(text.lower().split()) for split in LEAST for text in texts(reviews, split))
    assert [text for text, count in counts.items() if count > 1] == []


def test_no_text_is_nearly_that_of_another_split(reviews: Dataset) -> None:
    places = [(split, text) for split in LEAST for text in texts(reviews, split)]
    assert near_pairs(places) == []


def test_near_pairs_are_found() -> None:
    one = "the kettle broke within a week of being bought"
    places = [("train", one), ("test", one.replace("bought", "used")), ("train", one + "!"), ("test", "a b c d")]
    assert near_pairs(places) == [(one, places[1][1]), (places[1][1], one + "!")]


def test_unseen_rows_are_in_no_split(reviews: Dataset) -> None:
    folder = Path(str(find_task("demo/reviews").file)).with_suffix("")
    known = {text for split in LEAST for text in texts(reviews, split)}
    unseen = sources.only(sources.load(find_task("demo/reviews"), data=folder / "unseen.jsonl")).examples
    assert unseen
    assert not {example["text"] for example in unseen} & known


def test_licence_is_cc0() -> None:
    task = find_task("demo/reviews")
    assert task.license == "CC0-1.0"
    assert "CC0" in (Path(str(task.file)).with_suffix("") / "README.md").read_text()
