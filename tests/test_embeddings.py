"""Word embeddings that no text uses: the same weights, moments, files and resumes as with all of them trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import device, dropout, embeddings, loop, optim, unpad
from bertkit.adapters.base import Loss
from bertkit.config import DeviceConfig, TrainConfig
from bertkit.data.batches import TrainingBatches
from bertkit.errors import RunError
from bertkit.events import Checkpoint, Event, Start, Step
from tests.conftest import save_tiny_bert
from tests.families import slow_others
from tests.test_loop import frozen, losses, same
from tests.test_unpad import CLASSES, PADDING, VOCABULARY, make
from tests.workflows.training import Listener, record, same_weights, train

WORDS = 20
"""Ids from 4 on that the texts use."""
LENGTHS = (9, 1, 14, 3, 7, 7, 2, 11, 5, 4)
TEXTS = [
    torch.randint(4, 4 + WORDS, (length,), generator=torch.Generator().manual_seed(length + row)).tolist()
    for row, length in enumerate(LENGTHS)
]
USED = len({PADDING}.union(*TEXTS))


class Trained:
    """A tiny model that was trained on a few texts."""

    def __init__(self, model: Any, *, compact: bool, fast: bool = False, **settings: Any) -> None:
        self.model = model
        self.config = TrainConfig(
            **{"learning_rate": 3e-3, "epochs": 100, "max_steps": 30, "batch_size": 3, "eval_steps": 10, **settings}
        )
        if fast:
            unpad.install(model)
            dropout.install(model)
        self.installed = embeddings.install(model, TEXTS, others=[PADDING]) if compact else None
        self.accelerator = device.accelerator(device.choose(DeviceConfig(device="cpu", precision="float32", threads=1)))
        self.seen: list[torch.Tensor] = []

    def collate(self, rows: Any) -> dict[str, torch.Tensor]:
        width = max(LENGTHS[row] for row in rows)
        ids = [TEXTS[row] + [PADDING] * (width - LENGTHS[row]) for row in rows]
        mask = [[1] * LENGTHS[row] + [0] * (width - LENGTHS[row]) for row in rows]
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor([row % 2 for row in rows]),
        }

    def evaluate(self) -> loop.Evaluation:
        """Look at what an untouched row and a trained one give in evaluation mode."""
        self.model.eval()
        with torch.inference_mode():
            self.seen.append(self.model.get_input_embeddings()(torch.tensor([5, VOCABULARY - 1, PADDING])).clone())
        return loop.Evaluation(scores={"accuracy": float(len(self.seen))})

    def events(self, **options: Any) -> Any:
        return loop.training(
            self.model,
            TrainingBatches(
                range(len(TEXTS)), LENGTHS, batch_size=self.config.batch_size, micro_batch_tokens=24, seed=1
            ),
            lambda model, batch: Loss(model(**batch).loss * len(batch["labels"]), float(len(batch["labels"]))),
            collate=self.collate,
            config=self.config,
            accelerator=self.accelerator,
            metric="accuracy",
            better=lambda new, old: old is None or new > old,
            evaluate=self.evaluate,
            **options,
        )

    def train(self, **options: Any) -> list[Event]:
        torch.manual_seed(0)
        found = []
        for event in self.events(**options):
            if isinstance(event, Checkpoint):
                event = Checkpoint(step=event.step, best=event.best, state=frozen(event.state))
            found.append(event)
        return found

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def family(name: str, **changes: Any) -> Any:
    return make(name, "ForSequenceClassification", num_labels=2, **changes)


def both(name: str, changes: dict[str, Any] | None = None, **settings: Any) -> tuple[Trained, Trained]:
    """Return a family trained in both ways, the plain one first."""
    plain, ours = (Trained(family(name, **(changes or {})), compact=compact, **settings) for compact in (False, True))
    plain.train()
    ours.train()
    return plain, ours


def gap(one: Trained, other: Trained) -> float:
    return max(float((one.weights[name] - other.weights[name]).abs().max()) for name in one.weights)


# Equality --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_others(CLASSES))
def test_weights_are_bit_for_bit_those_of_the_plain_model(name: str) -> None:
    plain, ours = both(name, max_grad_norm=0.0, weight_decay=0.1)
    assert ours.installed == embeddings.Installed(trained=USED, all=VOCABULARY)
    assert plain.weights.keys() == ours.weights.keys()
    assert same(plain.weights, ours.weights)
    assert len(ours.seen) == 3
    assert all(map(torch.equal, plain.seen, ours.seen))


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True], ids=["padded", "fast"])
@pytest.mark.parametrize("name", slow_others(["BERT", "ModernBERT", "DeBERTa-v2/v3", "GPT-2"], quick=["BERT"]))
def test_dropout_draws_the_same_masks(name: str, fast: bool) -> None:
    share = {"BERT": "hidden_dropout_prob", "ModernBERT": "mlp_dropout", "GPT-2": "embd_pdrop"}
    plain, ours = both(name, {share.get(name, "hidden_dropout_prob"): 0.3}, max_grad_norm=0.0, fast=fast)
    assert same(plain.weights, ours.weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_others(["BERT", "RoBERTa", "DistilBERT", "ALBERT", "GPT-2"], quick=["BERT"]))
def test_clipped_training_differs_by_the_rounding_of_one_norm(name: str) -> None:
    plain, ours = both(name, max_grad_norm=0.1)
    assert gap(plain, ours) < 1e-6


def test_adamw_on_tables_of_any_size_decays_as_the_table_does() -> None:
    """The rows at the end of torch's vectors and blocks have loops of their own."""
    for size, width in ((7, 3), (1000, 17), (5000, 17)):
        torch.manual_seed(size)
        table = torch.nn.Embedding(size, width)
        before = table.weight.detach().clone()
        dense = torch.nn.Parameter(before.clone())
        optimizer = torch.optim.AdamW([dense], lr=1e-3, weight_decay=0.3, fused=True)
        compact = _wrapped(table, [[1, 2]])
        ours = optim.adamw(compact, TrainConfig(weight_decay=0.3))
        for step in range(20):
            optim.set_rate(optimizer, 1e-3 / (1 + step))
            optim.set_rate(ours, 1e-3 / (1 + step))
            dense.grad = torch.zeros_like(dense)
            compact.train()(torch.tensor([1])).sum().mul(0).backward()
            optimizer.step()
            ours.step()
        assert torch.equal(compact.state_dict()["table.weight"], dense)
        assert not torch.equal(dense, before)


def test_step_without_a_gradient_decays_nothing() -> None:
    model = _wrapped(torch.nn.Embedding(9, 2), [[1]])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optim.adamw(model, TrainConfig(weight_decay=0.5, learning_rate=0.1)).step()
    assert same(before, model.state_dict())


def test_step_that_overflowed_decays_nothing() -> None:
    """Under fp16 the scaler lets a fused optimizer see that a gradient overflowed, and nothing moves."""
    model = _wrapped(torch.nn.Embedding(9, 2), [[1]])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = optim.adamw(model, TrainConfig(weight_decay=0.5, learning_rate=0.1))
    model.train()(torch.tensor([1])).sum().backward()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert same(before, model.state_dict())


@pytest.mark.slow
def test_padding_row_only_decays() -> None:
    plain, ours = both("BERT", max_grad_norm=0.0, weight_decay=0.2)
    start = family("BERT").get_input_embeddings()
    assert start.padding_idx == PADDING
    found = ours.weights["bert.embeddings.word_embeddings.weight"][PADDING]
    assert torch.equal(found, plain.weights["bert.embeddings.word_embeddings.weight"][PADDING])
    assert float(found.norm()) < float(start.weight[PADDING].detach().norm())


# What is left out ------------------------------------------------------------------------------------------------


def test_gradient_clipping_and_optimizer_see_the_used_rows_only() -> None:
    ours = Trained(family("BERT"), compact=True, max_steps=1)
    shapes: list[torch.Size] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: Any = None) -> Any:
        shapes.extend(p.shape for group in self.param_groups for p in group["params"] if p.grad is not None)
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        state = next(event.state for event in ours.train() if isinstance(event, Checkpoint))
    table = ours.model.get_input_embeddings().weight
    assert table.grad is None
    assert torch.Size([USED, 16]) in shapes
    assert table.shape not in shapes
    assert state["optimizer"]["bert.embeddings.word_embeddings.weight|exp_avg"].shape == (USED, 16)


@pytest.mark.slow
def test_checkpoints_and_files_have_the_names_of_the_plain_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    plain, ours = both("BERT", max_grad_norm=0.0)
    for name, each in (("plain", plain), ("ours", ours)):
        each.model.save_pretrained(tmp_path / name)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "ours"))
    assert left.keys() == right.keys()
    assert same(left, right)


def test_start_counts_the_parameters_of_the_plain_model() -> None:
    counts = [
        next(event.num_parameters for event in Trained(family("BERT"), compact=compact).events())
        for compact in (False, True)
    ]
    assert counts[0] == counts[1] == sum(parameter.numel() for parameter in family("BERT").parameters())


@pytest.mark.slow
def test_remove_gives_the_plain_model_back() -> None:
    plain, ours = both("BERT", max_grad_norm=0.0)
    embeddings.remove(ours.model)
    table = ours.model.get_input_embeddings()
    assert type(table) is torch.nn.Embedding
    assert table.weight.requires_grad
    assert not hasattr(table, "compact")
    assert same(plain.weights, ours.weights)


def test_id_that_is_not_trained_is_never_looked_up_silently() -> None:
    model = _wrapped(torch.nn.Embedding(9, 2), [[1, 2]])
    assert model.eval()(torch.tensor([5])).shape == (1, 2)
    with pytest.raises(IndexError, match="out of range"):
        model.train()(torch.tensor([5]))


# Resuming --------------------------------------------------------------------------------------------------------


def resumed(first: Trained, second: Trained, stop_at: int = 13) -> list[float]:
    """Stop the first after some steps, go on with the second, and return all losses."""
    early: list[Event] = []
    torch.manual_seed(0)
    state: dict[str, Any] = {}
    for event in first.events(should_stop=lambda: len(losses(early)) >= stop_at - 1):
        early.append(event)
        if isinstance(event, Checkpoint):
            state = frozen(event.state)
    torch.manual_seed(99)
    late = list(second.events(start=state))
    return losses(early) + losses(late)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["of some rows", "of all rows"])
@pytest.mark.parametrize("after", [True, False], ids=["some rows", "all rows"])
def test_resumed_training_is_exact_whichever_rows_the_checkpoint_has(before: bool, after: bool) -> None:
    changes, settings = {"hidden_dropout_prob": 0.2}, {"max_grad_norm": 0.0}
    whole = Trained(family("BERT", **changes), compact=True, **settings)
    expected = losses(whole.train())
    first, second = (Trained(family("BERT", **changes), compact=compact, **settings) for compact in (before, after))
    assert resumed(first, second) == expected
    assert same(whole.weights, second.weights)


@pytest.mark.slow
def test_clipped_training_resumes_bit_for_bit() -> None:
    whole = Trained(family("BERT"), compact=True)
    expected = losses(whole.train())
    second = Trained(family("BERT"), compact=True)
    assert resumed(Trained(family("BERT"), compact=True), second) == expected
    assert same(whole.weights, second.weights)


def test_checkpoint_of_other_rows_is_refused() -> None:
    state = next(
        event.state for event in Trained(family("BERT"), compact=True).train() if isinstance(event, Checkpoint)
    )
    other = Trained(family("BERT"), compact=False)
    embeddings.install(other.model, TEXTS[:1], others=[PADDING])
    with pytest.raises(RunError, match=r"trained rows of bert.embeddings.word_embeddings.weight that .* other data"):
        next(other.events(start=state))


# Where it stays off ----------------------------------------------------------------------------------------------


class Wrapped(torch.nn.Module):
    """As much of a Hugging Face model as is asked for."""

    def __init__(self, table: torch.nn.Module) -> None:
        super().__init__()
        self.table = table

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.table

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)  # type: ignore[no-any-return]


def _wrapped(table: torch.nn.Module, texts: list[list[int]]) -> Wrapped:
    model = Wrapped(table)
    assert not embeddings.install(model, texts).reason
    return model


class Scaled(torch.nn.Embedding):
    """An embedding that does more than looking up."""


def frozen_table() -> torch.nn.Embedding:
    return torch.nn.Embedding(9, 2).requires_grad_(False)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (Scaled(9, 2), "its word embeddings are a Scaled"),
        (torch.nn.Embedding(9, 2, sparse=True), "sparse, or rescaled"),
        (torch.nn.Embedding(9, 2, max_norm=1.0), "sparse, or rescaled"),
        (frozen_table(), "not trained"),
        (torch.nn.Embedding(9, 2, dtype=torch.bfloat16), "not float32"),
        (torch.nn.Embedding(5, 2), "the training data uses 5 of its 5 rows"),
    ],
    ids=["subclass", "sparse", "max_norm", "frozen", "bfloat16", "all used"],
)
def test_table_that_must_stay_whole_does(table: torch.nn.Embedding, reason: str) -> None:
    model = Wrapped(table)
    found = embeddings.install(model, [[0, 1, 2, 3, 4]])
    assert reason in found.reason
    assert model.table is table
    assert type(table).__name__ in {"Embedding", "Scaled"}
    assert not hasattr(table, "compact")


def test_tied_embeddings_stay_whole() -> None:
    model = make("BERT", "ForMaskedLM")
    assert "tied" in embeddings.install(model, TEXTS).reason
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_model_without_known_embeddings_stays_whole() -> None:
    class Unknown(Wrapped):
        def get_input_embeddings(self) -> torch.nn.Module:
            raise NotImplementedError

    assert "does not say" in embeddings.install(Unknown(torch.nn.Embedding(9, 2)), [[1]]).reason


def test_start_is_the_first_event_and_steps_follow() -> None:
    kinds = [type(event) for event in Trained(family("BERT"), compact=True, max_steps=2).train()]
    assert kinds[:3] == [Start, Step, Step]


# In a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def wide_encoder(tmp_path: Path) -> Path:
    """A tiny encoder with more embeddings than the reviews have words."""
    return save_tiny_bert(tmp_path / "wide", vocab_size=VOCABULARY)


@pytest.mark.slow
def test_run_says_how_many_rows_are_trained(wide_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    for name, fast in (("fast", True), ("slow", False)):
        train(str(reviews_file), encoder=wide_encoder, out=tmp_path / name, settings={"train.fast": fast})
    used = record(tmp_path / "fast")["embeddings"]
    assert (0 < used["trained"] <= 23, used["all"], used["reason"]) == (True, VOCABULARY, "")
    assert record(tmp_path / "slow")["embeddings"] == {"reason": "train.fast is false"}


@pytest.mark.slow
def test_run_that_is_gone_on_with_saves_the_weights_of_the_plain_model(
    wide_encoder: Path, reviews_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.max_grad_norm": 0, "train.epochs": 2, "train.eval_steps": 2}
    listener = Listener(stop_at=3)
    train(
        str(reviews_file),
        encoder=wide_encoder,
        out=tmp_path / "ours",
        settings=settings,
        listen=listener,
        should_stop=listener.should_stop,
    )
    assert record(tmp_path / "ours")["status"] == "interrupted"
    train(resume=tmp_path / "ours")
    monkeypatch.setattr(embeddings, "install", lambda *_, **__: embeddings.Installed(trained=0, all=0, reason="off"))
    train(str(reviews_file), encoder=wide_encoder, out=tmp_path / "plain", settings=settings)
    assert record(tmp_path / "ours")["embeddings"]["trained"] > 0
    assert same_weights(tmp_path / "ours", tmp_path / "plain")
