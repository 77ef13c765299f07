"""A frozen encoder with cached features against fine-tuning, and a learned mix of its layers against the last one.

python -m benchmarks.frozen epochs --data DIR                        seconds an epoch and scores on SST-2
python -m benchmarks.frozen layers --task wnut17 --data DIR          the last layer against the mix, 3 seeds

DIR is GLUE's folder, or that of the tagging files as their authors distribute them (``--task demo`` needs none). Runs
stay in ``--runs``, and a run that is finished is not repeated. Features are cached below ``--runs`` too, so that the
one pass over the encoder is measured.

Of SST-2, all trainings of a seed follow each other, then those of the next. ``--fine-tuned DIR`` takes the scores of
fine-tuning from runs that there are (``DIR/seed-1``, ..., as ``bertkit finetune glue/sst2 --seeds`` leaves them); its
first steps are timed anew beside the heads all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine

HEAD = {"train.freeze": "encoder", "train.epochs": 10, "train.learning_rate": 1e-3}
"""A head alone learns at rates at which an encoder would break, and in more epochs."""
FINE_TUNING = "fine-tuning"
SST2: dict[str, dict[str, Any]] = {
    "frozen, linear on [CLS] (Hugging Face's head)": HEAD,
    "frozen, linear on the mean": HEAD | {"train.pooling": "mean"},
    "frozen, MLP on the mean": HEAD | {"train.head": "mlp", "train.pooling": "mean"},
    "frozen, MLP on the mean, mix": HEAD | {"train.head": "mlp", "train.pooling": "mean", "train.layers": "mix"},
}
"""Name -> settings."""
TIMED = {"train.max_steps": 200, "eval.resamples": 0}
"""Of fine-tuning that is timed and not scored."""
TAGGING = {
    "wnut17": ("ner/wnut17", "test"),
    "ud_ewt": ("pos/ud-english-ewt", "validation"),
    "demo": ("demo/entities", "validation"),
}
"""Data set -> the task, and the split that is reported."""


def typed(module: str, given: argparse.Namespace) -> str:
    """Return the command that a result stands beside."""
    parts = [f"python -m benchmarks.{module}", *(["--data DIR"] if given.data else []), f"--encoder {given.encoder}"]
    parts += [f"--{name} {getattr(given, name):g}" for name in ("limit", "epochs") if getattr(given, name)]
    return " ".join([*parts, f"--seeds {given.seeds}"])


def trained(task: str, settings: dict[str, Any], name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train once, or take the finished run; return what it came to and what an epoch of it took."""
    out = Path(given.runs) / "-".join([*re.findall(r"[\w-]+", name), str(seed)])
    about: dict[str, Any] = {"data": given.data, "encoder": given.encoder, "limit": given.limit, "settings": settings}
    run = bertkit.finetune(task, **about, seed=seed, out=out)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    with (out / "events.jsonl").open(encoding="utf-8") as lines:
        steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    return {
        "seed": seed,
        "scores": {split: _plain(scores) for split, scores in run.scores.items()},
        "seconds_an_epoch": sum(step["seconds"] for step in steps) / steps[-1]["epoch"],
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


def fine_tuned(seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return fine-tuning's line: trained, or timed beside the scores of a run that there is."""
    if not given.fine_tuned:
        return trained("glue/sst2", _given(given), FINE_TUNING, seed, given)
    timed = trained("glue/sst2", TIMED, f"{FINE_TUNING} timed", seed, given)
    scores = json.loads((Path(given.fine_tuned) / f"seed-{seed}" / "scores.json").read_text(encoding="utf-8"))
    return timed | {"scores": {split: _plain(found) for split, found in scores["splits"].items()}, "epochs": None}


def epochs(given: argparse.Namespace) -> None:
    """Measure SST-2: fine-tuned, and with heads on a frozen encoder."""
    command = typed("frozen epochs", given) + (" --fine-tuned DIR" if given.fine_tuned else "")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (FINE_TUNING, *SST2)}
    for seed in map(int, given.seeds.split(",")):
        runs[FINE_TUNING].append(fine_tuned(seed, given))
        for name, settings in SST2.items():
            runs[name].append(trained("glue/sst2", settings | _given(given), name, seed, given))
        variants = {name: _variant(each, runs[FINE_TUNING]) for name, each in runs.items()}
        machine.write("frozen_epochs", command, {"variants": variants, "table": table(variants)})


def _variant(runs: list[dict[str, Any]], fine_tuning: list[dict[str, Any]]) -> dict[str, Any]:
    seconds, theirs = (statistics.median(run["seconds_an_epoch"] for run in each) for each in (runs, fine_tuning))
    return {
        "accuracy": spread(runs, "validation", "accuracy"),
        "seconds_an_epoch": seconds,
        "times_as_fast_as_fine_tuning": theirs / seconds,
        "seconds_of_the_pass": max(run.get("features", {}).get("seconds", 0.0) for run in runs),
        "runs": runs,
    }


def table(variants: dict[str, Any]) -> list[str]:
    """Return the variants as a Markdown table."""
    lines = ["| training | accuracy | seconds an epoch | times as fast | pass over the encoder |", "| --- " * 5 + "|"]
    for name, one in variants.items():
        accuracy, seconds = one["accuracy"], one["seconds_of_the_pass"]
        lines.append(
            f"| {name} | {shown(accuracy, one['runs'])} | {one['seconds_an_epoch']:.2f} "
            f"| {one['times_as_fast_as_fine_tuning']:.1f} | {f'{seconds:.1f} s' if seconds else 'in each epoch'} |"
        )
    return lines


def shown(score: dict[str, float], runs: list[dict[str, Any]]) -> str:
    """Return a mean, with the deviation where there is more than one seed."""
    return f"{score['mean']:.4f}" + (f" ± {score['deviation']:.4f}" if len(runs) > 1 else "")


def layers(given: argparse.Namespace) -> None:
    """Compare the last layer of a frozen encoder with the learned mix of all, on tagging."""
    task, split = TAGGING[given.task]
    command = typed(f"frozen layers --task {given.task}", given)
    found: dict[str, Any] = {}
    for choice in ("last", "mix"):
        runs = []
        for seed in map(int, given.seeds.split(",")):
            settings = HEAD | {"train.layers": choice} | _given(given)
            runs.append(trained(task, settings, f"{given.task} {choice}", seed, given))
            metric = next(iter(runs[0]["scores"][split]))
            found[choice] = {"metric": metric, **spread(runs, split, metric), "runs": runs}
            result = {"split": split, "layers": found, "table": _layers_table(found, task, split)}
            machine.write(f"frozen_layers_{given.task}", command, result)


def _layers_table(found: dict[str, Any], task: str, split: str) -> list[str]:
    metric = found["last"]["metric"]
    lines = [f"| layers | `{task}`, {split} {metric} | each seed |", "| --- " * 3 + "|"]
    for choice, one in found.items():
        each = ", ".join(f"{run['scores'][split][metric]:.4f}" for run in one["runs"])
        lines.append(f"| `{choice}` | {shown(one, one['runs'])} | {each} |")
    return lines


def _given(given: argparse.Namespace) -> dict[str, Any]:
    return {"train.epochs": given.epochs} if given.epochs else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["epochs", "layers"])
    parser.add_argument("--data")
    parser.add_argument("--task", choices=list(TAGGING), default="wnut17")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--limit", type=int, default=0, help="training examples; 0 is all")
    parser.add_argument("--epochs", type=float, default=0, help="of every training; 0 is each one's own")
    parser.add_argument("--fine-tuned", default="", help="folder with seed-1, ... of SST-2 fine-tuned")
    parser.add_argument("--runs", default="runs/frozen-benchmark")
    given = parser.parse_args()
    os.environ["BERTKIT_CACHE"] = str(Path(given.runs).absolute() / "cache")
    (epochs if given.what == "epochs" else layers)(given)


if __name__ == "__main__":
    main()
