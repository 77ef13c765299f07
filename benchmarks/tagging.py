"""Token tagging: bertkit on WNUT-17 and UD English EWT, beside ``benchmarks.plain_tagging``.

python -m benchmarks.tagging wnut17 --data DIR --seeds 1,2,3
python -m benchmarks.tagging ud_ewt --data DIR --seeds 1

DIR holds the files as their authors distribute them. Every run is also scored with ``eval.decode = "argmax"``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine
from benchmarks.plain_tagging import summary

TASKS = {"wnut17": ("ner/wnut17", "test"), "ud_ewt": ("pos/ud-english-ewt", "validation")}
"""Data set -> the task, and the split that is reported."""


def one(data_set: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train with one seed, or take the finished run."""
    task, split = TASKS[data_set]
    out = Path(given.runs) / f"{data_set}-{given.encoder}-{seed}"
    run = bertkit.finetune(task, data=given.data, encoder=given.encoder, seed=seed, out=out)
    argmax = bertkit.evaluate(out, split=split, settings={"eval.decode": "argmax", "eval.resamples": 0})
    return {
        "seed": seed,
        "scores": {split: _plain(run.scores[split])},
        "argmax": _plain(argmax.scores),
        "seconds": run.seconds,
        "tokens_per_second": run.tokens_per_second,
    }


def _plain(scores: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if not name.endswith("_interval")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(TASKS))
    parser.add_argument("--data", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--runs", default="runs/tagging-benchmark")
    given = parser.parse_args()
    command = f"python -m benchmarks.tagging {given.data_set} --data DIR --encoder {given.encoder} "
    command += f"--seeds {given.seeds}"
    runs: list[dict[str, Any]] = []
    for seed in map(int, given.seeds.split(",")):
        runs.append(one(given.data_set, seed, given))
        machine.write(given.data_set, command, {"runs": runs, "summary": summary(runs)})


if __name__ == "__main__":
    main()
