"""``benchmarks.gpu``: its arithmetic, its table, and that every variant runs; what it measures needs a GPU."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from benchmarks import gpu, gpu_variant, machine

DOCS = Path(__file__).parent.parent / "docs"


def run(steps: list[float], *, passes: list[float] | None = None) -> dict[str, Any]:
    """Return what a variant prints: 100 rows, 1,000 tokens, 6e9 operations forward."""
    return {
        "step_ms": steps,
        "train_peak_mb": 10.4,
        "predict": {"rows": 100, "seconds": passes or [0.5], "peak_mb": 7.0},
        "examples": 100,
        "tokens": 1000,
        "flops": 6e9,
        "dtypes": ["bfloat16"],
        "layers": {"form": "padded"},
    }


def test_operations_are_those_that_torch_counts() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20}
    config = BertConfig(vocab_size=10, **sizes)
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(4, 7, dtype=torch.long))
    assert gpu_variant.flops(config, [7] * 4) == counter.get_total_flops()


def test_rates_are_of_the_median_epoch_and_steps_of_all_rounds() -> None:
    found = gpu.summary([run([100.0, 300.0], passes=[0.4, 0.6]), run([200.0, 800.0], passes=[0.5])], peak=1e12)
    # Epochs of 0.4 and 1 second.
    assert found["examples_per_second"] == pytest.approx(100 / 0.7, abs=0.1)
    assert found["tokens_per_second"] == round(1000 / 0.7)
    assert found["share_of_peak"] == round(3 * 6e9 / 0.7 / 1e12, 4)
    assert found["step_ms"] == 250.0
    assert found["rounds"] == [200.0, 500.0]
    assert found["peak_mb"] == 10
    assert found["predicted_per_second"] == 200.0
    assert found["predicting_share_of_peak"] == round(6e9 / 0.5 / 1e12, 4)


def test_spread_leaves_out_a_tenth_at_each_end() -> None:
    found = gpu.summary([run([float(each) for each in range(100)])], peak=1e12)
    assert found["spread"] == [10.0, 89.0]


def test_ratios_are_to_each_of_trainers() -> None:
    fast, slow = ({"examples_per_second": each, "predicted_per_second": 2 * each} for each in (30.0, 10.0))
    assert gpu.ratios({"trainer_default": slow, "trainer_best": fast, "bertkit_best": fast}) == {
        "training, bertkit_best / trainer_default": 3.0,
        "training, bertkit_best / trainer_best": 1.0,
        "predicting, bertkit_best / trainer_default": 3.0,
        "predicting, bertkit_best / trainer_best": 1.0,
    }


def test_variants_are_those_of_the_worker() -> None:
    assert tuple(gpu.NAMES) == gpu_variant.VARIANTS


def test_clock_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 5.0, 6.0, 8.0, 100.0])
    monkeypatch.setattr(gpu_variant.time, "perf_counter", lambda: next(now))
    clock = gpu_variant.Clock("cpu", 1, 3)
    for _ in range(5):
        clock.mark()
    assert clock.milliseconds() == [1000.0, 2000.0]
    assert clock.peak_mb > 0


def test_clock_of_a_gpu_waits_once_and_takes_the_peak_of_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            told.append("event")

        def record(self) -> None: ...

        def elapsed_time(self, other: Any) -> float:
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("waited"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: told.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: (told.append("peak"), 3 * 2**20)[1])
    clock = gpu_variant.Clock("cuda", 1, 2)
    for _ in range(3):
        clock.mark()
    assert told == ["event", "event", "reset", "event", "peak"]
    assert clock.milliseconds() == [2.5]
    assert told[-1] == "waited"
    assert clock.peak_mb == 3.0


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "write", lambda *given: pytest.fail("a result was written"))
    monkeypatch.setattr(sys, "argv", ["gpu"])
    gpu.main()
    assert capsys.readouterr().out == "not measured: no GPU\n"


def test_a_cpu_is_not_measured_for_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "a CPU only shows that it runs: --device cpu --quick" in capsys.readouterr().err


def result() -> dict[str, Any]:
    runs = {name: [run([1000.0])] for name in gpu_variant.VARIANTS}
    return gpu.whole({("minilm", "sst2"): runs, ("base", "windows"): runs}, {"bf16": 7e14, "float32": 5e13}, 2)


def test_table_has_a_line_for_each_variant_and_the_hardwares_name() -> None:
    facts = {"date": "2026-01-02", "gpu": {"name": "Some GPU"}}
    lines = gpu.markdown(result(), facts, "python -m benchmarks.gpu").splitlines()
    assert lines[0] == "# Some GPU, 2026-01-02"
    cells = {line.count("|") for line in lines if line.startswith("|")}
    assert cells == {len(gpu.HEAD) + 1}
    assert sum("bertkit, without padding, grouped" in line for line in lines) == 2
    assert "Matrix products, TFLOP/s: bf16 700.0, float32 50.0." in lines[-3]
    assert "no measurement" in gpu.markdown(result(), {"date": ""}, "").splitlines()[0]


def test_documentation_shows_the_hardwares_name_or_that_nothing_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    page = module_from_spec(spec)
    spec.loader.exec_module(page)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.results("gpu") == "*Not measured yet.*"
    about = {"date": "2026-01-02", "processor": "P", "cores": 2, "memory_gib": 8, "python": "3", "versions": {}}
    about["gpu"] = {"name": "Some GPU", "memory_gib": 139, "capability": "9.0", "cuda": "13.0"}
    whole = {"command": "python -m benchmarks.gpu", "machine": about, **result()}
    (tmp_path / "gpu.json").write_text(json.dumps(whole), encoding="utf-8")
    shown = page.results("gpu")
    assert "Some GPU, 139 GiB, CUDA 13.0; 2 rounds. Its matrix products: 700.0 TFLOP/s in bf16" in shown
    assert "| base, windows | training, bertkit_best / trainer_default | 1.00 |" in shown
    assert "2026-01-02" in shown


def test_machine_names_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu" not in machine.describe()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    assert machine.describe()["gpu"] == {
        "name": "Some GPU",
        "memory_gib": 80,
        "capability": "9.0",
        "cuda": torch.version.cuda,
    }


def test_trainers_best_settings_are_what_they_are_called(tmp_path: Path) -> None:
    given = argparse.Namespace(device="cpu", batch=4)
    plain, best = (gpu_variant.arguments(name, str(tmp_path), given) for name in ("default", "best"))
    assert (plain.bf16, plain.bf16_full_eval, plain.per_device_eval_batch_size) == (False, False, 8)
    assert plain.train_sampling_strategy == "random"
    assert (best.bf16, best.bf16_full_eval, best.train_sampling_strategy) == (True, True, "group_by_length")
    assert plain.optim == best.optim == "adamw_torch_fused"
    assert gpu_variant.arguments("compiled", str(tmp_path), given).torch_compile
    assert not best.torch_compile


def test_bertkits_settings_are_what_they_are_called() -> None:
    given = argparse.Namespace(device="cpu", batch=4, rows=10, length=64)
    plain, best, compiled = (gpu_variant.settings_of(name, given) for name in ("default", "best", "compiled"))
    assert plain["train.eval_steps"] == 6
    assert "train.group_by_length" not in plain
    assert best["train.group_by_length"]
    assert "train.compile" not in best
    assert compiled["train.compile"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["trainer_default", "trainer_best", "bertkit_default", "bertkit_best"])
def test_each_variant_times_an_epoch(
    variant: str, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--encoder", str(tiny_encoder), "--rows", "10", "--batch", "4", "--length", "32", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["gpu_variant", variant, *options])
    monkeypatch.setenv("BERTKIT_UNPADDED", "")
    gpu_variant.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["step_ms"]) == 3
    assert all(each > 0 for each in found["step_ms"])
    assert len(found["predict"]["seconds"]) == gpu_variant.PASSES
    assert found["examples"] == 10
    assert 10 * 3 <= found["tokens"] <= 10 * 32
    assert found["dtypes"] == (["float32"] if variant == "trainer_default" else found["dtypes"])
    assert len(found["dtypes"]) == 1
