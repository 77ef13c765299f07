"""Which of several processes this is, and what they tell each other: the one place that knows of ranks.

A launcher (``--processes``, ``torchrun``, ``accelerate launch``, Slurm's ``srun``) starts the processes and says in the
environment which is which; :func:`join` makes a group of them with torch.distributed. Rank 0 is the main process: it
alone prints and writes. In one process every function here is its own shortest form.

What one process tells all is an object (:func:`share`, :func:`gather`) and goes through gloo, on a machine with GPUs,
too; gradients are exchanged by what Accelerate wraps the model in.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from bertkit import __version__
from bertkit.errors import BertkitError, ConfigError, DataError, RunError, one_line

if TYPE_CHECKING:
    import torch

LAUNCHED = "BERTKIT_LAUNCHED"
"""Set in the environment of processes that ``--processes`` started: their parent tells which of them was killed."""
PATIENCE = timedelta(minutes=60)
"""How long processes wait for one that prepares data or writes; a process that ended is known at once, not so late."""
HEARTBEAT = 1.0
"""Seconds between two looks at whether another process told of a fault."""
SILENCE = 60
"""Looks without a sign of life after which another machine counts as gone: a cable that is cut closes no connection.

Looks, and not seconds, because this process may have been stopped itself, together with its machine."""
GRACE = 5.0
"""Seconds that a process leaves the launcher, or the one with the fault, to end it before it says anything itself."""
CONTACT = re.compile(
    r"connection (closed|reset)|closed by peer|broken pipe|gloo|nccl|socket|timed? ?out waiting|tcpstore", re.IGNORECASE
)
"""What torch's errors say where another process has gone away; they are plain ``RuntimeError``."""

SHARED_RUNS = "Start the command in each process by itself, without a launcher: they share the runs."
"""What to do in place of several processes for each of several runs."""

Value = TypeVar("Value")


class LostError(RunError):
    """Another process is gone, which is another's fault to tell."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a launcher says of this process."""

    rank: int = 0
    """From 0, over all machines; 0 is the main process."""
    size: int = 1
    local_rank: int = 0
    """From 0, on this machine."""
    local_size: int = 1


def world() -> World:
    """Return what the environment says of this process; one of one where no launcher started it.

    Raises:
        ConfigError: if the launcher's variables make no sense.
    """
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        os.environ.update(of_slurm(os.environ))
    given = {field: os.environ[name] for field, name in names.items() if name in os.environ}
    if not {"rank", "size"} <= given.keys():
        return World()
    try:
        found = World(**{field: int(value) for field, value in given.items()})
    except ValueError:
        found = World(rank=-1)
    if not 0 <= found.rank < found.size:
        raise ConfigError(
            f"The environment says RANK={given['rank']} and WORLD_SIZE={given['size']}, which is no process of a "
            "launcher. Unset both, or start with torchrun, accelerate launch, srun or --processes."
        )
    return found


def asks(name: str) -> bool:
    """Say whether a launcher's configuration switches something on by this variable."""
    return os.environ.get(name, "").lower() == "true"


def of_slurm(given: Mapping[str, str]) -> dict[str, str]:
    """Return torch's variables for a task of ``srun``, and nothing outside of a step of several tasks.

    A batch script's own process has ``SLURM_PROCID`` as well, but no ``SLURM_STEP_NUM_TASKS``.
    """
    needed = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")
    if any(name not in given for name in needed) or int(given["SLURM_STEP_NUM_TASKS"]) < 2:
        return {}
    nodes = given["SLURM_STEP_NODELIST"]
    number = int(given.get("SLURM_JOB_ID", "0")) * 16 + int(given.get("SLURM_STEP_ID", "0")) % 16
    here = re.match(r"\d+", given.get("SLURM_STEP_TASKS_PER_NODE", ""))
    found = {
        "RANK": given["SLURM_PROCID"],
        "WORLD_SIZE": given["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": given.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": given.get("MASTER_PORT") or str(20_000 + number % 12_000),
    }
    return found | ({"LOCAL_WORLD_SIZE": here[0]} if here else {})


def first_host(nodes: str) -> str:
    """Return the first of Slurm's host list (``gpu[03-05,9],cpu1`` is ``gpu03``)."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


# The group --------------------------------------------------------------------------------------------------------


class _Joined:
    """The group that this process is in, if it is in one."""

    world: World = World()
    store: Any = None
    told: bool = False
    """Whether this process told of a fault."""
    attempt: str = ""
    """What all processes of this group, and none of another attempt, put before their notes."""
    hosts: tuple[str, ...] = ()
    """The name of each process's machine."""
    tell: Callable[[BaseException], object] = staticmethod(lambda error: None)
    """Tells of a fault that this process's main thread cannot tell of; the command line gives it."""
    silent: str = ""
    """Which processes gave no sign of life when another was found to be gone."""
    left: threading.Event | None = None
    watch: threading.Thread | None = None


def join(device: str = "auto") -> World:
    """Make one group of the processes that a launcher started; a second call changes nothing.

    Args:
        device: ``--device``; on GPUs gradients go through NCCL.

    Raises:
        ConfigError: if each process cannot have a device of its own, or machines have other versions than the main one.
    """
    found = world()
    if found.size == 1 or _Joined.store is not None:
        return _Joined.world
    import torch
    from torch import distributed

    on_gpu = torch.cuda.is_available() and device != "cpu" and not asks("ACCELERATE_USE_CPU")
    if device == "mps" or device.startswith("cuda:"):
        raise ConfigError(f"--device {device} is one device, and there are {found.size} processes. Drop --device.")
    if on_gpu:
        if found.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{found.local_rank + 1} processes or more were started on this machine, and it has "
                f"{torch.cuda.device_count()} GPUs: one process a GPU, or --device cpu."
            )
        torch.cuda.set_device(found.local_rank)
    # Accelerate's default leaves weights out in all processes but one, and an encoder is checked in each of them.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    _Joined.world, _Joined.told, _Joined.silent = found, False, ""
    _Joined.store = _store()
    _Joined.left = threading.Event()
    _Joined.watch = threading.Thread(target=_watch, args=(_Joined.left,), daemon=True)
    _Joined.watch.start()
    return found


def _store() -> Any:
    """Return what all processes can write to and read from, also when their group is broken."""
    import torch
    from torch import distributed

    mine = (socket.gethostname(), uuid.uuid4().hex, {"bertkit": __version__, "torch": torch.__version__})
    box: list[Any] = [mine] * _Joined.world.size
    distributed.all_gather_object(box, mine)
    _Joined.hosts = tuple(host for host, *_ in box)
    # Launchers count restarts on each machine for itself, so their number is no name of an attempt.
    _Joined.attempt = "" if LAUNCHED in os.environ else box[0][1]
    require_alike([versions for *_, versions in box])
    return _connected()


def require_alike(versions: list[dict[str, str]]) -> None:
    """Refuse machines that are not installed alike: what one process sends another may not understand.

    Raises:
        ConfigError: naming the first process that has another version than the main one, and both versions.
    """
    for rank, found in enumerate(versions):
        for name, one in versions[0].items():
            if found[name] != one:
                raise ConfigError(
                    f"rank {rank} on {_Joined.hosts[rank]} has {name} {found[name]}, and the main process on "
                    f"{_Joined.hosts[0]} has {one}. Install the same versions on every machine."
                )


def _connected() -> Any:
    """Return a connection of its own to the store; a thread that waits on it keeps no other waiting."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return prefixed(store, _Joined.attempt)


def prefixed(store: Any, attempt: str = "") -> Any:
    """Return a store in which an elastic restart finds nothing of the attempt before it."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    return PrefixStore(f"bertkit/{attempt}", store)


def rank() -> int:
    """Return which process of the group this is, from 0."""
    return _Joined.world.rank


def size() -> int:
    """Return how many processes are in the group; 1 before :func:`join`."""
    return _Joined.world.size


def local_size() -> int:
    """Return how many of them are on this machine."""
    return _Joined.world.local_size


def is_main() -> bool:
    """Say whether this is the one process that prints and writes."""
    return _Joined.world.rank == 0


def leave() -> None:
    """Wait for all processes, then take the group apart: none ends, and so ends the others, before all are done."""
    if _Joined.store is None:
        return
    from torch import distributed

    barrier()
    assert _Joined.left is not None
    assert _Joined.watch is not None
    _Joined.left.set()
    # An interpreter that ends while a thread asks the store, which is C++, is aborted.
    _Joined.watch.join(GRACE * 2)
    distributed.destroy_process_group()
    _Joined.world, _Joined.store = World(), None


def refuse(what: str, instead: str) -> None:
    """Refuse work that is one process's.

    Raises:
        ConfigError: if a launcher started several.
    """
    found = world()
    if found.size > 1:
        raise ConfigError(f"bertkit was started in {found.size} processes, and {what} runs in one. {instead}")


# Faults -----------------------------------------------------------------------------------------------------------


def claim() -> bool:
    """Say whether it is for this process to tell of a fault: for one of them, and the main process if it can."""
    if _Joined.store is None:
        return world().rank == 0 or _outlives(GRACE)
    # Where all have the same fault the main process tells it.
    if _Joined.world.rank and _told_by_another(HEARTBEAT):
        return False
    try:
        _Joined.told = _Joined.store.add("faults", 1) == 1
    except RuntimeError:
        return True  # whoever held the store is gone
    return _Joined.told


def claim_lost() -> bool:
    """Say whether it is for this process to tell that another is gone, once nobody else has told or ended this one."""
    if LAUNCHED in os.environ and _outlives(GRACE * 2):
        return True
    _Joined.silent = _silent()
    return not _told_by_another(GRACE) and claim()


def told() -> bool:
    """Say whether any process has told of a fault."""
    try:
        return _Joined.store is not None and bool(_Joined.store.check(["faults"]))
    except RuntimeError:
        return False


def _told_by_another(seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if told():
            return True
        time.sleep(0.05)
    return False


def _outlives(seconds: float) -> bool:
    """Wait for the launcher to end this process; True where it does not."""
    time.sleep(seconds)
    return True


def gone() -> str:
    """Return a sentence of which processes are gone, and how the run goes on; after :func:`claim_lost`."""
    run = ""
    with suppress(RuntimeError):
        if _Joined.store is not None and _Joined.store.check(["run"]):
            run = f" 'bertkit finetune --resume {_Joined.store.get('run').decode()}' goes on from its last checkpoint."
    return f"{_Joined.silent}{run}"


def _named(ranks: list[int]) -> str:
    """Return ranks with the machines that they are on."""
    return ", ".join(f"rank {rank} on {_Joined.hosts[rank]}" for rank in ranks)


def _silent() -> str:
    """Look for some beats which processes give no sign of life, and return a sentence that names them."""
    if _Joined.store is None:
        return f" No answer from {_named([0])}." if _Joined.hosts else ""
    others = [rank for rank in range(_Joined.world.size) if rank != _Joined.world.rank]
    try:
        before = [_beat(_Joined.store, rank) for rank in others]
        time.sleep(HEARTBEAT * 3)
        after = [_beat(_Joined.store, rank) for rank in others]
    except RuntimeError:
        return f" No answer from {_named([0])}."
    ranks = [rank for rank, one, other in zip(others, before, after, strict=True) if one == other]
    return f" No sign of life from {_named(ranks)}." if ranks else ""


def _beat(store: Any, rank: int) -> bytes:
    """Return the last sign of life of a process; nothing before its first."""
    key = f"beat/{rank}"
    return bytes(store.get(key)) if store.check([key]) else b""


def on_silence(tell: Callable[[BaseException], object]) -> None:
    """Say who tells of a machine that gives no sign of life, while this process may wait for it."""
    _Joined.tell = tell


class _Look:
    """What the thread that asks the store has found."""

    over: str = ""
    """Why this process must end: another told of a fault, is silent, or the store is gone; empty while all is well."""
    unanswered: int = 0
    """Beats since the store last answered."""


FAULT, SILENT, NO_STORE = "fault", "silent", "no store"


def _watch(left: threading.Event) -> None:
    """End this process where another told of a fault or is gone: it may wait for it in a collective.

    The store is asked in a thread of its own: a request that the network swallows never comes back.
    """
    look = _Look()
    asking = threading.Thread(target=_ask, args=(left, look), daemon=True)
    asking.start()
    while not look.over and not left.wait(HEARTBEAT):
        look.unanswered += 1
        if look.unanswered > SILENCE:
            look.over = NO_STORE
    # The main thread says that the store is gone as well, unless it waits for what never comes.
    if left.is_set() or (look.over == NO_STORE and left.wait(GRACE * 3)):
        asking.join(GRACE)
        return
    if look.over == NO_STORE:
        _Joined.store = None
    if look.over != FAULT:
        _Joined.tell(LostError(f"another process of the {size()} is gone, so none can go on (it gives no answer)."))
        os._exit(1)
    # What ends by itself, and says in the run folder why, may.
    if not _Joined.told and not left.wait(GRACE):
        os._exit(1)


def _ask(left: threading.Event, look: _Look) -> None:
    """Give signs of life, and look for those of the next process and for faults, until this process leaves.

    Each looks for the next one, the last for the main process, so that the store is asked as often as there are
    processes.
    """
    following, seen, silent, beat = (_Joined.world.rank + 1) % _Joined.world.size, b"", 0, 0
    try:
        store = _connected()
        while not look.over and not left.wait(HEARTBEAT):
            beat += 1
            store.set(f"beat/{_Joined.world.rank}", str(beat))
            last = _beat(store, following)
            seen, silent = last, 0 if last != seen else silent + 1
            look.unanswered = 0
            if store.check(["faults"]):
                look.over = FAULT
            # On one machine the launcher sees what ends, and a process that was stopped may go on.
            elif silent >= SILENCE and _Joined.world.local_size < _Joined.world.size:
                look.over = SILENT
    except RuntimeError:
        look.over = NO_STORE


@contextmanager
def contact() -> Iterator[None]:
    """Turn torch's fault of a process that is gone into one that says so.

    Raises:
        LostError: in place of torch's ``RuntimeError``.
    """
    try:
        yield
    except RuntimeError as error:
        if size() == 1 or not CONTACT.search(str(error)):
            raise
        reason = one_line(str(error))[:120]
        raise LostError(f"another process of the {size()} is gone, so none can go on ({reason}).") from error


def leave_note(name: str, value: str) -> None:
    """Leave a note where the process that started this one finds it."""
    if _Joined.store is not None:
        _Joined.store.set(name, value)


# Telling each other -----------------------------------------------------------------------------------------------


@contact()
def share(value: Value | None = None) -> Value:
    """Return what the main process gave, on every process."""
    if size() == 1:
        return value  # type: ignore[return-value]
    from torch import distributed

    box = [value if is_main() else None]
    distributed.broadcast_object_list(box, src=0, device=_cpu())
    return box[0]  # type: ignore[return-value]


@contact()
def share_tensors(tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """Return the main process's tensors, on the CPU of every process; one after another, so that none is held twice."""
    import torch
    from torch import distributed

    mine = tensors if is_main() and tensors is not None else {}
    if size() == 1:
        return dict(mine)
    found = {}
    for name, shape, dtype in share([(name, value.shape, value.dtype) for name, value in mine.items()]):
        value = mine[name].detach().cpu().contiguous() if is_main() else torch.empty(shape, dtype=dtype)
        distributed.broadcast(value, src=0)
        found[name] = value
    return found


def on_main(function: Callable[[], Value]) -> Value:
    """Return what ``function`` returns on the main process, on every process; what it raises there is raised by all."""
    if size() == 1:
        return function()
    value, error = _tried(function) if is_main() else (None, None)
    found, faults = share((value, _carried([error])))
    _raise([error] if is_main() else faults)
    return found  # type: ignore[return-value]


@contact()
def gather(function: Callable[[], Value]) -> list[Value]:
    """Return what ``function`` returns on each process, in the order of ranks, on the main process; else nothing.

    What it raises on one of them is raised by all, once all are done.
    """
    if size() == 1:
        return [function()]
    from torch import distributed

    value, error = _tried(function)
    values: list[Any] | None = [None] * size() if is_main() else None
    distributed.gather_object((value, _carried([error])[0]), values, dst=0)
    faults = share([fault for _, fault in values] if values is not None else None)
    mine = list(faults)
    mine[rank()] = error
    _raise(mine)
    return [value for value, _ in values] if values is not None else []


@contact()
def sums(*values: float) -> list[float]:
    """Return each value summed over the processes."""
    if size() == 1:
        return list(values)
    import torch
    from torch import distributed

    table = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(table)
    return table.tolist()


def any_of(flag: bool) -> bool:
    """Say whether a flag is set on any process."""
    return bool(sums(float(flag))[0])


def barrier() -> None:
    """Wait until every process is here."""
    any_of(False)


@cache
def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def _tried(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _carried(errors: list[BaseException | None]) -> list[BaseException | None]:
    """Return errors as they can be sent: those of bertkit's as they are, of any other what it says."""
    return [error if error is None or _is_plain(error) else _plain(error) for error in errors]


def _is_plain(error: BaseException) -> bool:
    """Say whether an error is of a class that every process has, and is made of a message as all of them are."""
    kind = type(error)
    return kind.__module__.startswith(f"{__package__}.") and kind.__init__ is Exception.__init__


def _plain(error: BaseException) -> BertkitError:
    """Return what stands for an error that cannot be sent: of the nearest kind that can."""
    if isinstance(error, DataError):
        return DataError(str(error))
    return RunError(f"{type(error).__name__}: {error}")


def _raise(errors: list[BaseException | None]) -> None:
    """Raise the first of the processes' errors."""
    for place, error in enumerate(errors):
        if error is not None:
            if isinstance(error, BertkitError):
                error.rank = place
            raise error
