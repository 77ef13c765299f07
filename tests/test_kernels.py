"""Attention kernels of GPUs: when which is chosen, and what each is called with; stand-ins compute on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bertkit import kernels, unpad
from tests.test_unpad import Caller, inputs, loss_of, make

CUDA = SimpleNamespace(type="cuda")
LENGTHS = (1, 30, 17, 9, 24)
CACHED = (kernels.torch_kernel, kernels.flash_kernel)


def query(*, width: int = 64, dtype: torch.dtype = torch.bfloat16, device: Any = CUDA) -> Any:
    """Return what a kernel is chosen by; there need be no such device."""
    return SimpleNamespace(dtype=dtype, shape=(1, 4, 10, width), device=device, is_cuda=device is CUDA)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for kernel in CACHED:
        kernel.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return what a GPU is said to have: capability, torch's kernel, FlashAttention's."""
    has = SimpleNamespace(capability=(8, 0), torch=len, flash=None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: has.capability)
    monkeypatch.setattr(kernels, "torch_kernel", lambda: has.torch)
    monkeypatch.setattr(kernels, "flash_kernel", lambda: has.flash)
    return has


@pytest.mark.parametrize(
    ("has", "given", "dropout", "chosen"),
    [
        ({}, {}, 0.0, "torch"),
        ({"flash": len}, {}, 0.0, "torch"),
        ({}, {}, 0.1, None),  # torch's drops nothing
        ({"flash": len}, {}, 0.1, "flash_attn"),
        ({"flash": len, "torch": None}, {}, 0.0, "flash_attn"),
        ({"torch": None}, {}, 0.0, None),
        ({"capability": (7, 5), "flash": len}, {}, 0.0, None),
        ({}, {"dtype": torch.float32}, 0.0, None),
        ({}, {"dtype": torch.float16}, 0.0, "torch"),
        ({}, {"width": 12}, 0.0, None),
        ({}, {"width": 264}, 0.0, None),
        ({}, {"width": 256}, 0.0, "torch"),
        ({"flash": len}, {"device": torch.device("cpu")}, 0.0, None),
    ],
    ids=str,
)
def test_kernel_is_chosen_by_what_it_takes(
    gpu: SimpleNamespace, has: dict[str, Any], given: dict[str, Any], dropout: float, chosen: str | None
) -> None:
    vars(gpu).update(has)
    assert kernels.choose(query(**given), dropout) == chosen


def test_kernel_of_this_torch_is_found() -> None:
    """torch 2.13 has it; one without its arguments, or without the module, has none."""
    found = kernels.torch_kernel()
    assert found is not None
    assert found.__name__ == "varlen_attn"


def test_kernel_of_an_older_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.torch_kernel.cache_clear()
    older = SimpleNamespace(varlen_attn=lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal: None)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", older)
    assert kernels.torch_kernel() is None


@pytest.mark.parametrize("fault", [ImportError("undefined symbol"), OSError("libcudart.so.12")])
def test_flash_attention_of_another_torch_is_left_alone(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        __path__ = ()

        def __getattr__(self, name: str) -> Any:
            raise fault if name == "flash_attn_varlen_func" else AttributeError(name)

    kernels.flash_kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "flash_attn", Broken())
    assert kernels.flash_kernel() is None


def rows(q: Any, k: Any, v: Any, cuts: Any, *, scale: float, window: tuple[int, int], causal: bool) -> torch.Tensor:
    """Attend row by row, as both kernels are documented to do, ``(tokens, heads, D)``."""
    found, (left, right) = [], window
    for begin, end in zip(cuts.tolist(), cuts.tolist()[1:], strict=False):
        one, two, three = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        groups = one.shape[0] // two.shape[0]
        two, three = (x.repeat_interleave(groups, 0) for x in (two, three))
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        hidden = ((distance > left) & (left >= 0)) | ((-distance > right) & (right >= 0)) | ((distance < 0) & causal)
        scores = (one @ two.transpose(1, 2) * scale).masked_fill(hidden, float("-inf"))
        found.append((scores.softmax(-1) @ three).transpose(0, 1))
    return torch.cat(found)


class Flash:
    """Stands in for ``flash_attn_varlen_func``: refuses what the real one refuses, and notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        assert q.is_contiguous()
        assert k.is_contiguous()
        assert v.is_contiguous()
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert int(cu_seqlens_q[0]) == 0
        assert int(cu_seqlens_q[-1]) == len(q) == len(k) == len(v)
        assert type(max_seqlen_q) is type(max_seqlen_k) is int
        assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
        assert softmax_scale is not None
        self.calls.append({"dropout": dropout_p, "dtype": q.dtype, "scale": softmax_scale})
        return rows(q, k, v, cu_seqlens_q, scale=softmax_scale, window=window_size, causal=causal)


class Torchs(Flash):
    """Stands in for ``varlen_attn``, which takes no dropout."""

    def __call__(self, *given: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> torch.Tensor:  # type: ignore[override]
        assert enable_gqa == (given[0].shape[1] != given[1].shape[1])
        return super().__call__(*given, softmax_scale=scale, window_size=window_size)


@pytest.fixture
def packed() -> Iterator[unpad.Packing]:
    held = unpad.packing(inputs(LENGTHS)["attention_mask"])
    assert held is not None
    token = unpad._packing.set(held)
    yield held
    unpad._packing.reset(token)


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> Flash:
    """Let every attention go to a stand-in of a kernel, on the CPU."""
    fake = {"torch": Torchs, "flash_attn": Flash}[name]()
    monkeypatch.setattr(kernels, "choose", lambda query, dropout: name)
    monkeypatch.setattr(kernels, {"torch": "torch_kernel", "flash_attn": "flash_kernel"}[name], lambda: fake)
    return fake


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(
    "given", [{}, {"is_causal": True}, {"sliding_window": 4}, {"is_causal": True, "sliding_window": 4}], ids=str
)
@pytest.mark.parametrize("name", ["torch", "flash_attn"])
def test_kernel_is_asked_for_the_attention_of_the_cpu(
    packed: unpad.Packing, name: str, given: dict[str, Any], key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 4, packed.num_tokens, 8)
    k, v = (torch.randn(1, key_heads, packed.num_tokens, 8) for _ in range(2))
    expected = unpad.attention(Caller(), q, k, v, None, scaling=0.3, **given)[0]
    fake = stand_in(name, monkeypatch)
    found = unpad.attention(Caller(), q, k, v, None, scaling=0.3, **given)[0]
    assert [call["scale"] for call in fake.calls] == [0.3]
    assert found.shape == expected.shape
    assert torch.allclose(found[0, packed.places], expected[0, packed.places], atol=1e-6)


@pytest.mark.parametrize(("training", "dropped"), [(True, 0.25), (False, 0.0)])
def test_flash_attention_drops_in_training_only(
    packed: unpad.Packing, training: bool, dropped: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = stand_in("flash_attn", monkeypatch)
    x = torch.randn(1, 2, packed.num_tokens, 8)
    unpad.attention(Caller().train(training), x, x, x, None, dropout=0.25)
    assert [call["dropout"] for call in fake.calls] == [dropped]


def test_kernel_gets_16_bits_under_autocast(packed: unpad.Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in("torch", monkeypatch)
    x = torch.randn(1, 2, packed.num_tokens, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = unpad.attention(Caller(), x, x, x, None)[0]
    assert [call["dtype"] for call in fake.calls] == [torch.bfloat16]
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["BERT", "ModernBERT", "GPT-2", "EuroBERT"])
@pytest.mark.parametrize("name", ["torch", "flash_attn"])
def test_model_with_a_kernel_has_the_padded_models_loss_and_gradients(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make(family, "ForTokenClassification"), inputs()
    padded = loss_of(model, batch)
    expected = torch.autograd.grad(padded, list(model.parameters()), allow_unused=True)
    fake = stand_in(name, monkeypatch)
    installed = unpad.install(model)
    assert installed.fast, installed.reason
    fake.calls.clear()
    loss = loss_of(model, batch)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert len(fake.calls) == model.config.num_hidden_layers
    assert float(loss.detach()) == pytest.approx(float(padded.detach()), abs=1e-6)
    for one, other in zip(expected, found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or float((one - other).abs().max()) < 1e-5


def test_longest_row_is_that_of_the_boundaries(packed: unpad.Packing) -> None:
    assert packed.longest == int(packed.boundaries.diff().max())
    assert packed.longest >= max(LENGTHS)
    assert np.array_equal(packed.lengths, LENGTHS)


def test_mask_that_is_known_is_not_asked_of_its_device() -> None:
    """The meta device, which knows no numbers, stands in for a GPU."""
    mask = inputs(LENGTHS)["attention_mask"]
    elsewhere = mask.to("meta")
    unpad.remember(elsewhere, mask)
    held = unpad.packing(elsewhere)
    assert held is not None
    assert held.lengths.tolist() == list(LENGTHS)
    assert held.boundaries.device.type == held.cells.device.type == "meta"


def test_trial_takes_the_kernel_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that computes in 16 bits only would never be tried in float32."""
    wrong = stand_in("torch", monkeypatch)
    monkeypatch.setattr(kernels, "choose", lambda query, _: "torch" if query.dtype == torch.bfloat16 else None)
    monkeypatch.setattr(kernels, "available", lambda device: "torch")
    assert unpad.install(make("BERT")).fast
    assert wrong.calls
    monkeypatch.setattr(kernels, "attend", lambda name, query, *_: torch.zeros_like(query))
    assert "its results depend on the padding" in unpad.install(make("BERT")).reason


def test_devices_without_proof_are_switched_on_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(unpad.SWITCH, raising=False)
    assert unpad.is_proven("cpu")
    assert not unpad.is_proven("cuda")
    monkeypatch.setenv(unpad.SWITCH, "mps,cuda")
    assert unpad.is_proven("cuda")
    assert not unpad.is_proven("xpu")
