"""The model card: a metadata block that parses, scores and settings, and no text of the data that does anything."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertkit import card, config
from bertkit.config import TrainConfig

RECORD: dict[str, Any] = {
    "task": "glue/sst2",
    "encoder": "google-bert/bert-base-uncased",
    "seed": 7,
    "request": {"data": None},
    "resolved_task": {
        "type": "sequence-classification",
        "summary": "Is a sentence positive?",
        "source": "https://aclanthology.org/D13-1170",
        "license": "CC0-1.0",
        "metrics": ["accuracy", "f1"],
        "data": {"hub": "nyu-mll/glue", "name": "sst2"},
    },
    "config": {"train": config.describe(TrainConfig(learning_rate=3e-5))},
    "encoder_revision": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "dataset_revision": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    "label_map": {"0": "negative", "1": "positive"},
    "num_examples": {"train": 67349, "validation": 872},
    "held_out_rows": [],
    "versions": {"bertkit": "0.1.0"},
    "device": {"name": "cpu", "precision": "float32"},
    "truncation": {"train": {"share_of_examples": 0.125}},
}
SCORES = {"validation": {"accuracy": 0.92776, "accuracy_interval": [0.91, 0.944], "f1": 0.5}}


def record(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(RECORD)
    changed["resolved_task"] |= changes.pop("resolved_task", {})
    return changed | changes


def rendered(scores: dict[str, Any] = SCORES, **changes: Any) -> str:
    return card.render(record(**changes), scores, best_step=4200)


def metadata(text: str) -> dict[str, Any]:
    """Read the block at the top as the Hub does."""
    assert text.startswith("---\n")
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_metadata_block_parses() -> None:
    assert metadata(rendered()) == {
        "library_name": "transformers",
        "base_model": "google-bert/bert-base-uncased",
        "pipeline_tag": "text-classification",
        "tags": ["bertkit"],
        "datasets": ["nyu-mll/glue"],
    }


def test_scores_stand_with_rows_and_intervals() -> None:
    text = rendered()
    assert "| validation | 872 | accuracy | 0.9278 [0.9100, 0.9440] |" in text
    assert "| validation | 872 | f1 | 0.5000 |" in text
    assert "those of step 4200, the best by `accuracy`" in text


def test_every_setting_stands_in_the_table() -> None:
    text = rendered()
    for name, value in RECORD["config"]["train"].items():
        assert f"| {name} | {value} |" in text
    assert "| learning_rate | 3e-05 |" in text
    assert "| seed | 7 |" in text
    assert "| training examples | 67349 |" in text
    assert "| device, precision | cpu, float32 |" in text


def test_revisions_labels_limits_and_sources_are_named() -> None:
    text = rendered()
    assert "`google-bert/bert-base-uncased` (revision `86b5e0934494bd15c9632b12f734a8a67f723594`)" in text
    assert "`glue/sst2` (revision `bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c`)" in text
    assert "Labels: `0` negative, `1` positive." in text
    assert "at most 128 tokens (on_long = `truncate`); 12.5% of the training examples were longer." in text
    assert "described at https://aclanthology.org/D13-1170. Its licence: CC0-1.0." in text
    assert 'pipeline("text-classification", model="model")' in text


def test_held_out_rows_are_said_to_be_no_official_split() -> None:
    assert "official split" not in rendered()
    assert "Validation is 3 rows held out from train, not an official split." in rendered(held_out_rows=[1, 5, 9])


@pytest.mark.parametrize(
    ("encoder", "base", "title"),
    [
        ("owner/name", "owner/name", "owner/name"),
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2", "minilm"),
        ("/home/someone/models/my-bert", None, "my-bert"),
        ("./models/my-bert", None, "my-bert"),
        ("../my-bert", None, "my-bert"),
        ("~/my-bert", None, "my-bert"),
        ("a/b/my-bert", None, "my-bert"),
        ("bert-base-uncased", None, "bert-base-uncased"),
    ],
)
def test_only_a_hub_name_is_a_base_model_and_a_folder_is_its_last_part(
    encoder: str, base: str | None, title: str
) -> None:
    text = rendered(encoder=encoder)
    assert metadata(text).get("base_model") == base
    assert f"# glue/sst2: {title}\n" in text
    assert f"from `{title}`" in text
    assert encoder in (title, base) or encoder not in text


def test_rows_that_the_user_gave_are_not_called_the_hub_s() -> None:
    assert "datasets" not in metadata(rendered(request={"data": "/home/someone/rows.jsonl"}))


def test_task_without_a_hub_has_no_datasets() -> None:
    files = {"data": {"files": {"train": "/home/someone/train.jsonl"}}, "source": "", "license": "", "summary": ""}
    text = rendered(resolved_task=files, encoder_revision="", dataset_revision="", label_map={})
    assert "datasets" not in metadata(text)
    assert "/home" not in text
    assert "revision" not in text
    assert "Labels:" not in text


BAD = "a|b\n<script>alert(1)</script>`c`\x1b[31m\x07\u202e\\|[x](y)"


@pytest.mark.parametrize(
    "changes",
    [
        {"label_map": {"0": BAD, "1": "fine"}},
        {"task": BAD},
        {"encoder": BAD},
        {"encoder_revision": BAD},
        {"resolved_task": {"summary": BAD, "source": BAD, "license": BAD}},
        {"resolved_task": {"data": {"hub": BAD}}},
    ],
    ids=["labels", "task", "encoder", "revision", "texts", "hub"],
)
def test_text_from_data_and_settings_does_nothing(changes: dict[str, Any]) -> None:
    text = rendered(**changes)
    assert set(metadata(text)) <= {"library_name", "base_model", "pipeline_tag", "tags", "datasets"}
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert body.count("`") % 2 == 0
    assert "`c`" not in body
    assert "[x](y)" not in body
    assert len(body.splitlines()) == len(rendered().split("---\n", 2)[2].splitlines())


def test_bars_in_names_do_not_split_a_table() -> None:
    scores = {"a|b\\|c": {"accuracy": 0.5}}
    text = rendered(scores, num_examples={"train": 1, "a|b\\|c": 1})
    (row,) = [line for line in text.splitlines() if line.endswith("| 1 | accuracy | 0.5000 |")]
    plain = row.replace("\\\\", "").replace("\\|", "")
    assert plain.count("|") == 5


def test_many_labels_are_cut_to_50() -> None:
    text = rendered(label_map={str(n): f"intent{n}" for n in range(200)})
    assert "`49` intent49" in text
    assert "`50`" not in text


def test_card_of_a_run_parses_and_names_no_place_of_this_machine(finished_run: Path, tiny_encoder: Path) -> None:
    text = (finished_run / "README.md").read_text(encoding="utf-8")
    scores = json.loads((finished_run / "scores.json").read_text())
    found = metadata(text)
    assert found["pipeline_tag"] == "text-classification"
    assert "base_model" not in found
    assert f"{scores['splits']['validation']['accuracy']:.4f}" in text
    assert f"step {scores['best_step']}," in text
    for path in (finished_run / "README.md", *(p for p in (finished_run / "model").iterdir() if p.suffix == ".json")):
        body = path.read_text(encoding="utf-8")
        assert str(tiny_encoder.parent) not in body, path
        assert str(finished_run.parent) not in body, path
    assert json.loads((finished_run / "model" / "bertkit.json").read_text())["encoder"] == tiny_encoder.name
