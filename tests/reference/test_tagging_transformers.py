"""Saved taggers and span models open in plain transformers, and say there what bertkit says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bertkit
from tests import families
from tests.conftest import LEARNING, questions, sentences
from tests.workflows.training import train

OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1}
LABELS = ["O", "B-JOY", "B-WOE", "I-JOY", "I-WOE"]
ARGMAX = {"eval.decode": "argmax"}
BYTE_LEVEL = ("RoBERTa", "ModernBERT", "GPT-2")


@pytest.fixture(scope="module", params=families.slow_others(["BERT", *BYTE_LEVEL], quick=["BERT", "RoBERTa"]))
def tagger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tagger over WordPiece or byte-level BPE, whose words are several tokens."""
    folder = tmp_path_factory.mktemp("tagger")
    family = next(family for family in families.FAMILIES if family.name == request.param)
    body = families.save(family, folder / "body")
    run = train(sentences(40), encoder=body, out=folder / "run", settings={"labels": LABELS}).run
    scramble(run / "model" / "model.safetensors")
    return run


def scramble(file: Path) -> None:
    """Give a model that learned next to nothing a will of its own: the tags of a text are to differ."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "embed" not in name:
            tensors[name] = torch.randn(tensor.shape, generator=generator) / 2
    save_file(tensors, file, metadata={"format": "pt"})


def texts(number: int) -> list[str]:
    """Return texts of known words and of words that the tokenizer takes apart."""
    return [" ".join([*row["tokens"], "taken", *row["tokens"][:2]]) for row in sentences(number, seed=21)]


def words_of(text: str) -> list[list[int]]:
    """Return where the words stand that single spaces separate."""
    ends = [len(" ".join(text.split()[: n + 1])) for n in range(len(text.split()))]
    return [[end - len(word), end] for word, end in zip(text.split(), ends, strict=True)]


def tags_by_hand(run: Path, text: str) -> list[str]:
    """Return the tag of each word's first token, with transformers' own classes and a list of words."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(run / "model")
    encoded = AutoTokenizer.from_pretrained(run / "model")(text.split(), is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        ids = model(**encoded).logits[0].argmax(-1).tolist()
    places = encoded.word_ids()
    return [model.config.id2label[ids[places.index(n)]] for n in range(len(text.split()))]


def tags_of_pipeline(run: Path, text: str) -> list[str]:
    """Return the tag of each word's first token as the pipeline has it, of the raw text."""
    from transformers import AutoTokenizer, pipeline

    tokens = AutoTokenizer.from_pretrained(run / "model")
    encoded = tokens(text.split(), is_split_into_words=True)
    assert encoded["input_ids"] == tokens(text)["input_ids"], "a raw text and its words must be the same tokens"
    tag = pipeline("token-classification", model=str(run / "model"), device="cpu", ignore_labels=[])
    found = {token["index"]: token["entity"] for token in tag(text)}
    places = encoded.word_ids()
    return [found[places.index(n)] for n in range(len(text.split()))]


def test_auto_class_opens_it_with_its_labels(tagger: Path) -> None:
    from transformers import AutoModelForTokenClassification

    model, info = AutoModelForTokenClassification.from_pretrained(tagger / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {name: n for n, name in enumerate(LABELS)}


@pytest.mark.slow
def test_every_word_has_the_same_tag_there(tagger: Path) -> None:
    several = 0
    for text in texts(12):
        words, raw = bertkit.predict([{"tokens": text.split()}, text], run=tagger, settings=ARGMAX, **OPTIONS)
        assert words["tags"] == raw["tags"] == tags_by_hand(tagger, text)
        assert words["words"] == words_of(text)
        several += len(set(words["tags"]))
    assert several > 20


def test_pipeline_has_the_same_tags(tagger: Path) -> None:
    """The saved tokenizer reads a raw text as bertkit read the words, its first word included."""
    for text in texts(6):
        (ours,) = bertkit.predict([text], run=tagger, settings=ARGMAX, **OPTIONS)
        assert tags_of_pipeline(tagger, text) == ours["tags"]


@pytest.mark.slow
def test_pipeline_groups_the_same_entities(tagging_run: Path) -> None:
    from transformers import pipeline

    tag = pipeline("token-classification", model=str(tagging_run / "model"), device="cpu", aggregation_strategy="first")
    text = "the good bright film was dull and it was fine"
    (ours,) = bertkit.predict([text], run=tagging_run, **OPTIONS)
    found = [(each["entity_group"], each["start"], each["end"]) for each in tag(text)]
    assert found == [(each["label"], each["start"], each["end"]) for each in ours["entities"]]
    assert len(found) == 3
    assert tag(text)[1]["score"] == pytest.approx(ours["entities"][1]["score"], abs=1e-5)


# Spans ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=families.slow_others(["BERT", "RoBERTa", "XLNet"], quick=["BERT", "XLNet"]))
def answerer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a span model whose tokens are segments, bytes, or padded on the left."""
    folder = tmp_path_factory.mktemp("answerer")
    family = next(family for family in families.FAMILIES if family.name == request.param)
    body = families.save(family, folder / "body")
    # Bytes are many tokens, of which RoBERTa's tiny body has positions for 128.
    settings = {**LEARNING, "train.epochs": 2, "options.stride": 16, "train.max_length": 128}
    return train(questions(100), encoder=body, out=folder / "run", settings=settings).run


def best_span_by_hand(run: Path, question: str, context: str) -> tuple[float, set[tuple[int, int]]]:
    """Return the best score of a span of the context, and where the spans are that have it."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model, info = AutoModelForQuestionAnswering.from_pretrained(run / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = AutoTokenizer.from_pretrained(run / "model")
    encoded = tokens(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        outputs = model(**encoded)
    starts, ends = outputs.start_logits[0], outputs.end_logits[0]
    inside = [n for n, segment in enumerate(encoded.sequence_ids(0)) if segment == 1]
    inked = {n for n in inside if context[slice(*offsets[n])].strip()}
    spans = {(i, j): float(starts[i] + ends[j]) for i in inked for j in inside if i <= j < i + 30}
    top = max(spans.values())
    near = {pair for pair, score in spans.items() if score > top - 1e-4}
    return top, {cut(context, offsets[i][0], offsets[j][1]) for i, j in near}


def cut(context: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the white space at its ends."""
    piece = context[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


@pytest.mark.slow
def test_best_span_is_the_same_there(answerer: Path) -> None:
    for row in questions(12, seed=21):
        (ours,) = bertkit.predict([row], run=answerer, **OPTIONS)
        _, spans = best_span_by_hand(answerer, row["question"], row["context"])
        assert (ours["start"], ours["end"]) in spans


@pytest.mark.slow
def test_no_answer_score_is_the_one_of_the_first_token(questions_run: Path) -> None:
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(questions_run / "model")
    tokens = AutoTokenizer.from_pretrained(questions_run / "model")
    for row in questions(8, unanswered=2, seed=22):
        (ours,) = bertkit.predict([row], run=questions_run, **OPTIONS)
        with torch.inference_mode():
            outputs = model(**tokens(row["question"], row["context"], return_tensors="pt"))
        null = float(outputs.start_logits[0, 0] + outputs.end_logits[0, 0])
        best, _ = best_span_by_hand(questions_run, row["question"], row["context"])
        assert ours["no_answer_score"] == pytest.approx(null - best, abs=1e-4)


def test_question_answering_checkpoint_has_two_outputs(answerer: Path) -> None:
    config = json.loads((answerer / "model" / "config.json").read_text())
    assert config["architectures"][0].endswith(("ForQuestionAnswering", "ForQuestionAnsweringSimple"))
