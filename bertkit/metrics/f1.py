"""F1, as the published ``f1`` metric takes and returns it."""

from typing import Any

import evaluate

from bertkit.metrics.base import SCIKIT_LEARN, OfflineMetric, pair_features


class F1(OfflineMetric):
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN).",
            citation=SCIKIT_LEARN,
            inputs_description="""
Args:
    predictions: label ids, or rows of 0 and 1 with the configuration 'multilabel'.
    references: the same for the truth.
    labels: the label ids to average over, where average is not 'binary'; by default those that occur.
    pos_label: the label id that counts as positive where average is 'binary'; 1 by default.
    average: 'binary' (default), 'micro', 'macro', 'weighted', 'samples', or None for one score a label.
    sample_weight: a weight for each row.

Returns:
    f1: between 0 and 1, or an array of them.
""",
            features=pair_features("int32", several=self.config_name == "multilabel"),
            reference_urls=["https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html"],
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        labels: Any = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Any = None,
    ) -> dict[str, Any]:
        import numpy as np
        from sklearn.metrics import f1_score

        score = np.asarray(
            f1_score(
                references,
                predictions,
                labels=labels,
                pos_label=pos_label,
                average=average,
                sample_weight=sample_weight,
            )
        )
        return {"f1": float(score.item()) if score.size == 1 else score}
