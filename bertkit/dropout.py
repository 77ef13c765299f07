"""Dropout whose mask costs little on a CPU.

torch draws a CPU mask one Bernoulli number after another, 6 ns an element. Here torch's generator gives only the seed
of each mask, and SFC64 fills it with four 16-bit numbers a draw; whole-number arithmetic makes of each number the bits
of 0 or of 1 / (1 - share), so that dropping is one product. Seed and state stay torch's: a run is as reproducible, as
exactly resumed and as exactly recomputed (gradient checkpointing) as with torch's dropout.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEVELS = 2**16
"""Shares are rounded to a multiple of 1 / LEVELS."""


def steps(share: float) -> int:
    """Return ``share`` in units of 1 / :data:`LEVELS`."""
    return round(share * LEVELS)


def kept(like: torch.Tensor, share: float) -> torch.Tensor:
    """Draw what a tensor is multiplied by where ``share`` of it is dropped.

    Args:
        like: on a CPU; gives shape and dtype.
        share: in [0, 1).

    Returns:
        zeros, and elsewhere 1 / (1 - share) in the dtype of ``like``, so that the expectation stays.
    """
    import numpy as np
    import torch

    count, dropped = like.numel(), steps(share)
    seed = int(torch.randint(2**62, ()))
    draws = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    below = dropped - LEVELS // 2 - 1
    # One below the first number that stays, or that one; their difference is 0 or 1.
    stays = torch.from_numpy(draws).clamp_(below, below + 1).sub_(below).view(like.shape)
    factor = torch.tensor(LEVELS / (LEVELS - dropped), dtype=like.dtype)
    if like.element_size() == stays.element_size():
        return stays.mul_(factor.view(torch.int16)).view(like.dtype)
    return stays.to(like.dtype).mul_(factor)


def dropout(x: torch.Tensor, share: float) -> torch.Tensor:
    """Return ``x`` with a share of its elements zero and the others scaled up (Srivastava et al. 2014)."""
    import torch.nn.functional as F

    if x.device.type != "cpu" or steps(share) == LEVELS:
        return F.dropout(x, share)
    return x * kept(x, share) if steps(share) else x


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


def silence(model: torch.nn.Module) -> None:
    """Let nothing of a model drop out any more; its ``config``, and what is saved of it, say what they said.

    Families keep the share of the attention's probabilities either in a ``nn.Dropout`` or as a number in the module.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@cache
def _fast_module() -> type[torch.nn.Dropout]:
    import torch

    class Dropout(torch.nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return dropout(x, self.p) if self.training and self.p else x

    return Dropout
