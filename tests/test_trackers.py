"""Trackers: what they are sent, and what happens where one is missing, fails, or would ask for something."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit import trackers
from bertkit.errors import ConfigError, TaskError
from bertkit.events import Event, Note
from bertkit.trackers import Tracked
from tests.workflows.training import Listener, train


class Sink:
    """Keeps what it is sent; fails at a step where one is named."""

    def __init__(self, fails_at: int = -1) -> None:
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.fails_at = fails_at
        self.finished = False

    def log(self, values: dict[str, Any], step: int) -> None:
        print("what a tracker prints")  # noqa: T201 (it does)
        if step == self.fails_at:
            raise OSError("disk\nfull")
        self.sent.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sink], Sink]:
    """Return a function that puts a sink in TensorBoard's place."""

    def put(one: Sink) -> Sink:
        monkeypatch.setitem(trackers.START, "tensorboard", lambda run: (one, f"tracked as {run.name}"))
        return one

    return put


def notes(listener: Listener, level: str) -> list[str]:
    return [e.message for e in listener.events if isinstance(e, Note) and e.level == level]


@pytest.mark.slow
def test_steps_evaluations_and_final_scores_are_sent(
    sink: Any, reviews_file: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = sink(Sink())
    listener = Listener()
    settings = {"track": "tensorboard", "train.max_steps": 2}
    run = train(reviews_file, encoder=tiny_encoder, settings=settings, runs=tmp_path / "runs", listen=listener)
    assert [(step, next(iter(values))) for step, values in one.sent] == [
        (1, "train/loss"),
        (2, "train/loss"),
        (2, "validation/accuracy"),
        (2, "best/validation/accuracy"),
    ]
    assert one.sent[-1][1]["best/validation/accuracy"] == run.scores["validation"]["accuracy"]
    assert one.finished
    assert capsys.readouterr().out == ""
    assert f"tracked as {run.path.name}" in notes(listener, "info")


@pytest.mark.slow
def test_tracker_that_fails_is_dropped_with_one_warning(
    sink: Any, reviews_file: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    one = sink(Sink(fails_at=2))
    listener = Listener()
    settings = {"track": ["tensorboard"], "train.max_steps": 3}
    run = train(reviews_file, encoder=tiny_encoder, settings=settings, runs=tmp_path, listen=listener)
    assert run.status == "finished"
    assert [step for step, _ in one.sent] == [1]
    warned = [text for text in notes(listener, "warning") if "tensorboard" in text]
    assert warned == ["tensorboard failed (OSError: disk full), so the rest of this run is not tracked there"]


def test_tracker_that_does_not_start_ends_the_run_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch, reviews_file: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    def refuse(run: Tracked) -> Any:
        raise OSError("no\nserver")

    monkeypatch.setitem(trackers.START, "tensorboard", refuse)
    with pytest.raises(ConfigError, match=r"track = tensorboard could not be started: no server. Drop it"):
        train(reviews_file, encoder=tiny_encoder, settings={"track": "tensorboard"}, runs=tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("name", list(trackers.START))
def test_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, reviews_file: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"track = {name} needs .* pip install 'bertkit\[{name}\]'"):
        bertkit.finetune(reviews_file, encoder="nowhere", settings={"track": name})


def test_unknown_tracker_is_named(reviews_file: Path) -> None:
    with pytest.raises(TaskError, match=r"'track' names 'tensorbord', and there is .* Did you mean 'tensorboard'\?"):
        bertkit.finetune(reviews_file, settings={"track": "tensorbord"})
    with pytest.raises(TaskError, match="'track' names 'wandb' twice"):
        bertkit.finetune(reviews_file, settings={"track": "wandb, wandb"})


def test_run_is_known_by_its_folder_and_creation(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    one = Tracked(folder=runs / "a-sweep-001/trial-002", runs=runs, project="a", created="now", config={"t": {"x": 1}})
    assert one.name == "a-sweep-001/trial-002"
    assert one.settings == {"t.x": 1}
    other = Tracked(folder=runs / "a-sweep-001/trial-002", runs=runs, project="a", created="later")
    assert one.id != other.id
    assert Tracked(folder=tmp_path / "elsewhere", runs=runs, project="a", created="now").name == "elsewhere"


# Real ones -------------------------------------------------------------------------------------------------------


def follow(name: str, folder: Path, *, steps: tuple[int, ...] = (1, 2)) -> list[str]:
    """Track two steps of a run as training does; return what was told."""
    told: list[str] = []

    def tell(event: Event) -> None:
        assert isinstance(event, Note)
        told.append(f"{event.level}: {event.message}")

    run = Tracked(
        folder=folder / "runs/one",
        runs=folder / "runs",
        project="films",
        created="now",
        config={"train": {"epochs": 2}},
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    from accelerate import PartialState

    PartialState()
    with trackers.tracking([name], run, tell) as tracking:
        for step in steps:
            tracking._log({"train/loss": 1 / step}, step)
        tracking.final({"validation": {"accuracy": 0.75, "accuracy_interval": [0.5, 1.0]}}, steps[-1])
    return told


@pytest.mark.slow
def test_tensorboard_file_holds_what_was_sent(
    reviews_file: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"track": "tensorboard", "train.max_steps": 2}
    run = train(reviews_file, encoder=tiny_encoder, settings=settings, runs=tmp_path)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    stored = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in stored if event["event"] == "step"]
    assert [scalar.value for scalar in events.Scalars("train/loss")] == pytest.approx(losses)
    assert events.Scalars("best/validation/accuracy")[0].value == pytest.approx(run.scores["validation"]["accuracy"])
    assert "settings/text_summary" in events.Tags()["tensors"]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_tensorboard_forgets_steps_that_a_resumed_run_takes_again(
    reviews_file: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop = Listener(stop_at=2)
    settings = {"track": "tensorboard", "train.max_steps": 4}
    options: dict[str, Any] = {"encoder": tiny_encoder, "settings": settings, "out": tmp_path / "run"}
    first = train(reviews_file, **options, listen=stop, should_stop=stop.should_stop)
    assert first.status == "interrupted"
    train(reviews_file, **options)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("train/loss")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_wandb_writes_offline_and_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("sys.stdin", None)
    (told,) = follow("wandb", tmp_path)
    assert "sends nothing ('wandb sync' sends it" in told
    assert list((tmp_path / "runs/one/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_wandb_online_without_a_key_is_an_error_and_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "login", lambda **given: asked.append(given))
    with pytest.raises(ConfigError, match="WANDB_MODE is online and there is no API key; 'wandb login' asks for one"):
        follow("wandb", tmp_path)
    assert asked == [{"prompt": False}]


@pytest.mark.slow
def test_trackio_keeps_its_numbers_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    # It reads where to keep them when it is imported.
    code = (
        "import sys; from pathlib import Path; from tests.test_trackers import follow; "
        "told = follow('trackio', Path(sys.argv[1])); sys.stderr.write(told[-1])"
    )
    found = run_python(code, tmp_path, TRACKIO_DIR=str(tmp_path / "kept"))
    assert found.startswith("info: trackio keeps one-")
    assert found.endswith("on this machine (trackio show --project films)")
    assert list((tmp_path / "kept").glob("films*.db"))


@pytest.mark.slow
def test_mlflow_goes_on_with_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    code = (
        "import sys, json; from pathlib import Path; from tests.test_trackers import follow; "
        "place = Path(sys.argv[1]); "
        "told = follow('mlflow', place) + follow('mlflow', place, steps=(3,)); "
        "import mlflow; c = mlflow.MlflowClient(); e = c.get_experiment_by_name('films'); "
        "(r,) = c.search_runs([e.experiment_id]); "
        "sys.stderr.write(json.dumps([told, r.data.params, [m.step for m in c.get_metric_history(r.info.run_id, "
        "'train/loss')], r.info.run_name, r.data.metrics['best/validation/accuracy']]))"
    )
    told, params, steps, name, best = json.loads(run_python(code, tmp_path).splitlines()[-1])
    assert told[0].startswith(f"info: MLflow writes to sqlite:///{tmp_path / 'runs/mlflow.db'}")
    assert (params, steps, name, best) == ({"train.epochs": "2"}, [1, 2, 3], "one", 0.75)


def run_python(code: str, folder: Path, **variables: str) -> str:
    """Run code in an interpreter of its own, for trackers that keep state; return stderr, stdout being empty."""
    import os
    import subprocess

    root = Path(__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "TRACKIO", "WANDB"))}
    environment = kept | {"PYTHONPATH": str(root), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr
