"""Heads on a frozen encoder: kept features change nothing but the time; what is saved opens, predicts and is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertkit
from bertkit import frozen, heads
from bertkit.data import cache
from bertkit.errors import ConfigError
from bertkit.workflows.estimate import estimate
from bertkit.workflows.verify import verify
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_conll, write_jsonl, write_squad
from tests.several import together
from tests.workflows.test_several_processes import train as train_there
from tests.workflows.training import Listener, lines, record, train

FROZEN = {"train.freeze": "encoder", "train.learning_rate": 1e-2, "train.epochs": 2}
UNCACHED = {"train.cache_features": False}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder of the test."""
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / frozen.FOLDER


def data_of(kind: str, folder: Path) -> Path:
    if kind == "sequence-classification":
        return write_jsonl(folder / "reviews.jsonl", reviews(60))
    if kind == "token-tagging":
        return write_conll(folder / "sentences.conll", sentences(60))
    return write_squad(folder / "questions.json", questions(50))


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in lines(run / "events.jsonl") if event["event"] == "step"]


def same(one: Path, other: Path) -> None:
    """Check that two runs saw the same losses and came to the same scores."""
    np.testing.assert_allclose(losses(one), losses(other), rtol=0, atol=1e-6)
    left, right = (lines(run / "predictions" / "validation.jsonl") for run in (one, other))
    assert [row["prediction"].keys() for row in left] == [row["prediction"].keys() for row in right]
    assert bertkit.evaluate(one).scores == pytest.approx(bertkit.evaluate(other).scores, abs=1e-6, nan_ok=True)


HEADS: list[tuple[str, dict[str, Any], str]] = [
    ("sequence-classification", {}, "pooled"),
    ("sequence-classification", {"train.head": "mlp", "train.layers": "mix"}, "head"),
    ("sequence-classification", {"train.pooling": "mean"}, "head"),
    ("token-tagging", {}, "tokens"),
    ("token-tagging", {"train.head": "bilstm", "train.layers": "mix"}, "head"),
    ("span-qa", {}, "tokens"),
    ("span-qa", {"train.layers": "second-to-last"}, "head"),
]


@pytest.mark.parametrize(
    ("kind", "settings", "reads"),
    [each if each in (HEADS[0], HEADS[3]) else pytest.param(*each, marks=pytest.mark.slow) for each in HEADS],
)
def test_kept_features_give_the_losses_and_scores_of_the_frozen_encoder(
    kind: str, settings: dict[str, Any], reads: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    data = data_of(kind, tmp_path)
    given = FROZEN | settings
    fast = train(data, encoder=tiny_encoder, out=tmp_path / "kept", settings=given).run
    slow = train(data, encoder=tiny_encoder, out=tmp_path / "anew", settings=given | UNCACHED).run
    found = record(fast)["features"]
    assert (found["kept"], found["reads"], found["precision"]) == (True, reads, "float32")
    assert record(slow)["features"] == {"kept": False, "reason": "train.cache_features is false"}
    same(fast, slow)


@pytest.mark.slow
def test_other_seeds_and_epochs_find_the_features(tiny_encoder: Path, tmp_path: Path, kept: Path) -> None:
    data = data_of("token-tagging", tmp_path)
    first = train(data, encoder=tiny_encoder, out=tmp_path / "1", settings=FROZEN, seed=1)
    times = {file: file.stat().st_ino for file in kept.iterdir()}
    heard = Listener()
    second = train(data, encoder=tiny_encoder, out=tmp_path / "2", settings=FROZEN, seed=2, listen=heard)
    assert record(first.run)["features"]["rows_computed"] == 60
    assert record(second.run)["features"]["rows_computed"] == 0
    assert {file: file.stat().st_ino for file in kept.iterdir()} == times
    assert any("those of an earlier run" in note and "MB in" in note for note in heard.notes)


@pytest.mark.slow
def test_features_are_those_of_the_weights_and_of_what_is_read(tiny_encoder: Path, tmp_path: Path, kept: Path) -> None:
    data = data_of("token-tagging", tmp_path)
    train(data, encoder=tiny_encoder, out=tmp_path / "1", settings=FROZEN)
    assert len(list(kept.iterdir())) == 2
    train(data, encoder=tiny_encoder, out=tmp_path / "2", settings=FROZEN | {"train.layers": "embeddings"})
    assert len(list(kept.iterdir())) == 4
    train(data, encoder=save_tiny_bert(tmp_path / "other", seed=9), out=tmp_path / "3", settings=FROZEN)
    assert len(list(kept.iterdir())) == 6


@pytest.mark.slow
def test_damaged_features_are_computed_anew(tiny_encoder: Path, tmp_path: Path, kept: Path) -> None:
    data = data_of("sequence-classification", tmp_path)
    one = train(data, encoder=tiny_encoder, out=tmp_path / "1", settings=FROZEN).run
    for file in kept.iterdir():
        file.write_bytes(file.read_bytes()[:-4])
    two = train(data, encoder=tiny_encoder, out=tmp_path / "2", settings=FROZEN).run
    assert record(two)["features"]["rows_computed"] == 60
    same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 5])
def test_interrupted_head_goes_on_bit_for_bit(stop_at: int, tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of("token-tagging", tmp_path)
    given = FROZEN | {"train.head": "bilstm", "train.layers": "mix", "train.batch_size": 8}
    whole = train(data, encoder=tiny_encoder, out=tmp_path / "whole", settings=given).run
    stopping = Listener(stop_at=stop_at)
    about: dict[str, Any] = {"encoder": tiny_encoder, "out": tmp_path / "part", "settings": given}
    assert train(data, **about, listen=stopping, should_stop=stopping.should_stop).status == "interrupted"
    part = train(resume=tmp_path / "part").run
    assert losses(part) == losses(whole)
    assert (part / "model" / heads.FILE).read_bytes() == (whole / "model" / heads.FILE).read_bytes()


@pytest.mark.slow
def test_trained_encoder_keeps_nothing(tiny_encoder: Path, tmp_path: Path, kept: Path) -> None:
    data = data_of("sequence-classification", tmp_path)
    thawed = FROZEN | {"train.unfreeze_epochs": 1}
    for name, settings in (("whole", {}), ("layers", {"train.freeze": "layers:0"}), ("thawed", thawed)):
        assert "features" not in record(train(data, encoder=tiny_encoder, out=tmp_path / name, settings=settings).run)
    assert not kept.exists()


@pytest.mark.slow
def test_new_pooler_is_trained_on_kept_first_tokens(tmp_path: Path) -> None:
    from transformers import BertModel

    encoder = save_tiny_bert(tmp_path / "encoder")
    BertModel.from_pretrained(encoder, add_pooling_layer=False).save_pretrained(encoder)
    data = data_of("sequence-classification", tmp_path)
    fast = train(data, encoder=encoder, out=tmp_path / "kept", settings=FROZEN).run
    slow = train(data, encoder=encoder, out=tmp_path / "anew", settings=FROZEN | UNCACHED).run
    assert record(fast)["features"]["reads"] == "first"
    same(fast, slow)


@pytest.mark.slow
def test_16_bits_are_kept_in_16_bits(tiny_encoder: Path, tmp_path: Path, kept: Path) -> None:
    data = data_of("token-tagging", tmp_path)
    settings = FROZEN | {"train.layers": "mix"}
    given: dict[str, Any] = {"encoder": tiny_encoder, "precision": "bf16"}
    fast = train(data, **given, out=tmp_path / "kept", settings=settings).run
    slow = train(data, **given, out=tmp_path / "anew", settings=settings | UNCACHED).run
    found = record(fast)["features"]
    assert found["precision"] == "bf16"
    assert sum(file.stat().st_size for file in kept.iterdir()) == found["bytes"]
    np.testing.assert_allclose(losses(fast), losses(slow), rtol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("MOST_BYTES", 1000, "they would take 0.0 GB, and there is room for"), ("MOST_OF_FREE", 0.0, "there is room for")],
)
def test_features_that_are_too_large_are_computed_in_each_step(
    name: str, value: float, said: str, tiny_encoder: Path, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, name, value)
    heard = Listener()
    data = data_of("token-tagging", tmp_path)
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=FROZEN, listen=heard).run
    assert record(run)["features"]["kept"] is False
    assert any(said in note for note in heard.notes)
    assert not kept.exists()


@pytest.mark.slow
def test_full_disk_leaves_no_half_file(
    tiny_encoder: Path, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen, "_append", full)
    data = data_of("sequence-classification", tmp_path)
    heard = Listener()
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=FROZEN, listen=heard).run
    assert list(kept.iterdir()) == []
    assert "cannot be written" in record(run)["features"]["reason"]
    assert any("computed in each step: they cannot be written" in note for note in heard.notes)


@pytest.mark.slow
def test_without_a_cache_folder_it_says_so(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", "")
    data = data_of("sequence-classification", tmp_path)
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=FROZEN).run
    assert record(run)["features"]["reason"] == "there is no cache folder (BERTKIT_CACHE is empty)"


def test_files_that_were_not_used_for_longest_go_and_folders_stay(tmp_path: Path) -> None:
    import os

    (tmp_path / "folder").mkdir()
    for age, name in enumerate(["new", "old"]):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    cache.bound(tmp_path, 150)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("cache",)) == ["folder", "new"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence-classification", "token-tagging"])
def test_several_processes_train_as_one(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    data, settings = data_of(kind, tmp_path), FROZEN | {"train.layers": "mix"}
    runs = {}
    for number in (1, 2):
        out = tmp_path / f"run-{number}"
        variables = {"BERTKIT_CACHE": str(tmp_path / f"cache-{number}")}
        for result in together(number, train_there, data, tiny_encoder, out, settings, variables=variables):
            if isinstance(result, BaseException):
                raise result
        runs[number] = out
        assert record(out)["features"]["rows_computed"] > 0
    np.testing.assert_allclose(losses(runs[1])[:1], losses(runs[2])[:1], atol=0.2)


# Afterwards -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence-classification", "token-tagging", "span-qa"])
def test_own_head_is_evaluated_predicted_verified_and_told_of(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of(kind, tmp_path)
    heard = Listener()
    given = FROZEN | {"train.layers": "mix", "train.head": "mlp", "train.head_width": 8}
    result = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=given, listen=heard)
    found = bertkit.evaluate(tmp_path / "run").scores
    metric = next(iter(result.scores["validation"]))
    assert found[metric] == pytest.approx(result.scores["validation"][metric], abs=1e-6)
    facts = record(tmp_path / "run")["head"]
    assert facts["mix"]["layers"] == ["embeddings", "layer 1", "layer 2"]
    assert sum(facts["mix"]["shares"]) == pytest.approx(1, abs=1e-5)
    assert any(note.startswith("learned mix: embeddings 0.") and "; scale " in note for note in heard.notes)
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "The head (mlp on `mix`) is none of transformers'" in card
    assert "| layer 2 | 0." in card
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Mix of layers" in page


@pytest.mark.slow
def test_openvino_refuses_an_own_head(tiny_encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    data = data_of("sequence-classification", tmp_path)
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings={"train.head": "mlp"}).run
    with pytest.raises(
        ConfigError, match=r"has a head of bertkit's own .mlp on last, head.safetensors.*--backend torch"
    ):
        list(bertkit.predict([{"text": "good"}], run=run, backend="openvino"))


@pytest.mark.slow
def test_whole_encoder_is_trained_under_an_own_head(tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of("token-tagging", tmp_path)
    given = {"train.head": "bilstm", "train.layers": "mix", "train.learning_rate": 1e-2, "train.epochs": 3}
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=given).run
    assert record(run)["layers"]["form"] == "stack"
    assert losses(run)[-1] < losses(run)[0]
    again = train(data, encoder=tiny_encoder, out=tmp_path / "again", settings=given).run
    assert losses(run) == losses(again)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_run_on_kept_features_is_verified_bit_for_bit(precision: str, tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of("token-tagging", tmp_path)
    given: dict[str, Any] = {"settings": FROZEN | {"train.layers": "mix"}, "precision": precision}
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", **given).run
    assert verify(run, runs=tmp_path).same


def test_estimate_says_that_it_is_of_an_encoder_that_computes_each_time(
    tiny_encoder: Path, tmp_path: Path, kept: Path
) -> None:
    heard = Listener()
    data = data_of("sequence-classification", tmp_path)
    estimate(data, encoder=tiny_encoder, settings=FROZEN | {"train.max_length": 64}, listen=heard)
    assert any("its features are computed once: the time is that of" in note for note in heard.notes)
    assert not kept.exists()
