"""Pre-training instances: ranges of a corpus, one segment or a pair with a label, without a copy of any text.

Three objectives (:data:`Objective`):

- ``none``: one segment. The tokens of a document are cut into pieces of the wanted length, so that each token of the
  corpus is in exactly one instance.
- ``nsp``: next-sentence prediction (Devlin et al., arXiv:1810.04805, section 3.1 and appendix A.2). Sentences of a
  document are gathered until the length is reached and cut into A and B after a random sentence; half the time B is
  taken from another document instead (label 1), and the sentences that were not used are gathered again.
- ``sop``: sentence-order prediction (Lan et al., arXiv:1909.11942, section 3.1). A and B follow each other in one
  document, and half the time they change places (label 1).

Too long a pair loses tokens of its longer segment one by one, each at the front or the back with equal chance. A
tenth of the instances (``short_share``) is made for a shorter length, drawn evenly: the model must not meet positions
only in full rows. BERT's scripts draw that once a document; here it is drawn for each instance, because a document
may be a book.

A single sentence that is left at the end of a document has no next one. Under ``nsp`` it gets a random B, as in
BERT's scripts; what BERT's do not do: the next free choice is then the true next, so that half stays half. Under
``sop`` it is taken together with the sentence before it, once more. Documents of one sentence have no order: under
``sop`` they are left out and counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bertkit.data.corpus import Corpus
from bertkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Objective = Literal["none", "nsp", "sop"]

SHORT_SHARE = 0.1
"""Of instances made for a shorter length (Devlin et al., appendix A.2, as their create_pretraining_data.py has it)."""
LEAST = 2
"""Tokens that the shortest length leaves for text, as in BERT's scripts."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """What a tokenizer puts around one segment or between two."""

    before: tuple[int, ...]
    """``[CLS]``."""
    between: tuple[int, ...]
    """``[SEP]``, or ``</s></s>``; empty for one segment."""
    after: tuple[int, ...]
    """``[SEP]``."""
    types: tuple[int, int, int, int, int]
    """Token types of before, A, between, B, after."""

    @property
    def num_special(self) -> int:
        """Return the special tokens of an instance."""
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One row for the model, not yet masked."""

    ids: np.ndarray
    """``(T,)`` int64."""
    token_type_ids: np.ndarray
    """``(T,)`` int64."""
    special: np.ndarray
    """``(T,)`` bool: where the template's tokens are."""
    label: int
    """``nsp``: 0 B follows A, 1 B is from another document; ``sop``: 0 in order, 1 swapped; ``none``: -1.
    The numbers are those of ``BertForPreTraining``'s and ``AlbertForPreTraining``'s labels."""
    continues: np.ndarray | None
    """``(T,)`` bool: where a token goes on with a Chinese word; None where the corpus does not know."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instances:
    """The instances of one epoch, in the order of the text; whoever trains shuffles."""

    corpus: Corpus = field(repr=False)
    template: Template
    ranges: np.ndarray = field(repr=False)
    """``(I, 4)`` int64: start and end of A, start and end of B in ``corpus.ids``; B is empty where there is none."""
    labels: np.ndarray = field(repr=False)
    """``(I,)`` int8, as :attr:`Instance.label`."""
    lengths: np.ndarray = field(repr=False)
    """``(I,)`` int64: tokens with the special ones."""
    num_short: int = 0
    """Instances that were made for a shorter length."""
    num_left_out: int = 0
    """Documents of one sentence, of which ``sop`` can make nothing."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Instance:
        start, end, second, last = self.ranges[index].tolist()
        ids, template = self.corpus.ids, self.template
        parts = (template.before, ids[start:end], template.between, ids[second:last], template.after)
        sizes = [len(part) for part in parts]
        continues = self.corpus.continues
        return Instance(
            ids=np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]),
            token_type_ids=np.repeat(np.asarray(template.types, dtype=np.int64), sizes),
            special=np.repeat(np.array([True, False, True, False, True]), sizes),
            label=int(self.labels[index]),
            continues=None if continues is None else _padded(continues, (start, end, second, last), sizes),
        )


def _padded(continues: np.ndarray, ranges: tuple[int, int, int, int], sizes: list[int]) -> np.ndarray:
    """Return the flags of A and B, False where special tokens stand."""
    start, end, second, last = ranges
    before, _, between, _, after = (np.zeros(size, dtype=bool) for size in sizes)
    first, following = continues[start:end].astype(bool), continues[second:last].astype(bool)
    return np.concatenate([before, first, between, following, after])


def template_of(tokenizer: PreTrainedTokenizerBase, *, pair: bool) -> Template:
    """Return what a tokenizer puts around one segment, or two: read off what it makes of two words.

    Raises:
        ConfigError: if it puts nothing between two segments.
    """
    found: Any = tokenizer("a", *(["b"] if pair else []), return_special_tokens_mask=True, return_token_type_ids=True)
    ids, special, types = found["input_ids"], found["special_tokens_mask"], found["token_type_ids"]
    runs = _runs(special)
    text = [place for place, (is_special, _, _) in enumerate(runs) if not is_special]
    if len(text) != 1 + pair:
        raise ConfigError(
            f"The tokenizer {type(tokenizer).__name__} puts no special token between two segments, so pairs cannot be "
            "told apart: take --objective mlm."
        )
    parts: list[tuple[int, ...]] = [(), (), ()]
    kinds = [0, 0, 0, 0, 0]
    for place, (is_special, start, end) in enumerate(runs):
        if is_special:
            part = sum(place > other for other in text)
            part = 2 if part == len(text) else part
            parts[part] = tuple(ids[start:end])
            kinds[2 * part] = types[start]
        else:
            kinds[1 + 2 * text.index(place)] = types[start]
    before, between, after = parts
    return Template(before=before, between=between, after=after, types=(*kinds,))  # type: ignore[arg-type]


def _runs(flags: list[int]) -> list[tuple[bool, int, int]]:
    """Return flag, start and end of each run of equal flags."""
    edges = [0, *(i for i in range(1, len(flags)) if flags[i] != flags[i - 1]), len(flags)]
    return [(bool(flags[start]), start, end) for start, end in pairwise(edges)]


def instances(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    objective: Objective = "none",
    short_share: float = SHORT_SHARE,
    seed: int = 42,
    epoch: int = 0,
    number: int = 0,
) -> Instances:
    """Make the instances of an epoch; the same for the same arguments.

    Args:
        corpus: the documents.
        tokenizer: says which special tokens stand around segments.
        max_length: tokens of the longest instance, special ones included.
        objective: ``none``, ``nsp`` or ``sop``.
        short_share: of instances made for a shorter length, 0 to 1.
        seed: of every choice, together with ``epoch``.
        epoch: from 0; each has other lengths, pairs and labels.
        number: exactly so many instances: the chances above give a few more or less each epoch, and a training loop
            wants the same number. Those of a seeded shuffle that are too many are left out; where some are missing,
            others are there twice. 0 leaves the number as it comes.

    Raises:
        ConfigError: if ``max_length`` leaves fewer than two tokens for text.
        DataError: if there is one document only and ``nsp`` needs another, or no document has two sentences.
    """
    template = template_of(tokenizer, pair=objective != "none")
    room = max_length - template.num_special
    if room < LEAST:
        raise ConfigError(
            f"max_length = {max_length} leaves {max(0, room)} tokens for text beside {template.num_special} special "
            f"ones: give at least {template.num_special + LEAST}."
        )
    making = _Making(corpus=corpus, room=room, short_share=short_share, rng=Random(f"pairs {seed} {epoch}"))
    {"none": making.segments, "nsp": making.next_sentences, "sop": making.sentence_orders}[objective]()
    made = making.made(template)
    return _exactly(made, number, np.random.default_rng([seed, epoch])) if number else made


def _exactly(made: Instances, number: int, rng: np.random.Generator) -> Instances:
    """Return so many instances: without some, or with some twice."""
    order = rng.permutation(len(made))
    rounds = -(-number // len(made))
    chosen = np.sort(np.concatenate([order] * rounds)[:number])
    return Instances(
        corpus=made.corpus,
        template=made.template,
        ranges=made.ranges[chosen],
        labels=made.labels[chosen],
        lengths=made.lengths[chosen],
        num_short=made.num_short,
        num_left_out=made.num_left_out,
    )


@dataclass(kw_only=True)
class _Making:
    """The draw of one epoch. Positions inside a document are sentence numbers or token offsets from its start."""

    corpus: Corpus
    room: int
    """Tokens of text in an instance."""
    short_share: float
    rng: Random
    found: array[int] = field(default_factory=lambda: array("q"))
    """Four numbers an instance, as :attr:`Instances.ranges`."""
    labels: array[int] = field(default_factory=lambda: array("b"))
    num_short: int = 0
    num_left_out: int = 0
    owed: int = 0
    """Random next segments that were no free choice and are to be made up for."""

    def made(self, template: Template) -> Instances:
        ranges = np.frombuffer(self.found, dtype=np.int64).reshape(-1, 4) if self.found else np.zeros((0, 4), np.int64)
        return Instances(
            corpus=self.corpus,
            template=template,
            ranges=ranges,
            labels=np.array(self.labels, dtype=np.int8),
            lengths=ranges[:, 1] - ranges[:, 0] + ranges[:, 3] - ranges[:, 2] + template.num_special,
            num_short=self.num_short,
            num_left_out=self.num_left_out,
        )

    def _target(self) -> int:
        """Draw the tokens of the next instance."""
        if self.rng.random() >= self.short_share:
            return self.room
        self.num_short += 1
        return LEAST + int(self.rng.random() * (self.room - LEAST + 1))

    def _documents(self) -> Iterator[tuple[int, array[int]]]:
        """Yield each document's number and its sentence bounds in ``ids``, one more than sentences."""
        starts, sentences = self.corpus.document_starts, self.corpus.sentence_starts
        for number in map(int, self.corpus.documents):
            # A document may be the whole corpus: eight bytes a sentence, and no list.
            yield number, array("q", sentences[starts[number] : starts[number + 1] + 1].tobytes())

    def segments(self) -> None:
        starts, sentences = self.corpus.document_starts, self.corpus.sentence_starts
        for number in map(int, self.corpus.documents):
            place, end = int(sentences[starts[number]]), int(sentences[starts[number + 1]])
            while place < end:
                after = min(end, place + self._target())
                self.found.extend((place, after, after, after))
                self.labels.append(-1)
                place = after

    def next_sentences(self) -> None:
        if self.corpus.num_documents < 2:
            raise DataError(
                "The corpus has one document, and next-sentence prediction takes the wrong next segment from another. "
                "Give more documents, say how they are told apart (pretrain.layout), or take --objective mlm+sop or "
                "mlm."
            )
        for number, bounds in self._documents():
            first, last = 0, len(bounds) - 1
            while first < last:
                target = self._target()
                end = _chunk_end(bounds, first, target)
                middle = first + 1 + int(self.rng.random() * (end - first - 1)) if end - first > 1 else end
                if self._takes_random(free=end - first > 1):
                    self._add(
                        bounds[first],
                        bounds[middle],
                        *self._elsewhere(number, target, bounds[middle] - bounds[first]),
                        1,
                    )
                    first = middle
                else:
                    self._add(bounds[first], bounds[middle], bounds[middle], bounds[end], 0)
                    first = end
        if not any(label == 0 for label in self.labels):
            raise DataError(
                "No document of the corpus has two sentences, so nothing has a next one: take --objective mlm."
            )

    def _takes_random(self, *, free: bool) -> bool:
        """Say whether B is from another document; what is no free choice is made up for by the next that is."""
        if not free:
            self.owed += 1
            return True
        if self.owed:
            self.owed -= 1
            return False
        return self.rng.random() < 0.5

    def _elsewhere(self, number: int, target: int, length: int) -> tuple[int, int]:
        """Return the range of a B for an A of ``length`` tokens, from a random sentence of another document on."""
        documents, starts = self.corpus.documents, self.corpus.document_starts
        drawn = int(self.rng.random() * (len(documents) - 1))
        other = int(documents[drawn + (documents[drawn] >= number)])
        begin, end = int(starts[other]), int(starts[other + 1])
        place = begin + int(self.rng.random() * (end - begin))
        bounds = self.corpus.sentence_starts[place : min(end, place + self.room) + 1]
        # At least one sentence, then as many as it takes to reach the length.
        size = 1 + int(np.searchsorted(bounds[1:-1], bounds[0] + target - length))
        return int(bounds[0]), int(bounds[size])

    def sentence_orders(self) -> None:
        for _, bounds in self._documents():
            first, last = 0, len(bounds) - 1
            if last < 2:
                self.num_left_out += 1
                continue
            while first < last:
                first = min(first, last - 2)
                end = max(_chunk_end(bounds, first, self._target()), first + 2)
                middle = first + 1 + int(self.rng.random() * (end - first - 1))
                swapped = self.rng.random() < 0.5
                a, b = (bounds[first], bounds[middle]), (bounds[middle], bounds[end])
                self._add(*(b if swapped else a), *(a if swapped else b), int(swapped))
                first = end
        if not self.labels:
            raise DataError(
                "No document of the corpus has two sentences, so there is no order to predict: take --objective mlm."
            )

    def _add(self, start: int, end: int, second: int, last: int, label: int) -> None:
        """Add a pair, cut to the room."""
        sizes = end - start, last - second
        keep = _kept(*sizes, self.room)
        start, end = self._cut(start, end, sizes[0] - keep[0])
        second, last = self._cut(second, last, sizes[1] - keep[1])
        self.found.extend((start, end, second, last))
        self.labels.append(label)

    def _cut(self, start: int, end: int, number: int) -> tuple[int, int]:
        """Take ``number`` tokens off, each from the front or the back with equal chance."""
        front = self.rng.getrandbits(number).bit_count() if number else 0
        return start + front, end - (number - front)


def _chunk_end(bounds: Sequence[int], first: int, target: int) -> int:
    """Return the sentence before which a chunk from ``first`` ends: as soon as it has ``target`` tokens."""
    return min(bisect_left(bounds, bounds[first] + target, first + 1), len(bounds) - 1)


def _kept(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens two segments keep when the longer loses one (the second if equal) until both fit."""
    if first + second <= room:
        return first, second
    kept = min(first, max((room + 1) // 2, room - second))
    return kept, room - kept
