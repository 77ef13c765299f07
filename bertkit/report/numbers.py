"""What a report shows of regression: predicted against true, residuals, and the largest errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertkit.report import plots
from bertkit.report.classes import errors
from bertkit.report.groups import quantile_groups
from bertkit.report.parts import ERRORS, Case, Plot, Section, Table, cut


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections of a number a row.

    Args:
        found: ``gold`` and ``predicted`` (numbers ``(n,)``), ``texts`` (a tuple of texts a row).
    """
    gold, predicted = np.asarray(found["gold"], dtype=np.float64), np.asarray(found["predicted"], dtype=np.float64)
    residual = predicted - gold
    drawn = f" {plots.MOST_POINTS:,} rows are drawn by lot." if len(gold) > plots.MOST_POINTS else ""
    about = {
        "mean error": residual.mean(),
        "mean absolute error": np.abs(residual).mean(),
        "root mean squared error": np.sqrt((residual**2).mean()),
        "median absolute error": np.median(np.abs(residual)),
    }
    yield Section(
        title="Predicted and true, and residuals",
        text=f"Points on the dashed line are right.{drawn} A residual is predicted less true: a mean far from 0 is a "
        "bias, and a table that tilts from + to − means that the model keeps to the middle.",
        plots=[
            Plot(svg=plots.scatter(gold, predicted, name="predicted over true", labels=("true", "predicted"))),
            Plot(svg=plots.histogram(residual, name="residuals", labels=("predicted − true", "rows"), zero=True)),
        ],
        tables=[
            Table(columns=["residuals", "value"], rows=[[name, float(value)] for name, value in about.items()]),
            Table(columns=["true value", "rows", "mean error", "mean absolute error"], rows=by_value(gold, residual)),
        ],
    )
    order = np.argsort(-np.abs(residual), kind="stable")[:ERRORS]
    cases = [_case(int(row), gold, predicted, found) for row in order if residual[row]]
    yield errors(cases, int((residual != 0).sum()), title="Largest errors")


def by_value(gold: Any, residual: Any) -> list[list[Any]]:
    """Return groups of rows by their true value: range, rows, mean error, mean absolute error."""
    ranks = np.unique(gold, return_inverse=True)[1]
    rows = [group.rows for group in quantile_groups(ranks)]
    return [
        [
            f"{gold[each].min():.4g} to {gold[each].max():.4g}",
            len(each),
            float(residual[each].mean()),
            float(np.abs(residual[each]).mean()),
        ]
        for each in rows
    ]


def _case(row: int, gold: Any, predicted: Any, found: Mapping[str, Any]) -> Case:
    facts = [("true", f"{gold[row]:.4g}"), ("predicted", f"{predicted[row]:.4g}")]
    facts.append(("off by", f"{predicted[row] - gold[row]:+.4g}"))
    return Case(row=row + 1, facts=facts, texts=[cut(text) for text in found["texts"][row]])
