"""``torch.compile`` for training: through Accelerate, which does it around whatever it wraps the model in.

Only the forward and backward passes of training are compiled, with dynamic shapes, since every batch has another width.
Evaluation, prediction and everything that is saved are the plain model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertkit.errors import ConfigError, one_line

PADDED = "train.compile compiles the plain model, which runs padded"
"""Why a compiled model has none of ``train.fast``: hooks and NumPy's numbers end a compiled graph at each layer."""


def plugin() -> Any:
    """Return what Accelerate is to do: torch's own compiler, shapes that change."""
    from accelerate.utils import TorchDynamoPlugin

    return TorchDynamoPlugin(backend="inductor", dynamic=True)


@contextmanager
def explained() -> Iterator[None]:
    """Say what can be done where a model cannot be compiled.

    Raises:
        ConfigError: naming the compiler's fault.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        first = one_line((str(error).strip() or type(error).__name__).splitlines()[0])[:200].rstrip(".")
        raise ConfigError(
            f"train.compile is true, and torch cannot compile the model: {first}. A C++ compiler, and on GPUs Triton, "
            "have to be there. --set train.compile=false trains without."
        ) from error
