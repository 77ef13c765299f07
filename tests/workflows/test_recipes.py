"""Trainings of less than the whole encoder: what moves, what stays, resume, several processes, what is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bertkit
from bertkit.errors import ConfigError
from tests import families
from tests.conftest import reviews, save_tiny_bert
from tests.several import together
from tests.workflows.test_several_processes import FSDP2
from tests.workflows.test_several_processes import train as train_there
from tests.workflows.training import Listener, lines, record, same_weights, train, weights

ENCODER = {"train.freeze": "encoder", "train.cache_features": False}
GRADUAL = {"train.freeze": "encoder", "train.unfreeze_steps": 2, "train.layer_decay": 0.5}
LORA = {
    "train.lora_rank": 2,
    "train.lora_modules": "all-linear",
    "train.lora_dropout": 0.1,
    "train.learning_rate": 5e-3,
}
CLOCK = ("seconds", "tokens_per_second")


def steps_of(run: Path) -> list[dict[str, Any]]:
    rows = [event for event in lines(run / "events.jsonl") if event["event"] in ("step", "note")]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def body(folder: Path) -> dict[str, torch.Tensor]:
    return {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}


def changed(run: Path, encoder: Path) -> set[str]:
    """Return which of the encoder's weights are not those of the checkpoint, bit for bit."""
    after = weights(run)
    return {name for name, value in body(encoder).items() if not torch.equal(after[name], value)}


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_frozen_encoder_stays_bit_for_bit_and_the_head_moves(fast: bool, tiny_encoder: Path, tmp_path: Path) -> None:
    listener = Listener()
    settings = ENCODER | {"train.fast": fast, "train.learning_rate": 1e-2, "train.weight_decay": 0.1}
    run = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings=settings, listen=listener).run
    assert not changed(run, tiny_encoder)
    head = weights(run)["classifier.weight"]
    assert float(head.abs().max()) > 0
    before = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "whole", settings={"train.fast": fast}).run
    assert changed(before, tiny_encoder)
    assert not torch.equal(head, weights(before)["classifier.weight"])
    assert record(run)["trained"] == {
        "parameters": 34,
        "all": sum(value.numel() for value in weights(run).values()),
        "frozen": ["embeddings", "layer 0", "layer 1", "pooler"],
    }
    said = [note for note in listener.notes if note.startswith("training 34 of ")]
    assert len(said) == 1
    assert said[0].endswith("; frozen: embeddings, layers 0-1, pooler")
    card = (run / "README.md").read_text()
    assert "| trained parameters | 34 of " in card


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_frozen_encoder_draws_no_dropout(fast: bool, tmp_path: Path) -> None:
    """The losses would differ, were the encoder's dropout in force; the head has none here."""
    losses = []
    for share in (0.5, 0.0):
        shares = {"hidden_dropout_prob": share, "attention_probs_dropout_prob": share, "classifier_dropout": 0.0}
        encoder = save_tiny_bert(tmp_path / str(share), **shares)
        settings = ENCODER | {"train.fast": fast, "train.learning_rate": 1e-2}
        run = train(reviews(32), encoder=encoder, out=tmp_path / f"run-{share}", settings=settings).run
        losses.append([row["loss"] for row in steps_of(run) if row["event"] == "step"])
    assert losses[0] == losses[1]
    assert len(losses[0]) > 1


@pytest.mark.slow
def test_frozen_layers_and_embeddings_stay_and_those_above_move(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.freeze": "embeddings,layers:0"}
    run = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    moved = changed(run, tiny_encoder)
    assert moved
    assert all("layer.1." in name or "pooler" in name for name in moved)
    assert record(run)["embeddings"]["reason"] == "its word embeddings are not trained"


@pytest.mark.slow
def test_gradient_checkpointing_of_a_partly_frozen_encoder_changes_nothing(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.freeze": "embeddings,layers:0", "train.fast": False}
    runs = [
        train(
            reviews(32),
            encoder=tiny_encoder,
            out=tmp_path / str(on),
            settings=settings | {"train.gradient_checkpointing": on},
        ).run
        for on in (False, True)
    ]
    assert same_weights(*runs)


@pytest.mark.slow
def test_gradual_unfreezing_says_when_and_moves_what_it_says(tiny_encoder: Path, tmp_path: Path) -> None:
    # Scored once, so that the last weights are the best ones.
    settings = GRADUAL | {"train.epochs": 3, "train.unfreeze_steps": 0, "train.unfreeze_epochs": 1}
    settings |= {"train.eval_steps": 100, "train.learning_rate": 1e-3}
    run = train(reviews(48), encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    notes = [(row["step"], row["message"]) for row in steps_of(run) if row["event"] == "note"]
    assert notes == [
        (4, "from step 4 on, layer 1 and pooler are trained, too"),
        (7, "from step 7 on, layer 0 is trained, too"),
    ]
    moved = changed(run, tiny_encoder)
    assert any("layer.0." in name for name in moved)
    assert not any("embeddings" in name for name in moved)
    found = record(run)["trained"]
    assert found["parameters"] == 34
    assert found["unfreezing"] == [["layer 1", "pooler"], ["layer 0"], ["embeddings"]]
    assert found["rates"] == {"head": 1.0, "layer 1": 0.5, "layer 0": 0.25, "embeddings": 0.125}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "stop_at"),
    [(ENCODER, 3), (GRADUAL, 3), (GRADUAL, 4), (GRADUAL, 5), (LORA, 3), ({"train.reinit_layers": 1}, 3)],
    ids=["frozen", "between", "before a layer", "after a layer", "lora", "drawn anew"],
)
def test_resumed_run_equals_the_uninterrupted_one(
    settings: dict[str, Any], stop_at: int, tiny_encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    settings = settings | {"train.epochs": 3}
    rows = reviews(48)
    whole = train(rows, encoder=tiny_encoder, out=tmp_path / "whole", settings=settings).run
    listener = Listener(stop_at)
    options: dict[str, Any] = {"listen": listener, "should_stop": listener.should_stop}
    cut = train(rows, encoder=tiny_encoder, out=tmp_path / "cut", settings=settings, **options)
    assert cut.status == "interrupted"
    done = train(data=rows, resume=cut.run, precision="auto", threads=0)
    assert done.status == "finished"
    assert steps_of(done.run) == steps_of(whole)
    assert same_weights(done.run, whole)
    keep = ("parameters", "all", "frozen", "lora")
    assert [record(done.run)["trained"].get(key) for key in keep] == [record(whole)["trained"].get(key) for key in keep]


@pytest.mark.slow
def test_top_layers_start_anew_and_learn(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.reinit_layers": 1, "train.learning_rate": 1e-9, "train.weight_decay": 0.0}
    run = train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    before, after = body(tiny_encoder), weights(run)
    far = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-6)}
    assert far
    assert all("layer.1." in name or "pooler" in name for name in far)
    assert record(run)["trained"]["reinitialised"] == 1


def test_lora_is_merged_and_opens_in_plain_transformers(tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    listener = Listener()
    run = train(reviews(64), encoder=tiny_encoder, out=tmp_path / "run", settings=LORA, listen=listener).run
    found = record(run)["trained"]
    assert found["lora"].pop("peft")
    assert found["lora"] == {
        "rank": 2, "alpha": 16.0, "dropout": 0.1, "modules": "all-linear", "matrices": 12, "saved": "merged",
    }  # fmt: skip
    # 2 layers: four matrices of attention, 16 x 16, and two of 16 x 32; and the head.
    assert found["parameters"] == 2 * (4 * 2 * 32 + 2 * 2 * 48) + 34
    assert any("LoRA of rank 2 beside 12 matrices" in note for note in listener.notes)
    assert "LoRA of rank 2" in (run / "README.md").read_text()
    model, info = AutoModelForSequenceClassification.from_pretrained(run / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    moved = changed(run, tiny_encoder)
    assert moved
    assert all(name.endswith("dense.weight") or ".self." in name for name in moved)
    assert not any("bias" in name or "Norm" in name or "embeddings" in name for name in moved)
    texts = [row["text"] for row in reviews(4, seed=9)]
    ours = bertkit.load(run, precision="float32")(texts)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    with torch.no_grad():
        plain = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    assert [one["probabilities"]["positive"] for one in ours] == pytest.approx(plain[:, 1].tolist(), abs=1e-5)


def test_lora_without_peft_is_refused_before_a_folder_is_made(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    with pytest.raises(ConfigError, match=r"train.lora_rank needs peft: pip install 'bertkit\[lora\]'"):
        train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings=LORA)
    assert not (tmp_path / "run").exists()


def test_layers_that_the_encoder_lacks_leave_no_folder(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.freeze is 'layers:0-11', and .* has 2 layers, 0 to 1"):
        train(reviews(32), encoder=tiny_encoder, out=tmp_path / "run", settings={"train.freeze": "layers:0-11"})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pooler_that_the_checkpoint_lacks_is_trained_under_a_frozen_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    encoder = shutil.copytree(tiny_encoder, tmp_path / "no-pooler")
    held = {n: v for n, v in load_file(encoder / "model.safetensors").items() if "pooler" not in n}
    save_file(held, encoder / "model.safetensors", {"format": "pt"})
    run = train(reviews(32), encoder=encoder, out=tmp_path / "run", settings=ENCODER).run
    assert not changed(run, encoder)
    found = record(run)["trained"]
    assert found["pooler"] == "trained: it starts at random"
    assert found["parameters"] == 34 + 16 * 17


@pytest.mark.slow
@pytest.mark.parametrize("name", [family.name for family in families.FAMILIES])
def test_every_family_trains_with_a_frozen_encoder(name: str, tmp_path: Path) -> None:
    family = next(family for family in families.FAMILIES if family.name == name)
    encoder = families.save(family, tmp_path / "body")
    run = train(reviews(32), encoder=encoder, out=tmp_path / "run", settings=ENCODER).run
    found = record(run)["trained"]
    assert 0 < found["parameters"] < found["all"]


SEVERAL = [
    {"train.freeze": "embeddings,layers:0"},
    {"train.freeze": "encoder", "train.unfreeze_steps": 6},
    {"train.lora_rank": 2, "train.learning_rate": 5e-3},
    {"train.layer_decay": 0.5, "train.reinit_layers": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SEVERAL, ids=["frozen", "gradual", "lora", "decay"])
def test_two_processes_train_as_one(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    encoder = save_tiny_bert(tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    given = {"train.max_steps": 24, "train.fast": False} | settings
    runs = []
    for number in (1, 2):
        out = tmp_path / f"run-{number}"
        for result in together(number, train_there, reviews(60), encoder, out, given):
            if isinstance(result, BaseException):
                raise result
        runs.append([row for row in steps_of(out) if row["event"] == "step"])
    assert [row["loss"] for row in runs[1]] == pytest.approx([row["loss"] for row in runs[0]], abs=1e-5)
    one, two = (weights(tmp_path / f"run-{number}") for number in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SEVERAL[1:3], ids=["gradual", "lora"])
def test_fsdp2_refuses_what_it_cannot_do(settings: dict[str, Any], tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    results = together(2, train_there, reviews(60), tiny_encoder, tmp_path / "run", settings, variables=FSDP2)
    assert isinstance(results[0], ConfigError)
    assert "which does not go with FSDP2" in str(results[0])


@pytest.mark.slow
def test_fsdp2_trains_above_frozen_layers(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.max_steps": 4, "train.freeze": "embeddings,layers:0", "train.layer_decay": 0.5}
    out = tmp_path / "run"
    results = together(2, train_there, reviews(60), tiny_encoder, out, settings, variables=FSDP2)
    assert not isinstance(results[0], BaseException), results[0]
    moved = changed(out, tiny_encoder)
    assert moved
    assert all("layer.1." in name or "pooler" in name for name in moved)
