"""What a report shows of several labels a row: each label, calibration over all decisions, the surest errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertkit.metrics.classification import Array
from bertkit.report.classes import calibration, class_table, errors, per_label
from bertkit.report.parts import ERRORS, Case, Section, cut, share


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections of several labels a row.

    Args:
        found: ``labels`` (K names), ``gold`` and ``predicted`` (0/1 ``(n, K)``), ``probabilities`` ``(n, K)`` and
            ``texts`` (a tuple of texts a row).
    """
    labels = found["labels"]
    gold, predicted = (np.asarray(found[side]).astype(bool) for side in ("gold", "predicted"))
    rows = per_label((gold & predicted).sum(axis=0), predicted.sum(axis=0), gold.sum(axis=0), labels)
    wrong = (gold != predicted).sum(axis=1)
    yield Section(
        title="Labels",
        text=f"Each label by itself. {int((wrong == 0).sum()):,} of {len(gold):,} rows have exactly the right labels.",
        tables=[class_table(rows, "label")],
    )
    probabilities = np.asarray(found["probabilities"])
    yield calibration(
        probabilities.ravel(), gold.ravel(), labels=("probability", "share with the label"), what="decisions"
    )
    order = surest(gold, predicted, probabilities)
    yield errors([_case(row, label, found) for row, label in order], int(wrong.sum()))


def surest(gold: Array, predicted: Array, probabilities: Array, most: int = ERRORS) -> list[tuple[int, int]]:
    """Return the wrong decisions as row and label, those furthest from the truth first; ``(n, K)`` each."""
    gap = np.where(gold != predicted, np.abs(probabilities - gold), -1.0)
    size = min(most, int((gap >= 0).sum()))
    order = np.argsort(-gap, axis=None, kind="stable")[:size]
    return [(int(place) // gold.shape[1], int(place) % gold.shape[1]) for place in order]


def _case(row: int, label: int, found: Mapping[str, Any]) -> Case:
    labels = found["labels"]
    wrong = "given, and not true" if found["predicted"][row][label] else "true, and not given"
    facts = [
        ("label", f"{labels[label]} ({wrong})"),
        ("probability", share(float(found["probabilities"][row][label]))),
        ("true", _named(found["gold"][row], labels)),
        ("predicted", _named(found["predicted"][row], labels)),
    ]
    return Case(row=row + 1, facts=facts, texts=[cut(text) for text in found["texts"][row]])


def _named(row: Array, labels: Any) -> str:
    return ", ".join(name for name, given in zip(labels, row, strict=True) if given) or "none"
