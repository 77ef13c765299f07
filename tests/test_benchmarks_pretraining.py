"""The arithmetic of ``benchmarks.pretraining`` and ``benchmarks.domain_adaptation``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import domain_adaptation, pretraining


def run(start: str, rate: float, score: float, task: str = "sst2") -> dict[str, Any]:
    return {"task": task, "start": start, "rate": rate, "seed": 1, "metric": "accuracy", "score": score}


def test_a_curve_is_over_the_seconds_and_tokens_of_training() -> None:
    step = {"event": "step", "seconds": 2.0, "num_tokens": 100}
    scores = {"event": "scores", "scores": {"mlm_loss": 3.0}}
    rows = [{"event": "start"}, step, step, {**scores, "step": 2}, step, {**scores, "step": 3}]
    assert pretraining.curve(rows) == [
        {"step": 2, "seconds": 4.0, "tokens": 200, "mlm_loss": 3.0},
        {"step": 3, "seconds": 6.0, "tokens": 300, "mlm_loss": 3.0},
    ]


def test_each_start_is_shown_at_its_own_best_rate() -> None:
    runs = [run("pre-trained", 1e-4, 0.8), run("pre-trained", 1e-4, 0.6), run("pre-trained", 3e-4, 0.6)]
    runs += [run("random", 1e-4, 0.5), run("random", 3e-4, 0.55)]
    found = pretraining.summary(runs)["sst2"]
    assert found["pre-trained"]["rate"] == 1e-4
    assert found["pre-trained"]["mean"] == pytest.approx(0.7)
    assert found["pre-trained"]["standard_deviation"] == pytest.approx(0.02**0.5)
    assert found["random"] == {"rate": 3e-4, "mean": 0.55, "standard_deviation": 0.0, "scores": [0.55]}
    assert found["difference"] == pytest.approx(0.15)


def test_in_domain_text_is_the_training_split_without_labels_and_repetitions(tmp_path: Path) -> None:
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    rows = ["a  good film\t1", "dull\t0", "dull\t1"]
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    (folder / "test.tsv").write_text("index\tsentence\n0\tunseen\n")
    file = domain_adaptation.text_of("sst2", tmp_path / "glue", tmp_path / "runs" / "text.txt")
    assert file.read_text() == "a good film\ndull\n"
