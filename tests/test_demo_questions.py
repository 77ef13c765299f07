"""demo/questions: sizes, answers that stand where they are said to, and nothing that stands in two places."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bertkit.catalog import find_task

FOLDER = Path(str(find_task("demo/reviews").file)).parent / "questions"
LEAST = {"train": 200, "validation": 50, "test": 50}


@cache
def articles(split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{split}.json").read_text("utf-8"))["data"]
    return found


def paragraphs(split: str) -> list[dict[str, Any]]:
    return [paragraph for article in articles(split) for paragraph in article["paragraphs"]]


def questions(split: str) -> list[dict[str, Any]]:
    return [question for paragraph in paragraphs(split) for question in paragraph["qas"]]


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def misplaced(context: str, answer: dict[str, Any]) -> bool:
    """Say whether an answer is not whole words of the context at its ``answer_start``."""
    start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    around = context[max(start - 1, 0) : start] + context[end : end + 1]
    return context[start:end] != answer["text"] or any(character.isalnum() for character in around)


def test_splits_are_large_enough() -> None:
    for split, least in LEAST.items():
        assert len(questions(split)) >= least
    assert sum(len(questions(split)) for split in LEAST) >= 300
    assert sum(len(paragraphs(split)) for split in LEAST) >= 66


@pytest.mark.parametrize("split", LEAST)
def test_a_fifth_has_no_answer(split: str) -> None:
    impossible = [question["is_impossible"] for question in questions(split)]
    assert 0.17 <= sum(impossible) / len(impossible) <= 0.23


@pytest.mark.parametrize("split", LEAST)
def test_impossible_is_said_of_the_questions_without_answers(split: str) -> None:
    assert [found["id"] for found in questions(split) if found["is_impossible"] == bool(found["answers"])] == []


@pytest.mark.parametrize("split", LEAST)
def test_answers_stand_where_they_are_said_to(split: str) -> None:
    wrong = [
        (question["id"], answer)
        for paragraph in paragraphs(split)
        for question in paragraph["qas"]
        for answer in question["answers"]
        if misplaced(paragraph["context"], answer)
    ]
    assert wrong == []


@pytest.mark.parametrize(("text", "start"), [("boat", 5), ("oat", 6), ("boa", 5), ("boat", 4)])
def test_misplaced_answers_are_found(text: str, start: int) -> None:
    assert misplaced("Lots: boats, a boat.", {"text": text, "answer_start": start})
    assert not misplaced("Lots: boats, a boat.", {"text": "boat", "answer_start": 15})


@pytest.mark.parametrize("split", LEAST)
def test_answers_are_short_and_distinct(split: str) -> None:
    for question in questions(split):
        texts = [answer["text"] for answer in question["answers"]]
        assert len(texts) == len(set(texts)) <= 2, question["id"]
        assert all(1 <= len(text.split()) <= 8 for text in texts), question["id"]


@pytest.mark.parametrize("split", LEAST)
def test_paragraphs_are_clean(split: str) -> None:
    for context in (paragraph["context"] for paragraph in paragraphs(split)):
        assert context == " ".join(context.split())
        assert 60 <= len(context.split()) <= 140, context


def test_ids_are_unique() -> None:
    counts = Counter(question["id"] for split in LEAST for question in questions(split))
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_title_stands_twice() -> None:
    counts = Counter(plain(article["title"]) for split in LEAST for article in articles(split))
    assert [title for title, count in counts.items() if count > 1] == []


def test_no_paragraph_stands_twice() -> None:
    counts = Counter(plain(paragraph["context"]) for split in LEAST for paragraph in paragraphs(split))
    assert [context for context, count in counts.items() if count > 1] == []


def test_no_question_is_asked_twice_of_a_paragraph() -> None:
    for split in LEAST:
        for paragraph in paragraphs(split):
            asked = Counter(plain(question["question"]) for question in paragraph["qas"])
            assert max(asked.values()) == 1, asked


def test_unseen_rows_are_in_no_split() -> None:
    rows = [json.loads(line) for line in (FOLDER / "unseen.jsonl").read_text("utf-8").splitlines()]
    known = {plain(paragraph["context"]) for split in LEAST for paragraph in paragraphs(split)}
    assert len(rows) == 6
    assert all(row.keys() == {"question", "context"} for row in rows)
    assert not {plain(row["context"]) for row in rows} & known


def test_licence_is_cc0() -> None:
    assert "CC0 1.0" in (FOLDER / "README.md").read_text("utf-8")
