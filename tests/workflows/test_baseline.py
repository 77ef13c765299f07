"""Simple models on the rows of a task: what they score, where that is kept, and what stands beside a run's scores."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.baselines import sequence_classification as models
from bertkit.baselines import stored, vectors
from bertkit.errors import ConfigError, DataError, RunError, TaskError
from tests.conftest import BAD, GOOD, OTHER, questions, reviews, sentences, write_conll, write_jsonl, write_squad
from tests.workflows.training import Listener, record, train

SCORES = {"eval.resamples": 0}


def baseline(task: Any, runs: Path, **options: Any) -> Any:
    given = {"settings": SCORES, **options}
    return bertkit.baseline(task, runs=runs, **given)


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


def test_several_labels_a_row_are_decided_one_by_one(tmp_path: Path) -> None:
    texts = ["good film", "bad film", "good and bad film", "good tool"] * 20
    rows = [{"text": text, "label": [w for w in ("good", "bad", "film") if w in text]} for text in texts]
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
    import re

    assert re.findall(models.WORD, "很好!a film's 好") == ["很", "好", "!", "a", "film", "'", "s", "好"]


# Refusals --------------------------------------------------------------------------------------------------------


def test_span_qa_has_no_baseline(tmp_path: Path) -> None:
    file = write_squad(tmp_path / "questions.json", questions(20))
    with pytest.raises(TaskError, match=r"There is no baseline for span-qa: only sequence-classification and token-ta"):
        baseline(file, tmp_path)


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
    found = vectors.read(file, {"a", ". ."})
    assert found.rows == {"a": 0, ". .": 1}
    assert found.table.tolist() == [[1, 2], [7, 8]]
    assert found.table.dtype == "float32"
    assert found.damage == ""


def test_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_bytes(b"9 2\na 1 2\nb 3\nc 1 2 3\nd x 1\ne 1 nan\nf\xff 1 2\ng 1 2\nh 1 2\ni 1 2\nj 1 2\nk 1 2\n")
    found = vectors.read(file, {"a", "d", "e", "g"})
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
        vectors.read(binary, {"a"})
    with pytest.raises(DataError, match=r"word2vec's binary format must be saved as text first"):
        vectors.read(prose, {"this", "neither"})
    with pytest.raises(DataError, match=r"other\.txt has none of the 18 words of the data"):
        baseline(reviews(80), tmp_path, vectors=other)
    with pytest.raises(DataError, match=r"--vectors .*none\.txt: there is no such file"):
        baseline(reviews(80), tmp_path, vectors=tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"is for classification and regression; tagging has no such baseline"):
        baseline(sentences(40), tmp_path, vectors=other)


# Beside scores ---------------------------------------------------------------------------------------------------


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


def test_other_rows_have_nothing_beside(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    baseline(reviews_file, tmp_path, limit=30)
    run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path, settings={"train.max_steps": 1})
    assert run.baselines == {}
    assert "baselines" not in run.to_json()
    more = write_jsonl(tmp_path / "more.jsonl", reviews(10, seed=9))
    baseline(reviews_file, tmp_path)
    assert bertkit.evaluate(run.run, runs=tmp_path, data=more, threads=1).baselines == {}
    assert bertkit.evaluate(run.run, runs=tmp_path, threads=1).baselines


def test_runs_that_are_there_show_new_baselines(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "runs" / "one"))
    changed = Path(shutil.copytree(finished_run, tmp_path / "runs" / "changed"))
    (changed / "README.md").write_text("my own words")
    seen = Listener()
    found = baseline(finished_run.parents[1] / "reviews.jsonl", tmp_path / "runs", listen=seen)
    assert record(run)["baselines"] == found.baselines
    card = (run / "README.md").read_text()
    assert "| accuracy | 1.0000 [1.0000, 1.0000] | 0.5000 | 1.0000 |" in card
    assert "is not above the baseline 'tfidf', 1.0000" in card
    assert (changed / "README.md").read_text() == "my own words"
    assert any("changed/README.md was changed since it was written" in note for note in seen.notes)


def test_a_model_with_one_answer_says_so_in_the_end(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the film", "label": "ab"[n % 2]} for n in range(40)]
    run = train(rows, encoder=tiny_encoder, runs=tmp_path, settings={"train.max_steps": 1})
    (said,) = run.warnings
    assert said.startswith("every prediction on validation is '")
    assert said in record(run.run)["warnings"]
    assert "Every prediction on validation is '" in (run.run / "README.md").read_text()


def test_baselines_of_one_set_of_rows_are_added_to_each_other(reviews_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_text("\n".join(vector_lines()))
    baseline(reviews_file, tmp_path, vectors=file)
    baseline(reviews_file, tmp_path)
    baseline(reviews_file, tmp_path, limit=40)
    entries = stored.entries(tmp_path, "reviews")
    assert [list(entry["scores"]) for entry in entries] == [["majority", "tfidf", "vectors"], ["majority", "tfidf"]]
    assert [entry["num_training_examples"] for entry in entries] == [72, 40]


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
    from bertkit import baselines

    class Own(SequenceClassification):
        """As in a package outside."""

    assert baselines.find(Own) is models.fit
