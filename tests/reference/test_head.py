"""The head is the paper's: ``P = softmax(C W^T + b)`` (arXiv:1810.04805, 4.1), shown with NumPy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import bertkit
from tests.conftest import reviews, write_jsonl
from tests.workflows.training import train

TEXTS = ["a good film", "the dull grey meal", "", "it was very warm and bright", "word that is unknown"]


def body(run: Path) -> Any:
    """Return plain transformers' BERT without a head, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(run / "model").eval(), AutoTokenizer.from_pretrained(run / "model")


def pooled(run: Path, *texts: list[str]) -> np.ndarray:
    """Return ``C`` of each row, ``(B, H)`` float64: each row alone, so that no padding is in play."""
    import torch

    model, tokenizer = body(run)
    rows = []
    for row in zip(*texts, strict=True):
        with torch.inference_mode():
            rows.append(model(**tokenizer(*row, return_tensors="pt")).pooler_output[0].numpy())
    return np.array(rows, dtype=np.float64)


def head(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return ``W`` ``(K, H)`` and ``b`` ``(K,)`` as the file on the disk holds them."""
    tensors = load_file(run / "model" / "model.safetensors")
    return tensors["classifier.weight"].astype(np.float64), tensors["classifier.bias"].astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def written(run: Path, rows: list[dict[str, Any]], tmp_path: Path) -> list[dict[str, Any]]:
    """Return what ``bertkit predict --precision float32`` wrote under ``"prediction"``."""
    from bertkit.workflows.predict import predict_file

    file = write_jsonl(tmp_path / "new.jsonl", rows)
    lines = predict_file(file, out=None, run=run, precision="float32", threads=1)
    return [json.loads(line)["prediction"] for line in lines]


def test_probabilities_are_the_softmax_of_the_paper(finished_run: Path, tmp_path: Path) -> None:
    predictions = written(finished_run, [{"text": text} for text in TEXTS], tmp_path)
    found = np.array([list(p["probabilities"].values()) for p in predictions])
    weight, bias = head(finished_run)
    c = pooled(finished_run, TEXTS)
    assert (weight.shape, bias.shape, c.shape) == ((2, 16), (2,), (len(TEXTS), 16))
    wanted = softmax(c @ weight.T + bias)
    assert np.abs(found - wanted).max() < 1e-6
    assert np.ptp(wanted[:, 1]) > 0.2, "the model must have learned something for this to say anything"


def test_c_is_the_tanh_of_the_first_token(finished_run: Path) -> None:
    """``C`` is the final hidden vector of [CLS] through the pooler that pre-training has."""
    import torch

    model, tokenizer = body(finished_run)
    with torch.inference_mode():
        outputs = model(**tokenizer(TEXTS[0], return_tensors="pt"))
    tensors = load_file(finished_run / "model" / "model.safetensors")
    first = outputs.last_hidden_state[0, 0].numpy().astype(np.float64)
    wanted = np.tanh(first @ tensors["bert.pooler.dense.weight"].T + tensors["bert.pooler.dense.bias"])
    assert outputs.pooler_output[0].numpy() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.slow
def test_pairs_go_through_the_same_head(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": r["text"], "text_pair": "the film was good", "label": r["label"]} for r in reviews(60)]
    settings = {"train.epochs": 4, "train.learning_rate": 5e-3}
    run = train(rows, encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    pairs = [{"text": text, "text_pair": "it was a tool"} for text in TEXTS]
    found = np.array([list(p["probabilities"].values()) for p in written(run, pairs, tmp_path)])
    weight, bias = head(run)
    wanted = softmax(pooled(run, TEXTS, ["it was a tool"] * len(TEXTS)) @ weight.T + bias)
    assert np.abs(found - wanted).max() < 1e-6


@pytest.mark.slow
def test_regression_is_the_head_without_softmax(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": r["text"], "label": 1.5 if r["label"] == "positive" else -0.5} for r in reviews(80)]
    settings = {"kind": "regression", "train.epochs": 10, "train.learning_rate": 5e-3, "train.batch_size": 8}
    run = train(rows, encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    found = [p["value"] for p in bertkit.predict(TEXTS, run=run, precision="float32", threads=1)]
    weight, bias = head(run)
    assert max(found) - min(found) > 0.5, "the model must have learned something for this to say anything"
    assert found == pytest.approx((pooled(run, TEXTS) @ weight.T + bias)[:, 0].tolist(), abs=1e-5)
