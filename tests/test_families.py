"""Every encoder family from a tiny config: trains, saves, opens in plain transformers, predicts the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import encoder, unpad
from bertkit.adapters import find
from bertkit.adapters.base import Adapter
from bertkit.config import TrainConfig
from bertkit.task import DataSource, Task
from tests import families
from tests.families import FAMILIES, Family, slow_others

MAPPINGS = {
    "token-tagging": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "span-qa": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}
"""Task type -> transformers' table of the models that have its head."""
GOLDEN = Path(__file__).parent / "golden" / "families.json"
LABELS = ("negative", "positive")
SINGLES: list[dict[str, Any]] = [
    {"text": "the film was good", "label": "positive"},
    {"text": "dull", "label": "negative"},
    {"text": "a very warm meal and it was bright and we", "label": "positive"},
]
PAIRS: list[dict[str, Any]] = [row | {"text_pair": "a cold tool"} for row in SINGLES]


TAGS = ("O", "B-JOY", "I-JOY")
SENTENCES: list[dict[str, Any]] = [
    {"tokens": ["the", "film", "was", "good"], "tags": ["O", "O", "O", "B-JOY"]},
    {"tokens": ["dull"], "tags": ["O"]},
    {"tokens": ["a", "warm", "bright", "meal", "and", "we"], "tags": ["O", "B-JOY", "I-JOY", "O", "O", "O"]},
]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "was it", "context": "the film was good", "answers": ["good"]},
    {"question": "a", "context": "dull", "answers": ["dull"]},
    {"question": "and we", "context": "a very warm meal and it was bright and we", "answers": ["warm meal"]},
]
ROWS = {"token-tagging": SENTENCES, "span-qa": QUESTIONS}


def has_head(family: Family, kind: str) -> bool:
    """Say whether transformers has the head of a task type for a family."""
    import transformers
    from transformers.models.auto import modeling_auto

    return getattr(transformers, family.config).model_type in getattr(modeling_auto, MAPPINGS[kind])


def adapter_for(kind: str = "single") -> Adapter:
    task = Task(
        name="x", type="sequence-classification", data=DataSource(), kind=kind, labels=LABELS, metrics=("accuracy",)
    )
    return find(task.type)(task, TrainConfig(max_length=64), LABELS)


def load(folder: Path, adapter: Adapter) -> encoder.Encoder:
    loaded = encoder.load(
        encoder.find(str(folder)),
        auto_class=adapter.auto_class,
        labels=LABELS,
        problem_type=adapter.problem_type,
        seed=1,
    )
    adapter.bind(loaded.tokenizer)
    return loaded


def logits(loaded: encoder.Encoder, adapter: Adapter, rows: list[dict[str, Any]], *, together: bool) -> torch.Tensor:
    features = adapter.encode(rows, loaded.tokenizer)
    groups = [features] if together else [[feature] for feature in features]
    with torch.inference_mode():
        return torch.cat([loaded.model(**adapter.inputs(adapter.collate(group))).logits for group in groups])


def describe(family: Family, folder: Path) -> dict[str, Any]:
    """Return what the docs' table says of a family, found by trying."""
    adapter = adapter_for()
    loaded = load(families.save(family, folder), adapter)
    gap = (logits(loaded, adapter, PAIRS, together=True) - logits(loaded, adapter, PAIRS, together=False)).abs().max()
    limit = encoder.position_limit(loaded.model)
    segments = "token_type_ids" in loaded.tokenizer.model_input_names
    return {
        "family": family.name,
        "model_type": loaded.model.config.model_type,
        "head": type(loaded.model).__name__,
        "single texts": True,
        "pairs": "segment ids" if segments else "separator",
        "positions": "relative" if limit >= encoder.UNLIMITED else "counted",
        "independent of padding": bool(gap < 1e-5),
        "layers": unpad.install(loaded.model).form,
        "token tagging": has_head(family, "token-tagging"),
        "span QA": has_head(family, "span-qa"),
    }


@pytest.mark.parametrize("family", slow_others(FAMILIES), ids=lambda family: family.name)
def test_family_is_as_the_table_says(family: Family, tmp_path: Path) -> None:
    table = {row["family"]: row for row in json.loads(GOLDEN.read_text())}
    assert describe(family, tmp_path) == table[family.name]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("family", slow_others(FAMILIES), ids=lambda family: family.name)
def test_family_learns_saves_and_opens_in_plain_transformers(
    family: Family, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    adapter = adapter_for()
    loaded = load(families.save(family, tmp_path / "body"), adapter)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    batch = adapter.collate(adapter.encode(rows, loaded.tokenizer))
    losses = []
    for _ in range(30):
        loss = adapter.loss(loaded.model(**adapter.inputs(batch)), batch)
        losses.append(float(loss.sum.detach()))
        loss.sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    encoder.save(loaded.model, loaded.tokenizer, tmp_path / "model")
    # Probabilities near 0 and 1 would be alike even where the inputs were not.
    ours = logits(loaded, adapter, rows, together=False)
    assert torch.allclose(plain(tmp_path / "model", rows), ours, atol=1e-5, rtol=1e-5)


def plain(folder: Path, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return the logits that transformers' own classes give, row by row."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    with torch.inference_mode():
        outputs = [model(**tokenizer(row["text"], row.get("text_pair"), return_tensors="pt")).logits[0] for row in rows]
    return torch.stack(outputs)


def test_empty_text_of_a_decoder_is_read_the_same_alone_and_beside_others(tmp_path: Path) -> None:
    """Its tokenizer adds no special tokens, so that nothing would be left to read."""
    gpt2 = next(family for family in FAMILIES if family.name == "GPT-2")
    adapter = adapter_for()
    loaded = load(families.save(gpt2, tmp_path), adapter)
    rows: list[dict[str, Any]] = [{"text": "", "label": "negative"}, *SINGLES]
    together, alone = (logits(loaded, adapter, rows, together=each) for each in (True, False))
    assert torch.allclose(together, alone, atol=1e-5)
    unpad.install(loaded.model)
    assert torch.allclose(logits(loaded, adapter, rows, together=False), alone, atol=1e-5)


# Tagging and span QA -------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param((kind, family), marks=[] if family.name in families.QUICK else pytest.mark.slow)
        for kind in MAPPINGS
        for family in FAMILIES
    ],
    ids=lambda given: f"{given[0]}-{given[1].name}",
)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Family, Adapter, encoder.Encoder]:
    """Return a family's tiny model with a head for words or spans, and the adapter; skip what transformers lacks."""
    kind, family = request.param
    if not has_head(family, kind):
        pytest.skip(f"transformers has no head of {family.name} for {kind}")
    return family, *with_head(kind, families.save(family, tmp_path / "body"))


def with_head(kind: str, folder: Path) -> tuple[Adapter, encoder.Encoder]:
    labels, options = (TAGS, {}) if kind == "token-tagging" else ((), {"stride": 8})
    task = Task(name="x", type=kind, data=DataSource(), labels=labels, metrics=("f1",), options=options)
    adapter = find(kind)(task, TrainConfig(max_length=64), labels)
    source = encoder.find(str(folder))
    loaded = encoder.load(source, auto_class=adapter.auto_class, labels=labels, num_outputs=adapter.num_outputs, seed=1)
    adapter.bind(loaded.tokenizer)
    return adapter, loaded


def outputs(loaded: encoder.Encoder, adapter: Adapter, rows: list[dict[str, Any]], *, together: bool) -> torch.Tensor:
    """Return the logits at every real position, one row's after another's, ``(positions, K)``."""
    features = adapter.encode(rows, loaded.tokenizer)
    assert [feature.example for feature in features] == list(range(len(rows)))
    found = []
    for group in [features] if together else [[feature] for feature in features]:
        batch = adapter.collate(group)
        with torch.inference_mode():
            found.append(of_positions(loaded.model(**adapter.inputs(batch)))[batch["attention_mask"].bool()])
    return torch.cat(found)


def of_positions(given: Any) -> torch.Tensor:
    return given.logits if "logits" in given else torch.stack([given.start_logits, given.end_logits], -1)


def predictions(loaded: encoder.Encoder, adapter: Adapter, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the predictions of rows that go through the model together."""
    features = adapter.encode(rows, loaded.tokenizer)
    batch = adapter.collate(features)
    with torch.inference_mode():
        reduced = adapter.reduce(loaded.model(**adapter.inputs(batch)), batch)
    return adapter.decode(reduced, features, rows)


def plain_outputs(folder: Path, adapter: Adapter, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return what transformers' own classes make of the rows, one by one."""
    import transformers

    model, info = getattr(transformers, adapter.auto_class).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        words = {"text": row["tokens"], "is_split_into_words": True} if "tokens" in row else {}
        given = words or {"text": row["question"], "text_pair": row["context"]}
        with torch.inference_mode():
            found.append(of_positions(model(**tokenizer(**given, return_tensors="pt")))[0])
    return torch.cat(found)


def test_other_head_learns_saves_and_opens_in_plain_transformers(
    other: tuple[Family, Adapter, encoder.Encoder], tmp_path: Path
) -> None:
    _, adapter, loaded = other
    rows = ROWS[adapter.task.type]
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    batch = adapter.collate(adapter.encode(rows, loaded.tokenizer))
    losses = []
    for _ in range(30):
        loss = adapter.loss(loaded.model(**adapter.inputs(batch)), batch)
        losses.append(float((loss.sum / loss.weight).detach()))
        loss.sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    encoder.save(loaded.model, loaded.tokenizer, tmp_path / "model")
    ours = outputs(loaded, adapter, rows, together=False)
    assert torch.allclose(plain_outputs(tmp_path / "model", adapter, rows), ours, atol=1e-5, rtol=1e-5)


def test_other_head_gives_a_row_what_it_gives_it_alone(other: tuple[Family, Adapter, encoder.Encoder]) -> None:
    family, adapter, loaded = other
    rows = ROWS[adapter.task.type]
    if not family.padding_free:
        pytest.skip(f"what {family.name} gives depends on the padding")
    together, alone = (outputs(loaded, adapter, rows, together=each) for each in (True, False))
    assert torch.allclose(together, alone, atol=1e-5)
    each = [prediction for row in rows for prediction in predictions(loaded, adapter, [row])]
    assert rounded(predictions(loaded, adapter, rows)) == rounded(each)


def rounded(value: Any) -> Any:
    """Return a prediction whose numbers have four places."""
    if isinstance(value, dict):
        return {key: rounded(below) for key, below in value.items()}
    if isinstance(value, list):
        return [rounded(below) for below in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_xlnet_is_padded_on_the_left(tmp_path: Path) -> None:
    """What is noted of the positions has to move with them, in inputs, targets and predictions."""
    family = next(family for family in FAMILIES if family.name == "XLNet")
    for kind, rows in ROWS.items():
        adapter, loaded = with_head(kind, families.save(family, tmp_path / kind))
        assert adapter.padding.left
        batch = adapter.collate(adapter.encode(rows, loaded.tokenizer))
        assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist())


@pytest.mark.parametrize("kind", MAPPINGS)
@pytest.mark.parametrize("name", ["GPT-2", "BERT"])
def test_padding_of_a_generator_does_not_move_counted_positions(name: str, kind: str, tmp_path: Path) -> None:
    """Tokenizers for generation are often saved with padding on the left, where positions begin to count."""
    from transformers import AutoTokenizer

    family = next(family for family in FAMILIES if family.name == name)
    folder = families.save(family, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    adapter, loaded = with_head(kind, folder)
    together, alone = (outputs(loaded, adapter, ROWS[kind], together=each) for each in (True, False))
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT-2", "XLNet"])
def test_run_of_another_body_is_saved_opened_and_verified(name: str, tmp_path: Path) -> None:
    """With its own head: GPT-2's on the last token, XLNet's summary of it."""
    import bertkit
    from bertkit.workflows.verify import verify
    from tests.conftest import reviews, write_jsonl

    family = next(family for family in FAMILIES if family.name == name)
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(24))
    settings = {"train.batch_size": 8, "train.epochs": 1, "train.max_length": 64, "eval.resamples": 0}
    about: dict[str, Any] = {"encoder": families.save(family, tmp_path / "e"), "settings": settings}
    run = bertkit.finetune(data, runs=tmp_path / "runs", precision="float32", threads=1, **about).run
    assert verify(run, steps=2).same
    row = {"text": "the film was good"}
    ours = bertkit.predict([row["text"]], run=run, precision="float32")[0]["probabilities"]
    theirs = torch.softmax(plain(run / "model", [row]), -1)[0]
    assert [ours[label] for label in LABELS] == pytest.approx(theirs.tolist(), abs=1e-5)
