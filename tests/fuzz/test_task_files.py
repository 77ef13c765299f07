"""Task files and ``--set``, whatever stands in them: a task and its settings, or one BertkitError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import strategies as st

from bertkit import catalog, config, task
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, TaskError
from bertkit.workflows.preparation import tables
from tests.fuzz import seeds, targets

KEYS = sorted(task.TASK_KEYS)
SETTINGS = [f"train.{name}" for name in TrainConfig.__dataclass_fields__ if name != "section"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none().map(lambda _: "x")
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.sampled_from(["sequence-classification", "span-qa", "os.path", "..", "/etc/passwd", "../x", "train.jsonl"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["train", "text", "hub"]) | TEXTS, inner)
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(st.sampled_from([*KEYS, "nonsense"]), VALUES, max_size=6)


@targets.FEW_OR_MANY
def test_table_is_a_task_or_an_error(number: int, tmp_path: Path) -> None:
    file = tmp_path / "task.toml"

    def look(table: dict[str, Any]) -> None:
        whole = {"type": "sequence-classification", "data": {"files": {"train": "x.jsonl"}}} | table
        try:
            written = tomlkit.dumps(whole)
        except (ValueError, TypeError):  # what TOML cannot say: mixed keys, huge numbers
            return
        file.write_text(written, encoding="utf-8")
        targets.find_task(file)

    targets.fuzz(number, TABLES, look)


@targets.FEW_OR_MANY
def test_bytes_are_a_task_or_an_error(number: int) -> None:
    words = st.lists(st.sampled_from(seeds.TOML_WORDS), max_size=30).map(b"".join)
    targets.fuzz(number, st.binary(max_size=300) | words, targets.task_file)


PLACES = [*SETTINGS, "columns.text", "data.files.train", "data.folder", "type", "labels", "track", "eval.x"]
ODD = ["1e999", "nan", "-1", "[1,2]", "{a=1}", "0x" + "f" * 40, "1" * 5000, "[" * 300, "2024-01-01"]


@targets.FEW_OR_MANY
def test_settings_are_taken_or_named(number: int) -> None:
    setting = st.tuples(st.sampled_from(PLACES), TEXTS | st.sampled_from(ODD)).map("=".join)
    broken = (
        ["a." * 2000 + "a=1"],
        ["train.learning_rate=" + "9" * 400],
        ["train=1", "train.epochs=2"],
        ["data.files.train=\0"],
    )

    def look(given: list[str]) -> None:
        over: dict[str, Any] = {}
        with targets.result_or_error():
            over = config.parse_overrides(given)
        targets.find_task("glue/sst2", over)

    targets.fuzz(number, st.lists(st.text(max_size=30) | setting, max_size=3), look, also=broken)


@targets.FEW_OR_MANY
def test_settings_from_python_are_taken_or_named(number: int) -> None:
    keys = st.sampled_from(["train.epochs", "train", "train.epochs.a", "eval", ".", ""]) | TEXTS

    def look(given: dict[str, Any]) -> None:
        with targets.result_or_error():
            targets.find_task("glue/sst2", tables(given))

    broken = ({"train": "x", "train.epochs.a": "x"}, {"train.epochs": "x", "train.epochs.a": {}})
    targets.fuzz(number, st.dictionaries(keys, VALUES), look, also=broken)


@targets.FEW_OR_MANY
def test_name_is_found_or_not(number: int) -> None:
    def look(name: str) -> None:
        with targets.result_or_error():
            catalog.members(name)
        with targets.result_or_error():
            catalog.find_task(name)

    targets.fuzz(
        number, st.text(max_size=40), look, also=("~nobody-of-this-name", "a" * 5000, "\0", "a" * 300 + ".toml")
    )


HEAD = 'type = "sequence-classification"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = " + "1" * 5000, "is not TOML: Exceeds the limit"),
        ("a = 0x" + "f" * 17, "holds a whole number of more than 64 bits"),
        ("a = " + "[" * 2000 + "]" * 2000, "nested too deeply"),
        (f"{'a.' * 40}a = 1", "nested more than 16 levels deep"),
        (HEAD + '[data]\nhub = "a/b"\n[columns]\ntext = 1979-05-27', r"'columns\.text' is the date or time 1979-05-27"),
        (HEAD + '[data]\nhub = "a/b"\n[train]\nmax_grad_norm = inf', r"'train\.max_grad_norm' is inf"),
        (HEAD + '[data]\nhub = "a/b"\nfolder = "../x"', r"'data\.folder' is '\.\./x', and must stay below"),
        (HEAD + '[data]\nhub = "a/b"\nfolder = "/etc"', r"'data\.folder' is '/etc', and must stay below"),
        (HEAD + '[data]\nhub = "a/b"\nlocal = { train = "x/../../y" }', r"'data\.local' is 'x/\.\./\.\./y'"),
        (HEAD + '[data]\nhub = "a/b"\nlocal = { train = "C:\\\\y" }', r"'data\.local' is 'C:\\\\y'"),
        (
            HEAD + '[data]\nfiles = { train = "../x.jsonl" }',
            r"'data\.files\.train' is '\.\./x\.jsonl', which leaves the folder of the task file\. Take .* --data DIR",
        ),
        (HEAD + '[data]\nfiles = { train = "/etc/passwd" }', r"'data\.files\.train' is '/etc/passwd', which leaves"),
        (HEAD + '[data]\nfiles = { train = "a/../../x" }', r"'data\.files\.train' is 'a/\.\./\.\./x', which leaves"),
        (HEAD + '[data]\nfiles = { train = "C:\\\\x" }', r"'data\.files\.train' is .*, which leaves"),
        (HEAD + '[data]\nfiles = { "../../x" = "t.jsonl" }', r"'data\.files' names a split '\.\./\.\./x'"),
        (HEAD + '[data]\nhub = "a/b"\nsplits = { "a/b" = "train" }', r"'data\.splits' names a split 'a/b'"),
    ],
)
def test_what_a_task_file_may_not_say_is_named(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "task.toml"
    file.write_text(text)
    with pytest.raises(TaskError, match=says):
        catalog.find_task(file)


def test_data_of_the_user_may_be_anywhere(tmp_path: Path) -> None:
    """What a task file may not say, its user may."""
    file = tmp_path / "task.toml"
    file.write_text(f'{HEAD}[data]\nfiles = {{ train = "x.jsonl" }}\n')
    for place in ("../x.jsonl", "/somewhere/x.jsonl"):
        over = {"data": {"files": {"train": place}}}
        assert catalog.find_task(file, overrides=over).data.files == {"train": place}


def test_setting_that_no_float_holds_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.learning_rate is 9{400}, and must be a number that a float can hold"
    ):
        config.build(TrainConfig, {"learning_rate": int("9" * 400)})


def test_setting_of_many_levels_is_named() -> None:
    with pytest.raises(ConfigError, match="goes 41 levels deep, and no setting does"):
        config.parse_overrides(["a." * 40 + "a=1"])
