"""What a sweep tries: lists and ranges of settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertkit import config
from bertkit.errors import ConfigError
from bertkit.workflows.preparation import Settings, tables

Value = str | int | float | bool
Point = dict[str, Value]
"""A setting's name with dots -> its value: what one trial changes."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers between two, for ``--trials``."""

    low: int | float
    high: int | float

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def log(self) -> bool:
        """Whether to draw on a log scale, as for learning rates: where it spans a factor of 10 or more."""
        return self.low > 0 and self.high / self.low >= 10


Choices = tuple[Value, ...] | Range
Space = dict[str, Choices]

PAPER: Space = {
    "train.batch_size": (16, 32),
    "train.learning_rate": (5e-5, 3e-5, 2e-5),
    "train.epochs": (2, 3, 4),
}
"""The grid of the BERT paper (Devlin et al. 2019, arXiv:1810.04805, A.3)."""
WIDER: Space = PAPER | {"train.learning_rate": Range(low=1e-5, high=1e-4)}
"""What ``--trials`` draws from where nothing is given."""


def parse(given: Mapping[str, Any] | Iterable[str] | None, *, trials: int, fixed: Settings) -> Space:
    """Return what to try.

    Args:
        given: ``["train.learning_rate=1e-5,2e-5"]`` as ``--grid`` takes it, or ``{"train.learning_rate": [1e-5,
            2e-5]}``; a range is ``1e-5..1e-4`` or a :class:`Range`. Else the BERT paper's grid.
        trials: how many trials to draw; 0 tries all combinations, which ranges do not have.
        fixed: what ``--set`` gives, which cannot be tried as well.

    Raises:
        ConfigError: naming the first key or value that does not do.
    """
    held = _keys(tables(fixed))
    if not given:
        # Without an end of its own, a run of so many steps does not ask how many epochs there are.
        idle = {"train.epochs"} if held.get("train.max_steps") else set()
        return {key: value for key, value in (WIDER if trials else PAPER).items() if key not in held.keys() | idle}
    pairs = given.items() if isinstance(given, Mapping) else map(_pair, given)
    space: Space = {}
    for key, values in pairs:
        if key in space:
            raise ConfigError(f"--grid names {key} twice. Give its values at once: --grid {key}=A,B,C.")
        if key in held:
            raise ConfigError(f"--grid tries {key}, and --set holds it at {held[key]!r}. Drop one of the two.")
        space[key] = _choices(key, values)
    ranges = [key for key, choices in space.items() if isinstance(choices, Range)]
    if ranges and not trials:
        raise ConfigError(f"--grid {ranges[0]} is a range, which has no end of values. --trials N draws from it.")
    if "train.epochs" in space and held.get("train.max_steps"):
        raise ConfigError("--grid tries train.epochs, which --set train.max_steps makes void. Drop one of the two.")
    return space


def points(space: Space) -> list[Point]:
    """Return every combination of a grid, the last key changing fastest."""
    lists = [choices for choices in space.values() if not isinstance(choices, Range)]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def size(space: Space) -> float:
    """Return how many combinations there are; infinite where there is a range of fractions."""
    return math.prod(map(_number, space.values()))


def corners(space: Space) -> list[Point]:
    """Return points that together hold every value and every end of a range: to check them before any is trained."""
    ends = {key: (one.low, one.high) if isinstance(one, Range) else one for key, one in space.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [first, *(first | {key: value} for key, values in ends.items() for value in values[1:])]


def to_json(space: Space) -> dict[str, Any]:
    """Return a space as JSON-able values, as ``--grid`` takes them."""
    return {key: f"{one.low}..{one.high}" if isinstance(one, Range) else list(one) for key, one in space.items()}


def from_json(stored: Mapping[str, Any]) -> Space:
    """Return the space that :func:`to_json` wrote."""
    return {key: _choices(key, values) for key, values in stored.items()}


def named(point: Mapping[str, Any]) -> str:
    """Return a point in the user's words: ``batch_size 16, learning_rate 5e-05``."""
    return ", ".join(f"{key.removeprefix('train.')} {shown(value)}" for key, value in point.items())


def shown(value: Any) -> str:
    """Return a value with as many digits as tell trials apart."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(choices: Choices) -> float:
    if not isinstance(choices, Range):
        return len(choices)
    return choices.high - choices.low + 1 if choices.whole else math.inf


def _pair(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ConfigError(
            f"--grid takes KEY=A,B,C, for example --grid train.learning_rate=2e-5,5e-5, and got {text!r}."
        )
    return key.strip(), values.strip()


def _choices(key: str, given: Any) -> Choices:
    if isinstance(given, Range):
        return _range(key, given.low, given.high)
    if isinstance(given, str):
        low, dots, high = given.partition("..")
        if dots:
            return _range(key, _value(low), _value(high))
        given = [_value(part) for part in given.split(",") if part.strip()]
    values = list(given) if isinstance(given, Sequence) else [given]
    wrong = next((value for value in values if not isinstance(value, str | int | float | bool)), None)
    if not values or wrong is not None:
        what = "names no value" if not values else f"has {wrong!r}, which is no number, text, true or false"
        raise ConfigError(f"--grid {key} {what}.")
    if len(set(values)) < len(values):
        raise ConfigError(f"--grid {key} names {next(v for v in values if values.count(v) > 1)!r} twice.")
    return tuple(values)


def _range(key: str, low: Any, high: Any) -> Range:
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not low < high:
        raise ConfigError(f"--grid {key}={low}..{high} is no range: it takes two numbers, the lower one first.")
    return Range(low=low, high=high)


def _value(text: str) -> Any:
    return config.parse_overrides([f"value={text}"])["value"]


def _keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
