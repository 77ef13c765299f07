"""What goes wrong while a run trains, or between two parts of it, and what is left then."""

from __future__ import annotations

import errno
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bertkit import loop
from bertkit.adapters import base
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.errors import RunError
from bertkit.events import Event, Progress, Step
from bertkit.run import LOCK, Run
from bertkit.workflows import locks, training
from tests.conftest import questions, reviews, sentences, write_conll, write_jsonl, write_squad
from tests.test_loop import Setup
from tests.workflows.training import Listener, lines, record, same_weights, train

EPOCHS = {"train.epochs": 3, "train.learning_rate": 5e-3}
GOES_ON: dict[str, Any] = {"precision": "auto", "threads": 0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def events(run: Path) -> list[dict[str, Any]]:
    """Return the stored events without their clocks."""
    clocks = {"seconds", "tokens_per_second"}
    return [{k: v for k, v in event.items() if k not in clocks} for event in lines(run / "events.jsonl")]


def interrupted(file: Any, encoder: Path, out: Path, *, stop_at: int = 3, **options: Any) -> Path:
    listener = Listener(stop_at)
    given = {"settings": EPOCHS, "listen": listener, "should_stop": listener.should_stop, **options}
    assert train(file, encoder=encoder, out=out, **given).status == "interrupted"
    return out


# Another config, task, data or encoder ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"settings": EPOCHS | {"train.epochs": 4}}, r"train\.epochs is 4 now and was 3"),
        (
            {"settings": EPOCHS | {"train.batch_size": 8, "eval.resamples": 100}},
            r"train\.batch_size is 8 now and was 16",
        ),
        ({"limit": 50}, r"limit is 50 now and was 0"),
        ({"seed": 7}, r"seed is 7 now and was 42"),
        ({"threads": 2}, r"device\.threads is 2 now and was 1"),
    ],
    ids=["epochs", "the first of two", "limit", "seed", "threads"],
)
def test_same_out_with_another_setting_names_the_first_that_differs(
    change: dict[str, Any], difference: str, tiny_encoder: Path, reviews_file: Path, run: Path
) -> None:
    interrupted(reviews_file, tiny_encoder, run)
    before = (run / "events.jsonl").read_bytes()
    with pytest.raises(RunError, match=rf"was made from something else: {difference}\. Name another --out, or start"):
        train(reviews_file, encoder=tiny_encoder, out=run, **({"settings": EPOCHS} | change))
    assert (run / "events.jsonl").read_bytes() == before
    assert record(run)["status"] == "interrupted"


def test_same_out_with_another_task_is_refused(tiny_encoder: Path, tmp_path: Path, run: Path) -> None:
    one, other = (write_jsonl(tmp_path / f"{name}.jsonl", reviews(80)) for name in ("one", "other"))
    interrupted(one, tiny_encoder, run)
    with pytest.raises(RunError, match=r"was made from something else: task is 'other' now and was 'one'\. Name"):
        train(other, encoder=tiny_encoder, out=run, settings=EPOCHS)


@pytest.mark.parametrize(
    ("name", "again"),
    [("model.safetensors", "--resume"), ("tokenizer.json", "--out"), ("config.json", "--resume")],
)
def test_encoder_whose_files_changed_is_refused(
    name: str, again: str, tiny_encoder: Path, reviews_file: Path, tmp_path: Path, run: Path
) -> None:
    own = shutil.copytree(tiny_encoder, tmp_path / "own")
    interrupted(reviews_file, own, run)
    with (own / name).open("ab") as file:
        file.write(b" ")
    match = r"was made from something else: the files of the encoder are not what they were then\. Name another --out"
    given: dict[str, Any] = {"task": reviews_file, "encoder": own, "out": run, "settings": EPOCHS}
    with pytest.raises(RunError, match=match):
        train(**({"resume": run, **GOES_ON} if again == "--resume" else given))
    assert record(run)["status"] == "interrupted"


@pytest.mark.slow
def test_encoder_that_got_a_readme_is_the_same(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, run: Path
) -> None:
    own = shutil.copytree(tiny_encoder, tmp_path / "own")
    interrupted(reviews_file, own, run)
    (own / "README.md").write_text("new")
    assert train(resume=run, **GOES_ON).status == "finished"


# Interrupted anywhere --------------------------------------------------------------------------------------------


class At:
    """Asks training to stop as soon as an event of a kind has come so often."""

    def __init__(self, kind: type[Event], number: int, name: str = "") -> None:
        self.kind, self.left, self.name = kind, number, name
        self.steps_after = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.kind) and (not self.name or event.name == self.name):  # type: ignore[attr-defined]
            self.left -= 1

    def should_stop(self) -> bool:
        return self.left <= 0


FILES: dict[str, Callable[[Path], Path]] = {
    "sequence-classification": lambda folder: write_jsonl(folder / "data.jsonl", reviews(80)),
    "token-tagging": lambda folder: write_conll(folder / "data.conll", sentences(80)),
    "span-qa": lambda folder: write_squad(folder / "data.json", questions(80, unanswered=4), impossible=True),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["sequence-classification", *(pytest.param(k, marks=pytest.mark.slow) for k in list(FILES)[1:])]
)
def test_evaluation_that_is_interrupted_comes_again_and_all_is_equal(
    kind: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    """In the second evaluation of validation: the checkpoint of the step is written without its score."""
    file = FILES[kind](tmp_path)
    more = {"settings": EPOCHS | {"eval.batch_tokens": 64} | ({"options.stride": 8} if kind == "span-qa" else {})}
    whole = train(file, encoder=tiny_encoder, out=tmp_path / "whole", **more).run
    at = At(Progress, 1_000_000)
    seen: list[str] = []

    def listen(event: Event) -> None:
        seen.append(type(event).__name__)
        if isinstance(event, Progress) and seen.count("Scores") == 1 and seen[-2] == "Progress":
            at.left = 0

    cut = train(file, encoder=tiny_encoder, out=tmp_path / "cut", listen=listen, should_stop=at.should_stop, **more)
    assert cut.status == "interrupted"
    assert seen.count("Scores") == 1
    assert train(resume=cut.run, **GOES_ON).status == "finished"
    assert events(cut.run) == events(whole)
    assert same_weights(cut.run, whole)


@pytest.mark.slow
def test_scoring_at_the_end_that_is_interrupted_comes_again(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path
) -> None:
    whole = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "whole", settings=EPOCHS).run
    at = At(Progress, 1_000_000)
    seen: list[str] = []

    def listen(event: Event) -> None:
        seen.append(type(event).__name__)
        if isinstance(event, Progress) and "Stop" in seen:
            at.left = 0

    cut = train(
        reviews_file,
        encoder=tiny_encoder,
        out=tmp_path / "cut",
        settings=EPOCHS,
        listen=listen,
        should_stop=at.should_stop,
    )
    assert cut.status == "interrupted"
    assert not (cut.run / "model").exists()
    assert train(resume=cut.run, **GOES_ON).status == "finished"
    assert events(cut.run) == events(whole)
    assert same_weights(cut.run, whole)
    assert (cut.run / "scores.json").read_text() == (whole / "scores.json").read_text()


# Numbers that go wrong -------------------------------------------------------------------------------------------


@contextmanager
def broken_loss(step: int) -> Iterator[None]:
    """Let the loss be NaN from a step of one micro-batch on."""
    real, calls = SequenceClassification.loss, iter(range(1, 10_000))

    def loss(self: SequenceClassification, outputs: Any, batch: base.Batch) -> base.Loss:
        found = real(self, outputs, batch)
        return found if next(calls) < step else base.Loss(found.sum * math.nan, found.weight)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SequenceClassification, "loss", loss)
        yield


@pytest.mark.slow
def test_run_that_diverges_names_rows_and_keeps_its_best(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, run: Path
) -> None:
    whole = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "whole", settings=EPOCHS).run
    match = (
        r"Step [678]: the loss is nan at learning rate [\d.e-]+, on the rows (reviews\.jsonl:\d+, ){8}and \d+ more\. "
        r"Nothing was saved from this step, and the best checkpoint, of step 5, is untouched\. Try a lower train\."
    )
    with broken_loss(9), pytest.raises(loop.DivergedError, match=match):
        train(reviews_file, encoder=tiny_encoder, out=run, settings=EPOCHS)
    found = record(run)
    assert found["status"] == "failed"
    step = int(found["error"].split()[1].removesuffix(":"))
    assert len(found["error_rows"]) == 16
    assert all(row.startswith("reviews.jsonl:") for row in found["error_rows"])
    assert not (run / "model").exists()
    opened = Run.open(run)
    assert opened.checkpoints() == [5]
    assert not loop.not_finite(_with(opened.load_checkpoint(5)["model"]))
    assert max(event["step"] for event in events(run) if event["event"] == "step") == step - 1
    assert train(resume=run, **GOES_ON).status == "finished"
    assert not {"error", "error_rows"} & record(run).keys()
    assert events(run) == events(whole)
    assert same_weights(run, whole)


def _with(tensors: dict[str, Any]) -> Any:
    """Return a module that has these parameters."""
    import torch

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in tensors.items():
                self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(tensor, requires_grad=False))

    return Holder()


def test_model_that_is_not_finite_is_not_saved(tiny_encoder: Path, tmp_path: Path) -> None:
    import torch

    setup, run = Setup(tiny_encoder), Run.create(tmp_path, name="x", out=None, record={})
    with torch.no_grad():
        setup.loaded.model.classifier.weight[0, 0] = math.inf
    match = r"Weights of .*x-001 are not finite: classifier\.weight\. No model is saved\."
    with pytest.raises(RunError, match=match):
        training.save_model(run, setup.adapter, setup.loaded, setup.accelerator)
    assert not (run.folder / "model").exists()


# Two at once -----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from bertkit.workflows import locks
with locks.run_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def start(*command: Any, **options: Any) -> subprocess.Popen[str]:
    """Start a Python of its own, which finds this bertkit."""
    environment = {key: value for key, value in os.environ.items() if key != "BERTKIT_RUNS"}
    environment["PYTHONPATH"] = str(Path.cwd())
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, **pipes, **options)


@pytest.mark.slow
def test_second_process_in_a_folder_is_refused_until_the_first_is_dead(
    tiny_encoder: Path, reviews_file: Path, run: Path
) -> None:
    interrupted(reviews_file, tiny_encoder, run)
    before = record(run)
    with start("-c", HOLD, run) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        match = r"run is in use: another process trains in it\. Wait until it has ended, or name another --out\."
        with pytest.raises(RunError, match=match):
            train(resume=run, **GOES_ON)
        with pytest.raises(RunError, match=match):
            train(reviews_file, encoder=tiny_encoder, out=run, settings=EPOCHS)
        assert record(run) == before
        first.kill()
    assert train(resume=run, **GOES_ON).status == "finished"
    assert not (run / LOCK).exists()


@pytest.mark.slow
def test_new_folder_that_another_process_has_just_made_is_in_use(
    tiny_encoder: Path, reviews_file: Path, run: Path
) -> None:
    run.mkdir()
    with start("-c", HOLD, run) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"run is in use: another process trains in it"):
            train(reviews_file, encoder=tiny_encoder, out=run)
        first.kill()
    assert {path.name for path in run.iterdir()} == {LOCK}
    assert train(reviews_file, encoder=tiny_encoder, out=run).status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("finished", [False, True], ids=["trains", "finished"])
def test_run_that_another_process_made_meanwhile_is_not_taken_for_something_else(
    finished: bool, tiny_encoder: Path, reviews_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes its run while this one still reads the data."""
    real = training.prepare

    def prepare(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        monkeypatch.setattr(training, "prepare", real)
        if finished:
            train(reviews_file, encoder=tiny_encoder, out=run)
        else:
            interrupted(reviews_file, tiny_encoder, run, settings={})
        return found

    monkeypatch.setattr(training, "prepare", prepare)
    if finished:
        with pytest.raises(RunError, match=r"run was finished by another process in this moment\. Give the command ag"):
            train(reviews_file, encoder=tiny_encoder, out=run)
    else:
        assert train(reviews_file, encoder=tiny_encoder, out=run).status == "finished"


def test_lock_is_given_back_after_a_fault(run: Path) -> None:
    run.mkdir()
    with pytest.raises(ZeroDivisionError), locks.run_folder(run):
        raise ZeroDivisionError
    with locks.run_folder(run):
        assert (run / LOCK).exists()
    assert list(run.iterdir()) == []


def test_folder_that_takes_no_lock_is_one_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system without a lock daemon."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    run.mkdir()
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match=r"run cannot be written: No locks available\. Free space or name another --out"):
        locks.run_folder(run).__enter__()


def test_lock_that_cannot_be_taken_away_does_no_harm(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    run.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with locks.run_folder(run):
            pass
    assert (run / LOCK).exists()
    with locks.run_folder(run):
        pass


@pytest.mark.slow
def test_of_processes_that_start_together_one_trains(tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    settings = ["--set", "train.max_steps=60", "--set", "train.max_length=64"]
    command = ["-m", "bertkit", "finetune", reviews_file, "--encoder", tiny_encoder, "--out", run, *settings]
    processes = [start(*command) for _ in range(3)]
    ended = [(process.communicate(timeout=900)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ended)[0] == 0
    for said, code in ended:
        assert code == 0 or "is in use: another process trains in it" in said or "finished by another process" in said
    assert record(run)["status"] == "finished"
    assert [event["step"] for event in events(run) if event["event"] == "step"] == list(range(1, 61))


# Disks that fail under a process that trains ---------------------------------------------------------------------

LONG = {"train.max_steps": 150, "train.max_length": 64, "train.batch_size": 8, "eval.resamples": 0}
COMMON = ["--precision", "float32", "--threads", "1"]


def wait_for(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait for a checkpoint of a step, or a later one."""
    for _ in range(6000):
        assert process.poll() is None, process.communicate()
        if any(int(path.name.removeprefix("step-")) >= step for path in run.glob("checkpoints/step-*")):
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint in five minutes")


@pytest.mark.slow
def test_quota_that_is_used_up_midway_is_one_line_and_the_run_goes_on_after_it(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, run: Path
) -> None:
    """The system itself refuses to write more of a file, in the process that trains."""
    settings = [f"--set={key}={value}" for key, value in LONG.items()] + ["--set=train.save_steps=3"]
    command = ["finetune", reviews_file, "--encoder", tiny_encoder, "--out", run, *COMMON, *settings]
    process = start("-m", "bertkit", *command)
    wait_for(run, 6, process)
    size = (next(run.glob("checkpoints/step-*")) / "model.safetensors").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    _, said = process.communicate(timeout=900)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: ")
    assert "cannot be written: " in said.splitlines()[-1]
    assert "File too large" in said.splitlines()[-1]
    left = Run.open(run)
    state, faults = left.newest_checkpoint()
    assert state is not None
    assert faults == []
    assert not [path for path in run.rglob(".*") if path.name != LOCK]
    assert train(resume=run, **GOES_ON).status == "finished"
    whole = train(
        reviews_file, encoder=tiny_encoder, out=tmp_path / "whole", settings=LONG | {"train.save_steps": 3}
    ).run
    assert events(run) == events(whole)
    assert same_weights(run, whole)


@pytest.mark.slow
def test_permission_that_is_lost_midway_is_one_line_and_the_run_goes_on_after_it(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, run: Path
) -> None:
    whole = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "whole", settings=EPOCHS).run
    steps: list[Event] = []

    def listen(event: Event) -> None:
        steps.extend([event] if isinstance(event, Step) else [])
        if len(steps) == 7:
            lose_permission(run)

    try:
        with pytest.raises(
            RunError, match=r"run cannot be written: Permission denied\. Free space or name another --out"
        ):
            train(reviews_file, encoder=tiny_encoder, out=run, settings=EPOCHS, listen=listen)
    finally:
        regain_permission(run)
    assert len(steps) in (7, 8)  # whether events are synced in between is a matter of time
    assert record(run)["status"] == "running"
    assert Run.open(run).checkpoints() == [5]
    assert Run.open(run).newest_checkpoint()[1] == []
    assert train(resume=run, **GOES_ON).status == "finished"
    assert events(run) == events(whole)
    assert same_weights(run, whole)


def lose_permission(run: Path) -> None:
    """Take the right to write into a run away; nothing is forbidden to root, who becomes somebody else."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        return
    for path in [*run.rglob("*"), run]:
        path.chmod(path.stat().st_mode & ~0o222)


def regain_permission(run: Path) -> None:
    """Give it back."""
    if os.getuid() == 0:
        os.seteuid(0)
        return
    for path in [run, *run.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


# Processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL], ids=["SIGUSR1", "SIGKILL"])
def test_no_process_outlives_a_training(number: int, tiny_encoder: Path, reviews_file: Path, run: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in LONG.items()] + ["--set=train.save_steps=3"]
    command = ["finetune", reviews_file, "--encoder", tiny_encoder, "--out", run, *settings]
    process = start("-m", "bertkit", *command, start_new_session=True)
    wait_for(run, 3, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=900)
    assert process.returncode == (143 if number == signal.SIGUSR1 else -number), said
    if number == signal.SIGUSR1:
        assert said.splitlines()[-1] == f"next: bertkit finetune --resume {run}"
        assert record(run)["status"] == "interrupted"
        assert not list(run.rglob(".*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
