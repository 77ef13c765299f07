"""The report that ``eval`` writes: where it goes, what stands in it, and what happens where it cannot be written."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit import report
from bertkit.workflows.suite.evaluate import evaluate_suite
from tests.conftest import questions, reviews, sentences, write_conll, write_jsonl, write_squad
from tests.report.pages import EVIL
from tests.workflows.suites import train_suite, write_glue
from tests.workflows.training import Listener, train


def evaluate(run: Path, **options: Any) -> Any:
    return bertkit.evaluate(run, **{"precision": "float32", "threads": 1, **options})


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run that a test may write into."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "one"))


@pytest.mark.slow
def test_report_stands_beside_the_scores(own_run: Path) -> None:
    found = evaluate(own_run)
    assert found.report == own_run / "report.html"
    assert found.to_json()["report"] == str(found.report)
    html = found.report.read_text(encoding="utf-8")
    for title in ("Learning curve", "Confusion matrix and classes", "Calibration", "Scores by length"):
        assert f"<h2>{title}</h2>" in html
    assert f"{found.scores['accuracy']:.4f}" in html


@pytest.mark.slow
def test_report_of_other_rows_does_not_replace_that_of_validation(own_run: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "more.jsonl", reviews(12, seed=9))
    assert evaluate(own_run, data=data).report == own_run / "evals" / "more" / "report.html"
    assert not (own_run / "report.html").exists()


@pytest.mark.slow
def test_report_goes_where_it_is_wanted(own_run: Path, tmp_path: Path) -> None:
    assert evaluate(own_run, report=tmp_path / "a" / "b.html").report == tmp_path / "a" / "b.html"
    assert (tmp_path / "a" / "b.html").is_file()
    assert evaluate(own_run, report="none").report is None
    assert not (own_run / "report.html").exists()


@pytest.mark.slow
def test_model_outside_a_run_has_a_report_only_where_one_is_named(own_run: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "more.jsonl", reviews(12, seed=9))
    model = Path(shutil.copytree(own_run / "model", tmp_path / "model"))
    assert evaluate(model, data=data).report is None
    assert evaluate(model, data=data, report=tmp_path / "x.html").report == tmp_path / "x.html"


@pytest.mark.slow
def test_rows_that_hold_html_are_shown(own_run: Path, tmp_path: Path) -> None:
    rows = [row | {"text": f"{row['text']} {EVIL}", "label": "negative"} for row in reviews(20, seed=9)]
    html = evaluate(own_run, data=write_jsonl(tmp_path / "evil.jsonl", rows)).report.read_text(encoding="utf-8")
    assert "&lt;script&gt;window.ran = 1&lt;/script&gt;" in html
    assert "<script" not in html
    assert "<img" not in html


@pytest.mark.slow
def test_cut_texts_are_counted_and_scored_apart(own_run: Path, tmp_path: Path) -> None:
    rows = reviews(20, seed=9)
    rows[0]["text"] = " ".join([rows[0]["text"]] * 40)
    html = evaluate(own_run, data=write_jsonl(tmp_path / "long.jsonl", rows)).report.read_text(encoding="utf-8")
    assert "1 of 20 rows" in html
    assert "<h2>Scores by truncation</h2>" in html


@pytest.mark.slow
def test_baselines_stand_in_the_report(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run.parent.parent, tmp_path / "all"))
    run = root / "runs" / finished_run.name
    task = json.loads((run / "run.json").read_text())["request"]
    bertkit.baseline(task["task_table"]["data"]["files"]["train"], runs=root / "runs")
    found = evaluate(run)
    html = found.report.read_text(encoding="utf-8")
    assert set(found.baselines) >= {"majority", "tfidf"}
    assert 'class="number">majority</th>' in html
    assert "Beside the scores, what simpler models reach on the same rows." in html


@pytest.mark.slow
def test_report_of_a_tagger(tagging_run: Path, tmp_path: Path) -> None:
    data = write_conll(tmp_path / "more.conll", sentences(30, seed=5))
    html = evaluate(tagging_run, data=data, report=tmp_path / "x.html").report.read_text(encoding="utf-8")
    assert "<h2>Types</h2>" in html
    assert "<h2>Boundary and type errors</h2>" in html


@pytest.mark.slow
def test_report_of_questions(questions_run: Path, tmp_path: Path) -> None:
    data = write_squad(tmp_path / "more.json", questions(30, unanswered=4, seed=5), impossible=True)
    html = evaluate(questions_run, data=data, report=tmp_path / "x.html").report.read_text(encoding="utf-8")
    assert "<h2>Answerable or not</h2>" in html


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "title"), [("regression", "Predicted and true, and residuals"), ("multi", "Labels")])
def test_report_of_other_kinds(kind: str, title: str, tiny_encoder: Path, tmp_path: Path) -> None:
    labels: Any = {"regression": [0.25, 1.5, 2.75], "multi": [["a"], ["a", "b"], []]}[kind]
    rows: list[dict[str, Any]] = [row | {"label": labels[n % 3]} for n, row in enumerate(reviews(40))]
    run = train(
        write_jsonl(tmp_path / "rows.jsonl", rows), encoder=tiny_encoder, runs=tmp_path, settings={"kind": kind}
    )
    assert f"<h2>{title}</h2>" in evaluate(run.run).report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_matplotlib_scores_are_told_all_the_same(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    listener = Listener()
    found = evaluate(own_run, listen=listener)
    assert found.scores["accuracy"] > 0
    assert found.report is None
    assert "no report is written: matplotlib is not installed ('pip install matplotlib')" in listener.notes


@pytest.mark.slow
def test_page_that_cannot_be_written_costs_no_score(own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    listener = Listener()
    found = evaluate(own_run, report=tmp_path / "file" / "x.html", listen=listener)
    assert found.report is None
    assert found.scores["accuracy"] > 0
    assert any(note.startswith("no report is written: ") and "x.html" in note for note in listener.notes)


# Suites ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a suite of two tasks and two seeds."""
    folder = tmp_path_factory.mktemp("suite")
    options: dict[str, Any] = {"data": write_glue(folder / "glue"), "encoder": tiny_encoder, "runs": folder / "runs"}
    settings = {"train.max_steps": 4, "train.eval_steps": 2}
    return train_suite("glue/rte,glue/mrpc", seeds=2, settings=settings, **options).suite


def test_suite_has_one_page(trained: Path) -> None:
    found = evaluate_suite(trained)
    assert found.report == trained / "report.html"
    assert found.to_json()["report"] == str(found.report)
    html = found.report.read_text(encoding="utf-8")
    for title in ("Scores", "Beside others", "Learning curves", "Every run"):
        assert f"<h2>{title}</h2>" in html
    for line in found.lines:
        assert f"{line.spread.mean:.4f}" in html
    assert found.average is not None
    assert found.average.name in html
    assert "the best of 2 by accuracy on validation" in html


@pytest.mark.slow
def test_page_of_a_suite_links_to_the_pages_that_are_there(trained: Path, tmp_path: Path) -> None:
    suite = Path(shutil.copytree(trained, tmp_path / "suite #1", symlinks=True))
    evaluate(suite / "rte" / "seed-42")
    html = evaluate_suite(suite).report.read_text(encoding="utf-8")
    assert '<a href="rte/seed-42/report.html">rte/seed-42</a>' in html
    assert html.count("<a ") == 1
    html = evaluate_suite(suite, report=tmp_path / "x.html").report.read_text(encoding="utf-8")
    assert '<a href="suite%20%231/rte/seed-42/report.html">' in html


@pytest.mark.slow
def test_one_task_of_a_suite_has_a_page_of_its_own(trained: Path, tmp_path: Path) -> None:
    suite = Path(shutil.copytree(trained, tmp_path / "suite", symlinks=True))
    (suite / "report.html").unlink(missing_ok=True)
    assert evaluate_suite(suite / "rte").report == suite / "rte" / "report.html"
    assert "glue/mrpc" not in (suite / "rte" / "report.html").read_text(encoding="utf-8")
    assert evaluate_suite(suite, report="none").report is None
    assert not (suite / "report.html").exists()


@pytest.mark.slow
def test_unfinished_tasks_are_named(trained: Path, tmp_path: Path) -> None:
    suite = Path(shutil.copytree(trained, tmp_path / "suite", symlinks=True))
    shutil.rmtree(suite / "mrpc" / "seed-43")
    html = evaluate_suite(suite).report.read_text(encoding="utf-8")
    assert "glue/mrpc is not in the table: 1 of 2 seeds finished." in html
    assert "1 of 2 tasks" in html


@pytest.mark.slow
def test_public_names_of_the_report() -> None:
    assert sorted(report.__all__) == ["Compared", "Evaluation", "Suite", "page", "suite"]
