"""Without padding: the same loss, gradients and files as the padded model, for every family that can."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertkit import encoder, kernels, unpad
from bertkit.adapters.base import Adapter
from tests import families
from tests.families import BYTES_LIMIT, FAMILIES, SIZES, Family, slow_others
from tests.test_families import PAIRS, ROWS, SINGLES, adapter_for, has_head, load, with_head

VOCABULARY = 60
PADDING = 1
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "RoBERTa-PreLayerNorm": ("RobertaPreLayerNorm", SIZES | BYTES_LIMIT),
    "XLM-R XL": ("XLMRobertaXL", SIZES | BYTES_LIMIT),
    "CamemBERT": ("Camembert", SIZES | BYTES_LIMIT),
    "MobileBERT": (
        "MobileBert",
        SIZES | {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2},
    ),
    "ERNIE": ("Ernie", SIZES),
    "data2vec-text": ("Data2VecText", SIZES | BYTES_LIMIT),
    "EuroBERT": ("EuroBert", SIZES | {"num_key_value_heads": 1, "pad_token_id": PADDING}),
    "NomicBERT": ("NomicBert", SIZES),
    "LayoutLM": ("LayoutLM", SIZES),
    "Megatron-BERT": ("MegatronBert", SIZES),
    "RemBERT": ("RemBert", SIZES | {"input_embedding_size": 8, "output_embedding_size": 8}),
    "RoFormer": ("RoFormer", SIZES | {"embedding_size": 16}),
    "LUKE": ("Luke", SIZES | BYTES_LIMIT | {"entity_vocab_size": 5, "entity_emb_size": 8}),
    "DeBERTa": ("Deberta", SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "DeBERTa-v2 with convolution": ("DebertaV2", SIZES | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "Nystromformer": ("Nystromformer", SIZES),
    "ConvBERT": ("ConvBert", SIZES),
    "FNet": ("FNet", SIZES),
}
CLASSES = {family.name: (family.config[: -len("Config")], family.sizes) for family in FAMILIES} | MORE
FORMS = (
    dict.fromkeys(CLASSES, "stack")
    | dict.fromkeys(["ModernBERT", "GPT-2", "EuroBERT", "NomicBERT"], "layers")
    | dict.fromkeys(["DeBERTa-v2/v3", "MPNet", "Megatron-BERT", "RemBERT", "RoFormer", "LUKE", "DeBERTa"], "attention")
    | dict.fromkeys(["XLNet", "DeBERTa-v2 with convolution", "Nystromformer", "ConvBERT", "FNet"], "padded")
)
FAST = [name for name, form in FORMS.items() if form != "padded"]
HEADS = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
LENGTHS = (1, 23, 5, 2, 23, 16, 9)
"""Rows of one token, full rows, a row of exactly two rounded lengths."""


def make(name: str, head: str = "Model", **changes: Any) -> Any:
    """Return a family's tiny model, without dropout."""
    base, sizes = CLASSES[name]
    if not hasattr(transformers, base + head):
        pytest.skip(f"transformers has no {base}{head}")
    torch.manual_seed(0)
    few = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "cls_token_id": 2, "pad_token_id": PADDING}
    config = getattr(transformers, base + "Config")(**(sizes | few | {"vocab_size": VOCABULARY} | changes))
    model = getattr(transformers, base + head)(config)
    # Biases and norms begin as zeros and ones, behind which much could hide.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def inputs(lengths: tuple[int, ...] = LENGTHS, *, left: bool = False) -> dict[str, torch.Tensor]:
    """Return rows of these lengths, ``(B, T)``."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    position = torch.arange(width)
    mask = (position.flip(0) if left else position) < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, VOCABULARY, mask.shape, generator=generator)
    return {"input_ids": ids.where(mask, torch.tensor(PADDING)), "attention_mask": mask.long()}


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a loss to which every real position counts, and no other."""
    outputs = model(**batch)
    mask = batch["attention_mask"].bool()
    if "start_logits" in outputs:
        found = [logits.masked_fill(~mask, -1e4) for logits in (outputs.start_logits, outputs.end_logits)]
        target = mask.long().argmax(1)
        return sum(torch.nn.functional.cross_entropy(logits, target) for logits in found)
    logits = outputs.logits if "logits" in outputs else outputs[0]
    if logits.dim() == 2:
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 2)
    picked = logits[mask]
    return torch.nn.functional.cross_entropy(picked, torch.arange(len(picked)) % picked.shape[1])


def measured(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor | None]]:
    """Return the loss and every gradient."""
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, batch)
    loss.backward()
    return float(loss.detach()), {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same_as_padded(model: Any, batch: dict[str, torch.Tensor]) -> None:
    loss, gradients = measured(model, batch)
    installed = unpad.install(model)
    ours, our_gradients = measured(model, batch)
    assert (installed.num_fast, installed.padded) == (1, {}), installed
    installed.remove()
    assert ours == pytest.approx(loss, abs=1e-6)
    for name, gradient in gradients.items():
        our = our_gradients[name]
        assert (gradient is None) == (our is None), name
        if gradient is not None and our is not None:
            assert float((gradient - our).abs().max()) < 1e-5, name


# Equality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", slow_others(FAST))
def test_loss_and_gradients_are_the_padded_models(name: str, head: str) -> None:
    assert_same_as_padded(make(name, head), inputs())


@pytest.mark.parametrize(
    "lengths", [(7,), (1,), (1, 1, 1), (8, 8), (64,), (65, 1), (32, 32), tuple(range(1, 40))], ids=str
)
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "GPT-2", "MPNet"])
def test_any_shape_of_batch_is_the_padded_models(name: str, lengths: tuple[int, ...]) -> None:
    assert_same_as_padded(make(name, "ForTokenClassification"), inputs(lengths))


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("name", slow_others(FAST))
def test_padding_on_the_left_is_the_padded_models(name: str, head: str) -> None:
    batch = inputs(left=True)
    if head == "ForSequenceClassification" and name != "GPT-2":
        pytest.skip("its head looks at the first cell, which holds no token")
    assert_same_as_padded(make(name, head), batch)


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "GPT-2"])
def test_a_batch_without_a_mask_is_all_tokens(name: str) -> None:
    model, ids = make(name), inputs((9, 9))["input_ids"]
    expected = model(ids)[0]
    installed = unpad.install(model)
    assert torch.allclose(model(ids)[0], expected, atol=1e-5)
    assert installed.num_fast == 1


@pytest.mark.parametrize("segments", [2])
def test_segments_and_given_positions_are_kept(segments: int) -> None:
    model, batch = make("BERT"), inputs()
    batch["token_type_ids"] = batch["input_ids"] % segments
    batch["position_ids"] = torch.arange(23).flip(0)[None].expand(len(LENGTHS), -1)
    real = batch["attention_mask"].bool()
    expected = model(**batch)[0][real]
    unpad.install(model)
    assert torch.allclose(model(**batch)[0][real], expected, atol=1e-5)


def test_padding_gives_zeros() -> None:
    model, batch = make("BERT"), inputs()
    unpad.install(model)
    assert not model(**batch)[0][~batch["attention_mask"].bool()].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "DeBERTa-v2/v3"])
def test_fifty_steps_end_at_the_padded_models_weights(name: str) -> None:
    ends = []
    for fast in (False, True):
        model = make(name, "ForTokenClassification")
        if fast:
            assert unpad.install(model).fast
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        losses = []
        for step in range(50):
            loss = loss_of(model, inputs(LENGTHS[step % 3 :]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        ends.append((losses, [parameter.detach() for parameter in model.parameters()]))
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-6)
    assert all(torch.allclose(one, other, atol=1e-6, rtol=0) for one, other in zip(ends[0][1], ends[1][1], strict=True))


def results(model: Any, batch: dict[str, torch.Tensor], *, autocast: bool, train: bool) -> torch.Tensor:
    """Return all gradients as one vector, or the logits of the real positions."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(train):
        if not train:
            return model(**batch).logits[batch["attention_mask"].bool()].float()
        loss = loss_of(model, batch)
    loss.backward()
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "GPT-2", "MPNet"])
def test_half_precision_is_as_exact_as_the_padded_model(name: str, autocast: bool, train: bool) -> None:
    model, batch = make(name, "ForTokenClassification"), inputs()
    exact = results(model, batch, autocast=False, train=train)
    half = copy.deepcopy(model).to(torch.bfloat16)
    model = model if autocast else half
    # In training, what goes from layer to layer has 16 bits, as in a model whose weights have.
    padded = results(half if train else model, batch, autocast=autocast and not train, train=train)
    installed = unpad.install(model)
    fast = results(model, batch, autocast=autocast, train=train)
    assert (installed.num_fast, installed.padded) == (1, {})
    assert float((fast - exact).norm()) < 1.3 * float((padded - exact).norm())


def test_layers_hand_16_bits_on_in_training_and_float32_comes_out() -> None:
    model, batch, seen = make("BERT"), inputs(), []
    unpad.install(model)
    model.encoder.layer[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**batch)[0].dtype == torch.float32
        with torch.no_grad():
            model(**batch)
    model(**batch)
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("name", slow_others(name for name, form in FORMS.items() if form in unpad.PACKED))
def test_rounded_weights_give_what_autocast_gives(name: str) -> None:
    model, batch = make(name, "ForTokenClassification"), inputs()
    unpad.install(model)
    exact = results(model, batch, autocast=False, train=False)
    autocast = results(model, batch, autocast=True, train=False)
    encoder.round_weights(model)
    rounded = results(model, batch, autocast=False, train=False)
    assert {p.dtype for p in model.base_model.parameters()} == {torch.bfloat16}
    assert model(**batch).logits.dtype == torch.float32
    assert 0 < float((rounded - exact).norm()) < 3 * float((autocast - exact).norm())


def test_inference_mode_runs_fast() -> None:
    model, batch = make("BERT"), inputs()
    installed = unpad.install(model)
    with torch.inference_mode():
        model(**batch)
    assert installed.num_fast == 1


# Adapters, and a real encoder ------------------------------------------------------------------------------------


def assert_adapter_is_the_same(adapter: Adapter, loaded: encoder.Encoder, rows: list[dict[str, Any]]) -> None:
    """Compare loss and gradients of an adapter's own batch and loss."""
    batch, model = adapter.collate(adapter.encode(rows, loaded.tokenizer)), loaded.model.eval()
    found = []
    for fast in (False, True):
        if fast:
            installed = unpad.install(model)
        model.zero_grad()
        loss = adapter.loss(model(**adapter.inputs(batch)), batch)
        (loss.sum / loss.weight).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((float((loss.sum / loss.weight).detach()), gradients))
    assert (installed.num_fast, installed.padded) == (1, {})
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-6)
    assert found[1][1].keys() == found[0][1].keys()
    assert max(float((g - found[1][1][name]).abs().max()) for name, g in found[0][1].items()) < 1e-5


@pytest.mark.parametrize("rows", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("family", slow_others(f for f in FAMILIES if f.name in FAST), ids=lambda family: family.name)
def test_classification_adapter_is_the_same(family: Family, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    adapter = adapter_for()
    assert_adapter_is_the_same(adapter, load(families.save(family, tmp_path), adapter), rows)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("family", slow_others(f for f in FAMILIES if f.name in FAST), ids=lambda family: family.name)
def test_other_adapters_are_the_same(family: Family, kind: str, tmp_path: Path) -> None:
    if not has_head(family, kind):
        pytest.skip(f"transformers has no head of {family.name} for {kind}")
    assert_adapter_is_the_same(*with_head(kind, families.save(family, tmp_path)), ROWS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence-classification", *ROWS])
def test_minilm_is_the_same(kind: str) -> None:
    folder = encoder.find("minilm").folder
    adapter, loaded = with_head(kind, folder) if kind in ROWS else (one := adapter_for(), load(folder, one))
    assert_adapter_is_the_same(adapter, loaded, ROWS.get(kind, PAIRS))


# The fast path is the fast path ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_others(CLASSES))
def test_every_family_takes_the_form_that_the_table_says(name: str) -> None:
    installed = unpad.install(make(name))
    assert installed.form == FORMS[name], installed.reason
    assert installed.fast == (not installed.reason)


def rows_seen(model: Any, batch: dict[str, torch.Tensor]) -> list[int]:
    """Return the rows that each linear layer within the stack got."""
    seen: list[int] = []
    linear = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    inside = [m for layer in unpad.stack_of(model.base_model)[1] for m in layer.modules() if isinstance(m, linear)]
    handles = [m.register_forward_hook(lambda _, args, __: seen.append(args[0][..., 0].numel())) for m in inside]
    model(**batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", slow_others(FAST))
def test_linear_layers_see_the_tokens_and_no_padding(name: str) -> None:
    model, batch = make(name), inputs()
    cells, tokens = batch["input_ids"].numel(), unpad.packing(batch["attention_mask"]).num_tokens  # type: ignore[union-attr]
    assert tokens < cells
    # Families with their own attention put rows back around it; its projections see them, and relative positions.
    projections = 1.0 if unpad.install(model).form != "attention" else 0.25
    seen = rows_seen(model, batch)
    assert seen.count(tokens) >= max(1, projections * len(seen))
    unpad.install(model).remove()
    assert tokens not in rows_seen(model, batch)


def test_fast_calls_make_no_mask() -> None:
    model, masks = make("BERT"), []
    layer = model.encoder.layer[0]
    layer.register_forward_pre_hook(lambda _, args, kwargs: masks.append(args[1]), with_kwargs=True)
    model(**inputs())
    unpad.install(model)
    masks.clear()
    model(**inputs())
    assert masks == [None]


# Leaving things as they are --------------------------------------------------------------------------------------


def digests(model: Any, folder: Path) -> dict[str, str]:
    model.save_pretrained(folder)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["BERT", "ALBERT", "ModernBERT", "GPT-2", "DeBERTa-v2/v3"])
def test_saved_files_are_byte_identical(name: str, tmp_path: Path) -> None:
    model = make(name, "ForSequenceClassification")
    names, before = list(model.state_dict()), digests(model, tmp_path / "before")
    unpad.install(model)
    model(**inputs())
    assert digests(model, tmp_path / "after") == before
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "DeBERTa-v2/v3", "XLNet"])
def test_removing_restores_the_model(name: str) -> None:
    model = make(name, "ForSequenceClassification")
    batch, implementation = inputs(), model.config._attn_implementation
    expected = model(**batch).logits
    installed = unpad.install(model)
    model(**batch)
    assert model.config._attn_implementation == implementation
    installed.remove()
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_always_called]
    assert not hooks
    assert torch.equal(model(**batch).logits, expected)


def test_installing_again_gives_what_is_there() -> None:
    model = make("BERT", "ForSequenceClassification")
    first = unpad.install(model)
    assert unpad.install(model) is first
    first.remove()
    assert unpad.install(model) is not first


def test_installing_keeps_training_mode_and_generators() -> None:
    model = make("BERT").train()
    model.pooler.eval()
    before = torch.get_rng_state()
    unpad.install(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.encoder.training
    assert not model.pooler.training


def test_an_error_inside_leaves_no_trace() -> None:
    model, batch = make("BERT"), inputs()
    implementation = model.config._attn_implementation
    expected = model(**batch)[0]
    installed = unpad.install(model)
    with pytest.raises(IndexError):
        model(input_ids=batch["input_ids"] + VOCABULARY, attention_mask=batch["attention_mask"])
    assert model.config._attn_implementation == implementation
    assert unpad._packing.get() is None
    installed.remove()
    assert torch.equal(model(**batch)[0], expected)


def test_a_copy_of_the_model_is_fast_by_itself() -> None:
    model, batch = make("BERT"), inputs()
    installed = unpad.install(model)
    other = copy.deepcopy(model)
    installed.remove()
    found = other(**batch)[0]
    assert unpad.install(other).num_fast == 1
    assert installed.num_fast == 0
    real = batch["attention_mask"].bool()
    assert torch.allclose(found[real], model(**batch)[0][real], atol=1e-5)
    unpad.install(other).remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.modules())


# Padded calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("BERT", {"output_hidden_states": True}),
        ("ModernBERT", {"output_hidden_states": True}),
        ("GPT-2", {"use_cache": True}),
        ("DeBERTa-v2/v3", {"output_attentions": True}),
    ],
)
def test_calls_that_ask_for_more_run_padded(name: str, given: dict[str, Any]) -> None:
    model, batch = make(name), inputs()
    expected = model(**batch, **given)
    installed = unpad.install(model)
    found = model(**batch, **given)
    assert (installed.num_fast, installed.padded) == (0, {next(iter(given)): 1})
    assert torch.equal(found[0], expected[0])
    assert len(found.to_tuple()) == len(expected.to_tuple())


def test_output_attentions_of_the_config_runs_padded() -> None:
    model = make("BERT")
    installed = unpad.install(model)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    assert len(model(**inputs()).attentions) == 2
    assert installed.padded == {"output_attentions": 1}


def test_gradient_checkpointing_runs_padded_while_training() -> None:
    model, batch = (
        make("BERT", "ForTokenClassification", hidden_dropout_prob=0, attention_probs_dropout_prob=0),
        inputs(),
    )
    loss, gradients = measured(model, batch)
    installed = unpad.install(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()
    ours, our_gradients = measured(model, batch)
    assert installed.padded == {"gradient checkpointing": 1}
    assert ours == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(our_gradients[n], g, atol=1e-5) for n, g in gradients.items() if g is not None)
    model.eval()
    model(**batch)
    assert installed.num_fast == 1


@pytest.mark.parametrize("broken", ["empty row", "gap"])
def test_rows_that_cannot_be_packed_run_padded(broken: str) -> None:
    model, batch = make("BERT"), inputs()
    batch["attention_mask"][1, (slice(None) if broken == "empty row" else 4)] = 0
    expected = model(**batch)[0]
    installed = unpad.install(model)
    assert torch.equal(model(**batch)[0], expected)
    assert installed.padded == {"a row without tokens, or with gaps between them": 1}


def test_a_mask_for_each_query_runs_padded() -> None:
    model, batch = make("BERT"), inputs()
    batch["attention_mask"] = batch["attention_mask"].bool()[:, None, None].expand(-1, 1, 23, 23)
    expected = model(**batch)[0]
    installed = unpad.install(model)
    assert torch.equal(model(**batch)[0], expected)
    assert installed.padded == {"an attention mask that is not (B, T)": 1}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("XLNet", {}, "its own code"),
        ("BERT", {"chunk_size_feed_forward": 4}, "chunk_size_feed_forward"),
        ("ModernBERT", {"local_attention": 2000}, "wider than 512"),
        ("FNet", {}, "no list of layers with attention"),
        ("DeBERTa-v2 with convolution", {}, "do not take packed rows"),
    ],
)
def test_what_cannot_run_fast_says_why(name: str, changes: dict[str, Any], reason: str) -> None:
    model = make(name, **changes)
    installed = unpad.install(model)
    assert not installed.fast
    assert reason in installed.reason
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_whose_results_depend_on_padding_is_left_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        out, weights = right(*args, **kwargs)
        return out * 1.01, weights

    right = unpad.attention
    monkeypatch.setattr(unpad, "attention", wrong)
    assert "depend on the padding" in unpad.install(make("BERT")).reason


# Attention and packing -------------------------------------------------------------------------------------------


class Caller(torch.nn.Module):
    is_causal = False


@pytest.fixture
def packed() -> Any:
    """Return a packing that is in force."""
    held = unpad.packing(inputs((1, 30, 17, 9, 24))["attention_mask"])
    assert held is not None
    token = unpad._packing.set(held)
    yield held
    unpad._packing.reset(token)


def reference(held: unpad.Packing, q: Any, k: Any, v: Any, sees: Callable[[Any, Any], Any], scale: float) -> Any:
    """Return attention row by row, ``(N, heads, D)``."""
    found = []
    groups = q.shape[1] // k.shape[1]
    for begin, end in zip(held.starts, held.starts + held.lengths, strict=True):
        one, two, three = (
            x[0, :, begin:end] for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
        )
        position = torch.arange(end - begin)
        scores = (one @ two.transpose(-1, -2) * scale).masked_fill(
            ~sees(position[:, None], position[None]), float("-inf")
        )
        found.append((scores.softmax(-1) @ three).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(
    ("given", "sees"),
    [
        ({}, lambda i, j: i == i + 0 * j),
        ({"is_causal": True}, lambda i, j: j <= i),
        ({"sliding_window": 4}, lambda i, j: (i - j).abs() < 4),
        ({"is_causal": True, "sliding_window": 4}, lambda i, j: (j <= i) & (i - j < 4)),
    ],
    ids=["full", "causal", "window", "causal window"],
)
def test_attention_is_each_rows_own(
    packed: unpad.Packing, given: dict[str, Any], sees: Any, key_heads: int, training: bool, monkeypatch: Any
) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 4, packed.num_tokens, 8, requires_grad=True)
    k, v = (torch.randn(1, key_heads, packed.num_tokens, 8, requires_grad=True) for _ in range(2))
    if training:  # by the way that can drop, though nothing is
        monkeypatch.setattr(unpad, "kept", lambda x, _: torch.ones_like(x))
    dropout = 0.1 if training else 0.0
    found, _ = unpad.attention(Caller().train(training), q, k, v, None, dropout=dropout, scaling=0.3, **given)
    found = found[0, packed.places]
    expected = reference(packed, q, k, v, sees, 0.3)
    assert torch.allclose(found, expected, atol=1e-6)
    weight = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((x * weight).sum(), (q, k, v)) for x in (found, expected))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))


def by_rows(q: Any, k: Any, v: Any, cuts: Any, same: Any, longest: int, also: int, **given: Any) -> torch.Tensor:
    """Do what torch's kernel for rows of any length is documented to do, ``(tokens, heads, D)``."""
    assert cuts.dtype == torch.int32
    assert longest == also == int(cuts.diff().max())
    found, (left, right) = [], given["window_size"]
    groups = q.shape[1] // k.shape[1]
    assert given["enable_gqa"] == (groups != 1)
    for begin, end in zip(cuts.tolist(), cuts.tolist()[1:], strict=False):
        one, two, three = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        hidden = ((distance > left) & (left >= 0)) | ((-distance > right) & (right >= 0))
        scores = one @ two.repeat_interleave(groups, 0).transpose(1, 2) * given["scale"]
        probabilities = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        found.append((probabilities @ three.repeat_interleave(groups, 0)).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(
    "given", [{}, {"is_causal": True}, {"sliding_window": 4}, {"is_causal": True, "sliding_window": 4}], ids=str
)
def test_torchs_kernel_is_asked_for_the_same(
    packed: unpad.Packing, given: dict[str, Any], key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs CUDA; what it is called with does not."""
    q = torch.randn(1, 4, packed.num_tokens, 8)
    k, v = (torch.randn(1, key_heads, packed.num_tokens, 8) for _ in range(2))
    expected = unpad.attention(Caller(), q, k, v, None, scaling=0.3, **given)[0]
    monkeypatch.setattr(kernels, "choose", lambda query, dropout: "torch")
    monkeypatch.setattr(kernels, "torch_kernel", lambda: by_rows)
    found = unpad.attention(Caller(), q, k, v, None, scaling=0.3, **given)[0]
    assert found.shape == expected.shape
    assert torch.allclose(found[0, packed.places], expected[0, packed.places], atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "GPT-2"])
def test_cuda_is_as_exact_as_the_padded_model(name: str) -> None:
    model = make(name, "ForTokenClassification").cuda()
    batch = {key: value.cuda() for key, value in inputs().items()}
    with torch.autocast("cuda", torch.bfloat16):
        padded = model(**batch).logits[batch["attention_mask"].bool()].float()
        installed = unpad.install(model)
        fast = model(**batch).logits[batch["attention_mask"].bool()].float()
    assert installed.num_fast == 1
    assert float((fast - padded).norm() / padded.norm()) < 0.03


def test_attention_drops_probabilities_in_training_only() -> None:
    held = unpad.packing(torch.ones(1, 64))
    assert held is not None
    q = torch.zeros(1, 4, held.num_tokens, 64)
    v = torch.eye(64).repeat(held.num_tokens // 64, 1)[None, None].expand(1, 4, -1, -1)
    token = unpad._packing.set(held)
    torch.manual_seed(0)
    trained, evaluated = (unpad.attention(Caller().train(on), q, q, v, None, dropout=0.25)[0] for on in (True, False))
    unpad._packing.reset(token)
    # With values that are unit vectors, what comes out is the probabilities, each 1 / 64.
    probabilities = trained[0, :64].flatten() * 64
    assert torch.allclose(evaluated[0, :64], torch.tensor(1 / 64))
    assert set(probabilities.mul(300).round().tolist()) == {0, 400}
    assert float((probabilities == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_dropout_of_a_model_is_that_of_its_config() -> None:
    model = make("BERT", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0).train()
    unpad.install(model)
    batch = inputs()
    one, other = model(**batch)[0], model(**batch)[0]
    assert not torch.allclose(one, other, atol=1e-3)
    torch.manual_seed(3)
    one = model(**batch)[0]
    torch.manual_seed(3)
    assert torch.equal(model(**batch)[0], one)


@pytest.mark.parametrize("name", ["position_bias", "softcap"])
def test_attention_refuses_what_it_does_not_do(packed: unpad.Packing, name: str) -> None:
    x = torch.zeros(1, 2, packed.num_tokens, 4)
    with pytest.raises(NotImplementedError, match=f"packed rows takes no {name}"):
        unpad.attention(Caller(), x, x, x, None, **{name: 1.0})


def test_attention_refuses_calls_from_outside() -> None:
    x = torch.zeros(1, 2, 64, 4)
    with pytest.raises(NotImplementedError, match="no rows are packed"):
        unpad.attention(Caller(), x, x, x, None)


@pytest.mark.parametrize("left", [False, True])
def test_packing_goes_there_and_back(left: bool) -> None:
    mask = inputs(left=left)["attention_mask"]
    held = unpad.packing(mask)
    assert held is not None
    x = torch.randn(*mask.shape, 3, requires_grad=True)
    flat = held.pack(x)
    assert flat.shape == (1, held.num_tokens, 3)
    assert torch.equal(flat[0, held.places], x[mask.bool()])
    back = held.unpack(flat)
    assert torch.equal(back, x * mask[..., None])
    back.sum().backward()
    assert torch.equal(x.grad, mask[..., None].expand_as(x).float())


def test_a_tensor_for_all_rows_is_packed_by_position() -> None:
    mask = inputs((2, 5, 3), left=True)["attention_mask"]
    held = unpad.packing(mask)
    assert held is not None
    assert held.pack(torch.arange(5)[None])[0, held.places].tolist() == [3, 4, 0, 1, 2, 3, 4, 2, 3, 4]


def test_tokens_are_rounded_with_one_to_spare() -> None:
    sizes = [unpad.packing(torch.ones(1, n)).num_tokens for n in (1, 31, 32, 63, 64, 127, 128)]  # type: ignore[union-attr]
    assert sizes == [32, 32, 64, 64, 96, 128, 160]


@pytest.mark.parametrize(
    ("lengths", "counts", "longest"),
    [
        ([8], [1], [8]),
        ([8, 16], [4, 4], [16]),
        ([8, 272], [4, 4], [8, 272]),
        ([16, 512], [16, 4], [16, 512]),
        ([8, 16, 303, 304], [32, 32, 1, 1], [16, 304]),
    ],
)
def test_rows_of_like_length_share_a_bucket(lengths: list[int], counts: list[int], longest: list[int]) -> None:
    assert unpad.cuts(np.array(lengths), np.array(counts)) == longest


@pytest.mark.parametrize("longest", [20, 100, 500])
@pytest.mark.parametrize("count", [1, 32, 300])
def test_each_row_has_places_of_its_own_in_one_bin(longest: int, count: int) -> None:
    lengths = np.random.default_rng(0).integers(1, longest, count)
    held = unpad.packing(torch.arange(longest) < torch.from_numpy(lengths)[:, None])
    assert held is not None
    assert held.num_tokens % 32 == 0
    assert [bucket.start for bucket in held.buckets] == [0, *(bucket.stop for bucket in held.buckets[:-1])]
    assert held.buckets[-1].stop <= held.num_tokens
    assert lengths.sum() < held.num_tokens
    assert len(set(held.places.tolist())) == lengths.sum()
    assert all(bucket.width % 16 == 0 for bucket in held.buckets)
    for row, (start, length) in enumerate(zip(held.starts, lengths, strict=True)):
        assert (held.rows[start : start + length] == row).all()
        (bucket,) = (one for one in held.buckets if one.start <= start < one.stop)
        assert (start - bucket.start) // bucket.width == (start + length - 1 - bucket.start) // bucket.width
    assert (held.rows >= 0).sum() == lengths.sum()
    begins = held.boundaries.tolist()
    assert set(held.starts) <= set(begins)
    assert (begins[0], begins[-1]) == (0, held.num_tokens)


def test_short_rows_share_bins_that_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 300)
    buckets, _ = unpad.arranged(lengths)
    assert buckets[-1].stop < 1.06 * lengths.sum()
    assert not all(bucket.alone for bucket in buckets)
