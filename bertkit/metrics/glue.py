"""The scores of the GLUE tasks, as the published ``glue`` metric takes and returns them."""

from typing import Any

import evaluate

from bertkit.errors import ConfigError, did_you_mean
from bertkit.metrics.base import OfflineMetric, pair_features

TASKS = {
    "sst2": ("accuracy",),
    "mnli": ("accuracy",),
    "mnli_mismatched": ("accuracy",),
    "mnli_matched": ("accuracy",),
    "cola": ("matthews_correlation",),
    "stsb": ("pearson", "spearmanr"),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
    "hans": ("accuracy",),
}
"""Configuration -> the scores it returns (Wang et al. 2019, arXiv:1804.07461, table 1; HANS is arXiv:1902.01007)."""


class Glue(OfflineMetric):
    """What the GLUE benchmark reports for the task that ``config_name`` names."""

    def _info(self) -> Any:
        if self.config_name not in TASKS:
            given = "needs a configuration" if self.config_name == "default" else f"has no '{self.config_name}'"
            near = did_you_mean(self.config_name, TASKS)
            raise ConfigError(f"Metric 'glue' {given}.{near} It is one of {', '.join(TASKS)}.")
        return evaluate.MetricInfo(
            description="What the GLUE benchmark reports for one of its tasks (https://gluebenchmark.com).",
            citation="Wang et al.: GLUE: A Multi-Task Benchmark and Analysis Platform for NLU. ICLR 2019.",
            inputs_description="""
Args:
    predictions: label ids; for stsb, numbers.
    references: the same for the truth.

Returns: by the task, one or two of
    accuracy, f1 (of label id 1), matthews_correlation, pearson, spearmanr
""",
            features=pair_features("float32" if self.config_name == "stsb" else "int64"),
            format="numpy",
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {name: _score(name, predictions, references) for name in TASKS[self.config_name]}


def _score(name: str, predictions: Any, references: Any) -> float:
    from scipy import stats
    from sklearn import metrics

    match name:
        case "accuracy":
            return float((predictions == references).mean())
        case "f1":
            return float(metrics.f1_score(references, predictions))
        case "matthews_correlation":
            return float(metrics.matthews_corrcoef(references, predictions))
        case "pearson":
            return float(stats.pearsonr(predictions, references)[0])
        case _:
            return float(stats.spearmanr(predictions, references)[0])
