"""Sweeps: what is tried, by whom, what is chosen, and going on after a kill."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, RunError, TaskError
from bertkit.events import Note, Scores, ignore
from bertkit.loop import DivergedError
from bertkit.run import Run, find
from bertkit.workflows.runs import ls
from bertkit.workflows.sweep import space as spaces
from bertkit.workflows.sweep import train as workflow
from bertkit.workflows.sweep.space import Range
from bertkit.workflows.sweep.table import Swept
from bertkit.workflows.training import Finetuned
from tests.conftest import reviews, write_jsonl
from tests.workflows.training import Listener, record

SHORT = {"train.max_length": 64, "eval.resamples": 0}
ONE_EPOCH = {"train.epochs": 1, "train.batch_size": 16}
RATES = {"train.learning_rate": [1e-3, 2e-3, 3e-3]}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Return a task with a labelled test split."""
    for seed, name in enumerate(("train", "validation", "test")):
        write_jsonl(tmp_path / f"{name}.jsonl", reviews(40 if name == "train" else 16, seed=seed))
    files = 'train = "train.jsonl", validation = "validation.jsonl", test = "test.jsonl"'
    text = f'type = "sequence-classification"\n[data]\nfiles = {{ {files} }}\n'
    (tmp_path / "films.toml").write_text(text)
    return tmp_path / "films.toml"


@dataclass
class Fake:
    """Stands in for ``finetune``: the score is a thousand times the rate, one evaluation an epoch."""

    calls: list[dict[str, Any]]
    act: Callable[[dict[str, Any]], None] = lambda settings: None

    def __call__(self, task: Any, **given: Any) -> Finetuned:
        train = task.settings["train"]
        self.calls.append(
            train | {"folder": given["out"].name, "start_from": given["start_from"], "encoder": given["encoder"]}
        )
        self.act(train)
        score, status = 1000 * train["learning_rate"], "finished"
        for number in range(1, 4):
            scores = {"accuracy": score * number / 3}
            given["listen"](Scores(step=number, split="validation", scores=scores, metric="accuracy", best=True))
            status = "interrupted" if given["should_stop"]() else status
            if status == "interrupted":
                break
        return Finetuned(
            run=given["out"], task="t", encoder="e", status=status, scores={"validation": {"accuracy": score}}
        )

    @property
    def rates(self) -> list[float]:
        return [call["learning_rate"] for call in self.calls]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake([])
    monkeypatch.setattr(workflow, "finetune", made)
    return made


@pytest.fixture
def sweep(task: Path, tiny_encoder: Path, tmp_path: Path) -> Callable[..., Swept]:
    def run(given: Any = RATES, **options: Any) -> Swept:
        if "resume" not in options:
            settings = {"settings": SHORT | options.pop("settings", {}), "encoder": tiny_encoder}
            options = {"task": task, "grid": given, "precision": "float32", "threads": 1, **settings, **options}
        return bertkit.sweep(runs=options.pop("runs", tmp_path / "runs"), **options)

    return run


# What is tried ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_default_is_the_papers_grid() -> None:
    grid = spaces.points(spaces.parse(None, trials=0, fixed={}))
    assert len(grid) == 18
    assert grid[0] == {"train.batch_size": 16, "train.learning_rate": 5e-5, "train.epochs": 2}
    assert spaces.parse(None, trials=9, fixed={})["train.learning_rate"] == Range(low=1e-5, high=1e-4)


@pytest.mark.slow
def test_default_leaves_out_what_is_held() -> None:
    assert "train.epochs" not in spaces.parse(None, trials=0, fixed={"train.epochs": 1})
    assert list(spaces.parse(None, trials=0, fixed={"train": {"max_steps": 5}})) == [
        "train.batch_size",
        "train.learning_rate",
    ]


@pytest.mark.slow
def test_grid_reads_values_as_set_does() -> None:
    given = [
        "train.learning_rate=1e-5,2e-5",
        "train.on_long=truncate,window",
        "train.fast=true,false",
        "train.epochs=3",
    ]
    assert spaces.parse(given, trials=0, fixed={}) == {
        "train.learning_rate": (1e-5, 2e-5),
        "train.on_long": ("truncate", "window"),
        "train.fast": (True, False),
        "train.epochs": (3,),
    }
    whole = spaces.parse(["a=2..8", "b=1e-5..1e-3"], trials=3, fixed={})
    assert whole == {"a": Range(low=2, high=8), "b": Range(low=1e-5, high=1e-3)}
    assert [(one.whole, one.log) for one in whole.values() if isinstance(one, Range)] == [(True, False), (False, True)]
    assert spaces.from_json(json.loads(json.dumps(spaces.to_json(whole)))) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "fixed", "message"),
    [
        (["train.epochs"], {}, r"--grid takes KEY=A,B,C, .* and got 'train.epochs'"),
        (["train.epochs="], {}, "and got 'train.epochs='"),
        (["train.epochs=1,2", "train.epochs=3"], {}, "--grid names train.epochs twice"),
        (["train.epochs=1,2,1"], {}, "--grid train.epochs names 1 twice"),
        (["train.epochs=1,2"], {"train.epochs": 3}, "--grid tries train.epochs, and --set holds it at 3"),
        (["train.epochs=1,2"], {"train.max_steps": 3}, "which --set train.max_steps makes void"),
        (["train.epochs=1..4"], {}, "--grid train.epochs is a range, .* --trials N draws from it"),
        (["train.epochs=4..1"], {}, "train.epochs=4..1 is no range"),
        (["train.epochs=a..b"], {}, "train.epochs=a..b is no range"),
        ({"train.epochs": []}, {}, "--grid train.epochs names no value"),
        ({"labels": [["a", "b"]]}, {}, r"--grid labels has \['a', 'b'\], which is no number"),
    ],
)
def test_grid_that_does_not_do_is_refused(given: Any, fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spaces.parse(given, trials=0, fixed=fixed)


@pytest.mark.slow
def test_settings_are_checked_before_anything_is_trained(sweep: Any, fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs is -1"):
        sweep({"train.learning_rate": [1e-3], "train.epochs": [1, -1]})
    with pytest.raises(ConfigError, match=r"train\.epoch is not a setting. Did you mean 'epochs'"):
        sweep({"train.epoch": [1]})
    with pytest.raises(TaskError, match="'lr' is not a key of a task"):
        sweep({"lr": [1]})
    with pytest.raises(ConfigError, match="--trials 4 is more than the 3 combinations there are"):
        sweep(trials=4)
    held = {"train.batch_size": 8, "train.learning_rate": 1e-3, "train.epochs": 1}
    with pytest.raises(ConfigError, match="--set holds everything that the default grid tries"):
        sweep(None, settings=held)
    with pytest.raises(ConfigError, match="sweep needs a task"):
        bertkit.sweep()
    assert not fake.calls
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_missing_package_is_one_line(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    with pytest.raises(ConfigError, match=r"not installed: pip install 'bertkit\[sweep\]'"):
        sweep()


# What comes of it ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_best_by_validation_is_named_with_the_number_of_trials(sweep: Any, fake: Fake) -> None:
    found = sweep()
    assert fake.rates == [1e-3, 2e-3, 3e-3]
    assert [call["folder"] for call in fake.calls] == ["trial-001", "trial-002", "trial-003"]
    assert found.best == found.trials[2]
    assert found.best.score == pytest.approx(3)
    assert found.best.run == str(found.sweep / "trial-003")
    assert found.verdict.startswith(
        "The best of 3 trials (3 finished) by accuracy on validation is trial 3 with 3.0000"
    )
    assert "that number is too good" in found.verdict
    stored = json.loads((found.sweep / "sweep.json").read_text())
    assert (stored["status"], stored["num_trials"], stored["best"]["trial"]) == ("finished", 3, 3)


@pytest.mark.slow
def test_test_split_is_not_looked_at(sweep: Any) -> None:
    found = sweep({"train.learning_rate": [5e-3]})
    run = Run.open(Path(found.best.run))
    assert list(run.scores()["splits"]) == ["validation"]
    assert found.best.score == run.scores()["splits"]["validation"]["accuracy"]
    assert not (run.folder / "predictions/test.jsonl").exists()
    assert found.unseen == ("test",)
    assert bertkit.evaluate(run.folder, split="test", threads=1).split == "test"


@pytest.mark.slow
def test_trial_whose_numbers_run_away_fails_alone(sweep: Any, fake: Fake) -> None:
    def act(settings: dict[str, Any]) -> None:
        if settings["learning_rate"] == 3e-3:
            raise DivergedError("Step 2: the loss is nan at learning rate 0.003.")

    fake.act = act
    found = sweep()
    assert [trial.state for trial in found.trials] == ["finished", "finished", "failed"]
    assert found.trials[2].error.startswith("Step 2: the loss is nan")
    assert found.best.trial == 2
    assert "(2 finished, 1 failed)" in found.verdict
    assert sweep(out=found.sweep).already


@pytest.mark.slow
def test_all_trials_failing_is_an_error(sweep: Any, fake: Fake) -> None:
    def act(settings: dict[str, Any]) -> None:
        raise DivergedError("Step 2: the loss is nan.")

    fake.act = act
    with pytest.raises(RunError, match=r"All 3 trials of .* failed; the first: Step 2: the loss is nan"):
        sweep()


@pytest.mark.slow
def test_score_that_is_no_number_is_never_the_best(sweep: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fake.__call__

    def nan(task: Any, **given: Any) -> Finetuned:
        found = real(task, **given)
        if task.settings["train"]["learning_rate"] == 3e-3:
            found.scores["validation"]["accuracy"] = float("nan")
        return found

    monkeypatch.setattr(workflow, "finetune", nan)
    found = sweep()
    assert found.trials[2].score is None
    assert found.best.trial == 2
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.slow
def test_real_divergence_is_told_apart_from_other_faults(sweep: Any) -> None:
    rates = {"train.learning_rate": [1e38, 1e-3]}
    found = sweep(rates, settings={"train.warmup_ratio": 0, "train.max_grad_norm": 0, "train.batch_size": 8})
    assert [trial.state for trial in found.trials] == ["failed", "finished"]


# Drawing and pruning ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_drawn_settings_are_the_same_again_and_go_on_where_more_are_asked_for(
    sweep: Any, fake: Fake, tmp_path: Path
) -> None:
    ranges = {"train.learning_rate": "1e-4..1e-2", "train.batch_size": [8, 16]}
    sweep(ranges, trials=12, out=tmp_path / "whole")
    whole = [(call["learning_rate"], call["batch_size"]) for call in fake.calls]
    assert len(set(whole)) == 12
    assert all(1e-4 <= rate <= 1e-2 for rate, _ in whole)
    fake.calls.clear()
    sweep(ranges, trials=5, out=tmp_path / "parts")
    found = sweep(ranges, trials=12, out=tmp_path / "parts")
    assert [(call["learning_rate"], call["batch_size"]) for call in fake.calls] == whole
    assert len(found.trials) == 12


@pytest.mark.slow
def test_pruned_trials_end_early_and_are_never_the_best(sweep: Any, fake: Fake) -> None:
    notes: list[str] = []
    rates = [5e-3, 4e-3, 3e-3, 2e-3, 6e-3, 1e-3, 7e-3]
    found = sweep(
        {"train.learning_rate": rates},
        prune=True,
        listen=lambda event: notes.append(event.message) if isinstance(event, Note) else None,
    )
    assert [trial.state for trial in found.trials] == ["finished"] * 5 + ["pruned", "finished"]
    assert found.best.trial == 7
    assert "trial-006 is pruned: under the median of the others at evaluation 1" in notes
    assert "(6 finished, 1 pruned)" in found.verdict


@pytest.mark.slow
def test_nothing_is_pruned_unasked(sweep: Any, fake: Fake) -> None:
    found = sweep({"train.learning_rate": [5e-3, 4e-3, 3e-3, 2e-3, 6e-3, 1e-3]})
    assert found.count("finished") == 6


# Going on --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_sweep_goes_on_with_the_same_trial_from_its_checkpoint(sweep: Any) -> None:
    stopped = Listener(stop_at=4)
    given = {"given": {"train.learning_rate": [1e-3, 2e-3]}, "settings": ONE_EPOCH}
    first = sweep(**given, listen=stopped, should_stop=stopped.should_stop)
    assert first.status == "interrupted"
    assert [trial.state for trial in first.trials] == ["finished", "interrupted"]
    again = Listener()
    found = sweep(**given, listen=again)
    assert found.sweep == first.sweep
    assert found.status == "finished"
    starts = [event.step for event in again.events if type(event).__name__ == "Start"]
    assert starts == [1]
    assert [trial.trial for trial in found.trials] == [1, 2]
    assert any(f"going on with {found.sweep}" in getattr(event, "message", "") for event in again.events)


@pytest.mark.slow
def test_killed_trial_is_run_again(sweep: Any, fake: Fake, tmp_path: Path) -> None:
    class Killed(BaseException):
        """Ends the process as far as Optuna can see."""

    def act(settings: dict[str, Any]) -> None:
        if settings["learning_rate"] == 2e-3 and fake.rates.count(2e-3) == 1:
            raise Killed

    fake.act = act
    with pytest.raises(Killed):
        sweep(out=tmp_path / "it")
    found = sweep(out=tmp_path / "it")
    assert fake.rates == [1e-3, 2e-3, 2e-3, 3e-3]
    assert [call["folder"] for call in fake.calls][1:3] == ["trial-002", "trial-002"]
    assert [trial.state for trial in found.trials] == ["finished"] * 3


@pytest.mark.slow
def test_trial_of_a_living_process_is_left_to_it(sweep: Any, fake: Fake, tmp_path: Path) -> None:
    states: list[list[str]] = []

    def act(settings: dict[str, Any]) -> None:
        if settings["learning_rate"] == 1e-3 and len(fake.calls) == 1:
            inner = sweep(out=tmp_path / "it")
            states.append([trial.state for trial in inner.trials])
            assert inner.status == "running"

    fake.act = act
    found = sweep(out=tmp_path / "it")
    assert states == [["running", "finished", "finished"]]
    assert fake.rates == [1e-3, 2e-3, 3e-3]
    assert found.status == "finished"


@pytest.mark.slow
def test_finished_sweep_is_not_run_again_but_the_same_command_begins_another(
    sweep: Any, fake: Fake, tmp_path: Path
) -> None:
    first = sweep()
    again = sweep(out=first.sweep)
    assert again.already
    assert again.trials == first.trials
    assert len(fake.calls) == 3
    assert sweep().sweep != first.sweep


@pytest.mark.slow
def test_another_configuration_is_refused(sweep: Any, fake: Fake, tmp_path: Path) -> None:
    sweep(out=tmp_path / "it")
    with pytest.raises(RunError, match=r"was made from something else: seed is 7 now and was 42. Name another --out"):
        sweep(out=tmp_path / "it", seed=7)
    with pytest.raises(RunError, match=r"storage is 'sqlite:///x.db' now and was ''"):
        sweep(out=tmp_path / "it", storage="sqlite:///x.db")
    with pytest.raises(RunError, match=r"goes on with what the sweep was started with. Drop seed"):
        sweep(resume=tmp_path / "it", seed=7)
    with pytest.raises(RunError, match=r"is no sweep: it has no sweep.json"):
        sweep(resume=tmp_path / "nothing")
    assert sweep(resume=tmp_path / "it").already
    (tmp_path / "it/sweep.json").write_text("{}")
    with pytest.raises(RunError, match=r"sweep\.json is damaged: it lacks best, id, num_trials"):
        sweep(resume=tmp_path / "it")


@pytest.mark.slow
def test_other_data_of_the_same_name_is_refused(sweep: Any, fake: Fake, task: Path, tmp_path: Path) -> None:
    sweep(out=tmp_path / "it")
    write_jsonl(task.parent / "train.jsonl", reviews(40, seed=9))
    with pytest.raises(RunError, match=r"was begun with data .* so the scores could not be compared"):
        sweep(out=tmp_path / "it")


@pytest.mark.slow
def test_sweep_stands_for_its_best_trial(sweep: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    found = sweep({"train.learning_rate": [5e-3, 1e-6]}, settings=ONE_EPOCH)
    best = found.best
    assert [(Path(line.run), line.kept) for line in ls(runs)] == [
        (found.sweep / f"trial-00{number}", number == best.trial) for number in (1, 2)
    ]
    for where in (found.sweep, found.sweep.name, None):
        assert str(find(where, runs).folder) == best.run
    stored = json.loads((found.sweep / "sweep.json").read_text())
    elsewhere = {"trial": 9, "run": "other:/there/trial-009"}
    (found.sweep / "sweep.json").write_text(json.dumps(stored | {"best": elsewhere}))
    with pytest.raises(RunError, match=r"is not in it, but at other:/there/trial-009\. Fetch that folder"):
        find(found.sweep, runs)
    (found.sweep / "sweep.json").write_text(json.dumps(stored | {"best": None}))
    with pytest.raises(RunError, match=r"No trial of .* has finished yet\. 'bertkit sweep --resume"):
        find(found.sweep, runs)
    with pytest.raises(RunError, match="There is no finished run below"):
        find(None, runs)
    (found.sweep / "sweep.json").write_text("{")
    assert ls(runs) == []


@pytest.mark.slow
def test_seed_zero_is_another_seed(sweep: Any, fake: Fake, tmp_path: Path) -> None:
    sweep(out=tmp_path / "it")
    with pytest.raises(RunError, match=r"goes on with what the sweep was started with\. Drop seed \(0\)"):
        sweep(resume=tmp_path / "it", seed=0)
    assert sweep(resume=tmp_path / "it", seed=42, out=tmp_path / "there/../it").already


@pytest.mark.slow
def test_trials_start_from_the_body_of_another_run(sweep: Any, fake: Fake, finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"starts from 'nowhere' \(init_from\), which is no run"):
        sweep(settings={"init_from": "nowhere"})
    assert not (tmp_path / "runs").exists()
    sweep(settings={"init_from": str(finished_run)}, encoder="")
    asked = {(call["start_from"], call["encoder"]) for call in fake.calls}
    assert asked == {(str(finished_run.resolve()), record(finished_run)["encoder"])}


@pytest.mark.slow
def test_trial_that_waits_for_its_second_attempt_keeps_its_settings_and_folder(sweep: Any, tmp_path: Path) -> None:
    given = {"given": {"train.learning_rate": [1e-3, 2e-3]}, "settings": ONE_EPOCH, "out": tmp_path / "it"}
    stopped = Listener(stop_at=1)
    sweep(**given, listen=stopped, should_stop=stopped.should_stop)
    from bertkit.workflows.sweep import folder, plan, study

    opened = folder.Sweep.open(tmp_path / "it")
    planned = plan.Plan.of_json(opened.record["request"], "here", offline=True)
    queue = study.Queue(study.open_study(opened, planned, higher=True), planned.space, opened, number=2)
    queue._put_back()
    (waiting,) = queue.trials()
    assert (waiting.state, waiting.settings) == ("waiting", {"train.learning_rate": 1e-3})
    assert waiting.run == str(tmp_path / "it/trial-001")


# Several processes and machines ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_machines_share_a_storage(sweep: Any, fake: Fake, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    one = sweep(storage=storage, runs=tmp_path / "one", should_stop=lambda: len(fake.calls) == 2)
    assert [trial.state for trial in one.trials] == ["finished", "interrupted"]
    other = sweep(storage=storage, runs=tmp_path / "other")
    assert other.status == "finished"
    assert len(other.trials) == 3
    assert other.sweep.parent == tmp_path / "other"
    assert other.trials[0].run.endswith(f":{one.sweep.resolve() / 'trial-001'}")
    assert other.trials[2].run == str(other.sweep / "trial-003")
    assert not (other.sweep / "sweep.db").exists()


@pytest.mark.slow
def test_storage_that_cannot_be_opened_is_named_without_its_password(sweep: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--storage nosuch://me:\*\*\*@host/db cannot be opened") as caught:
        sweep(storage="nosuch://me:secret@host/db")
    assert "secret" not in str(caught.value)
    assert not list((tmp_path / "runs").glob("*/"))


@pytest.mark.slow
def test_password_is_written_nowhere(sweep: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bertkit", "--storage", "postgresql://me:secret@host/db"])
    found = sweep({"train.learning_rate": [1e-3]})
    stored = (found.sweep / "sweep.json").read_text()
    assert "postgresql://me:***@host/db" in stored
    assert "secret" not in stored


@pytest.mark.slow
def test_kill_and_two_processes_train_each_point_once(task: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    words = ["sweep", task, "--encoder", tiny_encoder, "--runs", tmp_path / "runs", "--threads", 1, "--json"]
    for setting in ("train.batch_size=8", "train.max_length=64", "eval.resamples=0", "train.save_steps=1"):
        words += ["--set", setting]
    command = [sys.executable, "-m", "bertkit", *map(str, words), "--grid", "train.learning_rate=1e-3,2e-3,3e-3,4e-3"]

    def start() -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)

    killed = start()
    while not list((tmp_path / "runs").glob("*/trial-002/checkpoints/step-*")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    both = [start(), start()]
    found = [json.loads(process.communicate(timeout=900)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert found[0]["sweep"] == found[1]["sweep"]
    last = next(one for one in found if one["status"] == "finished")
    assert [trial["state"] for trial in last["trials"]] == ["finished"] * 4
    assert sorted(trial["settings"]["train.learning_rate"] for trial in last["trials"]) == [1e-3, 2e-3, 3e-3, 4e-3]
    assert len(list(Path(tmp_path / last["sweep"]).glob("trial-*"))) == 4


# The command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_shows_a_table_and_the_best_runs_folder(
    sweep: Any, fake: Fake, task: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from bertkit.cli import app

    words = ["sweep", str(task), "--encoder", str(tiny_encoder), "--out", str(tmp_path / "it"), "--threads", "1"]
    words += ["--grid", "train.learning_rate=1e-3,2e-3", "--grid", "eval.resamples=0", "--runs", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["trial", "learning_rate", "eval.resamples", "accuracy"]
    assert lines[2].split() == ["2", "0.002", "0", "2.0000", "finished", "best"]
    assert f"Its run: {tmp_path / 'it' / 'trial-002'}" in lines
    assert "--split test" in done.stderr
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (told["num_trials"], told["best"]["trial"], told["status"]) == (2, 2, "finished")
    neither = CliRunner().invoke(app, ["sweep"])
    assert neither.exit_code == 2
    assert "or --resume SWEEP, one of the two" in " ".join(neither.stderr.split())


@pytest.mark.slow
def test_interrupted_command_names_the_one_that_goes_on(
    fake: Fake, task: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from bertkit.cli import app

    fake.act = lambda settings: signal.raise_signal(signal.SIGINT)
    words = ["sweep", str(task), "--encoder", str(tiny_encoder), "--out", str(tmp_path / "it"), "--threads", "1"]
    done = CliRunner().invoke(app, [*words, "--runs", str(tmp_path)])
    assert done.exit_code == 130
    assert f"next: bertkit sweep --resume {tmp_path / 'it'}" in done.stderr


@pytest.mark.slow
def test_notes_that_are_true_of_all_trials_are_told_once(sweep: Any) -> None:
    notes: list[str] = []
    sweep(
        {"train.learning_rate": [1e-3, 2e-3]},
        listen=lambda event: notes.append(event.message) if isinstance(event, Note) else ignore(event),
    )
    assert len(notes) == len(set(notes))
    assert sum(note.startswith("trial ") for note in notes) == 2
