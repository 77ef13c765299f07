"""GLUE dev scores of an encoder, several seeds, one table.

python -m benchmarks.glue --data DIR --encoder minilm --seeds 1,2,3 cola mrpc rte stsb wnli sst2

DIR is a folder in the classic GLUE download layout. Finished runs below --runs are taken as they are, so that an
interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine
from bertkit import config


def one(task: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train one task with one seed, or take the finished run."""
    settings = config.parse_overrides(given.set)
    out = Path(given.runs) / f"{task}-{given.name}-{seed}"
    run = bertkit.finetune(
        f"glue/{task}", data=given.data, encoder=given.encoder, seed=seed, out=out, settings=settings
    )
    scores = {name: value for name, value in run.scores["validation"].items() if not name.endswith("_interval")}
    return {"seed": seed, "scores": scores, "seconds": run.seconds, "examples_per_second": run.examples_per_second}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--runs", default="runs/glue-benchmark")
    parser.add_argument("--name", default="glue", help="name of the result file")
    given = parser.parse_args()
    table = {}
    for task in given.tasks:
        runs = [one(task, int(seed), given) for seed in given.seeds.split(",")]
        means = {
            name: {
                "mean": statistics.mean(run["scores"][name] for run in runs),
                "spread": statistics.stdev([run["scores"][name] for run in runs]) if len(runs) > 1 else 0.0,
            }
            for name in runs[0]["scores"]
        }
        table[task] = {"runs": runs, "scores": means, "median_seconds": statistics.median(r["seconds"] for r in runs)}
    command = f"python -m benchmarks.glue --data DIR --encoder {given.encoder} --seeds {given.seeds} "
    command += "".join(f"--set {setting} " for setting in given.set) + f"--name {given.name} " + " ".join(given.tasks)
    machine.write(given.name, command, {"encoder": given.encoder, "settings": given.set, "tasks": table})


if __name__ == "__main__":
    main()
