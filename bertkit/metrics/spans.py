"""Exact match and F1 of answers that are text, by the rules of the official scripts, to the last digit.

- ``squad``: SQuAD 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1). Words that both answers share, as bags.
- ``squad_v2``: SQuAD 2.0 (Rajpurkar et al. 2018, arXiv:1806.03822). The same, but references that normalise to nothing
  are dropped, a question without references wants an empty answer, and two empty answers have an F1 of 1 rather than 0.
- ``cmrc2018``: CMRC 2018 (Cui et al. 2019, arXiv:1810.07366, section 4). Chinese characters one by one, other text as
  Penn Treebank words; F1 by the longest run of tokens that both answers have. A question without references, which that
  set does not have, wants an empty answer. The script has NLTK find the words, with a learned list of abbreviations;
  here the rules stand in short, so that an English sentence inside an answer may, rarely, differ in a token.

Sums go from the first row to the last, as the scripts' do: pairwise sums differ in the last digit.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from bertkit.errors import ConfigError, DataError, did_you_mean
from bertkit.metrics import interval, significance
from bertkit.metrics.classification import Array
from bertkit.metrics.names import Score
from bertkit.metrics.significance import Tally

Rules = Literal["squad", "squad_v2", "cmrc2018"]

SCORES = {
    "exact_match": Score(
        summary="answers equal to a reference, letter case, punctuation and articles apart, 0 to 100",
        kinds=("span-qa",),
    ),
    "f1": Score(summary="mean overlap of the answer's words with the best reference, 0 to 100", kinds=("span-qa",)),
}
"""All there are; where a task names none, F1 selects the best checkpoint."""

_COLUMNS = tuple(SCORES)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# One question ---------------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and English articles, words apart by one space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(answer: str, references: Sequence[str], *, rules: Rules = "squad") -> float:
    """Return 1.0 if the answer equals a reference by the rules, else 0.0.

    Raises:
        ConfigError: if there are no such rules.
        DataError: if ``squad`` is to score a question without references.
    """
    return _exact_and_f1(answer, references, rules)[0]


def f1(answer: str, references: Sequence[str], *, rules: Rules = "squad") -> float:
    """Return the answer's F1, 0..1, with the reference that gives most.

    Raises:
        ConfigError: if there are no such rules.
        DataError: if ``squad`` is to score a question without references.
    """
    return _exact_and_f1(answer, references, rules)[1]


def _exact_and_f1(answer: str, references: Sequence[str], rules: Rules) -> tuple[float, float]:
    _check_rules(rules)
    if rules == "cmrc2018":
        return _chinese(answer, references)
    given = normalise(answer)
    wanted = [normalise(reference) for reference in references]
    if rules == "squad_v2":
        wanted = [reference for reference in wanted if reference] or [""]
    if not wanted:
        raise DataError("The question has no reference answer, and rules 'squad' know none such: use rules 'squad_v2'.")
    return float(given in wanted), max(_overlap(given, reference, rules) for reference in wanted)


def _overlap(given: str, wanted: str, rules: Rules) -> float:
    """Return the F1 of two normalised texts as bags of words."""
    given_words, wanted_words = given.split(), wanted.split()
    if rules == "squad_v2" and not (given_words and wanted_words):
        return float(given_words == wanted_words)
    common = Counter(given_words) & Counter(wanted_words)
    return _harmonic(sum(common.values()), len(given_words), len(wanted_words))


def _harmonic(common: int, given: int, wanted: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / given, common / wanted
    # The scripts' own order of operations; 2 * common / (given + wanted) differs in the last digit.
    return (2 * precision * recall) / (precision + recall)


# Chinese --------------------------------------------------------------------------------------------------------------

_DROPPED = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""Punctuation that CMRC 2018 does not count. Its list also has two ellipses, which equal no single character."""
_CHINESE_OR_RUN = re.compile(r"[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+")
_ABBREVIATION = re.compile(
    r"(?:[^\W\d_]|\d+|(?!e\.g|i\.e)[^\W\d_]\.[^\W\d_]|u\.s\.a|ph\.d"
    r"|mrs?|ms|messrs|dr|prof|rep|sen|gen|lt|maj|col|st|jr|sr|co|corp|inc|ltd|bros|vs"
    r"|jan|feb|mar|aug|sept?|oct|nov|dec)\."
)
"""A word whose period ends no sentence: an initial, a number, ``u.s.``, and the usual ones."""
_TREEBANK = re.compile(
    r"""
    \.{2,} | '' | [;@\#$%&?!()\[\]{}<>"«»‘„] | [,](?!\d)    # these stand alone
    | (?: (?!''|\.\.) [^\s;@\#$%&?!()\[\]{}<>"«»‘„,] | ,(?=\d) )+
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(.*[^'])('[smd]?|'ll|'re|'ve)|(.+)(n't)")
_TWO_WORDS = re.compile(r"\b(?:can(?=not\b)|(?:gim|lem)(?=me\b)|(?:gon|wan)(?=na\b)|got(?=ta\b))|'(?=\w\b)(?![dmnst])")
"""What is followed by another word without a space: ``can|not``, and a quote before a letter that is no clitic."""
_CLOSING = "])}>\"'» "


def _chinese(answer: str, references: Sequence[str]) -> tuple[float, float]:
    given = _without_punctuation(answer)
    if not references:
        return (float(not given),) * 2
    wanted = [_without_punctuation(reference) for reference in references]
    tokens = _segments(given)
    return float(given in wanted), max(_longest_run(tokens, _segments(reference)) for reference in wanted)


def _without_punctuation(text: str) -> str:
    return text.lower().strip().translate(_DROPPED)


def _longest_run(given: list[str], wanted: list[str]) -> float:
    """Return the F1 of two token lists by the longest run that is in both."""
    match = SequenceMatcher(None, given, wanted, autojunk=False).find_longest_match()
    return _harmonic(match.size, len(given), len(wanted))


def _segments(text: str) -> list[str]:
    """Return Chinese characters one by one, and the words of what stands between them."""
    return [token for part in _CHINESE_OR_RUN.findall(text) for token in _words(part)]


def _words(text: str) -> list[str]:
    """Return the words as the Penn Treebank has them: ``it's 3.5%.`` is ``it``, ``'s``, ``3.5``, ``%``, ``.``."""
    if "\u4e00" <= text[0] <= "\u9fa5":
        return [text]
    text = _TWO_WORDS.sub(r"\g<0> ", text)
    return [word for sentence in _sentences(text) for word in _sentence_words(sentence)]


def _sentences(text: str) -> list[str]:
    """Return the parts between white space that follows ``?``, ``!`` or the period of no abbreviation."""
    sentences, words = [], []
    for word in text.split():
        words.append(word)
        bare = word.rstrip(_CLOSING)
        if bare.endswith(("?", "!")) or (bare.endswith(".") and not _ABBREVIATION.fullmatch(bare)):
            sentences.append(" ".join(words))
            words = []
    return [*sentences, " ".join(words)] if words else sentences


def _sentence_words(sentence: str) -> list[str]:
    body = sentence.rstrip(_CLOSING)
    # Only a sentence's last period is a word of its own.
    period = len(body) if body.endswith(".") else -1
    words: list[str] = []
    for match in _TREEBANK.finditer(sentence):
        word, before = match.group(), sentence[match.start() - 1] if match.start() else " "
        last = match.end() == period and word.strip(".") != ""
        words += _parts(word[:-1] if last else word, opening=before in " ([{<")
        words += ["."] if last else []
    return words


def _parts(word: str, *, opening: bool) -> tuple[str, ...]:
    if word in ('"', "''"):
        return ("``",) if opening else ("''",)
    if split := _CLITIC.fullmatch(word):
        stem, clitic = (group for group in split.groups() if group is not None)
        return stem, clitic
    return (word,)


# All questions --------------------------------------------------------------------------------------------------------


def raw(answers: Sequence[str], references: Sequence[Sequence[str]], *, rules: Rules) -> Array:
    """Return exact match and F1 of each question, 0..1: ``(n, 2)`` float64.

    Args:
        answers: one a question; an empty one says that there is no answer.
        references: the accepted answers of each question; none where it has no answer.
        rules: ``squad``, ``squad_v2`` or ``cmrc2018``; see the module.

    Raises:
        ConfigError: if there are no such rules.
        DataError: if there are no rows, or not as many references; if ``squad`` meets a question without references.
    """
    _check_rules(rules)
    if len(answers) != len(references):
        raise DataError(
            f"There are {len(answers)} answers and {len(references)} lists of references. "
            "Both must be the same questions in order."
        )
    if not len(answers):
        raise DataError("There are no questions to score. Is the split empty, or without answers?")
    if rules == "squad" and (missing := [row for row, accepted in enumerate(references, start=1) if not accepted]):
        raise DataError(
            f"Question {missing[0]} has no reference answer, and rules 'squad' know none such: use rules 'squad_v2'."
        )
    pairs = zip(answers, references, strict=True)
    return np.array([_exact_and_f1(answer, accepted, rules) for answer, accepted in pairs], dtype=np.float64)


def compute(
    names: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]], *, rules: Rules
) -> dict[str, float]:
    """Return the scores ``names``, see :data:`SCORES`, each 0..100.

    Raises:
        ConfigError: if a score or the rules are unknown.
        DataError: as :func:`raw` has it.
    """
    check_names(names)
    return means(names, raw(answers, references, rules=rules))


def intervals(
    names: Sequence[str],
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    rules: Rules,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return the 95 % bootstrap interval ``[low, high]`` of each score, 0..100; the same for the same seed.

    Raises:
        ConfigError: if a score or the rules are unknown.
        DataError: as :func:`raw` has it.
    """
    check_names(names)
    return mean_intervals(names, raw(answers, references, rules=rules), resamples=resamples, seed=seed)


def means(names: Sequence[str], questions: Array) -> dict[str, float]:
    """Return the scores ``names``, 0..100, of what :func:`raw` returned, ``(n, 2)``.

    Raises:
        ConfigError: if a score is unknown.
        DataError: if there are no rows.
    """
    check_names(names)
    if not len(questions):
        raise DataError("There are no questions to score. Is the split empty, or without answers?")
    return {name: _percent(questions[:, _COLUMNS.index(name)]) for name in names}


def mean_intervals(
    names: Sequence[str], questions: Array, *, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float]]:
    """Return the intervals of :func:`means`.

    Raises:
        ConfigError: if a score is unknown.
    """
    check_names(names)
    chosen = [_COLUMNS.index(name) for name in names]
    count = len(questions)
    return interval.of_sums(
        names, questions, lambda sums: 100 * sums[:, chosen] / count, resamples=resamples, seed=seed
    )


def tally(names: Sequence[str], questions: Array) -> Tally:
    """Return what each question adds to the scores of :func:`means`.

    Raises:
        ConfigError: if a score is unknown.
    """
    check_names(names)
    chosen = [_COLUMNS.index(name) for name in names]
    rows = np.column_stack([questions[:, chosen], np.ones(len(questions))])
    shares = [name for name in names if name == "exact_match"]
    return significance.of_sums(names, rows, lambda sums: 100 * sums[:, :-1] / sums[:, -1:], shares=shares)


def check_names(names: Sequence[str]) -> None:
    """Check that every score exists.

    Raises:
        ConfigError: naming the first that does not.
    """
    for name in names:
        if name not in SCORES:
            raise ConfigError(
                f"No metric '{name}' for span QA.{did_you_mean(name, SCORES)} There are {', '.join(SCORES)}."
            )


def _check_rules(rules: str) -> None:
    if rules not in get_args(Rules):
        known = ", ".join(get_args(Rules))
        raise ConfigError(f"Rules '{rules}' are not one of {known}.{did_you_mean(rules, get_args(Rules))}")


def _total(values: Array) -> float:
    """Add up from first to last; neither ``np.sum`` nor, since Python 3.12, ``sum`` does."""
    return float(np.cumsum(values)[-1])


def _percent(values: Array) -> float:
    return 100.0 * _total(values) / len(values)


# No answer ------------------------------------------------------------------------------------------------------------


def with_threshold(questions: Array, no_answer_scores: ArrayLike, has_answer: ArrayLike, threshold: float) -> Array:
    """Return the scores ``(n, 2)`` where a no-answer score above ``threshold`` means an empty answer.

    Args:
        questions: ``(n, 2)``, from :func:`raw`.
        no_answer_scores: ``(n,)``, the higher, the less of an answer; None where there was no span at all.
        has_answer: ``(n,)`` bool, the truth.
        threshold: of the no-answer scores.

    Raises:
        DataError: if the lengths differ or a score is nan.
    """
    scores, has = _checked(questions, no_answer_scores, has_answer)
    unanswered = scores > threshold
    return np.where(unanswered[:, None], (~has).astype(np.float64)[:, None], questions)


def split_by_answer(questions: Array, has_answer: ArrayLike) -> dict[str, float]:
    """Return the scores, 0..100, and counts of the questions with an answer and of those without.

    Args:
        questions: ``(n, 2)``, from :func:`raw` or :func:`with_threshold`.
        has_answer: ``(n,)`` bool.

    Returns:
        ``HasAns_exact``, ``HasAns_f1``, ``HasAns_total``, and the same for ``NoAns``; only those that have questions.
    """
    has = np.asarray(has_answer, dtype=bool)
    scores: dict[str, float] = {}
    for part, rows in (("HasAns", questions[has]), ("NoAns", questions[~has])):
        if len(rows):
            scores |= {f"{part}_exact": _percent(rows[:, 0]), f"{part}_f1": _percent(rows[:, 1])}
            scores[f"{part}_total"] = len(rows)
    return scores


def best_threshold(
    raw_answered: Array,
    no_answer_scores: ArrayLike,
    has_answer: ArrayLike,
    *,
    answered: ArrayLike | None = None,
    attainable: bool = False,
) -> dict[str, float]:
    """Return the best scores that a no-answer threshold gives, and the thresholds; the lowest one where several do.

    Args:
        raw_answered: ``(n, 2)``, from :func:`raw`, of what was answered regardless of any threshold.
        no_answer_scores: ``(n,)``, the higher, the less of an answer; None or inf where there was no span.
        has_answer: ``(n,)`` bool, the truth.
        answered: ``(n,)`` bool, whether the answer is other than an empty string. By default, of questions without an
            answer, those that got no exact match.
        attainable: The official search, made for probabilities, has 0.0 for "answer nothing", which is wrong where a
            score is 0 or less, and may cut between equal scores, which no threshold can. True: neither.

    Returns:
        ``best_exact``, ``best_exact_thresh``, ``best_f1``, ``best_f1_thresh``; scores 0..100.

    Raises:
        DataError: if there are no rows, the lengths differ or a score is nan.
    """
    scores, has = _checked(raw_answered, no_answer_scores, has_answer)
    attempted = raw_answered[:, 0] == 0 if answered is None else np.asarray(answered, dtype=bool)
    order = np.argsort(scores, kind="stable")
    best: dict[str, float] = {}
    for name, column in (("exact", raw_answered[:, 0]), ("f1", raw_answered[:, 1])):
        # What answering one more question adds to the score of answering none.
        gains = np.where(np.isposinf(scores), 0.0, np.where(has, column, np.where(attempted, -1.0, 0.0)))[order]
        totals = np.cumsum(np.concatenate([[np.count_nonzero(~has)], gains]))
        most, threshold = _highest(totals, scores[order], attainable=attainable)
        best |= {f"best_{name}": 100.0 * most / len(scores), f"best_{name}_thresh": threshold}
    return best


def _highest(totals: Array, ordered: Array, *, attainable: bool) -> tuple[float, float]:
    """Return the highest total and its threshold.

    Args:
        totals: ``(n + 1,)``, of answering the first 0..n questions.
        ordered: their no-answer scores ``(n,)``, ascending.
    """
    lowest = 0.0
    if attainable:
        tied = np.concatenate([[False], ordered[:-1] == ordered[1:], [False]])
        totals = np.where(tied, -np.inf, totals)
        lowest = float(np.nextafter(ordered[0], -np.inf)) if np.isfinite(ordered[0]) else 0.0
    best = int(np.argmax(totals))
    return float(totals[best]), float(ordered[best - 1]) if best else lowest


def _checked(questions: Array, no_answer_scores: ArrayLike, has_answer: ArrayLike) -> tuple[Array, Array]:
    """Return the scores ``(n,)`` float64 with inf for None, and the truth ``(n,)`` bool."""
    given = [np.inf if score is None else score for score in np.asarray(no_answer_scores, dtype=object).tolist()]
    scores, has = np.asarray(given, dtype=np.float64), np.asarray(has_answer, dtype=bool)
    if not len(questions) == len(scores) == len(has):
        raise DataError(
            f"There are {len(questions)} scored answers, {len(scores)} no-answer scores and {len(has)} truths. "
            "All must be the same questions in order."
        )
    if not len(scores):
        raise DataError("There are no questions to find a threshold on. Is the split empty?")
    if np.isnan(scores).any():
        row = int(np.argmax(np.isnan(scores))) + 1
        raise DataError(f"The no-answer score of question {row} is nan: it must be a number, or None without a span.")
    return scores, has
