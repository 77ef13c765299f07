"""``bertkit predict``: rows in, the same rows with predictions out, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

from bertkit import __version__, backends, config, encoder, infer
from bertkit.adapters.base import Example, ExampleError, Prediction
from bertkit.backends import OpenVino
from bertkit.config import Backend, DeviceConfig, OnError
from bertkit.data import files, sources
from bertkit.data.lines import BadRow, Row
from bertkit.errors import ConfigError, DataError, RunError, did_you_mean, joined
from bertkit.events import Listener, Note, Phase, Progress, ignore
from bertkit.run import json_line
from bertkit.task import Task
from bertkit.workflows import partial, rejects, saved
from bertkit.workflows.partial import Done, Partial
from bertkit.workflows.preparation import Settings, tables, task_of
from bertkit.workflows.rejects import Rejected
from bertkit.workflows.saved import Opened, Saved

JSON_LINES = "jsonl"


class Chunk(NamedTuple):
    """What came of the rows that were in memory together, both in input order."""

    pairs: list[tuple[Example, Prediction]]
    rejected: list[Rejected]


class Predictor:
    """A loaded model that predicts rows; made by :func:`load`."""

    def __init__(self, model: Saved, opened: Opened, listen: Listener = ignore) -> None:
        self.model = model
        self.opened = opened
        self.room = infer.Room(model.eval.batch_tokens, listen)

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
        read = (Row(example=row, place=place, line=None) for row, place in rows)
        for chunk in self.chunks(read):
            yield from chunk.pairs

    def chunks(self, rows: Iterable[Row | BadRow], *, skip: bool = False) -> Iterator[Chunk]:
        """Yield what comes of the rows, a chunk at a time; no row is read before the one in front of it is done.

        Args:
            rows: good and bad ones.
            skip: give rows that cannot be predicted with the reason; else the first one ends it.

        Raises:
            DataError: at the first row that cannot be predicted, without ``skip``.
        """
        for part in infer.parts(self._checked(rows, skip=skip), self.model.predict.chunk, _characters):
            yield self._chunk(part, skip=skip)

    def _chunk(self, part: Sequence[Row | Rejected], *, skip: bool) -> Chunk:
        good = [row for row in part if isinstance(row, Row)]
        try:
            predictions = self._predicted([row.example for row in good])
        except ExampleError as error:
            if not skip:
                raise error.at(good[error.example].place) from error
            # Which others there are is only known by trying each.
            return self._chunk([self._encodable(row) for row in part], skip=False)
        pairs = [(row.example, prediction) for row, prediction in zip(good, predictions, strict=True)]
        return Chunk(pairs, [row for row in part if isinstance(row, Rejected)])

    def _predicted(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return the predictions; the first ones are made by torch too where the backend has yet to be trusted.

        Raises:
            ExampleError: if one cannot be encoded.
            ModelError: if torch and the backend disagree.
        """
        adapter, ours, loaded = self.model.adapter, self.opened.model, self.opened.loaded
        about: dict[str, Any] = {"accelerator": self.opened.accelerator, "batch_tokens": self.room}
        if examples and isinstance(ours, OpenVino) and not ours.trusted:
            features = adapter.encode(examples[: backends.COMPARED], loaded.tokenizer)
            found, wanted = (infer.forward(adapter, model, features, **about) for model in (ours, loaded.model))
            backends.agree(found, wanted, name=self.model.name, precision=ours.precision)
            ours.trust(len(examples[: backends.COMPARED]))
            self.opened.release()
        return infer.predict(adapter, ours, loaded.tokenizer, examples, **about) if examples else []

    def _encodable(self, row: Row | Rejected) -> Row | Rejected:
        if isinstance(row, Row):
            try:
                self.model.adapter.encode([row.example], self.opened.loaded.tokenizer)
            except ExampleError as error:
                return rejects.rejected(row, error.detail)
        return row

    def _row(self, row: str | Mapping[str, Any], place: str) -> Example:
        if isinstance(row, str):
            return self.model.adapter.example_of(row)
        if not isinstance(row, Mapping):
            raise DataError(f"{place} is a {type(row).__name__}, and must be a text or a dict of column and value.")
        return dict(row)

    def _checked(self, rows: Iterable[Row | BadRow], *, skip: bool) -> Iterator[Row | Rejected]:
        """Yield the rows, those that cannot be predicted as rejected ones.

        Raises:
            DataError: at the first of those, without ``skip``.
        """
        column = self.model.predict.column
        for row in rows:
            if isinstance(row, BadRow):
                problems = [row.reason]
            else:
                problems = self.model.adapter.check(row.example, labelled=False)
                if column in row.example:
                    problems.append(
                        f"there is a column '{column}' already; --set predict.column=NAME writes to another"
                    )
            if not problems:
                assert isinstance(row, Row)
                yield row
                continue
            bad = rejects.rejected(row, joined(problems))
            if not skip:
                raise bad.error
            yield bad


def _characters(row: Row | Rejected) -> int:
    if isinstance(row, Row):
        return infer.characters(row.example)
    return infer.characters(row.row) if isinstance(row.row, dict) else len(row.row) if isinstance(row.row, str) else 0


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
    return Predictor(model, model.open(where, backend=backend, round_weights=True), listen)


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
        rows: Iterable[Row | BadRow],
        listen: Listener,
        *,
        format: str = "",  # noqa: A002 (the flag's word)
        skip: bool = False,
        kept: Partial | None = None,
    ) -> None:
        self.run = predictor.model.name
        before = kept.begun if kept else Done()
        self.num_rows = before.num_rows
        """Rows predicted so far, by earlier processes too."""
        self.num_truncated = before.num_truncated
        """Those of them whose text the model did not see whole."""
        self.num_rejected = before.num_rejected
        """Rows that could not be predicted."""
        self.skip = skip
        self._listen = listen
        self._column = predictor.model.predict.column
        self._lines = self._counted(predictor, rows, kept)
        if format not in ("", JSON_LINES):
            adapter, earlier = predictor.model.adapter, kept.lines() if kept else ()
            # Of JSON again: what a killed process wrote is only there as that, and no cell may differ by where it was.
            self._lines = adapter.writers[format](adapter, map(self._pair, chain(earlier, self._lines)))

    def __next__(self) -> str:
        return next(self._lines)

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints beside a written file."""
        counts = {"run": self.run, "num_rows": self.num_rows, "num_truncated": self.num_truncated}
        return counts | ({"num_rejected": self.num_rejected} if self.skip else {})

    def _line(self, pair: tuple[Example, Prediction]) -> str:
        return json_line({**pair[0], self._column: pair[1]})

    def _pair(self, line: str) -> tuple[Example, Prediction]:
        row = json.loads(line)
        return row, row.pop(self._column)

    def _counted(self, predictor: Predictor, rows: Iterable[Row | BadRow], kept: Partial | None) -> Iterator[str]:
        """Yield the lines of JSON of the rows that were not done before."""
        for chunk in predictor.chunks(rows, skip=self.skip):
            lines = [self._line(pair) for pair in chunk.pairs]
            cut = sum(bool(prediction.get("truncated", False)) for _, prediction in chunk.pairs)
            if kept:
                kept.keep(lines, [bad.line() for bad in chunk.rejected], num_truncated=cut)
            else:
                for bad in chunk.rejected:
                    self._listen(Note(message=f"skipped {bad.place}: {bad.reason}", level="warning"))
            self.num_rejected += len(chunk.rejected)
            self.num_truncated += cut
            for line in lines:
                self.num_rows += 1
                yield line
                if self.num_rows % 256 == 0:
                    self._listen(Progress(name="predicting", done=self.num_rows))
        if self.num_truncated:
            share = f"{self.num_truncated} of {self.num_rows} rows ({self.num_truncated / self.num_rows:.1%})"
            longer = f"are longer than {predictor.model.adapter.config.max_length} tokens and were cut"
            self._listen(Note(message=f"{share} {longer}", level="warning"))


@dataclass(frozen=True, kw_only=True)
class Input:
    """Where rows come from: a file, standard input, or one text."""

    path: Path | None
    stdin: BinaryIO | None
    text: str | None
    format: str
    """What ``--set data.format`` says."""

    def rows(self, predictor: Predictor) -> Iterator[Row | BadRow]:
        """Yield the rows; those that could not be written again are bad ones."""
        if self.text is not None:
            yield Row(example=predictor._row(self.text, "--text"), place="--text", line=None)
            return
        task = predictor.model.task
        kind = self.format or (sources.format_for(self.path, task.data.format) if self.path is not None else "")
        yield from rejects.as_json(files.scan(self.path, format=kind, stdin=self.stdin, columns=task.columns))


def predict_file(
    source: Path | None,
    *,
    out: Path | None,
    stdin: BinaryIO | None = None,
    text: str | None = None,
    format: str = "",  # noqa: A002 (the flag's word)
    on_error: OnError = "stop",
    listen: Listener = ignore,
    **options: Any,
) -> Predictions:
    """Return the output lines of ``bertkit predict``; where there is an ``out``, they are written there already.

    Args:
        source: a data file, or None for ``stdin``.
        out: written whole or not at all; the same call goes on from what an earlier one, killed, had done.
        stdin: JSON Lines, where there is no ``source``.
        text: one text to predict in place of a file.
        format: of the lines: ``jsonl`` (the default), or one of the task type's own, ``conll`` or ``squad``.
        on_error: ``stop`` ends at the first row that cannot be predicted; ``skip`` writes it, with place and reason,
            to ``<out>.rejects.jsonl`` (without an ``out``: tells ``listen``) and goes on.
        listen: is given progress.
        options: as for :func:`load`.

    Raises:
        BertkitError: as :func:`load`; while the lines are taken, for the first row that cannot be predicted.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"--on-error {on_error}: there is {' and '.join(get_args(OnError))}.")
    kind = str(tables(options.get("settings") or {}).get("data", {}).get("format", ""))
    if source is not None:
        files.check_readable(source, format=kind, any_suffix=True)
    if out is not None:
        check_writable(out)
    predictor = load(listen=listen, **options)
    _check_format(format, predictor.model)
    given = Input(path=source, stdin=stdin, text=text, format=kind)
    about: dict[str, Any] = {"format": format, "skip": on_error == "skip"}
    if out is None:
        return Predictions(predictor, given.rows(predictor), listen, **about)
    with partial.opened(out, _identity(predictor, options), listen) as kept:
        if kept.begun.num_rejected and on_error == "stop":
            raise kept.refused("holds rows that were skipped, and --on-error is stop")
        lines = Predictions(predictor, kept.unread(given.rows(predictor)), listen, kept=kept, **about)
        kept.finish(lines, formatted=format not in ("", JSON_LINES))
    return lines


def _identity(predictor: Predictor, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides over predictions, by which one half of a file must not differ from the other."""
    model, opened = predictor.model, predictor.opened
    about = {
        "model": encoder.folder_hash(model.source.folder),
        "name": model.name,
        "settings": model.adapter.facts() | {"eval.decode": model.eval.decode},
        "predict.column": model.predict.column,
        "precision": opened.precision,
        "backend": options.get("backend", "torch"),
        "device": opened.accelerator.device.type,
        "version": __version__,
    }
    found: dict[str, Any] = json.loads(json.dumps(about))
    return found


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


def check_writable(out: Path) -> None:
    """Refuse what is known before the first prediction to be no file that could be written.

    Raises:
        RunError: if it is a folder, a device or a pipe, or its own folder is not there.
    """
    if out.is_dir():
        raise RunError(f"{out} cannot be written: it is a folder. Name another --out.")
    if out.exists() and not out.is_file():
        raise RunError(f"{out} cannot be replaced: it is no regular file. Leave --out away and redirect stdout to it.")
    if not out.parent.is_dir():
        raise RunError(f"{out} cannot be written: there is no folder {out.parent}. Make it, or name another --out.")
