"""The scores of token tagging, from tags by name; which tags may follow which; and the best sequence of such tags.

A tag is a prefix and a type, ``B-PER``; a chunk is a type and a range of words. Chunks are read from tags in two ways:

- ``conlleval``: as the script of CoNLL-2000 counts, which finds a chunk in every sequence, legal or not: ``I-X`` after
  ``O`` starts one, ``I-Y`` after ``B-X`` ends one and starts another. The script knows no ``S``, and continues a chunk
  over ``E-X B-X``; here, as in seqeval, ``S`` is a chunk of its own and ``E`` ends one. ``L`` counts as ``E`` and ``U``
  as ``S``, which seqeval does not do.
- ``strict``: only chunks that the scheme could have written, as seqeval's strict mode counts them. Two of its choices
  in IOB1 are its own: in ``O B-X I-X`` the second word is a chunk, and in ``I-X B-X B-Y`` the first word only is one.

Where nothing is predicted, or nothing is true, a score is 0.0.

Sources: Tjong Kim Sang & Buchholz (2000), https://aclanthology.org/W00-0726 (conlleval; F1 over whole chunks);
Ramshaw & Marcus (1995), https://aclanthology.org/W95-0107 (IOB1); Ratinov & Roth (2009),
https://aclanthology.org/W09-1119 (BILOU).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import eq

import numpy as np
from numpy.typing import ArrayLike

from bertkit.errors import ConfigError, DataError, did_you_mean, joined
from bertkit.metrics import significance
from bertkit.metrics.classification import Array
from bertkit.metrics.interval import of_sums
from bertkit.metrics.names import Score, ended, unknown
from bertkit.metrics.significance import Tally

KINDS = {"entities": "BIO-like tags", "tags": "tags that are not BIO-like"}
"""Kind of a score -> what messages call the tags that it is defined for."""
SCORES = {
    "f1": Score(summary="F1 of the entities: type and both ends right", kinds=("entities",)),
    "precision": Score(summary="share of the predicted entities that are right", kinds=("entities",)),
    "recall": Score(summary="share of the true entities that are found", kinds=("entities",)),
    "f1_macro": Score(summary="mean of the entity types' F1", kinds=("entities",)),
    "tag_accuracy": Score(summary="share of the words whose tag is right", kinds=("entities", "tags")),
}
MODES = ("conlleval", "strict")

Part = tuple[str, str]
"""Prefix and type of a tag."""
Chunk = tuple[str, int, int]
"""Type, first word, and the word after the last."""

NO_TYPE = "_"
OUTSIDE = ("O", NO_TYPE)
PREFIXES = "OBIESLU"


def defaults(scheme: str) -> tuple[str, ...]:
    """Return the scores of a task that names none, all that fit; the first one selects the best checkpoint."""
    return tuple(SCORES) if scheme else ("tag_accuracy",)


def check_names(names: Iterable[str], scheme: str) -> None:
    """Check that every score exists and fits the tags.

    Raises:
        ConfigError: naming every score that is unknown or does not fit, with those that do.
    """
    kind = "entities" if scheme else "tags"
    fitting = [name for name, score in SCORES.items() if kind in score.kinds]
    problems = [
        f"Metric '{name}' is not defined for {KINDS[kind]}" if name in SCORES else unknown(name, SCORES)
        for name in names
        if name not in fitting
    ]
    if problems:
        there = f"there is only {fitting[0]}" if len(fitting) == 1 else f"there are {', '.join(fitting)}"
        raise ConfigError(f"{ended(joined(problems))} For {KINDS[kind]} {there}.")


# Tags ----------------------------------------------------------------------------------------------------------------


def split_tag(tag: str) -> Part:
    """Return ``("B", "creative-work")`` for ``B-creative-work``; the type of a tag that has none is ``_``."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind or NO_TYPE


def scheme(labels: Iterable[str], sequences: Iterable[Sequence[str]] = ()) -> str:
    """Return the scheme of the tags: IOB2, IOB1, BIOES (IOBES is another name of it), BILOU, IO, or "" for none.

    "" is for tags of another kind (``NOUN``), and for chunks that only an E delimits (IOE1, IOE2: not supported).

    Args:
        labels: every tag. They tell all schemes but IOB1 from each other: IO is without B.
        sequences: tags of sentences, to tell IOB1 from IOB2. Only a chunk that does not stand behind one of its own
            type shows the difference: it begins with I in IOB1 and with B in IOB2. The majority decides, so that a few
            illegal tags do not; IOB2 where it is even.
    """
    parts = {split_tag(label) for label in labels} - {OUTSIDE}
    prefixes = {prefix for prefix, _ in parts}
    if not prefixes or prefixes - set(PREFIXES) or "O" in prefixes:
        return ""
    if prefixes <= {"B", "I"}:
        return _iob(sequences) if "B" in prefixes else "IO"
    if prefixes <= set("BIES") and prefixes & {"B", "S"}:
        return "BIOES"
    return "BILOU" if prefixes <= set("BILU") and prefixes & {"B", "U"} else ""


def _iob(sequences: Iterable[Sequence[str]]) -> str:
    begun: Counter[str] = Counter()
    for tags in sequences:
        before = OUTSIDE
        for part in map(split_tag, tags):
            if part[0] != "O" and (before[0] == "O" or before[1] != part[1]):
                begun[part[0]] += 1
            before = part
    return "IOB1" if begun["I"] > begun["B"] else "IOB2"


# Chunks as conlleval counts them -------------------------------------------------------------------------------------

_CONLLEVAL = {"L": "E", "U": "S"}


def chunks(tags: Sequence[str]) -> list[Chunk]:
    """Return the chunks of a sentence as conlleval counts them, in order."""
    parts = [split_tag(tag) for tag in tags]
    return chunks_of([(_CONLLEVAL.get(prefix, prefix), kind) for prefix, kind in parts])


def chunks_of(parts: Sequence[Part]) -> list[Chunk]:
    """Return the chunks of tags that are split already."""
    found, start, before = [], 0, OUTSIDE
    for place, part in enumerate([*parts, OUTSIDE]):
        if ends_chunk(before, part):
            found.append((before[1], start, place))
        if starts_chunk(before, part):
            start = place
        before = part
    return found


def ends_chunk(before: Part, part: Part) -> bool:
    """Say whether a chunk ends between two neighbours: conlleval's ``endOfChunk``, with S."""
    if before[0] in {"O", "."}:
        return False
    closed = before[0] in {"E", "S"} or (before[0] in {"B", "I"} and part[0] in {"B", "S", "O"})
    return closed or before[1] != part[1]


def starts_chunk(before: Part, part: Part) -> bool:
    """Say whether a chunk starts with the second of two neighbours: conlleval's ``startOfChunk``, with S."""
    if part[0] in {"O", "."}:
        return False
    opened = part[0] in {"B", "S"} or (part[0] in {"I", "E"} and before[0] in {"O", "E", "S"})
    return opened or before[1] != part[1]


# Schemes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """A scheme. The first three are what strict counting looks at, the others say what is legal.

    Neighbours are written ``"BI= II! *S"``: two prefixes (``*`` for any), of one type (``=``) or two (``!``).
    """

    starts: str
    """Neighbours of which the second starts a chunk."""
    inside: str
    """Neighbours within one chunk."""
    ends: str
    """Neighbours of which the first ends a chunk that counts."""
    opens: str = ""
    """Prefixes that may start a chunk behind anything."""
    closes: str = ""
    """Prefixes that may end a chunk."""
    between: str = ""
    """Neighbours in two chunks that are legal although ``opens`` lacks the second."""


RULES = {
    "IOB2": Rules("*B", "BI= II=", "BO BB BI! IO IB II!", opens="B", closes="BI"),
    # That BB! ends nothing and BI= may start a chunk is seqeval's choice: see the top of this module.
    "IOB1": Rules("OI II! BI IB= BB=", "BI= II=", "BO BB= BI! IO IB II!", opens="I", closes="BI", between="IB= BB="),
    "IO": Rules("OI II!", "II=", "IO II!", opens="I", closes="I"),
    "BIOES": Rules("*B *S", "BI= BE= II= IE=", "E* S*", opens="BS", closes="ES"),
    "BILOU": Rules("*B *U", "BI= BL= II= IL=", "L* U*", opens="BU", closes="LU"),
}
RULES["IOBES"] = RULES["BIOES"]


def strict_chunks(tags: Sequence[str], scheme: str) -> list[Chunk]:
    """Return the chunks of a sentence that are legal in the scheme, in order; other tags belong to no chunk.

    Raises:
        ConfigError: if there is no such scheme.
    """
    return strict_chunks_of([split_tag(tag) for tag in tags], _rules(scheme))


def strict_chunks_of(parts: Sequence[Part], rules: Rules) -> list[Chunk]:
    """Return the legal chunks of tags that are split already."""
    line = [*parts, OUTSIDE]
    found, place, before = [], 0, OUTSIDE
    while place < len(line):
        stop = place + 1
        if _fits(rules.starts, before, line[place]):
            while _fits(rules.inside, line[stop - 1], line[stop]):
                stop += 1
            if _fits(rules.ends, line[stop - 1], line[stop]):
                found.append((line[place][1], place, stop))
        before, place = line[stop - 1], stop
    return found


def _rules(scheme: str) -> Rules:
    if scheme not in RULES:
        raise ConfigError(f"No tagging scheme '{scheme}'.{did_you_mean(scheme, RULES)} There are {', '.join(RULES)}.")
    return RULES[scheme]


def _fits(text: str, before: Part, part: Part) -> bool:
    return (before[0], part[0], before[1] == part[1]) in _neighbours(text)


@cache
def _neighbours(text: str) -> frozenset[tuple[str, str, bool]]:
    return frozenset(
        (before, prefix, same)
        for pair in text.split()
        for before in pair[0].replace("*", PREFIXES)
        for prefix in pair[1].replace("*", PREFIXES)
        for same in {"=": (True,), "!": (False,)}.get(pair[2:], (True, False))
    )


# Legal sequences -----------------------------------------------------------------------------------------------------


def transitions(labels: Sequence[str], scheme: str) -> tuple[Array, Array, Array]:
    """Return which tags may begin a sentence ``(K,)``, stand side by side ``(K, K)``, and end it ``(K,)``; bool.

    ``step[i, j]``: tag j may follow tag i. A sequence is legal where it is in strict counting: each of its tags is
    ``O`` or in a chunk. So a tag that no legal sequence holds is never given: ``I-X`` in IOB2 where there is no
    ``B-X``, ``B-X`` in BIOES where there is no ``E-X``, tags of other prefixes.

    There is a legal sequence of every length as soon as some tag may stand alone (``O`` nearly always). Where none may
    (``B-X`` and ``E-X`` only), and without a scheme (""), all is allowed.

    Args:
        labels: the K tags in id order.
        scheme: as :func:`scheme` says it.

    Raises:
        ConfigError: if there is no such scheme.
    """
    size = len(labels)
    everything = np.ones(size, dtype=bool), np.ones((size, size), dtype=bool), np.ones(size, dtype=bool)
    if not scheme:
        return everything
    rules, parts = _rules(scheme), [split_tag(label) for label in labels]
    start = np.array([part == OUTSIDE or part[0] in {*rules.opens} for part in parts], dtype=bool)
    end = np.array([part == OUTSIDE or part[0] in {*rules.closes} for part in parts], dtype=bool)
    if not (start & end).any():
        return everything
    joint = f"{rules.inside} {rules.between}"
    step = np.array([[_fits(joint, before, part) for part in parts] for before in parts], dtype=bool)
    return start, step | (end[:, None] & start[None, :]), end


IMPOSSIBLE = -1e200
"""In place of -inf, so that a path of impossible tags is still better than an illegal one."""


def viterbi(scores: ArrayLike, start: Array, step: Array, end: Array) -> list[int]:
    """Return the legal sequence of tags with the largest sum of scores (Viterbi 1967, doi:10.1109/TIT.1967.1054010).

    Of equal sequences it is the one whose last tag has the smallest id, then the last but one, and so on.

    Args:
        scores: ``(n, K)`` float64, such as logits or log probabilities; -inf is allowed, nan and inf are not.
        start: ``(K,)`` bool, as :func:`transitions` gives it; likewise:
        step: ``(K, K)`` bool.
        end: ``(K,)`` bool.

    Raises:
        DataError: if a score is nan or inf.
        ConfigError: if no sequence of n tags is legal.
    """
    table = np.asarray(scores, dtype=np.float64)
    if len(table) == 0:
        return []
    if not (table < np.inf).all():
        raise DataError("A tag's score is nan or inf: look for a diverged training or a damaged model.")
    table = np.maximum(table, IMPOSSIBLE)
    barred = np.where(step, 0.0, -np.inf)
    best = table[0] + np.where(start, 0.0, -np.inf)
    origins = []
    for row in table[1:]:
        paths = best[:, None] + barred
        origins.append(paths.argmax(axis=0))
        best = paths.max(axis=0) + row
    best = best + np.where(end, 0.0, -np.inf)
    tag = int(best.argmax())
    if best[tag] == -np.inf:
        raise ConfigError(f"No sequence of {len(table)} tags is legal: start, step and end leave none.")
    path = [tag]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return path[::-1]


# Scores --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """What each sentence adds to the scores; float64, T types."""

    types: list[str]
    columns: Array
    """``(n, 3 T + 2)``: entities that are right, predicted, true, by type; words that are right; words."""


def compute(
    names: Sequence[str],
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    mode: str = "conlleval",
    scheme: str,
) -> dict[str, float]:
    """Return the scores ``names`` of all sentences, 0 to 1.

    Args:
        names: see :data:`SCORES`.
        predictions: the tags of each sentence.
        references: the true tags, as many.
        mode: ``conlleval`` or ``strict``.
        scheme: as :func:`scheme` says it; "" where only the tags are counted.

    Raises:
        ConfigError: if a score is unknown or does not fit, or there is no such mode or scheme.
        DataError: if there are no sentences, or a sentence has more tags on one side than on the other.
    """
    check_names(names, scheme)
    counts = _counts(predictions, references, mode, scheme)
    sums = counts.columns.sum(axis=0, keepdims=True)
    return dict(zip(names, _scores(names, sums)[0].tolist(), strict=True))


def intervals(
    names: Sequence[str],
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    mode: str = "conlleval",
    scheme: str,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return ``{"f1": [low, high]}``, 95 % bootstrap intervals over sentences; arguments as for :func:`compute`.

    A type that a resample does not hold does not enter its ``f1_macro``.

    Raises:
        ConfigError: as :func:`compute`.
        DataError: as :func:`compute`.
    """
    check_names(names, scheme)
    columns = _counts(predictions, references, mode, scheme).columns
    return of_sums(names, columns, lambda sums: _scores(names, sums), resamples=resamples, seed=seed)


def tally(
    names: Sequence[str],
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    mode: str = "conlleval",
    scheme: str,
) -> Tally:
    """Return what each sentence adds to the scores ``names``; arguments as for :func:`compute`.

    Raises:
        ConfigError: as :func:`compute`.
        DataError: as :func:`compute`.
    """
    check_names(names, scheme)
    columns = _counts(predictions, references, mode, scheme).columns
    return significance.of_sums(names, columns, lambda sums: _scores(names, sums))


def by_type(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    mode: str = "conlleval",
    scheme: str,
) -> dict[str, dict[str, float]]:
    """Return ``{"PER": {"precision", "recall", "f1", "number"}}``, by type; ``number`` is how many are true.

    Raises:
        ConfigError: if there is no such mode or scheme.
        DataError: as :func:`compute`.
    """
    counts = _counts(predictions, references, mode, scheme)
    hits, predicted, true = np.split(counts.columns.sum(axis=0)[:-2], 3)
    return {
        kind: {"precision": float(p), "recall": float(r), "f1": float(f1), "number": int(number)}
        for kind, p, r, f1, number in zip(counts.types, *_ratios(hits, predicted, true), true, strict=True)
    }


def _counts(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], mode: str, scheme: str
) -> _Counts:
    check_lengths(predictions, references)
    chunks_in = _reader(mode, scheme)
    pairs = [(set(chunks_in(given)), set(chunks_in(true))) for given, true in zip(predictions, references, strict=True)]
    types = sorted({chunk[0] for pair in pairs for side in pair for chunk in side})
    place = {kind: column for column, kind in enumerate(types)}
    columns = np.zeros((len(pairs), 3 * len(types) + 2))
    for row, (given, true), tags, true_tags in zip(columns, pairs, predictions, references, strict=True):
        for part, found in enumerate((given & true, given, true)):
            for kind, _, _ in found:
                row[part * len(types) + place[kind]] += 1
        row[-2:] = sum(map(eq, tags, true_tags)), len(true_tags)
    return _Counts(types=types, columns=columns)


def _reader(mode: str, scheme: str) -> Callable[[Sequence[str]], list[Chunk]]:
    if mode not in MODES:
        raise ConfigError(f"Counting '{mode}' is not one of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
    if not scheme:
        return lambda _: []
    rules = _rules(scheme)
    if mode == "strict":
        return lambda tags: strict_chunks_of([split_tag(tag) for tag in tags], rules)
    return chunks


def check_lengths(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> None:
    """Check that there are sentences, and as many tags in each on both sides.

    Raises:
        DataError: if not, with the first sentence that differs.
    """
    if len(predictions) != len(references):
        raise DataError(f"There are {len(predictions)} predicted sentences and {len(references)} true ones.")
    if not len(references):
        raise DataError("There are no sentences to score: the split is empty.")
    for number, (given, true) in enumerate(zip(predictions, references, strict=True), start=1):
        if len(given) != len(true):
            raise DataError(
                f"Sentence {number} has {len(given)} predicted tags and {len(true)} true ones: give one a word."
            )


def _scores(names: Sequence[str], sums: Array) -> Array:
    """Return the scores ``(R, names)`` of sums ``(R, 3 T + 2)``."""
    parts = np.split(sums[:, :-2], 3, axis=1)
    micro = _ratios(*(part.sum(axis=1) for part in parts))
    scores = dict(zip(("precision", "recall", "f1"), micro, strict=True))
    present = (parts[1] + parts[2] > 0).sum(axis=1)
    scores["f1_macro"] = _ratio(_ratios(*parts)[2].sum(axis=1), present.astype(np.float64))
    scores["tag_accuracy"] = _ratio(sums[:, -2], sums[:, -1])
    return np.stack([scores[name] for name in names], axis=1)


def _ratios(hits: Array, predicted: Array, true: Array) -> tuple[Array, Array, Array]:
    """Return precision, recall and F1, in the order of operations that makes them seqeval's to the last digit."""
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    return precision, recall, _ratio(2 * precision * recall, precision + recall)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
