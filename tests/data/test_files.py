import gzip
import io
import json
from pathlib import Path

import pytest

from bertkit import catalog
from bertkit.data import files
from bertkit.errors import DataError


@pytest.fixture
def write(tmp_path):
    def _write(name, content):
        path = tmp_path / name
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return _write


def rows(path, **options):
    return list(files.stream(path, **options))


def test_formats_are_those_of_the_catalog():
    assert {f".{name}" for name in files.FORMATS} == set(catalog.DATA_SUFFIXES)


# JSON Lines


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "train.JSONL"])
def test_jsonl_skips_blank_lines_and_keeps_places(write, name):
    split = files.read(write(name, '\ufeff{"text": "a"}\r\n\n   \n{"text": "b\u2028c"}'))
    assert split.examples == [{"text": "a"}, {"text": "b\u2028c"}]
    assert (split.name, split.source, split.place(1)) == ("train", name, f"{name}:4")


def test_jsonl_last_of_repeated_keys_wins(write):
    assert rows(write("a.jsonl", '{"x": 1, "x": 2}\n')) == [({"x": 2}, "a.jsonl:1")]


def test_jsonl_keeps_lone_surrogates(write):
    ((row, _),) = rows(write("a.jsonl", '{"text": "x\\ud800y"}\n'))
    assert row == {"text": "x\ud800y"}
    assert json.dumps(row) == '{"text": "x\\ud800y"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"text": }',
            r"train\.jsonl:2: not JSON: Expecting value \(column 10\); each line must hold one whole object",
        ),
        ("[1, 2]", r"train\.jsonl:2: the line holds a list, and must hold an object"),
        ('"text"', r"train\.jsonl:2: the line holds a text, and must"),
        ("3", r"holds a number"),
        ("true", r"holds true or false"),
        ("null", r"holds null"),
        ('{"x": NaN}', r"train\.jsonl:2: not JSON that can be read: NaN is no JSON value; write null"),
        ('{"x": -Infinity}', r"-Infinity is no JSON value"),
        ('{"x": ' + "9" * 5000 + "}", r"not JSON that can be read: Exceeds the limit"),
        ("[" * 200_000, r"train\.jsonl:2: not JSON that can be read: .*recursion"),
    ],
)
def test_jsonl_bad_line_is_named(write, line, message):
    with pytest.raises(DataError, match=message):
        rows(write("train.jsonl", f'{{"text": "a"}}\n{line}\n'))


def test_not_utf8_is_named_with_its_offset(write):
    path = write("train.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2: not UTF-8 \(byte 0xe9 at offset 27\)\. Convert .*iconv"):
        files.read(path)


def test_read_names_all_bad_rows_together(write):
    path = write("train.jsonl", '{"a": 1}\n{\n[]\n{"a": 2}\n' + "x\n" * 8)
    with pytest.raises(DataError, match=r"train\.jsonl:2: not JSON.*train\.jsonl:3: the line.*and 2 more\.$"):
        files.read(path)


def test_scan_goes_on_behind_bad_rows(write):
    path = write("train.jsonl", b'{"a": 1}\nbroken\n\xff\n{"a": 2}\n')
    found = list(files.scan(path))
    assert [type(row).__name__ for row in found] == ["Row", "BadRow", "BadRow", "Row"]
    assert [row.place for row in found] == [f"train.jsonl:{n}" for n in (1, 2, 3, 4)]


def test_stream_yields_rows_before_a_bad_one(write):
    stream = files.stream(write("a.jsonl", '{"a": 1}\nbroken\n'))
    assert next(stream) == ({"a": 1}, "a.jsonl:1")
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        next(stream)


# Standard input


def test_standard_input_is_jsonl(write):
    assert rows(None, stdin=io.BytesIO(b'{"a": 1}\n')) == [({"a": 1}, "standard input:1")]
    assert rows(None, stdin=io.BytesIO(b"a,b\n1,2\n"), format="csv") == [({"a": "1", "b": "2"}, "standard input:2")]


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("conll", b"a\tO\n", ({"tokens": ["a"], "tags": ["O"]}, "standard input:1")),
        ("conllu", b"1\ta" + b"\t_" * 8 + b"\n", None),
        ("json", b'{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1, "question": "q"}]}]}]}', None),
    ],
)
def test_standard_input_may_hold_words_and_questions(kind, content, expected):
    (found,) = rows(None, stdin=io.BytesIO(content), format=kind)
    assert found == expected or expected is None
    assert found[1].startswith("standard input")


def test_columns_are_passed_to_every_way_of_reading(write):
    path = write("a.conll", "x O word\n")
    expected = {"tags": ["x"], "1": ["O"], "tokens": ["word"]}
    columns = {"tags": 0, "tokens": 2, "label": "name"}
    assert files.read(path, columns=columns).examples == [expected]
    assert rows(path, columns=columns) == [(expected, "a.conll:1")]
    assert [row.example for row in files.scan(path, columns=columns)] == [expected]


def test_standard_input_faults_are_named():
    with pytest.raises(DataError, match="standard input is empty"):
        rows(None, stdin=io.BytesIO(b"\n"))
    with pytest.raises(DataError, match="A parquet file cannot be read from standard input: save it"):
        rows(None, stdin=io.BytesIO(b"PAR1"), format="parquet")
    with pytest.raises(ValueError, match="a path or a stream"):
        rows(None)


# CSV and TSV


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_reads_quotes_and_names_the_line_a_row_starts_on(write, name):
    path = write(name, '\ufefftext,label\r\n"two\nlines, ""quoted""",1\r\n\r\nplain "x",0\r\n')
    split = files.read(path)
    assert split.examples == [{"text": 'two\nlines, "quoted"', "label": "1"}, {"text": 'plain "x"', "label": "0"}]
    assert split.lines == [2, 5]


def test_csv_takes_long_fields(write):
    ((row, _),) = rows(write("a.csv", "text\n" + "x" * 300_000 + "\n"))
    assert len(row["text"]) == 300_000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a,b,c\n", r"a\.csv:2: 3 fields, and the header names 2\. A text that holds a comma must stand in quotes"),
        ("a\n", r"a\.csv:2: 1 field, and the header names 2\.$"),
        ('"a"b,c\n', r"a\.csv:2: not CSV: ',' expected after '\"'"),
        ('x,y\n"a,b\nc,d\n', r"a\.csv:3: a quote is opened and never closed"),
    ],
)
def test_csv_bad_row_is_named(write, body, message):
    with pytest.raises(DataError, match=message):
        rows(write("a.csv", "text,label\n" + body))


def test_csv_goes_on_behind_bad_rows(write):
    path = write("a.csv", b'text,label\n"a"b,1\nc,2\n"caf\xe9\nx",3\nd,4\n')
    found = list(files.scan(path))
    assert [(row.place, isinstance(row, files.Row)) for row in found] == [
        ("a.csv:2", False),
        ("a.csv:3", True),
        ("a.csv:4", False),
        ("a.csv:6", True),
    ]
    assert found[2].reason.startswith("not UTF-8 (byte 0xe9")


def test_tsv_takes_quotes_as_characters(write):
    path = write("a.tsv", 'text\tlabel\r\n"a lone quote\t1\r\n\r\nit\'s "x"\t\r\n')
    assert rows(path) == [
        ({"text": '"a lone quote', "label": "1"}, "a.tsv:2"),
        ({"text": 'it\'s "x"', "label": ""}, "a.tsv:4"),
    ]


def test_tsv_bad_row_is_named(write):
    with pytest.raises(DataError, match=r"a\.tsv:2: 3 fields, and the header names 2\.$"):
        rows(write("a.tsv", "text\tlabel\na\tb\tc\n"))
    with pytest.raises(DataError, match=r"a\.tsv:2: not UTF-8 \(byte 0xe9 at offset 14\)"):
        rows(write("a.tsv", b"text\tlabel\nabc\xe9\t1\n"))


@pytest.mark.parametrize(("name", "sep"), [("a.csv", ","), ("a.tsv", "\t")])
def test_header_faults_are_named(write, name, sep):
    with pytest.raises(DataError, match=r"names column 'text' twice"):
        rows(write(name, f"text{sep}text\na{sep}b\n"))
    with pytest.raises(DataError, match=rf"{name}:1: not UTF-8"):
        rows(write(name, f"text{sep}".encode() + b"\xe9\n"))


# Whole files


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.gz"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n"])
def test_empty_file_says_so(write, name, content):
    with pytest.raises(DataError, match=rf"{name} is empty\.$"):
        rows(write(name, content))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "text,label\n"), ("a.tsv", "text\tlabel")])
def test_header_alone_says_so(write, name, content):
    with pytest.raises(DataError, match=rf"{name} is empty: it has a header but no rows"):
        rows(write(name, content))


def test_missing_file_suggests_its_neighbour(write, tmp_path):
    write("train.jsonl", "{}")
    with pytest.raises(DataError, match=r"There is no file .*trian\.jsonl\. Did you mean 'train\.jsonl'\?"):
        files.read(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"There is no folder .*nowhere either"):
        files.read(tmp_path / "nowhere" / "train.jsonl")


def test_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        files.read(tmp_path)


def test_unknown_suffix_lists_the_known(write):
    with pytest.raises(
        DataError, match=r"'\.xlsx' is no suffix of a data file\. Known are \.jsonl, \.csv, \.tsv, \.parquet"
    ):
        files.read(write("a.xlsx", "x"))
    with pytest.raises(DataError, match=r"'no suffix' is no suffix"):
        files.read(write("data", "x"))


def test_format_overrides_the_suffix(write):
    assert rows(write("data.txt", '{"a": 1}'), format="jsonl") == [({"a": 1}, "data.txt:1")]
    with pytest.raises(DataError, match=r"there is no format 'jsonll'\. Did you mean 'jsonl'\?"):
        rows(write("data.txt", "x"), format="jsonll")


def test_gzip_faults_are_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 5000)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is cut off: the gzip stream ends early"):
        files.read(path)
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is not a gzip file, or is damaged"):
        files.read(path)


def test_unreadable_file_is_named_before_reading(write, monkeypatch):
    path = write("a.jsonl", "{}")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read: Permission denied"):
        files.check_readable(path)


# Parquet


@pytest.fixture
def parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    def _write(table, metadata=None):
        made = pa.table(table).replace_schema_metadata(metadata)
        parquet.write_table(made, tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    return _write


def test_parquet_rows_have_numbers(parquet):
    path = parquet({"text": [f"t{i}" for i in range(1500)], "score": [float("nan"), None] + [1.5] * 1498})
    split = files.read(path)
    assert split.examples[:3] == [{"text": f"t{i}", "score": s} for i, s in enumerate([None, None, 1.5])]
    assert (len(split.examples), split.lines, split.place(1400)) == (1500, None, "a.parquet row 1401")


def test_parquet_of_datasets_gives_label_names(parquet):
    feature = {"_type": "ClassLabel", "names": ["no", "yes"]}
    features = {"label": feature, "many": {"_type": "List", "feature": feature}, "text": {"_type": "Value"}}
    features |= {"old": [feature]}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    path = parquet({"text": ["a", "b"], "label": [1, -1], "many": [[0, 1], []], "old": [[1], []]}, about)
    assert [row for row, _ in files.stream(path)] == [
        {"text": "a", "label": "yes", "many": ["no", "yes"], "old": ["yes"]},
        {"text": "b", "label": None, "many": [], "old": []},
    ]


@pytest.mark.parametrize("as_parquet", [True, False])
def test_sequences_of_class_labels_become_names(as_parquet, tmp_path):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["O", "B-PER"])
    features = datasets.Features(tags=datasets.Sequence(label), deep=datasets.List(datasets.List(label)))
    made = datasets.Dataset.from_dict({"tags": [[1, 0, -1]], "deep": [[[1], [0]]]}, features=features)
    if as_parquet:
        made.to_parquet(tmp_path / "train.parquet")
    split = files.read(tmp_path / "train.parquet") if as_parquet else files.from_python(made, name="train")
    assert split.examples == [{"tags": ["B-PER", "O", None], "deep": [["B-PER"], ["O"]]}]


def test_parquet_faults_are_named(parquet, write):
    with pytest.raises(DataError, match=r"b\.parquet is not a Parquet file, or is damaged"):
        files.read(write("b.parquet", "no parquet"))
    with pytest.raises(DataError, match=r"a\.parquet is empty: it has columns but no rows"):
        files.read(parquet({"text": []}))
    with pytest.raises(DataError, match=r"Parquet is compressed inside and is not read gzipped"):
        files.read(write("c.parquet.gz", "x"))


# Python


def test_list_of_dicts_is_copied():
    given = [{"text": "a", "label": float("nan")}]
    split = files.from_python(given, name="train")
    assert split.examples == [{"text": "a", "label": None}]
    assert split.place(0) == "train row 1"
    assert split.examples[0] is not given[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train is empty: it has no rows"),
        ([{"a": 1}, "b"], "train row 2 is a str, and must be a dict"),
        ("text", r"train is a builtins\.str, and must be a datasets\.Dataset"),
        ({"text": ["a"]}, r"train is a builtins\.dict"),
        (7, r"train is a builtins\.int"),
    ],
)
def test_other_objects_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        files.from_python(rows, name="train")


def test_pandas_nan_becomes_none():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": ["a", None], "label": [1.0, float("nan")], "n": [1, 2], "l": [["x"], []]})
    assert files.from_python(frame, name="train").examples == [
        {"text": "a", "label": 1.0, "n": 1, "l": ["x"]},
        {"text": None, "label": None, "n": 2, "l": []},
    ]
    with pytest.raises(DataError, match=r"and must be a datasets\.Dataset"):
        files.from_python(frame["text"], name="train")


def test_datasets_label_ids_become_names():
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(text=datasets.Value("string"), label=label, many=datasets.List(label))
    rows = {"text": ["a", "b"], "label": [1, -1], "many": [[0, 1], []]}
    made = datasets.Dataset.from_dict(rows, features=features).with_format("numpy")
    assert files.from_python(made, name="train").examples == [
        {"text": "a", "label": "yes", "many": ["no", "yes"]},
        {"text": "b", "label": None, "many": []},
    ]


def test_memory_of_a_stream_is_constant(write):
    import tracemalloc

    path = write("a.jsonl", '{"text": "' + "x" * 100 + '"}\n' * 1)
    path.write_bytes(path.read_bytes() * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in files.stream(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 500_000
