"""``runs verify``: the first steps again, bit for bit, and what is said where they are not the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit.errors import RunError
from bertkit.workflows.verify import verify
from tests.conftest import reviews, write_jsonl
from tests.workflows.training import Listener, lines, record, train


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    """Return a finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def change(run: Path, changed: Callable[[dict[str, Any]], Any]) -> None:
    facts = record(run)
    changed(facts)
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")


def change_events(run: Path, changed: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = lines(run / "events.jsonl")
    changed(rows)
    (run / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_first_steps_of_a_run_are_the_same_again(finished_run: Path) -> None:
    before = {file: file.read_bytes() for file in finished_run.rglob("*") if file.is_file()}
    found = verify(finished_run, steps=20)
    assert found.same
    assert [step.step for step in found.steps] == list(range(1, 21))
    stored = [row["loss"] for row in lines(finished_run / "events.jsonl") if row["event"] == "step"][:20]
    assert [step.loss_again for step in found.steps] == stored
    assert found.differences == ()
    assert "of the first 20 steps are the same, bit for bit" in found.verdict
    assert {file: file.read_bytes() for file in finished_run.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_resumed_run_is_the_same_again_over_the_seam(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    listener = Listener(stop_at=2)
    options = {"listen": listener, "should_stop": listener.should_stop}
    cut = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "r", settings={"train.epochs": 2}, **options)
    assert cut.status == "interrupted"
    assert verify(tmp_path / "r").same
    train(resume=tmp_path / "r")
    found = verify(tmp_path / "r", steps=100)
    assert found.same
    assert len(found.steps) == len([row for row in lines(tmp_path / "r" / "events.jsonl") if row["event"] == "step"])


def test_other_loss_is_named_with_its_step(copy: Path) -> None:
    def other(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row.get("step") == 3 and row["event"] == "step")["loss"] += 1e-15

    change_events(copy, other)
    found = verify(copy, steps=5)
    assert [step.same for step in found.steps] == [True, True, False, True, True]
    assert "step 3 of the first 5 steps is not the same: the loss was " in found.verdict
    assert "versions, device, precision, threads and processor are as they were" in found.verdict
    assert found.to_json()["same"] is False


def test_other_gradient_is_named(copy: Path) -> None:
    change_events(copy, lambda rows: [row.update(gradient_norm=9.0) for row in rows if row["event"] == "step"])
    assert (
        "step 1 of the first step is not the same: the gradient norm was 9.0 and is " in verify(copy, steps=1).verdict
    )


def test_other_versions_are_said_and_do_not_hinder(copy: Path) -> None:
    change(copy, lambda facts: (facts["versions"].update(torch="1.0"), facts.pop("processor")))
    found = verify(copy, steps=2)
    assert found.same
    assert found.differences[0].startswith("torch was 1.0 and is ")
    assert found.differences[1] == "run.json does not say the processor"


def test_other_processor_and_device_are_said(copy: Path) -> None:
    change(copy, lambda facts: (facts["processor"].update(name="a 6502", gpu="X1"), facts["device"].update(name="cpu")))
    assert [text.partition(" and is ")[0] for text in verify(copy, steps=1).differences] == [
        "processor was a 6502",
        "GPU was X1",
    ]


@pytest.mark.slow
def test_threads_are_those_of_the_run(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs", threads=2).run
        torch.set_num_threads(1)
        assert verify(run, steps=3).same
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_device_that_is_not_here_is_one_error(copy: Path) -> None:
    change(copy, lambda facts: facts["device"].update(name="cuda:7", precision="fp16"))
    with pytest.raises(
        RunError, match=r"was trained on cuda:7 in fp16, so it cannot be verified here: --device cuda:7"
    ):
        verify(copy)


@pytest.mark.slow
def test_run_that_went_on_elsewhere_says_where(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    listener = Listener(stop_at=2)
    options = {"listen": listener, "should_stop": listener.should_stop}
    run = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "r", settings={"train.epochs": 2}, **options).run
    change(run, lambda facts: facts["versions"].update(torch="1.0"))
    again = Listener()
    train(resume=run, listen=again)
    (note,) = (note for note in again.notes if "goes on after step 2" in note)
    assert "not all is as it was: torch was 1.0 and is " in note
    facts = record(run)
    assert facts["versions"]["torch"] == "1.0", "run.json says what took the first step"
    (resumed,) = facts["resumed"]
    assert (resumed["step"], len(resumed["changed"])) == (2, 1)
    assert not [text for text in verify(run, steps=2).differences if "resumed" in text]
    assert "it was resumed after step 2, where torch was 1.0" in verify(run, steps=3).differences[1]


def test_shortage_of_memory_then_is_said(copy: Path) -> None:
    note = {"event": "note", "message": "cuda has no memory for 4096 tokens", "level": "warning", "step": 2}
    change_events(copy, lambda rows: rows.insert(3, note))
    assert verify(copy, steps=1).differences == ()
    assert verify(copy, steps=2).differences == ("then, and not now: cuda has no memory for 4096 tokens",)


@pytest.mark.slow
def test_other_data_are_refused(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs").run
    write_jsonl(reviews_file, reviews(80, seed=5))
    with pytest.raises(RunError, match=r"cannot be verified: the data is not what it was then\."):
        verify(run)


def test_other_settings_are_refused(copy: Path) -> None:
    change(copy, lambda facts: facts["config"]["train"].update(learning_rate=1.0))
    with pytest.raises(
        RunError, match=r"cannot be verified: config\.train\.learning_rate is 0\.005 now and was 1\.0\."
    ):
        verify(copy)


def test_run_without_a_step_is_refused(copy: Path) -> None:
    (copy / "events.jsonl").unlink()
    with pytest.raises(RunError, match=r"has taken no step yet \(status 'finished'\), so there is nothing to verify\."):
        verify(copy)


def test_missing_step_is_named(copy: Path) -> None:
    change_events(copy, lambda rows: rows.remove(next(row for row in rows if row.get("step") == 2)))
    with pytest.raises(RunError, match=r"events\.jsonl is damaged: it does not hold step 2\."):
        verify(copy)


def test_no_step_at_all_is_refused(copy: Path) -> None:
    with pytest.raises(RunError, match=r"0 steps of .* are to be verified, and it must be at least 1\."):
        verify(copy, steps=0)


def test_manifest_says_all_that_a_repetition_needs(finished_run: Path) -> None:
    facts = record(finished_run)
    assert {"bertkit", "python", "torch", "transformers", "tokenizers", "numpy"} <= facts["versions"].keys()
    assert facts["data_hash"]
    assert facts["encoder_hash"].startswith("sha256:")
    assert facts["seed"] == 42
    assert {"name": "cpu", "precision": "float32", "threads": 1}.items() <= facts["device"].items()
    assert all(facts["processor"][name] for name in ("system", "name", "kernels"))
