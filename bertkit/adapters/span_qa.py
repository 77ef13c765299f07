"""Span question answering: the words of a context that answer a question, or that nothing there does.

The head is Hugging Face's own: a start and an end logit for each position (arXiv:1810.04805, 4.2 and 4.3). The score of
the span from i to j is ``start_i + end_j``; that of no answer is the same at [CLS]. Windows, the max-context rule and
the no-answer score are those of google-research/bert's ``run_squad.py``.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from bertkit.adapters import columns as packing
from bertkit.adapters import windows
from bertkit.adapters.base import (
    Adapter,
    Batch,
    Example,
    ExampleError,
    Feature,
    Loss,
    Prediction,
    Writer,
    encodings,
    shown,
    too_long,
)
from bertkit.adapters.columns import Columns
from bertkit.adapters.words import is_ideograph, split
from bertkit.errors import ConfigError, DataError, did_you_mean, joined, sentence
from bertkit.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from bertkit.metrics.significance import Tally
    from bertkit.metrics.spans import Rules

ENCODE_CHUNK = 64
"""Examples that the tokenizer is given at once; a context may be a book, so it is few."""
FEW = 100
"""Held-out questions below which a tuned threshold is mostly chance."""
N_BEST = 20
"""Spans that are kept of each window, and of each example."""
RULES = ("squad", "cmrc2018")
MARKS = {"Mn", "Me"}
"""Unicode categories of what is drawn onto the character before it: accents, Thai and Devanagari vowel signs."""
NO_ANSWER: dict[str, Any] = {"answer": "", "start": 0, "end": 0}


class Answer(NamedTuple):
    """An accepted answer."""

    text: str
    start: int | None
    """Where it stands in the context, in code points; None where that is not known."""


class Window(NamedTuple):
    """What a feature shows of its context."""

    null: int
    """Position of [CLS], which stands for no answer; the first position of an encoder without [CLS]."""
    first: int
    """Position of the first context token; the others follow it."""
    spans: np.ndarray
    """Where each context token stands in the context: ``(n, 2)`` int32, start and end in code points."""
    owned: np.ndarray
    """Context tokens of which no other window shows more context, white space left out: ``(n,)`` bool. Only these begin
    an answer."""
    answerable: bool = False
    """Whether the example has an answer that stands in the context; the same in all its windows."""


class SpanQA(Adapter):
    """Exact spans by start and end logits, over all windows of a question."""

    columns: ClassVar[tuple[str, ...]] = ("question", "context", "answers!")
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    pipeline: ClassVar[str] = "question-answering"
    usage: ClassVar[str] = (
        "from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
        'model = AutoModelForQuestionAnswering.from_pretrained("model")\n'
        'inputs = AutoTokenizer.from_pretrained("model")("Who ...?", "The context ...", return_tensors="pt")\n'
        "outputs = model(**inputs)   # start_logits and end_logits; bertkit predict makes answers of them"
    )
    options: ClassVar[dict[str, type]] = {
        "unanswerable": bool,
        "stride": int,
        "max_answer_length": int,
        "rules": str,
        "alternatives": int,
    }
    decoding: ClassVar[frozenset[str]] = frozenset({"max_answer_length", "alternatives"})
    defaults: ClassVar[dict[str, Any]] = {"max_length": 384, "on_long": "window"}
    threshold: float = 0.0
    """No-answer score above which there is no answer."""

    @classmethod
    def recognises(cls, examples: Sequence[Example]) -> bool:
        """Say whether the rows have a question, a context and answers."""
        return bool(examples) and all(
            {"question", "context"} <= row.keys() and row.keys() & {"answers", "answer"} for row in examples
        )

    @classmethod
    def resolve(cls, task: Task, examples: Sequence[Example]) -> tuple[Task, list[str]]:
        """Fill in columns, metrics and whether there may be no answer; see :meth:`Adapter.resolve`."""
        from bertkit.metrics import spans

        columns, notes = cls.guessed(task, examples)
        metrics = task.metrics or ("f1", "exact_match")
        spans.check_names(metrics)
        options = dict(task.options)
        if "unanswerable" not in options:
            column = str(columns["answers"])
            options["unanswerable"] = any(_without_answer(row.get(column, row.get("answers")), row) for row in examples)
            if options["unanswerable"]:
                notes.append("some questions have no answer, so the model may answer nothing")
        return replace(task, columns=columns, options=options, metrics=tuple(metrics)), notes

    @property
    def num_outputs(self) -> int:
        """Return 2: a start and an end logit."""
        return 2

    @property
    def unanswerable(self) -> bool:
        """Say whether the model may answer nothing."""
        return bool(self.task.options.get("unanswerable", False))

    @property
    def stride(self) -> int:
        """Return how many tokens two windows of a context share."""
        return int(self.task.options.get("stride", min(128, self.config.max_length // 2)))

    @property
    def max_answer_length(self) -> int:
        """Return the most tokens of an answer."""
        return int(self.task.options.get("max_answer_length", 30))

    @property
    def alternatives(self) -> int:
        """Return how many next-best answers a prediction holds."""
        return int(self.task.options.get("alternatives", 0))

    def _raw(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """Return exact match and F1 of each answer ``(n, 2)``; SQuAD 2.0's rules where a question has no answer."""
        from bertkit.metrics import spans

        rules = str(self.task.options.get("rules", "squad"))
        if rules == "squad" and (self.unanswerable or not all(references)):
            rules = "squad_v2"
        return spans.raw(answers, references, rules=cast("Rules", rules))

    def check_options(self) -> None:
        """Raise :class:`ConfigError` for options, and training settings, that make no sense for spans."""
        super().check_options()
        problems = []
        most = self.config.max_length if self.config.on_long == "window" else math.inf
        if not 0 <= self.stride < most:
            problems.append(
                f"options.stride is {self.stride}, and must be at least 0 and below train.max_length, "
                f"{self.config.max_length}"
            )
        if self.max_answer_length < 1:
            problems.append(f"options.max_answer_length is {self.max_answer_length}, and must be at least 1")
        if not 0 <= self.alternatives < N_BEST:
            problems.append(f"options.alternatives is {self.alternatives}, and must be 0 to {N_BEST - 1}")
        chosen = str(self.task.options.get("rules", "squad"))
        if chosen not in RULES:
            near = did_you_mean(chosen, RULES)
            problems.append(f"options.rules is '{chosen}', and must be one of {', '.join(RULES)}{near}")
        if self.config.on_long == "head-tail":
            problems.append("train.on_long is 'head-tail', and span-qa has window, truncate and error")
        if self.config.class_weights != "none":
            problems.append(f"train.class_weights is '{self.config.class_weights}', and spans have no classes")
        if problems:
            raise ConfigError(sentence(problems))

    # Examples ------------------------------------------------------------------------------------------------

    def answers(self, example: Example) -> list[Answer]:
        """Return the accepted answers; none where the question has none.

        Raises:
            DataError: if the cell is no answers.
        """
        return _answers(self.value(example, "answers"), example)

    def located(self, example: Example) -> list[tuple[int, int]]:
        """Return where the accepted answers stand, ``(start, end)`` in code points.

        An offset that does not point at its text is repaired where the text occurs exactly once.
        """
        context = self.value(example, "context")
        return [place for answer in self.answers(example) if (place := _located(answer, context)) is not None]

    def check(self, example: Example, *, labelled: bool = True) -> list[str]:
        """Return what is wrong with question and context and, where ``labelled``, with the answers."""
        problems = self.check_text(example, "question") + self.check_text(example, "context")
        if not labelled:
            return problems
        if not self.labelled([example]):
            return [*problems, f"column '{self.column('answers')}' holds no answers; [] says that there is none"]
        try:
            self.answers(example)
        except DataError as error:
            problems.append(str(error))
        return problems

    def example_of(self, text: str) -> Example:
        """Refuse a bare text."""
        raise DataError("span-qa needs a question and a context: give rows that have both.")

    def labelled(self, examples: Sequence[Example]) -> bool:
        """Say whether any example says what its answers are."""
        return any(_impossible(each) or self.value(each, "answers") is not None for each in examples)

    def unusable(self, example: Example) -> str:
        """Say why a question whose answers stand nowhere cannot be trained on."""
        found = self.answers(example)
        if not found or self.located(example):
            return ""
        context, (text, start) = self.value(example, "context"), found[0]
        count = sum(context.startswith(text, place) for place in range(len(context)))
        times = "never" if not count else f"{count} times"
        wrong = "" if start is None else " is not where it is said to be and"
        return f"{_name(example)}: answer {shown(text)}{wrong} occurs {times}"

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Tell of offsets that were repaired, of answers that stand nowhere, and of questions without an answer."""
        repaired, lost, unanswered = 0, [], 0
        for example in examples:
            if not self.labelled([example]):
                continue
            found, context = self.answers(example), self.value(example, "context")
            places = [_located(answer, context) for answer in found]
            repaired += sum(a.start not in (None, p[0]) for a, p in zip(found, places, strict=True) if p is not None)
            lost += [_name(example)] if None in places else []
            unanswered += not found
        said = [f"{repaired} answer offsets did not point at their text and were found by it"] if repaired else []
        if lost:
            said.append(f"{len(lost)} questions have an answer that cannot be found in the context: {joined(lost)}")
        if unanswered:
            share = unanswered / len(examples)
            said.append(f"{unanswered} of {len(examples)} questions ({share:.1%}) have no answer")
        return said + self._remarks_on_rows(examples)

    def _remarks_on_rows(self, examples: Sequence[Example]) -> list[str]:
        """Tell of ids that several questions share, and of rules that do not fit the script."""
        asked: dict[Any, set[tuple[str, str]]] = {}
        for row in examples:
            if "id" in row:
                key = str(row["id"])
                asked.setdefault(key, set()).add((self.value(row, "question"), self.value(row, "context")))
        shared = [key for key, questions in asked.items() if len(questions) > 1]
        said = [f"{len(shared)} ids belong to several questions: {joined(shared, most=3)}"] if shared else []
        sample = "".join(self.value(row, "context")[:200] for row in examples[:100])
        if self.task.options.get("rules", "squad") == "squad" and sum(map(is_ideograph, sample)) > len(sample) / 2:
            said.append("the contexts are mostly Chinese: --set options.rules=cmrc2018 scores characters, not words")
        return said

    def truth(self, example: Example) -> Hashable:
        """Return the accepted answers; an empty set where there is none."""
        if not self.labelled([example]):
            return None
        return frozenset(answer.text.casefold().strip() for answer in self.answers(example))

    def stratum(self, example: Example) -> Hashable:
        """Return whether there is an answer."""
        return bool(self.answers(example))

    def documents(self, example: Example) -> Sequence[Hashable]:
        """Return the article, which is the context where there is no title, and the context."""
        context = str(self.value(example, "context"))
        return str(example.get("title") or context), context

    # Features ------------------------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
        """Turn examples into features: ``[CLS] question [SEP] window of the context [SEP]``.

        Raises:
            ExampleError: for a question that leaves a window no room, or under ``on_long = "error"``.
        """
        features: list[Feature] = []
        with_types = "token_type_ids" in tokenizer.model_input_names
        for start in range(0, len(examples), ENCODE_CHUNK):
            chunk = examples[start : start + ENCODE_CHUNK]
            texts = self.texts(chunk, "question"), self.texts(chunk, "context")
            encoded = encodings(tokenizer, *texts, offsets=True)
            for index, (example, encoding) in enumerate(zip(chunk, encoded, strict=True)):
                features += self._features(
                    start + index, example, encoding, cls_id=tokenizer.cls_token_id, with_types=with_types
                )
        return features

    def _features(
        self, index: int, example: Example, encoding: Any, *, cls_id: int | None, with_types: bool
    ) -> Iterator[Feature]:
        import numpy as np

        around, context = _parts(encoding)
        # The encoding makes a new list each time that it is asked.
        ids, types, offsets = encoding.ids, encoding.type_ids, encoding.offsets
        spans = np.array([offsets[p] for p in context], dtype=np.int32).reshape(-1, 2)
        places = self._places(example)
        answer = None if places is None else _answer_tokens(places, spans)
        shown_by, num_cut = self._ranges(index, len(context), len(around))
        inked = _inked(spans[: shown_by[-1].stop], self.value(example, "context"))
        owner = np.where(inked, windows.owners(shown_by), -1)
        first = sum(p < context[0] for p in around) if context else len(around)
        specials = (p for p, segment in enumerate(encoding.sequence_ids) if segment is None and ids[p] == cls_id)
        null = next(specials, None)
        for number, window in enumerate(shown_by):
            kept = [*around[:first], *context[window.start : window.stop], *around[first:]]
            place = Window(
                null=0 if null is None else kept.index(null),
                first=first,
                spans=spans[window.start : window.stop],
                owned=owner[window.start : window.stop] == number,
                answerable=bool(places),
            )
            yield Feature(
                example=index,
                input_ids=[ids[p] for p in kept],
                token_type_ids=[types[p] for p in kept] if with_types else None,
                target=_target(answer, window, place),
                num_cut=num_cut,
                aligned=place,
            )

    def _ranges(self, index: int, length: int, around: int) -> tuple[list[range], int]:
        """Return the context tokens that each window shows, and how many none shows.

        Args:
            index: of the example, from 0.
            length: tokens of the context.
            around: tokens of the question, and special ones.
        """
        room = self.config.max_length - around
        if length <= room:
            return [range(length)], 0
        if self.config.on_long == "error":
            raise too_long(index, length + around, self.config.max_length)
        windowed = self.config.on_long == "window"
        if room <= (self.stride if windowed else 0):
            raise self._too_narrow(index, around)
        if windowed:
            return list(windows.slide(length, room, self.stride)), 0
        return [range(room)], length - room

    def _too_narrow(self, index: int, around: int) -> ExampleError:
        """Return the error of a question that leaves the context too little of ``max_length``."""
        what, ways = "", "Shorten it, or train with a larger max_length"
        if self.config.on_long == "window":
            what = f", and windows that share options.stride = {self.stride} need more"
            ways += " or a smaller stride"
        return ExampleError(
            index,
            f"has a question of {around} tokens, special ones counted: of train.max_length = {self.config.max_length} "
            f"that leaves {max(0, self.config.max_length - around)} for the context{what}. {ways}.",
        )

    def _places(self, example: Example) -> list[tuple[int, int]] | None:
        """Return where the accepted answers stand; None where there is nothing to learn.

        That is where the answers are unknown, no answers at all, or stand nowhere; train holds no such example.
        """
        try:
            if not self.labelled([example]):
                return None
            places, answered = self.located(example), bool(self.answers(example))
        except DataError:
            return None
        return None if answered and not places else places

    def truncation(self, features: Sequence[Feature], examples: Sequence[Example]) -> dict[str, Any]:
        """Return what the length limit cuts, and how many answers no window holds whole."""
        answerable: set[int] = set()
        held: set[int] = set()
        for feature in features:
            place: Window = feature.aligned
            if place.answerable:
                answerable.add(feature.example)
                if feature.target != (place.null, place.null):
                    held.add(feature.example)
        lost = len(answerable) - len(held)
        counts = {"answers_lost": lost, "share_of_answers_lost": lost / max(1, len(answerable))}
        return super().truncation(features, examples) | counts | {"windows": len(features)}

    def truncation_notes(self, found: Mapping[str, Any]) -> list[str]:
        """Return the sentences that tell of cut contexts and of lost answers."""
        said = super().truncation_notes(found)
        if found["answers_lost"]:
            share = f"{found['answers_lost']} answers ({found['share_of_answers_lost']:.1%})"
            said.append(f"{share} are in no window whole; in training, their questions count as unanswered")
        return said

    def packed_notes(self, features: Sequence[Feature]) -> Columns:
        """Return targets ``(n, 2)``, and the windows: see :class:`Window`."""
        import numpy as np

        places: list[Window] = [feature.aligned for feature in features]
        numbers = np.array([(p.null, p.first, p.answerable) for p in places], dtype=np.int64).reshape(-1, 3)
        targets = packing.optional("target", [feature.target for feature in features], np.int64)
        spans = packing.flat("spans", [p.spans for p in places], np.int32)
        return {"window": numbers} | targets | spans | packing.flat("owned", [p.owned for p in places], bool)

    def unpacked_notes(self, columns: Columns) -> Iterable[tuple[Any, Any]]:
        """Yield targets and windows."""
        targets = (None if target is None else tuple(target) for target in packing.values(columns, "target"))
        spans, owned = packing.arrays(columns, "spans"), packing.arrays(columns, "owned")
        for target, (null, first, answerable), where, own in zip(
            targets, columns["window"].tolist(), spans, owned, strict=True
        ):
            yield target, Window(null=null, first=first, spans=where, owned=own, answerable=bool(answerable))

    # Batches and loss ----------------------------------------------------------------------------------------

    def collate(self, features: Sequence[Feature], rng: np.random.Generator | None = None) -> Batch:
        """Pad features as :meth:`Adapter.collate` does, and mark what a span may be made of.

        Returns:
            Beside the model's inputs: ``context`` and ``starts``, ``(B, T)`` bool, the tokens of the context and those
            that may begin an answer; ``null``, ``(B,)`` int64, the position of no answer; ``labels``, ``(B, 2)``.
        """
        import numpy as np
        import torch

        batch = super().collate(features, rng)
        places: list[Window] = [feature.aligned for feature in features]
        firsts = np.array([p.first for p in places]) + self._shift(features).numpy()
        width = batch["input_ids"].shape[1]
        offsets = np.arange(width) - firsts[:, None]
        lengths = [len(p.spans) for p in places]
        context = (offsets >= 0) & (offsets < np.array(lengths)[:, None])
        starts = np.zeros_like(context)
        starts[context] = np.concatenate([p.owned for p in places])
        batch |= {"context": torch.from_numpy(context), "starts": torch.from_numpy(starts)}
        batch["null"] = torch.tensor([p.null for p in places]) + self._shift(features)
        return batch

    def _shift(self, features: Sequence[Feature]) -> torch.Tensor:
        """Return how far padding moves each feature's positions, ``(B,)`` int64."""
        import torch

        lengths = torch.tensor([len(feature) for feature in features])
        return lengths.max() - lengths if self.padding.left else torch.zeros_like(lengths)

    def targets(self, features: Sequence[Feature]) -> torch.Tensor:
        """Return the positions of the answer's first and last token ``(B, 2)`` int64, twice [CLS] for none."""
        import torch

        return torch.tensor([feature.target for feature in features]) + self._shift(features)[:, None]

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Return the mean of start and end cross entropy, summed over the windows.

        The softmax is over the context and [CLS] alone. (Hugging Face's own loss is over padding and question too, and
        so depends on the padding.)

        Args:
            outputs: its ``start_logits`` and ``end_logits`` are ``(B, T)``.
            batch: as :meth:`collate` makes it.
        """
        import torch

        rows = torch.arange(len(batch["null"]), device=batch["null"].device)
        candidates = batch["context"].clone()
        candidates[rows, batch["null"]] = True
        each = (
            self._cross_entropy(logits.float(), batch["labels"][:, side], candidates)
            for side, logits in enumerate((outputs.start_logits, outputs.end_logits))
        )
        return Loss(sum(each, torch.zeros((), device=rows.device)) / 2, torch.tensor(float(len(rows))))

    def _cross_entropy(self, logits: torch.Tensor, target: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Return the cross entropy over the candidates, summed; with label smoothing each of them shares in it."""
        import torch

        log_probabilities = logits.masked_fill(~candidates, -math.inf).log_softmax(dim=-1)
        exact = -log_probabilities.gather(1, target[:, None]).sum()
        smoothing = self.config.label_smoothing
        if not smoothing:
            return exact
        spread = -torch.where(candidates, log_probabilities, 0).sum(dim=-1) / candidates.sum(dim=-1)
        return (1 - smoothing) * exact + smoothing * spread.sum()

    # Predictions ---------------------------------------------------------------------------------------------

    def reduce(self, outputs: Any, batch: Batch) -> Sequence[np.ndarray]:
        """Return the best spans of each window: ``(1 + up to 20, 3)`` float64, rows of start, end (positions), score.

        The first row is no answer. Every span from an owned context token to a later one, at most
        ``max_answer_length`` tokens, was looked at.
        """
        import torch

        start, end = outputs.start_logits.float(), outputs.end_logits.float()
        size, length = start.shape
        widest = min(self.max_answer_length, length)
        null = batch["null"][:, None]
        null_score = start.gather(1, null) + end.gather(1, null)
        start = start.masked_fill(~batch["starts"], -math.inf)
        end = end.masked_fill(~batch["context"], -math.inf)
        ends = torch.nn.functional.pad(end, (0, widest - 1), value=-math.inf).unfold(1, widest, 1)
        best = (start[:, :, None] + ends).reshape(size, -1).topk(min(N_BEST, length * widest), dim=1)
        first = best.indices // widest
        last = first + best.indices % widest
        # Positions count from the feature's own start.
        shift = length - batch["attention_mask"].sum(dim=1, keepdim=True) if self.padding.left else 0
        spans = torch.stack([first - shift, last - shift, best.values], dim=2)
        nulls = torch.stack([null - shift, null - shift, null_score], dim=2)
        return list(torch.cat([nulls, spans], dim=1).cpu().double().numpy())

    def decode(
        self, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return one prediction an example: the best span over all its windows.

        Returns:
            ``answer``, ``start`` and ``end`` (code points of the context as given), ``score`` (softmax over the 20
            best spans and no answer) and ``no_answer_score`` (no answer, least over the windows, minus the best span;
            None where there was no span). Where the model may answer nothing, also ``best_span``, what it would
            otherwise answer. With ``options.alternatives``, the next best.
        """
        predictions = []
        for index, found in self.by_example(reduced, features):
            context = self.value(examples[index], "context")
            null = min(float(rows_of[0, 2]) for rows_of, _ in found)
            prediction = self._prediction(_best_spans(found, context), null, context)
            predictions.append(prediction | ({"truncated": True} if found[0][1].num_cut else {}))
        assert len(predictions) == len(examples), "every example has at least one feature"
        return predictions

    def _prediction(self, spans: list[tuple[int, int, float]], null: float, context: str) -> Prediction:
        """Return the prediction for spans (start, end, score), best first, and the score of no answer."""
        top = max([null, *(score for _, _, score in spans[:1])])
        weights = [math.exp(score - top) for _, _, score in spans]
        nothing = math.exp(null - top)
        total = sum(weights) + nothing
        answers: list[dict[str, Any]] = [
            {"answer": context[start:end], "start": start, "end": end, "score": weight / total}
            for (start, end, _), weight in zip(spans, weights, strict=True)
        ]
        no_answer_score = null - spans[0][2] if spans else None
        refused = self.unanswerable and no_answer_score is not None and no_answer_score > self.threshold
        empty = NO_ANSWER | {"score": nothing / total}
        chosen = empty if refused or not answers else answers[0]
        prediction = chosen | {"no_answer_score": no_answer_score}
        if self.unanswerable:
            prediction["best_span"] = answers[0] if answers else None
        if self.alternatives:
            rest = [each for each in (*answers, *([empty] if self.unanswerable else [])) if each is not chosen]
            prediction["alternatives"] = sorted(rest, key=lambda each: -each["score"])[: self.alternatives]
        return prediction

    # Scores and threshold ------------------------------------------------------------------------------------

    @property
    def tunes(self) -> bool:
        """Say whether there is a no-answer threshold to choose."""
        return self.unanswerable

    def tune(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str:
        """Choose the no-answer threshold with the best F1, and say which."""
        from bertkit.metrics import spans

        raw, scores, has = self._as_if_answered(predictions, examples)
        if has.all() or not has.any():
            kind = "have an answer" if has.all() else "have none"
            return f"no-answer threshold {self.threshold:.4f}, not tuned: all {len(has)} held-out questions {kind}"
        found = spans.best_threshold(raw, scores, has, answered=_answered(predictions), attainable=True)
        self.threshold = found["best_f1_thresh"]
        at_0 = spans.means(["f1"], spans.with_threshold(raw, scores, has, 0.0))["f1"]
        return (
            f"no-answer threshold {self.threshold:.4f}, tuned on {len(examples)} training questions held out for it: "
            f"F1 {found['best_f1']:.2f} there, {at_0:.2f} at threshold 0"
            + (", and so few say little" if len(has) < FEW else "")
        )

    def state(self) -> dict[str, Any]:
        """Return the no-answer threshold."""
        return {"threshold": self.threshold} if self.unanswerable else {}

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Take the threshold back."""
        self.threshold = float(state.get("threshold", self.threshold))

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, resamples: int = 0
    ) -> dict[str, Any]:
        """Return exact match and F1, 0..100; where there may be no answer, also at threshold 0."""
        from bertkit.metrics import spans

        raw = {"": self._raw([p["answer"] for p in predictions], self._references(examples))}
        if self.unanswerable:
            raw["_at_0"] = spans.with_threshold(*self._as_if_answered(predictions, examples), 0.0)
        names = list(self.task.metrics)
        scores: dict[str, Any] = {}
        for suffix, questions in raw.items():
            values = spans.means(names, questions)
            bounds = spans.mean_intervals(names, questions, resamples=resamples) if resamples else {}
            for name in names:
                scores[name + suffix] = values[name]
                scores |= {f"{name}{suffix}_interval": bounds[name]} if bounds else {}
        return scores

    def tally(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Tally:
        """Return exact match and F1 of each question."""
        from bertkit.metrics import spans

        raw = self._raw([p["answer"] for p in predictions], self._references(examples))
        return spans.tally(list(self.task.metrics), raw)

    def grades(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> np.ndarray:
        """Return 1 for an answer that equals an accepted one."""
        exact: np.ndarray = self._raw([p["answer"] for p in predictions], self._references(examples))[:, 0]
        return exact

    def details(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return the scores of questions with and without an answer, and those of the split's own best threshold."""
        from bertkit.metrics import spans

        references = self._references(examples)
        has = [bool(each) for each in references]
        raw = self._raw([p["answer"] for p in predictions], references)
        found: dict[str, Any] = spans.split_by_answer(raw, has)
        if self.unanswerable:
            whole = self._as_if_answered(predictions, examples)
            found |= {"threshold": self.threshold}
            found |= spans.best_threshold(*whole, answered=_answered(predictions), attainable=True)
        return found

    def _references(self, examples: Iterable[Example]) -> list[list[str]]:
        return [[answer.text for answer in self.answers(example)] for example in examples]

    def _as_if_answered(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return exact match and F1 of the best spans ``(n, 2)``, no-answer scores and who has an answer ``(n,)``."""
        import numpy as np

        references = self._references(examples)
        answers = [(p["best_span"] or NO_ANSWER)["answer"] for p in predictions]
        scores = [math.inf if p["no_answer_score"] is None else p["no_answer_score"] for p in predictions]
        return self._raw(answers, references), np.array(scores), np.array([bool(each) for each in references])

    def outcomes(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return given and accepted answers, with their questions and contexts."""
        references = self._references(examples)
        answers = [prediction["answer"] for prediction in predictions]
        columns = {"answers": "answer", "starts": "start", "scores": "score"}
        return {
            "form": "spans",
            "questions": [str(self.value(example, "question")) for example in examples],
            "contexts": [str(self.value(example, "context")) for example in examples],
            "references": references,
            "raw": self._raw(answers, references),
            "sizes": [len(split(accepted[0])) if accepted else 0 for accepted in references],
            **{name: [prediction[key] for prediction in predictions] for name, key in columns.items()},
        }

    def better(self, new: float, old: float | None) -> bool:
        """Say whether a score is higher."""
        return not math.isnan(new) and (old is None or new > old)

    def constant(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str | None:
        """Return "no answer" where that is every prediction though some questions have one."""
        nothing = len(predictions) > 1 and not any(prediction["answer"] for prediction in predictions)
        return "no answer" if nothing and any(map(self.answers, examples)) else None

    def _write_squad(self, pairs: Iterable[tuple[Example, Prediction]]) -> Iterator[str]:
        """Yield the lines of SQuAD's official prediction file."""
        from bertkit.data import squad

        return squad.written(pairs)

    writers: ClassVar[dict[str, Writer]] = {"squad": cast("Callable[..., Iterator[str]]", _write_squad)}


def _name(example: Example) -> str:
    """Return what messages call a question: its id, else its text."""
    return f"question {example['id']!r}" if "id" in example else f"question {shown(example.get('question'))}"


def _impossible(example: Example) -> bool:
    """Say whether the row says itself that nothing in its context answers it, as SQuAD 2.0's do."""
    return example.get("is_impossible") is True


def _without_answer(cell: Any, example: Example) -> bool:
    """Say whether a row says of a question that it has no answer.

    One that says nothing, or makes no sense, does not; :meth:`SpanQA.check` names it.
    """
    try:
        return (cell is not None or _impossible(example)) and not _answers(cell, example)
    except DataError:
        return False


def _answers(cell: Any, example: Example) -> list[Answer]:
    """Return the answers in a cell: ``{"text": [...], "answer_start": [...]}``, a list of such, of texts, or a text.

    ``is_impossible`` says that there is none, whatever the cell holds.

    Raises:
        DataError: if the cell is none of these.
    """
    if _impossible(example) or cell is None or cell == "":
        return []
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        starts = cell.get("answer_start")
        starts = [None] * len(cell["text"]) if starts is None else starts
        if not isinstance(starts, list) or len(starts) != len(cell["text"]):
            raise DataError(
                f"{_name(example)}: the answers' text has {len(cell['text'])} entries, and answer_start, "
                f"{shown(starts)}, must have as many"
            )
        items: list[Any] = [{"text": t, "answer_start": s} for t, s in zip(cell["text"], starts, strict=True)]
    else:
        items = cell if isinstance(cell, list) else [cell]
    return [_answer(item, example) for item in items]


def _answer(item: Any, example: Example) -> Answer:
    text, start = (item.get("text"), item.get("answer_start")) if isinstance(item, dict) else (item, None)
    if not isinstance(text, str) or not text:
        raise DataError(f"{_name(example)}: an answer is {shown(text)}, and must be a text; no answers is []")
    if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
        raise DataError(f"{_name(example)}: an answer_start is {shown(start)}, and must be a whole number")
    return Answer(text, start)


def _located(answer: Answer, context: str) -> tuple[int, int] | None:
    """Return where an answer stands: as it says, else where its text occurs if that is once."""
    start = answer.start
    if start is None or start < 0 or not context.startswith(answer.text, start):
        start = context.find(answer.text)
        if start < 0 or context.find(answer.text, start + 1) >= 0:
            return None
    return start, start + len(answer.text)


def _parts(encoding: Any) -> tuple[list[int], list[int]]:
    """Return the positions of question and special tokens, and those of the context."""
    around: list[int] = []
    context: list[int] = []
    for position, segment in enumerate(encoding.sequence_ids):
        (context if segment == 1 else around).append(position)
    return around, context


def _inked(spans: np.ndarray, context: str) -> np.ndarray:
    """Say which tokens show more than white space: ``(n,)`` bool; byte-level and SentencePiece have tokens of spaces.

    Args:
        spans: where the tokens stand, ``(n, 2)``.
        context: the text.
    """
    import numpy as np

    return np.array([not context[start:end].isspace() and start < end for start, end in spans.tolist()], dtype=bool)


def _answer_tokens(places: Sequence[tuple[int, int]], spans: np.ndarray) -> tuple[int, int]:
    """Return the first and the last context token of the answer to learn, (-1, -1) for no answer.

    It is the first of the places that tokens show.

    Args:
        places: where the accepted answers stand.
        spans: where the tokens stand, ``(n, 2)``.
    """
    for start, end in places:
        (tokens,) = ((spans[:, 0] < end) & (spans[:, 1] > start)).nonzero()
        if len(tokens):
            return int(tokens[0]), int(tokens[-1])
    return -1, -1


def _target(answer: tuple[int, int] | None, window: range, place: Window) -> tuple[int, int] | None:
    """Return the positions to learn in a window: the answer's where the window holds it whole, else [CLS] twice."""
    if answer is None:
        return None
    first, last = answer
    if first in window and last in window:
        return place.first + first - window.start, place.first + last - window.start
    return place.null, place.null


def _best_spans(found: Sequence[tuple[np.ndarray, Feature]], context: str) -> list[tuple[int, int, float]]:
    """Return up to 20 distinct spans of the text over all windows (start, end, score), best first."""
    best: dict[tuple[int, int], float] = {}
    for rows, feature in found:
        place: Window = feature.aligned
        for first, last, score in rows[1:].tolist():
            if score == -math.inf:
                break
            start = int(place.spans[int(first) - place.first, 0])
            end = int(place.spans[int(last) - place.first, 1])
            span = _trimmed(context, start, end)
            if span[0] < span[1] and score > best.get(span, -math.inf):
                best[span] = score
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return [(start, end, score) for (start, end), score in ranked[:N_BEST]]


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without white space at its ends, and with the combining marks that belong to its last character.

    SentencePiece counts the space before a word to it; uncased WordPiece drops marks that stand by themselves.
    """
    while end < len(context) and unicodedata.category(context[end]) in MARKS:
        end += 1
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end


def _answered(predictions: Iterable[Prediction]) -> list[bool]:
    return [prediction["best_span"] is not None for prediction in predictions]
