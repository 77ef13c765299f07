"""Span QA against plain transformers: a saved folder opens there, and its logits give the same best span."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertkit
from bertkit import encoder
from bertkit.adapters.span_qa import SpanQA
from bertkit.config import TrainConfig
from bertkit.task import DataSource, Task
from tests import families
from tests.conftest import OTHER, save_tiny_bert
from tests.families import FAMILIES, Family, slow_others
from tests.workflows.training import train

Row = dict[str, Any]
ROWS: list[Row] = [
    {"question": "was it good", "context": "the film was a warm meal and we"},
    {"question": "a tool", "context": "it was dull"},
    {"question": "", "context": "the cold grey bright film and the very good tool was fine " * 3},
    {"question": "we and it", "context": "meal"},
]


def about_meals(number: int) -> list[Row]:
    """Return questions whose answer is the word after "was"; every fifth context has none."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        before, after, said = (" ".join(rng.choice(OTHER, size=rng.integers(1, 5))) for _ in range(3))
        context = f"{before} good {said} {after}"
        none = index % 5 == 0
        answers = {"text": [said], "answer_start": [len(f"{before} good ")]} if not none else {}
        empty: Row = {"text": [], "answer_start": []}
        rows.append(
            {"id": index, "question": "bad" if none else "good", "context": context, "answers": answers or empty}
        )
    return rows


@pytest.fixture(scope="module")
def qa_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qa")
    settings = {"options.stride": 16, "train.max_length": 64, "train.epochs": 2, "train.learning_rate": 5e-3}
    own = save_tiny_bert(folder / "encoder")
    return train(about_meals(120), encoder=own, out=folder / "run", settings=settings).run


def plain_spans(
    model: Any, tokenizer: Any, example: Row, *, segments: bool = True
) -> tuple[list[tuple[float, int, int]], float]:
    """Return minus score, start and end of every span of context tokens, best first, and the score of [CLS].

    Nothing of bertkit's is in it: transformers' tokenizer, model and offsets, and two loops. ALBERT's and XLNet's
    tokenizers must be asked for the segment ids with which the models were pre-trained.
    """
    encoded = tokenizer(
        example["question"],
        example["context"],
        return_offsets_mapping=True,
        return_token_type_ids=segments,
        return_tensors="pt",
    )
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        outputs = model.eval()(**encoded)
    start, end = outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()
    inside = [place for place, segment in enumerate(encoded.sequence_ids(0)) if segment == 1]
    null = encoded["input_ids"][0].tolist().index(tokenizer.cls_token_id) if tokenizer.cls_token_id is not None else 0
    # Byte-level and SentencePiece tokenizers have tokens of white space alone, with which no answer begins.
    first = [place for place in inside if example["context"][slice(*offsets[place])].strip()]
    spans = [
        (-float(start[i] + end[j]), offsets[i][0], offsets[j][1]) for i in first for j in inside if i <= j < i + 30
    ]
    return sorted(spans), float(start[null] + end[null])


def test_transformers_has_no_pipeline_for_it() -> None:
    """Version 5 dropped it, so the model's own logits are the reference. Should it come back, compare with it too."""
    from transformers.pipelines import SUPPORTED_TASKS

    assert "text-classification" in SUPPORTED_TASKS
    assert "question-answering" not in SUPPORTED_TASKS


@pytest.mark.slow
def test_saved_folder_opens_with_the_auto_class(qa_run: Path) -> None:
    from transformers import AutoModelForQuestionAnswering

    model, info = AutoModelForQuestionAnswering.from_pretrained(qa_run / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "BertForQuestionAnswering"
    assert model.config.num_labels == 2


def test_best_span_is_the_argmax_of_the_plain_model_s_logits(qa_run: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(qa_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(qa_run / "model")
    rows = ROWS + about_meals(30)
    found = bertkit.predict(rows, run=qa_run, precision="float32", threads=1)
    answers = set()
    for example, prediction in zip(rows, found, strict=True):
        spans, null = plain_spans(model, tokenizer, example)
        score, start, end = spans[0]
        best = prediction["best_span"]
        assert (best["start"], best["end"], best["answer"]) == (start, end, example["context"][start:end])
        assert prediction["no_answer_score"] == pytest.approx(null + score, abs=1e-4)
        weights = np.exp([*(-each for each, _, _ in spans[:20]), null])
        assert best["score"] == pytest.approx(weights[0] / weights.sum(), abs=1e-4)
        answers.add(best["answer"])
    assert len(answers) > 5, "the model must have learned something for this to say anything"


def test_model_without_no_answer_agrees_too(tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertConfig, BertForQuestionAnswering

    folder = save_tiny_bert(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertForQuestionAnswering(config).save_pretrained(folder)
    adapter = adapter_for()
    plain = AutoModelForQuestionAnswering.from_pretrained(folder)
    assert_same(adapter, load(folder, adapter), plain, tokenizer)


def adapter_for() -> SpanQA:
    task = Task(name="x", type="span-qa", data=DataSource(), options={"stride": 16}, metrics=("f1",))
    return SpanQA(task, TrainConfig(max_length=300, on_long="window"), ())


def load(folder: Path, adapter: SpanQA) -> encoder.Encoder:
    loaded = encoder.load(
        encoder.find(str(folder)), auto_class=adapter.auto_class, num_outputs=adapter.num_outputs, seed=1
    )
    adapter.bind(loaded.tokenizer)
    return loaded


def assert_same(adapter: SpanQA, loaded: encoder.Encoder, plain: Any, tokenizer: Any) -> None:
    """Hold what bertkit says of :data:`ROWS`, one by one, against a plain model."""
    for example in ROWS:
        features = adapter.encode([example], loaded.tokenizer)
        batch = adapter.collate(features)
        with torch.inference_mode():
            reduced = adapter.reduce(loaded.model.eval()(**adapter.inputs(batch)), batch)
        (prediction,) = adapter.decode(reduced, features, [example])
        context = example["context"]
        segments = "token_type_ids" in batch
        spans, null = plain_spans(plain, tokenizer, example, segments=segments)
        score, start, end = spans[0]
        assert prediction["no_answer_score"] == pytest.approx(null + score, abs=1e-5)
        assert prediction["answer"] == context[start:end].strip()
        assert context[prediction["start"] : prediction["end"]] == prediction["answer"]


@pytest.mark.parametrize("family", slow_others(FAMILIES), ids=lambda family: family.name)
def test_family_learns_saves_and_opens_in_plain_transformers(family: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    # As many positions as the longest row has bytes.
    sizes = {
        name: 310 if "positions" in name or "position_embeddings" in name else n for name, n in family.sizes.items()
    }
    adapter = adapter_for()
    loaded = load(families.save(replace(family, sizes=sizes), tmp_path / "body"), adapter)
    rows = [row | {"answers": [row["context"].split()[-1]]} for row in ROWS[:2]]
    batch = adapter.collate(adapter.encode(rows, loaded.tokenizer))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = adapter.loss(loaded.model(**adapter.inputs(batch)), batch)
        losses.append(float(loss.sum.detach()))
        loss.sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    encoder.save(loaded.model, loaded.tokenizer, tmp_path / "model")
    plain, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(adapter, loaded, plain, AutoTokenizer.from_pretrained(tmp_path / "model"))
