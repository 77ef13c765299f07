"""Rows from anywhere: each is predicted or named, with file and line, and the rows beside it come out as ever."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.data.lines import BadRow, Row
from bertkit.errors import DataError
from bertkit.workflows import partial, rejects
from bertkit.workflows.predict import Predictions, predict_file
from tests.workflows.training import Listener

GOOD = b'{"id": %d, "text": "a good film"}\n'


def predict(source: Path, run: Path, **options: Any) -> Predictions:
    return predict_file(source, run=run, **{"precision": "float32", "threads": 1, **options})


def between(path: Path, *bad: bytes) -> Path:
    """Write lines between two good rows."""
    path.write_bytes(GOOD % 1 + b"".join(line + b"\n" for line in bad) + GOOD % 2)
    return path


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def skipped(source: Path, run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Predict with ``--on-error skip``; return the rows and the rejects, which the counts must agree with."""
    out = source.with_name("out.jsonl")
    done = predict(source, run, out=out, on_error="skip")
    beside = partial.rejects_of(out)
    rows, bad = lines(out), lines(beside) if beside.exists() else []
    assert (done.num_rows, done.num_rejected) == (len(rows), len(bad))
    assert done.to_json()["num_rejected"] == len(bad)
    return rows, bad


BAD_LINES = [
    pytest.param(b'{"text": "a\0b"}', "not JSON: Invalid control .* There are NUL bytes in it", id="NUL"),
    pytest.param(b"\0" * 1000, "not JSON: Expecting value .* There are NUL bytes in it", id="only NUL"),
    pytest.param('{"text": "café"}'.encode("latin-1"), r"not UTF-8 \(byte 0xe9 at offset \d+\)", id="latin-1"),
    pytest.param('{"text": "x"}'.encode("utf-16-be"), "not JSON: .* There are NUL bytes in it", id="utf-16"),
    pytest.param(b'\xef\xbb\xbf{"text": "a"}', "not JSON: Unexpected UTF-8 BOM", id="a later BOM"),
    pytest.param(b'{"text": "\xed\xa0\x80"}', r"not UTF-8 \(byte 0xed", id="surrogate in bytes"),
    pytest.param(b'{"text": ' + b"[" * 100_000, "not JSON that can be read: .*recursion", id="deep"),
    pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, "not JSON that can be read: .*recursion", id="deep objects"),
    pytest.param(
        b'{"text": "a", "x": ' + b"[" * 150 + b"]" * 150 + b"}",
        "lists and objects stand more than 100 deep",
        id="deep enough",
    ),
    pytest.param(b'{"text": null}', "column 'text' is null, and must be a text", id="null"),
    pytest.param(b'{"text": 5}', "column 'text' is 5, and must be a text", id="number"),
    pytest.param(b'{"text": ["a"]}', r"column 'text' is \['a'\], and must be a text", id="list"),
    pytest.param(b'{"text": NaN}', "not JSON that can be read: NaN is no JSON value", id="NaN"),
    pytest.param(b'{"text": "a", "x": 1e999}', "not JSON that can be read: the number 1e999 is larger", id="infinity"),
    pytest.param(b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "not JSON that can be read: Exceeds", id="digits"),
    pytest.param(b'{"TEXT": "a"}', "column 'text' is missing; there are 'TEXT'", id="missing"),
    pytest.param(b'{"text": "a", "prediction": 1}', "there is a column 'prediction' already", id="taken"),
    pytest.param(b"[]", "the line holds a list, and must hold an object", id="no object"),
    pytest.param(b'{"text": "a"} {}', "not JSON: Extra data", id="two objects"),
    pytest.param(b'{"%s": 1}' % (b"k" * 10_000_000), "column 'text' is missing; there are 'kkk.*[.]{3}", id="10 MB"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "reason"), BAD_LINES)
def test_bad_line_is_named_or_skipped(bad: bytes, reason: str, finished_run: Path, tmp_path: Path) -> None:
    source = between(tmp_path / "new.jsonl", bad)
    with pytest.raises(DataError, match=rf"^new\.jsonl:2: {reason}") as caught:
        predict(source, finished_run, out=tmp_path / "out.jsonl")
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()
    rows, (found,) = skipped(source, finished_run)
    assert [row["id"] for row in rows] == [1, 2]
    assert list(found) == ["place", "reason", "row"]
    assert found["place"] == "new.jsonl:2"
    assert str(caught.value).startswith(f"new.jsonl:2: {found['reason'][:80]}".replace("\0", ""))


def test_all_bad_lines_at_once_lose_no_good_row(finished_run: Path, tmp_path: Path) -> None:
    bad = [case.values[0] for case in BAD_LINES if len(case.values[0]) < 1_000_000]
    text = b"".join(GOOD % number + line + b"\n" for number, line in enumerate(bad))
    (tmp_path / "new.jsonl").write_bytes(text)
    rows, found = skipped(tmp_path / "new.jsonl", finished_run)
    assert [row["id"] for row in rows] == list(range(len(bad)))
    assert [row["place"] for row in found] == [f"new.jsonl:{2 * number + 2}" for number in range(len(bad))]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b'{"text": "a\\u0000b"}', {"text": "a\0b"}),
        (b'{"text": "a \\ud83d b"}', {"text": "a \ud83d b"}),
        (b'{"te\\udc00xt": 1, "text": "y"}', {"te\udc00xt": 1, "text": "y"}),
        (b'{"text": "a", "x": ' + b"[" * 90 + b"]" * 90 + b"}", None),
        (b'{"text": "a\xe2\x80\xa8b\xc2\x85c"}', {"text": "a\u2028b\x85c"}),
    ],
    ids=["NUL", "surrogate", "surrogate in a name", "deep", "line ends that are none"],
)
def test_strange_row_comes_back_as_it_came(
    line: bytes, value: dict[str, Any] | None, finished_run: Path, tmp_path: Path
) -> None:
    rows, found = skipped(between(tmp_path / "new.jsonl", line), finished_run)
    assert not found
    assert len(rows) == 3
    assert rows[1].pop("prediction")["label"] in {"negative", "positive"}
    assert rows[1] == (value or json.loads(line))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["the film " * 1_100_000, "x" * 10_000_000], ids=["words", "one word"])
def test_row_of_ten_megabytes_is_a_row(text: str, finished_run: Path, tmp_path: Path) -> None:
    line = json.dumps({"text": text}).encode()
    rows, found = skipped(between(tmp_path / "new.jsonl", line), finished_run)
    assert not found
    assert rows[1]["text"] == text
    assert rows[0]["prediction"]["label"] == rows[2]["prediction"]["label"]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", ["new.jsonl", "new.csv", "new.tsv", "new.json"])
def test_file_of_utf_16_says_what_it_is(name: str, codec: str, finished_run: Path, tmp_path: Path) -> None:
    mark = "" if codec == "utf-16" else "\ufeff"
    (tmp_path / name).write_bytes(f'{mark}{{"text": "good"}}\n'.encode(codec))
    with pytest.raises(DataError, match=rf"{name} is UTF-16\. Convert it, .*'iconv -f UTF-16 -t UTF-8'"):
        predict(tmp_path / name, finished_run, out=None, on_error="skip").__next__()


# Tables --------------------------------------------------------------------------------------------------------


def test_rows_of_a_table_are_skipped(finished_run: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    text = 'id,text\n1,good\n2\n3,a,b\n4,a\0b\n5,caf\xe9\n6,"two\nlines"\n7,"x"y\n8,good\n9,"never closed\n10,good\n'
    source.write_bytes(text.encode("latin-1"))
    rows, found = skipped(source, finished_run)
    assert [row["id"] for row in rows] == ["1", "4", "6", "8"]
    assert [(row["place"], row["reason"].split(" (")[0]) for row in found] == [
        ("new.csv:3", "1 field, and the header names 2"),
        ("new.csv:4", "3 fields, and the header names 2. A text that holds a comma must stand in quotes"),
        ("new.csv:6", "not UTF-8"),
        ("new.csv:9", "not CSV: ',' expected after '\"'"),
        ("new.csv:11", "a quote is opened and never closed"),
    ]


def test_lines_that_end_in_carriage_returns_are_named(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_bytes(b"id,text\r1,good\r")
    with pytest.raises(DataError, match=r"old\.csv:1: a carriage return stands alone outside quotes, and lines must"):
        predict(tmp_path / "old.csv", finished_run, out=tmp_path / "out.jsonl")


def test_missing_column_of_a_table_is_named(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,body\n1,good\n")
    with pytest.raises(DataError, match=r"new\.csv:2: column 'text' is missing; there are 'id', 'body'"):
        predict(tmp_path / "new.csv", finished_run, out=tmp_path / "out.jsonl")


def test_cells_of_parquet_that_python_cannot_hold_are_skipped(finished_run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    encoded = pa.array([b"good", b"\xff", b"good", b"good", b"good"]).cast(pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 5, encoded.buffers())
    dates = pa.array([0, 0, 2**62, 0, 0], pa.timestamp("us"))
    table = pa.table({"text": texts, "when": dates, "x": [1.0, 1.0, 1.0, float("inf"), float("nan")]})
    parquet.write_table(table, tmp_path / "new.parquet")
    with pytest.raises(DataError, match=r"new\.parquet row 2: column 'text' cannot be read: .*0xff"):
        predict(tmp_path / "new.parquet", finished_run, out=tmp_path / "out.jsonl")
    rows, found = skipped(tmp_path / "new.parquet", finished_run)
    assert [(row["text"], row["x"]) for row in rows] == [("good", 1.0), ("good", None)]
    assert [(row["place"], row["reason"].split(": ")[0]) for row in found] == [
        ("new.parquet row 2", "column 'text' cannot be read"),
        ("new.parquet row 3", "column 'when' cannot be read"),
        ("new.parquet row 4", "it cannot be written as JSON"),
    ]


def test_damage_in_the_middle_of_parquet_keeps_what_was_done(finished_run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    source = tmp_path / "new.parquet"
    parquet.write_table(pa.table({"text": [f"film {n}" for n in range(3072)]}), source, row_group_size=1024)
    data = bytearray(source.read_bytes())
    data[len(data) * 3 // 4 : len(data) * 3 // 4 + 200] = b"\x55" * 200
    source.write_bytes(data)
    message = r"new\.parquet is not a Parquet file, or is damaged behind row 2048: .* 2,000 rows are kept in"
    with pytest.raises(DataError, match=message):
        predict(source, finished_run, out=tmp_path / "out.jsonl", settings={"predict.chunk": 1000})


def test_gzip_that_is_cut_keeps_what_was_done(finished_run: Path, tmp_path: Path) -> None:
    source, text = tmp_path / "new.jsonl.gz", b"".join(GOOD % n for n in range(1000))
    source.write_bytes(gzip.compress(text)[:-300])
    options: dict[str, Any] = {"out": tmp_path / "out.jsonl", "settings": {"predict.chunk": 50}}
    with pytest.raises(DataError, match=r"new\.jsonl\.gz is cut off: .* rows are kept in .*, and the same command"):
        predict(source, finished_run, **options)
    source.write_bytes(gzip.compress(text))
    listener = Listener()
    predict(source, finished_run, listen=listener, **options)
    assert [row["id"] for row in lines(tmp_path / "out.jsonl")] == list(range(1000))
    assert any("going on behind row" in note for note in listener.notes)


# What is told --------------------------------------------------------------------------------------------------


def test_rows_that_are_skipped_without_a_file_are_told(finished_run: Path, tmp_path: Path) -> None:
    source, listener = between(tmp_path / "new.jsonl", b"{}", b"[]"), Listener()
    assert len(list(predict(source, finished_run, out=None, on_error="skip", listen=listener))) == 2
    told = [note for note in listener.notes if note.startswith("skipped")]
    assert told[0] == "skipped new.jsonl:2: column 'text' is missing; there are none"
    assert told[1].startswith("skipped new.jsonl:3: the line holds a list")


@pytest.mark.slow
def test_long_row_is_skipped_where_training_refused_them(tiny_encoder: Path, tmp_path: Path) -> None:
    from tests.conftest import reviews
    from tests.workflows.training import train

    settings = {"train.max_length": 16, "train.on_long": "error"}
    run = train(reviews(40), encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    source = between(tmp_path / "new.jsonl", json.dumps({"text": "the " * 40}).encode())
    rows, (found,) = skipped(source, run)
    assert [row["id"] for row in rows] == [1, 2]
    assert found["reason"].startswith("has 42 tokens, and train.max_length is 16 with on_long = 'error'")


def test_rejects_of_an_earlier_output_do_not_stay(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    predict(between(tmp_path / "new.jsonl", b"{}"), finished_run, out=out, on_error="skip")
    assert partial.rejects_of(out).is_file()
    predict(between(tmp_path / "new.jsonl"), finished_run, out=out, on_error="skip")
    assert not partial.rejects_of(out).exists()


def test_row_that_python_cannot_write_is_a_bad_one() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    found = list(rejects.as_json([Row(example={"text": "a", "x": deep}, place="x:1", line=1)]))
    assert isinstance(found[0], BadRow)
    assert found[0].reason.startswith("it cannot be written as JSON: maximum recursion depth")
    assert found[0].content is None


def test_python_rows_are_bad_in_the_same_way(finished_run: Path) -> None:
    with pytest.raises(DataError, match=r"row 2: column 'text' is missing; there are 'body'"):
        bertkit.predict([{"text": "good"}, {"body": "good"}], run=finished_run, threads=1)
