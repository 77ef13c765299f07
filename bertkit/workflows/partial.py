"""The unfinished output of ``predict --out``: what a killed process leaves, and the same command goes on from.

``<out>.part/`` holds

- ``rows.jsonl`` and ``rejects.jsonl``: what was written so far;
- ``state.json``: by which model the rows were predicted, and how; how many rows of the input were read; the SHA-256 of
  what was read and of what was written until then;
- ``lock``: held by the process that writes; the operating system takes it off one that dies.

Lines are written and synced first, and the state is replaced after them. What stands behind the place that it names is
cut off, and the input is read on from there: no row is lost and none comes twice. The rows of the input before that
place are read again and must have the same hash; those behind it may have changed, so that a bad row can be mended.
The output takes its place by a rename, once it is whole.

A part of an output (:mod:`bertkit.workflows.shards`) is such a folder as well, and stays one: its state says at the end
that it is complete.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertkit.data.lines import BadRow, Row
from bertkit.errors import BertkitError, RunError
from bertkit.events import Listener, Note
from bertkit.run import disk_errors, json_line, write_json
from bertkit.workflows import locks

STATE, ROWS, REJECTS, LOCK = "state.json", "rows.jsonl", "rejects.jsonl", "lock"
FINISHED = "finished"
"""The output in another form than its rows, as gzip or in a format of the task type; made anew each time."""
SECONDS = 1.0
"""Least time between two states: syncing takes milliseconds, and chunks of a few rows hardly more."""
BLOCK = 1 << 20
NOTHING = hashlib.sha256().hexdigest()


@dataclass(frozen=True, kw_only=True)
class Done:
    """How far an output is: a place between two chunks."""

    num_read: int = 0
    """Rows of the input, good and bad."""
    num_rows: int = 0
    num_truncated: int = 0
    num_rejected: int = 0
    read: str = NOTHING
    """SHA-256 of the rows of the input."""
    rows_size: int = 0
    """Bytes of ``rows.jsonl``."""
    rows: str = NOTHING
    rejects_size: int = 0
    rejects: str = NOTHING
    num_chunks: int = 0
    """Chunks that the rows were read in."""
    complete: bool = False
    """Whether it is a part of an output (:mod:`bertkit.workflows.shards`) with nothing left to do."""

    def is_sound(self) -> bool:
        """Say whether each field is of its kind, which of what was read from a file is not sure."""
        return all(type(value) is type(getattr(Done, name)) for name, value in asdict(self).items())


class _Growing:
    """A file that is written at its end, and the hash of what it holds."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.file = path.open("r+b")
        self.size = 0
        self.digest = hashlib.sha256()

    def back_to(self, size: int, digest: str = NOTHING) -> bool:
        """Drop what stands behind ``size``; say whether what stands before it has this hash."""
        self.file.seek(0)
        self.size, self.digest = 0, hashlib.sha256()
        while block := self.file.read(min(size - self.size, BLOCK)):
            self.size += len(block)
            self.digest.update(block)
        self.file.truncate(self.size)
        self.file.seek(self.size)
        return self.size == size and self.digest.hexdigest() == digest

    def write(self, lines: Iterable[str]) -> None:
        """Write lines at the end."""
        data = "".join(f"{line}\n" for line in lines).encode("utf-8")
        self.file.write(data)
        self.size += len(data)
        self.digest.update(data)

    def sync(self) -> None:
        """Have the disk hold what was written."""
        self.file.flush()
        os.fsync(self.file.fileno())


class Partial:
    """The folder ``<out>.part``, locked; made by :func:`opened`."""

    def __init__(self, out: Path, about: Mapping[str, Any], folder: Path) -> None:
        self.out = out
        self.folder = folder
        self.about = about
        self.begun = self.saved = self.done = self._found()
        """How far it was before this process; how far the state says that it is; how far it is."""
        self._digest = hashlib.sha256()
        self._num_read = 0
        self._saved_at = time.monotonic()
        if self.begun.num_rows and not (self.folder / ROWS).exists() and out.is_file():
            # A kill between the rename and the end; whether these are the rows, their hash says.
            shutil.copyfile(out, self.folder / ROWS)
        self._rows = _Growing(self.folder / ROWS)
        self._rejects = _Growing(self.folder / REJECTS)

    def go_back(self) -> bool:
        """Cut off what was not saved; say whether what was is undamaged, and start anew otherwise."""
        is_whole = self._rows.back_to(self.begun.rows_size, self.begun.rows)
        is_whole &= self._rejects.back_to(self.begun.rejects_size, self.begun.rejects)
        if not is_whole:
            self.begun = self.saved = self.done = Done()
            self._rows.back_to(0)
            self._rejects.back_to(0)
        return is_whole

    def _found(self) -> Done:
        """Return how far the state says that the output is.

        Raises:
            RunError: if another model or way made it, naming the first thing that differs.
        """
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            about, done = dict(state["about"]), Done(**state["done"])
        except (OSError, ValueError, LookupError, TypeError):
            return Done()
        if not done.is_sound():
            return Done()
        for key, value in self.about.items():
            if about.get(key) != value and key != "name":
                was, now = shown(key, about), shown(key, self.about)
                raise self.refused(f"holds rows predicted with {was}, and this command has {now}")
        return done

    def refused(self, why: str) -> RunError:
        """Return the error of what is there and cannot be gone on with."""
        return RunError(
            f"{self.folder} {why}. Give the command that began it, delete the folder to start anew, or name another "
            "--out."
        )

    def lines(self) -> Iterator[str]:
        """Yield the lines of the rows that were done before this process."""
        with (self.folder / ROWS).open(encoding="utf-8", newline="\n") as file:
            for _ in range(self.begun.num_rows):
                yield file.readline()

    def unread(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """Yield the rows behind those that are done; those are held against the hash of what was read then.

        Raises:
            RunError: if they are not the same rows.
        """
        before = self.begun.num_read
        for row in rows:
            self._digest.update(fingerprint(row))
            self._num_read += 1
            if self._num_read == before and self._digest.hexdigest() != self.begun.read:
                raise self.refused(f"holds the predictions of other rows than the {before} up to {row.place}")
            if self._num_read > before:
                if self.begun.complete:
                    raise self.refused(f"is complete with {before} rows, and the input has more")
                yield row
        if self._num_read < before:
            raise self.refused(f"is of {before} rows, and the input has {self._num_read}")

    def took(self, number: int) -> None:
        """Count rows that were read by others, whose hash they know."""
        self._num_read += number

    def keep(self, rows: Sequence[str], rejects: Sequence[str], *, num_truncated: int, head: str = "") -> None:
        """Write a chunk: all that came of the rows that were read since the last one.

        Args:
            rows: lines of rows with their predictions.
            rejects: lines of rejected rows.
            num_truncated: how many of ``rows`` the model did not see whole.
            head: a line to stand before ``rows``, not counted as one of them.
        """
        self._rows.write([head, *rows] if head else rows)
        self._rejects.write(rejects)
        self.done = Done(
            num_read=self._num_read,
            num_rows=self.done.num_rows + len(rows),
            num_truncated=self.done.num_truncated + num_truncated,
            num_rejected=self.done.num_rejected + len(rejects),
            read=self._digest.hexdigest(),
            rows_size=self._rows.size,
            rows=self._rows.digest.hexdigest(),
            rejects_size=self._rejects.size,
            rejects=self._rejects.digest.hexdigest(),
            num_chunks=self.done.num_chunks + 1,
        )
        if time.monotonic() - self._saved_at >= SECONDS:
            self.save()

    def save(self) -> None:
        """Have the disk hold what was kept, and the state say so."""
        if self.saved == self.done:
            return
        self._rows.sync()
        self._rejects.sync()
        write_json(self.folder / STATE, {"about": self.about, "done": asdict(self.done)})
        self.saved, self._saved_at = self.done, time.monotonic()

    def complete(self, lines: Iterable[str]) -> None:
        """Take all lines, each chunk kept when the first of its lines is taken, and say that nothing is missing."""
        for _ in lines:
            pass
        self.done = replace(self.done, complete=True)
        self.save()
        self.close()

    def finish(self, lines: Iterable[str], *, formatted: bool) -> None:
        """Move the output, whole, to its place; the rejects before it.

        Args:
            lines: of the output; a chunk is kept when the first of its lines is taken.
            formatted: they are in a format of their own.
        """
        whole = self.folder / ROWS
        if formatted:
            whole = self._written(f"{line}\n".encode("utf-8", "backslashreplace") for line in lines)
        else:
            for _ in lines:
                pass
        self.save()
        if not formatted and self.out.suffix == ".gz":
            with (self.folder / ROWS).open("rb") as rows:
                whole = self._written(rows)
        beside = rejects_of(self.out)
        if self.done.num_rejected:
            # A copy: until the output is in place, the folder holds all that another process needs.
            shutil.copyfile(self.folder / REJECTS, self.folder / f".{REJECTS}")
            os.replace(self.folder / f".{REJECTS}", beside)
        else:
            # Of an earlier output of this name.
            beside.unlink(missing_ok=True)
        os.replace(whole, self.out)
        self.close()
        self._remove()

    def _written(self, lines: Iterable[bytes]) -> Path:
        """Write the whole output, as gzip where it is called so; the same lines always become the same bytes."""
        whole = self.folder / FINISHED
        with whole.open("wb") as file:
            if self.out.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                    packed.writelines(lines)
            else:
                file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        return whole

    def _remove(self) -> None:
        """Remove the folder; the lock last, so that no other process begins in what is being removed."""
        for name in (STATE, ROWS, REJECTS, FINISHED):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> str:
        """Keep what was done for the same command; return the words that say so, none where there is nothing."""
        with suppress(OSError, RunError):
            self.save()
        self.close()
        number = self.saved.num_rows
        if not self.saved.num_read and not self.saved.complete:
            self._remove()
            return ""
        return f"{number:,} {'row is' if number == 1 else 'rows are'} kept in {self.folder}"

    def close(self) -> None:
        """Close the files; a full disk refuses even that."""
        for growing in (self._rows, self._rejects):
            with suppress(OSError):
                growing.file.close()


def folder_of(out: Path) -> Path:
    """Return where an unfinished output is kept."""
    return out.with_name(f"{out.name}.part")


def rejects_of(out: Path) -> Path:
    """Return where the rejected rows of an output are written."""
    return out.with_name(f"{out.name}.rejects.jsonl")


@contextmanager
def opened(out: Path, about: Mapping[str, Any], listen: Listener, *, folder: Path | None = None) -> Iterator[Partial]:
    """Open what is unfinished of an output, or begin it; what is not finished in the block stays for the next time.

    Args:
        out: the output.
        about: what decides over predictions; what an earlier process wrote must have been made with the same.
        listen: is told how far that process came, and, at an interrupt, that the rest can follow.
        folder: where it is kept, if not in ``<out>.part``.

    Raises:
        RunError: if another process writes it, it was begun with something else, or the disk refuses.
    """
    folder = folder or folder_of(out)
    with ExitStack() as stack:
        with disk_errors(out):
            folder.mkdir(exist_ok=True)
            if not stack.enter_context(locks.alone(folder / LOCK)):
                raise RunError(f"{out} is being written by another process. Wait for it, or name another --out.")
            partial = Partial(out, about, folder)
        try:
            with disk_errors(out):
                if not partial.go_back():
                    listen(Note(message=f"{folder} is damaged: starting anew", level="warning"))
                elif partial.begun.num_read and not partial.begun.complete:
                    listen(Note(message=f"{folder}: going on behind row {partial.begun.num_read:,}"))
                yield partial
        except BaseException as error:
            kept = partial.leave()
            if kept and isinstance(error, BertkitError) and str(folder) not in str(error):
                raise type(error)(f"{error} {kept}, and the same command goes on from there.") from error
            if kept and isinstance(error, KeyboardInterrupt):
                listen(Note(message=f"{kept}: the same command goes on from there"))
            raise


def fingerprint(row: Row | BadRow) -> bytes:
    """Return a row of the input, and where it stands, for the hash."""
    what = row.reason if isinstance(row, BadRow) else json_line(row.example)
    return f"{row.place}\0{what}\n".encode("utf-8", "backslashreplace")


def shown(key: str, about: Mapping[str, Any]) -> str:
    """Return one fact for a message; of the model, its name and the beginning of its hash."""
    value = about.get(key)
    if key == "model":
        return f"{about.get('name')} (SHA-256 {str(value).removeprefix('sha256:')[:12]})"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return f"{key} {text if len(text) <= 80 else f'{text[:77]}...'}"
