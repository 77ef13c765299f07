"""Models without work on padding: the layers see the N real tokens of a batch, everything around them ``(B, T, H)``.

Hooks on an unmodified Hugging Face model pack what goes into its layers and unpack what comes out; weights, names,
config, heads and saved files stay what they are. Three forms, by what a family lends itself to:

- ``stack``: one module holds the layers (BERT's encoder); packed before it, unpacked after it. Attention goes through
  a function of transformers' attention interface.
- ``layers``: the model itself holds them (ModernBERT, GPT-2); packed before the first, unpacked after the last.
- ``attention``: attention is the family's own code (MPNet, DeBERTa); as ``layers``, and rows are put back around
  each attention module.

``install`` tries a form on the model at hand and keeps it only if its results are those of the padded model. A call
that wants more than the last layer gives (hidden states, attention weights, a cache, gradient checkpointing) runs
padded. Packing as in ModernBERT (Warner et al. 2024, 2.1.1: unpadding).
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bertkit import kernels
from bertkit.dropout import kept, steps
from bertkit.kernels import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

NAME = "bertkit_unpadded"
"""The attention function's name. transformers makes no masks for a name that its mask table does not hold."""
ROUND_TOKENS = 32
ROUND_WIDTH = 16
"""N and the width of a bin are rounded up to these: ever-new shapes would fill oneDNN's cache of primitives."""
NARROWEST = 32
"""Bins are at least this wide: products of smaller matrices are no faster."""
BUCKET_COST = 4096
"""What one more bucket costs (calls), in units of one score of attention."""
TOKEN_COST = 1536
"""What a token that no row holds costs in the layers, in the same units."""
LONG = 64
"""On a CPU, in 16 bits and without gradients, matrix products beat torch's fused attention up to this width."""
PACKED = ("stack", "layers")
"""Forms in which all of a layer sees packed tokens; torch and transformers compute them in any precision."""
PROVEN = ("cpu",)
"""Kinds of devices on which this has run; on others models run padded until it has, or a user switches it on."""
SWITCH = "BERTKIT_UNPADDED"
"""Environment variable that names further kinds of devices, with commas between: ``cuda``."""
KNOWN = "bertkit_on_cpu"
"""Attribute of a mask on a GPU: the same on the CPU."""
WIDEST_WINDOW = 512
"""Local attention beyond this would make the trial of a model slow."""
ROWS_AROUND_ATTENTION = {"mpnet", "deberta", "deberta-v2", "megatron-bert", "rembert", "roformer", "luke"}
"""Families whose attention, their own code, is proven equal in the form ``attention``."""
HIDDEN = ("hidden_states", "x", "hidden_state")
"""Names that layers give their first argument."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Bins of one width, side by side in the packed sequence, whose attention is computed together."""

    start: int
    """Its first token."""
    bins: int
    width: int
    """Tokens of a bin: rows, one after another, and tokens that no row holds."""
    alone: bool
    """Whether every bin holds one row."""

    @property
    def stop(self) -> int:
        """Return the token after its last."""
        return self.start + self.bins * self.width

    def view(self, x: torch.Tensor) -> torch.Tensor:
        """Return this bucket's part of ``(num_tokens, heads, D)`` as ``(bins, heads, width, D)``."""
        return x[self.start : self.stop].view(self.bins, self.width, *x.shape[1:]).transpose(1, 2)


class Packing:
    """Where the tokens of one batch are: in its ``(B, T)`` cells, and in the packed sequence.

    The packed sequence is laid out in bins, so that attention within rows is attention within bins, and no token is
    moved between the layers. There is at least one token that no row holds, and :data:`ROUND_TOKENS` divides the number
    of all. Nothing that these give is used, so their gradients are exactly zero, and packing is a plain gather whose
    gradient is one too, and takes its zeros from them.
    """

    def __init__(self, mask: np.ndarray, device: torch.device) -> None:
        """Lay out a batch.

        Args:
            mask: ``(B, T)`` bool; each row has one unbroken run of tokens.
            device: where the model is.
        """
        import numpy as np

        self.device = device
        self.shape = mask.shape
        self.lengths: np.ndarray = mask.sum(1)
        self.buckets, self.starts = arranged(self.lengths)
        most = max(self.buckets[-1].stop, int(self.lengths.sum()) + 1)
        self.num_tokens = -(-most // ROUND_TOKENS) * ROUND_TOKENS
        real = np.flatnonzero(mask)
        ends = np.cumsum(self.lengths)
        places = np.arange(len(real)) + np.repeat(self.starts - ends + self.lengths, self.lengths)
        cells = np.zeros(self.num_tokens, dtype=np.int64)
        cells[places] = real
        self.rows: np.ndarray = np.full(self.num_tokens, -1)
        """Row of each token, ``(num_tokens,)``; -1 for those that no row holds."""
        self.rows[places] = np.repeat(np.arange(len(mask)), self.lengths)
        tokens = np.full(mask.size, self.rows.argmin())
        tokens[real] = places
        self.real = self._index(real)
        """Cell of each real token, ``(N,)``, row after row."""
        self.places = self._index(places)
        """Place in the packed sequence of each real token, ``(N,)``, row after row."""
        self.cells = self._index(cells)
        """Cell of each token, ``(num_tokens,)``; the first cell for those that no row holds."""
        self.tokens = self._index(tokens)
        """Token of each cell, ``(B * T,)``; one that no row holds for padding."""
        self._biases: dict[Any, torch.Tensor | None] = {}

    def _index(self, values: np.ndarray) -> torch.Tensor:
        import torch

        # From pageable memory the values are taken before this returns; only the device's work goes on.
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T, ...)`` or ``(1, T, ...)`` as ``(1, num_tokens, ...)``."""
        batch, width = self.shape
        if x.shape[0] != batch:
            return x[0].index_select(0, self.cells % width).unsqueeze(0)
        return _gather(x.reshape(batch * width, *x.shape[2:]), self.cells, self.tokens).unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(1, num_tokens, ...)`` as ``(B, T, ...)``, zeros at padding."""
        batch, width = self.shape
        rows = x.new_zeros(batch * width, *x.shape[2:]).index_copy(0, self.real, x[0].index_select(0, self.places))
        return rows.view(batch, width, *x.shape[2:])

    def bias(self, bucket: Bucket, *, causal: bool, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what is added to a bucket's scores, ``(bins or 1, 1, width or 1, width)``, or None.

        Args:
            bucket: one of :attr:`buckets`.
            causal: whether a token sees only those before it.
            window: it sees those less than this far away; None for all.
            dtype: of the scores.
        """
        key = (bucket.start, causal, window, dtype)
        if key not in self._biases:
            self._biases[key] = self._bias(bucket, causal, window, dtype)
        return self._biases[key]

    def _bias(self, bucket: Bucket, causal: bool, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        import numpy as np
        import torch

        rows = self.rows[bucket.start : bucket.stop].reshape(bucket.bins, 1, bucket.width)
        # Tokens that no row holds see each other: one that saw nothing would not be a number.
        seen = (rows >= 0)[:, None] if bucket.alone else rows[:, :, None] == rows[..., None]
        position = np.arange(bucket.width)
        distance = position[:, None] - position
        if causal:
            seen = seen & (distance >= 0)
        if window is not None:
            seen = seen & (np.abs(distance) < window)
        if seen.all():
            return None
        lowest = torch.finfo(dtype).min
        return torch.where(self._index(seen), 0.0, lowest).to(dtype)

    @cached_property
    def boundaries(self) -> torch.Tensor:
        """Where rows, and runs of tokens that no row holds, begin in the packed sequence; then its end; int32."""
        import numpy as np

        begins = np.flatnonzero(np.diff(self.rows, prepend=-2))
        return self._index(np.append(begins, self.num_tokens).astype(np.int32))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row, or run of tokens that no row holds; known without asking the device."""
        import numpy as np

        begins = np.flatnonzero(np.diff(self.rows, prepend=-2))
        return int(np.diff(np.append(begins, self.num_tokens)).max())


def is_proven(kind: str) -> bool:
    """Say whether models may run without padding on a kind of device: proven, or switched on by :data:`SWITCH`."""
    return kind in PROVEN or kind in os.environ.get(SWITCH, "").split(",")


def remember(mask: torch.Tensor, on_cpu: torch.Tensor) -> None:
    """Let :func:`packing` know a mask without asking its device, which would wait for all that is queued there."""
    setattr(mask, KNOWN, on_cpu)


def packing(mask: torch.Tensor) -> Packing | None:
    """Return where the tokens of a ``(B, T)`` mask are, or None where a row has none or has gaps."""
    held = (getattr(mask, KNOWN, mask) != 0).cpu().numpy()
    begins = (held[:, 1:] & ~held[:, :-1]).sum(1) + held[:, 0]
    return Packing(held, mask.device) if (begins == 1).all() else None


def arranged(lengths: np.ndarray) -> tuple[list[Bucket], np.ndarray]:
    """Lay rows into bins, first fit, longest first, rows of like length in bins of one width.

    Args:
        lengths: ``(B,)`` int64, each at least 1.

    Returns:
        the buckets, and where each row begins in the packed sequence, ``(B,)``.
    """
    import numpy as np

    starts = np.zeros(len(lengths), dtype=np.int64)
    buckets: list[Bucket] = []
    begin = 0
    for shorter, longest in pairwise([0, *cuts(*np.unique(lengths, return_counts=True))]):
        rows = np.flatnonzero((shorter < lengths) & (lengths <= longest))
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        width, bins, places = _bins(lengths[rows])
        starts[rows] = begin + places
        buckets.append(Bucket(start=begin, bins=bins, width=width, alone=bins == len(rows)))
        begin = buckets[-1].stop
    return buckets, starts


def _bins(lengths: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Return the width that costs least of a few, the number of bins, and where rows begin; longest rows first."""
    narrowest = _width(int(lengths[0]))
    found = []
    step = max(1, narrowest // 4 // ROUND_WIDTH) * ROUND_WIDTH
    for width in range(narrowest, 2 * narrowest, step):
        bins, starts = _first_fit(lengths, width)
        found.append((bins * width * (width + TOKEN_COST), width, bins, starts))
        if bins == 1:
            break
    return min(found, key=lambda each: each[0])[1:]


def _first_fit(lengths: np.ndarray, width: int) -> tuple[int, np.ndarray]:
    """Put rows, longest first, each into the first bin with room; return the number of bins and where rows begin."""
    import numpy as np

    room = np.full(len(lengths), width)
    starts = np.zeros(len(lengths), dtype=np.int64)
    for row, length in enumerate(lengths.tolist()):
        place = int((room >= length).argmax())
        starts[row] = (place + 1) * width - room[place]
        room[place] -= length
    return int((room < width).sum()), starts


def _width(longest: int) -> int:
    return max(NARROWEST, -(-longest // ROUND_WIDTH) * ROUND_WIDTH)


def cuts(lengths: np.ndarray, counts: np.ndarray) -> list[int]:
    """Return the longest row of each bucket, rising, where their costs together are least.

    Args:
        lengths: rising, ``(U,)`` int64.
        counts: rows of each length, ``(U,)`` int64.
    """
    import numpy as np

    rows = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(counts * lengths)])
    best = np.zeros(len(lengths) + 1)
    first = np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in range(1, len(lengths) + 1):
        width = _width(int(lengths[end - 1]))
        # Rows longer than half a bin cannot share one; the others fill what is left nearly always.
        halves = rows[np.searchsorted(lengths, width // 2, side="right")]
        bins = np.maximum(-(-(tokens[end] - tokens[:end]) // width), rows[end] - np.maximum(rows[:end], halves))
        unheld = bins * width - (tokens[end] - tokens[:end])
        costs = best[:end] + bins * width**2 + unheld * TOKEN_COST + BUCKET_COST
        first[end] = costs.argmin()
        best[end] = costs[first[end]]
    found, end = [], len(lengths)
    while end:
        found.append(int(lengths[end - 1]))
        end = int(first[end])
    return found[::-1]


def as_rows(states: torch.Tensor) -> torch.Tensor:
    """Return what a layer is given or gives inside of a model, packed or not, as ``(B, T, H)``, zeros at padding."""
    held = _packing.get()
    # A single row that is as long as its packed sequence needs no unpacking: there is always one token more in that.
    packed = held is not None and states.shape[:2] == (1, held.num_tokens) and states.shape[:2] != held.shape
    return held.unpack(states) if held is not None and packed else states


# Attention -------------------------------------------------------------------------------------------------------

_packing: ContextVar[Packing | None] = ContextVar("bertkit_packing", default=None)
"""The batch that goes through a model now; transformers' attention functions get nothing that could carry it."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within the rows of a packed batch; has the form of transformers' attention functions.

    Args:
        module: the attention module that calls.
        query: ``(1, heads, num_tokens, D)``.
        key: ``(1, key heads, num_tokens, D)``.
        value: as ``key``.
        attention_mask: not looked at; some families make one of the batch's mask, which is in the packing.
        dropout: share of the probabilities that is dropped.
        scaling: of the scores; ``D ** -0.5`` where None.
        is_causal: whether a token sees only those before it; asked of ``module`` where None.
        sliding_window: a token sees those less than this far away.
        others: what other attention functions take.

    Returns:
        ``(1, num_tokens, heads, D)``, and None for the probabilities.

    Raises:
        NotImplementedError: for what would change the result and is not done here, and outside a packed call.
    """
    import torch

    held = _packing.get()
    changes = [name for name in ("position_bias", "softcap", "s_aux", "cache") if others.get(name) is not None]
    if held is None or changes:
        raise NotImplementedError(
            f"attention over packed rows takes no {' and no '.join(changes)}" if changes else "no rows are packed"
        )
    settings = Settings(
        dropout=dropout if module.training and steps(dropout) else 0.0,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal,
        window=sliding_window,
    )
    query, key, value = _of_one_dtype(query, key, value)
    kernel = kernels.choose(query, settings.dropout)
    if kernel:
        return _by_kernel(kernel, held, query, key, value, settings), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if query.is_cuda:
        return _fused(held, query, key, value, settings), None
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    return _attend_function().apply(query, key, value, held, settings, keep), None


def _of_one_dtype(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return tensors as autocast would, which does not reach into functions with a gradient of their own."""
    import torch

    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[-1].dtype
    return tuple(x.to(dtype) for x in tensors)


def _fused(
    held: Packing, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """Attend bucket by bucket by torch's own attention; returns ``(1, num_tokens, heads, D)``."""
    import torch
    import torch.nn.functional as F

    last = held.buckets[-1].stop
    sizes = [bucket.bins * bucket.width for bucket in held.buckets]
    parts = [torch.split(x[0].transpose(0, 1)[:last], sizes) for x in (query, key, value)]
    found = []
    for bucket, q, k, v in zip(held.buckets, *parts, strict=True):
        shape = (bucket.bins, bucket.width, *q.shape[1:])
        bias = held.bias(bucket, causal=settings.causal, window=settings.window, dtype=q.dtype)
        q, k, v = (x.view(shape).transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=settings.dropout, scale=settings.scale
        )
        found.append(attended.transpose(1, 2).flatten(0, 1))
    rest = query.new_zeros(held.num_tokens - last, *found[0].shape[1:])
    return torch.cat([*found, rest]).unsqueeze(0)


@cache
def _attend_function() -> Any:
    """Return softmax(Q K^T * scale + bias) V with dropout, by matrix products (Vaswani et al. 2017, 3.2.1).

    Keeps for the backward pass the probabilities and what they were multiplied by; autograd would keep more.
    """
    import torch
    from torch.autograd.function import once_differentiable

    class Attend(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, held: Packing, settings: Settings, keep: bool) -> torch.Tensor:
            q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
            found = _empty_but_for_the_rest(v, held)
            saved: list[Any] = []
            for bucket in held.buckets:
                bias = held.bias(bucket, causal=settings.causal, window=settings.window, dtype=v.dtype)
                parts = [bucket.view(x) for x in (q, k, v)]
                attended, kept_back = _forward(parts, bias, settings, keep=keep)
                bucket.view(found).copy_(attended)
                saved += kept_back
            ctx.save_for_backward(*saved)
            ctx.held, ctx.settings = held, settings
            return found.unsqueeze(0)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
            found = [_empty_but_for_the_rest(gradient[0], ctx.held) for _ in "qkv"]
            saved = ctx.saved_tensors
            for index, bucket in enumerate(ctx.held.buckets):
                part = saved[index * KEPT : (index + 1) * KEPT]
                parts = [bucket.view(x) for x in found]
                _backward(bucket.view(gradient[0]), part, ctx.settings.scale, parts)
            return *(x.transpose(0, 1).unsqueeze(0) for x in found), None, None, None

    return Attend


KEPT = 5
"""Tensors of a bucket that are kept for the backward pass: queries times scale, keys, values, probabilities, mask."""


def _empty_but_for_the_rest(like: torch.Tensor, held: Packing) -> torch.Tensor:
    """Return a new ``(num_tokens, heads, D)`` that is zero behind the last bucket."""
    import torch

    found = torch.empty(like.shape, dtype=like.dtype)
    found[held.buckets[-1].stop :] = 0
    return found


def _forward(
    parts: list[torch.Tensor], bias: torch.Tensor | None, settings: Settings, *, keep: bool
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Attend within a bucket, all ``(bins, heads, width, D)``; return what comes out, and what backward needs."""
    import torch
    import torch.nn.functional as F

    q, k, v = parts
    bins, heads, width, _ = q.shape
    if not keep and not settings.dropout and (q.dtype == torch.float32 or width > LONG):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=settings.scale), []
    scaled = torch.mul(q, settings.scale, out=torch.empty(q.shape, dtype=q.dtype)).flatten(0, 1)
    k, v = (x.reshape(bins * heads, width, -1) for x in (k, v))
    scores = torch.bmm(scaled, k.transpose(1, 2))
    if bias is not None:
        scores.view(bins, heads, width, width).add_(bias)
    probabilities = torch.softmax(scores, -1)
    mask = kept(probabilities, settings.dropout) if settings.dropout else None
    used = probabilities if mask is None else probabilities * mask
    return torch.bmm(used, v).view(bins, heads, width, -1), [scaled, k, v, probabilities, mask]


def _backward(
    gradient: torch.Tensor, saved: Sequence[torch.Tensor], scale: float, into: Sequence[torch.Tensor]
) -> None:
    """Write the gradients of a bucket's queries, keys and values, ``(bins, heads, width, D)``, into views."""
    import torch

    q, k, v, probabilities, mask = saved
    gradient = gradient.reshape(v.shape)
    to_used = torch.bmm(gradient, v.transpose(1, 2))
    used = probabilities
    if mask is not None:
        used = probabilities * mask
        to_used *= mask
    to_scores = torch.ops.aten._softmax_backward_data(to_used, probabilities, -1, probabilities.dtype)
    shape = into[0].shape
    torch.mul(torch.bmm(to_scores, k).view(shape), scale, out=into[0])
    into[1].copy_(torch.bmm(to_scores.transpose(1, 2), q).view(shape))
    into[2].copy_(torch.bmm(used.transpose(1, 2), gradient).view(shape))


def _by_kernel(
    name: kernels.Name,
    held: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    settings: Settings,
) -> torch.Tensor:
    """Attend with a kernel for rows of any length; returns ``(1, num_tokens, heads, D)``."""
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return kernels.attend(name, query, key, value, held.boundaries, held.longest, settings).unsqueeze(0)


def _gather(x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Return ``x[index]``, whose gradient is ``gradient[inverse]``: a gather, where autograd would add up."""
    return _gather_function().apply(x, index, inverse)  # type: ignore[no-any-return]


@cache
def _gather_function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
            ctx.inverse = inverse
            return x.index_select(0, index)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            return gradient.index_select(0, ctx.inverse), None, None

    return Gather


# The hooks -------------------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class Installed:
    """What :func:`install` did to a model."""

    family: str
    """The config's ``model_type``."""
    form: str
    """``stack``, ``layers``, ``attention``, or ``padded`` where the model cannot run without padding."""
    reason: str = ""
    """Why the form is ``padded``."""
    num_fast: int = 0
    """Calls that ran without padding."""
    padded: Counter[str] = field(default_factory=Counter)
    """Why other calls ran padded -> how many."""
    _body: Any = None
    _handles: list[Any] = field(default_factory=list)
    _before: list[tuple[Any, str]] = field(default_factory=list)
    _token: Token[Packing | None] | None = None
    _dtype: Any = None
    """Of the hidden states outside of the layers."""

    @property
    def fast(self) -> bool:
        """Whether calls run without padding where they can."""
        return self.form != "padded"

    def remove(self) -> None:
        """Take the hooks off; the model is what it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _attach(self) -> None:
        body = self._body
        stack = stack_of(body)
        assert stack is not None
        owner, layers = stack
        self._on(body, self._begin, self._end)
        if self.form == "stack":
            self._on(owner, self._packed, self._unpacked)
            return
        for layer in layers:
            rest = self._packed if layer is layers[0] else self._packed_rest
            self._on(layer, rest, self._unpacked if layer is layers[-1] else None)
            for inner in _attention_modules(layer) if self.form == "attention" else ():
                self._on(inner, self._rows_back, self._rows_gone)

    def _on(self, module: Any, before: Callable[..., Any], after: Callable[..., Any] | None) -> None:
        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if after is not None:
            self._handles.append(module.register_forward_hook(after, always_call=after == self._end))

    def _begin(self, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the body: decide on this call, lay out its batch, switch attention."""
        bound = inspect.signature(body.forward).bind_partial(*args, **kwargs).arguments
        given = bound | bound.pop("kwargs", {})
        why = _padded_because(body, given)
        held = None if why else packing(_mask(given))
        if held is None:
            self.padded[why or "a row without tokens, or with gaps between them"] += 1
            return None
        self.num_fast += 1
        self._token = _packing.set(held)
        if self.form != "attention":
            self._before = [(config, config._attn_implementation) for config in _configs(body)]
            for config, _ in self._before:
                config._attn_implementation = NAME
        # A cache would hold packed keys; nothing here reads one.
        return args, kwargs | (
            {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
        )

    def _end(self, body: Any, args: Any, output: Any) -> None:
        """After the body, also when it failed: what :meth:`_begin` switched is as it was."""
        for config, name in self._before:
            config._attn_implementation = name
        self._before = []
        if self._token is not None:
            _packing.reset(self._token)
            self._token = None

    def _packed(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._pack(args, kwargs, hidden=True)

    def _packed_rest(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._pack(args, kwargs, hidden=False)

    def _pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, hidden: bool) -> Any:
        """Pack what a stack or layer gets: the hidden states, and what is given for each position."""
        held = _packing.get()
        if held is None:
            return None
        rest: Callable[[Any], Any] = (lambda x: x) if self.form == "attention" else (lambda x: _packed(held, x))
        first = partial(self._first, held) if hidden else (lambda x: x)
        named = {name: first(x) if not args and name in HIDDEN else rest(x) for name, x in kwargs.items()}
        return tuple(rest(x) if index else first(x) for index, x in enumerate(args)), named

    def _first(self, held: Packing, x: torch.Tensor) -> torch.Tensor:
        """Pack the hidden states; in training under autocast in 16 bits, so that no layer needs to round them anew."""
        import torch

        packed, self._dtype = held.pack(x), x.dtype
        return _of_one_dtype(packed)[0] if torch.is_grad_enabled() and self.form != "attention" else packed

    def _unpacked(self, module: Any, args: Any, output: Any) -> Any:
        held = _packing.get()
        return output if held is None else _with_first(output, lambda x: held.unpack(x).to(self._dtype))

    def _rows_back(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        held = _packing.get()
        if held is None:
            return None
        return (held.unpack(args[0]), *args[1:]) if args else (), {
            name: held.unpack(x) if not args and name in HIDDEN else x for name, x in kwargs.items()
        }

    def _rows_gone(self, module: Any, args: Any, output: Any) -> Any:
        held = _packing.get()
        return output if held is None else _with_first(output, held.pack)


def _with_first(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a module's output with its first tensor, the hidden states, changed."""
    if isinstance(output, Mapping):
        output["last_hidden_state"] = change(output["last_hidden_state"])  # type: ignore[index]
        return output
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _packed(held: Packing, x: Any) -> Any:
    """Pack tensors that hold something for each position (rotations, position ids), also inside tuples."""
    import torch

    if isinstance(x, torch.Tensor):
        batch, width = held.shape
        return held.pack(x) if x.dim() > 1 and x.shape[1] == width and x.shape[0] in (1, batch) else x
    if type(x) in (tuple, list):
        return type(x)(_packed(held, one) for one in x)
    return x


def _padded_because(body: Any, given: Mapping[str, Any]) -> str:
    """Return why a call must run padded, or an empty text."""
    for name in ("output_hidden_states", "output_attentions"):
        wanted = given.get(name)
        if getattr(body.config, name, False) if wanted is None else wanted:
            return name
    for name in ("past_key_values", "encoder_hidden_states", "head_mask"):
        if given.get(name) is not None:
            return name
    if given.get("use_cache"):
        return "use_cache"
    if body.training and any(getattr(module, "gradient_checkpointing", False) for module in body.modules()):
        return "gradient checkpointing"
    mask = given.get("attention_mask")
    if mask is not None and getattr(mask, "ndim", None) != 2:
        return "an attention mask that is not (B, T)"
    return ""


def _mask(given: Mapping[str, Any]) -> torch.Tensor:
    """Return a call's mask ``(B, T)``; without one, all cells hold tokens."""
    import torch

    if given.get("attention_mask") is not None:
        return given["attention_mask"]  # type: ignore[no-any-return]
    inputs = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
    return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)


def _configs(body: Any) -> list[Any]:
    """Return the configs that modules of a model ask for their attention function, each once."""
    found = {id(module.config): module.config for module in body.modules() if hasattr(module, "config")}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]


def stack_of(body: Any) -> tuple[Any, Any] | None:
    """Return the module that holds a body's layers, and the layers, or None."""
    import torch

    for owner in body.modules():
        for child in owner.children():
            if isinstance(child, torch.nn.ModuleList) and len(child) and any(map(_attention_modules, child)):
                return owner, child
    return None


def _attention_modules(layer: Any) -> list[Any]:
    """Return the innermost attention modules of a layer: those with the projections of query, key and value."""
    named = [module for module in layer.modules() if "Attention" in type(module).__name__]
    return [module for module in named if not any(other in named for other in list(module.modules())[1:])]


# Installing ------------------------------------------------------------------------------------------------------


def install(model: PreTrainedModel) -> Installed:
    """Make a loaded model run without padding, if its family can; otherwise leave it as it is and say why.

    Args:
        model: any Hugging Face encoder, with or without a head.

    Returns:
        What was done; its ``remove`` undoes it. A model that has it already gives the same object again.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    body = model.base_model
    for hook in body._forward_pre_hooks.values():
        if isinstance(found := getattr(hook, "__self__", None), Installed):
            return found
    family = str(model.config.model_type)
    form, reason = _form(body, family)
    if not reason:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
        installed = Installed(family=family, form=form, _body=body)
        installed._attach()
        reason = _trial(installed)
        if not reason:
            return installed
        installed.remove()
    return Installed(family=family, form="padded", reason=reason)


def _form(body: Any, family: str) -> tuple[str, str]:
    """Return the form that fits a body, or why none does."""
    config = body.config
    if getattr(config, "is_encoder_decoder", False):
        return "", "it is an encoder and a decoder"
    if getattr(config, "chunk_size_feed_forward", 0):
        return "", "chunk_size_feed_forward cuts its sequences into parts"
    if _window(config) > WIDEST_WINDOW:
        return "", f"its local attention is wider than {WIDEST_WINDOW} tokens"
    stack = stack_of(body)
    if stack is None:
        return "", "it has no list of layers with attention in them"
    if body._can_set_attn_implementation():
        return "layers" if stack[0] is body else "stack", ""
    if family in ROWS_AROUND_ATTENTION:
        return "attention", ""
    return "", "its attention is its own code, which works on padded rows"


def _window(config: Any) -> int:
    """Return how far local attention reaches, 0 where there is none."""
    width = getattr(config, "sliding_window", None)
    return width if isinstance(width, int) else 0


def _trial(installed: Installed) -> str:
    """Run a few rows both ways, and return why the results are not to be trusted, or an empty text."""
    body = installed._body
    inputs = _trial_inputs(body)
    real = inputs["attention_mask"].bool()
    ways = _ways(body)
    with _evaluated(body):
        try:
            ours = [_states(body, inputs, way)[real] for way, _ in ways]
        except Exception as error:
            return f"its layers do not take packed rows ({type(error).__name__}: {str(error).splitlines()[0]:.100})"
        installed.remove()
        padded = [_states(body, inputs, way)[real] for way, _ in ways]
    if not installed.num_fast:
        return next(iter(installed.padded))
    installed._attach()
    installed.num_fast = 0
    for (_, tolerance), one, other in zip(ways, ours, padded, strict=True):
        gap = float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))
        # Written so that what is no number is no equality either.
        if not gap <= tolerance:
            return f"its results depend on the padding (they differ by {gap:.1g})"
    return ""


def _ways(body: Any) -> list[tuple[Callable[[], AbstractContextManager[Any]], float]]:
    """Return how a model is tried, with the gap that rounding explains; kernels in 16 bits are tried as well."""
    import torch

    ways: list[tuple[Callable[[], AbstractContextManager[Any]], float]] = [
        (nullcontext, 1e-4 if body.dtype == torch.float32 else 0.05)
    ]
    if kernels.available(body.device):
        ways.append((partial(torch.autocast, body.device.type, torch.bfloat16), 0.05))
    return ways


def _states(body: Any, inputs: Mapping[str, Any], way: Callable[[], AbstractContextManager[Any]]) -> torch.Tensor:
    """Return the last layer's states, ``(B, T, H)``, float32."""
    with way():
        found: torch.Tensor = body(**inputs)[0].float()
    return found


def _trial_inputs(body: Any) -> dict[str, torch.Tensor]:
    """Return three ragged rows, one of a single token and one that is longer than local attention reaches."""
    import torch

    config = body.config
    limit = getattr(config, "max_position_embeddings", None) or 512
    longest = max(2, min(_window(config) + 9, limit - 8))
    lengths = torch.tensor([[longest], [1], [max(1, longest // 2)]], device=body.device)
    mask = torch.arange(longest, device=body.device) < lengths
    ids = torch.arange(mask.numel(), device=body.device).view(mask.shape) * 7 % config.vocab_size
    padding = config.pad_token_id or 0
    other = (padding + 1) % config.vocab_size
    ids = torch.where(mask, torch.where(ids == padding, other, ids), padding)
    return {"input_ids": ids, "attention_mask": mask.long()}


@contextmanager
def _evaluated(body: Any) -> Iterator[None]:
    """Hold a module in evaluation mode, without gradients; what was training trains again afterwards."""
    import torch

    training = [module for module in body.modules() if module.training]
    body.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
