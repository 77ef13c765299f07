"""Accuracy, as the published ``accuracy`` metric takes and returns it."""

from typing import Any

import evaluate

from bertkit.metrics.base import SCIKIT_LEARN, OfflineMetric, pair_features


class Accuracy(OfflineMetric):
    """Share of the rows whose prediction equals the reference; with ``multilabel``, in every label."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Share of the rows whose prediction equals the reference.",
            citation=SCIKIT_LEARN,
            inputs_description="""
Args:
    predictions: label ids, or rows of 0 and 1 with the configuration 'multilabel'.
    references: the same for the truth.
    normalize: False counts the correct rows instead.
    sample_weight: a weight for each row.

Returns:
    accuracy: between 0 and 1, or the (weighted) number of correct rows.
""",
            features=pair_features("int32", several=self.config_name == "multilabel"),
            reference_urls=["https://scikit-learn.org/stable/modules/generated/sklearn.metrics.accuracy_score.html"],
        )

    def _compute(
        self, predictions: Any, references: Any, normalize: bool = True, sample_weight: Any = None
    ) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        score = accuracy_score(references, predictions, normalize=normalize, sample_weight=sample_weight)
        return {"accuracy": float(score)}
