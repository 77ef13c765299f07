"""``predict --out`` after a kill: no row is lost, none comes twice, and what does not belong together is not mixed."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bertkit.errors import BertkitError, ConfigError, DataError, RunError
from bertkit.workflows import partial
from bertkit.workflows import predict as workflow
from bertkit.workflows.locks import alone
from bertkit.workflows.predict import Predictions, predict_file
from tests.conftest import questions, reviews, sentences, write_conll, write_jsonl
from tests.workflows.training import Listener, full_disk, lines, train


def rows(number: int) -> list[dict[str, Any]]:
    return [{"id": n, "text": row["text"]} for n, row in enumerate(reviews(number, seed=6))]


def predict(source: Path | None, out: Path | None, run: Path, *, chunk: int = 2, **options: Any) -> Predictions:
    given = {"precision": "float32", "threads": 1, **options}
    settings = {"predict.chunk": chunk, **given.pop("settings", {})}
    return predict_file(source, out=out, run=run, settings=settings, **given)


class Killed(BaseException):
    """What stands for a kill: nothing may catch it."""


def cut(monkeypatch: pytest.MonkeyPatch, after: int, source: Path, out: Path, run: Path, **options: Any) -> None:
    """Predict, and end without a farewell once so many chunks are written."""
    real, count = workflow.Predictor._chunk, 0

    def chunk(self: Any, part: Any, **flags: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise Killed
        return real(self, part, **flags)

    with monkeypatch.context() as patched:
        patched.setattr(workflow.Predictor, "_chunk", chunk)
        patched.setattr(partial, "SECONDS", 0)
        patched.setattr(partial.Partial, "leave", lambda self: self.close() or "")
        with pytest.raises(Killed):
            predict(source, out, run, **options)
    assert partial.folder_of(out).is_dir()


def expected(source: Path, run: Path, tmp_path: Path, **options: Any) -> bytes:
    """Return the output of a process that nobody disturbs."""
    predict(source, tmp_path / "undisturbed", run, **options)
    return (tmp_path / "undisturbed").read_bytes()


# Going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_output_goes_on_where_it_was_cut(
    after: int, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(11)), tmp_path / "out.jsonl"
    cut(monkeypatch, after, source, out, finished_run)
    assert not out.exists()
    listener = Listener()
    done = predict(source, out, finished_run, listen=listener)
    assert out.read_bytes() == expected(source, finished_run, tmp_path)
    assert [row["id"] for row in lines(out)] == list(range(11))
    assert done.num_rows == 11
    assert not partial.folder_of(out).exists()
    told = [note for note in listener.notes if "going on behind row" in note]
    assert told == ([f"{partial.folder_of(out)}: going on behind row {2 * after}"] if after else [])


def test_rows_that_are_done_are_not_predicted_again(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(8)), tmp_path / "out.jsonl"
    cut(monkeypatch, 3, source, out, finished_run)
    seen: list[int] = []
    real = workflow.Predictor._predicted
    monkeypatch.setattr(
        workflow.Predictor, "_predicted", lambda self, rows: seen.extend(r["id"] for r in rows) or real(self, rows)
    )
    predict(source, out, finished_run)
    assert seen == [6, 7]


@pytest.mark.parametrize("how", ["half a line", "a flipped byte", "cut short", "half a state", "no state", "no rows"])
def test_damaged_part_is_gone_back_on(
    how: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(9)), tmp_path / "out.jsonl"
    cut(monkeypatch, 3, source, out, finished_run)
    folder = partial.folder_of(out)
    done = folder / "rows.jsonl"
    text, state = done.read_bytes(), folder / partial.STATE
    if how == "half a line":
        done.write_bytes(text + b'{"id": 6, "te')
    elif how == "a flipped byte":
        done.write_bytes(text[:-20] + bytes([text[-20] ^ 1]) + text[-19:])
    elif how == "cut short":
        done.write_bytes(text[:-5])
    elif how == "half a state":
        state.write_bytes(state.read_bytes()[:-30])
    else:
        {"no state": state, "no rows": done}[how].unlink()
    predict(source, out, finished_run)
    assert out.read_bytes() == expected(source, finished_run, tmp_path)


def test_kill_between_the_rename_and_the_end_costs_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(6)), tmp_path / "out.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(partial.Partial, "_remove", lambda self: None)
        predict(source, out, finished_run)
    assert partial.folder_of(out).is_dir()
    monkeypatch.setattr(workflow.Predictor, "_predicted", lambda self, rows: pytest.fail("it was predicted again"))
    whole = out.read_bytes()
    predict(source, out, finished_run)
    assert out.read_bytes() == whole
    assert not partial.folder_of(out).exists()


def test_bad_row_can_be_mended_and_the_rest_follows(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", [*rows(5), {"id": 5}]), tmp_path / "out.jsonl"
    kept = r"new\.jsonl:6: column 'text' is missing.*4 rows are kept in .*out\.jsonl\.part, and the same command goes"
    with pytest.raises(DataError, match=kept):
        predict(source, out, finished_run)
    write_jsonl(source, rows(7))
    listener = Listener()
    predict(source, out, finished_run, listen=listener)
    assert out.read_bytes() == expected(source, finished_run, tmp_path)
    assert any("going on behind row 4" in note for note in listener.notes)


def test_standard_input_can_be_given_again(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    text = "".join(json.dumps(row) + "\n" for row in rows(7))
    out = tmp_path / "out.jsonl"
    broken = io.BytesIO(f"{text}{{".encode())
    with pytest.raises(DataError, match=r"standard input:8: not JSON.*6 rows are kept"):
        predict(None, out, finished_run, stdin=broken)
    predict(None, out, finished_run, stdin=io.BytesIO(text.encode()))
    assert [row["id"] for row in lines(out)] == list(range(7))


def table(path: Path, number: int) -> Path:
    """Write rows in the format that the name says."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if path.suffix == ".tsv":
        path.write_text("id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows(number)))
        return path
    made = pa.Table.from_pylist(rows(number))
    if path.suffix == ".parquet":
        parquet.write_table(made, path)
    else:
        csv.write_csv(made, path)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "csv.gz"])
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_tables_go_on_too(
    suffix: str, name: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = table(tmp_path / f"new.{suffix}", 9), tmp_path / name
    cut(monkeypatch, 2, source, out, finished_run)
    predict(source, out, finished_run)
    text = out.read_bytes()
    assert (gzip.decompress(text) if name.endswith("gz") else text) == expected(source, finished_run, tmp_path)
    predict(source, out, finished_run)
    assert out.read_bytes() == text


@pytest.mark.slow
def test_columns_of_a_tagger_go_on(tagging_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_conll(tmp_path / "new.conll", sentences(9), columns=3), tmp_path / "out.conll"
    cut(monkeypatch, 2, source, out, tagging_run, format="conll")
    predict(source, out, tagging_run, format="conll")
    assert out.read_bytes() == expected(source, tagging_run, tmp_path, format="conll")


@pytest.mark.slow
def test_answers_by_id_go_on(questions_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", questions(7)), tmp_path / "out.json"
    cut(monkeypatch, 2, source, out, questions_run, format="squad")
    predict(source, out, questions_run, format="squad")
    assert out.read_bytes() == expected(source, questions_run, tmp_path, format="squad")
    assert list(json.loads(out.read_text())) == [row["id"] for row in questions(7)]


def test_rejects_go_on_in_order(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [row if n % 3 else {"id": n, "text": None} for n, row in enumerate(rows(14))]
    source, out = write_jsonl(tmp_path / "new.jsonl", mixed), tmp_path / "out.jsonl"
    cut(monkeypatch, 3, source, out, finished_run, on_error="skip")
    done = predict(source, out, finished_run, on_error="skip")
    assert (done.num_rows, done.num_rejected) == (9, 5)
    assert [row["id"] for row in lines(out)] == [n for n in range(14) if n % 3]
    found = lines(partial.rejects_of(out))
    assert [row["place"] for row in found] == [f"new.jsonl:{n + 1}" for n in range(0, 14, 3)]


# What does not belong together -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_model_is_refused(
    finished_run: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train(reviews(40), encoder=tiny_encoder, out=tmp_path / "other").run
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(6)), tmp_path / "out.jsonl"
    cut(monkeypatch, 1, source, out, finished_run)
    named = r"holds rows predicted with .*finished.* \(SHA-256 \w{12}\), and this command has .*other \(SHA-256"
    with pytest.raises(RunError, match=named):
        predict(source, out, other)
    with pytest.raises(RunError, match=r"delete the folder to start anew, or name another --out"):
        predict(source, out, other)
    predict(source, out, finished_run)
    assert len(lines(out)) == 6


def test_copy_of_the_model_is_the_same_model(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(6)), tmp_path / "out.jsonl"
    cut(monkeypatch, 1, source, out, finished_run)
    predict(source, out, Path(shutil.copytree(finished_run, tmp_path / "copy")))
    assert len(lines(out)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"settings": {"predict.column": "guess"}},
            r"with predict\.column prediction, and this .* predict\.column guess",
        ),
        ({"precision": "bf16"}, r"with precision float32, and this command has precision bf16"),
        ({"settings": {"columns.text": "body"}}, r"rows predicted with settings \{.*, and this command has settings"),
    ],
)
def test_another_way_is_refused(
    options: dict[str, Any], message: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(6)), tmp_path / "out.jsonl"
    cut(monkeypatch, 1, source, out, finished_run)
    with pytest.raises(RunError, match=message):
        predict(source, out, finished_run, **options)


@pytest.mark.parametrize("row", [0, 3])
def test_another_input_is_refused(
    row: int, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(9)), tmp_path / "out.jsonl"
    cut(monkeypatch, 2, source, out, finished_run)
    changed = rows(9)
    changed[row]["text"] += " good"
    write_jsonl(source, changed)
    with pytest.raises(RunError, match=r"holds the predictions of other rows than the 4 up to new\.jsonl:4"):
        predict(source, out, finished_run)
    write_jsonl(source, rows(3))
    with pytest.raises(RunError, match=r"is of 4 rows, and the input has 3"):
        predict(source, out, finished_run)
    write_jsonl(source, rows(9))
    predict(source, out, finished_run)
    assert len(lines(out)) == 9


def test_skipped_rows_are_not_taken_over_by_a_command_that_stops(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", [{"id": 1}, *rows(6)]), tmp_path / "out.jsonl"
    cut(monkeypatch, 2, source, out, finished_run, on_error="skip")
    with pytest.raises(RunError, match="holds rows that were skipped, and --on-error is stop"):
        predict(source, out, finished_run)


def test_two_processes_do_not_write_one_output(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(2)), tmp_path / "out.jsonl"
    partial.folder_of(out).mkdir()
    with (
        alone(partial.folder_of(out) / partial.LOCK),
        pytest.raises(RunError, match=r"out\.jsonl is being written by another process\. Wait for it"),
    ):
        predict(source, out, finished_run)
    predict(source, out, finished_run)


def test_part_of_nothing_is_not_left(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"id": 1}])
    with pytest.raises(DataError, match=r"column 'text' is missing; there are 'id'\.$"):
        predict(source, tmp_path / "out.jsonl", finished_run)
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_full_disk_keeps_what_is_done(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(8)), tmp_path / "out.jsonl"
    message = r"out\.jsonl cannot be written: No space left on device\. Free space or name another --out\. 4 rows are"
    monkeypatch.setattr(partial, "SECONDS", 0)
    with full_disk(monkeypatch, "os.fsync", after=6), pytest.raises(RunError, match=message):
        predict(source, out, finished_run)
    listener = Listener()
    predict(source, out, finished_run, listen=listener)
    assert any("going on behind row 4" in note for note in listener.notes)
    assert [row["id"] for row in lines(out)] == list(range(8))


def test_device_is_not_replaced_by_a_file(finished_run: Path, tmp_path: Path) -> None:
    source, pipe = write_jsonl(tmp_path / "new.jsonl", rows(2)), tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RunError, match=r"pipe cannot be replaced: it is no regular file\. Leave --out away"):
        predict(source, pipe, finished_run)
    assert pipe.is_fifo()


def test_interrupt_says_what_is_kept(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(6)), tmp_path / "out.jsonl"
    real, count = workflow.Predictor._predicted, 0

    def predicted(self: Any, examples: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(self, examples)

    listener = Listener()
    monkeypatch.setattr(workflow.Predictor, "_predicted", predicted)
    with pytest.raises(KeyboardInterrupt):
        predict(source, out, finished_run, listen=listener)
    told = f"4 rows are kept in {partial.folder_of(out)}: the same command goes on from there"
    assert told in listener.notes


# Real kills ------------------------------------------------------------------------------------------------------


def killing(*arguments: Any) -> int:
    """Run the program that kills; return how many processes were."""
    command = [sys.executable, "-m", "tests.workflows.killing", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_kill_at_any_line_loses_and_doubles_nothing(finished_run: Path, tmp_path: Path) -> None:
    mixed = [row if n % 4 else {"id": n} for n, row in enumerate(rows(9))]
    source = write_jsonl(tmp_path / "new.jsonl", mixed)
    killed = killing(finished_run, source, tmp_path / "o", "lines", 3, "predict.chunk=2", "on_error=skip")
    assert killed > 100


@pytest.mark.slow
def test_kill_at_any_line_of_another_format_loses_and_doubles_nothing(tagging_run: Path, tmp_path: Path) -> None:
    source = write_conll(tmp_path / "new.conll", sentences(6))
    assert killing(tagging_run, source, tmp_path / "o", "lines", 7, "predict.chunk=2", "format=conll") > 40


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_double_nothing(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(2000))
    assert killing(finished_run, source, tmp_path / "o", "moments", 50, "predict.chunk=16") >= 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new.csv", "new.tsv", "new.parquet", "new.csv.gz"])
def test_kills_of_a_gzipped_output_lose_and_double_nothing(name: str, finished_run: Path, tmp_path: Path) -> None:
    source = table(tmp_path / name, 1000)
    assert killing(finished_run, source, tmp_path / "o.jsonl.gz", "moments", 10, "predict.chunk=16") >= 10


@pytest.mark.slow
def test_killed_command_goes_on(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(8000)), tmp_path / "out.jsonl"
    flags = ["--run", finished_run, "--out", out, "--precision", "float32", "--threads", 1, "--set", "predict.chunk=32"]
    command = [sys.executable, "-m", "bertkit", "predict", *map(str, [source, *flags])]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (partial.folder_of(out) / partial.STATE).is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on behind row" in again.stderr
    assert [row["id"] for row in lines(out)] == list(range(8000))


def test_unknown_way_with_errors_is_refused(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(1))
    with pytest.raises(ConfigError, match="--on-error ignore: there is stop and skip"):
        predict(source, None, finished_run, on_error="ignore")
    assert issubclass(ConfigError, BertkitError)
