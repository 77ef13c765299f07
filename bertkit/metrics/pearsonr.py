"""Pearson correlation, as the published ``pearsonr`` metric takes and returns it."""

from typing import Any

import evaluate

from bertkit.metrics.base import SCIPY, OfflineMetric, pair_features


class Pearsonr(OfflineMetric):
    """Linear correlation of two columns of numbers, -1 to 1."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Linear correlation of two columns of numbers, from -1 to 1; nan where one is constant.",
            citation=SCIPY,
            inputs_description="""
Args:
    predictions: numbers.
    references: the true numbers.
    return_pvalue: True adds the p-value.

Returns:
    pearsonr: between -1 and 1.
    p-value: where it is asked for.
""",
            features=pair_features("float"),
            reference_urls=["https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.pearsonr.html"],
        )

    def _compute(self, predictions: Any, references: Any, return_pvalue: bool = False) -> dict[str, float]:
        from scipy.stats import pearsonr

        score, p_value = pearsonr(references, predictions)
        return {"pearsonr": float(score)} | ({"p-value": float(p_value)} if return_pvalue else {})
