"""A handful of the kills that `make torture` does by the hundred, and the eyes that it looks with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.torture import kills
from tests.torture.__main__ import counted


@pytest.mark.slow
def test_killed_trainings_come_to_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    found = kills.series(tmp_path, kills=4, seed=3)
    assert found.failures == []
    assert found.kills.total() >= 4
    assert found.runs >= 2


def write_run(folder: Path, *, loss: float = 0.5, seconds: float = 1.0, weights: bytes = b"w") -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "run.json").write_text(json.dumps({"seconds": seconds}))
    event = {"event": "step", "step": 1, "loss": loss, "seconds": seconds, "tokens_per_second": 1 / seconds}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    return folder


def test_runs_that_differ_in_their_clocks_alone_are_the_same(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", seconds=2.0)
    assert kills.differences(kills.fingerprint(one), kills.fingerprint(other)) == []


@pytest.mark.parametrize(("change", "name"), [({"loss": 0.25}, "events"), ({"weights": b"v"}, "model.safetensors")])
def test_any_other_difference_is_found(tmp_path: Path, change: dict[str, float], name: str) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", **change)  # type: ignore[arg-type]
    found = kills.differences(kills.fingerprint(one), kills.fingerprint(other))
    assert [Path(file).name for file in found] == [name]


def test_file_that_is_missing_or_left_over_is_found(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    (one / "scores.json").write_text("{}")
    (other / ".model.4711").write_text("")
    found = kills.differences(kills.fingerprint(one), kills.fingerprint(other))
    assert found == [".model.4711", "scores.json"]


def test_figures_of_the_fuzz_are_read() -> None:
    out = "2 readers, 60 s each, 1 at once\njsonl: 12,345 inputs, 0 findings\nconll: 7 inputs, 2 findings\nx\n"
    assert counted(out) == ({"jsonl": 12345, "conll": 7}, 2)
