"""The folder of a sweep: ``sweep.json``, the trials' run folders below it, and the study's file."""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from bertkit import config
from bertkit import run as run_folders
from bertkit.errors import RunError, looked_for
from bertkit.events import Listener, Note
from bertkit.run import SWEEP, command_line, hide_password, now
from bertkit.workflows.sweep.plan import Plan
from bertkit.workflows.training import plainly


class Sweep:
    """A folder of trials."""

    def __init__(self, folder: Path, record: dict[str, Any], storage: str = "") -> None:
        self.folder = folder
        self.record = record
        self.storage = storage
        """The shared database's address, with its password; empty where the study is a file in the folder."""

    @classmethod
    def open(cls, folder: Path) -> Sweep:
        """Open a sweep's folder.

        Raises:
            RunError: if it is none, or ``sweep.json`` is damaged.
        """
        return cls(folder, run_folders.read_sweep(folder))

    @property
    def id(self) -> str:
        """Return what says that a trial was trained in this folder, wherever it has been moved since."""
        return str(self.record["id"])

    @property
    def address(self) -> str:
        """Return the address of the study's storage."""
        return self.storage or f"sqlite:///{(self.folder / 'sweep.db').resolve().as_posix()}"

    def lock(self, name: str) -> Path:
        """Return a lock's file."""
        folder = self.folder / ".locks"
        folder.mkdir(exist_ok=True)
        return folder / name

    def trial(self, number: int) -> Path:
        """Return a trial's run folder, without what a process left there that was killed before its run began."""
        folder = run_folders.trial_folder(self.folder, number)
        if folder.is_dir() and not (folder / "run.json").is_file():
            shutil.rmtree(folder)
        return folder

    def write(self, **facts: Any) -> None:
        """Add facts to ``sweep.json``."""
        self.record |= facts
        run_folders.write_json(self.folder / SWEEP, self.record)

    def take_storage(self, given: str) -> str | None:
        """Use the storage that is given, or the stored one; return the difference where they are not the same."""
        stored = self.record["storage"]
        if not given and "***" not in stored:
            self.storage = stored
            return None
        self.storage = given
        shown = hide_password(given)
        return None if shown == stored else f"storage is {shown or 'not given'!r} now and was {stored!r}"


def existing(out: Path, plan: Plan, storage: str) -> Sweep | None:
    """Return the sweep that stands at ``--out``.

    Raises:
        RunError: if it was made from another plan.
    """
    if not (out / SWEEP).is_file():
        return None
    sweep = Sweep.open(out)
    difference = config.first_difference(plan.to_json(), sweep.record["request"]) or sweep.take_storage(storage)
    if difference:
        raise RunError(f"{out} was made from something else: {plainly(difference)}. Name another --out.")
    return sweep


def unfinished(plan: Plan, number: int, runs: Path, storage: str, listen: Listener) -> Sweep | None:
    """Return the newest sweep below ``runs`` that the same call began and that is not finished, and say so.

    One with a shared storage is given back though it is finished: a shared study has one result.
    """
    for file in sorted(runs.glob(f"*/{SWEEP}"), reverse=True):
        with suppress(RunError):
            sweep = Sweep.open(file.parent)
            same = sweep.record["request"] == plan.to_json() and sweep.record["num_trials"] == number
            wanted = same and (sweep.record["status"] != "finished" or storage)
            if wanted and sweep.take_storage(storage) is None:
                listen(Note(message=f"going on with {sweep.folder} (--out DIR begins another)"))
                return sweep
    return None


def at(where: str | Path, runs: Path) -> Sweep:
    """Return the sweep that is named: a folder, or its name below ``runs``.

    Raises:
        RunError: if there is none.
    """
    folder = looked_for(where, RunError, "The sweep")
    below = runs / str(where)
    return Sweep.open(below if (below / SWEEP).is_file() and not (folder / SWEEP).is_file() else folder)


def create(plan: Plan, number: int, runs: Path, out: Path | None, storage: str) -> Sweep:
    """Make the folder of a new sweep.

    Raises:
        RunError: if it cannot be made, or ``out`` holds something already.
    """
    folder = run_folders.new_folder(runs, name=plan.name, out=out)
    record = {
        "created": now(),
        "id": uuid.uuid4().hex,
        "argv": command_line(),
        "storage": hide_password(storage),
        "study": plan.study,
        "request": plan.to_json(),
        "num_trials": number,
        "status": "running",
        "best": None,
    }
    sweep = Sweep(folder, record, storage)
    sweep.write()
    return sweep
