"""Word embeddings of which only the rows that the training texts use are trained; the others cost nothing.

A row that no text uses has a gradient of zero, and so moments of zero: all that AdamW does to it is weight decay.
``install`` leaves such rows out of gradient, clipping and optimizer, and the table makes up for the decay whenever it
is looked at: in evaluation mode, or through ``state_dict``. Names, weights and saved files stay those of the plain
model, on a CPU bit for bit; a norm of gradients is summed in another order.

What is trained is no registered parameter: :func:`trained` knows it, ``model.parameters()`` does not. So a model is
moved to its device before, and nothing that looks for parameters by itself (DistributedDataParallel) may wrap it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from bertkit.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST = 0.9
"""Where training uses a larger share of the rows, leaving the others out gains nothing."""
BLOCK = 2**16
"""Numbers that are decayed over many steps while they are in the processor's cache."""
ROWS = "rows"
"""Key, beside AdamW's own, under which a checkpoint says which rows its moments are of."""


@dataclass(kw_only=True)
class Compact:
    """The trained rows of a table ``(V, H)``."""

    rows: torch.nn.Parameter
    """The rows that are trained, ``(R, H)``."""
    ids: torch.Tensor
    """Their ids, rising, ``(R,)`` int64."""
    places: torch.Tensor
    """Row of each id, ``(V,)`` int64; -1, which no lookup takes, for an id that no training text has."""
    padding: int | None = None
    """Row whose gradient is always zero."""
    decays: list[float] = field(default_factory=list)
    """What the other rows are still to be multiplied by, one after another."""
    stale: bool = False
    """Whether the table is behind."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What :func:`install` did."""

    trained: int
    """Rows that are trained."""
    all: int
    """Rows that there are."""
    reason: str = ""
    """Why all are trained, or nothing."""


def install(model: Any, texts: Iterable[Sequence[int]], *, others: Iterable[int] = ()) -> Installed:
    """Train only the word-embedding rows that the texts use, where that is exact and gains something.

    Args:
        model: a Hugging Face model on its device, its weights float32.
        texts: input ids of everything that it is trained on.
        others: further ids that its inputs may hold (padding).
    """
    table = _table(model)
    if isinstance(table, str):
        return Installed(trained=0, all=0, reason=table)
    size = table.num_embeddings
    ids = _used(texts, others, size)
    if len(ids) > MOST * size:
        return Installed(trained=size, all=size, reason=f"the training data uses {len(ids)} of its {size} rows")
    _shrink(table, ids)
    return Installed(trained=len(ids), all=size)


def remove(model: torch.nn.Module) -> None:
    """Undo :func:`install`; the table is up to date and trainable afterwards."""
    import torch

    for module in _compacts(model).values():
        _settle(module)
        module.weight.requires_grad_(True)
        del module.compact
        module.__class__ = torch.nn.Embedding


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, under the names of the plain model and in its order."""
    compact = {f"{name}.weight": module.compact.rows for name, module in _compacts(model).items()}
    return {
        name: compact.get(name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name in compact
    }


def follow(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the rows that are left out know what weight decay each step of an optimizer has."""
    found = [module.compact for module in _compacts(model).values()]

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for compact in found:
            _note(compact, optimizer)

    optimizer.register_step_post_hook(after)


def moments(model: torch.nn.Module, state: Mapping[torch.Tensor, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return an optimizer's state as tensors called ``parameter|key``, and the ids where moments are of some rows."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in trained(model).items()}
    found = {f"{names[p]}|{key}": value for p, values in state.items() for key, value in values.items()}
    ids = {f"{name}.weight|{ROWS}": module.compact.ids for name, module in _compacts(model).items()}
    return found | ids


def fitted(model: torch.nn.Module, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what :func:`moments` gave, of this or of the plain model, as the model at hand needs it.

    Raises:
        RunError: if a row has moments that the model does not train.
    """
    compact = {f"{name}.weight": module.compact.ids for name, module in _compacts(model).items()}
    found = {}
    for key, value in stored.items():
        name, _, kind = key.rpartition("|")
        if kind != ROWS:
            here, there = compact.get(name), stored.get(f"{name}|{ROWS}")
            found[key] = _rows_of(name, value, there, here, model) if value.ndim == 2 else value
    return found


def _table(model: Any) -> Any:
    """Return a model's word embeddings, or why they have to stay as they are."""
    import torch

    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return "the model does not say which its word embeddings are"
    if type(table) is not torch.nn.Embedding:
        return f"its word embeddings are a {type(table).__name__}"
    if table.sparse or table.max_norm is not None or table.scale_grad_by_freq:
        return "its word embeddings are sparse, or rescaled"
    if table.weight.dtype != torch.float32:
        return "its word embeddings are not float32"
    if not table.weight.requires_grad:
        return "its word embeddings are not trained"
    owners = [m for m in model.modules() if any(p is table.weight for p in m.parameters(recurse=False))]
    return "its word embeddings are tied to another layer" if len(owners) > 1 else table


def _used(texts: Iterable[Sequence[int]], others: Iterable[int], size: int) -> np.ndarray:
    """Return the ids that occur, rising."""
    import numpy as np

    seen = np.zeros(size, dtype=bool)
    for text in texts:
        seen[np.asarray(text, dtype=np.int64)] = True
    seen[list(others)] = True
    return np.flatnonzero(seen)


def _shrink(table: Any, ids: np.ndarray) -> None:
    """Turn a table into one that trains some of its rows."""
    import torch

    device = table.weight.device
    chosen = torch.from_numpy(ids).to(device)
    places = torch.full((table.num_embeddings,), -1, device=device).index_copy_(
        0, chosen, torch.arange(len(ids), device=device)
    )
    padding = -1 if table.padding_idx is None else int(places[table.padding_idx])
    table.weight.requires_grad_(False)
    table.compact = Compact(
        rows=torch.nn.Parameter(table.weight[chosen]),
        ids=chosen,
        places=places,
        padding=None if padding < 0 else padding,
    )
    table.__class__ = _module()


def _compacts(model: torch.nn.Module) -> dict[str, Any]:
    """Return by name the embeddings of which some rows are trained."""
    return {name: module for name, module in model.named_modules() if type(module) is _module()}


def _note(compact: Compact, optimizer: torch.optim.Optimizer) -> None:
    """Take down what a step did, after it was taken."""
    import numpy as np

    # Without a gradient AdamW passes a parameter by; with one that overflowed (fp16), the whole step.
    overflowed = getattr(optimizer, "found_inf", None)
    if compact.rows.grad is None or (overflowed is not None and float(overflowed)):
        return
    compact.stale = True
    group = next(group for group in optimizer.param_groups if any(p is compact.rows for p in group["params"]))
    # As torch's AdamW has it: computed in double precision, rounded once, multiplied.
    factor = float(np.float32(1 - group["lr"] * group["weight_decay"]))
    if factor != 1:
        compact.decays.append(factor)


def _settle(module: Any) -> None:
    """Bring the table up to date: decay all of it as the steps since did, then put the trained rows in their places."""
    import torch

    compact: Compact = module.compact
    if not compact.stale:
        return
    with torch.no_grad():
        for block in module.weight.view(-1).split(BLOCK) if compact.decays else ():
            for factor in compact.decays:
                block.mul_(factor)
        module.weight.index_copy_(0, compact.ids, compact.rows)
    compact.decays.clear()
    compact.stale = False


def _rows_of(
    name: str, value: torch.Tensor, there: torch.Tensor | None, here: torch.Tensor | None, model: torch.nn.Module
) -> torch.Tensor:
    """Return moments of the rows ``there`` as those of the rows ``here``; None stands for all rows."""
    import torch

    if here is there or (here is not None and there is not None and torch.equal(here.cpu(), there.cpu())):
        return value
    whole = value
    if there is not None:
        whole = value.new_zeros(model.get_parameter(name).shape).index_copy_(0, there.to(value.device), value)
    if here is None:
        return whole
    ids = here.to(whole.device)
    if whole.index_fill(0, ids, 0).any():
        raise RunError(
            f"The checkpoint has trained rows of {name} that the training data does not use now: it was made from "
            "other data. Start a new run."
        )
    return whole[ids]


@cache
def _module() -> Any:
    import torch
    import torch.nn.functional as F

    class Embedding(torch.nn.Embedding):
        """Looks up the trained rows in training, the whole table in evaluation."""

        compact: Compact

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            if not self.training:
                _settle(self)
                return super().forward(ids)
            compact = self.compact
            return F.embedding(compact.places[ids], compact.rows, compact.padding)

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            _settle(self)
            super()._save_to_state_dict(destination, prefix, keep_vars)

        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            super()._load_from_state_dict(*args, **kwargs)
            compact = self.compact
            with torch.no_grad():
                compact.rows.copy_(self.weight[compact.ids])
            compact.decays.clear()
            compact.stale = False

    return Embedding
