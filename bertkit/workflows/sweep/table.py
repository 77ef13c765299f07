"""The table of a sweep: its trials, the best of them, and what its score is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertkit.workflows.sweep import space as spaces
from bertkit.workflows.sweep.space import Point

ENDED = ("finished", "pruned", "failed")
STATES = (*ENDED, "interrupted", "running", "waiting")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a sweep, however often it was interrupted."""

    trial: int
    """From 1."""
    state: str
    """``finished``, ``pruned``, ``failed``, ``interrupted``, ``running`` or ``waiting``."""
    settings: Point
    """What it changes."""
    score: float | None = None
    """The task's first metric on validation; of a pruned trial the last one."""
    run: str = ""
    """Its run folder; of another machine's with the machine's name before it."""
    error: str = ""
    """Why training gave it up."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values; what is empty is left out."""
        kept = {key: getattr(self, key) for key in ("trial", "state", "settings", "score")}
        return kept | {key: value for key in ("run", "error") if (value := getattr(self, key))}


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep came to."""

    sweep: Path
    task: str
    encoder: str
    status: str
    """``finished``, ``interrupted``, or ``running``: others are still at work on the last trials."""
    metric: str
    trials: tuple[Trial, ...]
    """By number."""
    higher: bool = True
    """Whether a higher score is the better one."""
    unseen: tuple[str, ...] = ()
    """Labelled splits that no trial was scored on."""
    seconds: float = 0.0
    """Wall-clock time of this command."""
    already: bool = False
    """All trials were finished before, and nothing was done."""

    @property
    def ranked(self) -> list[Trial]:
        """The trials, the best of the finished ones first, then what did not finish."""
        sign = -1 if self.higher else 1

        def place(one: Trial) -> tuple[bool, float, int]:
            return one.state != "finished", math.inf if one.score is None else sign * one.score, one.trial

        return sorted(self.trials, key=place)

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best score; the first of equals."""
        return next((trial for trial in self.ranked if trial.state == "finished"), None)

    def count(self, state: str) -> int:
        """Return how many trials came so far."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def verdict(self) -> str:
        """The sentences that say what was chosen, from how many, and what that does to its score."""
        best = self.best
        if best is None:
            return f"No trial of {len(self.trials)} has finished, so none is the best."
        counted = [f"{number} {state}" for state in STATES if (number := self.count(state))]
        score = "no number" if best.score is None else f"{best.score:.4f}"
        first = (
            f"The best of {len(self.trials)} trials ({', '.join(counted)}) by {self.metric} on validation is trial "
            f"{best.trial} with {score}: {spaces.named(best.settings)}."
        )
        if len(self.trials) == 1:
            return first
        return (
            f"{first} It was chosen on the rows that score it, so that number is too good, the more so the more "
            f"trials there were. {self._untouched()}"
        )

    def _untouched(self) -> str:
        if not self.unseen:
            return "Report a score on rows that chose nothing."
        return f"No trial was scored on '{self.unseen[0]}': that score is yet to be had, once, for the report."

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "sweep": str(self.sweep),
            "task": self.task,
            "encoder": self.encoder,
            "status": self.status,
            "metric": self.metric,
            "num_trials": len(self.trials),
            "best": self.best.to_json() if self.best else None,
            "trials": [trial.to_json() for trial in self.trials],
            "verdict": self.verdict,
            "seconds": self.seconds,
        }
