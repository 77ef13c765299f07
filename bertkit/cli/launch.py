"""``--processes``: this command in several processes on this machine, by torch.distributed's elastic launcher.

Each is ``python -m bertkit`` with the same arguments in a session of its own, and finds in the environment which one it
is, as under ``torchrun``. This process trains nothing: it holds the store in which they find each other, passes signals
on, and where one ends badly it ends the others.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer

from bertkit import processes
from bertkit.cli import console, interrupt
from bertkit.errors import ConfigError

PERIOD = 0.1
"""Seconds between two looks at the processes."""
GRACE = 2.0
"""Seconds that the others have to note in the run folder that one ended badly."""


def spread(asked: str, *, device: str, threads: int) -> None:
    """Go on here where one process is asked for, or this is one of several; else start them, and exit as they do.

    Raises:
        ConfigError: if the number is none, or a launcher started another number.
    """
    here = processes.world().size
    number = _number(asked, device) if here == 1 or asked != "auto" else here
    if here > 1 and asked != "1" and number != here:
        raise ConfigError(
            f"--processes is {asked}, and a launcher started {here} processes already. Drop --processes: what the "
            "launcher started holds."
        )
    if here == 1 and number > 1:
        raise typer.Exit(run(number, threads=threads))


def _number(asked: str, device: str) -> int:
    if asked == "auto":
        if device not in ("auto", "cuda"):
            return 1
        import torch

        return max(1, torch.cuda.device_count())
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"--processes is '{asked}', and must be a number from 1, or auto: one for each GPU.")
    return int(asked)


def run(number: int, *, threads: int = 0) -> int:
    """Run this command in ``number`` processes, and return the exit code."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = start_processes(
        name="bertkit",
        entrypoint=sys.executable,
        args=dict.fromkeys(range(number), ("-m", "bertkit", *sys.argv[1:])),
        envs={rank: environment(rank, number, store.port, threads) for rank in range(number)},
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    pids = context.pids()
    try:
        with _signals_to(pids) as came:
            found = _ended(pids)
        code = _code(found, pids, processes.prefixed(store), came) if found else 0
    finally:
        context.close(death_sig=signal.SIGKILL)
    return code


def environment(rank: int, number: int, port: int, threads: int = 0) -> dict[str, str]:
    """Return what tells a process which one it is."""
    own = threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or max(1, _cores() // number)
    found = {
        "RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": str(own),
        processes.LAUNCHED: str(os.getpid()),
    }
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    return found if loopback is None else {"GLOO_SOCKET_IFNAME": loopback} | found


def _cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _signals_to(pids: Mapping[int, int]) -> Iterator[list[int]]:
    """Pass a first signal on to all processes, which finish the step and save; a second one ends them at once.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def take(number: int, frame: Any) -> None:
        came.append(number)
        for pid in pids.values():
            with suppress(ProcessLookupError):
                os.killpg(pid, number if len(came) == 1 else signal.SIGKILL)
        if len(came) > 1:
            os._exit(interrupt.exit_code(number))

    old = {number: signal.signal(number, take) for number in interrupt.NUMBERS}
    for number in (signal.SIGHUP, signal.SIGQUIT):
        # torch's launcher has its own for these, which wait for half a minute.
        signal.signal(number, signal.SIG_DFL)
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _ended(pids: Mapping[int, int]) -> tuple[int, Any] | None:
    """Wait until all processes have ended well, or one has not; return which, and how."""
    while True:
        ends = {rank: _end(pid) for rank, pid in pids.items()}
        bad = next(((rank, end) for rank, end in ends.items() if end is not None and end.si_status), None)
        if bad is not None or all(end is not None for end in ends.values()):
            return bad
        time.sleep(PERIOD)


def _end(pid: int) -> Any:
    """Return how a process ended, None where it runs; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _code(found: tuple[int, Any], pids: Mapping[int, int], store: Any, came: Sequence[int]) -> int:
    """Give the others a moment, say what no process could say itself, and return the exit code."""
    rank, end = found
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(_end(pid) is None for pid in pids.values()):
        time.sleep(PERIOD)
    if end.si_code == os.CLD_EXITED:
        return int(end.si_status)
    if end.si_status in came:
        # What does not train has nothing to save, and ends by the signal that was passed on.
        return interrupt.exit_code(end.si_status)
    if not store.check(["faults"]):
        name = signal.Signals(end.si_status).name
        memory = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
        run = store.get("run").decode() if store.check(["run"]) else ""
        way = f" 'bertkit {sys.argv[1]} --resume {run}' goes on from its last checkpoint." if run else ""
        console.say(
            f"error: rank {rank} of {len(pids)} (process {pids[rank]}) was killed by {name}{memory}, so the others "
            f"were ended.{way}"
        )
    return 1
