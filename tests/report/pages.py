"""Invented evaluations for tests of the page: small, without a model, and with texts that try to be HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bertkit.metrics import spans
from bertkit.report import Compared, Evaluation, Suite
from bertkit.report.parts import Link, Table

EVIL = '<script>window.ran = 1</script><img src="https://example.org/x.png" onerror="window.ran = 2">"\'&'
"""What must be shown and never run, nor asked for."""
TEXTS = [EVIL, "cost $5 and $6", "中文 and עברית", "good", "a\x07b\u202ec", "bad", "fine & <b>bold</b>", "dull"]
FACTS = {"model": "run-001", "data": EVIL}


def events(metric: str) -> list[dict[str, Any]]:
    """Return the events of a training of 40 steps with four evaluations, of which the third is the best."""
    steps = [{"event": "step", "step": n + 1, "loss": 1 / (n + 1)} for n in range(40)]
    values = ((10, 0.5, True), (20, 0.6, True), (30, 0.7, True), (40, 0.65, False))
    return steps + [
        {"event": "scores", "step": step, "metric": metric, "scores": {metric: value}, "best": best}
        for step, value, best in values
    ]


def constant(scores: Mapping[str, Any]) -> Callable[[Any], Mapping[str, Any]]:
    """Return a scorer of any rows."""
    return lambda rows: scores


def evaluation(outcomes: Mapping[str, Any], scores: Mapping[str, Any], **more: Any) -> Evaluation:
    """Return what the page of some outcomes is made of."""
    metric = next(iter(scores))
    given: dict[str, Any] = {
        "title": f"demo {EVIL}: validation",
        "facts": FACTS,
        "scores": scores,
        "metric": metric,
        "outcomes": outcomes,
        "score": constant(scores),
        "events": events(metric),
    }
    return Evaluation(**given | more)


def classes(number: int = 16, *, labels: tuple[str, ...] = ("negative", "positive", EVIL)) -> dict[str, Any]:
    """Return one label a row: every fourth row is wrong, the first of them with the greatest confidence."""
    count = len(labels)
    gold = np.arange(number) % count
    predicted = np.where(np.arange(number) % 4 == 0, (gold + 1) % count, gold)
    sure = np.linspace(0.99, 0.6, number)
    probabilities = np.full((number, count), 0.0) + ((1 - sure) / (count - 1))[:, None]
    probabilities[np.arange(number), predicted] = sure
    texts = [(TEXTS[n % len(TEXTS)],) for n in range(number)]
    return {
        "form": "classes",
        "labels": labels,
        "gold": gold,
        "predicted": predicted,
        "probabilities": probabilities,
        "texts": texts,
    }


def several() -> dict[str, Any]:
    """Return several labels a row."""
    gold = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    probabilities = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.1], [0.3, 0.97, 0.1], [0.9, 0.9, 0.9]])
    texts = [(text,) for text in TEXTS[:4]]
    return {
        "form": "labels",
        "labels": ("toxic", EVIL, "threat"),
        "gold": gold,
        "predicted": (probabilities >= 0.5).astype(int),
        "probabilities": probabilities,
        "texts": texts,
    }


def numbers() -> dict[str, Any]:
    """Return a number a row."""
    gold = np.arange(8) / 2
    texts = [(text, EVIL) for text in TEXTS]
    return {"form": "numbers", "gold": gold, "predicted": gold + np.array([0, 0, 2, 0, 0, 0, -1, 0]), "texts": texts}


def tags() -> dict[str, Any]:
    """Return sentences with entities: one wrong type, one wrong end, one missed, one invented, one right."""
    gold = [["B-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"], ["O", "B-LOC", "O"], ["O", "O", "O"], ["B-LOC", "O", "O"]]
    given = [["B-LOC", "I-LOC", "O"], ["B-PER", "O", "O"], ["O", "O", "O"], ["O", "O", "B-PER"], ["B-LOC", "O", "O"]]
    return {
        "form": "tags",
        "labels": ("O", "B-LOC", "B-PER", "I-LOC", "I-PER"),
        "scheme": "IOB2",
        "mode": "conlleval",
        "gold": gold,
        "tags": given,
        "words": [["Ann", "Lee", EVIL]] * 5,
        "scores": [[0.9], [0.8], [], [0.95], [0.7]],
    }


def questions() -> dict[str, Any]:
    """Return questions, of which each fourth has no answer."""
    references = [[] if n % 4 == 3 else ["the red house"] if n % 4 else ["five"] for n in range(16)]
    answers = [
        "" if n in (3, 5) else "a blue tool" if n in (1, 7) else (r or [""])[0] for n, r in enumerate(references)
    ]
    asked = ("How many are there?", "What is it?", f"In which place is {EVIL}?", "Is it so?")
    return {
        "form": "spans",
        "questions": [asked[n % 4] for n in range(16)],
        "contexts": [f"the red house has five doors {EVIL}"] * 16,
        "references": references,
        "answers": answers,
        "starts": [0] * 16,
        "scores": np.linspace(0.5, 0.95, 16).tolist(),
        "raw": spans.raw(answers, references, rules="squad_v2"),
        "sizes": [len(each[0].split()) if each else 0 for each in references],
    }


EVERY: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "classes": (classes, "accuracy"),
    "labels": (several, "f1_micro"),
    "numbers": (numbers, "pearson"),
    "tags": (tags, "f1"),
    "spans": (questions, "f1"),
}
"""Form -> outcomes and metric."""


def of_form(form: str) -> Evaluation:
    """Return the evaluation of a form with everything that a page may have."""
    make, metric = EVERY[form]
    outcomes = make()
    number = len(next(outcomes[key] for key in ("gold", "answers") if key in outcomes))
    scores = {metric: 0.75, f"{metric}_interval": [0.6, 0.9]}
    return evaluation(
        outcomes,
        scores,
        baselines={"majority": {metric: 0.5}, EVIL: {}},
        remarks=[EVIL],
        lengths=list(range(number)),
        kept=["cut" if n % 3 else "whole" for n in range(number)],
    )


def suite() -> Suite:
    """Return the suite of two tasks, one of which is scored in percent."""
    rows = [["glue/rte", "accuracy", 0.6, 0.01], [EVIL, "f1", 70.0, 1.0]]
    return Suite(
        title="glue",
        facts=FACTS,
        remarks=[EVIL],
        scores=Table(columns=["task", "metric", "mean", "deviation"], rows=rows, lead=2),
        runs=Table(columns=["task", "run"], rows=[["glue/rte", Link(text=EVIL, href="rte/report.html")]]),
        notes=[EVIL],
        compared=[
            Compared(name="glue/rte accuracy", values=[0.59, 0.61], baseline=0.5, published=0.66),
            Compared(name=f"{EVIL} f1", values=[69.0, 71.0]),
        ],
        curves={"glue/rte": {f"seed {n}": events("accuracy") for n in (1, 2)}, EVIL: {"seed 1": []}},
    )
