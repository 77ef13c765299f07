"""The scores of SQuAD 2.0, as the published ``squad_v2`` metric takes and returns them."""

from typing import Any

import datasets
import evaluate

from bertkit.errors import DataError
from bertkit.metrics import spans
from bertkit.metrics.squad import URL, SpanMetric, span_features


class SquadV2(SpanMetric):
    """Exact match and F1 where a question may have no answer; of those with one, those without, and the best."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Exact match and F1 of answers by the rules of SQuAD 2.0.",
            citation="Rajpurkar et al.: Know What You Don't Know: Unanswerable Questions for SQuAD. ACL 2018.",
            inputs_description="""
Args:
    predictions: {"id", "prediction_text", "no_answer_probability"} for each question.
    references: {"id", "answers": {"text": [...], "answer_start": [...]}} for each question; the starts are not used.
    no_answer_threshold: a no_answer_probability above it means that there is no answer; 1.0 by default.

Returns:
    exact, f1, total: of all questions, 0 to 100, and their count.
    HasAns_exact, HasAns_f1, HasAns_total: of those with an answer, if any.
    NoAns_exact, NoAns_f1, NoAns_total: of those without, if any.
    best_exact, best_exact_thresh, best_f1, best_f1_thresh: what the best thresholds give.
""",
            features=span_features(no_answer_probability=datasets.Value("float32")),
            reference_urls=[URL],
        )

    def _compute(self, predictions: Any, references: Any, no_answer_threshold: float = 1.0) -> dict[str, Any]:
        # By id, because a question that comes twice counts once.
        given = {row["id"]: row for row in predictions}
        accepted = {row["id"]: row["answers"]["text"] for row in references}
        if missing := [name for name in accepted if name not in given]:
            raise DataError(
                f"Question '{missing[0]}' has no prediction: metric 'squad_v2' needs one for every reference."
            )
        answers = [given[name]["prediction_text"] for name in accepted]
        probabilities = [given[name]["no_answer_probability"] for name in accepted]
        has_answer = [bool(texts) for texts in accepted.values()]
        questions = spans.raw(answers, list(accepted.values()), rules="squad_v2")
        scored = spans.with_threshold(questions, probabilities, has_answer, no_answer_threshold)
        totals = spans.means(tuple(spans.SCORES), scored)
        return {
            "exact": totals["exact_match"],
            "f1": totals["f1"],
            "total": len(scored),
            **spans.split_by_answer(scored, has_answer),
            **spans.best_threshold(questions, probabilities, has_answer, answered=[bool(text) for text in answers]),
        }
