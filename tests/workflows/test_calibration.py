"""``eval.calibrate``: what is fitted, on which rows, how it is kept, and that no reported row had a say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertkit
from bertkit.adapters.base import Feature
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, DataError
from bertkit.task import DataSource, Task
from bertkit.workflows.training import Finetuned
from tests.conftest import LEARNING, reviews, write_conll, write_jsonl
from tests.conftest import sentences as tagged
from tests.workflows.training import Listener, lines, record, train

CALIBRATE = LEARNING | {"train.epochs": 4, "eval.calibrate": True}


def noisy(number: int, *, seed: int = 0, every: int = 5) -> list[dict[str, str]]:
    """Return reviews of which each so many-th has the wrong label, each with a text of its own."""
    rows = reviews(number, seed=seed)
    for index in range(0, number, every):
        rows[index]["label"] = "positive" if rows[index]["label"] == "negative" else "negative"
    return [row | {"id": f"{seed}-{index}"} for index, row in enumerate(rows)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, number) in enumerate({"train": 120, "validation": 80, "test": 40}.items()):
        write_jsonl(folder / f"{name}.jsonl", noisy(number, seed=seed))
    files = ", ".join(f'{name} = "{name}.jsonl"' for name in ("train", "validation", "test"))
    (folder / "task.toml").write_text(f'type = "sequence-classification"\n[data]\nfiles = {{ {files} }}\n')
    return folder


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def calibrated(
    data: Path, tiny_encoder: Path, listener: Listener, tmp_path_factory: pytest.TempPathFactory
) -> Finetuned:
    """Return a run that was calibrated; tests must not change it."""
    folder = tmp_path_factory.mktemp("calibrated")
    return train(data / "task.toml", encoder=tiny_encoder, runs=folder, settings=CALIBRATE, listen=listener)


def evaluate(run: Any, **options: Any) -> Any:
    return bertkit.evaluate(run, **{"precision": "float32", "threads": 1, "report": "none", **options})


# Rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_half_of_validation_is_fitted_on_and_the_other_is_scored(calibrated: Finetuned, data: Path) -> None:
    fitted = record(calibrated.run)["calibration_rows"]
    whole = [row["id"] for row in lines(data / "validation.jsonl")]
    scored = [row["id"] for row in lines(calibrated.run / "predictions/validation.jsonl")]
    assert len(fitted) == 40
    assert scored == [name for index, name in enumerate(whole) if index not in set(fitted)]
    assert len(lines(calibrated.run / "predictions/test.jsonl")) == 40
    assert record(calibrated.run)["num_examples"] == {"train": 120, "validation": 40, "test": 40}


def test_rows_that_are_fitted_on_are_half_of_each_label(calibrated: Finetuned, data: Path) -> None:
    rows = lines(data / "validation.jsonl")
    fitted = [rows[index]["label"] for index in record(calibrated.run)["calibration_rows"]]
    assert abs(fitted.count("positive") - 20) <= 1


@pytest.mark.slow
def test_reported_rows_decide_nothing(data: Path, tiny_encoder: Path, tmp_path: Path, calibrated: Finetuned) -> None:
    """The same training with other texts in the reported half has the same temperature and threshold."""
    for name in ("train", "test"):
        shutil.copy(data / f"{name}.jsonl", tmp_path)
    shutil.copy(data / "task.toml", tmp_path)
    rows, fitted = lines(data / "validation.jsonl"), set(record(calibrated.run)["calibration_rows"])
    for index, row in enumerate(rows):
        if index not in fitted:
            row["text"] = "it was the tool"
    write_jsonl(tmp_path / "validation.jsonl", rows)
    # Of the last step, as the best one is chosen by the reported half, calibrated or not.
    steps = {"train.epochs": 1, "train.eval_steps": 1000}
    found = [
        train(task, encoder=tiny_encoder, runs=tmp_path / "runs", settings=CALIBRATE | steps)
        for task in (data / "task.toml", tmp_path / "task.toml")
    ]
    states = [json.loads((one.run / "model/bertkit.json").read_text())["state"] for one in found]
    assert found[0].scores["validation"] != found[1].scores["validation"]
    assert states[0] == states[1]
    assert states[0]["temperature"] != 1


def test_rows_are_the_same_for_every_seed(
    data: Path, tiny_encoder: Path, tmp_path: Path, calibrated: Finetuned
) -> None:
    settings = CALIBRATE | {"train.max_steps": 1}
    other = train(data / "task.toml", encoder=tiny_encoder, runs=tmp_path, settings=settings, seed=7)
    assert record(other.run)["calibration_rows"] == record(calibrated.run)["calibration_rows"]


@pytest.mark.slow
def test_validation_that_was_cut_off_train_is_halved(tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "reviews.jsonl", noisy(400))
    settings = CALIBRATE | {"train.max_steps": 5}
    made = train(file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=settings)
    kept = record(made.run)
    held, fitted = kept["held_out_rows"], kept["calibration_rows"]
    assert (len(held), len(fitted), kept["num_examples"]["train"]) == (20, 20, 360)
    assert not set(held) & set(fitted)
    names = [row["id"] for row in lines(made.run / "predictions/validation.jsonl")]
    assert names == [f"0-{index}" for index in held]
    assert evaluate(made.run).scores["accuracy"] == made.scores["validation"]["accuracy"]


# What is kept ----------------------------------------------------------------------------------------------------


def test_temperature_is_told_and_stored(calibrated: Finetuned, listener: Listener) -> None:
    state = json.loads((calibrated.run / "model/bertkit.json").read_text())["state"]
    found = json.loads((calibrated.run / "scores.json").read_text())["details"]
    assert 0.05 < state["temperature"] < 20
    for split in ("validation", "test"):
        assert found[split]["temperature"] == state["temperature"]
        assert 0 <= found[split]["calibration_error"] <= 1
    assert any(note.startswith("eval.calibrate: 40 of 80 validation rows are kept for") for note in listener.notes)
    assert any(note.startswith(f"temperature {state['temperature']:.4f}") for note in listener.notes)
    errors = found["validation"]["calibration_error_before"], found["validation"]["calibration_error"]
    told = f"expected calibration error {errors[0]:.4f} before and {errors[1]:.4f} after, on the 40 rows of validation"
    assert any(note.startswith(told) for note in listener.notes)
    assert "40 rows of validation were kept for the calibration" in (calibrated.run / "README.md").read_text()


def test_saved_model_opens_in_plain_transformers_and_bertkit_divides_its_logits(calibrated: Finetuned) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = calibrated.run / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    temperature = json.loads((folder / "bertkit.json").read_text())["state"]["temperature"]
    texts = ["the film was very warm", "a dull meal", "it was"]
    with torch.no_grad():
        logits = model(**AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")).logits
    expected = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    for where in (calibrated.run, folder):
        rows = bertkit.predict(texts, run=where, threads=1, precision="float32")
        found = np.array([list(row["probabilities"].values()) for row in rows])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_eval_scores_the_other_half_again(calibrated: Finetuned, data: Path) -> None:
    listener = Listener()
    found = evaluate(calibrated.run, listen=listener, settings={"eval.resamples": 0})
    assert (found.num_examples, found.scores) == (40, calibrated.scores["validation"])
    assert found.details["temperature"] != 1
    assert "validation without the 40 rows that were kept for the calibration" in listener.notes


def test_rows_that_were_fitted_on_are_known_again_in_a_file_elsewhere(
    calibrated: Finetuned, data: Path, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copy(data / "validation.jsonl", tmp_path / "dev.jsonl"))
    listener = Listener()
    assert evaluate(calibrated.run, data=elsewhere, listen=listener).num_examples == 40
    assert "dev without the 40 rows that were kept for the calibration" in listener.notes
    assert evaluate(calibrated.run, data=data / "test.jsonl").num_examples == 40
    assert evaluate(calibrated.run, data=data / "train.jsonl").num_examples == 120


def test_rows_that_may_have_been_fitted_on_are_warned_of(calibrated: Finetuned, data: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "validation.jsonl", lines(data / "validation.jsonl")[::-1])
    for where, place in ((calibrated.run, tmp_path), (calibrated.run / "model", data)):
        listener = Listener()
        found = evaluate(where, data=place / "validation.jsonl", listen=listener)
        assert found.num_examples == 80
        assert any("was calibrated on half of its validation rows" in note for note in listener.notes)


def test_validation_that_has_changed_is_refused(calibrated: Finetuned, data: Path) -> None:
    before = (data / "validation.jsonl").read_text()
    write_jsonl(data / "validation.jsonl", noisy(80, seed=99))
    try:
        with pytest.raises(DataError, match=r"validation\.jsonl is not what it was when .* was calibrated on half"):
            evaluate(calibrated.run)
    finally:
        (data / "validation.jsonl").write_text(before)


def test_nothing_changes_without_it(data: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    plain = train(data / "task.toml", encoder=tiny_encoder, runs=tmp_path, settings={"train.max_steps": 1})
    assert record(plain.run)["calibration_rows"] == []
    assert len(lines(plain.run / "predictions/validation.jsonl")) == 80
    assert json.loads((plain.run / "model/bertkit.json").read_text())["state"] == {}


# Several labels, and the adapter ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_threshold_of_several_labels_is_tuned_and_kept(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [
        {"text": row["text"], "label": [name for name in ("warm", "grey", "tool") if name in row["text"]]}
        for row in reviews(300)
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)  # type: ignore[arg-type]
    settings = CALIBRATE | {"train.epochs": 1, "kind": "multi", "metrics": ["f1_micro"]}
    made = train(file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=settings)
    state = json.loads((made.run / "model/bertkit.json").read_text())["state"]
    assert state["threshold"] < 0.5  # the labels are rare, and after one epoch none is likely
    assert evaluate(made.run).scores["f1_micro"] == made.scores["validation"]["f1_micro"]
    found = bertkit.predict(["the film was warm"], run=made.run, threads=1, precision="float32")[0]
    assert found["labels"] == [name for name, p in found["probabilities"].items() if p >= state["threshold"]]


def adapter(kind: str = "single") -> SequenceClassification:
    """Return an adapter of two labels."""
    metrics = ("f1_micro",) if kind == "multi" else ("f1",)
    columns = {"text": "text", "label": "label"}
    facts: dict[str, Any] = {"kind": kind, "labels": ("no", "yes"), "metrics": metrics, "columns": columns}
    return SequenceClassification(
        Task(name="x", type="sequence-classification", data=DataSource(), **facts), TrainConfig(), ("no", "yes")
    )


def decoded(made: SequenceClassification, *logits: tuple[float, float]) -> list[dict[str, Any]]:
    features = [Feature(example=index, input_ids=[0]) for index in range(len(logits))]
    return made.decode([np.array(row) for row in logits], features, [{}] * len(logits))


def test_threshold_decides_between_two_labels() -> None:
    made = adapter()
    made.from_state({"threshold": 0.2, "temperature": 2.0})
    assert made.state() == {"threshold": 0.2, "temperature": 2.0}
    near, far = decoded(made, (2.0, 0.0), (4.0, 0.0))
    assert near["probabilities"]["yes"] == pytest.approx(1 / (1 + np.e))  # 0.27
    assert (near["label"], near["score"]) == ("yes", near["probabilities"]["yes"])
    assert far["label"] == "no"  # 0.12


def test_temperature_divides_the_logits_of_each_label() -> None:
    made = adapter("multi")
    made.from_state({"threshold": 0.6, "temperature": 4.0})
    (found,) = decoded(made, (-4.0, 2.0))
    assert found["probabilities"] == {"no": pytest.approx(1 / (1 + np.e)), "yes": pytest.approx(1 / (1 + np.exp(-0.5)))}
    assert found["labels"] == ["yes"]


def test_calibration_of_rows_that_are_all_right_changes_nothing() -> None:
    made = adapter()
    rows = [{"text": "t", "label": name} for name in ("no", "yes")]
    predictions = [
        {
            "label": name,
            "score": 0.9,
            "probabilities": {"no": 0.1 + 0.8 * (name == "no"), "yes": 0.1 + 0.8 * (name == "yes")},
        }
        for name in ("no", "yes")
    ]
    said = made.tune(predictions, rows)
    assert said == "not calibrated: all of the 2 validation rows that were kept for it are right, and so few say little"
    assert made.state() == {}
    assert made.details(predictions, rows) == {}


def test_temperature_at_the_end_of_its_range_is_told() -> None:
    made = adapter()
    rows = [{"text": "t", "label": name} for name in ("no", "yes")]
    sure = {"label": "no", "score": 0.9, "probabilities": {"no": 0.9, "yes": 0.1}}
    assert "(the highest that is tried: on these rows the probabilities say" in made.tune([sure, sure], rows)


# Refusals --------------------------------------------------------------------------------------------------------


def test_number_has_nothing_to_calibrate(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": index / 7} for index, row in enumerate(reviews(60))]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"eval\.calibrate is true, and a number has no probabilities to calibrate"):
        train(file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=CALIBRATE)


def test_tagging_has_nothing_to_calibrate(tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_conll(tmp_path / "rows.conll", tagged(60))
    with pytest.raises(ConfigError, match=r"eval\.calibrate is true, and token-tagging has nothing to calibrate"):
        train(file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=CALIBRATE)


def test_few_rows_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "reviews.jsonl", noisy(100))
    with pytest.raises(
        DataError,
        match=r"has 10 rows of 'validation', and eval\.calibrate fits on half of it: half of so few says nothing\. "
        r"Give at least 20",
    ):
        train(file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=CALIBRATE)
    assert not (tmp_path / "runs").exists()


def test_trained_model_is_not_calibrated_by_eval(calibrated: Finetuned) -> None:
    with pytest.raises(
        ConfigError, match=r"--set eval\.calibrate changes nothing about a trained model: 'bertkit finetune'"
    ):
        evaluate(calibrated.run, settings={"eval.calibrate": True})
