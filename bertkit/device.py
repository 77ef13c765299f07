"""Where to compute and how precisely; the one place that makes an Accelerator."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from bertkit import compiling, processes
from bertkit.config import DeviceConfig
from bertkit.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device and the precision of its matrix products."""

    name: str
    """``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    precision: str
    """``float32``, ``bf16`` (autocast) or ``fp16`` (autocast with loss scaling)."""
    reason: str
    """Why this precision, for ``doctor`` and ``run.json``."""
    threads: int
    """CPU threads that torch uses."""


def choose(config: DeviceConfig) -> Device:
    """Resolve ``auto`` on this machine, and set torch's thread count where ``config`` gives one.

    Raises:
        ConfigError: if the device is not there, or does not do the precision.
    """
    import torch

    os.environ.setdefault(*PRIMITIVES)
    _keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    on_cpu = config.device == "auto" and processes.asks("ACCELERATE_USE_CPU")
    name = _available("cpu" if on_cpu else config.device)
    best, reason = _best_precision(name)
    ours = {name: precision for precision, name in MIXED.items()}
    if given := ours.get(os.environ.get("ACCELERATE_MIXED_PRECISION", "")):
        best, reason = given, "Accelerate's configuration says so"
    if config.precision not in {"auto", best, "float32"} and (
        config.precision == "fp16" and not name.startswith("cuda")
    ):
        raise ConfigError(f"--precision fp16 needs a CUDA GPU, and the device is {name}. Use --precision {best}.")
    if config.precision != "auto":
        best, reason = config.precision, "asked for"
    if name.startswith("cuda"):
        _refuse_tf32()
    return Device(name=name, precision=best, reason=reason, threads=torch.get_num_threads())


def tf32(name: str) -> bool:
    """Say whether torch may round what float32 products are made of to TF32's 10 bits on a device; only CUDA does."""
    import torch

    allowed = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return bool(name.startswith("cuda") and allowed)


def _refuse_tf32() -> None:
    """Let float32 be float32 on CUDA: torch's default is TF32 for convolutions, and any other code may ask for more."""
    import torch

    # The names of before torch 2.9, which it sets its new ones by.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def accelerator(device: Device, handlers: Sequence[Any] = (), *, compiled: bool = False) -> Accelerator:
    """Make the Accelerator for ``device``, of all processes where they have joined.

    Accelerate keeps its settings in a process-wide state, which is renewed here so that several runs with
    different devices or precisions can follow each other in one process.

    Raises:
        ConfigError: if a launcher started several processes and they have not joined, or its configuration asks for
            what is not done here.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    if device.name.startswith("cuda:"):
        import torch

        torch.cuda.set_device(device.name)
    if processes.size() == 1:
        processes.refuse("this", "Start it without a launcher.")
        # A launcher of one process: nothing is to be wrapped for others.
        os.environ.pop("LOCAL_RANK", None)
    _refuse_engines()
    made = Accelerator(
        cpu=device.name == "cpu",
        mixed_precision=MIXED[device.precision],
        kwargs_handlers=list(handlers),
        dynamo_plugin=compiling.plugin() if compiled else None,
    )
    _shard(made)
    if (found := PartialState().num_processes) != processes.size():
        raise ConfigError(
            f"Accelerate finds {found} processes, whose launcher sets no RANK and WORLD_SIZE. Start them with "
            "torchrun, accelerate launch, srun or --processes."
        )
    return made


def _refuse_engines() -> None:
    """Refuse what an Accelerate configuration may ask for and would be ignored here.

    Raises:
        ConfigError: naming it.
    """
    given = os.environ
    for name in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if processes.asks(f"ACCELERATE_USE_{name}"):
            raise ConfigError(f"Accelerate's configuration asks for {name.lower()}; bertkit trains with DDP or FSDP2.")
    if processes.asks("ACCELERATE_USE_FSDP") and given.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("Accelerate's configuration asks for FSDP 1; bertkit shards with fsdp_version: 2.")
    if (compiler := given.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()) != "no":
        raise ConfigError(
            f"Accelerate's configuration has dynamo_backend {compiler}; here --set train.compile=true compiles. "
            "Leave it out of the configuration."
        )
    number = given.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if number != "1":
        raise ConfigError(
            f"Accelerate's configuration has gradient_accumulation_steps {number}, and train.batch_size is all that a "
            "step sees, over processes and micro-batches. Set it to 1."
        )


def _shard(made: Accelerator) -> None:
    """Let FSDP2 shard where a configuration asks for it; on CPUs as well, which Accelerate leaves out."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    if processes.size() == 1 or not processes.asks("ACCELERATE_USE_FSDP"):
        return
    if made.distributed_type == DistributedType.MULTI_CPU:
        made.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    # Whoever asks Accelerate for its state, autocast for one, copies this over what the state says.
    made.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Precision -> Accelerate's name of it."""
PRIMITIVES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "320")
"""oneDNN reads it before its first product. Each shape costs a primitive of about 0.1 MB; of the 1,024 that it keeps by
default, those of rare shapes fill memory all through a training and are no faster to have."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` in glibc's malloc.h."""
KEPT_BYTES = 2**22
"""Freed pieces, and freed memory at the end of the heap, are kept up to this; larger ones go back to the system."""


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep what torch frees: given back, it costs a page fault every 4 KiB when it is needed again.

    What the environment says (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``) stays; other C libraries are
    left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _available(name: str) -> str:
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, present in found.items() if present)
    kind, _, index = name.partition(":")
    if not found[kind]:
        raise ConfigError(f"--device {name}: torch finds no such device here. 'bertkit doctor' shows what there is.")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from cuda:0.")
    return name


def _best_precision(name: str) -> tuple[str, str]:
    """Return the precision for ``auto``, and why."""
    import torch

    if name.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(name)
        if major >= 8:
            return "bf16", f"CUDA capability {major}.{minor} has bf16 tensor cores"
        return "fp16", f"CUDA capability {major}.{minor} has no bf16 tensor cores"
    if name == "mps":
        return "float32", "MPS is kept at float32"
    has = _cpu_features()
    for feature in ("amx_bf16", "avx512_bf16"):
        if has.get(feature):
            return "bf16", f"the CPU has {feature}"
    return "float32", "the CPU has neither amx_bf16 nor avx512_bf16"


def processor() -> dict[str, str]:
    """Return what the last bits of a result depend on beside versions: system, processor, torch's kernels for it."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "name": _processor_name(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }


def _processor_name() -> str:
    """Return the name of the CPU as Linux tells it, else as Python does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _cpu_features() -> dict[str, Any]:
    import torch

    ask: Callable[[], dict[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    return ask() if ask else {}
