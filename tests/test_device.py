"""Device and precision: what ``auto`` takes on which machine, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from bertkit import device
from bertkit.config import DeviceConfig
from bertkit.errors import ConfigError


class Machine:
    """What torch says of the machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda: tuple[int, int] | None = None
        self.gpus = 1
        self.mps = False
        self.cpu: dict[str, Any] = {}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.cuda is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name=None: self.cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: self.mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: self.cpu, raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def choose(**given: Any) -> device.Device:
    return device.choose(DeviceConfig(**given))


@pytest.mark.parametrize(
    ("features", "precision", "reason"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16", "the CPU has amx_bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16", "the CPU has avx512_bf16"),
        ({"avx2": True, "avx512_bf16": False}, "float32", "the CPU has neither amx_bf16 nor avx512_bf16"),
        ({}, "float32", "the CPU has neither amx_bf16 nor avx512_bf16"),
    ],
)
def test_auto_on_a_cpu_follows_its_features(
    machine: Machine, features: dict[str, Any], precision: str, reason: str
) -> None:
    machine.cpu = features
    found = choose()
    assert (found.name, found.precision, found.reason) == ("cpu", precision, reason)


def test_auto_on_a_torch_that_tells_no_features_is_float32(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose().precision == "float32"


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_auto_on_a_gpu_follows_its_capability(machine: Machine, capability: tuple[int, int], precision: str) -> None:
    machine.cuda = capability
    found = choose()
    assert (found.name, found.precision) == ("cuda", precision)
    assert f"{capability[0]}.{capability[1]}" in found.reason


def test_auto_on_mps_is_float32(machine: Machine) -> None:
    machine.mps = True
    assert (choose().name, choose().precision) == ("mps", "float32")


def test_auto_takes_cuda_before_mps_before_cpu(machine: Machine) -> None:
    machine.cuda, machine.mps = (8, 0), True
    assert choose().name == "cuda"
    machine.cuda = None
    assert choose().name == "mps"
    machine.mps = False
    assert choose().name == "cpu"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_precision_that_is_asked_for_is_taken(machine: Machine, precision: Any) -> None:
    found = choose(precision=precision)
    assert (found.precision, found.reason) == (precision, "asked for")


def test_fp16_on_a_gpu_is_taken(machine: Machine) -> None:
    machine.cuda = (8, 0)
    assert choose(precision="fp16").precision == "fp16"


@pytest.mark.parametrize(("mps", "name"), [(False, "cpu"), (True, "mps")])
def test_fp16_without_cuda_is_refused(machine: Machine, mps: bool, name: str) -> None:
    machine.mps = mps
    match = rf"--precision fp16 needs a CUDA GPU, and the device is {name}\. Use --precision float32\."
    with pytest.raises(ConfigError, match=match):
        choose(precision="fp16")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_device_that_is_not_there_is_refused(machine: Machine, name: str) -> None:
    match = rf"--device {name}: torch finds no such device here\. 'bertkit doctor' shows what there is\."
    with pytest.raises(ConfigError, match=match):
        choose(device=name)


def test_gpu_beyond_the_last_is_refused(machine: Machine) -> None:
    machine.cuda, machine.gpus = (8, 0), 2
    assert choose(device="cuda:1").name == "cuda:1"
    with pytest.raises(ConfigError, match=r"--device cuda:2: there are 2 GPUs, counted from cuda:0\."):
        choose(device="cuda:2")


@pytest.mark.parametrize("name", ["tpu", "gpu", "cpu:0", "cuda:x", "CUDA", ""])
def test_unknown_device_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device\.device is '{name}', and must be auto, cpu, cuda, cuda:N or mps"):
        DeviceConfig(device=name)


def test_threads_are_set_where_they_are_given(machine: Machine) -> None:
    before = torch.get_num_threads()
    try:
        assert choose(threads=2).threads == torch.get_num_threads() == 2
        assert choose().threads == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("_fresh_accelerate")
def test_accelerators_of_different_precisions_follow_each_other() -> None:
    for precision, dtype in [("float32", torch.float32), ("bf16", torch.bfloat16), ("float32", torch.float32)]:
        made = device.accelerator(device.Device(name="cpu", precision=precision, reason="", threads=1))
        assert made.device.type == "cpu"
        with made.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.usefixtures("_fresh_accelerate")
def test_processes_of_a_launcher_that_is_not_known_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    real = accelerate.Accelerator

    def launched(**options: Any) -> Any:
        made = real(**options)
        PartialState._shared_state["num_processes"] = 2
        return made

    monkeypatch.setattr(accelerate, "Accelerator", launched)
    with pytest.raises(ConfigError, match=r"Accelerate finds 2 processes, whose launcher sets no RANK and WORLD_SIZE"):
        device.accelerator(device.Device(name="cpu", precision="float32", reason="", threads=1))


CPU = device.Device(name="cpu", precision="float32", reason="", threads=1)


def test_processes_that_have_not_joined_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"started in 2 processes, and this runs in one\. Start it without a launcher"
    ):
        device.accelerator(CPU)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for deepspeed; bertkit trains with DDP or FSDP2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "asks for FSDP 1; bertkit shards with fsdp_version: 2"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "has gradient_accumulation_steps 4, and train.batch_size is"),
    ],
)
def test_what_a_configuration_asks_for_in_vain_is_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        device.accelerator(CPU)


@pytest.mark.parametrize(
    ("library", "environment", "calls"),
    [
        ("glibc", {}, [(-3, 2**22), (-1, 2**22)]),
        ("glibc", {"MALLOC_TRIM_THRESHOLD_": "1"}, []),
        ("musl", {}, []),
    ],
)
def test_freed_memory_is_kept_where_the_user_says_nothing_else(
    library: str, environment: dict[str, str], calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __init__(self, name: None) -> None: ...

        def mallopt(self, parameter: int, value: int) -> int:
            seen.append((parameter, value))
            return 1

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(device.platform, "libc_ver", lambda: (library, "2.36"))
    monkeypatch.setattr(device.ctypes, "CDLL", Library)
    monkeypatch.setattr(device.os, "environ", environment)
    device._keep_freed_memory.__wrapped__()
    assert seen == calls


def test_onednns_cache_is_limited_unless_the_environment_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = device.PRIMITIVES
    monkeypatch.delenv(name, raising=False)
    device.choose(DeviceConfig(device="cpu"))
    assert os.environ[name] == value
    monkeypatch.setenv(name, "2000")
    device.choose(DeviceConfig(device="cpu"))
    assert os.environ[name] == "2000"


@pytest.fixture
def tf32() -> Iterator[None]:
    """Let another part of the process ask for TF32, and put torch's defaults back."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("precision", ["auto", "float32", "fp16"])
def test_float32_is_float32_on_cuda(machine: Machine, precision: Any) -> None:
    machine.cuda = (8, 0)
    assert device.tf32("cuda")
    choose(precision=precision)
    assert not device.tf32("cuda")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("tf32")
def test_tf32_is_left_alone_without_cuda(machine: Machine) -> None:
    choose()
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    assert not device.tf32("cpu")


def test_tf32_of_convolutions_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's default on CUDA."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert torch.get_float32_matmul_precision() == "highest"
    assert device.tf32("cuda:1")


@pytest.mark.usefixtures("_fresh_accelerate")
def test_compiling_is_accelerates_with_changing_shapes() -> None:
    place = device.Device(name="cpu", precision="float32", reason="", threads=1)
    plugin = device.accelerator(place, compiled=True).state.dynamo_plugin
    assert (plugin.backend.value, plugin.dynamic) == ("INDUCTOR", True)
    assert device.accelerator(place).state.dynamo_plugin.backend.value == "NO"


def test_compiler_of_a_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    match = r"configuration has dynamo_backend inductor; here --set train\.compile=true compiles"
    with pytest.raises(ConfigError, match=match):
        device.accelerator(device.Device(name="cpu", precision="float32", reason="", threads=1))
