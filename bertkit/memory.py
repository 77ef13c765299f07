"""Memory of a device: how much can be had, and what to do when there is none left."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bertkit.errors import RunError

if TYPE_CHECKING:
    import torch

SYSTEM = Path("/")
"""Where ``proc`` and ``sys`` are."""
UNLIMITED = 2**60
"""A cgroup limit from here on is none: version 1 writes a number near 2**63."""


@dataclass(frozen=True, kw_only=True)
class Free:
    """Memory that can be had, in bytes."""

    size: int
    reason: str
    """What bounds it: ``of this machine``, ``under the cgroup limit of 2.0 GB``."""


def gigabytes(size: int) -> str:
    """Return bytes in the user's unit, 10**9 bytes."""
    return f"{size / 1e9:.1f} GB"


# Free ------------------------------------------------------------------------------------------------------------


def free(device: torch.device | None = None, *, system: Path = SYSTEM) -> Free | None:
    """Return how much memory can still be had on a device, or None where the system does not say.

    Args:
        device: None is the CPU's memory.
        system: where ``proc`` and ``sys`` are.
    """
    if device is not None and device.type == "cuda":
        import torch

        return Free(size=torch.cuda.mem_get_info(device)[0], reason=f"on {device}")
    if device is not None and device.type != "cpu":
        return None
    found = [*_cgroups(system)]
    available = _field(system / "proc/meminfo", "MemAvailable:")
    if available is not None:
        found.append(Free(size=available * 1024, reason="on this machine"))
    return min(found, key=lambda one: one.size, default=None)


def held(device: torch.device, *, system: Path = SYSTEM) -> int:
    """Return the bytes that this process holds on a device now; 0 where the system does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    resident = _field(system / "proc/self/status", "VmRSS:")
    return (resident or 0) * 1024


def _cgroups(system: Path) -> Iterator[Free]:
    """Yield what is left under each limit that holds for this process: its own control group's, and those above it."""
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            root = system / "sys/fs/cgroup" / kinds
            place = root / path.strip("/")
            # In a container the path may be the host's, and the folder above it the container's own.
            for folder in (place, *(above for above in place.parents if above.is_relative_to(root))):
                left = _left(folder, *(FILES[kinds]))
                if left is not None:
                    yield left


FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Names in version 2 and 1 of control groups (kernel.org, admin-guide/cgroup-v2 and cgroup-v1/memory)."""


def _left(folder: Path, limit: str, usage: str, cached: str) -> Free | None:
    """Return what is left under the limit of a control group; files that were read can be given up, so do not count."""
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if not most.isdigit() or not used.isdigit() or int(most) >= UNLIMITED:
        return None
    kept = _field(folder / "memory.stat", cached) or 0
    left = max(0, int(most) - max(0, int(used) - kept))
    return Free(size=left, reason=f"under the cgroup limit of {gigabytes(int(most))}")


def _field(file: Path, name: str) -> int | None:
    """Return the number behind a name in a file of names and numbers."""
    for line in _text(file).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


# Out of memory ---------------------------------------------------------------------------------------------------


class OutOfMemoryError(RunError):
    """A device has too little memory even for the smallest part."""


def is_short(error: RuntimeError) -> bool:
    """Say whether an error of torch is that a device has no memory left; only that of CUDA has a class of its own."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or bool(should_reduce_batch_size(error))


@contextmanager
def named(what: str, way_out: str) -> Iterator[None]:
    """Turn torch's fault of a device that is out of memory into one line.

    Raises:
        OutOfMemoryError: where torch has no memory left.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_short(error):
            raise
        raise OutOfMemoryError(f"Out of memory {what}: {first_line(error)} {way_out}") from error


def first_line(error: BaseException) -> str:
    """Return the first sentences of torch's message, which goes on for a page."""
    return str(error).partition("\n")[0][:200]


def give_back() -> None:
    """Free what nobody holds any more, so that a smaller try finds all of it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
