"""bertkit: fine-tune BERT-style encoders from a task file.

Everything a command does is a function here, with the command's defaults:

>>> import bertkit
>>> run = bertkit.finetune("demo/reviews")          # doctest: +SKIP
>>> bertkit.predict(["What a film!"], run=run.path)  # doctest: +SKIP

Importing this package costs about 0.1 s: torch and transformers are imported
by the functions that need them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "finetune": "bertkit.workflows.finetune",
    "finetune_suite": "bertkit.workflows.suite.train",
    "evaluate": "bertkit.workflows.eval",
    "evaluate_suite": "bertkit.workflows.suite.evaluate",
    "predict": "bertkit.workflows.predict",
    "embed": "bertkit.workflows.embed",
    "pretrain": "bertkit.workflows.pretrain",
    "check": "bertkit.workflows.check",
    "baseline": "bertkit.workflows.baseline",
    "compare": "bertkit.workflows.compare",
    "sweep": "bertkit.workflows.sweep.train",
    "distill": "bertkit.workflows.distill",
    "load": "bertkit.workflows.predict",
    "find_task": "bertkit.catalog",
    "Task": "bertkit.task",
    "TrainConfig": "bertkit.config",
    "BertkitError": "bertkit.errors",
    "TaskError": "bertkit.errors",
    "ConfigError": "bertkit.errors",
    "DataError": "bertkit.errors",
    "ModelError": "bertkit.errors",
    "RunError": "bertkit.errors",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from bertkit.catalog import find_task as find_task
    from bertkit.config import TrainConfig as TrainConfig
    from bertkit.errors import BertkitError as BertkitError
    from bertkit.errors import ConfigError as ConfigError
    from bertkit.errors import DataError as DataError
    from bertkit.errors import ModelError as ModelError
    from bertkit.errors import RunError as RunError
    from bertkit.errors import TaskError as TaskError
    from bertkit.task import Task as Task
    from bertkit.workflows.baseline import baseline as baseline
    from bertkit.workflows.check import check as check
    from bertkit.workflows.compare import compare as compare
    from bertkit.workflows.distill import distill as distill
    from bertkit.workflows.embed import embed as embed
    from bertkit.workflows.eval import evaluate as evaluate
    from bertkit.workflows.finetune import finetune as finetune
    from bertkit.workflows.predict import load as load
    from bertkit.workflows.predict import predict as predict
    from bertkit.workflows.pretrain import pretrain as pretrain
    from bertkit.workflows.suite.evaluate import evaluate_suite as evaluate_suite
    from bertkit.workflows.suite.train import finetune_suite as finetune_suite
    from bertkit.workflows.sweep.train import sweep as sweep


def __getattr__(name: str) -> Any:
    """Import a public name from its home at first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bertkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
