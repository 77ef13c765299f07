"""``bertkit doctor``: what this machine has, and whether training can work here."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from bertkit.config import DeviceConfig
from bertkit.errors import BertkitError

NEEDED = ("torch", "transformers", "tokenizers", "datasets", "evaluate", "accelerate", "scikit-learn", "scipy")
OPTIONAL = ("sentencepiece", "pandas", "openvino")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table."""

    subject: str
    state: str
    """``ok``, ``note`` (works, but know this) or ``fault`` (training cannot work)."""
    detail: str


def doctor(*, offline: bool = False) -> list[Finding]:
    """Look at versions, device, precision, threads, the Hub and its cache, and installed encoders.

    Returns:
        Findings in that order; one whose state is ``fault`` means that training cannot work here.
    """
    findings = [_python(), *(_package(name) for name in NEEDED), *(_package(name, needed=False) for name in OPTIONAL)]
    for look in (_compute, _step, _padding):
        findings.append(_guarded(look))
    findings += [_hub(offline), _guarded(_cache), *_encoders()]
    return findings


def _guarded(look: Callable[[], Finding]) -> Finding:
    """Turn whatever goes wrong while looking into a finding: a broken install must not end the doctor."""
    try:
        return look()
    except Exception as error:
        return Finding(subject=look.__name__.strip("_"), state="fault", detail=f"{type(error).__name__}: {error}")


def _python() -> Finding:
    return Finding(subject="python", state="ok", detail=f"{platform.python_version()} on {platform.platform()}")


def _package(name: str, *, needed: bool = True) -> Finding:
    try:
        return Finding(subject=name, state="ok", detail=metadata.version(name))
    except metadata.PackageNotFoundError:
        state = "fault" if needed else "note"
        return Finding(subject=name, state=state, detail="not installed" + ("" if needed else " (optional)"))


def _compute() -> Finding:
    from bertkit import device

    place = device.choose(DeviceConfig())
    detail = f"{place.name}, precision {place.precision} ({place.reason}), {place.threads} threads"
    return Finding(subject="device", state="ok", detail=detail)


def _step() -> Finding:
    """Take a real optimizer step, which is what a broken torch or driver fails at."""
    import torch

    from bertkit import device, optim
    from bertkit.config import TrainConfig

    place = device.choose(DeviceConfig())
    accelerator = device.accelerator(place)
    layer = torch.nn.Linear(8, 2).to(accelerator.device)
    before = layer.weight.detach().clone()
    optimizer = optim.adamw(layer, TrainConfig())
    with accelerator.autocast():
        loss = layer(torch.ones(4, 8, device=accelerator.device)).float().square().sum()
    loss.backward()
    optimizer.step()
    moved = bool((layer.weight.detach() != before).any()) and bool(torch.isfinite(layer.weight).all())
    state = "ok" if moved else "fault"
    return Finding(subject="training step", state=state, detail="weights moved" if moved else "weights did not move")


def _padding() -> Finding:
    """Try on a tiny model whether the installed torch and transformers let layers run without padding."""
    from transformers import BertConfig, BertModel

    from bertkit import unpad

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    installed = unpad.install(BertModel(BertConfig(vocab_size=16, **sizes)))
    if not installed.fast:
        return Finding(subject="padding", state="note", detail=f"all models run padded: {installed.reason}")
    return Finding(subject="padding", state="ok", detail="no work on it, where a family can do without")


def _hub(offline: bool) -> Finding:
    from bertkit.data import hub

    if offline or hub.is_offline():
        why = "--offline" if offline else "offline mode of the environment"
        return Finding(subject="hub", state="note", detail=f"not asked ({why})")
    address, reason = hub.shown_endpoint(), hub.probe()
    if reason:
        detail = f"{address} cannot be reached ({reason}); --encoder minilm and --data DIR need no Hub"
        return Finding(subject="hub", state="note", detail=detail)
    return Finding(subject="hub", state="ok", detail=f"{address} answers")


def _cache() -> Finding:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return Finding(subject="hub cache", state="ok", detail=f"{constants.HF_HUB_CACHE} is empty")
    return Finding(subject="hub cache", state="ok", detail=f"{constants.HF_HUB_CACHE} holds {len(repos)} repositories")


def _encoders() -> list[Finding]:
    from bertkit import encoder

    findings = []
    for name in encoder.INSTALLED:
        try:
            found = encoder.find(name)
            findings.append(Finding(subject=f"encoder {name}", state="ok", detail=found.revision[:23]))
        except BertkitError as error:
            findings.append(Finding(subject=f"encoder {name}", state="note", detail=str(error)))
    return findings
