"""Words of raw texts: what is one word in which script, and that nothing is lost or cut wrongly."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit.adapters.words import split

SCRIPTS = st.sampled_from(
    ["a", "Z", "7", "é", "e\u0301", "ß", "中", "文", "𠀀", "か", "한", "ไ", "ท", "क", "ि", "א", "ا", "\u064b"]
)
AWKWARD = st.sampled_from(
    [
        *(" ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\x1c", ".", ",", "'", "-", "_", "$", "+", "。", "「", "،"),
        *("\x00", "\x07", "\u200b", "\u200d", "\ufeff", "\u00ad", "\ufe0f", "\u20e3", "\ud800", "\ufffd"),
        *("👩", "💻", "🏽", "🇩", "🇪"),
    ]
)
TEXTS = st.lists(st.one_of(SCRIPTS, AWKWARD, st.characters()), max_size=30).map("".join)


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n\u3000\u00a0", []),
        ("We met Ada.", ["We", "met", "Ada", "."]),
        ("a\tb\r\nc", ["a", "b", "c"]),
        ("don't well-known a_b", ["don", "'", "t", "well", "-", "known", "a", "_", "b"]),
        ("$5+3", ["$", "5", "+", "3"]),
        ("...", [".", ".", "."]),
        ("«Ça»", ["«", "Ça", "»"]),
        ("北京a大学2024年。", ["北", "京", "a", "大", "学", "2024", "年", "。"]),
        ("𠀀豈", ["𠀀", "豈"]),
        ("ひらがな カナ 한국어", ["ひらがな", "カナ", "한국어"]),
        ("ภาษาไทย हिन्दी", ["ภาษาไทย", "हिन्दी"]),
    ],
)
def test_text_is_split_at_space_punctuation_and_ideographs(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301s!\u0301", ["cafe\u0301s", "!\u0301"]),
        ("中\u3099国", ["中\u3099", "国"]),
        ("a\u0301\u0323\u20ddb", ["a\u0301\u0323\u20ddb"]),
        (" \u0301a", ["\u0301a"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
    ],
)
def test_mark_stays_with_the_character_before(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ok👍👎", ["ok", "👍", "👎"]),
        ("👍🏽x", ["👍🏽", "x"]),
        ("❤️❤", ["❤️", "❤"]),
        ("👩‍💻👩🏽‍💻", ["👩‍💻", "👩🏽‍💻"]),
        ("👨‍👩‍👧‍👦!", ["👨‍👩‍👧‍👦", "!"]),
        ("🏳️‍🌈", ["🏳️‍🌈"]),
        ("🇩🇪🇫🇷🇮", ["🇩🇪", "🇫🇷", "🇮"]),
        ("1️⃣ #️⃣", ["1️⃣", "#️⃣"]),
        ("a\u200d👍", ["a\u200d", "👍"]),
        ("👍\u200da", ["👍\u200d", "a"]),
        (",\u200d👍", [",\u200d", "👍"]),
    ],
)
def test_emoji_sequence_is_one_word(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x00", ["\x00"]),
        ("\ufeffAda", ["\ufeffAda"]),
        ("A\u00adda\u200b", ["A\u00adda\u200b"]),
        ("\u200b \u200b", ["\u200b", "\u200b"]),
        ("\u200b,", ["\u200b", ","]),
        (",\x07a", [",\x07", "a"]),
        ("a\x1cb", ["a", "b"]),
        ("\ud800a\udfff", ["\ud800a\udfff"]),
        ("\ue000\U0010ffff", ["\ue000\U0010ffff"]),
    ],
)
def test_control_and_format_characters_belong_to_a_word(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_cover_every_visible_character_exactly_once(text: str) -> None:
    spans = split(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered == {place for place, char in enumerate(text) if not char.isspace()}


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_a_word_alone_is_one_word(text: str) -> None:
    assert all(split(word) == [(0, len(word))] for word in words(text))


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_space_between_texts_changes_no_word(left: str, right: str) -> None:
    assert words(f"{left} {right}") == words(left) + words(right)
