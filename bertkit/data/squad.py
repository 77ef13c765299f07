"""Read SQuAD JSON as it is distributed, nested, and write the prediction file that the official scripts read.

SQuAD 1.1 and 2.0, CMRC 2018, COVID-QA and what else has their layout (Rajpurkar et al. 2016 and 2018):
``data`` > ``paragraphs`` (``context``) > ``qas`` (``id``, ``question``, ``answers``, ``is_impossible``). A row is a
question, in the layout that the Hub's ``squad`` has. Other keys, ``version`` and ``plausible_answers`` among them, are
passed over. Offsets are given as they stand; whether they point at their text is for the adapter to see.

The file is one JSON value, so it is read whole: this is the one text format that is not read in constant memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bertkit.data import Example
from bertkit.data.lines import BadRow, Lines, Row, finite, json_kind, no_constant
from bertkit.errors import DataError

TITLE_SHOWN = 40
"""Characters of a title that a place shows."""


class _Fault(Exception):  # noqa: N818 (never leaves this module)
    """What makes an article, a paragraph or a question unreadable; becomes a :class:`BadRow`."""


def rows(lines: Lines) -> Iterator[Row | BadRow]:
    """Yield the questions of a SQuAD file.

    A row has ``id``, ``title``, ``context``, ``question``, ``answers`` and ``is_impossible``:

    - ``id`` keeps its type.
    - ``title`` and ``is_impossible`` are there where the file has them.
    - ``answers`` is ``{"text": [...], "answer_start": [...]}``; where an answer has no ``answer_start``, a list of
      ``{"text", "answer_start"}``, the latter left out there. A question without ``answers`` (a test set) has none,
      unless it ``is_impossible``, which says that there are none: then both lists are empty.

    Raises:
        DataError: if the file is not JSON, not of this layout, or holds no question.
    """
    empty = True
    for number, article in enumerate(_articles(_loaded(lines), lines.where), start=1):
        for row in _article(article, f"{lines.name} article {number}"):
            empty = False
            yield row
    if empty:
        raise DataError(f"{lines.where} is empty: it holds no question.")


# The whole file ------------------------------------------------------------------------------------------------


def _loaded(lines: Lines) -> Any:
    text = _whole(lines)
    if not text.strip():
        raise DataError(f"{lines.where} is empty.")
    try:
        return json.loads(text, parse_constant=no_constant, parse_float=finite)
    except json.JSONDecodeError as error:
        advice = ""
        if error.msg == "Extra data":
            advice = " If each line holds an object of its own, it is JSON Lines: say --set data.format=jsonl."
        place = lines.place(error.lineno)
        raise DataError(
            f"{place}: not JSON: {error.msg} (line {error.lineno}, column {error.colno}).{advice}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{lines.where}: not JSON that can be read: {error}.") from error


def _whole(lines: Lines) -> str:
    parts: list[str] = []
    for part in lines.raw():
        if lines.fault:
            raise DataError(f"{lines.place(lines.number)}: {lines.fault}.")
        parts.append(part)
    return "".join(parts)


def _articles(value: Any, where: str) -> list[Any]:
    advice = "Write rows that are not nested as JSON Lines, one object a line, in a .jsonl file."
    if not isinstance(value, dict):
        raise DataError(f"{where} holds {json_kind(value)}, and SQuAD's JSON is an object with 'data'. {advice}")
    if "data" not in value:
        keys = ", ".join(f"'{key}'" for key in list(value)[:8]) or "no key"
        raise DataError(f"{where} is no SQuAD file: it has {keys}, and no 'data'. {advice}")
    articles = value["data"]
    if not isinstance(articles, list):
        raise DataError(f"{where} is no SQuAD file: 'data' is {json_kind(articles)}, and must be a list of articles.")
    if articles and all(isinstance(article, dict) and "question" in article for article in articles):
        raise DataError(f"{where} is no SQuAD file: 'data' is a list of questions, not of articles. {advice}")
    return articles


# Articles, paragraphs, questions -------------------------------------------------------------------------------


def _article(article: Any, place: str) -> Iterator[Row | BadRow]:
    try:
        title = _title(article, place)
        named = f"{place} ({_shown(title)!r})" if title is not None else place
        paragraphs = _list(article, "paragraphs")
    except _Fault as fault:
        yield BadRow(place=place, reason=str(fault))
        return
    for number, paragraph in enumerate(paragraphs, start=1):
        yield from _paragraph(paragraph, title, f"{named} paragraph {number}")


def _title(article: Any, place: str) -> str | None:
    title = article.get("title") if isinstance(article, dict) else None
    return None if title is None else str(title)


def _shown(title: str) -> str:
    return title if len(title) <= TITLE_SHOWN else f"{title[:TITLE_SHOWN]}..."


def _paragraph(paragraph: Any, title: str | None, place: str) -> Iterator[Row | BadRow]:
    try:
        context = _text(paragraph, "context")
        questions = _list(paragraph, "qas")
    except _Fault as fault:
        yield BadRow(place=place, reason=str(fault))
        return
    shared = {"title": title, "context": context} if title is not None else {"context": context}
    for number, question in enumerate(questions, start=1):
        named = f"{place} question {number}"
        try:
            id = _id(question)  # noqa: A001 (SQuAD's word)
            named += f" (id {id!r})"
            yield Row(example={"id": id} | shared | _question(question), place=named, line=None)
        except _Fault as fault:
            yield BadRow(place=named, reason=str(fault))


def _question(question: Mapping[str, Any]) -> Example:
    found: Example = {"question": _text(question, "question")}
    impossible = question.get("is_impossible")
    if impossible is not None and not isinstance(impossible, bool):
        raise _Fault(f"'is_impossible' is {json_kind(impossible)}, and must be true or false")
    if question.get("answers") is not None:
        found["answers"] = _answers(_list(question, "answers"))
    elif impossible:
        found["answers"] = _answers([])
    return found if impossible is None else found | {"is_impossible": impossible}


def _answers(answers: list[Any]) -> dict[str, list[Any]] | list[dict[str, Any]]:
    found = [_answer(answer, f"answer {number}: ") for number, answer in enumerate(answers, start=1)]
    if all("answer_start" in answer for answer in found):
        return {key: [answer[key] for answer in found] for key in ("text", "answer_start")}
    return found


def _answer(answer: Any, which: str) -> dict[str, Any]:
    found: dict[str, Any] = {"text": _text(answer, "text", which)}
    start = answer.get("answer_start")
    if start is None:
        return found
    if not isinstance(start, int) or isinstance(start, bool):
        raise _Fault(f"{which}'answer_start' is {start!r}, and must be a whole number")
    return found | {"answer_start": start}


def _id(question: Any) -> Any:
    value = _value(question, "id")
    if isinstance(value, dict | list | bool):
        raise _Fault(f"'id' is {json_kind(value)}, and must be a text or a number")
    return value


def _text(owner: Any, key: str, which: str = "") -> str:
    value = _value(owner, key, which)
    if not isinstance(value, str):
        raise _Fault(f"{which}'{key}' is {json_kind(value)}, and must be a text")
    return value


def _list(owner: Any, key: str) -> list[Any]:
    value = _value(owner, key)
    if not isinstance(value, list):
        raise _Fault(f"'{key}' is {json_kind(value)}, and must be a list")
    return value


def _value(owner: Any, key: str, which: str = "") -> Any:
    if not isinstance(owner, dict):
        raise _Fault(f"{which}{json_kind(owner)} stands where an object with '{key}' must")
    if owner.get(key) is None:
        raise _Fault(f"{which}there is no '{key}'")
    return owner[key]


# Writing -------------------------------------------------------------------------------------------------------


def written(pairs: Iterable[tuple[Example, Mapping[str, Any]]], *, column: str = "id") -> Iterator[str]:
    """Yield the lines, without line ends, of the official prediction file: one JSON object, id -> answer.

    Ids become texts, as JSON's keys are; 5 and "5" are the same one.

    Args:
        pairs: rows, and the predictions of the ``span-qa`` adapter.
        column: column of the ids.

    Raises:
        DataError: if a row has no id, or two have the same one.
    """
    rows_by_id: dict[str, int] = {}
    yield "{"
    line = ""
    for number, (row, prediction) in enumerate(pairs, start=1):
        key = _key(row.get(column), column, number)
        if key in rows_by_id:
            raise DataError(
                f"Rows {rows_by_id[key]} and {number} have the same '{column}', {key!r}: the prediction file of SQuAD "
                "holds one answer for each. Write JSON Lines, or give each row its own."
            )
        rows_by_id[key] = number
        if line:
            yield f"{line},"
        # ASCII only, as the official scripts write it: what UTF-8 cannot hold stays escaped.
        line = f"  {json.dumps(key)}: {json.dumps(prediction['answer'])}"
    if line:
        yield line
    yield "}"


def _key(value: Any, column: str, number: int) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    what = "no" if value is None else f"{json_kind(value)} as"
    raise DataError(
        f"Row {number} has {what} '{column}', by which the prediction file of SQuAD names its answers. Give it one, or "
        "write JSON Lines."
    )
