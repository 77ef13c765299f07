"""What a training in several processes does beyond one: each process's part of a step, generators, whole tensors.

Under DistributedDataParallel every process holds the model; under FSDP2 a shard of each parameter, as a ``DTensor``.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertkit import processes
from bertkit.data.batches import Draw, TrainingBatches, by_tokens
from bertkit.data.dealing import deal, imbalance

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

OWN = "|rank-"
"""Between the name of a generator's state in a checkpoint and the rank that it is of; rank 0's has none."""


# A step -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process does of a step."""

    micro_batches: list[list[int]]
    """Feature indices, in the parts that go through the model one after another."""
    fillers: list[list[int]]
    """What goes through with weight zero after them: everyone must take part in the exchange of gradients."""
    imbalance: float = 1.0
    """Tokens of the fullest process over the mean of all."""


def part_of(draw: Draw, batches: TrainingBatches, *, tokens: int, sharded: bool) -> Part:
    """Return this process's part of a step: its rows, dealt by their tokens, in micro-batches of its own.

    Args:
        draw: the step.
        batches: knows the lengths.
        tokens: with padding, of a micro-batch.
        sharded: whether each pass through the model is an exchange, so that all need the same number of them.
    """
    if processes.size() == 1:
        return Part(micro_batches=draw.micro_batches, fillers=[])
    features = [feature for micro_batch in draw.micro_batches for feature in micro_batch]
    lengths = batches.lengths[features]
    hands = deal(lengths, processes.size())
    passes = [[[hand[row] for row in part] for part in by_tokens(lengths[hand], tokens)] for hand in hands]
    mine = [[features[row] for row in part] for part in passes[processes.rank()]]
    wanted = max(map(len, passes)) if sharded else 1
    fillers = [[features[int(lengths.argmin())]]] * max(0, wanted - len(mine))
    return Part(micro_batches=mine, fillers=fillers, imbalance=imbalance(lengths, hands))


def handlers() -> list[Any]:
    """Return what Accelerate is to tell DistributedDataParallel."""
    from accelerate.utils import DistributedDataParallelKwargs

    # Some families have parameters without a gradient (a pooler that no head reads); no buffer here ever changes.
    return [
        DistributedDataParallelKwargs(
            find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    ]


def prepare(accelerator: Accelerator, model: Any, optimizer: Any) -> tuple[Any, Any]:
    """Return what Accelerate makes of a model and its optimizer."""
    if is_fsdp(accelerator) and not accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap:
        # Accelerate shards word embeddings by themselves, and fails where their module is sharded already.
        names = [name for name in model._no_split_modules or () if "Embedding" not in name]
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = names
    with warnings.catch_warnings():
        # torch 2.13 renames ``broadcast_buffers``, and Accelerate knows the old name only.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        prepared: tuple[Any, Any] = accelerator.prepare(model, optimizer)
    return prepared


def name_of(device: torch.device) -> str:
    """Return a device's name; Accelerate numbers the CPU of each process, and there is one."""
    return "cpu" if device.type == "cpu" else str(device)


# Generators -------------------------------------------------------------------------------------------------------

State = tuple[list[Any], dict[str, "torch.Tensor"]]
"""Python's state, and the others by name."""


def of_all(own: State) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the states of the other processes' generators as a checkpoint holds them: JSON-able values, tensors."""
    if processes.size() == 1:
        return {}, {}
    progress: dict[str, Any] = {"processes": processes.size()}
    tensors: dict[str, torch.Tensor] = {}
    for place, (python_random, rng) in enumerate(processes.gather(lambda: own)[1:], start=1):
        progress[f"python_random{OWN}{place}"] = python_random
        tensors |= {f"{name}{OWN}{place}": value for name, value in rng.items()}
    return progress, tensors


def own_of(progress: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> State | None:
    """Take the generators out of a checkpoint; None where another number of processes wrote it.

    Args:
        progress: what a checkpoint's ``progress`` holds; what is of generators and processes is taken out of it.
        tensors: its table ``rng``.
    """
    number, place = progress.pop("processes", 1), processes.rank()
    python_random = {key: progress.pop(key) for key in list(progress) if key.startswith("python_random")}
    if number != processes.size():
        return None
    end = f"{OWN}{place}" if place else ""
    mine = {name: value for name, value in tensors.items() if (name.endswith(end) if end else OWN not in name)}
    rng = {name.removesuffix(end): value for name, value in mine.items()}
    return python_random[f"python_random{end}"], rng


def seed(seed: int, step: int) -> None:
    """Seed this process's generators from the run's seed, the step and the rank."""
    import numpy as np
    import torch

    text = f"{seed} {step} {processes.rank()} of {processes.size()}"
    derived = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)


def begin(seed_of_run: int) -> None:
    """Give the other processes generators of their own; the main one's are those of a training in one process."""
    if not processes.is_main():
        seed(seed_of_run, 0)


# Whole tensors ----------------------------------------------------------------------------------------------------


def full(tensor: Any) -> Any:
    """Return a tensor as it is in one process; of a shard, all processes must ask together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole(tensor: Any) -> Any:
    """Return a tensor as it is in one process; of a shard, on the CPU of the main process, and its form elsewhere.

    No device holds more than one whole tensor at a time: the model may be too large for it.
    """
    found = full(tensor)
    return found if found is tensor else found.to("cpu" if processes.is_main() else "meta")


def like(value: torch.Tensor, place: Any) -> torch.Tensor:
    """Return a whole tensor sharded as another one is, and on its device."""
    if not hasattr(place, "full_tensor") or not value.ndim:
        # Numbers as well: fused AdamW wants its count of steps where the weights are.
        return value.to(place.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(place.device), place.device_mesh, place.placements)


def is_sharded(model: torch.nn.Module) -> bool:
    """Say whether a model's parameters are shards."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's state, whole on the main process."""
    return {name: whole(value) for name, value in model.state_dict().items()}


def load_whole(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Load a whole state into a sharded model; return what did not fit, as ``load_state_dict`` does."""
    state = model.state_dict()
    sharded = {name: like(value, state[name]) if name in state else value for name, value in tensors.items()}
    return model.load_state_dict(sharded, strict=False)


def is_fsdp(accelerator: Accelerator) -> bool:
    """Say whether Accelerate shards parameters."""
    return bool(getattr(accelerator, "is_fsdp2", False))
