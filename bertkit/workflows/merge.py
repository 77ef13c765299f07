"""``bertkit predict --merge``: the parts that ``--shard`` wrote, put together in input order and in constant memory.

Nothing is written before every part is there, complete, undamaged, and of the same input, model and settings; then the
chunks are taken in turn, one from each part, and each must begin where the one before it ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from bertkit.adapters.base import Adapter
from bertkit.errors import MALFORMED, ConfigError, RunError, joined
from bertkit.events import Listener, Note, Phase, Progress, ignore
from bertkit.task import DataSource, Task
from bertkit.workflows import partial, saved, shards
from bertkit.workflows.partial import REJECTS, ROWS, STATE, Done, Partial
from bertkit.workflows.predict import JSON_LINES, Input, check_format, check_writable, formatted, truncation_note
from bertkit.workflows.shards import Head, Shard

OWN = ("shard", "name")
"""Facts in which parts may differ: which of them each is, and where the model lies on its machine."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A complete part of an output."""

    shard: Shard
    folder: Path
    about: dict[str, Any]
    done: Done


@dataclass(frozen=True, kw_only=True)
class Merged:
    """An output that was put together."""

    out: Path
    run: str
    num_shards: int
    num_rows: int
    num_truncated: int
    num_rejected: int
    skip: bool

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        counts = {"run": self.run, "num_rows": self.num_rows, "num_truncated": self.num_truncated}
        counts |= {"num_rejected": self.num_rejected} if self.skip else {}
        return counts | {"num_shards": self.num_shards}


def merge(
    out: Path,
    *,
    source: Path | None = None,
    format: str = "",  # noqa: A002 (the flag's word)
    listen: Listener = ignore,
) -> Merged:
    """Write an output of its parts, whole or not at all; what it holds is what a run without shards would have written.

    Args:
        out: the output, beside which the parts are; they stay.
        source: the input, to be held against the parts.
        format: of the lines, as in :func:`bertkit.workflows.predict.predict_file`; what the parts were made for where
            not given.
        listen: is given progress.

    Raises:
        RunError: if a part is missing, incomplete, damaged, or not of the others' input, model or settings.
        ConfigError: if the task type does not write the format.
    """
    check_writable(out)
    parts = _parts(out)
    about: dict[str, Any] = {"merged shards": len(parts)}
    about |= {key: value for key, value in parts[0].about.items() if key != "shard"} | {"input": parts[0].done.read}
    kind = format or str(about["--format"])
    adapter = _adapter(about["settings"], kind, out) if kind != JSON_LINES else None
    if source is not None:
        listen(Phase(name="reading the input"))
        _require_input(source, parts[0])
    listen(Phase(name="checking the parts"))
    for part in parts:
        _require_undamaged(part)
    with partial.opened(out, about, listen) as kept:
        lines = _lines(parts, kept, listen)
        if adapter is not None:
            lines = formatted(adapter, kind, str(about["predict.column"]), chain(kept.lines(), lines))
        kept.finish(lines, formatted=adapter is not None)
    merged = Merged(
        out=out,
        run=str(about["name"]),
        num_shards=len(parts),
        num_rows=kept.done.num_rows,
        num_truncated=kept.done.num_truncated,
        num_rejected=kept.done.num_rejected,
        skip=about["--on-error"] == "skip",
    )
    if merged.num_truncated:
        listen(truncation_note(merged.num_truncated, merged.num_rows, about["settings"].get("max_length", 0)))
    return merged


# Finding -----------------------------------------------------------------------------------------------------------


def _parts(out: Path) -> list[Part]:
    """Return all parts, in order.

    Raises:
        RunError: naming those that are missing or not complete, or what differs between two.
    """
    there = dict(shards.folders(out))
    if not there:
        raise RunError(
            f"There are no parts of {out} ({shards.folder_of(out, Shard(1, 2)).name}, ...). Write them with "
            f"'bertkit predict INPUT --out {out} --shard K/N', or copy them beside it."
        )
    numbers = sorted({shard.of for shard in there})
    if len(numbers) > 1:
        raise RunError(
            f"The parts of {out} are of {joined([f'{of} shards' for of in numbers])}. Delete the folders "
            f"{out.name}.shard-* of all but one."
        )
    (of,) = numbers
    missing = [str(shard) for number in range(1, of + 1) if (shard := Shard(number, of)) not in there]
    parts = [_part(shard, folder) for shard, folder in there.items()]
    late = [str(part.shard) for part in parts if not part.done.complete]
    if missing or late:
        way = "The same 'bertkit predict ... --shard' goes on with each."
        if missing:
            way = "Predict each with --shard, or copy its folder beside the others."
        said = " and ".join(
            f"{joined(names).replace('; ', ', ')} {'is' if len(names) == 1 else 'are'} {state}"
            for names, state in ((missing, "missing"), (late, "not complete"))
            if names
        )
        raise RunError(f"{out} cannot be merged: of {of} shards, {said}. {way}")
    for part in parts[1:]:
        _require_alike(parts[0], part)
    return parts


def _part(shard: Shard, folder: Path) -> Part:
    """Read what a part says of itself.

    Raises:
        RunError: if that is damaged.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        about, done = dict(state["about"]), Done(**state["done"])
        sound = done.is_sound() and about["shard"] == str(shard) and isinstance(about["settings"], dict)
        sound = sound and {"--format", "--on-error", "predict.column", "input format"} <= about.keys()
    except FileNotFoundError:
        # Its first chunk is not done.
        return Part(shard=shard, folder=folder, about={}, done=Done())
    except (OSError, *MALFORMED):
        sound = False
    if not sound:
        raise _damaged(folder, f"{STATE} is not what was written")
    return Part(shard=shard, folder=folder, about=about, done=done)


def _damaged(folder: Path, why: str) -> RunError:
    return RunError(f"{folder} is damaged: {why}. Copy it again, or delete it and predict this shard again.")


def _require_alike(one: Part, other: Part) -> None:
    """Refuse parts of two outputs.

    Raises:
        RunError: naming the first thing that differs.
    """
    for key in one.about.keys() | other.about.keys():
        if key not in OWN and one.about.get(key) != other.about.get(key):
            was, now = partial.shown(key, one.about), partial.shown(key, other.about)
            raise RunError(
                f"{one.folder} was predicted with {was}, and {other.folder.name} with {now}. Delete one of them, and "
                "predict it as the other shards were."
            )
    facts = ("num_read", "num_chunks", "read")
    if [getattr(one.done, name) for name in facts] != [getattr(other.done, name) for name in facts]:
        raise RunError(
            f"{one.folder} and {other.folder.name} are of different inputs, of {one.done.num_read:,} and "
            f"{other.done.num_read:,} rows. Delete the one that is not of the right input, and predict it again."
        )


# Checking ----------------------------------------------------------------------------------------------------------


def _require_undamaged(part: Part) -> None:
    """Hold the files of a part against the hashes of what was written.

    Raises:
        RunError: if one differs.
    """
    for name, size, digest in (
        (ROWS, part.done.rows_size, part.done.rows),
        (REJECTS, part.done.rejects_size, part.done.rejects),
    ):
        try:
            with (part.folder / name).open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == digest and file.tell() == size
        except OSError as error:
            raise _damaged(part.folder, f"{name} cannot be read ({error.strerror or error})") from error
        if not whole:
            raise _damaged(part.folder, f"{name} is not what was written")


def _require_input(source: Path, part: Part) -> None:
    """Hold an input against what the parts were predicted from.

    Raises:
        RunError: if it is another.
    """
    given = Input(path=source, stdin=None, text=None, format=str(part.about["input format"]))
    digest, number = hashlib.sha256(), 0
    columns = part.about["settings"].get("columns", {})
    for row in given.scanned(Task(name="", type="", data=DataSource(), columns=columns)):
        digest.update(partial.fingerprint(row))
        number += 1
    if (number, digest.hexdigest()) != (part.done.num_read, part.done.read):
        raise RunError(
            f"{source} ({number:,} rows) is not the input that the parts were predicted from ({part.done.num_read:,} "
            "rows): a row, its place or the name of the file differs. Name the right one, or leave INPUT out."
        )


def _adapter(settings: dict[str, Any], format: str, out: Path) -> Adapter:  # noqa: A002
    """Return what writes the rows: the adapter of the models that predicted them.

    Raises:
        ConfigError: if it does not write the format.
        RunError: if the parts do not say what it was.
    """
    if "." in str(settings.get("type")):
        # Parts may come from anybody.
        raise ConfigError(
            f"--format {format}: the parts name the Python module {settings['type']} as their task type, and a merge "
            "runs none. Give --format jsonl."
        )
    try:
        adapter = saved.adapter_of(settings)
    except MALFORMED as error:
        raise RunError(f"The parts of {out} do not say what predicted them ({error}). Predict them again.") from error
    check_format(format, adapter)
    return adapter


# Writing -----------------------------------------------------------------------------------------------------------


class _Reader:
    """A part that is read from its beginning to its end, a chunk at a time."""

    def __init__(self, part: Part, stack: ExitStack) -> None:
        self._part = part
        self._rows: IO[str] = self._opened(ROWS, stack)
        self._rejects: IO[str] = self._opened(REJECTS, stack)

    def _opened(self, name: str, stack: ExitStack) -> IO[str]:
        return stack.enter_context((self._part.folder / name).open(encoding="utf-8", newline="\n"))

    def chunk(self, number: int, num_before: int) -> tuple[Head, list[str], list[str]]:
        """Return the next chunk, which must be this one.

        Raises:
            RunError: if it is another.
        """
        try:
            head = Head.read(self._rows.readline())
        except MALFORMED as error:
            raise _damaged(self._part.folder, f"chunk {number} is missing") from error
        if (head.chunk, head.num_before) != (number, num_before):
            raise _damaged(self._part.folder, f"chunk {head.chunk} stands where chunk {number} should")
        rows, rejects = (
            [line.removesuffix("\n") for line in islice(file, wanted)]
            for file, wanted in ((self._rows, head.num_rows), (self._rejects, head.num_rejected))
        )
        if (len(rows), len(rejects)) != (head.num_rows, head.num_rejected):
            raise _damaged(self._part.folder, f"rows of chunk {number} are missing")
        return head, rows, rejects


def _lines(parts: list[Part], kept: Partial, listen: Listener) -> Iterator[str]:
    """Yield the lines of all parts in input order, from where an earlier process was; a chunk in memory at a time.

    Raises:
        RunError: if a row is missing, or there twice.
    """
    total, before = parts[0].done, 0
    with ExitStack() as stack:
        readers = [_Reader(part, stack) for part in parts]
        for number in range(total.num_chunks):
            head, rows, rejects = readers[number % len(parts)].chunk(number, before)
            before += head.num_rows + head.num_rejected
            if number < kept.begun.num_chunks:
                continue
            kept.took(before - kept.done.num_read)
            kept.keep(rows, rejects, num_truncated=head.num_truncated)
            yield from rows
            listen(Progress(name="merging", done=before, total=total.num_read))
    if before != total.num_read:
        raise RunError(
            f"The parts hold {before:,} rows of {total.num_read:,}. Delete them, and predict all shards again."
        )
    listen(Note(message=f"{len(parts)} parts merged; their folders can be deleted"))
