"""Files of vectors, written row by row and whole or not at all: ``.npy`` and Parquet.

``<out>.part/`` holds what is written, and a lock; the file takes its place by a rename. What a killed process left
there is written anew by the next one. (JSON Lines go on where they were: :mod:`bertkit.workflows.partial`.)
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from bertkit.adapters.base import Example, Prediction
from bertkit.errors import DataError, RunError
from bertkit.run import disk_errors
from bertkit.vectors import numbers
from bertkit.workflows import locks
from bertkit.workflows.partial import LOCK, REJECTS, folder_of, rejects_of

if TYPE_CHECKING:
    import pyarrow as pa

NPY_HEADER = 128
"""Bytes in front of the numbers: a multiple of 64, with room for any shape (numpy.lib.format, version 1.0)."""
WHOLE = "vectors"
"""The file that is written, inside the folder."""
Pair = tuple[Example, Prediction]


class Writer(Protocol):
    """Takes rows with their vectors."""

    def write(self, pairs: Sequence[Pair]) -> None:
        """Write rows behind those before."""

    def close(self) -> None:
        """Complete the file, which stays open."""


class Npy:
    """An array ``(n, W)`` float32, little-endian, whose number of rows is known at the end."""

    def __init__(self, file: BinaryIO, width: int) -> None:
        """Begin an empty file."""
        self.file, self.width = file, width
        self.num_rows = 0
        self.file.write(bytes(NPY_HEADER))

    def write(self, pairs: Sequence[Pair]) -> None:
        """Write the vectors; the rows are kept elsewhere."""
        for _, prediction in pairs:
            self.file.write(prediction["vectors"].astype("<f4").tobytes())
        self.num_rows += len(pairs)

    def close(self) -> None:
        """Write the header."""
        self.file.seek(0)
        self.file.write(npy_header(self.num_rows, self.width))


def _refuse_lost(kind: pa.DataType, known: pa.DataType, name: str) -> None:
    """Refuse nested values with a field that the first rows did not have: Arrow would leave it out without a word."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and pa.types.is_struct(known):
        for field in kind:
            place = known.get_field_index(field.name)
            if place < 0:
                raise TypeError(f"column '{name}' has a field '{field.name}', which none of the first rows has")
            _refuse_lost(field.type, known.field(place).type, f"{name}.{field.name}")
    elif pa.types.is_list(kind) and pa.types.is_list(known):
        _refuse_lost(kind.value_type, known.value_type, name)


def npy_header(num_rows: int, width: int) -> bytes:
    """Return the header of an array of that shape, float32, as numpy.lib.format describes it (version 1.0)."""
    told = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({num_rows}, {width}), }}"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", NPY_HEADER - 10)
    return start + told.ljust(NPY_HEADER - 11).encode("ascii") + b"\n"


class Parquet:
    """The columns of the rows, and the vectors beside them as lists of a fixed size."""

    def __init__(self, file: BinaryIO, width: int, column: str, *, words: bool) -> None:
        """Take an empty file; the types of the other columns are those of the first rows."""
        self.file, self.width, self.column, self.words = file, width, column, words
        self.schema: pa.Schema | None = None
        self.writer: Any = None

    def write(self, pairs: Sequence[Pair]) -> None:
        """Write rows.

        Raises:
            DataError: if a column has another type than in the first rows, or is new.
        """
        import pyarrow as pa
        from pyarrow import parquet

        rows = [row for row, _ in pairs]
        table = self._table(rows)
        table = table.append_column(self.column, self._vectors(pairs))
        if self.writer is None:
            self.writer = parquet.ParquetWriter(pa.PythonFile(self.file), table.schema)
        self.writer.write_table(table)

    def _table(self, rows: Sequence[Example]) -> pa.Table:
        import pyarrow as pa

        try:
            if self.schema is None:
                names = list(dict.fromkeys(name for row in rows for name in row))
                arrays = {name: pa.array([row.get(name) for row in rows]) for name in names}
                self.schema = pa.schema([(name, _kind(array.type)) for name, array in arrays.items()])
            self._refuse_new(rows)
            for field in self.schema:
                _refuse_lost(pa.array([row.get(field.name) for row in rows]).type, field.type, field.name)
            return pa.Table.from_pylist(list(rows), schema=self.schema)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"The rows make no Parquet table: {str(error).removesuffix('.')}. Every column must have one type, "
                "that of the first rows. Name an --out that ends in .jsonl."
            ) from error

    def _refuse_new(self, rows: Sequence[Example]) -> None:
        assert self.schema is not None
        known = set(self.schema.names)
        new = next((name for row in rows for name in row if name not in known), None)
        if new is not None:
            raise TypeError(f"column '{new}' is in none of the first rows")

    def _vectors(self, pairs: Sequence[Pair]) -> pa.Array:
        """Return a column: of texts, lists of W numbers; of words, ``words`` and ``embeddings`` of each row."""
        import numpy as np
        import pyarrow as pa

        each = [prediction["vectors"].reshape(-1, self.width) for _, prediction in pairs]
        flat = np.concatenate([np.zeros((0, self.width), dtype=np.float32), *each])
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), self.width)
        if not self.words:
            return vectors
        spans = np.array([span for _, prediction in pairs for span in prediction["words"]], dtype=np.int32)
        ends = pa.array(np.cumsum([0, *map(len, each)]), pa.int32())
        words = pa.FixedSizeListArray.from_arrays(pa.array(spans.reshape(-1)), 2)
        lists = [pa.ListArray.from_arrays(ends, one) for one in (words, vectors)]
        return pa.StructArray.from_arrays(lists, ["words", "embeddings"])

    def close(self) -> None:
        """Write the footer."""
        if self.writer is None:
            self.write([])
        self.writer.close()


def _kind(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column; one that is null in all of the first rows may hold text later."""
    import pyarrow as pa

    return pa.string() if pa.types.is_null(kind) else kind


class Part:
    """What is written of an output; made by :func:`opened`."""

    def __init__(self, out: Path) -> None:
        """Name the files of the folder ``<out>.part``, which is there and locked."""
        self.out = out
        self.folder = folder_of(out)
        self.file = (self.folder / WHOLE).open("wb")
        self.rejects = (self.folder / REJECTS).open("w", encoding="utf-8")
        self.num_rejected = 0

    def reject(self, lines: Sequence[str]) -> None:
        """Write lines of rows that were skipped."""
        self.rejects.writelines(f"{line}\n" for line in lines)
        self.num_rejected += len(lines)

    def finish(self) -> None:
        """Move the output, whole, to its place; the rejects before it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.close()
        beside = rejects_of(self.out)
        if self.num_rejected:
            os.replace(self.folder / REJECTS, beside)
        else:
            # Of an earlier output of this name.
            beside.unlink(missing_ok=True)
        os.replace(self.folder / WHOLE, self.out)

    def close(self) -> None:
        """Close the files; a full disk refuses even that."""
        for file in (self.file, self.rejects):
            with suppress(OSError):
                file.close()


@contextmanager
def opened(out: Path) -> Iterator[Part]:
    """Give the folder that an output is written in; whatever is in it at the end is removed.

    Raises:
        RunError: if another process writes it, or the disk refuses.
    """
    folder = folder_of(out)
    with ExitStack() as stack, disk_errors(out):
        folder.mkdir(exist_ok=True)
        if not stack.enter_context(locks.alone(folder / LOCK)):
            raise RunError(f"{out} is being written by another process. Wait for it, or name another --out.")
        part = Part(out)
        try:
            yield part
        finally:
            part.close()
            shutil.rmtree(folder, ignore_errors=True)


def shown(row: Mapping[str, Any], column: str, prediction: Prediction) -> dict[str, Any]:
    """Return a row with its vectors as JSON has them: one list, or of words ``words`` and ``embeddings``."""
    if "words" not in prediction:
        return {**row, column: numbers(prediction["vectors"])}
    spans = [list(span) for span in prediction["words"]]
    return {**row, column: {"words": spans, "embeddings": [numbers(one) for one in prediction["vectors"]]}}
