"""What a frozen encoder gives, computed once and kept in files, so that all epochs of a head cost one pass.

The body runs in evaluation mode, without padding where it can. What the head reads of it, and nothing that is learned,
is written row after row into a memory-mapped file in the cache folder, under a hash of the body's weights, of the rows
and of what is read: other epochs, seeds and runs find it there. Under a head of our own (:mod:`bertkit.heads`) that is
:meth:`Headed.read`; under Hugging Face's own, the body is answered for: its ``__call__`` gives what the file holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from uuid import uuid4

from bertkit import heads, infer, memory, processes, replicas
from bertkit.adapters.base import HIDDEN, Adapter, Feature, filled
from bertkit.data import cache as kept
from bertkit.events import Listener, Note, counter

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from bertkit.encoder import Encoder
    from bertkit.freezing import Plan

FOLDER = "states"
"""Inside the cache folder."""
MOST_BYTES = 20 * 1024**3
"""What all files may have together; beyond, those that were not used for longest are removed."""
MOST_OF_FREE = 0.5
"""Share of the disk's free room that the files of one training may take."""
AT_ONCE = 256 * 1024**2
"""Bytes that are held in memory before they are written."""
VERSION = 1
"""Of what a file holds."""
OF_THE_HEAD = {"_name_or_path", "architectures", "id2label", "label2id", "num_labels", "problem_type", "dtype"}
"""Entries of a configuration that do not decide over what the body gives."""

Reads = Literal["head", "pooled", "first", "tokens"]
"""What is kept of a row: what a head of our own reads; what BERT's pooler gives; the first token; all tokens."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is kept of each row, and how."""

    reads: Reads
    each_token: bool
    """Whether a row has a vector for each of its tokens, or one."""
    number: int
    """Vectors side by side."""
    width: int
    """Numbers of each."""
    precision: str
    """``float32``, ``bf16`` or ``fp16``."""

    @property
    def size(self) -> int:
        """Return the bytes of a token's or a row's vectors."""
        return self.number * self.width * (4 if self.precision == "float32" else 2)

    def places(self, features: Sequence[Feature]) -> np.ndarray:
        """Return where the vectors of each feature begin in the file, and where the last ends, ``(F + 1,)`` int64."""
        import numpy as np

        lengths = [len(feature) if self.each_token else 1 for feature in features]
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


# Files ------------------------------------------------------------------------------------------------------------


class File:
    """The kept vectors of a split."""

    def __init__(self, path: Path, form: Form, places: np.ndarray) -> None:
        """Open a file that is whole."""
        import numpy as np

        shape = (int(places[-1]), form.number * form.width)
        self.path, self.form, self.places = path, form, places
        self.values: np.ndarray = np.asarray(np.memmap(path, dtype=_stored(form), mode="r", shape=shape))

    def rows(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the vectors of features, one after another."""
        import numpy as np

        begins, ends = self.places[list(numbers)], self.places[[number + 1 for number in numbers]]
        if not self.form.each_token:
            found: np.ndarray = self.values[begins]
            return found
        return np.concatenate([self.values[begin:end] for begin, end in zip(begins, ends, strict=True)])


def _stored(form: Form) -> str:
    """Return NumPy's type of the numbers; it has none for bf16, which is kept as its bits."""
    return {"float32": "<f4", "bf16": "<i2", "fp16": "<f2"}[form.precision]


class States:
    """The open files of a training; :attr:`Feature.cached` counts through them."""

    def __init__(self, files: Sequence[File]) -> None:
        """Take the files of splits, in the order in which their features are numbered."""
        self.files = list(files)
        self.firsts = [0]
        for file in self.files:
            self.firsts.append(self.firsts[-1] + len(file.places) - 1)

    def batch(self, features: Sequence[Feature], width: int, *, left: bool) -> torch.Tensor:
        """Return what is kept of features of one split.

        Args:
            features: B of them, all with :attr:`Feature.cached`.
            width: T, to which rows are padded.
            left: on which side.

        Returns:
            ``(B, T, n, W)`` float32, zeros at padding; where a row has one vector, ``(B, 1, n, W)``.
        """
        import torch

        place = bisect_right(self.firsts, features[0].cached) - 1
        file, first = self.files[place], self.firsts[place]
        form = file.form
        values = torch.from_numpy(file.rows([feature.cached - first for feature in features]))
        vectors = (values.view(torch.bfloat16) if form.precision == "bf16" else values).float()
        vectors = vectors.view(-1, form.number, form.width)
        if not form.each_token:
            return vectors.unsqueeze(1)
        found = vectors.new_zeros(len(features), width, form.number, form.width)
        found[torch.from_numpy(filled([len(feature) for feature in features], left=left, width=width))] = vectors
        return found


def _folder() -> Path | None:
    """Return where the files are; None where there is no such place."""
    place = kept.folder()
    return place / FOLDER if place is not None else None


def _open(path: Path, form: Form, places: np.ndarray) -> File | None:
    """Open a file, if it is there and whole."""
    with suppress(OSError, ValueError):
        if path.stat().st_size == int(places[-1]) * form.size:
            # Another user's file, in a folder that several share, is read and not touched.
            with suppress(OSError):
                os.utime(path)
            return File(path, form, places)
    return None


# What is read -----------------------------------------------------------------------------------------------------


class _Reader:
    """A model of which only what is kept is computed; stands where predictions have a model and an adapter."""

    def __init__(self, model: Any, adapter: Adapter, form: Form) -> None:
        self.model, self.adapter, self.form = model, adapter, form
        self.collate, self.inputs = adapter.collate, adapter.inputs

    def eval(self) -> None:
        self.model.eval()

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        return _read(self.model, self.form.reads, inputs)

    def reduce(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
        """Return the vectors of each row, ``(tokens or 1, n * W)``, as they are stored."""
        import torch

        kind = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.form.precision]
        values = outputs.detach().to(kind).flatten(2).cpu()
        values = values.view(torch.int16) if kind is torch.bfloat16 else values
        if not self.form.each_token:
            return list(values.numpy())
        real = batch["attention_mask"].bool().cpu()
        return [row[mask].numpy() for row, mask in zip(values, real, strict=True)]


def _read(model: Any, reads: Reads, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what is kept of a batch, ``(B, T or 1, n, W)``."""
    if reads == "head":
        found: torch.Tensor = model.read(**inputs)
        return found
    output = model.base_model(**inputs)
    if reads == "pooled":
        return output["pooler_output"][:, None, None]  # type: ignore[no-any-return]
    states: torch.Tensor = output[0].unsqueeze(-2)
    return states[:, :1] if reads == "first" else states


def form_of(model: Any, plan: Plan, precision: str) -> Form | None:
    """Return the least that the head of a model reads; None where it reads what no file can give.

    Hugging Face's heads are tried: with the vector of a pooler that stays, with the first token, with all tokens.
    """
    import torch

    own = isinstance(getattr(model, "spec", None), heads.Spec)
    inputs = heads.trial(model.base_model)
    tried: list[Reads] = ["head"] if own else ["pooled", "first", "tokens"]
    if plan.pooler_is_trained:
        # What it gives changes with each step.
        tried = [reads for reads in tried if reads != "pooled"]
    with torch.no_grad(), _evaluated(model):
        expected = model(**inputs)
        for reads in tried:
            with suppress(Exception):
                found = _read(model, reads, inputs)
                with answered(model, reads, pooler=plan.pooler_is_trained):
                    if not _same(model(**inputs, **{HIDDEN: found}), expected, inputs["attention_mask"]):
                        continue
                each = found.shape[1] > 1
                number, width = found.shape[2:]
                return Form(reads=reads, each_token=each, number=number, width=width, precision=precision)
    return None


def _same(ours: Any, theirs: Any, mask: torch.Tensor) -> bool:
    """Say whether two outputs of a head are the same, padding not looked at."""
    for name in ("logits", "start_logits", "end_logits"):
        if name in theirs:
            one, other = ours[name], theirs[name]
            if one.shape[:2] == mask.shape:
                one, other = one[mask.bool()], other[mask.bool()]
            if not float((one - other).abs().max()) <= heads.CLOSE * max(1.0, float(other.abs().max())):
                return False
    return True


@contextmanager
def _evaluated(model: Any) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# Answering for the body -------------------------------------------------------------------------------------------


@contextmanager
def answered(model: Any, reads: Reads, *, pooler: bool) -> Iterator[None]:
    """Let a model take ``hidden`` inside, and its body give that; without it, the body computes, in evaluation mode.

    Args:
        model: with one of Hugging Face's heads; a head of our own takes ``hidden`` by itself.
        reads: what ``hidden`` is.
        pooler: whether the body's pooler is trained, and is applied to it.
    """
    body = model.base_model
    body.eval()
    plain: Any = type(body)

    def take(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        body.given = (kwargs.pop(HIDDEN, None), reads, pooler)
        return args, kwargs

    handle = model.register_forward_pre_hook(take, with_kwargs=True) if reads != "head" else None
    body.given = (None, reads, pooler)
    body.__class__ = _answering(plain)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        body.__class__ = plain
        del body.given


@cache
def _answering(plain: Any) -> Any:
    """Return a class of bodies that give what they are handed, and compute where they are handed nothing."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    class Answering(plain):  # type: ignore[misc]
        def train(self, mode: bool = True) -> Any:
            """Stay in evaluation mode; but for a pooler that is trained, which has no dropout."""
            return self

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            hidden, reads, pooler = self.given
            if hidden is None:
                return super().__call__(*args, **kwargs)
            states = hidden.squeeze(-2)
            if reads == "pooled":
                return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states[:, 0])
            pooled = self.pooler(states) if pooler else None
            return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    return Answering


# A training -------------------------------------------------------------------------------------------------------


@contextmanager
def features(
    loaded: Encoder,
    adapter: Adapter,
    splits: Mapping[str, Sequence[Feature]],
    *,
    refused: str = "",
    accelerator: Accelerator,
    room: infer.Room,
    listen: Listener,
) -> Iterator[dict[str, Any]]:
    """Have the head of a frozen encoder train and be scored on kept features, inside, where that is possible.

    Args:
        loaded: the model, on its device, with the plan of what is trained.
        adapter: collates; the same features, wherever they are collated inside, then carry what is kept of them.
        splits: features by the name of their split.
        refused: why it is not to be done.
        accelerator: device and precision.
        room: tokens that go through the body at once.
        listen: is told of the pass.

    Yields:
        what ``run.json`` says; nothing where the encoder is trained.
    """
    model, plan = loaded.model, loaded.plan
    if plan is None or not plan.states_are_fixed:
        yield {}
        return
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    form = None if refused else form_of(model, plan, precision)
    reason = refused or _reason(form, splits, accelerator)
    if reason:
        if not refused:
            listen(Note(message=f"the encoder is frozen, and its features are computed in each step: {reason}"))
        yield {"kept": False, "reason": reason}
        return
    assert form is not None
    work = _Work(loaded, adapter, form, accelerator, room, listen)
    states, facts = work.of(splits)
    if states is None:
        yield facts
        return
    with answered(model, form.reads, pooler=plan.pooler_is_trained), _handed(adapter, states, splits):
        yield facts


@contextmanager
def _handed(adapter: Adapter, states: States, splits: Mapping[str, Sequence[Feature]]) -> Iterator[None]:
    """Number the features, and let the adapter put what is kept of them into batches."""
    every = [feature for rows in splits.values() for feature in rows]
    for number, feature in enumerate(every):
        feature.cached = number
    adapter.states = states
    try:
        yield
    finally:
        adapter.states = None
        for feature in every:
            feature.cached = -1


def _reason(form: Form | None, splits: Mapping[str, Sequence[Feature]], accelerator: Accelerator) -> str:
    """Return why features cannot be kept, or an empty text."""
    if form is None:
        return "its head reads more of the encoder than its last states"
    place = _folder()
    if place is None:
        return "there is no cache folder (BERTKIT_CACHE is empty)"
    if replicas.is_fsdp(accelerator):
        return "its weights are in shards"
    size = _size(form, splits)
    free = _free(place)
    most = min(MOST_BYTES, int(MOST_OF_FREE * free) if free is not None else MOST_BYTES)
    if size > most:
        return f"they would take {memory.gigabytes(size)}, and there is room for {memory.gigabytes(most)} in {place}"
    return ""


def _size(form: Form, splits: Mapping[str, Sequence[Feature]]) -> int:
    return sum(form.size * int(form.places(rows)[-1]) for rows in splits.values())


def _free(place: Path) -> int | None:
    """Return the bytes that are free on the disk of a folder that need not be there yet."""
    there = next((each for each in (place, *place.parents) if each.is_dir()), None)
    with suppress(OSError):
        return shutil.disk_usage(there).free if there is not None else None
    return None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """Open a new file, and its folder where that is not there; None where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("wb")
    except OSError:
        yield None
        return
    with file:
        yield file


def _append(file: BinaryIO | None, values: Sequence[np.ndarray]) -> None:
    """Write the vectors of some rows."""
    for value in values if file is not None else ():
        assert file is not None
        file.write(value.tobytes())


def _parts(places: np.ndarray, size: int) -> Iterator[range]:
    """Yield runs of rows whose vectors together are held in memory at a time."""
    begin, most = 0, max(1, AT_ONCE // size)
    while begin < len(places) - 1:
        end = max(begin + 1, int(places.searchsorted(places[begin] + most, side="right")) - 1)
        yield range(begin, end)
        begin = end


class _Work:
    """Finds or makes the files of a training."""

    def __init__(
        self, loaded: Encoder, adapter: Adapter, form: Form, accelerator: Accelerator, room: infer.Room, tell: Listener
    ) -> None:
        self.adapter, self.form, self.accelerator, self.room, self.tell = adapter, form, accelerator, room, tell
        self.reader: Any = _Reader(loaded.model, adapter, form)
        self.body = _hash_of_body(loaded.model, form)

    def of(self, splits: Mapping[str, Sequence[Feature]]) -> tuple[States | None, dict[str, Any]]:
        """Return the open files, None where they cannot be written; and what ``run.json`` says."""
        began, made, files = time.perf_counter(), 0, []
        for name, rows in splits.items():
            file, new = self._file(name, rows)
            if file is None:
                reason = f"they cannot be written to {_folder()}"
                self.tell(Note(message=f"features of the frozen encoder are computed in each step: {reason}"))
                return None, {"kept": False, "reason": reason}
            files.append(file)
            made += len(rows) if new else 0
        return States(files), self._facts(splits, made, time.perf_counter() - began)

    def _facts(self, splits: Mapping[str, Sequence[Feature]], made: int, seconds: float) -> dict[str, Any]:
        """Return what ``run.json`` says, and tell how large the files are and where."""
        number, size = sum(map(len, splits.values())), _size(self.form, splits)
        place = _folder()
        how = f"computed once, in {seconds:.1f} s" if made else "those of an earlier run"
        self.tell(
            Note(
                message=f"the encoder is frozen: the features of {number:,} rows are {how}, {size / 1e6:,.0f} MB in "
                f"{place} (at most {memory.gigabytes(MOST_BYTES)} there; train.cache_features=false does without)"
            )
        )
        facts = {"kept": True, "reads": self.form.reads, "bytes": size, "rows": number, "rows_computed": made}
        return facts | {"precision": self.form.precision, "seconds": round(seconds, 3)}

    def _file(self, name: str, rows: Sequence[Feature]) -> tuple[File | None, bool]:
        """Return the file of a split, and whether it was made now."""
        place = _folder()
        assert place is not None
        path = place / f"{self._key(rows)}.{self.form.precision}"
        places = self.form.places(rows)
        found = _open(path, self.form, places)
        # What one process finds, another machine may lack: all take part in making it, or none.
        if not processes.any_of(found is None):
            return found, False
        self._make(name, path, rows, places, together=processes.size() > 1)
        if (found := _open(path, self.form, places)) is None:
            self._make(name, path, rows, places, together=False)
            found = _open(path, self.form, places)
        return (None if processes.any_of(found is None) else found), True

    def _make(self, name: str, path: Path, rows: Sequence[Feature], places: np.ndarray, *, together: bool) -> None:
        """Write the file of a split, whole or not at all; of processes that work together the main one does."""
        beside = path.parent / f".{uuid4().hex}"
        advance = counter(self.tell, f"computing features of {name}", len(rows))
        writes = processes.is_main() or not together
        try:
            with _opened(beside) if writes else nullcontext() as file:
                for part in _parts(places, self.form.size):
                    values = infer.forward(
                        self.reader,
                        self.reader,
                        rows[part.start : part.stop],
                        accelerator=self.accelerator,
                        batch_tokens=self.room,
                        advance=advance,
                        together=together,
                    )
                    _append(file, values)
            if writes:
                os.replace(beside, path)
                kept.bound(path.parent, MOST_BYTES)
        except OSError:
            pass
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        if together:
            processes.barrier()

    def _key(self, rows: Sequence[Feature]) -> str:
        """Return a SHA-256 of all that decides over the vectors of rows."""
        import numpy as np

        total = hashlib.sha256(f"{VERSION} {self.body} {self.form}".encode())
        for row in rows:
            ids = [row.input_ids, row.token_type_ids or []]
            total.update(b"|".join(np.asarray(each, dtype="<i4").tobytes() for each in ids) + b"\n")
        return total.hexdigest()


def _hash_of_body(model: Any, form: Form) -> str:
    """Return a SHA-256 of the weights and the configuration of a body, and of what a head reads of it."""
    import transformers

    body = model.base_model
    spec = model.spec if form.reads == "head" else None
    config = {name: value for name, value in body.config.to_dict().items() if name not in OF_THE_HEAD}
    decisive = [transformers.__version__, sorted(config.items()), body.config._attn_implementation]
    decisive += [spec.layers, spec.reads, spec.at_end, spec.mean] if spec else []
    total = hashlib.sha256(json.dumps(decisive, default=str).encode())
    for name, value in body.state_dict().items():
        if form.reads == "pooled" or "pooler" not in name:
            total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().view(-1).numpy().data)
    return total.hexdigest()
