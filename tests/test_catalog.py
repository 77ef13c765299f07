import shutil
from pathlib import Path

import pytest

from bertkit import catalog
from bertkit.errors import TaskError


@pytest.fixture
def task_file(tmp_path):
    def _write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return _write


MINE = 'type = "sequence-classification"\n[data]\nfiles = { train = "train.jsonl" }\n'


def test_name_is_the_path_below_tasks():
    task = catalog.find_task("glue/sst2")
    assert task.name == "glue/sst2"
    assert task.file == (catalog.folder() / "glue" / "sst2.toml").resolve()


def test_group_is_a_folder():
    assert "glue/sst2" in catalog.group("glue") == catalog.group("glue/")
    assert catalog.group("gl") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glue/sst-2", r"No task 'glue/sst-2'\. Did you mean 'glue/sst2'\? 'bertkit tasks' lists them all"),
        ("zzzzzz", r"No task 'zzzzzz'\. 'bertkit tasks' lists"),
        ("glue", r"'glue' is a group of tasks: name one of glue/ax, glue/cola"),
        ("glue/rte,glue/cola", r"'glue/rte,glue/cola' is a list of 2 tasks, and one is wanted here"),
        ("./nowhere.toml", r"There is no task file \./nowhere\.toml\. 'bertkit tasks new DATA' writes one"),
        ("/nowhere/task", r"There is no task file /nowhere/task"),
    ],
)
def test_unknown_task_is_named(name, message):
    with pytest.raises(TaskError, match=message):
        catalog.find_task(name)


def test_folder_of_files_is_no_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in (str(tmp_path), "mine"):
        with pytest.raises(TaskError, match=r"is a folder, .*train\.jsonl --set data\.files\.validation="):
            catalog.find_task(name)


def test_file_of_another_suffix_is_data_where_its_format_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "eng.testa"
    file.write_text("we O\n")
    with pytest.raises(TaskError, match=r"The suffix of eng\.testa does not say .*--set data\.format=conll"):
        catalog.find_task("eng.testa")
    for name in ("eng.testa", str(file)):
        task = catalog.find_task(name, overrides={"data": {"format": "conll"}})
        assert (task.data.format, task.data.files) == ("conll", {"train": str(file)})


def test_path_of_a_task_file_is_a_task(task_file):
    path = task_file("mine.toml", MINE)
    task = catalog.find_task(path)
    assert (task.name, task.folder) == ("mine", path.parent.resolve())
    assert catalog.find_task(str(path)) == task


def test_wrong_task_file_is_named(task_file):
    path = task_file("mine.toml", MINE.replace("type", "tpye"))
    with pytest.raises(TaskError, match=r"mine\.toml: 'tpye' is not a key of a task\. Did you mean 'type'\?"):
        catalog.find_task(path)


@pytest.mark.parametrize("name", ["reviews.jsonl", "reviews.csv.gz", "a/reviews.parquet", "reviews.TSV"])
def test_bare_data_file_is_a_task(name):
    task = catalog.find_task(name, overrides={"columns": {"label": "stars"}})
    assert (task.name, task.type, task.columns) == ("reviews", "sequence-classification", {"label": "stars"})
    assert Path(task.data.files["train"]) == Path(name).resolve()


def test_overrides_reach_every_key():
    over = {"labels": ["no", "yes"], "train": {"epochs": 2}, "columns": {"text": "t"}, "data": {"revision": "abc"}}
    task = catalog.find_task("glue/sst2", overrides=over)
    assert (task.labels, task.settings["train"], task.data.revision) == (("no", "yes"), {"epochs": 2}, "abc")
    assert task.columns == {"text": "t", "label": "label"}


def test_override_of_an_unknown_key_is_refused():
    with pytest.raises(TaskError, match=r"'column' is not a key of a task\. Did you mean 'columns'\?"):
        catalog.find_task("glue/sst2", overrides={"column": {"label": "x"}})


def test_override_can_put_files_in_place_of_the_hub():
    task = catalog.find_task("glue/sst2", overrides={"data": {"files": {"train": "mine.jsonl"}}})
    assert (task.data.hub, task.data.files) == ("", {"train": "mine.jsonl"})


def test_task_is_given_back_with_overrides():
    task = catalog.find_task("glue/sst2")
    assert catalog.find_task(task) == task
    assert catalog.find_task(task, overrides={"labels": ["a", "b"]}).labels == ("a", "b")


def test_variant_is_three_lines(task_file):
    path = task_file("fast.toml", 'extends = "glue/sst2"\n[train]\nepochs = 1\n')
    task = catalog.find_task(path)
    assert (task.labels, task.settings) == (("negative", "positive"), {"train": {"epochs": 1}})


def test_variant_by_path_keeps_the_bases_files(task_file):
    base = task_file("base/base.toml", MINE)
    variant = task_file("other/variant.toml", 'extends = "../base/base.toml"\nsummary = "v"\n')
    task = catalog.find_task(variant)
    assert Path(task.data.files["train"]) == base.parent.resolve() / "train.jsonl"
    beside = catalog.find_task(task_file("base/beside.toml", 'extends = "base.toml"\n'))
    assert beside.data.files == {"train": "train.jsonl"}


def test_wrong_extends_is_named(task_file):
    with pytest.raises(TaskError, match=r"extends 'glue/sst3', which is no task\. Did you mean 'glue/sst2'\?"):
        catalog.find_task(task_file("a.toml", 'extends = "glue/sst3"'))
    with pytest.raises(TaskError, match=r"'extends' is 3, and must be the name or the path of a task"):
        catalog.find_task(task_file("b.toml", "extends = 3"))
    task_file("c.toml", 'extends = "d.toml"')
    with pytest.raises(TaskError, match=r"extends itself: d\.toml -> c\.toml -> d\.toml"):
        catalog.find_task(task_file("d.toml", 'extends = "c.toml"'))


def test_new_task_is_one_file(tmp_path, monkeypatch):
    root = tmp_path / "tasks"
    shutil.copytree(catalog.folder(), root)
    (root / "mine").mkdir()
    (root / "mine" / "new.toml").write_text(MINE)
    monkeypatch.setattr(catalog, "folder", lambda: root)
    assert catalog.group("mine") == ["mine/new"]
    assert catalog.find_task("mine/new").type == "sequence-classification"


def test_folder_of_a_wheel_is_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "bertkit"
    (package / "tasks").mkdir(parents=True)
    monkeypatch.setattr(catalog, "__file__", str(package / "catalog.py"))
    assert catalog.folder() == package / "tasks"
    (package / "tasks").rmdir()
    assert catalog.folder() == tmp_path / "tasks"
