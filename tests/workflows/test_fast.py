"""``train.fast``: the same run with and without work on padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bertkit
from bertkit import dropout, unpad
from tests import families
from tests.conftest import reviews, save_tiny_bert
from tests.workflows.training import Listener, lines, record, train, weights


@pytest.fixture
def without_dropout(tmp_path: Path) -> Path:
    return save_tiny_bert(tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in lines(run / "events.jsonl") if event["event"] == "step"]


def test_fast_and_plain_runs_agree(without_dropout: Path, tmp_path: Path) -> None:
    rows = {"train": reviews(48), "validation": reviews(16, seed=1)}
    plain, fast = (
        train(rows, encoder=without_dropout, out=tmp_path / str(on), settings={"train.fast": on})
        for on in (False, True)
    )
    assert record(plain.run)["layers"] == {"form": "padded", "reason": "train.fast is false"}
    assert record(fast.run)["layers"] == {"form": "stack", "reason": ""}
    assert losses(fast.run) == pytest.approx(losses(plain.run), abs=1e-6)
    one, other = weights(fast.run), weights(plain.run)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert fast.scores == plain.scores


@pytest.mark.slow
def test_fast_runs_draw_dropout_the_quick_way_and_repeat(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    kept = dropout.kept
    monkeypatch.setattr(dropout, "kept", lambda *given: drawn.append(given) or kept(*given))
    one, two = (train(reviews(32), encoder=tiny_encoder, out=tmp_path / name) for name in "12")
    assert drawn
    assert losses(one.run) == losses(two.run)
    drawn.clear()
    train(reviews(32), encoder=tiny_encoder, out=tmp_path / "3", settings={"train.fast": False})
    assert not drawn


@pytest.mark.slow
def test_gradient_checkpointing_trains_padded_and_evaluates_fast(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.gradient_checkpointing": True}
    done = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings=settings)
    reason = "with gradient checkpointing only evaluation runs without padding"
    assert record(done.run)["layers"] == {"form": "stack", "reason": reason}


@pytest.mark.slow
def test_family_that_must_run_padded_is_told_and_noted(tmp_path: Path) -> None:
    family = next(family for family in families.FAMILIES if family.name == "XLNet")
    listener = Listener()
    done = train(reviews(32), encoder=families.save(family, tmp_path / "body"), out=tmp_path / "run", listen=listener)
    layers = record(done.run)["layers"]
    assert layers["form"] == "padded"
    assert "its own code" in layers["reason"]
    assert any("runs padded: its attention is its own code" in note for note in listener.notes)


@pytest.mark.slow
def test_saved_model_predicts_fast_what_it_predicts_padded(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run").run
    texts = [row["text"] for row in reviews(20, seed=3)]
    calls: list[Any] = []
    attention = unpad.attention
    monkeypatch.setattr(unpad, "attention", lambda *given, **more: calls.append(given) or attention(*given, **more))
    fast = bertkit.load(run, precision="float32")(texts)
    assert calls
    monkeypatch.setattr(unpad, "install", lambda model: None)
    calls.clear()
    plain = bertkit.load(run, precision="float32")(texts)
    assert not calls
    for one, other in zip(fast, plain, strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
