"""Simple models on the rows of a task: what they score, where that is kept, and what stands beside a run's scores."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import bertkit
from bertkit import baselines
from bertkit.adapters.base import Adapter
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.baselines import sequence_classification as models
from bertkit.baselines import span_qa as spans
from bertkit.baselines import stored
from bertkit.cli import app
from bertkit.data import word_vectors
from bertkit.errors import ConfigError, DataError, RunError, TaskError
from bertkit.events import ignore
from bertkit.workflows import standing
from bertkit.workflows.preparation import prepare, task_of
from tests.conftest import BAD, GOOD, OTHER, questions, reviews, sentences, write_conll, write_jsonl
from tests.workflows.training import Listener, record, train

SCORES = {"eval.resamples": 0}


def baseline(task: Any, runs: Path, **options: Any) -> Any:
    given = {"settings": SCORES, **options}
    return bertkit.baseline(task, runs=runs, **given)


def typed(*arguments: Any) -> None:
    """Run a command as it is typed."""
    get_command(app).main(list(map(str, arguments)), standalone_mode=False)


def numbers(count: int) -> list[dict[str, Any]]:
    """Return texts whose label is how often they say good."""
    return [{"text": "good " * (n % 7) + "film", "label": n % 7 + 0.5} for n in range(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    """Return pairs that are alike or not, whatever they are about."""
    rows = []
    for n in range(count):
        one, two = OTHER[n % 7], OTHER[(n + 1 + n % 5) % 9]
        other = one if n % 2 else two
        rows.append({"text": f"{one} x", "text_pair": f"{other} x", "label": "same" if one == other else "other"})
    return rows


def test_split_called_test_is_not_trained_on(tmp_path: Path) -> None:
    for splits in ({"test": sentences(8)}, {"validation": sentences(8)}):
        with pytest.raises(DataError, match="has no train split, so it can only be evaluated and predicted"):
            baseline("glue/sst2", tmp_path, data=splits)


# What they score -------------------------------------------------------------------------------------------------


def test_commonest_label_and_linear_model_are_scored_on_the_held_out_rows(tmp_path: Path) -> None:
    rows = [*reviews(60), *({"text": "the film", "label": "positive"} for _ in range(20))]
    found = baseline(rows, tmp_path)
    assert list(found.baselines) == ["majority", "tfidf"]
    assert found.num_examples == {"train": 72, "validation": 8}
    assert found.baselines["majority"]["validation"]["accuracy"] == pytest.approx(5 / 8)
    assert found.baselines["tfidf"]["validation"]["accuracy"] == 1.0
    assert found.summaries["majority"] == "the commonest label of train, 'positive'"
    assert "TF-IDF of words and word pairs + logistic regression, C = " in found.summaries["tfidf"]


def test_scores_have_intervals_as_a_run_has(tmp_path: Path) -> None:
    found = bertkit.baseline(reviews(80), runs=tmp_path, settings={"eval.resamples": 100})
    assert found.baselines["tfidf"]["validation"]["accuracy_interval"] == [1.0, 1.0]


def test_numbers_have_a_mean_and_ridge_regression(tmp_path: Path) -> None:
    found = baseline(numbers(100), tmp_path)
    assert list(found.baselines) == ["mean", "tfidf"]
    assert found.baselines["mean"]["validation"]["pearson"] == 0.0
    assert found.baselines["tfidf"]["validation"]["pearson"] > 0.9
    assert "ridge regression, alpha = " in found.summaries["tfidf"]


def topics(texts: list[str]) -> list[dict[str, Any]]:
    return [{"text": text, "label": [w for w in ("good", "bad", "film") if w in text]} for text in texts]


def test_several_labels_a_row_are_decided_one_by_one(tmp_path: Path) -> None:
    rows = topics(["good film", "bad film", "good and a film", "good tool"] * 20)
    found = baseline(rows, tmp_path, settings=SCORES | {"kind": "multi"})
    assert found.summaries["majority"] == "the labels that most training rows have: 'film', 'good'"
    assert found.baselines["tfidf"]["validation"]["f1_micro"] == 1.0


def test_pairs_are_told_by_what_the_texts_share(tmp_path: Path) -> None:
    found = baseline(pairs(200), tmp_path)
    assert found.baselines["tfidf"]["validation"]["accuracy"] == 1.0
    assert "of both texts, and what they share," in found.summaries["tfidf"]


def test_tags_are_the_most_frequent_of_each_word(tmp_path: Path) -> None:
    rows = sentences(120)
    found = baseline(write_conll(tmp_path / "train.conll", rows), tmp_path / "runs")
    assert list(found.baselines) == ["majority"]
    assert found.baselines["majority"]["validation"]["f1"] == 1.0
    mixed = [{"tokens": ["a", "b"], "tags": ["X", "Y"]}] * 15 + [{"tokens": ["a", "b"], "tags": ["Y", "Y"]}] * 5
    found = baseline({"train": mixed, "validation": [{"tokens": ["a", "new"], "tags": ["X", "Y"]}]}, tmp_path)
    assert found.baselines["majority"]["validation"]["tag_accuracy"] == 1.0
    assert "most frequent tag of each of 2 words, decoded as the encoder's; others 'Y'" in found.summaries["majority"]


def test_questions_have_no_answer_and_the_closest_sentence(tmp_path: Path) -> None:
    context = "The cat sleeps. A dog of 3.5 years barks!\n\nIt is 好。猫在这里。 End"
    asked = {
        "Who barks?": "A dog of 3.5 years barks!",
        "What sleeps?": "The cat sleeps.",
        "猫?": "猫在这里。",
        "none": "",
    }
    rows = [
        {"id": str(n), "title": str(n), "context": context, "question": question, "answers": [answer] if answer else []}
        for n, (question, answer) in enumerate(list(asked.items()) * 10)
    ]
    found = baseline({"train": rows, "validation": rows[:8]}, tmp_path)
    assert list(found.baselines) == ["majority", "sentence"]
    assert found.baselines["majority"]["validation"]["f1"] == 25.0
    assert found.baselines["sentence"]["validation"]["exact_match"] == 75.0
    assert found.summaries["majority"].startswith("no answer to any question; ")
    answered = [{**row, "answers": row["answers"] or ["End"]} for row in rows]
    assert list(baseline({"train": answered, "validation": answered}, tmp_path).baselines) == ["sentence"]


def test_sentences_are_cut_where_they_end() -> None:
    text = " One. Two (of 2.5) three?) Four\n五。六！\n\n "
    assert [text[a:b] for a, b in spans.sentences_of(text)] == ["One.", "Two (of 2.5) three?)", "Four", "五。", "六！"]
    assert spans.sentences_of(" \n ") == []


def test_a_context_without_a_word_is_no_fault(tmp_path: Path) -> None:
    rows = [{"context": " ", "question": "?", "answers": []} for _ in range(20)]
    found = baseline({"train": rows, "validation": rows}, tmp_path)
    assert found.baselines["sentence"]["validation"]["exact_match"] == 100.0


def test_more_than_two_labels_are_learned(tmp_path: Path) -> None:
    rows = [{"text": f"{word} film", "label": word} for word in ("good", "bad", "grey") for _ in range(20)]
    assert baseline(rows, tmp_path).baselines["tfidf"]["validation"]["accuracy"] == 1.0


def test_the_same_seed_gives_the_same_scores(tmp_path: Path) -> None:
    one, two = (baseline(numbers(60), tmp_path / name, seed=7) for name in "ab")
    assert one.baselines == two.baselines
    assert one.summaries == two.summaries


def test_rows_to_choose_on_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MOST_ROWS", 40)
    assert "5-fold cross-validation on 40 of 72 training rows" in baseline(reviews(80), tmp_path).summaries["tfidf"]


def test_few_rows_and_rare_labels_are_no_fault(tmp_path: Path) -> None:
    few = {"train": reviews(6), "validation": reviews(4)}
    assert "(too few rows to choose one)" in baseline(few, tmp_path).summaries["tfidf"]
    rare = {"train": [*reviews(40), {"text": "odd", "label": "rare"}], "validation": reviews(4)}
    assert baseline(rare, tmp_path).baselines["tfidf"]["validation"]["accuracy"] == 1.0


def test_texts_without_a_word_are_no_fault(tmp_path: Path) -> None:
    rows = [{"text": " ", "label": "ab"[n % 2]} for n in range(20)]
    assert baseline({"train": rows, "validation": rows}, tmp_path).baselines["tfidf"]["validation"]["accuracy"] == 0.5


def test_one_label_leaves_nothing_to_learn(tmp_path: Path) -> None:
    seen = Listener()
    rows = {"train": [{"text": "a", "label": "x"}] * 10, "validation": [{"text": "a", "label": "x"}]}
    found = baseline(rows, tmp_path, settings=SCORES | {"labels": ["x", "y"]}, listen=seen)
    assert list(found.baselines) == ["majority"]
    assert "all training rows have the same label, so there is nothing for a linear model to learn" in seen.notes


def test_chinese_is_read_character_by_character() -> None:
    assert re.findall(models.WORD, "很好!a film's 好") == ["很", "好", "!", "a", "film", "'", "s", "好"]


# Against scikit-learn, called directly ---------------------------------------------------------------------------


def noisy(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return texts of random words whose label is guessed from them three times in four."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words = rng.choices([*GOOD, *BAD, *OTHER], k=rng.randint(3, 9))
        good = sum(word in GOOD for word in words) >= sum(word in BAD for word in words)
        rows.append({"text": " ".join(words), "label": ["no", "yes"][good if rng.random() < 0.75 else not good]})
    return rows


def fitted(rows: dict[str, list[dict[str, Any]]], *, file: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Return each baseline's predictions on validation, and what it is."""
    task, data = task_of(rows, settings)
    prepared = prepare(task, data=data, offline=True, listen=ignore)
    fit = baselines.find(type(prepared.adapter))
    found = fit(prepared.adapter, prepared.dataset.splits, seed=3, vectors=file, tell=ignore)
    return {each.name: (each.predict(prepared.dataset.splits["validation"].examples), each.summary) for each in found}


@pytest.fixture
def split_rows() -> dict[str, list[dict[str, Any]]]:
    return {"train": noisy(150), "validation": noisy(60, seed=1)}


def texts_and(rows: list[dict[str, Any]]) -> tuple[list[str], list[Any]]:
    return [row["text"] for row in rows], [row["label"] for row in rows]


def of_yes(predictions: list[dict[str, Any]]) -> list[float]:
    return [prediction["probabilities"]["yes"] for prediction in predictions]


def tfidf() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)


def test_majority_equals_the_dummy_of_scikit_learn(split_rows: dict[str, Any]) -> None:
    from sklearn.dummy import DummyClassifier

    texts, labels = texts_and(split_rows["train"])
    dummy = DummyClassifier(strategy="prior").fit(texts, labels)
    predictions, _ = fitted(split_rows)["majority"]
    assert of_yes(predictions) == pytest.approx([dummy.predict_proba(["x"])[0, 1]] * 60)
    assert {prediction["label"] for prediction in predictions} == set(dummy.predict(["x"]))


@pytest.mark.slow
def test_tfidf_equals_scikit_learn_with_the_best_c(split_rows: dict[str, Any]) -> None:
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline

    texts, labels = texts_and(split_rows["train"])
    folds = models._folds(np.array([label == "yes" for label in labels]), _shuffled(3, 150), stratified=True)
    whole = make_pipeline(tfidf(), LogisticRegression(solver="liblinear", random_state=0))
    # Folds of equal size: the mean over folds is the accuracy of all held-out predictions.
    search = GridSearchCV(whole, {"logisticregression__C": models.C}, cv=PredefinedSplit(folds)).fit(texts, labels)
    predictions, summary = fitted(split_rows)["tfidf"]
    unseen, gold = texts_and(split_rows["validation"])
    assert 0 < search.score(unseen, gold) < 1
    assert of_yes(predictions) == pytest.approx(search.predict_proba(unseen)[:, 1].tolist(), abs=1e-6)
    best = search.best_params_["logisticregression__C"]
    assert f"C = {best:.3g} (of 6, by 5-fold cross-validation on train, accuracy {search.best_score_:.4f})" in summary


def _shuffled(seed: int, count: int) -> Any:
    """Return the generator as it stands after the rows to choose on were drawn."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rng.permutation(count)
    return rng


def test_ridge_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    monkeypatch.setattr(models, "C", (2.0,))
    rows = {"train": numbers(60), "validation": [{"text": "good good film", "label": 0.25}, *numbers(9)]}
    model = make_pipeline(tfidf(), Ridge(alpha=0.5)).fit(*texts_and(rows["train"]))
    predictions, summary = fitted(rows)["tfidf"]
    wanted = model.predict(texts_and(rows["validation"])[0]).tolist()
    assert [prediction["value"] for prediction in predictions] == pytest.approx(wanted)
    assert "ridge regression, alpha = 0.5 " in summary


def test_each_of_several_labels_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    monkeypatch.setattr(models, "C", (3.0,))
    rows = {"train": topics(["good film", "bad tool", "good tool", "bad and good"] * 10)}
    rows["validation"] = topics(["film", "bad film", "good bad film"])
    predictions, _ = fitted(rows, kind="multi")["tfidf"]
    texts, labels = texts_and(rows["train"])
    for name in ("good", "bad", "film"):
        model = make_pipeline(tfidf(), LogisticRegression(C=3.0, solver="liblinear", random_state=0))
        model.fit(texts, [name in given for given in labels])
        wanted = model.predict_proba(texts_and(rows["validation"])[0])[:, 1].tolist()
        assert [prediction["probabilities"][name] for prediction in predictions] == pytest.approx(wanted, abs=1e-6)


def test_means_of_vectors_equal_scikit_learn(
    split_rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(models, "C", (1.0,))
    file = tmp_path / "v.txt"
    file.write_text("\n".join(vector_lines()))
    table = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in vector_lines()}

    def means(texts: list[str]) -> Any:
        return np.array([np.mean([table[word] for word in text.split()], axis=0) for text in texts], dtype=np.float32)

    texts, labels = texts_and(split_rows["train"])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(means(texts), labels)
    predictions, _ = fitted(split_rows, file=file)["vectors"]
    wanted = model.predict_proba(means(texts_and(split_rows["validation"])[0]))[:, 1].tolist()
    assert of_yes(predictions) == pytest.approx(wanted, abs=1e-4)


# Refusals --------------------------------------------------------------------------------------------------------


def test_a_type_without_baselines_says_so(tmp_path: Path) -> None:
    class Own(Adapter):
        """As in a package outside."""

    Own.__module__ = "mypackage.ordinal_regression"
    match = r"There is no baseline for ordinal-regression: only sequence-classification, span-qa and token-tagging h"
    with pytest.raises(TaskError, match=match):
        baselines.find(Own)


def test_settings_of_training_are_refused(reviews_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs: a baseline is not trained as an encoder is"):
        baseline(reviews_file, tmp_path, settings={"train.epochs": 2})
    with pytest.raises(ConfigError, match=r"seed is -1, and must be at least 0"):
        baseline(reviews_file, tmp_path, seed=-1)


# Word vectors ----------------------------------------------------------------------------------------------------


def vector_lines() -> list[str]:
    """Return three numbers for every word: the first says whether it is good."""
    lines = [f"{w} {value} 0.5 {n}" for value, words in ((1, GOOD), (-1, BAD), (0, OTHER)) for n, w in enumerate(words)]
    return [*lines, "unused 9 9 9"]


@pytest.mark.parametrize("form", ["glove", "word2vec", "fasttext.gz"])
def test_means_of_word_vectors_are_a_third_model(form: str, tmp_path: Path) -> None:
    lines = vector_lines()
    head = [] if form == "glove" else [f"{len(lines)} 3"]
    end = " \n" if form.startswith("fasttext") else "\n"
    text = "".join(line + end for line in [*head, *lines]).encode()
    file = tmp_path / form
    file.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    seen = Listener()
    found = baseline(reviews(80), tmp_path / "runs", vectors=file, listen=seen)
    assert list(found.baselines) == ["majority", "tfidf", "vectors"]
    assert found.baselines["vectors"]["validation"]["accuracy"] == 1.0
    assert found.summaries["vectors"].startswith(f"mean of the word vectors of {form} + logistic regression, C = ")
    assert f"{form} has 18 of the 18 words of the data (100.0%)" in seen.notes


def test_vectors_of_pairs_see_both_texts(tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_text("".join(f"{word} {n % 3} {n // 3}\n" for n, word in enumerate(OTHER)))
    assert baseline(pairs(200), tmp_path, vectors=file).baselines["vectors"]["validation"]["accuracy"] > 0.8


def test_only_wanted_words_are_kept_and_the_first_of_two(tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_text("a 1 2\nb 3 4\na 5 6\n. . 7 8\n")
    found = word_vectors.read(file, {"a", ". ."})
    assert found.rows == {"a": 0, ". .": 1}
    assert found.table.tolist() == [[1, 2], [7, 8]]
    assert found.table.dtype == "float32"
    assert found.damage == ""


def test_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_bytes(b"9 2\na 1 2\nb 3\nc 1 2 3\nd x 1\ne 1 nan\nf\xff 1 2\ng 1 2\nh 1 2\ni 1 2\nj 1 2\nk 1 2\n")
    found = word_vectors.read(file, {"a", "d", "e", "g"})
    assert set(found.rows) == {"a", "g"}
    assert found.damage.startswith(
        "5 damaged lines are left out: v.txt:3: has 1 numbers, and the first line says 2; v.txt:4: has more than 2 "
        "numbers; v.txt:5: holds something that is no finite number; v.txt:6: holds something that is no finite "
        "number; v.txt:7: not UTF-8 (byte 0xff"
    )
    assert found.damage.endswith("v.txt says that it holds 9 words, and has 11: is it cut off?")


def test_damage_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_text("\n".join([*vector_lines(), "broken 1"]))
    seen = Listener()
    baseline(reviews(80), tmp_path, vectors=file, listen=seen)
    assert "1 damaged line is left out: v.txt:20: has 1 numbers, and the first line says 3" in seen.notes


def test_files_that_hold_no_vectors_are_refused(tmp_path: Path) -> None:
    binary, prose, other = tmp_path / "v.bin", tmp_path / "prose.txt", tmp_path / "other.txt"
    binary.write_bytes(b"3 2\n" + bytes(range(128, 256)) * 3)
    prose.write_text("this is no vector\nneither is this one\n")
    other.write_text("nothing 1 2\n")
    with pytest.raises(DataError, match=r"v\.bin is no text file of word vectors \(v\.bin:2: not UTF-8"):
        word_vectors.read(binary, {"a"})
    with pytest.raises(DataError, match=r"word2vec's binary format must be saved as text first"):
        word_vectors.read(prose, {"this", "neither"})
    with pytest.raises(DataError, match=r"other\.txt has none of the 18 words of the data"):
        baseline(reviews(80), tmp_path, vectors=other)
    with pytest.raises(DataError, match=r"--vectors .*none\.txt: there is no such file"):
        baseline(reviews(80), tmp_path, vectors=tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"is for classification and regression; tagging has no such baseline"):
        baseline(sentences(40), tmp_path, vectors=other)
    with pytest.raises(ConfigError, match=r"is for classification and regression; span QA has no such baseline"):
        baseline(questions(40), tmp_path, vectors=other)


# Beside scores ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_of_a_run_have_the_baselines_of_its_rows_beside(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    found = baseline(reviews_file, runs)
    assert found.file == runs / "baselines" / "reviews.json"
    seen = Listener()
    run = train(reviews_file, encoder=tiny_encoder, runs=runs, listen=seen, settings={"train.max_steps": 1})
    assert run.baselines == found.baselines
    assert run.to_json()["baselines"] == found.baselines
    (said,) = run.warnings[-1:]
    score = run.scores["validation"]["accuracy"]
    assert said.startswith(f"validation accuracy {score:.4f} is under the baseline 'tfidf', 1.0000. Usual causes: too")
    assert said in seen.notes
    card = (run.run / "README.md").read_text()
    assert "| split | rows | metric | score | baseline majority | baseline tfidf |" in card
    assert f"| accuracy | {score:.4f} | 0.5000 | 1.0000 |" in card
    assert f"**{said[0].upper()}{said[1:]}**" in card
    evaluated = bertkit.evaluate(run.run, runs=tmp_path / "nowhere", threads=1, precision="float32")
    assert evaluated.baselines == found.baselines
    assert evaluated.to_json()["warnings"] == run.warnings
    again = train(reviews_file, encoder=tiny_encoder, out=run.run, runs=runs, settings={"train.max_steps": 1})
    assert (again.already, again.baselines) == (True, found.baselines)


@pytest.mark.slow
def test_other_rows_have_nothing_beside(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    baseline(reviews_file, tmp_path, limit=30)
    seen = Listener()
    run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path, settings={"train.max_steps": 1}, listen=seen)
    assert any(note.startswith("the stored baselines of reviews are of other rows or labels") for note in seen.notes)
    assert run.baselines == {}
    assert "baselines" not in run.to_json()
    more = write_jsonl(tmp_path / "more.jsonl", reviews(10, seed=9))
    baseline(reviews_file, tmp_path)
    assert bertkit.evaluate(run.run, runs=tmp_path, data=more, threads=1).baselines == {}
    assert bertkit.evaluate(run.run, runs=tmp_path, threads=1).baselines


@pytest.mark.slow
def test_runs_that_are_there_show_new_baselines(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "runs" / "one"))
    changed = Path(shutil.copytree(finished_run, tmp_path / "runs" / "changed"))
    (changed / "README.md").write_text("my own words")
    seen = Listener()
    found = baseline(finished_run.parents[1] / "reviews.jsonl", tmp_path / "runs", listen=seen)
    assert record(run)["baselines"] == found.baselines
    card = (run / "README.md").read_text()
    assert "| accuracy | 1.0000 [1.0000, 1.0000] | 0.5000 | 1.0000 |" in card
    assert "is not above the baseline 'tfidf', 1.0000. A simple model does as well: " in card
    assert (changed / "README.md").read_text() == "my own words"
    assert any("changed/README.md was changed since it was written" in note for note in seen.notes)


@pytest.mark.slow
def test_a_model_with_one_answer_says_so_in_the_end(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the film", "label": "ab"[n % 2]} for n in range(40)]
    run = train(rows, encoder=tiny_encoder, runs=tmp_path, settings={"train.max_steps": 1})
    (said,) = run.warnings
    assert said.startswith("every prediction on validation is '")
    assert said in record(run.run)["warnings"]
    assert "Every prediction on validation is '" in (run.run / "README.md").read_text()


def test_splits_of_one_answer_are_named_together() -> None:
    task, data = task_of(reviews(20), {})
    adapter = prepare(task, data=data, offline=True, listen=ignore).adapter
    constant = {"validation": "a", "test": "a", "other": "b"}
    one, other = standing.warnings(adapter, {}, constant, {})
    assert one.startswith("every prediction on validation and test is 'a'. Usual causes: ")
    assert other.startswith("every prediction on other is 'b'. Usual causes: ")


def test_under_and_even_with_a_baseline_are_told_apart() -> None:
    task, data = task_of(reviews(20), {})
    adapter = prepare(task, data=data, offline=True, listen=ignore).adapter
    beside = {"majority": {"validation": {"accuracy": 0.5}}, "tfidf": {"validation": {"accuracy": 0.75}}}

    def said(value: float) -> list[str]:
        return standing.warnings(adapter, {"validation": {"accuracy": value}, "other": {"accuracy": 0.0}}, {}, beside)

    assert said(0.76) == []
    assert said(0.75) == [
        f"validation accuracy 0.7500 is not above the baseline 'tfidf', 0.7500. {standing.EVEN_CAUSES}"
    ]
    assert said(0.6) == [f"validation accuracy 0.6000 is under the baseline 'tfidf', 0.7500. {standing.LOW_CAUSES}"]


def test_one_set_of_labels_for_all_rows_is_one_answer(tmp_path: Path) -> None:
    task, data = task_of(topics(["good film", "bad tool"] * 10), {"kind": "multi"})
    prepared = prepare(task, data=data, offline=True, listen=ignore)
    rows = prepared.dataset.splits["train"].examples
    none: dict[str, list[str]] = {"labels": []}
    some = {"labels": ["bad", "film"]}
    assert prepared.adapter.constant([none] * len(rows), rows) == "no label"
    assert prepared.adapter.constant([some] * len(rows), rows) == "bad, film"
    assert prepared.adapter.constant([none, *[some] * (len(rows) - 1)], rows) is None
    assert prepared.adapter.constant([none] * 2, [rows[0]] * 2) is None


@pytest.mark.slow
def test_half_of_validation_has_its_own_baselines(tiny_encoder: Path, tmp_path: Path) -> None:
    reviews_file = write_jsonl(tmp_path / "reviews.jsonl", reviews(240))
    settings = {"eval.calibrate": True, "train.max_steps": 1}
    baseline(reviews_file, tmp_path)
    assert train(reviews_file, encoder=tiny_encoder, runs=tmp_path, settings=settings).baselines == {}
    found = baseline(reviews_file, tmp_path, settings=SCORES | {"eval.calibrate": True})
    run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path, settings=settings)
    assert run.baselines == found.baselines
    assert bertkit.evaluate(run.run, runs=tmp_path, threads=1, precision="float32").baselines == found.baselines


@pytest.mark.slow
def test_tables_show_baselines_beside_scores(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    typed("baseline", reviews_file, *runs)
    shown = capsys.readouterr()
    assert re.search(r"^baseline  what it is\nmajority  the commonest label of train, 'negative'$", shown.out, re.M)
    assert re.search(r"^validation  accuracy  tfidf     1\.0000  1\.0000 \.\. 1\.0000$", shown.out, re.M)
    assert "baselines/reviews.json: " in shown.err
    train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs", settings={"train.max_steps": 1})
    typed("eval", *runs, "--threads", 1)
    shown = capsys.readouterr()
    assert re.search(r"^split +metric +score +95 % interval +majority +tfidf$", shown.out, re.M)
    assert re.search(r"^validation +accuracy .* 0\.5000 +1\.0000$", shown.out, re.M)
    assert "is under the baseline 'tfidf', 1.0000" in shown.err
    typed("baseline", reviews_file, "--json", *runs)
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "reviews"
    assert found["baselines"]["tfidf"]["validation"]["accuracy"] == 1.0


def test_baselines_of_one_set_of_rows_are_added_to_each_other(reviews_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_text("\n".join(vector_lines()))
    baseline(reviews_file, tmp_path, vectors=file)
    baseline(reviews_file, tmp_path)
    baseline(reviews_file, tmp_path, limit=40)
    entries = stored.entries(tmp_path, "reviews")
    assert [list(entry["scores"]) for entry in entries] == [["majority", "tfidf", "vectors"], ["majority", "tfidf"]]
    assert [entry["num_training_examples"] for entry in entries] == [72, 40]


@pytest.mark.slow
def test_a_damaged_file_of_baselines_stops_no_training(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    file = baseline(reviews_file, tmp_path).file
    file.write_text(json.dumps({"entries": [{"about": {}}]}))
    with pytest.raises(RunError, match=r"reviews\.json is damaged: it lacks scores\. Remove it"):
        stored.entries(tmp_path, "reviews")
    file.write_text("{")
    with pytest.raises(RunError, match=r"reviews\.json is damaged: .*'bertkit baseline' writes it anew"):
        baseline(reviews_file, tmp_path)
    seen = Listener()
    run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path, settings={"train.max_steps": 1}, listen=seen)
    assert run.status == "finished"
    assert any(note.startswith("no baseline is shown: ") for note in seen.notes)


def test_looking_up_loads_no_library() -> None:
    import subprocess
    import sys

    code = "import sys; from bertkit.baselines import stored; from bertkit.cli import app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "sklearn", "scipy", "datasets"} & set(loaded)


def test_a_type_of_ones_own_has_the_baselines_of_what_it_inherits_from() -> None:
    class Own(SequenceClassification):
        """As in a package outside."""

    assert baselines.find(Own) is models.fit
