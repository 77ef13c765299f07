"""One voice of several processes: the main one's, or of the one that has a fault to tell."""

from __future__ import annotations

import os
import traceback

from bertkit import processes
from bertkit.cli import console
from bertkit.errors import BertkitError, one_line

KEPT = "BERTKIT_STDERR"
"""Where the descriptor of stderr is kept."""


def hush() -> None:
    """Let this process write nothing where it is not the main one of several; :func:`tell` still speaks."""
    processes.on_silence(tell)
    if processes.world().rank == 0:
        return
    # C++ code of torch writes to the descriptors themselves; of stderr a copy is kept for faults.
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.environ[KEPT] = str(kept)


def tell(error: BaseException) -> None:
    """Tell of a fault, if it is for this process to tell; of one that is no bertkit error, with its traceback."""
    found = processes.world()
    if found.size == 1:
        _say(error, "")
        return
    lost = isinstance(error, processes.LostError) or (
        not isinstance(error, BertkitError) and processes.CONTACT.search(str(error)) is not None
    )
    if not (processes.claim_lost() if lost else processes.claim()):
        return
    rank = getattr(error, "rank", None)
    if KEPT in os.environ:
        os.dup2(int(os.environ[KEPT]), 2)
    where = f"rank {found.rank if rank is None else rank} of {found.size}: "
    _say(processes.LostError(f"{error}{processes.gone()}") if isinstance(error, processes.LostError) else error, where)


def _say(error: BaseException, where: str) -> None:
    if not isinstance(error, BertkitError):
        traceback.print_exception(error)
    elif where:
        console.say(f"error: {where}{one_line(str(error))}")
    else:
        console.error(error)
