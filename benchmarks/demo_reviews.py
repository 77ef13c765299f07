"""demo/reviews: a tuned TF-IDF + logistic regression beside the fine-tuned encoder, five seeds, on the test split.

python -m benchmarks.demo_reviews
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine
from bertkit import catalog
from bertkit.data import sources

SEEDS = (1, 2, 3, 4, 5)


def linear() -> dict[str, Any]:
    """Tune TF-IDF + logistic regression on validation, and score the best on test."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    splits = sources.load(catalog.find_task("demo/reviews")).splits
    texts = {name: [row["text"] for row in split.examples] for name, split in splits.items()}
    labels = {name: [row["label"] for row in split.examples] for name, split in splits.items()}
    best: tuple[float, float, dict[str, Any]] = (0.0, 0.0, {})
    for (analyzer, ngrams), sublinear, c in product(
        [("word", (1, 1)), ("word", (1, 2)), ("word", (1, 3)), ("char_wb", (2, 5))],
        (False, True),
        (0.1, 0.3, 1, 3, 10, 30),
    ):
        model = make_pipeline(
            TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, sublinear_tf=sublinear),
            LogisticRegression(C=c, max_iter=2000),
        )
        model.fit(texts["train"], labels["train"])
        validation = model.score(texts["validation"], labels["validation"])
        if validation > best[0]:
            setting = {"analyzer": analyzer, "ngrams": ngrams, "sublinear_tf": sublinear, "C": c}
            best = (validation, model.score(texts["test"], labels["test"]), setting)
    return {"validation": best[0], "test": best[1], "setting": best[2]}


def encoder(seed: int) -> dict[str, float]:
    """Fine-tune with the task's own settings and score the best checkpoint on test."""
    with tempfile.TemporaryDirectory() as folder:
        run = bertkit.finetune("demo/reviews", seed=seed, out=Path(folder) / "run")
        scores = run.scores
        return {
            "seed": seed,
            "validation": scores["validation"]["accuracy"],
            "test": scores["test"]["accuracy"],
            "seconds": run.seconds,
        }


def main() -> None:
    baseline = linear()
    runs = [encoder(seed) for seed in SEEDS]
    tests = [run["test"] for run in runs]
    machine.write(
        "demo_reviews",
        "python -m benchmarks.demo_reviews",
        {
            "tfidf": baseline,
            "runs": runs,
            "test_mean": statistics.mean(tests),
            "test_spread": statistics.stdev(tests),
            "points_apart": 100 * (statistics.mean(tests) - baseline["test"]),
        },
    )


if __name__ == "__main__":
    main()
