"""Milliseconds of an optimizer step and peak memory: bertkit beside ``transformers.Trainer``, and without a technique.

python -m benchmarks.training sst2
python -m benchmarks.training windows --rounds 2 --data DIR
python -m benchmarks.training sst2_removed

Every run is a process of its own (``benchmarks.plain_glue``, ``benchmarks.without``), A B A B; medians and spread over
the rounds. Batches of 32. Where batches are drawn at random the first steps are left out and the others timed; where
they are grouped by length the steps are one whole epoch of 200 batches, so that both sides see the same rows. The
result is written after each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.plain_glue import base_sized

Command = tuple[str, ...]
TRAINER: dict[str, Command] = {
    "Trainer, as run_glue.py": ("plain_glue", "default"),
    "Trainer, as run_glue.py, bf16": ("plain_glue", "default", "--precision", "bf16"),
    "Trainer, dynamic padding": ("plain_glue", "dynamic"),
    "Trainer, dynamic padding, bf16": ("plain_glue", "dynamic", "--precision", "bf16"),
    "Trainer, grouped": ("plain_glue", "grouped"),
    "Trainer, grouped, bf16": ("plain_glue", "grouped", "--precision", "bf16"),
}
OURS: dict[str, Command] = {
    "bertkit, train.fast = false": ("without", "fast"),
    "bertkit": ("without", "nothing"),
    "bertkit, grouped": ("without", "nothing", "--group"),
}
REMOVED: dict[str, Command] = {
    "bertkit": ("without", "nothing"),
    "without unpadding": ("without", "unpad"),
    "without fast dropout": ("without", "dropout"),
    "without leaving rows out": ("without", "rows"),
    "without keeping freed memory": ("without", "memory"),
    "without bf16": ("without", "bf16"),
}
CLAIMED = (
    *("Trainer, as run_glue.py", "Trainer, dynamic padding", "Trainer, dynamic padding, bf16"),
    *("Trainer, grouped, bf16", "bertkit", "bertkit, grouped"),
)
"""What ``--short`` leaves."""
ALIKE = 3
"""Steps that are left out where all have one shape."""
AGAINST = {
    "bertkit": ("Trainer, as run_glue.py", "Trainer, dynamic padding", "Trainer, dynamic padding, bf16"),
    "bertkit, grouped": ("Trainer, as run_glue.py", "Trainer, grouped", "Trainer, grouped, bf16"),
}
"""Whose ratios are in the result."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, and for how long."""

    variants: dict[str, Command]
    texts: str = "sst2"
    length: int = 128
    encoder: str = "minilm"
    padded_steps: int
    """Steps that are timed where all are as long."""
    random_steps: int
    """Steps that are timed where batches are drawn at random."""
    left_out: int = 10
    """Steps before those."""
    summary: str


SETTINGS = {
    "sst2": Setting(
        summary="`minilm`, texts as long as SST-2's", variants=TRAINER | OURS, padded_steps=10, random_steps=40
    ),
    "windows": Setting(
        summary="`minilm`, texts as long as SQuAD's windows, at most 384 tokens",
        variants=TRAINER | OURS,
        texts="windows",
        length=384,
        padded_steps=10,
        random_steps=40,
    ),
    "base": Setting(
        summary="a random model as large as bert-base, texts as long as SST-2's",
        variants=TRAINER | OURS,
        encoder="base",
        padded_steps=3,
        random_steps=10,
        left_out=2,
    ),
    "sst2_removed": Setting(
        summary="`minilm`, texts as long as SST-2's", variants=REMOVED, padded_steps=40, random_steps=40
    ),
    "windows_removed": Setting(
        summary="`minilm`, texts as long as SQuAD's windows, at most 384 tokens",
        variants=REMOVED,
        texts="windows",
        length=384,
        padded_steps=40,
        random_steps=40,
    ),
}


def one(command: Command, setting: Setting, encoder: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a process of its own and return what it printed."""
    module, *arguments = command
    arguments += ["--encoder", encoder, "--texts", setting.texts, "--length", str(setting.length)]
    if not {"--group", "grouped"} & {*command}:
        first, timed = setting.left_out, setting.random_steps
        if "default" in command:
            first, timed = min(first, ALIKE), setting.padded_steps
        if given.steps:
            first, timed = 1, given.steps
        arguments += ["--steps", str(first + timed), "--left-out", str(first)]
    elif given.steps:
        arguments += ["--steps", str(given.steps)]
    arguments += ["--threads", str(given.threads), *(["--data", str(given.data)] if given.data else [])]
    whole = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    ended = subprocess.run(whole, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(whole)}\n{ended.stderr}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and spread over the rounds of a variant."""
    times = [run["milliseconds"] for run in runs]
    return {
        "milliseconds": round(statistics.median(times), 1),
        "spread": [round(min(times), 1), round(max(times), 1)],
        "peak_mb": round(statistics.median(run["peak_mb"] for run in runs)),
        "tokens": round(runs[0]["tokens"], 1),
        "dtype": runs[0]["dtype"],
        "runs": runs,
    }


def ratios(variants: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return how many times as long the peers' steps take, and our memory as a share of the padded Trainer's."""
    found = {}
    for ours, others in AGAINST.items():
        for other in others:
            if {ours, other} <= variants.keys():
                ratio = variants[other]["milliseconds"] / variants[ours]["milliseconds"]
                found[f"{other} / {ours}"] = round(ratio, 2)
        if {ours, others[0]} <= variants.keys():
            share = variants[ours]["peak_mb"] / variants[others[0]]["peak_mb"]
            found[f"peak memory, {ours} / {others[0]}"] = round(share, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("--data", type=Path, help="a folder in the classic GLUE layout, for SST-2; else texts are made")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="only try it: so many steps, one left out")
    parser.add_argument("--short", action="store_true", help="only the variants that most is claimed about")
    parser.add_argument("--no-groups", action="store_true", help="leave out batches grouped by length: whole epochs")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--name", default="", help="name of the result file; training_WHAT otherwise")
    given = parser.parse_args()
    setting = SETTINGS[given.what]
    names = [name for name in setting.variants if name in CLAIMED or not given.short]
    names = [name for name in names if not (given.no_groups and "grouped" in name)]
    command = f"python -m benchmarks.training {given.what} --rounds {given.rounds}"
    command += " --data DIR" * bool(given.data) + " --no-groups" * given.no_groups
    command += " --short" * given.short + f" --steps {given.steps}" * bool(given.steps)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        encoder = str(base_sized(Path(folder))) if setting.encoder == "base" else setting.encoder
        for number in range(given.rounds):
            for name in names:
                found[name].append(one(setting.variants[name], setting, encoder, given))
                took = f"{found[name][-1]['milliseconds']:.0f} ms, {found[name][-1]['peak_mb']:.0f} MB"
                sys.stderr.write(f"{given.what}, round {number + 1} of {given.rounds}, {name}: {took}\n")
            variants = {name: summary(runs) for name, runs in found.items()}
            facts = {"setting": setting.summary, "rounds": number + 1, "ratios": ratios(variants)}
            machine.write(given.name or f"training_{given.what}", command, {**facts, "variants": variants})


if __name__ == "__main__":
    main()
