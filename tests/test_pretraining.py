"""Masked LM and pairs: losses equal to transformers' own, heads that see masked positions alone, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig, BertForPreTraining

from bertkit import encoder, unpad
from bertkit.adapters.base import Feature
from bertkit.config import PretrainConfig, TrainConfig
from bertkit.data.masking import IGNORED
from bertkit.pretraining import Masked, MaskedLm, Selection, masked_logits
from bertkit.task import DataSource, Task
from tests import families

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def adapter(objective: Any = "mlm", **settings: Any) -> MaskedLm:
    task = Task(name="pretrain", type="masked-lm", data=DataSource(), metrics=("mlm_loss",))
    return MaskedLm(task, TrainConfig(**settings), pretrain=PretrainConfig(objective=objective))


def rows(number: int, *, vocabulary: int = 30, seed: int = 0, ratio: float | None = None) -> list[Feature]:
    """Return random rows of several lengths, a few of their positions masked."""
    rng = np.random.default_rng(seed)
    found = []
    for example in range(number):
        length = int(rng.integers(4, 12))
        ids = rng.integers(5, vocabulary, length)
        labels = np.where(rng.random(length) < 0.4, ids, IGNORED)
        labels[1] = ids[1]
        target = Masked(labels=labels, pair=int(rng.integers(2)), ratio=1.0)
        types = [0] * (length // 2) + [1] * (length - length // 2)
        found.append(Feature(example=example, input_ids=ids.tolist(), token_type_ids=types, target=target))
    total = sum(int((row.target.labels != IGNORED).sum()) for row in found)
    for row in found:
        row.target = row.target._replace(ratio=number / total if ratio is None else ratio)
    return found


def labels_of(batch: dict[str, Any]) -> torch.Tensor:
    """Return the labels as transformers takes them, ``(B, T)``."""
    table = torch.full_like(batch["input_ids"], IGNORED)
    real = batch["labels"] != IGNORED
    table.view(-1)[batch["places"][real]] = batch["labels"][real]
    return table


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.mark.parametrize("fast", [False, True])
def test_the_joint_loss_is_that_of_bert_for_pre_training(*, fast: bool) -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(vocab_size=30, **SIZES)).eval()
    ours = adapter("mlm+nsp")
    batch = ours.collate(rows(6))
    with torch.no_grad():
        theirs = model(**inputs_of(batch), labels=labels_of(batch), next_sentence_label=batch["pairs"]).loss
    if fast:
        assert unpad.install(model).fast
    ours.selection.install(model)
    assert not ours.selection.reason
    with torch.no_grad():
        loss = ours.loss(model(**ours.inputs(batch)), batch)
    assert float(loss.sum / loss.weight) == pytest.approx(float(theirs), abs=1e-6)
    assert float(sum(loss.parts.values())) == pytest.approx(float(loss.sum), abs=1e-5)
    assert set(loss.parts) == {"mlm", "nsp"}


def test_gradients_are_those_of_the_plain_model() -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(vocab_size=30, **SIZES)).eval()
    ours = adapter("mlm+nsp")
    batch = ours.collate(rows(6))
    model(**inputs_of(batch), labels=labels_of(batch), next_sentence_label=batch["pairs"]).loss.backward()
    theirs = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    unpad.install(model)
    ours.selection.install(model)
    loss = ours.loss(model(**ours.inputs(batch)), batch)
    (loss.sum / loss.weight).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name], atol=1e-6, rtol=1e-4, msg=name)


def test_the_loss_of_a_step_does_not_depend_on_its_parts() -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(vocab_size=30, **SIZES)).eval()
    ours = adapter("mlm+nsp")
    every = rows(7)
    parts = [ours.collate(some) for some in (every, every[:2], every[2:])]
    with torch.no_grad():
        whole, *losses = [ours.loss(model(**ours.inputs(part)), part) for part in parts]
    assert sum(float(loss.weight) for loss in losses) == float(whole.weight) == 7
    assert sum(float(loss.sum) for loss in losses) == pytest.approx(float(whole.sum), rel=1e-6)


@pytest.mark.parametrize("left", [False, True])
def test_masked_positions_are_found_under_padding(*, left: bool) -> None:
    ours = adapter()
    ours.padding = ours.padding._replace(left=left)
    every = rows(5)
    batch = ours.collate(every)
    assert len(batch["places"]) % 32 == 0
    real = batch["labels"] != IGNORED
    assert batch["input_ids"].view(-1)[batch["places"][real]].tolist() == batch["labels"][real].tolist()
    wanted = [row.example for row in every for label in row.target.labels if label != IGNORED]
    assert batch["rows"][real].tolist() == wanted


MASKED = [family for family in families.FAMILIES if family.name not in ("GPT-2", "XLNet")]


@pytest.mark.parametrize("family", MASKED, ids=lambda family: family.name)
def test_the_head_sees_masked_positions_alone(family: families.Family) -> None:
    config = getattr(transformers, family.config)(vocab_size=40, **family.sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    selection = Selection()
    selection.install(model)
    assert selection.reason == ""
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(output.shape))
    ids, places = torch.randint(6, config.vocab_size, (3, 7)), torch.tensor([2, 3, 20])
    with torch.no_grad():
        whole = masked_logits(model(input_ids=ids), places)
        selection.places = places
        torch.testing.assert_close(masked_logits(model(input_ids=ids), places), whole, atol=1e-5, rtol=1e-4)
    assert [shape[:-1].numel() for shape in seen] == [21, 3]


def test_a_head_that_looks_at_other_positions_is_left_as_it_is() -> None:
    class Odd(BertForPreTraining):
        def forward(self, **inputs: Any) -> Any:
            found = super().forward(**inputs)
            found["prediction_logits"] = found["prediction_logits"].cumsum(0)
            return found

    torch.manual_seed(0)
    model = Odd(BertConfig(vocab_size=30, **SIZES)).eval()
    selection = Selection()
    selection.install(model)
    assert selection.reason == "its head looks at more than one position"
    assert not model.base_model._forward_hooks


def test_scores_are_means_over_masked_positions_and_over_pairs() -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(vocab_size=30, **SIZES)).eval()
    ours = adapter("mlm+sop")
    every = rows(9)
    batch = ours.collate(every)
    with torch.no_grad():
        outputs = model(**ours.inputs(batch))
    reduced = ours.reduce(outputs, batch)
    found = ours.score(ours.decode(reduced, every, range(9)), range(9), resamples=100)  # type: ignore[arg-type]
    labels = labels_of(batch)
    logits = outputs.prediction_logits[labels != IGNORED]
    wanted = torch.nn.functional.cross_entropy(logits, labels[labels != IGNORED])
    assert found["mlm_loss"] == pytest.approx(float(wanted), rel=1e-6)
    assert found["perplexity"] == pytest.approx(float(wanted.exp()), rel=1e-6)
    right = (logits.argmax(-1) == labels[labels != IGNORED]).float().mean()
    assert found["mlm_accuracy"] == pytest.approx(float(right))
    pairs = outputs.seq_relationship_logits
    assert found["sop_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(pairs, batch["pairs"])))
    assert found["sop_accuracy"] == pytest.approx(float((pairs.argmax(-1) == batch["pairs"]).float().mean()))
    low, high = found["mlm_loss_interval"]
    assert low < found["mlm_loss"] < high


def test_a_lower_loss_is_better() -> None:
    ours = adapter()
    assert ours.better(1.0, None)
    assert ours.better(1.0, 2.0)
    assert not ours.better(2.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "pairs", "found"),
    [
        ("bert", False, "AutoModelForMaskedLM"),
        ("bert", True, "AutoModelForPreTraining"),
        ("albert", True, "AutoModelForPreTraining"),
        ("roberta", True, ""),
        ("electra", True, ""),
        ("gpt2", False, ""),
    ],
)
def test_families_say_which_heads_they_have(kind: str, found: str, *, pairs: bool) -> None:
    assert encoder.pretraining_class(kind, pairs=pairs) == found


def test_sizes_are_those_of_the_small_berts(tiny_encoder: Path) -> None:
    source = encoder.Source(name="bert-tiny", folder=tiny_encoder)
    tokenizer = encoder.load_tokenizer(source)
    loaded = encoder.from_size("tiny", tokenizer, source, pairs=True, max_length=64, seed=1)
    config = loaded.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 128, 2)
    assert (config.intermediate_size, config.vocab_size, config.max_position_embeddings) == (512, len(tokenizer), 512)
    again = encoder.from_size("tiny", tokenizer, source, pairs=True, max_length=64, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), again.model.parameters(), strict=True))


def test_normal_weights_are_transformers_own(tiny_encoder: Path) -> None:
    source = encoder.Source(name="bert-tiny", folder=tiny_encoder)
    tokenizer = encoder.load_tokenizer(source)
    found = encoder.from_size("tiny", tokenizer, source, pairs=True, max_length=64, seed=1, init="normal").model
    torch.manual_seed(1)
    plain = transformers.BertForPreTraining(found.config)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("size", ["mini", pytest.param("base", marks=pytest.mark.slow)])
def test_mimetic_weights_attend_to_neighbours(size: str, tiny_encoder: Path) -> None:
    source = encoder.Source(name=f"bert-{size}", folder=tiny_encoder)
    tokenizer = encoder.load_tokenizer(source)
    length, near = 64, {}
    row = torch.randint(5, len(tokenizer), (1, length), generator=torch.Generator().manual_seed(0))
    apart = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    for init in ("normal", "mimetic"):
        made = encoder.from_size(size, tokenizer, source, pairs=False, max_length=length, seed=1, init=init)
        positions = made.model.base_model.embeddings.position_embeddings.weight.detach()
        assert float(positions.square().mean().sqrt()) == pytest.approx(0.02, rel=0.01)
        made.model.set_attn_implementation("eager")
        with torch.no_grad():
            layers = made.model.base_model(row, output_attentions=True).attentions
        near[init] = [float(layer[0, :, apart <= 2].sum() / layer[0].sum()) for layer in layers]
    by_chance = float((apart <= 2).float().mean())
    assert near["normal"] == pytest.approx([by_chance] * len(layers), rel=0.1)
    # A head or more of each layer.
    assert min(near["mimetic"]) > 2 * by_chance
