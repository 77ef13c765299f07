"""How long one waits: for ``bertkit --help``, and from a command to the first training step. Each in a new process.

python -m benchmarks.startup

``bertkit --help`` beside ``import typer``, medians of ten. ``bertkit finetune demo/reviews`` until the event of its
first optimizer step is written, beside ``benchmarks.plain_first_step`` until it says that it stepped, medians of nine.
All in turn (A B A B). Both train at their defaults: bertkit in bf16 where the CPU has it, the plain script in float32.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks import machine
from bertkit import encoder

REVIEWS = Path(__file__).parent.parent / "tasks" / "demo" / "reviews" / "train.jsonl"
COMMANDS = {
    "import typer": [sys.executable, "-c", "import typer"],
    "bertkit --help": [sys.executable, "-m", "bertkit", "--help"],
    "import bertkit": [sys.executable, "-c", "import bertkit"],
}
POLL_SECONDS = 0.005
QUIET = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    short = in_turn({name: partial(whole, command) for name, command in COMMANDS.items()}, rounds=10)
    first = in_turn({"plain script": plain_step, "bertkit finetune": bertkit_step}, rounds=9)
    help_ratio = statistics.median(short["bertkit --help"]) / statistics.median(short["import typer"])
    step_ratio = statistics.median(first["bertkit finetune"]) / statistics.median(first["plain script"])
    result = {
        "median_seconds": {name: round(statistics.median(values), 4) for name, values in short.items()},
        "help_over_typer": round(help_ratio, 2),
        "seconds_to_first_step": {name: [round(value, 3) for value in values] for name, values in first.items()},
        "median_seconds_to_first_step": {name: round(statistics.median(v), 3) for name, v in first.items()},
        "first_step_over_plain": round(step_ratio, 2),
    }
    machine.write("startup", "python -m benchmarks.startup", result)


def in_turn(timed: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each, taken in turn, after one round that warms the disk's cache and does not count."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, take in timed.items():
            seconds = take()
            if number:
                times[name].append(seconds)
    return times


def whole(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def plain_step() -> float:
    """Return the seconds until the plain script has stepped."""
    folder = encoder.find("minilm").folder
    command = [sys.executable, "-m", "benchmarks.plain_first_step", str(folder), str(REVIEWS)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=QUIET, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.kill()
    if said != "first step\n":
        raise RuntimeError(f"{' '.join(command)} did not step")
    return seconds


def bertkit_step() -> float:
    """Return the seconds until bertkit has written the event of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "bertkit",
            "finetune",
            "demo/reviews",
            "--encoder",
            "minilm",
            "--out",
            str(out),
        ]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET) as process:
            while not stepped(out / "events.jsonl"):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended without a step")
                time.sleep(POLL_SECONDS)
            seconds = time.perf_counter() - began
            process.kill()
        return seconds


def stepped(events: Path) -> bool:
    """Say whether a run has written a step."""
    return events.is_file() and '"event": "step"' in events.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
