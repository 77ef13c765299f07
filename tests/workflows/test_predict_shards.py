"""``predict --shard`` and ``--merge``: the bytes of a whole run, and what does not belong together is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertkit.errors import BertkitError, ConfigError, DataError, RunError
from bertkit.workflows import partial, shards
from bertkit.workflows import predict as workflow
from bertkit.workflows.merge import merge
from bertkit.workflows.shards import Head, Shard
from tests.conftest import questions, reviews, sentences, write_conll, write_jsonl
from tests.workflows.test_predict_resume import Killed, predict, rows
from tests.workflows.training import Listener, train


def part(source: Path, out: Path, run: Path, shard: str, **options: Any) -> Any:
    return predict(source, out, run, shard=shards.parse(shard), **options)


def parts(source: Path, out: Path, run: Path, of: int, **options: Any) -> None:
    for number in range(1, of + 1):
        part(source, out, run, f"{number}/{of}", **options)


def folder(out: Path, shard: str) -> Path:
    return shards.folder_of(out, shards.parse(shard))


# The same bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "of"), [(11, 1), (11, 2), (13, 3), (3, 5)])
def test_merged_parts_are_the_bytes_of_a_whole_run(number: int, of: int, finished_run: Path, tmp_path: Path) -> None:
    source, out, whole = write_jsonl(tmp_path / "new.jsonl", rows(number)), tmp_path / "o.jsonl", tmp_path / "w.jsonl"
    predict(source, whole, finished_run)
    parts(source, out, finished_run, of)
    assert not out.exists()
    found = merge(out)
    assert out.read_bytes() == whole.read_bytes()
    assert (found.num_shards, found.num_rows, found.num_rejected) == (of, number, 0)
    assert not partial.folder_of(out).exists()
    # They stay, and give the same again.
    out.unlink()
    merge(out, source=source)
    assert out.read_bytes() == whole.read_bytes()


def test_rejects_are_merged_in_order(finished_run: Path, tmp_path: Path) -> None:
    mixed: list[Any] = [row if n % 3 else {"id": n, "text": None} for n, row in enumerate(rows(17))]
    source, out, whole = write_jsonl(tmp_path / "new.jsonl", mixed), tmp_path / "o.jsonl", tmp_path / "w.jsonl"
    predict(source, whole, finished_run, on_error="skip")
    parts(source, out, finished_run, 3, on_error="skip")
    found = merge(out)
    assert (found.num_rows, found.num_rejected) == (11, 6)
    assert out.read_bytes() == whole.read_bytes()
    assert partial.rejects_of(out).read_bytes() == partial.rejects_of(whole).read_bytes()
    assert found.to_json()["num_rejected"] == 6


def test_gzipped_output_is_merged(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(9)), tmp_path / "o.jsonl.gz"
    predict(source, tmp_path / "w.jsonl.gz", finished_run)
    parts(source, out, finished_run, 2)
    merge(out)
    assert out.read_bytes() == (tmp_path / "w.jsonl.gz").read_bytes()
    assert len(gzip.decompress(out.read_bytes()).splitlines()) == 9


def test_columns_of_a_tagger_are_merged(tagging_run: Path, tmp_path: Path) -> None:
    source, out = write_conll(tmp_path / "new.conll", sentences(9), columns=3), tmp_path / "o.conll"
    predict(source, tmp_path / "w.conll", tagging_run, format="conll")
    parts(source, out, tagging_run, 2, format="conll")
    merge(out, source=source)
    assert out.read_bytes() == (tmp_path / "w.conll").read_bytes()
    # The parts hold rows, so that another format can be asked for.
    predict(source, tmp_path / "w.jsonl", tagging_run)
    merge(out, format="jsonl")
    assert out.read_bytes() == (tmp_path / "w.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"--format squad: token-tagging writes jsonl, conll\."):
        merge(out, format="squad")


@pytest.mark.slow
def test_answers_by_id_are_merged(questions_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", questions(7)), tmp_path / "o.json"
    predict(source, tmp_path / "w.json", questions_run, format="squad")
    parts(source, out, questions_run, 3, format="squad")
    merge(out)
    assert out.read_bytes() == (tmp_path / "w.json").read_bytes()
    assert list(json.loads(out.read_text())) == [row["id"] for row in questions(7)]


def test_truncated_rows_are_counted(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", [{"text": "a film " * 200}, *rows(4)]), tmp_path / "o.jsonl"
    parts(source, out, finished_run, 2)
    listener = Listener()
    assert merge(out, listen=listener).num_truncated == 1
    assert "1 of 5 rows (20.0%) are longer than 64 tokens and were cut" in listener.notes


def test_shard_predicts_its_own_chunks_only(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = workflow.Predictor._predicted
    monkeypatch.setattr(
        workflow.Predictor,
        "_predicted",
        lambda self, rows: (seen.extend(r["id"] for r in rows), real(self, rows))[1],  # type: ignore[func-returns-value]
    )
    source = write_jsonl(tmp_path / "new.jsonl", rows(11))
    assert part(source, tmp_path / "o.jsonl", finished_run, "2/3").num_rows == 4
    assert seen == [2, 3, 8, 9]


# Going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2])
def test_killed_shard_goes_on(after: int, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(15)), tmp_path / "o.jsonl"
    predict(source, tmp_path / "w.jsonl", finished_run)
    part(source, out, finished_run, "1/2")
    real, calls = workflow.Predictor._chunk, []

    def chunk(self: Any, rows: Any, **flags: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return real(self, rows, **flags)

    with monkeypatch.context() as patched:
        patched.setattr(workflow.Predictor, "_chunk", chunk)
        patched.setattr(partial, "SECONDS", 0)
        patched.setattr(partial.Partial, "leave", lambda self: self.close() or "")
        with pytest.raises(Killed):
            part(source, out, finished_run, "2/2")
    with pytest.raises(RunError, match=r"of 2 shards, 2/2 is not complete\. The same 'bertkit predict \.\.\. --shard'"):
        merge(out)
    listener = Listener()
    part(source, out, finished_run, "2/2", listen=listener)
    assert any("going on behind row" in note for note in listener.notes)
    merge(out)
    assert out.read_bytes() == (tmp_path / "w.jsonl").read_bytes()


def test_complete_shard_is_not_predicted_again(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(6)), tmp_path / "o.jsonl"
    part(source, out, finished_run, "1/2")
    listener = Listener()
    with monkeypatch.context() as patched:
        patched.setattr(workflow.Predictor, "_predicted", lambda self, rows: pytest.fail("it was predicted again"))
        part(source, out, finished_run, "1/2", listen=listener)
    assert f"{folder(out, '1/2')} was complete already" in listener.notes
    write_jsonl(source, rows(7))
    with pytest.raises(
        RunError, match=r"is complete with 6 rows, and the input has more\. Give the command that began"
    ):
        part(source, out, finished_run, "1/2")


def test_shard_without_rows_is_complete_and_says_so(finished_run: Path, tmp_path: Path) -> None:
    source, out, listener = write_jsonl(tmp_path / "new.jsonl", rows(3)), tmp_path / "o.jsonl", Listener()
    part(source, out, finished_run, "3/3", chunk=2, listen=listener)
    said = r"holds no rows: shards are dealt chunks of up to 2 rows (predict.chunk), and of 3 rows there are 2."
    assert any(said in note for note in listener.notes)
    part(source, out, finished_run, "1/3")
    part(source, out, finished_run, "2/3")
    assert merge(out).num_rows == 3


def test_bad_row_stops_a_shard_where_it_is(finished_run: Path, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", [*rows(4), {"id": 4}]), tmp_path / "o.jsonl"
    with pytest.raises(DataError, match=r"new\.jsonl:5: column 'text' is missing"):
        part(source, out, finished_run, "1/2")
    write_jsonl(source, rows(9))
    predict(source, tmp_path / "w.jsonl", finished_run)
    parts(source, out, finished_run, 2)
    merge(out)
    assert out.read_bytes() == (tmp_path / "w.jsonl").read_bytes()


def test_merge_that_was_killed_goes_on(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(11)), tmp_path / "o.jsonl"
    predict(source, tmp_path / "w.jsonl", finished_run)
    parts(source, out, finished_run, 2)
    real = partial.Partial.keep

    def keep(self: Any, *arguments: Any, **options: Any) -> None:
        if self.done.num_chunks == 3:
            raise Killed
        real(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(partial, "SECONDS", 0)
        patched.setattr(partial.Partial, "keep", keep)
        with pytest.raises(Killed):
            merge(out)
    assert not out.exists()
    listener = Listener()
    merge(out, listen=listener)
    assert f"{partial.folder_of(out)}: going on behind row 6" in listener.notes
    assert out.read_bytes() == (tmp_path / "w.jsonl").read_bytes()


# What does not belong together -----------------------------------------------------------------------------------


@pytest.fixture
def three(finished_run: Path, tmp_path: Path) -> Path:
    """Return an output with its three parts, of 13 rows."""
    source, out = write_jsonl(tmp_path / "new.jsonl", rows(13)), tmp_path / "o.jsonl"
    parts(source, out, finished_run, 3)
    return out


def test_missing_parts_are_named(three: Path) -> None:
    shutil.rmtree(folder(three, "2/3"))
    with pytest.raises(RunError, match=r"o\.jsonl cannot be merged: of 3 shards, 2/3 is missing\. Predict each with"):
        merge(three)
    state = folder(three, "1/3") / "state.json"
    text = state.read_text()
    state.unlink()
    with pytest.raises(RunError, match=r"of 3 shards, 2/3 is missing and 1/3 is not complete\. Predict each with --sh"):
        merge(three)
    state.write_text(text)
    shutil.rmtree(folder(three, "3/3"))
    with pytest.raises(RunError, match=r"of 3 shards, 2/3, 3/3 are missing"):
        merge(three)
    shutil.rmtree(folder(three, "1/3"))
    with pytest.raises(RunError, match=r"There are no parts of .*o\.jsonl \(o\.jsonl\.shard-1-of-2, \.\.\.\)\. Write"):
        merge(three)
    assert not three.exists()


def test_parts_of_two_divisions_are_refused(three: Path, finished_run: Path, tmp_path: Path) -> None:
    part(tmp_path / "new.jsonl", three, finished_run, "1/2")
    with pytest.raises(
        RunError, match=r"The parts of .*o\.jsonl are of 2 shards; 3 shards\. Delete the folders o\.json"
    ):
        merge(three)


@pytest.mark.slow
def test_parts_of_two_models_are_refused(three: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    other = train(reviews(40), encoder=tiny_encoder, out=tmp_path / "other").run
    shutil.rmtree(folder(three, "2/3"))
    part(tmp_path / "new.jsonl", three, other, "2/3")
    with pytest.raises(
        RunError, match=r"shard-1-of-3 was predicted with .*\(SHA-256 \w{12}\), and .*shard-2-of-3 with"
    ):
        merge(three)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 3}, r"was predicted with predict\.chunk 2, and .*2-of-3 with predict\.chunk 3\. Delete one of them"),
        ({"precision": "bf16"}, r"with precision float32, and .* with precision bf16"),
        ({"on_error": "skip"}, r"with --on-error stop, and .* with --on-error skip"),
        ({"settings": {"predict.column": "guess"}}, r"with predict\.column prediction, and .* predict\.column guess"),
        ({"settings": {"eval.batch_tokens": 64}}, r"with eval\.batch_tokens 0, and .* with eval\.batch_tokens 64"),
    ],
)
def test_parts_of_two_ways_are_refused(
    options: dict[str, Any], message: str, three: Path, finished_run: Path, tmp_path: Path
) -> None:
    shutil.rmtree(folder(three, "2/3"))
    part(tmp_path / "new.jsonl", three, finished_run, "2/3", **options)
    with pytest.raises(RunError, match=message):
        merge(three)


def test_parts_of_two_inputs_are_refused(three: Path, finished_run: Path, tmp_path: Path) -> None:
    changed = rows(13)
    changed[0]["text"] += " good"
    shutil.rmtree(folder(three, "2/3"))
    part(write_jsonl(tmp_path / "new.jsonl", changed), three, finished_run, "2/3")
    with pytest.raises(
        RunError, match=r"shard-1-of-3 and o\.jsonl\.shard-2-of-3 are of different inputs, of 13 and 13"
    ):
        merge(three)


def test_input_is_held_against_the_parts(three: Path, tmp_path: Path) -> None:
    merge(three, source=tmp_path / "new.jsonl")
    write_jsonl(tmp_path / "new.jsonl", rows(12))
    message = (
        r"new\.jsonl \(12 rows\) is not the input that the parts were predicted from \(13 rows\): a row, its place"
    )
    with pytest.raises(RunError, match=message):
        merge(three, source=tmp_path / "new.jsonl")


def flipped(file: Path) -> None:
    text = file.read_bytes()
    file.write_bytes(text[:-9] + bytes([text[-9] ^ 1]) + text[-8:])


def restated(place: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the rows of a part, and have its state say that they were written so."""
    import hashlib

    text = "".join(f"{line}\n" for line in change((place / "rows.jsonl").read_text().splitlines())).encode()
    (place / "rows.jsonl").write_bytes(text)
    state = json.loads((place / "state.json").read_text())
    state["done"] |= {"rows": hashlib.sha256(text).hexdigest(), "rows_size": len(text)}
    (place / "state.json").write_text(json.dumps(state))


DAMAGED = r"shard-2-of-3 is damaged: {}\. Copy it again, or delete it and predict this shard again"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda place: flipped(place / "rows.jsonl"), r"rows\.jsonl is not what was written"),
        (lambda place: (place / "rejects.jsonl").write_text("{}"), r"rejects\.jsonl is not what was written"),
        (lambda place: (place / "rows.jsonl").unlink(), r"rows\.jsonl cannot be read \(No such file or directory\)"),
        (lambda place: (place / "state.json").write_text("[]"), r"state\.json is not what was written"),
        (lambda place: restated(place, lambda lines: lines[:3]), r"chunk 4 is missing"),
        (lambda place: restated(place, lambda lines: lines[3:]), r"chunk 4 stands where chunk 1 should"),
        (lambda place: restated(place, lambda lines: lines[:-1]), r"rows of chunk 4 are missing"),
    ],
)
def test_damaged_part_is_refused(damage: Callable[[Path], Any], why: str, three: Path) -> None:
    damage(folder(three, "2/3"))
    with pytest.raises(RunError, match=DAMAGED.format(why)):
        merge(three)
    assert not three.exists()


def test_module_of_a_stranger_is_not_run(three: Path) -> None:
    for number in (1, 2, 3):
        state = folder(three, f"{number}/3") / "state.json"
        found = json.loads(state.read_text())
        found["about"]["settings"]["type"] = "evil.module"
        state.write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=r"--format conll: the parts name the Python module evil\.module .* jsonl\."):
        merge(three, format="conll")
    assert merge(three).num_rows == 13


def test_unfinished_output_of_another_kind_is_not_gone_on_with(
    three: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.workflows.test_predict_resume import cut

    cut(monkeypatch, 2, tmp_path / "new.jsonl", three, finished_run)
    with pytest.raises(
        RunError,
        match=r"o\.jsonl\.part holds rows predicted with merged shards None, and this command has merged shards 3",
    ):
        merge(three)


def test_two_processes_do_not_write_one_part(finished_run: Path, tmp_path: Path) -> None:
    from bertkit.workflows.locks import alone

    source, out = write_jsonl(tmp_path / "new.jsonl", rows(2)), tmp_path / "o.jsonl"
    folder(out, "1/2").mkdir()
    with (
        alone(folder(out, "1/2") / partial.LOCK),
        pytest.raises(RunError, match=r"shard-1-of-2 is being written by another process\. Wait for it"),
    ):
        part(source, out, finished_run, "1/2")


# Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", r"--shard is 'x', and must be K/N: --shard 3/16 is the third of 16, counted from 1\."),
        ("3", "must be K/N"),
        ("-1/3", "must be K/N"),
        ("0/3", r"--shard is '0/3', and there are shards 1/3 to 3/3\."),
        ("4/3", r"--shard is '4/3', and there are shards 1/3 to 3/3\."),
        ("0/0", r"--shard is '0/0', and there can be 1 to 100,000 shards\. Name another N of K/N\."),
        ("1/100001", "there can be 1 to 100,000 shards"),
    ],
)
def test_shard_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shards.parse(text)
    assert issubclass(ConfigError, BertkitError)


def test_shard_needs_an_output(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", rows(2))
    with pytest.raises(ConfigError, match=r"--shard 1/2 writes a part of an output: name it with --out FILE\."):
        predict(source, None, finished_run, shard=Shard(1, 2))


def test_folders_of_parts_are_in_order(tmp_path: Path) -> None:
    out = tmp_path / "o[1].jsonl"
    wanted = [Shard(number, 12) for number in range(1, 13)]
    for shard in reversed(wanted):
        shards.folder_of(out, shard).mkdir()
    (tmp_path / "o[1].jsonl.shard-1-of-12").mkdir()
    assert [shard for shard, _ in shards.folders(out)] == wanted
    assert shards.folder_of(out, Shard(3, 12)).name == "o[1].jsonl.shard-03-of-12"
    head = Head(chunk=4, num_before=9, num_rows=2, num_rejected=0, num_truncated=1)
    assert Head.read(head.line()) == head
