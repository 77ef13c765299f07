"""Sequence classification: one label, several labels or a number for a text or a pair of texts.

The head is Hugging Face's own. For BERT it is the paper's ``P = softmax(C W^T + b)`` (arXiv:1810.04805, 4.1) with
``C`` the pooled [CLS] vector ``(B, H)`` and ``W`` the head weight ``(K, H)``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from bertkit.adapters import columns as packing
from bertkit.adapters import windows
from bertkit.adapters.base import Adapter, Batch, Example, Feature, Loss, Prediction, encodings, shown, too_long
from bertkit.adapters.columns import Columns
from bertkit.errors import ConfigError, DataError, did_you_mean
from bertkit.metrics import names as metric_names
from bertkit.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from bertkit.metrics.significance import Tally

ENCODE_CHUNK = 2048
"""Examples that the tokenizer is given at once; bounds memory."""
MULTI_SEPARATOR = "|"
"""Between the labels of a multi-label cell that is a text: CSV has no lists."""
FEW = 100
"""Rows below which what is fitted on them is mostly chance."""


class SequenceClassification(Adapter):
    """One label (softmax), several labels (a sigmoid each) or a number (squared error) per example."""

    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair?", "label!")
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    pipeline: ClassVar[str] = "text-classification"
    usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="model")\n'
        'print(classify("..."))'
    )
    calibrates: ClassVar[bool] = True
    threshold: float = 0.5
    """Probability from which a label of a multi-label example is given, and, of two labels, the one with id 1."""
    temperature: float = 1.0
    """What logits are divided by (arXiv:1706.04599, 4.2)."""

    @classmethod
    def resolve(cls, task: Task, examples: Sequence[Example]) -> tuple[Task, list[str]]:
        """Fill in columns, kind, labels and metrics; see :meth:`Adapter.resolve`."""
        from bertkit.data import guess

        columns, notes = cls.guessed(task, examples)
        column = str(columns.get("label", "label"))
        cells = (example.get(column, example.get("label")) for example in examples)
        values = [cell for cell in cells if cell is not None and cell != ""]
        _refuse_tables(values, column)
        kind = task.kind or _kind(task, values, guess.guess_kind(values))
        labels = task.labels or (() if kind == "regression" else _distinct(values, kind, column))
        if not task.labels and not task.kind:
            notes.append(f"label holds {guess.kind_reason(values)}")
        if not task.labels and labels:
            notes.append(f"labels are the {len(labels)} distinct values of column '{column}', sorted")
        metrics = task.metrics or metric_names.defaults(kind, len(labels))
        metric_names.check_names(metrics, kind, len(labels))
        return replace(task, columns=columns, kind=kind, labels=labels, metrics=tuple(metrics)), notes

    @property
    def kind(self) -> str:
        """Return ``single``, ``multi`` or ``regression``."""
        return self.task.kind or "single"

    @property
    def problem_type(self) -> str:
        """Return transformers' name of the kind; its pipelines choose softmax or sigmoid by it."""
        return {
            "single": "single_label_classification",
            "multi": "multi_label_classification",
            "regression": "regression",
        }[self.kind]

    @property
    def num_outputs(self) -> int | None:
        """Return 1 for regression, whose number has no label."""
        return 1 if self.kind == "regression" else None

    def check_options(self) -> None:
        """Raise :class:`ConfigError` for options of another type, and for probabilities of numbers."""
        super().check_options()
        if self.evaluation.calibrate and self.kind == "regression":
            raise ConfigError(
                "eval.calibrate is true, and a number has no probabilities to calibrate: set it to false."
            )

    # Examples ------------------------------------------------------------------------------------------------

    def check(self, example: Example, *, labelled: bool = True) -> list[str]:
        """Return what is wrong with the texts and, where ``labelled``, with the label."""
        problems = self.check_text(example, "text")
        if self._paired([example]):
            problems += self.check_text(example, "text_pair")
        if not labelled:
            return problems
        value = self.cell(example)
        if value is None:
            return [*problems, f"column '{self.column('label')}' holds no label"]
        try:
            self.target(value)
        except DataError as error:
            problems.append(str(error))
        return problems

    def cell(self, example: Example) -> Any:
        """Return the label cell, None where there is no label: CSV has no null but the empty text.

        Of several labels, an empty text names none, which is a label.
        """
        value = self.value(example, "label")
        return None if value == "" and self.kind != "multi" else value

    def target(self, value: Any) -> Any:
        """Return a label cell as the loss needs it: an id, a list of K zeros and ones, or a number.

        Raises:
            DataError: if the cell names no label, or is no number.
        """
        if self.kind == "regression":
            return _number(value)
        if self.kind == "multi":
            chosen = {self.label_id(item) for item in _items(value)}
            return [1.0 if index in chosen else 0.0 for index in range(len(self.labels))]
        return self.label_id(value)

    def label_id(self, value: Any) -> int:
        """Return the id of a label: by name first, else an integer is an id into the labels.

        Raises:
            DataError: if it is neither.
        """
        name = label_name(value)
        for written in (str(value), name):
            if written in self.ids:
                return self.ids[written]
        # Where names are numbers (stars), a number that is none of them is no id: 0 must not become 1 star.
        numbered = any(label_name(label).removeprefix("-").isdecimal() for label in self.labels)
        if name.isdecimal() and int(name) < len(self.labels) and not numbered:
            return int(name)
        allowed = ", ".join(f"'{label}'" for label in self.labels[:10])
        near = did_you_mean(name, self.labels) if len(self.labels) > 10 else ""
        raise DataError(f"label '{shown(name)[1:-1]}' is not one of {allowed}.{near}")

    def labelled(self, examples: Sequence[Example]) -> bool:
        """Say whether any example has a label."""
        return any(self.cell(example) is not None for example in examples)

    def balance(self, examples: Sequence[Example]) -> dict[str, int]:
        """Return label -> examples that carry it, in id order; empty for regression."""
        counts: Counter[str] = Counter()
        for example in examples:
            value = self.cell(example)
            if value is not None and self.kind != "regression":
                items = _items(value) if self.kind == "multi" else [value]
                counts.update(self.labels[self.label_id(item)] for item in items)
        return {} if self.kind == "regression" else {label: counts[label] for label in self.labels}

    def truth(self, example: Example) -> Hashable:
        """Return the label's name, the names of several sorted, or the number."""
        value = self.cell(example)
        if value is None or self.kind == "regression":
            return None if value is None else float(_number(value))
        if self.kind == "multi":
            return tuple(sorted({self.labels[self.label_id(item)] for item in _items(value)}))
        return self.labels[self.label_id(value)]

    def stratum(self, example: Example) -> Hashable:
        """Return the label; numbers are not stratified, sets of labels are by the whole set."""
        value = self.value(example, "label")
        if self.kind == "regression":
            return None
        return tuple(self.target(value)) if self.kind == "multi" else self.label_id(value)

    # Features ------------------------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
        """Turn examples into features: ``[CLS] text [SEP]`` or ``[CLS] text [SEP] text_pair [SEP]``."""
        features: list[Feature] = []
        with_types = "token_type_ids" in tokenizer.model_input_names
        for start in range(0, len(examples), ENCODE_CHUNK):
            chunk = examples[start : start + ENCODE_CHUNK]
            for index, (example, encoding) in enumerate(zip(chunk, self._encodings(chunk, tokenizer), strict=True)):
                target = self._target_or_none(example)
                for positions, num_cut in self._windows(start + index, encoding):
                    features.append(
                        _feature(start + index, encoding, positions, num_cut, target, with_types=with_types)
                    )
        return _without_empty(features, tokenizer)

    def _encodings(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Sequence[Any]:
        texts = self.texts(examples, "text")
        pairs = self.texts(examples, "text_pair") if self._paired(examples) else None
        return encodings(tokenizer, texts, pairs)

    def _paired(self, examples: Sequence[Example]) -> bool:
        """Say whether the task reads pairs: its columns say so, or, where it names none, the examples do."""
        if self.task.columns:
            return "text_pair" in self.task.columns
        return any("text_pair" in example for example in examples)

    def _target_or_none(self, example: Example) -> Any:
        """Return the target; None without a label that the model knows, as in rows that are to be predicted.

        Rows to train on and to score were checked before, and a batch without targets has no loss.
        """
        value = self.cell(example)
        try:
            return None if value is None else self.target(value)
        except DataError:
            return None

    def _windows(self, place: int, encoding: Any) -> Iterator[tuple[Sequence[int] | None, int]]:
        """Yield which positions of an encoding a feature shows (None: all), and how many tokens none shows."""
        length, room = len(encoding), self.config.max_length
        if length <= room:
            yield None, 0
            return
        if self.config.on_long == "error":
            raise too_long(place, length, room)
        segments = windows.segments(encoding)
        special = length - sum(map(len, segments))
        if self.config.on_long == "window":
            yield from _slide(encoding, segments, room - special)
            return
        keep = windows.longest_first([len(segment) for segment in segments], room - special)
        cut = windows.CUTS[self.config.on_long]
        kept = {p for segment, size in zip(segments, keep, strict=True) for p in cut(segment, size)}
        yield windows.positions(encoding, kept), length - special - len(kept)

    def targets(self, features: Sequence[Feature]) -> torch.Tensor:
        """Return ids ``(B,)`` int64, or ``(B, K)`` (multi-label) or ``(B,)`` (regression) float32."""
        import torch

        dtype = torch.int64 if self.kind == "single" else torch.float32
        return torch.tensor([feature.target for feature in features], dtype=dtype)

    def packed_notes(self, features: Sequence[Feature]) -> Columns:
        """Return the targets as ``target``: ids, numbers, or ``(n, K)``."""
        return packing.optional("target", [feature.target for feature in features], None)

    def unpacked_notes(self, columns: Columns) -> Iterable[tuple[Any, Any]]:
        """Yield the targets; nothing is aligned."""
        return ((target, None) for target in packing.values(columns, "target"))

    # Loss ----------------------------------------------------------------------------------------------------

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Return cross entropy, binary cross entropy (mean over K) or squared error, summed over the batch.

        Args:
            outputs: its ``logits`` are ``(B, K)``.
            batch: its ``labels`` are :meth:`targets`.
        """
        import torch
        from torch.nn import functional as F

        logits, target = outputs.logits.float(), batch["labels"]
        count = torch.tensor(float(len(target)), device=logits.device)
        if self.kind == "regression":
            return Loss(F.mse_loss(logits.squeeze(-1), target, reduction="sum"), count)
        weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        smoothing = self.config.label_smoothing
        if self.kind == "multi":
            soft = target * (1 - smoothing) + smoothing / 2
            each = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights, reduction="none")
            return Loss(each.mean(dim=-1).sum(), count)
        total = F.cross_entropy(logits, target, weight=weights, label_smoothing=smoothing, reduction="sum")
        return Loss(total, count if weights is None else weights[target].sum())

    def weight_of(self, feature: Feature) -> float:
        """Return what a feature adds to the weight of :meth:`loss`."""
        return 1.0 if self.weights is None or self.kind != "single" else self.weights[feature.target]

    def class_weights(self, features: Sequence[Feature]) -> list[float] | None:
        """Return the weight of each label under ``class_weights = "balanced"``, else None.

        Single label: rows / (K * rows of the label), as scikit-learn's ``balanced``. Multi-label: rows without the
        label / rows with it, for the positive term.
        """
        if self.config.class_weights == "none" or self.kind == "regression":
            return None
        if self.kind == "multi":
            with_label = [sum(f.target[k] for f in features) for k in range(len(self.labels))]
            return [(len(features) - n) / n if n else 1.0 for n in with_label]
        counts = Counter(feature.target for feature in features)
        return [len(features) / (len(self.labels) * counts[k]) if counts[k] else 0.0 for k in range(len(self.labels))]

    # Predictions ---------------------------------------------------------------------------------------------

    def reduce(self, outputs: Any, batch: Batch) -> Sequence[np.ndarray]:
        """Return the logits of each feature, ``(K,)`` float32."""
        return list(outputs.logits.detach().float().cpu().numpy())

    def decode(
        self, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return one prediction an example; the logits of its windows are averaged."""
        import numpy as np

        predictions = []
        for _, rows in self.by_example(reduced, features):
            logits, shown_by = zip(*rows, strict=True)
            prediction = self._prediction(np.mean(np.asarray(logits, dtype=np.float64), axis=0))
            predictions.append(prediction | ({"truncated": True} if shown_by[0].num_cut else {}))
        assert len(predictions) == len(examples), "every example has at least one feature"
        return predictions

    def _prediction(self, logits: np.ndarray) -> Prediction:
        """Return the prediction for logits ``(K,)`` float64."""
        import numpy as np

        if self.kind == "regression":
            return {"value": float(logits[0])}
        if self.kind == "multi":
            probabilities = _named(self.labels, np.exp(-np.logaddexp(0, -logits / self.temperature)))
            chosen = [name for name, p in probabilities.items() if p >= self.threshold]
            return {"labels": chosen, "probabilities": probabilities}
        shifted = np.exp((logits - logits.max()) / self.temperature)
        probabilities = _named(self.labels, shifted / shifted.sum())
        best = max(probabilities, key=lambda name: probabilities[name])
        if self.threshold != 0.5:
            best = self.labels[int(probabilities[self.labels[1]] >= self.threshold)]
        return {"label": best, "score": probabilities[best], "probabilities": probabilities}

    # Calibration ---------------------------------------------------------------------------------------------

    def tune(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str:
        """Fit the temperature, then the threshold where there is one, and say what they are."""
        from bertkit.metrics import calibration

        table, reference = self._probabilities(predictions), self._references(examples)
        few = ", and so few say little" if len(examples) < FEW else ""
        temperature = calibration.fit_temperature(table, reference)
        if temperature is None:
            return f"not calibrated: all of the {len(examples)} validation rows that were kept for it are right{few}"
        self.temperature = temperature
        said = f"temperature {temperature:.4f}"
        if temperature > 0.99 * calibration.TEMPERATURES[1]:
            said += " (the highest that is tried: on these rows the probabilities say next to nothing)"
        if self.kind == "multi" or len(self.labels) == 2:
            several, metric = self.kind == "multi", self.task.metrics[0]
            table = calibration.tempered(table, temperature, several=several)
            about: dict[str, Any] = {"num_labels": len(self.labels), "kind": self.kind}
            of_label = table if several else table[:, 1]
            self.threshold, best, at_half = calibration.fit_threshold(metric, of_label, reference, **about)
            said += f" and threshold {self.threshold:.4f} ({metric} {best:.4f} there, {at_half:.4f} at 0.5)"
        return f"{said}, fitted on {len(examples)} rows of validation that are not scored{few}"

    def _probabilities(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """Return the probabilities of predictions ``(n, K)`` float64."""
        import numpy as np

        return np.array([[p["probabilities"][name] for name in self.labels] for p in predictions])

    def state(self) -> dict[str, Any]:
        """Return the threshold, where it is one of several labels or was tuned, and the temperature, if fitted."""
        with_threshold = self.kind == "multi" or self.threshold != 0.5
        threshold = {"threshold": self.threshold} if with_threshold else {}
        return threshold | ({"temperature": self.temperature} if self.temperature != 1.0 else {})

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Take threshold and temperature back."""
        self.threshold = float(state.get("threshold", self.threshold))
        self.temperature = float(state.get("temperature", self.temperature))

    # Scores --------------------------------------------------------------------------------------------------

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, resamples: int = 0
    ) -> dict[str, Any]:
        """Return the task's metrics; see :meth:`Adapter.score`."""
        from bertkit.metrics import classification, interval

        names = list(self.task.metrics)
        predicted, reference = self._as_arrays(predictions, examples)
        num_labels, kind = len(self.labels), self.kind
        scores: dict[str, Any] = classification.compute(names, predicted, reference, num_labels=num_labels, kind=kind)
        if not resamples:
            return scores
        bounds = interval.intervals(names, predicted, reference, resamples=resamples, num_labels=num_labels, kind=kind)
        return {k: v for name in names for k, v in ((name, scores[name]), (f"{name}_interval", bounds[name]))}

    def details(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return, once calibrated, temperature and threshold, and the calibration error with and without them."""
        from bertkit.metrics import calibration

        if self.temperature == 1.0:
            return {}
        table, reference = self._probabilities(predictions), self._references(examples)
        before = calibration.tempered(table, 1 / self.temperature, several=self.kind == "multi")
        errors = (calibration.expected_error(*calibration.decisions(each, reference)) for each in (before, table))
        return self.state() | dict(zip(("calibration_error_before", "calibration_error"), errors, strict=True))

    def tally(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Tally:
        """Return prediction and reference of each example; of equal ones only the number counts."""
        from bertkit.metrics import interval, significance

        names = tuple(self.task.metrics)
        about: dict[str, Any] = {"num_labels": len(self.labels), "kind": self.kind}
        return significance.Tally(
            names=names,
            rows=interval.beside(names, *self._as_arrays(predictions, examples), **about),
            score=lambda rows: interval.of_rows(names, rows, **about),
            shares=("accuracy",),
        )

    def grades(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> np.ndarray:
        """Return 1 for a prediction that is right, in all labels; of a number, minus its distance from the truth."""
        import numpy as np

        predicted, reference = self._as_arrays(predictions, examples)
        if self.kind == "regression":
            return np.asarray(-abs(predicted - reference))
        same = predicted == reference
        return np.asarray(same.all(axis=1) if self.kind == "multi" else same, dtype=np.float64)

    def _as_arrays(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and references as ids ``(n,)``, 0/1 ``(n, K)`` or numbers ``(n,)``."""
        import numpy as np

        reference = self._references(examples)
        if self.kind == "regression":
            return np.array([p["value"] for p in predictions]), reference
        if self.kind == "multi":
            return np.array([self.target(p["labels"]) for p in predictions]).astype(int), reference
        return np.array([self.ids[p["label"]] for p in predictions]), reference

    def _references(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the labels of examples: ids ``(n,)``, 0/1 ``(n, K)`` or numbers ``(n,)``."""
        import numpy as np

        found = np.array([self.target(self.value(example, "label")) for example in examples])
        return found.astype(int) if self.kind == "multi" else found

    def better(self, new: float, old: float | None) -> bool:
        """Say whether ``new`` beats ``old`` in the first metric; see :func:`bertkit.metrics.names.better`."""
        return metric_names.better(self.task.metrics[0], new, old)

    def outcomes(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return predictions and labels as arrays, with the texts."""
        import numpy as np

        predicted, reference = self._as_arrays(predictions, examples)
        roles = ("text", "text_pair") if self._paired(examples) else ("text",)
        texts = [tuple(str(self.value(example, role)) for role in roles) for example in examples]
        found = {"labels": self.labels, "predicted": predicted, "gold": reference, "texts": texts}
        if self.kind == "regression":
            return found | {"form": "numbers"}
        probabilities = [[prediction["probabilities"][name] for name in self.labels] for prediction in predictions]
        form = "labels" if self.kind == "multi" else "classes"
        return found | {"form": form, "probabilities": np.array(probabilities)}

    def constant(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str | None:
        """Return the one label, or set of labels, that all of at least two predictions give, against the references."""
        if self.kind == "regression" or len(predictions) < 2:
            return None
        if self.kind == "multi":
            given = {", ".join(prediction["labels"]) or "no label" for prediction in predictions}
        else:
            given = {prediction["label"] for prediction in predictions}
        wanted = {str(self.target(self.cell(example))) for example in examples}
        return given.pop() if len(given) == 1 and len(wanted) > 1 else None


def label_name(value: Any) -> str:
    """Return a label cell as a name: ``3``, ``3.0`` and ``"3.0"`` are ``"3"``, ``True`` is ``"true"``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # pandas writes whole numbers beside missing ones as 3.0.
        return re.sub(r"^(-?\d+)\.0+$", r"\1", value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _refuse_tables(values: Sequence[Any], column: str) -> None:
    items = (item for value in values for item in (value if isinstance(value, list) else [value]))
    if any(isinstance(item, Mapping) for item in items):
        raise DataError(
            f"Column '{column}' holds tables, and a label is a name or a number. Entities of a text are learned with "
            "--set type=token-tagging; --set columns.label=NAME names another column."
        )


def _kind(task: Task, values: Sequence[Any], guessed: str) -> str:
    """Declared labels mean classes, whatever numbers stand in the column."""
    return "single" if task.labels and guessed == "regression" else guessed


def label_names(values: Sequence[Any], kind: str) -> list[str]:
    """Return the distinct label names in cells, sorted; names that are all whole numbers by their value.

    Raises:
        DataError: if a multi-label cell cannot be taken apart.
    """
    items = [item for value in values for item in _items(value)] if kind == "multi" else values
    names = {label_name(item) for item in items}
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=int) if numeric else sorted(names)


def _distinct(values: Sequence[Any], kind: str, column: str) -> tuple[str, ...]:
    names = label_names(values, kind)
    if len(names) < 2:
        raise DataError(
            f"Column '{column}' holds {len(names)} distinct labels ({', '.join(map(repr, names)) or 'none'}), "
            "and classification needs two. Is it the right column? --set columns.label=NAME names another."
        )
    return tuple(names)


def _items(value: Any) -> list[Any]:
    """Return the labels in a multi-label cell: a list, a JSON list in a text, or names between ``|``."""
    if isinstance(value, list | tuple):
        return list(value)
    text = str(value).strip()
    if text.startswith("["):
        try:
            return list(json.loads(text))
        except ValueError as error:
            raise DataError(f"labels {shown(text)} are not a JSON list") from error
    return [item.strip() for item in text.split(MULTI_SEPARATOR) if item.strip()]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"label {shown(value)} is not a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise DataError(f"label {shown(value)} is not a finite number")
    return number


def _named(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    return {name: float(p) for name, p in zip(labels, probabilities, strict=True)}


def _feature(
    example: int, encoding: Any, positions: Sequence[int] | None, num_cut: int, target: Any, *, with_types: bool
) -> Feature:
    ids, types = encoding.ids, encoding.type_ids
    if positions is not None:
        ids, types = [ids[p] for p in positions], [types[p] for p in positions]
    return Feature(
        example=example, input_ids=ids, token_type_ids=types if with_types else None, target=target, num_cut=num_cut
    )


def _without_empty(features: list[Feature], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
    """Give features without a token one: of an empty text, where a tokenizer adds no special tokens (GPT-2's)."""
    for feature in (feature for feature in features if not feature.input_ids):
        feature.input_ids = [tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id]
        feature.token_type_ids = None if feature.token_type_ids is None else [0]
    return features


def _slide(encoding: Any, segments: Sequence[Sequence[int]], room: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield windows over the longer segment that overlap by a quarter; the other is kept, up to half of the room."""
    longer = max(range(len(segments)), key=lambda index: len(segments[index]))
    fixed = [p for index, segment in enumerate(segments) if index != longer for p in segment[: room // 2]]
    num_cut = sum(len(s) for i, s in enumerate(segments) if i != longer) - len(fixed)
    width = room - len(fixed)
    for window in windows.slide(len(segments[longer]), width, width // 4):
        yield windows.positions(encoding, {*fixed, *segments[longer][window.start : window.stop]}), num_cut
