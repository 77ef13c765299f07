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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from bertkit.dropout import kept, scaled, steps

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

NAME = "bertkit_unpadded"
"""The attention function's name. transformers makes no masks for a name that its mask table does not hold."""
ROUND_TOKENS = 64
ROUND_LENGTH = 8
"""N and the length of a bucket are rounded up to these: ever-new shapes would fill oneDNN's cache of primitives."""
BUCKET_COST = 2048
"""What one more bucket costs (calls), in units of one score of attention."""
SLOT_COST = 32
"""What moving one token into a bucket and out of it costs, in the same units."""
LONG = 384
"""On a CPU and in 16 bits, matrix products are faster than torch's fused attention up to this length."""
PROVEN = ("cpu",)
"""Kinds of devices on which this has run; on others models run padded until it has."""
WIDEST_WINDOW = 512
"""Local attention beyond this would make the trial of a model slow."""
ROWS_AROUND_ATTENTION = {"mpnet", "deberta", "deberta-v2", "megatron-bert", "rembert", "roformer", "luke"}
"""Families whose attention, their own code, is proven equal in the form ``attention``."""
HIDDEN = ("hidden_states", "x", "hidden_state")
"""Names that layers give their first argument."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Rows of similar length, whose attention is computed together."""

    rows: np.ndarray
    """Indices into the batch."""
    length: int
    """Slots of each row."""


class Packing:
    """Where the tokens of one batch are: in its ``(B, T)`` cells, in the packed sequence, in the buckets' slots.

    Real tokens come first, row after row; at least one token that no row holds follows, so that a packed sequence
    has :data:`ROUND_TOKENS` times something. Nothing that these give is used, so their gradients are exactly zero,
    and every move, backward ones too, is a plain gather that takes its zeros from them.
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
        self.starts: np.ndarray = np.concatenate([[0], np.cumsum(self.lengths)])
        self.num_real = int(self.starts[-1])
        self.num_tokens = (self.num_real // ROUND_TOKENS + 1) * ROUND_TOKENS
        real = np.flatnonzero(mask)
        cells = np.zeros(self.num_tokens, dtype=np.int64)
        cells[: self.num_real] = real
        tokens = np.full(mask.size, self.num_real, dtype=np.int64)
        tokens[real] = np.arange(self.num_real)
        self.real = self._index(real)
        """Cell of each real token, ``(N,)``."""
        self.cells = self._index(cells)
        """Cell of each token, ``(num_tokens,)``; the first cell for those that no row holds."""
        self.tokens = self._index(tokens)
        """Token of each cell, ``(B * T,)``; one that no row holds for padding."""
        self._slots: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._biases: dict[Any, torch.Tensor | None] = {}

    def _index(self, values: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(values).to(self.device)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T, ...)`` or ``(1, T, ...)`` as ``(1, num_tokens, ...)``."""
        batch, width = self.shape
        if x.shape[0] != batch:
            return x[0].index_select(0, self.cells % width).unsqueeze(0)
        return _gather(x.reshape(batch * width, *x.shape[2:]), self.cells, self.tokens).unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(1, num_tokens, ...)`` as ``(B, T, ...)``, zeros at padding."""
        batch, width = self.shape
        rows = x.new_zeros(batch * width, *x.shape[2:]).index_copy(0, self.real, x[0, : self.num_real])
        return rows.view(batch, width, *x.shape[2:])

    @cached_property
    def buckets(self) -> list[Bucket]:
        """The rows by length."""
        import numpy as np

        rounded = -(-self.lengths // ROUND_LENGTH) * ROUND_LENGTH
        order = np.argsort(rounded, kind="stable")
        lengths, counts = np.unique(rounded, return_counts=True)
        ends = np.cumsum(counts)
        found, begin = [], 0
        for last in cuts(lengths, counts):
            found.append(Bucket(rows=order[begin : ends[last]], length=int(lengths[last])))
            begin = int(ends[last])
        return found

    def slots(self, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what moves ``(num_tokens * heads, D)`` into the buckets' ``(rows, heads, length, D)`` and back.

        Returns:
            the token and head of each slot of all buckets and of ``heads`` spare slots at the end, and the slot of
            each token and head.
        """
        import numpy as np

        if heads not in self._slots:
            every = np.arange(heads)
            parts = []
            for bucket in self.buckets:
                position = np.arange(bucket.length)
                held = position < self.lengths[bucket.rows][:, None]
                token = np.where(held, self.starts[bucket.rows][:, None] + position, self.num_real)
                parts.append((token[:, None] * heads + every[:, None]).reshape(-1))
            slots = np.concatenate([*parts, self.num_real * heads + every])
            places = np.tile(len(slots) - heads + every, self.num_tokens)
            held = slots < self.num_real * heads
            places[slots[held]] = np.flatnonzero(held)
            self._slots[heads] = self._index(slots), self._index(places)
        return self._slots[heads]

    def bias(self, bucket: Bucket, *, causal: bool, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what is added to a bucket's scores, ``(rows or 1, 1, length or 1, length)``, or None.

        Args:
            bucket: one of :attr:`buckets`.
            causal: whether a token sees only those before it.
            window: it sees those less than this far away; None for all.
            dtype: of the scores.
        """
        key = (bucket.length, causal, window, dtype)
        if key not in self._biases:
            self._biases[key] = self._bias(bucket, causal, window, dtype)
        return self._biases[key]

    def _bias(self, bucket: Bucket, causal: bool, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        import numpy as np
        import torch

        position = np.arange(bucket.length)
        seen = (position < self.lengths[bucket.rows][:, None])[:, None, None]
        distance = position[:, None] - position
        if causal:
            seen = seen & (distance >= 0)
        if window is not None:
            seen = seen & (np.abs(distance) < window)
        if seen.all():
            return None
        # Minus infinity would make a slot of padding that sees nothing not a number.
        lowest = torch.finfo(dtype).min
        return torch.where(self._index(seen), 0.0, lowest).to(dtype)

    @cached_property
    def boundaries(self) -> torch.Tensor:
        """Where rows begin in the packed sequence, ``(B + 2,)`` int32; what no row holds is a row of its own."""
        import numpy as np

        return self._index(np.append(self.starts, self.num_tokens).astype(np.int32))


def packing(mask: torch.Tensor) -> Packing | None:
    """Return where the tokens of a ``(B, T)`` mask are, or None where a row has none or has gaps."""
    held = (mask != 0).cpu().numpy()
    begins = (held[:, 1:] & ~held[:, :-1]).sum(1) + held[:, 0]
    return Packing(held, mask.device) if (begins == 1).all() else None


def cuts(lengths: np.ndarray, counts: np.ndarray) -> list[int]:
    """Return the last index of each group of neighbouring lengths whose attention together costs least.

    Args:
        lengths: rising, ``(U,)`` int64.
        counts: rows of each length, ``(U,)`` int64.
    """
    import numpy as np

    before = np.concatenate([[0], np.cumsum(counts)])
    each = lengths * (lengths + SLOT_COST)
    best = np.zeros(len(lengths) + 1)
    first = np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in range(1, len(lengths) + 1):
        costs = best[:end] + (before[end] - before[:end]) * each[end - 1] + BUCKET_COST
        first[end] = costs.argmin()
        best[end] = costs[first[end]]
    found, end = [], len(lengths)
    while end:
        found.append(end - 1)
        end = int(first[end])
    return found[::-1]


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
    held = _packing.get()
    changes = [name for name in ("position_bias", "softcap", "s_aux", "cache") if others.get(name) is not None]
    if held is None or changes:
        raise NotImplementedError(
            f"attention over packed rows takes no {' and no '.join(changes)}" if changes else "no rows are packed"
        )
    settings: dict[str, Any] = {
        "dropout": dropout if module.training else 0.0,
        "scale": query.shape[-1] ** -0.5 if scaling is None else scaling,
        "causal": bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal,
        "window": sliding_window,
    }
    attend = _by_kernel if _has_kernel(query, settings["dropout"]) else _by_buckets
    return attend(held, query, key, value, **settings).view(1, held.num_tokens, query.shape[1], -1), None


def _by_buckets(
    held: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout: float,
    scale: float,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """Attend bucket by bucket; returns ``(num_tokens * heads, D)``."""
    import torch

    heads = query.shape[1]
    found = []
    for bucket, q, k, v in zip(held.buckets, *(_in_buckets(held, x) for x in (query, key, value)), strict=True):
        bias = held.bias(bucket, causal=causal, window=window, dtype=q.dtype)
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) if x.shape[1] != heads else x for x in (k, v))
        found.append(_attended(q, k, v, bias, dropout=dropout, scale=scale).reshape(-1, v.shape[-1]))
    slots, places = held.slots(heads)
    spare = found[0].new_zeros(heads, found[0].shape[-1])
    return _gather(torch.cat([*found, spare]), places, slots)


def _in_buckets(held: Packing, x: torch.Tensor) -> list[torch.Tensor]:
    """Return ``(1, heads, num_tokens, D)`` as one ``(rows, heads, length, D)`` a bucket."""
    import torch

    _, heads, _, width = x.shape
    slots, places = held.slots(heads)
    shapes = [(len(bucket.rows), heads, bucket.length, width) for bucket in held.buckets]
    sizes = [rows * heads * length for rows, _, length, _ in shapes]
    parts = torch.split(_gather(x.transpose(1, 2).reshape(-1, width), slots, places), [*sizes, heads])
    return [part.view(shape) for part, shape in zip(parts[:-1], shapes, strict=True)]


def _attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """Attend within a bucket, all ``(rows, heads, length, D)``."""
    import torch
    import torch.nn.functional as F

    if query.is_cuda or (not steps(dropout) and (query.dtype == torch.float32 or query.shape[2] > LONG)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)
    return _attend_function().apply(query, key, value, bias, dropout, scale)  # type: ignore[no-any-return]


@cache
def _attend_function() -> Any:
    """Return softmax(Q K^T * scale + bias) V with dropout, by matrix products (Vaswani et al. 2017, 3.2.1).

    Keeps for the backward pass the probabilities and one byte for each that says whether it was dropped; autograd
    would keep the dropped ones as well.
    """
    import torch
    from torch.autograd.function import once_differentiable

    class Attend(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, bias: Any, dropout: float, scale: float) -> torch.Tensor:
            scores = torch.matmul(q * scale, k.transpose(-1, -2))
            if bias is not None:
                scores += bias
            probabilities = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype)
            stays, ctx.factor = kept(probabilities, dropout) if steps(dropout) else (None, 1.0)
            ctx.scale = scale
            ctx.save_for_backward(q, k, v, probabilities, stays)
            used = probabilities if stays is None else scaled(probabilities, stays, ctx.factor)
            return torch.matmul(used, v)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
            q, k, v, probabilities, stays = ctx.saved_tensors
            to_used = torch.matmul(gradient, v.transpose(-1, -2))
            used = probabilities
            if stays is not None:
                used, to_used = (scaled(x, stays, ctx.factor) for x in (probabilities, to_used))
            to_value = torch.matmul(used.transpose(-1, -2), gradient)
            to_scores = torch.ops.aten._softmax_backward_data(to_used, probabilities, -1, probabilities.dtype)
            to_query = torch.matmul(to_scores, k) * ctx.scale
            to_key = torch.matmul(to_scores.transpose(-1, -2), q * ctx.scale)
            return to_query, to_key, to_value, None, None, None

    return Attend


def _has_kernel(query: torch.Tensor, dropout: float) -> bool:
    """Say whether torch's attention over rows of any length can take these: on CUDA, 16 bits, nothing dropped."""
    import torch

    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or dropout:
        return False
    width = query.shape[-1]
    new_enough = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return new_enough and width % 8 == 0 and width <= 256 and _kernel() is not None


@cache
def _kernel() -> Callable[..., Any] | None:
    """Return ``varlen_attn`` where this torch has the one that takes windows, else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    wanted = {"window_size", "enable_gqa", "scale"}
    return varlen_attn if wanted <= set(inspect.signature(varlen_attn).parameters) else None


def _by_kernel(
    held: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout: float,
    scale: float,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """Attend with torch's kernel; returns ``(num_tokens, heads, D)``."""
    kernel = _kernel()
    assert kernel is not None
    assert not dropout
    reach = -1 if window is None else window - 1
    longest = max(int(held.lengths.max()), held.num_tokens - held.num_real)
    attended: torch.Tensor = kernel(
        *(x[0].transpose(0, 1).contiguous() for x in (query, key, value)),
        held.boundaries,
        held.boundaries,
        longest,
        longest,
        scale=scale,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return attended


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
        stack = _stack(body)
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
        first = held.pack if hidden else (lambda x: x)
        named = {name: first(x) if not args and name in HIDDEN else rest(x) for name, x in kwargs.items()}
        return tuple(rest(x) if index else first(x) for index, x in enumerate(args)), named

    def _unpacked(self, module: Any, args: Any, output: Any) -> Any:
        held = _packing.get()
        return output if held is None else _with_first(output, held.unpack)

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


def _stack(body: Any) -> tuple[Any, Any] | None:
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
    stack = _stack(body)
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
    import torch

    body = installed._body
    inputs = _trial_inputs(body)
    real = inputs["attention_mask"].bool()
    with _evaluated(body):
        try:
            ours = body(**inputs)[0][real].float()
        except Exception as error:
            return f"its layers do not take packed rows ({type(error).__name__}: {str(error).splitlines()[0]:.100})"
        installed.remove()
        padded = body(**inputs)[0][real].float()
    if not installed.num_fast:
        return next(iter(installed.padded))
    installed._attach()
    installed.num_fast = 0
    tolerance = 1e-4 if body.dtype == torch.float32 else 0.05
    gap = float((ours - padded).abs().max() / padded.abs().max().clamp(min=1e-6))
    return "" if gap <= tolerance else f"its results depend on the padding (they differ by {gap:.1g})"


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
