"""What a task type is: the methods that the rest of bertkit calls, with the defaults that most types share.

Shape letters: ``B`` batch (windows), ``T`` padded length, ``K`` labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from bertkit import heads
from bertkit.adapters import columns as packing
from bertkit.adapters.columns import Columns
from bertkit.config import EvalConfig, TrainConfig, build, convert
from bertkit.errors import ConfigError, DataError, did_you_mean, sentence
from bertkit.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from bertkit.metrics.significance import Tally

Example = dict[str, Any]
Prediction = dict[str, Any]
Batch = dict[str, Any]
Writer = Callable[["Adapter", Iterable[tuple[Example, Prediction]]], Iterator[str]]
"""From rows and their predictions to the lines of a file."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What of a batch a model is called with."""
HIDDEN = "hidden"
"""What a model is called with beside them, where its frozen encoder's features are kept: :mod:`bertkit.frozen`."""
NUMBERS = ("example", "num_cut")
"""What of a feature is a number."""


@dataclass(slots=True, kw_only=True)
class Feature:
    """One row that goes through the model: an example, or a window of one."""

    example: int
    """Index of the example among those that were encoded together."""
    input_ids: list[int]
    token_type_ids: list[int] | None = None
    target: Any = None
    """What the loss compares with; None without a label."""
    num_cut: int = 0
    """Tokens of the example that no window shows; the same in all its windows."""
    aligned: Any = None
    """What the type notes of the positions (which word, where in the text); not given to the model."""
    cached: int = -1
    """Its number among the rows whose features are kept, while a frozen encoder's are; -1 where they are not."""

    def __len__(self) -> int:
        return len(self.input_ids)


class Loss(NamedTuple):
    """A loss that can be added up over micro-batches and processes."""

    sum: torch.Tensor
    """Scalar, float32: the loss of every item, added."""
    weight: torch.Tensor
    """Scalar, float32: what the sum over the whole effective batch is divided by."""
    parts: Mapping[str, torch.Tensor] = {}
    """Named terms of the sum, scalars, for the log; every batch of an objective has the same names."""


class Padding(NamedTuple):
    """How rows are made equally long."""

    token: int
    token_type: int
    left: bool


class States(Protocol):
    """What is kept of a frozen encoder."""

    def batch(self, features: Sequence[Feature], width: int, *, left: bool) -> torch.Tensor:
        """Return what is kept of features, padded to ``width``."""


class Adapter:
    """A task type. One instance serves one run."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Roles: ``?`` is optional, ``!`` is needed only to train and to score."""
    auto_class: ClassVar[str] = ""
    """The transformers Auto class with this type's head."""
    pipeline: ClassVar[str] = ""
    """The Hub's name of what a model of this type does, for its card (``text-classification``)."""
    usage: ClassVar[str] = 'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("model")'
    """How a saved model is used in plain transformers, for its card."""
    options: ClassVar[dict[str, type]] = {}
    """Keys of ``[options]`` that this type knows, and their types."""
    decoding: ClassVar[frozenset[str]] = frozenset()
    """Those of the options that a trained model can still be given: they change no feature's target."""
    decoders: ClassVar[tuple[str, ...]] = ()
    """What ``eval.decode`` may name for this type, ``auto`` aside."""
    writers: ClassVar[dict[str, Writer]] = {}
    """Formats of the field, beside JSON Lines, in which ``predict --format`` writes."""
    calibrates: ClassVar[bool] = False
    """Whether ``eval.calibrate`` means anything to this type: its :meth:`tune` then takes half of validation."""
    defaults: ClassVar[dict[str, Any]] = {}
    """Training settings whose default is another for this type (``{"max_length": 384}``)."""

    def __init__(self, task: Task, config: TrainConfig, labels: Sequence[str]) -> None:
        self.task = task
        self.config = config
        self.evaluation = build(EvalConfig, task.settings.get("eval", {}))
        self.labels = tuple(labels)
        self.ids = {name: index for index, name in enumerate(self.labels)}
        self.padding = Padding(token=0, token_type=0, left=False)
        self.weights: list[float] | None = None
        self.states: States | None = None
        """What is kept of a frozen encoder, while a head trains on it."""
        self.check_options()

    # What a type must say ------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, examples: Sequence[Example]) -> bool:
        """Say whether rows of a bare data file are of this type, by their columns."""
        return False

    @classmethod
    def resolve(cls, task: Task, examples: Sequence[Example]) -> tuple[Task, list[str]]:
        """Fill in what the task leaves to the data (columns, kind, labels, metrics), and say what was assumed.

        Args:
            task: as its file has it.
            examples: the training examples, or any labelled ones.

        Raises:
            DataError: if a column is missing or the labels make no sense for this type.
            ConfigError: if a metric does not fit.
        """
        raise NotImplementedError

    @property
    def problem_type(self) -> str:
        """Return transformers' ``problem_type`` for the config, or an empty string."""
        return ""

    @property
    def num_outputs(self) -> int | None:
        """Return the width of the head where the labels do not decide it, else None."""
        return None

    def check(self, example: Example, *, labelled: bool = True) -> list[str]:
        """Return what is wrong with an example; the caller attaches file and line."""
        raise NotImplementedError

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
        """Turn examples into features, in order; windows of one example follow each other.

        Raises:
            DataError: under ``on_long = "error"``, for an example that is too long.
        """
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Return the loss of a batch, summed, with the weight that it must be divided by."""
        raise NotImplementedError

    def weight_of(self, feature: Feature) -> float:
        """Return what a feature adds to the weight of :meth:`loss`; needed where another loss stands beside it."""
        raise NotImplementedError

    def reduce(self, outputs: Any, batch: Batch) -> Sequence[np.ndarray]:
        """Return one array a feature, on the CPU, with only what :meth:`decode` needs."""
        raise NotImplementedError

    def decode(
        self, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return one JSON-able prediction per example; all features of an example come in the same call."""
        raise NotImplementedError

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, resamples: int = 0
    ) -> dict[str, Any]:
        """Return metric -> value over the examples, and ``<metric>_interval`` where ``resamples`` is not 0."""
        raise NotImplementedError

    def labelled(self, examples: Sequence[Example]) -> bool:
        """Say whether the split can be scored; a split whose every label is missing cannot (GLUE's tests)."""
        raise NotImplementedError

    @classmethod
    def guessed(cls, task: Task, examples: Sequence[Example]) -> tuple[dict[str, Any], list[str]]:
        """Return the column of every role that the task names or that can be guessed, and the guesses in sentences.

        Raises:
            DataError: if a column that the task names is in no row, or no column fits a role that is needed.
        """
        from bertkit.data import guess

        names = list(dict.fromkeys(name for example in examples for name in example))
        there = ", ".join(map(repr, names[:12]))
        for role, column in task.columns.items():
            # Another column must not silently take the place of the one that is named.
            if isinstance(column, str) and column not in names and role in names:
                near = did_you_mean(column, names)
                raise DataError(
                    f"No row has the column '{column}', which is named for {role}.{near} There are {there}."
                )
        found = guess.guess_columns(examples, cls.columns, given=task.columns)
        columns = dict(task.columns) | found.columns
        for role in (role.rstrip("!") for role in cls.columns if not role.endswith("?")):
            if not any(name in names for name in (str(columns.get(role)), role)):
                raise DataError(
                    f"no column fits the role '{role}'; there are {there}. Name one with --set columns.{role}=NAME."
                )
        return columns, list(found.notes)

    # What most types leave as it is --------------------------------------------------------------------------

    def tally(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Tally:
        """Return what each example adds to the task's metrics, so that two models can be compared.

        Any type can be scored on any choice of examples by :meth:`score`; a type whose scores are sums is much faster.
        """
        import numpy as np

        from bertkit.metrics.significance import Tally

        names = tuple(self.task.metrics)

        def of_choice(chosen: Sequence[int]) -> list[float]:
            scores = self.score([predictions[n] for n in chosen], [examples[n] for n in chosen])
            return [scores[name] for name in names]

        def scorer(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            places = rows[:, 0]
            return lambda weights: np.array([of_choice(np.repeat(places, w.astype(int)).tolist()) for w in weights])

        return Tally(names=names, rows=np.arange(len(predictions))[:, None], score=scorer)

    def grades(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> np.ndarray:
        """Return how good each prediction is, ``(n,)`` float64: 1 right, 0 wrong; of numbers, minus the error."""
        import numpy as np

        metric, pairs = self.task.metrics[0], zip(predictions, examples, strict=True)
        return np.array([self.score([prediction], [example])[metric] for prediction, example in pairs])

    def details(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return what stands behind the scores (each entity type, each label), JSON-able."""
        return {}

    def outcomes(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return predictions beside the truth as plain columns for the report; empty where the type has none.

        ``form`` names the module of :mod:`bertkit.report` that reads them, and that module says what is needed.
        """
        return {}

    def unusable(self, example: Example) -> str:
        """Return why an example that can be scored cannot be trained on, or an empty text."""
        return ""

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Return what is worth saying about a split's examples, half a sentence each."""
        return []

    def documents(self, example: Example) -> Sequence[Hashable]:
        """Return what an example is part of and should stay with in a cut, largest first; empty where nothing."""
        return ()

    @property
    def tunes(self) -> bool:
        """Say whether :meth:`tune` wants predictions on training examples that were held out for it.

        Under ``eval.calibrate`` it is given half of validation instead, where the type calibrates.
        """
        return False

    def tune(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str:
        """Choose what :meth:`state` holds by predictions on held-out examples, and say what was chosen."""
        return ""

    def example_of(self, text: str) -> Example:
        """Return the example that a bare text stands for.

        Raises:
            DataError: if this type needs more than a text.
        """
        return {self.column(self.columns[0].rstrip("?!")): text}

    def truncation(self, features: Sequence[Feature], examples: Sequence[Example]) -> dict[str, Any]:
        """Return what the length limit cuts: examples and tokens, as counts and shares."""
        per_example = {feature.example: feature.num_cut for feature in features}
        cut = [number for number in per_example.values() if number]
        several = {one.example for one, other in pairwise(features) if one.example == other.example}
        total = sum(map(len, features)) + sum(cut)
        return {
            "examples": len(cut),
            "share_of_examples": len(cut) / max(1, len(per_example)),
            "tokens": sum(cut),
            "share_of_tokens": sum(cut) / max(1, total),
            "examples_in_windows": len(several),
        }

    def truncation_notes(self, found: Mapping[str, Any]) -> list[str]:
        """Return the sentences that tell what :meth:`truncation` found; none where nothing is lost."""
        if not found["examples"]:
            return []
        return [
            f"{found['examples']} examples ({found['share_of_examples']:.1%}) are longer than {self.config.max_length} "
            f"tokens and are cut (on_long = '{self.config.on_long}'), {found['share_of_tokens']:.1%} of all tokens"
        ]

    def state(self) -> dict[str, Any]:
        """Return what was tuned after training (threshold, temperature), for ``model/bertkit.json``."""
        return {}

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""

    def better(self, new: float, old: float | None) -> bool:
        """Say whether a value of the task's first metric beats the best so far; higher is better by default."""
        return old is None or new > old

    def constant(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str | None:
        """Return the one answer that every prediction gives though the references differ, or None."""
        return None

    def class_weights(self, features: Sequence[Feature]) -> list[float] | None:
        """Return the weight of each label's loss under ``train.class_weights``, or None where all count alike."""
        return None

    def prepare(self, features: Sequence[Feature]) -> None:
        """Look at the training features once, before the first step."""
        self.weights = self.class_weights(features)

    def inputs(self, batch: Batch) -> Batch:
        """Return what the model is called with: neither targets nor what :meth:`reduce` needs beside the outputs."""
        return {name: value for name, value in batch.items() if name in (*MODEL_INPUTS, HIDDEN)}

    def balance(self, examples: Sequence[Example]) -> dict[str, int]:
        """Return label -> number of examples, for ``check``; empty where the type has no label table."""
        return {}

    def readings(self, example: Example) -> dict[str, str]:
        """Return the texts of a checked example that the model reads, by role."""
        roles = [role.rstrip("?") for role in self.columns if not role.endswith("!")]
        values = {role: self.value(example, role) for role in roles if role in self.task.columns}
        return {role: value if isinstance(value, str) else "" for role, value in values.items()}

    def truth(self, example: Example) -> Hashable:
        """Return what a checked example is labelled with, equal where labels are; None without a label."""
        return None

    def stratum(self, example: Example) -> Hashable:
        """Return the group by which a validation split is cut off in equal shares (the label)."""
        return None

    def facts(self) -> dict[str, Any]:
        """Return what ``model/bertkit.json`` must say so that predict does what training did."""
        return {
            "type": self.task.type,
            "kind": self.task.kind,
            "columns": self.task.columns,
            "options": self.task.options,
            "eval": {key: value for key, value in self.task.settings.get("eval", {}).items() if key == "decode"},
            "metrics": list(self.task.metrics),
            "labels": list(self.labels),
            "max_length": self.config.max_length,
            "on_long": self.config.on_long,
            "state": self.state(),
        }

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take from the tokenizer how rows are padded; called once, before :meth:`collate`."""
        self.padding = Padding(
            token=tokenizer.pad_token_id, token_type=tokenizer.pad_token_type_id, left=tokenizer.padding_side == "left"
        )

    def collate(self, features: Sequence[Feature], rng: np.random.Generator | None = None) -> Batch:
        """Pad features to the longest of them.

        On a GPU the first batch of a step is made before the step in front of it ends; so one that draws random numbers
        of its own may get other ones where a run is resumed.

        Args:
            features: B of them.
            rng: for types whose inputs are drawn anew each time (masking).

        Returns:
            ``input_ids``, ``attention_mask`` and, where the model takes them, ``token_type_ids``, each ``(B, T)``
            int64; ``labels`` as :meth:`targets` makes them.
        """
        import torch

        pad = self.padding
        real = torch.from_numpy(filled([len(f) for f in features], left=pad.left))
        batch: Batch = {
            "input_ids": padded([f.input_ids for f in features], pad.token, left=pad.left),
            "attention_mask": real.long(),
        }
        types = [f.token_type_ids for f in features if f.token_type_ids is not None]
        if types:
            batch["token_type_ids"] = padded(types, pad.token_type, left=pad.left)
        if all(f.target is not None for f in features):
            batch["labels"] = self.targets(features)
        if self.states is not None and all(f.cached >= 0 for f in features):
            batch[HIDDEN] = self.states.batch(features, real.shape[1], left=pad.left)
        assert all(isinstance(value, torch.Tensor) for value in batch.values())
        return batch

    def targets(self, features: Sequence[Feature]) -> torch.Tensor:
        """Return the targets of labelled features as one tensor."""
        raise NotImplementedError

    # Features as arrays --------------------------------------------------------------------------------------

    def packed(self, features: Sequence[Feature]) -> Columns | None:
        """Return features as flat arrays, from which :meth:`unpacked` makes equal ones; None where the type cannot."""
        import numpy as np

        own = self.packed_notes(features)
        if own is None:
            return None
        numbers = {name: np.array([getattr(f, name) for f in features], dtype=np.int64) for name in NUMBERS}
        ids = packing.flat("input_ids", [f.input_ids for f in features], np.int32)
        types = [f.token_type_ids for f in features if f.token_type_ids is not None]
        return numbers | ids | (packing.flat("token_type_ids", types, np.int32) if types else {}) | own

    def unpacked(self, columns: Columns) -> list[Feature]:
        """Return the features that :meth:`packed` was given."""
        ids = packing.lists(columns, "input_ids")
        types = packing.lists(columns, "token_type_ids") if "token_type_ids" in columns else [None] * len(ids)
        numbers = (columns[name].tolist() for name in NUMBERS)
        notes = self.unpacked_notes(columns)
        return [
            Feature(example=example, num_cut=cut, input_ids=row, token_type_ids=kinds, target=target, aligned=aligned)
            for example, cut, row, kinds, (target, aligned) in zip(*numbers, ids, types, notes, strict=True)
        ]

    def packed_notes(self, features: Sequence[Feature]) -> Columns | None:
        """Return the targets of features and what is aligned with them as arrays; None where that is not done."""
        return None

    def unpacked_notes(self, columns: Columns) -> Iterable[tuple[Any, Any]]:
        """Yield the target of each feature and what is aligned with it."""
        raise NotImplementedError

    # Shared pieces -------------------------------------------------------------------------------------------

    def column(self, role: str) -> str:
        """Return the column that the task gives a role, else the role's own name."""
        return str(self.task.columns.get(role, role))

    def value(self, example: Example, role: str) -> Any:
        """Return an example's value for a role: under the task's column, else under the role's name, else None."""
        column = self.column(role)
        return example[column] if column in example else example.get(role)

    def has(self, example: Example, role: str) -> bool:
        """Say whether the example has a cell for a role at all."""
        return self.column(role) in example or role in example

    def check_text(self, example: Example, role: str) -> list[str]:
        """Return what is wrong with a text cell; an empty text is in order."""
        column = self.column(role)
        if not self.has(example, role):
            return [f"column '{column}' is missing; there are {', '.join(map(repr, list(example)[:8])) or 'none'}"]
        value = self.value(example, role)
        if value is None:
            return [f"column '{column}' is null, and must be a text"]
        if not isinstance(value, str):
            return [f"column '{column}' is {shown(value)}, and must be a text"]
        return []

    def check_options(self) -> None:
        """Raise :class:`ConfigError` for a key of ``[options]`` that this type does not know, or a wrong value."""
        problems = []
        for key, value in self.task.options.items():
            if key not in self.options:
                problems.append(f"options.{key} is not a setting of {self.task.type}.{did_you_mean(key, self.options)}")
                continue
            try:
                convert(value, self.options[key])
            except ValueError as error:
                problems.append(f"options.{key} is {value!r}, and must be {error}")
        if self.evaluation.decode not in ("auto", *self.decoders):
            choices = ", ".join(map(repr, ("auto", *self.decoders)))
            problems.append(f"eval.decode is '{self.evaluation.decode}', and for {self.task.type} there is {choices}")
        if self.evaluation.calibrate and not self.calibrates:
            problems.append(f"eval.calibrate is true, and {self.task.type} has nothing to calibrate")
        if problems:
            raise ConfigError(sentence(problems))
        heads.check(self.config, self.auto_class)

    @staticmethod
    def by_example(
        reduced: Sequence[np.ndarray], features: Sequence[Feature]
    ) -> Iterator[tuple[int, list[tuple[np.ndarray, Feature]]]]:
        """Yield each example's index with what :meth:`reduce` kept of each of its features."""
        rows = zip(reduced, features, strict=True)
        for index, group in groupby(rows, key=lambda row: row[1].example):
            yield index, list(group)

    def texts(self, examples: Iterable[Example], role: str) -> list[str]:
        """Return the texts of a role as the tokenizer can take them: a lone surrogate becomes U+FFFD."""
        return [without_surrogates(self.value(example, role)) for example in examples]


def shown(value: Any) -> str:
    """Return a value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def without_surrogates(text: str) -> str:
    """Replace surrogates, which UTF-8 and so the tokenizer cannot hold, by U+FFFD; offsets stay what they are."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


class ExampleError(DataError):
    """An example cannot be turned into features; who knows where it came from names its place."""

    def __init__(self, example: int, detail: str) -> None:
        self.example = example
        """Its index, from 0."""
        self.detail = detail
        super().__init__(f"Example {example + 1} {detail}")

    def at(self, place: str) -> DataError:
        """Return the error with the example's own place (``train.jsonl:118``)."""
        return DataError(f"{place} {self.detail}")


def too_long(example: int, length: int, max_length: int) -> ExampleError:
    """Return the error of ``on_long = "error"``; examples are counted from 0."""
    return ExampleError(
        example,
        f"has {length} tokens, and train.max_length is {max_length} with on_long = 'error'. "
        "Raise max_length, or set train.on_long to window or truncate.",
    )


def padded(rows: Sequence[Sequence[int]], value: int, *, left: bool) -> torch.Tensor:
    """Return rows as ``(B, T)`` int64, filled up with ``value``."""
    import numpy as np
    import torch

    lengths = [len(row) for row in rows]
    real = filled(lengths, left=left)
    table = np.full(real.shape, value, dtype=np.int64)
    table[real] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=sum(lengths))
    return torch.from_numpy(table)


def filled(lengths: Sequence[int], *, left: bool, width: int | None = None) -> np.ndarray:
    """Return where rows of these lengths stand in a table: ``(B, T)`` bool, T the longest (or 1), or ``width``."""
    import numpy as np

    sizes = np.asarray(lengths)[:, None]
    # At least one, for rows of which a tokenizer without special tokens (GPT-2's) leaves nothing.
    places = np.arange(max(1, *lengths) if width is None else width)
    return places >= len(places) - sizes if left else places < sizes


def encodings(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Any],
    pairs: Sequence[str] | None = None,
    *,
    words: bool = False,
    offsets: bool = False,
) -> list[Any]:
    """Return what a fast tokenizer makes of texts, or of pairs, uncut: the encodings of the tokenizers library.

    They are those of ``tokenizer(...)``, which makes lists of every token of each as well.

    Args:
        tokenizer: a fast one.
        texts: texts; lists of words where ``words``.
        pairs: the second text of each.
        words: the texts are split already.
        offsets: whether the encodings must say where in its text a token stands, and which word it is of.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    return list(encode(inputs, is_pretokenized=words))
