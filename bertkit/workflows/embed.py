"""``bertkit embed``: texts in, vectors out, in constant memory and in input order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

from bertkit import __version__, config, encoder, infer, vectors
from bertkit.adapters.base import Example, Prediction
from bertkit.config import DeviceConfig, EmbedConfig, Layers, OnError, Pooling, Precision
from bertkit.data import files
from bertkit.data.lines import BadRow, Row
from bertkit.encoder import Source
from bertkit.errors import ConfigError, DataError, did_you_mean, joined
from bertkit.events import Listener, Note, Phase, Progress, ignore
from bertkit.layers import parse as parse_layers
from bertkit.run import MODEL_FACTS, json_line
from bertkit.run import find as find_run
from bertkit.task import DEFAULT_ENCODER, DataSource, Task
from bertkit.vectors import TEXT, Embedding, Opened
from bertkit.workflows import partial, rejects, vector_files
from bertkit.workflows.partial import Partial
from bertkit.workflows.predict import check_writable
from bertkit.workflows.preparation import Settings, tables
from bertkit.workflows.rejects import Rejected
from bertkit.workflows.vector_files import Pair

FILES = (".npy", ".parquet")
"""Suffixes of outputs that begin anew after a kill."""
LINES = (".jsonl", ".jsonl.gz")
"""Suffixes of outputs that go on after one."""
PLAIN = "txt"
"""The format of a file with one text a line, which has no columns."""
PEEKED = 100
"""Rows by which the column of the text is found."""
TAKEN = {"embed": None, "columns": {TEXT}, "data": {"format"}}
"""Section -> the keys of ``--set`` that mean something here; None: a configuration knows."""


class Chunk(NamedTuple):
    """What came of the rows that were in memory together, both in input order."""

    pairs: list[Pair]
    rejected: list[Rejected]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one call asks for, checked; nothing heavy is loaded yet."""

    source: Source
    columns: Mapping[str, str]
    """Role -> column, of the run."""
    settings: EmbedConfig
    column: str
    """Of the text, where ``--set`` names it."""
    format: str
    """Of the input, where ``--set`` names it."""
    pooling: Pooling
    layers: Layers
    normalize: bool
    device: DeviceConfig

    def open(self, column: str) -> Opened:
        """Load the encoder; ``column`` holds the text."""
        return vectors.load(
            self.source,
            self.device,
            column=column,
            settings=self.settings,
            pooling=self.pooling,
            choice=self.layers,
            normalize=self.normalize,
        )

    def text_column(self, first: Sequence[Example], listen: Listener) -> str:
        """Return the column that holds the text of rows that begin with these, and tell a guess.

        Raises:
            DataError: if none does.
        """
        if not first:
            return self.column or TEXT
        named = {TEXT: self.column} if self.column else {}
        of_run = self.columns.get(TEXT)
        if not named and any(of_run in row for row in first):
            named = {TEXT: str(of_run)}
        task = Task(name="embed", type="embedding", data=DataSource(), columns=named)
        columns, notes = Embedding.guessed(task, first)
        for note in notes:
            listen(Note(message=note))
        return str(columns.get(TEXT, TEXT))


def _wanted(
    *,
    encoder: str | Path = "",
    run: str | Path | None = None,
    runs: str | Path = "runs",
    revision: str = "",
    pooling: Pooling = "mean",
    layers: Layers = "last",
    normalize: bool = False,
    settings: Settings | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
) -> Wanted:
    """Check what a call asks for, and find the encoder."""
    over = _settings(settings)
    made = config.build(EmbedConfig, over.get("embed", {}))
    if pooling not in get_args(Pooling):
        near = did_you_mean(str(pooling), get_args(Pooling))
        raise ConfigError(f"--pooling {pooling}: there is {', '.join(get_args(Pooling))}.{near}")
    choice = parse_layers(layers)
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    source, columns = _found(str(encoder), run, Path(runs), revision=revision, offline=offline, listen=listen)
    return Wanted(
        source=source,
        columns=columns,
        settings=made,
        column=str(over.get("columns", {}).get(TEXT, "")),
        format=str(over.get("data", {}).get("format", "")),
        pooling=pooling,
        layers=choice,
        normalize=normalize,
        device=where,
    )


def _settings(settings: Settings | None) -> dict[str, Any]:
    """Return ``--set`` as tables.

    Raises:
        ConfigError: if one changes nothing here.
    """
    over = tables(settings or {})
    for section, value in over.items():
        known = TAKEN.get(section, set())
        keys = list(value) if isinstance(value, dict) else [""]
        for key in keys:
            if not key or (known is not None and key not in known):
                name = f"{section}.{key}".removesuffix(".")
                raise ConfigError(
                    f"--set {name} changes nothing about vectors. Here it takes embed.KEY, columns.text and "
                    "data.format."
                )
    return over


def _found(
    name: str, run: str | Path | None, runs: Path, *, revision: str, offline: bool, listen: Listener
) -> tuple[Source, Mapping[str, str]]:
    """Return the encoder, and the columns that a run reads.

    Raises:
        ConfigError: if both an encoder and a run are named.
        RunError, ModelError: if there is no such one.
    """
    if run is None:
        if not name:
            listen(Note(message=f"encoder: {DEFAULT_ENCODER}, the default"))
        return encoder.find(name or DEFAULT_ENCODER, revision=revision, offline=offline), {}
    if name or revision:
        raise ConfigError(
            f"--run {run} has an encoder of its own. Drop --{'encoder' if name else 'revision'} or --run."
        )
    found = find_run(run, runs)
    folder = found.model_folder
    encoder.check_folder(folder)
    try:
        columns = dict(json.loads((folder / MODEL_FACTS).read_text(encoding="utf-8"))["columns"])
    except (OSError, ValueError, LookupError, TypeError):
        columns = {}
    return Source(name=str(found.folder), folder=folder), columns


class Embedder:
    """A loaded encoder that turns rows into vectors."""

    def __init__(self, opened: Opened, settings: EmbedConfig, listen: Listener, *, column: str = "") -> None:
        """Take the encoder, and the column that vectors are written to, which no row may have."""
        self.opened = opened
        self.settings = settings
        self.column = column
        self.room = infer.Room(settings.batch_tokens, listen)

    def chunks(self, rows: Iterable[Row | BadRow], *, skip: bool) -> Iterator[Chunk]:
        """Yield what comes of the rows, a chunk at a time.

        Args:
            rows: good and bad ones.
            skip: give rows that have no text with the reason; else the first one ends it.

        Raises:
            DataError: at the first row that has no text, without ``skip``.
        """
        share = vectors.parts_of(self.opened)
        checked = self._checked(rows, skip=skip)
        for part in infer.parts(checked, self.settings.chunk, lambda row: share * _characters(row)):
            good = [row.example for row in part if isinstance(row, Row)]
            bad = [row for row in part if isinstance(row, Rejected)]
            yield Chunk(list(zip(good, self._vectors(good), strict=True)), bad)

    def _vectors(self, examples: Sequence[Example]) -> list[Prediction]:
        if not examples:
            return []
        one = self.opened
        about: dict[str, Any] = {"accelerator": one.accelerator, "batch_tokens": self.room}
        return infer.predict(one.adapter, one.model, one.tokenizer, examples, **about)

    def _checked(self, rows: Iterable[Row | BadRow], *, skip: bool) -> Iterator[Row | Rejected]:
        for row in rows:
            problems = [row.reason] if isinstance(row, BadRow) else self._problems(row.example)
            if not problems:
                assert isinstance(row, Row)
                yield row
                continue
            bad = rejects.rejected(row, joined(problems))
            if not skip:
                raise bad.error
            yield bad

    def _problems(self, example: Example) -> list[str]:
        problems = self.opened.adapter.check(example)
        if self.column and self.column in example:
            problems.append(f"there is a column '{self.column}' already; --set embed.column=NAME writes to another")
        return problems


def _characters(row: Row | Rejected) -> int:
    # One more, so that many empty texts are not all held at once.
    return 1 + infer.characters(row.example if isinstance(row, Row) else row.row if isinstance(row.row, dict) else {})


class Embedded(Iterator[str]):
    """What a call makes, counted as it is made; where no file was named, the lines of JSON as they are asked for."""

    def __init__(self, wanted: Wanted, opened: Opened, listen: Listener, *, out: Path | None, skip: bool) -> None:
        self.wanted = wanted
        self.opened = opened
        self.out = out
        self.skip = skip
        self.num_rows = 0
        """Rows that have vectors, those of an earlier process too."""
        self.num_truncated = 0
        """Those of them whose text the encoder did not see whole."""
        self.num_rejected = 0
        """Rows that were skipped."""
        self.began = self.ended = time.monotonic()
        self.lines: Iterator[str] = iter(())
        self._listen = listen

    def __next__(self) -> str:
        return next(self.lines)

    def counted(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield chunks, and tell at the end what was cut."""
        for chunk in chunks:
            self.num_rows += len(chunk.pairs)
            self.num_truncated += _num_truncated(chunk)
            self.num_rejected += len(chunk.rejected)
            yield chunk
            self._listen(Progress(name="embedding", done=self.num_rows))
        self.ended = time.monotonic()
        if self.num_truncated:
            share = f"{self.num_truncated} of {self.num_rows} rows ({self.num_truncated / self.num_rows:.1%})"
            longer = f"are longer than {self.opened.adapter.config.max_length} tokens and were cut"
            self._listen(Note(message=f"{share} {longer}", level="warning"))

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints beside a written file."""
        wanted = self.wanted
        about: dict[str, Any] = {"encoder": wanted.source.name, "pooling": wanted.pooling, "layers": wanted.layers}
        about |= {"normalized": wanted.normalize, "precision": self.opened.precision}
        counts = {"dimension": self.opened.width, "num_rows": self.num_rows, "num_truncated": self.num_truncated}
        skipped = {"num_rejected": self.num_rejected} if self.skip else {}
        return {**about, **counts, **skipped, "seconds": round(self.ended - self.began, 3), "out": str(self.out)}


def _num_truncated(chunk: Chunk) -> int:
    return sum(prediction["truncated"] for _, prediction in chunk.pairs)


# Python ----------------------------------------------------------------------------------------------------------


def embed(rows: Iterable[str | Mapping[str, Any]] | str | Path, **options: Any) -> Any:
    """Turn texts, rows, or the rows of a file into vectors.

    Args:
        rows: texts, dicts of column and value, or the path of a data file.
        options: ``encoder`` (a name or folder) or ``run``; ``pooling`` (``mean``, ``cls``, ``max``, ``words``),
            ``layers`` (``last``, ``second-to-last``, ``sum-last-4``, ``concat-last-4``, ``embeddings``, or the ``mix``
            that a run has learned), ``normalize``; ``settings``, ``runs``, ``device``, ``precision`` (``float32``),
            ``threads``, ``offline`` and ``listen`` as in :func:`bertkit.load`.

    Returns:
        An array ``(n, W)`` float32, a row each. Under ``pooling="words"`` a list with a dict for each row: ``words``,
        start and end of each in code points, and ``embeddings``, ``(number of words, W)`` float32.

    Raises:
        BertkitError: if there is no such encoder, or a row has no text.
    """
    import numpy as np

    listen: Listener = options.get("listen", ignore)
    wanted = _wanted(**options)
    read = _rows(Path(rows), None, wanted.format) if isinstance(rows, str | Path) else _python_rows(rows)
    first, every = _peeked(read)
    opened = wanted.open(wanted.text_column(first, listen))
    made = Embedded(wanted, opened, listen, out=None, skip=False)
    chunks = Embedder(opened, wanted.settings, listen).chunks(every, skip=False)
    found = [prediction for chunk in made.counted(chunks) for _, prediction in chunk.pairs]
    if wanted.pooling == "words":
        return [{"words": one["words"], "embeddings": one["vectors"]} for one in found]
    return np.stack([one["vectors"] for one in found]) if found else np.zeros((0, opened.width), dtype=np.float32)


def _python_rows(rows: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, str | Mapping):
            raise DataError(
                f"row {number} is a {type(row).__name__}, and must be a text or a dict of column and value."
            )
        yield Row(example={TEXT: row} if isinstance(row, str) else dict(row), place=f"row {number}", line=None)


# Rows ------------------------------------------------------------------------------------------------------------


def _rows(path: Path | None, stdin: BinaryIO | None, kind: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a file or of standard input; of plain text, each line is one."""
    plain = path is not None and path.name.removesuffix(".gz").lower().endswith(f".{PLAIN}")
    if kind != PLAIN and (kind or not plain):
        return files.scan(path, format=kind, stdin=stdin)
    return _lines(path, stdin)


def _lines(path: Path | None, stdin: BinaryIO | None) -> Iterator[Row]:
    name = path.name if path is not None else files.STANDARD_INPUT
    number = 0
    for number, text in files.lines(path, stdin=stdin):
        yield Row(example={TEXT: text}, place=f"{name}:{number}", line=number)
    if not number:
        raise DataError(f"{path or name} is empty.")


def _peeked(rows: Iterable[Row | BadRow]) -> tuple[list[Example], Iterator[Row | BadRow]]:
    """Return the first good rows, and all rows."""
    every = iter(rows)
    first = list(islice(every, PEEKED))
    return [row.example for row in first if isinstance(row, Row)], chain(first, every)


# The command -----------------------------------------------------------------------------------------------------


def embed_file(
    source: Path | None,
    *,
    out: Path | None,
    stdin: BinaryIO | None = None,
    text: str | None = None,
    on_error: OnError = "stop",
    listen: Listener = ignore,
    **options: Any,
) -> Embedded:
    """Return the output lines of ``bertkit embed``; where there is an ``out``, vectors are written there already.

    Args:
        source: a data file, or None for ``stdin``.
        out: written whole or not at all, as its suffix says; lines of JSON go on from what an earlier call, killed,
            had done.
        stdin: JSON Lines, or what ``data.format`` says, where there is no ``source``.
        text: one text in place of a file.
        on_error: ``stop`` ends at the first row without a text; ``skip`` writes it, with place and reason, to
            ``<out>.rejects.jsonl`` (without an ``out``: tells ``listen``) and goes on.
        listen: is given progress.
        options: as for :func:`embed`.

    Raises:
        BertkitError: as :func:`embed`, or if ``out`` cannot be written.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"--on-error {on_error}: there is {' and '.join(get_args(OnError))}.")
    began = time.monotonic()
    kind = _kind(out, options.get("pooling", "mean"))
    wanted = _wanted(**options, listen=listen)
    if source is not None:
        files.check_readable(source, format=wanted.format.replace(PLAIN, ""), any_suffix=True)
    if out is not None:
        check_writable(out)
    read = _rows(source, stdin, wanted.format) if text is None else _one(text)
    first, every = _peeked(read if kind in FILES else rejects.as_json(read))
    listen(Phase(name="loading the encoder"))
    opened = wanted.open(wanted.text_column(first, listen))
    made = Embedded(wanted, opened, listen, out=out, skip=on_error == "skip")
    made.began = began
    column = "" if kind == ".npy" else wanted.settings.column
    embedder = Embedder(opened, wanted.settings, listen, column=column)
    if out is None:
        made.lines = _as_lines(made, embedder, every, listen)
    elif kind in FILES:
        _to_file(made, embedder, every, kind, out)
    else:
        _to_lines(made, embedder, every, out, listen)
    return made


def _kind(out: Path | None, pooling: str) -> str:
    """Return the suffix that says what an output is.

    Raises:
        ConfigError: if it says nothing, or cannot hold the vectors.
    """
    if out is None:
        return ""
    kind = next((suffix for suffix in (*FILES, *LINES) if out.name.lower().endswith(suffix)), "")
    if not kind:
        raise ConfigError(
            f"--out {out}: its name must end in {', '.join((*FILES, *LINES))}, which says what is written."
        )
    if kind == ".npy" and pooling == "words":
        raise ConfigError(
            f"--out {out}: an array has a vector a row, and --pooling words as many as there are words. Name an --out "
            "that ends in .parquet or .jsonl."
        )
    return kind


def _one(text: str) -> Iterator[Row]:
    yield Row(example={TEXT: text}, place="--text", line=None)


def _as_lines(made: Embedded, embedder: Embedder, rows: Iterable[Row | BadRow], listen: Listener) -> Iterator[str]:
    """Yield lines of JSON; of rows that are skipped, tell."""
    for chunk in made.counted(embedder.chunks(rows, skip=made.skip)):
        for bad in chunk.rejected:
            listen(Note(message=f"skipped {bad.place}: {bad.reason}", level="warning"))
        yield from _json_lines(embedder, chunk)


def _json_lines(embedder: Embedder, chunk: Chunk) -> Iterator[str]:
    for row, prediction in chunk.pairs:
        yield json_line(vector_files.shown(row, embedder.column, prediction))


def _to_file(made: Embedded, embedder: Embedder, rows: Iterable[Row | BadRow], kind: str, out: Path) -> None:
    """Write an array or a table."""
    with vector_files.opened(out) as part:
        with closing(_writer(embedder, kind, part.file)) as writer:
            for chunk in made.counted(embedder.chunks(rows, skip=made.skip)):
                part.reject([bad.line() for bad in chunk.rejected])
                if chunk.pairs:
                    writer.write(chunk.pairs)
        part.finish()


def _writer(embedder: Embedder, kind: str, file: BinaryIO) -> vector_files.Writer:
    one = embedder.opened
    if kind == ".npy":
        return vector_files.Npy(file, one.width)
    return vector_files.Parquet(file, one.width, embedder.column, words=one.adapter.pooling == "words")


def _to_lines(made: Embedded, embedder: Embedder, rows: Iterable[Row | BadRow], out: Path, listen: Listener) -> None:
    """Write lines of JSON, behind those that an earlier process, killed, had written."""
    with partial.opened(out, _identity(made), listen) as kept:
        begun = kept.begun
        if begun.num_rejected and not made.skip:
            raise kept.refused("holds rows that were skipped, and --on-error is stop")
        made.num_rows, made.num_truncated, made.num_rejected = begun.num_rows, begun.num_truncated, begun.num_rejected
        kept.finish(_kept(made, embedder, kept.unread(rows), kept), formatted=False)


def _kept(made: Embedded, embedder: Embedder, rows: Iterable[Row | BadRow], kept: Partial) -> Iterator[str]:
    """Keep what comes of the rows, chunk by chunk; yields nothing."""
    for chunk in made.counted(embedder.chunks(rows, skip=made.skip)):
        lines, bad = list(_json_lines(embedder, chunk)), [one.line() for one in chunk.rejected]
        kept.keep(lines, bad, num_truncated=_num_truncated(chunk))
        yield from ()


def _identity(made: Embedded) -> dict[str, Any]:
    """Return what decides over vectors, by which one half of a file must not differ from the other."""
    wanted, opened = made.wanted, made.opened
    return {
        "model": encoder.folder_hash(wanted.source.folder),
        "name": wanted.source.name,
        "pooling": wanted.pooling,
        "layers": wanted.layers,
        "normalize": wanted.normalize,
        "columns.text": opened.adapter.column(TEXT),
        "max_length": opened.adapter.config.max_length,
        "embed.column": wanted.settings.column,
        "precision": opened.precision,
        "device": opened.accelerator.device.type,
        "version": __version__,
    }
