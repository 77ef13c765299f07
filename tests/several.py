"""Several processes for a test, forked from this one, which has imported torch: a start takes no seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from bertkit import processes
from bertkit.cli.launch import environment

PATIENCE = 900.0
"""Seconds after which processes hang."""


def together(
    number: int, work: Callable[..., Any], *arguments: Any, variables: Mapping[str, str] | None = None
) -> list[Any]:
    """Return what ``work`` returns in each of ``number`` processes, or the exception that ended it, by rank.

    One process is one as well, so that nothing of it stays behind in this one.
    """
    import torch
    from torch.distributed import TCPStore

    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(number)]
    children = [context.Process(target=_one, args=(work, arguments, pipe)) for _, pipe in pipes]
    for child, (_, theirs) in zip(children, pipes, strict=True):
        child.start()
        theirs.close()
    # Only now: a process with threads, as the store has them, cannot be forked safely.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    try:
        for rank, (ours, _) in enumerate(pipes):
            given = environment(rank, number, store.port, threads=1) if number > 1 else {}
            ours.send(given | dict(variables or {}))
        return [_received(ours) for ours, _ in pipes]
    finally:
        for child in children:
            child.kill()
            child.join()
        # A failed test's traceback would keep it, and no process may be forked while its thread is there.
        store = None


def _received(pipe: Any) -> Any:
    assert pipe.poll(PATIENCE), "a process hangs"
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return ChildProcessError("a process ended without a word")


def _one(work: Callable[..., Any], arguments: tuple[Any, ...], pipe: Any) -> None:
    """Be one of the processes."""
    os.environ.update(pipe.recv())
    try:
        result = work(*arguments)
        processes.leave()
    except BaseException as error:
        result = error
        with suppress(Exception):
            result.__notes__ = traceback.format_exception(error)
    try:
        pipe.send(result)
    except Exception:
        pipe.send(RuntimeError(f"{type(result).__name__}: {result}"))
    sys.stdout.flush()
    os._exit(0)
