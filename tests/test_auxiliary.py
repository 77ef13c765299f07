"""The auxiliary language model of GPT's second stage: its loss, what it refuses, what is saved, resumed and shared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bertkit
from bertkit import auxiliary, device, encoder, loop
from bertkit.adapters import find
from bertkit.adapters.base import Adapter
from bertkit.config import DeviceConfig, TrainConfig
from bertkit.errors import ConfigError
from bertkit.events import Step
from bertkit.task import DataSource, Task
from bertkit.workflows.training import batches_of, events_of
from tests import families
from tests.conftest import reviews, write_jsonl
from tests.families import FAMILIES
from tests.several import together

LABELS = ("negative", "positive")
RECIPE: dict[str, Any] = {
    "train.lm_weight": 0.5, "train.learning_rate": 5e-3, "train.batch_size": 8, "train.max_length": 64,
    "train.epochs": 2, "eval.resamples": 0,
}  # fmt: skip
PLACE: dict[str, Any] = {"precision": "float32", "threads": 1}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return body("GPT-2", tmp_path_factory.mktemp("gpt2") / "e")


def body(name: str, folder: Path) -> Path:
    return families.save(next(family for family in FAMILIES if family.name == name), folder)


def opened(folder: Path, config: TrainConfig) -> tuple[Adapter, encoder.Encoder]:
    task = Task(
        name="x", type=auxiliary.TYPE, data=DataSource(), kind="single", labels=LABELS, metrics=("accuracy",),
        columns={"text": "text", "label": "label"},
    )  # fmt: skip
    adapter = find(task.type)(task, config, LABELS)
    about: dict[str, Any] = {"labels": LABELS, "problem_type": adapter.problem_type}
    loaded = encoder.load(encoder.find(str(folder)), auto_class=adapter.auto_class, seed=1, **about)
    adapter.bind(loaded.tokenizer)
    return adapter, loaded


def by_hand(adapter: Adapter, loaded: encoder.Encoder, rows: list[dict[str, str]], weight: float) -> tuple[float, ...]:
    """Return the classifier's loss and that of GPT2LMHeadModel with the same body, on a padded batch of all rows."""
    from transformers import GPT2LMHeadModel

    lm = GPT2LMHeadModel(loaded.model.config).eval()
    lm.transformer.load_state_dict(loaded.model.transformer.state_dict())
    lm.tie_weights()
    batch = adapter.collate(adapter.encode(rows, loaded.tokenizer))
    inputs = adapter.inputs(batch)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        logits = loaded.model.eval()(**inputs).logits
        weights = None if adapter.weights is None else torch.tensor(adapter.weights)
        own = torch.nn.functional.cross_entropy(logits, batch["labels"], weight=weights)
        theirs = lm(**inputs, labels=labels).loss
    return float(own), float(theirs), float(own + weight * theirs)


class Data:
    """What the workflow would have prepared."""

    def __init__(self, adapter: Adapter, rows: list[dict[str, str]], config: TrainConfig) -> None:
        from bertkit.data import Dataset, Split

        self.adapter, self.train, self.task = adapter, config, adapter.task
        self.dataset = Dataset(splits={"train": Split(name="train", examples=rows, source="row")})


@pytest.mark.parametrize("changes", [{}, {"class_weights": "balanced"}], ids=["plain", "class weights"])
@pytest.mark.parametrize("tokens", [4096, 40])
def test_loss_is_that_of_the_classifier_and_of_gpt2s_own_language_model(
    gpt2: Path, tokens: int, changes: dict[str, Any]
) -> None:
    rows = reviews(11)
    config = TrainConfig(
        max_length=64, batch_size=11, micro_batch_tokens=tokens, lm_weight=0.5, max_steps=1, warmup_ratio=0, **changes
    )
    adapter, loaded = opened(gpt2, config)
    adapter.prepare(adapter.encode(rows, loaded.tokenizer))
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    expected = by_hand(adapter, loaded, rows, 0.5)
    features = adapter.encode(rows, loaded.tokenizer)
    prepared: Any = Data(adapter, rows, config)
    language = auxiliary.install(loaded.model, "x")
    batches = batches_of(prepared, features, 1)
    assert (len(next(batches.draws()).micro_batches) > 1) == (tokens == 40)
    about: dict[str, Any] = {"evaluate": lambda: loop.Evaluation(scores={"accuracy": 0.0}), "language": language}
    place = device.accelerator(device.choose(DeviceConfig(device="cpu", precision="float32")))
    events = events_of(prepared, loaded, features, batches, place, **about)
    step = next(event for event in events if isinstance(event, Step))
    assert (step.parts["task"], step.parts["lm"], step.loss) == pytest.approx(expected, abs=2e-6)


def test_gradient_is_that_of_the_whole_loss(gpt2: Path) -> None:
    """Also where the logits are computed in parts, and again in the backward pass."""
    config = TrainConfig(max_length=64, lm_weight=0.5)
    adapter, loaded = opened(gpt2, config)
    batch = adapter.collate(adapter.encode(reviews(5), loaded.tokenizer))
    model = loaded.model.eval()
    table = model.get_input_embeddings().weight
    states = model.transformer(**adapter.inputs(batch))[0]
    logits = states @ table.T
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected, table)
    language = auxiliary.install(model, "x")
    auxiliary_at_once, auxiliary.LOGITS_AT_ONCE = auxiliary.LOGITS_AT_ONCE, 3 * len(table)
    try:
        language.wanted = True
        model(**adapter.inputs(batch))
        assert language.total is not None
        (gradient,) = torch.autograd.grad(language.total, table)
    finally:
        auxiliary.LOGITS_AT_ONCE = auxiliary_at_once
    assert float(language.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient)


def test_ratios_of_two_epochs_stand_side_by_side() -> None:
    batches = auxiliary.JointBatches(
        list(range(4)), [3, 5, 9, 2], weights=[1.0] * 4, batch_size=2, micro_batch_tokens=100, seed=3
    )
    assert batches.num_tokens == 3 + 5 + 9 + 2
    draws = batches.draws()
    seen = []
    for _ in range(8):
        draw = next(draws)
        numbers = [number for part in draw.micro_batches for number in part]
        own = [number % 4 for number in numbers]
        assert set(batches.ratios[numbers]) == {2 / sum([2, 4, 8, 1][n] for n in own)}
        seen.append((numbers, batches.ratios[numbers].tolist()))
        # What the step before had is still there while the next one is made ready.
        if len(seen) > 1:
            before, ratios = seen[-2]
            assert batches.ratios[before].tolist() == ratios


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("BERT", "is no left-to-right language model"),
        ("XLNet", "is no left-to-right language model"),
    ],
)
def test_encoder_that_is_no_language_model_is_refused(family: str, why: str, tmp_path: Path) -> None:
    _, loaded = opened(body(family, tmp_path / "e"), TrainConfig(max_length=64))
    with pytest.raises(ConfigError, match=rf"train.lm_weight trains the language model .* {why}\. Set it to 0"):
        auxiliary.install(loaded.model, "x")


def test_language_model_with_a_head_of_its_own_is_refused(gpt2: Path) -> None:
    _, loaded = opened(gpt2, TrainConfig(max_length=64))
    loaded.model.config.tie_word_embeddings = False
    with pytest.raises(ConfigError, match="has a head that is not its word embeddings"):
        auxiliary.install(loaded.model, "x")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lm_weight": -1}, "lm_weight is -1, and must be at least 0"),
        ({"lm_weight": 0.5, "compile": True}, "0 where train.compile is true"),
        ({"lm_weight": 0.5, "freeze": "encoder"}, "0 where train.freeze holds the whole encoder"),
    ],
)
def test_recipe_that_leaves_it_nothing_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        TrainConfig(**settings)


def test_other_task_type_is_refused(gpt2: Path, tmp_path: Path) -> None:
    from tests.conftest import sentences, write_conll

    data = write_conll(tmp_path / "words.conll", sentences(20))
    with pytest.raises(ConfigError, match="is of type token-tagging: the auxiliary language model stands beside"):
        bertkit.finetune(data, encoder=gpt2, runs=tmp_path / "runs", settings=RECIPE, **PLACE)


def test_commands_that_have_a_loss_of_their_own_refuse_it(
    finished_run: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    about: dict[str, Any] = {"settings": {"train.lm_weight": 0.5}, "runs": tmp_path / "runs", **PLACE}
    with pytest.raises(ConfigError, match=r"train\.lm_weight is set, and a student's loss is that of its teacher"):
        bertkit.distill(data, teacher=finished_run, encoder=tiny_encoder, **about)
    (tmp_path / "corpus.txt").write_text("the film was good\n" * 200)
    with pytest.raises(ConfigError, match=r"train\.lm_weight is set, and the task .* is of type masked-lm"):
        bertkit.pretrain(tmp_path / "corpus.txt", encoder=tiny_encoder, **about)


def steps(run: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "step"]


@pytest.mark.slow
def test_run_is_saved_resumed_verified_and_opens_in_plain_transformers(gpt2: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    about: dict[str, Any] = {"encoder": gpt2, "settings": RECIPE | {"train.save_steps": 1}, **PLACE}
    whole = bertkit.finetune(data, out=tmp_path / "whole", **about)
    taken = steps(whole.run)
    assert all(step["loss"] == pytest.approx(step["parts"]["task"] + 0.5 * step["parts"]["lm"]) for step in taken)
    assert taken[-1]["parts"]["lm"] < taken[0]["parts"]["lm"]
    asked = iter([False] * 3 + [True] * 99)
    cut = bertkit.finetune(data, out=tmp_path / "cut", should_stop=lambda: next(asked), **about)
    assert cut.status == "interrupted"
    again = bertkit.finetune(resume=cut.run)
    one, other = (load_file(run / "model" / "model.safetensors") for run in (whole.run, again.run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [s["loss"] for s in steps(again.run)] == [s["loss"] for s in taken]
    from bertkit.workflows.verify import verify

    assert verify(whole.run, steps=3).same
    model, info = AutoModelForSequenceClassification.from_pretrained(whole.run / "model", output_loading_info=True)
    assert type(model).__name__ == "GPT2ForSequenceClassification"
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    lm, info = AutoModelForCausalLM.from_pretrained(whole.run / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(lm.lm_head.weight, model.transformer.wte.weight)


def shared(data: Path, encoder: Path, out: Path, settings: dict[str, Any]) -> Any:
    return bertkit.finetune(data, encoder=encoder, out=out, settings=settings, device="cpu", **PLACE)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    gpt2 = next(family for family in FAMILIES if family.name == "GPT-2")
    quiet = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    folder = families.save(replace(gpt2, sizes=gpt2.sizes | quiet), tmp_path / "e")
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(30))
    settings = RECIPE | {"train.micro_batch_tokens": 64, "train.class_weights": "balanced"}
    found = []
    for number in (1, 2):
        for result in together(number, shared, data, folder, tmp_path / f"run-{number}", settings):
            if isinstance(result, BaseException):
                raise result
        found.append(steps(tmp_path / f"run-{number}"))
    for one, other in zip(*found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["parts"] == pytest.approx(one["parts"], abs=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
