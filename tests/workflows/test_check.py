"""The look at data before training: what it counts, what it calls wrong, and what it warns of."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import DataError, TaskError
from bertkit.workflows.check import Checked
from tests.conftest import BAD, GOOD, OTHER, questions, reviews, sentences, write_jsonl
from tests.workflows.training import Listener, train


def check(task: Any, encoder: Path, *, settings: Mapping[str, Any] | None = None, **options: Any) -> Checked:
    return bertkit.check(task, encoder=encoder, settings={"train.max_length": 64} | dict(settings or {}), **options)


def test_good_data_has_no_problems(tiny_encoder: Path, reviews_file: Path) -> None:
    found = check(reviews_file, tiny_encoder)
    assert found.problems == []
    (split,) = found.splits
    assert (split.name, split.num_examples, split.labelled) == ("train", 80, True)
    assert split.balance == {"negative": 40, "positive": 40}
    assert found.task.columns == {"text": "text", "label": "label"}
    assert json.loads(json.dumps(found.to_json()))["labels"] == ["negative", "positive"]


def test_lengths_are_those_of_the_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the " * n, "label": "ab"[n % 2]} for n in range(1, 101)]
    found = check(write_jsonl(tmp_path / "train.jsonl", rows), tiny_encoder, settings={"train.max_length": 52})
    (split,) = found.splits
    assert split.lengths == {"median": 52.5, "p99": pytest.approx(101, abs=0.1), "longest": 102, "keeps_99": 101}
    assert split.truncation["examples"] == 50
    assert split.truncation["tokens"] == sum(range(1, 51))
    assert [said[:34] for said in split.lost] == ["50 examples (50.0%) are longer than"[:34]]


def test_counts_of_a_sample_say_so(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertkit.workflows.check.SAMPLE", 40)
    rows = [{"text": "the " * 60, "label": "ab"[n % 2]} for n in range(100)]
    found = check(write_jsonl(tmp_path / "train.jsonl", rows), tiny_encoder, settings={"train.max_length": 52})
    (said,) = found.splits[0].lost
    assert said.startswith("34 examples (100.0%) are longer")
    assert said.endswith("(counted in one row of 3)")


def test_class_table_is_the_one_of_the_data(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the film", "label": "rare" if n == 0 else "common"} for n in range(50)]
    (split,) = check(rows, tiny_encoder).splits
    assert split.balance == {"common": 49, "rare": 1}


def test_every_faulty_row_is_a_problem_with_its_line(tiny_encoder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*reviews(20), {"text": None, "label": "positive"}, {"text": "a", "label": None}]
    found = check(write_jsonl(tmp_path / "train.jsonl", rows), tiny_encoder)
    assert found.problems == [
        "train.jsonl:21: column 'text' is null, and must be a text",
        "train.jsonl:22: column 'label' holds no label",
    ]


def test_labels_that_train_lacks_are_a_problem(tiny_encoder: Path) -> None:
    data = {"train": reviews(20), "validation": [*reviews(4), {"text": "it", "label": "mixed"}]}
    found = check(data, tiny_encoder, settings={"labels": ["negative", "positive", "mixed"]})
    assert found.problems == ["'validation' has labels that train never shows: mixed (1 rows)"]


def test_unlabelled_test_split_is_no_problem(tiny_encoder: Path) -> None:
    data = {"train": reviews(20), "test": [{"text": "it", "label": None}]}
    found = check(data, tiny_encoder)
    assert found.problems == []
    assert [split.labelled for split in found.splits] == [True, False]


def test_rows_that_training_would_refuse_as_too_long_are_a_problem(tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", [*reviews(20), {"text": "the " * 20, "label": "positive"}])
    found = check(file, tiny_encoder, settings={"train.max_length": 16, "train.on_long": "error"})
    assert len(found.problems) == 1
    assert found.problems[0].startswith("train.jsonl:21 has 22 tokens, and train.max_length is 16")


@pytest.mark.parametrize(
    "rows",
    [
        [*reviews(20), {"text": None, "label": "positive"}],
        [*reviews(20), {"text": "a", "label": None}],
        [*reviews(20), {"text": ["a"], "label": "positive"}],
        [*reviews(20), {"label": "positive"}],
        [row | {"prediction": 1} for row in reviews(20)],
    ],
)
def test_check_and_finetune_agree(rows: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    problems = check(rows, tiny_encoder).problems
    with pytest.raises(DataError) as caught:
        train(rows, encoder=tiny_encoder, out=tmp_path / "run")
    assert problems
    assert all(problem in str(caught.value) for problem in problems)


def test_guesses_are_told(tiny_encoder: Path) -> None:
    listener = Listener()
    rows = [{"review": row["text"], "verdict": row["label"]} for row in reviews(20)]
    found = check(rows, tiny_encoder, listen=listener)
    assert found.task.columns == {"text": "review", "label": "verdict"}
    assert any("'review' is taken as text" in note for note in listener.notes)
    assert any("'verdict' is taken as label" in note for note in listener.notes)
    assert found.notes == listener.notes


def test_encoder_that_cannot_be_had_leaves_lengths_out(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    found = bertkit.check(reviews(20), settings={"encoder": nowhere})
    assert found.problems == []
    assert found.splits[0].lengths == {}
    assert any("lengths are not measured: " in note and "nowhere" in note for note in found.notes)
    named = bertkit.check(reviews(20), encoder=nowhere)
    assert len(named.problems) == 1
    assert named.problems[0].startswith("lengths are not measured: ")
    assert named.num_conflicts == 0


def test_rows_with_faults_put_the_search_for_duplicates_off(tiny_encoder: Path) -> None:
    found = check([*reviews(20), *reviews(20), {"text": None, "label": "positive"}], tiny_encoder)
    assert len(found.problems) == 1
    assert found.duplicates == []
    assert any("duplicates" in note and "once no row has a fault" in note for note in found.notes)


def test_nothing_to_look_at_is_an_error(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*none\.jsonl"):
        check(tmp_path / "none.jsonl", tiny_encoder)
    with pytest.raises(TaskError, match=r"No task 'glue/sst-2'\. Did you mean 'glue/sst2'"):
        check("glue/sst-2", tiny_encoder)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match=r"empty\.jsonl is empty"):
        check(tmp_path / "empty.jsonl", tiny_encoder)


def test_empty_split_is_a_problem(tiny_encoder: Path, tmp_path: Path) -> None:
    data = {"train": reviews(20), "validation": []}
    with pytest.raises(DataError, match=r"validation is empty"):
        check(data, tiny_encoder)


def test_length_beyond_the_encoder_is_a_problem(tiny_encoder: Path, reviews_file: Path) -> None:
    """``finetune`` refuses it, so ``check`` must not call it good."""
    found = check(reviews_file, tiny_encoder, settings={"train.max_length": 100})
    assert len(found.problems) == 1
    assert "train.max_length is 100" in found.problems[0]
    assert "64" in found.problems[0]


# What rows without a fault hold ----------------------------------------------------------------------------------

NEUTRAL = [word for word in OTHER if len(word) > 2]
LONG = "the film was very good and we saw a tool and it was a warm meal and a bright film and the tool was grey"


def texts(number: int, *, seed: int = 0, words: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices([*GOOD, *BAD, *OTHER], k=words)) for _ in range(number)]


def rows(number: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Return rows of which nothing is to be said."""
    labels = random.Random(seed + 1).choices(["bad", "good"], k=number)
    return [{"text": text, "label": label} for text, label in zip(texts(number, seed=seed), labels, strict=True)]


def test_nothing_is_said_of_good_rows(tiny_encoder: Path) -> None:
    found = check({"train": rows(200), "validation": rows(100, seed=7), "test": rows(100, seed=9)}, tiny_encoder)
    assert (found.problems, found.warnings, found.duplicates, found.conflicts) == ([], [], [], [])
    assert [(split.num_empty, split.unknown and split.unknown.share) for split in found.splits] == [(0, 0.0)] * 3


def test_lengths_come_as_histogram_and_as_what_other_limits_cut(tiny_encoder: Path) -> None:
    data = [{"text": "the " * (5 if n % 4 else 38), "label": "ab"[n // 2 % 2]} for n in range(100)]
    (split,) = check(data, tiny_encoder).splits
    assert [(b.least, b.most, b.rows) for b in split.histogram] == [
        (0, 8, 75),
        (9, 16, 0),
        (17, 32, 0),
        (33, 64, 25),
    ]
    assert [(cut.limit, cut.rows) for cut in split.cuts] == [(32, 25), (64, 0), (128, 0)]
    assert split.lengths["keeps_99"] == 40


def test_windows_do_not_hide_how_long_a_text_is(tiny_encoder: Path) -> None:
    found = check(
        [*rows(20), {"text": "the " * 150, "label": "good"}], tiny_encoder, settings={"train.on_long": "window"}
    )
    assert found.splits[0].lengths["longest"] == 152
    assert found.splits[0].truncation["examples_in_windows"] == 1


def test_duplicates_across_splits_are_named_with_their_lines(tiny_encoder: Path, tmp_path: Path) -> None:
    train, dev = rows(60), rows(60, seed=7)
    train[10] = {"text": LONG, "label": "good"}
    dev[2] = train[3]
    dev[4] = {"text": LONG.replace("bright", "dull").capitalize(), "label": "bad"}
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "dev.jsonl", dev)
    (tmp_path / "mine.toml").write_text(
        'type = "sequence-classification"\n[data]\nfiles = { train = "train.jsonl", validation = "dev.jsonl" }\n'
    )
    found = check(tmp_path / "mine.toml", tiny_encoder)
    (overlap,) = found.duplicates
    assert (overlap.split, overlap.of, overlap.exact, overlap.near, overlap.relabelled) == (
        "validation",
        "train",
        1,
        1,
        1,
    )
    assert [(pair.row, pair.like) for pair in overlap.pairs] == [
        ("dev.jsonl:3", "train.jsonl:4"),
        ("dev.jsonl:5", "train.jsonl:11"),
    ]
    assert found.problems == []
    assert found.warnings == [
        "validation: 1 of 60 rows (1.7%) stand in train too word for word, 1 nearly (1 of them with another label): "
        "scores on these are not of unseen texts"
    ]
    written = json.loads(json.dumps(found.to_json()))["duplicates"][0]
    assert written["pairs"][1]["similarity"] == pytest.approx(overlap.pairs[1].similarity)


def test_validation_that_train_has_whole_is_a_problem(tiny_encoder: Path) -> None:
    train = rows(60)
    (problem,) = check({"train": train, "validation": train[:30]}, tiny_encoder).problems
    assert problem.startswith("validation: 30 of 30 rows (100.0%) stand in train too word for word")
    assert problem.endswith("its scores would not be of unseen texts")


def test_duplicates_within_train_are_a_note(tiny_encoder: Path) -> None:
    found = check([*rows(60), *rows(3)], tiny_encoder)
    assert "train: 3 of 63 rows (4.8%) repeat an earlier row word for word" in found.notes
    assert (found.problems, found.warnings) == ([], [])


def test_same_text_with_different_labels_is_named(tiny_encoder: Path, tmp_path: Path) -> None:
    made = [*rows(60), *({"text": LONG, "label": label} for label in ("good", "good", "bad"))]
    found = check(write_jsonl(tmp_path / "train.jsonl", made), tiny_encoder)
    assert found.warnings == [
        "3 rows say the same as another and are labelled differently: train.jsonl:61 and train.jsonl:63 (good / bad)"
    ]
    assert (found.num_conflicts, found.conflicts[0].labels) == (1, ["good", "good", "bad"])


def test_long_texts_are_cut_in_the_report(tiny_encoder: Path) -> None:
    text = "the film " * 100
    found = check([*rows(20), {"text": text, "label": "good"}, {"text": text, "label": "bad"}], tiny_encoder)
    assert {len(found.conflicts[0].text), len(found.duplicates[0].pairs[0].text)} == {200}


def test_empty_rows_are_named(tiny_encoder: Path, tmp_path: Path) -> None:
    made = [*rows(20), {"text": " ", "label": "good"}, {"text": "", "label": "bad"}]
    found = check(write_jsonl(tmp_path / "train.jsonl", made), tiny_encoder)
    assert found.warnings == ["train: 2 rows have an empty text: train.jsonl:21; train.jsonl:22"]
    assert found.splits[0].num_empty == 2
    assert found.problems == []


def test_split_of_empty_rows_is_a_problem(tiny_encoder: Path) -> None:
    found = check([{"text": "", "label": "ab"[n % 2]} for n in range(20)], tiny_encoder)
    assert found.problems == ["train: every row has an empty text"]


def test_chinese_on_an_english_vocabulary_is_a_problem_with_a_way_out(tiny_encoder: Path) -> None:
    made = [{"text": f"这部电影很好看 {n} the film", "label": "ab"[n % 2]} for n in range(20)]
    found = check(made, tiny_encoder)
    (problem,) = found.problems
    assert "of the tokens are unknown to" in problem
    assert "most of them Chinese ('" in problem
    assert problem.endswith("choose an encoder that reads Chinese, such as --encoder google-bert/bert-base-chinese")
    assert found.splits[0].unknown is not None
    assert found.splits[0].unknown.share == pytest.approx(8 / 10)


def test_some_unknown_words_are_a_warning_that_names_them(tiny_encoder: Path) -> None:
    made = rows(60)
    made[3] = {"text": "zebra " * 12, "label": "good"}
    found = check(made, tiny_encoder)
    (warning,) = found.warnings
    assert warning.startswith("train: 1.7% of the tokens are unknown to ")
    assert warning.endswith("('zebra', ...)")
    assert found.problems == []


def test_vocabulary_that_spells_words_out_is_warned_of(tiny_encoder: Path, tmp_path: Path) -> None:
    """As an English vocabulary does with Russian: every letter is known, and no word."""
    folder = spelling(tmp_path / "speller")
    assert [said for said in check(rows(60), folder).warnings if "spells it out" in said] == [
        f"train: a word is 3.5 tokens on average, {folder} spells it out: choose an encoder of the texts' language"
    ]
    assert check(rows(60), tiny_encoder).warnings == []


def spelling(folder: Path) -> Path:
    """Write a body whose vocabulary has single letters alone."""
    from tests.conftest import save_tiny_bert

    save_tiny_bert(folder)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    written["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    file.write_text(json.dumps(written))
    return folder


def test_rows_sorted_by_label_are_warned_of(tiny_encoder: Path) -> None:
    made = sorted(rows(100), key=lambda row: row["label"])
    (warning,) = check(made, tiny_encoder).warnings
    assert warning.startswith("train is sorted by label (the label changes 1 times")


def test_two_spellings_of_a_label_are_warned_of(tiny_encoder: Path) -> None:
    made = rows(100)
    made[3]["label"] = f" {made[3]['label'].title()}"
    said = f"and count as different ones: '{made[3]['label']}' and '{made[3]['label'].strip().lower()}'"
    assert any(warning.endswith(said) for warning in check(made, tiny_encoder).warnings)


@pytest.mark.parametrize(
    ("labels", "metric", "warned"),
    [
        (("spam", "not_spam"), "f1", True),
        (("spam", "Non-Spam"), "f1", True),
        (("positive", "negative"), "f1", True),
        (("negative", "positive"), "f1", False),
        (("bad", "good"), "f1", False),
        (("spam", "not_spam"), "accuracy", False),
    ],
)
def test_f1_of_the_absence_is_warned_of(labels: tuple[str, str], metric: str, warned: bool, tiny_encoder: Path) -> None:
    made = [row | {"label": labels[row["label"] == "good"]} for row in rows(100)]
    found = check(made, tiny_encoder, settings={"labels": list(labels), "metrics": [metric]})
    assert any("the order of the labels is unusual" in said for said in found.warnings) == warned


def test_labels_that_are_out_of_the_order_of_their_numbers_are_told(tiny_encoder: Path) -> None:
    names = ["1 star", "10 stars", "2 stars"]
    made = [row | {"label": names[number % 3]} for number, row in enumerate(rows(99))]
    said = "the labels are not in the order of their numbers: '1 star'; '10 stars'; '2 stars'"
    assert any(note.startswith(said) for note in check(made, tiny_encoder).notes)
    ordered = check(made, tiny_encoder, settings={"labels": ["1 star", "2 stars", "10 stars"]})
    assert not any("order of their numbers" in note for note in ordered.notes)


def test_column_that_says_the_label_is_a_note_unless_the_model_reads_it(tiny_encoder: Path) -> None:
    made = [row | {"verdict": row["label"].upper()} for row in rows(100)]
    found = check(made, tiny_encoder)
    said = "train: column 'verdict' says the label in 100.0% of the rows"
    assert f"{said}; the model does not read it" in found.notes
    assert found.warnings == []
    read = check(made, tiny_encoder, settings={"columns.text": "text", "columns.text_pair": "verdict"})
    assert f"{said}, and the model reads it: is it there when you predict?" in read.warnings


def test_word_that_says_the_label_is_warned_of(tiny_encoder: Path) -> None:
    made = rows(100)
    for row in made:
        row["text"] += " tool" if row["label"] == "good" else " meal"
        row["text"] = row["text"].replace("tool" if row["label"] == "bad" else "meal", "it")
    warnings = check(made, tiny_encoder).warnings
    assert any(said.startswith("train: 'tool' in column 'text' says the label: it is in 100.0%") for said in warnings)


def test_train_with_one_label_is_a_problem(tiny_encoder: Path) -> None:
    made = [row | {"label": "good"} for row in rows(20)]
    assert check(made, tiny_encoder, settings={"labels": ["bad", "good"]}).problems == [
        "train has the label 'good' alone: there is nothing to learn"
    ]


def test_rare_absent_and_shifted_labels_are_warned_of(tiny_encoder: Path) -> None:
    train, dev = rows(120), rows(120, seed=7)
    train[5]["label"] = "odd"
    for row in dev[:90]:
        row["label"] = "good"
    found = check(
        {"train": train, "validation": dev}, tiny_encoder, settings={"labels": ["bad", "good", "odd", "none"]}
    )
    assert [said for said in found.warnings if "never shows" in said] == ["train never shows 'none'"]
    assert any(said.startswith("train has fewer than 10 of 'odd' (1): train.class_weights") for said in found.warnings)
    assert any(said.startswith("validation has other shares of labels than train: ") for said in found.warnings)


def test_numbers_are_checked_too(tiny_encoder: Path) -> None:
    made = [{"text": text, "score": n / 10 + 0.05} for n, text in enumerate(texts(100))]
    made += [{"text": made[0]["text"], "score": 10.5}]
    found = check(made, tiny_encoder, settings={"columns.label": "score"})
    assert found.task.kind == "regression"
    assert any("rank correlation" in said for said in found.warnings)
    assert found.conflicts[0].labels == ["0.05", "10.5"]


def test_sentences_of_tags_are_compared_by_their_words(tiny_encoder: Path) -> None:
    made = sentences(40)
    other = made[0] | {"tags": ["O"] * len(made[0]["tags"])}
    found = check({"train": [*made, other], "validation": [made[1]]}, tiny_encoder)
    across = next(overlap for overlap in found.duplicates if overlap.split == "validation")
    assert (across.of, across.exact) == ("train", 1)
    assert any(" ".join(made[0]["tokens"]) == conflict.text for conflict in found.conflicts)


def test_questions_about_one_context_are_no_duplicates_but_share_it(tiny_encoder: Path) -> None:
    context = f"Ada Long saw the film. {LONG}."
    asked = [{"question": q, "context": context, "answers": ["Ada Long"]} for q in ("who saw it?", "what was grey?")]
    found = check({"train": asked[:1], "validation": asked[1:]}, tiny_encoder, settings={"options.stride": 8})
    assert found.duplicates == []
    assert found.warnings == [
        "validation: 1 of 1 rows (100.0%) are about a context that train has too: scores on them are too good"
    ]
    assert check(questions(6), tiny_encoder, settings={"options.stride": 8}).duplicates == []


def test_encoder_that_cannot_be_had_leaves_the_rest(tmp_path: Path) -> None:
    made = [*rows(40), *rows(2)]
    found = bertkit.check(made, encoder=str(tmp_path / "nowhere"))
    assert found.duplicates[0].exact == 2
    assert (found.splits[0].unknown, found.splits[0].histogram) == (None, [])
