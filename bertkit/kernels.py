"""Attention on GPUs over rows that lie one behind another: torch's own kernel, or FlashAttention's where installed.

Both are FlashAttention-2 (arXiv:2307.08691): no mask, no padding, no matrix of scores in memory. torch's drops nothing,
so that attention with dropout is FlashAttention's where its package is there. What neither takes is left to
``scaled_dot_product_attention`` over bins of padded rows (:mod:`bertkit.unpad`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Name = Literal["torch", "flash_attn"]
LEAST_CAPABILITY = (8, 0)
"""CUDA capability that both kernels need (Ampere)."""
WIDEST_HEAD = 256
"""Numbers of a head at most; 8 must divide them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a module attends."""

    dropout: float
    scale: float
    causal: bool
    window: int | None
    """A token sees those less than this far away; None for all."""


def choose(query: torch.Tensor, dropout: float) -> Name | None:
    """Return the kernel for queries ``(..., D)``, or None where there is none: not on CUDA, not in 16 bits."""
    import torch

    width = query.shape[-1]
    if query.dtype not in (torch.float16, torch.bfloat16) or width % 8 or width > WIDEST_HEAD:
        return None
    return available(query.device, dropout)


def available(device: torch.device, dropout: float = 0.0) -> Name | None:
    """Return the kernel that a device has in 16 bits, torch's first, or None."""
    import torch

    if device.type != "cuda" or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return None
    if torch_kernel() is not None and not dropout:
        return "torch"
    return "flash_attn" if flash_kernel() is not None else None


def attend(
    name: Name,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    settings: Settings,
) -> torch.Tensor:
    """Attend within rows; returns ``(tokens, heads, D)``.

    Args:
        name: as :func:`choose` returned it.
        query: ``(tokens, heads, D)``.
        key: ``(tokens, key heads, D)``.
        value: as ``key``.
        boundaries: where each row begins, and where the last one ends, int32, on the same device.
        longest: tokens of the longest row.
        settings: scale, window, dropout.
    """
    reach = -1 if settings.window is None else settings.window - 1
    window = (reach, 0 if settings.causal else reach)
    given = (query.contiguous(), key.contiguous(), value.contiguous(), boundaries, boundaries, longest, longest)
    found: torch.Tensor
    if name == "torch":
        kernel = torch_kernel()
        assert kernel is not None
        assert not settings.dropout
        grouped = key.shape[1] != query.shape[1]
        found = kernel(*given, scale=settings.scale, window_size=window, enable_gqa=grouped)
        return found
    kernel = flash_kernel()
    assert kernel is not None
    about: dict[str, Any] = {"softmax_scale": settings.scale, "causal": settings.causal, "window_size": window}
    found = kernel(*given, dropout_p=settings.dropout, **about)
    return found


@cache
def torch_kernel() -> Callable[..., Any] | None:
    """Return ``varlen_attn`` where this torch has the one that takes windows, else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    wanted = {"window_size", "enable_gqa", "scale"}
    return varlen_attn if wanted <= set(inspect.signature(varlen_attn).parameters) else None


@cache
def flash_kernel() -> Callable[..., Any] | None:
    """Return ``flash_attn_varlen_func`` where FlashAttention is installed and fits this torch, else None."""
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]
    except (ImportError, OSError):
        # A build for another torch fails at its first symbol.
        return None
    found: Callable[..., Any] = flash_attn_varlen_func
    return found
