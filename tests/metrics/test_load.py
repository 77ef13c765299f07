"""`bertkit.metrics.load`: the published metrics' interface, found by module name, without network or disk."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evaluate
import pytest

import bertkit
from bertkit import metrics
from bertkit.errors import ConfigError, DataError

PUBLISHED = {"accuracy", "f1", "glue", "matthews_correlation", "pearsonr", "spearmanr"}


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_args, **_settings):
        raise AssertionError("a metric opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def no_disk(monkeypatch, tmp_path):
    """Point evaluate's cache below a plain file: nobody, root included, can make a folder there."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", blocked / "metrics")
    empty = tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


def test_available_holds_the_published_names_and_no_helper_module():
    names = set(metrics.available())
    assert names >= PUBLISHED
    assert names.isdisjoint({"base", "names", "classification", "interval", "__init__"})


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_load_gives_an_evaluate_metric_of_that_name(name):
    metric = metrics.load(name, "mrpc" if name == "glue" else None)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert "predictions" in metric.features
    assert "references:" in metric.inputs_description
    assert metric.inputs_description in metric.compute.__doc__


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_load_and_compute_need_no_network_and_no_writable_folder(name, offline, no_disk):
    metric = metrics.load(name, "mrpc" if name == "glue" else None)
    assert metric.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    assert not list(no_disk.iterdir())


def test_load_finds_a_new_module_without_being_told(tmp_path, monkeypatch):
    (tmp_path / "exact_word.py").write_text(
        "from bertkit.metrics.accuracy import Accuracy\n\n\nclass ExactWord(Accuracy):\n    pass\n"
    )
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    metric = metrics.load("exact_word")
    assert metric.name == "exact_word"
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_load_of_an_unknown_name_suggests_the_nearest():
    with pytest.raises(
        ConfigError, match=r"No metric 'acuracy' to load\. Did you mean 'accuracy'\? There are accuracy,"
    ):
        metrics.load("acuracy")


def test_load_of_a_helper_module_is_refused():
    with pytest.raises(ConfigError, match=r"No metric 'interval' to load\."):
        metrics.load("interval")


def test_glue_without_a_configuration_lists_them():
    with pytest.raises(ConfigError, match=r"Metric 'glue' needs a configuration\. It is one of sst2, mnli, "):
        metrics.load("glue")


def test_glue_with_an_unknown_configuration_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"Metric 'glue' has no 'sst-2'\. Did you mean 'sst2'\? It is one of"):
        metrics.load("glue", "sst-2")


def test_compute_without_rows_says_so():
    with pytest.raises(DataError, match=r"Metric 'accuracy' has no rows to score: give compute\(\) predictions"):
        metrics.load("accuracy").compute()


def test_compute_of_empty_lists_says_so_and_the_metric_stays_usable():
    metric = metrics.load("f1")
    with pytest.raises(DataError, match="Metric 'f1' has no rows to score"):
        metric.compute(predictions=[], references=[])
    assert metric.compute(predictions=[1], references=[1]) == {"f1": 1.0}


def test_add_batch_and_add_collect_rows_for_compute():
    metric = metrics.load("accuracy")
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add(prediction=1, reference=1)
    assert len(metric) == 3
    assert metric.compute() == {"accuracy": 2 / 3}
    assert metric.compute(predictions=[0], references=[1]) == {"accuracy": 0.0}


def test_two_metrics_at_once_do_not_mix_their_rows():
    first, second = metrics.load("accuracy"), metrics.load("accuracy")
    first.add_batch(predictions=[1, 1], references=[1, 1])
    second.add_batch(predictions=[1], references=[0])
    assert first.compute() == {"accuracy": 1.0}
    assert second.compute() == {"accuracy": 0.0}


def test_two_processes_share_one_score_through_the_cache_folder(tmp_path):
    def score(process_id):
        metric = metrics.load(
            "accuracy", num_process=2, process_id=process_id, experiment_id="shared", cache_dir=tmp_path
        )
        metric.add_batch(predictions=[1, 1], references=[1, process_id])
        return metric.compute()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(score, range(2))) == [{"accuracy": 0.75}, None]


def test_metrics_can_be_combined_by_evaluate():
    both = evaluate.combine([metrics.load("accuracy"), metrics.load("f1")])
    assert both.compute(predictions=[0, 1], references=[1, 1]) == {"accuracy": 0.5, "f1": 2 / 3}


def test_names_and_an_unknown_metric_load_no_heavy_library():
    code = (
        "import sys; from bertkit import metrics; from bertkit.metrics import names\n"
        "names.check_names(names.defaults('single', 2), 'single', 2)\n"
        "try: metrics.load('acuracy')\n"
        "except Exception as error: assert type(error).__name__ == 'ConfigError'\n"
        "heavy = {'torch', 'datasets', 'evaluate', 'sklearn', 'scipy', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(bertkit.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
