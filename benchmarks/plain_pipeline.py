"""Texts classified by ``transformers.pipeline``: what bertkit's prediction is measured against.

python -m benchmarks.plain_pipeline default|best MODEL FILE...

default   ``pipeline(batch_size=32)``, all else as it comes: float32, rows in their order
best      bf16 weights and rows sorted by length, the order restored afterwards

Each FILE holds rows {"text": ...}. One variant a process; prints one JSON object. Nothing of bertkit is used.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

BATCH = 32
MAX_LENGTH = 384
PASSES = 2
"""Timed passes over a file, after one that warms up; the faster counts."""


def classify(classifier: Any, texts: list[str], *, by_length: bool) -> list[str]:
    """Return a label for each text, in order."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row])) if by_length else range(len(texts))
    found = classifier([texts[row] for row in order], batch_size=BATCH, truncation=True, max_length=MAX_LENGTH)
    labels = dict(zip(order, (one["label"] for one in found), strict=True))
    return [labels[row] for row in range(len(texts))]


def main() -> None:
    variant, model, *files = sys.argv[1:]
    options = {"dtype": torch.bfloat16} if variant == "best" else {}
    began = time.perf_counter()
    classifier = pipeline("text-classification", model=model, **options)
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - began, "dtype": str(classifier.model.dtype)}
    for file in files:
        texts = [json.loads(line)["text"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
        labels = classify(classifier, texts, by_length=variant == "best")
        seconds = []
        for _ in range(PASSES):
            began = time.perf_counter()
            classify(classifier, texts, by_length=variant == "best")
            seconds.append(time.perf_counter() - began)
        found[Path(file).stem] = {"rows_per_second": len(texts) / min(seconds), "labels": labels}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
