"""What a launcher says of a process, and what processes tell each other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bertkit import processes
from bertkit.adapters.base import ExampleError
from bertkit.errors import ConfigError, DataError, RunError
from bertkit.loop import DivergedError, Interrupted
from bertkit.processes import World, first_host, of_slurm, world
from tests.several import together

SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-04],cpu1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *SLURM):
        monkeypatch.delenv(name, raising=False)


def test_world_without_a_launcher_is_one_process() -> None:
    assert world() == World(rank=0, size=1)
    assert processes.size() == 1
    assert processes.is_main()


def test_world_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert world() == World(rank=3, size=4, local_rank=1, local_size=2)


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("one", "4"), ("-1", "4")])
def test_senseless_rank_is_refused(rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ConfigError, match=rf"RANK={rank} and WORLD_SIZE={size}, which is no process of a launcher"):
        world()


def test_world_is_what_srun_says() -> None:
    found = of_slurm(SLURM)
    port = found.pop("MASTER_PORT")
    assert 20_000 <= int(port) < 32_000
    assert found == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu03",
    }
    assert of_slurm(SLURM | {"MASTER_ADDR": "here", "MASTER_PORT": "5"})["MASTER_ADDR"] == "here"


def test_batch_script_of_slurm_is_one_process() -> None:
    assert of_slurm({name: value for name, value in SLURM.items() if "STEP" not in name}) == {}
    assert of_slurm(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) == {}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[03-05,9],cpu1", "gpu03"), ("a[1,3]-ib", "a1-ib"), ("node-7", "node-7")],
)
def test_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_work_of_one_process_is_refused_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.refuse("a sweep", "Do.")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"bertkit was started in 2 processes, and a sweep runs in one\. Do\."):
        processes.refuse("a sweep", "Do.")


def exchanged() -> tuple[object, ...]:
    import torch

    processes.join("cpu")
    rank = processes.rank()
    tensors = {"a": torch.arange(3), "b": torch.tensor(0.5)} if rank == 0 else None
    received = processes.share_tensors(tensors)
    return (
        processes.share({"from": rank}),
        processes.sums(1.0, rank),
        processes.any_of(rank == 2),
        processes.on_main(lambda: rank),
        processes.gather(lambda: rank * 10),
        {name: value.tolist() for name, value in received.items()},
    )


def test_processes_tell_each_other() -> None:
    same = ({"from": 0}, [3.0, 3.0], True, 0)
    tensors = {"a": [0, 1, 2], "b": 0.5}
    assert together(3, exchanged) == [(*same, [0, 10, 20], tensors), (*same, [], tensors), (*same, [], tensors)]
    assert together(1, exchanged) == [({"from": 0}, [1.0, 0.0], False, 0, [0], tensors)]


def failing(where: int) -> None:
    processes.join("cpu")

    def work() -> None:
        if processes.rank() == where:
            raise DataError("rows.jsonl:3: no.")

    processes.gather(work)


def test_fault_is_raised_by_all_and_names_its_rank() -> None:
    errors = together(3, failing, 2)
    assert [(type(error), str(error), error.rank) for error in errors] == [(DataError, "rows.jsonl:3: no.", 2)] * 3


FAULTS = (ExampleError(3, "has no text."), KeyError("key"), Interrupted(), DivergedError("Step 3."))


def failing_with(fault: int) -> tuple[type[Exception], str]:
    processes.join("cpu")

    def work() -> None:
        if processes.rank() == 1:
            raise FAULTS[fault]

    try:
        processes.gather(work)
    except Exception as error:
        return type(error), str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (0, DataError, "Example 4 has no text."),
        (1, RunError, "KeyError: 'key'"),
        (2, Interrupted, ""),
        (3, DivergedError, "Step 3."),
    ],
)
def test_fault_of_another_process_keeps_its_kind(fault: int, kind: type[Exception], text: str) -> None:
    assert together(2, failing_with, fault)[0] == (kind, text)


def claimed() -> bool:
    processes.join("cpu")
    return processes.claim()


def test_fault_of_all_is_told_by_the_main_process() -> None:
    assert together(3, claimed) == [True, False, False]


def lonely() -> None:
    processes.join("cpu")
    if processes.rank() == 1:
        os._exit(9)
    processes.barrier()


def test_process_that_is_gone_is_known_at_once() -> None:
    one, other = together(2, lonely)
    assert isinstance(other, ChildProcessError)
    assert isinstance(one, processes.LostError)
    with pytest.raises(RunError, match="another process of the 2 is gone, so none can go on"):
        raise one


def counted_restarts() -> bool:
    # Each machine's launcher counts its own restarts.
    os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ["RANK"]
    del os.environ[processes.LAUNCHED]
    processes.join("cpu")
    if processes.rank() == 1:
        processes.claim()
    processes.barrier()
    return processes.told()


def test_fault_is_heard_on_machines_that_were_restarted_less_often() -> None:
    assert together(2, counted_restarts) == [True, True]


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes._Joined, "hosts", ("node1", "node2"))
    processes.require_alike([{"torch": "2.13.0"}] * 2)
    with pytest.raises(
        ConfigError, match=r"rank 1 on node2 has torch 2.12.0, and the main process on node1 has 2.13.0\. Install"
    ):
        processes.require_alike([{"torch": "2.13.0"}, {"torch": "2.12.0"}])


def listen_fast(folder: Path) -> None:
    """Look often, as one process a machine, and write down what is told of the others."""
    processes.HEARTBEAT, processes.SILENCE, processes.GRACE = 0.1, 20, 0.5
    del os.environ[processes.LAUNCHED]

    def tell(error: BaseException) -> None:
        claimed = processes.claim_lost()
        (folder / f"told-{processes.rank()}").write_text(f"{claimed}: {error}{processes.gone()}")

    processes.on_silence(tell)


def wait_for(file: Path) -> None:
    end = time.monotonic() + 300
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    os._exit(0)


def beside_a_silent_machine(folder: Path) -> None:
    listen_fast(folder)
    if os.environ["RANK"] == "1":

        def mute(left: object, look: processes._Look) -> None:
            while not look.over:
                look.unanswered = 0
                time.sleep(0.01)

        processes._ask = mute  # type: ignore[assignment]
    processes.join("cpu")
    if processes.rank() == 1:
        wait_for(folder / "told-0")
    processes.leave_note("run", "runs/x")
    processes.barrier()


@pytest.mark.slow
def test_machine_without_a_sign_of_life_is_named(tmp_path: Path) -> None:
    import socket

    found = together(2, beside_a_silent_machine, tmp_path, variables={"LOCAL_WORLD_SIZE": "1"})
    assert isinstance(found[0], ChildProcessError)
    said = (tmp_path / "told-0").read_text()
    assert said == (
        "True: another process of the 2 is gone, so none can go on (it gives no answer). No sign of life from "
        f"rank 1 on {socket.gethostname()}. 'bertkit finetune --resume runs/x' goes on from its last checkpoint."
    )


def beside_a_store_without_answer(folder: Path) -> None:
    listen_fast(folder)
    if os.environ["RANK"] == "1":
        processes._ask = lambda left, look: time.sleep(60)  # type: ignore[assignment]
    else:
        processes.SILENCE = 10_000
    processes.join("cpu")
    if processes.rank() == 0:
        wait_for(folder / "told-1")
    processes.barrier()


@pytest.mark.slow
def test_main_process_that_gives_no_answer_is_named(tmp_path: Path) -> None:
    import socket

    found = together(2, beside_a_store_without_answer, tmp_path, variables={"LOCAL_WORLD_SIZE": "1"})
    assert isinstance(found[1], ChildProcessError)
    said = (tmp_path / "told-1").read_text()
    assert said.endswith(f"so none can go on (it gives no answer). No answer from rank 0 on {socket.gethostname()}.")
