"""What rows of token tagging look like before anything is known of them: columns, tags and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bertkit.adapters.base import Example
from bertkit.errors import DataError, did_you_mean
from bertkit.metrics import tagging
from bertkit.task import Task

OUTSIDE = "O"
"""Tag of a word that is in no entity."""
PREFIXES = {"IO": "I", "BIOES": "BIES", "IOBES": "BIES", "BILOU": "BILU"}
"""Scheme -> the prefixes of its tags, where they are other than B and I."""
NAMELESS = ("conll", "conllu")
"""Formats of files whose columns have no names."""


def column_of(columns: Mapping[str, Any], role: str) -> str:
    """Return the column of a role; a CoNLL file's column is a number, and its rows have the role's name."""
    column = columns.get(role, role)
    return role if isinstance(column, int) else str(column)


def cell_of(columns: Mapping[str, Any], example: Example, role: str) -> Any:
    """Return a row's value for a role: under the task's column, else under the role's name, else None."""
    return example.get(column_of(columns, role), example.get(role))


def is_entity(value: Any) -> bool:
    """Say whether a value has what an entity of a raw text needs."""
    return (
        isinstance(value, Mapping) and "label" in value and all(type(value.get(key)) is int for key in ("start", "end"))
    )


def in_order(entities: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return entities by where they stand."""
    return sorted(entities, key=lambda entity: (entity["start"], entity["end"]))


def has_tagged_words(example: Example) -> bool:
    """Say whether a row holds words and another list of as many: their tags."""
    from bertkit.data import guess

    name = next((name for name in ("tokens", *guess.ROLES["tokens"].names) if name in example), "")
    tokens = example.get(name)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return False
    others = (value for column, value in example.items() if column != name)
    return any(isinstance(value, list) and len(value) == len(tokens) for value in others)


def has_entities(example: Example) -> bool:
    """Say whether a row holds a raw text and its entities."""
    entities = example.get("entities")
    return isinstance(example.get("text"), str) and isinstance(entities, list) and all(map(is_entity, entities))


def columns_of(task: Task, examples: Sequence[Example], roles: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return role -> column, with what was guessed; numbers are a CoNLL file's and stay.

    Raises:
        DataError: if the task names a column that no row has, and another would silently take its place.
    """
    from bertkit.data import guess

    named = {role: column for role, column in task.columns.items() if not isinstance(column, int)}
    there = list(dict.fromkeys(name for example in examples for name in example))
    # A CoNLL file names no columns: its rows have the roles' own names, whatever the Hub calls the same data.
    nameless = task.data.format in NAMELESS
    for role, column in named.items():
        if column not in there and role in there and not nameless:
            raise DataError(
                f"No row has the column '{column}', which is named for {role}.{did_you_mean(str(column), there)} "
                f"There are {', '.join(map(repr, there[:12]))}."
            )
    raw = any(cell_of(named, example, "entities") is not None for example in examples)
    if raw and all(cell_of(named, example, "tokens") is None for example in examples):
        return {role: column_of(task.columns, role) for role in ("text", "entities")} | task.columns, []
    numbered = {role: role for role in task.columns.keys() - named.keys()}
    found = guess.guess_columns(examples, roles, given=named | numbered)
    return found.columns | task.columns, list(found.notes)


def tag_cells(columns: Mapping[str, Any], examples: Sequence[Example]) -> list[list[Any]]:
    """Return the tags of the rows that have words and tags, as they are written."""
    cells = (
        cell_of(columns, example, "tags") for example in examples if cell_of(columns, example, "tokens") is not None
    )
    known = ([tag for tag in cell if tag is not None] for cell in cells if isinstance(cell, list | tuple))
    return [tags for tags in known if tags]


def entity_labels(columns: Mapping[str, Any], examples: Sequence[Example]) -> set[str]:
    """Return the labels of the entities in raw texts."""
    cells = (
        cell_of(columns, example, "entities") for example in examples if cell_of(columns, example, "tokens") is None
    )
    return {str(e["label"]) for cell in cells if isinstance(cell, list | tuple) for e in cell if is_entity(e)}


def without_tags(columns: Mapping[str, Any], examples: Sequence[Example]) -> DataError:
    """Return the error of rows of which none says a tag."""
    there = list(dict.fromkeys(name for example in examples for name in example))
    return DataError(
        f"No row has tags: there is no list in the column '{column_of(columns, 'tags')}', and no entity of a text in "
        f"'{column_of(columns, 'entities')}'. There are {', '.join(map(repr, there[:12]))}; --set columns.tags=NAME "
        "names another."
    )


def distinct(
    sequences: Iterable[Iterable[Any]], kinds: Iterable[str], notes: list[str], *, scheme: str = ""
) -> tuple[str, ...]:
    """Return the labels that the data shows, ``O`` first, and tell ``notes`` of them.

    The entities of raw texts, whose labels are ``kinds``, get the tags of the scheme, IOB2's where none is named.

    Of BIO-like tags every type gets every prefix that there is: a tag that train happens to lack is no fault.

    Raises:
        DataError: if there are fewer than two.
    """
    seen = {str(tag) for tags in sequences for tag in tags}
    seen |= {f"{prefix}-{kind}" for kind in kinds for prefix in PREFIXES.get(scheme, "BI")} | (
        {OUTSIDE} if kinds else set()
    )
    if len(seen) < 2:
        raise DataError(
            f"The tags are {len(seen)} distinct ones ({', '.join(map(repr, seen))}), and tagging needs two. "
            "Is it the right column? --set columns.tags=NAME names another."
        )
    added = _completed(seen) - seen
    names = sorted(seen | added, key=lambda tag: (tag != OUTSIDE, int(tag) if tag.isdecimal() else 0, tag))
    more = f", and {', '.join(sorted(added))}, so that every type has every prefix" if added else ""
    first = f", '{OUTSIDE}' first" if OUTSIDE in seen else ", sorted"
    notes.append(f"labels are the {len(seen)} distinct tags{first}{more}")
    return tuple(names)


def _completed(tags: Iterable[str]) -> set[str]:
    """Return every prefix with every type, where tags are BIO-like."""
    if not tagging.scheme(tags):
        return set()
    parts = {tagging.split_tag(tag) for tag in tags if tag != OUTSIDE}
    prefixes, kinds = {prefix for prefix, _ in parts}, {kind for _, kind in parts}
    return {prefix if kind == tagging.NO_TYPE else f"{prefix}-{kind}" for prefix in prefixes for kind in kinds}


def by_name(sequences: Iterable[Sequence[Any]], labels: Sequence[str]) -> Iterator[list[str]]:
    """Yield tags by name: an integer that is no name is an id."""
    for tags in sequences:
        ids = {tag: labels[tag] for tag in tags if isinstance(tag, int) and 0 <= tag < len(labels)}
        yield [str(tag) if str(tag) in labels else ids.get(tag, str(tag)) for tag in tags]
