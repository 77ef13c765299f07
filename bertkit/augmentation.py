"""More examples to learn from: copies with words replaced by those that a masked language model proposes.

As TinyBERT's data augmentation (Jiao et al. 2020, arXiv:1909.10351, algorithm 1), with two differences: all words of a
copy that are to be replaced are masked together, one forward pass a copy, and words of several tokens stay as they are
(there GloVe replaces them). A replaced word keeps its tag; words of an answer, and whole answers' places, stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertkit.adapters import words
from bertkit.adapters.base import Adapter, Example, encodings, without_surrogates
from bertkit.data.batches import by_tokens
from bertkit.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from bertkit.encoder import Encoder

TOKENS = 4096
"""Tokens, padding included, that go through the language model at once."""
CHUNK = 1024
"""Texts whose words are chosen and replaced together; bounds memory."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text of a copy, with the words of it that may be replaced."""

    copy: int
    """Index of the copy."""
    role: str
    text: str
    spans: list[tuple[int, int]]
    """Words that may be replaced, in code points."""


def require_head(loaded: Encoder) -> None:
    """Refuse an encoder that cannot propose words.

    Raises:
        ModelError: if its masked-LM head is new, or its tokenizer has no mask.
    """
    name = loaded.source.name
    lost = [weight for weight in loaded.new_weights if "decoder.bias" not in weight]
    if lost:
        raise ModelError(
            f"distill.augment_encoder {name} has no masked-LM head ({lost[0]} is missing), so it proposes no words. "
            "Name an encoder that was saved with one (google-bert/bert-base-uncased, or a model of 'bertkit pretrain')."
        )
    if loaded.tokenizer.mask_token_id is None:
        raise ModelError(f"distill.augment_encoder {name} has no mask token, so it proposes no words.")


def copies(
    examples: Sequence[Example],
    adapter: Adapter,
    model: Encoder,
    accelerator: Accelerator,
    *,
    number: int,
    share: float,
    candidates: int,
    seed: int,
    advance: Callable[[int], None] = lambda number: None,
) -> list[Example]:
    """Return ``number`` copies of every example with words replaced, the copies of one behind each other.

    A copy in which no word can be replaced is as its example. The same arguments give the same copies.

    Args:
        examples: checked training examples.
        adapter: says what of an example is text.
        model: a masked language model, whose tokenizer says what is one token.
        accelerator: device and precision.
        number: of copies of each.
        share: of the words of a copy that are replaced, at least one.
        candidates: proposals among which each is drawn, all alike likely.
        seed: of all draws.
        advance: called with each number of texts that are done.
    """
    import numpy as np

    made = [dict(example) for example in examples for _ in range(number)]
    edits: dict[int, dict[str, list[tuple[int, int, str]]]] = {}
    texts = list(_texts(adapter, examples, number))
    model.model.to(accelerator.device).eval()
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        for text, found in zip(
            chunk,
            _replaced(chunk, model, accelerator, share, candidates, np.random.default_rng([seed, start])),
            strict=True,
        ):
            edits.setdefault(text.copy, {})[text.role] = found
        advance(len(chunk))
    for place, of_roles in edits.items():
        for role, changes in of_roles.items():
            _edit(made[place], adapter, role, changes)
    return made


def _texts(adapter: Adapter, examples: Sequence[Example], number: int) -> Iterator[Text]:
    """Yield the texts of every copy whose words may be replaced."""
    for place, example in enumerate(examples):
        for role, text, spans in _readings(adapter, example):
            for copy in range(place * number, (place + 1) * number):
                yield Text(copy=copy, role=role, text=without_surrogates(text), spans=spans)


def _readings(adapter: Adapter, example: Example) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
    """Yield the texts of an example and the words that may be replaced in each."""
    for role, text in adapter.readings(example).items():
        if role == "tokens":
            sentence = words.of_words(adapter.value(example, "tokens"))
            yield role, sentence.text, sentence.spans
        elif role == "text" and adapter.task.type == "token-tagging":
            taken = [(entity["start"], entity["end"]) for entity in adapter.value(example, "entities") or ()]
            yield role, text, _outside(words.split(text), taken)
        elif role == "context":
            located: list[tuple[int, int]] = adapter.located(example)  # type: ignore[attr-defined]
            yield role, text, _outside(words.split(text), located)
        else:
            yield role, text, words.split(text)


def _outside(spans: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [span for span in spans if not any(span[0] < end and start < span[1] for start, end in taken)]


def _replaced(
    texts: Sequence[Text], model: Encoder, accelerator: Accelerator, share: float, most: int, rng: np.random.Generator
) -> list[list[tuple[int, int, str]]]:
    """Return start, end and new word of each replacement, for every text."""
    encoded = encodings(model.tokenizer, [text.text for text in texts], offsets=True)
    limit = min(model.max_length, 512)
    chosen: list[list[tuple[int, tuple[int, int]]]] = []
    for text, encoding in zip(texts, encoded, strict=True):
        single = _single(text, encoding, limit)
        count = min(len(single), max(1, round(share * len(text.spans)))) if single else 0
        chosen.append([single[place] for place in sorted(rng.permutation(len(single))[:count])])
    proposals = _proposals([encoding.ids[:limit] for encoding in encoded], chosen, model, accelerator, most)
    found = []
    for text, places, offered in zip(texts, chosen, proposals, strict=True):
        changes = []
        for (_, (start, end)), ids in zip(places, offered, strict=True):
            word = _drawn(text.text[start:end], ids, model, rng)
            changes.append((start, end, word))
        found.append(changes)
    return found


def _single(text: Text, encoding: Any, limit: int) -> list[tuple[int, tuple[int, int]]]:
    """Return position and place in the text of each word that is one token, letters and digits alone."""
    by_offset = {tuple(offset): place for place, offset in enumerate(encoding.offsets[:limit])}
    return [
        (by_offset[span], span) for span in text.spans if span in by_offset and text.text[span[0] : span[1]].isalnum()
    ]


def _proposals(
    rows: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[tuple[int, tuple[int, int]]]],
    model: Encoder,
    accelerator: Accelerator,
    most: int,
) -> list[list[list[int]]]:
    """Return the likeliest ids at each chosen position, where all of a row's are masked."""
    import torch

    from bertkit.adapters.base import padded

    found: list[list[list[int]]] = [[] for _ in rows]
    busy = [row for row, places in enumerate(chosen) if places]
    mask, pad = model.tokenizer.mask_token_id, model.tokenizer.pad_token_id
    for part in by_tokens([len(rows[row]) for row in busy], TOKENS):
        batch = [busy[place] for place in part]
        ids = padded([rows[row] for row in batch], pad, left=False)
        real = padded([[1] * len(rows[row]) for row in batch], 0, left=False)
        at = [(line, position) for line, row in enumerate(batch) for position, _ in chosen[row]]
        lines, positions = (torch.tensor(each) for each in zip(*at, strict=True))
        ids[lines, positions] = mask
        device = accelerator.device
        with torch.inference_mode(), accelerator.autocast():
            logits = model.model(input_ids=ids.to(device), attention_mask=real.to(device)).logits[lines, positions]
        likeliest = iter(logits.float().topk(min(most + 1, logits.shape[-1]), dim=-1).indices.tolist())
        for row in batch:
            found[row] = [next(likeliest) for _ in chosen[row]]
    return found


def _drawn(word: str, ids: Sequence[int], model: Encoder, rng: np.random.Generator) -> str:
    """Return one of the words that are proposed, or the word itself where none is another word."""
    tokens = [str(token).lstrip("Ġ▁") for token in model.tokenizer.convert_ids_to_tokens(list(ids))]
    others = [token for token in tokens if token.isalnum() and token.lower() != word.lower()][: len(ids) - 1]
    if not others:
        return word
    new = others[int(rng.integers(len(others)))]
    return new.capitalize() if word.istitle() else new


def _edit(example: Example, adapter: Adapter, role: str, changes: Sequence[tuple[int, int, str]]) -> None:
    """Put new words into a copy, in place; what points into its text moves along."""
    column = adapter.column(role) if adapter.column(role) in example else role
    if role == "tokens":
        sentence = words.of_words(example[column])
        numbers = {span: place for place, span in enumerate(sentence.spans)}
        tokens = list(example[column])
        for start, end, word in changes:
            tokens[numbers[start, end]] = word
        example[column] = tokens
        return
    text, parts, before = example[column], [], 0
    for start, end, word in sorted(changes):
        parts += [text[before:start], word]
        before = end
    example[column] = "".join([*parts, text[before:]])

    def moved(place: int) -> int:
        return place + sum(len(word) - (end - start) for start, end, word in changes if end <= place)

    for other in ("entities", "answers"):
        name = adapter.column(other) if adapter.column(other) in example else other
        if role in ("text", "context") and example.get(name):
            example[name] = _moved(example[name], moved)


def _moved(cell: Any, moved: Callable[[int], int]) -> Any:
    """Return entities or answers, in any of their forms, with every place in the text moved."""
    if isinstance(cell, dict):
        places = {"start", "end", "answer_start"}
        return {key: _moved_number(value, moved) if key in places else value for key, value in cell.items()}
    return [_moved(item, moved) if isinstance(item, dict) else item for item in cell]


def _moved_number(value: Any, moved: Callable[[int], int]) -> Any:
    if isinstance(value, list | tuple):
        return [_moved_number(place, moved) for place in value]
    return moved(value) if isinstance(value, int) else value
