"""What the processes beside the main one have of a run: the same facts, and nothing that they write.

The main process finds the task, makes or opens the run folder and holds its lock; then it tells the others what it
found (:func:`lead`), and from there on all do the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import processes
from bertkit.adapters.base import Adapter, Feature
from bertkit.data import Split
from bertkit.errors import RunError
from bertkit.events import Checkpoint, Event
from bertkit.run import PARTS, Run
from bertkit.workflows.preparation import encode

if TYPE_CHECKING:
    from bertkit.workflows.training import Request

SAME = ("data_hash", "encoder_revision", "encoder_hash", "held_out_rows", "tuning_rows", "calibration_rows")
"""Facts that every process must find as the main one does, each on its own machine."""


class Follower(Run):
    """A run folder as the other processes have it: whatever would write does nothing.

    A subclass, because a training asks its run to write in many places, and none of them should have to know who it is.
    """

    def remove(self) -> None:
        """Leave the folder to the main process."""

    def update(self, **facts: Any) -> None:
        """Add facts to the record."""
        self.record |= facts

    def append(self, event: Event) -> None:
        """Count an event."""
        self.num_events += 1

    def cut_events(self, number: int) -> None:
        """Count the events that the main process keeps."""
        self.num_events = number

    def tidy(self) -> None:
        """Leave the folder as it is."""

    def write_json(self, name: str, value: Any) -> Path:
        """Write nothing."""
        return self.folder / name

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write nothing."""
        return self.folder / name

    def write_text(self, name: str, text: str) -> Path:
        """Write nothing."""
        return self.folder / name

    def save_checkpoint(self, event: Checkpoint) -> Path:
        """Count its event; the main process writes it, the generators of all processes with it."""
        self.append(event)
        return self.folder

    def keep_checkpoints(self, number: int) -> None:
        """Leave them to the main process."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the main process tells the others before the first step."""

    request: Request
    folder: Path
    record: dict[str, Any]
    progress: dict[str, Any] | None
    """Of the checkpoint to go on from; its tensors follow."""
    new: bool
    rows: bool = False
    """Whether the data are Python rows, which every process was given."""


def lead(request: Request, run: Run, start: dict[str, Any] | None, *, new: bool) -> None:
    """Tell the other processes what to do."""
    if processes.size() == 1 or not processes.is_main():
        return
    from dataclasses import replace

    rows = request.data is not None and not isinstance(request.data, str | Path)
    progress = None if start is None else {key: start[key] for key in start if key not in PARTS}
    processes.leave_note("run", str(run.folder))
    processes.share(
        Assignment(
            request=replace(request, data=None) if rows else request,
            folder=run.folder,
            record=run.record,
            progress=progress,
            new=new,
            rows=rows,
        )
    )
    for part in PARTS if start is not None else ():
        processes.share_tensors(start[part] if start is not None else None)


def start_of(given: Assignment) -> dict[str, Any] | None:
    """Return the state to go on from, as :func:`lead` sends it."""
    if given.progress is None:
        return None
    return dict(given.progress) | {part: processes.share_tensors(None) for part in PARTS}


def require_same(given: Assignment, record: Mapping[str, Any]) -> None:
    """Refuse to train beside the main process on anything else than it does.

    Raises:
        RunError: naming what differs.
    """
    # Runs of before it was noted have no hash of the encoder.
    known = (name for name in SAME if name in given.record)
    other = next((name for name in known if given.record[name] != record[name]), None)
    if other is not None:
        raise RunError(
            f"this process finds other data or another encoder than the main one ({other} differs). Every machine "
            "needs the same files: copy them, or use a shared folder."
        )


def encoded(adapter: Adapter, split: Split, tokenizer: Any) -> list[Feature]:
    """Return a split's features, made or read by the main process alone and sent to the others."""
    if processes.size() == 1:
        return encode(adapter, split, tokenizer)
    features: Sequence[Feature] | None = encode(adapter, split, tokenizer) if processes.is_main() else None
    columns = processes.share(adapter.packed(features) if features is not None else None)
    if features is None:
        features = encode(adapter, split, tokenizer) if columns is None else adapter.unpacked(columns)
    return list(features)
