"""Suites: all tasks of a group, one table, GLUE's average, and going on after an interruption."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit import catalog
from bertkit.errors import ConfigError, DataError, RunError, TaskError
from bertkit.events import Checkpoint
from bertkit.run import Run, read_suite
from bertkit.workflows.suite import facts, plan, table, train
from bertkit.workflows.suite.evaluate import evaluate_suite
from bertkit.workflows.suite.folder import Suite, create
from tests.workflows.suites import QUICK, train_suite, write_glue
from tests.workflows.training import Listener, record, same_weights, weights

FOLDERS = ("CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI")
ORDER = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]


def scores(folder: Path, split: str = "validation") -> dict[str, Any]:
    found: dict[str, Any] = Run.open(folder).scores()["splits"][split]
    return found


# What is trained -------------------------------------------------------------------------------------------------


def test_members_of_groups_and_lists() -> None:
    assert [f"glue/{name}" for name in ["ax", *ORDER]] == catalog.members("glue")
    assert catalog.members("glue/cola,glue/rte") == ["glue/cola", "glue/rte"]
    assert catalog.members("squad, glue/rte") == ["squad/v1", "squad/v2", "glue/rte"]
    assert catalog.members("glue/cola") == catalog.members("reviews.jsonl") == []
    with pytest.raises(TaskError, match=r"'glue,glue/rte' names the task 'glue/rte' twice"):
        catalog.members("glue,glue/rte")


def test_group_is_trained_task_by_task(whole: Path) -> None:
    assert whole.name == "glue-tiny-bert-001"
    assert [member["run"] for member in json.loads((whole / "suite.json").read_text())["runs"]] == [
        "cola", "mnli", "mrpc", "qnli", "qqp", "sst2", "stsb", "wnli", "rte"
    ]  # fmt: skip
    for name in ORDER:
        assert record(whole / name)["status"] == "finished"
        assert record(whole / name)["task"] == f"glue/{name}"


def test_task_without_train_is_left_out_and_said(tiny_encoder: Path, glue_data: Path, tmp_path: Path) -> None:
    listener = Listener()
    options: dict[str, Any] = {"data": glue_data, "encoder": tiny_encoder, "runs": tmp_path, "listen": listener}
    found = train_suite("glue/ax,glue/wnli", **options).summary
    assert found.tasks == ("glue/wnli",)
    assert "glue/ax has no train split, so it is not trained" in listener.notes
    with pytest.raises(TaskError, match=r"None of the tasks of glue/ax, has a train split"):
        train_suite("glue/ax,", **options)


def test_settings_below_a_name_are_that_tasks_alone(whole: Path) -> None:
    steps = {name: record(whole / name)["config"]["train"]["max_steps"] for name in ORDER}
    assert steps == dict.fromkeys(ORDER, 1) | {"rte": 2}


def test_unknown_task_and_name_below_it_are_named(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"No task 'glue/rtee'\. Did you mean 'glue/rte'\?"):
        train_suite("glue/cola,glue/rtee", encoder=tiny_encoder, runs=tmp_path)
    with pytest.raises(TaskError, match=r"'glue/rtee' is not a key of a task"):
        train_suite("glue/cola,glue/rte", encoder=tiny_encoder, settings={"glue/rtee": {"train.epochs": 2}})
    with pytest.raises(ConfigError, match=r"--set glue/mrpc\.KEY is for glue/mrpc, which is not among the tasks"):
        train_suite("glue/cola,glue/rte", encoder=tiny_encoder, settings={"glue/mrpc": {"train.epochs": 2}})
    with pytest.raises(ConfigError, match=r"finetune needs a task: a name or a group"):
        train_suite(seeds=2)


@pytest.mark.slow
def test_task_of_a_group_whose_data_is_not_there_is_left_out_and_said(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_glue(tmp_path / "data", without=("QQP", "MNLI", "SST-2", "CoLA", "QNLI", "STS-B", "MRPC"))
    options: dict[str, Any] = {"data": data, "encoder": tiny_encoder, "runs": tmp_path / "runs"}
    listener = Listener()
    found = train_suite("glue", listen=listener, **options).summary
    assert found.tasks == ("glue/rte", "glue/wnli")
    assert list(found.left_out) == [f"glue/{name}" for name in ["cola", "mnli", "mrpc", "qnli", "qqp", "sst2", "stsb"]]
    assert f"glue/qqp is left out: {data} has no train split of it" in listener.notes
    assert found.average is not None
    assert found.average.name == "average of 2 tasks"
    assert evaluate_suite(found.suite).left_out == found.left_out
    with pytest.raises(TaskError, match=r"None of the tasks of glue has a train split in .*nothing"):
        train_suite("glue", **options | {"data": write_glue(tmp_path / "nothing", without=tuple(FOLDERS))})


def test_missing_data_of_a_task_named_itself_stops_all_before_the_first(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_glue(tmp_path / "data", without=("QQP", "MNLI"))
    with pytest.raises(
        DataError,
        match=r"2 of 4 tasks cannot be trained, so none was\. glue/mnli: There is no train split .*; glue/qqp: "
        r"There is .* The others alone: bertkit finetune glue/cola,glue/rte\.",
    ):
        train_suite("glue/cola,glue/mnli,glue/qqp,glue/rte", data=data, encoder=tiny_encoder, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_absent_hub_is_told_once_for_all_tasks(tiny_encoder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoder": tiny_encoder, "runs": tmp_path / "runs", "offline": True}
    with pytest.raises(DataError) as caught:
        train_suite("glue/cola,glue/rte,glue/wnli", **options)
    said = str(caught.value)
    assert "3 of 3 tasks cannot be trained, so none was. glue/cola (and alike glue/rte, glue/wnli): " in said
    assert said.count("is not in the cache") == 1


def test_wrong_setting_of_one_task_stops_all(tiny_encoder: Path, glue_data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": glue_data, "encoder": tiny_encoder, "runs": tmp_path / "runs"}
    with pytest.raises(ConfigError, match=r"glue/rte: train\.epochs is -1.* The others alone: .* glue/cola\."):
        train_suite("glue/cola,glue/rte", settings={"glue/rte": {"train.epochs": -1}}, **options)
    with pytest.raises(ConfigError, match=r"train\.max_length is 65"):
        train_suite("glue/cola,glue/rte", settings={"train.max_length": 65}, **options)
    assert not list((tmp_path / "runs").glob("*"))


# init_from -------------------------------------------------------------------------------------------------------


def test_init_from_takes_the_body_and_a_new_head(whole: Path, tiny_encoder: Path) -> None:
    from bertkit import encoder
    from bertkit.encoder import Source

    source = Source(name="x", folder=whole / "mnli" / "model")
    options: dict[str, Any] = {"auto_class": "AutoModelForSequenceClassification", "seed": 1}
    kept = encoder.load(source, labels=("a", "b", "c"), **options)
    fresh = encoder.load(source, labels=("a", "b", "c"), new_head=True, **options)
    assert kept.new_weights == ()
    assert fresh.new_weights == ("classifier.bias", "classifier.weight")
    trained = weights(whole / "mnli")
    for name, value in fresh.model.state_dict().items():
        assert bool((value == trained[name]).all()) == (not name.startswith("classifier")), name


def test_init_from_is_ordered_and_said(whole: Path) -> None:
    stored = record(whole / "rte")
    assert stored["request"]["start_from"] == str((whole / "mnli").resolve())
    assert stored["encoder_revision"].startswith("sha256:")
    assert stored["new_weights"] == ["classifier.bias", "classifier.weight"]
    assert record(whole / "wnli")["new_weights"] != []
    assert "start_from" not in record(whole / "wnli")["request"]
    assert "glue/rte started from the body that glue/mnli trained, with a new head." in evaluate_suite(whole).notes
    assert "glue/mnli" in (whole / "rte" / "README.md").read_text()


def test_init_from_for_all_is_not_for_the_task_itself() -> None:
    found = plan.chosen("glue/rte,glue/mnli,glue/mrpc", {"init_from": "glue/mnli"}, None, lambda _: None)
    assert [(task.name, task.init_from) for task in found[0]] == [
        ("glue/mnli", ""), ("glue/rte", "glue/mnli"), ("glue/mrpc", "glue/mnli")
    ]  # fmt: skip


def test_tasks_that_start_from_each_other_are_refused() -> None:
    settings = {"glue/rte": {"init_from": "glue/mrpc"}, "glue/mrpc": {"init_from": "glue/rte"}}
    with pytest.raises(ConfigError, match=r"The tasks glue/rte, glue/mrpc start from each other \(init_from\)"):
        plan.chosen("glue/rte,glue/mrpc", settings, None, lambda _: None)


def test_init_from_outside_the_suite_is_a_run(whole: Path, tiny_encoder: Path, glue_data: Path, tmp_path: Path) -> None:
    import bertkit

    options: dict[str, Any] = {"data": glue_data, "precision": "float32", "threads": 1}
    settings = QUICK | {"init_from": str(whole / "mnli")}
    run = bertkit.finetune("glue/rte", out=tmp_path / "rte", settings=settings, **options).run
    assert record(run)["encoder"] == record(whole / "mnli")["encoder"]
    with pytest.raises(ConfigError, match=r"glue/rte starts from 'glue/mnli' \(init_from\), which is no run\. In a "):
        bertkit.finetune("glue/rte", settings=QUICK | {"init_from": "glue/mnli"}, runs=tmp_path, **options)
    with pytest.raises(ConfigError, match=r"was trained from the encoder .*tiny-bert, and --encoder is minilm"):
        bertkit.finetune("glue/rte", settings=settings, encoder="minilm", **options)


# The table -------------------------------------------------------------------------------------------------------


def test_average_follows_glues_rule(whole: Path) -> None:
    found = evaluate_suite(whole)
    each = {name: scores(whole / name) for name in ORDER}
    other = scores(whole / "mnli", "mismatched")
    wanted = [
        each["cola"]["matthews_correlation"],
        (each["mnli"]["accuracy"] + other["accuracy"]) / 2,
        (each["mrpc"]["f1"] + each["mrpc"]["accuracy"]) / 2,
        each["qnli"]["accuracy"],
        (each["qqp"]["f1"] + each["qqp"]["accuracy"]) / 2,
        each["rte"]["accuracy"],
        each["sst2"]["accuracy"],
        (each["stsb"]["pearson"] + each["stsb"]["spearmanr"]) / 2,
        each["wnli"]["accuracy"],
    ]
    assert found.average is not None
    assert found.average.name == "GLUE average"
    assert found.average.spread.mean == pytest.approx(sum(wanted) / 9)


def test_average_over_fewer_tasks_says_so() -> None:
    def one(value: float) -> list[dict[str, dict[str, float]]]:
        return [{"validation": {"accuracy": value}}]

    some = {"glue/rte": one(0.5), "glue/wnli": one(0.7), "demo/reviews": one(1.0), "glue/mnli": one(1.0)}
    found = table.average(some)
    assert found is not None
    assert (found.name, found.tasks) == ("average of 2 tasks", ("glue/rte", "glue/wnli"))
    assert found.spread.mean == pytest.approx(0.6)
    assert table.average({"glue/rte": one(0.5)}) is None


def test_average_of_several_seeds_is_taken_seed_by_seed() -> None:
    two = {
        "glue/rte": [{"validation": {"accuracy": value}} for value in (0.5, 0.7)],
        "glue/wnli": [{"validation": {"accuracy": value}} for value in (0.3, 0.6)],
    }
    found = table.average(two)
    assert found is not None
    assert found.spread.values == (pytest.approx(0.4), pytest.approx(0.65))


def test_facts_fit_the_shipped_tasks() -> None:
    rule = facts.facts()["average"]
    assert "glue/ax" not in rule
    assert len(rule) == 9
    for task, keys in rule.items():
        found = catalog.find_task(task)
        assert {key.split(".")[1] for key in keys} == set(found.metrics)
        assert {key.split(".")[0] for key in keys} <= set(found.data.splits)
    for row in facts.facts()["published"]:
        assert all(set(keys) <= set(rule[task]) for task, keys in row["scores"].items())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("google-bert/bert-base-cased", "0.9232"), ("bert-base-cased", "0.9232"), ("FacebookAI/roberta-base", "0.948")],
)
def test_published_row_is_that_of_the_same_encoder(name: str, wanted: str) -> None:
    row = facts.published_row(name)
    assert row is not None
    assert facts.share(row["scores"]["glue/sst2"]["validation.accuracy"]) == wanted


@pytest.mark.parametrize("name", ["minilm", "me/bert-base-cased", "/home/me/bert-base-cased", "bert-large-cased"])
def test_no_row_is_published_for_another_encoder(name: str) -> None:
    assert facts.published_row(name) is None


def test_published_scores_stand_in_the_table(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite", symlinks=True)
    stored = json.loads((copy / "suite.json").read_text())
    stored["request"]["encoders"] = dict.fromkeys(stored["request"]["encoders"], "google-bert/bert-base-cased")
    (copy / "suite.json").write_text(json.dumps(stored))
    found = evaluate_suite(copy)
    assert {(line.task, line.name): line.published for line in found.lines}[
        ("glue/mnli", "accuracy (mismatched)")
    ] == "0.8410"
    assert "learning rate 2e-5" in found.published["google-bert/bert-base-cased"]
    assert evaluate_suite(whole).published == {}


def test_baselines_made_afterwards_stand_in_the_table(whole: Path, glue_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "suite"
    shutil.copytree(whole, copy)
    made = bertkit.baseline("glue/wnli", data=glue_data, runs=tmp_path)
    found = evaluate_suite(copy, report="none")
    lines = {line.task: line.baseline for line in found.lines}
    best = max(made.baselines, key=lambda name: made.baselines[name]["validation"]["accuracy"])
    assert lines["glue/wnli"] == f"{made.baselines[best]['validation']['accuracy']:.4f} {best}"
    assert not lines["glue/rte"]
    (line,) = (line for line in found.lines if line.task == "glue/wnli")
    low = f"warning: glue/wnli: accuracy {line.spread.mean:.4f} is not above the baseline, {line.baseline}."
    assert (low in found.notes) == (line.spread.mean <= made.baselines[best]["validation"]["accuracy"])


def test_run_that_gives_one_answer_is_named_below_the_table(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite", symlinks=True)
    Run.open(copy / "rte").update(constant={"validation": "entailment"})
    Run.open(copy / "cola").update(constant={})
    notes = evaluate_suite(copy, report="none").notes
    assert "warning: glue/rte, seed 42: every prediction on validation is 'entailment'." in notes
    assert not any("glue/cola, seed" in note for note in notes)


@pytest.mark.slow
def test_suite_is_evaluated_anew_where_anything_is_asked(whole: Path, glue_data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite", symlinks=True)
    stored = evaluate_suite(copy)
    again = evaluate_suite(copy, precision="float32", threads=1)
    assert [(line.task, line.name) for line in again.lines] == [(line.task, line.name) for line in stored.lines]
    assert again.average is not None
    assert stored.average is not None
    assert again.average.spread.mean == pytest.approx(stored.average.spread.mean, abs=1e-6)
    assert (copy / "mnli/evals/mismatched.json").is_file()
    assert not (whole / "mnli/evals").exists()


# Going on --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_suite_goes_on_where_it_was(tiny_encoder: Path, glue_data: Path, tmp_path: Path) -> None:
    listener = Listener(stop_at=4)
    options: dict[str, Any] = {"data": glue_data, "encoder": tiny_encoder, "settings": {"train.max_steps": 3}}
    given = ("glue/rte,glue/wnli,glue/sst2",)
    out = tmp_path / "suite"
    stopped = train_suite(*given, out=out, listen=listener, should_stop=listener.should_stop, **options)
    assert (stopped.status, stopped.suite) == ("interrupted", out)
    assert stopped.summary.unfinished == {"glue/wnli": "interrupted", "glue/sst2": "not begun"}
    before = (out / "rte/model/model.safetensors").stat().st_mtime_ns
    again = Listener()
    done = train_suite(*given, out=out, listen=again, **options)
    assert (done.status, done.summary.unfinished) == ("finished", {})
    assert (out / "rte/model/model.safetensors").stat().st_mtime_ns == before
    starts = [event for event in again.events if type(event).__name__ == "Start"]
    assert [start.step for start in starts] == [1, 0]
    assert train_suite(*given, out=out, **options).summary == done.summary
    assert train_suite(resume=out).summary == done.summary


@pytest.mark.slow
def test_suite_that_was_killed_goes_on_with_the_same_command(
    tiny_encoder: Path, glue_data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"data": glue_data, "encoder": tiny_encoder}
    settings = {"train.max_steps": 3, "train.save_steps": 1}

    class Killed(BaseException):
        """What no handler of the code takes for its own, as the end of a process."""

    def die(event: Any) -> None:
        if isinstance(event, Checkpoint) and event.step == 2:
            raise Killed

    out = tmp_path / "killed"
    with pytest.raises(Killed):
        train_suite("glue/rte,glue/wnli", out=out, settings=settings, listen=die, **options)
    assert record(out / "rte")["status"] == "running"
    (out / "wnli").mkdir()
    (out / "wnli" / ".run.json.4711").write_text("{")
    again = Listener()
    done = train_suite("glue/rte,glue/wnli", out=out, settings=settings, listen=again, **options)
    assert [event.step for event in again.events if type(event).__name__ == "Start"] == [2, 0]
    whole = train_suite("glue/rte,glue/wnli", out=tmp_path / "whole", settings=settings, **options)
    assert done.summary.lines == whole.summary.lines
    assert same_weights(out / "rte", tmp_path / "whole/rte")
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_processes_share_a_suite_and_come_to_the_same(tiny_encoder: Path, glue_data: Path, tmp_path: Path) -> None:
    settings = QUICK | {"glue/mrpc": {"init_from": "glue/rte"}}
    options: dict[str, Any] = {"data": str(glue_data), "encoder": str(tiny_encoder), "seeds": [1, 2]}
    options |= {"settings": settings, "precision": "float32", "threads": 1}
    out, given = tmp_path / "shared", "glue/mrpc,glue/rte,glue/wnli"
    code = (
        "import bertkit, json, sys; given = json.load(sys.stdin)\n"
        "bertkit.finetune_suite(**given, listen=lambda event: print(getattr(event, 'message', '')))"
    )
    asked = json.dumps({"task": given, "out": str(out), **options})
    start = partial(subprocess.Popen, [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    both = [start(text=True), start(text=True)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write(asked)
        process.stdin.flush()
        process.stdin.close()
        process.stdin = None
    said = "".join(process.communicate(timeout=900)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(re.findall(r"run (\d) of 6", said)) == list("123456")
    alone = train_suite(given, out=tmp_path / "alone", **options).summary
    shared = evaluate_suite(out)
    assert (shared.lines, shared.average, shared.kept) == (alone.lines, alone.average, alone.kept)
    for member in read_suite(out)["runs"]:
        assert same_weights(out / member["run"], tmp_path / "alone" / member["run"])


@pytest.mark.slow
def test_run_that_another_process_trains_is_waited_for(
    tiny_encoder: Path, glue_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "PAUSE", 0.01)
    options: dict[str, Any] = {"data": glue_data, "encoder": tiny_encoder, "out": tmp_path / "suite"}
    stop = Listener(stop_at=1)
    train_suite("glue/rte,glue/wnli", listen=stop, should_stop=stop.should_stop, **options)
    opened = Suite.open(tmp_path / "suite")
    listener = Listener()
    asked = 0

    def give_up() -> bool:
        nonlocal asked
        asked += any(note.startswith("waiting") for note in listener.notes)
        return asked > 3

    with opened.alone(opened.members[0]) as mine:
        assert mine
        found = train_suite("glue/rte,glue/wnli", listen=listener, should_stop=give_up, **options)
    assert found.status == "interrupted"
    assert "waiting for other processes: rte" in listener.notes
    assert list(found.summary.unfinished) == ["glue/rte"]
    assert train_suite("glue/rte,glue/wnli", **options).status == "finished"


def test_other_plan_at_the_same_place_is_refused(whole: Path, tiny_encoder: Path, glue_data: Path) -> None:
    with pytest.raises(RunError, match=r"was made from something else: .*Name another --out\."):
        train_suite("glue", data=glue_data, encoder=tiny_encoder, out=whole, settings={"train.max_steps": 9})
    with pytest.raises(RunError, match=r"goes on with what the suite was started with\. Drop limit \(5\)"):
        train_suite(resume=whole, limit=5)
    with pytest.raises(RunError, match=r"There is no suite '.*nowhere': no folder of that name has a suite\.json"):
        train_suite(resume=whole.parent / "nowhere")


def test_suite_that_another_process_made_meanwhile_is_joined(whole: Path, tmp_path: Path) -> None:
    suite = Suite.open(whole)
    made = plan.Plan.of_json(suite.record["request"], "here")
    assert create(made, tmp_path, whole).record == suite.record
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(RunError, match="other is not empty and is no run"):
        create(made, tmp_path, tmp_path / "other")


def test_suite_of_several_tasks_has_no_model_of_its_own(whole: Path) -> None:
    import bertkit

    with pytest.raises(RunError, match=r"holds runs of 9 tasks \(glue/cola, .*Name one: .*cola, .*mnli"):
        bertkit.predict(["good"], run=whole)


@pytest.mark.slow
def test_tasks_with_several_seeds_can_be_looked_at_alone(tiny_encoder: Path, glue_data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": glue_data, "encoder": tiny_encoder, "runs": tmp_path}
    folder = train_suite("glue/rte,glue/wnli", seeds="1,2", **options).suite
    assert sorted(path.name for path in (folder / "rte").iterdir()) == ["model", "seed-1", "seed-2"]
    found = evaluate_suite(folder / "rte")
    assert found.tasks == ("glue/rte",)
    assert {line.task for line in found.lines} == {"glue/rte"}
    whole = evaluate_suite(folder)
    assert whole.average is not None
    assert len(whole.average.spread.values) == 2
    import bertkit

    with pytest.raises(RunError, match=rf"Name one: {re.escape(str(folder))}/rte, {re.escape(str(folder))}/wnli\."):
        bertkit.predict(["good"], run=folder)
    pair = [{"sentence1": "good", "sentence2": "bad"}]
    assert bertkit.predict(pair, run=folder / "rte")[0].keys() >= {"label", "score"}


def test_damaged_suite_is_named(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite", symlinks=True)
    (copy / "suite.json").write_text("{")
    with pytest.raises(RunError, match=r"suite\.json is damaged: .*Train again, or restore it"):
        evaluate_suite(copy)
    (copy / "suite.json").write_text("{}")
    with pytest.raises(RunError, match=r"suite\.json is damaged: it lacks created, kept, name, request, runs"):
        evaluate_suite(copy)
    with pytest.raises(RunError, match=r"There is no suite '.*cola': no folder of that name"):
        evaluate_suite(whole / "cola")
