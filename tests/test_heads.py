"""Heads of our own: what they read, in every family and form; what is saved of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import encoder, heads, layers, unpad
from bertkit.config import Layers, TrainConfig
from bertkit.errors import ConfigError, ModelError
from tests import families
from tests.conftest import save_tiny_bert

SEQUENCE, TOKENS, SPANS = heads.KINDS
DEEP = {"num_hidden_layers": 5}


def opened(folder: Path, auto_class: str = TOKENS, **about: Any) -> encoder.Encoder:
    given: dict[str, Any] = {"kind": "linear", "layers": "mix", "reads": heads.KINDS[auto_class], "outputs": 3}
    spec = heads.Spec(**given | about)
    return encoder.load(encoder.find(str(folder)), auto_class=auto_class, num_outputs=3, seed=1, head=spec)


def batch(loaded: encoder.Encoder) -> dict[str, torch.Tensor]:
    texts = ["the film was good", "a", "we and the tool it was very very warm"]
    return dict(loaded.tokenizer(texts, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("choice", layers.CHOICES)
def test_head_reads_the_states_that_transformers_gives(choice: Layers, tmp_path: Path) -> None:
    loaded = opened(save_tiny_bert(tmp_path / "e", **DEEP), layers=choice)
    inputs = batch(loaded)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        hidden = loaded.model.body(**inputs, output_hidden_states=True)["hidden_states"]
        given = loaded.model.read(**inputs)
        expected = layers.combine(hidden, choice, loaded.model.head.mix)
        found = given.squeeze(-2) if loaded.model.head.mix is None else loaded.model.head.mix(given)
    torch.testing.assert_close(found[real], expected[real])


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_every_family_gives_its_layers_also_without_padding(family: families.Family, tmp_path: Path) -> None:
    loaded = opened(families.save(family, tmp_path / family.name), kind="bilstm")
    model, inputs = loaded.model, batch(loaded)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        padded = model(**inputs).logits
        hidden = model.body(**inputs, output_hidden_states=True)["hidden_states"]
        torch.testing.assert_close(model.read(**inputs)[real], torch.stack(list(hidden), -2)[real])
        installed = unpad.install(model)
        fast = model(**inputs).logits
    assert installed.num_fast or not installed.fast or not model.taps.works
    torch.testing.assert_close(fast[real], padded[real], atol=1e-4, rtol=1e-4)


def test_layers_run_without_padding_where_all_are_read(tiny_encoder: Path) -> None:
    loaded = opened(tiny_encoder)
    installed = unpad.install(loaded.model)
    with torch.no_grad():
        loaded.model(**batch(loaded))
    assert loaded.model.taps.works
    assert (installed.num_fast, dict(installed.padded)) == (1, {})


def test_bilstm_does_not_see_padding_on_either_side(tiny_encoder: Path) -> None:
    model = opened(tiny_encoder, kind="bilstm", layers="last").model
    states, mask = torch.randn(1, 4, 1, 16), torch.ones(1, 4, dtype=torch.long)
    zeros, none = torch.full((1, 3, 1, 16), 9.0), torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        alone = model.head(states, mask)
        right = model.head(torch.cat([states, zeros], 1), torch.cat([mask, none], 1))[:, :4]
        left = model.head(torch.cat([zeros, states], 1), torch.cat([none, mask], 1))[:, 3:]
    torch.testing.assert_close(right, alone)
    torch.testing.assert_close(left, alone)


def test_classification_reads_cls_and_no_pooler(tiny_encoder: Path) -> None:
    loaded = opened(tiny_encoder, SEQUENCE, kind="mlp", layers="last", width=8)
    assert not any("pooler" in name for name in loaded.model.state_dict())
    inputs = batch(loaded)
    with torch.no_grad():
        last = loaded.model.body(**inputs)[0]
        assert torch.equal(loaded.model.read(**inputs), last[:, :1].unsqueeze(-2))
        head = loaded.model.head
        expected = head.out(torch.tanh(head.between.dense(last[:, 0])))
        torch.testing.assert_close(loaded.model(**inputs).logits, expected)


def test_decoder_is_read_at_its_last_token(tmp_path: Path) -> None:
    family = next(family for family in families.FAMILIES if family.name == "GPT-2")
    loaded = opened(families.save(family, tmp_path / "gpt2"), SEQUENCE, layers="last")
    assert loaded.model.spec.at_end
    inputs = batch(loaded)
    with torch.no_grad():
        last = loaded.model.body(**inputs)[0]
        ends = inputs["attention_mask"].sum(1) - 1
        torch.testing.assert_close(loaded.model.read(**inputs)[:, 0, 0], last[torch.arange(3), ends])


@pytest.mark.parametrize("auto_class", [SEQUENCE, TOKENS, SPANS])
def test_saved_head_is_found_again_and_the_body_opens_alone(
    auto_class: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel

    about = {"outputs": 2} if auto_class == SPANS else {}
    loaded = opened(tiny_encoder, auto_class, kind="mlp", **about)
    with torch.no_grad():
        loaded.model.head.mix.scalars.copy_(torch.tensor([0.1, 0.2, 0.3]))
    encoder.save(loaded.model, loaded.tokenizer, tmp_path / "model")
    spec = heads.stored(tmp_path / "model")
    assert spec == loaded.model.spec
    again = encoder.load(encoder.find(str(tmp_path / "model")), auto_class=auto_class, head=spec)
    assert again.new_weights == ()
    inputs = batch(loaded)
    with torch.no_grad():
        ours, theirs = loaded.model(**inputs), again.model(**inputs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        body = AutoModel.from_pretrained(tmp_path / "model")
        assert torch.equal(body(**inputs)[0], loaded.model.body(**inputs)[0])


def test_head_of_another_kind_starts_anew_on_a_saved_body(tiny_encoder: Path, tmp_path: Path) -> None:
    loaded = opened(tiny_encoder)
    encoder.save(loaded.model, loaded.tokenizer, tmp_path / "model")
    assert opened(tmp_path / "model").new_weights == ()
    assert "head.out.weight" in opened(tmp_path / "model", outputs=4).new_weights
    plain = encoder.load(encoder.find(str(tmp_path / "model")), auto_class=TOKENS, labels=["a", "b"])
    assert set(plain.new_weights) == {"classifier.weight", "classifier.bias"}


def test_damaged_head_is_named(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / heads.FILE).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"head.safetensors is damaged, or no head that bertkit saved"):
        heads.stored(tmp_path)
    assert heads.stored(tiny_encoder) is None


def test_too_few_layers_are_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="'concat-last-4' reads 4 layers, and the encoder has 2"):
        opened(tiny_encoder, layers="concat-last-4")


@pytest.mark.parametrize(
    ("settings", "auto_class", "said"),
    [
        ({"head": "bilstm"}, SEQUENCE, "'bilstm', which reads every token"),
        ({"layers": "mix"}, "AutoModelForMultipleChoice", "has a head of its own"),
        ({"layers": "mix", "compile": True}, TOKENS, "Drop one of the two"),
        ({"pooling": "mean"}, TOKENS, "one vector a text, and this task type's head reads every token"),
        ({"pooling": "mean"}, SPANS, "one vector a text, and this task type's head reads every token"),
    ],
)
def test_head_that_cannot_be_is_refused(settings: dict[str, Any], auto_class: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        heads.check(TrainConfig(**settings), auto_class)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"head_width": 8}, "train.head_width is 8, and must be 0 where train.head is linear"),
        ({"head": "mlp", "head_width": 1}, "train.head_width is 1, and must be 0, or at least 2"),
        ({"head_dropout": 0.5}, "train.head_dropout is 0.5.*Hugging Face's own"),
        ({"head": "mlp", "head_dropout": 1.0}, "train.head_dropout is 1.0, and must be at least 0 and below 1"),
    ],
)
def test_setting_of_a_head_that_is_not_there_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainConfig(**settings)


def test_plain_head_is_hugging_faces_own() -> None:
    assert heads.asked(TrainConfig(), auto_class=TOKENS, outputs=3) is None
    spec = heads.asked(TrainConfig(head="bilstm", head_width=12), auto_class=TOKENS, outputs=3)
    assert spec == heads.Spec(kind="bilstm", layers="last", reads="tokens", outputs=3, width=12)


def test_mean_is_over_a_rows_real_tokens(tiny_encoder: Path) -> None:
    spec = heads.asked(TrainConfig(pooling="mean"), auto_class=SEQUENCE, outputs=3)
    assert spec == heads.Spec(kind="linear", layers="last", reads="sequence", outputs=3, mean=True)
    loaded = encoder.load(encoder.find(str(tiny_encoder)), auto_class=SEQUENCE, num_outputs=3, seed=1, head=spec)
    inputs = batch(loaded)
    with torch.no_grad():
        states = loaded.model.body(**inputs).last_hidden_state
        found = loaded.model.read(**inputs)[:, 0, 0]
    for row, state, mask in zip(found, states, inputs["attention_mask"].bool(), strict=True):
        torch.testing.assert_close(row, state[mask].mean(0))


def test_hidden_states_are_given_where_they_are_asked_for(tiny_encoder: Path) -> None:
    loaded = opened(tiny_encoder)
    inputs = batch(loaded)
    with torch.no_grad():
        plain, whole = loaded.model(**inputs), loaded.model(**inputs, output_hidden_states=True)
        expected = loaded.model.body(**inputs, output_hidden_states=True)["hidden_states"]
    torch.testing.assert_close(whole.logits, plain.logits)
    assert all(torch.equal(one, other) for one, other in zip(whole.hidden_states, expected, strict=True))


def test_gradients_are_those_of_checkpointed_layers(tiny_encoder: Path) -> None:
    found = []
    for again in (False, True):
        loaded = opened(tiny_encoder, kind="mlp", dropout=0.0)
        if again:
            loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        loaded.model.body.train()
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loaded.model.body.config._attn_implementation = "eager"
        loaded.model(**batch(loaded)).logits.sum().backward()
        found.append(loaded.model.body.embeddings.word_embeddings.weight.grad)
    torch.testing.assert_close(found[0], found[1])
