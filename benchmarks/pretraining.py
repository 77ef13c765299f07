"""Pre-training from scratch: held-out text over time, and what fine-tuning gains by it over random weights.

python -m benchmarks.pretraining --corpus train.txt.gz --valid valid.txt --data GLUE
python -m benchmarks.pretraining --corpus train.txt.gz --valid valid.txt --data GLUE --minutes 1 --limit 500 --seeds 1

GLUE is a folder in the classic GLUE download layout. A few steps are timed first, and as many are taken as fit into the
minutes; evaluations come on top. Fine-tuning then starts from the trained weights and from BERT's random ones of the
same size and tokenizer, by the same recipe; of several learning rates, each kind of start is shown at its own best.
Runs that are finished are not run again. The result file is written after each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

PROBE = 30
"""Steps that are timed first; the first ten are not counted."""
Row = dict[str, Any]


def bertkit(*words: object) -> Row:
    """Run a command and return its JSON."""
    command = [sys.executable, "-m", "bertkit", *map(str, words), "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    found: Row = json.loads(ended.stdout)
    return found


def settings(values: Row) -> list[str]:
    """Return settings as the command line takes them."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def events(run: Path) -> list[Row]:
    """Return what happened in a run."""
    return [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(rows: Iterable[Row]) -> list[Row]:
    """Return held-out scores over the seconds and tokens of training."""
    found: list[Row] = []
    seconds, tokens = 0.0, 0
    for row in rows:
        if row["event"] == "step":
            seconds += row["seconds"]
            tokens += row["num_tokens"]
        if row["event"] == "scores":
            found.append({"step": row["step"], "seconds": round(seconds, 1), "tokens": tokens, **row["scores"]})
    return found


def pretraining(given: argparse.Namespace) -> list[object]:
    """Return the command of the pre-training, without its length."""
    values = {"train.learning_rate": given.rate, "train.batch_size": given.batch_size, "eval.resamples": 0}
    start = ["--size", given.size, "--new-tokenizer", given.new_tokenizer, "--objective", given.objective]
    more = [word for each in given.set or () for word in ("--set", each)]
    return ["pretrain", given.corpus, "--valid", given.valid, *start, "--seed", 1, *settings(values), *more]


def steps_for(given: argparse.Namespace, runs: Path) -> int:
    """Return how many steps fit into the minutes: those of a run that was begun, else by the time of a few."""
    record = runs / "pretrained" / "run.json"
    if record.is_file():
        begun: Row = json.loads(record.read_text(encoding="utf-8"))
        return int(begun["config"]["train"]["max_steps"])
    if given.steps:
        return int(given.steps)
    bertkit(*pretraining(given), "--out", runs / "probe", *settings({"train.max_steps": PROBE}))
    seconds = [row["seconds"] for row in events(runs / "probe") if row["event"] == "step"]
    return max(PROBE, int(float(given.minutes) * 60 / statistics.mean(seconds[10:])))


def pretrained(given: argparse.Namespace, runs: Path) -> Row:
    """Pre-train, and return the curve and the last scores."""
    steps = steps_for(given, runs)
    out = runs / "pretrained"
    every = max(1, round(steps / given.points))
    values = {"train.max_steps": steps, "train.eval_steps": every, "train.epochs": 1}
    found = bertkit(*pretraining(given), "--out", out, *settings(values))
    record: Row = json.loads((out / "run.json").read_text(encoding="utf-8"))
    facts = {key: record[key] for key in ("corpus", "layers", "device", "num_examples")}
    points = curve(events(out))
    return {
        "steps": found["steps"],
        "best_step": found["best_step"],
        "training_seconds": points[-1]["seconds"],
        "seconds": found["seconds"],
        "tokens": points[-1]["tokens"],
        "tokens_per_second": found["tokens_per_second"],
        "scores": found["scores"]["validation"],
        "curve": points,
        **facts,
    }


def random_start(model: Path, size: str, seed: int, folder: Path) -> Path:
    """Write weights at random, of the size and with the tokenizer of a pre-trained model."""
    if not (folder / "model.safetensors").is_file():
        from bertkit import encoder

        source = encoder.Source(name="random", folder=model)
        tokenizer = encoder.load_tokenizer(source)
        made = encoder.from_size(size, tokenizer, source, pairs=True, max_length=512, seed=seed, init="normal")
        encoder.save(made.model.base_model, tokenizer, folder)
    return folder


def finetuned(task: str, start: str, encoder: Path | str, rate: float, seed: int, given: argparse.Namespace) -> Row:
    """Fine-tune once, or take the finished run."""
    name, _, place = task.partition(":")
    name = name if "/" in name else f"glue/{name}"
    out = Path(given.runs) / f"{name.replace('/', '-')}-{start}-{rate:g}-{seed}-{given.limit or 'all'}"
    values = {"train.learning_rate": rate, "train.epochs": given.epochs, "eval.resamples": 0}
    words: list[object] = ["finetune", name, "--data", place or given.data, "--encoder", encoder, "--seed", seed]
    words += ["--out", out, *settings(values), *(["--limit", given.limit] if given.limit else [])]
    found = bertkit(*words)
    scores = found["scores"]["validation"]
    metric = next(iter(scores))
    return {"task": name, "start": start, "rate": rate, "seed": seed, "metric": metric, "score": scores[metric]}


def summary(runs: Sequence[Row]) -> Row:
    """Return, for each task and start, mean and deviation at the rate whose mean is best; then the difference."""
    found: Row = {}
    for task in dict.fromkeys(run["task"] for run in runs):
        own = [run for run in runs if run["task"] == task]
        found[task] = {"metric": own[0]["metric"]}
        for start in dict.fromkeys(run["start"] for run in own):
            found[task][start] = _best([run for run in own if run["start"] == start])
        starts = [found[task][start] for start in found[task] if start != "metric"]
        if len(starts) == 2:
            found[task]["difference"] = starts[0]["mean"] - starts[1]["mean"]
    return found


def _best(runs: Sequence[Row]) -> Row:
    """Return the scores at the learning rate with the highest mean."""
    rates = {rate: [run["score"] for run in runs if run["rate"] == rate] for rate in {run["rate"] for run in runs}}
    rate, scores = max(rates.items(), key=lambda item: (statistics.mean(item[1]), -item[0]))
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {"rate": rate, "mean": statistics.mean(scores), "standard_deviation": spread, "scores": scores}


def parser() -> argparse.ArgumentParser:
    """Return what the command line takes."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--corpus", required=True, type=Path)
    made.add_argument("--valid", required=True, type=Path)
    made.add_argument("--data", required=True, type=Path)
    made.add_argument("--size", default="mini")
    made.add_argument("--new-tokenizer", type=int, default=8000)
    made.add_argument("--objective", default="mlm")
    made.add_argument("--minutes", type=float, default=20)
    made.add_argument("--steps", type=int, default=0, help="in place of --minutes")
    made.add_argument("--points", type=int, default=20, help="evaluations on held-out text")
    made.add_argument("--rate", type=float, default=1e-3, help="of pre-training")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--set", action="append", help="further settings of pretrain")
    made.add_argument("--tasks", default="sst2,cola", help="of GLUE by name, others as type/task:DIR")
    made.add_argument("--limit", type=int, default=0, help="fine-tune on so many rows; 0: all")
    made.add_argument("--epochs", type=int, default=3)
    made.add_argument("--rates", default="1e-4,3e-4", help="of fine-tuning")
    made.add_argument("--seeds", default="1,2,3")
    made.add_argument("--runs", type=Path, default=Path("runs/pretraining-benchmark"))
    return made


def main() -> None:
    given = parser().parse_args()
    tasks = ",".join(task.partition(":")[0] + (":DIR" if ":" in task else "") for task in given.tasks.split(","))
    command = (
        f"python -m benchmarks.pretraining --corpus FILE --valid FILE --data DIR --minutes {given.minutes:g} "
        f"--size {given.size} --new-tokenizer {given.new_tokenizer} --objective {given.objective} "
        f"--rate {given.rate:g} --batch-size {given.batch_size} --tasks {tasks} --limit {given.limit} "
        f"--epochs {given.epochs} --rates {given.rates} --seeds {given.seeds}"
        + "".join(f" --set {each}" for each in given.set or ())
    )
    facts: Row = {"size": given.size, "objective": given.objective, "limit": given.limit, "epochs": given.epochs}
    facts["pretraining"] = pretrained(given, given.runs)
    model = given.runs / "pretrained" / "model"
    runs: list[Row] = []
    machine.write("pretraining", command, {**facts, "runs": runs, "summary": {}})
    for task in given.tasks.split(","):
        for seed in map(int, given.seeds.split(",")):
            random = random_start(model, given.size, seed, given.runs / f"random-{given.size}-{seed}")
            starts = {"pre-trained": given.runs / "pretrained", "random": random}
            for start, encoder in starts.items():
                runs += [
                    finetuned(task, start, encoder, rate, seed, given) for rate in map(float, given.rates.split(","))
                ]
            machine.write("pretraining", command, {**facts, "runs": runs, "summary": summary(runs)})


if __name__ == "__main__":
    main()
