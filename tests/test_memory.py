"""Free memory under limits, and the faults of a device that has none left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bertkit import memory

GIB = 2**30


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Return a system with 8 GiB to be had and no control groups."""
    write(tmp_path / "proc/meminfo", f"MemTotal: {16 * 2**20} kB\nMemAvailable: {8 * 2**20} kB\n")
    return tmp_path


def test_free_memory_is_what_the_system_says(system: Path) -> None:
    assert memory.free(system=system) == memory.Free(size=8 * GIB, reason="on this machine")


def test_free_memory_is_unknown_without_a_proc_folder(tmp_path: Path) -> None:
    assert memory.free(system=tmp_path) is None


def test_limit_of_a_version_2_group_bounds_what_is_free(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/job/step\n")
    group = system / "sys/fs/cgroup/job/step"
    write(group / "memory.max", f"{4 * GIB}\n")
    write(group / "memory.current", f"{3 * GIB}\n")
    write(group / "memory.stat", f"anon 5\ninactive_file {GIB}\n")
    found = memory.free(system=system)
    assert found == memory.Free(size=2 * GIB, reason="under the cgroup limit of 4.3 GB")


def test_limit_of_a_group_above_counts_too(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/job/step\n")
    write(system / "sys/fs/cgroup/job/step/memory.max", "max\n")
    write(system / "sys/fs/cgroup/job/step/memory.current", "0\n")
    write(system / "sys/fs/cgroup/job/memory.max", f"{GIB}\n")
    write(system / "sys/fs/cgroup/job/memory.current", f"{3 * GIB}\n")
    found = memory.free(system=system)
    assert found is not None
    assert found.size == 0


def test_limit_of_a_version_1_group_is_read_in_a_container_whose_path_is_the_hosts(system: Path) -> None:
    write(system / "proc/self/cgroup", "4:memory:/host/of/container\n3:cpuset:/\n0::/\n")
    group = system / "sys/fs/cgroup/memory"
    write(group / "memory.limit_in_bytes", f"{2 * GIB}")
    write(group / "memory.usage_in_bytes", f"{GIB}")
    write(group / "memory.stat", "inactive_file 7\ntotal_inactive_file 1024\n")
    found = memory.free(system=system)
    assert found is not None
    assert found.size == GIB + 1024


def test_limit_near_2_to_63_is_none(system: Path) -> None:
    write(system / "proc/self/cgroup", "4:memory:/\n")
    write(system / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    write(system / "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}")
    assert memory.free(system=system) == memory.Free(size=8 * GIB, reason="on this machine")


def test_this_process_holds_some_memory() -> None:
    assert memory.held(torch.device("cpu")) > 50e6
    assert memory.held(torch.device("cpu"), system=Path("/nowhere")) == 0


def test_out_of_memory_of_torch_becomes_one_line() -> None:
    with (
        pytest.raises(
            memory.OutOfMemoryError, match=r"^Out of memory in the update: CUDA out of memory\. Tried\. Try\.$"
        ),
        memory.named("in the update", "Try."),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried.\nSee documentation")


def test_cpu_without_memory_is_told_from_other_faults() -> None:
    with pytest.raises(RuntimeError) as fault:
        torch.empty(2**52, dtype=torch.uint8)
    assert memory.is_short(fault.value)
    assert memory.is_short(torch.OutOfMemoryError("CUDA out of memory."))
    assert memory.is_short(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"))
    assert not memory.is_short(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory.named("in the update", "Try."):
        raise RuntimeError("shapes")
