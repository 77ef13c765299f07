"""Prediction by several processes: the bytes of one, one voice, and an end that all of them find."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertkit import infer
from bertkit.errors import BertkitError, ConfigError, DataError, RunError
from bertkit.workflows import partial, shards
from bertkit.workflows.merge import merge
from bertkit.workflows.predict import predict_file
from tests.conftest import questions, reviews, sentences, write_conll, write_jsonl
from tests.several import together
from tests.workflows.training import Listener


def rows(number: int) -> list[dict[str, Any]]:
    return [{"id": n, "text": row["text"]} for n, row in enumerate(reviews(number, seed=6))]


def predicted(source: Path | None, out: Path | None, run: Path, options: dict[str, Any]) -> tuple[int, list[str]]:
    """Predict, in each of the processes that this runs in; return the rows counted, and what was told."""
    listener = Listener()
    given = {"precision": "float32", "threads": 1, "device": "cpu", "listen": listener, **options}
    given["settings"] = {"predict.chunk": 100, "eval.batch_tokens": 256} | given.get("settings", {})
    if "text" in given:
        given["stdin"] = io.BytesIO(given.pop("text").encode())
    lines = predict_file(source, out=out, run=run, **given)
    found = list(lines)
    return lines.num_rows, listener.notes + found


def written(number: int, source: Path, out: Path, run: Path, **options: Any) -> bytes:
    results = together(number, predicted, source, out, run, options)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    # The others have no rows, and say nothing.
    assert [result for result in results[1:] if result != (0, [])] == []
    return out.read_bytes()


def test_output_of_two_processes_is_that_of_one(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(230))
    one = written(1, source, tmp_path / "one.jsonl", finished_run)
    assert one.count(b"\n") == 230
    assert written(2, source, tmp_path / "two.jsonl", finished_run) == one


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [4096, 100])
def test_output_does_not_depend_on_the_number_of_processes(chunk: int, finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(1013))
    settings = {"predict.chunk": chunk, "eval.batch_tokens": 512}
    found = [
        written(number, source, tmp_path / f"{number}.jsonl", finished_run, settings=settings)
        for number in (1, 2, 3, 4)
    ]
    assert found[0].count(b"\n") == 1013
    assert [json.loads(line)["id"] for line in found[0].splitlines()] == list(range(1013))
    assert found[1:] == found[:1] * 3


@pytest.mark.slow
def test_other_formats_and_types_are_those_of_one_process(
    tagging_run: Path, questions_run: Path, tmp_path: Path
) -> None:
    tagged = write_conll(tmp_path / "new.conll", sentences(150))
    asked = write_jsonl(tmp_path / "new.jsonl", questions(150))
    for run, source, kind in ((tagging_run, tagged, "conll"), (questions_run, asked, "squad")):
        one, two = (written(number, source, tmp_path / f"{kind}{number}", run, format=kind) for number in (1, 2))
        assert two == one


@pytest.mark.slow
def test_bad_rows_are_skipped_as_by_one_process(finished_run: Path, tmp_path: Path) -> None:
    mixed = [row if n % 7 else {"id": n} for n, row in enumerate(rows(150))]
    source = write_jsonl(tmp_path / "new.jsonl", mixed)  # type: ignore[arg-type]
    outs = [tmp_path / f"{number}.jsonl" for number in (1, 2)]
    one, two = (written(n, source, out, finished_run, on_error="skip") for n, out in enumerate(outs, start=1))
    assert two == one
    assert partial.rejects_of(outs[1]).read_bytes() == partial.rejects_of(outs[0]).read_bytes()


def test_lines_without_a_file_are_the_main_processs(finished_run: Path, tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows(120))
    one, two = (together(n, predicted, None, None, finished_run, {"text": text}) for n in (1, 2))
    assert one[0][0] == 120
    assert two == [one[0], (0, [])]


@pytest.mark.slow
def test_shards_of_several_processes_are_merged(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(530)), tmp_path / "out.jsonl"
    one = written(1, source, tmp_path / "one.jsonl", finished_run)
    for shard, number in (("1/3", 2), ("2/3", 1), ("3/3", 3)):
        results = together(number, predicted, source, out, finished_run, {"shard": shards.parse(shard)})
        assert [isinstance(result, BaseException) for result in results] == [False] * number
    merge(out)
    assert out.read_bytes() == one


def of_this_machine(folder: Path, source: Path) -> Any:
    """Predict with the model at the same place of another machine."""
    import os

    from bertkit import processes

    processes.local_size = lambda: 1
    os.chdir(folder / os.environ["RANK"])
    return predicted(source, None, Path("run"), {})


def test_another_model_on_another_machine_is_refused(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(3))
    for rank in "01":
        shutil.copytree(finished_run, tmp_path / rank / "run")
    same = together(2, of_this_machine, tmp_path, source)
    assert [number for number, _ in same] == [3, 0]
    config = tmp_path / "1" / "run" / "model" / "config.json"
    config.write_text(config.read_text().replace("{", '{"other": 1,', 1))
    errors = together(2, of_this_machine, tmp_path, source)
    assert [type(error) for error in errors] == [RunError] * 2
    message = r"run is another model on this machine than on the main process's \(SHA-256 \w{12} and \w{12}\)\. Copy it"
    assert re.search(message, str(errors[0]))
    assert [error.rank for error in errors] == [1, 1]


# Ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fault_of_the_main_process_is_raised_by_all(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [*rows(150), {"id": 1}])
    errors = together(2, predicted, source, tmp_path / "out.jsonl", finished_run, {})
    assert [type(error) for error in errors] == [DataError] * 2
    assert "new.jsonl:151: column 'text' is missing" in str(errors[1])
    assert "100 rows are kept in" in str(errors[0])
    # The rest is predicted by another number of processes, as if nothing had been.
    source = write_jsonl(source, rows(230))
    two = written(3, source, tmp_path / "out.jsonl", finished_run)
    assert two == written(1, source, tmp_path / "one.jsonl", finished_run)


def test_fault_before_the_first_row_is_raised_by_all(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(3))
    errors = together(2, predicted, source, tmp_path / "no" / "out.jsonl", finished_run, {})
    assert [type(error) for error in errors] == [RunError] * 2
    errors = together(2, predicted, tmp_path / "absent.jsonl", None, finished_run, {})
    assert all("absent.jsonl" in str(error) for error in errors)
    errors = together(2, predicted, source, None, tmp_path / "absent", {})
    assert all(isinstance(error, BertkitError) for error in errors)


def broken(source: Path, out: Path, run: Path) -> Any:
    """Predict, and let the other process fail in the second chunk."""
    from bertkit import processes
    from bertkit.adapters.sequence_classification import SequenceClassification

    real, calls = SequenceClassification.reduce, []

    def reduce(self: Any, outputs: Any, batch: Any) -> Any:
        calls.append(len(batch["input_ids"]))
        if processes.rank() == 1 and sum(calls) > 60:
            raise DataError("a fault of its own.")
        return real(self, outputs, batch)

    SequenceClassification.reduce = reduce  # type: ignore[method-assign]
    return predicted(source, out, run, {})


def test_fault_of_another_process_is_raised_by_all(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(330))
    errors = together(2, broken, source, tmp_path / "out.jsonl", finished_run)
    assert [type(error) for error in errors] == [DataError] * 2
    assert ["a fault of its own." in str(error) for error in errors] == [True, True]


def one_line_taken(source: Path, run: Path) -> str:
    """Predict, take one line, and leave."""
    settings = {"predict.chunk": 10}
    lines = predict_file(source, out=None, run=run, precision="float32", threads=1, device="cpu", settings=settings)
    found = next(lines, "")
    lines.close()
    lines.close()
    return found


def test_reader_that_has_enough_lets_all_end(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(40))
    first, nothing = together(2, one_line_taken, source, finished_run)
    assert json.loads(first)["id"] == 0
    assert nothing == ""


def short_of_memory(source: Path, out: Path, run: Path) -> Any:
    """Predict, where the other process has no memory for as many tokens as the main one has."""
    from bertkit import processes

    real: Any = infer._reduced
    raised: list[int] = []

    def reduced(adapter: Any, model: Any, feed: Any, rows: Any, *rest: Any) -> Any:
        if processes.rank() == 1 and len(rows) > 4 and len(raised) < 2:
            raised.append(1)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return real(adapter, model, feed, rows, *rest)

    infer._reduced = reduced  # type: ignore[assignment]
    return predicted(source, out, run, {})


@pytest.mark.slow
def test_smaller_batches_of_one_process_are_those_of_all(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(230))
    results = together(2, short_of_memory, source, tmp_path / "out.jsonl", finished_run)
    assert results[0][0] == 230
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(230))


def test_openvino_is_one_processs(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(3))
    errors = together(2, predicted, source, None, finished_run, {"backend": "openvino"})
    assert [type(error) for error in errors] == [ConfigError] * 2
    assert "--backend openvino uses all cores from one process, so it runs in one. Drop --processes" in str(errors[0])
