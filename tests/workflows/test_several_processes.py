"""The same training in one process and in several: loss, schedule, scores, what is written, and by whom."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.events import Event, Note
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_conll, write_jsonl, write_squad
from tests.several import together
from tests.workflows.training import lines, record, weights

SMALL = {
    "train.learning_rate": 1e-3,
    "train.max_steps": 50,
    "train.batch_size": 7,
    "train.micro_batch_tokens": 48,
    "train.max_length": 64,
    "train.eval_steps": 20,
    "eval.resamples": 0,
}
"""Three parts a step in one process, and a last step of an epoch that is not full."""
CLOCK = ("seconds", "tokens_per_second", "imbalance")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny encoder without dropout: what random numbers each process draws is then nothing to the loss."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    return save_tiny_bert(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def data_of(kind: str, folder: Path) -> Any:
    if kind == "token-tagging":
        return write_conll(folder / "sentences.conll", sentences(60))
    if kind == "span-qa":
        return write_squad(folder / "questions.json", questions(60, unanswered=4), impossible=True)
    rows: list[dict[str, Any]] = list(reviews(60))
    if kind == "regression":
        rows = [{"text": row["text"], "label": len(row["text"]) / 40} for row in rows]
    return write_jsonl(folder / "rows.jsonl", rows)


def train(task: Any, encoder: Path, out: Path, settings: dict[str, Any], **options: Any) -> tuple[Any, list[Event]]:
    """Train, in each of the processes that this runs in; return the result and what a listener heard."""
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event) if isinstance(event, Note) else None

    given: dict[str, Any] = {"precision": "float32", "threads": 1, "device": "cpu", "listen": listen, **options}
    if "resume" not in given:
        given |= {"encoder": encoder, "out": out, "settings": SMALL | settings}
    return bertkit.finetune(task, **given), heard


def trained(number: int, kind: str, encoder: Path, folder: Path, **settings: Any) -> Path:
    out = folder / f"run-{number}"
    results = together(number, train, data_of(kind, folder), encoder, out, settings)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    assert [result.scores for result, _ in results] == [results[0][0].scores] * number
    assert [bool(heard) for _, heard in results] == [True] + [False] * (number - 1)
    return out


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [event for event in lines(run / "events.jsonl") if event["event"] == "step"]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence-classification", "regression", "token-tagging", "span-qa"])
def test_loss_curve_is_that_of_one_process(kind: str, encoder: Path, tmp_path: Path) -> None:
    runs = {number: trained(number, kind, encoder, tmp_path) for number in (1, 2, 3)}
    one = steps_of(runs[1])
    assert len(one) == 50
    assert min(row["num_examples"] for row in one) < max(row["num_examples"] for row in one) == 7
    for number in (2, 3):
        found = steps_of(runs[number])
        assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in one], abs=1e-6)
        norms = [row["gradient_norm"] for row in one]
        assert [row["gradient_norm"] for row in found] == pytest.approx(norms, abs=1e-4)
        exact = [without(row, "loss", "gradient_norm", *CLOCK) for row in one]
        assert [without(row, "loss", "gradient_norm", *CLOCK) for row in found] == exact
        assert record(runs[number])["processes"]["number"] == number
    assert "processes" not in record(runs[1])


def interrupted(encoder: Path, data: Path, out: Path, settings: dict[str, Any], stop_at: int) -> str:
    """Train, and stop after so many steps as soon as one process is asked to."""
    from bertkit import processes

    polls: list[int] = []

    def should_stop() -> bool:
        polls.append(1)
        # The last process alone is asked; each step asks once.
        return processes.rank() == processes.size() - 1 and len(polls) >= stop_at

    options: dict[str, Any] = {"device": "cpu", "precision": "float32", "threads": 1, "should_stop": should_stop}
    return bertkit.finetune(data, encoder=encoder, out=out, settings=SMALL | settings, **options).status


def resumed(out: Path) -> list[str]:
    heard: list[Event] = []
    bertkit.finetune(resume=out, listen=heard.append)
    return [event.message for event in heard if isinstance(event, Note)]


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_bit_for_bit(tiny_encoder: Path, tmp_path: Path) -> None:
    # With dropout: the generators of both processes go on where they were.
    settings = {"train.max_steps": 12, "train.eval_steps": 5}
    whole = trained(2, "sequence-classification", tiny_encoder, tmp_path, **settings)
    out, data = tmp_path / "parts", tmp_path / "rows.jsonl"
    assert together(2, interrupted, tiny_encoder, data, out, settings, 7) == ["interrupted"] * 2
    assert len(steps_of(out)) == 7
    notes = together(2, resumed, out)
    assert not any("was written with" in note for note in notes[0])
    assert [without(row, *CLOCK) for row in steps_of(out)] == [without(row, *CLOCK) for row in steps_of(whole)]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, 3)])
def test_run_is_resumed_with_another_number_of_processes(
    first: int, second: int, encoder: Path, tmp_path: Path
) -> None:
    settings = {"train.max_steps": 14, "train.eval_steps": 6}
    one = trained(1, "sequence-classification", encoder, tmp_path, **settings)
    out, data = tmp_path / "parts", tmp_path / "rows.jsonl"
    assert together(first, interrupted, encoder, data, out, settings, 9) == ["interrupted"] * first
    notes = together(second, resumed, out)[0]
    said = f"was written with --processes {first}, and goes on with {second}: weights, optimizer and order of the data"
    assert any(said in note for note in notes)
    losses = [row["loss"] for row in steps_of(one)]
    assert [row["loss"] for row in steps_of(out)] == pytest.approx(losses, abs=1e-6)


def evaluated(run: Path, data: Path) -> tuple[list[Any], dict[str, Any]]:
    found = bertkit.evaluate(run, data=data, threads=1, precision="float32", device="cpu", report="none")
    return found.predictions, found.scores


@pytest.mark.slow
def test_each_example_is_evaluated_once_and_in_order(finished_run: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", write_jsonl(tmp_path / "rows.jsonl", reviews(1013, seed=5))
    shutil.copytree(finished_run, run)
    one = together(1, evaluated, run, data)[0]
    assert len(one[0]) == 1013
    written = (run / "evals" / "rows.jsonl").read_bytes()
    for number in (2, 3):
        (run / "evals" / "rows.jsonl").unlink()
        assert together(number, evaluated, run, data) == [one] * number
        assert (run / "evals" / "rows.jsonl").read_bytes() == written


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What ``accelerate launch`` sets from a configuration with ``fsdp_version: 2``."""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fsdp2_trains_alike_and_saves_what_transformers_opens(
    checkpointing: bool, encoder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    settings = {"train.max_steps": 14, "train.eval_steps": 5, "train.gradient_checkpointing": checkpointing}
    one = trained(1, "sequence-classification", encoder, tmp_path, **settings)
    out, data = tmp_path / "sharded", tmp_path / "rows.jsonl"
    found = together(2, interrupted, encoder, data, out, SMALL | settings, 8, variables=FSDP2)
    assert found == ["interrupted"] * 2
    assert together(2, resumed, out, variables=FSDP2)[0]
    assert record(out)["processes"]["engine"] == "FSDP2"
    losses = [row["loss"] for row in steps_of(one)]
    assert [row["loss"] for row in steps_of(out)] == pytest.approx(losses, abs=1e-6)
    left, right = weights(one), weights(out)
    assert left.keys() == right.keys()
    assert all(left[name].shape == right[name].shape for name in left)
    opened = AutoModelForSequenceClassification.from_pretrained(out / "model")
    assert opened.num_labels == 2


def broken_on_the_other(data: Path, encoder: Path, out: Path) -> None:
    """Train, and let the other process fail in its third batch."""
    from bertkit import processes
    from bertkit.adapters.sequence_classification import SequenceClassification

    real, calls = SequenceClassification.reduce, []

    def reduce(self: Any, outputs: Any, batch: Any) -> Any:
        calls.append(1)
        if processes.rank() == 1:
            raise bertkit.DataError("a fault of its own.")
        return real(self, outputs, batch)

    SequenceClassification.reduce = reduce  # type: ignore[method-assign]
    train(data, encoder, out, {"train.max_steps": 2, "eval.batch_tokens": 8})


def test_fault_of_one_process_is_raised_by_all(encoder: Path, tmp_path: Path) -> None:
    data = data_of("sequence-classification", tmp_path)
    errors = together(2, broken_on_the_other, data, encoder, tmp_path / "run")
    assert [type(error) for error in errors] == [bertkit.DataError] * 2
    assert [str(error) for error in errors] == ["a fault of its own."] * 2
    assert [error.rank for error in errors] == [1, 1]
    assert record(tmp_path / "run")["status"] == "failed"


def first_gradients(data: Path, encoder: Path, out: Path) -> tuple[float, list[Any]]:
    """Return the loss of the first step, and what the optimizer was given in it."""
    import torch

    real, given = torch.optim.AdamW.step, []

    def step(self: Any, *arguments: Any, **options: Any) -> Any:
        given.extend(p.grad.detach().clone().numpy() for group in self.param_groups for p in group["params"])
        return real(self, *arguments, **options)

    torch.optim.AdamW.step = step  # type: ignore[method-assign]
    # All rows of the embeddings, so that both have the same tensors; unclipped gradients.
    settings = {"train.max_steps": 1, "train.batch_size": 16, "train.fast": False, "train.max_grad_norm": 0}
    train(data, encoder, out, settings | {"train.micro_batch_tokens": 100})
    return steps_of(out)[0]["loss"], given


@pytest.mark.slow
def test_real_encoders_first_step_has_the_same_loss_and_gradients(tmp_path: Path) -> None:
    import numpy as np

    from bertkit import encoder as encoders

    real = tmp_path / "minilm"
    shutil.copytree(encoders.find("minilm").folder, real)
    config = json.loads((real / "config.json").read_text())
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (real / "config.json").write_text(json.dumps(config | off))
    data = data_of("sequence-classification", tmp_path)
    one, gradients = together(1, first_gradients, data, real, tmp_path / "one")[0]
    for number in (2, 3):
        for loss, found in together(number, first_gradients, data, real, tmp_path / str(number)):
            assert loss == pytest.approx(one, abs=1e-6)
            assert len(found) == len(gradients) > 100
            assert max(float(np.abs(a - b).max()) for a, b in zip(found, gradients, strict=True)) < 1e-5
