"""The run folder: everything that one training produced, written so that nothing half-written looks whole.

A file is written beside its place, synced and renamed. A folder (checkpoint, model) likewise. ``run.json`` says how
far the run came: ``created``, ``running``, ``finished``, ``interrupted`` or ``failed``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from bertkit.errors import MALFORMED, RunError, did_you_mean, hide_secrets, looked_for
from bertkit.events import Checkpoint, Event, to_json

BESIDE = "beside"
"""Key of a run that was trained to be compared with another one, which it names."""
STATUSES = ("created", "running", "finished", "interrupted", "failed")
SUITE = "suite.json"
"""The file that makes a folder of runs a suite."""
SWEEP = "sweep.json"
"""The file that makes a folder of runs, its trials, a sweep."""
NEEDED: dict[str, type] = {
    "task": str,
    "encoder": str,
    "seed": int,
    "created": str,
    "request": dict,
    "request.task_table": dict,
    "request.device": dict,
    "resolved_task": dict,
    "resolved_task.type": str,
    "resolved_task.data": dict,
    "resolved_task.metrics": list,
    "config": dict,
    "config.train": dict,
    "held_out_rows": list,
    "held_out_hash": str,
}
"""What every ``run.json`` holds from the start."""
MODEL_FACTS = "bertkit.json"
"""The file in ``model/`` that says what bertkit needs beyond plain transformers."""
SECRET_OPTION = re.compile(r"--?[\w-]*(token|passw|secret|api[-_]?key|credential)[\w-]*", re.IGNORECASE)
"""An option whose value nobody else may see."""
LOCK = ".lock"
"""The file that a process holds while it trains in a run folder."""
PARTS = ("model", "optimizer", "rng")
"""The tables of tensors of a checkpoint."""


class Run:
    """One run folder."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record
        self.num_events = 0
        """Events stored so far, as :meth:`cut_events` and :meth:`append` know it."""

    # Making and finding --------------------------------------------------------------------------------------

    @classmethod
    def create(cls, runs: Path, *, name: str, out: Path | None, record: Mapping[str, Any]) -> Run:
        """Make a new run folder, ``runs/<name>-<n>`` or ``out``.

        Raises:
            RunError: if it cannot be made, or ``out`` holds something already.
        """
        return cls.begin(new_folder(runs, name=name, out=out), record)

    @classmethod
    def begin(cls, folder: Path, record: Mapping[str, Any]) -> Run:
        """Make a run of a new folder.

        Raises:
            RunError: if it cannot be written; the folder is then removed.
        """
        run = cls(folder, {"status": "created", "created": now(), **record})
        try:
            run.update()
        except RunError:
            run.remove()
            raise
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run folder.

        Raises:
            RunError: if it is none, or its ``run.json`` is damaged.
        """
        file = folder / "run.json"
        if not file.is_file():
            raise RunError(f"{folder} is no run: it has no run.json. 'bertkit runs ls' lists the runs.")
        record = _read(file)
        if record.get("status") not in STATUSES:
            raise RunError(f"{file} is damaged: it holds no known status. Train again, or restore it from a copy.")
        wrong = [name for name, kind in NEEDED.items() if not isinstance(_below(record, name), kind)]
        if wrong:
            top = [name for name in wrong if name.rpartition(".")[0] not in wrong]
            raise RunError(
                f"{file} is damaged: it lacks {', '.join(sorted(top))}, or holds something else there. "
                "Train again, or restore it from a copy."
            )
        return cls(folder, record)

    def remove(self) -> None:
        """Delete the folder: for a run that failed before its first step."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # Facts ---------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """Return how far the run came."""
        return str(self.record["status"])

    @property
    def command(self) -> str:
        """Return the command that made the run, and goes on with it: ``finetune`` where it does not say."""
        return str(self.record.get("command", "finetune"))

    @property
    def model_folder(self) -> Path:
        """Return ``model/``, which opens in plain transformers.

        Raises:
            RunError: if the run did not finish.
        """
        if self.status == "finished" and not (self.folder / "model" / MODEL_FACTS).is_file():
            raise RunError(
                f"{self.folder / 'model'} is damaged: it holds no {MODEL_FACTS}. "
                "Train again, or restore it from a copy."
            )
        if self.status != "finished":
            raise RunError(
                f"{self.folder} is not finished (status '{self.status}'), so it has no model to use. "
                f"'bertkit {self.command} --resume {self.folder}' goes on with it."
            )
        return self.folder / "model"

    def update(self, **facts: Any) -> None:
        """Add facts to ``run.json``."""
        self.record |= facts
        self.write_json("run.json", self.record)

    def append(self, event: Event) -> None:
        """Add an event to ``events.jsonl``."""
        with disk_errors(self.folder), (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json_line(to_json(event)) + "\n")
        self.num_events += 1

    def cut_events(self, number: int) -> None:
        """Keep the first ``number`` events: what came after the checkpoint that a run goes on from comes again."""
        kept = list(islice(self.events(), number))
        if kept:
            self.write_lines("events.jsonl", kept)
        else:
            with disk_errors(self.folder):
                (self.folder / "events.jsonl").unlink(missing_ok=True)
        self.num_events = len(kept)

    def tidy(self) -> None:
        """Clear away what a killed process left half-written, and give back what it had moved aside.

        Only for who holds the folder's lock.

        Raises:
            RunError: if the folder cannot be written.
        """
        with disk_errors(self.folder):
            for place in (self.folder, self.folder / "checkpoints", self.folder / "predictions"):
                for left in place.glob(".*"):
                    match = re.fullmatch(r"\.(.+)\.(old|\d+)", left.name)
                    if not match:
                        continue
                    if match[2] == "old" and not (place / match[1]).exists():
                        left.rename(place / match[1])
                    elif left.is_dir():
                        shutil.rmtree(left)
                    else:
                        left.unlink()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the stored events; a last line that was cut off is left out."""
        file = self.folder / "events.jsonl"
        if not file.is_file():
            return
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, RecursionError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event

    def scores(self) -> dict[str, Any]:
        """Return ``scores.json``, or an empty table where there is none yet.

        Raises:
            RunError: if it is damaged.
        """
        file = self.folder / "scores.json"
        if self.status != "finished" and not file.is_file():
            return {}
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{file} is damaged: {error}. 'bertkit eval {self.folder}' scores the model anew."
            ) from error
        if not _are_scores(found):
            raise RunError(f"{file} is damaged: it lacks scores. 'bertkit eval {self.folder}' scores the model anew.")
        return found

    # Writing -------------------------------------------------------------------------------------------------

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file whole or not at all."""
        return write_json(self.folder / name, value)

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write a JSON Lines file whole or not at all; lone surrogates stay escaped."""
        return self.write_text(name, "".join(f"{json_line(row)}\n" for row in rows))

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file whole or not at all; a lone surrogate, from a label, as JSON escapes it."""
        return write_text(self.folder / name, text)

    @contextmanager
    def whole_folder(self, name: str) -> Iterator[Path]:
        """Give a folder to fill, which takes its place under ``name`` only when it is full.

        Raises:
            RunError: if the disk is full or cannot be written; what stood there before stays.
        """
        place = self.folder / name
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            with disk_errors(place):
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                yield beside
                for file in beside.iterdir():
                    # safetensors writes files for their owner alone; others may read what they may read beside it.
                    file.chmod(beside.stat().st_mode & 0o666)
                    _sync(file)
                _sync(beside)
                old = place.with_name(f".{place.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                if place.exists():
                    os.replace(place, old)
                try:
                    os.replace(beside, place)
                except OSError:
                    if old.exists():
                        old.rename(place)
                    raise
                _sync(place.parent)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    # Checkpoints ---------------------------------------------------------------------------------------------

    def save_checkpoint(self, event: Checkpoint) -> Path:
        """Store the event, write a checkpoint with a manifest of SHA-256, then drop those that are not needed.

        The event goes first, and a checkpoint knows how many there were: after a kill in between, one too many is cut
        off, and none is missing.

        Raises:
            RunError: if it cannot be written; the checkpoints from before are all there then.
        """
        from safetensors.torch import save_file

        self.append(event)
        with disk_errors(self.folder):
            _sync(self.folder / "events.jsonl")
        progress = event.state["progress"] | {"events": self.num_events - event.passing, "passing": event.passing}
        name = f"checkpoints/step-{event.step:06d}"
        with self.whole_folder(name) as folder:
            for part in PARTS:
                tensors = {key: value.detach().cpu().contiguous() for key, value in event.state[part].items()}
                save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
            (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
            manifest = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        self._prune(keep={event.step, event.state["progress"]["best_step"], *self._needed(event.step)})
        return self.folder / name

    def checkpoints(self) -> list[int]:
        """Return the steps of which a checkpoint stands in the folder, newest first."""
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in (self.folder / "checkpoints").glob("step-*"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def load_checkpoint(self, step: int) -> dict[str, Any]:
        """Read a checkpoint back, every file checked against its SHA-256.

        Returns:
            The state as the loop offered it, and under ``events`` how many events belong to it.

        Raises:
            RunError: naming the file that is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = self._whole_checkpoint(step)
        try:
            progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            state: dict[str, Any] = {"events": int(progress.pop("events")), "progress": progress}
            progress.pop("passing", None)
            if progress["best_step"] is not None:
                progress["best_step"] = int(progress["best_step"])
            return state | {part: load_file(folder / f"{part}.safetensors") for part in PARTS}
        except (OSError, *MALFORMED, SafetensorError) as error:
            # Its manifest is right, so somebody wrote it so.
            raise RunError(f"{folder} is no checkpoint: {type(error).__name__}: {error}.") from error

    def _whole_checkpoint(self, step: int) -> Path:
        """Return the folder of a checkpoint whose every file has the SHA-256 of its manifest.

        Raises:
            RunError: naming the file that is missing or damaged.
        """
        folder = self._checkpoint(step)
        files = {"progress.json", *(f"{part}.safetensors" for part in PARTS)}
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            manifest = None
        if not isinstance(manifest, dict) or set(manifest) != files:
            raise RunError(f"{folder} has no readable manifest.json, so the checkpoint is damaged.")
        for name, sha256 in manifest.items():
            try:
                found = _sha256(folder / name)
            except OSError:
                found = ""
            if found != sha256:
                raise RunError(f"{folder / name} is missing or damaged: it does not have the SHA-256 of the manifest.")
        return folder

    def newest_checkpoint(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest whole checkpoint, or None, and what was wrong with the ones after it.

        One whose best weights so far are in another that is damaged is of no use either.
        """
        faults: list[str] = []
        for step in self.checkpoints():
            try:
                state = self.load_checkpoint(step)
                best = state["progress"]["best_step"]
                if best not in (None, step):
                    self._whole_checkpoint(best)
            except RunError as error:
                faults.append(str(error))
            else:
                return state, faults
        return None, faults

    def keep_checkpoints(self, number: int) -> None:
        """Keep the newest ``number`` checkpoints, once the model itself is saved."""
        self._prune(keep=set(self.checkpoints()[:number]))

    def _needed(self, newest: int) -> set[int]:
        """Return the steps to keep once one is saved: the best, the best before it, and how many the recipe asks for.

        The two best ones need no other checkpoint's weights, so that any one may be damaged and another is left. Those
        of an interruption are not counted: a run that nobody interrupts has none. Later ones than the newest are
        damaged, which is why it went on from before them.
        """
        regular = [(step, best) for step, best, passing in map(self._kind, self.checkpoints()) if not passing]
        regular = [(step, best) for step, best in regular if step <= newest]
        number = max(0, int(self.record.get("config", {}).get("train", {}).get("keep_checkpoints", 0)))
        alone = [step for step, best in regular if best in (None, step)]
        return {*alone[:2], *[step for step, _ in regular[:number]]}

    def _kind(self, step: int) -> tuple[int, int | None, bool]:
        """Return the step of a checkpoint, of the best one so far, and whether it is one of an interruption."""
        try:
            progress = json.loads((self._checkpoint(step) / "progress.json").read_text(encoding="utf-8"))
            return step, progress["best_step"], bool(progress.get("passing"))
        except (OSError, *MALFORMED):
            return step, -1, False

    def _checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:06d}"

    def _prune(self, *, keep: Collection[int | None]) -> None:
        for step in self.checkpoints():
            if step not in keep:
                # Renamed first: a kill halfway leaves nothing that looks like a damaged checkpoint.
                beside = self.folder / "checkpoints" / f".dropped-{step}.{os.getpid()}"
                with suppress(OSError):
                    os.replace(self._checkpoint(step), beside)
                shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):
            (self.folder / "checkpoints").rmdir()


def find(where: str | Path | None, runs: Path) -> Run:
    """Find a run: by folder, by name below ``runs``, or the newest finished one there.

    Of a sweep's folder it is the best trial, of a suite's that holds runs of one task the one that was kept. The
    others, which were trained beside it, are not looked at where the newest is wanted; nor is a student that was
    trained without its teacher, to be compared with.

    Raises:
        RunError: if there is none.
    """
    if where is not None:
        for folder in (looked_for(where, RunError, "The run"), runs / str(where)):
            if (folder / "run.json").is_file():
                return Run.open(folder)
            if suite_of(folder) is not None:
                return Run.open(_kept_of(folder))
            if (folder / SWEEP).is_file():
                return Run.open(_best_of(folder))
        near = did_you_mean(str(where), (run.folder.name for run in ls(runs)))
        raise RunError(f"There is no run '{where}'.{near} 'bertkit runs ls' lists the runs below {runs}.")
    every = ls(runs)
    finished = [
        run for run in every if run.status == "finished" and kept(run) is not False and BESIDE not in run.record
    ]
    if not finished:
        rest = f"; {every[-1].folder} is '{every[-1].status}'" if every else ""
        raise RunError(
            f"There is no finished run below {runs}{rest}. 'bertkit finetune demo/reviews' makes one, "
            "--runs DIR looks elsewhere."
        )
    return max(finished, key=lambda run: str(run.record.get("finished", "")))


def ls(runs: Path) -> list[Run]:
    """Return the runs below ``runs``, and in suites and sweeps there, oldest first; damaged ones are left out."""
    looked_for(runs, RunError, "The folder of runs")
    found = []
    folders = [file.parent for file in sorted(runs.glob("*/run.json"))]
    for suite in sorted(runs.glob(f"*/{SUITE}")):
        with suppress(RunError):
            folders += [suite.parent / member["run"] for member in read_suite(suite.parent)["runs"]]
    for sweep in sorted(runs.glob(f"*/{SWEEP}")):
        with suppress(RunError):
            read_sweep(sweep.parent)
            folders += sorted(sweep.parent.glob("trial-*"))
    for folder in folders:
        with suppress(RunError):
            found.append(Run.open(folder))
    return sorted(found, key=lambda run: str(run.record.get("created", "")))


def suite_of(folder: Path) -> Path | None:
    """Return the suite that a folder is, or that it holds the runs of one task of; None for any other folder."""
    if (folder / SUITE).is_file():
        return folder
    if (folder.parent / SUITE).is_file() and folder.is_dir():
        places = [Path(member["run"]).parts for member in read_suite(folder.parent)["runs"]]
        return folder.parent if any(parts[0] == folder.name and len(parts) > 1 for parts in places) else None
    return None


def holds_runs(folder: Path) -> bool:
    """Say whether a folder is a suite, holds the runs of one task of a suite, or is a sweep."""
    return suite_of(folder) is not None or (folder / SWEEP).is_file()


def read_suite(folder: Path) -> dict[str, Any]:
    """Return what ``suite.json`` holds.

    Raises:
        RunError: if it is damaged.
    """
    file = folder / SUITE
    return _whole(file, _read(file), {"name", "created", "request", "runs", "kept"})


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return what ``sweep.json`` holds.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    file = folder / SWEEP
    if not file.is_file():
        raise RunError(f"{folder} is no sweep: it has no {SWEEP}.")
    return _whole(file, _read(file), {"id", "storage", "request", "num_trials", "status", "best"})


def trial_folder(sweep: Path, number: int) -> Path:
    """Return the run folder of a sweep's trial, counted from 1."""
    return sweep / f"trial-{number:03d}"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}. Train again, or restore it from a copy.") from error
    return found if isinstance(found, dict) else {}


def _below(table: Any, name: str) -> Any:
    """Return the value of a name with dots in nested tables, or None."""
    for key in name.split("."):
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _are_scores(found: Any) -> TypeGuard[dict[str, Any]]:
    """Say whether a value is what ``scores.json`` holds."""
    splits = found.get("splits") if isinstance(found, dict) else None
    return (
        isinstance(splits, dict)
        and all(isinstance(scores, dict) for scores in splits.values())
        and all(isinstance(found.get(key), int) for key in ("best_step", "last_step"))
    )


def _whole(file: Path, record: dict[str, Any], needed: Collection[str]) -> dict[str, Any]:
    missing = sorted(set(needed) - record.keys())
    if missing:
        raise RunError(f"{file} is damaged: it lacks {', '.join(missing)}. Train again, or restore it from a copy.")
    return record


def _kept_of(folder: Path) -> Path:
    """Return the run that a suite, or the folder of one of its tasks, kept.

    Raises:
        RunError: if it holds several tasks, or has not come so far.
    """
    suite = suite_of(folder)
    assert suite is not None
    record = read_suite(suite)
    members = [m for m in record["runs"] if suite == folder or Path(m["run"]).parts[0] == folder.name]
    tasks = list(dict.fromkeys(member["task"] for member in members))
    if len(tasks) > 1:
        folders = dict.fromkeys(str(suite / Path(member["run"]).parts[0]) for member in members)
        places = ", ".join(list(folders)[:3])
        raise RunError(f"{folder} holds runs of {len(tasks)} tasks ({', '.join(tasks)}). Name one: {places}.")
    chosen = record["kept"].get(tasks[0]) if tasks else None
    if chosen is None:
        raise RunError(
            f"{folder} is not finished, so no model was chosen. 'bertkit finetune --resume {suite}' goes on with it."
        )
    return suite / str(chosen["run"])


def _best_of(sweep: Path) -> Path:
    """Return the run of a sweep's best trial.

    Raises:
        RunError: if none has finished, or it was trained on another machine.
    """
    best = read_sweep(sweep)["best"]
    if best is None:
        raise RunError(f"No trial of {sweep} has finished yet. 'bertkit sweep --resume {sweep}' goes on with it.")
    folder = trial_folder(sweep, best["trial"])
    if not (folder / "run.json").is_file():
        raise RunError(f"The best trial of {sweep} is not in it, but at {best['run']}. Fetch that folder and name it.")
    return folder


def kept(run: Run) -> bool | None:
    """Say whether a suite kept a run, or it is a sweep's best trial; None of a run that stands for itself."""
    for place in list(run.folder.parents)[:2]:
        if (place / SUITE).is_file():
            return run.folder in [place / one["run"] for one in read_suite(place)["kept"].values()]
    if (run.folder.parent / SWEEP).is_file():
        best = read_sweep(run.folder.parent)["best"]
        return best is not None and run.folder == trial_folder(run.folder.parent, best["trial"])
    return None


def new_folder(runs: Path, *, name: str, out: Path | None) -> Path:
    """Make a new folder, ``runs/<name>-<n>`` or ``out``.

    Raises:
        RunError: if it cannot be made, or ``out`` holds something already.
    """
    with disk_errors(out or runs):
        return _fresh(out) if out else _numbered(runs, name)


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file whole or not at all."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all; a lone surrogate, from a label, as JSON escapes it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON; text is kept readable, what UTF-8 cannot hold stays escaped.

    Parquet has cells that JSON does not: dates become ISO 8601, decimals text, bytes Base64.
    """
    line = json.dumps(row, ensure_ascii=False, default=_as_json)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(row, default=_as_json)
    return line


def _as_json(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def _numbered(runs: Path, name: str) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    taken = (re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name) for path in runs.iterdir())
    number = 1 + max((int(match[1]) for match in taken if match), default=0)
    while True:
        try:
            (runs / f"{name}-{number:03d}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return runs / f"{name}-{number:03d}"


def _fresh(out: Path) -> Path:
    # What a process that was killed in its first moments left behind is nothing.
    nothing = rf"\.(run|suite|sweep)\.json\.\d+|{re.escape(LOCK)}"
    if out.is_dir() and not all(re.fullmatch(nothing, path.name) for path in out.iterdir()):
        raise RunError(f"{out} is not empty and is no run. Name another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    return out


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into one line; safetensors reports it in an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise RunError(
            f"{place} cannot be written: {error.strerror or error}. Free space or name another --out."
        ) from error
    except SafetensorError as error:
        raise RunError(f"{place} cannot be written: {error}. Free space or name another --out.") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def command_line() -> list[str]:
    """Return what was typed, without passwords and tokens: run folders are shared.

    A script that calls bertkit has options of its own, so what follows ``--hf-token`` and the like is hidden, too.
    """
    shown: list[str] = []
    for text in sys.argv:
        name, equals, _ = text.partition("=")
        if equals and SECRET_OPTION.fullmatch(name):
            shown.append(f"{name}=***")
        elif shown and SECRET_OPTION.fullmatch(shown[-1]) and not text.startswith("-"):
            shown.append("***")
        else:
            shown.append(hide_secrets(hide_password(text)))
    return shown


def hide_password(text: str) -> str:
    """Return a text with ``***`` in place of the password of each address in it (``://user:password@host``)."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]+@", r"\1:***@", text)


def now() -> str:
    """Return the time in UTC, to the microsecond, in a form that sorts."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9 // 1000:06d}Z"
