"""The unfinished output of ``predict --out``: what a killed process leaves, and the same command goes on from.

``<out>.part/`` holds

- ``rows.jsonl`` and ``rejects.jsonl``: what was written, complete lines and perhaps, behind them, one that is not;
- ``journal.jsonl``: a line for each time that a chunk was written: how many rows of the input were read, and the
  SHA-256 of all that was read and of all that was written so far;
- ``about.json``: by which model, and how;
- ``lock``: held by the process that writes; the operating system takes it off one that dies.

Lines are written first and the journal after them, so what a kill, a full disk or a power cut leaves behind the last
line of the journal that still holds is cut off, and the input is read on from there: no row is lost and none comes
twice. The input's rows before that place are read again and must have the same hash; those behind it may have changed,
so a bad row can be mended. The output takes its place by a rename, once it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bertkit.data import Example
from bertkit.data.lines import BadRow, Row
from bertkit.errors import BertkitError, RunError
from bertkit.events import Listener, Note
from bertkit.run import json_line, write_json
from bertkit.workflows import locks

ABOUT, JOURNAL, ROWS, REJECTS, LOCK = "about.json", "journal.jsonl", "rows.jsonl", "rejects.jsonl", "lock"
FORMATTED = "formatted"
"""The output in another format than JSON Lines; made anew from the rows each time."""
MARK_SECONDS = 0.1
"""Least time between two lines of the journal, so that chunks of one row do not make it as long as the output."""
BLOCK = 1 << 20
NOTHING = hashlib.sha256().hexdigest()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A line of the journal: a place between two chunks."""

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


class _Growing:
    """A file that is written at its end, and the hash of what it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.digest = hashlib.sha256()
        path.touch()
        self.file = path.open("r+b")

    def matches(self, size: int, digest: str) -> bool:
        """Read on up to ``size`` and say whether what is there has this hash; False leaves the place where it was."""
        ahead = self.digest.copy()
        self.file.seek(self.size)
        left = size - self.size
        while left > 0 and (block := self.file.read(min(left, BLOCK))):
            ahead.update(block)
            left -= len(block)
        if left or ahead.hexdigest() != digest:
            return False
        self.size, self.digest = size, ahead
        return True

    def cut(self) -> None:
        """Drop what stands behind the place."""
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def write(self, lines: Iterable[str]) -> None:
        """Write lines at the end."""
        data = "".join(f"{line}\n" for line in lines).encode("utf-8")
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def sync(self) -> None:
        """Have the disk hold what was written."""
        self.file.flush()
        os.fsync(self.file.fileno())


class Partial:
    """The folder ``<out>.part``, locked; made by :func:`opened`."""

    def __init__(self, out: Path, folder: Path, about: Mapping[str, Any]) -> None:
        self.out = out
        self.folder = folder
        self.about = about
        self.done = Mark()
        """What the journal says was done before this process."""
        self.num_read = self.num_rows = self.num_truncated = self.num_rejected = 0
        self._read = hashlib.sha256()
        self._marked = time.monotonic()
        self._check_about()
        self._rescue()
        self._rows, self._rejects = _Growing(folder / ROWS), _Growing(folder / REJECTS)
        self._journal = (folder / JOURNAL).open("a+b")
        self._go_back()
        write_json(folder / ABOUT, about)

    # What is there -------------------------------------------------------------------------------------------

    def _check_about(self) -> None:
        """Refuse to mix the predictions of two models or ways.

        Raises:
            RunError: naming the first thing that differs.
        """
        try:
            before = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            # Without it nobody knows what made the rows.
            for name in (JOURNAL, ROWS, REJECTS):
                (self.folder / name).unlink(missing_ok=True)
            return
        for key, value in self.about.items():
            if before.get(key) != value and key != "name":
                was, now = (_shown(key, about) for about in (before, self.about))
                raise self.refused(f"holds rows predicted with {was}, and this command has {now}")

    def refused(self, why: str) -> RunError:
        """Return the error of what is there and cannot be gone on with."""
        return RunError(
            f"{self.folder} {why}. Give the command that began it, delete the folder to start anew, or name another "
            "--out."
        )

    def _rescue(self) -> None:
        """Take the rows back from their final place, where a kill came between the rename and the end."""
        if not (self.folder / ROWS).exists() and self.out.is_file():
            marks = list(self._marks((self.folder / JOURNAL).read_bytes())) if (self.folder / JOURNAL).exists() else []
            if marks and _sha256(self.out) == marks[-1][0].rows:
                shutil.copyfile(self.out, self.folder / ROWS)

    @staticmethod
    def _marks(journal: bytes) -> Iterator[tuple[Mark, int]]:
        """Yield the whole lines of a journal, and where each ends."""
        names = {field.name for field in fields(Mark)}
        end = 0
        for line in journal.splitlines(keepends=True):
            end += len(line)
            try:
                found = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(found, dict) or found.keys() != names:
                return
            yield Mark(**found), end

    def _go_back(self) -> None:
        """Go back to the last place of the journal that what is written agrees with."""
        self._journal.seek(0)
        end = 0
        for mark, after in self._marks(self._journal.read()):
            if not self._rows.matches(mark.rows_size, mark.rows):
                break
            if not self._rejects.matches(mark.rejects_size, mark.rejects):
                break
            self.done, end = mark, after
        # Rows that agree with a line of the journal whose rejects do not are too many.
        if self._rows.size != self.done.rows_size:
            self._rows.file.close()
            self._rows = _Growing(self.folder / ROWS)
            self._rows.matches(self.done.rows_size, self.done.rows)
        self._rows.cut()
        self._rejects.cut()
        self._journal.truncate(end)
        self.num_rows, self.num_truncated = self.done.num_rows, self.done.num_truncated
        self.num_rejected = self.done.num_rejected

    def pairs(self, column: str) -> Iterator[tuple[Example, Any]]:
        """Yield the rows that were done before this process, with their predictions."""
        left = self.done.num_rows
        with (self.folder / ROWS).open("rb") as file:
            while left:
                row = json.loads(file.readline())
                yield row, row.pop(column)
                left -= 1

    # Going on ------------------------------------------------------------------------------------------------

    def unread(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """Yield the rows behind those that are done; those are held against the hash of what was read then.

        Raises:
            RunError: if they are not the same rows.
        """
        for row in rows:
            self._read.update(_fingerprint(row))
            self.num_read += 1
            if self.num_read == self.done.num_read and self._read.hexdigest() != self.done.read:
                raise self.refused(f"holds the predictions of other rows than the {self.num_read} up to {row.place}")
            if self.num_read > self.done.num_read:
                yield row
        if self.num_read < self.done.num_read:
            raise self.refused(f"is of {self.done.num_read} rows, and the input has {self.num_read}")

    def keep(self, rows: Sequence[str], rejects: Sequence[str], *, num_truncated: int) -> None:
        """Write a chunk: all that came of the rows that were read since the last one.

        Args:
            rows: lines of rows with their predictions.
            rejects: lines of rejected rows.
            num_truncated: how many of ``rows`` the model did not see whole.
        """
        self._rows.write(rows)
        self._rejects.write(rejects)
        self.num_rows += len(rows)
        self.num_rejected += len(rejects)
        self.num_truncated += num_truncated
        self._agreed = self._mark_of()
        if time.monotonic() - self._marked >= MARK_SECONDS:
            self._write_mark()

    def _mark_of(self) -> Mark:
        return Mark(
            num_read=self.num_read,
            num_rows=self.num_rows,
            num_truncated=self.num_truncated,
            num_rejected=self.num_rejected,
            read=self._read.hexdigest(),
            rows_size=self._rows.size,
            rows=self._rows.digest.hexdigest(),
            rejects_size=self._rejects.size,
            rejects=self._rejects.digest.hexdigest(),
        )

    _agreed: Mark | None = None
    """The place behind the last chunk that was kept and that the journal does not have yet."""

    def _write_mark(self) -> None:
        if self._agreed is None:
            return
        self._rows.file.flush()
        self._rejects.file.flush()
        self._journal.write(json.dumps(asdict(self._agreed)).encode() + b"\n")
        self._journal.flush()
        self._agreed, self._marked = None, time.monotonic()

    def write_formatted(self, lines: Iterable[str]) -> None:
        """Write the whole output in a format of its own, beside the rows."""
        with (self.folder / FORMATTED).open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    # The end -------------------------------------------------------------------------------------------------

    def finish(self, *, formatted: bool) -> None:
        """Move the output, whole, to its place; the rejects before it."""
        self._write_mark()
        self._rows.sync()
        self._rejects.sync()
        beside = rejects_of(self.out)
        if self.num_rejected:
            # A copy: until the output is in place, the folder holds all that another process needs.
            shutil.copyfile(self.folder / REJECTS, self.folder / f".{REJECTS}")
            os.replace(self.folder / f".{REJECTS}", beside)
        else:
            # Of an earlier output of this name.
            beside.unlink(missing_ok=True)
        os.replace(self.folder / (FORMATTED if formatted else ROWS), self.out)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> int:
        """Keep what was done for the same command; return how many rows that is."""
        with suppress(OSError):
            self._write_mark()
        self.close()
        if not self.num_rows and not self.num_rejected:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.num_rows

    def close(self) -> None:
        """Close the files; a full disk refuses even that."""
        for file in (self._rows.file, self._rejects.file, self._journal):
            with suppress(OSError):
                file.close()


def folder_of(out: Path) -> Path:
    """Return where an unfinished output is kept."""
    return out.with_name(f"{out.name}.part")


def rejects_of(out: Path) -> Path:
    """Return where the rejected rows of an output are written."""
    return out.with_name(f"{out.name}.rejects.jsonl")


@contextmanager
def opened(out: Path, about: Mapping[str, Any], listen: Listener) -> Iterator[Partial]:
    """Open what is unfinished of an output, or begin it; what is not finished in the block stays for the next time.

    Args:
        out: the output.
        about: what decides over predictions; what an earlier process wrote must have been made with the same.
        listen: is told how far that process came, and, at an interrupt, that the rest can follow.

    Raises:
        RunError: if another process writes it, it was begun with something else, or the disk refuses.
    """
    folder = folder_of(out)
    with ExitStack() as stack:
        with _disk_errors(out):
            folder.mkdir(exist_ok=True)
            if not stack.enter_context(locks.alone(folder / LOCK)):
                raise RunError(f"{out} is being written by another process. Wait for it, or name another --out.")
            partial = Partial(out, folder, about)
        if partial.num_rows or partial.num_rejected:
            listen(Note(message=f"{folder}: going on behind row {partial.done.num_read:,}"))
        try:
            with _disk_errors(out):
                yield partial
        except BertkitError as error:
            kept = partial.leave()
            if not kept or str(folder) in str(error):
                raise
            raise type(error)(f"{error} {_kept(folder, kept)}, and the same command goes on from there.") from error
        except KeyboardInterrupt:
            if kept := partial.leave():
                listen(Note(message=f"{_kept(folder, kept)}: the same command goes on from there"))
            raise
        except BaseException:
            partial.leave()
            raise


def _kept(folder: Path, number: int) -> str:
    return f"{number:,} {'row is' if number == 1 else 'rows are'} kept in {folder}"


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Free space or name another --out."
        raise RunError(f"{out} cannot be written: {error.strerror or error}. {advice}") from error


def _fingerprint(row: Row | BadRow) -> bytes:
    """Return a row of the input, and where it stands, for the hash."""
    what = row.reason if isinstance(row, BadRow) else json_line(row.example)
    return f"{row.place}\0{what}\n".encode("utf-8", "backslashreplace")


def _shown(key: str, about: Mapping[str, Any]) -> str:
    """Return one fact for a message; of the model, its name and the beginning of its hash."""
    value = about.get(key)
    if key == "model":
        return f"{about.get('name')} (SHA-256 {str(value)[:12]})"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return f"{key} {text if len(text) <= 80 else f'{text[:77]}...'}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()


def model_hash(folder: Path) -> str:
    """Return the SHA-256 of a model folder's weights, configuration, tokenizer and facts."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", ".json", ".txt", ".model"} and file.is_file():
            found.update(f"{file.name}\0{_sha256(file)}\n".encode())
    return found.hexdigest()
