"""What our ``evaluate.Metric`` modules share: rows stay in memory, and no rows is an error that says so.

Imports evaluate, so only the metric modules import it.
"""

from pathlib import Path

import datasets
import evaluate

from bertkit.errors import DataError

SCIKIT_LEARN = "Pedregosa et al.: Scikit-learn: Machine Learning in Python. JMLR 12 (2011), pages 2825-2830."
SCIPY = (
    "Virtanen et al.: SciPy 1.0: Fundamental Algorithms for Scientific Computing in Python. Nature Methods 17 (2020)."
)


class OfflineMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric that needs neither a network nor, in one process, a disk."""

    def __init__(
        self,
        config_name: str | None = None,
        *,
        keep_in_memory: bool | None = None,
        cache_dir: str | Path | None = None,
        num_process: int = 1,
        process_id: int = 0,
        seed: int | None = None,
        experiment_id: str | None = None,
        timeout: float = 100,
    ) -> None:
        super().__init__(
            config_name=config_name,
            keep_in_memory=num_process == 1 if keep_in_memory is None else keep_in_memory,
            cache_dir=None if cache_dir is None else str(cache_dir),
            num_process=num_process,
            process_id=process_id,
            seed=seed,
            experiment_id=experiment_id,
            timeout=timeout,
        )

    def _build_data_dir(self) -> str:
        """Name the folder without making it: the cache may not be writable, and in memory it is not needed."""
        return str(Path(self._data_dir_root) / self.name / self.config_name)

    def _init_writer(self, timeout: float = 1) -> None:
        if not self.keep_in_memory:
            Path(self.data_dir).mkdir(parents=True, exist_ok=True)
        super()._init_writer(timeout=timeout)

    def _finalize(self) -> None:
        if self.num_process == 1 and len(self) == 0:
            raise DataError(
                f"Metric '{self.name}' has no rows to score: give compute() predictions and references, "
                "or call add_batch() before."
            )
        super()._finalize()


def pair_features(dtype: str, *, several: bool = False) -> datasets.Features:
    """Return the features of predictions and references: a value of ``dtype`` each, or ``several`` of them."""
    value = datasets.Value(dtype)
    column = datasets.Sequence(value) if several else value
    return datasets.Features({"predictions": column, "references": column})
