"""``bertkit predict`` with ``--processes``, ``--shard`` and ``--merge``, as a user types them."""

# ruff: noqa: F811 (the fixtures are another file's)

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import bertkit, one_error, runs  # noqa: F401 (fixtures)
from tests.cli.test_several_processes import ended, started
from tests.conftest import reviews, write_jsonl

COMMON = ("--precision", "float32", "--threads", "1", "--device", "cpu", "--set", "predict.chunk=4")


def rows(number: int) -> list[dict[str, Any]]:
    return [{"id": n, "text": row["text"]} for n, row in enumerate(reviews(number, seed=6))]


# Usage -----------------------------------------------------------------------------------------------------------

WRONG = [
    (["x.jsonl", "--out", "o", "--shard", "0/3"], "--shard is '0/3', and there are shards 1/3 to 3/3."),
    (["x.jsonl", "--out", "o", "--shard", "4/3"], "--shard is '4/3', and there are shards 1/3 to 3/3."),
    (["x.jsonl", "--out", "o", "--shard", "x"], "--shard is 'x', and must be K/N: --shard 3/16 is the third"),
    (["x.jsonl", "--shard", "1/3"], "--shard 1/3 writes a part of an output: name it with --out FILE."),
    (["--text", "good", "--out", "o", "--shard", "1/3"], "--shard divides an INPUT, and --text is one row."),
    (["--merge"], "--merge wants the output whose parts it puts together: --out FILE."),
    (["--merge", "--out", "o", "--run", "r"], "--run does not go with --merge: the parts say how they were made."),
    (["--merge", "--out", "o", "--threads", "0"], "--threads does not go with --merge"),
    (["--merge", "--out", "o", "--shard", "1/3"], "--shard does not go with --merge"),
    (["--merge", "--out", "o", "--processes", "2"], "--processes does not go with --merge"),
    (["--merge", "--out", "o", "-"], "with --merge, INPUT is a file to hold the parts against, and - is none."),
    (["glue", "--run", "s", "--submission", "o.zip", "--shard", "1/3"], "name it with --out FILE."),
    (["glue", "--run", "s", "--submission", "o.zip", "--processes", "2"], "--processes does not go with --submission."),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_usage_is_told(arguments: list[str], message: str, bertkit: Any) -> None:
    done = bertkit("predict", *arguments)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_wrong_usage_loads_no_torch(tmp_path: Path) -> None:
    given = ["predict", "x.jsonl", "--out", "o", "--shard", "4/3"]
    told = "try:\n    from typer.main import get_command; from bertkit.cli import app\n"
    told += f"    get_command(app).main({given!r}, standalone_mode=False)\n"
    told += "except Exception as error:\n    import sys; print(type(error).__name__, 'torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", told], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == ["BadParameter", "False"], found.stderr


def environment() -> dict[str, str]:
    import os

    import bertkit

    return {**os.environ, "PYTHONPATH": str(Path(bertkit.__file__).parents[1])}


# Parts -----------------------------------------------------------------------------------------------------------


def test_parts_are_made_and_merged(bertkit: Any, runs: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "new.jsonl", [*rows(11), {"id": 11}])
    skip = ("--on-error", "skip", *COMMON)
    assert bertkit("predict", "new.jsonl", "--out", "whole.jsonl", *skip).code == 0
    done = bertkit("predict", "new.jsonl", "--out", "o.jsonl", "--shard", "1/2", *skip)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-2:] == [
        "o.jsonl.shard-1-of-2: 7 rows; 1 skipped",
        "with all 2 parts beside it, 'bertkit predict --merge --out o.jsonl' puts them together",
    ]
    line = one_error(bertkit("predict", "--merge", "--out", "o.jsonl"))
    assert "o.jsonl cannot be merged: of 2 shards, 2/2 is missing." in line
    done = bertkit("predict", "new.jsonl", "--out", "o.jsonl", "--shard", "2/2", "--json", *skip)
    told = json.loads(done.out)
    assert (told["num_rows"], told["num_rejected"]) == (4, 0)
    assert (told["shard"], told["part"], told["out"]) == ("2/2", "o.jsonl.shard-2-of-2", "o.jsonl")
    done = bertkit("predict", "--merge", "--out", "o.jsonl")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == [
        "2 parts merged; their folders can be deleted",
        "o.jsonl: 11 rows of 2 parts; 1 skipped, in o.jsonl.rejects.jsonl",
    ]
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    done = bertkit("predict", "new.jsonl", "--merge", "--out", "o.jsonl", "--json")
    told = json.loads(done.out)
    assert (told["num_rows"], told["num_shards"], told["num_rejected"]) == (11, 2, 1)
    assert told["rejects"] == "o.jsonl.rejects.jsonl"


# Processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_number_of_processes_does_not_show_in_the_bytes(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "runs" / "one")
    source, found = write_jsonl(tmp_path / "new.jsonl", rows(1013)), []
    for number in (1, 2, 3, 4):
        given: list[str | Path] = [
            "predict",
            source,
            "--out",
            f"{number}.jsonl",
            "--processes",
            str(number),
            *COMMON[:-1],
            "predict.chunk=300",
        ]
        process = started(given, folder=tmp_path)
        out, err = ended(process)
        assert (process.returncode, out) == (0, ""), err
        assert [line for line in err.splitlines() if "runs/one" not in line] == [f"{number}.jsonl: 1013 rows"]
        found.append((tmp_path / f"{number}.jsonl").read_bytes())
    assert found[0].count(b"\n") == 1013
    assert found[1:] == found[:1] * 3


@pytest.mark.slow
def test_standard_input_is_read_by_one_and_left_early(finished_run: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "new.jsonl", rows(400))
    program = f"{sys.executable} -m bertkit predict - --run {finished_run} --processes 2 {' '.join(COMMON)} < new.jsonl"
    for line, wanted in ((program, 400), (f"{program} | head -3", 3)):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=tmp_path,
            env=environment() | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [json.loads(row)["id"] for row in done.stdout.splitlines()] == list(range(wanted))


@pytest.mark.slow
def test_bad_row_is_told_once_and_ends_all(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [*rows(30), {"id": 30}])
    given: list[str | Path] = [
        "predict",
        source,
        "--run",
        finished_run,
        "--out",
        "o.jsonl",
        "--processes",
        "2",
        *COMMON,
    ]
    process = started(given, folder=tmp_path)
    out, err = ended(process)
    assert (process.returncode, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    message = err.rstrip()
    assert message.startswith("error: rank 0 of 2: new.jsonl:31: column 'text' is missing")
    assert message.endswith("and the same command goes on from there.")
    # By another number of processes, too.
    write_jsonl(source, rows(31))
    given[given.index("2")] = "1"
    process = started(given, folder=tmp_path)
    _, err = ended(process)
    assert process.returncode == 0, err
    assert "going on behind row" in err
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 31


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_signal_ends_all_and_the_rest_is_predicted_later(
    number: int, code: int, finished_run: Path, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(3000))
    given: list[str | Path] = ["predict", source, "--run", finished_run, "--out", "o.jsonl", "--processes", "2"]
    process = started([*given, *COMMON], folder=tmp_path)
    while not any(tmp_path.rglob("state.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = ended(process)
    assert (process.returncode, out) == (code, "")
    assert "killed" not in err
    assert "Traceback" not in err
    given[-1] = "1"
    process = started([*given, *COMMON], folder=tmp_path)
    _, err = ended(process)
    assert process.returncode == 0, err
    assert "going on behind row" in err
    assert (tmp_path / "o.jsonl").read_bytes().count(b"\n") == 3000
