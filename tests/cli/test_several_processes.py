"""``--processes`` and other launchers from outside: one voice, exit codes, signals, a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bertkit
from bertkit.cli import launch
from bertkit.errors import ConfigError
from tests.conftest import reviews, write_jsonl

PATIENCE = 900.0
"""Seconds for what takes ten on an idle machine."""
SMALL = ["--precision", "float32", "--threads", "1", "--device", "cpu", "--set", "train.max_length=64"]
SMALL += ["--set", "train.batch_size=8", "--set", "eval.resamples=0"]
ENDLESS = [
    *SMALL,
    "--set",
    "train.max_steps=1000000",
    "--set",
    "train.eval_steps=10",
    "--set",
    "train.learning_rate=1e-6",
]


def started(arguments: list[str | Path], *launcher: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command in a session of its own."""
    root = Path(bertkit.__file__).parents[1]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *(launcher or ("bertkit",)), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=variables, text=True, start_new_session=True, **pipes)


def ended(process: subprocess.Popen[str], *, seconds: float = PATIENCE) -> tuple[str, str]:
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.1)


def checkpoints(run: Path) -> bool:
    return any(run.glob("checkpoints/step-*"))


def workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """Return rank -> process id of what a launcher started."""
    import psutil

    return {int(child.environ()["RANK"]): child.pid for child in psutil.Process(process.pid).children()}


def alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def midway(data: Path, encoder: Path, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Return two processes that have written a checkpoint, and their run."""
    given = ["finetune", data, "--encoder", encoder, "--out", "run", *ENDLESS, "--processes", "2"]
    process = started(given, folder=folder)
    wait_for(lambda: checkpoints(folder / "run"), process)
    return process, folder / "run"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "reviews.jsonl", reviews(60))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "option"),
    [
        ((), ["--processes", "2"]),
        (("torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module", "bertkit"), []),
        (("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
          "--dynamo_backend=no", "--module", "bertkit"), []),
    ],
    ids=["processes", "torchrun", "accelerate"],
)  # fmt: skip
def test_one_process_speaks(
    launcher: tuple[str, ...], option: list[str], data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    arguments = ["finetune", data, "--encoder", tiny_encoder, "--out", "run", "--json", *SMALL, *option]
    process = started([*arguments, "--set", "train.max_steps=3"], *launcher, folder=tmp_path)
    out, err = ended(process)
    assert process.returncode == 0, err
    assert json.loads(out)["steps"] == 3
    assert err.count("training on 54 examples, 3 steps") == 1
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"]["number"] == 2


FSDP2 = """
distributed_type: FSDP
num_machines: 1
num_processes: 2
mixed_precision: 'no'
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
"""


@pytest.mark.slow
def test_accelerates_configuration_is_honoured(data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "fsdp.yaml").write_text(FSDP2)
    launcher = ("accelerate.commands.launch", "--config_file", "fsdp.yaml", "--module", "bertkit")
    given = ["finetune", data, "--encoder", tiny_encoder, "--out", "run", *SMALL, "--set", "train.max_steps=3"]
    given[given.index("float32")] = "auto"
    process = started(given, *launcher, folder=tmp_path)
    _, err = ended(process)
    assert process.returncode == 0, err
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["processes"]["engine"] == "FSDP2"
    assert found["processes"]["number"] == 2
    assert (found["device"]["precision"], found["device"]["reason"]) == (
        "float32",
        "Accelerate's configuration says so",
    )


@pytest.mark.slow
def test_killed_process_ends_all_and_the_run_goes_on(data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    process, run = midway(data, tiny_encoder, tmp_path)
    pids = workers(process)
    os.kill(pids[1], signal.SIGKILL)
    _, err = ended(process, seconds=60)
    assert process.returncode == 1
    assert not any(map(alive, pids.values()))
    (message,) = [line for line in err.splitlines() if line.startswith("error")]
    assert message.startswith(f"error: rank 1 of 2 (process {pids[1]}) was killed by SIGKILL")
    assert "'bertkit finetune --resume run' goes on from its last checkpoint" in message
    assert "Traceback" not in err
    # In one process, and until it is asked to stop.
    process = started(["finetune", "--resume", "run"], folder=tmp_path)
    before = max(run.glob("checkpoints/step-*"))
    wait_for(lambda: max(run.glob("checkpoints/step-*"), default=before) > before, process)
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130
    assert "was written with --processes 2, and goes on with 1: weights, optimizer" in err


@pytest.mark.slow
def test_signal_stops_all_after_the_step_and_saves(data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    process, run = midway(data, tiny_encoder, tmp_path)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert process.returncode == 143
    assert err.count("stopping after this step") == 1
    assert err.count("next: bertkit finetune --resume run") == 1
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_fault_is_told_once_with_its_rank(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [*reviews(20), {"text": "a film"}]
    data = write_jsonl(tmp_path / "bad.jsonl", rows)  # type: ignore[arg-type]
    process = started(["finetune", data, "--encoder", tiny_encoder, "--out", "run", *SMALL, "--processes", "2"],
                      folder=tmp_path)  # fmt: skip
    out, err = ended(process)
    assert process.returncode == 1
    (message,) = [line for line in err.splitlines() if "error" in line]
    assert message.startswith("error: rank 0 of 2: ")
    assert "bad.jsonl:21" in message
    assert not out
    assert not (tmp_path / "run").exists()


def test_number_of_processes_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--processes is 'two', and must be a number from 1, or auto"):
        launch.spread("two", device="auto", threads=0)
    launch.spread("1", device="auto", threads=0)
    launch.spread("auto", device="cpu", threads=0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    launch.spread("4", device="auto", threads=0)
    launch.spread("auto", device="auto", threads=0)
    with pytest.raises(ConfigError, match=r"--processes is 2, and a launcher started 4 processes already"):
        launch.spread("2", device="auto", threads=0)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.environment(1, 3, 1234)["OMP_NUM_THREADS"] == "2"
    assert launch.environment(1, 3, 1234, threads=5)["OMP_NUM_THREADS"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert launch.environment(1, 3, 1234)["OMP_NUM_THREADS"] == "4"
