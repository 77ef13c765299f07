from pathlib import Path

import pytest

from bertkit.errors import TaskError
from bertkit.task import from_table, merge, read_toml

WHOLE = {"type": "sequence-classification", "data": {"files": {"train": "a.jsonl"}}}


def make(table, **options):
    return from_table(table, name="mine", where="mine.toml", **options)


def test_only_type_and_data_are_required():
    task = make(WHOLE)
    assert (task.type, task.data.files, task.labels, task.columns) == (WHOLE["type"], {"train": "a.jsonl"}, (), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lables": ["a"]}, r"mine\.toml: 'lables' is not a key of a task\. Did you mean 'labels'\?"),
        ({"type": None}, r"'type' is None, and must be a text"),
        ({"summary": 3}, r"'summary' is 3, and must be a text"),
        ({"labels": "a"}, r"'labels' is 'a', and must be a list of texts"),
        ({"labels": [0, 1]}, r"'labels' is \[0, 1\], and must be a list of texts"),
        ({"labels": ["a", "b", "a"]}, r"'labels' names 'a' twice"),
        ({"metrics": ["f1", "f1"]}, r"'metrics' names 'f1' twice"),
        ({"columns": "text"}, r"\[columns\] must be a table"),
        ({"train": 3}, r"\[train\] must be a table"),
        ({"kind": "double"}, r"'kind' is 'double', and must be one of 'single', 'multi', 'regression'"),
        ({"kind": ["single"]}, r"'kind' is \['single'\], and must be"),
        ({"data": 3}, r"\[data\] must be a table"),
        ({"data": {"name": "x"}}, r"\[data\] needs either 'hub' or 'files'"),
        ({"data": {"hub": "a/b", "files": {"train": "a.csv"}}}, r"\[data\] needs either 'hub' or 'files'"),
        ({"data": {"hbu": "a/b", "hub": "a/b"}}, r"'data\.hbu' is not a key of a task\. Did you mean 'hub'\?"),
        ({"data": {"files": "a.jsonl"}}, r"'data\.files' must be a table of texts, for example \{ train ="),
        ({"data": {"hub": "a/b", "splits": {"train": 1}}}, r"'data\.splits' must be a table of texts"),
        ({"data": {"hub": 3}}, r"'data\.hub' is 3, and must be a text"),
    ],
)
def test_wrong_key_is_named(change, message):
    with pytest.raises(TaskError, match=message):
        make({**WHOLE, **change})


def test_message_ends_with_one_stop():
    with pytest.raises(TaskError) as caught:
        make({**WHOLE, "track": "zzz"})
    assert str(caught.value).endswith("there is tensorboard, trackio, wandb, mlflow.")
    with pytest.raises(TaskError) as caught:
        make({**WHOLE, "zzz": 1})
    assert str(caught.value).endswith("'zzz' is not a key of a task.")


def test_data_may_be_left_to_the_command_line():
    assert make({"type": "sequence-classification", "data": {}}).data.hub == ""


def test_all_problems_come_together():
    with pytest.raises(
        TaskError, match=r"mine\.toml: 'lables' is not.*; 'type' is missing; .*twice; .*'data\.hub' is 3"
    ):
        make({"lables": [], "labels": ["a", "a"], "data": {"hub": 3}})
    with pytest.raises(TaskError, match="'type' is missing; 'data' is missing"):
        make({})


def test_table_can_be_read_back(tmp_path):
    file = tmp_path / "mine.toml"
    table = {**WHOLE, "labels": ["a", "b"], "train": {"epochs": 1}, "columns": {"text": "t"}}
    task = make(table, file=file)
    back = task.to_table()
    assert back["data"] == {"files": {"train": str(tmp_path / "a.jsonl")}}
    assert {k: v for k, v in back.items() if k != "data"} == {k: v for k, v in table.items() if k != "data"}
    assert make(back, file=file).settings == task.settings


def test_merge_goes_into_tables_and_replaces_lists():
    base = {"labels": ["a"], "data": {"hub": "a/b", "name": "x"}}
    assert merge(base, {"labels": ["b"], "data": {"name": "y"}}) == {
        "labels": ["b"],
        "data": {"hub": "a/b", "name": "y"},
    }
    assert base["data"]["name"] == "x"


@pytest.mark.parametrize(
    ("base", "over", "key"),
    [({"hub": "a/b"}, {"files": {"train": "a.csv"}}, "files"), ({"files": {"train": "a.csv"}}, {"hub": "a/b"}, "hub")],
)
def test_merge_of_files_and_hub_keeps_the_upper(base, over, key):
    merged = merge({"type": "t", "data": base}, {"data": over})["data"]
    assert [name for name in ("hub", "files") if name in merged] == [key]


def test_toml_faults_are_named(tmp_path):
    path = tmp_path / "a.toml"
    with pytest.raises(TaskError, match=r"a\.toml cannot be read: No such file"):
        read_toml(path)
    path.write_bytes(b'summary = "\xe9"')
    with pytest.raises(TaskError, match=r"a\.toml is not UTF-8 \(byte 11\)\. Save the task file as UTF-8"):
        read_toml(path)
    path.write_text("a = 1\nb = [no, yes]")
    with pytest.raises(TaskError, match=r"a\.toml is not TOML: .*line 2"):
        read_toml(path)


def test_toml_may_have_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(path) == {"a": 1}


def test_folder_is_the_files():
    assert make(WHOLE, file=Path("/x/mine.toml")).folder == Path("/x")
    assert make(WHOLE).folder == Path()
