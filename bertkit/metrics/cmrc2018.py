"""Exact match and F1 of Chinese answers by characters, as CMRC 2018 scores them; rows as those of ``squad``."""

from typing import Any

import evaluate

from bertkit.metrics.squad import INPUTS, SpanMetric, score, span_features


class Cmrc2018(SpanMetric):
    """Exact match and F1 by the rules of CMRC 2018: the longest run of characters that both answers have."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Exact match and F1 of Chinese answers by the rules of CMRC 2018.",
            citation="Cui et al.: A Span-Extraction Dataset for Chinese Machine Reading Comprehension. EMNLP 2019.",
            inputs_description=INPUTS,
            features=span_features(),
            reference_urls=["https://ymcui.github.io/cmrc2018/"],
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return score(predictions, references, rules="cmrc2018")
