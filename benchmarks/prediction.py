"""Rows a second of ``bertkit predict``, by torch and by OpenVINO, beside ``transformers.pipeline``: A B A B.

python -m benchmarks.prediction [--data DIR] [--long FILE.jsonl]

``short`` are the 872 texts of SST-2's dev.tsv, from DIR in the classic GLUE download layout, or generated ones of
about their lengths; ``long`` are texts that are cut at 384 tokens: rows {"text": ...} of FILE, or generated ones. The
model is minilm after five steps on ``demo/reviews``, the same saved folder for all. Every variant runs in a process of
its own, which loads, goes through a file once and then times whole passes. The peer is ``plain_pipeline.py``.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, texts
from benchmarks.plain_pipeline import MAX_LENGTH, PASSES

VARIANTS = ("pipeline_default", "pipeline_best", "bertkit_torch", "bertkit_openvino")
FILES = ("short", "long")


def short_texts(data: Path | None) -> list[str]:
    """Return the texts of SST-2's dev.tsv, or generated ones: 872 of 25 tokens on average."""
    if data is None:
        return texts._texts(872, 0, mean=25, spread=0.5, longest=66)
    with (data / "SST-2" / "dev.tsv").open(encoding="utf-8", newline="") as file:
        return [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def long_texts(file: Path | None, count: int) -> list[str]:
    """Return texts of at least 384 tokens: the first long ones of a file, or generated ones."""
    if file is None:
        return texts._texts(count, 0, mean=450, spread=0.05, longest=600)
    rows = (json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines())
    # A word has at least one token.
    return [text for text in rows if len(text.split()) >= MAX_LENGTH][:count]


def timed(backend: str, run: str, files: Sequence[str]) -> dict[str, Any]:
    """Predict files in this process; as ``plain_pipeline`` does."""
    import bertkit

    began = time.perf_counter()
    predictor = bertkit.load(run, backend=backend)  # type: ignore[arg-type]
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - began, "dtype": predictor.opened.precision}
    for file in files:
        rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
        labels = [prediction["label"] for prediction in predictor(rows)]
        seconds = []
        for _ in range(PASSES):
            began = time.perf_counter()
            predictor(rows)
            seconds.append(time.perf_counter() - began)
        found[Path(file).stem] = {"rows_per_second": len(rows) / min(seconds), "labels": labels}
    return found


def measured(variant: str, run: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Run one variant in a process of its own."""
    kind, _, setting = variant.partition("_")
    script = ["benchmarks.plain_pipeline", setting, str(run / "model")]
    if kind == "bertkit":
        script = ["benchmarks.prediction", "--one", setting, str(run)]
    command = [sys.executable, "-m", *script, *map(str, files)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def whole_command(backend: str, run: Path, file: Path) -> float:
    """Return the seconds of the command from its start to its end, with a file written."""
    out = file.with_suffix(".out")
    command = [sys.executable, "-m", "bertkit", "predict", str(file), "--run", str(run), "--out", str(out)]
    began = time.perf_counter()
    subprocess.run([*command, "--backend", backend], check=True, capture_output=True)
    return time.perf_counter() - began


def train(folder: Path) -> Path:
    """Train for five steps; all that is asked of the model is its size."""
    run = folder / "run"
    settings = ("train.max_steps=5", f"train.max_length={MAX_LENGTH}", "eval.resamples=0")
    command = [sys.executable, "-m", "bertkit", "finetune", "demo/reviews", "--out", str(run)]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, check=True, capture_output=True)
    return run


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians, spread and ratios of each file."""
    result: dict[str, Any] = {}
    for file in FILES:
        rates = {name: [one[file]["rows_per_second"] for one in rounds] for name, rounds in found.items()}
        medians = {name: statistics.median(values) for name, values in rates.items()}
        wanted = found["pipeline_default"][0][file]["labels"]
        result[file] = {
            "rows": len(wanted),
            "rows_per_second": {name: round(value, 1) for name, value in medians.items()},
            "spread": {name: [round(min(values), 1), round(max(values), 1)] for name, values in rates.items()},
            "over_pipeline_default": {n: round(v / medians["pipeline_default"], 2) for n, v in medians.items()},
            "over_pipeline_best": {n: round(v / medians["pipeline_best"], 2) for n, v in medians.items()},
            "labels_unlike_pipeline_default": {
                name: sum(one != other for one, other in zip(rounds[0][file]["labels"], wanted, strict=True))
                for name, rounds in found.items()
            },
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--long", type=Path)
    parser.add_argument("--long-rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(timed(given.one[0], given.one[1], given.one[2:])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"short": short_texts(given.data), "long": long_texts(given.long, given.long_rows)}
        files = [folder / f"{kind}.jsonl" for kind in FILES]
        for file in files:
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows[file.stem]), encoding="utf-8")
        run = train(folder)
        first = whole_command("openvino", run, files[0])
        found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for _ in range(given.rounds):
            for variant, rounds in found.items():
                rounds.append(measured(variant, run, files))
        seconds = {backend: round(whole_command(backend, run, files[0]), 2) for backend in ("torch", "openvino")}
    result = {
        "texts": {"short": "SST-2 dev" if given.data else "generated", "long": "given" if given.long else "generated"},
        "dtype": {name: rounds[0]["dtype"] for name, rounds in found.items()},
        **summary(found),
        "seconds_of_the_command_on_short": seconds | {"openvino_the_first_time": round(first, 2)},
        "rounds": given.rounds,
    }
    options = f"{' --data DIR' if given.data else ''}{' --long FILE' if given.long else ''}"
    command = f"python -m benchmarks.prediction{options} --long-rows {given.long_rows} --rounds {given.rounds}"
    machine.write("prediction", command, result)


if __name__ == "__main__":
    main()
