"""The list of runs and the look at one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bertkit.errors import RunError
from bertkit.workflows import runs as workflow
from tests.workflows.training import record


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """Return a folder of five runs: two finished, one running, one damaged, one empty."""
    for number, (name, status) in enumerate((("b", "finished"), ("a", "finished"), ("c", "running"))):
        copy = Path(shutil.copytree(finished_run, tmp_path / "runs" / name))
        changed = {"status": status, "created": f"2026-01-0{number + 1}", "finished": f"2026-02-0{9 - number}"}
        (copy / "run.json").write_text(json.dumps(record(copy) | changed))
    (tmp_path / "runs" / "c" / "scores.json").unlink()
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text("{")
    (tmp_path / "runs" / "empty").mkdir()
    return tmp_path / "runs"


def test_runs_are_listed_oldest_first(folder: Path) -> None:
    found = workflow.ls(folder)
    assert [Path(line.run).name for line in found] == ["b", "a", "c"]
    assert [line.status for line in found] == ["finished", "finished", "running"]
    assert [line.score for line in found] == [1.0, 1.0, None]
    assert {(line.metric, line.task, line.seed) for line in found} == {("accuracy", "reviews", 42)}


def test_no_folder_holds_no_runs(tmp_path: Path) -> None:
    assert workflow.ls(tmp_path / "nowhere") == []


def test_damaged_scores_do_not_hide_the_other_runs(folder: Path) -> None:
    (folder / "a" / "scores.json").write_text('{"splits": {')
    assert [line.score for line in workflow.ls(folder)] == [1.0, None, None]
    with pytest.raises(RunError, match=r"scores\.json is damaged: .*'bertkit eval .*a' scores the model anew"):
        workflow.show(folder / "a")


def test_newest_finished_run_is_shown(folder: Path) -> None:
    found = workflow.show(runs=folder)
    assert found["run"] == str(folder / "b")
    assert found["scores"]["splits"]["validation"]["accuracy"] == 1.0
    assert found["evaluations"] == []
    assert found["config"]["train"]["batch_size"] == 8


def test_unfinished_run_is_shown_by_name(folder: Path) -> None:
    found = workflow.show("c", runs=folder)
    assert (found["status"], found["scores"]) == ("running", {})


def test_evaluations_are_shown(folder: Path) -> None:
    (folder / "a" / "evals").mkdir()
    (folder / "a" / "evals" / "dev.json").write_text('{"split": "dev"}')
    assert workflow.show("a", runs=folder)["evaluations"] == [{"split": "dev"}]
    (folder / "a" / "evals" / "bad.json").write_text("{")
    with pytest.raises(RunError, match=r"bad\.json is damaged"):
        workflow.show("a", runs=folder)


def test_unknown_run_suggests_the_nearest(folder: Path) -> None:
    (folder / "a").rename(folder / "reviews-001")
    with pytest.raises(
        RunError, match=r"There is no run 'reviews-01'\. Did you mean 'reviews-001'\? 'bertkit runs ls'"
    ):
        workflow.show("reviews-01", runs=folder)


def test_damaged_run_is_named(folder: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json is damaged: "):
        workflow.show("damaged", runs=folder)
