"""Where a task's examples come from: its files, a folder, a file, Python rows or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import Dataset as HubDataset

from bertkit.data import Dataset, Split, hub, sources
from bertkit.errors import DataError, TaskError
from bertkit.task import DataSource, Task
from tests.conftest import write_jsonl

ROWS: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def task(file: Path | None = None, **data: Any) -> Task:
    return Task(name="my/task", type="sequence-classification", data=DataSource(**data), file=file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "dev.jsonl", ROWS[:1])
    return tmp_path


FILES = {"train": "train.jsonl", "validation": "dev.jsonl"}


def test_files_are_read_beside_the_task_file(folder: Path) -> None:
    found = sources.load(task(folder / "my.toml", files=FILES))
    assert found.splits["train"].examples == ROWS
    assert found.splits["validation"].place(0) == "dev.jsonl:1"


def test_files_are_read_below_a_data_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    found = sources.load(task(elsewhere / "my.toml", files=FILES), data=folder)
    assert found.splits["train"].examples == ROWS


def test_only_the_splits_that_are_asked_for_are_read(folder: Path) -> None:
    (folder / "train.jsonl").write_text("{broken")
    found = sources.load(task(folder / "my.toml", files=FILES), splits=["validation"])
    assert list(found.splits) == ["validation"]


def test_unknown_split_is_refused_with_those_that_there_are(folder: Path) -> None:
    match = r"There is no split 'validaton'\. Did you mean 'validation'\? There are train, validation\."
    with pytest.raises(DataError, match=match):
        sources.load(task(folder / "my.toml", files=FILES), splits=["validaton"])


def test_declared_format_decides_over_the_suffix(folder: Path) -> None:
    (folder / "train.txt").write_text("text\tlabel\na\tx\n")
    found = sources.load(task(folder / "my.toml", files={"train": "train.txt"}, format="tsv"))
    assert found.splits["train"].examples == [{"text": "a", "label": "x"}]


def test_positions_of_columns_reach_the_reader(folder: Path) -> None:
    (folder / "train.conll").write_text("a x O\n")
    made = Task(
        name="my/task",
        type="token-tagging",
        data=DataSource(files={"train": "train.conll"}),
        columns={"tags": 1},
        file=folder / "my.toml",
    )
    expected = [{"tokens": ["a"], "tags": ["x"], "2": ["O"]}]
    assert sources.load(made).splits["train"].examples == expected
    assert sources.load(made, data=folder / "train.conll").splits["train"].examples == expected


@pytest.mark.parametrize("as_text", [True, False])
def test_single_file_is_the_one_split_under_its_own_name(folder: Path, as_text: bool) -> None:
    path = folder / "dev.jsonl"
    found = sources.load(task(hub="a/b"), data=str(path) if as_text else path)
    assert list(found.splits) == ["dev"]
    assert sources.only(found).name == "dev"
    assert sources.only(found).examples == ROWS[:1]


def test_single_file_is_told_from_a_folder_and_from_rows(folder: Path) -> None:
    assert sources.is_single_file(folder / "dev.jsonl")
    assert sources.is_single_file(str(folder / "dev.jsonl"))
    assert not any(sources.is_single_file(data) for data in (folder, folder / "none", ROWS, None))


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data .*none: there is no such file or folder\."):
        sources.load(task(hub="a/b"), data=tmp_path / "none")


def test_folder_for_a_task_without_a_layout_is_refused(tmp_path: Path) -> None:
    match = r"The task 'my/task' has no folder layout, so --data takes a file here, and .* is a folder"
    with pytest.raises(DataError, match=match):
        sources.load(task(hub="a/b"), data=tmp_path)


def glue_folder(tmp_path: Path) -> Path:
    (tmp_path / "SST-2").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "SST-2" / f"{name}.tsv").write_text("sentence\tlabel\nfine\t1\ndull\t0\n")
    return tmp_path


SST2 = {
    "hub": "nyu-mll/glue",
    "name": "sst2",
    "folder": "SST-2",
    "splits": {"train": "train", "validation": "validation"},
}


def test_folder_in_the_glue_layout_is_read_in_place_of_the_hub(tmp_path: Path) -> None:
    found = sources.load(task(**SST2), data=glue_folder(tmp_path))
    assert {name: len(split.examples) for name, split in found.splits.items()} == {"train": 2, "validation": 2}
    assert found.splits["train"].examples[0]["sentence"] == "fine"


def test_folder_in_the_glue_layout_gives_the_splits_that_are_asked_for(tmp_path: Path) -> None:
    found = sources.load(task(**SST2), data=glue_folder(tmp_path), splits=["validation"])
    assert list(found.splits) == ["validation"]
    with pytest.raises(DataError, match=r"my/task has no split 'test'\. It has train, validation\."):
        sources.load(task(**SST2), data=tmp_path, splits=["test"])


@pytest.mark.parametrize(
    "rows", [ROWS, HubDataset.from_list(ROWS), pandas.DataFrame(ROWS)], ids=["list", "datasets", "pandas"]
)
def test_python_rows_are_train(rows: Any) -> None:
    found = sources.load(task(), data=rows)
    assert found.splits["train"].examples == ROWS
    assert found.splits["train"].name == "train"


def test_python_rows_by_split_keep_their_names() -> None:
    found = sources.load(task(), data={"train": ROWS, "validation": pandas.DataFrame(ROWS[:1])})
    assert {name: split.examples for name, split in found.splits.items()} == {"train": ROWS, "validation": ROWS[:1]}


def test_the_hub_is_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(task: Task, **given: Any) -> Dataset:
        asked.append((task.data.hub, given))
        return Dataset(splits={})

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    sources.load(task(hub="a/b"), offline=True, splits=["validation"])
    assert asked == [("a/b", {"offline": True, "splits": ["validation"]})]


def test_task_without_data_is_refused() -> None:
    with pytest.raises(TaskError, match=r"The task 'my/task' names no data of its own: give it some with --data\."):
        sources.load(task())


# Fingerprint -------------------------------------------------------------------------------------------------


def fingerprint(*rows: dict[str, Any], name: str = "train", source: str = "a") -> str:
    return sources.fingerprint(Dataset(splits={name: Split(name=name, examples=list(rows), source=source)}))


def test_fingerprint_changes_with_any_cell_column_row_or_split() -> None:
    one, two = {"text": "a", "label": 1}, {"text": "b", "label": 0}
    found = [
        fingerprint(one, two),
        fingerprint(two, one),
        fingerprint(one),
        fingerprint({"text": "a ", "label": 1}, two),
        fingerprint({"text": "a", "label": "1"}, two),
        fingerprint({"text": "a", "label": None}, two),
        fingerprint({"text": "a", "labels": 1}, two),
        fingerprint(one, two, name="validation"),
        fingerprint({"text": "\ud800", "label": 1}, two),
    ]
    assert len(set(found)) == len(found)


def test_fingerprint_is_of_the_rows_alone() -> None:
    one = {"text": "a", "label": 1}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())), source="b")
    assert len(fingerprint(one)) == 64


def test_fingerprint_tells_where_a_split_ends() -> None:
    def of(**splits: list[dict[str, Any]]) -> str:
        made = {name: Split(name=name, examples=rows, source="") for name, rows in splits.items()}
        return sources.fingerprint(Dataset(splits=made))

    assert of(train=ROWS, validation=[]) != of(train=ROWS[:1], validation=ROWS[1:])
    assert of(train=ROWS, validation=ROWS) == of(validation=ROWS, train=ROWS)
