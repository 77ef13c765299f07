"""What a report shows of token tagging: each type, where entities went wrong and how, and the surest errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from bertkit.metrics import tagging
from bertkit.metrics.tagging import Chunk
from bertkit.report import classes
from bertkit.report.classes import calibration, errors
from bertkit.report.parts import ERRORS, Case, Section, Table, cut, share

RIGHT, TYPE, BOUNDARY, BOTH, MISSED, INVENTED = "right", "type", "boundary", "boundary and type", "missed", "invented"
"""How a true entity was found, and (the last) what a predicted one is that touches none."""


def compared(given: Sequence[Chunk], true: Sequence[Chunk]) -> Iterator[tuple[str, Chunk]]:
    """Yield, for each true chunk of a sentence, how it was found, and the predicted ones that touch no true one.

    ``type``: both ends are right and the type is not. ``boundary``: one of its type overlaps it. ``boundary and type``:
    only one of another type does. ``missed``: none does.
    """
    for chunk in true:
        yield _found(chunk, given), chunk
    yield from ((INVENTED, chunk) for chunk in given if not any(_overlap(chunk, other) for other in true))


def kinds_of_error(pairs: Sequence[tuple[Sequence[Chunk], Sequence[Chunk]]]) -> dict[str, Counter[str]]:
    """Return type -> how its entities were found, over sentences of predicted and true chunks."""
    counts: dict[str, Counter[str]] = {}
    for outcome, (kind, _, _) in chain.from_iterable(compared(given, true) for given, true in pairs):
        counts.setdefault(kind, Counter())[outcome] += 1
    return dict(sorted(counts.items()))


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections of tagged sentences.

    Args:
        found: ``tags`` (predicted, a list a sentence), ``gold`` (true), ``labels``, ``words`` (a list a sentence),
            ``scheme`` ("" where tags make no entities), ``mode`` (how chunks are counted) and ``scores`` (of each
            predicted entity of a sentence, in order).
    """
    if not found["scheme"]:
        yield from _words(found)
        return
    types = tagging.by_type(found["tags"], found["gold"], mode=found["mode"], scheme=found["scheme"])
    rows = [[kind, each["precision"], each["recall"], each["f1"], each["number"]] for kind, each in types.items()]
    yield Section(
        title="Types",
        text="An entity is right where its type and both its ends are.",
        tables=[Table(columns=["type", "precision", "recall", "F1", "true"], rows=rows)],
    )
    pairs = [
        (tagging.chunks(given), tagging.chunks(true)) for given, true in zip(found["tags"], found["gold"], strict=True)
    ]
    yield _kinds(kinds_of_error(pairs))
    right = [chunk in set(true) for given, true in pairs for chunk in given]
    sure = [min(1.0, score) for scores in found["scores"] for score in scores]
    if sure and len(sure) == len(right):
        yield calibration(sure, right, labels=("confidence", "precision"), what="entities")
    yield _errors(found, pairs)


def _words(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the sections of tags that make no entities: every word is a row with one label."""
    ids = {name: number for number, name in enumerate(found["labels"])}
    gold, predicted = ([ids[tag] for tags in found[side] for tag in tags] for side in ("gold", "tags"))
    yield from classes.sections({"labels": found["labels"], "gold": gold, "predicted": predicted})


def _kinds(counts: Mapping[str, Counter[str]]) -> Section:
    columns = (RIGHT, BOUNDARY, TYPE, BOTH, MISSED, INVENTED)
    total: Counter[str] = sum(counts.values(), Counter())
    rows = [[kind, *(each[name] for name in columns)] for kind, each in counts.items()]
    text = (
        "How each true entity was found. Type: right ends, wrong type. Boundary: one of its type overlaps it. Boundary "
        "and type: only one of another type does. Missed: none does. Invented: a predicted one that overlaps no true "
        "one."
    )
    whole = [["all", *(total[name] for name in columns)]] if len(rows) > 1 else []
    return Section(
        title="Boundary and type errors", text=text, tables=[Table(columns=["type", *columns], rows=rows + whole)]
    )


def _errors(found: Mapping[str, Any], pairs: Sequence[tuple[list[Chunk], list[Chunk]]]) -> Section:
    """Return the sentences with wrong entities, by how sure the surest wrong one was; then those that lack some."""
    wrong = []
    for row, ((given, true), scores) in enumerate(zip(pairs, found["scores"], strict=True)):
        if given != true:
            false = [score for chunk, score in zip(given, scores, strict=False) if chunk not in true]
            wrong.append((max(false, default=0.0), row))
    order = sorted(wrong, key=lambda each: -each[0])[:ERRORS]
    cases = [_case(row, score, found["words"][row], *pairs[row]) for score, row in order]
    return errors(cases, len(wrong), what="sentences with an error")


def _case(row: int, score: float, words: Sequence[str], given: Sequence[Chunk], true: Sequence[Chunk]) -> Case:
    facts = [("true", _shown(true, words)), ("predicted", _shown(given, words))]
    facts += [("confidence of the wrong one", share(min(1.0, score)))] if score else []
    return Case(row=row + 1, facts=facts, texts=[cut(" ".join(words))])


def _shown(found: Sequence[Chunk], words: Sequence[str]) -> str:
    return cut(" · ".join(f"{' '.join(words[first:stop])} [{kind}]" for kind, first, stop in found), 300) or "none"


def _found(chunk: Chunk, given: Sequence[Chunk]) -> str:
    if chunk in given:
        return RIGHT
    touching = [other for other in given if _overlap(chunk, other)]
    if any(other[1:] == chunk[1:] for other in touching):
        return TYPE
    if any(other[0] == chunk[0] for other in touching):
        return BOUNDARY
    return BOTH if touching else MISSED


def _overlap(one: Chunk, other: Chunk) -> bool:
    return one[1] < other[2] and other[1] < one[2]
