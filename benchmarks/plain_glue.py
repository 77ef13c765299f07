"""Sequence classification written plainly on ``transformers.Trainer``: what bertkit's speed is measured against.

python -m benchmarks.plain_glue default
python -m benchmarks.plain_glue grouped --precision bf16 --encoder base --length 384 --texts windows --data DIR

One variant a process: a Trainer that is used in a process after a float32 run silently ignores bf16. So the precision
is read off a linear layer while it trains. Prints one JSON object. Nothing of bertkit is used but the way to an
encoder's folder.

default   padded to --length, in batches drawn at random, as ``run_glue.py`` runs it
dynamic   padded to the longest row of each batch
grouped   the same, in batches of similar length (Trainer sorts the rows of 50 batches together). To be timed over
          whole epochs: the first steps of a group are its longest rows
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from benchmarks import texts
from benchmarks.plain_tagging import encoder_folder, load_tokenizer

VARIANTS = ("default", "dynamic", "grouped")
BATCH = 32
ROWS = 200 * BATCH
"""Trainer sorts 50 batches together only where there are four times as many, and fewer otherwise."""
Row = dict[str, Any]


def sst2(folder: Path, count: int, seed: int = 0) -> list[Row]:
    """Read rows of SST-2, drawn at random, from a folder in the classic GLUE layout."""
    path = folder / "SST-2" / "train.tsv"
    opened = path.open if path.is_file() else partial(gzip.open, f"{path}.gz")
    with opened(mode="rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    chosen = random.Random(seed).sample(rows, count)
    return [{"text": row["sentence"], "label": int(row["label"])} for row in chosen]


def generated(kind: str, count: int, seed: int = 0) -> list[Row]:
    """Return made texts whose lengths are those of SST-2's, or of windows of SQuAD's contexts."""
    made = {"sst2": texts.sst2_like, "windows": texts.windows_like}[kind](count, seed)
    return [{"text": text, "label": i % 2} for i, text in enumerate(made)]


def rows_of(kind: str, data: Path | None, count: int) -> list[Row]:
    """Return SST-2's own rows where there is a folder with them, else made ones."""
    return sst2(data, count) if data and kind == "sst2" else generated(kind, count)


def base_sized(folder: Path) -> Path:
    """Save a random BERT as large as bert-base, with minilm's tokenizer."""
    tokenizer = load_tokenizer(encoder_folder("minilm"))
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def features_of(rows: list[Row], tokenizer: Any, length: int, *, padded: bool) -> list[Row]:
    """Tokenize, as ``run_glue.py`` does."""
    padding = "max_length" if padded else False
    encoded = tokenizer([row["text"] for row in rows], padding=padding, max_length=length, truncation=True)
    return [
        {name: values[i] for name, values in encoded.items()} | {"labels": row["label"]} for i, row in enumerate(rows)
    ]


class Clock(TrainerCallback):
    """Notes the time when training begins and after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


class Counted:
    """A collator that notes how many tokens and how many cells each batch has."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.tokens: list[int] = []
        self.cells: list[int] = []

    def __call__(self, features: list[Row]) -> Any:
        batch = self.collator(features)
        self.tokens.append(int(batch["attention_mask"].sum()))
        self.cells.append(batch["attention_mask"].numel())
        return batch


def arguments(out: str, variant: str, precision: str, steps: int) -> TrainingArguments:
    """Return ``run_glue.py``'s recipe; what is not named here is Trainer's default (AdamW, clipping at 1)."""
    return TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=BATCH,
        learning_rate=2e-5,
        max_steps=steps,
        train_sampling_strategy="group_by_length" if variant == "grouped" else "random",
        bf16=precision == "bf16",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def train(variant: str, precision: str, encoder: Path, rows: list[Row], given: argparse.Namespace) -> dict[str, Any]:
    """Train and return what a step costs, those before the clock starts left out."""
    steps, first = given.steps or -(-len(rows) // BATCH), given.left_out
    tokenizer = load_tokenizer(encoder)
    features = features_of(rows, tokenizer, given.length, padded=variant == "default")
    set_seed(42)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, dtype=torch.float32)
    seen: set[str] = set()
    linear = model.base_model.encoder.layer[0].attention.self.query
    linear.register_forward_hook(lambda _module, _inputs, output: seen.add(str(output.dtype).removeprefix("torch.")))
    collator = Counted(default_data_collator if variant == "default" else DataCollatorWithPadding(tokenizer))
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        args = arguments(out, variant, precision, steps)
        Trainer(model=model, args=args, train_dataset=features, data_collator=collator, callbacks=[clock]).train()
    assert seen == {{"bf16": "bfloat16", "float32": "float32"}[precision]}, f"asked for {precision}, computed in {seen}"
    return {
        "milliseconds": 1000 * (clock.times[-1] - clock.times[first]) / (steps - first),
        "steps": steps - first,
        "tokens": statistics.mean(collator.tokens[first:steps]),
        "cells": statistics.mean(collator.cells[first:steps]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "dtype": seen.pop(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--encoder", default="minilm", help="an installed encoder, a folder, or base: bert-base-sized")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--texts", choices=["sst2", "windows"], default="sst2")
    parser.add_argument("--data", type=Path, help="a folder in the classic GLUE layout; else texts are made")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=0, help="0: one epoch")
    parser.add_argument("--left-out", type=int, default=0, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = rows_of(given.texts, given.data, given.rows)
    with tempfile.TemporaryDirectory() as folder:
        encoder = base_sized(Path(folder)) if given.encoder == "base" else encoder_folder(given.encoder)
        print(json.dumps(train(given.variant, given.precision, encoder, rows, given)))


if __name__ == "__main__":
    main()
