"""A vocabulary of one's own: its order, its size, and that it is the same each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AutoTokenizer

from bertkit import vocabulary
from bertkit.errors import ConfigError, DataError

SYLLABLES = [first + second for first in "bdfgklmnprst" for second in "aeiou"]


def words(number: int = 4000, *, seed: int = 0) -> list[str]:
    """Return lines of invented words; the first are commoner, and many pairs are as common as others."""
    rng = Random(seed)
    known = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(300)]
    return [" ".join(rng.choices(known, k=8)).capitalize() + "." for _ in range(number // 8)]


def in_order(tokenizer: Any) -> list[str]:
    pieces = tokenizer.get_vocab()
    assert sorted(pieces.values()) == list(range(len(pieces)))
    return sorted(pieces, key=pieces.__getitem__)


def test_vocabulary_has_bert_s_special_tokens_first_then_characters() -> None:
    pieces = in_order(vocabulary.train(words(), 200))
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("bdfgklmnprstaeiou."))
    assert pieces[5 : 5 + len(letters)] == letters
    inner = [f"##{letter}" for letter in letters if letter != "."]
    assert pieces[5 + len(letters) : 5 + len(letters) + len(inner)] == inner
    assert len(pieces) == len(set(pieces)) == 200


def test_tokenizer_opens_in_auto_tokenizer_and_reads_alike(tmp_path: Path) -> None:
    tokenizer = vocabulary.train(words(), 200, max_length=128)
    tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for line in words(80, seed=1):
        assert opened(line)["input_ids"] == tokenizer(line)["input_ids"]
    assert in_order(opened) == in_order(tokenizer)
    assert opened.model_max_length == 128
    assert opened("ba", "da")["token_type_ids"][-1] == 1
    assert (opened.cls_token_id, opened.sep_token_id, opened.mask_token_id, opened.pad_token_id) == (2, 3, 4, 0)


def test_text_it_was_made_of_has_no_unknown_words() -> None:
    tokenizer = vocabulary.train(words(), 200)
    for line in words(80):
        ids = tokenizer(line, add_special_tokens=False)["input_ids"]
        assert 1 not in ids
        assert tokenizer.decode(ids).lower() == line.lower()


@pytest.mark.parametrize("lowercase", [True, False])
def test_case_and_accents_are_as_asked(lowercase: bool, tmp_path: Path) -> None:
    lines = [*words(), *["Déjà Vu"] * 50]
    vocabulary.train(lines, 220, lowercase=lowercase).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "".join(tokenizer.tokenize("Déjà")).replace("##", "")
    assert text == ("deja" if lowercase else "Déjà")


@pytest.mark.parametrize("size", [150, 333])
def test_size_is_met_exactly(size: int) -> None:
    assert len(vocabulary.train(words(), size)) == size


@pytest.mark.slow
def test_same_texts_give_the_same_vocabulary_in_other_processes() -> None:
    code = """
import json
from tests.test_vocabulary import in_order, words
from bertkit import vocabulary
print(json.dumps(in_order(vocabulary.train(words(), 300))))
"""
    command = [sys.executable, "-c", code]
    root = str(Path(__file__).parents[1])
    outputs = {
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=root).stdout
        for _ in range(3)
    }
    assert len(outputs) == 1
    assert json.loads(outputs.pop()) == in_order(vocabulary.train(words(), 300))


def test_order_of_lines_does_not_count() -> None:
    lines = words()
    assert in_order(vocabulary.train(lines, 300)) == in_order(vocabulary.train(lines[::-1], 300))


def test_rare_characters_give_way_to_common_ones() -> None:
    chinese = [chr(0x4E00 + n) * 3 for n in range(400)]
    common = ["使用语言模型"] * 100
    pieces = in_order(vocabulary.train([*chinese, *common, *words(800)], 300))
    assert set("使用语言模型") <= set(pieces)
    assert len([piece for piece in pieces if len(piece.removeprefix("##")) == 1]) == int(0.75 * 300) - 5


def test_corpus_that_is_too_small_says_what_it_gives() -> None:
    with pytest.raises(DataError, match=r"too small for a vocabulary of 30000 tokens: it gives \d+. Ask for at most"):
        vocabulary.train(words(), 30_000)


def test_corpus_of_nothing_is_named() -> None:
    with pytest.raises(DataError, match="holds no text that a vocabulary could be made of"):
        vocabulary.train(["", "  "], 1000)


def test_size_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="A vocabulary of 12 tokens is too small: 5 are special"):
        vocabulary.train(words(), 12)


def test_iterator_that_can_be_read_once_is_refused() -> None:
    with pytest.raises(TypeError, match="reads the texts twice"):
        vocabulary.train(iter(words()), 300)
