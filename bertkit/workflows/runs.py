"""``bertkit runs``: what was trained, and what came of it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertkit import run as run_folders
from bertkit.errors import RunError
from bertkit.run import Run


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run on one line."""

    run: str
    task: str
    encoder: str
    status: str
    seed: int
    metric: str
    score: float | None
    """The first metric on validation, where the run finished."""
    created: str
    kept: bool | None = None
    """Whether its suite kept it, or it is the best trial of its sweep; None of a run that stands for itself."""

    @classmethod
    def of(cls, run: Run) -> RunLine:
        """Read the line of a run."""
        record = run.record
        metric = next(map(str, record["resolved_task"]["metrics"]), "")
        splits: dict[str, Any] = {}
        with suppress(RunError):
            splits = run.scores().get("splits", {})
        return cls(
            run=str(run.folder),
            task=record["task"],
            encoder=record["encoder"],
            status=run.status,
            seed=record["seed"],
            metric=metric,
            score=splits.get("validation", {}).get(metric),
            created=record["created"],
            kept=run_folders.kept(run),
        )


def ls(runs: str | Path = "runs") -> list[RunLine]:
    """Return the runs below ``runs``, those of suites and sweeps among them, oldest first."""
    return [RunLine.of(run) for run in run_folders.ls(Path(runs))]


def show(run: str | Path | None = None, *, runs: str | Path = "runs") -> dict[str, Any]:
    """Return what a run knows: its record, its scores, its evaluations; the newest finished one by default.

    Raises:
        RunError: if there is no such run, or a file of it is damaged.
    """
    found = run_folders.find(run, Path(runs))
    return {
        "run": str(found.folder),
        **found.record,
        "scores": found.scores(),
        "evaluations": [_read(file) for file in sorted(found.folder.glob("evals/*.json"))],
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}. Remove it; 'bertkit eval' writes it anew.") from error
    return found
