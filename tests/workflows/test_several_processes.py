"""The same training in one process and in several: loss, schedule, scores, what is written, and by whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.events import Event, Note
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_conll, write_jsonl, write_squad
from tests.several import together
from tests.workflows.training import lines, record

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
    assert {row["num_examples"] for row in one} == {7, one[-1]["num_examples"], 54 % 7} - {0}
    for number in (2, 3):
        found = steps_of(runs[number])
        assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in one], abs=1e-6)
        norms = [row["gradient_norm"] for row in one]
        assert [row["gradient_norm"] for row in found] == pytest.approx(norms, abs=1e-4)
        exact = [without(row, "loss", "gradient_norm", *CLOCK) for row in one]
        assert [without(row, "loss", "gradient_norm", *CLOCK) for row in found] == exact
        assert record(runs[number])["processes"]["number"] == number
    assert "processes" not in record(runs[1])
