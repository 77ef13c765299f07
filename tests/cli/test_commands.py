"""The commands as a user types them: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import reviews, run_on_terminal, write_jsonl
from tests.workflows.training import record, same_weights, train

COMMAND = [sys.executable, "-m", "bertkit"]
TINY = ["--set", "train.max_length=64", "--set", "train.epochs=1", "--precision", "float32", "--threads", "1"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def bertkit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs a command in this process, in an empty folder."""
    from bertkit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BERTKIT_RUNS", raising=False)

    def run(*arguments: Any) -> Done:
        monkeypatch.setattr(sys, "argv", ["bertkit", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> Path:
    """Return ``runs/`` with one finished run in it."""
    shutil.copytree(finished_run, tmp_path / "runs" / "one")
    return tmp_path / "runs"


def start(*arguments: Any, folder: Path, **options: Any) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "BERTKIT_RUNS"} | {"PYTHONPATH": str(Path.cwd())}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=folder, env=environment, **given)


def one_error(done: Done) -> str:
    """Return the one line of a fault."""
    assert done.code == 1, done
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if not line.startswith("encoder ")]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    return lines[0]


# The three commands --------------------------------------------------------------------------------------------


def test_three_commands_follow_each_other(bertkit: Any, tiny_encoder: Path, reviews_file: Path) -> None:
    trained = bertkit("finetune", reviews_file, "--encoder", tiny_encoder, *TINY)
    assert trained.code == 0
    assert re.search(r"^split +metric +score +95 % interval$", trained.out, re.MULTILINE)
    assert re.search(r"^validation +accuracy +\d\.\d{4} +\d\.\d{4} \.\. \d\.\d{4}$", trained.out, re.MULTILINE)
    assert "next: bertkit predict file.jsonl" in trained.err.splitlines()
    assert re.search(r"training on 72 examples, 3 steps, [\d,]{5,6} parameters, cpu, float32", trained.err)
    assert re.search(r"^step 3: validation accuracy \d", trained.err, re.MULTILINE)
    scored = bertkit("eval")
    assert scored.code == 0
    assert "newest finished run: runs/reviews-tiny-bert-001" in scored.err
    assert re.search(r"^validation +accuracy", scored.out, re.MULTILINE)
    predicted = bertkit("predict", reviews_file)
    assert predicted.code == 0
    rows = [json.loads(line) for line in predicted.out.splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in reviews(80)]
    for done in (trained, scored, predicted):
        assert "\x1b" not in done.out + done.err
        assert "\r" not in done.out + done.err


def test_finetune_json_is_one_object(bertkit: Any, tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    command = ("finetune", reviews_file, "--encoder", tiny_encoder, "--out", "here", "--json", *TINY)
    done = bertkit(*command)
    found = json.loads(done.out)
    assert list(found) == [
        "run", "task", "encoder", "scores", "best_step", "steps", "seconds", "examples_per_second", "tokens_per_second",
        "warnings",
    ]  # fmt: skip
    assert found["scores"]["validation"].keys() == {"accuracy", "accuracy_interval", "f1", "f1_interval"}
    assert (found["run"], found["steps"]) == ("here", 3)
    assert record(tmp_path / "here")["argv"][1] == "finetune"
    again = bertkit(*command)
    assert again.code == 0
    assert "here is finished already; nothing to do" in again.err
    assert json.loads(again.out)["scores"] == found["scores"]


def test_next_command_can_be_typed_as_it_stands(bertkit: Any, tiny_encoder: Path, reviews_file: Path) -> None:
    done = bertkit("finetune", reviews_file, "--encoder", tiny_encoder, "--out", "my run", *TINY)
    assert done.err.splitlines()[-1] == "next: bertkit predict file.jsonl --run 'my run'"


@pytest.mark.slow
def test_predict_json_counts_what_was_written(bertkit: Any, runs: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "new.jsonl", [{"text": "a good film"}, {"text": "film " * 100}])
    done = bertkit("predict", "new.jsonl", "--out", "out.jsonl", "--json", "--threads", 1)
    expected = {"run": str(Path("runs") / "one"), "num_rows": 2, "num_truncated": 1, "out": "out.jsonl"}
    assert (done.code, json.loads(done.out)) == (0, expected)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_predict_json_without_out_is_a_usage_error(bertkit: Any) -> None:
    done = bertkit("predict", "new.jsonl", "--json")
    assert (done.code, done.out) == (2, "")
    assert "--json counts what --out FILE holds" in " ".join(done.err.split())


def test_eval_json_is_one_object(bertkit: Any, runs: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "dev.jsonl", reviews(20, seed=5))
    done = bertkit("eval", "one", "--data", file, "--json", "--threads", 1)
    found = json.loads(done.out)
    assert list(found) == ["run", "task", "split", "num_examples", "scores", "report"]
    assert (found["run"], found["split"], found["num_examples"]) == ("runs/one", "dev", 20)


@pytest.mark.slow
def test_runs_folder_comes_from_flag_or_environment(
    bertkit: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.rename(tmp_path / "mine")
    assert "There is no finished run below runs" in one_error(bertkit("eval"))
    assert bertkit("eval", "--runs", "mine").code == 0
    monkeypatch.setenv("BERTKIT_RUNS", "mine")
    assert bertkit("eval").code == 0


def test_finetune_without_any_task_file(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "odd.jsonl", [{"text": r["text"], "stars": r["label"], "label": "x"} for r in reviews(40)])
    done = bertkit("finetune", "odd.jsonl", "--encoder", tiny_encoder, "--set", "columns.label=stars", "--json", *TINY)
    assert json.loads(done.out)["run"] == "runs/odd-tiny-bert-001"


@pytest.mark.slow
def test_relative_paths_mean_the_same_when_resumed_elsewhere(
    bertkit: Any, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", reviews(40))
    shutil.copytree(tiny_encoder, tmp_path / "enc")
    assert bertkit("finetune", "rows.jsonl", "--encoder", "enc", "--out", "here", *TINY).code == 0
    found = record(tmp_path / "here")
    (tmp_path / "here" / "run.json").write_text(json.dumps(found | {"status": "interrupted"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert bertkit("finetune", "--resume", tmp_path / "here", "--json").code == 0
    assert record(tmp_path / "here")["status"] == "finished"


# Predict -------------------------------------------------------------------------------------------------------


def test_predict_writes_to_a_file(bertkit: Any, runs: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "new.jsonl", reviews(5))
    done = bertkit("predict", "new.jsonl", "--out", "out.jsonl", "--threads", 1)
    assert (done.code, done.out) == (0, "")
    assert re.search(r"out\.jsonl: \d+ rows", done.err)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5


def test_predict_takes_a_text(bertkit: Any, runs: Path) -> None:
    done = bertkit("predict", "--text", "a good film", "--run", "one", "--threads", 1)
    assert json.loads(done.out)["prediction"]["label"] == "positive"


def test_bad_row_is_one_error(bertkit: Any, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"txt": "a"}\n')
    done = bertkit("predict", "bad.jsonl", "--run", "one")
    assert one_error(done) == "error: bad.jsonl:1: column 'text' is missing; there are 'txt'."


# Exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "glue/sst-2"],
        ["finetune", "nothing.jsonl", "--encoder", "minilm"],
        ["finetune", "glue/sst2", "--set", "train.epoch=1"],
        ["finetune", "glue/sst2", "--set", "train.epochs"],
        ["finetune", "glue/sst2", "--set", "train.epochs=0"],
        ["finetune", "--resume", "nowhere"],
        ["finetune", "glue/sst2", "--data", "nowhere", "--encoder", "./nowhere"],
        ["eval"],
        ["eval", "nowhere/at/all"],
        ["eval", "./nowhere"],
        ["predict", "nothing.jsonl"],
        ["predict", "."],
        ["check", "nothing.jsonl"],
        ["pretrain", "nothing.txt", "--encoder", "minilm"],
        ["pretrain", ".", "--size", "mini"],
        ["runs", "show"],
        ["runs", "show", "nowhere"],
        ["tasks", "show", "nowhere"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_every_fault_is_one_line_on_stderr(bertkit: Any, arguments: list[str]) -> None:
    message = one_error(bertkit(*arguments))
    assert len(message) > 20


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune"],
        ["finetune", "glue/sst2", "--resume", "x"],
        ["finetune", "glue/sst2", "--precision", "fp8"],
        ["finetune", "glue/sst2", "--limit", "-1"],
        ["finetune", "glue/sst2", "--sed", "1"],
        ["pretrain"],
        ["pretrain", "x", "--resume", "y"],
        ["predict"],
        ["predict", "x", "--text", "y"],
        ["predict", "x", "--threads", "many"],
        ["evaluate"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_wrong_usage_is_exit_code_2(bertkit: Any, arguments: list[str]) -> None:
    done = bertkit(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error" in done.err or "error" in done.err


def test_error_with_line_breaks_and_control_characters_stays_one_line(bertkit: Any, tmp_path: Path) -> None:
    done = bertkit("predict", "no\n\x1b[31msuch.jsonl")
    assert "\x1b" not in one_error(done)


def test_pretrain_shows_held_out_scores_and_what_comes_next(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    text = "\n\n".join("\n".join(["good film was very warm", "the tool was dull"] * 3) for _ in range(12))
    (tmp_path / "text.txt").write_text(text)
    words = ["text.txt", "--encoder", tiny_encoder, "--objective", "mlm+nsp", "--precision", "float32", "--threads", 1]
    settings = ["train.max_steps=2", "train.max_length=32", "pretrain.layout=blocks", "pretrain.valid_share=0.3"]
    words += [word for setting in settings for word in ("--set", setting)]
    done = bertkit("pretrain", *words)
    assert done.code == 0
    assert re.search(r"held-out +mlm_loss +\d\.\d+", done.out)
    assert "next: bertkit finetune TASK --encoder runs/pretrain-tiny-bert-001" in done.err
    found = json.loads(bertkit("pretrain", *words, "--out", "runs/pretrain-tiny-bert-001", "--json").out)
    assert found["task"] == "pretrain"
    assert set(found["scores"]["validation"]) >= {"mlm_loss", "perplexity", "mlm_accuracy", "nsp_accuracy"}
    assert bertkit("runs", "ls").out.count("mlm_loss") == 1


def test_check_exits_by_what_it_finds(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "good.jsonl", reviews(40))
    write_jsonl(tmp_path / "bad.jsonl", [*reviews(40), {"text": None, "label": "positive"}])
    common = ("--encoder", tiny_encoder, "--set", "train.max_length=64")
    good, bad = bertkit("check", "good.jsonl", *common), bertkit("check", "bad.jsonl", *common)
    assert (good.code, bad.code) == (0, 1)
    assert re.search(r"^split +rows +median tokens", good.out, re.MULTILINE)
    assert re.search(r"^train +40 ", good.out, re.MULTILINE)
    assert re.search(r"^positive +20 \(50.0%\)$", good.out, re.MULTILINE)
    assert "bad.jsonl:41: column 'text' is null, and must be a text" in bad.out
    as_json = bertkit("check", "bad.jsonl", "--json", *common)
    assert as_json.code == 1
    assert len(json.loads(as_json.out)["problems"]) == 1


def test_check_shows_lengths_duplicates_and_what_it_warns_of(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    long = {"text": "the film " * 20, "label": "negative"}
    made = [*reviews(40, seed=3), long, long | {"label": "positive"}, long | {"text": f"The film {long['text']}"}]
    write_jsonl(tmp_path / "some.jsonl", made)
    done = bertkit("check", "some.jsonl", "--encoder", tiny_encoder, "--set", "train.max_length=64")
    assert done.code == 0
    assert re.search(r"^33 to 64 +3 +#+$", done.out, re.MULTILINE)
    assert re.search(r"^32 +7.0% of rows, \d+.\d% of tokens$", done.out, re.MULTILINE)
    assert re.search(r"^some.jsonl:42 +some.jsonl:41 +1.00 +other +the film .* +the same$", done.out, re.MULTILINE)
    assert re.search(r"^some.jsonl:43 +some.jsonl:41 +0.9\d +same ", done.out, re.MULTILINE)
    assert re.search(r"^some.jsonl:41 some.jsonl:42 +negative / positive +the film", done.out, re.MULTILINE)
    assert "warning: 2 rows say the same as another and are labelled differently: some.jsonl:41" in done.out


def test_check_in_json_is_one_object_with_all_of_it(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "some.jsonl", [*reviews(20), reviews(1)[0]])
    found = json.loads(bertkit("check", "some.jsonl", "--encoder", tiny_encoder, "--json").out)
    assert found["duplicates"][0]["pairs"][-1]["row"] == "some.jsonl:21"
    assert {"warnings", "problems", "notes", "conflicts", "num_conflicts", "splits", "max_length"} <= found.keys()
    assert {"histogram", "cuts", "lengths", "unknown", "balance", "num_empty"} <= found["splits"][0].keys()


def test_check_computes_with_the_threads_it_is_given(
    bertkit: Any, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rayon, below the tokenizer and the near-duplicate search, reads the variable when it starts."""
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")
    write_jsonl(tmp_path / "some.jsonl", reviews(20))
    bertkit("check", "some.jsonl", "--encoder", tiny_encoder)
    assert os.environ["RAYON_NUM_THREADS"] == "7"
    bertkit("check", "some.jsonl", "--encoder", tiny_encoder, "--threads", 1)
    assert os.environ["RAYON_NUM_THREADS"] == "1"


def test_doctor_finds_nothing_wrong_here(bertkit: Any) -> None:
    done = bertkit("doctor", "--offline")
    assert done.code == 0
    assert re.search(r"^ok +training step +weights moved$", done.out, re.MULTILINE)
    assert {"subject", "state", "detail"} == json.loads(bertkit("doctor", "--offline", "--json").out)[0].keys()


def test_doctor_exits_1_where_training_cannot_work(bertkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertkit.workflows.doctor.NEEDED", ("no-such-package",))
    assert bertkit("doctor", "--offline").code == 1


def test_runs_are_listed_and_shown(bertkit: Any, runs: Path) -> None:
    listed = bertkit("runs", "ls")
    assert re.search(r"^runs/one +finished +42 +accuracy +1\.0000", listed.out, re.MULTILINE)
    shown = bertkit("runs", "show")
    assert re.search(r"^status +finished$", shown.out, re.MULTILINE)
    assert re.search(r"^train\.batch_size +8$", shown.out, re.MULTILINE)
    assert json.loads(bertkit("runs", "show", "--json").out)["status"] == "finished"
    assert json.loads(bertkit("runs", "ls", "--json").out)[0]["run"] == "runs/one"


def test_run_is_verified_as_table_and_as_json(bertkit: Any, runs: Path) -> None:
    shown = bertkit("runs", "verify", "--steps", "2")
    assert (shown.code, "loss then" in shown.out) == (0, True)
    assert "of the first 2 steps are the same, bit for bit" in shown.out.replace("\n", " ")
    assert json.loads(bertkit("runs", "verify", "one", "--steps", "2", "--json").out)["same"] is True


def test_run_that_is_not_the_same_again_exits_1(bertkit: Any, runs: Path) -> None:
    events = runs / "one" / "events.jsonl"
    events.write_text(events.read_text().replace('"gradient_norm": ', '"gradient_norm": 9'))
    done = bertkit("runs", "verify", "one", "--steps", "1", "--json")
    assert (done.code, json.loads(done.out)["same"]) == (1, False)


def test_dry_run_says_what_a_training_would_take(
    bertkit: Any, tiny_encoder: Path, reviews_file: Path, tmp_path: Path
) -> None:
    given = ["finetune", reviews_file, "--encoder", tiny_encoder, "--dry-run", *TINY]
    shown = bertkit(*given)
    assert shown.code == 0
    for name in ("steps", "tokens", "time of the steps", "memory", "disk"):
        assert re.search(rf"^\W*{name}\b", shown.out, re.MULTILINE), name
    found = json.loads(bertkit(*given, "--json").out)
    assert found["dry_run"] is True
    assert found["memory"] > found["memory_more"] > 0
    assert not (tmp_path / "runs").exists()


def test_dry_run_of_a_suite_is_wrong_usage(bertkit: Any) -> None:
    done = bertkit("finetune", "glue", "--dry-run")
    assert done.code == 2
    assert "--dry-run takes one TASK, without --seeds and --resume." in done.err


def test_no_runs_are_said_on_stderr(bertkit: Any) -> None:
    done = bertkit("runs", "ls")
    assert done.code == 0
    assert "there are no runs below runs" in done.err


# Real processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reader_that_goes_away_is_no_fault(runs: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "new.jsonl", [{"text": "the film " * 20, "n": n} for n in range(3000)])
    process = start("predict", "new.jsonl", "--threads", 1, "--set", "predict.chunk=64", folder=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(900) == 0, err
    assert json.loads(first)["n"] == 0
    assert err.splitlines() == ["newest finished run: runs/one"]


@pytest.mark.slow
def test_reader_that_never_reads_is_no_fault(runs: Path, tmp_path: Path) -> None:
    process = start("predict", "--text", "a good film", "--threads", 1, folder=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(900) == 0, err
    assert err.splitlines() == ["newest finished run: runs/one"]


def wait_for_steps(process: subprocess.Popen[str], run: Path, number: int) -> None:
    events = run / "events.jsonl"
    for _ in range(18000):
        if process.poll() is not None:
            raise AssertionError(f"it ended before the signal: {process.communicate()}")
        if events.is_file() and events.read_text().count('"event": "step"') >= number:
            return
        time.sleep(0.05)
    raise AssertionError("no step in a quarter of an hour")


LONG = ["--set", "train.max_steps=2000", "--set", "train.max_length=64", "--set", "train.batch_size=8"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_interrupted_training_is_saved_and_says_how_to_go_on(
    number: int, code: int, tiny_encoder: Path, reviews_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    common = ("--encoder", tiny_encoder, "--out", "run", "--json", "--threads", 1, *LONG)
    process = start("finetune", "reviews.jsonl", *common, folder=tmp_path)
    wait_for_steps(process, run, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, err
    assert out == ""
    assert "stopping after this step; once more stops at once" in err.splitlines()
    assert err.splitlines()[-1] == "next: bertkit finetune --resume run"
    assert "Traceback" not in err
    assert record(run)["status"] == "interrupted"
    assert not (run / "model").exists()
    newest = max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())
    steps = (run / "events.jsonl").read_text().count('"event": "step"')
    assert newest == steps


@pytest.mark.slow
def test_resumed_process_gives_the_weights_of_an_uninterrupted_one(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path
) -> None:
    settings = {"train.max_steps": 150, "train.batch_size": 8, "eval.resamples": 1000}
    common = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    common += [
        "--encoder",
        str(tiny_encoder),
        "--precision",
        "float32",
        "--threads",
        "1",
        "--set",
        "train.max_length=64",
    ]
    process = start("finetune", "reviews.jsonl", "--out", "cut", *common, folder=tmp_path)
    wait_for_steps(process, tmp_path / "cut", 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=900)
    assert process.returncode == 130
    again = start("finetune", "--resume", "cut", folder=tmp_path)
    said = again.communicate(timeout=900)
    assert again.returncode == 0, said
    again.communicate()
    whole = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "whole", settings={"train.epochs": 3, **settings})
    assert same_weights(tmp_path / "cut", whole.run)


@pytest.mark.slow
def test_interrupted_prediction_ends_quietly(runs: Path, tmp_path: Path) -> None:
    process = start("predict", "-", "--threads", 1, folder=tmp_path, stdin=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()  # newest finished run
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_killed_process_leaves_nothing_that_looks_whole(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    common = ("--encoder", tiny_encoder, "--threads", 1, *LONG)
    process = start("finetune", "reviews.jsonl", *common, folder=tmp_path)
    run = tmp_path / "runs" / "reviews-tiny-bert-001"
    wait_for_steps(process, run, 20)
    process.kill()
    process.communicate()
    assert record(run)["status"] == "running"
    listed = start("eval", folder=tmp_path)
    _, err = listed.communicate(timeout=900)
    assert listed.returncode == 1
    assert re.search(r"^error: There is no finished run below runs; .* is 'running'", err)


@pytest.mark.slow
def test_terminal_gets_a_live_bar(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    """stderr is a terminal, stdout a file: the bar lives on the one, JSON alone on the other."""
    command = ("finetune", "reviews.jsonl", "--encoder", tiny_encoder, "--json", "--threads", 1, *LONG)
    arguments = [*map(str, command), "--set", "train.max_steps=40"]
    code, shown = run_on_terminal([*COMMAND, *arguments], tmp_path, stdout=tmp_path / "out.json")
    assert code == 0, shown[-2000:]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))
    assert b"\x1b[" in shown
    assert re.search(r"training .*\d+/40 +loss \d\.\d{4} +lr \d\.\d+e-\d+ +[\d,]+ tokens/s", text)
    assert re.search(r"tokens/s +\d+:\d\d", text), "time left"
    assert json.loads((tmp_path / "out.json").read_text())["steps"] == 40


# runs compare ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(runs: Path) -> Path:
    """Return ``runs/`` with a second run, which has the last answer wrong."""
    shutil.copytree(runs / "one", runs / "two")
    file = runs / "two/predictions/validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[-1]["prediction"]["label"] = "negative" if rows[-1]["label"] == "positive" else "positive"
    write_jsonl(file, rows)
    return runs


def test_compare_shows_numbers_verdict_and_what_changed(bertkit: Any, pair: Path) -> None:
    done = bertkit("runs", "compare", "one", "two")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "A = runs/one, B = runs/two, 16 examples of validation"
    assert re.match(r"metric +A +B +B - A +95 % interval +p +test +significant$", lines[1])
    assert re.match(r"accuracy +1\.0000 +0\.9375 +-0\.0625 +-0\.1875 \.\. \+0\.0000 +1\.0000 +mcnemar +no$", lines[2])
    assert "accuracy: the difference is not significant (-0.0625, p = 1.0000, on 16 examples)" in lines
    assert "1 of 1 examples that changed" in lines
    assert re.match(r"16 +right -> wrong +\S", lines[-1])


def test_compare_as_json_and_into_a_file(bertkit: Any, pair: Path) -> None:
    done = bertkit("runs", "compare", "one", "two", "--json", "--out", "changes.jsonl")
    found = json.loads(done.out)
    assert found["metrics"]["accuracy"]["significant"] is False
    assert found["mcnemar"] == {"p": 1.0, "mid_p": 0.5}
    assert [json.loads(line) for line in Path("changes.jsonl").read_text().splitlines()] == found["changes"]
    assert "1 changed examples are in changes.jsonl" in done.err


def test_compare_of_other_examples_is_one_line(bertkit: Any, pair: Path) -> None:
    file = pair / "two/predictions/validation.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    done = bertkit("runs", "compare", "one", "two")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"error: The two were not scored on the same examples: .*\n", done.err)


# Suites ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glue_suite(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a suite of two tasks and two seeds; its data lacks the other tasks. Tests must not change it."""
    from tests.workflows.suites import TASKS, train_suite, write_glue

    folder = tmp_path_factory.mktemp("suite")
    data = write_glue(folder / "data", without=("CoLA", "MNLI", *(set(TASKS) - {"RTE", "STS-B"})))
    settings = {"glue/rte": {"init_from": "glue/stsb"}}
    return train_suite("glue", data=data, encoder=tiny_encoder, seeds=2, runs=folder / "runs", settings=settings).suite


def test_suite_prints_one_table(bertkit: Any, glue_suite: Path) -> None:
    done = bertkit("eval", glue_suite, "--report", "none")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"{glue_suite}, seeds 42, 43"
    assert re.match(r"task +metric +mean +standard deviation +median +best +training$", lines[1])
    assert re.match(r"glue/stsb +pearson +-?0\.\d{4} +0\.\d{4} +-?0\.\d{4} +-?0\.\d{4} +\d+ s$", lines[2])
    assert re.match(r"glue/stsb +spearmanr +-?0\.\d{4} +0\.\d{4} +-?0\.\d{4} +-?0\.\d{4}$", lines[3])
    assert lines[5].startswith("average of 2 tasks")
    assert lines[6] == "every run"
    seeds = [line.split()[2] for line in lines[8:14]]
    assert seeds == ["42", "43"] * 3
    assert sum(line.endswith("kept") for line in lines) == 3
    assert any(line.startswith("glue/mnli is not in the table: ") for line in lines)
    assert "glue/rte started from the body that glue/stsb trained, with a new head." in lines
    assert any("is kept, the best of 2 by accuracy on validation" in line for line in lines)
    assert lines[-1].endswith("its number is too good: report the mean.")


def test_suite_as_json_is_one_object(bertkit: Any, glue_suite: Path) -> None:
    found = json.loads(bertkit("eval", glue_suite, "--json", "--report", "none").out)
    assert found.keys() == {"suite", "runs", "summary"}
    assert len(found["runs"]) == 4
    assert list(found["summary"]["tasks"]["glue/rte"]["validation"]["accuracy"]) == [
        "mean", "standard_deviation", "median", "best", "values"
    ]  # fmt: skip
    assert found["summary"]["average"]["name"] == "average of 2 tasks"
    assert found["summary"]["kept"].keys() == {"glue/rte", "glue/stsb"}


@pytest.mark.slow
def test_killed_suite_goes_on_with_the_same_command(tiny_encoder: Path, tmp_path: Path) -> None:
    from tests.workflows.suites import write_glue

    data = write_glue(tmp_path / "data")
    given = ["finetune", "glue/rte,glue/wnli", "--data", data, "--encoder", tiny_encoder, "--out", "suite", *TINY]
    given += ["--set", "train.batch_size=2", "--set", "train.epochs=20", "--set", "glue/rte.init_from=glue/wnli"]
    process = start(*given, folder=tmp_path)
    while not list((tmp_path / "suite").glob("wnli/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert record(tmp_path / "suite/wnli")["status"] == "running"
    process = start(*given, folder=tmp_path)
    table, messages = process.communicate(timeout=900)
    assert process.returncode == 0, messages
    assert re.search(r"training on 12 examples, 120 steps, from step \d+,", messages)
    assert "next: bertkit eval suite" in messages
    assert record(tmp_path / "suite/rte")["started_from"] == "glue/wnli"
    process = start(*given, folder=tmp_path)
    again, messages = process.communicate(timeout=900)
    assert (process.returncode, again) == (0, table)
    assert "training on" not in messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "glue", "--submission", "out.zip"], "--submission wants: bertkit predict glue --run SUITE"),
        (["predict", "x.jsonl", "--run", "a", "--submission", "out.zip"], "--submission wants: bertkit predict glue"),
        (
            ["predict", "glue", "--run", "a", "--submission", "o.zip", "--out", "x"],
            "--out does not go with --submission",
        ),
        (["predict", "x.jsonl", "--data", "x"], "--data goes with --submission"),
    ],
)
def test_wrong_usage_of_a_submission_is_named(bertkit: Any, arguments: list[str], message: str) -> None:
    done = bertkit(*arguments)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())


def test_submission_without_all_tasks_is_one_error(bertkit: Any, glue_suite: Path) -> None:
    text = one_error(bertkit("predict", "glue", "--run", glue_suite, "--submission", "out.zip"))
    assert "has no finished run for 9 of the 11 files" in text
    assert not Path("out.zip").exists()
