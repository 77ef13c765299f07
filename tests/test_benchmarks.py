"""The arithmetic and the tables of ``benchmarks/``; what they measure is measured by running them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import precision, training, without
from bertkit import device, dropout, embeddings, unpad


def run(milliseconds: float, peak_mb: float = 100.0) -> dict[str, Any]:
    return {"milliseconds": milliseconds, "peak_mb": peak_mb, "tokens": 400.0, "dtype": "float32"}


def test_precisions_are_compared_in_standard_errors_of_the_difference() -> None:
    # Variances 1 and 4 over three seeds: the error of the difference is sqrt(1/3 + 4/3).
    found = precision.compare([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert found["difference"] == -4.0
    assert found["standard_error"] == pytest.approx((5 / 3) ** 0.5)
    assert found["standard_errors_apart"] == pytest.approx(4 / (5 / 3) ** 0.5)
    assert precision.compare([1.0, 1.0], [1.0, 1.0])["standard_errors_apart"] == 0


def test_precisions_are_compared_once_there_are_two_runs_of_each() -> None:
    runs = [{"precision": name, "scores": {"f1": 0.5}} for name in ("bf16", "bf16", "float32")]
    assert precision.summary(runs) == {}
    assert precision.summary([*runs, runs[-1]])["f1"]["difference"] == 0


def test_ratios_are_of_medians_over_rounds() -> None:
    times = {"Trainer, as run_glue.py": (300.0, 100.0, 200.0), "bertkit": (10.0, 20.0, 90.0)}
    variants = {name: training.summary([run(each) for each in values]) for name, values in times.items()}
    assert variants["bertkit"]["spread"] == [10.0, 90.0]
    assert training.ratios(variants) == {
        "Trainer, as run_glue.py / bertkit": 10.0,
        "peak memory, bertkit / Trainer, as run_glue.py": 1.0,
    }


def test_every_ratio_is_of_variants_that_are_measured() -> None:
    variants = training.SETTINGS["sst2"].variants
    assert {*training.AGAINST, *sum(training.AGAINST.values(), ()), *training.CLAIMED} <= variants.keys()


@pytest.mark.parametrize("technique", ["nothing", "unpad", "dropout", "rows", "memory"])
def test_one_technique_is_left_out(technique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: (module, "install") for name, module in (("unpad", unpad), ("rows", embeddings))}
    places |= {"dropout": (dropout, "install"), "memory": (device, "_keep_freed_memory")}
    before = {name: getattr(*place) for name, place in places.items()}
    for module, name in [*places.values(), (unpad, "kept")]:
        monkeypatch.setattr(module, name, getattr(module, name))
    without.leave_out(technique)
    assert {name for name, place in places.items() if getattr(*place) is not before[name]} == {technique} - {"nothing"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_mask_stands_in_for_the_quick_one(dtype: torch.dtype) -> None:
    like = torch.empty(1000, 7, dtype=dtype)
    quick, plain = dropout.kept(like, 0.25), without.torch_mask(like, 0.25)
    assert (plain.shape, plain.dtype) == (quick.shape, quick.dtype)
    torch.testing.assert_close(plain.unique(), quick.unique())


def test_table_has_a_line_for_each_finding() -> None:
    made = {"command": "python -m benchmarks.x", "machine": {"date": "2026-01-01"}}
    variants = {"bertkit": training.summary([run(1234.4), run(1234.6)])}
    results = {
        "training_sst2": made | {"variants": variants, "ratios": {"a / b": 2.0}},
        "tokenisation": made | {"rows": 1000, "rows_per_second": {"map": [1, 2]}, "encode_over_map": 1.5},
    }
    assert bench.table(results).splitlines()[2:7] == [
        "| training_sst2 | bertkit | 1,234 ms (1,234 to 1,235) | 100 MB |",
        "| training_sst2 | a / b | 2.00 |  |",
        "| tokenisation | rows | 1,000 |  |",
        "| tokenisation | encode over map | 1.5 |  |",
        "",
    ]
