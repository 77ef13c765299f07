"""What has to be shown on a GPU before layers without padding are the default there: ``make test-gpu``.

Each of these tests runs on the CPU as well, where the code is the same, so that a test that is wrong is seen without a
GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import kernels, unpad
from bertkit.adapters.base import Batch
from tests.conftest import reviews, save_tiny_bert
from tests.test_unpad import FAST, inputs, loss_of, make
from tests.workflows.training import Listener, lines, record, train, weights

DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
CASES = [
    ("BERT", "cpu"),
    *(pytest.param(name, "cpu", marks=pytest.mark.slow) for name in ("ModernBERT", "GPT-2", "MPNet")),
    *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in FAST),
]
"""On the CPU these families stand for all, which ``tests/test_unpad.py`` tries there."""
GAPS = {torch.float32: 1e-4, torch.bfloat16: 0.03}


@pytest.fixture(autouse=True)
def _needed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Skip without a GPU what needs one; switch layers without padding on, and TF32 off."""
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")
    monkeypatch.setenv(unpad.SWITCH, "cuda")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the difference of two tensors, as a share of the second one's size."""
    return float((one - other).float().norm() / other.float().norm().clamp(min=1e-6))


def computed(model: Any, batch: Batch, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss, and all gradients one after another."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(batch["input_ids"].device.type, dtype, enabled=dtype != torch.float32):
        loss = loss_of(model, batch)
    loss.backward()
    found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return loss.detach(), torch.cat(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize(("name", "device"), CASES)
def test_loss_and_gradients_are_the_padded_models(name: str, device: str, dtype: torch.dtype) -> None:
    model = make(name, "ForTokenClassification").to(device)
    batch = {key: value.to(device) for key, value in inputs().items()}
    padded = computed(model, batch, dtype)
    installed = unpad.install(model)
    ours = computed(model, batch, dtype)
    assert (installed.num_fast, dict(installed.padded)) == (1, {}), installed
    assert gap(ours[0], padded[0]) < GAPS[dtype]
    assert gap(ours[1], padded[1]) < GAPS[dtype] * (3 if dtype == torch.bfloat16 else 1)


@pytest.mark.gpu
@pytest.mark.parametrize("given", [{}, {"is_causal": True}, {"sliding_window": 4}], ids=str)
def test_kernel_gives_what_bins_give(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held = unpad.packing(inputs((1, 30, 17, 9, 24))["attention_mask"].cuda())
    assert held is not None
    x = [torch.randn(1, 4, held.num_tokens, 64, device="cuda", dtype=torch.bfloat16) for _ in "qkv"]
    assert kernels.choose(x[0], 0.0) is not None
    token = unpad._packing.set(held)
    by_kernel, _ = unpad.attention(torch.nn.Module(), *x, None, **({"is_causal": False} | given))
    monkeypatch.setattr(kernels, "choose", lambda query, dropout: None)
    by_bins, _ = unpad.attention(torch.nn.Module(), *x, None, **({"is_causal": False} | given))
    unpad._packing.reset(token)
    assert gap(by_kernel[0, held.places], by_bins[0, held.places]) < 0.01


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in lines(run / "events.jsonl") if event["event"] == "step"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_without_padding_is_the_padded_one(device: str, precision: str, tmp_path: Path) -> None:
    body = save_tiny_bert(tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    runs = {}
    for fast in (False, True):
        settings = {"train.fast": fast, "train.max_steps": 20}
        out = tmp_path / str(fast)
        runs[fast] = train(reviews(80), encoder=body, out=out, settings=settings, device=device, precision=precision)
        assert record(out)["device"]["tf32"] is False
        assert (record(out)["layers"]["form"] == "stack") is fast
    near = 1e-4 if precision == "float32" else 0.03
    assert losses(runs[True].run) == pytest.approx(losses(runs[False].run), abs=near)


@pytest.mark.parametrize("device", DEVICES)
def test_resumed_training_goes_on_as_it_was(device: str, tmp_path: Path) -> None:
    """Fused AdamW takes its moments and its count of steps back from the checkpoint, on the device."""
    body = save_tiny_bert(tmp_path / "encoder")
    settings = {"train.max_steps": 8}
    about: dict[str, Any] = {"encoder": body, "settings": settings, "device": device}
    whole = train(reviews(64), out=tmp_path / "whole", **about)
    listener = Listener(stop_at=3)
    train(reviews(64), out=tmp_path / "cut", listen=listener, should_stop=listener.should_stop, **about)
    train(resume=tmp_path / "cut", data=reviews(64), precision="auto", threads=0)
    assert losses(tmp_path / "cut") == pytest.approx(losses(whole.run), abs=1e-6 if device == "cpu" else 1e-4)
    ours, theirs = weights(tmp_path / "cut"), weights(whole.run)
    assert all(gap(ours[name], theirs[name]) < 1e-3 for name in theirs)
