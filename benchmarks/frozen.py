"""A frozen encoder with cached features against fine-tuning, and a learned mix of its layers against the last one.

python -m benchmarks.frozen epochs --data DIR --seeds 1              seconds an epoch and scores on SST-2
python -m benchmarks.frozen layers --task wnut17 --data DIR          the last layer against the mix, 3 seeds

DIR is GLUE's folder, or that of the tagging files as their authors distribute them (``--task demo`` needs none). Runs
stay in ``--runs``, and a run that is finished is not repeated. Features are cached below ``--runs`` too, so that the
one pass over the encoder is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine

HEAD = {"train.freeze": "encoder", "train.epochs": 10, "train.learning_rate": 1e-3}
"""A head alone learns at rates at which an encoder would break, and in more epochs."""
SST2: dict[str, dict[str, Any]] = {
    "fine-tuning": {},
    "frozen, linear on last (Hugging Face's head)": HEAD,
    "frozen, linear on mix": HEAD | {"train.layers": "mix"},
    "frozen, MLP on last": HEAD | {"train.head": "mlp"},
    "frozen, MLP on mix": HEAD | {"train.head": "mlp", "train.layers": "mix"},
}
"""Name -> settings."""
TAGGING = {
    "wnut17": ("ner/wnut17", "test"),
    "ud_ewt": ("pos/ud-english-ewt", "validation"),
    "demo": ("demo/entities", "validation"),
}
"""Data set -> the task, and the split that is reported."""


def trained(task: str, settings: dict[str, Any], name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train once, or take the finished run; return what it came to and what an epoch of it took."""
    out = Path(given.runs) / "-".join([*name.replace(",", "").replace("(", "").replace(")", "").split(), str(seed)])
    about: dict[str, Any] = {"data": given.data, "encoder": given.encoder, "limit": given.limit, "settings": settings}
    run = bertkit.finetune(task, **about, seed=seed, out=out)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    with (out / "events.jsonl").open(encoding="utf-8") as lines:
        steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    return {
        "seed": seed,
        "scores": {split: _plain(scores) for split, scores in run.scores.items()},
        "seconds_an_epoch": sum(step["seconds"] for step in steps) / max(1.0, steps[-1]["epoch"]),
        "epochs": steps[-1]["epoch"],
        "seconds": record["seconds"],
        "precision": record["device"]["precision"],
        **({"features": record["features"]} if "features" in record else {}),
        **({"mix": record["head"]["mix"]} if "mix" in record.get("head", {}) else {}),
    }


def _plain(scores: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if not name.endswith("_interval")}


def spread(runs: list[dict[str, Any]], split: str, metric: str) -> dict[str, float]:
    """Return mean and standard deviation of a score over the seeds."""
    values = [run["scores"][split][metric] for run in runs]
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if len(values) > 1 else 0.0}


def epochs(given: argparse.Namespace) -> None:
    """Measure SST-2: fine-tuned, and with heads on a frozen encoder."""
    command = f"python -m benchmarks.frozen epochs --data DIR --encoder {given.encoder} --seeds {given.seeds}"
    variants: dict[str, Any] = {}
    for name, settings in SST2.items():
        runs = []
        for seed in map(int, given.seeds.split(",")):
            runs.append(trained("glue/sst2", settings | _given(given), name, seed, given))
            seconds = statistics.median(run["seconds_an_epoch"] for run in runs)
            first = variants.get("fine-tuning", {"seconds_an_epoch": seconds})["seconds_an_epoch"]
            variants[name] = {
                "accuracy": spread(runs, "validation", "accuracy"),
                "seconds_an_epoch": seconds,
                "times_as_fast_as_fine_tuning": first / seconds,
                "seconds_of_the_pass": max(run.get("features", {}).get("seconds", 0.0) for run in runs),
                "runs": runs,
            }
            machine.write("frozen_epochs", command, {"variants": variants, "table": table(variants)})


def table(variants: dict[str, Any]) -> list[str]:
    """Return the variants as a Markdown table."""
    lines = ["| training | accuracy | seconds an epoch | times as fast | pass over the encoder |", "| --- " * 5 + "|"]
    for name, one in variants.items():
        accuracy, seconds = one["accuracy"], one["seconds_of_the_pass"]
        lines.append(
            f"| {name} | {accuracy['mean']:.4f} ± {accuracy['deviation']:.4f} | {one['seconds_an_epoch']:.2f} "
            f"| {one['times_as_fast_as_fine_tuning']:.1f} | {f'{seconds:.1f} s' if seconds else 'in each epoch'} |"
        )
    return lines


def layers(given: argparse.Namespace) -> None:
    """Compare the last layer of a frozen encoder with the learned mix of all, on tagging."""
    task, split = TAGGING[given.task]
    command = f"python -m benchmarks.frozen layers --task {given.task} --data DIR --encoder {given.encoder} "
    command += f"--seeds {given.seeds}"
    found: dict[str, Any] = {}
    for choice in ("last", "mix"):
        runs = []
        for seed in map(int, given.seeds.split(",")):
            settings = HEAD | {"train.layers": choice} | _given(given)
            runs.append(trained(task, settings, f"{given.task} {choice}", seed, given))
            metric = next(iter(runs[0]["scores"][split]))
            found[choice] = {"metric": metric, **spread(runs, split, metric), "runs": runs}
            machine.write(f"frozen_layers_{given.task}", command, {"split": split, "layers": found})


def _given(given: argparse.Namespace) -> dict[str, Any]:
    return {"train.epochs": given.epochs} if given.epochs else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["epochs", "layers"])
    parser.add_argument("--data")
    parser.add_argument("--task", choices=list(TAGGING), default="wnut17")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="")
    parser.add_argument("--limit", type=int, default=0, help="training examples; 0 is all")
    parser.add_argument("--epochs", type=float, default=0, help="of every training; 0 is each one's own")
    parser.add_argument("--runs", default="runs/frozen-benchmark")
    given = parser.parse_args()
    given.seeds = given.seeds or ("1" if given.what == "epochs" else "1,2,3")
    os.environ["BERTKIT_CACHE"] = str(Path(given.runs).absolute() / "cache")
    (epochs if given.what == "epochs" else layers)(given)


if __name__ == "__main__":
    main()
