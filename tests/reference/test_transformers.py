"""What is saved opens in plain transformers, and says there what bertkit says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bertkit
from tests.conftest import reviews, save_tiny_bert
from tests.workflows.training import train

TEXTS = ["a good film", "the dull grey meal", "", "it was very warm and bright", "good bad", "we and it and a tool"]
LEARNING = {"train.epochs": 4, "train.learning_rate": 5e-3, "train.batch_size": 8}


def predicted(run: Path, precision: str = "float32", texts: list[str] | None = None) -> list[dict[str, Any]]:
    return bertkit.predict(texts or TEXTS, run=run, precision=precision, threads=1)


def piped(run: Path, texts: list[str] | None = None, **options: Any) -> list[list[dict[str, Any]]]:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(run / "model"), device="cpu")
    return [classify(text, top_k=None, **options) for text in texts or TEXTS]


@pytest.fixture(scope="module")
def multi_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    topics = [[], ["good"], ["bad"], ["good", "bad"]]
    rows = [{"text": "the " + " ".join(topics[n % 4]), "labels": topics[n % 4]} for n in range(80)]
    return train(rows, encoder=tiny_encoder, out=tmp_path_factory.mktemp("multi") / "run", settings=LEARNING).run


@pytest.fixture(scope="module")
def number_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": r["text"], "label": 1.5 if r["label"] == "positive" else -0.5} for r in reviews(80)]
    settings = LEARNING | {"kind": "regression", "train.epochs": 10}
    return train(rows, encoder=tiny_encoder, out=tmp_path_factory.mktemp("number") / "run", settings=settings).run


def test_auto_class_opens_it_with_its_labels(finished_run: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, info = AutoModelForSequenceClassification.from_pretrained(finished_run / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    assert model.config.problem_type == "single_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        found = torch.softmax(model.eval()(**batch).logits, dim=-1)
    wanted = torch.tensor([list(p["probabilities"].values()) for p in predicted(finished_run)])
    assert torch.allclose(found, wanted, atol=1e-5, rtol=0)
    assert float(wanted[:, 1].max() - wanted[:, 1].min()) > 0.2


def test_pipeline_gives_the_same_probabilities(finished_run: Path) -> None:
    for theirs, ours in zip(piped(finished_run), predicted(finished_run), strict=True):
        assert theirs[0]["label"] == ours["label"]
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(ours["probabilities"], abs=1e-5)


def test_bf16_is_near_and_names_the_same_label(finished_run: Path) -> None:
    for theirs, ours in zip(piped(finished_run), predicted(finished_run, "bf16"), strict=True):
        scores = {row["label"]: row["score"] for row in theirs}
        assert scores == pytest.approx(ours["probabilities"], abs=3e-2)
        if abs(theirs[0]["score"] - theirs[1]["score"]) > 3e-2:
            assert theirs[0]["label"] == ours["label"]


@pytest.mark.slow
def test_run_trained_in_bf16_is_saved_in_float32_and_opens(tiny_encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "run", settings=LEARNING, precision="bf16").run
    assert {str(t.dtype) for t in load_file(run / "model" / "model.safetensors").values()} == {"torch.float32"}
    for theirs, ours in zip(piped(run), predicted(run, "bf16"), strict=True):
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(ours["probabilities"], abs=3e-2)


@pytest.mark.slow
def test_several_labels_are_sigmoids_there_too(multi_run: Path) -> None:
    assert json.loads((multi_run / "model" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    for theirs, ours in zip(piped(multi_run), predicted(multi_run), strict=True):
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(ours["probabilities"], abs=1e-5)
        assert ours["labels"] == [name for name, p in ours["probabilities"].items() if p >= 0.5]


@pytest.mark.slow
def test_regression_is_a_plain_number_there_too(number_run: Path) -> None:
    config = json.loads((number_run / "model" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    values = [p["value"] for p in predicted(number_run)]
    assert max(values) - min(values) > 0.5
    assert [rows[0]["score"] for rows in piped(number_run, function_to_apply="none")] == pytest.approx(values, abs=1e-5)
    assert [rows[0]["score"] for rows in piped(number_run)] == pytest.approx(values, abs=1e-5)


def test_many_labels_keep_their_order(tiny_encoder: Path, tmp_path: Path) -> None:
    """More than ten names, which sort otherwise as texts than as ids."""
    names = [f"class-{n}" for n in range(12)]
    rows = [{"text": "good " * (n % 12), "label": names[n % 12]} for n in range(60)]
    run = train(rows, encoder=tiny_encoder, out=tmp_path / "run", settings={"labels": names}).run
    for theirs, ours in zip(piped(run), predicted(run), strict=True):
        assert list(ours["probabilities"]) == names
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(ours["probabilities"], abs=1e-5)


def test_saved_tokenizer_cuts_and_pads_nothing_of_its_own(finished_run: Path) -> None:
    from transformers import AutoTokenizer

    found = json.loads((finished_run / "model" / "tokenizer.json").read_text())
    assert (found["truncation"], found["padding"]) == (None, None)
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    assert len(tokenizer("the " * 50)["input_ids"]) == 52
    assert tokenizer.model_max_length == 64


def test_half_precision_checkpoint_trains_in_float32(tmp_path: Path) -> None:
    """Row 5: transformers 5 would load it in the checkpoint's own type."""
    import torch
    from transformers import AutoModel

    own = save_tiny_bert(tmp_path / "own")
    AutoModel.from_pretrained(own).half().save_pretrained(own)
    run = train(reviews(40), encoder=own, out=tmp_path / "run").run
    model = AutoModel.from_pretrained(run / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_saved_folder_that_predicts_otherwise_ends_the_run(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 23: the folder is opened again at the end; here its head is damaged on the way to the disk."""
    from bertkit import encoder
    from bertkit.errors import RunError

    save = encoder.save

    def damaging(model: Any, tokenizer: Any, folder: Path, **state: Any) -> None:
        change = 0.5 * model.classifier.bias.data.new_tensor([1.0, -1.0])
        model.classifier.bias.data += change
        save(model, tokenizer, folder, **state)
        model.classifier.bias.data -= change

    monkeypatch.setattr("bertkit.encoder.save", damaging)
    with pytest.raises(
        RunError, match=r"model does not predict what was trained: a value differs by 0\.\d+, more than"
    ):
        train(reviews(40), encoder=tiny_encoder, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
