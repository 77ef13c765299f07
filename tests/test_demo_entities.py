"""demo/entities: sizes, legal IOB2, four types, and names that the training sentences do not give away."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "tasks" / "demo" / "entities"
LEAST = {"train": 280, "validation": 70, "test": 90}
TYPES = {"person", "place", "organization", "product"}

Sentence = list[tuple[str, str]]


@cache
def sentences(split: str) -> list[Sentence]:
    """Return (token, tag) pairs, read without bertkit's reader: the file itself is under test here."""
    blocks = (FOLDER / f"{split}.conll").read_text(encoding="utf-8").removesuffix("\n\n").split("\n\n")
    return [[tuple(line.split("\t")) for line in block.split("\n")] for block in blocks]  # type: ignore[misc]


def plain(sentence: Sentence) -> str:
    return " ".join(token for token, _ in sentence).lower()


def illegal(sentence: Sentence) -> list[str]:
    """Return the tags that IOB2 does not allow where they stand, and those that are no tag at all."""
    tags = [tag for _, tag in sentence]
    wrong = []
    for before, tag in zip(["O", *tags], tags, strict=False):
        prefix, _, kind = tag.partition("-")
        known = tag == "O" or (prefix in {"B", "I"} and kind in TYPES)
        if not known or (prefix == "I" and before not in {f"B-{kind}", tag}):
            wrong.append(tag)
    return wrong


def mentions(sentence: Sentence) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for token, tag in sentence:
        if tag.startswith("B-"):
            found.append((token.lower(), tag[2:]))
        elif tag.startswith("I-"):
            found[-1] = (f"{found[-1][0]} {token.lower()}", tag[2:])
    return found


def split_mentions(split: str) -> list[tuple[str, str]]:
    return [mention for sentence in sentences(split) for mention in mentions(sentence)]


def test_splits_are_large_enough() -> None:
    for split, least in LEAST.items():
        assert len(sentences(split)) >= least
    assert sum(len(sentences(split)) for split in LEAST) >= 440


@pytest.mark.parametrize("split", LEAST)
def test_lines_are_a_token_and_a_tag(split: str) -> None:
    lines = [pair for sentence in sentences(split) for pair in sentence]
    assert [pair for pair in lines if len(pair) != 2 or not all(re.fullmatch(r"\S+", cell) for cell in pair)] == []


@pytest.mark.parametrize("split", LEAST)
def test_tags_are_legal_iob2(split: str) -> None:
    assert [plain(sentence) for sentence in sentences(split) if illegal(sentence)] == []


def test_illegal_tags_are_found() -> None:
    tags = ["I-person", "B-place", "I-person", "O", "I-place", "B-person", "I-person", "B-animal", "E-place"]
    assert illegal([("x", tag) for tag in tags]) == ["I-person", "I-person", "I-place", "B-animal", "E-place"]


@pytest.mark.parametrize("split", LEAST)
def test_every_type_is_common_enough(split: str) -> None:
    counts = Counter(kind for _, kind in split_mentions(split))
    assert counts.keys() == TYPES
    assert min(counts.values()) / counts.total() >= 0.15


@pytest.mark.parametrize("split", LEAST)
def test_sentences_are_of_natural_length(split: str) -> None:
    assert [plain(sentence) for sentence in sentences(split) if not 4 <= len(sentence) <= 35] == []


@pytest.mark.parametrize("split", LEAST)
def test_some_sentences_have_no_entity(split: str) -> None:
    empty = sum(not mentions(sentence) for sentence in sentences(split))
    assert 0.08 <= empty / len(sentences(split)) <= 0.2


def test_no_sentence_stands_twice() -> None:
    counts = Counter(plain(sentence) for split in LEAST for sentence in sentences(split))
    assert [sentence for sentence, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_most_names_are_not_in_train(split: str) -> None:
    known = {name for name, _ in split_mentions("train")}
    found = split_mentions(split)
    assert sum(name not in known for name, _ in found) / len(found) >= 0.7


def test_many_names_are_of_two_types() -> None:
    types: dict[str, set[str]] = {}
    for name, kind in (mention for split in LEAST for mention in split_mentions(split)):
        types.setdefault(name, set()).add(kind)
    assert sum(len(kinds) > 1 for kinds in types.values()) >= 40


def test_unseen_rows_are_in_no_split() -> None:
    rows = [json.loads(line) for line in (FOLDER / "unseen.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 10
    assert all(row.keys() == {"text"} and row["text"] == row["text"].strip() != "" for row in rows)
    known = {re.sub(r"\s", "", plain(sentence)) for split in LEAST for sentence in sentences(split)}
    assert not {re.sub(r"\s", "", row["text"].lower()) for row in rows} & known


def test_readme_gives_the_licence_and_the_counts() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    for split in LEAST:
        kinds = Counter(kind for _, kind in split_mentions(split))
        cells = [len(sentences(split)), sum(map(len, sentences(split))), kinds.total()]
        cells += [kinds[kind] for kind in ("person", "place", "organization", "product")]
        assert f"| `{split}.conll` | " + " | ".join(f"{cell:,}" for cell in cells) + " |" in text
