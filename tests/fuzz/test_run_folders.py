"""Run folders with anything in their files: everything that reads them gives a result or one BertkitError."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertkit.workflows import saved
from tests.fuzz import targets
from tests.fuzz.test_readers import JSON, damaged

MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
FILES = ["run.json", "events.jsonl", "scores.json"]


def changed(whole: Any) -> st.SearchStrategy[Any]:
    """Return a JSON object of which some values are others, or are not there."""
    keys = sorted(whole)
    return st.dictionaries(st.sampled_from(keys), JSON, max_size=3).flatmap(
        lambda over: st.lists(st.sampled_from(keys), max_size=2).map(
            lambda gone: {key: value for key, value in (whole | over).items() if key not in gone}
        )
    )


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "runs" / "one")
    return tmp_path / "runs" / "one"


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_named_or_read(name: str, copied: Path) -> None:
    whole = (copied / name).read_bytes()

    @MANY
    @given(damaged(whole) | st.binary(max_size=100) | st.just(b"[" * 5000) | JSON.map(lambda v: json.dumps(v).encode()))
    def fuzz(data: bytes) -> None:
        targets.run_folder(name, data, copied)

    fuzz()


@pytest.mark.parametrize("name", ["run.json", "scores.json"])
def test_other_values_are_named_or_read(name: str, copied: Path) -> None:
    whole = json.loads((copied / name).read_text())

    @MANY
    @given(changed(whole))
    def fuzz(value: dict[str, Any]) -> None:
        targets.run_folder(name, json.dumps(value).encode(), copied)

    fuzz()


@pytest.mark.parametrize("name", ["bertkit.json", "config.json"])
def test_model_with_other_facts_is_named_or_found(name: str, copied: Path) -> None:
    file = copied / "model" / name
    whole = json.loads(file.read_text())

    @MANY
    @given(changed(whole) | JSON)
    def fuzz(value: Any) -> None:
        file.write_text(json.dumps(value))
        with targets.result_or_error():
            saved.find(copied / "model", runs=copied.parent)

    fuzz()
