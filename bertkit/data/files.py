"""Read data files: JSON Lines, CSV, TSV, CoNLL, SQuAD and Parquet, all but the last also gzipped; Python objects.

One scan serves all callers. :func:`scan` walks a file in constant memory and yields a :class:`Row` for what can be
used and a :class:`BadRow` for what cannot, so that a caller may go on behind a bad row. :func:`stream` raises at the
first bad row, :func:`read` collects them all into one message. A fault of the file as a whole (missing, a folder,
empty, cut off, no header) is a :class:`DataError` from all three.

- **JSONL**: one object a line; blank lines are skipped; of a repeated key the last counts; ``NaN`` is refused,
  because it is not JSON and could not be written back.
- **CSV**: quoted as RFC 4180 says; a header; a row is named by the line on which it starts.
- **TSV**: a header, and *no quoting*: a quote is a character like any other. GLUE's files and most linguistic data
  are written so, and hold lone quotes that would swallow the rows behind them.
- **CoNLL**, **CoNLL-U**, **SQuAD**: see :mod:`bertkit.data.conll` and :mod:`bertkit.data.squad`.
- Cells of CSV and TSV are texts. Text is UTF-8, with or without a byte order mark; lines end in LF or CR LF.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from bertkit.data import Example, Split, conll, squad
from bertkit.data.lines import MOST_LEVELS, BadRow, Lines, Row, finite, json_kind, no_constant, too_deep
from bertkit.errors import MALFORMED, DataError, did_you_mean, joined

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are turned into Python objects at one time."""
FIELD_LIMIT = 2**31 - 1
"""Characters of one CSV field: what the csv module can be told on every platform."""
STANDARD_INPUT = "standard input"


def read(
    path: Path,
    *,
    format: str = "",  # noqa: A002 (the task file's word)
    name: str = "",
    columns: Mapping[str, Any] | None = None,
) -> Split:
    """Read a data file whole.

    Args:
        path: the file.
        format: one of ``FORMATS``; else the suffix decides.
        name: the split's name, else the file's name up to its first dot.
        columns: the task's columns, role -> position, for files whose columns have no names (CoNLL); names are
            passed over.

    Raises:
        DataError: if the file cannot be read, is empty, or has bad rows, which are named together.
    """
    rows: list[Row] = []
    bad: list[BadRow] = []
    for row in scan(path, format=format, columns=columns):
        if isinstance(row, Row):
            rows.append(row)
        else:
            bad.append(row)
    if bad:
        raise DataError(f"{joined(map(str, bad))}.")
    lines = [row.line for row in rows if row.line is not None]
    examples = [row.example for row in rows]
    return Split(name=name or path.name.split(".")[0], examples=examples, source=path.name, lines=lines or None)


def stream(
    path: Path | None,
    *,
    format: str = "",  # noqa: A002
    stdin: BinaryIO | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Example, str]]:
    """Yield each row with its place (``file:line``), in constant memory but for SQuAD files.

    Args:
        path: the file, or None for ``stdin``.
        format: as for :func:`read`; ``stdin`` is JSON Lines unless it says otherwise.
        stdin: a binary stream.
        columns: as for :func:`read`.

    Raises:
        DataError: as :func:`read`, at the first bad row.
    """
    for row in scan(path, format=format, stdin=stdin, columns=columns):
        if isinstance(row, BadRow):
            raise DataError(f"{row}.")
        yield row.example, row.place


def scan(
    path: Path | None,
    *,
    format: str = "",  # noqa: A002
    stdin: BinaryIO | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Iterator[Row | BadRow]:
    """Yield every row that holds something, good or bad; arguments and memory as for :func:`stream`.

    Raises:
        DataError: if the file as a whole cannot be read, or is empty.
    """
    if path is None:
        if stdin is None:
            raise ValueError("scan() needs a path or a stream")
        kind = _reader_name(STANDARD_INPUT, format or "jsonl")
        if kind == "parquet":
            raise DataError(f"A {kind} file cannot be read from {STANDARD_INPUT}: save it to a file first.")
        yield from _text_rows(kind, Lines(stdin, STANDARD_INPUT, STANDARD_INPUT), columns)
        return
    check_readable(path, format=format)
    kind = _format_of(path, format)
    if kind == "parquet":
        yield from _parquet(path)
        return
    with _opened(path) as file:
        yield from _text_rows(kind, Lines(file, path.name, str(path)), columns)


def _text_rows(kind: str, lines: Lines, columns: Mapping[str, Any] | None) -> Iterator[Row | BadRow]:
    if kind in COLUMN_READERS:
        return COLUMN_READERS[kind](lines, columns or {})
    return TEXT_READERS[kind](lines)


def check_readable(path: Path, *, format: str = "", any_suffix: bool = False) -> None:  # noqa: A002
    """Check, before anything slow is done, that a data file is there, can be opened and has a known format.

    Args:
        path: the file.
        format: as for :func:`read`.
        any_suffix: let a suffix pass that is no data file's, where a model will say what the format is.

    Raises:
        DataError: if it is missing (with the nearest name beside it), a folder, unreadable or of an unknown format.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if is_folder:
        raise DataError(f"{path} is a folder, not a file.")
    if not is_there:
        raise DataError(f"There is no file {path}.{_nearest(path)}")
    kind = "" if any_suffix and not format and _suffix(path) not in FORMATS else _format_of(path, format)
    if kind == "parquet" and path.suffix == ".gz":
        raise DataError(f"{path}: Parquet is compressed inside and is not read gzipped. Unpack it with 'gunzip'.")
    if path.is_file():  # a pipe must not be opened twice
        _opened_raw(path).close()


def tab_separated(path: Path, *, name: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of a TSV file, its header, if there is one, included; no quoting.

    Args:
        path: the file, ``.gz`` or plain.
        name: what messages call it.

    Raises:
        DataError: if it cannot be read or is not UTF-8.
    """
    check_readable(path, format="tsv")
    with _opened(path) as file:
        lines = Lines(file, name or path.name, str(path))
        for text in lines:
            if lines.fault:
                raise DataError(f"{lines.place(lines.number)}: {lines.fault}.")
            if text:
                yield lines.number, text.split("\t")


def lines(path: Path | None, *, stdin: BinaryIO | None = None) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line of a text, empty ones too.

    Args:
        path: the file, ``.gz`` or plain, of any suffix; None for ``stdin``.
        stdin: a binary stream.

    Raises:
        DataError: if it cannot be read or is not UTF-8.
    """
    if path is not None:
        check_readable(path, any_suffix=True)
    with nullcontext(stdin) if path is None else _opened(path) as file:
        assert file is not None
        found = Lines(file, path.name if path else STANDARD_INPUT, str(path or STANDARD_INPUT))
        for text in found:
            if found.fault:
                raise DataError(f"{found.place(found.number)}: {found.fault}.")
            yield found.number, text


# Files and lines -----------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with _opened_raw(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield file


def _opened_raw(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    with suppress(OSError):
        return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])
    return ""


def _format_of(path: Path, format: str) -> str:  # noqa: A002
    if format:
        return _reader_name(str(path), format)
    suffix = _suffix(path)
    if suffix in FORMATS:
        return suffix
    known = ", ".join(f".{name}" for name in FORMATS)
    raise DataError(
        f"{path}: '{f'.{suffix}' if suffix else 'no suffix'}' is no suffix of a data file. Known are {known}, also "
        "with .gz; --set data.format=NAME overrides it."
    )


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower().removeprefix(".")


def _reader_name(where: str, format: str) -> str:  # noqa: A002
    if format not in FORMATS:
        raise DataError(
            f"{where}: there is no format '{format}'.{did_you_mean(format, FORMATS)} Known are {', '.join(FORMATS)}."
        )
    return format


# Readers -------------------------------------------------------------------------------------------------------


def _jsonl(lines: Lines) -> Iterator[Row | BadRow]:
    empty = True
    for text in lines:
        if lines.fault or text.strip():
            empty = False
            yield _json_row(text, lines)
    if empty:
        raise DataError(f"{lines.where} is empty.")


def _json_row(text: str, lines: Lines) -> Row | BadRow:
    place = lines.place(lines.number)
    if lines.fault:
        return BadRow(place=place, reason=lines.fault, content=text)
    try:
        value = json.loads(text, parse_constant=no_constant, parse_float=finite)
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} (column {error.colno}); each line must hold one whole object"
        if "\0" in text:
            reason += ". There are NUL bytes in it, as in UTF-16 or a file that was not written to its end"
        return BadRow(place=place, reason=reason, content=text)
    except (ValueError, RecursionError) as error:
        return BadRow(place=place, reason=f"not JSON that can be read: {error}", content=text)
    if text.count("[") + text.count("{") > MOST_LEVELS and too_deep(value):
        reason = f"lists and objects stand more than {MOST_LEVELS} deep inside each other"
        return BadRow(place=place, reason=reason, content=text)
    if not isinstance(value, dict):
        reason = f'the line holds {json_kind(value)}, and must hold an object, like {{"text": "..."}}'
        return BadRow(place=place, reason=reason, content=text)
    return Row(example=value, place=place, line=lines.number)


def _tsv(lines: Lines) -> Iterator[Row | BadRow]:
    def rows() -> Iterator[tuple[int, list[str] | str]]:
        for text in lines:
            if lines.fault or text:
                yield lines.number, lines.fault or text.split("\t")

    return _table(rows(), lines, advice="")


def _csv(lines: Lines) -> Iterator[Row | BadRow]:
    # The csv module has one limit for the whole process; raising it takes nothing from another reader.
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
    return _table(_csv_rows(lines), lines, advice=". A text that holds a comma must stand in quotes")


def _csv_rows(lines: Lines) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the first line of each row with its cells, or with what is wrong with it."""
    reader = csv.reader(lines.raw(), strict=True)
    while True:
        start = lines.number + 1
        lines.fault = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, lines.fault or _csv_fault(str(error))
            continue
        if lines.fault or cells:
            yield start, lines.fault or cells


def _csv_fault(message: str) -> str:
    """Say what is wrong in other words than the csv module, which gives advice to those who call it."""
    if "unexpected end" in message:
        return "a quote is opened and never closed"
    if "new-line character" in message:
        return "a carriage return stands alone outside quotes, and lines must end in LF or CR LF"
    return f"not CSV: {message}"


def _table(rows: Iterator[tuple[int, list[str] | str]], lines: Lines, *, advice: str) -> Iterator[Row | BadRow]:
    """Turn cells into rows by the header; shared by CSV and TSV."""
    start, header = next(rows, (0, []))
    if not header:
        raise DataError(f"{lines.where} is empty.")
    if isinstance(header, str):
        raise DataError(f"{lines.place(start)}: {header}.")
    _check_header(header, lines.where)
    empty = True
    for start, cells in rows:
        empty = False
        place = lines.place(start)
        if isinstance(cells, str):
            yield BadRow(place=place, reason=cells)
        elif len(cells) != len(header):
            reason = f"{_fields(len(cells))}, and the header names {len(header)}"
            yield BadRow(place=place, reason=reason + (advice if len(cells) > len(header) else ""), content=cells)
        else:
            yield Row(example=dict(zip(header, cells, strict=True)), place=place, line=start)
    if empty:
        raise DataError(f"{lines.where} is empty: it has a header but no rows.")


def _fields(count: int) -> str:
    return f"{count} field" if count == 1 else f"{count} fields"


def _check_header(header: Sequence[str], where: str) -> None:
    if len(set(header)) == len(header):
        return
    seen: set[str] = set()
    for name in header:
        if name in seen:
            raise DataError(f"{where}: the header names column '{name}' twice.")
        seen.add(name)


TEXT_READERS: dict[str, Callable[[Lines], Iterator[Row | BadRow]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": _tsv,
    "json": squad.rows,
}
COLUMN_READERS: dict[str, Callable[[Lines, Mapping[str, Any]], Iterator[Row | BadRow]]] = {
    "conll": conll.rows,
    "conllu": conll.universal_rows,
}
"""Readers that are told the positions of columns."""
FORMATS = ("jsonl", "csv", "tsv", "parquet", *COLUMN_READERS, "json")


def _parquet(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet file, batch by batch; columns that ``datasets`` wrote as ids come as names."""
    from pyarrow import parquet

    number = 0
    try:
        with closing(parquet.ParquetFile(path)) as file:
            schema = file.schema_arrow
            _check_header(schema.names, str(path))
            names = _stored_label_names(schema.metadata or {})
            for cells in chain.from_iterable(map(_python_rows, file.iter_batches(batch_size=PARQUET_ROWS))):
                number += 1
                place = f"{path.name} row {number}"
                if isinstance(cells, str):
                    yield BadRow(place=place, reason=cells)
                else:
                    yield Row(example=_plain(cells, names), place=place, line=None)
    except _parquet_faults() as error:
        where = f" behind row {number}" if number else ""
        reason = str(error).removesuffix(".")
        raise DataError(f"{path} is not a Parquet file, or is damaged{where}: {reason}.") from error
    if not number:
        raise DataError(f"{path} is empty: it has columns but no rows.")


def _parquet_faults() -> tuple[type[Exception], ...]:
    """Return what reading Parquet raises; dates beyond Python's and the like, whatever Python's own types do."""
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, TypeError, LookupError, ArithmeticError


def _python_rows(batch: Any) -> list[Example | str]:
    """Return the rows of a batch; of one with a cell that Python cannot hold, what is wrong with it."""
    try:
        rows: list[Example | str] = batch.to_pylist()
    except _parquet_faults():
        return [_python_row(batch, index) for index in range(batch.num_rows)]
    return rows


def _python_row(batch: Any, index: int) -> Example | str:
    row = {}
    for name in batch.schema.names:
        try:
            row[name] = batch.column(name)[index].as_py()
        except _parquet_faults() as error:
            return f"column '{name}' cannot be read: {error}"
    return row


def _stored_label_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Return column -> label names from what ``datasets`` stores in a Parquet schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {column: _class_names(feature) for column, feature in features.items()}
    except MALFORMED:
        return {}
    return {column: names for column, names in found.items() if names}


def _class_names(feature: Any) -> list[str]:
    if isinstance(feature, list) and len(feature) == 1:  # how datasets before 4.0 wrote a list
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
    return _class_names(feature.get("feature"))


# Python objects ------------------------------------------------------------------------------------------------


def from_python(rows: Any, name: str) -> Split:
    """Take rows from Python.

    Args:
        rows: a ``datasets.Dataset`` (label ids become label names, -1 becomes None), a pandas ``DataFrame`` (NaN
            becomes None) or a list of dicts.
        name: the split's name, by which messages call the rows.

    Raises:
        DataError: if there are no rows, or something in their place.
    """
    if _is_a(rows, "datasets", "Dataset"):
        examples = _from_datasets(rows)
    elif _is_a(rows, "pandas", "DataFrame"):
        examples = _from_pandas(rows)
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping) and _known(rows):
        examples = [_checked(row, name, number) for number, row in enumerate(rows, start=1)]
    else:
        raise DataError(
            f"{name} is a {type(rows).__module__}.{type(rows).__name__}, and must be a datasets.Dataset, a pandas "
            "DataFrame or a list of dicts."
        )
    if not examples:
        raise DataError(f"{name} is empty: it has no rows.")
    return Split(name=name, examples=examples, source=name)


def _is_a(value: Any, package: str, name: str) -> bool:
    """Say whether ``value`` is of a class of a package, without importing the package."""
    return any(c.__name__ == name and c.__module__.split(".")[0] == package for c in type(value).__mro__)


def _known(rows: Any) -> bool:
    """Say whether iterating gives rows: a pandas Series gives cells, a streaming dataset may never end."""
    return type(rows).__module__.split(".")[0] not in {"pandas", "datasets", "numpy", "torch"}


def _checked(row: Any, name: str, number: int) -> Example:
    if not isinstance(row, Mapping):
        raise DataError(f"{name} row {number} is a {type(row).__name__}, and must be a dict of column and value.")
    return _plain(row, {})


def _from_datasets(rows: Any) -> list[Example]:
    features = {column: _innermost(feature) for column, feature in rows.features.items()}
    names = {column: list(f.names) for column, f in features.items() if _is_a(f, "datasets", "ClassLabel")}
    return [_plain(row, names) for row in rows.with_format(None)]


def _innermost(feature: Any) -> Any:
    inner = getattr(feature, "feature", None)
    return feature if inner is None else _innermost(inner)


def _from_pandas(rows: Any) -> list[Example]:
    columns = [str(column) for column in rows.columns]
    _check_header(columns, "The DataFrame")
    cells = rows.astype(object).where(rows.notna(), None)
    return [dict(zip(columns, row, strict=True)) for row in cells.itertuples(index=False, name=None)]


def _plain(example: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> Example:
    """Return a row with label ids turned into names and NaN, which means "no value", into None."""
    row = {column: None if isinstance(value, float) and value != value else value for column, value in example.items()}
    return row | {column: _named(row.get(column), names[column]) for column in names if column in row}


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if not isinstance(value, int) or value >= len(names):
        return value
    return names[value] if value >= 0 else None
