"""Matthews correlation, as the published ``matthews_correlation`` metric takes and returns it."""

from typing import Any

import evaluate

from bertkit.metrics.base import SCIKIT_LEARN, OfflineMetric, pair_features


class MatthewsCorrelation(OfflineMetric):
    """Correlation of predicted and true classes, -1 to 1; for K classes the R_K statistic of Gorodkin (2004)."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Correlation of predicted and true classes, from -1 to 1; 0 is what guessing gives.",
            citation=SCIKIT_LEARN,
            inputs_description="""
Args:
    predictions: label ids, or rows of 0 and 1 with the configuration 'multilabel'.
    references: the same for the truth.
    average: with 'multilabel', 'macro' gives the mean over the labels, None one score a label.
    sample_weight: a weight for each row.

Returns:
    matthews_correlation: between -1 and 1, or a list of them.
""",
            features=pair_features("int32", several=self.config_name == "multilabel"),
            reference_urls=["https://scikit-learn.org/stable/modules/generated/sklearn.metrics.matthews_corrcoef.html"],
        )

    def _compute(
        self, predictions: Any, references: Any, average: str | None = None, sample_weight: Any = None
    ) -> dict[str, Any]:
        from sklearn.metrics import matthews_corrcoef

        if self.config_name != "multilabel":
            score = float(matthews_corrcoef(references, predictions, sample_weight=sample_weight))
            return {"matthews_correlation": score}
        if average not in (None, "macro"):
            # Of evaluate's protocol, not bertkit's: the published metric raises a ValueError here.
            raise ValueError(f"average is {average!r}; it must be 'macro' or None.")
        columns = zip(zip(*references, strict=True), zip(*predictions, strict=True), strict=True)
        scores = [float(matthews_corrcoef(true, given, sample_weight=sample_weight)) for true, given in columns]
        return {"matthews_correlation": sum(scores) / len(scores) if average == "macro" else scores}
