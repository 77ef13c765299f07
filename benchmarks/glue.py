"""GLUE dev scores of an encoder, several seeds, by ``bertkit finetune glue``, baselines beside; one table.

python -m benchmarks.glue --data DIR --encoder minilm --seeds 1,2,3
python -m benchmarks.glue --data DIR --encoder minilm --seeds 1,2,3 --tasks glue/cola,glue/rte --set train.epochs=1

DIR is a folder in the classic GLUE download layout; tasks without a train split there are left out. The same command
with the same --out goes on where it was interrupted or killed; with --stored it trains nothing, and takes the tasks all
of whose seeds are finished.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine
from bertkit import config
from bertkit.workflows.suite.table import Summary


def baselines(summary: Summary, given: argparse.Namespace) -> None:
    """Score the simple models of each task, which the suite's table then shows."""
    for task in dict.fromkeys(line.task for line in summary.lines):
        if not any(line.baseline for line in summary.lines if line.task == task):
            bertkit.baseline(task, data=given.data, runs=given.out.parent)


def scores(summary: Summary) -> dict[str, Any]:
    """Return each task's scores on validation, run by run and together."""
    found: dict[str, Any] = {}
    for line in summary.lines:
        task = found.setdefault(line.task, {"runs": [{"seed": seed, "scores": {}} for seed in summary.seeds]})
        for run, value in zip(task["runs"], line.spread.values, strict=True):
            run["scores"][line.name] = value
        task.setdefault("scores", {})[line.name] = {
            "mean": line.spread.mean,
            "spread": line.spread.standard_deviation or 0.0,
            "baseline": line.baseline,
        }
    for name, task in found.items():
        runs = [run for run in summary.runs if run["task"] == name]
        task["median_seconds"] = statistics.median(run["seconds"] for run in runs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--tasks", default="glue")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/glue-benchmark"))
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--name", default="glue_minilm", help="name of the result file")
    given = parser.parse_args()
    if not given.stored:
        settings = config.parse_overrides(given.set)
        bertkit.finetune_suite(
            given.tasks,
            data=given.data,
            encoder=given.encoder,
            seeds=given.seeds,
            out=given.out,
            settings=settings,
            listen=lambda event: (
                print(getattr(event, "message", ""), flush=True) if hasattr(event, "message") else None
            ),
        )
    baselines(bertkit.evaluate_suite(given.out, report="none"), given)
    summary = bertkit.evaluate_suite(given.out)
    command = f"python -m benchmarks.glue --data DIR --encoder {given.encoder} --seeds {given.seeds} "
    command += f"--tasks {given.tasks} " + "".join(f"--set {setting} " for setting in given.set)
    result = {
        "encoder": given.encoder,
        "settings": given.set,
        "tasks": scores(summary),
        "average": summary.average.to_json() if summary.average else None,
        "unfinished": dict(summary.unfinished),
    }
    machine.write(given.name, f"{command}--name {given.name}", result)


if __name__ == "__main__":
    main()
