"""``bertkit baseline``: what simple models score on the rows on which an encoder is trained and scored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertkit import __version__, adapters, baselines, card
from bertkit import run as run_folders
from bertkit.adapters.base import Adapter
from bertkit.baselines import stored
from bertkit.baselines.stored import Beside
from bertkit.data import sources
from bertkit.data import word_vectors as vector_files
from bertkit.data.sources import Data
from bertkit.errors import ConfigError, RunError, looked_for
from bertkit.events import Listener, Note, ignore
from bertkit.run import Run, now
from bertkit.task import Task
from bertkit.workflows import standing
from bertkit.workflows.preparation import Prepared, Settings, prepare, tables, task_of


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What simple models score."""

    task: str
    baselines: Beside
    """Name -> split -> metric -> value, ``<metric>_interval`` beside."""
    summaries: dict[str, str]
    """Name -> what it is, with what was chosen for it."""
    num_examples: dict[str, int]
    """Rows of train and of each scored split."""
    file: Path
    """Where they are kept."""
    seconds: float
    """Wall-clock time of the whole command."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        keys = ("task", "baselines", "summaries", "num_examples", "seconds")
        return {key: getattr(self, key) for key in keys} | {"file": str(self.file)}


def baseline(
    task: str | Path | Task | Any,
    *,
    data: Data | None = None,
    vectors: str | Path | None = None,
    runs: str | Path = "runs",
    seed: int = 42,
    limit: int = 0,
    settings: Settings | None = None,
    offline: bool = False,
    listen: Listener = ignore,
) -> Baselines:
    """Score simple models on the rows that :func:`bertkit.finetune` would train and score on, and keep the scores.

    Classification and regression: the commonest answer, and TF-IDF with a linear model. Token tagging: each word's
    most frequent tag.

    Args:
        task, data, limit, offline, listen: as in :func:`bertkit.finetune`.
        vectors: a text file of word vectors (word2vec, GloVe, fastText; also gzipped), for one model more.
        runs: the scores are kept in ``baselines/`` below it, and stand beside those of runs on the same rows.
        seed: of the folds by which a setting is chosen, and of ``limit``.
        settings: what ``--set`` gives, but for ``train.``.

    Returns:
        The scores.

    Raises:
        TaskError: if the task's type has no baseline.
        BertkitError: for whatever else is wrong.
    """
    began = time.perf_counter()
    if seed < 0:
        raise ConfigError(f"seed is {seed}, and must be at least 0.")
    _refuse_training(settings)
    found, rows = task_of(task, settings)
    fit = baselines.find(adapters.find(found.type))
    path = None if vectors is None else looked_for(vectors, ConfigError, "--vectors")
    if path is not None:
        vector_files.check_readable(path)
    source = rows if data is None else data
    prepared = prepare(found, data=source, offline=offline, limit=limit, seed=seed, listen=listen)
    scores: Beside = {}
    summaries: dict[str, str] = {}
    for each in fit(prepared.adapter, prepared.dataset.splits, seed=seed, vectors=path, tell=listen):
        scores[each.name] = {}
        summaries[each.name] = each.summary
        for name in prepared.scored:
            examples = prepared.dataset.splits[name].examples
            predictions = each.predict(examples)
            scores[each.name][name] = prepared.adapter.score(predictions, examples, resamples=prepared.eval.resamples)
    entry = _entry(prepared, scores, summaries, seed=seed, limit=limit)
    file = stored.keep(Path(runs), prepared.task.name, entry)
    _show_in_runs(Path(runs), prepared.adapter, entry, listen)
    return Baselines(
        task=prepared.task.name,
        baselines=scores,
        summaries=summaries,
        num_examples={name: len(prepared.dataset.splits[name].examples) for name in ("train", *prepared.scored)},
        file=file,
        seconds=time.perf_counter() - began,
    )


def _refuse_training(settings: Settings | None) -> None:
    """Refuse settings that have no meaning here.

    Raises:
        ConfigError: naming them.
    """
    given = tables(settings or {}).get("train", {})
    if given:
        names = ", ".join(f"train.{name}" for name in given)
        raise ConfigError(f"{names}: a baseline is not trained as an encoder is, so no train setting applies. Drop it.")


def _entry(prepared: Prepared, scores: Beside, summaries: dict[str, str], *, seed: int, limit: int) -> dict[str, Any]:
    """Return what is stored: the scores, and by what they are found again."""
    splits = {name: prepared.dataset.splits[name] for name in prepared.scored}
    return {
        "about": stored.about(prepared.task.to_table()),
        "data_hash": sources.fingerprint(prepared.dataset),
        "held_out_rows": list(prepared.held_out),
        "splits": {
            name: {"rows": len(split.examples), "hash": stored.rows_hash(split)} for name, split in splits.items()
        },
        "num_training_examples": len(prepared.dataset.splits["train"].examples),
        "seed": seed,
        "limit": limit,
        "created": now(),
        "bertkit": __version__,
        "summaries": summaries,
        "scores": scores,
    }


def _show_in_runs(runs: Path, adapter: Adapter, entry: Mapping[str, Any], listen: Listener) -> None:
    """Put the baselines into the finished runs of the same rows: into ``run.json`` and the model card."""
    for run in run_folders.ls(runs):
        wanted = {**run.record, "about": stored.about(run.record["resolved_task"])}
        if run.status != "finished" or not stored.same(entry, wanted):
            continue
        try:
            _show_in(run, runs, adapter, listen)
        except RunError as error:
            listen(Note(message=f"{run.folder} does not show the baselines: {error}", level="warning"))


def _show_in(run: Run, runs: Path, adapter: Adapter, listen: Listener) -> None:
    scores = run.scores()
    readme = run.folder / "README.md"
    own = card.render(run.record, scores["splits"], best_step=scores["best_step"])
    untouched = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace") == own
    beside = standing.of_run(runs, run, listen)
    said = standing.warnings(adapter, scores["splits"], run.record.get("constant", {}), beside)
    run.update(baselines=beside, warnings=said)
    standing.say((f"{run.folder}: {warning}" for warning in said), listen)
    if untouched:
        run.write_text("README.md", card.render(run.record, scores["splits"], best_step=scores["best_step"]))
    else:
        listen(Note(message=f"{readme} was changed since it was written, and does not show the baselines"))
