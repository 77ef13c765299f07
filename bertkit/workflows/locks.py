"""Locks between processes: files that one of them holds; the operating system takes them off a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bertkit.errors import RunError
from bertkit.run import LOCK, disk_errors


@contextmanager
def alone(file: Path) -> Iterator[bool]:
    """Hold a lock while the block lasts; give False, at once, where another process has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder while the block lasts.

    Raises:
        RunError: if another one does, or the folder cannot be written.
    """
    file = folder / LOCK
    with ExitStack() as held:
        with disk_errors(folder):
            mine = held.enter_context(alone(file))
        if not mine:
            raise RunError(
                f"{folder} is in use: another process trains in it. Wait until it has ended, or name another --out."
            )
        try:
            yield
        finally:
            # While it is held: whoever waits for it finds that it is gone, and makes a new one. Left behind where the
            # folder cannot be written any more, it does no harm.
            with suppress(OSError):
                file.unlink(missing_ok=True)


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Hold a lock while the block lasts, once no other process has it any more."""
    from filelock import FileLock

    with FileLock(file):
        yield


def is_held(file: Path) -> bool:
    """Say whether a process has a lock."""
    with alone(file) as mine:
        return not mine
