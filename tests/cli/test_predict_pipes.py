"""``bertkit predict`` between other programs: streams that end early, are closed or full, and what is said of them."""

# ruff: noqa: F811 (the fixture of runs is another file's)

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import bertkit, runs  # noqa: F401 (fixtures)
from tests.conftest import write_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(runs: Path, tmp_path: Path) -> Any:
    """Return a function that runs a line of bash, with ``predict`` for the command with a model."""
    program = shlex.join([sys.executable, "-m", "bertkit", "predict", "--run", "runs/one"])
    function = f'predict() {{ {program} --threads 1 --precision float32 --set predict.chunk=64 "$@"; }}'
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    write_jsonl(tmp_path / "new.jsonl", [{"id": n, "text": "the film " * 20} for n in range(1000)])
    write_jsonl(tmp_path / "bad.jsonl", [{"id": n, "body": "x"} for n in range(1000)])

    def run(line: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f"set -o pipefail; {function}; {line}"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.mark.parametrize(
    "line",
    ["predict new.jsonl | head -1", "predict - < new.jsonl | head -1", "predict new.jsonl --on-error skip | head -1"],
)
def test_head_ends_it_quietly(line: str, shell: Any) -> None:
    done = shell(line)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"] == 0


def test_head_of_both_streams_ends_it_quietly(shell: Any) -> None:
    done = shell("predict bad.jsonl --on-error skip 2>&1 | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("warning: skipped bad.jsonl:1: column 'text' is missing")


def test_reader_of_messages_that_goes_away_does_not_end_the_work(shell: Any, tmp_path: Path) -> None:
    done = shell(
        "cat new.jsonl bad.jsonl new.jsonl | predict - --on-error skip --out out.jsonl 2> >(head -c 1 > /dev/null)"
    )
    assert done.returncode == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict new.jsonl > /dev/full", "standard output cannot be written: No space left on device"),
        ("predict --text good > /dev/full", "standard output cannot be written: No space left on device"),
        ("predict new.jsonl >&-", "standard output cannot be written: not writable"),
        ("predict - <&-", "standard input is closed. Name a file, or send rows to it."),
        ("predict - < /dev/null", "standard input is empty"),
    ],
)
def test_stream_that_cannot_be_used_is_one_line(line: str, message: str, shell: Any) -> None:
    done = shell(line)
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"error: {message}")


def test_closed_messages_cost_no_row(shell: Any) -> None:
    done = shell("predict new.jsonl 2>&-")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1000)


def test_output_of_a_pipeline_is_gzipped_by_its_name(shell: Any, tmp_path: Path) -> None:
    done = shell("cat new.jsonl | predict - --out out.jsonl.gz --json | cat")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_rows"] == 1000
    with gzip.open(tmp_path / "out.jsonl.gz", "rt") as file:
        assert [json.loads(line)["id"] for line in file] == list(range(1000))


def test_counts_stand_at_the_end(shell: Any, tmp_path: Path) -> None:
    done = shell("cat new.jsonl bad.jsonl | predict - --on-error skip --out out.jsonl")
    assert done.stderr.splitlines()[-1] == "out.jsonl: 1000 rows; 1000 skipped, in out.jsonl.rejects.jsonl"
    done = shell("cat new.jsonl bad.jsonl | predict - --on-error skip")
    assert done.stderr.splitlines()[-1] == "stdout: 1000 rows; 1000 skipped"
    assert len(done.stdout.splitlines()) == 1000
    done = shell("cat new.jsonl bad.jsonl | predict - --on-error skip --out out.jsonl --json")
    found = json.loads(done.stdout)
    assert (found["num_rows"], found["num_rejected"], found["rejects"]) == (1000, 1000, "out.jsonl.rejects.jsonl")
