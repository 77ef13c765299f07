"""``bertkit pretrain``: it learns, goes on bit for bit, and what it saves opens anywhere and fine-tunes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import bertkit
from bertkit import dropout, unpad
from bertkit.data import corpus as corpus_data
from bertkit.errors import BertkitError, ConfigError, DataError, ModelError, RunError
from bertkit.workflows import pretrain as pretrain_workflow
from bertkit.workflows import runs as runs_workflow
from bertkit.workflows.training import Finetuned
from bertkit.workflows.verify import verify
from tests import families
from tests.conftest import BAD, GOOD, OTHER, reviews, save_tiny_bert, write_jsonl
from tests.several import together
from tests.workflows.training import Listener, lines, record, same_weights, weights

SETTINGS: dict[str, Any] = {
    "train.learning_rate": 5e-3,
    "train.max_steps": 20,
    "train.batch_size": 16,
    "train.max_length": 32,
    "train.eval_steps": 10,
    "train.micro_batch_tokens": 128,
    "eval.resamples": 0,
    "pretrain.layout": "blocks",
    "pretrain.sentences": "lines",
    "pretrain.valid_share": 0.2,
    "pretrain.valid_rows": 20,
}
"""Four parts a step, and six steps an epoch or so."""
CLOCKS = {"seconds", "tokens_per_second", "imbalance"}


def write_corpus(file: Path, documents: int = 40, *, seed: int = 0) -> Path:
    """Write documents of sentences whose last word can be guessed from the first."""
    rng = random.Random(seed)
    blocks = []
    for _ in range(documents):
        kind = rng.choice([GOOD, BAD])
        sentences = [[kind[0], *rng.choices(OTHER[:4], k=rng.randint(2, 6)), kind[1]] for _ in range(rng.randint(4, 9))]
        blocks.append("\n".join(" ".join(words) for words in sentences))
    file.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


def pretrain(corpus: Any = (), *, settings: dict[str, Any] | None = None, **options: Any) -> Finetuned:
    given: dict[str, Any] = {"precision": "float32", "threads": 1, **options}
    if "resume" not in given:
        given["settings"] = SETTINGS | (settings or {})
    return bertkit.pretrain(corpus, **given)


@pytest.fixture(scope="module")
def finished(corpus: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """Return a run with pairs; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    return pretrain(corpus, encoder=tiny_encoder, objective="mlm+nsp", runs=folder)


def without_clocks(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in CLOCKS} for event in lines(run / "events.jsonl")]


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [event for event in lines(run / "events.jsonl") if event["event"] == "step"]


# What it learns ---------------------------------------------------------------------------------------------------


def test_losses_go_down_and_are_reported(finished: Finetuned) -> None:
    steps = steps_of(finished.run)
    assert len(steps) == 20
    for step in steps:
        assert set(step["parts"]) == {"mlm", "nsp"}
        assert sum(step["parts"].values()) == pytest.approx(step["loss"], rel=1e-6)
    first, last = ([step["parts"]["mlm"] for step in some] for some in (steps[:4], steps[-4:]))
    assert sum(last) < 0.9 * sum(first)
    scores = [event["scores"] for event in lines(finished.run / "events.jsonl") if event["event"] == "scores"]
    assert [set(each) for each in scores] == [
        {"mlm_loss", "perplexity", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    ] * 2
    assert scores[1]["mlm_loss"] < scores[0]["mlm_loss"]
    assert finished.scores["validation"] == pytest.approx(min(scores, key=lambda each: each["mlm_loss"]), rel=1e-6)


def test_the_model_opens_in_transformers_with_all_heads(finished: Finetuned) -> None:
    names = ("BertForPreTraining", "AutoModelForPreTraining", "BertForMaskedLM", "AutoModelForMaskedLM", "AutoModel")
    for name in names:
        kind = getattr(transformers, name)
        _, info = kind.from_pretrained(finished.run / "model", output_loading_info=True)
        assert not info["missing_keys"], name
        assert not info["mismatched_keys"], name
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished.run / "model")
    assert tokenizer.mask_token == "[MASK]"
    assert "objective `mlm+nsp`" in (finished.run / "README.md").read_text()


def test_a_pretrained_run_is_an_encoder_to_fine_tune(finished: Finetuned, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    settings = {"train.max_steps": 2, "train.max_length": 32, "eval.resamples": 0}
    for place in (finished.run, finished.run / "model"):
        tuned = bertkit.finetune(data, encoder=place, runs=tmp_path / "runs", settings=settings, precision="float32")
        facts = record(tuned.run)
        assert facts["encoder"] == str(place)
        assert facts["new_weights"] == ["classifier.bias", "classifier.weight"]
    assert (tmp_path / "runs" / f"reviews-{finished.run.name}-001").is_dir()


def test_an_unfinished_run_is_no_encoder(finished: Finetuned, tmp_path: Path) -> None:
    run = shutil.copytree(finished.run, tmp_path / "run")
    shutil.rmtree(run / "model")
    with pytest.raises(ModelError, match=r"is a run without a model: it did not finish\. Go on with it by --resume"):
        bertkit.finetune(reviews(40), encoder=run, runs=tmp_path / "runs")


def test_it_begins_from_scratch_with_a_tokenizer_of_the_corpus(corpus: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": "tiny", "new_tokenizer": 45, "runs": tmp_path}
    settings = {"train.max_steps": 4, "train.eval_steps": 4}
    found = pretrain(corpus, objective="mlm+sop", settings=settings, **options)
    assert found.run.name == "pretrain-bert-tiny-001"
    assert found.encoder == "bert-tiny"
    model = transformers.BertForPreTraining.from_pretrained(found.run / "model")
    assert (model.config.hidden_size, model.config.vocab_size) == (128, 45)
    assert set(found.scores["validation"]) >= {"sop_loss", "sop_accuracy"}
    again = pretrain(corpus, objective="mlm+sop", settings=settings, **options)
    assert same_weights(found.run, again.run)


def test_a_new_tokenizer_is_kept(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "cache"))
    texts = corpus_data.texts([corpus])
    made = pretrain_workflow.new_tokenizer(texts, 45, lowercase=True, max_length=64)

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(pretrain_workflow.vocabulary, "train", never)
    kept = pretrain_workflow.new_tokenizer(texts, 45, lowercase=True, max_length=64)
    assert kept.backend_tokenizer.to_str() == made.backend_tokenizer.to_str()
    with pytest.raises(AssertionError, match="it was trained again"):
        pretrain_workflow.new_tokenizer(texts, 44, lowercase=True, max_length=64)
    other = corpus_data.texts([write_corpus(tmp_path / "other.txt", seed=9)])
    with pytest.raises(AssertionError, match="it was trained again"):
        pretrain_workflow.new_tokenizer(other, 45, lowercase=True, max_length=64)


@pytest.mark.slow
def test_a_size_takes_the_tokenizer_of_an_encoder(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.max_steps": 1, "train.learning_rate": 1e-12}
    found = pretrain(corpus, size="tiny", encoder=tiny_encoder, runs=tmp_path, settings=settings)
    model = transformers.AutoModelForMaskedLM.from_pretrained(found.run / "model")
    assert (model.config.num_hidden_layers, model.config.vocab_size) == (2, 23)
    query = model.bert.encoder.layer[1].attention.self.query.weight.detach()
    assert float(query.diagonal().mean()) == pytest.approx(1, abs=0.02)
    settings["pretrain.init"] = "normal"
    found = pretrain(corpus, size="tiny", encoder=tiny_encoder, runs=tmp_path, settings=settings)
    model = transformers.AutoModelForMaskedLM.from_pretrained(found.run / "model")
    query = model.bert.encoder.layer[1].attention.self.query.weight.detach()
    assert float(query.diagonal().mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.slow
def test_masked_lm_keeps_the_pooler_that_it_does_not_train(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    listener = Listener()
    settings = {"train.max_steps": 2}
    found = pretrain(corpus, encoder=tiny_encoder, runs=tmp_path, settings=settings, listen=listener, whole_words=True)
    assert any("cls.predictions" in note and "start at random" in note for note in listener.notes)
    before = transformers.AutoModel.from_pretrained(tiny_encoder)
    after, info = transformers.AutoModel.from_pretrained(found.run / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(before.pooler.dense.weight, after.pooler.dense.weight)
    assert not torch.equal(before.embeddings.word_embeddings.weight, after.embeddings.word_embeddings.weight)
    facts = record(found.run)
    assert facts["config"]["pretrain"]["whole_words"] is True
    assert facts["layers"] == {"form": "stack", "reason": "", "head": "masked positions"}


def test_without_dropout_nothing_is_drawn_but_what_is_saved_drops_out(
    corpus: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise AssertionError("dropped out")

    for module in (dropout, unpad):
        monkeypatch.setattr(module, "kept", fail)
    settings = {"train.max_steps": 2}
    with pytest.raises(AssertionError, match="dropped out"):
        pretrain(corpus, encoder=tiny_encoder, runs=tmp_path, settings=settings)
    run = pretrain(corpus, encoder=tiny_encoder, runs=tmp_path, settings={**settings, "pretrain.dropout": False}).run
    saved = json.loads((run / "model" / "config.json").read_text())
    assert saved["hidden_dropout_prob"] == saved["attention_probs_dropout_prob"] == 0.1


@pytest.mark.slow
def test_it_computes_in_bf16(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.max_steps": 2}
    found = pretrain(corpus, encoder=tiny_encoder, runs=tmp_path, settings=settings, precision="bf16")
    assert record(found.run)["device"]["precision"] == "bf16"
    assert found.status == "finished"


# What it promises -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [2, 11])
def test_a_resumed_run_equals_the_uninterrupted_one(
    stop_at: int, finished: Finetuned, corpus: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    listener = Listener(stop_at)
    options: dict[str, Any] = {"listen": listener, "should_stop": listener.should_stop}
    cut = pretrain(corpus, encoder=tiny_encoder, objective="mlm+nsp", out=tmp_path / "run", **options)
    assert cut.status == "interrupted"
    resumed = pretrain(resume=cut.run, precision="auto", threads=0)
    assert resumed.status == "finished"
    assert same_weights(resumed.run, finished.run)
    assert without_clocks(resumed.run) == without_clocks(finished.run)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_the_parts_of_a_step(corpus: Path, tmp_path: Path) -> None:
    encoder = save_tiny_bert(tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    found = []
    for tokens in (64, 4096):
        settings = {"train.max_steps": 8, "train.micro_batch_tokens": tokens}
        run = pretrain(corpus, encoder=encoder, objective="mlm+nsp", runs=tmp_path / "runs", settings=settings).run
        found.append([step["loss"] for step in steps_of(run)])
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.slow
def test_held_out_masks_are_the_same_each_time(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.max_steps": 3, "train.eval_steps": 1, "train.learning_rate": 1e-12, "train.weight_decay": 0}
    scores = []
    for seed in (1, 2):
        options: dict[str, Any] = {"encoder": tiny_encoder, "objective": "mlm+nsp", "runs": tmp_path, "seed": seed}
        run = pretrain(corpus, settings=settings, **options).run
        scores += [event["scores"] for event in lines(run / "events.jsonl") if event["event"] == "scores"]
    assert scores[1] == pytest.approx(scores[0], rel=1e-6)
    assert scores[2] == pytest.approx(scores[0], rel=1e-6)
    # The heads are others, the rows are not.
    assert scores[3] != scores[0]


@pytest.mark.slow
def test_the_first_steps_are_the_same_again(finished: Finetuned) -> None:
    found = verify(finished.run, steps=12)
    assert found.same
    assert len(found.steps) == 12


def trained(corpus: Path, encoder: Path, out: Path) -> Finetuned:
    return pretrain(
        corpus, encoder=encoder, objective="mlm+nsp", out=out, device="cpu", settings={"train.max_steps": 9}
    )


@pytest.mark.slow
def test_the_loss_curve_is_that_of_one_process(corpus: Path, tmp_path: Path) -> None:
    encoder = save_tiny_bert(tmp_path / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    curves = []
    for number in (1, 2):
        results: Sequence[Any] = together(number, trained, corpus, encoder, tmp_path / f"run-{number}")
        for result in results:
            if isinstance(result, BaseException):
                raise result
        curves.append(steps_of(tmp_path / f"run-{number}"))
    one, two = curves
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-5)
    for row, other in zip(one, two, strict=True):
        assert other["parts"] == pytest.approx(row["parts"], abs=1e-5)
        assert other["num_tokens"] == row["num_tokens"]


# What other commands make of it ------------------------------------------------------------------------------------


def test_runs_shows_it(finished: Finetuned) -> None:
    (line,) = runs_workflow.ls(finished.run.parent)
    assert (line.task, line.metric, line.encoder) == ("pretrain", "mlm_loss", record(finished.run)["encoder"])
    assert line.score == finished.scores["validation"]["mlm_loss"]
    shown = runs_workflow.show(finished.run)
    assert shown["corpus"]["train"]["documents"] + shown["corpus"]["validation"]["documents"] == 40
    assert shown["command"] == "pretrain"


@pytest.mark.parametrize("place", ["", "model"])
def test_eval_and_predict_say_what_it_is(finished: Finetuned, place: str) -> None:
    wanted = r"is a pre-trained encoder without a task.*'bertkit finetune TASK --encoder .*' trains it for a task"
    with pytest.raises(ModelError, match=wanted):
        bertkit.evaluate(finished.run / place)
    with pytest.raises(ModelError, match=wanted):
        bertkit.predict(["a film"], run=finished.run / place)


def test_each_command_goes_on_with_its_own_runs(finished: Finetuned, finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"was made by 'bertkit finetune': 'bertkit finetune --resume .*' goes on with it"
    ):
        pretrain(resume=finished_run, precision="auto", threads=0)
    with pytest.raises(
        RunError, match=r"was made by 'bertkit pretrain': 'bertkit pretrain --resume .*' goes on with it"
    ):
        bertkit.finetune(resume=finished.run)
    with pytest.raises(RunError, match=r"was made by 'bertkit pretrain'"):
        bertkit.finetune("demo/reviews", out=finished.run)


def test_a_finished_run_is_not_trained_again(finished: Finetuned, corpus: Path, tiny_encoder: Path) -> None:
    options: dict[str, Any] = {"encoder": tiny_encoder, "out": finished.run}
    assert pretrain(corpus, objective="mlm+nsp", **options).already
    assert pretrain(resume=finished.run, precision="auto", threads=0).already
    with pytest.raises(RunError, match=r"is finished, and pretrain\.objective is 'mlm' now and was 'mlm\+nsp'"):
        pretrain(corpus, **options)
    with pytest.raises(RunError, match=r"was trained with size ; --resume got size mini"):
        pretrain(resume=finished.run, size="mini", precision="auto", threads=0)
    with pytest.raises(RunError, match=r"goes on with its own settings"):
        pretrain(resume=finished.run, objective="mlm", precision="auto", threads=0)


def test_another_corpus_is_refused(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_corpus(tmp_path / "corpus.txt")
    listener = Listener(2)
    options: dict[str, Any] = {"listen": listener, "should_stop": listener.should_stop, "encoder": tiny_encoder}
    cut = pretrain(file, out=tmp_path / "run", **options)
    write_corpus(file, seed=1)
    with pytest.raises(RunError, match=r"was made from something else: the data is not what it was then"):
        pretrain(resume=cut.run, precision="auto", threads=0)


# Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, r"pretrain needs a start: --encoder NAME goes on with an encoder, --new-tokenizer 8000 --size mini"),
        ({"size": "mini"}, r"--size mini starts from random weights and needs a tokenizer"),
        ({"size": "minni", "new_tokenizer": 99}, r"--size is 'minni'.*There are|--size is 'minni', and there are tiny"),
        ({"new_tokenizer": 99}, r"--new-tokenizer 99 starts from scratch, so a size is needed"),
        ({"new_tokenizer": 99, "encoder": "x"}, r"--new-tokenizer and --encoder x are two tokenizers"),
        ({"encoder": "x", "settings": {"columns.text": "t"}}, r"--set columns is no setting of pretrain"),
        ({"encoder": "x", "settings": {"train.on_long": "window"}}, r"train\.on_long changes nothing about pre-train"),
        (
            {"encoder": "x", "settings": {"pretrain.mask_shares": 1}},
            r"pretrain\.mask_shares is not a setting\. Did you mean",
        ),
        (
            {"encoder": "x", "settings": {"pretrain.init": "normal"}},
            r"pretrain\.init is of weights from scratch, and th",
        ),
        ({"encoder": "x", "settings": {"pretrain.mask_share": 1.5}}, r"mask_share is 1\.5, and must be above 0 and"),
        ({"encoder": "x", "objective": "nsp"}, r"pretrain\.objective is 'nsp', and must be one of 'mlm', 'mlm\+nsp'"),
        ({"encoder": "x", "seed": -1}, r"seed is -1, and must be a whole number"),
    ],
)
def test_what_does_not_go_together_is_said(given: dict[str, Any], wanted: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=wanted):
        bertkit.pretrain(corpus, runs=tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"objective": "mlm+nsp"}, r"\(roberta\) has no head for pairs of segments"),
        ({"settings": {"train.max_length": 9999}}, r"train\.max_length is 9999, and .* has positions for \d+ tokens"),
        ({"settings": {"track": "wandb"}, "offline": True}, r"WANDB_MODE has wandb send .* --offline asks no network"),
    ],
)
def test_what_cannot_be_is_said_before_the_corpus_is_read(
    given: dict[str, Any], wanted: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("the corpus is read")

    monkeypatch.setattr("bertkit.data.corpus.load", load)
    monkeypatch.setenv("WANDB_MODE", "online")
    folder = families.save(next(one for one in families.FAMILIES if one.name == "RoBERTa"), tmp_path / "roberta")
    with pytest.raises(BertkitError, match=wanted):
        pretrain(corpus, encoder=folder, runs=tmp_path / "runs", **given)


def test_hub_data_set_may_have_a_dot_in_its_name() -> None:
    from bertkit.workflows.pretrain import _is_lost

    assert not _is_lost("mlfoundations/dclm-baseline-1.0")
    assert _is_lost("nothing.txt")
    assert _is_lost("tests/nothing.txt")


def test_a_corpus_is_needed(tmp_path: Path, tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretrain needs a CORPUS: text files"):
        bertkit.pretrain(encoder=tiny_encoder, runs=tmp_path)
    with pytest.raises(ConfigError, match=r"There is no file or folder .*nothing\.txt"):
        bertkit.pretrain(tmp_path / "nothing.txt", encoder=tiny_encoder, runs=tmp_path)


@pytest.mark.slow
def test_pairs_need_a_head_for_them(corpus: Path, tmp_path: Path) -> None:
    family = next(one for one in families.FAMILIES if one.name == "RoBERTa")
    folder = families.save(family, tmp_path / "roberta")
    with pytest.raises(ModelError, match=r"\(roberta\) has no head for pairs of segments.*--objective mlm trains it"):
        pretrain(corpus, encoder=folder, objective="mlm+nsp", runs=tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*"))
    found = pretrain(corpus, encoder=folder, runs=tmp_path / "runs", settings={"train.max_steps": 2})
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(found.run / "model")).__name__ == "RobertaForMaskedLM"


@pytest.mark.slow
def test_albert_learns_the_order_of_sentences(corpus: Path, tmp_path: Path) -> None:
    family = next(one for one in families.FAMILIES if one.name == "ALBERT")
    folder = families.save(family, tmp_path / "albert")
    settings = {"train.max_steps": 2}
    found = pretrain(corpus, encoder=folder, objective="mlm+sop", runs=tmp_path / "runs", settings=settings)
    assert record(found.run)["layers"]["head"] == "masked positions"
    model, info = transformers.AlbertForPreTraining.from_pretrained(found.run / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert model.sop_classifier.classifier.out_features == 2


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"train.freeze": "embeddings"}, {"train.gradient_checkpointing": True}])
def test_the_recipe_of_fine_tuning_goes_with_it(
    setting: dict[str, Any], corpus: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = {"train.max_steps": 2, "train.label_smoothing": 0.1, "train.group_by_length": True, **setting}
    found = pretrain(corpus, encoder=tiny_encoder, runs=tmp_path, settings=settings)
    assert found.status == "finished"
    before, after = (transformers.AutoModel.from_pretrained(place) for place in (tiny_encoder, found.run / "model"))
    one, other = before.embeddings.word_embeddings.weight, after.embeddings.word_embeddings.weight
    assert torch.equal(one, other) == ("train.freeze" in setting)


def test_held_out_text_of_one_document_has_no_wrong_next(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    valid = write_corpus(tmp_path / "valid.txt", 1)
    with pytest.raises(DataError, match=r"Of .*valid\.txt: The corpus has one document.*--objective mlm\+sop or mlm"):
        pretrain(corpus, valid=valid, encoder=tiny_encoder, objective="mlm+nsp", runs=tmp_path / "runs")


@pytest.mark.slow
def test_scores_json_holds_intervals(corpus: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = {"train.max_steps": 1, "eval.resamples": 100}
    found = pretrain(corpus, encoder=tiny_encoder, runs=tmp_path, settings=settings)
    scores = json.loads((found.run / "scores.json").read_text())["splits"]["validation"]
    low, high = scores["mlm_loss_interval"]
    assert low < scores["mlm_loss"] < high
    assert weights(found.run)
