"""Words in columns: what is a word, a sentence, a comment and a fault, and what is written back."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertkit.data import conll, files
from bertkit.data.lines import BadRow, Row
from bertkit.errors import DataError

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return _write


@pytest.fixture
def rows(write: Write) -> Callable[..., list[dict[str, Any]]]:
    def _rows(content: str, name: str = "a.conll", **columns: Any) -> list[dict[str, Any]]:
        return files.read(write(name, content), columns=columns).examples

    return _rows


Rows = Callable[..., list[dict[str, Any]]]


# CoNLL


@pytest.mark.parametrize("name", ["train.conll", "train.conll.gz"])
def test_sentences_have_tokens_tags_and_the_line_of_their_first_word(write: Write, name: str) -> None:
    split = files.read(write(name, "\ufeffEU\tB-ORG\r\nrejects\tO\r\n\r\n\t\r\n  \r\ncall\tO"))
    assert split.examples == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["call"], "tags": ["O"]},
    ]
    assert (split.name, split.place(0), split.place(1)) == ("train", f"{name}:1", f"{name}:6")


def test_other_columns_stand_under_their_number(rows: Rows) -> None:
    (row,) = rows("EU NNP  B-NP B-ORG\n rejects VBZ B-VP O \n")
    assert row == {
        "tokens": ["EU", "rejects"],
        "1": ["NNP", "VBZ"],
        "2": ["B-NP", "B-VP"],
        "tags": ["B-ORG", "O"],
    }


def test_one_column_has_no_tags(rows: Rows) -> None:
    assert rows("a\nb\n\nc\n") == [{"tokens": ["a", "b"]}, {"tokens": ["c"]}]
    assert rows("a\n", tags=1) == [{"tokens": ["a"]}]


def test_positions_choose_columns_and_names_are_passed_over(rows: Rows) -> None:
    assert rows("0 w x O\n", tokens=1, tags=2) == [{"0": ["0"], "tokens": ["w"], "tags": ["x"], "3": ["O"]}]
    assert rows("w O\n", tokens="words", tags=True) == [{"tokens": ["w"], "tags": ["O"]}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tags": 3}, r"a\.conll:2: columns\.tags is 3, and the file has 2 columns, which count from 0 to 1\."),
        ({"tokens": -1}, r"columns\.tokens is -1, and the file has 2 columns"),
        ({"tags": 0}, r"a\.conll:2: columns\.tags and columns\.tokens are both 0; the file has 2 columns"),
    ],
)
def test_position_that_is_not_there_is_named(rows: Rows, columns: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows("\nw O\n", **columns)


def test_document_starts_end_a_sentence_and_are_no_words(rows: Rows) -> None:
    content = "-DOCSTART- -X- O O\n\na N B O\n-DOCSTART- (2)\nb N B O\n"
    assert [row["tokens"] for row in rows(content)] == [["a"], ["b"]]


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2028", "\u0085", "\x0b", "\x1c"])
@pytest.mark.parametrize("separator", ["\t", " ", "   "])
def test_only_tabs_and_spaces_separate(rows: Rows, space: str, separator: str) -> None:
    content = f"{space}a{space}b{separator}O\n{space}{separator}O\n"
    assert rows(content) == [{"tokens": [f"{space}a{space}b", space], "tags": ["O", "O"]}]


def test_tab_separates_where_there_is_one(rows: Rows) -> None:
    assert rows("New York\tB-LOC\n\tO\nis O\n") == [{"tokens": ["New York", "", "is"], "tags": ["B-LOC", "O", "O"]}]


@pytest.mark.parametrize("comment", ["# sent_id = 1", "# id 5", "#\ta b\tc", "#", "## note", "#begin document (x); 0"])
@pytest.mark.parametrize("place", [0, 1])
def test_comments_open_a_sentence_and_are_no_words(rows: Rows, comment: str, place: int) -> None:
    sentences = ["a\tO\nb\tO\n", "c\tO\n"]
    sentences[place] = f"{comment}\n{comment}\n" + sentences[place]
    assert [row["tokens"] for row in rows("\n".join(sentences))] == [["a", "b"], ["c"]]


def test_key_and_value_is_a_comment_even_with_the_columns_of_the_file(rows: Rows) -> None:
    assert [row["tokens"] for row in rows("# sent_id = 1\na N B O\n\n# id = 2\nb N B O\n")] == [["a"], ["b"]]


def test_place_is_behind_the_comments(write: Write) -> None:
    assert files.read(write("a.conll", "# id = 1\n#\na O\n\n# id = 2\n\nb O\n")).lines == [3, 7]


@pytest.mark.parametrize("separator", ["\t", " "])
def test_words_may_begin_with_a_hash(rows: Rows, separator: str) -> None:
    content = "#\tO\n#tag\tB-group\nis\tO\n#\tO\n\n#\tO\n\n#up\tO\n".replace("\t", separator)
    assert [row["tokens"] for row in rows(content)] == [["#", "#tag", "is", "#"], ["#"], ["#up"]]


def test_file_of_hash_tags_alone_is_read(rows: Rows) -> None:
    assert rows("# id = 1\n#\tO\n") == [{"tokens": ["#"], "tags": ["O"]}]
    assert rows("# id = 1\n#a O\n\n#b O\n") == [
        {"tokens": ["#a"], "tags": ["O"]},
        {"tokens": ["#b"], "tags": ["O"]},
    ]


@pytest.mark.parametrize("line", ["#fail", "#fail O O"])
def test_hash_tag_with_other_columns_is_a_fault(rows: Rows, line: str) -> None:
    with pytest.raises(DataError, match=r"a\.conll:3: [13] columns?, and line 1 has 2;"):
        rows(f"a O\n\n{line}\n")


def test_bad_sentence_is_named_and_the_others_are_read(write: Write) -> None:
    path = write("train.conll", b"a O\nb\nc O O\n\nd O\n\ncaf\xe9 O\n\ne O\n")
    found = list(files.scan(path))
    assert [(type(row), row.place) for row in found] == [
        (BadRow, "train.conll:2"),
        (Row, "train.conll:5"),
        (BadRow, "train.conll:7"),
        (Row, "train.conll:9"),
    ]
    with pytest.raises(
        DataError,
        match=r"train\.conll:2: 1 column, and line 1 has 2; a tab separates them where the line holds one, else "
        r"spaces do; train\.conll:7: not UTF-8 \(byte 0xe9 at offset 21\)",
    ):
        files.read(path)


@pytest.mark.parametrize("name", ["a.conll", "a.conllu", "a.conll.gz"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n\t\n", "# sent_id = 1\n\n# text = a\n", "-DOCSTART- -X- O\n"])
def test_file_without_a_sentence_says_so(write: Write, name: str, content: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is empty: it holds no sentence\."):
        files.read(write(name, content))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), [("a.conll", "word\tO\n"), ("a.conllu", "1\tword" + "\t_" * 8 + "\n")])
def test_memory_of_a_stream_is_constant(write: Write, name: str, line: str) -> None:
    path = write(name, f"{line}\n" * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in files.stream(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 500_000


# CoNLL-U


def word(number: int | str, form: str, *rest: str) -> str:
    cells = [str(number), form, *rest]
    return "\t".join(cells + ["_"] * (10 - len(cells))) + "\n"


UNIVERSAL = (
    "# newdoc\n# sent_id = s1\n# text = Don't  go = \n# text_en = no\n"
    + word("1-2", "Don't")
    + word(1, "Do", "do", "AUX", "VB", "Mood=Imp", "3", "aux", "3:aux", "SpaceAfter=No")
    + word(2, "n't", "not", "PART")
    + word("2.1", "empty")
    + word(3, "go out", "go", "VERB")
    + "\n"
    + word(1, "_", "_", "SYM")
)


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_universal_has_one_entry_a_word(write: Write, name: str) -> None:
    split = files.read(write(name, UNIVERSAL))
    first, second = split.examples
    assert first == {
        "idx": "s1",
        "text": "Don't  go =",
        "tokens": ["Do", "n't", "go out"],
        "lemmas": ["do", "not", "go"],
        "upos": ["AUX", "PART", "VERB"],
        "xpos": ["VB", "_", "_"],
        "feats": ["Mood=Imp", "_", "_"],
        "head": ["3", "_", "_"],
        "deprel": ["aux", "_", "_"],
        "deps": ["3:aux", "_", "_"],
        "misc": ["SpaceAfter=No", "_", "_"],
    }
    assert (second["tokens"], second["upos"], "idx" in second, "text" in second) == (["_"], ["SYM"], False, False)
    assert split.lines == [6, 11]


def test_universal_column_may_have_a_role_too(rows: Rows) -> None:
    first = rows(UNIVERSAL, "a.conllu", tags=3, text="text")[0]
    assert first["tags"] == first["upos"] == ["AUX", "PART", "VERB"]
    with pytest.raises(DataError, match=r"a\.conllu: columns\.tags is 10, and the file has 10 columns"):
        rows(UNIVERSAL, "a.conllu", tags=10)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2\tb\n", r"a\.conllu:2: 2 columns, and CoNLL-U has 10, separated by tabs"),
        (word(2, "b").replace("\t", " "), r"a\.conllu:2: 1 column, and CoNLL-U has 10"),
        (word("x", "b"), r"a\.conllu:2: the id 'x' is none of CoNLL-U, like 3, 3-4 or 3\.1"),
        (word("2-", "b"), r"the id '2-' is none"),
        (word("\u0662", "b"), r"the id '\u0662' is none"),
        (word(1, "b"), r"a\.conllu:2: the id '1' stands where 2 must follow; is the empty line between two missing\?"),
        (word(3, "b"), r"the id '3' stands where 2 must"),
    ],
)
def test_universal_fault_is_named_and_the_next_sentence_read(write: Write, line: str, message: str) -> None:
    path = write("a.conllu", word(1, "a") + line + "\n" + word(1, "c"))
    with pytest.raises(DataError, match=message):
        files.read(path)
    assert [type(row) for row in files.scan(path)] == [BadRow, Row]


def test_universal_fault_in_the_bytes_is_named(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.conllu:2: not UTF-8"):
        files.read(write("a.conllu", word(1, "a").encode() + b"2\t\xe9\n"))


# Writing


def predicted(*tags: str, words: list[list[int]] | None = None) -> dict[str, Any]:
    return {"words": words or [], "tags": list(tags), "entities": []}


def test_written_holds_columns_gold_and_prediction() -> None:
    row = {"tokens": ["a", "b"], "tags": ["O", "B"], "10": ["x", "y"], "2": ["N", "V"], "id": 7, "idx": ["p", "q"]}
    lines = list(conll.written([(row, predicted("B", "I")), (row, predicted("O", "O"))]))
    assert lines[:3] == ["a\tN\tx\tO\tB", "b\tV\ty\tB\tI", ""]
    assert len(lines) == 6


def test_written_has_as_many_columns_in_each_line() -> None:
    rows: list[dict[str, Any]] = [
        {"tokens": ["a"], "tags": ["O"]},
        {"tokens": ["b"]},
        {"tokens": ["c"], "tags": [None], "1": ["x"]},
    ]
    assert list(conll.written((row, predicted("B")) for row in rows)) == ["a\tO\tB", "", "b\t_\tB", "", "c\t_\tB", ""]


def test_written_cuts_words_from_text_and_takes_other_names() -> None:
    pair = ({"body": "\u6211\u7231 you", "entities": []}, predicted("O", "O", "B", words=[[0, 1], [1, 2], [3, 6]]))
    assert list(conll.written([pair], text="body")) == ["\u6211\tO", "\u7231\tO", "you\tB", ""]
    pair = ({"words": ["a"], "upos": ["X"]}, predicted("Y"))
    assert list(conll.written([pair], tokens="words", tags="upos")) == ["a\tX\tY", ""]


def test_written_is_read_back(write: Write) -> None:
    tokens = ["a\tb", "c\r\nd", "", "\u3000", "x\u2028y", "#", json.loads('"\\ud800"'), "New York"]
    lines = list(conll.written([({"tokens": tokens}, predicted(*"ABCDEFGH"))]))
    split = files.read(write("a.conll", "".join(f"{line}\n" for line in lines)))
    expected = ["a b", "c d", "", "\u3000", "x\u2028y", "#", "\ufffd", "New York"]
    assert split.examples == [{"tokens": expected, "tags": list("ABCDEFGH")}]
