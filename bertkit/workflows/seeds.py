"""Several seeds: which ones, what their scores come to, and which run is kept."""

from __future__ import annotations

import math
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertkit.errors import ConfigError, RunError
from bertkit.run import Run

DEFAULT_SEED = 42
FLATTERED = "A kept model was chosen on the rows that score it, so its number is too good: report the mean."


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What the scores of several seeds come to. Of every score that bertkit knows, the higher is the better."""

    mean: float
    standard_deviation: float | None
    """Of the sample (n - 1); None for a single run."""
    median: float
    best: float
    values: tuple[float, ...]
    """One for each seed, in the order of the seeds."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean, spread and best of at least one score."""
        return cls(
            mean=statistics.fmean(values),
            standard_deviation=statistics.stdev(values) if len(values) > 1 else None,
            median=statistics.median(values),
            best=max(values),
            values=tuple(values),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self) | {"values": list(self.values)}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The run of a task whose model is used."""

    run: str
    """Relative to the suite."""
    seed: int
    metric: str
    """The task's first one."""
    score: float
    """On validation."""
    seeds: int
    """How many it was chosen from."""

    def why(self, task: str) -> str:
        """Return the sentence that says which model was kept, and why."""
        if self.seeds == 1:
            return f"{task}: the model of seed {self.seed} is kept."
        return (
            f"{task}: the model of seed {self.seed} is kept, the best of {self.seeds} by {self.metric} on validation "
            f"({self.score:.4f})."
        )


def parse(given: str | int | Sequence[int] | None, seed: int | None) -> tuple[int, ...]:
    """Return the seeds to train with.

    Args:
        given: a number of seeds (5, ``"5"``: ``seed``, ``seed`` + 1, ...), a list (``"1,2,3"``, or ``"7,"`` of one),
            or None for one.
        seed: the first of a number of seeds, 42 where not given; not with a list.

    Raises:
        ConfigError: if it is neither, or names a seed twice.
    """
    first = DEFAULT_SEED if seed is None else seed
    if given is None:
        return (first,)
    listed = _listed(given)
    if listed is None:
        return tuple(first + index for index in range(_number(str(given))))
    wanted = list(map(_seed, listed))
    if seed is not None:
        raise ConfigError(f"--seed {seed} and a list, --seeds {_plain(wanted)}, do not go together. Drop one of them.")
    twice = next((number for number in wanted if wanted.count(number) > 1), None)
    if twice is not None or not wanted:
        raise ConfigError(f"--seeds names {'no seed' if twice is None else f'the seed {twice} twice'}. Name each once.")
    return tuple(wanted)


def _listed(given: str | int | Sequence[int]) -> list[str] | None:
    """Return the seeds of a list as texts; None where ``given`` is how many there shall be."""
    if isinstance(given, int) or (isinstance(given, str) and "," not in given):
        return None
    parts = given.split(",") if isinstance(given, str) else map(str, given)
    return [part.strip() for part in parts if part.strip()]


def _plain(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _number(given: str) -> int:
    number = int(given) if given.isdigit() else 0
    if number < 1:
        raise ConfigError(f"--seeds is {given!r}, and must be a number of seeds (5) or a list of them (1,2,3).")
    return number


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise ConfigError(f"--seeds has {text!r}, and a seed is a whole number from 0 to 2**63 - 1.")
    return int(text)


def choose(runs: Mapping[str, Run]) -> Kept:
    """Return the best of a task's finished runs by its first metric on validation; the first of equals.

    Args:
        runs: the run's place in the suite -> the run.
    """
    record = next(iter(runs.values())).record
    metric = record["resolved_task"]["metrics"][0]
    scores = {place: _score(run, metric) for place, run in runs.items()}
    best = max(scores, key=lambda place: -math.inf if math.isnan(scores[place]) else scores[place])
    return Kept(run=best, seed=runs[best].record["seed"], metric=metric, score=scores[best], seeds=len(runs))


def _score(run: Run, metric: str) -> float:
    return float(run.scores()["splits"]["validation"][metric])


def link(place: Path, run: Path) -> None:
    """Let ``place/model`` be the model of a run below it: a link, or a copy where the disk has no links.

    Raises:
        RunError: if neither can be made.
    """
    model, target = place / "model", (run / "model").relative_to(place)
    beside = place / f".model.{os.getpid()}"
    try:
        try:
            beside.symlink_to(target, target_is_directory=True)
            _unlink(model)
            beside.replace(model)
        except (OSError, NotImplementedError):
            _unlink(model)
            shutil.copytree(run / "model", model)
    except OSError as error:
        raise RunError(f"{model} cannot be written: {error.strerror or error}. Free space.") from error


def _unlink(model: Path) -> None:
    if model.is_symlink():
        model.unlink()
    elif model.is_dir():
        shutil.rmtree(model)
