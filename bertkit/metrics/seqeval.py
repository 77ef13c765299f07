"""Entity scores, as the published ``seqeval`` metric takes and returns them, without seqeval.

Choices of seqeval 1.2.2 that are kept:

- Without ``mode="strict"`` the scheme is not looked at, and L and U of BILOU are no prefixes: give the scheme and the
  mode, or use :mod:`bertkit.metrics.tagging`, which knows them.
- Strict IOB1: see :mod:`bertkit.metrics.tagging`. Strict IOE1: E ends a chunk only before I or E of its type.
- Strict without a scheme: the prefixes of the references tell it, IOB1 is never found, and tags with I and O only, or
  with S (or U) and O only, are an error.
- The first character is the prefix and the rest the type, also of tags that are none (``NOUN``): a warning says so.
- ``sample_weight`` changes nothing, which seqeval does not say; here a warning does.

Ours: numbers are plain floats and ints; each warning comes once; no words at all are an accuracy of 0.0; an unknown
mode is refused rather than ignored.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import evaluate

from bertkit.errors import ConfigError, DataError, did_you_mean
from bertkit.metrics.base import OfflineMetric, pair_features
from bertkit.metrics.tagging import NO_TYPE, RULES, Part, Rules, check_lengths, chunks_of, strict_chunks_of

SCHEMES = {
    **{name: RULES[name] for name in ("IOB1", "IOB2")},
    "IOE1": Rules("OI II! EI EE=", "II= IE=", "II! IO IE! EI= EE="),
    "IOE2": Rules("OI OE EI EE II! IE!", "IE= II=", "E*"),
    **{name: RULES[name] for name in ("IOBES", "BILOU")},
}
PREFIXES = {"IOB1": "IOB", "IOB2": "IOB", "IOE1": "IOE", "IOE2": "IOE", "IOBES": "IOBES", "BILOU": "BILOU"}
DETECTED = {
    "IOB2": ("B", "BI"),
    "IOE2": ("E", "EI"),
    "IOBES": ("BEIS", "BEI", "BES", "BE"),
    "BILOU": ("BILU", "BIL", "BLU", "BL"),
}
"""Scheme -> the prefixes apart from O, sorted, of which any tells it."""

Found = set[tuple[str, int, int, int]]
"""Chunks: type, sentence, first word, and the word after the last."""


class Seqeval(OfflineMetric):
    """Entity precision, recall and F1 by type and over all, and the accuracy of the tags."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Entity precision, recall and F1 by type and over all, and the accuracy of the tags.",
            citation="Ramshaw and Marcus: Text Chunking using Transformation-Based Learning. Third Workshop on Very "
            "Large Corpora (1995). Nakayama: seqeval (2018).",
            inputs_description="""
Args:
    predictions: the tags of each sentence, as text.
    references: the true tags, as many.
    suffix: whether the prefix stands behind the type, as in 'PER-B'; false by default.
    scheme: 'IOB1', 'IOB2', 'IOE1', 'IOE2', 'IOBES' or 'BILOU', for mode 'strict'; by default read off the references.
    mode: None (default) to count as conlleval does, 'strict' to count only chunks that are legal in the scheme.
    sample_weight: taken because the published metric takes it; changes nothing, as there.
    zero_division: what a score is where nothing is predicted or nothing is true: 0, 1, or 'warn' (default) for 0 and
        an UndefinedMetricWarning.

Returns:
    overall_precision, overall_recall, overall_f1, overall_accuracy: between 0 and 1.
    One entry a type: precision, recall, f1, and number, how many are true.
""",
            features=pair_features("string", several=True),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        suffix: bool = False,
        scheme: str | None = None,
        mode: str | None = None,
        sample_weight: Any = None,
        zero_division: Any = "warn",
    ) -> dict[str, Any]:
        _check_settings(scheme, mode, zero_division)
        if sample_weight is not None:
            warnings.warn("'seqeval' takes sample_weight and does not use it: no score changes.", stacklevel=2)
        predicted, true = ([list(tags) for tags in column] for column in (predictions, references))
        check_lengths(predicted, true)
        chunks_in = _strict(true, scheme, suffix) if mode == "strict" else _conlleval(suffix)
        scores = _scores(chunks_in(predicted), chunks_in(true), zero_division)
        pairs = [pair for tags in zip(predicted, true, strict=True) for pair in zip(*tags, strict=True)]
        return scores | {"overall_accuracy": sum(a == b for a, b in pairs) / max(len(pairs), 1)}


def _check_settings(scheme: str | None, mode: str | None, zero_division: Any) -> None:
    if scheme is not None and scheme not in SCHEMES:
        raise ConfigError(f"Scheme '{scheme}' is not one of {', '.join(SCHEMES)}.{did_you_mean(str(scheme), SCHEMES)}")
    if mode not in (None, "strict"):
        raise ConfigError(f"Mode '{mode}' is not 'strict' or None, which counts as conlleval does.")
    if zero_division not in ("warn", 0, 1):
        raise ConfigError(f"zero_division is '{zero_division}'; it must be 'warn', 0 or 1.")


def _conlleval(suffix: bool) -> Callable[[Sequence[Sequence[str]]], Found]:
    def chunks_in(sequences: Sequence[Sequence[str]]) -> Found:
        # All sentences as one, as seqeval reads them: where tags are no chunk tags, that shows.
        line = [_split(tag, suffix) for tags in sequences for tag in (*tags, "O")]
        _warn_of_other_tags({tag for tags in sequences for tag in tags}, suffix)
        return {(kind, 0, start, stop) for kind, start, stop in chunks_of(line)}

    return chunks_in


def _split(tag: str, suffix: bool) -> Part:
    """Return prefix and type as seqeval's default mode reads them: one character, and what a dash parts from it."""
    if not tag:
        raise DataError("A tag is empty: every word needs one; 'O' is outside.")
    if suffix:
        return tag[-1], tag[:-1].rsplit("-", 1)[0] or NO_TYPE
    return tag[0], tag[1:].split("-", 1)[-1] or NO_TYPE


def _warn_of_other_tags(tags: set[str], suffix: bool) -> None:
    at = -1 if suffix else 0
    chunk_tags = {tag for tag in tags if tag in {*"OBIES"} or (tag.split("-")[at] in {*"BIES"} and "-" in tag)}
    if others := sorted(tags - chunk_tags):
        shown = ", ".join(f"'{tag}'" for tag in others[:8])
        warnings.warn(f"Not tags of entities, but counted: {shown}.", stacklevel=2)


def _strict(
    references: Sequence[Sequence[str]], scheme: str | None, suffix: bool
) -> Callable[[Sequence[Sequence[str]]], Found]:
    scheme = scheme or _detected({_strict_split(tag, suffix)[0] for tags in references for tag in tags})

    def chunks_in(sequences: Sequence[Sequence[str]]) -> Found:
        found = set()
        for number, tags in enumerate(sequences):
            parts = [_strict_split(tag, suffix) for tag in tags]
            for tag, part in zip(tags, parts, strict=True):
                if part[0] not in PREFIXES[scheme]:
                    raise DataError(
                        f"Tag '{tag}' is not of {scheme}, which has {', '.join(PREFIXES[scheme])}: give its scheme."
                    )
            found |= {(kind, number, start, stop) for kind, start, stop in strict_chunks_of(parts, SCHEMES[scheme])}
        return found

    return chunks_in


def _strict_split(tag: str, suffix: bool) -> Part:
    """Return prefix and type as seqeval's strict mode reads them: one character, and the rest without dashes around."""
    prefix, kind = _split(tag, suffix)[0], tag[:-1] if suffix else tag[1:]
    if prefix not in "OBIESLU":
        raise DataError(f"Tag '{tag}' has none of the prefixes O, B, I, E, S, L, U: strict counting needs one.")
    return prefix, kind.strip("-") or NO_TYPE


def _detected(prefixes: set[str]) -> str:
    sorted_prefixes = "".join(sorted(prefixes - {"O"}))
    for scheme, several in DETECTED.items():
        if sorted_prefixes in several:
            return scheme
    if prefixes in ({"S"}, {"U"}):
        return "IOBES" if prefixes == {"S"} else "BILOU"
    raise DataError(
        f"The prefixes of the references, {', '.join(sorted(prefixes)) or 'none'}, do not tell the scheme: "
        f"give scheme, one of {', '.join(SCHEMES)}."
    )


def _scores(predicted: Found, true: Found, zero_division: Any) -> dict[str, Any]:
    """Return the scores of each type, sorted, and those of all."""
    hits, given, right = (Counter(chunk[0] for chunk in found) for found in (predicted & true, predicted, true))
    types = sorted(given | right)
    if zero_division == "warn":
        _warn_of_zeros("Precision", "predicted", [kind for kind in types if not given[kind]], bool(predicted))
        _warn_of_zeros("Recall", "true", [kind for kind in types if not right[kind]], bool(true))
    zero = 1.0 if zero_division == 1 else 0.0
    scores: dict[str, Any] = {
        kind: {**_ratios(hits[kind], given[kind], right[kind], zero), "number": right[kind]} for kind in types
    }
    overall = _ratios(hits.total(), given.total(), right.total(), zero)
    return scores | {f"overall_{name}": value for name, value in overall.items()}


def _ratios(hits: int, predicted: int, true: int, zero: float) -> dict[str, float]:
    """Return the scores, in the order of operations that makes them seqeval's to the last digit."""
    precision = hits / predicted if predicted else zero
    recall = hits / true if true else zero
    both = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}


def _warn_of_zeros(score: str, what: str, types: Sequence[str], any_at_all: bool) -> None:
    from sklearn.exceptions import UndefinedMetricWarning

    places = [f"'{kind}'" for kind in types] + ([] if any_at_all else ["all types together"])
    if places:
        warnings.warn(
            f"{score} and F1 are not defined and set to 0.0 for {', '.join(places)}: no {what} entities. "
            "zero_division=0 or 1 says what they are.",
            UndefinedMetricWarning,
            stacklevel=2,
        )
