"""Every reader, given any bytes: rows and named faults, or one BertkitError; no traceback, no hang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from bertkit import adapters
from bertkit.config import TrainConfig
from bertkit.data import files
from bertkit.errors import DataError
from bertkit.task import DataSource, Task
from tests.fuzz import seeds, targets

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*.bin"))
"""What ``python -m tests.fuzz`` has found: ``<reader>-<kind>-<hash>.bin``."""


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a whole file, cut, with a byte changed, with something put in, or with a part of it doubled."""
    place = st.integers(0, len(whole))
    return st.one_of(
        place.map(lambda end: whole[:end]),
        st.tuples(place, st.integers(0, 255)).map(lambda c: whole[: c[0]] + bytes([c[1]]) + whole[c[0] + 1 :]),
        st.tuples(place, st.sampled_from(seeds.WORDS)).map(lambda c: whole[: c[0]] + c[1] + whole[c[0] :]),
        st.tuples(place, place).map(lambda c: whole[: c[0]] + whole[min(c) : max(c)] + whole[c[0] :]),
    )


def inputs(reader: str) -> st.SearchStrategy[bytes]:
    words = st.lists(st.sampled_from(seeds.WORDS), max_size=40).map(b"".join)
    return st.one_of(st.binary(max_size=200), words, *(damaged(whole) for whole in seeds.of(reader)))


@pytest.mark.parametrize("reader", targets.READERS)
@targets.FEW_OR_MANY
def test_reader_gives_rows_or_one_error(number: int, reader: str) -> None:
    targets.fuzz(number, inputs(reader), targets.READERS[reader])


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.stem)
def test_finding_stays_mended(finding: Path) -> None:
    targets.ALL[finding.name.split("-")[0]](finding.read_bytes())


@pytest.mark.parametrize("reader", targets.READERS)
def test_whole_file_is_read(reader: str, tmp_path: Path) -> None:
    """Were the seeds not readable, the test above would only see the first check of each reader."""
    suffix = {"gzip": "jsonl.gz"}.get(reader, reader)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(seeds.of(reader)[0])
    assert files.read(path).examples


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["text", "text_pair", "label", "tokens", "tags", "question", "context", "answers", "id"])


@pytest.mark.parametrize("kind", adapters.types())
@targets.FEW_OR_MANY
def test_row_of_any_json_is_checked(number: int, kind: str) -> None:
    """What a reader lets through, the task type takes or names."""

    def look(rows: list[dict[str, Any]]) -> None:
        task = Task(name="x", type=kind, data=DataSource(hub="a/b"))
        with targets.result_or_error():
            resolved, _ = adapters.find(kind).resolve(task, rows)
            adapter = adapters.find(kind)(resolved, TrainConfig(), resolved.labels)
            for row in rows:
                assert all(isinstance(fault, str) for fault in adapter.check(row))

    targets.fuzz(number, st.lists(st.dictionaries(ROLES, JSON, max_size=6), min_size=1, max_size=3), look)


def test_deep_nesting_is_named_before_it_can_break_a_writer(tmp_path: Path) -> None:
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"a": ' + "[" * 500 + "]" * 500 + "}\n" + json.dumps({"a": "[" * 500}) + "\n")
    with pytest.raises(DataError, match=r"deep\.jsonl:1: lists and objects stand more than 100 deep"):
        files.read(deep)
    deep.write_text(json.dumps({"a": "[" * 500}) + '\n{"a": ' + "[" * 99 + "]" * 99 + "}\n")
    assert len(files.read(deep).examples) == 2


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_number_that_is_no_float_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('{"a": 1e999}')
    with pytest.raises(DataError, match="the number 1e999 is larger than any float"):
        files.read(path)


def test_header_of_very_many_columns_is_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(",".join(map(str, range(200_000))) + "\n" + "," * 199_999 + "\n")
    with targets.bounded():
        assert len(files.read(path).examples[0]) == 200_000
    path.write_text(",".join([*map(str, range(200_000)), "7"]) + "\n")
    with targets.bounded(), pytest.raises(DataError, match="names column '7' twice"):
        files.read(path)


@pytest.mark.parametrize(
    "stored",
    ['{"info": {"features": [1]}}', '{"info": {"features": {"a": {"_type": "ClassLabel", "names": 5}}}}', "[" * 3000],
    ids=["list", "names", "deep"],
)
def test_parquet_with_strange_metadata_is_read(stored: str, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": [1]}).replace_schema_metadata({"huggingface": stored}), tmp_path / "x.parquet")
    assert files.read(tmp_path / "x.parquet").examples == [{"a": 1}]


def test_parquet_with_a_date_beyond_the_calendar_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": pa.array([2**62], pa.timestamp("ms"))}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet row 1: column 'a' cannot be read: "):
        files.read(tmp_path / "x.parquet")
