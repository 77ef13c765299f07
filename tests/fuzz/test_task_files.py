"""Task files and ``--set``, whatever stands in them: a task and its settings, or one BertkitError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertkit import catalog, config, task
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, TaskError
from bertkit.workflows.preparation import configs, tables
from tests.fuzz import targets

MANY = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
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


def look(found: Path | str, over: dict[str, Any] | None = None) -> None:
    """Find a task and its settings, which can be written into ``run.json`` and be read from there."""
    with targets.result_or_error():
        made = catalog.find_task(found, overrides=over)
        configs(made)
        stored = json.dumps(made.to_table(), allow_nan=False)
        task.from_table(json.loads(stored), name=made.name, where="run.json")


@MANY
@given(TABLES)
def test_table_is_a_task_or_an_error(tmp_path: Path, table: dict[str, Any]) -> None:
    whole = {"type": "sequence-classification", "data": {"files": {"train": "x.jsonl"}}} | table
    file = tmp_path / "task.toml"
    try:
        written = tomlkit.dumps(whole)
    except (ValueError, TypeError):  # what TOML cannot say: mixed keys, huge numbers
        return
    file.write_text(written, encoding="utf-8")
    look(file)


@MANY
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                b"type",
                b"=",
                b"[data]",
                b"\n",
                b'"',
                b"'''",
                b"[",
                b"]",
                b"{",
                b"}",
                b".",
                b"a",
                b"1e5",
                b"\xff",
                b"0x" + b"f" * 20,
                b"extends",
                b"1979-05-27",
                b"nan",
                b"a." * 300,
                b"[" * 300,
                b"1" * 5000,
            ]
        ),
        max_size=30,
    ).map(b"".join)
)
def test_bytes_are_a_task_or_an_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "task.toml"
    file.write_bytes(data)
    look(file)


@MANY
@given(
    st.lists(
        st.text(max_size=30)
        | st.tuples(
            st.sampled_from(
                [*SETTINGS, "columns.text", "data.files.train", "data.folder", "type", "labels", "track", "eval.x"]
            ),
            TEXTS
            | st.sampled_from(
                ["1e999", "nan", "-1", "[1,2]", "{a=1}", "0x" + "f" * 40, "1" * 5000, "[" * 300, "2024-01-01"]
            ),
        ).map("=".join),
        max_size=3,
    )
)
@example(["a." * 2000 + "a=1"])
@example(["train.learning_rate=" + "9" * 400])
@example(["train=1", "train.epochs=2"])
def test_settings_are_taken_or_named(given_settings: list[str]) -> None:
    over: dict[str, Any] = {}
    with targets.result_or_error():
        over = config.parse_overrides(given_settings)
    look("glue/sst2", over)


@MANY
@given(st.dictionaries(st.sampled_from(["train.epochs", "train", "train.epochs.a", "eval", ".", ""]) | TEXTS, VALUES))
def test_settings_from_python_are_taken_or_named(given_settings: dict[str, Any]) -> None:
    with targets.result_or_error():
        look("glue/sst2", tables(given_settings))


@MANY
@given(st.text(max_size=40))
@example("~nobody-of-this-name")
@example("a" * 5000)
@example("\0")
@example("a" * 300 + ".toml")
def test_name_is_found_or_not(name: str) -> None:
    with targets.result_or_error():
        catalog.members(name)
    with targets.result_or_error():
        catalog.find_task(name)


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
    file = tmp_path / "task.toml"
    for place in ("../x.jsonl", "/somewhere/x.jsonl"):
        file.write_text(f'{HEAD}[data]\nfiles = {{ train = "{place}" }}\n')
        assert catalog.find_task(file).data.files == {"train": place}


def test_setting_that_no_float_holds_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.learning_rate is 9{400}, and must be a number that a float can hold"
    ):
        config.build(TrainConfig, {"learning_rate": int("9" * 400)})


def test_setting_of_many_levels_is_named() -> None:
    with pytest.raises(ConfigError, match="goes 41 levels deep, and no setting does"):
        config.parse_overrides(["a." * 40 + "a=1"])
