"""Settings: defaults, then the task's ``[train]``, ``[eval]`` and ``[predict]``, then ``--set``.

A setting is a field of a frozen dataclass; the docstring under it gives unit, range and source, and is what
``docs/reference/config.md`` shows. Every problem of one configuration is reported at once.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from bertkit.errors import ConfigError, did_you_mean, joined

Scheduler = Literal["linear", "cosine", "constant"]
OnLong = Literal["truncate", "head-tail", "window", "error"]
ClassWeights = Literal["none", "balanced"]
Precision = Literal["auto", "float32", "bf16", "fp16"]
Backend = Literal["torch", "openvino"]
OnError = Literal["stop", "skip"]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train: ``[train]`` in a task file, ``--set train.KEY=VALUE`` on the command line."""

    section: ClassVar[str] = "train"

    learning_rate: float = 5e-5
    """Peak rate of AdamW, above 0. The BERT paper searches 5e-5, 4e-5, 3e-5, 2e-5 (arXiv:1810.04805, A.3)."""
    epochs: float = 3
    """Passes over the training examples, above 0. The paper uses 2 to 4."""
    max_steps: int = 0
    """Stop after this many optimizer steps; 0 means that ``epochs`` decides."""
    batch_size: int = 32
    """Examples that one optimizer step sees, over all processes and micro-batches; at least 1."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, that go through the model at once; bounds memory, does not change the result."""
    max_length: int = 128
    """Tokens of one example, special tokens included; 8 up to what the encoder has positions for."""
    on_long: OnLong = "truncate"
    """What to do with a longer one: keep its start, its start and end (arXiv:1905.05583, 5.3.1: a quarter of the
    room to the start), read all of it in overlapping windows, or refuse it."""
    warmup_ratio: float = 0.1
    """Share of the steps over which the rate rises from 0 to its peak, 0 to 1."""
    lr_scheduler: Scheduler = "linear"
    """What the rate does after warm-up: falls to 0 on a line, on a half cosine, or stays."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment, 0 up to but not including 1."""
    adam_beta2: float = 0.999
    """Decay of AdamW's second moment, 0 up to but not including 1."""
    adam_epsilon: float = 1e-8
    """Term added to AdamW's denominator, above 0."""
    weight_decay: float = 0.01
    """Decoupled decay (arXiv:1711.05101), at least 0; never on biases and normalisation weights."""
    max_grad_norm: float = 1.0
    """Global L2 norm to which gradients are clipped; 0 does not clip."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the other labels (arXiv:1512.00567, 7), 0 up to but not including 1."""
    class_weights: ClassWeights = "none"
    """``balanced`` weighs each label's loss by rows / (labels * rows of the label), as scikit-learn does."""
    fast: bool = True
    """Spend no work on padding and draw dropout masks the quick way: on CPUs, where the encoder's family can. And
    train only the word embeddings that the training data uses, where that is exact."""
    group_by_length: bool = False
    """Draw batches of examples of similar length: faster, a little less random."""
    gradient_checkpointing: bool = False
    """Keep only what goes into each layer for the backward pass, and compute the layer again there
    (arXiv:1604.06174): less memory, about a third more work."""
    compile: bool = False
    """Compile forward and backward passes by ``torch.compile`` with dynamic shapes, in place of ``fast``: the layers
    then see padding. Compiling takes a minute or so; it may pay on a GPU."""
    eval_steps: int = 0
    """Score the validation split every so many steps; 0 means once an epoch."""
    save_steps: int = 0
    """Write a checkpoint every so many steps; 0 means at each evaluation."""
    keep_checkpoints: int = 0
    """Checkpoints to keep when the run has finished. While it trains, the newest, the best and the best before it are
    always kept."""
    patience: int = 0
    """Stop after so many evaluations without a better score; 0 never stops early."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            learning_rate=(0 < self.learning_rate < math.inf, "above 0 and finite"),
            epochs=(0 < self.epochs < math.inf, "above 0 and finite"),
            max_steps=(self.max_steps >= 0, "at least 0"),
            batch_size=(self.batch_size >= 1, "at least 1"),
            micro_batch_tokens=(self.micro_batch_tokens >= 1, "at least 1"),
            max_length=(self.max_length >= 8, "at least 8"),
            warmup_ratio=(0 <= self.warmup_ratio <= 1, "between 0 and 1"),
            adam_beta1=(0 <= self.adam_beta1 < 1, "at least 0 and below 1"),
            adam_beta2=(0 <= self.adam_beta2 < 1, "at least 0 and below 1"),
            adam_epsilon=(self.adam_epsilon > 0, "above 0"),
            weight_decay=(0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            max_grad_norm=(self.max_grad_norm >= 0, "at least 0"),
            label_smoothing=(0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            eval_steps=(self.eval_steps >= 0, "at least 0"),
            save_steps=(self.save_steps >= 0, "at least 0"),
            keep_checkpoints=(self.keep_checkpoints >= 0, "at least 0"),
            patience=(self.patience >= 0, "at least 0"),
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How to evaluate: ``[eval]`` in a task file, ``--set eval.KEY=VALUE``."""

    section: ClassVar[str] = "eval"

    batch_tokens: int = 0
    """Tokens, padding included, that go through the model at once without gradients; 0 is 2,048 on a CPU, where more
    leave the processor's caches, and 16,384 on other devices."""
    resamples: int = 1000
    """Bootstrap resamples behind each 95 % interval; 0 leaves the intervals out."""
    decode: Literal["auto", "viterbi", "argmax"] = "auto"
    """Token tagging: ``viterbi`` gives the likeliest legal tag sequence, ``argmax`` each word's likeliest tag; ``auto``
    is ``viterbi`` where the tags are BIO-like."""
    calibrate: bool = False
    """Classification: after training, fit a temperature (arXiv:1706.04599, 4.2) on half of validation, and where there
    are two labels, or several a row, the threshold with the best first metric. The other half is what is scored."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            batch_tokens=(self.batch_tokens >= 0, "at least 0"),
            resamples=(self.resamples == 0 or self.resamples >= 100, "0, or at least 100"),
        )


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How to predict: ``[predict]`` in a task file, ``--set predict.KEY=VALUE``."""

    section: ClassVar[str] = "predict"

    column: str = "prediction"
    """Name of the field that is added to each row."""
    chunk: int = 4096
    """Rows that are held in memory, sorted by length, at one time; at least 1."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(self, column=(bool(self.column), "not empty"), chunk=(self.chunk >= 1, "at least 1"))


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where and how precisely to compute: ``--device``, ``--precision``, ``--threads``."""

    section: ClassVar[str] = "device"

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    precision: Precision = "auto"
    """``auto`` is bf16 autocast where the device does it well, fp16 on older GPUs, else float32."""
    threads: int = 0
    """CPU threads for torch; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        name, _, index = self.device.partition(":")
        known = name in {"auto", "cpu", "cuda", "mps"} and (not index or (name == "cuda" and index.isdigit()))
        _check(
            self,
            device=(known, "auto, cpu, cuda, cuda:N or mps"),
            threads=(self.threads >= 0, "at least 0"),
        )


MOST_LEVELS = 16
"""Tables and lists inside each other that a task file may have, and dots of a ``--set``; the deepest in use is 3."""

Config = TypeVar("Config", TrainConfig, EvalConfig, PredictConfig, DeviceConfig)
SECTIONS: dict[str, type[TrainConfig | EvalConfig | PredictConfig]] = {
    kind.section: kind for kind in (TrainConfig, EvalConfig, PredictConfig)
}


def build(kind: type[Config], *layers: Mapping[str, Any]) -> Config:
    """Build ``kind`` from layers of settings, later ones over earlier ones.

    Raises:
        ConfigError: naming every unknown key, wrong type and value out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    types = {f.name: f.type for f in fields(kind)}
    problems = [
        f"{kind.section}.{key} is not a setting.{did_you_mean(key, types)}" for key in merged if key not in types
    ]
    values: dict[str, Any] = {}
    for key in merged.keys() & types.keys():
        try:
            values[key] = convert(merged[key], types[key])
        except ValueError as error:
            problems.append(f"{kind.section}.{key} is {merged[key]!r}, and must be {error}")
    if problems:
        raise ConfigError(joined(sorted(problems)))
    return kind(**values)


def convert(value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind`` (a plain type or a ``Literal`` of strings).

    Raises:
        ValueError: whose text says what it must be.
    """
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        raise ValueError(f"one of {', '.join(map(repr, choices))}")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("a number that a float can hold") from None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(
        {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}[kind.__name__]
    )


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Turn ``["train.epochs=2", "columns.label=stars"]`` into ``{"train": {"epochs": 2}, "columns": {...}}``.

    A value is read as TOML where it is TOML (``2e-5``, ``true``, ``["a", "b"]``), else as text.

    Raises:
        ConfigError: for a setting without ``=`` or without a name.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set takes KEY=VALUE, for example --set train.epochs=2, and got {setting!r}.")
        if len(keys) > MOST_LEVELS:
            raise ConfigError(f"--set {setting[:40]!r}... goes {len(keys)} levels deep, and no setting does.")
        place = tree
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {setting!r} goes below {key!r}, which another --set gives a value.")
        if isinstance(place.get(keys[-1]), dict):
            raise ConfigError(
                f"--set {setting!r} replaces the whole of {path.strip()!r}, below which another --set goes."
            )
        place[keys[-1]] = _toml_value(text.strip())
    return tree


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML, and of it only what can be kept as JSON.

    Raises:
        ValueError: if it is no TOML, is nested deeper than :data:`MOST_LEVELS`, or holds an integer beyond 64 bits
            (TOML 1.0.0, "Integer", asks for no more).
    """
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    layer: list[Any] = [table]
    for _ in range(MOST_LEVELS):
        if any(isinstance(one, int) and not -(2**63) <= one < 2**63 for one in layer):
            raise ValueError("it holds a whole number of more than 64 bits")
        layer = [item for one in layer for item in _items(one)]
        if not layer:
            return table
    raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def describe(config: TrainConfig | EvalConfig | PredictConfig | DeviceConfig) -> dict[str, Any]:
    """Return the settings as JSON-able values, in their order."""
    return asdict(config)


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return ``"train.epochs is 3 here and 2 there"`` for the first leaf that differs, or None."""
    left, right = dict(_leaves(ours)), dict(_leaves(theirs))
    for key in [*left, *(k for k in right if k not in left)]:
        if left.get(key) != right.get(key):
            return f"{key} is {left.get(key)!r} now and was {right.get(key)!r}"
    return None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _toml_value(text: str) -> Any:
    try:
        parsed = read_toml(f"value = {text}")
    except ValueError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _check(config: Any, **rules: tuple[bool, str]) -> None:
    problems = [
        f"{config.section}.{name} is {getattr(config, name)!r}, and must be {allowed}"
        for name, (holds, allowed) in rules.items()
        if not holds
    ]
    if problems:
        raise ConfigError(joined(problems) + ".")
