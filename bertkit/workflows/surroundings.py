"""What the last bits of a result depend on beside data and settings: noted in ``run.json``, and compared there."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

from bertkit import device
from bertkit.device import Device

PACKAGES = (
    "accelerate",
    "datasets",
    "evaluate",
    "numpy",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
NAMES = {
    ("device", "name"): "device",
    ("device", "precision"): "precision",
    ("device", "threads"): "number of threads",
    ("processor", "system"): "system",
    ("processor", "name"): "processor",
    ("processor", "kernels"): "instruction set of torch's kernels",
    ("processor", "gpu"): "GPU",
}
"""What differences are called; a package by its own name."""


def versions() -> dict[str, str]:
    """Return the versions of Python, bertkit and the packages that a result comes from."""
    own = {"bertkit": metadata.version("bertkit"), "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in PACKAGES}


def here(place: Device) -> dict[str, Any]:
    """Return what ``run.json`` says of this machine and of where on it is computed."""
    return {
        "versions": versions(),
        "device": asdict(place) | {"tf32": device.tf32(place.name)},
        "processor": device.processor(),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, what is not as it was, and what was not noted.

    Args:
        then: a ``run.json``.
        now: what :func:`here` gave.
    """
    for part, facts in now.items():
        if part not in then:
            yield f"run.json does not say the {part}"
            continue
        for key, value in facts.items():
            before = then[part].get(key)
            if before != value and (part == "versions" or (part, key) in NAMES):
                name = NAMES.get((part, key), key)
                yield f"{name} was {before or 'absent'} and is {value or 'absent'}"
