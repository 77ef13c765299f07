"""BERT's features without fine-tuning: the table of arXiv:1810.04805, 5.3 (table 7), on a tagging set.

python -m benchmarks.feature_based                                the embedded set, minilm
python -m benchmarks.feature_based --task wnut17 --data DIR

A BiLSTM of two layers reads each choice of a frozen encoder's layers; the last row is fine-tuning. The paper adds the
top four layers with learned weights ("weighted sum"); their plain sum stands here beside it. ``--fine-tuning 8,1e-4``
adds a row: fine-tuning of so many epochs at this rate, beside that by the task's recipe.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.frozen import FINE_TUNING, TAGGING, shown, spread, trained, typed

HEAD = {"train.freeze": "encoder", "train.head": "bilstm", "train.epochs": 20, "train.learning_rate": 1e-3}
ROWS = {
    "embeddings": "embeddings",
    "second-to-last hidden": "second-to-last",
    "last hidden": "last",
    "sum last four hidden": "sum-last-4",
    "weighted sum last four hidden": "mix-last-4",
    "concat last four hidden": "concat-last-4",
    "weighted sum all layers": "mix",
}
"""Row -> ``train.layers``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TAGGING), default="demo")
    parser.add_argument("--data")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--limit", type=int, default=0, help="training examples; 0 is all")
    parser.add_argument("--epochs", type=float, default=0, help="of every head; 0 is 20. Fine-tuning keeps its own")
    parser.add_argument("--fine-tuning", default="", metavar="EPOCHS,RATE", help="a further row")
    parser.add_argument("--rows", default="", help="some of the rows, with commas between")
    parser.add_argument("--runs", default="runs/feature-based-benchmark")
    given = parser.parse_args()
    os.environ["BERTKIT_CACHE"] = str(Path(given.runs).absolute() / "cache")
    task, split = TAGGING[given.task]
    command = typed(f"feature_based --task {given.task}", given)
    over = {"train.epochs": given.epochs} if given.epochs else {}
    rows: dict[str, dict[str, Any]] = {row: HEAD | over | {"train.layers": layers} for row, layers in ROWS.items()}
    rows[FINE_TUNING] = {}
    if given.fine_tuning:
        command += f" --fine-tuning {given.fine_tuning}"
        epochs, rate = given.fine_tuning.split(",")
        name = f"{FINE_TUNING}; {epochs} epochs at {rate}"
        rows[name] = {"train.epochs": float(epochs), "train.learning_rate": float(rate)}
    command += f' --rows "{given.rows}"' if given.rows else ""
    found: dict[str, Any] = {}
    for row in given.rows.split(",") if given.rows else rows:
        runs = []
        for seed in map(int, given.seeds.split(",")):
            runs.append(trained(task, rows[row], f"{given.task} {row}", seed, given))
            metric = next(iter(runs[0]["scores"][split]))
            found[row] = {"metric": metric, **spread(runs, split, metric), "runs": runs}
            result = {"split": split, "rows": found, "table": table(found, task, split)}
            machine.write(f"feature_based_{given.task}", command, result)


def table(found: dict[str, Any], task: str, split: str) -> list[str]:
    """Return the rows as a Markdown table."""
    metric = next(iter(found.values()))["metric"]
    lines = [f"| what the head reads | `{task}`, {split} {metric} | seconds an epoch |", "| --- | --- | --- |"]
    for row, one in found.items():
        seconds = min(run["seconds_an_epoch"] for run in one["runs"])
        lines.append(f"| {row} | {shown(one, one['runs'])} | {seconds:.2f} |")
    return lines


if __name__ == "__main__":
    main()
