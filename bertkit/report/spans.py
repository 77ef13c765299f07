"""What a report shows of span question answering: by question word, by answer length, with and without an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bertkit.metrics.classification import Array
from bertkit.report.classes import calibration, errors
from bertkit.report.groups import LEAST, Group, drawn, named_groups, quantile_groups, table
from bertkit.report.parts import ERRORS, Case, Section, Table, cut, share

QUESTION_WORDS = (*("how many", "how much", "who", "whom", "whose", "what", "which", "when", "where", "why", "how"),)
"""What a question asks for, by the first of these words in it; ``how many`` before ``how``."""
OTHER = "other"
AROUND = 120
"""Characters of the context that are shown on either side of an answer."""
_WORD = re.compile(rf"\b({'|'.join(QUESTION_WORDS)})\b", re.IGNORECASE)


def question_word(question: str) -> str:
    """Return the first English question word, ``other`` where there is none."""
    found = _WORD.search(question)
    return found[1].lower() if found else OTHER


def answer_kinds(references: Sequence[Sequence[str]], answers: Sequence[str]) -> dict[str, int]:
    """Return how many questions were answered or not, with and without a true answer."""
    kinds = {"answered": 0, "refused": 0, "answered without an answer": 0, "rightly refused": 0}
    for accepted, answer in zip(references, answers, strict=True):
        name = ("answered" if answer else "refused") if accepted else ""
        kinds[name or ("answered without an answer" if answer else "rightly refused")] += 1
    return kinds


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections of questions.

    Args:
        found: ``questions`` and ``contexts`` (texts), ``references`` (accepted answers of each, none where there is
            no answer), ``answers`` (given), ``starts`` (of the given answers in their contexts), ``scores``
            (their probability), ``raw`` (exact match and F1 ``(n, 2)``, 0..1) and ``sizes`` (words of the first
            accepted answer).
    """
    raw, references = np.asarray(found["raw"]), found["references"]
    has = np.array([bool(each) for each in references])
    yield from _answerable(found, raw, has)
    by_word = named_groups([question_word(each) for each in found["questions"]])
    if len(by_word) > 1:
        yield _grouped("Scores by question word", "By the first question word, in English.", "question", by_word, raw)
    places = np.flatnonzero(has)
    sizes = np.asarray(found["sizes"])[places]
    by_size = [Group(name=each.name, rows=places[each.rows]) for each in quantile_groups(sizes)]
    if len(by_size) > 1:
        yield _grouped("Scores by answer length", "Words of the first accepted answer.", "words", by_size, raw)
    yield calibration(found["scores"], raw[:, 0], labels=("confidence", "exact match"), what="answers")
    yield _errors(found, raw)


def _answerable(found: Mapping[str, Any], raw: Array, has: Array) -> Iterator[Section]:
    if has.all() or not has.any():
        return
    kinds = answer_kinds(found["references"], found["answers"])
    groups = [Group(name=name, rows=np.flatnonzero(has == wanted)) for name, wanted in (("yes", True), ("no", False))]
    yield Section(
        title="Answerable or not",
        text="Questions that have an answer, and those that have none, where only saying nothing is right.",
        tables=[
            table([(group, _means(raw, group)) for group in groups], "has an answer"),
            Table(
                columns=["", "has an answer", "has none"],
                rows=[
                    ["answered", kinds["answered"], kinds["answered without an answer"]],
                    ["not answered", kinds["refused"], kinds["rightly refused"]],
                ],
            ),
        ],
    )


def _means(raw: Array, group: Group) -> dict[str, Any]:
    exact, f1 = 100 * raw[group.rows].mean(axis=0)
    means = {"exact_match": float(exact), "f1": float(f1)}
    if len(group.rows) < LEAST:
        return means
    spread = 196 * raw[group.rows, 1].std() / np.sqrt(len(group.rows))
    return means | {"f1_interval": [max(0.0, float(f1 - spread)), min(100.0, float(f1 + spread))]}


def _grouped(title: str, text: str, unit: str, groups: Sequence[Group], raw: Array) -> Section:
    found = [(group, _means(raw, group)) for group in groups]
    text += f" The bars are 95 % intervals of F1 (normal approximation), from {LEAST} questions on."
    return Section(
        title=title,
        text=text,
        plots=drawn(found, "f1", unit, float(100 * raw[:, 1].mean())),
        tables=[table(found, unit)],
    )


def _errors(found: Mapping[str, Any], raw: Array) -> Section:
    wrong = np.flatnonzero(raw[:, 0] == 0)
    order = wrong[np.argsort(-np.asarray(found["scores"])[wrong], kind="stable")]
    return errors([_case(int(row), found, raw) for row in order[:ERRORS]], len(wrong))


def _case(row: int, found: Mapping[str, Any], raw: Array) -> Case:
    answer, accepted = found["answers"][row], list(dict.fromkeys(found["references"][row]))
    facts = [
        ("true", " | ".join(cut(each, 120) for each in accepted[:4]) or "no answer"),
        ("predicted", cut(answer, 240) or "no answer"),
        ("F1", f"{100 * raw[row, 1]:.1f}"),
        ("confidence", share(float(found["scores"][row]))),
    ]
    context, start = found["contexts"][row], int(found["starts"][row])
    return Case(row=row + 1, facts=facts, texts=[cut(found["questions"][row]), _around(context, start, len(answer))])


def _around(context: str, start: int, length: int) -> str:
    """Return the part of a context around a piece of it."""
    low, high = max(0, start - AROUND), start + length + AROUND
    return f"{'…' if low else ''}{cut(context[low:high])}{'…' if high < len(context) else ''}"
