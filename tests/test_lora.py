"""LoRA through peft: what stands beside which matrices, what is trained, and that merging changes no result."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from bertkit import dropout, freezing, lora, unpad
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError
from tests.test_unpad import make

pytest.importorskip("peft")
FAMILIES = [
    "BERT", "RoBERTa", "DistilBERT", "ALBERT", "ELECTRA", "DeBERTa-v2/v3", "MPNet", "XLM-R", "ModernBERT", "GPT-2",
]  # fmt: skip
CONFIG = TrainConfig(lora_rank=2, lora_alpha=8, lora_modules="all-linear")


def moved(model: Any) -> None:
    """Let the matrices be as after training: not zero."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_model_is_a_plain_one_with_the_same_results(name: str) -> None:
    model = make(name, "ForSequenceClassification").eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    before, names = model(**inputs).logits.detach(), list(model.state_dict())
    found = lora.install(model, CONFIG)
    assert torch.equal(model(**inputs).logits, before), "before the first step it is the encoder as it was"
    moved(model)
    adapted = model(**inputs).logits.detach()
    assert not torch.allclose(adapted, before, atol=1e-3)
    lora.merge(found)
    assert torch.allclose(model(**inputs).logits, adapted, atol=1e-5)
    assert list(model.state_dict()) == names
    assert not hasattr(model, "peft_config")


def test_head_and_matrices_alone_are_trained() -> None:
    model = make("BERT", "ForSequenceClassification")
    lora.install(model, TrainConfig(lora_rank=2))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"classifier.weight", "classifier.bias"}
    # 2 layers of 4 matrices of attention, A and B of each.
    assert len(trained) == 2 + 2 * 4 * 2
    assert all(".attention." in name for name in trained if "lora_" in name)


def test_pooler_that_starts_at_random_is_trained() -> None:
    model = make("BERT", "ForSequenceClassification")
    lora.install(model, TrainConfig(lora_rank=2), new=["bert.pooler.dense.weight", "bert.pooler.dense.bias"])
    assert model.bert.pooler.dense.weight.requires_grad
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad


def test_all_linear_takes_the_feed_forward_matrices_too() -> None:
    model = make("BERT", "ForSequenceClassification")
    names = lora.targets(model, "all-linear")
    assert len(names) == 2 * 6
    assert "bert.encoder.layer.1.intermediate.dense" in names
    assert not any("pooler" in name or "classifier" in name for name in names)


def test_layers_without_padding_give_the_same_results() -> None:
    model = make("BERT", "ForSequenceClassification").eval()
    lora.install(model, CONFIG)
    moved(model)
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    padded = model(**inputs).logits
    installed = unpad.install(model)
    dropout.install(model)
    assert installed.form == "stack"
    assert torch.allclose(model(**inputs).logits, padded, atol=1e-5)


def test_layer_decay_reaches_the_matrices() -> None:
    model = make("BERT", "ForSequenceClassification")
    lora.install(model, CONFIG)
    plan = freezing.plan_of(model, TrainConfig(layer_decay=0.5))
    name = "bert.encoder.layer.0.attention.self.query.lora_A.default.weight"
    assert plan.scales[name] == 0.25
    assert not plan.states_are_fixed


def test_family_without_linear_attention_is_told_what_helps() -> None:
    model = make("XLNet", "ForSequenceClassification")
    with pytest.raises(
        ConfigError, match=r"train.lora_modules is 'attention', and tiny has no linear modules.*all-linear"
    ):
        lora.install(model, TrainConfig(lora_rank=2), name="tiny")


def test_without_peft_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train.lora_rank needs peft: pip install 'bertkit\[lora\]'"):
        lora.require()
