"""Sentences and Chinese words of a line."""

from __future__ import annotations

import itertools
import sys

import pytest

from bertkit.data import sentences
from bertkit.data.sentences import Piece, Splitter
from bertkit.errors import ConfigError


def parts(piece: Piece) -> list[str]:
    bounds = [*piece.sentences, len(piece.text)]
    return [piece.text[start:end].strip() for start, end in itertools.pairwise(bounds)]


def words(piece: Piece) -> list[str]:
    bounds = [*piece.words, len(piece.text)]
    return [piece.text[start:end] for start, end in itertools.pairwise(bounds)]


def test_sentences_end_at_stops_and_not_at_abbreviations() -> None:
    text = 'Mr. Smith paid $3.50 in Washington, D.C. on Jan. 5th. "Why?" he asked. U.S. troops left!'
    (piece,) = Splitter("split", "").pieces(text)
    assert piece.text == text
    assert parts(piece) == [
        "Mr. Smith paid $3.50 in Washington, D.C. on Jan. 5th.",
        '"Why?" he asked.',
        "U.S. troops left!",
    ]


def test_chinese_sentences_end_at_their_own_stops() -> None:
    (piece,) = Splitter("split", "").pieces("你好。再见！真的吗？是的")
    assert parts(piece) == ["你好。", "再见！", "真的吗？", "是的"]


def test_line_is_one_sentence_on_request() -> None:
    (piece,) = Splitter("lines", "").pieces("One. Two. Three.")
    assert piece.sentences == [0]


@pytest.mark.parametrize("text", ["", "  \t ", []])
def test_empty_line_has_no_piece(text: str) -> None:
    assert list(Splitter("split", "").pieces(text)) == []


def test_listed_sentences_are_left_as_they_are() -> None:
    found = list(Splitter("split", "").pieces(["One. Two.", "Three."]))
    assert [piece.text for piece in found] == ["One. Two.", "Three."]
    assert [piece.sentences for piece in found] == [[0], [0]]


def test_long_line_is_cut_at_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "MOST_CHARACTERS", 20)
    text = "One two three. Four five six. Seven. 八九。十。"
    found = list(Splitter("split", "").pieces(text))
    assert "".join(piece.text for piece in found) == text
    assert len(found) > 1
    assert [part for piece in found for part in parts(piece)] == [
        "One two three.",
        "Four five six.",
        "Seven.",
        "八九。",
        "十。",
    ]
    assert all(piece.apart for piece in found)


def test_long_line_without_spaces_is_known_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "MOST_CHARACTERS", 3)
    assert [piece.apart for piece in Splitter("split", "").pieces("八九。十一。")] == [True, False]


def test_spaces_between_ideographs_are_word_bounds_and_taken_out() -> None:
    (piece,) = Splitter("split", "spaces").pieces("使用 语言  模型 BERT 来 预测 。")
    assert piece.text == "使用语言模型 BERT 来预测 。"
    assert words(piece) == ["使用", "语言", "模型 BERT 来", "预测 。"]


def test_lists_of_words_are_joined_and_their_bounds_kept() -> None:
    (first, second) = Splitter("split", "spaces").pieces([["使用", "语言", "BERT", "model"], ["再见", "。"]])
    assert first.text == "使用语言 BERT model"
    assert words(first) == ["使用", "语言 ", "BERT ", "model"]
    assert words(second) == ["再见 ", "。"]


def test_words_of_the_segmenter_cover_the_line() -> None:
    pytest.importorskip("rjieba")
    (piece,) = Splitter("split", "segmenter").pieces("使用语言模型来预测下一个词。")
    assert words(piece)[:5] == ["使用", "语言", "模型", "来", "预测"]


def test_segmenter_passes_over_lines_without_ideographs() -> None:
    pytest.importorskip("rjieba")
    (piece,) = Splitter("split", "segmenter").pieces("No such thing.")
    assert piece.words == []


def test_segmenter_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(ConfigError, match=r"needs rjieba: pip install 'bertkit\[chinese\]'.*take 'spaces'"):
        Splitter("split", "segmenter")
