"""Memory of training and predicting: peaks beside ``transformers.Trainer``, growth over steps, growth over rows.

python -m benchmarks.memory
python -m benchmarks.memory --minilm-steps 2000 --rows 1000000

Texts are made with SST-2's lengths, batches are of 32 drawn at random, and each number comes from a process of its own:

- peak of training ``minilm``: bertkit at its defaults, beside Trainer as ``run_glue.py`` runs it (padded to 128), in
  float32 and in bf16 (``benchmarks.plain_glue``);
- growth of the resident memory from step 200 to the last, of a random encoder with 2 layers of width 64, whose shapes
  are as many as any model's and whose own memory hides nothing, and of ``minilm``;
- peak of ``bertkit predict`` with that encoder on 10,000 and on more rows (``benchmarks.predict_memory``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine, predict_memory, texts
from benchmarks.plain_tagging import encoder_folder, load_tokenizer

BATCH = 32
FIRST = 200
"""The step from which growth is counted: caches are warm, the longest batches were probably seen."""
NEAR = 25
"""Growth compares medians of the resident memory over so many steps."""
TASK = """type = "sequence-classification"
kind = "single"
labels = ["0", "1"]
metrics = ["accuracy"]
[data]
files = { train = "train.jsonl", validation = "validation.jsonl" }
"""


def small_encoder(folder: Path) -> Path:
    """Save a random BERT of 2 layers of width 64, with minilm's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = load_tokenizer(encoder_folder("minilm"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_task(folder: Path, rows: int) -> Path:
    """Write a task of texts as long as SST-2's; few are evaluated, after the last step."""
    for name, count in (("train", rows), ("validation", BATCH)):
        lines = [json.dumps({"text": text, "label": str(i % 2)}) for i, text in enumerate(texts.sst2_like(count, 1))]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = folder / "task.toml"
    task.write_text(TASK, encoding="utf-8")
    return task


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def follow(encoder: str, steps: int, settings: list[str]) -> dict[str, Any]:
    """Train in this process and return its resident memory after each step, and its peak."""
    import bertkit
    from bertkit import config
    from bertkit.events import Step

    found: list[float] = []
    peak = 0.0

    def listen(event: Any) -> None:
        nonlocal peak
        if isinstance(event, Step):
            found.append(resident())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    given = {"train.max_steps": steps, "train.epochs": 1, "eval.resamples": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = small_encoder(folder / "body") if encoder == "small" else encoder
        task = write_task(folder, steps * BATCH)
        tree = config.parse_overrides(settings)
        extra = {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
        bertkit.finetune(task, encoder=body, out=folder / "run", settings=given | extra, listen=listen)
    return {"resident_mb": found, "peak_mb": peak}


def in_process_of_its_own(module: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark that prints one JSON object last, and return it."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return dict(json.loads(ended.stdout.strip().splitlines()[-1]))


def growth(encoder: str, steps: int, *arguments: str) -> dict[str, Any]:
    """Return how the resident memory of a training grows after step :data:`FIRST`."""
    found = in_process_of_its_own("memory", "--follow", encoder, "--steps", str(steps), *arguments)
    series = found["resident_mb"]
    begin, end = (statistics.median(series[max(0, step - NEAR) : step]) for step in (FIRST, steps))
    marks = [step for step in (50, 100, 200, 400, 600, 1000, 1500, 2000) if step <= steps]
    return {
        "steps": steps,
        f"resident_mb_at_{FIRST}": round(begin, 1),
        "resident_mb_at_the_end": round(end, 1),
        "growth": round(end / begin - 1, 4),
        "resident_mb": {str(step): round(series[step - 1], 1) for step in marks},
        "peak_mb": round(found["peak_mb"], 1),
    }


def peaks(steps: int) -> dict[str, Any]:
    """Return the peak memory of training minilm, ours beside Trainer's."""
    ours = in_process_of_its_own("memory", "--follow", "minilm", "--steps", str(steps))["peak_mb"]
    theirs = {
        name: in_process_of_its_own(
            "plain_glue", "default", "--precision", name, "--steps", str(steps), "--rows", str(steps * BATCH)
        )["peak_mb"]
        for name in ("float32", "bf16")
    }
    return {
        "steps": steps,
        "bertkit_mb": round(ours, 1),
        "trainer_mb": {name: round(peak, 1) for name, peak in theirs.items()},
        "bertkit_over_trainer": {name: round(ours / peak, 3) for name, peak in theirs.items()},
    }


def predicting(rows: int) -> dict[str, Any]:
    """Return the peak memory of predicting few and many rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = predict_memory.tiny_run(folder)
        found = [predict_memory.peak(run, count, folder) for count in (10_000, rows)]
    return {"runs": found, "growth": round(found[1]["peak_mb"] / found[0]["peak_mb"] - 1, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak-steps", type=int, default=60)
    parser.add_argument("--small-steps", type=int, default=2000)
    parser.add_argument("--minilm-steps", type=int, default=600, help="above 200")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to predict; 0: leave predicting out")
    parser.add_argument("--name", default="memory", help="name of the result file")
    parser.add_argument("--follow", default="", metavar="ENCODER", help="train here, print the memory of each step")
    parser.add_argument("--steps", type=int, default=FIRST, help="of --follow")
    parser.add_argument("--set", action="append", default=[], help="of --follow: a setting of bertkit's")
    given = parser.parse_args()
    if given.follow:
        print(json.dumps(follow(given.follow, given.steps, given.set)))
        return
    result = {
        "peak_of_training": peaks(given.peak_steps),
        "growth_of_small": growth("small", given.small_steps),
        "growth_of_minilm": growth("minilm", given.minilm_steps),
    }
    if given.rows:
        result["predicting"] = predicting(given.rows)
    command = f"python -m benchmarks.memory --peak-steps {given.peak_steps} --small-steps {given.small_steps} "
    machine.write(given.name, f"{command}--minilm-steps {given.minilm_steps} --rows {given.rows}", result)


if __name__ == "__main__":
    main()
