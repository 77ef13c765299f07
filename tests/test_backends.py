"""OpenVINO in place of torch: the same predictions, converted once, refused where it is not there or not the same."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertkit
from bertkit import backends, encoder
from bertkit.errors import ConfigError, ModelError
from bertkit.workflows.predict import Predictor, predict_file
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_jsonl

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return copied(finished_run, tmp_path)


def copied(run: Path, folder: Path) -> Path:
    import shutil

    return shutil.copytree(run, folder / run.name)


def load(run: Path, backend: Any = "openvino", **options: Any) -> Predictor:
    return bertkit.load(run, backend=backend, **{"precision": "float32", "threads": 1, **options})


def texts(number: int = 70) -> list[str]:
    return [row["text"] for row in reviews(number, seed=9)]


def conversions(folder: Path) -> list[Path]:
    return sorted(folder.rglob("model.xml"))


def gap(one: Any, other: Any) -> float:
    """Return the largest difference between the numbers of two predictions, whose words must be equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((gap(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max(map(gap, one, other), default=0.0)
    if isinstance(one, float):
        return abs(one - other) / max(1.0, abs(other))
    assert one == other
    return 0.0


# Without the package ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_missing_package_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"openvino needs a package .* pip install 'bertkit\[openvino\]'\."):
        load(Path("no-such-run"))


@pytest.mark.slow
def test_unknown_backend_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--backend openvin: there is torch and openvino\. Did you mean 'openvino'\?"
    ):
        bertkit.load("no-such-run", backend="openvin")  # type: ignore[arg-type]


# Agreement ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_results_agree() -> None:
    rows = [np.array([1.0, -2.0], dtype=np.float32)] * 10
    backends.agree(rows, rows, name="m", precision="float32")


@pytest.mark.slow
def test_one_row_of_ten_may_differ_more_in_rounding_but_not_by_much() -> None:
    rows = [np.array([1.0, -2.0], dtype=np.float32)] * 10
    near = [*rows[:9], rows[9] + np.float32(0.15)]
    backends.agree(near, rows, name="m", precision="bf16")
    with pytest.raises(ModelError, match=r"with runs/x: of 10 rows .* the worst by 0\.15 .* Use --backend torch\."):
        backends.agree([*rows[:9], rows[9] + np.float32(0.3)], rows, name="runs/x", precision="bf16")
    with pytest.raises(ModelError, match="does not predict what torch does"):
        backends.agree([*near[:8], near[9], near[9]], rows, name="m", precision="bf16")


@pytest.mark.slow
def test_not_a_number_is_no_agreement() -> None:
    row = np.array([1.0, -2.0], dtype=np.float32)
    with pytest.raises(ModelError, match="does not predict what torch does"):
        backends.agree([row * np.float32(np.nan)], [row], name="m", precision="float32")


@pytest.mark.slow
def test_spans_agree_where_two_are_about_as_good() -> None:
    torchs = np.array([[0, 0, 1.0], [3, 4, 5.0], [7, 8, 4.999], [9, 9, -np.inf]])
    swapped = np.array([[0, 0, 1.0], [7, 8, 5.0], [3, 4, 4.999], [9, 9, -np.inf]])
    assert backends.gap(swapped, torchs) == pytest.approx(0.0002, abs=1e-5)
    elsewhere = np.array([[0, 0, 1.0], [1, 1, 5.0], [3, 4, 4.999], [9, 9, -np.inf]])
    assert backends.gap(elsewhere, torchs) == pytest.approx(0.8)


@pytest.mark.slow
def test_other_number_of_results_is_no_agreement() -> None:
    assert backends.gap(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)) == np.inf


# OpenVINO ----------------------------------------------------------------------------------------------------------


@needs_openvino
def test_classifier_predicts_what_torch_predicts(run: Path) -> None:
    found = load(run)(texts())
    assert gap(found, load(run, "torch")(texts())) < 1e-5


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_rows_come_out_in_order_whatever_the_chunk(chunk: int, run: Path) -> None:
    rows = [({"text": text}, f"row {n}") for n, text in enumerate(texts())]
    pairs = list(load(run, settings={"predict.chunk": chunk}).stream(rows))
    assert [row for row, _ in pairs] == [row for row, _ in rows]
    assert gap([prediction for _, prediction in pairs], load(run, "torch")(texts())) < 1e-5


@pytest.mark.slow
@needs_openvino
def test_tagger_predicts_what_torch_predicts(tagging_run: Path, tmp_path: Path) -> None:
    run = copied(tagging_run, tmp_path)
    rows = [{"tokens": row["tokens"]} for row in sentences(70, seed=5)]
    assert gap(load(run)(rows), load(run, "torch")(rows)) < 1e-5


@pytest.mark.slow
@needs_openvino
def test_span_model_predicts_what_torch_predicts(questions_run: Path, tmp_path: Path) -> None:
    run = copied(questions_run, tmp_path)
    rows = [{key: row[key] for key in ("question", "context")} for row in questions(70, seed=5)]
    assert gap(load(run)(rows), load(run, "torch")(rows)) < 1e-4


@pytest.mark.slow
@needs_openvino
def test_bf16_gives_the_labels_of_float32(run: Path) -> None:
    found, wanted = load(run, precision="bf16")(texts()), load(run, "torch")(texts())
    sure = [n for n, one in enumerate(wanted) if one["score"] > 0.6]
    assert len(sure) > 50
    assert [found[n]["label"] for n in sure] == [wanted[n]["label"] for n in sure]


@pytest.mark.slow
@needs_openvino
def test_model_is_converted_and_compared_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted((run / "model").iterdir())
    load(run)(texts())
    (model,) = conversions(run)
    assert model.parent.parent == run / "openvino"
    assert sorted((run / "model").iterdir()) == before
    assert json.loads((model.parent / "compared.json").read_text()) == {"float32": backends.COMPARED}
    assert not [path for path in model.parent.parent.iterdir() if path.name.startswith(".")]

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(backends, "_converted", never)
    monkeypatch.setattr(backends, "agree", never)
    load(run)(texts())


@pytest.mark.slow
@needs_openvino
def test_few_rows_are_compared_until_they_are_enough(run: Path) -> None:
    predictor = load(run)
    predictor(texts(50))
    assert not predictor.opened.model.trusted  # type: ignore[attr-defined]
    predictor(texts(14))
    assert predictor.opened.model.trusted  # type: ignore[attr-defined]


@pytest.mark.slow
@needs_openvino
def test_no_rows_are_no_comparison(run: Path) -> None:
    assert load(run)([]) == []


@pytest.mark.slow
@needs_openvino
def test_changed_model_is_converted_anew(run: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    load(run)(texts())
    file = run / "model" / "model.safetensors"
    weights = load_file(file)
    weights["classifier.bias"] += torch.tensor([9.0, 0.0])
    save_file(weights, file, {"format": "pt"})
    assert {prediction["label"] for prediction in load(run)(texts())} == {"negative"}
    assert len(conversions(run)) == 2


@pytest.mark.slow
@needs_openvino
def test_disagreement_ends_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = backends.OpenVino.__call__

    def shifted(self: backends.OpenVino, **inputs: Any) -> Any:
        outputs = call(self, **inputs)
        outputs.logits[:, 0] += 1.0
        return outputs

    monkeypatch.setattr(backends.OpenVino, "__call__", shifted)
    with pytest.raises(ModelError, match=rf"what torch does with {run}: of 64 rows .* Use --backend torch\."):
        load(run)(texts())
    (model,) = conversions(run)
    assert not (model.parent / "compared.json").exists()


@pytest.mark.slow
@needs_openvino
def test_family_that_cannot_be_converted_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("operation x::y is unknown\nand much more")

    monkeypatch.setattr(openvino, "convert_model", refuse)
    with pytest.raises(
        ModelError, match=r"cannot be run by OpenVINO \(RuntimeError: operation x::y is unknown\)\. Use"
    ):
        load(run)


@pytest.mark.slow
@needs_openvino
def test_conversion_sends_nothing_to_its_makers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openvino.tools.ovc import convert_impl, telemetry_stub, telemetry_utils

    seen: list[Any] = []
    init = convert_impl.init_ovc_telemetry
    monkeypatch.setattr(convert_impl, "init_ovc_telemetry", lambda: seen.append(init()) or seen[0])
    before = convert_impl.tm
    load(run)
    assert [type(one) for one in seen] == [telemetry_stub.Telemetry]
    assert convert_impl.tm is telemetry_utils.tm is before


@pytest.mark.slow
@needs_openvino
def test_other_device_than_the_cpu_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="--backend openvino runs on the CPU, and --device is cuda"):
        load(run, device="cuda")


@pytest.mark.slow
@needs_openvino
def test_model_that_is_no_runs_is_kept_in_the_users_cache(run: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (run / "model").iterdir())
    load(run / "model")(texts())
    assert not conversions(run)
    assert len(conversions(tmp_path / "cache-openvino")) == 1
    assert sorted(path.name for path in (run / "model").iterdir()) == before


@pytest.mark.slow
@needs_openvino
def test_place_that_cannot_be_written_costs_a_conversion_each_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    import openvino

    monkeypatch.setattr(openvino, "save_model", full)
    assert gap(load(run)(texts()), load(run, "torch")(texts())) < 1e-5
    assert not conversions(run.parent)


@pytest.mark.slow
@needs_openvino
def test_command_writes_the_same_rows(run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in texts()])
    options: dict[str, Any] = {"out": None, "run": run, "precision": "float32", "threads": 1}
    found, wanted = (
        [json.loads(line) for line in predict_file(file, backend=backend, **options)]
        for backend in ("openvino", "torch")
    )
    assert gap(found, wanted) < 1e-5


# Families ----------------------------------------------------------------------------------------------------------


def families() -> Iterator[Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": 23, "max_position_embeddings": 64}
    yield pytest.param("Bert", sizes, id="bert")
    yield pytest.param("Roberta", sizes | {"pad_token_id": 1, "max_position_embeddings": 66}, id="roberta")
    yield pytest.param("Electra", sizes | {"embedding_size": 16}, id="electra")
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 23, "max_position_embeddings": 64}
    yield pytest.param("DistilBert", distil, id="distilbert")
    modern = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    yield pytest.param("ModernBert", sizes | modern | {"local_attention": 8}, id="modernbert")
    yield pytest.param("MPNet", sizes | {"pad_token_id": 1, "max_position_embeddings": 66}, id="mpnet")
    yield pytest.param("DebertaV2", sizes | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, id="deberta")
    gpt = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 23, "n_positions": 64, "pad_token_id": 0}
    yield pytest.param("GPT2", gpt, id="gpt2")


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
@pytest.mark.parametrize(("family", "sizes"), list(families()))
def test_families_give_torchs_logits(family: str, sizes: dict[str, Any], head: str, tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    body = save_tiny_bert(tmp_path / "model")
    config = getattr(transformers, f"{family}Config")(**sizes)
    getattr(transformers, f"{family}For{head}")(config).save_pretrained(body)
    loaded = encoder.load(encoder.find(str(body)), auto_class=f"AutoModelFor{head}")
    ours = backends.openvino(loaded, name=family, beside=None, precision="float32", threads=1)
    for lengths in ([1], [3, 9, 5], [31, 2, 1, 40], [64, 63]):
        batch = batch_of(lengths, loaded)
        with torch.inference_mode():
            wanted = loaded.model(**batch)
        found, real = ours(**batch), batch["attention_mask"].bool()
        for name in [name for name in backends.OUTPUTS if name in wanted]:
            one, other = getattr(found, name), wanted[name]
            assert one.shape == other.shape
            if head != "SequenceClassification":
                one, other = one[real], other[real]
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def batch_of(lengths: list[int], loaded: encoder.Encoder) -> dict[str, Any]:
    import torch

    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(4, 23, mask.shape)
    padding = loaded.tokenizer.pad_token_id
    batch = {"input_ids": torch.where(mask.bool(), ids, padding), "attention_mask": mask}
    return batch | (
        {"token_type_ids": torch.zeros_like(ids)} if "token_type_ids" in loaded.tokenizer.model_input_names else {}
    )
