"""``bertkit predict``: rows in, the same rows with predictions out, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

from bertkit import __version__, backends, config, encoder, infer, processes
from bertkit.adapters.base import Adapter, Example, ExampleError, Prediction
from bertkit.backends import OpenVino
from bertkit.config import Backend, DeviceConfig, OnError
from bertkit.data import files, sources
from bertkit.data.lines import BadRow, Row
from bertkit.errors import ConfigError, DataError, RunError, did_you_mean, joined
from bertkit.events import Listener, Note, Phase, Progress, ignore
from bertkit.run import json_line
from bertkit.task import Task
from bertkit.workflows import partial, rejects, saved, shards
from bertkit.workflows.partial import Done, Partial
from bertkit.workflows.preparation import Settings, tables, task_of
from bertkit.workflows.rejects import Rejected
from bertkit.workflows.saved import Opened, Saved
from bertkit.workflows.shards import Head, Shard

JSON_LINES = "jsonl"


class Chunk(NamedTuple):
    """What came of the rows that were in memory together, both in input order."""

    pairs: list[tuple[Example, Prediction]]
    rejected: list[Rejected]

    @property
    def num_truncated(self) -> int:
        """Rows whose text the model did not see whole."""
        return sum(bool(prediction.get("truncated", False)) for _, prediction in self.pairs)

    def head(self, before: Done) -> str:
        """Return what stands before its rows in a part of an output, behind so much of the input."""
        return Head(
            chunk=before.num_chunks,
            num_before=before.num_read,
            num_rows=len(self.pairs),
            num_rejected=len(self.rejected),
            num_truncated=self.num_truncated,
        ).line()


class Predictor:
    """A loaded model that predicts rows; made by :func:`load`."""

    def __init__(self, model: Saved, opened: Opened, listen: Listener = ignore) -> None:
        self.model = model
        self.opened = opened
        self.room = infer.Room(model.eval.batch_tokens, listen)
        self.team = infer.Team(model.adapter, opened.model, opened.accelerator, self.room)

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

    def chunks(
        self, rows: Iterable[Row | BadRow], *, skip: bool = False, shard: Shard | None = None, first: int = 0
    ) -> Iterator[Chunk]:
        """Yield what comes of the rows, a chunk at a time; no row is read before the one in front of it is done.

        Args:
            rows: good and bad ones.
            skip: give rows that cannot be predicted with the reason; else the first one ends it.
            shard: whose chunks are predicted; the others come empty.
            first: the number of the first chunk.

        Raises:
            DataError: at the first row that cannot be predicted, without ``skip``.
        """
        parts = infer.parts(self._checked(rows, skip=skip), self.model.predict.chunk, _characters)
        for number, part in zip(count(first), parts, strict=False):
            mine = shard is None or shard.has(number)
            yield self._chunk(part, skip=skip) if mine else Chunk([], [])

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
        if not examples:
            return []
        if isinstance(ours, OpenVino) and not ours.trusted:
            about: dict[str, Any] = {"accelerator": self.opened.accelerator, "batch_tokens": self.room}
            features = adapter.encode(examples[: backends.COMPARED], loaded.tokenizer)
            found, wanted = (infer.forward(adapter, model, features, **about) for model in (ours, loaded.model))
            backends.agree(found, wanted, name=self.model.name, precision=ours.precision)
            ours.trust(len(examples[: backends.COMPARED]))
            self.opened.release()
        features = adapter.encode(examples, loaded.tokenizer)
        return infer.decoded(adapter, self.team.forward(features), features, examples)

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
    about: dict[str, Any] = {"task": found, "labels": labels, "settings": settings, "offline": offline}
    chosen = run
    if processes.size() > 1:
        # The newest run is that of the main process, which also fetches what is not here yet.
        chosen = processes.on_main(lambda: saved.find(run, runs=Path(runs), **about).name)
    model = saved.find(chosen, runs=Path(runs), **about)
    _require_same(model)
    if run is None:
        listen(Note(message=f"newest finished run: {model.name}"))
    listen(Phase(name="loading the model"))
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    return Predictor(model, model.open(where, backend=backend, round_weights=True), listen)


def _require_same(model: Saved) -> None:
    """Refuse to predict with another model than the main process does, on another machine.

    Raises:
        RunError: on every process.
    """
    if processes.size() == processes.local_size():
        return

    mine = encoder.folder_hash(model.source.folder)
    main = processes.share(mine)

    def compare() -> None:
        if mine != main:
            raise RunError(
                f"{model.name} is another model on this machine than on the main process's (SHA-256 "
                f"{mine.removeprefix('sha256:')[:12]} and {main.removeprefix('sha256:')[:12]}). Copy it, or use a "
                "shared folder."
            )

    processes.gather(compare)


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
        shard: Shard | None = None,
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
        self._team = predictor.team
        self._lines = self._counted(predictor, rows, kept, shard)
        if shard is None and format not in ("", JSON_LINES):
            earlier = kept.lines() if kept else ()
            # Of JSON again: what a killed process wrote is only there as that, and no cell may differ by where it was.
            self._lines = formatted(predictor.model.adapter, format, self._column, chain(earlier, self._lines))

    def __next__(self) -> str:
        try:
            return next(self._lines)
        except BaseException as error:
            self._team.end(error)
            raise

    def close(self) -> None:
        """Let other processes go that wait for more; of one that is not at its end, no more lines can be taken."""
        self._team.end()

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints beside a written file."""
        counts = {"run": self.run, "num_rows": self.num_rows, "num_truncated": self.num_truncated}
        return counts | ({"num_rejected": self.num_rejected} if self.skip else {})

    def _line(self, pair: tuple[Example, Prediction]) -> str:
        return json_line({**pair[0], self._column: pair[1]})

    def _counted(
        self, predictor: Predictor, rows: Iterable[Row | BadRow], kept: Partial | None, shard: Shard | None
    ) -> Iterator[str]:
        """Yield the lines of JSON of the rows that were not done before."""
        first = kept.begun.num_chunks if kept else 0
        for chunk in predictor.chunks(rows, skip=self.skip, shard=shard, first=first):
            lines = [self._line(pair) for pair in chunk.pairs]
            cut = chunk.num_truncated
            if kept:
                head = chunk.head(kept.done) if shard and shard.has(kept.done.num_chunks) else ""
                kept.keep(lines, [bad.line() for bad in chunk.rejected], num_truncated=cut, head=head)
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
            longest = predictor.model.adapter.config.max_length
            self._listen(truncation_note(self.num_truncated, self.num_rows, longest))


def truncation_note(number: int, num_rows: int, longest: int) -> Note:
    """Return what is said of rows that the model did not see whole."""
    share = f"{number} of {num_rows} rows ({number / num_rows:.1%})"
    return Note(message=f"{share} are longer than {longest} tokens and were cut", level="warning")


def formatted(adapter: Adapter, format: str, column: str, lines: Iterable[str]) -> Iterator[str]:  # noqa: A002
    """Yield the lines of a format of the task type for lines of JSON with predictions under ``column``."""
    rows = map(json.loads, lines)
    yield from adapter.writers[format](adapter, ((row, row.pop(column)) for row in rows))


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
        yield from self.scanned(predictor.model.task)

    def scanned(self, task: Task) -> Iterator[Row | BadRow]:
        """Yield the rows of a file or of standard input."""
        kind = self.kind(task)
        yield from rejects.as_json(files.scan(self.path, format=kind, stdin=self.stdin, columns=task.columns))

    def kind(self, task: Task) -> str:
        """Return the format that it is read as; empty where the name says it."""
        return self.format or (sources.format_for(self.path, task.data.format) if self.path is not None else "")


def predict_file(
    source: Path | None,
    *,
    out: Path | None,
    stdin: BinaryIO | None = None,
    text: str | None = None,
    format: str = "",  # noqa: A002 (the flag's word)
    on_error: OnError = "stop",
    shard: Shard | None = None,
    listen: Listener = ignore,
    **options: Any,
) -> Predictions:
    """Return the output lines of ``bertkit predict``; where there is an ``out``, they are written there already.

    Of several processes the main one reads, writes and has the lines; the others compute with it, and have none.

    Args:
        source: a data file, or None for ``stdin``.
        out: written whole or not at all; the same call goes on from what an earlier one, killed, had done.
        stdin: JSON Lines, where there is no ``source``.
        text: one text to predict in place of a file.
        format: of the lines: ``jsonl`` (the default), or one of the task type's own, ``conll`` or ``squad``.
        on_error: ``stop`` ends at the first row that cannot be predicted; ``skip`` writes it, with place and reason,
            to ``<out>.rejects.jsonl`` (without an ``out``: tells ``listen``) and goes on.
        shard: write only this part of the output, to :func:`bertkit.workflows.shards.folder_of` ``out``.
        listen: is given progress.
        options: as for :func:`load`.

    Raises:
        BertkitError: as :func:`load`; while the lines are taken, for the first row that cannot be predicted.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"--on-error {on_error}: there is {' and '.join(get_args(OnError))}.")
    if shard is not None and out is None:
        raise ConfigError(f"--shard {shard} writes a part of an output: name it with --out FILE.")
    _check_backend(options.get("backend", "torch"))
    kind = str(tables(options.get("settings") or {}).get("data", {}).get("format", ""))
    processes.join(options.get("device", "auto"))
    processes.on_main(lambda: _check_files(source, out, kind))
    predictor = load(listen=listen if processes.is_main() else ignore, **options)
    check_format(format, predictor.model.adapter)
    given = Input(path=source, stdin=stdin, text=text, format=kind)
    if not processes.is_main():
        predictor.team.serve()
        return Predictions(predictor, (), ignore)
    about: dict[str, Any] = {"format": format, "skip": on_error == "skip", "shard": shard}
    if out is None:
        return Predictions(predictor, given.rows(predictor), listen, **about)
    identity = _identity(predictor, options)
    if shard is not None:
        identity |= _identity_of_part(predictor, given, on_error, format, shard)
    with predictor.team.led():
        return _written(out, predictor, given, identity, about, listen)


def _written(
    out: Path,
    predictor: Predictor,
    given: Input,
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
    listen: Listener,
) -> Predictions:
    """Write an output, or a part of it, and return what is known of it."""
    shard = about["shard"]
    folder = shards.folder_of(out, shard) if shard else None
    with partial.opened(folder or out, identity, listen, folder=folder) as kept:
        if kept.begun.num_rejected and not about["skip"]:
            raise kept.refused("holds rows that were skipped, and --on-error is stop")
        lines = Predictions(predictor, kept.unread(given.rows(predictor)), listen, kept=kept, **about)
        if shard is None:
            kept.finish(lines, formatted=about["format"] not in ("", JSON_LINES))
            return lines
        kept.complete(lines)
        if kept.begun.complete and kept.done == kept.begun:
            listen(Note(message=f"{folder} was complete already"))
        if kept.done.num_chunks < shard.number:
            listen(Note(message=_nothing(folder, shard, kept.done, predictor.model), level="warning"))
    return lines


def _nothing(folder: Path | None, shard: Shard, done: Done, model: Saved) -> str:
    """Return what is said of a shard that no row falls to."""
    size = model.predict.chunk
    return (
        f"{folder} holds no rows: shards are dealt chunks of up to {size:,} rows (predict.chunk), and of "
        f"{done.num_read:,} rows there are {done.num_chunks}. A smaller --set predict.chunk, the same for all shards, "
        "makes more"
    )


def _check_backend(backend: str) -> None:
    """Refuse what several processes do not do.

    Raises:
        ConfigError: saying what to do in place of it.
    """
    if backend == "openvino" and processes.world().size > 1:
        raise ConfigError(
            "--backend openvino uses all cores from one process, so it runs in one. Drop --processes, or divide the "
            "input between machines: --shard K/N."
        )


def _check_files(source: Path | None, out: Path | None, kind: str) -> None:
    if source is not None:
        files.check_readable(source, format=kind, any_suffix=True)
    if out is not None:
        check_writable(out)


def _identity_of_part(
    predictor: Predictor,
    given: Input,
    on_error: str,
    format: str,  # noqa: A002
    shard: Shard,
) -> dict[str, Any]:
    """Return what else must be the same in all parts of an output, and which of them this is."""
    model = predictor.model
    return {
        "predict.chunk": model.predict.chunk,
        "eval.batch_tokens": model.eval.batch_tokens,
        "input format": given.kind(model.task),
        "--on-error": on_error,
        "--format": format or JSON_LINES,
        "shard": str(shard),
    }


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


def check_format(format: str, adapter: Adapter) -> None:  # noqa: A002
    """Refuse a format that the task type does not write.

    Raises:
        ConfigError: naming those that it does.
    """
    known = (JSON_LINES, *adapter.writers)
    if format and format not in known:
        raise ConfigError(
            f"--format {format}: {adapter.task.type} writes {', '.join(known)}.{did_you_mean(format, known)}"
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
