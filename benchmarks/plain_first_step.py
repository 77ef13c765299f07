"""The shortest plain script to a first optimizer step: what bertkit's start-up is measured against.

python -m benchmarks.plain_first_step ENCODER_FOLDER ROWS.jsonl

Imports the same classes, loads the same model, tokenises one batch of 32 and steps. Prints ``first step`` after it.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main() -> None:
    folder, data = sys.argv[1:]
    with Path(data).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 32)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    inputs = tokenizer(
        [row["text"] for row in rows], truncation=True, max_length=128, padding=True, return_tensors="pt"
    )
    labels = torch.tensor([int(row["label"] == "positive") for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    model.train()
    model(**inputs, labels=labels).loss.backward()
    optimizer.step()
    print("first step", flush=True)


if __name__ == "__main__":
    main()
