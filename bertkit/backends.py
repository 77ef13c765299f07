"""What computes predictions in place of torch: OpenVINO, converted once, kept, and held against torch on real rows.

``openvino.convert_model`` takes a transformers model as it is. What it gives is kept under a key of the model's files
and the versions that made it, in the run's folder ``openvino/`` (never in ``model/``, which is transformers' own) or,
for a model that is no run's or cannot be written to, in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args
from uuid import uuid4

from bertkit.adapters.base import MODEL_INPUTS
from bertkit.config import Backend
from bertkit.data import cache
from bertkit.errors import ConfigError, ModelError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bertkit.encoder import Encoder

OUTPUTS = ("logits", "start_logits", "end_logits")
"""What the heads of the task types give; all that is read of a converted model."""
COMPARED = 64
"""Rows on which a conversion is held against torch before it is trusted."""
TOLERANCE = {"float32": 1e-3, "bf16": 3e-2}
"""How far nine of ten rows may differ, relative to the largest logit (to 1 where that is smaller)."""
WORST = 4
"""No row may differ by more than this many times the tolerance."""
HINTS = {"float32": "f32", "bf16": "bf16"}


def check(backend: str) -> None:
    """Refuse a backend that does not exist or is not installed, before anything is loaded.

    Raises:
        ConfigError: naming it, and how it is installed.
    """
    known = get_args(Backend)
    if backend not in known:
        raise ConfigError(f"--backend {backend}: there is {' and '.join(known)}.{did_you_mean(backend, known)}")
    if backend == "openvino" and importlib.util.find_spec("openvino") is None:
        raise ConfigError("--backend openvino needs a package that is not installed: pip install 'bertkit[openvino]'.")


class OpenVino:
    """A converted model, to be called as the torch model is."""

    def __init__(self, compiled: Any, conversion: Conversion, *, precision: str) -> None:
        """Take a compiled model, where it is kept, and its precision."""
        self._compiled = compiled
        self._inputs = {port.get_any_name() for port in compiled.inputs}
        self._outputs = {name: port for port in compiled.outputs for name in port.get_names() if name in OUTPUTS}
        self._conversion = conversion
        self.precision = precision

    @property
    def trusted(self) -> bool:
        """Whether :data:`COMPARED` rows have shown, now or earlier, that it does what torch does."""
        return self._conversion.compared(self.precision) >= COMPARED

    def trust(self, rows: int) -> None:
        """Remember that so many more rows agreed."""
        self._conversion.remember(self.precision, rows)

    def eval(self) -> OpenVino:
        """Do nothing: it cannot train."""
        return self

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Run a batch.

        Args:
            inputs: ``(B, T)`` int64 each, what the torch model takes.

        Returns:
            What the head gives, float32: ``logits`` ``(B, K)`` or ``(B, T, K)``, or ``start_logits`` and
            ``end_logits`` ``(B, T)``.
        """
        import torch

        found = self._compiled({name: value.numpy() for name, value in inputs.items() if name in self._inputs})
        return SimpleNamespace(**{name: torch.from_numpy(found[port]) for name, port in self._outputs.items()})


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model on disk; ``folder`` is None where there is no place that could be written to."""

    folder: Path | None

    @property
    def model(self) -> Path | None:
        """The model's file, where it is there whole."""
        file = self.folder / "model.xml" if self.folder else None
        return file if file is not None and file.is_file() and file.with_suffix(".bin").is_file() else None

    def compared(self, precision: str) -> int:
        """Return how many rows agreed with torch's."""
        return int(self._compared().get(precision, 0))

    def remember(self, precision: str, rows: int) -> None:
        """Add to the rows that agreed."""
        if self.folder is None or self.model is None:
            return
        text = json.dumps(self._compared() | {precision: self.compared(precision) + rows}) + "\n"
        beside = self.folder / f".{uuid4().hex}"
        # Where it cannot be remembered, the next call compares again.
        with suppress(OSError):
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.folder / "compared.json")

    def _compared(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "compared.json").read_text(encoding="utf-8")) if self.folder else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def openvino(loaded: Encoder, *, name: str, beside: Path | None, precision: str, threads: int = 0) -> OpenVino:
    """Return a model as OpenVINO runs it, converted now or earlier.

    Args:
        loaded: the torch model, in float32 and without hooks, and its tokenizer.
        name: of the model, for messages.
        beside: the folder of its run, or None.
        precision: ``float32`` or ``bf16``, of the products.
        threads: CPU threads; 0 is OpenVINO's choice.

    Raises:
        ModelError: if OpenVINO cannot take the model.
    """
    key = _key(loaded)
    conversion = next((found for found in _places(key, beside) if found.model), None)
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    try:
        import openvino

        converted: Any = conversion.model if conversion else _converted(loaded)
        if conversion is None:
            conversion = _kept(converted, _places(key, beside))
            # The converted model shares torch's weights; the file is its own.
            converted = conversion.model or converted
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
    except Exception as error:
        # OpenVINO tells of a family that it cannot take by whatever its tracing or its parts raise.
        why = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"{name} cannot be run by OpenVINO ({type(error).__name__}: {why:.200}). Use --backend torch."
        ) from error
    made = OpenVino(compiled, conversion, precision=precision)
    if not made._outputs:
        raise ModelError(f"{name} cannot be run by OpenVINO: what it gives is not {', '.join(OUTPUTS)}.")
    return made


def _places(key: str, beside: Path | None) -> Iterator[Conversion]:
    """Yield where a conversion may be: the run's own folder, then the user's cache."""
    if beside is not None:
        yield Conversion(folder=beside / "openvino" / key)
    if (place := cache.folder()) is not None:
        yield Conversion(folder=place.with_name(f"{place.name}-openvino") / key)


def _key(loaded: Encoder) -> str:
    """Return the hash of all that decides what a conversion is: weights, config, head, inputs and versions."""
    files = [file for file in sorted(loaded.source.folder.iterdir()) if file.suffix == ".safetensors"]
    found = hashlib.sha256()
    for path in (*files, loaded.source.folder / "config.json"):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    versions = {package: metadata.version(package) for package in ("openvino", "torch", "transformers")}
    about = {"versions": versions, "class": type(loaded.model).__name__, "inputs": _input_names(loaded)}
    found.update(json.dumps(about, sort_keys=True).encode())
    return found.hexdigest()[:16]


def _input_names(loaded: Encoder) -> list[str]:
    """Return what batches of this model hold."""
    optional = "token_type_ids"
    return [name for name in MODEL_INPUTS if name != optional or name in loaded.tokenizer.model_input_names]


def _converted(loaded: Encoder) -> Any:
    """Return the model as an ``openvino.Model`` with B and T left open."""
    import openvino
    import torch

    config = loaded.model.config
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    ids = torch.arange(14).view(2, 7) % min(config.vocab_size, 32)
    ids = torch.where(mask.bool(), ids, config.pad_token_id or 0)
    sample = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    cached = getattr(config, "use_cache", None)
    try:
        if cached:
            config.use_cache = False
        with _quiet(), torch.no_grad():
            return openvino.convert_model(
                loaded.model.eval(), example_input={name: sample[name] for name in _input_names(loaded)}
            )
    finally:
        if cached:
            config.use_cache = cached


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what tracing warns of, and the usage statistics that OpenVINO's converter sends to its makers.

    The converter uses a stand-in that sends nothing where ``openvino-telemetry`` is missing; here it always does.
    """
    from openvino.tools.ovc import convert_impl, telemetry_stub, telemetry_utils
    from transformers.utils import logging

    modules = (convert_impl, telemetry_utils)
    before = [module.tm for module in modules]
    level = logging.get_verbosity()
    for module in modules:
        module.tm = telemetry_stub
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        for module, value in zip(modules, before, strict=True):
            module.tm = value


def _kept(converted: Any, places: Iterator[Conversion]) -> Conversion:
    """Write a conversion, whole or not at all, to the first place that takes it."""
    import openvino

    for conversion in places:
        assert conversion.folder is not None
        beside = conversion.folder.with_name(f".{uuid4().hex}")
        try:
            beside.mkdir(parents=True)
            openvino.save_model(converted, beside / "model.xml", compress_to_fp16=False)
            # One that another process wrote in the meantime is as good.
            if conversion.model is None:
                shutil.rmtree(conversion.folder, ignore_errors=True)
                os.replace(beside, conversion.folder)
        except (OSError, RuntimeError):
            continue
        else:
            return conversion
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return Conversion(folder=None)


# Agreement -------------------------------------------------------------------------------------------------------


def agree(ours: Sequence[np.ndarray], torchs: Sequence[np.ndarray], *, name: str, precision: str) -> None:
    """Hold what the adapter kept of OpenVINO's outputs against what it kept of torch's, in float32.

    A label, tag or answer can then differ only where torch itself is about undecided.

    Args:
        ours: one array a feature, as :meth:`Adapter.reduce` gives them.
        torchs: the same features.
        name: of the model, for the message.
        precision: of ``ours``.

    Raises:
        ModelError: if they differ by more than rounding does.
    """
    gaps = sorted(gap(one, other) for one, other in zip(ours, torchs, strict=True))
    allowed = TOLERANCE[precision]
    most = gaps[len(gaps) - 1 - len(gaps) // 10] if gaps else 0.0
    # Not a number is no agreement.
    if gaps and not (most <= allowed and gaps[-1] <= WORST * allowed):
        raise ModelError(
            f"OpenVINO does not predict what torch does with {name}: of {len(gaps)} rows of the input, nine of ten "
            f"differ by up to {most:.2g} and the worst by {gaps[-1]:.2g} of the largest logit ({allowed:g} and "
            f"{WORST * allowed:g} are allowed in {precision}). Use --backend torch."
        )


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """Return by how much two results of one feature differ, relative to the largest number of ``other`` (at least 1).

    Args:
        one: logits, ``(K,)`` or ``(n, K)``, or spans as :mod:`bertkit.adapters.span_qa` keeps them: ``(M, 3)``
            float64 of start, end, score, best first after the row of no answer.
        other: the same of the model to compare with.

    Returns:
        The largest difference of a number; of spans: of the scores, place by place, and of what ``other`` thinks of
        its own best span and of ``one``'s.
    """
    import numpy as np

    spans = other.dtype == np.float64 and other.ndim == 2
    if one.shape != other.shape:
        return float("inf")
    mine, theirs = (one[:, 2], other[:, 2]) if spans else (one, other)
    finite = np.isfinite(theirs)
    if not finite.any():
        return 0.0
    scale = max(1.0, float(np.abs(theirs[finite]).max()))
    found = float(np.abs(mine[finite] - theirs[finite]).max())
    if spans and len(other) > 1 and np.isfinite(other[1, 2]):
        scores: Mapping[tuple[float, float], float] = {(row[0], row[1]): row[2] for row in other[1:]}
        least = float(theirs[finite].min())
        found = max(found, float(other[1, 2] - scores.get((one[1, 0], one[1, 1]), least)))
    return found / scale
