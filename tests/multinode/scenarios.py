"""What is shown on two hosts: trainings from end to end, and trainings in which something dies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import reviews, save_tiny_bert, write_jsonl
from tests.multinode import guide
from tests.multinode.hosts import Command, Host, NotShownError, environment, two, wait_for

SETTINGS = {
    "train.learning_rate": "1e-3",
    "train.batch_size": "8",
    "train.micro_batch_tokens": "48",
    "train.max_length": "64",
    "eval.resamples": "0",
}
SHORT, LONG = 50, 300
"""Steps: for the loss curve, and for what is killed in the middle."""
CLOSE = 1e-6
"""Between the losses of one process and of two."""
SOON = 30.0
"""Seconds in which a machine that closed its connections must be named; it takes under ten on an idle one."""
LATE = 180.0
"""The same where nothing is closed: 60 looks at a second each, on a machine that may be busy."""


def task(steps: int, encoder: str = "tiny") -> list[str]:
    """Return what is trained, as words of a command."""
    given = SETTINGS | {"train.max_steps": str(steps), "train.eval_steps": str(steps // 5)}
    words = ["rows.jsonl", "--encoder", encoder, "--precision", "float32", "--threads", "1", "--device", "cpu"]
    return [*words, *(word for name, value in given.items() for word in ("--set", f"{name}={value}"))]


def furnish(folder: Path) -> None:
    """Give a host its own data and encoders: ``plain`` is one without dropout."""
    folder.mkdir(exist_ok=True)
    save_tiny_bert(folder / "tiny")
    save_tiny_bert(folder / "plain", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_jsonl(folder / "rows.jsonl", reviews(60))


@dataclass
class Trained:
    """What a training came to."""

    losses: list[float]
    weights: str
    """Hash of the model's file."""
    scores: dict[str, Any]

    @classmethod
    def of(cls, run: Path) -> Trained:
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        return cls(
            losses=[event["loss"] for event in events if event["event"] == "step"],
            weights=hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(),
            scores=json.loads((run / "scores.json").read_text())["splits"],
        )


class Stage:
    """The undisturbed trainings on one host, made once, and what makes two hosts for a scenario."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[int, int, str], Trained] = {}
        furnish(folder / "alone")

    def alone(self, processes: int, steps: int, encoder: str = "tiny") -> Trained:
        """Return what processes on one host come to, undisturbed."""
        key = (processes, steps, encoder)
        if key not in self.known:
            out = f"run-{processes}-{steps}-{encoder}"
            words = [sys.executable, "-m", "bertkit", "finetune", *task(steps, encoder), "--out", out]
            ended = subprocess.run(
                [*words, "--processes", str(processes)], cwd=self.folder / "alone", capture_output=True, text=True,
                env=environment(self.folder / "alone"), check=False,
            )  # fmt: skip
            require(ended.returncode == 0, f"the undisturbed run ended with {ended.returncode}: {ended.stderr}")
            self.known[key] = Trained.of(self.folder / "alone" / out)
        return self.known[key]


def require(true: bool, otherwise: str) -> None:
    """Raise a NotShownError where something is not so."""
    if not true:
        raise NotShownError(otherwise)


def finish(*commands: Command) -> None:
    """Wait until all have ended, and well."""
    for command in commands:
        code = command.ended()
        require(code == 0, f"ended with {code}: " + "\n".join(each.tail() for each in commands))


def same(stage: Stage, host: Host, steps: int, encoder: str = "tiny") -> str:
    """Compare the run on a host, bit for bit, with that of two processes on one host."""
    found, whole = Trained.of(host.folder / guide.RUN), stage.alone(2, steps, encoder)
    require(len(found.losses) == steps, f"the run has {len(found.losses)} steps of {steps}")
    require(found.losses == whole.losses, "its losses are not those of two processes on one host")
    require(found.weights == whole.weights, "its weights are not those of two processes on one host")
    require(found.scores == whole.scores, "its scores are not those of two processes on one host")
    return f"{steps} losses, weights, scores: those of 2 processes on one host, bit for bit"


def silent(host: Host, command: Command) -> None:
    """Require that the second host neither wrote a run nor spoke, but for torch's own warnings."""
    require(not (host.folder / "runs").exists(), "the second host has a run folder of its own")
    said = [line for line in command.said.splitlines() if line.strip() and not line.startswith(("[W", "W1", "E1"))]
    require(not any("step " in line or "training on" in line for line in said), f"the second host spoke: {said}")


def midway(host: Host, *commands: Command) -> Path:
    """Wait until a training has its first checkpoint, and return that."""
    folder = host.folder / guide.RUN / "checkpoints"
    wait_for(lambda: any(folder.glob("step-*")), *commands)
    return min(folder.glob("step-*"))


def told(command: Command, words: tuple[str, ...], within: float) -> str:
    """Wait until a command says an error in which all words are, and return how long it took."""
    began = time.monotonic()

    def there() -> bool:
        lines = [line for line in command.said.splitlines() if line.startswith("error: ")]
        return any(all(word in line for word in words) for line in lines)

    end = began + within
    while not there():
        require(time.monotonic() < end, f"does not say {words} within {within:.0f} s: {command.tail()}")
        time.sleep(0.1)
    return f"said after {time.monotonic() - began:.0f} s: {' ... '.join(words)}"


def went_on(command: Command) -> None:
    """Require that a training went on from a checkpoint."""
    require(f"{LONG} steps, from step " in command.said, f"did not go on from a checkpoint: {command.tail()}")


def torchrun(host: Host, steps: int, encoder: str = "tiny", name: str = "torchrun") -> Command:
    """Start the guide's torchrun on a host."""
    variables, words = guide.shell(name)
    first = host.name == "node1"
    given = {"--rdzv-conf": f"is_host={int(first)}", "--local-addr": host.address}
    return host.start(*guide.adapted(words, task(steps, encoder), given), **variables)


def accelerate(host: Host, steps: int, encoder: str = "tiny") -> Command:
    """Start the guide's ``accelerate launch`` on a host."""
    variables, words = guide.shell("accelerate")
    given = {"--machine_rank": str(int(host.name[-1]) - 1)}
    return host.start(*guide.adapted(words, task(steps, encoder), given), **variables)


def srun(host: Host, steps: int, encoder: str = "tiny") -> Command:
    """Start a task of the guide's batch script, with the variables that srun sets."""
    variables = {
        "SLURM_PROCID": str(int(host.name[-1]) - 1),
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_CPUS_PER_TASK": "1",
    }
    return host.start(*guide.adapted(guide.step_of_slurm(), task(steps, encoder)), **variables)


# Scenarios --------------------------------------------------------------------------------------------------------


def curve(stage: Stage, one: Host, other: Host) -> str:
    """torchrun over two hosts: the loss curve of one process"""
    commands = [torchrun(host, SHORT, "plain") for host in (one, other)]
    finish(*commands)
    silent(other, commands[1])
    found, single = Trained.of(one.folder / guide.RUN), stage.alone(1, SHORT, "plain")
    most = max(abs(left - right) for left, right in zip(found.losses, single.losses, strict=True))
    require(most <= CLOSE, f"a loss differs by {most} from that of one process")
    return f"losses within {most:.0e} of one process; {same(stage, one, SHORT, 'plain')}"


def nameless(stage: Stage, one: Host, other: Host) -> str:
    """torchrun where a host's own name means 127.0.1.1, and no other name is known"""
    for host in (one, other):
        host.names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n")
    commands = [torchrun(host, SHORT, name="nameless") for host in (one, other)]
    finish(*commands)
    return same(stage, one, SHORT)


def process_killed(stage: Stage, one: Host, other: Host) -> str:
    """torchrun: the other host's process is killed, its launcher starts all again"""
    commands = [torchrun(host, LONG) for host in (one, other)]
    midway(one, *commands)
    (rank, pid), = commands[1].workers().items()  # fmt: skip
    os.kill(pid, signal.SIGKILL)
    finish(*commands)
    went_on(commands[0])
    require("exitcode: -9" in commands[1].said, f"torchrun does not say what was killed: {commands[1].tail()}")
    return f"rank {rank} killed, both went on; {same(stage, one, LONG)}"


def machine_killed(stage: Stage, one: Host, other: Host) -> str:
    """torchrun: the other host crashes, and comes back"""
    return _machine_gone(stage, one, other, SOON)


def cable_cut(stage: Stage, one: Host, other: Host) -> str:
    """torchrun: the other host loses network and power at once, and comes back"""
    return _machine_gone(stage, one, other, LATE)


def _vanish(host: Host, within: float) -> None:
    """Take a host away: by a crash, which closes its connections, or so that nobody is told."""
    if within == LATE:
        host.unplug()
    host.kill()


def _machine_gone(stage: Stage, one: Host, other: Host, within: float) -> str:
    commands = [torchrun(host, LONG) for host in (one, other)]
    midway(one, *commands)
    _vanish(other, within)
    said = told(commands[0], ("rank 1 on node2", f"--resume {guide.RUN}"), within)
    other.plug()
    finish(commands[0], torchrun(other, LONG))
    went_on(commands[0])
    return f"{said}; {same(stage, one, LONG)}"


def first_killed(stage: Stage, one: Host, other: Host) -> str:
    """torchrun: the first host crashes; all are started again"""
    return _first_gone(stage, one, other, SOON)


def first_cut(stage: Stage, one: Host, other: Host) -> str:
    """torchrun: the first host loses network and power at once; all are started again"""
    return _first_gone(stage, one, other, LATE)


def _first_gone(stage: Stage, one: Host, other: Host, within: float) -> str:
    commands = [torchrun(host, LONG) for host in (one, other)]
    midway(one, *commands)
    _vanish(one, within)
    if within == SOON:
        # The launcher ends its process before that can speak, and says itself what it lost.
        said = f"the other launcher ended with {commands[1].ended()}: RendezvousConnectionError"
        require("ended with 0" not in said and said.split()[-1] in commands[1].said, commands[1].tail())
    else:
        said = told(commands[1], ("of the 2 is gone", "rank 0 on node1"), within)
    # Where nobody told it, torch's launcher waits for the first host without end.
    other.kill()
    one.plug()
    commands = [torchrun(host, LONG) for host in (one, other)]
    finish(*commands)
    went_on(commands[0])
    return f"{said}; {same(stage, one, LONG)}"


def accelerated(stage: Stage, one: Host, other: Host) -> str:
    """accelerate launch over two hosts"""
    commands = [accelerate(host, SHORT) for host in (one, other)]
    finish(*commands)
    silent(other, commands[1])
    return same(stage, one, SHORT)


def accelerated_killed(stage: Stage, one: Host, other: Host) -> str:
    """accelerate launch: the other host crashes; all are started again"""
    return _all_again(stage, one, other, accelerate)


def slurm(stage: Stage, one: Host, other: Host) -> str:
    """what the Slurm script starts, with srun's variables"""
    commands = [srun(host, SHORT) for host in (one, other)]
    finish(*commands)
    silent(other, commands[1])
    return same(stage, one, SHORT)


def slurm_killed(stage: Stage, one: Host, other: Host) -> str:
    """the same: the other host crashes; the script is submitted again"""
    return _all_again(stage, one, other, srun)


def _all_again(stage: Stage, one: Host, other: Host, start: Callable[[Host, int], Command]) -> str:
    commands = [start(host, LONG) for host in (one, other)]
    midway(one, *commands)
    other.kill()
    said = told(commands[0], ("rank 1 on node2", f"--resume {guide.RUN}"), SOON)
    require(commands[0].ended() != 0, "the first host ended as if all were well")
    commands = [start(host, LONG) for host in (one, other)]
    finish(*commands)
    went_on(commands[0])
    return f"{said}; {same(stage, one, LONG)}"


def kubernetes(stage: Stage, one: Host, other: Host) -> str:
    """the Job's command, its variables and the names of its Service; a pod is killed and replaced"""
    variables, words, names = guide.pod()
    known = "".join(
        f"{host.address} {name} {name.split('.')[0]}\n" for host, name in zip((one, other), names, strict=True)
    )
    for host, name in zip((one, other), names, strict=True):
        host.name = name.split(".")[0]
        host.names.write_text(f"127.0.0.1 localhost\n{known}")
    start = guide.adapted(words, task(LONG))
    commands = [host.start(*start, **variables) for host in (one, other)]
    midway(one, *commands)
    other.kill()
    said = told(commands[0], (f"rank 1 on {other.name}",), SOON)
    finish(commands[0], other.start(*start, **variables))
    went_on(commands[0])
    return f"{said}; {same(stage, one, LONG)}"


def other_data(stage: Stage, one: Host, other: Host) -> str:
    """the other host has other data: refused"""
    write_jsonl(other.folder / "rows.jsonl", reviews(60, seed=1))
    commands = [srun(host, SHORT) for host in (one, other)]
    codes = [command.ended() for command in commands]
    said = "\n".join(command.said for command in commands)
    require(all(codes), f"trained on different data: {codes}")
    found = [line for line in said.splitlines() if "error" in line]
    require(len(found) == 1, f"not one message: {said}")
    require("rank 1 of 2: this process finds other data or another encoder than the main one" in found[0], found[0])
    return "refused by all, in one message that names rank and fact"


ALL = [
    curve,
    nameless,
    process_killed,
    machine_killed,
    cable_cut,
    first_killed,
    first_cut,
    accelerated,
    accelerated_killed,
    slurm,
    slurm_killed,
    kubernetes,
    other_data,
]


def show(stage: Stage, scenario: Callable[[Stage, Host, Host], str]) -> str:
    """Make two hosts, play a scenario on them, and return what it showed.

    Raises:
        NotShownError: saying what did not come out as it must.
    """
    folder = stage.folder / scenario.__name__
    folder.mkdir()
    with two(folder) as (one, other):
        for host in (one, other):
            furnish(host.folder)
        shown = scenario(stage, one, other)
    shutil.rmtree(folder)
    return shown
