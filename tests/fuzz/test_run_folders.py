"""Run folders with anything in their files: everything that reads them gives a result or one BertkitError."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from bertkit.events import Checkpoint
from bertkit.run import PARTS, Run
from bertkit.workflows import saved
from tests.fuzz import targets
from tests.fuzz.test_readers import JSON, damaged

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


DEEP = b"[" * 5000


@pytest.mark.parametrize("name", FILES)
@targets.FEW_OR_MANY
def test_damaged_file_is_named_or_read(number: int, name: str, copied: Path) -> None:
    values = (
        damaged((copied / name).read_bytes()) | st.binary(max_size=100) | JSON.map(lambda v: json.dumps(v).encode())
    )
    targets.fuzz(number, values, lambda data: targets.run_folder(name, data, copied), also=(DEEP,))


@pytest.mark.parametrize("name", ["run.json", "scores.json"])
@targets.FEW_OR_MANY
def test_other_values_are_named_or_read(number: int, name: str, copied: Path) -> None:
    whole = json.loads((copied / name).read_text())
    targets.fuzz(number, changed(whole), lambda v: targets.run_folder(name, json.dumps(v).encode(), copied))


@pytest.fixture
def checkpoint(copied: Path) -> Path:
    """Return the checkpoint of an unfinished run, with a few small tensors."""
    run = Run.open(copied)
    run.update(status="interrupted")
    parts = {part: {"weights": torch.zeros(2)} for part in PARTS}
    progress = {"step": 3, "best_step": None}
    folder = run.save_checkpoint(Checkpoint(step=3, best=False, state={**parts, "progress": progress}))
    assert run.newest_checkpoint()[0] is not None
    return folder


@pytest.mark.parametrize("name", ["manifest.json", "progress.json", "optimizer.safetensors"])
@targets.FEW_OR_MANY
def test_damaged_checkpoint_is_named(number: int, name: str, checkpoint: Path) -> None:
    """Even where the manifest has been made to fit."""
    whole = (checkpoint / name).read_bytes()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    run = Run.open(checkpoint.parent.parent)

    def look(data: bytes) -> None:
        (checkpoint / name).write_bytes(data)
        if name != "manifest.json":
            fitting = manifest | {name: hashlib.sha256(data).hexdigest()}
            (checkpoint / "manifest.json").write_text(json.dumps(fitting))
        with targets.result_or_error():
            state, faults = run.newest_checkpoint()
            assert state is not None or faults

    targets.fuzz(
        number,
        damaged(whole) | st.binary(max_size=100) | JSON.map(lambda v: json.dumps(v).encode()),
        look,
        also=(DEEP, b'{"best_step":null,"events":1e310}'),
    )


@pytest.mark.parametrize("name", ["bertkit.json", "config.json"])
@targets.FEW_OR_MANY
def test_model_with_other_facts_is_named_or_found(number: int, name: str, copied: Path) -> None:
    file = copied / "model" / name

    def look(value: Any) -> None:
        file.write_text(json.dumps(value))
        for where in (copied, copied / "model"):
            with targets.result_or_error():
                saved.find(where, runs=copied.parent)

    targets.fuzz(number, changed(json.loads(file.read_text())) | JSON, look)
