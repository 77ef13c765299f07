"""What an encoder has to beat: simple models on the same rows, one module a task type, and their stored scores.

``sequence-classification`` has ``bertkit/baselines/sequence_classification.py``, found by the name of its adapter's
module; a type whose adapter inherits from another has that one's baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from bertkit.adapters.base import Adapter, Example, Prediction
from bertkit.data import Split
from bertkit.errors import TaskError
from bertkit.events import Listener


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fitted simple model."""

    name: str
    """``majority``, ``tfidf``, ...: what tables and files call it."""
    summary: str
    """What it is, with what was chosen for it; half a sentence."""
    predict: Callable[[Sequence[Example]], list[Prediction]]
    """Gives one prediction an example, in the adapter's own form."""


class Fit(Protocol):
    """The ``fit`` of a module here."""

    def __call__(
        self, adapter: Adapter, splits: Mapping[str, Split], *, seed: int, vectors: Path | None, tell: Listener
    ) -> Iterator[Baseline]:
        """Yield the baselines of a task type, each fitted on ``splits["train"]`` alone.

        Args:
            adapter: of the task, its labels and columns known.
            splits: checked examples; those other than train only say which word vectors are needed.
            seed: of the folds by which a setting is chosen.
            vectors: a file of static word vectors, or None.
            tell: is given notes.

        Raises:
            ConfigError: if the type has no use for vectors.
            DataError: if they cannot be read.
        """


def find(kind: type[Adapter]) -> Fit:
    """Return what fits the baselines of a task type.

    Raises:
        TaskError: if it has none.
    """
    for ancestor in kind.__mro__:
        package, _, name = ancestor.__module__.rpartition(".")
        if package == "bertkit.adapters" and find_spec(f"{__name__}.{name}") is not None:
            fit: Fit = import_module(f"{__name__}.{name}").fit
            return fit
    name = kind.__module__.rpartition(".")[2].replace("_", "-")
    known = sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("*_*.py") if path.stem[0] != "_")
    shown = f"{', '.join(known[:-1])} and {known[-1]}"
    raise TaskError(f"There is no baseline for {name}: only {shown} have simple models to stand beside.")
