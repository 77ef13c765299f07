import json
import tomllib
from pathlib import Path

import pytest

from bertkit import catalog
from bertkit.data import sources
from bertkit.errors import DataError, TaskError
from bertkit.workflows import tasks


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "reviews.jsonl"
    rows = [{"id": i, "review": f"a review {i}", "stars": i % 5 + 1} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_ls_lists_all_or_a_group():
    assert [task.name for task in tasks.ls()] == catalog.names()
    assert {task.name.split("/")[0] for task in tasks.ls("glue")} == {"glue"}
    assert [task.name for task in tasks.ls("glue/sst2")] == ["glue/sst2"]


def test_ls_unknown_group_is_named():
    with pytest.raises(TaskError, match=r"no group of tasks 'gleu'\. Did you mean 'glue'\? There are .*glue"):
        tasks.ls("gleu")


@pytest.mark.parametrize("name", catalog.names())
def test_show_gives_toml_of_the_task(name):
    text = tasks.show(name)
    assert text.startswith(f"# {name}, ")
    assert tomllib.loads(text) == catalog.find_task(name).to_table()


def test_show_resolves_what_a_task_extends(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "glue/sst2"\n[train]\nlearning_rate = 2e-5\n')
    table = tomllib.loads(tasks.show(path))
    assert (table["train"], table["data"]["name"]) == ({"learning_rate": 2e-5}, "sst2")
    assert str(path) in tasks.show(path)


def test_toml_keeps_every_value():
    table = {
        "a": 'q"\\\n\x7f\x01ü',
        "b": True,
        "c": 1e-05,
        "d": 3,
        "e": ["x"],
        "t": {"k.k": {"": 1}, "f": float("inf")},
    }
    assert tomllib.loads(tasks.to_toml(table)) == table


def test_toml_replaces_what_utf8_cannot_hold():
    assert tomllib.loads(tasks.to_toml({"a": "x\ud800"})) == {"a": "x\ufffd"}


def test_new_writes_a_task_that_is_found(reviews):
    made = tasks.new(reviews)
    task = catalog.find_task(made.path)
    assert made.path == reviews.with_suffix(".toml")
    assert made.path.read_text() == made.text
    assert task.columns == {"text": "review", "label": "stars"}
    assert (task.kind, task.labels) == ("single", ("1", "2", "3", "4", "5"))
    assert task.folder / task.data.files["train"] == reviews
    assert "# column 'stars' is taken as label: by its name" in made.text
    assert '# Other columns: "id".' in made.text
    assert any("5 different whole numbers" in note for note in made.notes)


def test_new_obeys_overrides(reviews):
    over = {"columns": {"label": "id"}, "kind": "regression", "train": {"epochs": 1}, "summary": "mine"}
    made = tasks.new(reviews, overrides=over)
    task = catalog.find_task(made.path)
    assert (task.columns["label"], task.kind, task.labels) == ("id", "regression", ())
    assert (task.settings, task.summary) == ({"train": {"epochs": 1}}, "mine")
    assert "kind is a guess" not in made.text


def test_new_names_files_relative_to_the_task(reviews, tmp_path):
    inside = tmp_path / "below" / "reviews.jsonl"
    inside.parent.mkdir()
    reviews.rename(inside)
    made = tasks.new(inside, out=tmp_path / "mine.toml")
    assert catalog.find_task(made.path).data.files == {"train": "below/reviews.jsonl"}


def test_new_says_that_data_outside_the_tasks_folder_needs_data(reviews, tmp_path):
    (tmp_path / "tasks").mkdir()
    made = tasks.new(reviews, out=tmp_path / "tasks" / "mine.toml")
    assert f"needs --data {reviews.parent}" in made.notes[-1]
    found = catalog.find_task(made.path)
    assert found.data.files == {"train": "reviews.jsonl"}
    assert sources.load(found, data=reviews.parent).splits["train"].examples


def test_new_takes_the_other_splits_beside_train(reviews):
    train = reviews.rename(reviews.with_name("train.jsonl"))
    for name in ("dev.jsonl", "test.jsonl"):
        train.with_name(name).write_text(train.read_text())
    made = tasks.new(train)
    expected = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
    assert catalog.find_task(made.path).data.files == expected
    assert "dev.jsonl is taken as validation" in made.notes


def test_new_reads_lists_as_several_labels(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n')
    task = catalog.find_task(tasks.new(path).path)
    assert (task.kind, task.labels) == ("multi", ("x", "y"))


def test_new_takes_joined_labels_apart(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("text,label\na,x|y\nb,x\n")
    assert catalog.find_task(tasks.new(path, overrides={"kind": "multi"}).path).labels == ("x", "y")


def test_new_keeps_odd_column_names(tmp_path):
    path = tmp_path / "odd.jsonl"
    row = {'te"xt\n': "long enough a text", "class": "a", "x\ny": 1}
    path.write_text("\n".join(json.dumps(row | {"class": c}) for c in "aabb"))
    assert catalog.find_task(tasks.new(path).path).columns == {"text": 'te"xt\n', "label": "class"}


def test_new_refuses_to_overwrite(reviews):
    reviews.with_suffix(".toml").write_text("mine")
    with pytest.raises(TaskError, match=r"reviews\.toml exists already\. Name another with --out"):
        tasks.new(reviews)
    assert reviews.with_suffix(".toml").read_text() == "mine"


def test_new_leaves_no_file_for_a_wrong_override(reviews):
    with pytest.raises(TaskError, match="'labls' is not a key of a task"):
        tasks.new(reviews, overrides={"labls": ["a"]})
    assert not reviews.with_suffix(".toml").exists()


def test_new_names_a_role_without_column(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "n": 1}\n')
    with pytest.raises(
        TaskError, match=r"a\.jsonl: no column fits the role 'label'; there are 'text', 'n'\. .*--set columns\.label"
    ):
        tasks.new(path)
    with pytest.raises(TaskError, match="no column fits the role 'label'"):
        tasks.new(path, overrides={"columns": {"label": "nowhere"}})


def test_new_refuses_rows_of_another_type(reviews):
    with pytest.raises(TaskError, match=r"reviews\.jsonl: no column fits the role 'question'; there are .*--set"):
        tasks.new(reviews, overrides={"type": "span-qa"})
    assert not reviews.with_suffix(".toml").exists()


def test_new_names_what_cannot_be_read_or_written(tmp_path, reviews):
    with pytest.raises(DataError, match="There is no file"):
        tasks.new(tmp_path / "nowhere.jsonl")
    with pytest.raises(TaskError, match="cannot be written: No such file"):
        tasks.new(reviews, out=Path(tmp_path / "no" / "where.toml"))
