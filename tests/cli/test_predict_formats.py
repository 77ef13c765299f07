"""``bertkit predict --format conll`` and ``squad``: the field's own files, which score as ``eval`` does."""

# ruff: noqa: F811 (the fixture that runs a command is another file's)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertkit import metrics
from bertkit.data import files
from tests.cli.test_commands import bertkit, one_error  # noqa: F401 (a fixture)
from tests.conftest import questions, sentences, write_conll, write_jsonl, write_squad

COMMON = ("--precision", "float32", "--threads", "1")


@pytest.fixture
def tagger(tagging_run: Path, tmp_path: Path) -> Path:
    """Return a copy of a tagging run, which eval may write into."""
    return Path(shutil.copytree(tagging_run, tmp_path / "runs" / "tagger"))


@pytest.fixture
def answerer(questions_run: Path, tmp_path: Path) -> Path:
    """Return a copy of a span QA run."""
    return Path(shutil.copytree(questions_run, tmp_path / "runs" / "answerer"))


def scored(bertkit: Any, run: Path, data: Path) -> dict[str, Any]:
    """Return the scores that the command prints."""
    found = bertkit("eval", run, "--data", data, "--json", "--set", "eval.resamples=0", *COMMON)
    assert found.code == 0, found.err
    scores: dict[str, Any] = json.loads(found.out)["scores"]
    return scores


def given_and_found(file: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Return the true and the predicted tags of a written CoNLL file, read by the project's own reader."""
    rows = [row for row, _ in files.stream(file)]
    before = [name for name in rows[0] if name.isdecimal()][-1]
    return [row[before] for row in rows], [row["tags"] for row in rows]


# conll ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [2, 4])
def test_conll_file_scores_as_eval_does(columns: int, bertkit: Any, tagger: Path, tmp_path: Path) -> None:
    rows = sentences(30, seed=8)
    # Some tags are other than a model would say, so that the scores are not all 1.
    for row in rows[::3]:
        row["tags"] = ["B-WOE" if tag == "B-JOY" else tag for tag in row["tags"]]
    source = write_conll(tmp_path / "dev.conll", rows, columns=columns)
    done = bertkit("predict", source, "--run", tagger, "--format", "conll", "--out", "out.conll", *COMMON)
    assert done.code == 0, done.err
    gold, found = given_and_found(tmp_path / "out.conll")
    assert gold == [row["tags"] for row in rows]
    first = (tmp_path / "out.conll").read_text().split("\n", 1)[0].split("\t")
    assert first == [rows[0]["tokens"][0], *["-"] * (columns - 2), rows[0]["tags"][0], found[0][0]]
    result = metrics.load("seqeval").compute(predictions=found, references=gold)
    scores = scored(bertkit, tagger, source)
    assert {name: scores[name] for name in ("f1", "precision", "recall")} == {
        name: pytest.approx(result[f"overall_{name}"], abs=1e-12) for name in ("f1", "precision", "recall")
    }
    assert scores["tag_accuracy"] == pytest.approx(result["overall_accuracy"], abs=1e-12)
    assert 0 < scores["f1"] < 1


@pytest.mark.slow
def test_conll_of_raw_texts_has_their_words(bertkit: Any, tagger: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"text": "a good\tfilm, bad."}, {"text": ""}, {"text": "好 good"}])
    done = bertkit("predict", source, "--run", tagger, "--format", "conll", *COMMON)
    assert done.code == 0, done.err
    words = [[line.split("\t")[0] for line in block.split("\n") if line] for block in done.out.split("\n\n")]
    assert words[0] == ["a", "good", "film", ",", "bad", "."]
    assert ["好", "good"] in words
    assert "good\tB-JOY" in done.out.splitlines()


@pytest.mark.slow
def test_jsonl_is_the_format_by_default(bertkit: Any, tagger: Path, tmp_path: Path) -> None:
    source = write_conll(tmp_path / "dev.conll", sentences(4))
    plain, named = (
        bertkit("predict", source, "--run", tagger, *flags, *COMMON).out for flags in ((), ("--format", "jsonl"))
    )
    assert plain == named
    rows = [json.loads(line) for line in plain.splitlines()]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in sentences(4)]
    assert all(len(row["prediction"]["tags"]) == len(row["tokens"]) for row in rows)


@pytest.mark.slow
def test_text_on_the_command_line_is_tagged(bertkit: Any, tagger: Path) -> None:
    done = bertkit("predict", "--text", "a good bright film was bad", "--run", tagger, *COMMON)
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["text"] == "a good bright film was bad"
    assert [entity["text"] for entity in row["prediction"]["entities"]] == ["good bright", "bad"]
    columns = bertkit("predict", "--text", "good film", "--run", tagger, "--format", "conll", *COMMON)
    assert columns.out.strip().splitlines() == ["good\tB-JOY", "film\tO"]


@pytest.mark.slow
def test_decoding_is_chosen_on_the_command_line(bertkit: Any, tagger: Path) -> None:
    done = bertkit("predict", "--text", "good", "--run", tagger, "--set", "eval.decode=argmax", *COMMON)
    assert done.code == 0, done.err
    line = one_error(bertkit("predict", "--text", "good", "--run", tagger, "--set", "options.scheme=IO", *COMMON))
    assert "--set options.scheme changes nothing about a trained model" in line


# squad ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_squad_file_scores_as_eval_does(bertkit: Any, answerer: Path, tmp_path: Path) -> None:
    rows = questions(40, unanswered=3, seed=7)
    for row in rows[::4]:
        row["answers"] = {"text": [row["context"]], "answer_start": [0]}
    source = write_squad(tmp_path / "dev.json", rows, impossible=True)
    done = bertkit("predict", source, "--run", answerer, "--format", "squad", "--out", "out.json", *COMMON)
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == "out.json: 40 rows"
    answers = json.loads((tmp_path / "out.json").read_text())
    assert list(answers) == [row["id"] for row in rows]
    given = [{"id": name, "prediction_text": answer, "no_answer_probability": 0.0} for name, answer in answers.items()]
    result = metrics.load("squad_v2").compute(
        predictions=given, references=[{"id": row["id"], "answers": row["answers"]} for row in rows]
    )
    scores = scored(bertkit, answerer, source)
    assert (scores["exact_match"], scores["f1"]) == (result["exact"], result["f1"])
    assert 0 < scores["exact_match"] < scores["f1"] < 100


@pytest.mark.slow
def test_squad_1_file_scores_as_eval_does(bertkit: Any, answerer: Path, tmp_path: Path) -> None:
    rows = [row | {"id": n} for n, row in enumerate(questions(20, seed=7))]
    source = write_squad(tmp_path / "dev.json", rows)
    done = bertkit("predict", source, "--run", answerer, "--format", "squad", *COMMON)
    assert done.code == 0, done.err
    answers = json.loads(done.out)
    assert list(answers) == [str(n) for n in range(20)]
    given = [{"id": name, "prediction_text": answer} for name, answer in answers.items()]
    references = [{"id": str(row["id"]), "answers": row["answers"]} for row in rows]
    result = metrics.load("squad").compute(predictions=given, references=references)
    scores = scored(bertkit, answerer, source)
    assert (scores["exact_match"], scores["f1"]) == (result["exact_match"], result["f1"])


@pytest.mark.slow
def test_squad_of_flat_rows_needs_their_ids(bertkit: Any, answerer: Path, tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("id", "question", "context")} for row in questions(3)]
    done = bertkit("predict", write_jsonl(tmp_path / "a.jsonl", rows), "--run", answerer, "--format", "squad", *COMMON)
    assert list(json.loads(done.out)) == ["q0", "q1", "q2"]
    del rows[1]["id"]
    source = write_jsonl(tmp_path / "b.jsonl", rows)
    done = bertkit("predict", source, "--run", answerer, "--format", "squad", "--out", "o.json", *COMMON)
    assert "Row 2 has no 'id', by which the prediction file of SQuAD names its answers" in one_error(done)
    assert not (tmp_path / "o.json").exists()


@pytest.mark.slow
def test_next_best_answers_on_the_command_line(bertkit: Any, answerer: Path, tmp_path: Path) -> None:
    source = write_squad(tmp_path / "x.json", questions(2))
    done = bertkit("predict", source, "--run", answerer, "--set", "options.alternatives=3", *COMMON)
    assert done.code == 0, done.err
    assert [len(json.loads(line)["prediction"]["alternatives"]) for line in done.out.splitlines()] == [3, 3]


@pytest.mark.slow
def test_text_alone_is_no_question(bertkit: Any, answerer: Path) -> None:
    line = one_error(bertkit("predict", "--text", "was it", "--run", answerer, *COMMON))
    assert line == "error: span-qa needs a question and a context: give rows that have both."


# What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "format", "message"),
    [
        ("tagger", "squad", "error: --format squad: token-tagging writes jsonl, conll."),
        ("answerer", "conll", "error: --format conll: span-qa writes jsonl, squad."),
        ("answerer", "squat", "error: --format squat: span-qa writes jsonl, squad. Did you mean 'squad'?"),
    ],
)
def test_format_of_another_type_is_refused(
    kind: str,
    format: str,  # noqa: A002
    message: str,
    bertkit: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"text": "good"}])
    run = request.getfixturevalue(kind)
    done = bertkit("predict", source, "--run", run, "--format", format, "--out", "out", *COMMON)
    assert message in one_error(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_format_that_classification_does_not_write_is_refused(
    bertkit: Any,
    finished_run: Path,
    tmp_path: Path,
) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [{"text": "good"}])
    line = one_error(bertkit("predict", source, "--run", finished_run, "--format", "conll", *COMMON))
    assert "--format conll: sequence-classification writes jsonl." in line


# check and tasks new -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_shows_entities_and_refuses_a_foreign_tag(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    source = write_conll(tmp_path / "x.conll", sentences(30))
    flags = ("--encoder", tiny_encoder, "--set", "train.max_length=64")
    done = bertkit("check", source, *flags)
    assert done.code == 0, done.err
    assert done.out.startswith("x: token-tagging; tokens = tokens, tags = tags")
    assert {"JOY", "WOE"} <= {line.split()[0] for line in done.out.splitlines()}
    labels = '["O", "B-JOY", "I-JOY"]'
    done = bertkit("check", source, *flags, "--set", f"labels={labels}")
    assert done.code == 1
    assert "tag 'B-WOE' is not one of 'O', 'B-JOY', 'I-JOY'" in done.out


@pytest.mark.slow
def test_check_shows_what_answers_are_lost(bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    rows = questions(30, unanswered=3)
    rows[0]["answers"] = {"text": ["nowhere"], "answer_start": [3]}
    source = write_squad(tmp_path / "x.json", rows, impossible=True)
    done = bertkit(
        "check", source, "--encoder", tiny_encoder, "--set", "train.max_length=64", "--set", "options.stride=8"
    )
    assert done.code == 0, done.err
    assert "10 of 30 questions (33.3%) have no answer" in done.err
    assert "question 'q0': answer 'nowhere' is not where it is said to be and occurs never" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["token-tagging", "span-qa"])
def test_new_task_file_is_written_and_trains(kind: str, bertkit: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    if kind == "span-qa":
        write_squad(tmp_path / "train.json", questions(30, unanswered=3), impossible=True)
        source = "train.json"
        write_squad(tmp_path / "dev.json", questions(10, unanswered=3, seed=1), impossible=True)
    else:
        write_conll(tmp_path / "train.conll", sentences(30))
        source = "train.conll"
        write_conll(tmp_path / "dev.conll", sentences(10, seed=1))
    made = bertkit("tasks", "new", source, "--out", "mine.toml")
    assert made.code == 0, made.err
    small = ["--set", "train.epochs=1", "--set", "train.max_length=64", "--set", "options.stride=8"]
    given = small if kind == "span-qa" else small[:4]
    done = bertkit("finetune", "mine.toml", "--encoder", tiny_encoder, "--json", *given, *COMMON)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    record = json.loads((tmp_path / result["run"] / "run.json").read_text())
    assert record["resolved_task"]["type"] == kind
    assert record["num_examples"]["validation"] == 10
    assert "f1" in result["scores"]["validation"]
