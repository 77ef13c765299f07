"""Seeds: which ones are meant, what their scores come to, which model is kept and why."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, RunError
from bertkit.metrics.names import SCORES
from bertkit.run import Run, find, ls
from bertkit.workflows import seeds
from bertkit.workflows.seeds import Spread
from bertkit.workflows.suite.evaluate import evaluate_suite
from tests.conftest import reviews, write_jsonl
from tests.workflows.suites import train_suite
from tests.workflows.training import Listener, record, same_weights, train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "seed", "wanted"),
    [
        (None, None, (42,)),
        (None, 7, (7,)),
        ("3", None, (42, 43, 44)),
        (2, 5, (5, 6)),
        ("1,2, 9", None, (1, 2, 9)),
        ("7,", None, (7,)),
        ([3, 1], None, (3, 1)),
    ],
)
def test_seeds_are_a_number_or_a_list(given: Any, seed: int | None, wanted: tuple[int, ...]) -> None:
    assert seeds.parse(given, seed) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "seed", "message"),
    [
        ("0", None, r"--seeds is '0', and must be a number of seeds \(5\) or a list of them \(1,2,3\)"),
        ("many", None, r"--seeds is 'many', and must be a number of seeds"),
        ("1,x", None, r"--seeds has 'x', and a seed is a whole number from 0 to 2\*\*63 - 1"),
        ([-1], None, r"--seeds has '-1', and a seed is a whole number"),
        ("1,2,1", None, r"--seeds names the seed 1 twice"),
        (",", None, r"--seeds names no seed"),
        ("1,2", 3, r"--seed 3 and a list, --seeds 1,2, do not go together"),
    ],
)
def test_wrong_seeds_are_named(given: Any, seed: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        seeds.parse(given, seed)


@pytest.mark.slow
def test_spread_is_that_of_a_sample() -> None:
    found = Spread.of([0.7, 0.9, 0.5, 0.6])
    assert found.mean == pytest.approx(0.675)
    assert found.standard_deviation == pytest.approx(statistics.stdev([0.5, 0.6, 0.7, 0.9]))
    assert (found.median, found.best) == (pytest.approx(0.65), 0.9)
    assert Spread.of([0.5]).standard_deviation is None


@pytest.mark.slow
def test_every_score_is_better_the_higher_it_is() -> None:
    """``Spread.best`` and the choice of the kept run rest on it."""
    assert all(score.higher_is_better for score in SCORES.values())


@pytest.fixture(scope="module")
def three(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three seeds of one task; tests must not change it."""
    folder = tmp_path_factory.mktemp("seeds")
    data = write_jsonl(folder / "reviews.jsonl", reviews(80))
    settings = {"train.max_steps": 6}
    return train_suite(data, seeds=3, seed=1, encoder=tiny_encoder, runs=folder / "runs", settings=settings).suite


@pytest.mark.slow
def test_each_seed_has_an_ordinary_run(three: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    assert three.name == "reviews-tiny-bert-001"
    assert [record(three / f"seed-{seed}")["seed"] for seed in (1, 2, 3)] == [1, 2, 3]
    assert len({record(three / f"seed-{seed}")["held_out_hash"] for seed in (1, 2, 3)}) == 1
    assert not same_weights(three / "seed-1", three / "seed-2")
    settings = {"train.max_steps": 6, "train.batch_size": 8, "train.max_length": 32, "train.learning_rate": 5e-3}
    data = three.parents[1] / "reviews.jsonl"
    alone = train(data, encoder=tiny_encoder, out=tmp_path / "alone", seed=2, settings=settings | {"train.epochs": 3})
    assert same_weights(alone.run, three / "seed-2")


@pytest.mark.slow
def test_summary_has_mean_spread_and_every_run(three: Path) -> None:
    found = evaluate_suite(three)
    scores = [Run.open(three / f"seed-{seed}").scores()["splits"]["validation"]["accuracy"] for seed in (1, 2, 3)]
    (line,) = [line for line in found.lines if line.metric == "accuracy"]
    assert line.spread == Spread.of(scores)
    assert line.interval is None
    assert [run["seed"] for run in found.runs] == [1, 2, 3]
    assert found.average is None
    assert found.to_json()["summary"]["tasks"]["reviews"]["validation"]["accuracy"]["values"] == scores


@pytest.mark.slow
def test_kept_model_is_the_best_and_says_that_its_score_is_too_good(three: Path) -> None:
    found = evaluate_suite(three)
    kept = found.kept["reviews"]
    scores = found.lines[0].spread.values
    assert kept.score == max(scores)
    assert kept.seed == found.seeds[scores.index(max(scores))]
    assert kept.run == f"seed-{kept.seed}"
    said = f"reviews: the model of seed {kept.seed} is kept, the best of 3 by accuracy on validation"
    assert any(said in note for note in found.notes)
    assert found.notes[-1] == seeds.FLATTERED
    assert same_weights(three, three / kept.run)


@pytest.mark.slow
def test_folder_of_seeds_predicts_with_the_kept_model(three: Path) -> None:
    kept = three / evaluate_suite(three).kept["reviews"].run
    texts = [row["text"] for row in reviews(8, seed=5)]
    wanted = bertkit.predict(texts, run=kept, precision="float32")
    assert bertkit.predict(texts, run=three, precision="float32") == wanted
    assert bertkit.predict(texts, run=three / "model", precision="float32") == wanted
    assert bertkit.predict(texts, run=three.name, runs=three.parent, precision="float32") == wanted


@pytest.mark.slow
def test_newest_run_is_the_kept_one(three: Path) -> None:
    kept = three / evaluate_suite(three).kept["reviews"].run
    assert find(None, three.parent).folder == kept
    assert [run.folder.name for run in ls(three.parent)] == ["seed-1", "seed-2", "seed-3"]


@pytest.mark.slow
def test_link_that_the_disk_does_not_make_is_a_copy(three: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import shutil

    shutil.copytree(three / "seed-1", tmp_path / "seed-1")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    seeds.link(tmp_path, tmp_path / "seed-1")
    assert not (tmp_path / "model").is_symlink()
    assert same_weights(tmp_path, tmp_path / "seed-1")


@pytest.mark.slow
def test_unfinished_seeds_have_no_model_yet_and_go_on(tiny_encoder: Path, tmp_path: Path, reviews_file: Path) -> None:
    listener = Listener(stop_at=4)
    options: dict[str, Any] = {"seeds": "1,2,3", "encoder": tiny_encoder, "settings": {"train.max_steps": 3}}
    stopped = train_suite(
        reviews_file, out=tmp_path / "out", listen=listener, should_stop=listener.should_stop, **options
    )
    assert stopped.status == "interrupted"
    assert record(tmp_path / "out/seed-2")["status"] == "interrupted"
    assert not (tmp_path / "out/seed-3").exists()
    with pytest.raises(RunError, match=r"out is not finished, so no model was chosen\. 'bertkit finetune --resume "):
        bertkit.predict(["good"], run=tmp_path / "out")
    first = (tmp_path / "out/seed-1/scores.json").stat().st_mtime_ns
    done = train_suite(resume=tmp_path / "out")
    assert done.status == "finished"
    assert (tmp_path / "out/seed-1/scores.json").stat().st_mtime_ns == first
    whole = train_suite(reviews_file, out=tmp_path / "whole", **options)
    for seed in (1, 2, 3):
        assert same_weights(tmp_path / f"out/seed-{seed}", tmp_path / f"whole/seed-{seed}")
    assert whole.summary.kept == done.summary.kept
