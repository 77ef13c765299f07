"""One tiny training, as most tests of this folder need it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bertkit
from bertkit.events import Event, Note
from bertkit.workflows.training import Finetuned

TINY = {"train.epochs": 1, "train.batch_size": 16, "train.max_length": 64, "eval.resamples": 0}


def train(task: Any = None, *, settings: Mapping[str, Any] | None = None, **options: Any) -> Finetuned:
    """Train on a few rows, in float32, on one thread."""
    given = {"precision": "float32", "threads": 1, **options}
    if "resume" not in given:
        given["settings"] = TINY | dict(settings or {})
    return bertkit.finetune(task, **given)


class Listener:
    """Keeps every event, and stops training after a step where one is named."""

    def __init__(self, stop_at: int = 0) -> None:
        self.events: list[Event] = []
        self.stop_at = stop_at

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def should_stop(self) -> bool:
        """Say whether ``stop_at`` steps were taken."""
        steps = sum(type(event).__name__ == "Step" for event in self.events)
        return bool(self.stop_at) and steps >= self.stop_at

    @property
    def notes(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Note)]


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run / "model" / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    import torch

    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@contextlib.contextmanager
def full_disk(monkeypatch: Any, target: str, *, after: int = 0) -> Iterator[None]:
    """Let a function fail as on a full disk, after so many calls that work."""
    import errno
    import importlib
    import os

    module_name, _, name = target.rpartition(".")
    module = importlib.import_module(module_name)
    real, calls = getattr(module, name), 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, failing)
        yield
