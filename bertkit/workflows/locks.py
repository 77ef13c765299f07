"""Locks between processes: files that one of them holds; the operating system takes them off a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
def in_turn(file: Path) -> Iterator[None]:
    """Hold a lock while the block lasts, once no other process has it any more."""
    from filelock import FileLock

    with FileLock(file):
        yield


def is_held(file: Path) -> bool:
    """Say whether a process has a lock."""
    with alone(file) as mine:
        return not mine
