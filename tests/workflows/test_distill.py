"""Distilling: every task type, students of every kind, what is refused, and that a run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, ModelError, RunError
from bertkit.run import find
from bertkit.workflows.distill import Distilled
from bertkit.workflows.verify import verify
from tests.conftest import (
    LEARNING,
    questions,
    reviews,
    save_tiny_bert,
    sentences,
    write_conll,
    write_jsonl,
    write_squad,
)
from tests.several import together
from tests.workflows.training import Listener, lines, record, same_weights, weights

QUICK = {"train.epochs": 1, "train.batch_size": 16, "train.max_length": 64, "eval.resamples": 0}


def distil(task: Any = None, *, settings: dict[str, Any] | None = None, **options: Any) -> Distilled:
    """Distil on a few rows, in float32, on one thread."""
    given: dict[str, Any] = {"precision": "float32", "threads": 1, **options}
    if "resume" not in given:
        given["settings"] = QUICK | (settings or {})
    return bertkit.distill(task, **given)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "reviews.jsonl", reviews(80))


def data_of(kind: str, folder: Path) -> Path:
    if kind == "tagging":
        return write_conll(folder / "sentences.conll", sentences(60))
    if kind == "questions":
        return write_squad(folder / "questions.json", questions(60, unanswered=4), impossible=True)
    rows: list[dict[str, Any]] = [dict(row) for row in reviews(80)]
    if kind == "regression":
        rows = [{"text": row["text"], "label": len(row["text"]) / 40} for row in rows]
    if kind == "multi":
        rows = [
            {"text": row["text"], "label": [row["label"], *(["tool"] if "tool" in row["text"] else [])]} for row in rows
        ]
    if kind == "pairs":
        rows = [{"text": row["text"], "text_pair": "the film", "label": row["label"]} for row in rows]
    return write_jsonl(folder / "rows.jsonl", rows)


@pytest.mark.parametrize(
    "kind",
    [
        "tagging",
        "questions",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pairs", "regression", "multi")),
    ],
)
def test_every_task_type_learns_from_its_teacher(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of(kind, tmp_path)
    settings = QUICK | ({"kind": "multi"} if kind == "multi" else {})
    about: dict[str, Any] = {"runs": tmp_path, "precision": "float32", "threads": 1}
    teacher = bertkit.finetune(data, encoder=tiny_encoder, settings=settings, **about).run
    own = {"kind": "multi"} if kind == "multi" else {}
    result = distil(data, teacher=teacher, student_layers=1, runs=tmp_path, settings=own | {"distill.alpha": 1.0})
    assert [line.name for line in result.contenders] == ["teacher", "distilled"]
    assert [line.layers for line in result.contenders] == [2, 1]
    assert result.contenders[0].parameters > result.contenders[1].parameters
    assert json.loads((teacher / "scores.json").read_text())["splits"]["validation"][result.metric] == pytest.approx(
        result.contenders[0].scores["validation"][result.metric], abs=1e-6
    )
    assert record(result.run)["comparison"][1]["name"] == "distilled"


@pytest.mark.slow
def test_student_that_sees_only_soft_labels_learns_what_the_teacher_knows(
    finished_run: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(160))
    wrong = [row | {"label": "positive" if place % 4 < 2 else "negative"} for place, row in enumerate(reviews(160))]
    train = write_jsonl(tmp_path / "wrong.jsonl", wrong)
    settings = LEARNING | {"train.epochs": 6, "eval.resamples": 0, "distill.alpha": 1.0}
    result = distil(
        _task_file(tmp_path, train, data), teacher=finished_run, encoder=tiny_encoder, runs=tmp_path, settings=settings
    )
    assert result.student.scores["validation"]["accuracy"] > 0.9


def _task_file(folder: Path, train: Path, validation: Path) -> Path:
    file = folder / "task.toml"
    file.write_text(
        'type = "sequence-classification"\nlabels = ["negative", "positive"]\n'
        f'[data]\nfiles = {{ train = "{train.name}", validation = "{validation.name}" }}\n'
        '[columns]\ntext = "text"\nlabel = "label"\n',
        encoding="utf-8",
    )
    return file


@pytest.mark.slow
def test_run_says_what_it_learned_from_and_compares(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    result = distil(rows, teacher=finished_run, encoder="teacher:1", runs=tmp_path, compare=True)
    found = record(result.run)
    assert found["command"] == "distill"
    assert found["teacher"]["name"] == str(finished_run.resolve())
    assert found["encoder"] == "tiny-bert-layers-1"
    assert found["config"]["distill"]["alpha"] == 0.9
    assert [line["name"] for line in found["comparison"]] == ["teacher", "distilled", "alone"]
    assert all(line["examples_per_second"] > 0 and line["megabytes"] > 0 for line in found["comparison"])
    assert "| distilled |" in (result.run / "README.md").read_text(encoding="utf-8")
    assert result.to_json()["comparison"] == json.loads(json.dumps(found["comparison"]))
    assert not same_weights(result.run, Path(result.contenders[2].model))
    # The one that learned alone finished last, and is not the newest all the same.
    assert record(Path(result.contenders[2].model))["beside"] == result.run.name
    assert find(None, tmp_path).folder == result.run
    again = distil(rows, teacher=finished_run, encoder="teacher:1", out=result.run, compare=True)
    assert again.student.already
    assert again.contenders == result.contenders


@pytest.mark.slow
def test_saved_student_is_a_plain_model(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    student = save_tiny_bert(tmp_path / "narrow", hidden_size=8)
    settings = {"distill.hidden": 1.0, "distill.attention": 1.0, "distill.general_epochs": 1}
    result = distil(rows, teacher=finished_run, encoder=student, runs=tmp_path, settings=settings)
    assert not [name for name in weights(result.run) if "distillation" in name]
    assert AutoModelForSequenceClassification.from_pretrained(result.run / "model").config.hidden_size == 8
    assert record(result.run)["layers"]["form"] == "padded"
    assert "attention" in record(result.run)["layers"]["reason"]
    steps = [event for event in lines(result.run / "events.jsonl") if event["event"] == "step"]
    assert len(steps) == 2 * 5


@pytest.mark.slow
def test_general_phase_looks_at_no_label(finished_run: Path, tmp_path: Path) -> None:
    swapped = [row | {"label": {"positive": "negative", "negative": "positive"}[row["label"]]} for row in reviews(80)]
    losses = []
    for name, given in (("right", reviews(80)), ("wrong", swapped)):
        folder = tmp_path / name
        folder.mkdir()
        data = write_jsonl(folder / "reviews.jsonl", given)
        settings = {"distill.hidden": 1.0, "distill.general_epochs": 1, "train.weight_decay": 0.0}
        run = distil(data, teacher=finished_run, student_layers=1, runs=folder, settings=settings).run
        losses.append([event["loss"] for event in lines(run / "events.jsonl") if event["event"] == "step"])
    assert losses[0][:5] == losses[1][:5]
    assert losses[0][5:] != losses[1][5:]


@pytest.mark.slow
def test_interrupted_distillation_goes_on_bit_for_bit(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    settings = {"distill.hidden": 1.0, "distill.general_epochs": 1, "train.epochs": 1}
    given: dict[str, Any] = {"teacher": finished_run, "encoder": save_tiny_bert(tmp_path / "s", hidden_size=8)}
    whole = distil(rows, **given, out=tmp_path / "whole", settings=settings)
    listener = Listener(stop_at=3)
    cut = distil(
        rows, **given, out=tmp_path / "cut", settings=settings, listen=listener, should_stop=listener.should_stop
    )
    assert cut.student.status == "interrupted"
    assert cut.interrupted == tmp_path / "cut"
    with pytest.raises(RunError, match=r"bertkit distill --resume"):
        bertkit.finetune(resume=tmp_path / "cut")
    done = distil(resume=tmp_path / "cut")
    assert same_weights(whole.run, done.run)
    assert len(done.contenders) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["pairs", *(pytest.param(k, marks=pytest.mark.slow) for k in ("tagging", "questions"))]
)
def test_answers_are_the_same_kept_and_anew(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of(kind, tmp_path)
    about: dict[str, Any] = {"runs": tmp_path, "precision": "float32", "threads": 1}
    teacher = bertkit.finetune(data, encoder=tiny_encoder, settings=QUICK, **about).run
    losses = []
    for kept in (1024, 0):
        listener = Listener()
        settings = {"distill.kept_mb": kept}
        run = distil(data, teacher=teacher, student_layers=1, runs=tmp_path, settings=settings, listen=listener).run
        losses.append([event["loss"] for event in lines(run / "events.jsonl") if event["event"] == "step"])
        assert any("answers anew" in note for note in listener.notes) == (not kept)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_without_a_say_of_the_teacher_it_is_fine_tuning(
    finished_run: Path, rows: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    plain = bertkit.finetune(
        rows, encoder=tiny_encoder, runs=tmp_path, settings=QUICK, precision="float32", threads=1
    ).run
    settings = {"distill.alpha": 0.0}
    result = distil(rows, teacher=finished_run, encoder=tiny_encoder, runs=tmp_path, settings=settings)
    assert same_weights(plain, result.run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reviews", pytest.param("tagging", marks=pytest.mark.slow)])
def test_teacher_of_another_tokenizer_is_matched_by_example_and_word(
    kind: str, finished_run: Path, tagging_run: Path, tmp_path: Path
) -> None:
    tagging = kind == "tagging"
    teacher = tagging_run if tagging else finished_run
    data = write_conll(tmp_path / "sentences.conll", sentences(160)) if tagging else data_of(kind, tmp_path)
    student = _other_tokenizer(tmp_path / "other")
    settings = LEARNING | {"train.epochs": 8 if tagging else 4, "eval.resamples": 0, "distill.alpha": 1.0}
    result = distil(data, teacher=teacher, encoder=student, runs=tmp_path, settings=settings)
    metric = result.metric
    assert result.student.scores["validation"][metric] > 0.6
    with pytest.raises(ModelError, match=r"have different tokenizers, and hidden states and attention"):
        distil(data, teacher=teacher, encoder=student, runs=tmp_path, settings={"distill.hidden": 1.0})


def _other_tokenizer(folder: Path) -> Path:
    """Write the tiny encoder with its vocabulary in another order."""
    save_tiny_bert(folder)
    file = folder / "tokenizer.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = table["model"]["vocab"]
    words = [word for word, number in vocabulary.items() if number >= 5]
    vocabulary |= {word: vocabulary[other] for word, other in zip(words, reversed([*words]), strict=True)}
    table["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    file.write_text(json.dumps(table), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_labels_in_another_order_are_matched_by_name(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    settings = {"labels": ["positive", "negative"], "train.learning_rate": 1e-9}
    result = distil(rows, teacher=finished_run, encoder="teacher:0,1", runs=tmp_path, settings=settings)
    teacher, student = (line.scores["validation"]["accuracy"] for line in result.contenders)
    assert teacher == student > 0.9
    steps = [event["loss"] for event in lines(result.run / "events.jsonl") if event["event"] == "step"]
    assert max(steps) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"distill needs one student"),
        ({"student_layers": 2, "encoder": "minilm"}, r"distill needs one student"),
        ({"student_layers": 3}, r"--student-layers is 3, and the teacher has 2 layers"),
        ({"encoder": "teacher:a"}, r"must name layers of the teacher, from 0: teacher:0,5"),
        ({"encoder": "teacher:0,7"}, r"must name layers of .* in rising order, 0 to 1"),
        ({"student_layers": 1, "teacher": ""}, r"distill needs a teacher: --teacher RUN"),
        (
            {"student_layers": 1, "settings": {"labels": ["positive", "negative", "mixed"]}},
            r"has the labels negative, positive, and 'reviews' has positive, negative, mixed",
        ),
        (
            {
                "student_layers": 1,
                "settings": {"train.patience": 2, "distill.general_epochs": 1, "distill.hidden": 1.0},
            },
            r"train.patience counts evaluations.*Set one of the two to 0",
        ),
        (
            {"student_layers": 1, "settings": {"distill.matching": "general", "distill.hidden": 1.0}},
            r"distill.matching is 'general', and must be always where distill.general_epochs is 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: dict[str, Any], message: str, finished_run: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        distil(rows, **{"teacher": finished_run, "runs": tmp_path / "runs", **options})
    assert not list((tmp_path / "runs").glob("*"))


def test_teacher_of_another_type_is_refused(tagging_run: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is for token-tagging, and 'reviews' is sequence-classification single"):
        distil(rows, teacher=tagging_run, encoder=save_tiny_bert(tmp_path / "s"), runs=tmp_path / "runs")


def test_teacher_that_is_not_there_is_refused(tmp_path: Path, rows: Path) -> None:
    with pytest.raises(RunError, match=r"no run .*gone"):
        distil(rows, teacher=tmp_path / "gone", student_layers=1, runs=tmp_path / "runs")


def test_teacher_that_changed_is_refused_on_resuming(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    import shutil

    teacher = tmp_path / "teacher"
    shutil.copytree(finished_run, teacher)
    listener = Listener(stop_at=2)
    given: dict[str, Any] = {"teacher": teacher, "student_layers": 1, "out": tmp_path / "run"}
    distil(rows, **given, listen=listener, should_stop=listener.should_stop)
    config = teacher / "model" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"was made from something else|learned from other files"):
        distil(resume=tmp_path / "run")


@pytest.mark.slow
def test_resuming_takes_what_was_asked_for_and_no_other_student(
    finished_run: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    distil(rows, teacher=finished_run, student_layers=1, out=out)
    monkeypatch.chdir(finished_run.parent)
    assert distil(resume=out, teacher=finished_run.name, student_layers=1, threads=0, precision="auto").student.already
    with pytest.raises(RunError, match=r"was trained with encoder teacher:0; --resume got encoder of 2 layers"):
        distil(resume=out, student_layers=2, threads=0, precision="auto")


def test_finetune_refuses_settings_of_a_distillation(rows: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill.alpha changes nothing about finetune"):
        bertkit.finetune(rows, encoder=tiny_encoder, runs=tmp_path, settings={"distill.alpha": 0.5})


# Augmentation -----------------------------------------------------------------------------------------------------


def masked_lm(folder: Path) -> Path:
    """Write the tiny encoder with a masked-LM head, its weights at random."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    save_tiny_bert(folder)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).mask_token_id == 4
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "tagging", "questions"])
def test_augmented_examples_keep_what_they_are_labelled_with(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    data = data_of(kind, tmp_path)
    about: dict[str, Any] = {"runs": tmp_path, "precision": "float32", "threads": 1}
    teacher = bertkit.finetune(data, encoder=tiny_encoder, settings=QUICK, **about).run
    settings = {
        "distill.augment": 2,
        "distill.augment_encoder": str(masked_lm(tmp_path / "lm")),
        "distill.augment_share": 0.5,
    }
    result = distil(data, teacher=teacher, student_layers=1, runs=tmp_path, settings=settings)
    copies = lines(result.run / "augmented.jsonl")
    assert len(copies) == 2 * record(result.run)["num_examples"]["train"]
    if kind == "tagging":
        assert all(len(row["tokens"]) == len(row["tags"]) for row in copies)
    if kind == "questions":
        for row in copies:
            for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
                assert row["context"].startswith(text, start)
    if kind == "pairs":
        texts = {row["text"] for row in lines(data)}
        assert sum(row["text"] not in texts for row in copies) > len(copies) / 2
    steps = [event for event in lines(result.run / "events.jsonl") if event["event"] == "start"]
    assert steps[0]["num_examples"] == len(copies) * 3 // 2


@pytest.mark.slow
def test_augmented_run_is_verified_also_with_odd_ends_of_lines_in_its_texts(finished_run: Path, tmp_path: Path) -> None:
    data = [{**row, "text": f"{row['text']}\u2028and\u0085more"} for row in reviews(40)]
    file = write_jsonl(tmp_path / "odd.jsonl", data)
    settings = {"distill.augment": 1, "distill.augment_encoder": str(masked_lm(tmp_path / "lm"))}
    result = distil(file, teacher=finished_run, student_layers=1, runs=tmp_path, settings=settings)
    copies = result.run / "augmented.jsonl"
    assert copies.read_text(encoding="utf-8").count("\n") == record(result.run)["num_examples"]["train"]
    assert verify(result.run).same
    copies.unlink()
    with pytest.raises(RunError, match=r"augmented\.jsonl is missing, so what .* learned from is not known"):
        verify(result.run)


def test_augmentation_without_a_masked_lm_head_is_refused(
    finished_run: Path, rows: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = {"distill.augment": 1, "distill.augment_encoder": str(tiny_encoder)}
    with pytest.raises(ModelError, match=r"has no masked-LM head .*so it proposes no words"):
        distil(rows, teacher=finished_run, student_layers=1, runs=tmp_path / "runs", settings=settings)
    assert not list((tmp_path / "runs").glob("*"))


# Several processes ------------------------------------------------------------------------------------------------


def _distilled(data: Path, teacher: Path, student: Path, out: Path, settings: dict[str, Any]) -> Any:
    result = distil(data, teacher=teacher, encoder=student, out=out, settings=settings, device="cpu")
    return [line.scores for line in result.contenders]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"distill.augment": 1}, {"distill.hidden": 1.0, "distill.general_epochs": 1}])
def test_two_processes_learn_what_one_learns(settings: dict[str, Any], rows: Path, tmp_path: Path) -> None:
    dry = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    body = save_tiny_bert(tmp_path / "tiny", **dry)
    about: dict[str, Any] = {"runs": tmp_path, "precision": "float32", "threads": 1}
    teacher = bertkit.finetune(rows, encoder=body, settings=QUICK, **about).run
    student = save_tiny_bert(tmp_path / "narrow", hidden_size=8, **dry)
    settings = settings | {"distill.augment_encoder": str(masked_lm(tmp_path / "lm"))}
    losses = []
    for number in (1, 2):
        out = tmp_path / f"run-{number}"
        found = together(number, _distilled, rows, teacher, student, out, settings)
        assert len(found[0]) == 2, found
        losses.append([event["loss"] for event in lines(out / "events.jsonl") if event["event"] == "step"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_report_of_a_student_has_its_teacher_at_the_top(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    result = distil(rows, teacher=finished_run, student_layers=1, runs=tmp_path)
    bertkit.evaluate(result.run, settings={"eval.resamples": 0})
    page = (result.run / "report.html").read_text(encoding="utf-8")
    assert "2 layers" in page
    assert "1 layer," in page


@pytest.mark.slow
def test_head_of_our_own_learns_from_answers_and_not_from_the_inside(
    finished_run: Path, rows: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = {"train.head": "mlp", "train.freeze": "encoder"}
    given: dict[str, Any] = {"teacher": finished_run, "encoder": tiny_encoder}
    result = distil(rows, **given, runs=tmp_path / "runs", settings=settings)
    assert (result.run / "model" / "head.safetensors").is_file()
    with pytest.raises(ConfigError, match=r"and the student has one of bertkit's"):
        distil(rows, **given, runs=tmp_path / "none", settings=settings | {"distill.hidden": 1.0})
    with pytest.raises(ConfigError, match=r"cut out of its teacher has the teacher's kind of head"):
        distil(rows, teacher=finished_run, student_layers=1, runs=tmp_path / "none", settings=settings)
    with pytest.raises(ConfigError, match=r"and the teacher has one of bertkit's"):
        distil(
            rows,
            teacher=result.run,
            encoder="teacher:0",
            runs=tmp_path / "none",
            settings={"distill.hidden": 1.0},
        )


@pytest.mark.slow
def test_command_shows_a_line_for_each_model(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bertkit.cli import app

    given = [
        "distill",
        str(rows),
        "--teacher",
        str(finished_run),
        "--student-layers",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    given += ["--precision", "float32", "--threads", "1"]
    for name, value in QUICK.items():
        given += ["--set", f"{name}={value}"]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0, shown.output
    assert "examples/s" in shown.stdout
    assert "the student keeps" in shown.stderr
    again = CliRunner().invoke(app, [*given, "--json"])
    assert [line["name"] for line in json.loads(again.stdout)["comparison"]] == ["teacher", "distilled"]


def test_command_wants_a_task_or_a_run_to_resume() -> None:
    from typer.testing import CliRunner

    from bertkit.cli import app

    shown = CliRunner().invoke(app, ["distill", "--teacher", "x"])
    assert shown.exit_code == 2
    assert "give a TASK" in shown.output
