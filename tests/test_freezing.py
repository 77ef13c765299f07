"""Parts of an encoder in every family; what is frozen, thawed, drawn anew, and at which rate it is trained."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bertkit import freezing, optim
from bertkit.config import Frozen, TrainConfig
from bertkit.errors import ConfigError
from tests.test_unpad import make

LAYERED = ["BERT", "RoBERTa", "DistilBERT", "ELECTRA", "DeBERTa-v2/v3", "MPNet", "XLM-R", "ModernBERT", "GPT-2"]
LAYERED += ["XLNet"]
BELOW = {
    "BERT": {"embeddings"},
    "DistilBERT": {"embeddings"},
    "ELECTRA": {"embeddings", "embeddings_project"},
    "DeBERTa-v2/v3": {"embeddings", "encoder.rel_embeddings", "encoder.LayerNorm"},
    "MPNet": {"embeddings", "encoder.relative_attention_bias"},
    "ModernBERT": {"embeddings"},
    "GPT-2": {"wte", "wpe"},
    "XLNet": {"mask_emb", "word_embedding"},
}
"""Modules of the embeddings."""
TOPS = {"BERT": ["pooler"], "ModernBERT": ["final_norm"], "GPT-2": ["ln_f"]}
"""Parts with weights above the layers."""


def model_of(name: str, number: int = 3) -> Any:
    return make(name, "ForSequenceClassification", num_hidden_layers=number)


def frozen_names(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("name", LAYERED)
def test_every_weight_below_the_head_is_in_one_part(name: str) -> None:
    model = model_of(name)
    parts = freezing.anatomy(model)
    prefix = f"{model.base_model_prefix}."
    body = {n for n, _ in model.named_parameters() if n.startswith(prefix)}
    held = [n for part in (parts.embeddings, *parts.layers, *parts.top) for n in part.parameters]
    assert sorted(held) == sorted(body)
    assert len(parts.layers) == 3
    for number, layer in enumerate(parts.layers):
        assert all(f".{number}." in n for n in layer.parameters)
    if name in BELOW:
        below = tuple(prefix + module for module in BELOW[name])
        assert all(n.startswith(below) for n in parts.embeddings.parameters)
    assert [part.name for part in parts.top if part.parameters] == TOPS.get(name, [])


@pytest.mark.parametrize("name", LAYERED)
def test_frozen_layers_have_no_gradient_and_those_above_do(name: str) -> None:
    model = model_of(name)
    plan = freezing.plan_of(model, TrainConfig(freeze="embeddings,layers:0-1"))
    model.train()
    plan.rest()
    parts = freezing.anatomy(model)
    frozen = {n for part in (parts.embeddings, *parts.layers[:2]) for n in part.parameters}
    assert frozen_names(model) == frozen
    resting = [x for part in (parts.embeddings, *parts.layers[:2]) for x in part.modules]
    assert not any(m.training for x in resting for m in x.modules())
    assert all(m.training for x in parts.layers[2].modules for m in x.modules())
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    given = {n for n, p in model.named_parameters() if p.grad is not None}
    assert set(parts.layers[2].parameters) & given
    assert not frozen & given
    assert not plan.states_are_fixed


@pytest.mark.parametrize("name", [*LAYERED, "ALBERT"])
def test_frozen_encoder_computes_without_dropout_and_trains_the_head_alone(name: str) -> None:
    model = model_of(name)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(model.base_model(input_ids=ids)[0], model.base_model(input_ids=ids)[0])
    plan = freezing.plan_of(model, TrainConfig(freeze="encoder"))
    model.train()
    plan.rest()
    body = {n for n, _ in model.base_model.named_parameters(prefix=model.base_model_prefix)}
    assert frozen_names(model) == body
    assert plan.states_are_fixed
    assert not plan.pooler_is_trained
    one, other = (model.base_model(input_ids=ids)[0] for _ in range(2))
    assert torch.equal(one, other)
    assert not one.requires_grad


def test_pooler_that_starts_at_random_is_trained() -> None:
    model = model_of("BERT")
    new = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    plan = freezing.plan_of(model, TrainConfig(freeze="encoder"), new=new)
    assert model.bert.pooler.dense.weight.requires_grad
    assert plan.states_are_fixed
    assert plan.pooler_is_trained
    facts = plan.facts()
    assert facts["pooler"] == "trained: it starts at random"
    assert facts["frozen"] == ["embeddings", "layer 0", "layer 1", "layer 2"]


def test_naming_all_layers_leaves_the_pooler_trained() -> None:
    plan = freezing.plan_of(model_of("BERT"), TrainConfig(freeze="embeddings,layers:0-2"))
    assert plan.states_are_fixed
    assert plan.pooler_is_trained
    assert plan.facts()["pooler"] == "trained"


def test_nothing_is_frozen_unless_asked() -> None:
    model = model_of("BERT")
    plan = freezing.plan_of(model, TrainConfig())
    assert not frozen_names(model)
    assert not plan.states_are_fixed
    facts = plan.facts()
    assert facts["parameters"] == facts["all"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("freeze", "match"),
    [
        ("layers:0-3", r"train.freeze is 'layers:0-3', and tiny has 3 layers, 0 to 2"),
        ("layers:9", r"tiny has 3 layers, 0 to 2"),
    ],
)
def test_layers_that_are_not_there_are_refused(freeze: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        freezing.plan_of(model_of("BERT"), TrainConfig(freeze=freeze), name="tiny")


@pytest.mark.parametrize(
    "settings",
    [{"freeze": "layers:0"}, {"layer_decay": 0.9}, {"freeze": "encoder", "unfreeze_epochs": 1}],
)
def test_shared_layers_cannot_be_told_apart(settings: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.\w+ is .*the layers of tiny cannot be told apart: all 3 share one set"
    ):
        freezing.plan_of(model_of("ALBERT"), TrainConfig(**settings), name="tiny")


def test_shared_layers_cannot_be_drawn_anew() -> None:
    with pytest.raises(ConfigError, match=r"train.reinit_layers is 1, and the layers of tiny cannot be told apart"):
        freezing.draw_anew(model_of("ALBERT"), 1, name="tiny")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("encodr", r"train.freeze is 'encodr', and 'encodr' is no part of an encoder\. Did you mean 'encoder'\?"),
        ("layer:0-3", r"'layer:0-3' is no part of an encoder\. Did you mean 'layers'\?"),
        ("layers", r"'layers' must be like layers:0-5"),
        ("layers:", r"'layers:' must be like layers:0-5"),
        ("layers:5-2", r"'layers:5-2' must be like layers:0-5 or layers:3: numbers from 0, rising"),
        ("layers:-1", r"'layers:-1' must be like"),
        ("encoder:3", r"'encoder:3' must be like"),
        ("none,encoder", r"none stands alone"),
        ("", r"'' is no part of an encoder"),
    ],
)
def test_unknown_words_are_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        TrainConfig(freeze=text)


def test_words_are_combined() -> None:
    found = Frozen.of("embeddings, layers:0-2,layers:4")
    assert found == Frozen(embeddings=True, layers=frozenset({0, 1, 2, 4}))
    assert not Frozen.of("none")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"unfreeze_epochs": 1}, r"train.unfreeze_epochs is 1, and must be 0 where train.freeze is none"),
        ({"unfreeze_steps": 5}, r"train.unfreeze_steps is 5, and must be 0 where train.freeze is none"),
        (
            {"freeze": "encoder", "unfreeze_steps": 5, "unfreeze_epochs": 1},
            r"train.unfreeze_steps is 5, and must be 0 where train.unfreeze_epochs says it already",
        ),
        (
            {"freeze": "encoder", "unfreeze_steps": 5, "compile": True},
            r"train.compile is True, and must be false where",
        ),
        (
            {"freeze": "encoder", "lora_rank": 4},
            r"train.freeze is 'encoder', and must be none where train.lora_rank is 4",
        ),
        ({"reinit_layers": 1, "lora_rank": 4}, r"train.reinit_layers is 1, and must be 0 where train.lora_rank is 4"),
        ({"layer_decay": 0.0}, r"train.layer_decay is 0.0, and must be above 0 and at most 1"),
        ({"layer_decay": 1.1}, r"train.layer_decay is 1.1, and must be above 0"),
        ({"reinit_layers": -1}, r"train.reinit_layers is -1, and must be at least 0"),
        ({"lora_rank": -1}, r"train.lora_rank is -1, and must be at least 0"),
        ({"lora_alpha": 0.0}, r"train.lora_alpha is 0.0, and must be above 0"),
        ({"lora_dropout": 1.0}, r"train.lora_dropout is 1.0, and must be at least 0 and below 1"),
        ({"unfreeze_epochs": -1.0}, r"train.unfreeze_epochs is -1.0, and must be at least 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        TrainConfig(**settings)


def test_thawing_goes_from_the_top_down_and_ends_with_the_embeddings() -> None:
    model = model_of("BERT")
    plan = freezing.plan_of(model, TrainConfig(freeze="encoder", unfreeze_epochs=1))
    assert plan.thaws
    assert not plan.states_are_fixed
    assert plan.facts()["unfreezing"] == [["layer 2", "pooler"], ["layer 1"], ["layer 0"], ["embeddings"]]
    assert [plan.groups_at(step, 10) for step in (0, 9, 10, 19, 20, 39, 40, 99)] == [0, 0, 1, 1, 2, 3, 4, 4]
    model.train()
    assert [part.name for part in plan.reach(1)] == ["layer 2", "pooler"]
    plan.rest()
    assert model.bert.encoder.layer[2].training
    assert model.bert.pooler.dense.weight.requires_grad
    assert not model.bert.encoder.layer[1].training
    assert not model.bert.encoder.layer[1].output.dense.weight.requires_grad
    assert [part.name for part in plan.reach(4)] == ["layer 1", "layer 0", "embeddings"]
    assert not frozen_names(model)


def test_thawing_by_steps_counts_steps() -> None:
    plan = freezing.plan_of(model_of("BERT"), TrainConfig(freeze="layers:0-1", unfreeze_steps=3))
    assert [plan.groups_at(step, 10) for step in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_never_thawing_trains_nothing_frozen_at_any_step() -> None:
    plan = freezing.plan_of(model_of("BERT"), TrainConfig(freeze="encoder"))
    plan.reach_all()
    assert plan.groups_at(10**6, 1) == 0
    assert plan.reached == 0


@pytest.mark.parametrize("name", LAYERED)
def test_layer_decay_gives_each_part_its_power(name: str) -> None:
    model = model_of(name)
    config = TrainConfig(layer_decay=0.5, learning_rate=1.0)
    plan = freezing.plan_of(model, config)
    optimizer = optim.adamw(model, config, plan.scales)
    optim.set_rate(optimizer, 0.8)
    names = {id(parameter): n for n, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    parts = freezing.anatomy(model)
    for power, part in enumerate((*reversed(parts.layers), parts.embeddings), start=1):
        assert [rates.pop(n) for n in part.parameters] == pytest.approx([0.8 * 0.5**power] * len(part.parameters))
    assert set(rates.values()) == {0.8}
    assert plan.facts()["rates"] == {
        "head": 1.0,
        "layer 2": 0.5,
        "layer 1": 0.25,
        "layer 0": 0.125,
        "embeddings": 0.0625,
    }


def test_without_layer_decay_there_are_the_two_groups_of_always() -> None:
    model = model_of("BERT")
    assert len(optim.adamw(model, TrainConfig()).param_groups) == 2


@pytest.mark.parametrize("name", LAYERED)
def test_drawn_anew_layers_are_of_the_models_own_distribution(name: str) -> None:
    model = model_of(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
            # As on what from_pretrained has loaded.
            parameter._is_hf_initialized = True
    torch.manual_seed(3)
    drawn = freezing.draw_anew(model, 2)
    parts = freezing.anatomy(model)
    tops = [part for part in parts.top if part.name == "pooler"]
    assert set(drawn) == {n for part in (*parts.layers[1:], *tops) for n in part.parameters}
    fresh = dict(type(model)(model.config).named_parameters())
    for n, parameter in model.named_parameters():
        if n not in drawn:
            assert (parameter == 7).all(), n
        elif float(fresh[n].detach().std(correction=0)) == 0:
            assert torch.equal(parameter, fresh[n]), n
        else:
            noise = 4 / math.sqrt(parameter.numel())
            assert float(parameter.detach().std()) == pytest.approx(float(fresh[n].detach().std()), rel=0.15 + noise), n


def test_drawing_anew_repeats_with_the_seed() -> None:
    found = []
    for seed in (1, 1, 2):
        model = model_of("BERT")
        torch.manual_seed(seed)
        freezing.draw_anew(model, 1)
        found.append(model.bert.encoder.layer[2].output.dense.weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_more_layers_than_there_are_cannot_be_drawn_anew() -> None:
    with pytest.raises(ConfigError, match=r"train.reinit_layers is 4, and tiny has 3 layers"):
        freezing.draw_anew(model_of("BERT"), 4, name="tiny")


def test_what_starts_at_random_cannot_be_frozen() -> None:
    model = model_of("BERT")
    new = freezing.draw_anew(model, 1)
    with pytest.raises(ConfigError, match=r"train.freeze is 'encoder', and layer 2 of tiny starts from random weights"):
        freezing.plan_of(model, TrainConfig(freeze="encoder"), new=new, name="tiny")
    freezing.plan_of(model, TrainConfig(freeze="layers:0-1"), new=new)


def test_line_of_what_is_trained_names_ranges() -> None:
    plan = freezing.plan_of(model_of("BERT", 4), TrainConfig(freeze="embeddings,layers:0-1,layers:3"))
    assert freezing.said(plan.facts()).endswith("; frozen: embeddings, layers 0-1, layer 3")
    facts = {"parameters": 34, "all": 22_700_000, "lora": {"rank": 4, "matrices": 12}}
    assert freezing.said(facts) == ("training 34 of 22.7 M parameters (0.00015 %); LoRA of rank 4 beside 12 matrices")
