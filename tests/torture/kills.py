"""Kills trainings with SIGKILL at random moments, goes on with them, and compares them with one that nobody killed.

Each killed training is a process of its own. It is forked from one that has imported torch already, so that a kill
takes seconds, and most of them hit training, checkpoints and the end of a run instead of imports. Now and then it is
asked to stop in between (SIGTERM), and goes on from the checkpoint that it then writes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertkit.errors import RunError
from bertkit.run import Run
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_conll, write_jsonl, write_squad

PRELOADED = ["torch", "transformers", "accelerate", "evaluate", "sklearn.metrics", "scipy.stats", __name__]
CLOCK = {"seconds", "tokens_per_second"}
"""Fields of an event that no two trainings have alike."""
OWN_TIME = {"run.json", "README.md", "events.jsonl"}
"""Files that hold times; of the last, all else is compared."""
KINDS = ("sequence-classification", "token-tagging", "span-qa")
SETTINGS = {
    "train.learning_rate": 3e-3,
    "train.epochs": 4,
    "train.batch_size": 8,
    "train.micro_batch_tokens": 96,
    "train.max_length": 64,
    "train.eval_steps": 6,
    "train.save_steps": 2,
    "train.patience": 6,
    "train.keep_checkpoints": 2,
    "eval.resamples": 100,
}
MOST_IN_A_CHAIN = 4
"""Kills of one run before it is let go on to its end."""
STOPS = 0.2
"""Share of the processes that are asked to stop instead of killed."""
PATIENCE = 600.0
"""Seconds after which a training hangs."""


@dataclass
class Case:
    """A task type: its data, what an undisturbed run came to, and how long that took."""

    kind: str
    arguments: list[str]
    whole: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Found:
    """What a series came to."""

    kills: Counter[str] = field(default_factory=Counter)
    """Where a kill hit -> how often."""
    types: Counter[str] = field(default_factory=Counter)
    """Task type -> kills."""
    stops: int = 0
    """Processes that were asked to stop, saved and ended with 143."""
    runs: int = 0
    """Killed runs that were gone on with to their end, and compared."""
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "kills": self.kills.total(),
            "where": dict(self.kills.most_common()),
            "types": dict(self.types),
            "stops": self.stops,
            "runs": self.runs,
            "failures": self.failures,
        }


def work(arguments: list[str], log: str) -> None:
    """Be ``bertkit``, in a process of its own."""
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from bertkit.cli import main

    sys.argv = ["bertkit", *arguments]
    main()


class Training:
    """One process that trains."""

    def __init__(self, arguments: list[str], run: Path, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.run = run
        self.log = log
        self.before = self.logged()
        self.process = context.Process(target=work, args=(arguments, str(log)))
        self.process.start()
        self.began = time.monotonic()

    def logged(self) -> tuple[int, int]:
        """Return what changes when events are written."""
        try:
            found = (self.run / "events.jsonl").stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_size, found.st_mtime_ns)

    def wait_until(self, there: Callable[[], bool]) -> bool:
        """Wait for something; give False where the process ends before."""
        while not there():
            if self.process.exitcode is not None:
                return False
            if time.monotonic() - self.began > PATIENCE:
                raise RuntimeError(f"a training hangs; see {self.log}")
            time.sleep(0.0005)
        return True

    def wait(self, seconds: float) -> bool:
        """Wait so long; give False where the process ends before."""
        self.process.join(seconds)
        return self.process.exitcode is None

    def kill(self) -> bool:
        """Kill it; give False where it had ended by itself."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -9

    def stop(self) -> bool:
        """Ask it to stop; give False where it did not, but ended by itself or before it could listen."""
        self.process.terminate()
        return self.end() == 128 + signal.SIGTERM

    def end(self) -> int:
        """Wait for its end and return the exit code."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.kill()
            raise RuntimeError(f"a training hangs; see {self.log}")
        return self.process.exitcode


def anywhere(training: Training, rng: random.Random, seconds: float) -> bool:
    """Wait for a moment between start and end."""
    return training.wait(rng.uniform(0, seconds))


def in_training(training: Training, rng: random.Random, seconds: float) -> bool:
    """Wait for a moment after the first event."""
    return training.wait_until(lambda: training.logged() != training.before) and training.wait(rng.uniform(0, seconds))


def in_writing(training: Training, rng: random.Random, seconds: float) -> bool:
    """Wait for a checkpoint or a model that is being written, and a few milliseconds."""
    for _ in range(rng.randint(0, 5)):
        if not training.wait_until(lambda: bool(half_written(training.run))):
            return False
        if not training.wait_until(lambda: not half_written(training.run)):
            return False
    return training.wait_until(lambda: bool(half_written(training.run))) and training.wait(rng.uniform(0, 0.02))


def half_written(run: Path) -> list[str]:
    """Return the folders that are not in their place yet."""
    return [path.name for path in (*run.glob("checkpoints/.step-*"), *run.glob(".model.*"))]


def where(run: Path) -> str:
    """Return where a kill hit."""
    if not (run / "run.json").is_file():
        return "before the run folder"
    if half := half_written(run):
        return "writing the model" if half[0].startswith(".model") else "writing a checkpoint"
    if any(run.glob("checkpoints/.dropped-*")):
        return "dropping an old checkpoint"
    steps = [event for event in Run(run, {}).events() if event["event"] in ("step", "stop")]
    if not steps:
        return "before the first step"
    return "after the last step" if steps[-1]["event"] == "stop" else "between steps"


def fingerprint(run: Path) -> dict[str, str]:
    """Return a hash of every file of a finished run, clocks aside."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(run)): path.read_bytes() for path in files if path.name not in OWN_TIME}
    events = [{key: value for key, value in event.items() if key not in CLOCK} for event in Run(run, {}).events()]
    found["events"] = "\n".join(map(json.dumps, events)).encode()
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the files that are not the same."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def cases(folder: Path) -> list[Case]:
    """Make data for the three task types, and train on each once, undisturbed."""
    encoder = save_tiny_bert(folder / "tiny-bert")
    files = (
        write_jsonl(folder / "reviews.jsonl", reviews(120)),
        write_conll(folder / "sentences.conll", sentences(120)),
        write_squad(folder / "questions.json", questions(150, unanswered=4), impossible=True),
    )
    made = []
    for kind, file in zip(KINDS, files, strict=True):
        settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
        settings += ["--set=options.stride=8"] if kind == "span-qa" else []
        common = ["--encoder", str(encoder), "--precision", "float32", "--threads", "1", *settings]
        case = Case(kind, [str(file), *common])
        run = folder / f"whole-{kind}"
        training = Training(["finetune", *case.arguments, "--out", str(run)], run, folder / "whole.log")
        if training.end() != 0:
            raise RuntimeError((folder / "whole.log").read_text())
        case.whole, case.seconds = fingerprint(run), time.monotonic() - training.began
        made.append(case)
    return made


def chain(case: Case, run: Path, kills: int, rng: random.Random, found: Found) -> None:
    """Kill one run so many times, or until it ends, let it go on to its end, and compare."""
    log = run.with_suffix(".log")
    hits: list[str] = []
    while len(hits) < kills:
        stopping = rng.random() < STOPS
        moment = in_training if stopping else rng.choices([anywhere, in_training, in_writing], [2, 4, 4])[0]
        training = Training(command(case, run, rng), run, log)
        if not moment(training, rng, case.seconds):
            break
        if stopping and training.stop():
            found.stops += 1
            continue
        if stopping or not training.kill():
            break
        hits.append(where(run))
        found.kills[hits[-1]] += 1
        found.types[case.kind] += 1
        found.failures += [f"{case.kind} after a kill {hits[-1]}: {fault}" for fault in damaged(run)]
    code = Training(command(case, run, rng), run, log).end()
    found.runs += 1
    story = f"{case.kind}, {run.name}, killed {', '.join(hits) or 'never'}"
    if code:
        found.failures.append(f"{story}: it ends with {code}: {log.read_text().splitlines()[-1:]}")
    elif wrong := differences(fingerprint(run), case.whole):
        found.failures.append(f"{story}: {', '.join(wrong)} differ")


def command(case: Case, run: Path, rng: random.Random) -> list[str]:
    """Return one of the two commands that go on with a run."""
    if (run / "run.json").is_file() and rng.random() < 0.5:
        return ["finetune", "--resume", str(run)]
    return ["finetune", *case.arguments, "--out", str(run)]


def damaged(run: Path) -> list[str]:
    """Return what is wrong with the checkpoints that look whole."""
    if not (run / "run.json").is_file():
        return []
    opened, faults = Run.open(run), []
    for step in opened.checkpoints():
        try:
            opened.load_checkpoint(step)
        except RunError as fault:
            faults.append(str(fault))
    return faults


def series(folder: Path, *, kills: int, seed: int, tell: Callable[[str], None] = lambda text: None) -> Found:
    """Kill trainings of the three task types in turn, so many times in all.

    Args:
        folder: where data and runs are made.
        kills: how many.
        seed: of the moments; what they hit depends on the machine as well.
        tell: is told of each run.
    """
    rng, found = random.Random(seed), Found()
    made = cases(folder)
    number = 0
    while found.kills.total() < kills:
        case = made[number % len(made)]
        number += 1
        most = min(MOST_IN_A_CHAIN, kills - found.kills.total())
        chain(case, folder / f"run-{number:03d}", rng.randint(1, most), rng, found)
        tell(f"{found.kills.total()} of {kills} kills, {found.runs} runs, {len(found.failures)} failures")
    return found
