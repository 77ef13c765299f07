"""Every shipped task file."""

import pytest

from bertkit import adapters, catalog
from bertkit.config import SECTIONS, TrainConfig, build
from bertkit.data import glue
from bertkit.data.hub import PARQUET_BRANCH
from bertkit.metrics import names as metric_names
from bertkit.metrics import spans, tagging
from bertkit.task import KINDS, read_toml

ALL = catalog.names()
MAIN_METRIC = {
    "glue/ax": "accuracy",
    "glue/cola": "matthews_correlation",
    "glue/mnli": "accuracy",
    "glue/mrpc": "f1",
    "glue/qnli": "accuracy",
    "glue/qqp": "accuracy",
    "glue/rte": "accuracy",
    "glue/sst2": "accuracy",
    "glue/stsb": "pearson",
    "glue/wnli": "accuracy",
}


def test_glue_is_whole():
    assert catalog.group("glue") == sorted(MAIN_METRIC)


@pytest.mark.parametrize(("name", "metric"), MAIN_METRIC.items())
def test_main_metric_is_glues(name, metric):
    assert catalog.find_task(name).metrics[0] == metric


@pytest.mark.parametrize("name", ALL)
def test_task_file_is_whole(name):
    task = catalog.find_task(name)
    assert task.name == name
    assert task.summary
    assert len(task.summary) <= 100
    assert task.source.startswith("https://")
    assert task.kind in ("", *KINDS)
    assert "text" in task.columns or task.type != "sequence-classification"


@pytest.mark.parametrize("name", ALL)
def test_metrics_fit_the_labels(name):
    task = catalog.find_task(name)
    assert task.metrics
    match task.type:
        case "sequence-classification":
            metric_names.check_names(task.metrics, task.kind or "single", len(task.labels))
        case "token-tagging":
            tagging.check_names(task.metrics, tagging.scheme(task.labels))
        case "span-qa":
            spans.check_names(task.metrics)


@pytest.mark.parametrize("name", ALL)
def test_options_are_those_of_the_task_type(name):
    task = catalog.find_task(name)
    kind = adapters.find(task.type)
    kind(task, build(TrainConfig, kind.defaults, task.settings.get("train", {})), task.labels)


@pytest.mark.parametrize("name", ALL)
def test_settings_are_known(name):
    for section, settings in catalog.find_task(name).settings.items():
        build(SECTIONS[section], settings)


@pytest.mark.parametrize("name", ALL)
def test_revision_is_a_whole_commit_or_the_hubs_parquet_copy_if_there_is_one(name):
    revision = catalog.find_task(name).data.revision
    assert revision in ("", PARQUET_BRANCH) or len(revision) == 40


@pytest.mark.parametrize("name", catalog.group("glue"))
def test_glue_task_has_a_folder_and_the_hubs_names(name):
    task = catalog.find_task(name)
    assert (task.data.hub, task.data.name) == ("nyu-mll/glue", name.removeprefix("glue/"))
    assert task.data.folder
    assert task.data.name in glue.LAYOUTS


def test_file_is_no_longer_than_a_screen():
    for name in ALL:
        assert len((catalog.folder() / f"{name}.toml").read_text().splitlines()) <= 30
        assert read_toml(catalog.folder() / f"{name}.toml")
