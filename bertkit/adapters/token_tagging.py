"""Token tagging: one tag for every word of a sentence.

The head is Hugging Face's own: ``P = softmax(W T + b)`` with ``T`` the encoder's output ``(H,)`` at a word's first
sub-token and ``W`` the head weight ``(K, H)`` (arXiv:1810.04805, 5.3). The other sub-tokens are seen, and neither
trained nor scored.

A sentence is a list of words (``tokens``, ``tags``) or a raw text (``text``, ``entities``), whose words are those of
:func:`bertkit.adapters.words.split`. Offsets count code points: of the text as given, or, for a list of words, of the
text that single spaces between them make.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bertkit.adapters import columns as packing
from bertkit.adapters import tag_rows, windows, words
from bertkit.adapters.base import (
    Adapter,
    Batch,
    Example,
    Feature,
    Loss,
    Prediction,
    Writer,
    encodings,
    padded,
    shown,
    too_long,
    without_surrogates,
)
from bertkit.adapters.columns import Columns
from bertkit.adapters.tag_rows import OUTSIDE
from bertkit.errors import ConfigError, DataError, did_you_mean, sentence
from bertkit.metrics import tagging
from bertkit.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from bertkit.adapters.words import Sentence
    from bertkit.metrics.significance import Tally

ENCODE_CHUNK = 2048
"""Examples that the tokenizer is given at once; bounds memory."""
IGNORED = -100
"""Target of a position that the loss leaves out: torch's ``ignore_index``."""
MOST = 3
"""Faults of one row's tags that are named."""
SAMPLE = 100
"""Rows by which a file is recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """Which words of its example a feature answers for. Over all features of an example, no word is there twice."""

    num_words: int
    """Words of the whole example."""
    words: list[int]
    """The words that this feature answers for, ascending, n of them."""
    places: list[int]
    """Position of each one's first sub-token in the feature."""
    past_limit: list[int]
    """Words of the example whose first sub-token no feature shows; the same in all its features."""


class _View(NamedTuple):
    """Some positions of an encoding, and the words that they answer for."""

    positions: Sequence[int]
    firsts: Mapping[int, int]
    """Word -> position in the encoding."""


def write_conll(adapter: Adapter, pairs: Iterable[tuple[Example, Prediction]]) -> Iterator[str]:
    """Yield the lines of a CoNLL file of predictions; see :func:`bertkit.data.conll.written`."""
    from bertkit.data import conll

    assert isinstance(adapter, TokenTagging)
    yield from conll.written((row | adapter.roles(row), prediction) for row, prediction in pairs)


class TokenTagging(Adapter):
    """One tag per word (softmax); entities where the tags are BIO-like."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "tags!")
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    pipeline: ClassVar[str] = "token-classification"
    usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'tag = pipeline("token-classification", model="model", aggregation_strategy="first")\n'
        'print(tag("..."))'
    )
    options: ClassVar[dict[str, type]] = {"scheme": str, "counting": str}
    decoding: ClassVar[frozenset[str]] = frozenset({"counting"})
    decoders: ClassVar[tuple[str, ...]] = ("viterbi", "argmax")
    writers: ClassVar[dict[str, Writer]] = {"conll": write_conll}
    defaults: ClassVar[dict[str, Any]] = {"on_long": "window"}

    def __init__(self, task: Task, config: Any, labels: Sequence[str]) -> None:
        self.scheme = str(task.options.get("scheme", "") or tagging.scheme(labels))
        self.counting = str(task.options.get("counting", tagging.MODES[0]))
        self.kinds = {tagging.split_tag(label)[1] for label in labels if label != OUTSIDE} if self.scheme else set()
        super().__init__(task, config, labels)
        self.legal = tagging.transitions(self.labels, self.scheme)

    def check_options(self) -> None:
        """Raise :class:`ConfigError` for an unknown option, scheme or counting, and for Viterbi without a scheme."""
        super().check_options()
        allowed = {"scheme": (self.scheme, ("", *tagging.RULES)), "counting": (self.counting, tagging.MODES)}
        problems = [
            f"options.{name} is '{value}', and must be one of {', '.join(map(repr, filter(None, choices)))}"
            for name, (value, choices) in allowed.items()
            if value not in choices
        ]
        if self.evaluation.decode == "viterbi" and not self.scheme:
            problems.append(
                "eval.decode is 'viterbi', and the tags are not BIO-like, so that any may follow any: "
                "set it to 'argmax' or 'auto'"
            )
        if problems:
            raise ConfigError(sentence(problems))

    # What the data decides -----------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, examples: Sequence[Example]) -> bool:
        """Say whether most rows hold words with as many tags, or texts with entities; a check names the others."""
        sample = examples[:SAMPLE]
        kinds = (tag_rows.has_tagged_words, tag_rows.has_entities)
        return any(2 * sum(map(holds, sample)) > len(sample) for holds in kinds)

    @classmethod
    def resolve(cls, task: Task, examples: Sequence[Example]) -> tuple[Task, list[str]]:
        """Fill in columns, labels, metrics and ``options.scheme``; see :meth:`Adapter.resolve`."""
        columns, notes = tag_rows.columns_of(task, examples, cls.columns)
        sequences, kinds = tag_rows.tag_cells(columns, examples), tag_rows.entity_labels(columns, examples)
        if not task.labels and not sequences and not kinds:
            raise tag_rows.without_tags(columns, examples)
        labels = task.labels or tag_rows.distinct(sequences, kinds, notes, scheme=str(task.options.get("scheme", "")))
        scheme = str(task.options.get("scheme", "") or tagging.scheme(labels, tag_rows.by_name(sequences, labels)))
        notes.append(f"the tags are {f'BIO-like ({scheme})' if scheme else 'not BIO-like, so they make no entities'}")
        metrics = task.metrics or tagging.defaults(scheme)
        tagging.check_names(metrics, scheme)
        options = task.options | ({"scheme": scheme} if scheme else {})
        return replace(task, columns=columns, labels=labels, metrics=tuple(metrics), options=options), notes

    # Examples ------------------------------------------------------------------------------------------------

    def column(self, role: str) -> str:
        """Return the column of a role; a CoNLL file's column is a number, and its rows have the role's name."""
        return tag_rows.column_of(self.task.columns, role)

    def _place(self, example: Example, role: str) -> str:
        """Return where an example has its value for a role, for messages."""
        column = self.column(role)
        return role if column not in example and role in example else column

    def example_of(self, text: str) -> Example:
        """Return the example that a bare text stands for."""
        return {self.column("text"): text}

    def check(self, example: Example, *, labelled: bool = True) -> list[str]:
        """Return what is wrong with the words or the text and, where ``labelled``, with the tags or entities."""
        if not self._of_words(example) and self.has(example, "text"):
            problems = self.check_text(example, "text")
        else:
            problems = self._check_words(example)
        if problems or not labelled:
            return problems
        if self._gold_cell(example) is None:
            return [f"column '{self._place(example, self._gold_role(example))}' holds no tags"]
        return self._check_tags(example) if self._of_words(example) else self._check_entities(example)

    def _check_words(self, example: Example) -> list[str]:
        column, value = self._place(example, "tokens"), self.value(example, "tokens")
        if not self.has(example, "tokens"):
            there = ", ".join(map(repr, list(example)[:8])) or "none"
            return [f"column '{column}' is missing, and so is '{self.column('text')}'; there are {there}"]
        if not isinstance(value, list | tuple):
            return [f"column '{column}' is {'null' if value is None else shown(value)}, and must be a list of texts"]
        wrong = [(place, word) for place, word in enumerate(value, start=1) if not isinstance(word, str)]
        return [
            f"column '{column}' holds {shown(word)} as word {place}, and must hold texts" for place, word in wrong[:1]
        ]

    def _check_tags(self, example: Example) -> list[str]:
        column, cell, tokens = self._place(example, "tags"), self.value(example, "tags"), self.value(example, "tokens")
        if not isinstance(cell, list | tuple):
            return [f"column '{column}' is {shown(cell)}, and must be a list of tags"]
        if len(cell) != len(tokens):
            words_column = self._place(example, "tokens")
            return [f"column '{column}' has {len(cell)} tags, and '{words_column}' has {len(tokens)} words"]
        problems = []
        for place, (tag, word) in enumerate(zip(cell, tokens, strict=True), start=1):
            try:
                self.label_id(tag)
            except DataError as error:
                problems.append(f"word {place} ({shown(word)}): {error}")
        return problems[:MOST]

    def _check_entities(self, example: Example) -> list[str]:
        column, cell = self._place(example, "entities"), self.value(example, "entities")
        wanted = "must be a list of tables with start, end and label; start and end are whole numbers"
        if not isinstance(cell, list | tuple):
            return [f"column '{column}' is {shown(cell)}, and {wanted}"]
        if wrong := [entity for entity in cell if not tag_rows.is_entity(entity)]:
            return [f"column '{column}' holds {shown(wrong[0])}, and {wanted}"]
        sentence, end = self.sentence(example), 0
        problems = []
        for entity in tag_rows.in_order(cell):
            if problem := self._entity_problem(entity, sentence, end):
                problems.append(f"entity {entity['start']}-{entity['end']}: {problem}")
            end = max(end, entity["end"])
        lacking = sorted(set() if problems else {*self._tags_of(sentence, cell)} - self.ids.keys())
        problems += [f"its entities need the tag '{tag}', which is not one of the labels" for tag in lacking]
        return problems[:MOST]

    def _entity_problem(self, entity: Mapping[str, Any], sentence: Sentence, end: int) -> str:
        """Return what is wrong with an entity that stands behind others, of which the last ends at ``end``."""
        start, stop, label = entity["start"], entity["end"], entity["label"]
        if not 0 <= start < stop <= len(sentence.text):
            return f"it must have 0 <= start < end <= {len(sentence.text)}, the length of the text"
        if start < end:
            return f"it overlaps another, which ends at {end}"
        if not sentence.covered(start, stop):
            return "it holds white space alone"
        if label not in self.kinds:
            known = ", ".join(map(repr, sorted(self.kinds))) or "none"
            return f"label {shown(label)} is not one of {known}.{did_you_mean(str(label), self.kinds)}"
        return ""

    def label_id(self, value: Any) -> int:
        """Return the id of a tag: by name first, else an integer is an id into the labels.

        Raises:
            DataError: if it is neither.
        """
        name = str(value)
        if name in self.ids:
            return self.ids[name]
        numbered = any(label.isdecimal() for label in self.labels)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.labels) and not numbered:
            return value
        allowed = ", ".join(f"'{label}'" for label in self.labels[:10]) + (", ..." if len(self.labels) > 10 else "")
        raise DataError(f"tag {shown(value)} is not one of {allowed}.{did_you_mean(name, self.labels)}")

    def sentence(self, example: Example) -> Sentence:
        """Return the words of an example that was checked."""
        if self._of_words(example):
            return words.of_words(self.value(example, "tokens"))
        return words.of_text(self.value(example, "text"))

    def gold(self, example: Example) -> list[str]:
        """Return the true tag of each word; an entity that ends inside a word has the whole word.

        Raises:
            DataError: if a tag is not one of the labels.
        """
        cell = self._gold_cell(example)
        if self._of_words(example):
            return [self.labels[self.label_id(tag)] for tag in cell]
        return self._tags_of(self.sentence(example), cell)

    def roles(self, example: Example) -> dict[str, list[str]]:
        """Return ``tokens`` and, where they are known, the true ``tags`` of a row, whatever form and columns it has."""
        gold = self._ids_or_none(example)
        tags = {} if gold is None else {"tags": [self.labels[tag] for tag in gold]}
        return {"tokens": self.sentence(example).words, **tags}

    def _of_words(self, example: Example) -> bool:
        return self.value(example, "tokens") is not None

    def _gold_role(self, example: Example) -> str:
        return "tags" if self._of_words(example) else "entities"

    def _gold_cell(self, example: Example) -> Any:
        """Return the tags or entities; None where there are none, as where the Hub has -1 for every tag."""
        cell = self.value(example, self._gold_role(example))
        unknown = isinstance(cell, list | tuple) and len(cell) > 0 and all(tag is None for tag in cell)
        return None if unknown else cell

    def _tags_of(self, sentence: Sentence, entities: Iterable[Mapping[str, Any]]) -> list[str]:
        tags, free = [OUTSIDE] * len(sentence.spans), 0
        for entity in tag_rows.in_order(entities):
            found = sentence.covered(entity["start"], entity["end"])
            place = range(max(found.start, free), found.stop)
            prefixes = _prefixes(self.scheme, len(place))
            tags[place.start : place.stop] = [f"{prefix}-{entity['label']}" for prefix in prefixes]
            free = max(free, found.stop)
        return tags

    def labelled(self, examples: Sequence[Example]) -> bool:
        """Say whether any sentence has tags or entities."""
        return any(self._gold_cell(example) is not None for example in examples)

    def unusable(self, example: Example) -> str:
        """Return why a sentence cannot be trained on: it has no word."""
        return "" if self.sentence(example).spans else "it has no word"

    def balance(self, examples: Sequence[Example]) -> dict[str, int]:
        """Return entity type -> entities where the tags are BIO-like, else tag -> words."""
        counts: Counter[str] = Counter()
        for example in examples:
            if self._gold_cell(example) is not None:
                tags = self.gold(example)
                counts.update([kind for kind, _, _ in tagging.chunks(tags)] if self.scheme else tags)
        return {name: counts[name] for name in (sorted(self.kinds) if self.scheme else self.labels)}

    def readings(self, example: Example) -> dict[str, str]:
        """Return the words with single spaces between them, or the raw text."""
        if self._of_words(example):
            return {"tokens": " ".join(self.value(example, "tokens"))}
        return {"text": self.value(example, "text")}

    def truth(self, example: Example) -> Hashable:
        """Return the tags."""
        return None if self._gold_cell(example) is None else tuple(self.gold(example))

    def stratum(self, example: Example) -> Hashable:
        """Return whether the sentence holds an entity; None where the tags are not BIO-like."""
        if not self.scheme or self._gold_cell(example) is None:
            return None
        return any(tag != OUTSIDE for tag in self.gold(example))

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Return where tags are illegal, and how many entities do not begin and end where words do."""
        gold = [self.gold(example) for example in examples if self._gold_cell(example) is not None]
        illegal = self._illegal(gold)
        looks = tagging.scheme(self.labels, gold) if illegal else self.scheme
        other = f"; they look like {looks}" if looks != self.scheme else ""
        remarks = [f"{_counted(illegal, 'place')} where the tags are not legal {self.scheme}{other}"] if illegal else []
        entities = [found for example in examples for found in self._placed(example)]
        widened = sum(not exact for exact, _ in entities)
        lost = sum(not left for _, left in entities)
        if widened:
            remarks.append(f"{_counted(widened, 'entity')} of {len(entities)} widened to whole words")
        if lost:
            remarks.append(f"{_counted(lost, 'entity')} lost, since another has the word that they are part of")
        return remarks

    def _placed(self, example: Example) -> Iterator[tuple[bool, bool]]:
        """Yield, for each entity of a raw text, whether words begin and end with it, and whether one is left for it."""
        if self._of_words(example) or self._gold_cell(example) is None:
            return
        sentence, free = self.sentence(example), 0
        for entity in tag_rows.in_order(self.value(example, "entities")):
            found = sentence.covered(entity["start"], entity["end"])
            whole = (sentence.spans[found.start][0], sentence.spans[found.stop - 1][1])
            yield whole == (entity["start"], entity["end"]), found.stop > free
            free = max(free, found.stop)

    def _illegal(self, sequences: Iterable[Sequence[str]]) -> int:
        """Return how many tags may not stand behind the one before or, being the last, end a sentence."""
        start, step, end = self.legal
        illegal = 0
        for tags in sequences:
            ids = [self.ids[tag] for tag in tags]
            illegal += sum(not step[before, after] for before, after in pairwise(ids))
            illegal += (not start[ids[0]]) + (not end[ids[-1]]) if ids else 0
        return illegal

    # Features ------------------------------------------------------------------------------------------------

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take how rows are padded, and have words begin as they do in running text; see :func:`prefix_space`."""
        super().bind(tokenizer)
        prefix_space(tokenizer)

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
        """Turn sentences into features: ``[CLS]``, the sub-tokens of every word, ``[SEP]``.

        ``token_type_ids`` are there where the model takes them. A target has the tag's id at the first sub-token of
        each word that the feature answers for, and -100 elsewhere; it is None without tags.
        """
        prefix_space(tokenizer)
        features: list[Feature] = []
        for start in range(0, len(examples), ENCODE_CHUNK):
            chunk = examples[start : start + ENCODE_CHUNK]
            texts = [[without_surrogates(word) for word in self.sentence(example).words] for example in chunk]
            encoded = encodings(tokenizer, texts, words=True, offsets=True)
            for index, (example, encoding) in enumerate(zip(chunk, encoded, strict=True)):
                features += self._features(start + index, example, len(texts[index]), encoding, tokenizer)
        return features

    def _features(
        self, place: int, example: Example, num_words: int, encoding: Any, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Feature]:
        segment = windows.segments(encoding)[0]
        views = list(self._views(place, encoding, segment))
        answered = {word for view in views for word in view.firsts}
        past = [word for word in _firsts(encoding, segment) if word not in answered]
        kept = {position for view in views for position in view.positions}
        gold = self._ids_or_none(example)
        with_types = "token_type_ids" in tokenizer.model_input_names
        ids, types = encoding.ids, encoding.type_ids
        num_cut = sum(position not in kept for position in segment)
        for view in views:
            where = {position: index for index, position in enumerate(view.positions)}
            places = [where[position] for position in view.firsts.values()]
            aligned = Aligned(num_words=num_words, words=list(view.firsts), places=places, past_limit=past)
            # A model takes no empty row, which GPT-2's tokenizer makes of an empty sentence.
            input_ids = [ids[p] for p in view.positions] or [_some_special(tokenizer)]
            yield Feature(
                example=place,
                input_ids=input_ids,
                token_type_ids=([types[p] for p in view.positions] or [0]) if with_types else None,
                target=None if gold is None else _target(gold, aligned, len(input_ids)),
                num_cut=num_cut,
                aligned=aligned,
            )

    def _views(self, place: int, encoding: Any, segment: Sequence[int]) -> Iterator[_View]:
        """Yield what each feature of an encoding shows.

        Args:
            place: of the example, for messages.
            encoding: a sentence.
            segment: its positions without the special tokens.
        """
        length, limit = len(encoding), self.config.max_length
        firsts = _firsts(encoding, segment)
        if length <= limit:
            yield _View(range(length), firsts)
            return
        if self.config.on_long == "error":
            raise too_long(place, length, limit)
        room = limit - (length - len(segment))
        if self.config.on_long != "window":
            kept = {*windows.CUTS[self.config.on_long](segment, room)}
            yield _View(windows.positions(encoding, kept), {w: p for w, p in firsts.items() if p in kept})
            return
        before, after = range(segment[0]), range(segment[-1] + 1, length)
        ranges = list(windows.slide(len(segment), room, room // 4))
        answered: list[dict[int, int]] = [{} for _ in ranges]
        owners = windows.owners(ranges)
        for word, position in firsts.items():
            answered[owners[position - segment[0]]][word] = position
        for part, own in zip(ranges, answered, strict=True):
            yield _View([*before, *segment[part.start : part.stop], *after], own)

    def _ids_or_none(self, example: Example) -> list[int] | None:
        """Return the id of each word's tag; None without tags that the model knows, as in rows to be predicted.

        Rows to train on and to score were checked before, and a batch without targets has no loss.
        """
        if self._gold_cell(example) is None or self.check(example):
            return None
        return [self.ids[tag] for tag in self.gold(example)]

    def targets(self, features: Sequence[Feature]) -> torch.Tensor:
        """Return ids ``(B, T)`` int64, -100 where there is none."""
        return padded([feature.target for feature in features], IGNORED, left=self.padding.left)

    def collate(self, features: Sequence[Feature], rng: np.random.Generator | None = None) -> Batch:
        """Pad features; ``owned`` ``(B, T)`` int64 is 1 where a feature answers for a word."""
        import numpy as np
        import torch

        batch = super().collate(features, rng)
        width = batch["input_ids"].shape[1]
        owned = np.zeros((len(features), width), dtype=np.int64)
        for row, feature in zip(owned, features, strict=True):
            row[width - len(feature) if self.padding.left else 0 :][feature.aligned.places] = 1
        batch["owned"] = torch.from_numpy(owned)
        return batch

    def packed_notes(self, features: Sequence[Feature]) -> Columns:
        """Return targets, and what features answer for: see :class:`Aligned`."""
        import numpy as np

        aligned: list[Aligned] = [feature.aligned for feature in features]
        columns: Columns = {
            "num_words": np.array([each.num_words for each in aligned], dtype=np.int64),
            "labelled": np.array([feature.target is not None for feature in features], dtype=bool),
        }
        for name in ("words", "places", "past_limit"):
            columns |= packing.flat(name, [getattr(each, name) for each in aligned], np.int32)
        return columns | packing.flat("target", [feature.target or [] for feature in features], np.int32)

    def unpacked_notes(self, columns: Columns) -> Iterable[tuple[Any, Any]]:
        """Yield targets and what is answered for."""
        rows = (packing.lists(columns, name) for name in ("words", "places", "past_limit", "target"))
        numbers = (columns[name].tolist() for name in ("num_words", "labelled"))
        for words_of, places, past, target, num_words, labelled in zip(*rows, *numbers, strict=True):
            aligned = Aligned(num_words=num_words, words=words_of, places=places, past_limit=past)
            yield target if labelled else None, aligned

    def truncation(self, features: Sequence[Feature], examples: Sequence[Example]) -> dict[str, Any]:
        """Return what the length limit cuts, and which words go untagged."""
        found = super().truncation(features, examples)
        seen: Counter[int] = Counter()
        first: dict[int, Aligned] = {}
        for feature in features:
            seen[feature.example] += len(feature.aligned.words)
            first.setdefault(feature.example, feature.aligned)
        total = sum(aligned.num_words for aligned in first.values())
        past = sum(len(aligned.past_limit) for aligned in first.values())
        without = total - past - sum(seen.values())
        return found | {
            "words": total,
            "words_without_token": without,
            "share_of_words_without_token": without / max(1, total),
            "words_past_limit": past,
            "share_of_words_past_limit": past / max(1, total),
            "entity_words_past_limit": sum(self._entity_words(examples[i], a.past_limit) for i, a in first.items()),
        }

    def _entity_words(self, example: Example, places: Sequence[int]) -> int:
        """Return how many of some words are part of a true entity."""
        gold = self._ids_or_none(example) if places and self.scheme else None
        return 0 if gold is None else sum(self.labels[gold[place]] != OUTSIDE for place in places)

    def truncation_notes(self, found: Mapping[str, Any]) -> list[str]:
        """Return the sentences that tell what is cut, and which words are tagged ``O`` unseen."""
        notes = super().truncation_notes(found)
        if past := found["words_past_limit"]:
            inside = f", {found['entity_words_past_limit']} of them inside an entity" if self.scheme else ""
            share = f"{found['share_of_words_past_limit']:.1%}"
            notes.append(f"{_counted(past, 'word')} ({share}) past the limit, tagged '{OUTSIDE}'{inside}")
        if without := found["words_without_token"]:
            share = f"{found['share_of_words_without_token']:.1%}"
            notes.append(
                f"{_counted(without, 'word')} ({share}) of which the tokenizer leaves nothing, tagged '{OUTSIDE}'"
            )
        return notes

    # Loss ----------------------------------------------------------------------------------------------------

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Return cross entropy, summed over the words; 0 with weight 0 where the batch has none.

        Args:
            outputs: its ``logits`` are ``(B, T, K)``.
            batch: its ``labels`` are :meth:`targets`.
        """
        import torch
        from torch.nn import functional as F

        logits, target = outputs.logits.float().flatten(0, 1), batch["labels"].flatten()
        weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        total = F.cross_entropy(
            logits,
            target,
            weight=weights,
            label_smoothing=self.config.label_smoothing,
            ignore_index=IGNORED,
            reduction="sum",
        )
        labelled = target[target != IGNORED]
        count = torch.tensor(float(len(labelled)), device=logits.device)
        return Loss(total, count if weights is None else weights[labelled].sum())

    def class_weights(self, features: Sequence[Feature]) -> list[float] | None:
        """Return the weight of each tag under ``class_weights = "balanced"``, else None: words / (K * its words)."""
        if self.config.class_weights == "none":
            return None
        counts = Counter(tag for feature in features for tag in feature.target if tag != IGNORED)
        total, size = counts.total(), len(self.labels)
        return [total / (size * counts[tag]) if counts[tag] else 0.0 for tag in range(size)]

    # Predictions ---------------------------------------------------------------------------------------------

    def reduce(self, outputs: Any, batch: Batch) -> Sequence[np.ndarray]:
        """Return the logits of the words that each feature answers for, ``(n, K)`` float32."""
        owned = batch["owned"].bool()
        logits = outputs.logits.detach()[owned].float().cpu()
        return [part.numpy() for part in logits.split(owned.sum(dim=1).tolist())]

    def decode(
        self, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return one prediction an example: a tag for every word, and the entities that the tags make.

        A word that no feature shows is ``O``.
        """
        predictions = []
        for index, rows in self.by_example(reduced, features):
            num_words = rows[0][1].aligned.num_words
            logits = {w: row for array, feature in rows for w, row in zip(feature.aligned.words, array, strict=True)}
            prediction = self._prediction(self.sentence(examples[index]), num_words, logits)
            predictions.append(prediction | ({"truncated": True} if rows[0][1].num_cut else {}))
        assert len(predictions) == len(examples), "every example has at least one feature"
        return predictions

    def _prediction(self, sentence: Sentence, num_words: int, logits: Mapping[int, np.ndarray]) -> Prediction:
        """Return the prediction for a sentence.

        Args:
            sentence: the words and where they stand.
            num_words: as many words.
            logits: word -> ``(K,)`` float32; words without a token, or past the limit, are left out.
        """
        tags, scores = [OUTSIDE] * num_words, [0.0] * num_words
        for run in _runs(sorted(logits)):
            for word, (tag, score) in zip(run, self._decoded([logits[word] for word in run]), strict=True):
                tags[word], scores[word] = self.labels[tag], score
        return {
            "words": [list(span) for span in sentence.spans],
            "tags": tags,
            "entities": list(_entities(sentence, tags, scores)) if self.scheme else [],
        }

    def _decoded(self, logits: Sequence[np.ndarray]) -> Iterator[tuple[int, float]]:
        """Yield tag and probability for each of some neighbouring words, of logits ``(K,)``."""
        import numpy as np

        table = np.asarray(logits, dtype=np.float64)
        log_p = table - np.logaddexp.reduce(table, axis=1, keepdims=True)
        if self.scheme and self.evaluation.decode != "argmax":
            chosen = tagging.viterbi(log_p, *self.legal)
        else:
            chosen = log_p.argmax(axis=1).tolist()
        yield from ((tag, float(np.exp(row[tag]))) for tag, row in zip(chosen, log_p, strict=True))

    # Scores --------------------------------------------------------------------------------------------------

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, resamples: int = 0
    ) -> dict[str, Any]:
        """Return the task's metrics; see :meth:`Adapter.score`."""
        names, predicted, gold = list(self.task.metrics), *self._both(predictions, examples)
        mode, scheme = self.counting, self.scheme
        scores: dict[str, Any] = tagging.compute(names, predicted, gold, mode=mode, scheme=scheme)
        if not resamples:
            return scores
        bounds = tagging.intervals(names, predicted, gold, mode=mode, scheme=scheme, resamples=resamples)
        return {k: v for name in names for k, v in ((name, scores[name]), (f"{name}_interval", bounds[name]))}

    def tally(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Tally:
        """Return each sentence's entities and words that are right, predicted, true."""
        predicted, gold = self._both(predictions, examples)
        return tagging.tally(list(self.task.metrics), predicted, gold, mode=self.counting, scheme=self.scheme)

    def grades(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> np.ndarray:
        """Return 1 for a sentence whose tags are all right."""
        import numpy as np

        return np.array([float(one == other) for one, other in zip(*self._both(predictions, examples), strict=True)])

    def details(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return scheme, counting, strict F1, the illegal places of the true tags, and each type's scores."""
        if not self.scheme:
            return {}
        predicted, gold = self._both(predictions, examples)
        types = tagging.by_type(predicted, gold, mode=self.counting, scheme=self.scheme)
        strict = tagging.compute(["f1"], predicted, gold, mode="strict", scheme=self.scheme)["f1"]
        facts = {"scheme": self.scheme, "counting": self.counting, "strict_f1": strict}
        return facts | {"illegal": self._illegal(gold), "types": types}

    def outcomes(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Return the tags of each sentence beside the true ones, with its words and the scores of its entities."""
        predicted, gold = self._both(predictions, examples)
        facts = {"form": "tags", "labels": self.labels, "scheme": self.scheme, "mode": self.counting}
        words_of = [self.sentence(example).words for example in examples]
        scores = [[entity["score"] for entity in prediction["entities"]] for prediction in predictions]
        return facts | {"tags": predicted, "gold": gold, "words": words_of, "scores": scores}

    def constant(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> str | None:
        """Return the one tag that every word gets, where the true tags are several."""
        predicted, gold = self._both(predictions, examples)
        given, wanted = ({tag for tags in side for tag in tags} for side in (predicted, gold))
        return given.pop() if len(given) == 1 and len(wanted) > 1 else None

    def _both(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Return predicted and true tags, sentence by sentence."""
        return [prediction["tags"] for prediction in predictions], [self.gold(example) for example in examples]


def prefix_space(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a byte-level tokenizer begin a word with a space, as words in running text do.

    RoBERTa, GPT-2 and ModernBERT have other tokens for a word behind a space than for one at the start, and a list of
    words has no spaces. It is saved with the tokenizer. Done once; other tokenizers are left as they are.
    """
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    first = backend.pre_tokenizer
    if getattr(tokenizer, "add_prefix_space", False) or not _is_byte_level(first):
        return
    if isinstance(first, pre_tokenizers.ByteLevel):
        first.add_prefix_space = True
        backend.pre_tokenizer = first
    else:
        # Behind another splitter, the byte level would put a space before each of its pieces.
        before = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([*before, normalizers.Prepend(" ")])
    last = backend.post_processor
    if hasattr(last, "add_prefix_space"):
        last.add_prefix_space = True
        backend.post_processor = last
    tokenizer.add_prefix_space = True
    tokenizer.init_kwargs["add_prefix_space"] = True


def _is_byte_level(splitter: Any) -> bool:
    from tokenizers.pre_tokenizers import PreTokenizer

    return isinstance(splitter, PreTokenizer) and b'"type":"ByteLevel"' in splitter.__getstate__()


def _some_special(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token that means nothing by itself."""
    known = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((token for token in known if token is not None), 0)


def _firsts(encoding: Any, segment: Sequence[int]) -> dict[int, int]:
    """Return word -> position of its first sub-token, in order."""
    firsts: dict[int, int] = {}
    ids = encoding.word_ids
    for position in segment:
        if ids[position] is not None:
            firsts.setdefault(ids[position], position)
    return firsts


def _target(gold: Sequence[int], aligned: Aligned, length: int) -> list[int]:
    target = [IGNORED] * length
    for word, place in zip(aligned.words, aligned.places, strict=True):
        target[place] = gold[word]
    return target


def _runs(places: Sequence[int]) -> Iterator[list[int]]:
    """Yield the stretches of places that follow each other."""
    for _, group in groupby(enumerate(places), key=lambda item: item[1] - item[0]):
        yield [place for _, place in group]


def _entities(sentence: Sentence, tags: Sequence[str], scores: Sequence[float]) -> Iterator[dict[str, Any]]:
    for label, first, stop in tagging.chunks(tags):
        start, end = sentence.spans[first][0], sentence.spans[stop - 1][1]
        score = sum(scores[first:stop]) / (stop - first)
        yield {"label": label, "start": start, "end": end, "text": sentence.text[start:end], "score": score}


def _prefixes(scheme: str, length: int) -> list[str]:
    """Return the prefixes of an entity's tags."""
    if scheme == "IO":
        return ["I"] * length
    single, last = {"BIOES": ("S", "E"), "IOBES": ("S", "E"), "BILOU": ("U", "L")}.get(scheme, ("B", "I"))
    return [single] * length if length < 2 else ["B", *["I"] * (length - 2), last]


def _counted(number: int, name: str) -> str:
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return f"{number} {name if number == 1 else plural}"
