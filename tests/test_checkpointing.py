"""Gradient checkpointing: the same loss and gradients, with and without dropout, from less that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bertkit import dropout, unpad
from bertkit.errors import ConfigError
from bertkit.workflows import training
from tests import families
from tests.families import FAMILIES
from tests.test_unpad import inputs, loss_of, make
from tests.workflows.training import record, same_weights, train, weights

CAN = ["BERT", "RoBERTa", "DistilBERT", "ELECTRA", "DeBERTa-v2/v3", "ModernBERT", "GPT-2", "XLM-R", "DeBERTa"]
CANNOT = ["ALBERT", "MPNet", "XLNet"]
ON = {"train.gradient_checkpointing": True}


class Alive(TorchDispatchMode):
    """Watches the storage of every tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made.append((StorageWeakRef(storage), storage.nbytes()))
        return found

    @property
    def bytes(self) -> int:
        """Bytes of those that are still held, by whatever holds them."""
        return sum({ref.cdata: size for ref, size in self.made if not ref.expired()}.values())


def measured(model: Any, share: float) -> tuple[int, float, dict[str, torch.Tensor]]:
    """Return the bytes that the forward pass keeps, the loss and the gradients of a call in training mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
    model.train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    with Alive() as alive:
        loss = loss_of(model, inputs())
    size = alive.bytes
    loss.backward()
    return size, float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def checkpointed(model: Any) -> Any:
    training.checkpoint_layers(model, "x")
    return model


@pytest.mark.parametrize("share", [0.0, 0.3], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("name", CAN)
def test_loss_and_gradients_stay_and_less_is_kept(name: str, share: float) -> None:
    model = make(name, "ForTokenClassification", num_hidden_layers=4)
    dropout.install(model)
    size, loss, gradients = measured(model, share)
    ours_size, ours, our_gradients = measured(checkpointed(model), share)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert gradients.keys() == our_gradients.keys()
    assert all(torch.allclose(our_gradients[n], gradient, atol=1e-6) for n, gradient in gradients.items())
    assert ours_size < 0.6 * size


def test_dropout_is_not_the_same_every_time() -> None:
    """Were the share not in force, the test above would compare nothing."""
    model = make("BERT", "ForTokenClassification")
    dropout.install(model)
    assert measured(model, 0.3)[1] != pytest.approx(measured(model, 0.0)[1], abs=1e-3)


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "DeBERTa-v2/v3"])
def test_without_padding_otherwise_it_is_equal_too(name: str) -> None:
    model = make(name, "ForTokenClassification")
    unpad.install(model)
    _, loss, gradients = measured(model, 0.0)
    _, ours, our_gradients = measured(checkpointed(model), 0.0)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(our_gradients[n], gradient, atol=1e-5) for n, gradient in gradients.items())


@pytest.mark.parametrize("name", CANNOT)
def test_family_that_cannot_is_refused(name: str, tmp_path: Path, reviews_file: Path) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    folder = families.save(family, tmp_path / "body")
    with pytest.raises(ConfigError, match=r"gradient_checkpointing is true, and .* cannot do it.*micro_batch_tokens"):
        train(str(reviews_file), encoder=folder, out=tmp_path / "run", settings=ON)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_trains_as_without_and_its_model_carries_no_trace(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path
) -> None:
    settings = {"train.fast": False}
    train(str(reviews_file), encoder=tiny_encoder, out=tmp_path / "plain", settings=settings)
    train(str(reviews_file), encoder=tiny_encoder, out=tmp_path / "ours", settings=settings | ON)
    assert record(tmp_path / "ours")["config"]["train"]["gradient_checkpointing"] is True
    assert weights(tmp_path / "ours").keys() == weights(tmp_path / "plain").keys()
    assert same_weights(tmp_path / "ours", tmp_path / "plain")
    configs = [(tmp_path / name / "model" / "config.json").read_text() for name in ("plain", "ours")]
    assert configs[0] == configs[1]
