"""What every result carries: when, where, with which versions."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Return date, processor, cores, memory and versions."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    import torch

    capabilities = torch.cpu.get_capabilities()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model,
        "bf16": [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        **({"gpu": gpu()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("bertkit", "torch", "transformers", "scikit-learn")},
    }


def gpu() -> dict[str, Any]:
    """Return name, memory, capability and CUDA of the first GPU."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_gib": round(found.total_memory / 2**30),
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
    }


def write(name: str, command: str, result: dict[str, Any]) -> None:
    """Write ``results/NAME.json`` with the command that made it, and print it."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"command": command, "machine": describe(), **result}
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(text)
