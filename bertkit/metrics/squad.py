"""Exact match and F1 of SQuAD 1.1, as the published ``squad`` metric takes and returns them."""

from typing import Any

import datasets
import evaluate
import numpy as np

from bertkit.metrics import spans
from bertkit.metrics.base import OfflineMetric

URL = "https://rajpurkar.github.io/SQuAD-explorer/"
INPUTS = """
Args:
    predictions: {"id", "prediction_text"} for each question.
    references: {"id", "answers": {"text": [...], "answer_start": [...]}} for each question; the starts are not used.

Returns:
    exact_match: answers equal to a reference, 0 to 100.
    f1: overlap of the answer with the best reference, 0 to 100.
"""


class SpanMetric(OfflineMetric):
    """A metric whose rows are matched by ``id``, which may be of any type: it is compared as a string."""

    def add_batch(self, *, predictions: Any = None, references: Any = None, **inputs: Any) -> None:
        """Add rows to be scored."""
        predictions, references = (_with_string_ids(rows) for rows in (predictions, references))
        super().add_batch(predictions=predictions, references=references, **inputs)

    def add(self, *, prediction: Any = None, reference: Any = None, **inputs: Any) -> None:
        """Add one row to be scored."""
        prediction, reference = (_with_string_id(row) for row in (prediction, reference))
        super().add(prediction=prediction, reference=reference, **inputs)


class Squad(SpanMetric):
    """Exact match and F1 by the rules of SQuAD 1.1."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Exact match and F1 of answers by the rules of SQuAD 1.1.",
            citation="Rajpurkar et al.: SQuAD: 100,000+ Questions for Machine Comprehension of Text. EMNLP 2016.",
            inputs_description=INPUTS,
            features=span_features(),
            reference_urls=[URL],
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return score(predictions, references, rules="squad")


def score(predictions: Any, references: Any, *, rules: spans.Rules) -> dict[str, float]:
    """Return exact match and F1 of all references; one without a prediction scores 0, as the scripts have it.

    Raises:
        DataError: if a question has no reference answer and the rules know none such.
    """
    answers = {row["id"]: row["prediction_text"] for row in predictions}
    accepted = [row["answers"]["text"] for row in references]
    questions = spans.raw([answers.get(row["id"], "") for row in references], accepted, rules=rules)
    given = np.array([row["id"] in answers for row in references])
    return spans.means(tuple(spans.SCORES), questions * given[:, None])


def span_features(**more: datasets.Value) -> datasets.Features:
    """Return the features of predictions, with ``more`` of them, and of references."""
    text = datasets.Value("string")
    answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
    predictions = {"id": text, "prediction_text": text, **more}
    return datasets.Features({"predictions": predictions, "references": {"id": text, "answers": answers}})


def _with_string_ids(rows: Any) -> Any:
    return rows if rows is None else [_with_string_id(row) for row in rows]


def _with_string_id(row: Any) -> Any:
    return {**row, "id": str(row["id"])} if isinstance(row, dict) and "id" in row else row
