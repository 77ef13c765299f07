"""Fine-tuning: what it takes, what it leaves behind, what it does when it is cut short."""

from __future__ import annotations

import json
import math
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import BertkitError, ConfigError, DataError, ModelError, RunError, TaskError
from bertkit.events import Note, Stop
from tests.conftest import reviews, save_tiny_bert, write_jsonl
from tests.workflows.training import TINY, Listener, full_disk, lines, record, same_weights, train

STARS = {"1": "bad dull", "2": "bad", "3": "the film", "4": "good", "5": "good fine"}


@pytest.fixture
def run(tiny_encoder: Path, tmp_path: Path) -> Path:
    return tmp_path / "run"


def starred(number: int) -> list[dict[str, Any]]:
    return [{"review": f"{STARS[str(n % 5 + 1)]} the film", "stars": n % 5 + 1} for n in range(number)]


# What it takes -------------------------------------------------------------------------------------------------


def test_data_file_alone_is_enough(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    result = train(reviews_file, encoder=tiny_encoder, out=run)
    assert result.status == "finished"
    assert result.task == "reviews"
    assert result.run == run
    assert result.scores.keys() == {"validation"}


@pytest.mark.slow
def test_task_file_is_read_beside_its_data(tiny_encoder: Path, reviews_file: Path, tmp_path: Path, run: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'type = "sequence-classification"\nlabels = ["positive", "negative"]\nmetrics = ["f1_macro"]\n'
        '[data]\nfiles = { train = "reviews.jsonl" }\n[train]\nepochs = 1\nmax_length = 64\n'
    )
    result = bertkit.finetune(tmp_path / "mine.toml", encoder=tiny_encoder, out=run, threads=1)
    assert result.task == "mine"
    assert record(run)["label_map"] == {"0": "positive", "1": "negative"}
    assert result.scores["validation"].keys() == {"f1_macro", "f1_macro_interval"}


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


def as_frame(rows: list[dict[str, Any]]) -> Any:
    import pandas

    return pandas.DataFrame(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(list, id="list"),
        pytest.param(as_dataset, id="datasets", marks=pytest.mark.slow),
        pytest.param(as_frame, id="pandas", marks=pytest.mark.slow),
    ],
)
def test_python_rows_train_as_the_file_does(form: Any, tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    one = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "file")
    other = train(form(reviews(80)), encoder=tiny_encoder, out=tmp_path / "rows")
    assert other.scores == one.scores
    assert same_weights(one.run, other.run)
    assert record(other.run)["data_hash"] == record(one.run)["data_hash"]


@pytest.mark.slow
@pytest.mark.parametrize("as_task", [True, False], ids=["as task", "as data"])
def test_rows_by_split_need_no_cut(as_task: bool, tiny_encoder: Path, run: Path) -> None:
    data = {"train": reviews(40), "validation": reviews(10, seed=1)}
    result = train(data, encoder=tiny_encoder, out=run) if as_task else train(data=data, encoder=tiny_encoder, out=run)
    assert result.status == "finished"
    assert record(run)["num_examples"] == {"train": 40, "validation": 10}
    assert record(run)["held_out_rows"] == []


def test_dataset_label_ids_get_their_names(tiny_encoder: Path, run: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = [{"text": row["text"], "label": int(row["label"] == "positive")} for row in reviews(40)]
    train(datasets.Dataset.from_list(rows, features=features), encoder=tiny_encoder, out=run)
    assert record(run)["label_map"] == {"0": "no", "1": "yes"}


def test_label_column_by_another_name(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    rows = [{"text": row["text"], "verdict": row["label"], "label": "noise"} for row in reviews(40)]
    file = write_jsonl(tmp_path / "odd.jsonl", rows)
    train(file, encoder=tiny_encoder, out=run, settings={"columns.label": "verdict"})
    assert record(run)["label_map"] == {"0": "negative", "1": "positive"}
    assert lines(run / "predictions" / "validation.jsonl")[0]["label"] == "noise"


def test_label_column_that_is_missing_is_named(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    with pytest.raises(
        DataError, match=r"No row has the column 'stars', which is named for label\. There are 'text', 'label'"
    ):
        train(reviews_file, encoder=tiny_encoder, out=run, settings={"columns.label": "stars"})
    assert not run.exists()


@pytest.mark.slow
def test_integer_labels_are_ids_into_the_names(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    rows = [{"text": row["text"], "label": int(row["label"] == "positive")} for row in reviews(80)]
    file = write_jsonl(tmp_path / "ids.jsonl", rows)
    train(file, encoder=tiny_encoder, out=run, settings={"labels": ["negative", "positive"]})
    assert record(run)["label_map"] == {"0": "negative", "1": "positive"}
    named = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "named")
    assert same_weights(run, named.run)


@pytest.mark.slow
def test_integer_labels_without_names_are_their_own_names(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    rows = [{"text": row["text"], "label": int(row["label"] == "positive")} for row in reviews(40)]
    train(rows, encoder=tiny_encoder, out=run)
    assert record(run)["label_map"] == {"0": "0", "1": "1"}


@pytest.mark.slow
def test_five_stars_are_classes(tiny_encoder: Path, run: Path) -> None:
    listener = Listener()
    result = train(starred(50), encoder=tiny_encoder, out=run, listen=listener)
    assert record(run)["label_map"] == {"0": "1", "1": "2", "2": "3", "3": "4", "4": "5"}
    assert result.scores["validation"].keys() == {"accuracy", "f1_macro"}
    assert any("'stars' is taken as label" in note for note in listener.notes)
    prediction = lines(run / "predictions" / "validation.jsonl")[0]["prediction"]
    assert prediction.keys() == {"label", "score", "probabilities"}
    assert prediction["probabilities"].keys() == {"1", "2", "3", "4", "5"}


def test_five_stars_are_a_number_where_the_kind_says_so(tiny_encoder: Path, run: Path) -> None:
    result = train(starred(50), encoder=tiny_encoder, out=run, settings={"kind": "regression"})
    assert result.scores["validation"].keys() == {"pearson", "spearmanr"}
    assert record(run)["label_map"] == {}
    prediction = lines(run / "predictions" / "validation.jsonl")[0]["prediction"]
    assert prediction.keys() == {"value"}
    assert isinstance(prediction["value"], float)


@pytest.mark.slow
def test_several_labels_in_list_cells(tiny_encoder: Path, run: Path) -> None:
    topics = [[], ["food"], ["film"], ["food", "film"]]
    rows = [{"text": "the " + " ".join(topics[n % 4]), "labels": topics[n % 4]} for n in range(48)]
    result = train(rows, encoder=tiny_encoder, out=run)
    assert record(run)["label_map"] == {"0": "film", "1": "food"}
    assert result.scores["validation"].keys() == {"f1_micro", "f1_macro"}
    prediction = lines(run / "predictions" / "validation.jsonl")[0]["prediction"]
    assert prediction.keys() == {"labels", "probabilities"}


@pytest.mark.slow
def test_pairs_get_segment_ids(tiny_encoder: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertkit.adapters.base import Adapter

    seen: list[set[int]] = []
    collate = Adapter.collate

    def watched(self: Adapter, features: Any, rng: Any = None) -> Any:
        batch = collate(self, features, rng)
        seen.append(set(batch["token_type_ids"].flatten().tolist()))
        return batch

    monkeypatch.setattr(Adapter, "collate", watched)
    rows = [
        {"premise": r["text"], "hypothesis": "it was good", "label": "yes" if r["label"] == "positive" else "no"}
        for r in reviews(40)
    ]
    train(rows, encoder=tiny_encoder, out=run)
    assert record(run)["resolved_task"]["columns"] == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    assert seen
    assert all(ids == {0, 1} for ids in seen)


@pytest.mark.slow
def test_missing_validation_is_cut_alike_for_every_seed(tiny_encoder: Path, tmp_path: Path) -> None:
    listener = Listener()
    one = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "1", seed=1, listen=listener)
    two = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "2", seed=2)
    held = record(one.run)["held_out_rows"]
    assert len(held) == 8
    assert record(two.run)["held_out_rows"] == held
    texts = [[row["text"] for row in lines(r.run / "predictions" / "validation.jsonl")] for r in (one, two)]
    assert texts[0] == texts[1] == [reviews(80)[index]["text"] for index in held]
    assert not same_weights(one.run, two.run)
    assert any("8 of 80 training rows are held out" in note for note in listener.notes)


def test_too_few_rows_to_cut_from_are_refused(tiny_encoder: Path, run: Path) -> None:
    with pytest.raises(DataError, match=r"has 6 rows and there is no validation split"):
        train(reviews(6), encoder=tiny_encoder, out=run)


@pytest.mark.slow
def test_further_labelled_splits_are_scored_under_their_names(tiny_encoder: Path, run: Path) -> None:
    data = {
        "train": reviews(40),
        "validation": reviews(10, seed=1),
        "hard": reviews(12, seed=2),
        "test": [{"text": "the film", "label": None}] * 3,
    }
    result = train(data, encoder=tiny_encoder, out=run)
    assert list(result.scores) == ["validation", "hard"]
    assert len(lines(run / "predictions" / "hard.jsonl")) == 12
    assert not (run / "predictions" / "test.jsonl").exists()


def test_label_that_train_never_shows_is_refused_with_its_row(tiny_encoder: Path, run: Path) -> None:
    data = {"train": reviews(40), "validation": [*reviews(4), {"text": "it was", "label": "mixed"}]}
    with pytest.raises(DataError, match=r"validation row 5: .*'mixed' is not one of 'negative', 'positive'"):
        train(data, encoder=tiny_encoder, out=run)
    with pytest.raises(DataError, match=r"validation row 5: .*labels that train never shows: 'mixed' \(1 rows\)"):
        train(data, encoder=tiny_encoder, out=run, settings={"labels": ["negative", "positive", "mixed"]})
    assert not run.exists()


@pytest.mark.slow
def test_limit_takes_training_rows_only(tiny_encoder: Path, tmp_path: Path) -> None:
    one = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "1", limit=20)
    assert record(one.run)["num_examples"] == {"train": 20, "validation": 8}
    assert one.steps == math.ceil(20 / 16)
    whole = train(reviews(80), encoder=tiny_encoder, out=tmp_path / "2")
    assert record(one.run)["held_out_rows"] == record(whole.run)["held_out_rows"]


@pytest.mark.slow
def test_same_seed_gives_the_same_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    one, two = (train(reviews(48), encoder=tiny_encoder, out=tmp_path / name) for name in "12")
    assert same_weights(one.run, two.run)


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_seed_out_of_range_is_refused(seed: int, tiny_encoder: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=rf"seed is {seed}, and must be"):
        train(reviews(40), encoder=tiny_encoder, out=run, seed=seed)


@pytest.mark.slow
def test_rows_of_every_kind_of_value_are_kept(tiny_encoder: Path, run: Path) -> None:
    rows = [row | {"when": date(2020, 1, 2), "nested": {"a": [1, None]}, "raw": b"\xff"} for row in reviews(40)]
    train(rows, encoder=tiny_encoder, out=run)
    first = lines(run / "predictions" / "validation.jsonl")[0]
    assert (first["when"], first["nested"]) == ("2020-01-02", {"a": [1, None]})


def test_empty_label_cell_of_a_csv_is_no_label(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    body = "".join(f"{row['text']},{row['label']}\n" for row in reviews(20))
    file = tmp_path / "gap.csv"
    file.write_text(f"text,label\n{body}the film,\n")
    with pytest.raises(DataError, match=r"gap\.csv:22: column 'label' holds no label"):
        train(file, encoder=tiny_encoder, out=run)


@pytest.mark.slow
def test_column_of_predictions_must_be_free(tiny_encoder: Path, run: Path) -> None:
    rows = [row | {"prediction": "mine"} for row in reviews(40)]
    with pytest.raises(DataError, match=r"train row 1: there is a column 'prediction' already.*--set predict\.column="):
        train(rows, encoder=tiny_encoder, out=run)
    train(rows, encoder=tiny_encoder, out=run, settings={"predict.column": "guess"})
    first = lines(run / "predictions" / "validation.jsonl")[0]
    assert (first["prediction"], first["guess"].keys() >= {"label"}) == ("mine", True)


# Refused before the first step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None, "label": "positive"}, r"reviews\.jsonl:21: column 'text' is null, and must be a text"),
        ({"label": "positive"}, r"reviews\.jsonl:21: column 'text' is missing; there are 'label'"),
        ({"text": ["a"], "label": "positive"}, r"reviews\.jsonl:21: column 'text' is \['a'\], and must be a text"),
        ({"text": "a", "label": None}, r"reviews\.jsonl:21: column 'label' holds no label"),
        ({"text": "a"}, r"reviews\.jsonl:21: column 'label' holds no label"),
    ],
)
def test_faulty_row_is_named_and_leaves_no_folder(
    row: dict[str, Any], message: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "reviews.jsonl", [*reviews(20), row])
    with pytest.raises(DataError, match=message):
        train(file, encoder=tiny_encoder, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_unknown_label_is_named_with_the_known_ones(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    file = write_jsonl(tmp_path / "reviews.jsonl", [*reviews(20), {"text": "a", "label": "postive"}])
    with pytest.raises(DataError, match=r"reviews\.jsonl:21: label 'postive' is not one of 'negative', 'positive'"):
        train(file, encoder=tiny_encoder, out=run, settings={"labels": ["negative", "positive"]})


def test_one_label_is_not_enough(tiny_encoder: Path, run: Path) -> None:
    with pytest.raises(DataError, match=r"Column 'label' holds 1 distinct labels \('x'\), and classification needs"):
        train([{"text": "a", "label": "x"}] * 20, encoder=tiny_encoder, out=run)


def test_fault_of_encoder_and_data_come_together(tmp_path: Path) -> None:
    with pytest.raises(BertkitError, match=r"is not a folder.*Also: There is no file .*nothing\.jsonl"):
        train(tmp_path / "nothing.jsonl", encoder=str(tmp_path / "nowhere"), out=tmp_path / "run")


def test_empty_file_says_so(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError, match=r"none\.jsonl is empty"):
        train(tmp_path / "none.jsonl", encoder=tiny_encoder, out=run)


def test_nothing_to_train_on_is_a_config_error(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"finetune needs a task: a name \('bertkit tasks' lists them\)"):
        train(encoder=tiny_encoder)


def test_rows_of_the_wrong_type_are_refused(tiny_encoder: Path, run: Path) -> None:
    with pytest.raises(DataError, match=r"train is a builtins\.int, and must be a datasets\.Dataset, a pandas"):
        train(7, encoder=tiny_encoder, out=run)


def test_length_beyond_the_encoder_leaves_no_folder(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.max_length is 100, .* positions for 64 tokens\. --set train\.max"):
        train(reviews_file, encoder=tiny_encoder, out=run, settings={"train.max_length": 100})
    assert not run.exists()


def test_wrong_metric_is_refused_before_anything(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"Metric 'pearson' is not defined for one label a row"):
        train(reviews_file, encoder=tiny_encoder, out=run, settings={"metrics": ["pearson"]})
    assert not run.exists()


def test_loss_that_is_not_finite_says_what_to_do(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"Step \d+: the .* is (nan|inf) at learning rate .*lower train\.learning_rate"):
        train(reviews_file, encoder=tiny_encoder, out=run, settings={"train.learning_rate": 1e38, "train.epochs": 3})


def test_weights_that_are_not_finite_leave_no_folder(tmp_path: Path, reviews_file: Path, run: Path) -> None:
    from safetensors.torch import load_file, save_file

    own = save_tiny_bert(tmp_path / "own")
    tensors = load_file(own / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][3, 3] = math.nan
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="holds weights that are not finite"):
        train(reviews_file, encoder=own, out=run)
    assert not run.exists()


# The run folder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with two epochs and a row that has a column of its own."""
    folder = tmp_path_factory.mktemp("written")
    rows = [{"id": n, **row, "note": "ünï"} for n, row in enumerate(reviews(80))]
    file = write_jsonl(folder / "reviews.jsonl", rows)
    settings = {"train.epochs": 2, "eval.resamples": 100, "train.learning_rate": 5e-3}
    return train(file, encoder=tiny_encoder, runs=folder / "runs", settings=settings).run


@pytest.mark.slow
def test_run_is_named_after_task_and_encoder(written: Path, tiny_encoder: Path) -> None:
    assert written.name == "reviews-tiny-bert-001"
    again = train(written.parents[1] / "reviews.jsonl", encoder=tiny_encoder, runs=written.parent)
    assert again.run.name == "reviews-tiny-bert-002"


def test_run_holds_what_the_house_says_and_nothing_else(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "README.md",
        "events.jsonl",
        "model",
        "predictions",
        "run.json",
        "scores.json",
    ]
    model = {path.name for path in (written / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "bertkit.json"} <= model
    assert not any(path.name.startswith(".") for path in written.rglob("*"))


def test_run_record_says_everything(written: Path, tiny_encoder: Path) -> None:
    found = record(written)
    assert found["status"] == "finished"
    assert found["task"] == "reviews"
    assert found["encoder"] == str(tiny_encoder)
    assert found["seed"] == 42
    assert found["config"]["train"]["epochs"] == 2
    assert found["config"]["train"]["warmup_ratio"] == 0.1
    assert found["request"]["data"] is None
    assert Path(found["resolved_task"]["data"]["files"]["train"]).is_absolute()
    assert found["label_map"] == {"0": "negative", "1": "positive"}
    assert found["versions"].keys() >= {"bertkit", "torch", "transformers", "accelerate", "datasets", "python"}
    assert found["device"].keys() == {"name", "precision", "reason", "threads", "tf32"}
    assert found["truncation"]["train"] == {
        "examples": 0,
        "share_of_examples": 0.0,
        "tokens": 0,
        "share_of_tokens": 0.0,
        "examples_in_windows": 0,
    }
    assert re.fullmatch(r"[0-9a-f]{64}", found["data_hash"])
    assert found["argv"]
    assert found.keys() >= {"encoder_revision", "dataset_revision", "created", "finished", "seconds", "held_out_rows"}


def test_events_are_one_a_line(written: Path) -> None:
    events = lines(written / "events.jsonl")
    assert [event["event"] for event in events] == [
        "start", *["step"] * 5, "scores", "checkpoint", *["step"] * 5, "scores", "checkpoint", "stop"
    ]  # fmt: skip
    step = events[1]
    assert step.keys() >= {"step", "epoch", "loss", "learning_rate", "tokens_per_second", "num_tokens", "seconds"}
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 11))
    assert sum(event["num_examples"] for event in events if event["event"] == "step") == 2 * 72


def test_scores_have_intervals(written: Path) -> None:
    found = json.loads((written / "scores.json").read_text())
    assert found.keys() == {"splits", "best_step", "last_step"}
    scores = found["splits"]["validation"]
    assert scores.keys() == {"accuracy", "accuracy_interval", "f1", "f1_interval"}
    low, high = scores["accuracy_interval"]
    assert 0 <= low <= scores["accuracy"] <= high <= 1


def test_predictions_keep_the_rows_whole(written: Path) -> None:
    rows = lines(written / "predictions" / "validation.jsonl")
    held = record(written)["held_out_rows"]
    source = lines(written.parents[1] / "reviews.jsonl")
    assert [{k: v for k, v in row.items() if k != "prediction"} for row in rows] == [source[n] for n in held]
    assert [list(row) for row in rows] == [["id", "text", "label", "note", "prediction"]] * len(held)
    accuracy = sum(row["prediction"]["label"] == row["label"] for row in rows) / len(rows)
    assert accuracy == json.loads((written / "scores.json").read_text())["splits"]["validation"]["accuracy"]


def test_model_facts_say_what_predict_needs(written: Path) -> None:
    facts = json.loads((written / "model" / "bertkit.json").read_text())
    assert facts["type"] == "sequence-classification"
    assert facts["labels"] == ["negative", "positive"]
    assert facts["max_length"] == 64
    assert facts["on_long"] == "truncate"
    assert facts["columns"] == {"text": "text", "label": "label"}
    assert facts.keys() >= {"encoder", "revision", "state"}
    config = json.loads((written / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}


def test_card_names_scores_and_limits(written: Path) -> None:
    card = (written / "README.md").read_text()
    assert card.startswith("---\n")
    assert "pipeline_tag: text-classification" in card
    assert "| validation | 8 | accuracy |" in card
    assert "8 rows held out from train" in card


@pytest.mark.slow
def test_best_step_not_the_last_is_kept(tiny_encoder: Path, run: Path) -> None:
    settings = {"train.epochs": 4, "train.learning_rate": 5e-3, "train.keep_checkpoints": 9}
    result = train(reviews(48), encoder=tiny_encoder, out=run, settings=settings)
    scored = [event for event in lines(run / "events.jsonl") if event["event"] == "scores"]
    best = max(scored, key=lambda event: event["scores"]["accuracy"])
    assert result.best_step == best["step"]
    assert result.scores["validation"]["accuracy"] == best["scores"]["accuracy"]


@pytest.mark.slow
def test_cut_rows_are_counted_and_said(tiny_encoder: Path, run: Path) -> None:
    rows = [row | {"text": row["text"] + " the" * (40 if n % 4 == 0 else 0)} for n, row in enumerate(reviews(40))]
    listener = Listener()
    train(rows, encoder=tiny_encoder, out=run, settings={"train.max_length": 16}, listen=listener)
    found = record(run)["truncation"]["train"]
    assert 0.2 < found["share_of_examples"] < 0.3
    assert any("are longer than 16 tokens and are cut" in note for note in listener.notes)
    assert "were longer" in (run / "README.md").read_text()


def test_row_that_is_too_long_is_named_where_that_is_an_error(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", [*reviews(40), {"text": "the " * 20, "label": "positive"}])
    with pytest.raises(
        DataError, match=r"train\.jsonl:41 has 22 tokens, and train\.max_length is 16 with on_long = 'e"
    ):
        train(file, encoder=tiny_encoder, out=run, settings={"train.max_length": 16, "train.on_long": "error"})
    assert not run.exists()


@pytest.mark.slow
def test_constant_predictions_are_named_once_while_training_and_at_the_end(tiny_encoder: Path, run: Path) -> None:
    listener = Listener()
    settings = {"train.learning_rate": 1e-12, "train.epochs": 3}
    train(reviews(40), encoder=tiny_encoder, out=run, settings=settings, listen=listener)
    stop = next(n for n, event in enumerate(listener.events) if isinstance(event, Stop))
    advice = [n for n, event in enumerate(listener.events) if "every prediction on validation is" in str(event)]
    assert [place < stop for place in advice] == [True, False]
    advice = [note for note in listener.notes if "every prediction on validation is" in note]
    assert re.search(r"is '(negative|positive)'\. Usual causes: .*learning_rate=", advice[0])
    constant = [event["constant"] for event in lines(run / "events.jsonl") if event["event"] == "scores"]
    assert len(constant) == 3
    assert all(constant)


def test_default_encoder_is_said(tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(ModelError, match="google-bert/bert-base-uncased"):
        train(reviews(40), out=tmp_path / "run", listen=listener, offline=True)
    assert any("encoder google-bert/bert-base-uncased, the default" in note for note in listener.notes)


# The same folder again -----------------------------------------------------------------------------------------


def test_finished_run_again_says_so_and_does_nothing(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    first = train(reviews_file, encoder=tiny_encoder, out=run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    listener = Listener()
    again = train(reviews_file, encoder=tiny_encoder, out=run, listen=listener)
    assert again.already
    assert again.scores == first.scores
    assert (again.best_step, again.steps) == (first.best_step, first.steps)
    assert any("is finished already" in note for note in listener.notes)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, r"seed is 7 now and was 42"),
        ({"limit": 5}, r"limit is 5 now and was 0"),
        ({"settings": {"train.epochs": 2}}, r"train\.epochs is 2 now and was 1"),
        ({"precision": "bf16"}, r"device\.precision is 'bf16' now and was 'float32'"),
    ],
)
def test_finished_run_with_another_request_is_refused(
    change: dict[str, Any], message: str, tiny_encoder: Path, reviews_file: Path, run: Path
) -> None:
    train(reviews_file, encoder=tiny_encoder, out=run)
    with pytest.raises(RunError, match=rf"is finished, and {message}. Name another --out"):
        train(reviews_file, encoder=tiny_encoder, out=run, **change)


@pytest.mark.slow
def test_finished_run_with_other_rows_is_refused(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    train(reviews(80), encoder=tiny_encoder, out=run)
    with pytest.raises(RunError, match=r"the data is not what it was"):
        train(reviews(80, seed=9), encoder=tiny_encoder, out=run)


def test_folder_that_is_no_run_is_left_alone(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty and is no run\. Name another folder with --out"):
        train(reviews_file, encoder=tiny_encoder, out=run)
    assert (run / "thesis.txt").read_text() == "mine"


EPOCHS = {"train.epochs": 3, "train.learning_rate": 5e-3}


@pytest.fixture(scope="module")
def whole(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 3 epochs of 5 steps that nobody interrupted."""
    return train(reviews(80), encoder=tiny_encoder, out=tmp_path_factory.mktemp("whole") / "run", settings=EPOCHS).run


@pytest.mark.parametrize(
    "stop_at",
    [
        pytest.param(step, id=f"step {step}", marks=[] if step in (5, 7) else pytest.mark.slow)
        for step in (1, 5, 7, 10, 14, 15)
    ],
)
def test_resumed_run_equals_the_uninterrupted_one(
    stop_at: int, whole: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", reviews(80))
    listener = Listener(stop_at)
    cut = train(
        file,
        encoder=tiny_encoder,
        out=tmp_path / "run",
        settings=EPOCHS,
        listen=listener,
        should_stop=listener.should_stop,
    )
    assert cut.status == "interrupted"
    assert record(cut.run)["status"] == "interrupted"
    assert not (cut.run / "model").exists()
    resumed = train(resume=cut.run, precision="auto", threads=0)
    assert resumed.status == "finished"
    assert same_weights(resumed.run, whole)
    scores = [json.loads((path / "scores.json").read_text()) for path in (resumed.run, whole)]
    assert scores[0] == scores[1]
    assert without_clocks(resumed.run) == without_clocks(whole)


def without_clocks(run: Path) -> list[dict[str, Any]]:
    clocks = {"seconds", "tokens_per_second"}
    return [{k: v for k, v in event.items() if k not in clocks} for event in lines(run / "events.jsonl")]


def interrupted(tiny_encoder: Path, file: Path, out: Path, stop_at: int = 3, **options: Any) -> Path:
    listener = Listener(stop_at)
    return train(file, encoder=tiny_encoder, out=out, listen=listener, should_stop=listener.should_stop, **options).run


@pytest.mark.slow
def test_same_out_goes_on_with_an_unfinished_run(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    interrupted(tiny_encoder, reviews_file, run)
    listener = Listener()
    again = train(reviews_file, encoder=tiny_encoder, out=run, listen=listener)
    assert again.status == "finished"
    start = next(event for event in listener.events if type(event).__name__ == "Start")
    assert start.step == 3


@pytest.mark.slow
def test_same_out_with_another_request_is_refused_and_keeps_the_run(
    tiny_encoder: Path, reviews_file: Path, run: Path
) -> None:
    interrupted(tiny_encoder, reviews_file, run)
    with pytest.raises(RunError, match=r"was made from something else: seed is 1 now and was 42\. Name another --out"):
        train(reviews_file, encoder=tiny_encoder, out=run, seed=1)
    assert record(run)["status"] == "interrupted"
    assert train(resume=run, precision="auto", threads=0).status == "finished"


@pytest.mark.slow
def test_resume_takes_no_other_request(tiny_encoder: Path, reviews_file: Path, run: Path, tmp_path: Path) -> None:
    interrupted(tiny_encoder, reviews_file, run)
    common = {"resume": run, "threads": 0, "precision": "auto"}
    with pytest.raises(RunError, match=r"was trained with seed 42; --resume got seed 43"):
        train(**common, seed=43)
    with pytest.raises(RunError, match=r"was trained with task reviews; --resume got task glue/sst2"):
        train("glue/sst2", **common)
    with pytest.raises(RunError, match=r"goes on with its own settings\. Drop --set, or start a new run"):
        bertkit.finetune(resume=run, settings={"train.epochs": 9})
    with pytest.raises(RunError, match=r"was trained with limit 0; --resume got limit 5"):
        train(**common, limit=5)
    with pytest.raises(RunError, match=r"was trained with precision float32; --resume got precision bf16"):
        train(resume=run, precision="bf16", threads=0)
    with pytest.raises(RunError, match=r"--resume .* goes on in its own folder\. Drop --out"):
        train(**common, out=tmp_path / "other")
    assert train(**common, seed=42, encoder=tiny_encoder).status == "finished"


def test_resume_without_a_run_suggests_one(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs")
    with pytest.raises(
        RunError, match=r"There is no run 'reviews-tiny-bert-01'\. Did you mean 'reviews-tiny-bert-001'"
    ):
        train(resume="reviews-tiny-bert-01", runs=tmp_path / "runs")


def test_resume_of_changed_data_is_refused(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    interrupted(tiny_encoder, reviews_file, run)
    write_jsonl(reviews_file, reviews(80, seed=5))
    with pytest.raises(RunError, match=r"the data is not what it was"):
        train(resume=run, precision="auto", threads=0)


@pytest.mark.slow
def test_resume_of_python_rows_needs_them_again(tiny_encoder: Path, run: Path) -> None:
    listener = Listener(2)
    train(reviews(80), encoder=tiny_encoder, out=run, listen=listener, should_stop=listener.should_stop)
    with pytest.raises(RunError, match=r"was trained on rows given in Python; give them again with data="):
        train(resume=run, precision="auto", threads=0)
    assert train(resume=run, data=reviews(80), precision="auto", threads=0).status == "finished"


def test_resume_of_a_finished_run_says_so(tiny_encoder: Path, run: Path) -> None:
    train(reviews(40), encoder=tiny_encoder, out=run)
    listener = Listener()
    again = train(resume=run, precision="auto", threads=0, listen=listener)
    assert again.already
    assert any("is finished already" in note for note in listener.notes)


def test_finished_run_that_was_killed_at_its_end_is_cleared_up(tiny_encoder: Path, run: Path) -> None:
    """The kill hit after ``run.json`` said finished and before the checkpoints were dropped."""
    settings = EPOCHS | {"train.keep_checkpoints": 1}
    train(reviews(40), encoder=tiny_encoder, out=run, settings=settings)
    (newest,) = (run / "checkpoints").iterdir()
    whole = sorted(run.rglob("*"))
    shutil.copytree(newest, newest.with_name("step-000001"))
    shutil.copytree(newest, newest.with_name(".dropped-2.4242"))
    assert train(resume=run, precision="auto", threads=0).already
    assert newest.with_name("step-000001").exists()  # nothing says that a process died here
    (run / ".lock").touch()
    assert train(resume=run, precision="auto", threads=0).already
    assert sorted(run.rglob("*")) == whole


@pytest.mark.slow
def test_damaged_checkpoint_falls_back_to_the_one_before(
    tiny_encoder: Path, reviews_file: Path, run: Path, whole: Path
) -> None:
    settings = EPOCHS | {"train.save_steps": 1, "train.keep_checkpoints": 9}
    interrupted(tiny_encoder, reviews_file, run, settings=settings, stop_at=4)
    newest = run / "checkpoints" / "step-000004" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    listener = Listener()
    train(resume=run, precision="auto", threads=0, listen=listener)
    warning = next(e for e in listener.events if isinstance(e, Note) and "damaged" in e.message)
    assert warning.level == "warning"
    assert re.search(r"optimizer\.safetensors is missing or damaged.*one before it is used", warning.message)
    start = next(event for event in listener.events if type(event).__name__ == "Start")
    assert start.step == 3
    assert same_weights(run, whole)


@pytest.mark.slow
def test_no_whole_checkpoint_starts_again(tiny_encoder: Path, reviews_file: Path, run: Path, whole: Path) -> None:
    interrupted(tiny_encoder, reviews_file, run, settings=EPOCHS)
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    listener = Listener()
    train(resume=run, precision="auto", threads=0, listen=listener)
    assert any("no whole checkpoint, so it starts again" in note for note in listener.notes)
    assert same_weights(run, whole)
    steps = [event["step"] for event in lines(run / "events.jsonl") if event["event"] == "step"]
    assert steps == list(range(1, 16))


def test_fault_while_going_on_keeps_the_run(
    tiny_encoder: Path, reviews_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has no checkpoint yet is still the user's folder."""
    interrupted(tiny_encoder, reviews_file, run)
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    with full_disk(monkeypatch, "bertkit.encoder.load"), pytest.raises(OSError, match="No space"):
        train(resume=run, precision="auto", threads=0)
    assert (run / "run.json").is_file()


# Full and forbidden disks --------------------------------------------------------------------------------------


def test_disk_full_at_the_very_start_leaves_no_folder(
    tiny_encoder: Path, reviews_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_disk(monkeypatch, "os.replace"), pytest.raises(RunError, match=r"cannot be written: No space left"):
        train(reviews_file, encoder=tiny_encoder, out=run)
    assert not run.exists()


@pytest.mark.slow
def test_disk_full_at_a_checkpoint_keeps_the_one_before(
    tiny_encoder: Path, reviews_file: Path, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        full_disk(monkeypatch, "safetensors.torch.save_file", after=4),
        pytest.raises(RunError, match=r"step-000010 cannot be written: No space left on device\. Free space or"),
    ):
        train(reviews_file, encoder=tiny_encoder, out=run, settings=EPOCHS)
    assert record(run)["status"] == "failed"
    assert "No space left" in record(run)["error"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000005"]
    with pytest.raises(RunError, match=r"is not finished \(status 'failed'\).*--resume"):
        bertkit.predict(["good"], run=run)
    assert train(resume=run, precision="auto", threads=0).status == "finished"
    assert same_weights(run, whole)
    assert "error" not in record(run)


def test_full_disk_as_safetensors_reports_it_is_one_error_too(
    tiny_encoder: Path, reviews_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def full(*arguments: Any, **options: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(RunError, match=r"step-000005 cannot be written: .*No space left on device .*Free space"):
        train(reviews_file, encoder=tiny_encoder, out=run)
    assert record(run)["status"] == "failed"
    assert not list(run.rglob("*.safetensors"))


@pytest.mark.slow
def test_disk_full_while_saving_the_model_can_be_gone_on_with(
    tiny_encoder: Path, reviews_file: Path, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        full_disk(monkeypatch, "bertkit.encoder.save"),
        pytest.raises(RunError, match=r"model cannot be written: No space left on device"),
    ):
        train(reviews_file, encoder=tiny_encoder, out=run, settings=EPOCHS)
    assert record(run)["status"] == "failed"
    assert not (run / "model").exists()
    assert train(resume=run, precision="auto", threads=0).status == "finished"
    assert same_weights(run, whole)


def test_disk_that_stays_full_still_is_one_error_about_the_first_file(
    tiny_encoder: Path, reviews_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even ``run.json`` cannot be written any more: the status stays 'running', which is not finished either."""
    with (
        full_disk(monkeypatch, "os.replace", after=3),
        pytest.raises(RunError, match=r"(step-\d+|validation\.jsonl|model) cannot be written: No space left"),
    ):
        train(reviews_file, encoder=tiny_encoder, out=run, settings=EPOCHS)
    assert record(run)["status"] == "running"
    assert not list(run.glob(".*"))


def test_failed_rename_keeps_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertkit.run import Run

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    run = Run(tmp_path, {})
    with full_disk(monkeypatch, "os.replace", after=1), pytest.raises(RunError, match="model cannot be written"):  # noqa: SIM117
        with run.whole_folder("model") as folder:
            (folder / "weights").write_text("new")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_forbidden_out_is_one_error(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=r"run cannot be written: Permission denied\. .*name another --out"):
        train(reviews_file, encoder=tiny_encoder, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"runs cannot be written: Permission denied"):
        train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs")


def test_out_that_is_a_file_is_one_error(tiny_encoder: Path, reviews_file: Path) -> None:
    with pytest.raises(RunError, match=r"reviews\.jsonl cannot be written: File exists"):
        train(reviews_file, encoder=tiny_encoder, out=reviews_file)
    assert len(lines(reviews_file)) == 80


# New tasks and new types ---------------------------------------------------------------------------------------

NEW_TYPE = '''
from dataclasses import replace

import numpy as np
import torch

from bertkit.adapters.base import Adapter, Feature, Loss


class Loudness(Adapter):
    """How many exclamation marks a text deserves: 0 to 2."""

    columns = ("text", "marks!")
    auto_class = "AutoModelForSequenceClassification"
    options = {"most": int}

    @classmethod
    def resolve(cls, task, examples):
        return replace(task, labels=("0", "1", "2"), metrics=task.metrics or ("hits",)), []

    def check(self, example, *, labelled=True):
        problems = self.check_text(example, "text")
        if labelled and self.value(example, "marks") not in (0, 1, 2):
            problems.append(f"marks are {self.value(example, 'marks')!r}, and must be 0, 1 or 2")
        return problems

    def labelled(self, examples):
        return any(self.value(example, "marks") is not None for example in examples)

    def encode(self, examples, tokenizer):
        return [
            Feature(example=n, input_ids=tokenizer(text)["input_ids"], target=self.value(example, "marks"))
            for n, (example, text) in enumerate(zip(examples, self.texts(examples, "text")))
        ]

    def targets(self, features):
        return torch.tensor([feature.target for feature in features])

    def loss(self, outputs, batch):
        each = torch.nn.functional.cross_entropy(outputs.logits.float(), batch["labels"], reduction="sum")
        return Loss(each, torch.tensor(float(len(batch["labels"]))))

    def reduce(self, outputs, batch):
        return list(outputs.logits.float().cpu().numpy())

    def decode(self, reduced, features, examples):
        return [{"marks": int(np.argmax(logits))} for logits in reduced]

    def score(self, predictions, examples, *, resamples=0):
        hits = [p["marks"] == self.value(e, "marks") for p, e in zip(predictions, examples)]
        return {"hits": sum(hits) / len(hits)}
'''


def test_new_task_type_is_one_module(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "__init__.py").touch()
    (tmp_path / "ownpackage" / "mytype.py").write_text(NEW_TYPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"text": " ".join(["good"] * (n % 3) + ["the", "film"]), "marks": n % 3} for n in range(60)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    (tmp_path / "loud.toml").write_text(
        'type = "ownpackage.mytype"\n[data]\nfiles = { train = "train.jsonl" }\n[options]\nmost = 2\n'
        "[train]\nepochs = 8\nlearning_rate = 5e-3\nbatch_size = 8\nmax_length = 64\n"
    )
    result = bertkit.finetune(tmp_path / "loud.toml", encoder=tiny_encoder, out=tmp_path / "run", threads=1)
    assert result.status == "finished"
    assert result.scores["validation"]["hits"] > 0.5
    again = bertkit.evaluate(result.run, threads=1)
    assert again.scores == result.scores["validation"]
    assert bertkit.predict(["good good the film"], run=result.run, threads=1)[0].keys() == {"marks"}
    write_jsonl(tmp_path / "faulty.jsonl", [{"text": "a", "marks": 9}])
    with pytest.raises(DataError, match=r"faulty\.jsonl:1: marks are 9, and must be 0, 1 or 2"):
        bertkit.evaluate(result.run, data=tmp_path / "faulty.jsonl", threads=1)
    with pytest.raises(
        ConfigError, match=r"options\.mots is not a setting of ownpackage\.mytype\. Did you mean 'most'"
    ):
        bertkit.finetune(tmp_path / "loud.toml", encoder=tiny_encoder, settings={"options.mots": 1})


def test_task_type_that_is_not_there_is_named(tmp_path: Path, tiny_encoder: Path) -> None:
    settings = {"type": "sequence-clasification"}
    with pytest.raises(TaskError, match=r"'sequence-clasification' is no task type\. Did you mean 'sequence-classif"):
        train(reviews(20), encoder=tiny_encoder, out=tmp_path / "run", settings=settings)
    with pytest.raises(TaskError, match=r"'no\.such' names a module that cannot be found"):
        train(reviews(20), encoder=tiny_encoder, out=tmp_path / "run", settings={"type": "no.such"})


@pytest.mark.slow
def test_settings_take_both_forms(tiny_encoder: Path, tmp_path: Path) -> None:
    tables = {"train": {"epochs": 1, "batch_size": 16, "max_length": 64}, "eval": {"resamples": 0}}
    one = bertkit.finetune(
        reviews(40), encoder=tiny_encoder, out=tmp_path / "1", settings=tables, precision="float32", threads=1
    )
    two = train(reviews(40), encoder=tiny_encoder, out=tmp_path / "2", settings=TINY)
    assert same_weights(one.run, two.run)


def test_unknown_setting_is_named_with_the_nearest(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epoch is not a setting\. Did you mean 'epochs'"):
        train(reviews(40), encoder=tiny_encoder, out=tmp_path / "run", settings={"train.epoch": 1})
    with pytest.raises(TaskError, match=r"'colums' is not a key of a task\. Did you mean 'columns'"):
        train(reviews(40), encoder=tiny_encoder, out=tmp_path / "run", settings={"colums.label": "a"})
