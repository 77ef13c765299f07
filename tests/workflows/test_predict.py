"""Prediction: every row comes back, in order, as it came, whatever it is read from."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, DataError, RunError
from bertkit.workflows.predict import predict_file
from tests.conftest import reviews, write_jsonl
from tests.workflows.training import Listener, train


def predict(rows: Any, run: Path, **options: Any) -> list[dict[str, Any]]:
    return bertkit.predict(rows, run=run, **{"precision": "float32", "threads": 1, **options})


def written(source: Path | None, run: Path, **options: Any) -> list[dict[str, Any]]:
    """Return the lines that the command writes, parsed."""
    given = {"out": None, "precision": "float32", "threads": 1, **options}
    return [json.loads(line) for line in predict_file(source, run=run, **given)]


def unlabelled(number: int) -> list[dict[str, Any]]:
    return [{"id": n, "text": row["text"]} for n, row in enumerate(reviews(number, seed=4))]


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["label"] == other["label"] and one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_model_has_learned_something(finished_run: Path) -> None:
    assert [p["label"] for p in predict(["a good film", "a dull film"], finished_run)] == ["positive", "negative"]


def test_prediction_has_the_form_of_its_kind(finished_run: Path) -> None:
    (prediction,) = predict(["a good film"], finished_run)
    assert list(prediction) == ["label", "score", "probabilities"]
    assert list(prediction["probabilities"]) == ["negative", "positive"]
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-12)
    assert prediction["score"] == prediction["probabilities"][prediction["label"]]


@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_order_and_result_do_not_depend_on_the_chunk(chunk: int, finished_run: Path, tmp_path: Path) -> None:
    rows = unlabelled(20)
    file = write_jsonl(tmp_path / "new.jsonl", rows)
    found = written(file, finished_run, settings={"predict.chunk": chunk})
    assert [{"id": row["id"], "text": row["text"]} for row in found] == rows
    alone = predict([row["text"] for row in rows], finished_run)
    assert all(close(row["prediction"], one) for row, one in zip(found, alone, strict=True))


def test_stream_reads_no_further_than_its_chunk(finished_run: Path) -> None:
    predictor = bertkit.load(finished_run, settings={"predict.chunk": 3}, threads=1)
    taken: list[int] = []

    def rows() -> Any:
        for n, row in enumerate(unlabelled(10)):
            taken.append(n)
            yield row, f"row {n}"

    stream = predictor.stream(rows())
    assert taken == []
    next(stream)
    assert taken == [0, 1, 2]
    ahead = [len(taken) - given for given, _ in enumerate(stream, start=1)]
    assert len(ahead) == 9
    assert (min(ahead), max(ahead)) == (1, 3)
    assert len(taken) == 10


def test_row_is_kept_whole(finished_run: Path, tmp_path: Path) -> None:
    row = {"id": 7, "text": "a good film", "none": None, "deep": {"a": [1, 2.5, True]}, "ünï": "\u2028", "label": "?"}
    (found,) = written(write_jsonl(tmp_path / "one.jsonl", [row]), finished_run)
    assert list(found) == [*row, "prediction"]
    assert {key: found[key] for key in row} == row


@pytest.mark.parametrize("label", ["unheard-of", -1, None, ["a"], 99])
def test_label_of_a_row_is_not_looked_at(label: Any, finished_run: Path) -> None:
    one, other = predict([{"text": "a good film", "label": label}, {"text": "a good film"}], finished_run)
    assert close(one, other)


def test_existing_prediction_is_not_overwritten(finished_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "old.jsonl", [{"text": "good"}, {"text": "good", "prediction": "mine"}])
    with pytest.raises(DataError, match=r"old\.jsonl:2: there is a column 'prediction' already; --set predict\.column"):
        written(file, finished_run)
    found = written(file, finished_run, settings={"predict.column": "guess"})
    assert found[1]["prediction"] == "mine"
    assert found[1]["guess"]["label"] == "positive"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1}', r"bad\.jsonl:2: column 'text' is missing; there are 'id'"),
        ('{"text": null}', r"bad\.jsonl:2: column 'text' is null, and must be a text"),
        ('{"text": 5}', r"bad\.jsonl:2: column 'text' is 5, and must be a text"),
        ('{"text": ["a"]}', r"bad\.jsonl:2: column 'text' is \['a'\], and must be a text"),
        ('{"text": "a"', r"bad\.jsonl:2: not JSON: .*column 13"),
        ("[1]", r"bad\.jsonl:2: the line holds a list, and must hold an object"),
        ('{"text": NaN}', r"bad\.jsonl:2: not JSON that can be read: NaN is no JSON value"),
    ],
)
def test_bad_row_is_named(line: str, message: str, finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        written(tmp_path / "bad.jsonl", finished_run)


def test_rows_before_a_bad_chunk_are_written(finished_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "bad.jsonl", [*unlabelled(4), {"id": 9}])
    stream = predict_file(file, out=None, run=finished_run, settings={"predict.chunk": 2}, threads=1)
    found = [next(stream) for _ in range(4)]
    assert [json.loads(line)["id"] for line in found] == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"bad\.jsonl:5"):
        next(stream)


@pytest.mark.parametrize(("row", "name"), [(7, "int"), (None, "NoneType"), (["a"], "list")])
def test_python_row_of_another_type_is_named(row: Any, name: str, finished_run: Path) -> None:
    with pytest.raises(DataError, match=rf"row 2 is a {name}, and must be a text or a dict of column and value"):
        predict(["good", row], finished_run)


def test_empty_text_is_a_row_like_any_other(finished_run: Path) -> None:
    empty, blank = predict(["", "   "], finished_run)
    assert close(empty, blank)
    assert "truncated" not in empty


def test_no_rows_give_no_predictions(finished_run: Path) -> None:
    assert predict([], finished_run) == []


def test_empty_file_says_so(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(DataError, match=r"none\.jsonl is empty"):
        written(tmp_path / "none.jsonl", finished_run)


def test_lone_surrogate_comes_back_as_it_came(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"text": "a good \\ud83d film"}\n{"text": "a good \\ufffd film"}\n')
    lines = list(predict_file(tmp_path / "odd.jsonl", out=None, run=finished_run, threads=1))
    assert "\\ud83d" in lines[0]
    lines[0].encode("utf-8")
    one, other = map(json.loads, lines)
    assert one["text"] == "a good \ud83d film"
    assert close(one["prediction"], other["prediction"])


def test_what_the_model_did_not_see_is_marked(finished_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "long.jsonl", [{"text": "the " * 62}, {"text": "the " * 63 + "good"}])
    listener = Listener()
    whole, cut = written(file, finished_run, listen=listener)
    assert "truncated" not in whole["prediction"]
    assert cut["prediction"]["truncated"] is True
    assert any("1 of 2 rows (50.0%) are longer than 64 tokens and were cut" in note for note in listener.notes)


def test_role_name_stands_in_for_the_column(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"review": row["text"], "verdict": row["label"]} for row in reviews(40)]
    settings = {"columns.text": "review", "columns.label": "verdict"}
    run = train(rows, encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    one, other, third = predict([{"review": "good"}, {"text": "good"}, "good"], run)
    assert close(one, other)
    assert close(one, third)
    with pytest.raises(DataError, match=r"row 1: column 'review' is missing; there are 'body'"):
        predict([{"body": "good"}], run)
    assert close(predict([{"body": "good"}], run, settings={"columns.text": "body"})[0], one)


@pytest.mark.slow
def test_pairs_need_both_texts(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "text_pair": "it was", "label": row["label"]} for row in reviews(40)]
    run = train(rows, encoder=tiny_encoder, out=tmp_path / "run").run
    assert predict([{"text": "good", "text_pair": "bad"}], run)[0].keys() >= {"label"}
    with pytest.raises(DataError, match=r"row 2: column 'text_pair' is missing"):
        predict([{"text": "good", "text_pair": "bad"}, {"text": "good"}], run)
    with pytest.raises(DataError, match=r"row 1: column 'text_pair' is missing"):
        predict(["good"], run)


def test_second_text_means_nothing_to_a_model_of_single_texts(finished_run: Path) -> None:
    one, other = predict([{"text": "good", "text_pair": "bad bad bad"}, {"text": "good"}], finished_run)
    assert close(one, other)


# Formats -------------------------------------------------------------------------------------------------------


def test_tables_are_read(finished_run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"id": str(n), "text": f'{row["text"]}, "it"'} for n, row in enumerate(unlabelled(5))]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "text"])
        table.writeheader()
        table.writerows(rows)
    (tmp_path / "new.tsv").write_text("id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    write_jsonl(tmp_path / "new.jsonl", rows)
    wanted = written(tmp_path / "new.jsonl", finished_run)
    assert [{"id": row["id"], "text": row["text"]} for row in wanted] == rows
    for suffix in ("csv", "tsv", "parquet"):
        assert written(tmp_path / f"new.{suffix}", finished_run) == wanted, suffix


def test_format_can_be_said(finished_run: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "new.txt", unlabelled(2))
    with pytest.raises(DataError, match=r"'\.txt' is no suffix of a data file.*--set data\.format=NAME"):
        written(tmp_path / "new.txt", finished_run)
    assert len(written(tmp_path / "new.txt", finished_run, settings={"data.format": "jsonl"})) == 2


def test_parquet_with_cells_that_json_does_not_have(finished_run: Path, tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    import pyarrow as pa
    from pyarrow import parquet

    row = {"text": "good", "when": datetime.datetime(2020, 1, 2), "price": Decimal("1.50"), "raw": b"\xff"}
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "new.parquet")
    (found,) = written(tmp_path / "new.parquet", finished_run)
    assert (found["when"], found["price"], found["raw"]) == ("2020-01-02T00:00:00", "1.50", "/w==")


def test_standard_input_is_read_as_lines(finished_run: Path) -> None:
    found = written(None, finished_run, stdin=io.BytesIO(b'{"text": "good"}\n\n{"text": "bad"}\n'))
    assert [row["prediction"]["label"] for row in found] == ["positive", "negative"]
    with pytest.raises(DataError, match="standard input:1: column 'text' is missing"):
        written(None, finished_run, stdin=io.BytesIO(b'{"x": 1}\n'))
    with pytest.raises(DataError, match="standard input is empty"):
        written(None, finished_run, stdin=io.BytesIO(b""))


def test_one_text_needs_no_file(finished_run: Path) -> None:
    (row,) = written(None, finished_run, text="a good film")
    assert row["text"] == "a good film"
    assert row["prediction"]["label"] == "positive"


def test_file_in_python_gives_predictions(finished_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", unlabelled(3))
    assert len(predict(file, finished_run)) == 3


# Writing -------------------------------------------------------------------------------------------------------


def test_out_is_written_whole(finished_run: Path, tmp_path: Path) -> None:
    file, out = write_jsonl(tmp_path / "new.jsonl", unlabelled(5)), tmp_path / "out.jsonl"
    assert written(file, finished_run, out=out) == []
    assert len(out.read_text().splitlines()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "out.jsonl"]


def test_fault_leaves_the_old_out(finished_run: Path, tmp_path: Path) -> None:
    file, out = write_jsonl(tmp_path / "bad.jsonl", [*unlabelled(5), {"id": 1}]), tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(DataError, match=r"bad\.jsonl:6"):
        written(file, finished_run, out=out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out.jsonl"]


def test_out_over_its_own_input_is_whole(finished_run: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", unlabelled(5))
    written(file, finished_run, out=file, settings={"predict.chunk": 2})
    assert len(file.read_text().splitlines()) == 5


def test_out_that_cannot_be_written_is_said_before_the_model_is_loaded(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", unlabelled(1))
    monkeypatch.setattr("bertkit.workflows.predict.load", lambda **options: pytest.fail("the model was loaded"))
    with pytest.raises(RunError, match=r"cannot be written: it is a folder\. Name another --out"):
        written(file, finished_run, out=tmp_path)
    with pytest.raises(RunError, match=r"nowhere/out\.jsonl cannot be written: there is no folder .*nowhere"):
        written(file, finished_run, out=tmp_path / "nowhere" / "out.jsonl")


def test_full_disk_leaves_the_old_out(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workflows.training import full_disk

    file, out = write_jsonl(tmp_path / "new.jsonl", unlabelled(2)), tmp_path / "out.jsonl"
    out.write_text("old")
    with full_disk(monkeypatch, "os.fsync"), pytest.raises(RunError, match=r"out\.jsonl cannot be written: No space"):
        written(file, finished_run, out=out)
    assert out.read_text() == "old"


# Models --------------------------------------------------------------------------------------------------------


def test_missing_input_is_said_before_the_model_is_loaded(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertkit.workflows.predict.load", lambda **options: pytest.fail("the model was loaded"))
    write_jsonl(tmp_path / "new.jsonl", unlabelled(1))
    with pytest.raises(DataError, match=r"There is no file .*new\.jsnl\. Did you mean 'new\.jsonl'"):
        written(tmp_path / "new.jsnl", finished_run)
    with pytest.raises(DataError, match="is a folder, not a file"):
        written(tmp_path, finished_run)


def test_model_folder_alone_predicts_as_the_run(finished_run: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(finished_run / "model", tmp_path / "elsewhere"))
    assert predict(["a good film"], model) == predict(["a good film"], finished_run)


def test_length_is_the_one_of_training(finished_run: Path) -> None:
    """Row 1: what training cut, prediction cuts in the same way, whatever the defaults are."""
    predictor = bertkit.load(finished_run, threads=1)
    assert (predictor.model.adapter.config.max_length, predictor.labels) == (64, ("negative", "positive"))


@pytest.mark.slow
def test_long_rows_are_treated_as_in_training(tiny_encoder: Path, tmp_path: Path) -> None:
    text = "bad " * 3 + "the " * 30 + "good"
    seen = {}
    for on_long in ("truncate", "head-tail", "window", "error"):
        settings = {"train.max_length": 16, "train.on_long": on_long}
        run = train(reviews(40), encoder=tiny_encoder, out=tmp_path / on_long, settings=settings).run
        if on_long == "error":
            with pytest.raises(DataError, match=r"row 3 has 36 tokens, and train\.max_length is 16 with on_long"):
                predict(["good", "good", text], run, settings={"predict.chunk": 2})
        else:
            seen[on_long] = predict([text], run)[0]
            # Short rows and long ones, whose windows stay together whatever the chunk is.
            rows = ["good", text, "bad", text, text, "a good film", "the", text]
            whole = predict(rows, run)
            cut = [prediction.get("truncated") for prediction in whole]
            assert len([given for given in cut if given]) == (0 if on_long == "window" else 4)
            for chunk in (1, 3, 7):
                parts = predict(rows, run, settings={"predict.chunk": chunk})
                assert all(close(one, other) for one, other in zip(parts, whole, strict=True))
                assert [prediction.get("truncated") for prediction in parts] == cut
    assert seen["truncate"]["truncated"]
    assert seen["head-tail"]["truncated"]
    assert "truncated" not in seen["window"]
    assert len({prediction["score"] for prediction in seen.values()}) == 3


def test_setting_of_training_is_refused(finished_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set train\.max_length changes nothing about a trained model"):
        predict(["good"], finished_run, settings={"train.max_length": 8})
    with pytest.raises(ConfigError, match=r"predict\.chunk is 0, and must be at least 1"):
        predict(["good"], finished_run, settings={"predict.chunk": 0})


@pytest.mark.slow
def test_several_labels_are_those_over_the_threshold(tiny_encoder: Path, tmp_path: Path) -> None:
    topics = [[], ["good"], ["bad"], ["good", "bad"]]
    rows = [{"text": "the " + " ".join(topics[n % 4]), "labels": topics[n % 4]} for n in range(80)]
    settings = {"train.epochs": 8, "train.learning_rate": 5e-3}
    run = train(rows, encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    for prediction in predict(["good bad the", "the"], run):
        over = [name for name, p in prediction["probabilities"].items() if p >= 0.5]
        assert prediction["labels"] == over
