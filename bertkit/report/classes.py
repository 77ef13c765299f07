"""What a report shows of one label a row: confusion matrix, classes, calibration, and the errors it was surest of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bertkit.metrics.calibration import bins, decisions, expected_error
from bertkit.metrics.classification import Array
from bertkit.report import plots
from bertkit.report.parts import ERRORS, Case, Plot, Section, Table, cut, share

DRAWN = 20
"""Classes of the matrix that are drawn; of more, those with the most errors."""
PAIRS = 10
"""Pairs of classes that are most often confused."""


def confusion(gold: ArrayLike, predicted: ArrayLike, num_labels: int) -> Array:
    """Return how often each true class ``(rows)`` was given each label ``(columns)``: ``(K, K)`` int64.

    Args:
        gold: true ids ``(n,)``.
        predicted: given ids ``(n,)``.
        num_labels: K.
    """
    place = np.asarray(gold, dtype=np.int64) * num_labels + np.asarray(predicted, dtype=np.int64)
    return np.bincount(place, minlength=num_labels**2).reshape(num_labels, num_labels)


def by_class(counts: Array, labels: Sequence[str]) -> list[list[Any]]:
    """Return a row for each class: name, precision, recall, F1, how many are true, how many were predicted."""
    return per_label(np.diag(counts), counts.sum(axis=0), counts.sum(axis=1), labels)


def per_label(hits: Array, given: Array, true: Array, labels: Sequence[str]) -> list[list[Any]]:
    """Return name, precision, recall, F1, true and predicted for counts ``(K,)``; None where nothing is divided by."""
    return [
        [name, _ratio(hit, predicted), _ratio(hit, number), _ratio(2 * hit, predicted + number), number, predicted]
        for name, hit, predicted, number in zip(labels, *(each.tolist() for each in (hits, given, true)), strict=True)
    ]


def most_confused(counts: Array, labels: Sequence[str], most: int = PAIRS) -> list[tuple[str, str, int, float]]:
    """Return the pairs of classes that are most often confused: true, predicted, rows, their share of the true."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = ((int(place) // len(labels), int(place) % len(labels)) for place in order)
    totals = counts.sum(axis=1)
    return [
        (labels[row], labels[column], int(wrong[row, column]), float(wrong[row, column] / totals[row]))
        for row, column in pairs
        if wrong[row, column]
    ]


def surest_errors(gold: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, most: int = ERRORS) -> list[int]:
    """Return the rows that are wrong, the most confident first."""
    wrong = np.flatnonzero(np.asarray(gold) != np.asarray(predicted))
    order = np.argsort(-np.asarray(confidence)[wrong], kind="stable")
    return [int(row) for row in wrong[order[:most]]]


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections of one label a row.

    Args:
        found: ``labels`` (K names), ``gold`` and ``predicted`` (ids ``(n,)``), and, where they are known,
            ``probabilities`` ``(n, K)`` and ``texts`` (a tuple of texts a row).
    """
    labels, gold, predicted = found["labels"], np.asarray(found["gold"]), np.asarray(found["predicted"])
    yield _matrix(confusion(gold, predicted, len(labels)), labels)
    if found.get("probabilities") is None:
        return
    probabilities = np.asarray(found["probabilities"])
    yield calibration(*decisions(probabilities, gold), labels=("confidence", "accuracy"))
    confidence = probabilities[np.arange(len(gold)), predicted]
    rows = surest_errors(gold, predicted, confidence)
    yield errors([_case(row, found, confidence) for row in rows], int((gold != predicted).sum()))


def _case(row: int, found: Mapping[str, Any], confidence: Array) -> Case:
    labels, gold, predicted = found["labels"], int(found["gold"][row]), int(found["predicted"][row])
    facts = [("true", labels[gold]), ("predicted", labels[predicted]), ("confidence", share(float(confidence[row])))]
    return Case(row=row + 1, facts=facts, texts=[cut(text) for text in found["texts"][row]])


def _matrix(counts: Array, labels: Sequence[str]) -> Section:
    """Return the confusion matrix, and beside it each class and the pairs that are most often confused."""
    chosen = np.arange(len(labels))
    text = (
        "Each row of the matrix is a true class, shaded by the share that got each label. Precision: the share of what "
        "was given a label that has it. Recall: the share of what has a label that was given it. Empty where there is "
        "nothing to divide by."
    )
    if len(labels) > DRAWN:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:DRAWN])
        text += f" Drawn are the {DRAWN} of {len(labels)} classes with the most errors."
    drawn = counts[np.ix_(chosen, chosen)]
    pairs = most_confused(counts, labels)
    tables = [class_table(by_class(counts, labels), "class")]
    if pairs and len(labels) > 2:
        columns = ["true", "predicted as", "rows", "share of true"]
        tables.append(Table(columns=columns, rows=pairs, caption="Most often confused"))
    return Section(
        title="Confusion matrix and classes",
        text=text,
        plots=[Plot(svg=plots.matrix(drawn, [labels[k] for k in chosen.tolist()], name="confusion matrix"))],
        tables=tables,
    )


def class_table(rows: Sequence[Sequence[Any]], name: str) -> Table:
    """Return the table of :func:`per_label`'s rows."""
    return Table(columns=[name, "precision", "recall", "F1", "true", "predicted"], rows=rows)


def calibration(
    confidence: ArrayLike, correct: ArrayLike, *, labels: tuple[str, str], what: str = "predictions"
) -> Section:
    """Return the reliability diagram of confidences ``(n,)`` and whether each is right ``(n,)``."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    error, found = expected_error(confidence, correct), bins(confidence, correct)
    sure, right = float(confidence.mean()), float(correct.mean())
    text = (
        f"Expected calibration error (ECE) {error:.4f}: the mean gap between {labels[0]} and {labels[1]}, over "
        f"{len(found)} bins. Mean {labels[0]} {sure:.4f}, {labels[1]} {right:.4f}: on the whole the {labels[0]} is too "
        f"{'high' if sure > right else 'low'}. Points below the diagonal are too sure."
    )
    columns = ["confidence", what, f"mean {labels[0]}", labels[1]]
    rows = [[f"{b.low:.2f}–{b.high:.2f}", b.number, b.confidence, b.accuracy] for b in found if b.number]
    return Section(
        title="Calibration",
        text=text,
        plots=[
            Plot(svg=plots.reliability(found, name="reliability diagram", labels=labels)),
            Plot(svg=plots.histogram(confidence, name=f"how sure {what} are", labels=(labels[0], what))),
        ],
        tables=[Table(columns=columns, rows=rows)],
    )


def errors(
    cases: Sequence[Case], number: int, *, title: str = "Most confident errors", what: str = "errors"
) -> Section:
    """Return the section of the worst errors, of ``number`` in all."""
    if not number:
        return Section(title=title, text="There are none.", last=True)
    shown = f"{len(cases)} of {number:,} {what}" if len(cases) < number else f"All {number:,} {what}"
    text = f"{shown}, the worst first. Look here for wrong labels in the data, and for what the model has not learned."
    return Section(title=title, text=text, cases=cases, last=True)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
