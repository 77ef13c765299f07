"""Which tokens begin a word: hand-made cases for each kind of tokenizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from bertkit.data import subwords
from bertkit.errors import ModelError
from tests.families import FAMILIES, Family

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wrapped(backend: Tokenizer, **special: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def wordpiece() -> Any:
    words = [*SPECIAL, "play", "##ing", "##s", "don", "'", "t", ",", "使", "用", "bert", "5", "$", "##t"]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def sentencepiece(*pieces: str, metaspace: bool = True) -> Any:
    """Return a Unigram tokenizer as ALBERT's and XLM-R's are made."""
    vocab = [("<unk>", 0.0), ("[MASK]", 0.0), *((piece, -float(len(pieces) - n)) for n, piece in enumerate(pieces))]
    letters = sorted({letter for piece in pieces for letter in piece} - {piece for piece, _ in vocab})
    backend = Tokenizer(Unigram([*vocab, *((letter, -99.0) for letter in letters)], unk_id=0))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return wrapped(backend, unk_token="<unk>", mask_token="[MASK]")


def byte_level(*texts: str, size: int = 400, prefix: bool = False) -> Any:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return wrapped(backend, cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def words_of(tokenizer: Any, text: str, continues: list[int] | None = None) -> list[list[str]]:
    """Return the tokens of a text, word by word."""
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    flags = None if continues is None else np.array(continues, dtype=bool)
    starts = subwords.of_tokenizer(tokenizer).starts(ids, np.zeros(len(ids), dtype=bool), flags)
    words: list[list[str]] = []
    for piece, begins in zip(tokenizer.convert_ids_to_tokens(ids.tolist()), starts.tolist(), strict=True):
        if begins:
            words.append([])
        words[-1].append(piece)
    return words


def test_wordpiece_words_end_where_no_sharps_follow() -> None:
    assert words_of(wordpiece(), "playing plays, don't") == [
        ["play", "##ing"],
        ["play", "##s"],
        [","],
        ["don"],
        ["'"],
        ["t"],
    ]


def test_wordpiece_ideographs_are_words_unless_the_corpus_knows_better() -> None:
    assert words_of(wordpiece(), "使用bert") == [["使"], ["用"], ["bert"]]
    assert words_of(wordpiece(), "使用bert", [0, 1, 0]) == [["使", "用"], ["bert"]]


def test_wordpiece_prefix_is_read_from_the_tokenizer() -> None:
    from tokenizers.models import WordPiece

    backend = Tokenizer(WordPiece({"[UNK]": 0, "ab": 1, "@c": 2}, unk_token="[UNK]", continuing_subword_prefix="@"))
    assert words_of(wrapped(backend, unk_token="[UNK]"), "abc") == [["ab", "@c"]]


@pytest.mark.parametrize("metaspace", [True, False])
def test_sentencepiece_words_begin_with_a_space(metaspace: bool) -> None:
    tokenizer = sentencepiece("▁play", "ing", "▁don", "▁", ",", "'", "t", metaspace=metaspace)
    assert words_of(tokenizer, "playing don't, playing") == [
        ["▁play", "ing"],
        ["▁don"],
        ["'"],
        ["t"],
        [","],
        ["▁play", "ing"],
    ]


def test_sentencepiece_ideographs_are_no_single_word() -> None:
    tokenizer = sentencepiece("▁", "使用", "语言", "模型", "▁bert", "bert")
    assert words_of(tokenizer, "使用bert语言模型") == [["▁", "使用"], ["bert"], ["语言"], ["模型"]]
    assert words_of(tokenizer, "使用语言模型", [0, 0, 0, 1]) == [["▁", "使用"], ["语言", "模型"]]


def test_sentencepiece_space_alone_goes_with_the_letters_behind_it() -> None:
    assert words_of(sentencepiece("▁", "ab", "c"), "abc ab") == [["▁", "ab", "c"], ["▁", "ab"]]


def test_sentencepiece_marks_go_on_with_the_letter_before() -> None:
    assert words_of(sentencepiece("▁", "क", "ि", "ता"), "किता")[0] == ["▁", "क", "ि", "ता"]


def test_sentencepiece_bytes_of_a_character_stay_together() -> None:
    tokenizer = sentencepiece("▁a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "b")
    found = subwords.of_tokenizer(tokenizer)
    ids = np.array(tokenizer.convert_tokens_to_ids(["▁a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]))
    assert found.starts(ids, np.zeros(5, dtype=bool)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_level_words_begin_with_a_space_or_first(prefix: bool) -> None:
    tokenizer = byte_level("playing plays play", size=262, prefix=prefix)
    words = words_of(tokenizer, "playing plays, don't")
    assert ["".join(word).replace("Ġ", "") for word in words] == ["playing", "plays", ",", "don", "'", "t"]
    assert words[0][0].startswith("Ġ") == prefix


def test_byte_level_word_behind_punctuation_begins_without_a_space() -> None:
    words = words_of(byte_level("a"), 'he "said" (so) x')
    assert ["".join(word) for word in words] == ["he", 'Ġ"', "said", '"', "Ġ(", "so", ")", "Ġx"]


def test_byte_level_characters_of_several_bytes_are_not_cut() -> None:
    tokenizer = byte_level("a", size=259)
    ids = tokenizer("使用 привет é", add_special_tokens=False)["input_ids"]
    assert len(ids) == 6 + 1 + 12 + 1 + 2
    sizes = [len(word) for word in words_of(tokenizer, "使用 привет é")]
    assert sizes == [3, 3, 13, 3]


def test_byte_level_word_begins_behind_a_line_end() -> None:
    assert [len(word) for word in words_of(byte_level("a", size=259), "ab\ncd")] == [2, 1, 2]


def test_suffix_tells_where_words_end() -> None:
    vocab = {"un": 0, "do</w>": 1, "it</w>": 2, "u": 3, "n": 4, "d": 5, "o</w>": 6, "i": 7, "t</w>": 8}
    backend = Tokenizer(BPE(vocab, [("u", "n"), ("d", "o</w>"), ("i", "t</w>")], end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert words_of(wrapped(backend), "undo it") == [["un", "do</w>"], ["it</w>"]]


def test_whole_words_are_words() -> None:
    backend = Tokenizer(WordLevel({"a": 0, "b": 1}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert words_of(wrapped(backend), "a b a") == [["a"], ["b"], ["a"]]


def test_token_behind_a_special_one_begins_a_word() -> None:
    tokenizer = wordpiece()
    ids = np.array(tokenizer.convert_tokens_to_ids(["[CLS]", "##ing", "##s", "[SEP]", "##s", "play"]))
    special = np.array([True, False, False, True, False, False])
    starts = subwords.of_tokenizer(tokenizer).starts(ids, special, np.array([0, 1, 0, 0, 1, 0], dtype=bool))
    assert starts.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_words_of_each_family_are_found(family: Family) -> None:
    words = words_of(family.tokenizer(), "the warm tool")
    assert ["".join(word).replace("##", "").strip("▁Ġ") for word in words] == ["the", "warm", "tool"]


def test_kind_that_is_not_known_is_named() -> None:
    backend = Tokenizer(BPE({"a": 0, "b": 1}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match=r"where the words .* begin \(model BPE, Whitespace\).*whole_words = false"):
        subwords.of_tokenizer(wrapped(backend))


def test_slow_tokenizer_is_named() -> None:
    slow = SimpleNamespace(get_vocab=lambda: {"a": 0}, all_special_ids=[], added_tokens_decoder={})
    with pytest.raises(ModelError, match=r"is not a fast one.*whole_words = false"):
        subwords.of_tokenizer(slow)  # type: ignore[arg-type]
