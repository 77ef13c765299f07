"""``bertkit predict glue --submission``: the files of GLUE's leaderboard, from the models of a suite."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertkit import catalog
from bertkit.adapters.base import Prediction
from bertkit.config import Backend
from bertkit.data import Split, glue, sources
from bertkit.errors import BertkitError, ConfigError, DataError, RunError, joined
from bertkit.events import Listener, Phase, counter, ignore
from bertkit.run import SUITE, Run
from bertkit.task import Task
from bertkit.workflows import predict
from bertkit.workflows.preparation import Settings
from bertkit.workflows.suite import facts, folder
from bertkit.workflows.suite.folder import Suite

HEADER = "index\tprediction"
LOWEST, HIGHEST = 0.0, 5.0
"""The scale of STS-B (Cer et al. 2017)."""
SAME_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in the archive, so that the same predictions give the same archive."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of the leaderboard."""

    name: str
    """``MNLI-mm.tsv``."""
    task: Task
    split: str
    model: str
    """The task whose model predicts it: its own, or MNLI's for AX."""
    rows: int
    """Of the public test split."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An archive that was written."""

    suite: Path
    out: Path
    files: Mapping[str, int]
    """Name -> rows."""
    runs: Mapping[str, str]
    """Name -> the run that predicted it."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"suite": str(self.suite), "out": str(self.out), "files": dict(self.files), "runs": dict(self.runs)}


def parts() -> list[Part]:
    """Return the leaderboard's files in its order."""
    return [
        Part(name=name, task=catalog.find_task(one["task"]), split=one["split"], model=one["model"], rows=one["rows"])
        for name, one in facts.facts()["submission"].items()
    ]


def write_submission(
    where: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    runs: str | Path = "runs",
    settings: Settings | None = None,
    device: str = "auto",
    precision: Any = "auto",
    threads: int = 0,
    backend: Backend = "torch",
    offline: bool = False,
    listen: Listener = ignore,
) -> Submission:
    """Predict GLUE's test splits with the models that a suite kept, and write what its leaderboard takes.

    Models, test splits and their numbers of rows are checked before anything is predicted; the archive is read again
    after it was written.

    Args:
        where: the suite, of all nine tasks.
        out: the archive, ``.zip``.
        data: a folder in the classic GLUE layout, in place of the data that the runs were trained on.
        runs, settings, device, precision, threads, backend, offline, listen: as for :func:`bertkit.load`.

    Raises:
        RunError: if there is no such suite, a task is not finished, or the archive cannot be written.
        DataError: if a test split is missing or is not the public one.
    """
    place = Path(out)
    _check_out(place)
    place_of_suite = folder.at(where, runs)
    if place_of_suite is None:
        raise RunError(
            f"There is no suite '{where}': no folder of that name has a {SUITE}. 'bertkit finetune glue' makes one."
        )
    opened = Suite.open(place_of_suite)
    wanted = parts()
    models = _models(opened, wanted)
    listen(Phase(name="reading the test splits"))
    splits = _splits(wanted, models, data, offline=offline)
    options: dict[str, Any] = {"settings": settings, "device": device, "precision": precision, "threads": threads}
    options |= {"backend": backend, "offline": offline, "listen": listen}
    texts: dict[str, str] = {}
    for model in dict.fromkeys(part.model for part in wanted):
        predictor = predict.load(models[model].folder, **options)
        for part in [part for part in wanted if part.model == model]:
            texts[part.name] = _text(part, predictor, splits[part.name], listen)
    _write(place, {part.name: texts[part.name] for part in wanted})
    _verify(place, wanted)
    return Submission(
        suite=place_of_suite,
        out=place,
        files={part.name: part.rows for part in wanted},
        runs={part.name: str(models[part.model].folder) for part in wanted},
    )


def _check_out(out: Path) -> None:
    if out.suffix != ".zip":
        raise ConfigError(f"--submission is {out}, and the leaderboard takes an archive: name a .zip.")
    if out.is_dir() or not out.parent.is_dir():
        raise RunError(f"{out} cannot be written: there is no folder {out.parent}, or it is a folder itself.")


def _models(opened: Suite, wanted: Sequence[Part]) -> dict[str, Run]:
    """Return task -> the run whose model was kept.

    Raises:
        RunError: naming every task that has none.
    """
    kept = opened.kept
    missing = [part for part in wanted if part.model not in kept]
    if missing:
        named = joined((f"{part.name} ({part.model})" for part in missing), most=len(wanted))
        raise RunError(
            f"{opened.folder} has no finished run for {len(missing)} of the {len(wanted)} files that the leaderboard "
            f"wants: {named}. It takes no part of them; 'bertkit finetune glue' trains all tasks."
        )
    return {task: Run.open(opened.folder / one.run) for task, one in kept.items()}


def _splits(
    wanted: Sequence[Part], models: Mapping[str, Run], data: str | Path | None, *, offline: bool
) -> dict[str, Split]:
    """Read the test splits and count their rows.

    Raises:
        DataError: naming every split that is missing or is not the public one.
    """
    found: dict[str, Split] = {}
    faults: list[str] = []
    for part in wanted:
        given = data if data is not None else models[part.model].record["request"]["data"]
        try:
            split = sources.load(part.task, data=given, offline=offline, splits=[part.split]).splits[part.split]
        except BertkitError as error:
            faults.append(f"{part.name}: {str(error).rstrip('.')}")
            continue
        found[part.name] = split
        if len(split.examples) != part.rows:
            faults.append(
                f"{part.name}: {split.source} has {len(split.examples)} rows, and the public test split {part.rows}"
            )
    if faults:
        raise DataError(
            f"{len(faults)} of the {len(wanted)} test splits are not what the leaderboard wants, so nothing was "
            f"predicted. {'; '.join(faults)}. --data DIR names a folder with all of them."
        )
    return found


def _text(part: Part, predictor: predict.Predictor, split: Split, listen: Listener) -> str:
    """Return a file's text: a row for each test row, in the order of the test file, counted from 0."""
    advance = counter(listen, f"predicting {part.name}", len(split.examples))
    lines = [HEADER]
    words = _words(part.task)
    rows = ((example, split.place(index)) for index, example in enumerate(split.examples))
    for index, (_, prediction) in enumerate(predictor.stream(rows)):
        lines.append(f"{index}\t{_word(prediction, words)}")
        advance(1)
    return "\n".join(lines) + "\n"


def _words(task: Task) -> Mapping[str, str]:
    """Return label -> what GLUE's own files call it: ``1`` for ``acceptable``, ``entailment`` for itself."""
    labels = glue.LAYOUTS[task.data.name].labels or {}
    return {name: cell for cell, name in labels.items()}


def _word(prediction: Prediction, words: Mapping[str, str]) -> str:
    if words:
        return words[prediction["label"]]
    return f"{min(max(prediction['value'], LOWEST), HIGHEST):.3f}"


def _write(out: Path, texts: Mapping[str, str]) -> None:
    """Write the archive whole or not at all."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                info = zipfile.ZipInfo(name, SAME_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                archive.writestr(info, text)
        os.replace(beside, out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}. Name another --submission.") from error
    finally:
        beside.unlink(missing_ok=True)


def _verify(out: Path, wanted: Sequence[Part]) -> None:
    """Read the archive again and hold it against what the leaderboard takes.

    Raises:
        RunError: naming all that is wrong with it.
    """
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        problems = [f"{part.name} is missing" for part in wanted if part.name not in names]
        for part in wanted:
            if part.name in names:
                problems += _problems(part, archive.read(part.name).decode("utf-8").splitlines())
    if problems:
        raise RunError(f"{out} is not what the leaderboard takes: {joined(problems)}. Please report this.")


def _problems(part: Part, lines: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with one file."""
    if not lines or lines[0] != HEADER:
        yield f"{part.name} does not begin with the header"
    if len(lines) - 1 != part.rows:
        yield f"{part.name} has {len(lines) - 1} rows, and must have {part.rows}"
    words = set(_words(part.task).values())
    for index, line in enumerate(lines[1:]):
        number, _, word = line.partition("\t")
        fits = word in words if words else LOWEST <= float(word) <= HIGHEST
        if number != str(index) or not fits:
            yield f"{part.name}:{index + 2} is {line!r}"
            return
