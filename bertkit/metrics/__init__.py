"""Metrics as ``evaluate.Metric`` modules of our own, over scikit-learn and scipy. Offline; no remote code.

A metric is one module: ``metrics/matthews_correlation.py`` defines ``MatthewsCorrelation`` and is found by that name.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bertkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from bertkit.metrics.base import OfflineMetric


def load(
    name: str,
    config_name: str | None = None,
    *,
    num_process: int = 1,
    process_id: int = 0,
    experiment_id: str | None = None,
    cache_dir: str | Path | None = None,
) -> "OfflineMetric":
    """Return the metric that ``evaluate.load(name, config_name)`` would download, without a network.

    Args:
        name: ``accuracy``, ``f1``, ``glue``, ...; see :func:`available`.
        config_name: ``mrpc`` and the like for ``glue``; ``multilabel`` for ``accuracy``, ``f1`` and
            ``matthews_correlation``.
        num_process: processes that add rows to one score. With 1, nothing is written to disk.
        process_id: this process, from 0.
        experiment_id: keeps apart scores that are computed at once by several processes.
        cache_dir: where several processes exchange their rows; else ``evaluate``'s own cache.

    Raises:
        ConfigError: if there is no such metric or configuration.
    """
    if name not in available():
        raise ConfigError(
            f"No metric '{name}' to load.{did_you_mean(name, available())} There are {', '.join(available())}."
        )
    kind: type[OfflineMetric] = getattr(import_module(f"{__name__}.{name}"), _class_name(name))
    return kind(
        config_name,
        num_process=num_process,
        process_id=process_id,
        experiment_id=experiment_id,
        cache_dir=cache_dir,
    )


def available() -> list[str]:
    """Return the names that :func:`load` knows: the modules here that define the class of their name."""
    # Read, not imported: an unknown name must not cost the import of evaluate.
    files = (file for folder in __path__ for file in Path(folder).glob("*.py"))
    return sorted(f.stem for f in files if f"\nclass {_class_name(f.stem)}(" in f.read_text(encoding="utf-8"))


def _class_name(name: str) -> str:
    """Return ``SquadV2`` for ``squad_v2``; evaluate derives the metric's name from the class the other way round."""
    return "".join(part.capitalize() for part in name.split("_"))
