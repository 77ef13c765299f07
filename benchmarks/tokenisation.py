"""Rows a second from texts to what training takes: ``adapter.encode`` beside ``datasets.map``, and the cache.

python -m benchmarks.tokenisation                       texts of SST-2's lengths, made from the embedded reviews
python -m benchmarks.tokenisation --data train.tsv      a column ``sentence`` of one's own

map      ``datasets.Dataset.map(batched=True)`` with the fast tokenizer, in memory, as ``run_glue.py`` does it
encode   bertkit's sequence-classification adapter, through ``workflows.preparation.encode``, nothing kept
kept     the same, taken from the cache that an earlier call filled; its hashing is in the time

Each in a process of its own, in turn (A B C A B C), rows a second of three rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine, texts

VARIANTS = ("map", "encode", "kept")
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="TSV with a column 'sentence'")
    parser.add_argument("--rows", type=int, default=67_349, help="where there is no --data; SST-2 has 67,349")
    parser.add_argument("--variant", choices=VARIANTS, help="time this one, here, and print the seconds")
    given = parser.parse_args()
    rows = read(given.data) if given.data else texts.sst2_like(given.rows, seed=0)
    if given.variant:
        print(json.dumps(VARIANT[given.variant](rows)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(ROUNDS):
            for name in VARIANTS:
                seconds[name].append(in_process(name, sys.argv[1:], cache if name == "kept" else ""))
    rates = {name: [round(len(rows) / value) for value in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "rows": len(rows),
        "characters": sum(map(len, rows)),
        "rows_per_second": rates,
        "median_rows_per_second": medians,
        "encode_over_map": round(medians["encode"] / medians["map"], 2),
        "kept_over_encode": round(medians["kept"] / medians["encode"], 2),
    }
    machine.write("tokenisation", " ".join(["python -m benchmarks.tokenisation", *sys.argv[1:]]), result)


def in_process(name: str, arguments: list[str], cache: str) -> float:
    """Return the seconds that a variant took in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tokenisation", *arguments, "--variant", name]
    environment = os.environ | {"BERTKIT_CACHE": cache, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def read(path: Path) -> list[str]:
    """Return the sentences of a TSV file."""
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        return [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def by_map(rows: list[str]) -> float:
    """Time ``datasets.map``."""
    import datasets
    from transformers import AutoTokenizer

    from bertkit import encoder

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(encoder.find("minilm").folder)
    tokenizer(rows[:100], truncation=True, max_length=128)
    made = datasets.Dataset.from_dict({"sentence": rows, "label": [0] * len(rows)})
    began = time.perf_counter()
    made.map(
        lambda batch: tokenizer(batch["sentence"], truncation=True, max_length=128), batched=True, keep_in_memory=True
    )
    return time.perf_counter() - began


def by_adapter(rows: list[str], *, twice: bool = False) -> float:
    """Time bertkit's encoding; with ``twice`` the second one."""
    from bertkit import adapters, encoder
    from bertkit.config import TrainConfig
    from bertkit.data import Split
    from bertkit.task import DataSource, Task
    from bertkit.workflows import preparation

    columns: dict[str, Any] = {"text": "sentence", "label": "label"}
    labels = ("negative", "positive")
    task = Task(name="x", type="sequence-classification", data=DataSource(), labels=labels, columns=columns)
    adapter = adapters.find(task.type)(task, TrainConfig(), labels)
    split = Split(name="train", examples=[{"sentence": row, "label": 0} for row in rows], source="texts")
    tokenizer = encoder.load_tokenizer(encoder.find("minilm"))
    adapter.encode(split.examples[:100], tokenizer)
    if twice:
        preparation.WORTH_KEEPING = 0.0
        preparation.encode(adapter, split, tokenizer)
    began = time.perf_counter()
    preparation.encode(adapter, split, tokenizer)
    return time.perf_counter() - began


VARIANT: dict[str, Callable[[list[str]], float]] = {
    "map": by_map,
    "encode": by_adapter,
    "kept": partial(by_adapter, twice=True),
}


if __name__ == "__main__":
    main()
