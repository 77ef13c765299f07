"""What is fuzzed: a function for each reader. It may end with a BertkitError, and with nothing else."""

from __future__ import annotations

import gzip
import io
import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertkit import catalog, run, task
from bertkit.data import Dataset, Split, files, sources
from bertkit.data.lines import BadRow, Row, no_constant
from bertkit.errors import BertkitError
from bertkit.workflows.preparation import configs

SECONDS = 10
"""After so much of the processor's time, reading a few kilobytes hangs."""
FEW_OR_MANY = pytest.mark.parametrize(
    "number", [pytest.param(60, id="few"), pytest.param(1500, id="many", marks=pytest.mark.slow)]
)
"""How many values a test tries: a few each time, many in CI."""
TEXT_FORMATS = ("jsonl", "csv", "tsv", "conll", "conllu", "json")
COLUMNS = ({}, {"tokens": 0, "tags": 1}, {"tokens": 1, "tags": 0}, {"tags": 3})


def fuzz(
    number: int, values: st.SearchStrategy[Any], look: Callable[[Any], None], *, also: tuple[Any, ...] = ()
) -> None:
    """Call ``look`` with ``number`` of the values, the same in every run, and with those that have broken it once.

    New values are for ``make torture``: a check of somebody's change does not fail for an old fault.
    """

    def test(value: Any) -> None:
        look(value)

    test = given(values)(test)
    for value in also:
        test = example(value)(test)
    settings(max_examples=number, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])(test)()


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Fail where the block takes more of the processor's time; a machine that is busy otherwise is no fault."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: more than {seconds} s")

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


@contextmanager
def result_or_error() -> Iterator[None]:
    """Let a block end in time, with a result or with an error whose message is one harmless line."""
    with bounded():
        try:
            yield
        except BertkitError as error:
            message = str(error)
            assert message
            assert message.isprintable()
            assert "\n" not in message


def check_rows(rows: Iterator[Row | BadRow]) -> None:
    """Go through rows as training and prediction do: each can be written, and be read again as it was."""
    examples = []
    for row in rows:
        if isinstance(row, BadRow):
            assert row.reason
            continue
        line = run.json_line(row.example)
        line.encode("utf-8")
        assert "\n" not in line
        again = json.loads(line, parse_constant=no_constant)
        assert again.keys() == row.example.keys()
        assert row.place
        examples.append(row.example)
    sources.fingerprint(Dataset(splits={"train": Split(name="train", examples=examples, source="x")}))


def text(format: str, data: bytes) -> None:  # noqa: A002
    """Read bytes as a text format, from a stream, once for each way to name columns where the format has positions."""
    for columns in COLUMNS if format.startswith("conll") else COLUMNS[:1]:
        with result_or_error():
            check_rows(files.scan(None, format=format, stdin=io.BytesIO(data), columns=columns))


def file(name: str, data: bytes) -> None:
    """Read bytes as a file of a name, whose suffix is its format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with result_or_error():
            check_rows(files.scan(path))
        with result_or_error():
            files.read(path)


def packed(format: str, data: bytes) -> None:  # noqa: A002
    """Read bytes as a gzipped file, and gzip them before."""
    file(f"x.{format}.gz", data)
    file(f"x.{format}.gz", gzip.compress(data, mtime=0))


def run_folder(name: str, data: bytes, whole: Path) -> None:
    """Look at a run of which one file holds other bytes: everything that reads run folders."""
    from bertkit.workflows import runs

    kept = (whole / name).read_bytes()
    (whole / name).write_bytes(data)
    try:
        for look in (
            lambda: runs.ls(whole.parent),
            lambda: runs.show(whole, runs=whole.parent),
            lambda: list(run.Run.open(whole).events()),
            lambda: run.Run.open(whole).scores(),
            lambda: run.Run.open(whole).newest_checkpoint(),
        ):
            with result_or_error():
                look()
    finally:
        with suppress(OSError):
            (whole / name).write_bytes(kept)


def find_task(found: Path | str, over: dict[str, Any] | None = None) -> None:
    """Find a task and its settings, which can be written into ``run.json`` and be read from there."""
    with result_or_error():
        made = catalog.find_task(found, overrides=over)
        configs(made)
        stored = json.dumps(made.to_table(), allow_nan=False)
        task.from_table(json.loads(stored), name=made.name, where="run.json")


def task_file(data: bytes) -> None:
    """Read bytes as a task file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.toml"
        path.write_bytes(data)
        find_task(path)


READERS: dict[str, Callable[[bytes], None]] = {
    **{name: lambda data, name=name: text(name, data) for name in TEXT_FORMATS},
    "parquet": lambda data: file("x.parquet", data),
    "gzip": lambda data: packed("jsonl", data),
}
"""Reader -> what is called with bytes."""


def planted(data: bytes) -> None:
    """Break where the bytes begin so: by this a test sees that fuzzing finds something, and says so."""
    assert not data.startswith(b"a,")


ALL: dict[str, Callable[[bytes], None]] = {**READERS, "task": task_file, "planted": planted}
"""What is fuzzed by coverage: the readers, and task files."""
