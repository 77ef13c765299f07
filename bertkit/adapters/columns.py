"""Features as flat arrays and back: what the cache stores. Rows of unlike lengths are one array and their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Columns = dict[str, "np.ndarray"]
"""name -> array; of n features the first axis has n rows, or all rows one behind another (:func:`flat`)."""


def flat(name: str, rows: Sequence[Any], dtype: Any) -> Columns:
    """Return rows one behind another under ``name``, and how long each is under ``name.lengths`` (int64)."""
    import numpy as np

    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    whole = np.concatenate([np.asarray(row, dtype=dtype) for row in rows]) if rows else np.empty(0, dtype=dtype)
    return {name: whole, f"{name}.lengths": lengths}


def arrays(columns: Columns, name: str) -> list[np.ndarray]:
    """Return the rows that :func:`flat` was given, as views of one array."""
    import numpy as np

    stops = np.cumsum(columns[f"{name}.lengths"])
    return np.split(columns[name], stops)[: len(stops)]


def lists(columns: Columns, name: str) -> list[list[Any]]:
    """Return the rows that :func:`flat` was given, as lists."""
    whole = columns[name].tolist()
    stops = columns[f"{name}.lengths"].cumsum().tolist()
    return [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def optional(name: str, values: Sequence[Any], dtype: Any) -> Columns:
    """Return equally shaped values under ``name`` and, where some are None, which are not under ``name.known``."""
    import numpy as np

    known = np.array([value is not None for value in values], dtype=bool)
    filler = next((np.zeros_like(np.asarray(value)) for value in values if value is not None), 0)
    whole = np.array([filler if value is None else value for value in values], dtype=dtype)
    return {name: whole, f"{name}.known": known}


def values(columns: Columns, name: str) -> list[Any]:
    """Return the values that :func:`optional` was given; those that have a shape are lists."""
    known = columns[f"{name}.known"].tolist()
    return [value if there else None for value, there in zip(columns[name].tolist(), known, strict=True)]
