"""How long the 95 % intervals of 10,000 rows take: ``python benchmarks/intervals.py``."""

import time

import numpy as np

from bertkit.metrics import interval

ROWS = 10_000
REPEATS = 3
METRICS = {
    "single": ["accuracy", "f1_macro", "f1_micro", "matthews_correlation"],
    "multi": ["accuracy", "f1_micro", "f1_macro"],
    "regression": ["pearson", "spearmanr"],
}
CASES = (("single", 2), ("single", 150), ("multi", 28), ("regression", 0))
"""Kind and number of labels."""


def rows(kind: str, num_labels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions that are right in most rows, and references."""
    if kind == "single":
        references = rng.integers(0, num_labels, ROWS)
        return np.where(rng.random(ROWS) < 0.7, references, rng.integers(0, num_labels, ROWS)), references
    if kind == "multi":
        references = (rng.random((ROWS, num_labels)) < 0.3).astype(int)
        return np.where(rng.random(references.shape) < 0.8, references, 1 - references), references
    references = rng.integers(0, 26, ROWS) / 5
    return references + rng.normal(size=ROWS), references


def seconds(kind: str, num_labels: int) -> float:
    """Return the best time of :data:`REPEATS`: other work may hold the machine."""
    predictions, references = rows(kind, num_labels, np.random.default_rng(0))
    names = METRICS[kind] + ["f1"] * (kind == "single" and num_labels == 2)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        interval.intervals(names, predictions, references, num_labels=num_labels, kind=kind)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    print(f"{'kind':<12}{'labels':>8}{'seconds':>10}   ({ROWS:,} rows, 1,000 resamples, best of {REPEATS})")
    for kind, num_labels in CASES:
        print(f"{kind:<12}{num_labels or '-':>8}{seconds(kind, num_labels):>10.2f}")


if __name__ == "__main__":
    main()
