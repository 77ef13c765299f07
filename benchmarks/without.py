"""What an optimizer step of bertkit's costs, with all its techniques or without one of them.

python -m benchmarks.without nothing
python -m benchmarks.without unpad --group

One variant a process. The same rows and steps as ``benchmarks.plain_glue``, timed in the same way, from outside: from
one step's event to the next one's, so that drawing and collating batches and writing events are in it. Prints one JSON
object. Users have one switch for all of this, ``train.fast``; here one technique at a time is put out of action.

nothing   all techniques
fast      ``train.fast = false``: none but bf16
unpad     the layers see padding
dropout   dropout masks are torch's
rows      every row of the word embeddings is trained
memory    glibc gives freed memory back to the system
bf16      float32
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import bertkit
from benchmarks.plain_glue import BATCH, ROWS, base_sized, rows_of
from benchmarks.plain_tagging import encoder_folder
from bertkit import device, dropout, embeddings, unpad
from bertkit.events import Start, Step

TASK = """type = "sequence-classification"
[data]
files = { train = "train.jsonl", validation = "validation.jsonl" }
"""
WATCHED = 3
"""Steps in which the linear layers are watched: hooks take time."""


def torch_mask(like: torch.Tensor, share: float) -> torch.Tensor:
    """Return what :func:`bertkit.dropout.kept` does, drawn by torch's serial ``bernoulli_``."""
    return torch.empty_like(like).bernoulli_(1 - share).div_(1 - share)


def leave_out(technique: str) -> None:
    """Put one technique out of action in this process."""
    if technique == "unpad":
        unpad.install = lambda model: unpad.Installed(family=model.config.model_type, form="padded", reason="left out")
    elif technique == "dropout":
        assert unpad.kept is dropout.kept, "attention's dropout is drawn elsewhere by now"
        dropout.install = lambda _model: 0
        unpad.kept = torch_mask
    elif technique == "rows":
        embeddings.install = lambda *_, **__: embeddings.Installed(trained=0, all=0, reason="left out")
    elif technique == "memory":
        assert callable(device._keep_freed_memory)
        device._keep_freed_memory = lambda: None


class Watch:
    """Listens to a training: when each step ended, what the linear layers saw, how much memory there was."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.dtypes: set[str] = set()
        self.rows: Counter[int] = Counter()
        self.peak_mb = 0.0
        self.hook: Any = None

    def __call__(self, event: Any) -> None:
        if isinstance(event, Start):
            self.hook = torch.nn.modules.module.register_module_forward_hook(self._linear)
            self.times = [time.perf_counter()]
        elif isinstance(event, Step):
            self.times.append(time.perf_counter())
            self.tokens.append(event.num_tokens)
            self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            if event.step == WATCHED:
                self.hook.remove()

    def _linear(self, module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            self.dtypes.add(str(output.dtype).removeprefix("torch."))
            self.rows[id(module)] += output.shape[:-1].numel()


def write_task(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a task with the rows to train on, and few to validate on: that happens after the last step."""
    for name, some in (("train", rows), ("validation", rows[:BATCH])):
        lines = (json.dumps(row) for row in some)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = folder / "task.toml"
    task.write_text(TASK, encoding="utf-8")
    return task


def train(encoder: Path, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and return what a step costs, those before the clock starts left out."""
    leave_out(given.technique)
    steps = given.steps or -(-given.rows // BATCH)
    settings = {
        "train.max_steps": steps,
        "train.max_length": given.length,
        "train.fast": given.technique != "fast",
        "train.group_by_length": given.group,
        "eval.resamples": 0,
        # Once an epoch would be inside the measured steps where these are more than an epoch.
        "train.eval_steps": steps,
    }
    watch = Watch()
    bertkit.finetune(
        write_task(folder, rows_of(given.texts, given.data, given.rows)),
        encoder=encoder,
        out=folder / "run",
        settings=settings,
        threads=given.threads,
        precision="float32" if given.technique == "bf16" else "auto",
        listen=watch,
    )
    record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    precision = record["device"]["precision"]
    wanted = {"bf16": "bfloat16"}.get(precision, precision)
    assert watch.dtypes == {wanted}, f"{precision} was to be computed in, and the linear layers saw {watch.dtypes}"
    first = given.left_out
    return {
        "milliseconds": 1000 * (watch.times[-1] - watch.times[first]) / (steps - first),
        "steps": steps - first,
        "tokens": sum(watch.tokens[first:]) / (steps - first),
        "cells_of_first_steps": max(watch.rows.values()) / min(steps, WATCHED),
        "tokens_of_first_steps": sum(watch.tokens[:WATCHED]) / min(steps, WATCHED),
        "peak_mb": watch.peak_mb,
        "whole_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "dtype": wanted,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("technique", choices=["nothing", "fast", "unpad", "dropout", "rows", "memory", "bf16"])
    parser.add_argument("--group", action="store_true", help="batches of similar length")
    parser.add_argument("--encoder", default="minilm", help="an installed encoder, a folder, or base: bert-base-sized")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--texts", choices=["sst2", "windows"], default="sst2")
    parser.add_argument("--data", type=Path, help="a folder in the classic GLUE layout; else texts are made")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=0, help="0: one epoch")
    parser.add_argument("--left-out", type=int, default=0, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = base_sized(folder / "base") if given.encoder == "base" else encoder_folder(given.encoder)
        print(json.dumps(train(encoder, given, folder)))


if __name__ == "__main__":
    main()
