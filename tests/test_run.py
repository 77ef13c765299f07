"""The run folder: nothing half-written looks whole, what is damaged is named, what is found is the right one."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import run as run_module
from bertkit.errors import RunError
from bertkit.events import Checkpoint, Note, Scores, Step, Stop
from bertkit.run import MODEL_FACTS, Run, find, json_line, ls, now

RECORD: dict[str, Any] = {
    "task": "task",
    "encoder": "a/b",
    "seed": 42,
    "request": {"task_table": {}, "device": {}},
    "resolved_task": {"type": "sequence-classification", "data": {}, "metrics": ["accuracy"]},
    "config": {"train": {}},
    "held_out_rows": [],
    "held_out_hash": "",
}
SCORES = {"splits": {"validation": {"accuracy": 0.5}}, "best_step": 1, "last_step": 1}


@pytest.fixture
def made(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", name="task-enc", out=None, record=RECORD)


def step(number: int) -> Step:
    return Step(
        step=number,
        epoch=0.5,
        loss=1.0,
        learning_rate=1e-5,
        gradient_norm=1.0,
        num_examples=8,
        num_tokens=80,
        seconds=0.1,
        tokens_per_second=800.0,
    )


def checkpoint(number: int, *, best: int | None = None) -> Checkpoint:
    torch.manual_seed(number)
    state = {
        "model": {"layer.weight": torch.randn(3, 4), "half": torch.randn(2).to(torch.bfloat16)},
        "optimizer": {"layer.weight.exp_avg": torch.randn(3, 4)},
        "rng": {"cpu": torch.arange(5, dtype=torch.uint8)},
        "progress": {"step": number, "best_step": best or number, "best_score": 0.5},
    }
    return Checkpoint(step=number, best=best in (None, number), state=state)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Making ------------------------------------------------------------------------------------------------------


def test_create_numbers_the_folders_of_one_name(tmp_path: Path) -> None:
    made = [Run.create(tmp_path, name=name, out=None, record={}).folder.name for name in ("a", "a", "a-b", "a")]
    assert made == ["a-001", "a-002", "a-b-001", "a-003"]
    (tmp_path / "a-1999").mkdir()
    assert Run.create(tmp_path, name="a", out=None, record={}).folder.name == "a-2000"


def test_create_does_not_give_a_number_again_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "a-002").mkdir()
    assert Run.create(tmp_path, name="a", out=None, record={}).folder.name == "a-003"


def test_create_writes_status_time_and_facts(made: Run) -> None:
    record = json.loads((made.folder / "run.json").read_text())
    assert (record["status"], record["task"]) == ("created", "task")
    assert record["created"] <= now()


def test_create_takes_an_empty_out_folder_and_refuses_a_full_one(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert Run.create(tmp_path, name="x", out=out, record={}).folder == out
    with pytest.raises(RunError, match=r"b is not empty and is no run\. Name another folder with --out\."):
        Run.create(tmp_path, name="x", out=out, record={})


def test_create_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/runs cannot be written: Not a directory\. Free space or name another"):
        Run.create(tmp_path / "file" / "runs", name="x", out=None, record={})


def test_update_adds_facts_that_open_reads(made: Run) -> None:
    made.update(status="running", label_map={"0": "été", "1": "\ud800"})
    again = Run.open(made.folder)
    assert again.status == "running"
    assert again.record["label_map"] == {"0": "été", "1": "\ud800"}
    assert again.record["task"] == "task"


def test_remove_takes_the_folder_away(made: Run) -> None:
    made.remove()
    assert not made.folder.exists()


def test_open_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run: it has no run\.json\. 'bertkit runs ls' lists the runs\."):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ['{"status": "finis', "", "[]", "{}", '{"status": "sleeping"}', "\xff\xfe"])
def test_open_of_a_damaged_run_is_refused(made: Run, text: str) -> None:
    (made.folder / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"run\.json is damaged: .*Train again, or restore it from a copy\."):
        Run.open(made.folder)


def test_open_of_a_run_that_lacks_facts_names_them(made: Run) -> None:
    (made.folder / "run.json").write_text(json.dumps({**made.record, "status": "running"}))
    Run.open(made.folder)
    left = {key: value for key, value in made.record.items() if key not in ("request", "seed")}
    (made.folder / "run.json").write_text(json.dumps(left))
    with pytest.raises(RunError, match=r"run\.json is damaged: it lacks request, seed, or holds .* Train again"):
        Run.open(made.folder)
    (made.folder / "run.json").write_text(json.dumps(made.record | {"config": {"train": []}, "held_out_rows": None}))
    with pytest.raises(RunError, match=r"it lacks config\.train, held_out_rows, or holds something else there\."):
        Run.open(made.folder)


def test_create_that_cannot_write_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_module.os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        Run.create(tmp_path, name="a", out=None, record=RECORD)
    assert names(tmp_path) == set()


def test_model_folder_of_an_unfinished_run_is_refused(made: Run) -> None:
    made.update(status="interrupted")
    match = r"is not finished \(status 'interrupted'\), so it has no model to use\. 'bertkit finetune --resume .*001'"
    with pytest.raises(RunError, match=match):
        _ = made.model_folder


def test_model_folder_of_a_finished_run_is_checked(made: Run) -> None:
    made.update(status="finished")
    with pytest.raises(RunError, match=r"model is damaged: it holds no bertkit\.json\. Train again"):
        _ = made.model_folder
    with made.whole_folder("model") as folder:
        (folder / MODEL_FACTS).write_text("{}")
    assert made.model_folder == made.folder / "model"


# Files -------------------------------------------------------------------------------------------------------


def test_write_that_breaks_off_leaves_the_old_file(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_json("scores.json", SCORES)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_module.os, "fsync", full)
    match = r"scores\.json cannot be written: No space left on device\. Free space or name another --out\."
    with pytest.raises(RunError, match=match):
        made.write_json("scores.json", SCORES | {"best_step": 2})
    assert made.scores() == SCORES
    assert names(made.folder) == {"run.json", "scores.json"}


def test_json_that_is_no_json_is_not_written(made: Run) -> None:
    made.write_json("scores.json", SCORES)
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.write_json("scores.json", {"accuracy": float("nan")})
    assert made.scores() == SCORES


@pytest.mark.parametrize("text", ["{", "[]", '{"splits": {}}', "\xff"])
def test_damaged_scores_are_named(made: Run, text: str) -> None:
    (made.folder / "scores.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"scores\.json is damaged: .*'bertkit eval .*' scores the model anew\."):
        made.scores()


def test_lines_keep_their_text_and_what_utf_8_cannot_hold(made: Run) -> None:
    rows = [{"text": "été 漢\n\u2028"}, {"text": "\ud800"}, {}]
    path = made.write_lines("predictions/validation.jsonl", rows)
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == rows
    assert "été 漢" in lines[0]
    assert lines[1] == json_line(rows[1]) == '{"text": "\\ud800"}'


def test_scores_before_there_are_any_are_empty(made: Run) -> None:
    assert made.scores() == {}


# Folders -----------------------------------------------------------------------------------------------------


def fill(made: Run, text: str, *, then: BaseException | None = None) -> None:
    with made.whole_folder("model") as folder:
        (folder / "weights").write_text(text)
        if then:
            raise then


def test_whole_folder_takes_the_place_of_the_old_one(made: Run) -> None:
    fill(made, "one")
    (made.folder / "model" / "stale").write_text("")
    fill(made, "two")
    assert names(made.folder / "model") == {"weights"}
    assert (made.folder / "model" / "weights").read_text() == "two"
    assert names(made.folder) == {"run.json", "model"}


@pytest.mark.parametrize("fault", [RuntimeError("crash"), KeyboardInterrupt()])
def test_crash_while_a_folder_is_filled_leaves_the_old_one_whole(made: Run, fault: BaseException) -> None:
    fill(made, "one")
    with pytest.raises(type(fault)):
        fill(made, "two", then=fault)
    assert (made.folder / "model" / "weights").read_text() == "one"
    assert names(made.folder) == {"run.json", "model"}


def test_crash_while_the_first_folder_is_filled_leaves_none(made: Run) -> None:
    with pytest.raises(RuntimeError):
        fill(made, "one", then=RuntimeError())
    assert names(made.folder) == {"run.json"}


def test_kill_while_a_folder_is_filled_leaves_what_the_next_one_clears_away(made: Run) -> None:
    fill(made, "one")
    beside = made.folder / f".model.{os.getpid()}"
    beside.mkdir()
    (beside / "half").write_text("")
    fill(made, "two")
    assert names(made.folder / "model") == {"weights"}
    assert not beside.exists()


def test_full_disk_while_a_folder_is_filled_is_one_line(made: Run) -> None:
    fill(made, "one")
    with pytest.raises(RunError, match=r"model cannot be written: No space left on device\. Free space"):
        fill(made, "two", then=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (made.folder / "model" / "weights").read_text() == "one"


def test_full_disk_in_safetensors_is_one_line(made: Run) -> None:
    from safetensors import SafetensorError

    with pytest.raises(RunError, match="model cannot be written: I/O error: No space left"):
        fill(made, "two", then=SafetensorError("I/O error: No space left on device"))


# Checkpoints -------------------------------------------------------------------------------------------------


def test_checkpoint_comes_back_as_it_was(made: Run) -> None:
    event = checkpoint(3)
    made.save_checkpoint(event)
    state = made.load_checkpoint(3)
    assert state.keys() == {*event.state.keys(), "events"}
    assert state["progress"] == event.state["progress"]
    for part in ("model", "optimizer", "rng"):
        assert state[part].keys() == event.state[part].keys()
        for name, value in event.state[part].items():
            assert state[part][name].dtype == value.dtype
            assert torch.equal(state[part][name], value)


def test_checkpoint_of_tensors_that_share_or_skip_memory_comes_back(made: Run) -> None:
    event = checkpoint(1)
    whole = torch.arange(12.0).reshape(3, 4)
    event.state["model"] = {"transposed": whole.T, "row": whole[1].clone()}
    made.save_checkpoint(event)
    assert torch.equal(made.load_checkpoint(1)["model"]["transposed"], whole.T)


def test_manifest_names_every_file_with_its_sha_256(made: Run) -> None:
    folder = made.save_checkpoint(checkpoint(12))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == "step-000012"
    assert set(manifest) == names(folder) - {"manifest.json"}
    assert set(manifest) == {"model.safetensors", "optimizer.safetensors", "rng.safetensors", "progress.json"}
    assert all(len(digest) == 64 for digest in manifest.values())


def damage(file: Path, how: str) -> None:
    body = file.read_bytes()
    match how:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(body[: len(body) // 2])
        case "changed":
            file.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "progress.json"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(made: Run, part: str, how: str) -> None:
    made.save_checkpoint(checkpoint(1))
    made.save_checkpoint(checkpoint(2, best=1))
    damage(made.folder / "checkpoints" / "step-000002" / part, how)
    with pytest.raises(RunError, match=rf"step-000002/{part} is missing or damaged: it does not have the SHA-256"):
        made.load_checkpoint(2)
    state, faults = made.newest_checkpoint()
    assert state is not None
    assert state["progress"]["step"] == 1
    assert len(faults) == 1
    assert f"step-000002/{part} is missing or damaged" in faults[0]


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_checkpoint_without_its_manifest_is_damaged(made: Run, how: str) -> None:
    made.save_checkpoint(checkpoint(1))
    damage(made.folder / "checkpoints" / "step-000001" / "manifest.json", how)
    state, faults = made.newest_checkpoint()
    assert state is None
    assert len(faults) == 1
    assert "step-000001 has no readable manifest.json, so the checkpoint is damaged." in faults[0]


@pytest.mark.parametrize("text", ["[]", "{}", '{"progress.json": "0"}', '"x"', "null"])
def test_manifest_that_does_not_name_the_files_is_damaged(made: Run, text: str) -> None:
    made.save_checkpoint(checkpoint(1))
    (made.folder / "checkpoints" / "step-000001" / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"step-000001 has no readable manifest\.json, so the checkpoint is damaged"):
        made.load_checkpoint(1)


def test_every_flipped_byte_of_a_manifest_or_its_files_is_found(made: Run) -> None:
    folder = made.save_checkpoint(checkpoint(1))
    for file in sorted(folder.iterdir()):
        body = file.read_bytes()
        for place in range(0, len(body), 7):
            changed = body[:place] + bytes([body[place] ^ 4]) + body[place + 1 :]
            if file.name == "manifest.json" and body[place] in b' \n,"{}:':
                continue
            file.write_bytes(changed)
            with pytest.raises(RunError, match=r"damaged"):
                made.load_checkpoint(1)
        file.write_bytes(body)
    made.load_checkpoint(1)


def test_file_of_a_checkpoint_that_cannot_be_read_is_named(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made.save_checkpoint(checkpoint(1))

    def broken(file: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(run_module, "_sha256", broken)
    with pytest.raises(RunError, match=r"step-000001/model\.safetensors is missing or damaged"):
        made.load_checkpoint(1)


def test_checkpoint_whose_best_weights_are_damaged_is_not_used(made: Run) -> None:
    made.update(config={"train": {"keep_checkpoints": 9}})
    for number, best in [(1, 1), (2, 2), (3, 2)]:
        made.save_checkpoint(checkpoint(number, best=best))
    damage(made.folder / "checkpoints" / "step-000002" / "model.safetensors", "cut")
    state, faults = made.newest_checkpoint()
    assert state is not None
    assert state["progress"]["step"] == 1
    assert len(faults) == 2


def test_no_checkpoint_yet_is_no_fault(made: Run) -> None:
    assert made.newest_checkpoint() == (None, [])
    assert made.checkpoints() == []


def test_crash_while_a_checkpoint_is_written_leaves_none_that_looks_whole(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save_checkpoint(checkpoint(1))

    def crash(file: Path) -> str:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "_sha256", crash)
        with pytest.raises(RuntimeError, match="killed"):
            made.save_checkpoint(checkpoint(2))
    assert made.checkpoints() == [1]
    state, faults = made.newest_checkpoint()
    assert state is not None
    assert (state["progress"]["step"], faults) == (1, [])


def test_the_newest_and_the_two_best_checkpoints_are_kept(made: Run) -> None:
    kept = []
    for number, best in [(1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (10, 5)]:
        made.save_checkpoint(checkpoint(number, best=best))
        kept.append(made.checkpoints())
    assert kept == [[1], [2, 1], [3, 2, 1], [4, 2, 1], [5, 2], [10, 5, 2]]


def test_checkpoint_of_an_interruption_goes_when_the_next_is_saved(made: Run) -> None:
    """It would take the place of one that an uninterrupted run keeps."""
    made.update(config={"train": {"keep_checkpoints": 2}})
    for number in (2, 4):
        made.save_checkpoint(checkpoint(number, best=2))
    made.save_checkpoint(replace(checkpoint(5, best=2), passing=True))
    assert made.checkpoints() == [5, 4, 2]
    assert made.load_checkpoint(5)["progress"].keys() == checkpoint(5).state["progress"].keys()
    made.save_checkpoint(checkpoint(6, best=2))
    assert made.checkpoints() == [6, 4, 2]


def test_checkpoint_that_is_damaged_goes_when_an_earlier_step_is_saved(made: Run) -> None:
    for number in (1, 4):
        made.save_checkpoint(checkpoint(number, best=1))
    damage(made.folder / "checkpoints" / "step-000004" / "model.safetensors", "cut")
    made.save_checkpoint(checkpoint(2, best=1))
    assert made.checkpoints() == [2, 1]


def test_before_there_is_a_best_one_the_newest_two_are_kept(made: Run) -> None:
    for number in (1, 2, 3):
        event = checkpoint(number)
        event.state["progress"]["best_step"] = None
        made.save_checkpoint(event)
    assert made.checkpoints() == [3, 2]


@pytest.mark.parametrize("damaged", [10, 5, 2])
def test_whichever_checkpoint_is_damaged_another_is_left(made: Run, damaged: int) -> None:
    for number, best in [(1, 1), (2, 2), (3, 2), (5, 5), (10, 5)]:
        made.save_checkpoint(checkpoint(number, best=best))
    damage(made.folder / "checkpoints" / f"step-{damaged:06d}" / "model.safetensors", "changed")
    state, faults = made.newest_checkpoint()
    assert state is not None
    assert state["progress"]["step"] == {10: 5, 5: 2, 2: 10}[damaged]
    assert len(faults) == {10: 1, 5: 2, 2: 0}[damaged]


def test_old_checkpoints_stay_until_the_new_one_is_in_its_place(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        made.save_checkpoint(checkpoint(number))
    seen: list[list[int]] = []
    prune = Run._prune

    def look(run: Run, *, keep: Any) -> None:
        seen.append(run.checkpoints())
        run.load_checkpoint(max(seen[-1]))
        prune(run, keep=keep)

    monkeypatch.setattr(Run, "_prune", look)
    made.save_checkpoint(checkpoint(4))
    assert seen == [[4, 3, 2]]
    assert made.checkpoints() == [4, 3]


def test_kill_while_an_old_checkpoint_is_dropped_leaves_none_that_looks_damaged(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save_checkpoint(checkpoint(1))
    made.save_checkpoint(checkpoint(2))

    def killed(folder: Path, **options: Any) -> None:
        if folder.name.startswith(".dropped") and folder.exists():
            (folder / "model.safetensors").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            made.save_checkpoint(checkpoint(3))
    assert made.checkpoints() == [3, 2]
    made.tidy()
    assert names(made.folder / "checkpoints") == {"step-000003", "step-000002"}


def test_checkpoint_that_cannot_be_dropped_does_no_harm(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        made.save_checkpoint(checkpoint(number))
    replace_file = os.replace

    def refuse(source: Any, target: Any) -> None:
        if ".dropped" in str(target):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace_file(source, target)

    monkeypatch.setattr(run_module.os, "replace", refuse)
    made.save_checkpoint(checkpoint(3))
    assert made.checkpoints() == [3, 2, 1]
    assert made.newest_checkpoint()[1] == []


def test_events_that_cannot_be_synced_are_one_error_and_keep_the_checkpoints(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save_checkpoint(checkpoint(1))

    def full(path: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "_sync", full)
        with pytest.raises(RunError, match=r"task-enc-001 cannot be written: Disk quota exceeded\. Free space or name"):
            made.save_checkpoint(checkpoint(2))
    assert made.checkpoints() == [1]
    assert made.newest_checkpoint()[1] == []


def test_more_checkpoints_are_kept_where_the_run_asks_for_them(made: Run) -> None:
    made.update(config={"train": {"keep_checkpoints": 3}})
    for number in range(1, 7):
        made.save_checkpoint(checkpoint(number, best=1))
    assert made.checkpoints() == [6, 5, 4, 1]


@pytest.mark.parametrize(("number", "kept"), [(0, []), (1, [6]), (5, [6, 5, 4, 1])])
def test_a_finished_run_keeps_as_many_as_it_asked_for(made: Run, number: int, kept: list[int]) -> None:
    made.update(config={"train": {"keep_checkpoints": 3}})
    for step_number in range(1, 7):
        made.save_checkpoint(checkpoint(step_number, best=1))
    made.keep_checkpoints(number)
    assert made.checkpoints() == kept
    assert (made.folder / "checkpoints").exists() is bool(kept)


# Events ------------------------------------------------------------------------------------------------------


def test_events_come_back_in_order_and_a_cut_line_is_left_out(made: Run) -> None:
    made.append(step(1))
    made.append(Scores(step=1, split="validation", scores={"accuracy": 0.5}, metric="accuracy", best=True))
    with (made.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert [(event["event"], event["step"]) for event in made.events()] == [("step", 1), ("scores", 1)]


def test_events_before_there_are_any_are_none(made: Run) -> None:
    assert list(made.events()) == []


def test_event_with_a_lone_surrogate_is_stored(made: Run) -> None:
    made.append(Note(message="label '\ud800'"))
    assert next(made.events())["message"] == "label '\ud800'"


def stored_events(made: Run) -> list[tuple[str, int]]:
    return [(event["event"], event["step"]) for event in made.events()]


def test_cut_events_forgets_what_came_after_a_checkpoint(made: Run) -> None:
    for event in (step(1), step(2)):
        made.append(event)
    made.save_checkpoint(checkpoint(2))
    made.append(step(3))
    made.append(Stop(step=3, reason="interrupted", best_step=None, best_score=None, last_score=None))
    made.cut_events(made.load_checkpoint(2)["events"])
    assert stored_events(made) == [("step", 1), ("step", 2), ("checkpoint", 2)]
    made.append(step(3))
    made.save_checkpoint(checkpoint(3))
    assert made.load_checkpoint(3)["events"] == 5


def test_checkpoint_of_an_interruption_is_no_event_of_the_run_that_goes_on(made: Run) -> None:
    made.append(step(1))
    made.save_checkpoint(replace(checkpoint(1), passing=True))
    assert stored_events(made) == [("step", 1), ("checkpoint", 1)]
    made.cut_events(made.load_checkpoint(1)["events"])
    assert stored_events(made) == [("step", 1)]


def test_cut_events_to_none_takes_the_file_away(made: Run) -> None:
    made.append(step(1))
    made.cut_events(0)
    assert names(made.folder) == {"run.json"}
    assert made.num_events == 0


def test_events_that_are_damaged_are_left_out(made: Run) -> None:
    made.append(step(1))
    with (made.folder / "events.jsonl").open("ab") as file:
        file.write(b'\xff\xfe{"event"\n[]\n7\n')
    made.append(step(2))
    assert stored_events(made) == [("step", 1), ("step", 2)]


# What a kill leaves ------------------------------------------------------------------------------------------


def test_tidy_clears_what_was_half_written_and_nothing_else(made: Run) -> None:
    made.save_checkpoint(checkpoint(1))
    made.write_lines("predictions/validation.jsonl", [{"text": "a"}])
    for name in ("checkpoints/.step-000002.4711", ".model.4711", "checkpoints/.step-000001.old"):
        (made.folder / name).mkdir()
        (made.folder / name / "half").write_text("")
    for name in (".run.json.4711", "predictions/.validation.jsonl.4711", ".lock", ".notes", "mine.old"):
        (made.folder / name).write_text("")
    made.tidy()
    assert names(made.folder) == {
        *("run.json", "events.jsonl", "checkpoints", "predictions"),
        *(".lock", ".notes", "mine.old"),
    }
    assert names(made.folder / "checkpoints") == {"step-000001"}
    assert names(made.folder / "predictions") == {"validation.jsonl"}
    assert made.load_checkpoint(1)["progress"]["step"] == 1


def test_tidy_gives_back_a_checkpoint_that_was_moved_aside(made: Run) -> None:
    """A kill between the two renames that put a new checkpoint in the place of one of the same step."""
    made.save_checkpoint(checkpoint(1))
    (made.folder / "checkpoints" / "step-000001").rename(made.folder / "checkpoints" / ".step-000001.old")
    assert made.checkpoints() == []
    made.tidy()
    assert made.load_checkpoint(1)["progress"]["step"] == 1


def test_tidy_that_cannot_write_is_one_error(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (made.folder / ".run.json.4711").write_text("")

    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunError, match=r"task-enc-001 cannot be written: Permission denied\. Free space or name"):
        made.tidy()


# Finding -----------------------------------------------------------------------------------------------------


def stored(runs: Path, name: str, **record: Any) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(RECORD | record if record else {}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    stored(folder, "b-001", status="finished", created="2026-01-02", finished="2026-01-05")
    stored(folder, "c-001", status="finished", created="2026-01-03", finished="2026-01-04")
    stored(folder, "a-001", status="running", created="2026-01-06")
    stored(folder, "broken-001")
    (folder / "notes").mkdir()
    return folder


def test_ls_gives_runs_by_their_creation_and_leaves_out_what_is_none(runs: Path) -> None:
    assert [run.folder.name for run in ls(runs)] == ["b-001", "c-001", "a-001"]
    assert ls(runs / "none") == []


def test_find_without_a_name_is_the_run_that_finished_last(runs: Path) -> None:
    assert find(None, runs).folder.name == "b-001"


def test_find_by_folder_or_by_name(runs: Path) -> None:
    assert find(runs / "a-001", Path("elsewhere")).folder == runs / "a-001"
    assert find("a-001", runs).folder == runs / "a-001"


def test_find_of_an_unknown_name_is_told_the_nearest(runs: Path) -> None:
    match = r"There is no run 'b-01'\. Did you mean 'b-001'\? 'bertkit runs ls' lists the runs below .*runs\."
    with pytest.raises(RunError, match=match):
        find("b-01", runs)


def test_find_where_nothing_finished_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"There is no finished run below .*\. 'bertkit finetune demo/reviews' makes one"
    ):
        find(None, tmp_path)
    stored(tmp_path, "a-001", status="interrupted", created="2026-01-01")
    with pytest.raises(RunError, match=r"no finished run below .*; .*a-001 is 'interrupted'\. "):
        find(None, tmp_path)


def test_times_sort() -> None:
    times = [now() for _ in range(50)]
    assert times == sorted(times)
    assert len({len(time) for time in times}) == 1
