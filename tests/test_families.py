"""Every encoder family from a tiny config: trains, saves, opens in plain transformers, predicts the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import encoder
from bertkit.adapters import find
from bertkit.adapters.base import Adapter
from bertkit.config import TrainConfig
from bertkit.task import DataSource, Task
from tests import families
from tests.families import FAMILIES, Family

GOLDEN = Path(__file__).parent / "golden" / "families.json"
LABELS = ("negative", "positive")
SINGLES: list[dict[str, Any]] = [
    {"text": "the film was good", "label": "positive"},
    {"text": "dull", "label": "negative"},
    {"text": "a very warm meal and it was bright and we", "label": "positive"},
]
PAIRS: list[dict[str, Any]] = [row | {"text_pair": "a cold tool"} for row in SINGLES]


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
    }


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_is_as_the_table_says(family: Family, tmp_path: Path) -> None:
    table = {row["family"]: row for row in json.loads(GOLDEN.read_text())}
    assert describe(family, tmp_path) == table[family.name]


@pytest.mark.parametrize("rows", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
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
    assert plain(tmp_path / "model", rows) == pytest.approx(
        torch.softmax(_one_by_one(loaded, adapter, rows), -1), abs=1e-5
    )


def _one_by_one(loaded: encoder.Encoder, adapter: Adapter, rows: list[dict[str, Any]]) -> torch.Tensor:
    return logits(loaded, adapter, rows, together=False)


def plain(folder: Path, rows: list[dict[str, Any]]) -> Any:
    """Return the probabilities that transformers' own classes give, row by row."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    with torch.inference_mode():
        outputs = [model(**tokenizer(row["text"], row.get("text_pair"), return_tensors="pt")).logits[0] for row in rows]
    return torch.softmax(torch.stack(outputs), -1)
