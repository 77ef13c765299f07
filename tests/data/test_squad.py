"""SQuAD's nested JSON as rows, what is wrong with it by place, and the official prediction file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertkit.data import files, squad
from bertkit.data.lines import BadRow, Row
from bertkit.errors import DataError

QUESTION = {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 4}]}
READ = {"id": "q1", "context": "It: Ada", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [4]}}


def nested(*questions: Any, **article: Any) -> dict[str, Any]:
    return {"data": [{"paragraphs": [{"context": "It: Ada", "qas": list(questions)}], **article}]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def _write(content: Any) -> Path:
        path = tmp_path / "dev.json"
        raw = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
        return path

    return _write


Write = Callable[[Any], Path]


def row(write: Write, question: dict[str, Any]) -> dict[str, Any]:
    (found,) = files.read(write(nested(question))).examples
    return found


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_questions_are_rows_in_the_layout_of_the_hub(tmp_path: Path, name: str) -> None:
    raw = ("\ufeff" + json.dumps({"version": "1.1", **nested(QUESTION, QUESTION, title="T")}, indent=1)).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    split = files.read(tmp_path / name)
    assert split.examples == [READ | {"title": "T"}] * 2
    assert list(split.examples[0]) == ["id", "title", "context", "question", "answers"]
    assert (split.name, split.place(1)) == ("dev", f"{name} row 2")


def test_places_name_article_title_paragraph_question_and_id(write: Write) -> None:
    other = {"title": "A" * 50, "paragraphs": [{"context": "", "qas": []}, {"context": "", "qas": [QUESTION]}]}
    path = write({"data": [*nested({**QUESTION, "id": 5})["data"], other]})
    assert [place for _, place in files.stream(path)] == [
        "dev.json article 1 paragraph 1 question 1 (id 5)",
        f"dev.json article 2 ('{'A' * 40}...') paragraph 2 question 1 (id 'q1')",
    ]


@pytest.mark.parametrize("value", ["5", 5, 0, 2.5, ""])
def test_id_keeps_its_type(write: Write, value: Any) -> None:
    found = row(write, {**QUESTION, "id": value})["id"]
    assert (found, type(found)) == (value, type(value))


def test_squad_2_keeps_what_is_impossible_and_drops_the_plausible(write: Write) -> None:
    plausible = [{"text": "Ada", "answer_start": 4}]
    found = row(
        write, {"id": 1, "question": "?", "answers": [], "is_impossible": True, "plausible_answers": plausible, "x": {}}
    )
    nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
    assert found == {"id": 1, "context": "It: Ada", "question": "?", "answers": nothing, "is_impossible": True}
    assert row(write, {**QUESTION, "is_impossible": False}) == READ | {"is_impossible": False}


def test_question_of_a_test_set_has_no_answers(write: Write) -> None:
    assert "answers" not in row(write, {"id": 1, "question": "?"})
    assert "answers" not in row(write, {"id": 1, "question": "?", "answers": None, "is_impossible": False})
    assert row(write, {"id": 1, "question": "?", "is_impossible": True})["answers"] == {"text": [], "answer_start": []}


def test_answers_without_a_start_come_as_a_list(write: Write) -> None:
    answers = [{"text": "Ada", "answer_start": 4, "answer_id": 9}, {"text": "it"}, {"text": "x", "answer_start": None}]
    found = row(write, {**QUESTION, "answers": answers})
    assert found["answers"] == [{"text": "Ada", "answer_start": 4}, {"text": "it"}, {"text": "x"}]
    assert row(write, {**QUESTION, "answers": [{"text": "Ada", "answer_start": -1}]})["answers"]["answer_start"] == [-1]


HERE = r"dev\.json article 1 \('T'\) paragraph 1 question 1"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"question": "?"}, rf"{HERE}: there is no 'id'"),
        ({**QUESTION, "id": None}, rf"{HERE}: there is no 'id'"),
        ({**QUESTION, "id": [1]}, rf"{HERE}: 'id' is a list, and must be a text or a number"),
        ("Who?", rf"{HERE}: a text stands where an object with 'id' must"),
        ({"id": "q1"}, rf"{HERE} \(id 'q1'\): there is no 'question'"),
        ({**QUESTION, "question": 3}, rf"{HERE} \(id 'q1'\): 'question' is a number, and must be a text"),
        ({**QUESTION, "answers": {}}, r"\(id 'q1'\): 'answers' is an object, and must be a list"),
        ({**QUESTION, "answers": [{"answer_start": 1}]}, r"\(id 'q1'\): answer 1: there is no 'text'"),
        ({**QUESTION, "answers": ["Ada"]}, r"answer 1: a text stands where an object with 'text' must"),
        (
            {**QUESTION, "answers": [{"text": "a", "answer_start": "4"}]},
            r"answer 1: 'answer_start' is '4', and must be",
        ),
        (
            {**QUESTION, "answers": [{"text": "a", "answer_start": True}]},
            r"'answer_start' is True, and must be a whole",
        ),
        ({**QUESTION, "is_impossible": "no"}, r"\(id 'q1'\): 'is_impossible' is a text, and must be true or false"),
    ],
)
def test_faulty_question_is_named_and_the_others_are_read(write: Write, question: Any, message: str) -> None:
    path = write(nested(question, {**QUESTION, "id": 2}, title="T"))
    with pytest.raises(DataError, match=message):
        files.read(path)
    assert [type(found) for found in files.scan(path)] == [BadRow, Row]


@pytest.mark.parametrize(
    ("article", "message"),
    [
        ({"title": "T"}, r"dev\.json article 2: there is no 'paragraphs'"),
        ([], r"dev\.json article 2: a list stands where an object with 'paragraphs' must"),
        ({"paragraphs": {}}, r"article 2: 'paragraphs' is an object, and must be a list"),
        ({"title": "T", "paragraphs": [{"qas": []}]}, r"article 2 \('T'\) paragraph 1: there is no 'context'"),
        ({"paragraphs": [{"context": 1, "qas": []}]}, r"article 2 paragraph 1: 'context' is a number, and must be"),
        ({"paragraphs": [{"context": ""}]}, r"article 2 paragraph 1: there is no 'qas'"),
    ],
)
def test_faulty_article_is_named_and_the_others_are_read(write: Write, article: Any, message: str) -> None:
    path = write({"data": [*nested(QUESTION)["data"], article]})
    with pytest.raises(DataError, match=message):
        files.read(path)
    assert [type(found) for found in files.scan(path)] == [Row, BadRow]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([READ], r"dev\.json holds a list, and SQuAD's JSON is an object with 'data'\. Write rows .* as JSON Lines"),
        (3, r"dev\.json holds a number"),
        (READ, r"dev\.json is no SQuAD file: it has 'id', 'context', .*, and no 'data'\. Write rows .* JSON Lines"),
        ({}, r"it has no key, and no 'data'"),
        ({"data": {}}, r"dev\.json is no SQuAD file: 'data' is an object, and must be a list of articles"),
        ({"data": [READ]}, r"'data' is a list of questions, not of articles\. Write rows .* JSON Lines"),
        ({"data": []}, r"dev\.json is empty: it holds no question\."),
        (nested(), r"dev\.json is empty: it holds no question\."),
        ("", r"dev\.json is empty\.$"),
        ("\ufeff \n", r"dev\.json is empty\.$"),
        ('{"data": [\n 1,\n ]}', r"dev\.json:3: not JSON: .* \(line 3, column 2\)\.$"),
        ('{"id": 1}\n{"id": 2}\n', r"dev\.json:2: not JSON: Extra data .* say --set data\.format=jsonl"),
        ('{"data": NaN}', r"dev\.json: not JSON that can be read: NaN is no JSON value; write null"),
        ("[" * 200_000, r"dev\.json: not JSON that can be read: .*recursion"),
        (b'{"data":\n "\xe9"}', r"dev\.json:2: not UTF-8 \(byte 0xe9 at offset 11\)"),
    ],
)
def test_file_that_is_no_squad_is_named(write: Write, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.read(write(content))


# Writing


def pairs(*ids: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [({"id": id}, {"answer": f"answer {number}"}) for number, id in enumerate(ids)]  # noqa: A001


def test_written_is_one_object_of_ids_and_answers() -> None:
    lines = list(squad.written([*pairs("q1", 5, 2.5), ({"id": "q\n"}, {"answer": 'ein "Wort", \u4f60\n'})]))
    assert lines[1] == '  "q1": "answer 0",'
    assert json.loads("\n".join(lines)) == {
        "q1": "answer 0",
        "5": "answer 1",
        "2.5": "answer 2",
        "q\n": 'ein "Wort", \u4f60\n',
    }
    assert all("\n" not in line for line in lines)


def test_written_without_rows_is_an_empty_object() -> None:
    assert json.loads("".join(squad.written([]))) == {}


def test_written_streams_and_takes_another_column() -> None:
    def endless() -> Any:
        while True:
            yield {"qid": 1}, {"answer": "a"}

    lines = squad.written(endless(), column="qid")
    assert next(lines) == "{"
    with pytest.raises(DataError, match=r"Rows 1 and 2 have the same 'qid', '1': the prediction file of SQuAD"):
        next(lines)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("a", None), r"Row 2 has no 'id', by which the prediction file of SQuAD names its answers\. Give it one, or"),
        (([1],), r"Row 1 has a list as 'id'"),
        ((True,), r"Row 1 has true or false as 'id'"),
        (("5", "b", 5), r"Rows 1 and 3 have the same 'id', '5'"),
    ],
)
def test_row_that_cannot_be_written_is_named(ids: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(squad.written(pairs(*ids)))
