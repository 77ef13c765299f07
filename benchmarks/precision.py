"""bf16 beside float32: scores of fine-tuned models over several seeds, and how far apart their means are.

python -m benchmarks.precision sst2 --data DIR --limit 10000 --epochs 1
python -m benchmarks.precision rte --data DIR --epochs 3

DIR is a folder in the classic GLUE download layout. Each run is a process of its own. The result file is written after
each; runs that it has, of the same settings, are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

PRECISIONS = ("bf16", "float32")


def one(task: str, seed: int, precision: str, given: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune with one seed in one precision."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bertkit", "finetune", f"glue/{task}", "--data", str(given.data), "--json"]
        command += ["--encoder", given.encoder, "--seed", str(seed), "--precision", precision, "--out", f"{folder}/run"]
        command += ["--set", f"train.epochs={given.epochs}", "--set", "eval.resamples=0"]
        command += ["--limit", str(given.limit)] if given.limit else []
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(ended.stderr)
        found = json.loads(ended.stdout)
        record = json.loads((Path(folder) / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["device"]["precision"] == precision, record["device"]
    return {"seed": seed, "precision": precision, "scores": found["scores"]["validation"], "steps": found["steps"]}


def compare(bf16: Sequence[float], float32: Sequence[float]) -> dict[str, float]:
    """Return means, standard errors, and the difference of the means in units of its own standard error.

    Seeds are independent draws, so the variance of the difference is the sum of the variances of the means.
    """
    means = [statistics.mean(values) for values in (bf16, float32)]
    errors = [statistics.stdev(values) / math.sqrt(len(values)) for values in (bf16, float32)]
    error = math.hypot(*errors)
    difference = means[0] - means[1]
    return {
        **{f"{name}_mean": mean for name, mean in zip(PRECISIONS, means, strict=True)},
        **{f"{name}_standard_error": one for name, one in zip(PRECISIONS, errors, strict=True)},
        "difference": difference,
        "standard_error": error,
        "standard_errors_apart": abs(difference) / error if error else (0.0 if not difference else math.inf),
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the comparison of every metric; nothing while there are fewer than two runs of each precision."""
    by = {name: [run["scores"] for run in runs if run["precision"] == name] for name in PRECISIONS}
    if min(map(len, by.values())) < 2:
        return {}
    return {
        metric: compare(*([scores[metric] for scores in by[name]] for name in PRECISIONS)) for metric in by["bf16"][0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a task of glue/: rte, sst2, ...")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--limit", type=int, default=0, help="train on so many rows; 0: all")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    given = parser.parse_args()
    name = f"precision_{given.task}"
    command = f"python -m benchmarks.precision {given.task} --data DIR --encoder {given.encoder}"
    command += f" --limit {given.limit} --epochs {given.epochs}"
    path = machine.RESULTS / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"command": ""}
    runs = stored["runs"] if stored["command"].startswith(f"{command} --seeds") else []
    for seed in map(int, given.seeds.split(",")):
        for precision in PRECISIONS:
            if not any((run["seed"], run["precision"]) == (seed, precision) for run in runs):
                runs.append(one(given.task, seed, precision, given))
                facts = {"task": given.task, "limit": given.limit, "epochs": given.epochs}
                done = ",".join(dict.fromkeys(str(run["seed"]) for run in runs))
                machine.write(name, f"{command} --seeds {done}", {**facts, "runs": runs, "summary": summary(runs)})


if __name__ == "__main__":
    main()
