"""GLUE in small: all its tasks in the classic download layout, a few rows each, in the tiny encoder's words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import bertkit
from bertkit.workflows.suite.train import Trained
from tests.conftest import BAD, GOOD, OTHER

ROWS = {"train": 12, "dev": 8, "test": 4}
PAIR = ("sentence1", "sentence2")
NLI = ("entailment", "not_entailment")
QUICK = {
    "train.max_steps": 1,
    "train.batch_size": 8,
    "train.max_length": 32,
    "eval.resamples": 0,
    "train.learning_rate": 5e-3,
}
TASKS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "SST-2": (("sentence",), "label", ("0", "1")),
    "MRPC": (("#1 String", "#2 String"), "Quality", ("0", "1")),
    "STS-B": (PAIR, "score", ("0.5", "4.0")),
    "QQP": (("question1", "question2"), "is_duplicate", ("0", "1")),
    "QNLI": (("question", "sentence"), "label", NLI),
    "RTE": (PAIR, "label", NLI),
    "WNLI": (PAIR, "label", ("0", "1")),
}
"""Folder -> text columns, label column, label cells."""


def _text(rng: random.Random, good: bool) -> str:
    return " ".join([*rng.choices(OTHER, k=rng.randint(2, 6)), rng.choice(GOOD if good else BAD)])


def _table(columns: tuple[str, ...], label: str, cells: tuple[str, ...], number: int, seed: int) -> str:
    """Return a TSV whose last text says the label; a test file has ``index`` in the label's place."""
    rng = random.Random(seed)
    header = [*columns, label] if label else ["index", *columns]
    lines = ["\t".join(header)]
    for index in range(number):
        texts = [_text(rng, index % 2 == 1) for _ in columns]
        lines.append("\t".join([*texts, cells[index % len(cells)]] if label else [str(index), *texts]))
    return "\n".join(lines) + "\n"


def write_glue(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Write the nine tasks and the diagnostic set, less the folders named."""
    files: dict[str, str] = {}
    for name, (columns, label, cells) in TASKS.items():
        for split, number in ROWS.items():
            asked = "" if split == "test" else label
            files[f"{name}/{split}.tsv"] = _table(columns, asked, cells, number, len(files))
    for split, number in ROWS.items():
        rng = random.Random(split)
        rows = [(str(n % 2), _text(rng, n % 2 == 1)) for n in range(number)]
        labelled = "".join(f"x\t{label}\t\t{text}\n" for label, text in rows)
        test = "index\tsentence\n" + "".join(f"{n}\t{text}\n" for n, (_, text) in enumerate(rows))
        files[f"CoLA/{split}.tsv"] = test if split == "test" else labelled
    three = ("entailment", "neutral", "contradiction")
    for split in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"):
        kind = split.partition("_")[0]
        label = "" if kind == "test" else "gold_label"
        files[f"MNLI/{split}.tsv"] = _table(PAIR, label, three, ROWS[kind], len(files))
    files["diagnostic/diagnostic.tsv"] = _table(PAIR, "", three, 5, 7)
    for name, text in files.items():
        if name.partition("/")[0] not in without:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


def train_suite(task: Any = None, *, settings: dict[str, Any] | None = None, **options: Any) -> Trained:
    """Train each run for a step, in float32, on one thread."""
    given = {"precision": "float32", "threads": 1, **options}
    if "resume" not in given:
        given["settings"] = QUICK | (settings or {})
    return bertkit.finetune_suite(task, **given)
