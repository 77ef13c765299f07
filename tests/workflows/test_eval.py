"""Evaluation: which model, which rows, and what a checkpoint of somebody else must say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, DataError, ModelError, RunError, TaskError
from tests.conftest import reviews, write_jsonl
from tests.workflows.training import Listener, lines, record, train

NAMES = ["negative", "positive"]


def evaluate(run: Any = None, **options: Any) -> Any:
    return bertkit.evaluate(run, **{"precision": "float32", "threads": 1, "report": "none", **options})


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run that a test may write into."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "one"))


@pytest.fixture(scope="module")
def foreign(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trained model as plain transformers saves it, with its labels in the other order."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("foreign") / "plain"
    model = AutoModelForSequenceClassification.from_pretrained(finished_run / "model")
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    model.config.label2id = {"POSITIVE": 0, "NEGATIVE": 1}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(finished_run / "model").save_pretrained(folder)
    return folder


def renamed(foreign: Path, tmp_path: Path, names: list[str]) -> Path:
    folder = Path(shutil.copytree(foreign, tmp_path / "renamed"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", reviews(20))
    write_jsonl(tmp_path / "dev.jsonl", reviews(40, seed=3))
    (tmp_path / "mine.toml").write_text(
        'type = "sequence-classification"\nlabels = ["negative", "positive"]\n'
        'data = { files = { train = "train.jsonl", validation = "dev.jsonl" } }\n'
    )
    return tmp_path / "mine.toml"


# Which model ---------------------------------------------------------------------------------------------------


def test_held_out_validation_is_reproduced(own_run: Path) -> None:
    listener = Listener()
    result = evaluate(runs=own_run.parent, listen=listener)
    assert result.scores == json.loads((own_run / "scores.json").read_text())["splits"]["validation"]
    assert (result.split, result.num_examples, result.task) == ("validation", 16, "reviews")
    stored = lines(own_run / "predictions" / "validation.jsonl")
    assert [p["label"] for p in result.predictions] == [row["prediction"]["label"] for row in stored]
    for now, then in zip(result.predictions, stored, strict=True):
        assert now["score"] == pytest.approx(then["prediction"]["score"], abs=1e-6)
    assert any(f"newest finished run: {own_run}" in note for note in listener.notes)


def test_evaluation_is_kept_in_the_run(own_run: Path) -> None:
    result = evaluate(own_run)
    kept = json.loads((own_run / "evals" / "validation.json").read_text())
    assert kept["scores"] == result.scores
    assert kept.keys() == {
        "run", "task", "split", "num_examples", "scores", "evaluated", "source", "precision"
    }  # fmt: skip


def test_result_of_a_run_that_cannot_be_written_is_not_lost(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertkit.run import Run

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RunError("read-only")

    monkeypatch.setattr(Run, "write_json", refuse)
    listener = Listener()
    assert evaluate(own_run, listen=listener).num_examples == 16
    assert any("the scores are not kept: read-only" in note for note in listener.notes)


def test_newest_run_is_the_one_that_finished_last(own_run: Path, tmp_path: Path) -> None:
    for name, status, finished in (("two", "finished", "2099"), ("three", "running", "2100"), ("four", "failed", "")):
        folder = shutil.copytree(own_run, tmp_path / "runs" / name)
        found = record(folder) | {"status": status, "finished": finished}
        (folder / "run.json").write_text(json.dumps(found))
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text('{"status": "fini')
    (tmp_path / "runs" / "empty").mkdir()
    assert evaluate(runs=tmp_path / "runs").run == str(tmp_path / "runs" / "two")


def test_run_is_found_by_its_name(own_run: Path) -> None:
    assert evaluate("one", runs=own_run.parent).run == str(own_run)


def test_model_folder_needs_data(own_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "dev.jsonl", reviews(20, seed=3))
    result = evaluate(own_run / "model", data=file)
    assert (result.split, result.num_examples) == ("dev", 20)
    assert result.scores.keys() >= {"accuracy", "f1"}
    with pytest.raises(TaskError, match=r"names no data of its own.*--data"):
        evaluate(own_run / "model")


def test_no_run_yet_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"There is no finished run below .*nowhere.*'bertkit finetune demo/reviews'"):
        evaluate(runs=tmp_path / "nowhere")


def test_run_that_did_not_finish_names_the_command_that_goes_on(own_run: Path) -> None:
    (own_run / "run.json").write_text(json.dumps(record(own_run) | {"status": "interrupted"}))
    with pytest.raises(RunError, match=r"is not finished \(status 'interrupted'\).*'bertkit finetune --resume "):
        evaluate(own_run)
    with pytest.raises(RunError, match=r"There is no finished run below .*one is 'interrupted'"):
        evaluate(runs=own_run.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"status": "fini', r"run\.json is damaged: .*Train again, or restore it"),
        ("[]", r"run\.json is damaged: it holds no known status"),
        ('{"status": "done"}', r"run\.json is damaged: it holds no known status"),
        ('{"status": "finished"}', r"run\.json is damaged: it lacks config, created, encoder"),
        ("\udcff", r"run\.json is damaged: .*utf-8"),
    ],
)
def test_damaged_run_record_is_named(text: str, message: str, own_run: Path) -> None:
    (own_run / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=message):
        evaluate(own_run)


def test_damaged_model_folder_is_named(own_run: Path) -> None:
    facts = own_run / "model" / "bertkit.json"
    whole = facts.read_text()
    facts.write_text(whole[:40])
    with pytest.raises(RunError, match=r"bertkit\.json is damaged: .*Train again"):
        evaluate(own_run)
    facts.write_text('{"type": "sequence-classification"}')
    with pytest.raises(RunError, match=r"bertkit\.json is damaged: it lacks columns, kind, labels"):
        evaluate(own_run)
    facts.unlink()
    with pytest.raises(RunError, match=r"model is damaged: it holds no bertkit\.json"):
        evaluate(own_run)
    facts.write_text(whole)
    weights = own_run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        evaluate(own_run)
    weights.unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        evaluate(own_run)


# Which rows ----------------------------------------------------------------------------------------------------


def test_file_is_a_split_of_its_own_name(own_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "march.v2.jsonl", reviews(20, seed=3))
    result = evaluate(own_run, data=file)
    assert (result.split, result.num_examples) == ("march", 20)
    assert json.loads((own_run / "evals" / "march.json").read_text())["num_examples"] == 20


def test_rows_are_scored_all(own_run: Path) -> None:
    result = evaluate(own_run, data=reviews(20, seed=3))
    assert result.num_examples == 20


@pytest.mark.slow
def test_split_is_named(tiny_encoder: Path, task_file: Path, tmp_path: Path) -> None:
    run = train(task_file, encoder=tiny_encoder, out=tmp_path / "run").run
    assert evaluate(run).num_examples == 40
    assert evaluate(run, split="train").num_examples == 20
    with pytest.raises(DataError, match=r"There is no split 'tets'\..* There are train, validation"):
        evaluate(run, split="tets")


def test_own_validation_of_other_data_is_not_the_held_out_rows(own_run: Path, task_file: Path) -> None:
    result = evaluate(own_run, task=task_file)
    assert result.num_examples == 40


@pytest.mark.slow
def test_held_out_rows_of_a_changed_file_are_refused(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    run = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "run").run
    write_jsonl(reviews_file, reviews(80, seed=8))
    with pytest.raises(DataError, match=r"reviews\.jsonl is not what it was .*held-out rows.*--data"):
        evaluate(run)
    write_jsonl(reviews_file, reviews(12))
    with pytest.raises(DataError, match=r"reviews\.jsonl is not what it was"):
        evaluate(run)


@pytest.mark.slow
def test_rows_that_were_given_in_python_can_be_given_again(tiny_encoder: Path, tmp_path: Path) -> None:
    run = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "run").run
    assert evaluate(run, data={"train": reviews(80)}).num_examples == 8
    with pytest.raises((TaskError, RunError), match="data"):
        evaluate(run)


def test_unlabelled_rows_are_refused(own_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "bare.jsonl", [{"text": "good"}])
    with pytest.raises(DataError, match=r"the split 'bare' has no labels, so it can be predicted but not scored"):
        evaluate(own_run, data=file)
    file = write_jsonl(tmp_path / "stars.jsonl", [{"text": "good", "stars": "positive"}])
    match = r"There is no column 'label'; there are 'text', 'stars': --set columns\.label=NAME names one\.$"
    with pytest.raises(DataError, match=match):
        evaluate(own_run, data=file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "good", "label": "mixed"}, r"new\.jsonl:3: label 'mixed' is not one of 'negative', 'positive'"),
        ({"text": None, "label": "positive"}, r"new\.jsonl:3: column 'text' is null"),
        ({"label": "positive"}, r"new\.jsonl:3: column 'text' is missing"),
        ({"text": "good"}, r"new\.jsonl:3: column 'label' holds no label"),
    ],
)
def test_faulty_row_is_named(row: dict[str, Any], message: str, own_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [*reviews(2), row])
    with pytest.raises(DataError, match=message):
        evaluate(own_run, data=file)


def test_cut_rows_are_said(own_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "long.jsonl", [{"text": "the " * 100 + "good", "label": "positive"}, *reviews(4)])
    listener = Listener()
    evaluate(own_run, data=file, listen=listener)
    assert any("long: 1 examples (20.0%) are longer than 64 tokens" in note for note in listener.notes)


def test_setting_that_does_nothing_here_is_refused(own_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs.*(eval|columns)"):
        evaluate(own_run, settings={"train.epochs": 2})
    with pytest.raises(ConfigError, match=r"eval\.resample is not a setting\. Did you mean 'resamples'"):
        evaluate(own_run, settings={"eval.resample": 0})
    assert "accuracy_interval" not in evaluate(own_run, settings={"eval.resamples": 0}).scores


# Somebody else's checkpoint ------------------------------------------------------------------------------------


def test_foreign_labels_are_mapped_by_name(foreign: Path, finished_run: Path, task_file: Path) -> None:
    rows = lines(task_file.parent / "dev.jsonl")
    ours = evaluate(finished_run / "model", data=rows)
    theirs = evaluate(foreign, task=task_file)
    assert theirs.scores["accuracy"] == ours.scores["accuracy"] > 0.9
    assert theirs.scores.keys() == ours.scores.keys()
    assert [p["label"] for p in theirs.predictions] == [p["label"] for p in ours.predictions]


def test_foreign_checkpoint_without_label_names_needs_them(foreign: Path, task_file: Path, tmp_path: Path) -> None:
    nameless = renamed(foreign, tmp_path, ["LABEL_0", "LABEL_1"])
    with pytest.raises(ModelError, match=r"does not name its labels \(LABEL_0, LABEL_1\).*--labels negative,positive"):
        evaluate(nameless, task=task_file)
    right = evaluate(nameless, task=task_file, labels=["positive", "negative"]).scores["accuracy"]
    wrong = evaluate(nameless, task=task_file, labels=["negative", "positive"]).scores["accuracy"]
    assert right > 0.9
    assert wrong == pytest.approx(1 - right)


def test_foreign_checkpoint_of_other_labels_is_refused(foreign: Path, task_file: Path, tmp_path: Path) -> None:
    other = renamed(foreign, tmp_path, ["yes", "no"])
    with pytest.raises(ModelError, match=r"has the labels yes, no, and the task negative, positive: .*--labels"):
        evaluate(other, task=task_file)


@pytest.mark.parametrize("labels", [["positive", "negative", "mixed"], ["positive"], ["positive", "positive"]])
def test_wrong_number_of_labels_is_refused(labels: list[str], foreign: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "dev.jsonl", reviews(20, seed=3))
    (tmp_path / "free.toml").write_text(
        'type = "sequence-classification"\ndata = { files = { validation = "dev.jsonl" } }\n'
    )
    with pytest.raises(ModelError, match=r"2 labels|twice"):
        evaluate(foreign, task=tmp_path / "free.toml", labels=labels)


def test_foreign_checkpoint_with_a_bare_task_has_the_default_metrics(foreign: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "dev.jsonl", reviews(20, seed=3))
    (tmp_path / "free.toml").write_text(
        'type = "sequence-classification"\ndata = { files = { validation = "dev.jsonl" } }\n'
    )
    assert evaluate(foreign, task=tmp_path / "free.toml", labels=["positive", "negative"]).scores["accuracy"] > 0.9


def test_foreign_checkpoint_needs_a_task(foreign: Path) -> None:
    with pytest.raises(ModelError, match=r"was not saved by bertkit, so name the task that it is for: --task"):
        evaluate(foreign)


def test_encoder_without_a_head_is_refused(tiny_encoder: Path, task_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not name its labels|has no trained head"):
        evaluate(tiny_encoder, task=task_file)
    with pytest.raises(ModelError, match=r"has no trained head \(classifier\.bias.*bertkit finetune"):
        evaluate(tiny_encoder, task=task_file, labels=NAMES)


def test_foreign_checkpoint_reads_no_further_than_its_positions(foreign: Path, task_file: Path) -> None:
    write_jsonl(task_file.parent / "dev.jsonl", [{"text": "the " * 100 + "good", "label": "positive"}, *reviews(4)])
    listener = Listener()
    assert evaluate(foreign, task=task_file, listen=listener).num_examples == 5
    assert any("are longer than 64 tokens" in note for note in listener.notes)


def test_run_with_the_labels_of_another_task_is_refused(own_run: Path, task_file: Path) -> None:
    task_file.write_text(task_file.read_text().replace('["negative", "positive"]', '["no", "yes"]'))
    with pytest.raises(ModelError, match=r"has the labels negative, positive, and the task no, yes"):
        evaluate(own_run, task=task_file)


def test_run_names_its_own_labels(own_run: Path) -> None:
    with pytest.raises(ModelError, match=r"names its own labels \(negative, positive\).*Drop --labels"):
        evaluate(own_run, labels=["positive", "negative"])


def test_folder_that_is_not_there_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"There is no run or model folder \./nowhere\. 'bertkit runs ls'"):
        bertkit.evaluate("./nowhere", task="glue/sst2", runs=tmp_path)


def test_name_without_a_slash_is_looked_for_among_the_runs(finished_run: Path) -> None:
    with pytest.raises(RunError, match=rf"There is no run 'reviews-tiny-bert-01'\. Did you mean '{finished_run.name}'"):
        bertkit.evaluate("reviews-tiny-bert-01", runs=finished_run.parent)
