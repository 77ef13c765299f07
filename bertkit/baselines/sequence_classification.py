"""The baselines of classification and regression: the commonest answer, and linear models without context.

Features and settings are chosen by cross-validation on train, by the task's first metric over the pooled predictions
of the held-out folds: no scored row is looked at. Of a pair, a model sees both texts and how much they share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bertkit.adapters.base import Adapter, Example, Feature, Prediction
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.adapters.words import IDEOGRAPHS, of_text
from bertkit.baselines import Baseline
from bertkit.data import Split
from bertkit.data import word_vectors as vector_files
from bertkit.data.word_vectors import Vectors
from bertkit.errors import DataError
from bertkit.events import Listener, Note, Phase

if TYPE_CHECKING:
    import numpy as np

C = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse strengths of regularisation that are tried, the strongest first; ridge's alpha is 1 / C."""
FOLDS = 5
MOST_ROWS = 20_000
"""Training rows on which a setting is chosen; the model itself is fitted on all."""
MOST_FEATURES = 200_000
"""Words and word pairs that TF-IDF keeps: the commonest."""
ITERATIONS = 2_000
FLOOR = -30.0
"""Logit of a class that the training rows do not hold."""
_IDEOGRAPH = "".join(f"{chr(first)}-{chr(last)}" for first, last in IDEOGRAPHS)
WORD = rf"[{_IDEOGRAPH}]|[^\W{_IDEOGRAPH}]+|[^\w\s]"
"""A word for TF-IDF: letters and digits, or a single ideograph or punctuation mark."""

Row = tuple[str, ...]
"""A text, or a pair of texts."""
Matrix = Any
"""``(n, F)`` float: a NumPy array or a scipy sparse matrix."""
Logits = Callable[[Matrix], "np.ndarray"]
"""From features ``(n, F)`` to logits ``(n, W)``: W is K, and 1 for regression."""


class Features(Protocol):
    """Turns rows into numbers."""

    def fit(self, rows: Sequence[Row]) -> Matrix:
        """Learn what is to be learned from training rows, and return their features."""

    def transform(self, rows: Sequence[Row]) -> Matrix:
        """Return the features of other rows."""


class Problem(NamedTuple):
    """Training rows and what a model should say of them."""

    adapter: SequenceClassification
    examples: Sequence[Example]
    rows: list[Row]
    targets: np.ndarray
    """Ids ``(n,)`` int64, ``(n, K)`` 0/1 or numbers ``(n,)`` float64."""


def fit(
    adapter: Adapter, splits: Mapping[str, Split], *, seed: int, vectors: Path | None, tell: Listener
) -> Iterator[Baseline]:
    """Yield ``majority`` (``mean``), ``tfidf`` and, with a file, ``vectors``; see :class:`bertkit.baselines.Fit`."""
    assert isinstance(adapter, SequenceClassification)
    examples = splits["train"].examples
    problem = Problem(adapter, examples, _rows(adapter, examples), _targets(adapter, examples))
    yield _commonest(problem)
    if len({str(target) for target in problem.targets}) < 2:
        tell(Note(message="all training rows have the same label, so there is nothing for a linear model to learn"))
        return
    yield _linear(problem, "tfidf", "TF-IDF of words and word pairs", Tfidf, seed, tell)
    if vectors is not None:
        table = _vectors(adapter, vectors, [example for split in splits.values() for example in split.examples], tell)
        summary = f"mean of the word vectors of {vectors.name}"
        yield _linear(problem, "vectors", summary, lambda: Means(table), seed, tell)


# Rows, targets, predictions ------------------------------------------------------------------------------------------


def _rows(adapter: SequenceClassification, examples: Sequence[Example]) -> list[Row]:
    roles = ("text", "text_pair") if "text_pair" in adapter.task.columns else ("text",)
    return list(zip(*(adapter.texts(examples, role) for role in roles), strict=True))


def _targets(adapter: SequenceClassification, examples: Sequence[Example]) -> np.ndarray:
    import numpy as np

    return np.array([adapter.target(adapter.cell(example)) for example in examples])


def _decoded(adapter: SequenceClassification, logits: np.ndarray, examples: Sequence[Example]) -> list[Prediction]:
    """Return what the adapter makes of logits ``(n, W)``."""
    features = [Feature(example=index, input_ids=[]) for index in range(len(examples))]
    return adapter.decode(list(logits), features, examples)


# Models --------------------------------------------------------------------------------------------------------------


def _commonest(problem: Problem) -> Baseline:
    """Return the model that says the same of every row: the commonest label, or the mean."""
    import numpy as np

    adapter = problem.adapter
    logits = _constant(adapter, problem.targets)
    (said,) = _decoded(adapter, logits[None], problem.examples[:1])
    if adapter.kind == "regression":
        name, summary = "mean", f"the mean of train, {said['value']:.4g}"
    elif adapter.kind == "multi":
        shown = ", ".join(map(repr, said["labels"])) or "none"
        name, summary = "majority", f"the labels that most training rows have: {shown}"
    else:
        name, summary = "majority", f"the commonest label of train, '{said['label']}'"
    return Baseline(
        name=name,
        summary=summary,
        predict=lambda examples: _decoded(adapter, np.tile(logits, (len(examples), 1)), examples),
    )


def _constant(adapter: SequenceClassification, targets: np.ndarray) -> np.ndarray:
    """Return the logits ``(W,)`` of what is known without a look at the text: log frequencies, log odds, the mean."""
    import numpy as np

    if adapter.kind == "regression":
        return np.array([targets.mean()])
    with np.errstate(divide="ignore"):
        if adapter.kind == "multi":
            shares = targets.mean(axis=0)
            logits = np.log(shares) - np.log1p(-shares)
        else:
            logits = np.log(np.bincount(targets, minlength=len(adapter.labels)) / len(targets))
    return np.array(np.clip(logits, FLOOR, -FLOOR))


def _linear(
    problem: Problem, name: str, what: str, make: Callable[[], Features], seed: int, tell: Listener
) -> Baseline:
    """Return a linear model on features, its C chosen by cross-validation."""
    adapter = problem.adapter
    tell(Phase(name=f"fitting {name}"))
    strength, how = _chosen(problem, make, seed)
    features = make()
    logits = _fitted(adapter, features.fit(problem.rows), problem.targets, strength)
    model = "ridge regression, alpha" if adapter.kind == "regression" else "logistic regression, C"
    value = 1 / strength if adapter.kind == "regression" else strength
    pair = " of both texts, and what they share," if len(problem.rows[0]) > 1 else ""
    return Baseline(
        name=name,
        summary=f"{what}{pair} + {model} = {value:.3g} {how}",
        predict=lambda examples: _decoded(adapter, logits(features.transform(_rows(adapter, examples))), examples),
    )


def _chosen(problem: Problem, make: Callable[[], Features], seed: int) -> tuple[float, str]:
    """Return the C that scores best over the held-out folds of train, the smallest of equals, and how it was found."""
    import numpy as np

    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(problem.rows))[:MOST_ROWS])
    if len(some) < 2 * FOLDS:
        return 1.0, "(too few rows to choose one)"
    examples, rows = [problem.examples[i] for i in some], [problem.rows[i] for i in some]
    adapter, targets = problem.adapter, problem.targets[some]
    folds = _folds(targets, rng, stratified=adapter.kind != "regression")
    logits = {strength: np.empty((len(rows), adapter.num_outputs or len(adapter.labels))) for strength in C}
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        features = make()
        seen, unseen = features.fit([rows[i] for i in inside]), features.transform([rows[i] for i in outside])
        for strength in C:
            logits[strength][outside] = _fitted(adapter, seen, targets[inside], strength)(unseen)
    metric, best, best_score = adapter.task.metrics[0], C[0], None
    for strength in C:
        score = float(adapter.score(_decoded(adapter, logits[strength], examples), examples)[metric])
        if adapter.better(score, best_score):
            best, best_score = strength, score
    of = f"{len(some):,} of {len(problem.rows):,} training rows" if len(some) < len(problem.rows) else "train"
    shown = "" if best_score is None else f", {metric} {best_score:.4f}"
    return best, f"(of {len(C)}, by {FOLDS}-fold cross-validation on {of}{shown})"


def _folds(targets: np.ndarray, rng: np.random.Generator, *, stratified: bool) -> np.ndarray:
    """Return the fold of each row ``(n,)``; each target in equal shares, however rare, which scikit-learn refuses."""
    import numpy as np

    order = rng.permutation(len(targets))
    if stratified:
        _, group = np.unique(targets, axis=0, return_inverse=True)
        order = order[np.argsort(group.ravel()[order], kind="stable")]
    folds = np.empty(len(targets), dtype=np.int64)
    folds[order] = np.arange(len(targets)) % FOLDS
    return folds


def _fitted(adapter: SequenceClassification, matrix: Matrix, targets: np.ndarray, strength: float) -> Logits:
    """Return a fitted linear model of the task's kind."""
    import numpy as np

    if adapter.kind == "regression":
        from sklearn.linear_model import Ridge

        ridge = Ridge(alpha=1 / strength).fit(matrix, targets)
        return lambda unseen: np.asarray(ridge.predict(unseen), dtype=np.float64)[:, None]
    if adapter.kind == "multi":
        columns = [_classes(matrix, column.astype(np.int64), 2, strength) for column in targets.T]
        return lambda unseen: np.stack([np.diff(column(unseen))[:, 0] for column in columns], axis=1)
    return _classes(matrix, targets, len(adapter.labels), strength)


def _classes(matrix: Matrix, targets: np.ndarray, size: int, strength: float) -> Logits:
    """Return a logistic regression over ``size`` classes, some of which the targets may lack."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    known = np.unique(targets)
    if len(known) == 1:
        alone = np.where(np.arange(size) == known[0], 0.0, FLOOR)
        return lambda unseen: np.tile(alone, (unseen.shape[0], 1))
    # Of two classes in sparse features, liblinear finds the same optimum in a tenth of the time (RTE, SST-2).
    fast = len(known) == 2 and not isinstance(matrix, np.ndarray)
    model = LogisticRegression(C=strength, max_iter=ITERATIONS, solver="liblinear" if fast else "lbfgs", random_state=0)
    with warnings.catch_warnings():
        # A model that is a few steps short of its optimum is as good a baseline.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, targets)

    def logits(unseen: Matrix) -> np.ndarray:
        table = np.full((unseen.shape[0], size), FLOOR)
        table[:, model.classes_] = np.maximum(model.predict_log_proba(unseen), FLOOR)
        return table

    return logits


# Features ------------------------------------------------------------------------------------------------------------


class Tfidf:
    """TF-IDF of words and word pairs; of a pair of texts, that of each, and how much they share."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import StandardScaler

        self.words = TfidfVectorizer(
            token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES
        )
        self.scale = StandardScaler()

    def fit(self, rows: Sequence[Row]) -> Matrix:
        """Learn the vocabulary of both texts, and how often its words are; see :class:`Features`."""
        texts = [text for row in rows for text in row]
        # Rows without a single word have no vocabulary, which scikit-learn refuses.
        self.words.fit(texts if any(map(str.strip, texts)) else ["."])
        sides = self._sides(rows)
        return self._joined(sides, self.scale.fit_transform(_shared(*sides)) if len(sides) > 1 else None)

    def transform(self, rows: Sequence[Row]) -> Matrix:
        """Return ``(n, F)`` sparse; see :class:`Features`."""
        sides = self._sides(rows)
        return self._joined(sides, self.scale.transform(_shared(*sides)) if len(sides) > 1 else None)

    def _sides(self, rows: Sequence[Row]) -> list[Matrix]:
        return [self.words.transform(texts) for texts in zip(*rows, strict=True)]

    def _joined(self, sides: Sequence[Matrix], shared: np.ndarray | None) -> Matrix:
        from scipy import sparse

        return sides[0] if shared is None else sparse.hstack([*sides, sparse.csr_array(shared)], format="csr")


def _shared(one: Matrix, other: Matrix) -> np.ndarray:
    """Return what two sets of words share ``(n, 4)``: cosine, Jaccard, and the share of each side that the other has.

    Args:
        one: TF-IDF ``(n, F)``, rows of length 1 or 0.
        other: likewise.
    """
    import numpy as np

    cosine = np.asarray(one.multiply(other).sum(axis=1)).ravel()
    both = np.asarray((one > 0).multiply(other > 0).sum(axis=1)).ravel().astype(np.float64)
    sizes = [np.diff(side.indptr) for side in (one, other)]
    parts = [both / np.maximum(size, 1) for size in (sizes[0] + sizes[1] - both, *sizes)]
    return np.stack([cosine, *parts], axis=1)


@dataclass
class Means:
    """Mean of the words' vectors ``(n, D)``; of a pair u, v: u, v, |u - v|, u * v (arXiv:1705.02364, 2) and cosine."""

    vectors: Vectors

    def __post_init__(self) -> None:
        from sklearn.preprocessing import StandardScaler

        self.scale = StandardScaler()

    def fit(self, rows: Sequence[Row]) -> Matrix:
        """Learn the scale of each number; see :class:`Features`."""
        return self.scale.fit_transform(self._means(rows))

    def transform(self, rows: Sequence[Row]) -> Matrix:
        """Return ``(n, F)`` float32; see :class:`Features`."""
        return self.scale.transform(self._means(rows))

    def _means(self, rows: Sequence[Row]) -> np.ndarray:
        import numpy as np

        sides = [np.stack([self._mean(text) for text in texts]) for texts in zip(*rows, strict=True)]
        if len(sides) == 1:
            return sides[0]
        u, v = sides
        length = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
        cosine = (u * v).sum(axis=1) / np.where(length > 0, length, 1)
        return np.hstack([u, v, np.abs(u - v), u * v, cosine[:, None]])

    def _mean(self, text: str) -> np.ndarray:
        import numpy as np

        table = self.vectors.table
        found = [row for word in of_text(text).words if (row := _row(self.vectors, word)) is not None]
        return table[found].mean(axis=0) if found else np.zeros(table.shape[1], dtype=np.float32)


def _row(vectors: Vectors, word: str) -> int | None:
    """Return the row of a word as it is written, else of its lower-case form."""
    row = vectors.rows.get(word)
    return vectors.rows.get(word.lower()) if row is None else row


def _vectors(adapter: SequenceClassification, path: Path, examples: Sequence[Example], tell: Listener) -> Vectors:
    """Read the vectors of all words of the examples, and say how many there are.

    Raises:
        DataError: if there is none.
    """
    tell(Phase(name=f"reading {path.name}"))
    words = {word for row in _rows(adapter, examples) for text in row for word in of_text(text).words}
    found = vector_files.read(path, words | {word.lower() for word in words})
    if found.damage:
        tell(Note(message=found.damage, level="warning"))
    known = sum(_row(found, word) is not None for word in words)
    if not known:
        raise DataError(f"{path} has none of the {len(words)} words of the data. Is it of the same language?")
    tell(Note(message=f"{path.name} has {known:,} of the {len(words):,} words of the data ({known / len(words):.1%})"))
    return found
