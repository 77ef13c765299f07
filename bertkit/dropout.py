"""Dropout whose mask costs little on a CPU, drawn by torch's own generator.

torch draws a CPU mask one Bernoulli number after another, 7 ns an element on one core. Four 16-bit numbers of one
64-bit draw are as good, and four times as fast with everything around them. Seed and state stay torch's, so that a
run is as reproducible, and as exactly resumed, as with torch's dropout.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LEVELS = 2**16
"""Shares are rounded to a multiple of 1 / LEVELS."""


def steps(share: float) -> int:
    """Return ``share`` in units of 1 / :data:`LEVELS`."""
    return round(share * LEVELS)


def kept(like: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
    """Draw what stays where ``share`` is dropped.

    Args:
        like: gives shape and device.
        share: in [0, 1).

    Returns:
        a bool tensor of that shape, and what the rest is multiplied by so that the expectation stays.
    """
    import torch

    count, dropped = like.numel(), steps(share)
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[:count].view(like.shape)
    return numbers >= dropped - LEVELS // 2, LEVELS / (LEVELS - dropped)


def scaled(x: torch.Tensor, stays: torch.Tensor, factor: float) -> torch.Tensor:
    """Return ``x * stays * factor`` in one pass; torch has it as the gradient of its dropout."""
    import torch

    result: torch.Tensor = torch.ops.aten.native_dropout_backward(x, stays, factor)
    return result


def dropout(x: torch.Tensor, share: float) -> torch.Tensor:
    """Return ``x`` with a share of its elements zero and the others scaled up (Srivastava et al. 2014)."""
    import torch.nn.functional as F

    if x.device.type != "cpu" or steps(share) == LEVELS:
        return F.dropout(x, share)
    return _function().apply(x, share) if steps(share) else x


@cache
def _function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, share: float) -> torch.Tensor:
            stays, ctx.factor = kept(x, share)
            ctx.save_for_backward(stays)
            return scaled(x, stays, ctx.factor)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            (stays,) = ctx.saved_tensors
            return scaled(gradient, stays, ctx.factor), None

    return Dropout


def install(model: torch.nn.Module) -> int:
    """Give every ``nn.Dropout`` of a model the fast mask; names and saved weights stay. Returns how many there are."""
    import torch

    found = [module for module in model.modules() if type(module) is torch.nn.Dropout]
    for module in found:
        module.__class__ = _fast_module()
    return len(found)


def remove(model: torch.nn.Module) -> None:
    """Undo :func:`install`."""
    import torch

    for module in model.modules():
        if type(module) is _fast_module():
            module.__class__ = torch.nn.Dropout


@cache
def _fast_module() -> type[torch.nn.Dropout]:
    import torch

    class Dropout(torch.nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return dropout(x, self.p) if self.training and self.p else x

    return Dropout
