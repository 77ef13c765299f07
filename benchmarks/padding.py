"""Milliseconds of an optimizer step with and without work on padding: A B A B, each run in a process of its own.

python -m benchmarks.padding --data DIR

DIR is a folder in the classic GLUE download layout. SST-2, bertkit's defaults; A is ``train.fast = false`` (padded to
the longest row of each batch), B the default. The same rows in the same order, 60 steps of which the first 10 are left
out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine

STEPS, LEFT_OUT = 60, 10


def median_step(data: Path, encoder: str, *, fast: bool) -> float:
    """Return the median milliseconds of a step, in a run of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = [f"train.fast={str(fast).lower()}", f"train.max_steps={STEPS}", "eval.resamples=0"]
        command = [sys.executable, "-m", "bertkit", "finetune", "glue/sst2", "--data", str(data), "--encoder", encoder]
        command += ["--limit", "4000", "--out", str(out), *(part for each in settings for part in ("--set", each))]
        subprocess.run(command, check=True, capture_output=True)
        events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event["seconds"] for event in events if event["event"] == "step"]
    return 1000 * statistics.median(steps[LEFT_OUT:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--rounds", default=2, type=int)
    given = parser.parse_args()
    found: dict[str, list[float]] = {"padded": [], "fast": []}
    for _ in range(given.rounds):
        for name, rounds in found.items():
            rounds.append(median_step(given.data, given.encoder, fast=name == "fast"))
    ratio = statistics.median(found["padded"]) / statistics.median(found["fast"])
    command = f"python -m benchmarks.padding --data DIR --encoder {given.encoder} --rounds {given.rounds}"
    result = {"median_milliseconds_of_a_step": found, "ratio_of_medians": round(ratio, 3)}
    machine.write("padding", command, result)


if __name__ == "__main__":
    main()
