"""Span question answering from reading to scores: every form of data, every command, what is refused and how."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, DataError, RunError
from bertkit.workflows.tasks import new
from tests.conftest import questions, save_tiny_bert, save_tiny_characters, write_jsonl, write_squad
from tests.families import slow_others
from tests.workflows.training import Listener, lines, record, same_weights, train

OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1}
STRIDE = {"options.stride": 8}
Rows = list[dict[str, Any]]


def squad_2(path: Path, rows: Rows) -> Path:
    return write_squad(path, rows, impossible=True)


def with_extra_keys(path: Path, rows: Rows) -> Path:
    """Write SQuAD's JSON with keys that nobody knows, at every level."""
    whole = json.loads(squad_2(path, rows).read_text())
    whole["extra"] = [1]
    for article in whole["data"]:
        article["url"] = None
        for paragraph in article["paragraphs"]:
            paragraph["document_id"] = 7
            for question in paragraph["qas"]:
                question |= {"plausible_answers": [{"text": "x", "answer_start": 0}], "seen": {"by": []}}
                for answer in question["answers"]:
                    answer["score"] = 0.5
    path.write_text(json.dumps(whole))
    return path


def flat(rows: Rows) -> Rows:
    """Return questions with their answers as a list of tables, and without a title."""
    return [
        {key: row[key] for key in ("id", "question", "context")}
        | {"answers": [dict(zip(row["answers"], pair, strict=True)) for pair in zip(*row["answers"].values())]}  # noqa: B905
        for row in rows
    ]


def texts(rows: Rows) -> Rows:
    """Return questions whose answers are texts; where they stand is to be found out."""
    return [{k: row[k] for k in ("question", "context")} | {"answers": row["answers"]["text"]} for row in rows]


def parquet(path: Path, rows: Rows) -> Path:
    """Write questions with the schema of the Hub's ``squad``."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    answers = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    names = ("id", "title", "context", "question")
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema([*((n, pa.string()) for n in names), ("answers", answers)])), path
    )
    return path


FORMS: dict[str, tuple[str, Callable[[Path, Rows], Any]]] = {
    "squad": ("x.json", write_squad),
    "squad 2": ("x.json", squad_2),
    "extra keys": ("x.json", with_extra_keys),
    "jsonl": ("x.jsonl", write_jsonl),
    "flat": ("x.jsonl", lambda path, rows: write_jsonl(path, flat(rows))),
    "texts": ("x.jsonl", lambda path, rows: write_jsonl(path, texts(rows))),
    "parquet": ("x.parquet", parquet),
    "python": ("", lambda path, rows: rows),
    "python flat": ("", lambda path, rows: flat(rows)),
}
QUICK = ("squad", "flat", "python")
each_form = pytest.mark.parametrize("form", slow_others(FORMS, quick=QUICK))


def splits() -> dict[str, Rows]:
    return {"train": questions(60), "validation": questions(20, seed=1)}


def written(form: str, folder: Path) -> dict[str, Any]:
    """Return both splits in a form: rows, or a task file's name and its files."""
    name, write = FORMS[form]
    data = {}
    for split, rows in splits().items():
        (folder / split).mkdir()
        data[split] = write(folder / split / name, rows)
    return data


@pytest.fixture(scope="session")
def plain_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch over Python rows in the Hub's layout, without unanswerable questions."""
    return train(splits(), encoder=tiny_encoder, out=tmp_path_factory.mktemp("spans") / "run", settings=STRIDE).run


def predict(rows: Any, run: Path, **options: Any) -> Rows:
    return bertkit.predict(rows, run=run, **{**OPTIONS, **options})


def unlabelled(number: int, *, seed: int = 5, unanswered: int = 4) -> Rows:
    rows = questions(number, unanswered=unanswered, seed=seed)
    return [{key: row[key] for key in ("id", "question", "context")} for row in rows]


# Forms of data -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_form
def test_same_questions_in_any_form_make_the_same_model(
    form: str, tiny_encoder: Path, plain_run: Path, tmp_path: Path
) -> None:
    data = written(form, tmp_path)
    task: Any = data
    if FORMS[form][0]:
        task = tmp_path / "mine.toml"
        files = ", ".join(f"{split} = {json.dumps(str(file.relative_to(tmp_path)))}" for split, file in data.items())
        task.write_text(f'type = "span-qa"\n[data]\nfiles = {{ {files} }}\n')
    result = train(task, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE)
    assert result.scores["validation"].keys() == {"f1", "exact_match"}
    assert same_weights(result.run, plain_run)
    assert result.scores == {"validation": json.loads((plain_run / "scores.json").read_text())["splits"]["validation"]}
    scored = bertkit.evaluate(result.run, data=data["validation"], settings={"eval.resamples": 0}, **OPTIONS)
    assert scored.scores == result.scores["validation"]
    assert predict(data["validation"], result.run) == scored.predictions


@pytest.mark.slow
@pytest.mark.parametrize("form", slow_others((form for form, (name, _) in FORMS.items() if name), quick=QUICK))
def test_bare_file_is_recognised(form: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """No type is given, and validation is cut off."""
    name, write = FORMS[form]
    result = train(write(tmp_path / name, questions(60)), encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE)
    assert record(result.run)["resolved_task"]["type"] == "span-qa"
    held = record(result.run)["held_out_rows"]
    assert len(held) in (5, 6)
    # Where there are titles, whole articles of five.
    titled = form not in ("flat", "texts")
    assert not titled or held == list(range(held[0] // 5 * 5, held[0] // 5 * 5 + 5))
    scores = json.loads((result.run / "scores.json").read_text())["splits"]["validation"]
    assert bertkit.evaluate(result.run, settings={"eval.resamples": 0}, **OPTIONS).scores == scores


@pytest.mark.slow
def test_ids_of_any_type_survive(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [row | {"id": n} for n, row in enumerate(questions(40))]
    file = write_squad(tmp_path / "x.json", rows)
    run = train(file, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE).run
    kept = [row["id"] for row in lines(run / "predictions" / "validation.jsonl")]
    assert kept == record(run)["held_out_rows"]


@pytest.mark.slow
def test_offset_that_points_elsewhere_is_repaired(tiny_encoder: Path, plain_run: Path, tmp_path: Path) -> None:
    data = splits()
    for row in data["train"]:
        row["answers"]["answer_start"] = [row["answers"]["answer_start"][0] + 1]
    listener = Listener()
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE, listen=listener).run
    assert same_weights(run, plain_run)
    assert any("train: 60 answer offsets did not point at their text and were found by it" in n for n in listener.notes)


# Predictions ---------------------------------------------------------------------------------------------------


def test_answer_is_found(questions_run: Path) -> None:
    rows = unlabelled(40)
    found = predict(rows, questions_run)
    good = ("good", "fine", "warm", "bright")
    wanted = [next((word for word in row["context"].split() if word in good), "") for row in rows]
    # The threshold is tuned on few questions, so one near it may be left unanswered.
    assert sum(p["answer"] != answer for p, answer in zip(found, wanted, strict=True)) <= 2
    for row, prediction in zip(rows, found, strict=True):
        assert list(prediction) == ["answer", "start", "end", "score", "no_answer_score", "best_span"]
        assert prediction["answer"] == row["context"][prediction["start"] : prediction["end"]]
        best = prediction["best_span"]
        assert best["answer"] == row["context"][best["start"] : best["end"]] != ""
        assert 0 < prediction["score"] <= 1


def test_model_that_always_answers_says_no_other(plain_run: Path) -> None:
    for prediction in predict(unlabelled(8), plain_run):
        assert list(prediction) == ["answer", "start", "end", "score", "no_answer_score"]
        assert prediction["answer"]
    assert json.loads((plain_run / "model" / "bertkit.json").read_text())["state"] == {}


@pytest.mark.parametrize(
    "context",
    [
        "",
        "  \t ",
        "good",
        "\u3000好的good电影，\u00a0坏 ",
        "cafe\u0301 good\u0301 nai\u0308ve \u200bthe\u200d",
        "👩‍👩‍👧 good 🇩🇪🇫🇷 👍🏽",
        "\x00good\x07 \ufeffthe\x7f",
        "good\ud83d the \udc00",
        "x" * 500 + " good",
        "the film " * 400 + "good " + "was it " * 400,
    ],
    ids=lambda text: ascii(text)[1:20],
)
def test_offsets_cut_the_context_as_given(context: str, questions_run: Path) -> None:
    (prediction,) = predict([{"question": "was it", "context": context}], questions_run)
    assert prediction["answer"] == context[prediction["start"] : prediction["end"]]
    best = prediction["best_span"] or {"answer": "", "start": 0, "end": 0}
    assert best["answer"] == context[best["start"] : best["end"]] == best["answer"].strip()
    assert "truncated" not in prediction
    # Of contexts like these the model may say that nothing answers, but it knows what would.
    assert ("good" in context.split()) <= ("good" in best["answer"])


def test_long_context_runs_in_windows(questions_run: Path) -> None:
    """The answer is far past what one window holds, in 20,000 characters and more."""
    context = "the film was a meal and we " * 800 + "bright " + "it was very the tool " * 50
    (prediction,) = predict([{"question": "was it", "context": context}], questions_run)
    assert len(context) > 20_000
    assert prediction["answer"] == "bright"
    assert prediction["start"] == context.index("bright")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "was it"}, r"row 1: column 'context' is missing; there are 'question'"),
        ({"question": None, "context": "it"}, r"row 1: column 'question' is null, and must be a text"),
        ("was it", r"span-qa needs a question and a context: give rows that have both"),
    ],
)
def test_row_that_is_no_question_is_named(row: Any, message: str, questions_run: Path) -> None:
    with pytest.raises(DataError, match=message):
        predict([row], questions_run)


@pytest.mark.parametrize("answers", [None, 5, "odd", {"text": 5}, [{"text": "nowhere", "answer_start": 99}]])
def test_answers_of_a_row_are_not_looked_at(answers: Any, questions_run: Path) -> None:
    row = unlabelled(1)[0]
    (one,), (other,) = predict([row | {"answers": answers}], questions_run), predict([row], questions_run)
    assert one == other


def test_question_without_room_is_named_with_its_place(questions_run: Path, tmp_path: Path) -> None:
    rows = [*unlabelled(2), {"question": "it " * 60, "context": "good film"}]
    with pytest.raises(DataError, match=r"new\.jsonl:3 has a question of 63 tokens.*train\.max_length = 64"):
        predict(write_jsonl(tmp_path / "new.jsonl", rows), questions_run)


def test_test_file_without_answers_is_predicted(questions_run: Path, tmp_path: Path) -> None:
    rows = questions(6, seed=3)
    whole = json.loads(write_squad(tmp_path / "x.json", rows).read_text())
    for article in whole["data"]:
        for paragraph in article["paragraphs"]:
            del paragraph["qas"][0]["answers"]
    (tmp_path / "test.json").write_text(json.dumps(whole))
    assert predict(tmp_path / "test.json", questions_run) == predict(tmp_path / "x.json", questions_run)
    with pytest.raises(DataError, match=r"test\.json: the split 'test' has no labels, so it can be predicted but not"):
        bertkit.evaluate(questions_run, data=tmp_path / "test.json", **OPTIONS)


# No answer -----------------------------------------------------------------------------------------------------


def test_threshold_is_kept_with_the_model_and_used(questions_run: Path, tmp_path: Path) -> None:
    file = questions_run / "model" / "bertkit.json"
    facts = json.loads(file.read_text())
    threshold = facts["state"]["threshold"]
    found = predict(unlabelled(40), questions_run)
    assert {"", "good"} <= {p["answer"] for p in found}
    for prediction in found:
        assert (prediction["answer"] == "") == (prediction["no_answer_score"] > threshold)
    assert predict(unlabelled(40), questions_run / "model") == found
    import shutil

    model = Path(shutil.copytree(questions_run / "model", tmp_path / "model"))
    for value, answered in ((1e9, True), (-1e9, False)):
        (model / "bertkit.json").write_text(json.dumps(facts | {"state": {"threshold": value}}))
        assert all(bool(p["answer"]) is answered for p in predict(unlabelled(40), model))


def test_tuning_rows_are_whole_articles_that_nobody_else_has(questions_run: Path) -> None:
    kept = record(questions_run)
    rows = questions(200, unanswered=4)
    held, tuning = set(kept["held_out_rows"]), kept["tuning_rows"]
    # Tuning rows count in train without validation.
    rest = [row for n, row in enumerate(rows) if n not in held]
    tuned = [rest[n] for n in tuning]
    trained = [row for n, row in enumerate(rest) if n not in set(tuning)]
    assert len(held) == 20
    assert 0 < len(tuned) <= 20
    assert kept["num_examples"] == {"train": len(trained), "validation": 20}
    titles = [{row["title"] for row in part} for part in (tuned, trained, [rows[n] for n in held])]
    assert not titles[0] & titles[1]
    assert not titles[0] & titles[2]
    assert not titles[1] & titles[2]
    scored = [row["id"] for row in lines(questions_run / "predictions" / "validation.jsonl")]
    assert scored == [rows[n]["id"] for n in sorted(held)]


@pytest.mark.slow
def test_scores_at_zero_and_at_the_threshold_stand_side_by_side(questions_run: Path) -> None:
    found = json.loads((questions_run / "scores.json").read_text())
    scores, details = found["splits"]["validation"], found["details"]["validation"]
    assert scores.keys() == {
        "f1", "f1_interval", "exact_match", "exact_match_interval",
        "f1_at_0", "f1_at_0_interval", "exact_match_at_0", "exact_match_at_0_interval",
    }  # fmt: skip
    assert details["HasAns_total"] + details["NoAns_total"] == 20
    assert (
        details["threshold"] == json.loads((questions_run / "model" / "bertkit.json").read_text())["state"]["threshold"]
    )
    again = bertkit.evaluate(questions_run, **OPTIONS)
    assert again.scores == scores
    assert again.details == details


def test_threshold_at_zero_is_what_f1_at_0_says(questions_run: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(questions_run / "model", tmp_path / "model"))
    facts = json.loads((model / "bertkit.json").read_text())
    rows = questions(60, unanswered=2, seed=9)
    own = bertkit.evaluate(questions_run, data=rows, settings={"eval.resamples": 0}, **OPTIONS).scores
    (model / "bertkit.json").write_text(json.dumps(facts | {"state": {"threshold": 0.0}}))
    at_0 = bertkit.evaluate(model, data=rows, settings={"eval.resamples": 0}, **OPTIONS).scores
    assert at_0["f1"] == at_0["f1_at_0"] == own["f1_at_0"]
    assert at_0["exact_match"] == own["exact_match_at_0"]


@pytest.mark.slow
def test_unanswerable_can_be_said_by_the_task(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = STRIDE | {"options.unanswerable": True}
    run = train(questions(60), encoder=tiny_encoder, out=tmp_path / "run", settings=settings).run
    assert "threshold" in json.loads((run / "model" / "bertkit.json").read_text())["state"]
    assert record(run)["tuning_rows"]


# Settings of a trained model -----------------------------------------------------------------------------------


def test_next_best_answers_on_request(questions_run: Path) -> None:
    rows = unlabelled(8)
    plain = predict(rows, questions_run)
    for row, one, other in zip(
        rows, predict(rows, questions_run, settings={"options.alternatives": 3}), plain, strict=True
    ):
        assert len(one["alternatives"]) == 3
        scores = [each["score"] for each in one["alternatives"]]
        assert scores == sorted(scores, reverse=True)
        for each in one["alternatives"]:
            assert each["answer"] == row["context"][each["start"] : each["end"]]
            assert (each["start"], each["end"]) != (one["start"], one["end"])
        assert {key: value for key, value in one.items() if key != "alternatives"} == other


def test_answers_can_be_kept_short(questions_run: Path) -> None:
    model = {"options.max_answer_length": 1, "options.alternatives": 5}
    for prediction in predict(unlabelled(8), questions_run, settings=model):
        assert all(len(each["answer"].split()) <= 1 for each in [prediction, *prediction["alternatives"]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"options.stride": 4},
            r"--set options\.stride changes nothing about a trained model.*options\.alternatives, options\.max_a",
        ),
        ({"options.unanswerable": False}, r"--set options\.unanswerable changes nothing about a trained model"),
        ({"options.alternatives": 50}, r"options\.alternatives is 50, and must be 0 to 19"),
        ({"options.max_answer_length": 0}, r"options\.max_answer_length is 0, and must be at least 1"),
        ({"eval.decode": "viterbi"}, r"eval\.decode is 'viterbi'.*span-qa"),
    ],
)
def test_setting_that_a_trained_model_cannot_take_is_refused(
    settings: dict[str, Any], message: str, questions_run: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(unlabelled(1), questions_run, settings=settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options.stride": 64}, r"options\.stride is 64, and must be at least 0 and below train\.max_length, 64"),
        ({"options.strid": 4}, r"options\.strid is not a setting of span-qa\. Did you mean 'stride'"),
        (STRIDE | {"options.rules": "cmrc"}, r"options\.rules is 'cmrc', and must be one of squad, cmrc2018"),
        (STRIDE | {"train.on_long": "head-tail"}, r"train\.on_long is 'head-tail', and span-qa has window"),
    ],
)
def test_setting_that_makes_no_sense_is_refused_before_training(
    settings: dict[str, Any], message: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(questions(40), encoder=tiny_encoder, out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


# Resume --------------------------------------------------------------------------------------------------------

EPOCHS = STRIDE | {"train.epochs": 3, "train.save_steps": 2}


def interrupted(encoder: Path, data: Path, out: Path) -> Path:
    listener = Listener(stop_at=5)
    result = train(data, encoder=encoder, out=out, settings=EPOCHS, listen=listener, should_stop=listener.should_stop)
    assert result.status == "interrupted"
    return result.run


@pytest.mark.slow
def test_interrupted_model_goes_on_to_the_same_weights_and_threshold(tiny_encoder: Path, tmp_path: Path) -> None:
    data = squad_2(tmp_path / "x.json", questions(60, unanswered=3))
    whole = train(data, encoder=tiny_encoder, out=tmp_path / "whole", settings=EPOCHS)
    run = interrupted(tiny_encoder, data, tmp_path / "run")
    again = train(data, encoder=tiny_encoder, out=run, settings=EPOCHS)
    assert again.status == "finished"
    assert same_weights(run, whole.run)
    assert again.scores == whole.scores
    one, other = (json.loads((path / "model" / "bertkit.json").read_text()) for path in (run, whole.run))
    assert one == other
    assert record(run)["tuning_rows"] == record(whole.run)["tuning_rows"] != []


def test_changed_file_is_not_gone_on_with(tiny_encoder: Path, tmp_path: Path) -> None:
    data = squad_2(tmp_path / "x.json", questions(60, unanswered=3))
    run = interrupted(tiny_encoder, data, tmp_path / "run")
    squad_2(data, questions(60, unanswered=3, seed=1))
    with pytest.raises(RunError, match=r"was made from something else: the data is not what it was then"):
        train(data, encoder=tiny_encoder, out=run, settings=EPOCHS)


# What is refused, and what is said -----------------------------------------------------------------------------


def test_question_that_cannot_be_trained_on_is_named_with_its_id(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = questions(40)
    rows[3]["answers"] = {"text": ["nowhere"], "answer_start": [0]}
    rows[4] |= {"context": "the film was the film", "answers": {"text": ["film"], "answer_start": [1]}}
    file = write_squad(tmp_path / "x.json", rows)
    listener = Listener()
    run = train(file, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE, listen=listener).run
    said = next(note for note in listener.notes if "cannot be trained on" in note)
    assert re.search(r"question 'q3': answer 'nowhere' is not where it is said to be and occurs never", said)
    assert re.search(r"question 'q4': answer 'film' is not where it is said to be and occurs 2 times", said)
    assert record(run)["num_examples"]["train"] == 40 - 2 - len(record(run)["held_out_rows"])
    found = bertkit.check(file, encoder=tiny_encoder, settings=STRIDE | {"train.max_length": 64})
    assert found.problems == []
    assert any("2 of 40 examples cannot be trained on" in note and "'q3'" in note for note in found.notes)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"text": ["it"], "answer_start": []},
            r"x\.jsonl:41: question 'a': the answers' text has 1 entries, and answer_start, \[\], must have",
        ),
        (
            [{"text": "it", "answer_start": "3"}],
            r"x\.jsonl:41: question 'a': an answer_start is '3', and must be a whole",
        ),
        ([{"text": 7}], r"x\.jsonl:41: question 'a': an answer is 7, and must be a text"),
        (None, r"x\.jsonl:41: column 'answers' holds no answers"),
    ],
)
def test_faulty_answers_are_named(answers: Any, message: str, tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [*questions(40), {"id": "a", "question": "was it", "context": "it", "answers": answers}]
    file = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=message):
        train(file, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE)
    found = bertkit.check(file, encoder=tiny_encoder, settings=STRIDE | {"train.max_length": 64})
    assert any(re.search(message, problem) for problem in found.problems), found.problems


@pytest.mark.slow
def test_answers_that_no_window_holds_are_told(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = questions(40)
    rows[0] |= {"context": "the film " * 60, "answers": {"text": ["the film " * 59 + "the"], "answer_start": [0]}}
    listener = Listener()
    data = {"train": rows, "validation": rows[:10]}
    run = train(data, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE, listen=listener).run
    assert record(run)["truncation"]["train"]["answers_lost"] == 1
    assert record(run)["truncation"]["train"]["windows"] > 40
    assert any("1 answers (2.5%) are in no window whole" in note for note in listener.notes)


def test_question_too_long_for_its_windows_is_refused_before_training(tiny_encoder: Path, tmp_path: Path) -> None:
    row = {"id": "long", "question": "it " * 55, "context": "good " + "the " * 20, "answers": ["good"]}
    file = write_jsonl(tmp_path / "x.jsonl", [*questions(40), row])
    message = r"x\.jsonl:41 has a question of 58 tokens.*share options\.stride = 8 need more\. Shorten it"
    with pytest.raises(DataError, match=message):
        train(file, encoder=tiny_encoder, out=tmp_path / "run", settings=STRIDE)
    found = bertkit.check(file, encoder=tiny_encoder, settings=STRIDE | {"train.max_length": 64})
    assert any(re.search(message, problem) for problem in found.problems), found.problems


# check, tasks new ----------------------------------------------------------------------------------------------


def test_check_tells_of_unanswerable_questions(tiny_encoder: Path, tmp_path: Path) -> None:
    file = squad_2(tmp_path / "x.json", questions(40, unanswered=4))
    found = bertkit.check(file, encoder=tiny_encoder, settings=STRIDE | {"train.max_length": 64})
    assert found.problems == []
    assert found.task.options == {"stride": 8, "unanswerable": True}
    assert any("train: 10 of 40 questions (25.0%) have no answer" in note for note in found.notes)
    assert found.splits[0].lengths["longest"] <= 15 + 2 + 3
    assert found.splits[0].truncation["answers_lost"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", slow_others((form for form, (name, _) in FORMS.items() if name), quick=QUICK))
def test_new_task_file_is_checked_and_trained(form: str, tiny_encoder: Path, tmp_path: Path) -> None:
    name, write = FORMS[form]
    made = new(write(tmp_path / name, questions(48, unanswered=6)), overrides={"options": {"stride": 8}})
    assert 'type = "span-qa"' in made.text
    assert bertkit.check(made.path, encoder=tiny_encoder, settings={"train.max_length": 64}).problems == []
    result = train(made.path, encoder=tiny_encoder, out=tmp_path / "run")
    assert result.status == "finished"
    assert record(result.run)["resolved_task"]["options"] == {"stride": 8, "unanswerable": True}


# Checkpoints of others -----------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a span model that plain transformers saved."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    body = save_tiny_bert(tmp_path / "body")
    torch.manual_seed(0)
    AutoModelForQuestionAnswering.from_pretrained(body).save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(body).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_checkpoint_of_others_is_scored_and_predicts(foreign: Path, tmp_path: Path) -> None:
    write_squad(tmp_path / "dev.json", questions(20))
    (tmp_path / "mine.toml").write_text(
        'type = "span-qa"\n[data]\nfiles = { validation = "dev.json" }\n'
        "[options]\nstride = 8\n[train]\nmax_length = 64\n"
    )
    scored = bertkit.evaluate(foreign, task=tmp_path / "mine.toml", **OPTIONS)
    assert scored.num_examples == 20
    assert 0 <= scored.scores["f1"] <= 100
    assert scored.scores["f1_interval"][0] <= scored.scores["f1"]
    row = unlabelled(1)[0]
    (prediction,) = predict([row], foreign, task=tmp_path / "mine.toml")
    assert prediction["answer"] == row["context"][prediction["start"] : prediction["end"]] != ""


# Chinese -------------------------------------------------------------------------------------------------------


def chinese(number: int) -> Rows:
    """Return questions in CMRC's manner: no spaces, several answers of different readers, long contexts."""
    people, places = ["王小明", "李雷", "司马相如", "韩梅梅"], ["北京", "西二旗", "上海滩"]
    rows: Rows = []
    for n in range(number):
        person, place = people[n % 4], places[n % 3]
        context = (
            f"《龘》是一本书，😀{'很好看，' * (n % 30)}作者是“{person}”，1998年出生于{place}。"
            + "后来他去了别处，" * (n % 7)
        )
        asked = ("作者是谁？", person) if n % 2 else ("他出生于哪里？", place)
        start = context.index(asked[1])
        answers = {"text": [asked[1], asked[1], context[start : start + 4]], "answer_start": [start, start, start]}
        rows.append(
            {"id": f"TRIAL_{n}", "title": f"书{n}", "context": context, "question": asked[0], "answers": answers}
        )
    return rows


@pytest.mark.slow
def test_chinese_answers_are_cut_exactly_and_scored_by_character(tmp_path: Path) -> None:
    rows = chinese(48)
    known = "".join(row["context"] + row["question"] for row in rows).replace("龘", "").replace("😀", "")
    body = save_tiny_characters(tmp_path / "body", known)
    data = write_squad(tmp_path / "trial.json", rows)
    settings = STRIDE | {"options.rules": "cmrc2018", "train.epochs": 2, "train.max_length": 48}
    result = train(data, encoder=body, out=tmp_path / "run", settings=settings)
    assert record(result.run)["truncation"]["train"]["answers_lost"] == 0
    assert record(result.run)["truncation"]["train"]["windows"] > record(result.run)["num_examples"]["train"]
    scored = bertkit.evaluate(result.run, data=data, **OPTIONS)
    for row, prediction in zip(rows, scored.predictions, strict=True):
        assert prediction["answer"] == row["context"][prediction["start"] : prediction["end"]] != ""
    from bertkit import metrics

    given = [{"id": r["id"], "prediction_text": p["answer"]} for r, p in zip(rows, scored.predictions, strict=True)]
    references = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    wanted = metrics.load("cmrc2018").compute(predictions=given, references=references)
    assert {name: scored.scores[name] for name in ("exact_match", "f1")} == wanted
    assert 0 < wanted["f1"] <= 100
