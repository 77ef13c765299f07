"""Suites: all tasks of a group, one table, GLUE's average, and going on after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertkit import catalog
from bertkit.errors import ConfigError, DataError, RunError, TaskError
from bertkit.run import Run
from bertkit.workflows import suite
from bertkit.workflows.suite import evaluate_suite
from tests.workflows.suites import train_suite, write_glue
from tests.workflows.training import Listener, record, weights

ORDER = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]


@pytest.fixture(scope="module")
def glue_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="module")
def whole(tiny_encoder: Path, glue_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished suite of all nine tasks; tests must not change it."""
    folder = tmp_path_factory.mktemp("suite")
    settings = {"glue/rte": {"init_from": "glue/mnli", "train.max_steps": 2}}
    return train_suite("glue", data=glue_data, encoder=tiny_encoder, runs=folder, settings=settings).suite


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
    with pytest.raises(TaskError, match=r"None of the tasks glue/ax has a train split"):
        train_suite("glue/ax,", **options)


def test_settings_below_a_name_are_that_tasks_alone(whole: Path) -> None:
    steps = {name: record(whole / name)["config"]["train"]["max_steps"] for name in ORDER}
    assert steps == dict.fromkeys(ORDER, 1) | {"rte": 2}


def test_unknown_task_and_name_below_it_are_named(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"No task 'glue/rtee'\. Did you mean 'glue/rte'\?"):
        train_suite("glue/cola,glue/rtee", encoder=tiny_encoder, runs=tmp_path)
    with pytest.raises(TaskError, match=r"'glue/rtee' is not a key of a task"):
        train_suite("glue/cola,glue/rte", encoder=tiny_encoder, settings={"glue/rtee": {"train.epochs": 2}})
    with pytest.raises(ConfigError, match=r"finetune needs a task: a name or a group"):
        train_suite(seeds=2)


def test_missing_data_of_any_task_stops_all_before_the_first(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_glue(tmp_path / "data", without=("QQP", "MNLI"))
    with pytest.raises(
        DataError,
        match=r"2 of 9 tasks cannot be trained, so none was\. glue/mnli: There is no train split .*; glue/qqp: There is "
        r".* The others alone: bertkit finetune glue/cola,glue/mrpc,glue/qnli,glue/rte,",
    ):
        train_suite("glue", data=data, encoder=tiny_encoder, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


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
    found = suite._tasks("glue/rte,glue/mnli,glue/mrpc", {"init_from": "glue/mnli"}, lambda _: None)
    assert [(task.name, task.init_from) for task in found] == [
        ("glue/mnli", ""), ("glue/rte", "glue/mnli"), ("glue/mrpc", "glue/mnli")
    ]  # fmt: skip


def test_tasks_that_start_from_each_other_are_refused() -> None:
    settings = {"glue/rte": {"init_from": "glue/mrpc"}, "glue/mrpc": {"init_from": "glue/rte"}}
    with pytest.raises(ConfigError, match=r"The tasks glue/rte, glue/mrpc start from each other \(init_from\)"):
        suite._tasks("glue/rte,glue/mrpc", settings, lambda _: None)


def test_init_from_outside_the_suite_is_a_run(
    whole: Path, tiny_encoder: Path, glue_data: Path, tmp_path: Path
) -> None:
    import bertkit

    options: dict[str, Any] = {"data": glue_data, "precision": "float32", "threads": 1}
    settings = {"train.max_steps": 1, "init_from": str(whole / "mnli")}
    run = bertkit.finetune("glue/rte", out=tmp_path / "rte", settings=settings, **options).run
    assert record(run)["encoder"] == record(whole / "mnli")["encoder"]
    with pytest.raises(ConfigError, match=r"glue/rte starts from 'glue/mnli' \(init_from\), which is no run\. In a "):
        bertkit.finetune("glue/rte", settings={"init_from": "glue/mnli"}, runs=tmp_path, **options)
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
    found = suite._average(some)
    assert found is not None
    assert (found.name, found.tasks) == ("average of 2 tasks", ("glue/rte", "glue/wnli"))
    assert found.spread.mean == pytest.approx(0.6)
    assert suite._average({"glue/rte": one(0.5)}) is None


def test_average_of_several_seeds_is_taken_seed_by_seed() -> None:
    two = {
        "glue/rte": [{"validation": {"accuracy": value}} for value in (0.5, 0.7)],
        "glue/wnli": [{"validation": {"accuracy": value}} for value in (0.3, 0.6)],
    }
    found = suite._average(two)
    assert found is not None
    assert found.spread.values == (pytest.approx(0.4), pytest.approx(0.65))


def test_facts_fit_the_shipped_tasks() -> None:
    rule = suite.facts()["average"]
    assert "glue/ax" not in rule
    assert len(rule) == 9
    for task, keys in rule.items():
        found = catalog.find_task(task)
        assert {key.split(".")[1] for key in keys} == set(found.metrics)
        assert {key.split(".")[0] for key in keys} <= set(found.data.splits)
    for row in suite.facts()["published"]:
        assert all(set(keys) <= set(rule[task]) for task, keys in row["scores"].items())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("google-bert/bert-base-cased", "0.9232"), ("bert-base-cased", "0.9232"), ("FacebookAI/roberta-base", "0.948")],
)
def test_published_row_is_that_of_the_same_encoder(name: str, wanted: str) -> None:
    row = suite._published_row(name)
    assert row is not None
    assert suite._share(row["scores"]["glue/sst2"]["validation.accuracy"]) == wanted


@pytest.mark.parametrize("name", ["minilm", "me/bert-base-cased", "/home/me/bert-base-cased", "bert-large-cased"])
def test_no_row_is_published_for_another_encoder(name: str) -> None:
    assert suite._published_row(name) is None


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


def test_other_plan_at_the_same_place_is_refused(whole: Path, tiny_encoder: Path, glue_data: Path) -> None:
    with pytest.raises(RunError, match=r"was made from something else: .*Name another --out\."):
        train_suite("glue", data=glue_data, encoder=tiny_encoder, out=whole, settings={"train.max_steps": 9})
    with pytest.raises(RunError, match=r"goes on with what the suite was started with\. Drop limit \(5\)"):
        train_suite(resume=whole, limit=5)
    with pytest.raises(RunError, match=r"There is no suite '.*nowhere': no folder of that name has a suite\.json"):
        train_suite(resume=whole.parent / "nowhere")


def test_suite_of_several_tasks_has_no_model_of_its_own(whole: Path) -> None:
    import bertkit

    with pytest.raises(RunError, match=r"holds runs of 9 tasks \(glue/cola, .*Name one: .*cola, .*mnli"):
        bertkit.predict(["good"], run=whole)


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
