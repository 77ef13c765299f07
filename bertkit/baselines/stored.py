"""Scores of baselines, kept below the runs folder so that every score of the same rows can show them; read cheaply.

``RUNS/baselines/<task>.json`` holds one entry for each set of rows: what the task asked of which data, and the scores.
An entry stands beside a score where the task asks the same, train and the scored rows are the same, row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bertkit.data import Dataset, Split, sources
from bertkit.errors import RunError
from bertkit.run import write_text

FOLDER = "baselines"
ABOUT = ("type", "kind", "columns", "labels", "options")
"""What of a resolved task decides what is asked of the rows."""
NEEDED = {"about", "data_hash", "held_out_rows", "splits", "scores"}

Beside = dict[str, dict[str, dict[str, Any]]]
"""Name of a baseline -> split -> metric -> value, intervals beside."""


def file_of(runs: Path, task: str) -> Path:
    """Return the file that holds the baselines of a task."""
    return runs / FOLDER / f"{task.replace('/', '-')}.json"


def about(resolved_task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task asks of its rows, as JSON has it."""
    found: dict[str, Any] = json.loads(json.dumps({key: resolved_task.get(key) for key in ABOUT}))
    return found


def rows_hash(split: Split) -> str:
    """Return a SHA-256 of a split's rows, whatever the split is called."""
    return sources.fingerprint(Dataset(splits={"": split}))


def entries(runs: Path, task: str) -> list[dict[str, Any]]:
    """Return what is stored of a task, oldest first.

    Raises:
        RunError: if the file is damaged.
    """
    file = file_of(runs, task)
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["entries"]
        whole = isinstance(found, list) and all(entry.keys() >= NEEDED for entry in found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} is damaged: {error}. Remove it; 'bertkit baseline' writes it anew.") from error
    if not whole:
        raise RunError(f"{file} is damaged: it lacks scores. Remove it; 'bertkit baseline' writes it anew.")
    return list(found)


def keep(runs: Path, task: str, entry: Mapping[str, Any]) -> Path:
    """Store an entry; of an older one of the same rows, the baselines that the new one lacks stay.

    Raises:
        RunError: if the file is damaged or cannot be written.
    """
    there, others = None, []
    for old in entries(runs, task):
        if same(old, entry):
            there = old
        else:
            others.append(old)
    merged = dict(entry)
    if there is not None:
        for part in ("scores", "summaries"):
            merged[part] = {**there.get(part, {}), **entry[part]}
    text = json.dumps({"entries": [*others, merged]}, indent=2, ensure_ascii=False) + "\n"
    return write_text(file_of(runs, task), text)


def of_run(places: Iterable[Path], record: Mapping[str, Any]) -> Beside:
    """Return the baselines of a run's rows, from the first of some runs folders that has any.

    Args:
        places: runs folders.
        record: what ``run.json`` holds.

    Raises:
        RunError: if a file is damaged.
    """
    wanted = {**record, "about": about(record["resolved_task"])}
    found = (e for runs in places for e in entries(runs, record["task"]) if same(e, wanted))
    return dict(next(found, {"scores": {}})["scores"])


def of_rows(
    places: Iterable[Path],
    task: str,
    resolved_task: Mapping[str, Any],
    split: Split,
    *,
    record: Mapping[str, Any] | None = None,
) -> Beside:
    """Return the baselines on a split's rows, the newest of several.

    Args:
        places: runs folders.
        task: its name.
        resolved_task: what is asked of the rows.
        split: the rows.
        record: what ``run.json`` holds, where the baselines must have been fitted on the training rows of that run.

    Raises:
        RunError: if a file is damaged.
    """
    asked = about(resolved_task)
    candidates = [e for runs in places for e in reversed(entries(runs, task)) if e["about"] == asked]
    if record is not None:
        wanted = {**record, "about": asked}
        candidates = [entry for entry in candidates if same(entry, wanted)]
    digest = rows_hash(split) if candidates else ""
    for entry in candidates:
        for name, facts in entry["splits"].items():
            if facts["hash"] == digest:
                return {each: {split.name: scores[name]} for each, scores in entry["scores"].items()}
    return {}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two entries, or an entry and a run's record with its ``about``, are of the same task and rows."""
    return all(one[key] == other.get(key) for key in ("about", "data_hash", "held_out_rows"))
