"""Token tagging from reading to scores: every form of data, every command, what is refused and how."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, DataError, RunError
from bertkit.workflows.predict import predict_file
from bertkit.workflows.tasks import new
from tests.conftest import save_tiny_bert, save_tiny_characters, sentences, write_conll, write_jsonl
from tests.families import slow_others
from tests.workflows.training import Listener, lines, record, same_weights, train

LABELS = ["O", "B-JOY", "B-WOE", "I-JOY", "I-WOE"]
OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1}
Rows = list[dict[str, Any]]


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """Return a sentence as a raw text with entities."""
    entities: Rows = []
    start = 0
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        end = start + len(token)
        if tag.startswith("B-"):
            entities.append({"start": start, "end": end, "label": tag[2:]})
        elif tag.startswith("I-"):
            entities[-1]["end"] = end
        start = end + 1
    return {"text": " ".join(row["tokens"]), "entities": entities}


def universal(path: Path, rows: Rows) -> Path:
    """Write CoNLL-U with the tag as the part of speech, and multiword tokens and empty nodes, which are no words."""
    blocks = []
    for index, row in enumerate(rows):
        block = [f"# sent_id = s{index}", "1-2\tboth\t_\t_\t_\t_\t_\t_\t_\t_"]
        pairs = zip(row["tokens"], row["tags"], strict=True)
        block += [f"{n}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_" for n, (word, tag) in enumerate(pairs, start=1)]
        blocks.append("\n".join([*block, f"{len(row['tokens'])}.1\tnone\t_\t_\t_\t_\t_\t_\t_\t_"]))
    path.write_text("\n\n".join(blocks) + "\n\n", encoding="utf-8")
    return path


def parquet(path: Path, rows: Rows) -> Path:
    import datasets

    tags = datasets.Sequence(datasets.ClassLabel(names=LABELS))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    given = [{"tokens": row["tokens"], "ner_tags": [LABELS.index(tag) for tag in row["tags"]]} for row in rows]
    datasets.Dataset.from_list(given, features=features).to_parquet(path)
    return path


def windows_lines(path: Path, rows: Rows) -> Path:
    """Write CoNLL as it is often met: tabs, CR LF, documents, an empty line that holds a tab."""
    write_conll(path, rows)
    text = path.read_text().replace("\n\n", "\n\t\n").replace(" ", "\t").replace("\n", "\r\n")
    path.write_bytes(f"-DOCSTART-\tO\r\n\r\n{text}".encode())
    return path


FORMS: dict[str, tuple[str, Callable[[Path, Rows], Any], dict[str, Any]]] = {
    "conll": ("x.conll", write_conll, {}),
    "crlf": ("x.conll", windows_lines, {}),
    "columns": (
        "x.conll",
        lambda path, rows: write_conll(path, rows, columns=4),
        {"columns": {"tokens": 0, "tags": 3}},
    ),
    "conllu": ("x.conllu", universal, {"columns": {"tags": 3}}),
    "jsonl": ("x.jsonl", write_jsonl, {}),
    "entities": ("x.jsonl", lambda path, rows: write_jsonl(path, list(map(as_text, rows))), {}),
    "parquet": ("x.parquet", parquet, {}),
    "python": ("", lambda path, rows: rows, {}),
    "python entities": ("", lambda path, rows: list(map(as_text, rows)), {}),
}
each_form = pytest.mark.parametrize("form", slow_others(FORMS, quick=["conll", "jsonl", "entities", "python"]))


@pytest.fixture(scope="session")
def plain_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch over Python rows with tokens and tags."""
    out = tmp_path_factory.mktemp("tags") / "run"
    return train(sentences(48), encoder=tiny_encoder, out=out, settings={"labels": LABELS}).run


def predict(rows: Any, run: Path, **options: Any) -> Rows:
    return bertkit.predict(rows, run=run, **{**OPTIONS, **options})


# Forms of data -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_form
def test_same_sentences_in_any_form_make_the_same_model(
    form: str, tiny_encoder: Path, plain_run: Path, tmp_path: Path
) -> None:
    """No type is given: the columns say it."""
    name, write, settings = FORMS[form]
    data = write(tmp_path / name, sentences(48))
    result = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings={"labels": LABELS} | settings)
    assert record(result.run)["resolved_task"]["type"] == "token-tagging"
    assert list(record(result.run)["label_map"].values()) == LABELS
    assert same_weights(result.run, plain_run)
    assert result.scores["validation"].keys() == {"f1", "precision", "recall", "f1_macro", "tag_accuracy"}
    scored = bertkit.evaluate(result.run, data=data, settings={"eval.resamples": 0}, **OPTIONS)
    assert scored.num_examples == 48
    wanted = bertkit.evaluate(plain_run, data=sentences(48), settings={"eval.resamples": 0}, **OPTIONS)
    assert scored.scores == wanted.scores
    found = predict(data, result.run)
    assert [p["tags"] for p in found] == [p["tags"] for p in wanted.predictions]
    assert [len(p["words"]) for p in found] == [len(row["tokens"]) for row in sentences(48)]


@pytest.mark.slow
def test_own_validation_is_scored_again_as_training_did(tagging_run: Path) -> None:
    scores = json.loads((tagging_run / "scores.json").read_text())
    again = bertkit.evaluate(tagging_run, **OPTIONS)
    assert again.scores == scores["splits"]["validation"]
    assert again.details == scores["details"]["validation"]
    assert again.scores["f1"] > 0.9
    assert again.details["scheme"] == "IOB2"
    assert again.details["types"].keys() == {"JOY", "WOE"}


@pytest.mark.slow
def test_task_file_names_columns_by_position(tiny_encoder: Path, plain_run: Path, tmp_path: Path) -> None:
    write_conll(tmp_path / "four.conll", sentences(48), columns=4)
    (tmp_path / "mine.toml").write_text(
        f'type = "token-tagging"\nlabels = {json.dumps(LABELS)}\n[data]\nfiles = {{ train = "four.conll" }}\n'
        "[columns]\ntokens = 0\ntags = 3\n"
    )
    result = train(tmp_path / "mine.toml", encoder=tiny_encoder, out=tmp_path / "run")
    assert same_weights(result.run, plain_run)
    kept = lines(result.run / "predictions" / "validation.jsonl")[0]
    assert kept.keys() == {"tokens", "1", "2", "tags", "prediction"}
    write_conll(tmp_path / "new.conll", sentences(5, seed=3), columns=4)
    assert len(predict(tmp_path / "new.conll", result.run)) == 5
    (tmp_path / "words.conll").write_text("good\nfilm\n\nbad\n")
    assert [len(p["tags"]) for p in predict(tmp_path / "words.conll", result.run)] == [2, 1]


@pytest.mark.slow
def test_file_without_a_known_suffix_is_read_as_it_is_said_to_be(tagging_run: Path, tmp_path: Path) -> None:
    write_conll(tmp_path / "new.txt", sentences(5))
    settings = {"data.format": "conll"}
    scored = bertkit.evaluate(tagging_run, data=tmp_path / "new.txt", settings=settings, **OPTIONS)
    assert predict(tmp_path / "new.txt", tagging_run, settings=settings) == scored.predictions
    written = predict_file(tmp_path / "new.txt", out=None, run=tagging_run, settings=settings, **OPTIONS)
    assert [json.loads(line)["prediction"] for line in written] == scored.predictions


def test_parts_of_speech_are_scored_by_words(tiny_encoder: Path, tmp_path: Path) -> None:
    """A tag set that is not BIO-like makes no entities."""
    kinds = {"O": "NOUN", "B": "VERB", "I": "ADJ"}
    rows = [row | {"tags": [kinds[tag[0]] for tag in row["tags"]]} for row in sentences(48)]
    data = universal(tmp_path / "pos.conllu", rows)
    result = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings={"columns.tags": "upos"})
    assert record(result.run)["label_map"] == {"0": "ADJ", "1": "NOUN", "2": "VERB"}
    assert result.scores["validation"].keys() == {"tag_accuracy"}
    (prediction,) = predict([{"tokens": ["good", "film"]}], result.run)
    assert prediction["entities"] == []
    with pytest.raises(ConfigError, match=r"eval\.decode is 'viterbi', and the tags are not BIO-like"):
        predict(["good"], result.run, settings={"eval.decode": "viterbi"})


@pytest.mark.slow
def test_splits_of_files_need_no_cut(tiny_encoder: Path, tmp_path: Path) -> None:
    data = {"train": sentences(40), "validation": sentences(10, seed=1), "test": sentences(10, seed=2)}
    result = train(data, encoder=tiny_encoder, out=tmp_path / "run")
    assert result.scores.keys() == {"validation", "test"}
    assert record(result.run)["held_out_rows"] == []
    assert record(result.run)["tuning_rows"] == []


# Predictions ---------------------------------------------------------------------------------------------------


def test_words_and_the_text_that_they_make_are_tagged_alike(tagging_run: Path) -> None:
    tokens = ["the", "good", "bright", "film", "was", "dull"]
    words, text, row = predict([{"tokens": tokens}, " ".join(tokens), {"text": " ".join(tokens)}], tagging_run)
    assert words == text == row
    assert words["tags"] == ["O", "B-JOY", "I-JOY", "O", "O", "B-WOE"]
    assert [(e["label"], e["start"], e["end"], e["text"]) for e in words["entities"]] == [
        ("JOY", 4, 15, "good bright"),
        ("WOE", 25, 29, "dull"),
    ]
    assert all(0 < e["score"] <= 1 for e in words["entities"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \t\n",
        "good",
        "  good\tfilm ,\u00a0bad!  ",
        "好的good电影。\u3000坏bad",
        "cafe\u0301 good nai\u0308ve\u200d \u200bbad",
        "👩‍👩‍👧 good 🇩🇪🇫🇷 👍🏽bad",
        "\x00good\x07 \ufeffbad\x7f",
        "व्यक्ति good ที่ bad ِعربي",
        "good\ud83dbad \udc00",
        "x" * 500 + " good",
        "good " * 300,
    ],
    ids=lambda text: ascii(text)[1:20],
)
def test_offsets_cut_the_text_as_given(text: str, tagging_run: Path) -> None:
    (prediction,) = predict([text], tagging_run)
    spans = prediction["words"]
    assert len(spans) == len(prediction["tags"])
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered == {place for place, char in enumerate(text) if not char.isspace()} | covered
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    for entity in prediction["entities"]:
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert [entity["start"]] == [start for start, _ in spans if start == entity["start"]]
    assert "truncated" not in prediction
    assert ("good" in text.split()) <= any("good" in entity["text"] for entity in prediction["entities"])


def test_long_sentence_is_tagged_to_its_end(tagging_run: Path) -> None:
    tokens = ["the", "film", "good", "was"] * 60
    (prediction,) = predict([{"tokens": tokens}], tagging_run)
    assert prediction["tags"] == ["O", "O", "B-JOY", "O"] * 60
    assert "truncated" not in prediction


@pytest.mark.slow
def test_words_past_the_limit_are_outside_and_counted(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["the"] * 70 + ["good"], "tags": ["O"] * 70 + ["B-JOY"]}, *sentences(40)]
    listener = Listener()
    settings = {"train.on_long": "truncate"}
    data = {"train": rows, "validation": rows[:2]}
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=settings, listen=listener).run
    kept = record(run)["truncation"]["validation"]
    assert (kept["words_past_limit"], kept["entity_words_past_limit"]) == (9, 1)
    assert any("9 words" in note and "past the limit, tagged 'O', 1 of them inside" in note for note in listener.notes)
    prediction = lines(run / "predictions" / "validation.jsonl")[0]["prediction"]
    assert prediction["truncated"] is True
    assert len(prediction["tags"]) == 71
    assert prediction["tags"][62:] == ["O"] * 9


def test_word_without_a_token_is_outside(tagging_run: Path) -> None:
    tokens = ["good", "\x00", "\u200b", "bright", "", "film"]
    (prediction,) = predict([{"tokens": tokens}], tagging_run)
    assert [tag for tag, word in zip(prediction["tags"], tokens, strict=True) if word in ("\x00", "\u200b", "")] == [
        "O", "O", "O",
    ]  # fmt: skip
    assert prediction["tags"][0] == "B-JOY"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1}, r"row 1: column 'tokens' is missing, and so is 'text'; there are 'id'"),
        ({"tokens": "good"}, r"row 1: column 'tokens' is 'good', and must be a list of texts"),
        ({"tokens": ["good", 5]}, r"row 1: column 'tokens' holds 5 as word 2, and must hold texts"),
        ({"text": 5}, r"row 1: column 'text' is 5, and must be a text"),
    ],
)
def test_row_that_is_no_sentence_is_named(row: dict[str, Any], message: str, tagging_run: Path) -> None:
    with pytest.raises(DataError, match=message):
        predict([row], tagging_run)


def test_unheard_of_tags_do_not_disturb_prediction(tagging_run: Path) -> None:
    one, other = predict([{"tokens": ["good"], "tags": ["B-ODD"]}, {"tokens": ["good"]}], tagging_run)
    assert one == other


# Settings of a trained model -----------------------------------------------------------------------------------


def weak_run(encoder: Path, out: Path, **settings: Any) -> Path:
    """Return a model that has hardly learned, so that argmax makes illegal sequences."""
    return train(sentences(48), encoder=encoder, out=out, settings={"train.learning_rate": 2e-3} | settings).run


def illegal(predictions: Rows) -> int:
    count = 0
    for tags in (p["tags"] for p in predictions):
        before = ["O", *tags]
        count += sum(t[0] == "I" and b[2:] != t[2:] for b, t in zip(before, tags, strict=False))
    return count


@pytest.mark.slow
def test_decoding_can_be_chosen_for_a_trained_model(tmp_path: Path) -> None:
    """Equal logits for every tag but a little more for I-JOY: argmax begins sentences with it, Viterbi cannot."""
    import torch
    from safetensors.torch import load_file, save_file

    run = weak_run(save_tiny_bert(tmp_path / "body"), tmp_path / "run", labels=LABELS)
    file = run / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] = torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0])
    save_file(tensors, file, metadata={"format": "pt"})
    rows = [{"tokens": row["tokens"]} for row in sentences(10)]
    legal, greedy = predict(rows, run), predict(rows, run, settings={"eval.decode": "argmax"})
    assert illegal(legal) == 0
    assert illegal(greedy) == len(rows)
    assert predict(rows, run, settings={"eval.decode": "viterbi"}) == legal
    scored = [
        bertkit.evaluate(run, data=sentences(20), settings=s, **OPTIONS).predictions
        for s in ({}, {"eval.decode": "argmax"})
    ]
    assert (illegal(scored[0]), illegal(scored[1])) == (0, 20)


@pytest.mark.slow
def test_decoding_of_the_task_stays_with_the_model(tiny_encoder: Path, tmp_path: Path) -> None:
    run = weak_run(tiny_encoder, tmp_path / "run", **{"eval.decode": "argmax"})
    assert json.loads((run / "model" / "bertkit.json").read_text())["eval"] == {"decode": "argmax"}
    assert bertkit.load(run, threads=1).model.adapter.evaluation.decode == "argmax"
    assert bertkit.load(run / "model", threads=1).model.adapter.evaluation.decode == "argmax"
    chosen = bertkit.load(run / "model", threads=1, settings={"eval.decode": "viterbi"})
    assert chosen.model.adapter.evaluation.decode == "viterbi"


@pytest.mark.slow
def test_counting_can_be_strict_in_eval(tagging_run: Path) -> None:
    found = bertkit.evaluate(tagging_run, settings={"options.counting": "strict"}, **OPTIONS)
    assert found.details["counting"] == "strict"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options.scheme": "IO"}, r"--set options\.scheme changes nothing about a trained model.*options\.counting"),
        ({"options.counting": "lax"}, r"options\.counting is 'lax', and must be one of 'conlleval', 'strict'"),
        ({"eval.decode": "beam"}, r"eval\.decode is 'beam', and must be one of 'auto', 'viterbi', 'argmax'"),
        ({"train.epochs": 3}, r"--set train\.epochs changes nothing about a trained model"),
    ],
)
def test_setting_that_a_trained_tagger_cannot_take_is_refused(
    settings: dict[str, Any], message: str, tagging_run: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(["good"], tagging_run, settings=settings)


def test_unknown_option_is_refused_before_training(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options\.schema is not a setting of token-tagging\. Did you mean 'scheme'"):
        train(sentences(40), encoder=tiny_encoder, out=tmp_path / "run", settings={"options.schema": "IO"})
    assert not (tmp_path / "run").exists()


# Resume --------------------------------------------------------------------------------------------------------

EPOCHS = {"train.epochs": 3, "train.save_steps": 2}


def interrupted(encoder: Path, data: Path, out: Path) -> Path:
    listener = Listener(stop_at=4)
    result = train(data, encoder=encoder, out=out, settings=EPOCHS, listen=listener, should_stop=listener.should_stop)
    assert result.status == "interrupted"
    return result.run


@pytest.mark.slow
def test_interrupted_tagger_goes_on_to_the_same_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_conll(tmp_path / "x.conll", sentences(48))
    whole = train(data, encoder=tiny_encoder, out=tmp_path / "whole", settings=EPOCHS)
    run = interrupted(tiny_encoder, data, tmp_path / "run")
    again = train(data, encoder=tiny_encoder, out=run, settings=EPOCHS)
    assert again.status == "finished"
    assert same_weights(run, whole.run)
    assert again.scores == whole.scores


def test_changed_file_is_not_gone_on_with(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_conll(tmp_path / "x.conll", sentences(48))
    run = interrupted(tiny_encoder, data, tmp_path / "run")
    data.write_text(data.read_text().replace("B-JOY", "B-WOE", 1))
    with pytest.raises(RunError, match=r"was made from something else: the data is not what it was then"):
        train(data, encoder=tiny_encoder, out=run, settings=EPOCHS)


# What is refused -----------------------------------------------------------------------------------------------


def both_refuse(data: Any, message: str, encoder: Path, out: Path, **settings: Any) -> None:
    """Let check find what finetune refuses."""
    with pytest.raises(DataError, match=message):
        train(data, encoder=encoder, out=out, settings=settings)
    assert not out.exists()
    found = bertkit.check(data, encoder=encoder, settings={"train.max_length": 64} | settings)
    assert any(re.search(message, problem) for problem in found.problems), found.problems


def test_tag_that_is_no_label_is_named_with_its_line(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = sentences(40)
    rows[20] = {"tokens": ["a", "good"], "tags": ["O", "B-JOI"]}
    place = sum(len(row["tokens"]) + 1 for row in rows[:20]) + 1
    message = rf"x\.conll:{place}: word 2 \('good'\): tag 'B-JOI' is not one of 'O', .*Did you mean 'B-JOY'"
    file = write_conll(tmp_path / "x.conll", rows)
    both_refuse(file, message, tiny_encoder, tmp_path / "run", labels=LABELS)


@pytest.mark.parametrize("as_entities", [False, True])
def test_type_that_train_never_shows_is_refused(as_entities: bool, tiny_encoder: Path, tmp_path: Path) -> None:
    form = as_text if as_entities else dict
    odd = form({"tokens": ["a", "cold"], "tags": ["O", "B-ODD"]})
    write_jsonl(tmp_path / "train.jsonl", [form(row) for row in sentences(40)])
    write_jsonl(tmp_path / "dev.jsonl", [form(sentences(1)[0]), odd])
    names = [*LABELS, "B-ODD", "I-ODD"]
    (tmp_path / "mine.toml").write_text(
        f'type = "token-tagging"\nlabels = {json.dumps(names)}\n'
        '[data]\nfiles = { train = "train.jsonl", validation = "dev.jsonl" }\n'
    )
    with pytest.raises(DataError, match=r"dev\.jsonl:2: 'validation' has labels that train never shows: 'ODD' \(1 "):
        train(tmp_path / "mine.toml", encoder=tiny_encoder, out=tmp_path / "run")
    found = bertkit.check(tmp_path / "mine.toml", encoder=tiny_encoder, settings={"train.max_length": 64})
    assert found.problems == ["'validation' has labels that train never shows: ODD (1 rows)"]


def test_type_that_is_no_label_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [*map(as_text, sentences(40)), {"text": "a cold", "entities": [{"start": 2, "end": 6, "label": "WOW"}]}]
    message = r"x\.jsonl:41: entity 2-6: label 'WOW' is not one of 'JOY', 'WOE'\. Did you mean 'WOE'"
    file = write_jsonl(tmp_path / "x.jsonl", rows)
    both_refuse(file, message, tiny_encoder, tmp_path / "run", labels=LABELS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"x\.jsonl:41: column 'tags' has 1 tags, and 'tokens' has 2 words"),
        ({"tokens": ["a"], "tags": None}, r"x\.jsonl:41: column 'tags' holds no tags"),
        ({"tokens": ["a"], "tags": "O"}, r"x\.jsonl:41: column 'tags' is 'O', and must be a list of tags"),
    ],
)
def test_faulty_sentence_is_named(row: dict[str, Any], message: str, tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", [*sentences(40), row])
    both_refuse(file, message, tiny_encoder, tmp_path / "run", type="token-tagging")


@pytest.mark.slow
def test_sentence_without_words_is_left_out_of_training(tiny_encoder: Path, tmp_path: Path) -> None:
    listener = Listener()
    rows = [*sentences(40), {"tokens": [], "tags": []}]
    data = {"train": rows, "validation": rows[30:]}
    train(data, encoder=tiny_encoder, out=tmp_path / "run", listen=listener)
    assert any(
        "1 of 41 examples cannot be trained on: " in note and "it has no word" in note for note in listener.notes
    )
    assert lines(tmp_path / "run" / "predictions" / "validation.jsonl")[-1]["prediction"] == {
        "words": [], "tags": [], "entities": [],
    }  # fmt: skip


# check, tasks new ----------------------------------------------------------------------------------------------


def test_check_counts_entities(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = sentences(40)
    file = write_conll(tmp_path / "x.conll", rows)
    found = bertkit.check(file, encoder=tiny_encoder, settings={"train.max_length": 64})
    tags = [tag for row in rows for tag in row["tags"]]
    assert found.problems == []
    assert found.splits[0].balance == {"JOY": tags.count("B-JOY"), "WOE": tags.count("B-WOE")}
    assert found.splits[0].lengths["longest"] == max(len(row["tokens"]) for row in rows) + 2
    assert found.task.labels == tuple(LABELS)


@pytest.mark.slow
@each_form
def test_new_task_file_is_checked_and_trained(form: str, tiny_encoder: Path, tmp_path: Path) -> None:
    name, write, settings = FORMS[form]
    if not name:
        return
    data = write(tmp_path / name, sentences(48))
    made = new(data, overrides=settings)
    assert 'type = "token-tagging"' in made.text
    assert bertkit.check(made.path, encoder=tiny_encoder, settings={"train.max_length": 64}).problems == []
    result = train(made.path, encoder=tiny_encoder, out=tmp_path / "run")
    assert list(record(result.run)["label_map"].values()) == LABELS
    assert result.status == "finished"


# Checkpoints of others -----------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a tagger that plain transformers saved."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    body = save_tiny_bert(tmp_path / "body")
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    model = AutoModelForTokenClassification.from_pretrained(
        body, id2label=names, label2id={name: n for n, name in names.items()}
    )
    model.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(body).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_checkpoint_of_others_is_scored_and_predicts(foreign: Path, tmp_path: Path) -> None:
    write_conll(tmp_path / "dev.conll", sentences(20))
    (tmp_path / "mine.toml").write_text('type = "token-tagging"\n[data]\nfiles = { validation = "dev.conll" }\n')
    scored = bertkit.evaluate(foreign, task=tmp_path / "mine.toml", **OPTIONS)
    assert scored.num_examples == 20
    assert 0 <= scored.scores["f1"] <= 1
    assert scored.scores["f1_interval"][0] <= scored.scores["f1"]
    found = predict(["good film", {"tokens": ["good", "film"]}], foreign, task=tmp_path / "mine.toml")
    assert [len(p["tags"]) for p in found] == [2, 2]
    assert {tag for p in found for tag in p["tags"]} <= set(LABELS)


def test_file_of_predictions_is_read_back(tagging_run: Path, tmp_path: Path) -> None:
    """What predict writes as JSON Lines can be predicted again, as tokens and tags or under another name."""
    source = write_jsonl(tmp_path / "new.jsonl", [{"id": 1, "tokens": ["good", "film"], "tags": ["B-JOY", "O"]}])
    (line,) = predict_file(source, out=None, run=tagging_run, **OPTIONS)
    row = json.loads(line)
    assert row["prediction"]["tags"] == ["B-JOY", "O"]
    assert list(row) == ["id", "tokens", "tags", "prediction"]
    (tmp_path / "again.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="there is a column 'prediction' already"):
        predict(tmp_path / "again.jsonl", tagging_run)


def test_long_sentences_run_in_windows_by_default(tagging_run: Path) -> None:
    assert record(tagging_run)["config"]["train"]["on_long"] == "window"


# Chinese -------------------------------------------------------------------------------------------------------

PEOPLE, PLACES = ["王小明", "李雷", "司马相如"], ["北京", "西二旗", "上海滩"]


def chinese(number: int) -> Rows:
    """Return sentences of one character a word, with names of persons and places, rare characters, Latin and emoji."""
    rows = []
    for n in range(number):
        person, place = PEOPLE[n % 3], PLACES[n // 3 % 3]
        parts = [("今天", ""), (person, "PER"), ("在", ""), (place, "LOC"), ("吃饭，😀NBA㐀龘。", "")][n % 2 :]
        tokens = [char for text, _ in parts for char in text]
        tags = [
            f"{'I' if place else 'B'}-{kind}" if kind else "O" for text, kind in parts for place in range(len(text))
        ]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


@pytest.mark.slow
def test_every_chinese_character_is_tagged(tmp_path: Path) -> None:
    rows = chinese(60)
    known = "".join("".join(row["tokens"]) for row in rows).replace("龘", "").replace("😀", "")
    body = save_tiny_characters(tmp_path / "body", known)
    data = write_conll(tmp_path / "weibo.conll", rows)
    settings = {"train.epochs": 12, "train.learning_rate": 1e-2, "train.max_length": 16}
    result = train(data, encoder=body, out=tmp_path / "run", settings=settings)
    kept = record(result.run)["truncation"]
    assert all((kept[split]["words_past_limit"], kept[split]["words_without_token"]) == (0, 0) for split in kept)
    assert result.scores["validation"]["f1"] > 0.9
    scored = bertkit.evaluate(result.run, data=data, **OPTIONS)
    assert all(0 <= value <= 1 for value in scored.scores.values() if isinstance(value, float))
    for row, prediction in zip(rows, scored.predictions, strict=True):
        assert [" ".join(row["tokens"])[start:end] for start, end in prediction["words"]] == row["tokens"]
        assert len(prediction["tags"]) == len(row["tokens"])
    text = "今天王小明在上海滩吃饭，NBA😀龘。"
    (raw,) = predict([text], result.run)
    assert [text[start:end] for start, end in raw["words"]] == [*"今天王小明在上海滩吃饭，", "NBA", "😀", *"龘。"]
    assert [(e["label"], e["text"], text[e["start"] : e["end"]]) for e in raw["entities"]] == [
        ("PER", "王小明", "王小明"),
        ("LOC", "上海滩", "上海滩"),
    ]
