"""Text of a corpus from all its sources and layouts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bertkit.data.passages import Reading, passages, sources
from bertkit.errors import DataError
from bertkit.events import Event, Note

WIKITEXT = """
 = Anarchism =

 First paragraph of it .
 x = = y = is no heading

 = = History = =

 Old .

 = = = Far = = =

 = Autism =

 Second article .
""".replace("=\n", "= \n")


def documents(paths: list[Any], notes: list[str] | None = None, **reading: Any) -> list[list[Any]]:
    """Return the lines of each document."""
    found: list[list[Any]] = []

    def listen(event: Event) -> None:
        if notes is not None and isinstance(event, Note):
            notes.append(event.message)

    for passage in passages(sources(paths), Reading(**reading), listen=listen):
        if passage.starts:
            found.append([])
        found[-1].append(passage.text)
    return found


def written(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    return written(path, "".join(json.dumps(row) + "\n" for row in rows))


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "wiki.train.tokens", "a"])
def test_wikitext_is_recognised_and_said(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    found = documents([written(tmp_path / name, WIKITEXT)], notes)
    assert found == [
        ["Anarchism", " First paragraph of it .", " x = = y = is no heading", "History", " Old .", "Far"],
        ["Autism", " Second article ."],
    ]
    assert notes == [f"{name} is read as layout 'wikitext'"]


def test_title_needs_an_empty_line_before_it(tmp_path: Path) -> None:
    text = " = One = \n\n text\n = two = \n more\n"
    assert documents([written(tmp_path / "a.txt", text)]) == [["One", " text", "two", " more"]]


def test_blocks_are_recognised_by_empty_lines_between_several(tmp_path: Path) -> None:
    notes: list[str] = []
    path = written(tmp_path / "a.txt", "One.\nTwo.\n\nThree.\n\n\nFour.\nFive.\n")
    assert documents([path], notes) == [["One.", "Two."], ["Three."], ["Four.", "Five."]]
    assert notes == ["a.txt is read as layout 'blocks'"]


def test_line_is_a_document_otherwise(tmp_path: Path) -> None:
    notes: list[str] = []
    assert documents([written(tmp_path / "a.txt", "One. Two.\nThree.\n")], notes) == [["One. Two."], ["Three."]]
    assert documents([written(tmp_path / "b.txt", "One.\n\nTwo.\n\nThree.\n")], notes) == [
        *([line] for line in ("One.", "", "Two.", "", "Three."))
    ]
    assert notes == []


def test_layout_that_is_said_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", WIKITEXT)
    notes: list[str] = []
    assert documents([path], notes, layout="lines")[1:3] == [[" = Anarchism = "], [""]]
    assert documents([path], notes, layout="blocks")[0] == [" = Anarchism = "]
    assert notes == []


def test_source_begins_a_document(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{n}.txt", " = A = \n\n x\n") for n in range(2)]
    headless = written(tmp_path / "2.txt", "y\nz\n")
    assert documents([*paths, headless], layout="wikitext") == [["A", " x"], ["A", " x"], ["y", "z"]]


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_row_is_a_document_and_its_lines_are_passages(tmp_path: Path, name: str) -> None:
    path = jsonl(tmp_path / name, [{"id": 1, "text": "One.\nTwo."}, {"id": 2, "text": ""}, {"id": 3, "text": None}])
    assert documents([path]) == [["One.", "Two."], [""], [""]]


def test_parquet_and_tables_are_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["One.", "Two."]}), tmp_path / "a.parquet")
    written(tmp_path / "b.tsv", "text\nOne.\nTwo.\n")
    for name in ("a.parquet", "b.tsv"):
        assert documents([tmp_path / name]) == [["One."], ["Two."]]


def test_rows_with_titles_are_wikitext(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"{line}\n"} for line in WIKITEXT.splitlines()])
    assert [len(document) for document in documents([path])] == [6, 2]


def test_column_is_guessed_and_said_or_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"body": "Some text.", "title": "T"}] * 3)
    notes: list[str] = []
    assert documents([path], notes) == [["Some text."]] * 3
    assert notes == ["a.jsonl: column 'body' is taken as text: by its name"]
    assert documents([path], column="title") == [["T"]] * 3


def test_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"txt": "y"}])
    with pytest.raises(
        DataError, match=r"a.jsonl:2: there is no column 'text'. Did you mean 'txt'\? Name one of 'txt'"
    ):
        documents([path])
    with pytest.raises(DataError, match=r"a.jsonl:1: there is no column 'tex'. Did you mean 'text'"):
        documents([path], column="tex")


def test_rows_without_text_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"x": 1, "y": 2}])
    with pytest.raises(DataError, match=r"a.jsonl has no column that is clearly its text. Name one of 'x', 'y' with"):
        documents([path])


def test_cells_may_be_sentences_or_their_words(tmp_path: Path) -> None:
    cells: list[Any] = [["One.", "Two."], [["使用", "语言"], ["。"]], []]
    assert documents([jsonl(tmp_path / "a.jsonl", [{"text": cell} for cell in cells])]) == [[cell] for cell in cells]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(5, "a number"), ({"a": 1}, "an object"), (["a", 1], "a number"), ([["a"], "b"], "a list"), ([[["a"]]], "a list")],
)
def test_cell_of_another_kind_is_named(tmp_path: Path, cell: Any, kind: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": cell}])
    with pytest.raises(DataError, match=f"a.jsonl:2: column 'text' holds {kind}, and a corpus takes a text, a list of"):
        documents([path])


def test_list_in_a_layout_of_lines_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": ["x"]}])
    with pytest.raises(DataError, match=r"a.jsonl:1: the layout 'blocks' has lines of text, and this is a list"):
        documents([path], layout="blocks")


# --- sources ---------------------------------------------------------------------------------------------------------


def test_folder_is_all_its_files_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", "sub/c.txt", ".hidden/d.txt", ".e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, f"{name}\n")
    assert documents([tmp_path]) == [["a.txt.gz"], ["b.txt"], ["sub/c.txt"]]
    assert documents([tmp_path / "b.txt", tmp_path / "sub"]) == [["b.txt"], ["sub/c.txt"]]


def test_hub_name_is_what_is_no_path(tmp_path: Path) -> None:
    (one,) = sources(["owner/name-1.0"])
    assert (one.hub, one.path) == ("owner/name-1.0", None)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nothing.txt", "There is no file .*nothing.txt"),
        ("folder/trian.txt", "There is no file .*folder/trian.txt. Did you mean 'train.txt'"),
        ("empty", "The folder .*empty holds no file: a corpus is text files"),
        ("a.conll", r"a.conll is a .conll file, and a corpus is text: .txt, .csv, .jsonl, .parquet, .tsv"),
        ("a.json", "a.json is a .json file, and a corpus is text"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, match: str) -> None:
    for folder in ("folder", "empty"):
        (tmp_path / folder).mkdir()
    for file in ("folder/train.txt", "a.conll", "a.json"):
        written(tmp_path / file, "x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=match):
        sources([name])


def test_corpus_of_nothing_is_named() -> None:
    with pytest.raises(DataError, match="The corpus names no file"):
        sources([])


# --- faults ----------------------------------------------------------------------------------------------------------


def test_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\xe9t\xe9\n")
    with pytest.raises(DataError, match=r"a.txt:2: not UTF-8 \(byte 0xe9 at offset 5\). Convert the file"):
        documents([tmp_path / "a.txt"])


def test_row_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"a.jsonl:2: not JSON"):
        documents([path])


def test_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"one two three\n" * 1000)
    (tmp_path / "a.txt.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"a.txt.gz is cut off: the gzip stream ends early"):
        documents([tmp_path / "a.txt.gz"])
