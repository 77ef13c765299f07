"""``predict --shard K/N``: parts of one output, each made on a machine that shares nothing with the others.

Each machine reads the whole input and forms the chunks of a whole run from it; shard ``K`` predicts every ``N``-th of
them. What it writes is the folder ``<out>.shard-K-of-N``, as :mod:`bertkit.workflows.partial` has it: rows, rejects, by
which model and how, and the hash of the input. Before the rows of a chunk stands a line with its place in the input
(:class:`Head`), so that :mod:`bertkit.workflows.merge` can put the chunks in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from bertkit.errors import ConfigError
from bertkit.run import json_line

MOST = 100_000
"""Shards that an input is divided into."""


class Shard(NamedTuple):
    """One of the parts that an input is divided into."""

    number: int
    """From 1."""
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, chunk: int) -> bool:
        """Say whether a chunk, counted from 0, is this shard's."""
        return chunk % self.of == self.number - 1


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands before the rows of a chunk."""

    chunk: int
    """From 0, over the whole input."""
    num_before: int
    """Rows of the input, good and bad, before it."""
    num_rows: int
    num_rejected: int
    num_truncated: int

    def line(self) -> str:
        """Return it as it is written."""
        return json_line(asdict(self))

    @staticmethod
    def read(line: str) -> Head:
        """Return what :meth:`line` wrote."""
        return Head(**json.loads(line))


def parse(text: str) -> Shard:
    """Read ``3/16``.

    Raises:
        ConfigError: if it is no shard, counted from 1.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None:
        raise ConfigError(f"--shard is '{text}', and must be K/N: --shard 3/16 is the third of 16, counted from 1.")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.of <= MOST:
        raise ConfigError(f"--shard is '{text}', and there can be 1 to {MOST:,} shards. Name another N of K/N.")
    if not 1 <= shard.number <= shard.of:
        raise ConfigError(f"--shard is '{text}', and there are shards 1/{shard.of} to {shard.of}/{shard.of}.")
    return shard


def folder_of(out: Path, shard: Shard) -> Path:
    """Return where a part of an output is kept: ``out.jsonl.shard-03-of-16``, in the order of names."""
    return out.with_name(f"{out.name}.shard-{shard.number:0{len(str(shard.of))}}-of-{shard.of}")


def folders(out: Path) -> Iterator[tuple[Shard, Path]]:
    """Yield the parts of an output that are there."""
    pattern = re.compile(re.escape(out.name) + r"\.shard-([0-9]+)-of-([0-9]+)")
    for folder in sorted(out.parent.iterdir()) if out.parent.is_dir() else ():
        found = pattern.fullmatch(folder.name)
        if found and folder.is_dir() and folder == folder_of(out, shard := Shard(int(found[1]), int(found[2]))):
            yield shard, folder
