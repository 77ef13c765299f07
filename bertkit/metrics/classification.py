"""The scores of sequence classification, computed by our ``evaluate`` metrics.

Choices, where a score is not defined:

- One class only, or only one class predicted: Matthews correlation is 0.0, as in scikit-learn.
- No row of the label with id 1, true or predicted: ``f1`` is 0.0, as in scikit-learn.
- ``f1_macro``, one label a row: labels that are in neither references nor predictions do not enter the mean; with
  several labels a row all K enter it, and such a label counts 0.0. Both as in scikit-learn.
- Constant predictions or references (one row, too): Pearson and Spearman are 0.0. scipy returns nan, which is not JSON.
- No rows: :class:`DataError`.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bertkit import metrics
from bertkit.errors import DataError, did_you_mean
from bertkit.metrics.names import check_names

Array = NDArray[Any]

_METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("accuracy", {}),
    "f1": ("f1", {}),
    "f1_macro": ("f1", {"average": "macro"}),
    "f1_micro": ("f1", {"average": "micro"}),
    "matthews_correlation": ("matthews_correlation", {}),
    "pearson": ("pearsonr", {}),
    "spearmanr": ("spearmanr", {}),
}
"""Score -> the metric that computes it, and its settings."""


def compute(
    names: Sequence[str],
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    num_labels: int,
    kind: str = "single",
    labels: Sequence[str] = (),
) -> dict[str, float]:
    """Return the scores ``names`` of all rows, each a finite number. Warns of nothing.

    Args:
        names: see :data:`bertkit.metrics.names.SCORES`.
        predictions: by kind, label ids ``(B,)`` int (or names), 0 and 1 ``(B, K)`` int, or numbers ``(B,)`` float.
        references: the same for the truth.
        num_labels: K; not looked at for regression.
        kind: ``single``, ``multi`` or ``regression``.
        labels: label names in id order, needed only where the arrays hold names.

    Raises:
        ConfigError: if a score is unknown or does not fit the kind.
        DataError: if there are no rows, or the rows cannot be scored.
    """
    check_names(names, kind, num_labels)
    given, true = checked(predictions, references, num_labels=num_labels, kind=kind, labels=labels)
    with warnings.catch_warnings():
        # What scikit-learn and scipy warn of are the cases that this module's docstring decides.
        warnings.simplefilter("ignore")
        return {name: _score(name, given, true, kind) for name in names}


def checked(
    predictions: ArrayLike, references: ArrayLike, *, num_labels: int, kind: str, labels: Sequence[str] = ()
) -> tuple[Array, Array]:
    """Return predictions and references as arrays that can be scored: int64, or float64 for regression.

    Raises:
        DataError: naming the first row that has no valid label or number.
    """
    arrays = {"prediction": np.asarray(predictions), "reference": np.asarray(references)}
    given, true = arrays.values()
    if len(given) != len(true):
        raise DataError(
            f"There are {len(given)} predictions and {len(true)} references. Both must be the same rows in order."
        )
    if not len(given):
        raise DataError("There are no rows to score. Is the split empty, or without labels?")
    if kind == "regression":
        given, true = (_numbers(array, role) for role, array in arrays.items())
    elif kind == "multi":
        given, true = (_indicators(array, role, num_labels) for role, array in arrays.items())
    else:
        given, true = (_ids(array, role, num_labels, labels) for role, array in arrays.items())
    return given, true


def _score(name: str, predictions: Array, references: Array, kind: str) -> float:
    if kind == "regression" and (np.ptp(predictions) == 0 or np.ptp(references) == 0):
        return 0.0
    metric_name, settings = _METRICS[name]
    if kind == "multi" and predictions.shape[1] == 1:
        # scikit-learn takes one column for two classes; labels=[1] keeps it one label that is given or not.
        predictions, references = predictions[:, 0], references[:, 0]
        settings = settings | ({"labels": [1]} if metric_name == "f1" else {})
    # Not .compute(): that goes through Arrow, which rounds to float32 and costs more than the score.
    scores = metrics.load(metric_name)._compute(predictions, references, **settings)
    value = float(scores[metric_name])
    return value if math.isfinite(value) else 0.0


def _ids(array: Array, role: str, num_labels: int, labels: Sequence[str]) -> Array:
    """Return label ids ``(B,)`` int64 in 0..K-1."""
    if array.dtype.kind in "UO":
        array = _ids_of_names(array, role, labels)
    _check_shape(array, role, array.dtype.kind in "iu" and array.ndim == 1, f"label ids of shape ({len(array)},)")
    _check_rows(array, (array >= 0) & (array < num_labels), role, f"a label id from 0 to {num_labels - 1}")
    return array.astype(np.int64)


def _ids_of_names(array: Array, role: str, labels: Sequence[str]) -> Array:
    if not labels:
        raise DataError(f"The {role}s are label names, and compute() needs labels=, the names in id order.")
    ids = {name: i for i, name in enumerate(labels)}
    for row, name in enumerate(array.tolist(), start=1):
        if name not in ids:
            known = ", ".join(map(repr, labels))
            raise DataError(f"Row {row}: {role} {name!r} is not one of {known}.{did_you_mean(str(name), labels)}")
    return np.array([ids[name] for name in array.tolist()])


def _indicators(array: Array, role: str, num_labels: int) -> Array:
    """Return 0 and 1 ``(B, K)`` int64."""
    shape = (len(array), num_labels)
    _check_shape(array, role, array.dtype.kind in "iub" and array.shape == shape, f"0 and 1 of shape {shape}")
    _check_rows(array, (array == 0) | (array == 1), role, "a row of 0 and 1")
    return array.astype(np.int64)


def _numbers(array: Array, role: str) -> Array:
    """Return finite numbers ``(B,)`` float64."""
    _check_shape(array, role, array.dtype.kind in "iuf" and array.ndim == 1, f"numbers of shape ({len(array)},)")
    wanted = "a finite number" + ("; a smaller train.learning_rate may help" if role == "prediction" else "")
    _check_rows(array, np.isfinite(array), role, wanted)
    return array.astype(np.float64)


def _check_shape(array: Array, role: str, fits: bool, wanted: str) -> None:
    if not fits:
        raise DataError(f"The {role}s are {array.dtype} of shape {array.shape}, and must be {wanted}.")


def _check_rows(array: Array, valid: Array, role: str, wanted: str) -> None:
    if not valid.all():
        row = int(np.flatnonzero(~valid.reshape(len(array), -1).all(axis=1))[0])
        raise DataError(f"Row {row + 1}: {role} {array[row].tolist()} is not {wanted}.")
