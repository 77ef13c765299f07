"""Small whole files, one or more a format, from which fuzzing starts, and the words that their formats are made of."""

from __future__ import annotations

import gzip
import io
import json
from functools import cache

JSONL = b'{"text": "a film", "label": "good", "n": 1.5e3}\n\n{"text": "\\ud800", "label": null}\n'
CSV = b'\xef\xbb\xbftext,label\r\n"a, ""b""\nc",good\r\nd,bad\r\n'
TSV = b'text\tlabel\na "b\tgood\nc\tbad\n'
CONLL = b"-DOCSTART- -X- O O\n\n# id = 1\nEU NNP B-NP B-ORG\nsays VBZ B-VP O\n\n#ok NN B-NP O\n"
CONLLU = (
    b"# sent_id = 1\n# text = I can't\n1\tI\tI\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_\n"
    b"2\tca\tcan\tAUX\tMD\t_\t0\troot\t_\t_\n3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_\n3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
)
SQUAD = json.dumps(
    {
        "version": "v2.0",
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": "the film was good",
                        "qas": [
                            {"id": "1", "question": "was it", "answers": [{"text": "good", "answer_start": 13}]},
                            {"id": 2, "question": "was it", "answers": [], "is_impossible": True},
                        ],
                    }
                ],
            }
        ],
    }
).encode()


@cache
def parquet() -> bytes:
    """Return a Parquet file with texts, numbers, lists, dates, and the label names that ``datasets`` stores."""
    import pyarrow as pa
    from pyarrow import parquet as writer

    features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    table = pa.table(
        {
            "text": ["a", "b", None],
            "label": [0, 1, -1],
            "score": [0.5, float("nan"), 2.0],
            "tokens": [["a"], [], None],
            "day": pa.array([0, 1, 2], pa.date32()),
            "time": pa.array([0, 10**12, 2], pa.timestamp("ms")),
            "raw": [b"\xff", b"", None],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    writer.write_table(table, file)
    return file.getvalue()


TASK = b"""summary = "x"
type = "sequence-classification"
labels = ["bad", "good"]
[data]
files = { train = "train.jsonl" }
[columns]
text = "sentence"
[train]
epochs = 3
learning_rate = 5e-5
"""


def of(reader: str) -> list[bytes]:
    """Return the whole files of a reader, and where they are text, one that is not UTF-8."""
    if reader == "task":
        return [TASK]
    if reader == "planted":
        return [b"x"]
    if reader == "parquet":
        return [parquet()]
    if reader == "gzip":
        return [gzip.compress(JSONL, mtime=0), JSONL]
    named = {"jsonl": JSONL, "csv": CSV, "tsv": TSV, "conll": CONLL, "conllu": CONLLU, "json": SQUAD}[reader]
    return [named, named.replace(b"a", b"\xe9"), named.decode().encode("utf-16"), named * 3]


WORDS = [
    *(b"\n", b"\r\n", b"\r", b"\t", b" ", b",", b'"', b'""', b"'", b"#", b"# a = b", b"-DOCSTART-", b"_", b"\x00"),
    *(b"{", b"}", b"[", b"]", b":", b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-1", b"0.5", b"1" * 5000),
    *(b'"text"', b'"label"', b'"data"', b'"paragraphs"', b'"qas"', b'"context"', b'"answers"', b'"id"', b'"question"'),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8", b"\xc2\x9b31m", b"\x1b[31m"),
    *(b"1\t", b"1-2\t", b"1.1\t", b"text,label\n", b"text\tlabel\n", b"a", b"B-X", b"O", b"[" * 2000, b'{"a":' * 300),
]
"""What the formats are made of, and what has broken readers elsewhere."""

TOML_WORDS = [
    *(b"type", b"extends", b"labels", b"[data]", b"[columns]", b"[train]", b"files", b"hub", b"epochs", b"a", b"."),
    *(
        b"=",
        b"\n",
        b'"',
        b"'''",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"#",
        b"1e5",
        b"nan",
        b"inf",
        b"1979-05-27",
        b"07:32:00",
    ),
    *(
        b"\xff",
        b"\\uD800",
        b"0x" + b"f" * 20,
        b"a." * 300,
        b"[" * 300,
        b"1" * 5000,
        b'"../x"',
        b'"sequence-classification"',
    ),
]
