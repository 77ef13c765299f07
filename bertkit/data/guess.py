"""Guess which column plays which role, and what kind of labels a column holds; always with a sentence that says so.

Names decide before content, and content only where names say nothing. What is known of a role is data
(:data:`TOGETHER`, :data:`ROLES`): a new task type adds an entry and no code.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from bertkit.data import Example

Kind = Literal["single", "multi", "regression"]

SAMPLE = 2000
"""Rows that are looked at."""
MOST_CLASSES = 20
"""Distinct values up to which a column is taken for classes."""
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What was guessed of a file's columns."""

    columns: dict[str, str]
    """role -> column; a role for which nothing was found is left out."""
    notes: list[str] = field(default_factory=list)
    """What was guessed and why, one sentence each; a column that has its role's name needs none."""
    others: dict[str, list[str]] = field(default_factory=dict)
    """role -> columns that might as well have been meant."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What is known of a role."""

    names: tuple[str, ...] = ()
    """Names that its column often has, likeliest first."""
    candidates: Callable[[Mapping[str, Sequence[Any]]], list[str]] = field(default=lambda columns: [])
    """The columns whose content fits, likeliest first; given column -> values that are not null."""
    content: str = ""
    """What their content is, for the sentence."""


def _texts(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns of texts, longest mean first."""
    texts = {
        column: sum(map(len, values)) / len(values)
        for column, values in columns.items()
        if values and all(isinstance(value, str) and not NUMBER.fullmatch(value) for value in values)
    }
    return sorted(texts, key=lambda column: -texts[column])


def _few_values(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns in which 2 to 20 distinct values repeat, or that hold lists, fewest first."""
    counts = {column: len({str(value) for value in values}) for column, values in columns.items()}
    fitting = [
        column
        for column, values in columns.items()
        if (2 <= counts[column] <= MOST_CLASSES and counts[column] <= len(values) / 2)
        or (values and all(isinstance(value, list) for value in values))
    ]
    return sorted(fitting, key=lambda column: counts[column])


def _word_lists(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    return [column for column, values in columns.items() if values and all(isinstance(v, list) for v in values)]


TOGETHER: tuple[dict[str, str], ...] = (
    {"text": "premise", "text_pair": "hypothesis"},
    {"text": "sentence1", "text_pair": "sentence2"},
    {"text": "question1", "text_pair": "question2"},
    {"text": "question", "text_pair": "sentence"},
    {"text": "sentence_A", "text_pair": "sentence_B"},
    {"text": "text_a", "text_pair": "text_b"},
    {"text": "text1", "text_pair": "text2"},
)
"""Columns that mean something only side by side; the first set that a file has whole is taken."""

ROLES: dict[str, Role] = {
    "text": Role(
        names=("sentence", "review", "comment", "content", "body", "message", "tweet", "document", "utterance"),
        candidates=_texts,
        content="the column with the longest texts",
    ),
    "text_pair": Role(),
    "label": Role(
        names=("labels", "target", "class", "category", "sentiment", "stars", "rating", "score", "intent", "topic"),
        candidates=_few_values,
        content="a column in which few values repeat",
    ),
    "tokens": Role(names=("words", "token"), candidates=_word_lists, content="a column of lists"),
    "tags": Role(
        names=("ner_tags", "pos_tags", "labels", "tag", "upos"), candidates=_word_lists, content="a column of lists"
    ),
    "question": Role(names=("query",)),
    "context": Role(names=("passage", "paragraph"), candidates=_texts, content="the column with the longest texts"),
    "answers": Role(names=("answer",)),
}
"""role -> what is known of it."""


def guess_columns(
    examples: Sequence[Example], roles: Iterable[str], *, given: Mapping[str, str] | None = None
) -> Guess:
    """Guess the columns of roles.

    Args:
        examples: rows; the first 2,000 are looked at.
        roles: as an adapter's ``columns`` has them: ``text_pair?`` is optional, ``label!`` only trains and scores.
            An optional role is guessed by name alone.
        given: role -> column that is settled already; kept as it is and given to no other role.

    Returns:
        The guess, ``given`` included.
    """
    settled = {role: str(column) for role, column in (given or {}).items()}
    columns = _columns(examples)
    search = _Search(columns, dict(settled))
    wanted = {role.rstrip("?!"): role for role in roles}
    for find in (_by_own_name, _together, _by_known_name, _by_content):
        find(search, [role for role in wanted.values() if role.rstrip("?!") not in search.found])
    order = {role: search.found[role] for role in [*wanted, *settled] if role in search.found}
    return Guess(columns=order, notes=search.notes, others=search.others)


@dataclass
class _Search:
    columns: dict[str, list[Any]]
    found: dict[str, str]
    notes: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)

    def free(self) -> dict[str, list[Any]]:
        return {name: values for name, values in self.columns.items() if name not in self.found.values()}

    def named(self, name: str) -> str | None:
        """Return the free column of that name, upper and lower case alike where none matches exactly."""
        free = self.free()
        return name if name in free else next((c for c in free if c.lower() == name.lower()), None)

    def take(self, role: str, column: str, why: str) -> None:
        self.found[role] = column
        if column != role:
            self.notes.append(f"column '{column}' is taken as {role}: {why}")


def _by_own_name(search: _Search, roles: Sequence[str]) -> None:
    for role in (role.rstrip("?!") for role in roles):
        column = search.named(role)
        if column is not None:
            search.take(role, column, "it has the role's name")


def _together(search: _Search, roles: Sequence[str]) -> None:
    open_roles = {role.rstrip("?!") for role in roles}
    for names in TOGETHER:
        columns = {role: search.named(name) for role, name in names.items()}
        if names.keys() <= open_roles and all(columns.values()):
            for role, column in columns.items():
                search.take(role, str(column), f"{' and '.join(names.values())} go together")
            return


def _by_known_name(search: _Search, roles: Sequence[str]) -> None:
    for role in (role.rstrip("?!") for role in roles):
        matches = [column for name in ROLES.get(role, Role()).names if (column := search.named(name))]
        if matches:
            search.take(role, matches[0], "by its name" + _or_else(matches[1:]))
            search.others[role] = matches[1:]


def _by_content(search: _Search, roles: Sequence[str]) -> None:
    for role in roles:
        known = ROLES.get(role.rstrip("?!"), Role())
        fitting = [] if role.endswith("?") else known.candidates(search.free())
        if fitting:
            name = role.rstrip("?!")
            search.take(name, fitting[0], f"it is {known.content}{_or_else(fitting[1:])}")
            search.others[name] = fitting[1:]


def _or_else(columns: Sequence[str]) -> str:
    return f" (it could also be {', '.join(map(repr, columns[:4]))})" if columns else ""


def _columns(examples: Sequence[Example]) -> dict[str, list[Any]]:
    """Return column -> its values in the first rows, in order of appearance, nulls left out."""
    columns: dict[str, list[Any]] = {}
    for example in islice(examples, SAMPLE):
        for column, value in example.items():
            values = columns.setdefault(column, [])
            if value is not None:
                values.append(value)
    return columns


def guess_kind(values: Iterable[Any]) -> Kind:
    """Guess the kind of a label column: lists are several labels, more than 20 distinct or broken numbers regression.

    Args:
        values: the column's cells; None is skipped. A number may be written as a text, as CSV has it.
    """
    return _kind(values)[0]


def kind_reason(values: Iterable[Any]) -> str:
    """Return the sentence that says what :func:`guess_kind` guesses and why."""
    kind, why = _kind(values)
    meaning = {"single": "one label a row", "multi": "several labels a row", "regression": "a number to be learned"}
    return f"{meaning[kind]}: {why}"


def _kind(values: Iterable[Any]) -> tuple[Kind, str]:
    cells = [value for value in values if value is not None]
    if any(isinstance(cell, list | tuple) for cell in cells):
        return "multi", "the cells are lists"
    numbers = {number for number in map(_number, cells) if number is not None}
    if not cells or any(_number(cell) is None for cell in cells):
        return "single", "the cells are names"
    if not all(number.is_integer() for number in numbers):
        return "regression", "the cells are numbers, and not all of them whole"
    if len(numbers) > MOST_CLASSES:
        return "regression", f"the cells are {len(numbers)} different whole numbers, more than {MOST_CLASSES}"
    return "single", f"the cells are {len(numbers)} different whole numbers, at most {MOST_CLASSES}"


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else None
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
