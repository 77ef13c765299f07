"""``train.compile``: the same training, compiled; what is said where it cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from bertkit import compiling
from bertkit.errors import ConfigError
from tests.conftest import reviews, save_tiny_bert
from tests.workflows.training import lines, record, train


def test_fault_of_the_compiler_says_what_to_do() -> None:
    match = r"torch cannot compile the model: no g\+\+\. A C\+\+ .*--set train\.compile=false trains without\."
    with pytest.raises(ConfigError, match=match), compiling.explained():
        raise TorchDynamoException("no g++\nand a long trace")


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), compiling.explained():
        raise RuntimeError("size mismatch")


def test_compiled_training_runs_the_plain_model(tiny_encoder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Without the compiler itself, which takes its time: what is to be compiled, and what ``run.json`` says."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda model, **given: (seen.append(given), model)[1])
    settings = {"train.compile": True, "train.max_steps": 2}
    done = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings=settings)
    found = record(done.run)
    assert [(given["backend"], given["dynamic"]) for given in seen] == [("inductor", True)]
    assert found["config"]["train"]["compile"] is True
    assert found["layers"] == {"form": "padded", "reason": compiling.PADDED}
    assert found["embeddings"] == {"reason": "train.compile compiles the plain model"}
    assert found["device"]["tf32"] is False


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs by g++")
@pytest.mark.filterwarnings("default")
def test_compiled_training_has_the_plain_ones_losses(tmp_path: Path) -> None:
    # One layer: g++ takes its time for each kernel.
    body = save_tiny_bert(
        tmp_path / "encoder", num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    about: dict[str, Any] = {"train.max_steps": 6, "train.learning_rate": 1e-3}
    losses, scores = [], []
    for compiled in (False, True):
        settings = about | {"train.compile": compiled, "train.fast": False}
        done = train(reviews(48), encoder=body, out=tmp_path / str(compiled), settings=settings)
        events = lines(done.run / "events.jsonl")
        losses.append([event["loss"] for event in events if event["event"] == "step"])
        scores.append(done.scores)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert scores[1] == scores[0]
