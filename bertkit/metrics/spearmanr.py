"""Spearman rank correlation, as the published ``spearmanr`` metric takes and returns it."""

from typing import Any

import evaluate

from bertkit.metrics.base import SCIPY, OfflineMetric, pair_features


class Spearmanr(OfflineMetric):
    """Linear correlation of the ranks of two columns of numbers, -1 to 1; equal numbers share their mean rank."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Correlation of the ranks of two columns of numbers, from -1 to 1; nan where one is constant.",
            citation=SCIPY,
            inputs_description="""
Args:
    predictions: numbers.
    references: the true numbers.
    return_pvalue: True adds the p-value.

Returns:
    spearmanr: between -1 and 1.
    spearmanr_pvalue: where it is asked for.
""",
            features=pair_features("float"),
            reference_urls=["https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.spearmanr.html"],
        )

    def _compute(self, predictions: Any, references: Any, return_pvalue: bool = False) -> dict[str, float]:
        from scipy.stats import spearmanr

        score, p_value = spearmanr(references, predictions)
        return {"spearmanr": float(score)} | ({"spearmanr_pvalue": float(p_value)} if return_pvalue else {})
