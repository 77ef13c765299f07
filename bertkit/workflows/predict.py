"""``bertkit predict``: rows in, the same rows with predictions out, in constant memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from bertkit import backends, config, infer
from bertkit.adapters.base import Example, ExampleError, Prediction
from bertkit.backends import OpenVino
from bertkit.config import Backend, DeviceConfig
from bertkit.data import files, sources
from bertkit.errors import ConfigError, DataError, RunError, did_you_mean, joined, sentence
from bertkit.events import Listener, Note, Phase, Progress, ignore
from bertkit.run import json_line
from bertkit.task import Task
from bertkit.workflows import saved
from bertkit.workflows.preparation import Settings, tables, task_of
from bertkit.workflows.saved import Opened, Saved

JSON_LINES = "jsonl"


class Predictor:
    """A loaded model that predicts rows; made by :func:`load`."""

    def __init__(self, model: Saved, opened: Opened) -> None:
        self.model = model
        self.opened = opened

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names in id order."""
        return self.model.adapter.labels

    def __call__(self, rows: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a prediction for each text or row.

        Raises:
            DataError: naming the row and what is wrong with it.
        """
        wrapped = ((self._row(row, f"row {index}"), f"row {index}") for index, row in enumerate(rows, start=1))
        return [prediction for _, prediction in self.stream(wrapped)]

    def stream(self, rows: Iterable[tuple[Example, str]]) -> Iterator[tuple[Example, dict[str, Any]]]:
        """Yield each row with its prediction, in order, one chunk in memory at a time.

        Args:
            rows: rows with the place that messages name.

        Raises:
            DataError: at the first row that cannot be predicted; the rows of chunks before it were yielded.
        """
        places: deque[str] = deque()
        try:
            examples = self._compared(self._checked(rows, places))
            for pair in self._predicted(examples):
                places.popleft()
                yield pair
        except ExampleError as error:
            raise error.at(places[error.example]) from error

    def _predicted(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Prediction]]:
        return infer.stream(
            self.model.adapter,
            self.opened.model,
            self.opened.loaded.tokenizer,
            examples,
            chunk=self.model.predict.chunk,
            accelerator=self.opened.accelerator,
            batch_tokens=self.model.eval.batch_tokens,
        )

    def _compared(self, examples: Iterator[Example]) -> Iterator[Example]:
        """Return the examples, the first of them predicted by torch too where the backend has yet to be trusted.

        Raises:
            ModelError: if the two disagree.
        """
        ours = self.opened.model
        if not isinstance(ours, OpenVino) or ours.trusted:
            return examples
        first = list(islice(examples, min(backends.COMPARED, self.model.predict.chunk)))
        adapter, loaded = self.model.adapter, self.opened.loaded
        features = adapter.encode(first, loaded.tokenizer)
        about: dict[str, Any] = {"accelerator": self.opened.accelerator}
        about |= {"batch_tokens": self.model.eval.batch_tokens}
        found, wanted = (infer.forward(adapter, model, features, **about) for model in (ours, loaded.model))
        backends.agree(found, wanted, name=self.model.name, precision=ours.precision)
        ours.trust(len(first))
        self.opened.release()
        return chain(first, examples)

    def _row(self, row: str | Mapping[str, Any], place: str) -> Example:
        if isinstance(row, str):
            return self.model.adapter.example_of(row)
        if not isinstance(row, Mapping):
            raise DataError(f"{place} is a {type(row).__name__}, and must be a text or a dict of column and value.")
        return dict(row)

    def _checked(self, rows: Iterable[tuple[Example, str]], places: deque[str]) -> Iterator[Example]:
        """Yield the rows that can be predicted; ``places`` takes where those of the present chunk stand."""
        column = self.model.predict.column
        for row, place in rows:
            problems = self.model.adapter.check(row, labelled=False)
            if column in row:
                problems.append(f"there is a column '{column}' already; --set predict.column=NAME writes to another")
            if problems:
                raise DataError(sentence([f"{place}: {joined(problems)}"]))
            places.append(place)
            yield row


def load(
    run: str | Path | None = None,
    *,
    task: str | Path | Task | None = None,
    labels: Sequence[str] = (),
    runs: str | Path = "runs",
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    backend: Backend = "torch",
    offline: bool = False,
    listen: Listener = ignore,
) -> Predictor:
    """Load a model once, to predict with it many times.

    Args:
        run: a run, a model folder or a Hub name; else the newest finished run below ``runs``.
        task, labels: for a checkpoint that bertkit did not save, as in :func:`bertkit.evaluate`.
        runs, settings, device, precision, threads, offline, listen: as in :func:`bertkit.finetune`.
        backend: ``openvino`` is faster on Intel CPUs; it runs a conversion of the model, which is made once, kept
            beside the run, and compared with torch on the first rows.

    Raises:
        RunError, ModelError: if there is no such model, or it cannot be used.
        ConfigError: if the backend is not installed.
    """
    backends.check(backend)
    found = task_of(task, settings)[0] if task is not None else None
    model = saved.find(run, runs=Path(runs), task=found, labels=labels, settings=settings, offline=offline)
    if run is None:
        listen(Note(message=f"newest finished run: {model.name}"))
    listen(Phase(name="loading the model"))
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    return Predictor(model, model.open(where, backend=backend, round_weights=True))


def predict(rows: Iterable[str | Mapping[str, Any]] | str | Path, **options: Any) -> list[dict[str, Any]]:
    """Predict texts, rows, or the rows of a file.

    Args:
        rows: texts, dicts with the task's columns, or the path of a data file.
        options: as for :func:`load`.

    Returns:
        One prediction per row, as ``bertkit predict`` writes them under ``"prediction"``.

    Raises:
        BertkitError: if there is no model, or a row cannot be predicted.
    """
    predictor = load(**options)
    if isinstance(rows, str | Path):
        path, task = Path(rows), predictor.model.task
        read = files.stream(path, format=sources.format_for(path, task.data.format), columns=task.columns)
        return [prediction for _, prediction in predictor.stream(read)]
    return predictor(rows)


class Predictions(Iterator[str]):
    """The output lines of one call, predicted as they are asked for, and counted."""

    def __init__(
        self,
        predictor: Predictor,
        rows: Iterable[tuple[Example, str]],
        listen: Listener,
        *,
        format: str = "",  # noqa: A002 (the flag's word)
    ) -> None:
        self.run = predictor.model.name
        self.num_rows = 0
        """Rows predicted so far."""
        self.num_truncated = 0
        """Those of them whose text the model did not see whole."""
        adapter, column = predictor.model.adapter, predictor.model.predict.column
        pairs = self._counted(predictor, rows, listen)
        self._lines: Iterator[str]
        if format in ("", JSON_LINES):
            self._lines = (json_line({**row, column: prediction}) for row, prediction in pairs)
        else:
            self._lines = adapter.writers[format](adapter, pairs)

    def __next__(self) -> str:
        return next(self._lines)

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints beside a written file."""
        return {"run": self.run, "num_rows": self.num_rows, "num_truncated": self.num_truncated}

    def _counted(
        self, predictor: Predictor, rows: Iterable[tuple[Example, str]], listen: Listener
    ) -> Iterator[tuple[Example, Prediction]]:
        max_length = predictor.model.adapter.config.max_length
        for row, prediction in predictor.stream(rows):
            self.num_rows += 1
            self.num_truncated += bool(prediction.get("truncated", False))
            yield row, prediction
            if self.num_rows % 256 == 0:
                listen(Progress(name="predicting", done=self.num_rows))
        if self.num_truncated:
            share = f"{self.num_truncated} of {self.num_rows} rows ({self.num_truncated / self.num_rows:.1%})"
            listen(Note(message=f"{share} are longer than {max_length} tokens and were cut", level="warning"))


def predict_file(
    source: Path | None,
    *,
    out: Path | None,
    stdin: BinaryIO | None = None,
    text: str | None = None,
    format: str = "",  # noqa: A002 (the flag's word)
    listen: Listener = ignore,
    **options: Any,
) -> Predictions:
    """Return the output lines of ``bertkit predict``; where there is an ``out``, they are written there already.

    Args:
        source: a data file, or None for ``stdin``.
        out: written whole or not at all.
        stdin: JSON Lines, where there is no ``source``.
        text: one text to predict in place of a file.
        format: of the lines: ``jsonl`` (the default), or one of the task type's own, ``conll`` or ``squad``.
        listen: is given progress.
        options: as for :func:`load`.

    Raises:
        BertkitError: as :func:`load`; while the lines are taken, for the first row that cannot be predicted.
    """
    kind = str(tables(options.get("settings") or {}).get("data", {}).get("format", ""))
    if source is not None:
        files.check_readable(source, format=kind, any_suffix=True)
    if out is not None:
        _check_writable(out)
    predictor = load(listen=listen, **options)
    _check_format(format, predictor.model)
    rows: Iterable[tuple[Example, str]]
    if text is not None:
        rows = [(predictor._row(text, "--text"), "--text")]
    else:
        task = predictor.model.task
        kind = kind or (sources.format_for(source, task.data.format) if source is not None else "")
        rows = files.stream(source, format=kind, stdin=stdin, columns=task.columns)
    lines = Predictions(predictor, rows, listen, format=format)
    if out is not None:
        _write(out, lines)
    return lines


def _check_format(format: str, model: Saved) -> None:  # noqa: A002
    """Refuse a format that the task type does not write.

    Raises:
        ConfigError: naming those that it does.
    """
    known = (JSON_LINES, *model.adapter.writers)
    if format and format not in known:
        raise ConfigError(
            f"--format {format}: {model.task.type} writes {', '.join(known)}.{did_you_mean(format, known)}"
        )


def _check_writable(out: Path) -> None:
    """Refuse what is known before the first prediction to be no file that could be written."""
    if out.is_dir():
        raise RunError(f"{out} cannot be written: it is a folder. Name another --out.")
    if not out.parent.is_dir():
        raise RunError(f"{out} cannot be written: there is no folder {out.parent}. Make it, or name another --out.")


def _write(out: Path, lines: Iterable[str]) -> None:
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}. Name another --out.") from error
    finally:
        beside.unlink(missing_ok=True)
