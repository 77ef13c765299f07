"""Remake ``seqeval.json``: ``pip install seqeval`` (1.2.2), then ``python tests/golden/make_seqeval.py``.

Apart from ``make.py``, because seqeval is not among the dependencies and needs old build tools: CI only reads the file.
It holds what seqeval says, and never what bertkit says. Tags are single characters there; ``tags`` names them.
"""

import json
import random
import warnings
from importlib.metadata import version
from itertools import product
from pathlib import Path

FILE = Path(__file__).parent / "seqeval.json"
TAGS = {
    "o": "O",
    **{prefix.lower(): f"{prefix}-X" for prefix in "BIESLU"},
    **{prefix: f"{prefix}-Y" for prefix in "BIESLU"},
    **{code: f"{prefix}-creative-work" for code, prefix in zip("1234", "BIES", strict=True)},
    **dict(zip("7890", "BIES", strict=True)),
    **dict(zip("nvx.,t", ["NOUN", "VERB", "X", ".", ",", "ADV-TV"], strict=True)),
}
EVERY_CHUNK_OF = "obiesBI"
KINDS = [
    # how many, tags, arguments; a scheme without mode is not looked at by seqeval
    (50, "obieBIEsS", {}),
    (20, "obiBI12", {}),
    (15, "o789012B", {}),
    (15, "obilueBLU", {}),
    (15, "nvx.,otbi", {}),
    (10, "obiBI", {"zero_division": 0}),
    (10, "obiBI", {"zero_division": 1}),
    (20, "obieBIEsS1278", {"suffix": True}),
    (25, "obiBI12", {"mode": "strict", "scheme": "IOB2"}),
    (45, "obiBI12", {"mode": "strict", "scheme": "IOB1"}),
    (30, "obieBIEsS3", {"mode": "strict", "scheme": "IOBES"}),
    (25, "obiluBILU", {"mode": "strict", "scheme": "BILOU"}),
    (15, "oieIE", {"mode": "strict", "scheme": "IOE1"}),
    (15, "oieIE", {"mode": "strict", "scheme": "IOE2"}),
    (5, "o78B", {"mode": "strict", "scheme": "IOB2"}),
    (8, "obiBI12", {"mode": "strict", "scheme": "IOB2", "suffix": True}),
    (5, "obi", {"mode": "strict", "scheme": "IOB2", "zero_division": 1}),
    (5, "obies", {"mode": "strict", "scheme": "IOB2"}),
    *((4, tags, {"mode": "strict"}) for tags in ("obi", "oie", "obies", "obilu", "os", "s", "oi", "be", "obiel", "nv")),
]


def main() -> None:
    """Write the file."""
    rng = random.Random(11)
    cases = [case(rng, tags, settings) for count, tags, settings in KINDS for _ in range(count)]
    stored = {
        "made_with": f"seqeval {version('seqeval')}, numpy {version('numpy')}, by tests/golden/make_seqeval.py",
        "tags": TAGS,
        "every_chunk_of": EVERY_CHUNK_OF,
        "chunks": [chunks(tags) for n in range(1, 5) for tags in product(EVERY_CHUNK_OF, repeat=n)],
        "cases": cases,
    }
    lines = json.dumps(stored, separators=(",", ":")).replace('{"settings"', '\n{"settings"')
    FILE.write_text(lines + "\n", encoding="utf-8")


def chunks(tags: tuple[str, ...]) -> str:
    """Return ``X02 Y33``: type, first and last word of each chunk."""
    from seqeval.metrics.sequence_labeling import get_entities

    return " ".join(f"{kind}{first}{last}" for kind, first, last in get_entities([TAGS[tag] for tag in tags]))


def case(rng: random.Random, tags: str, settings: dict[str, object]) -> dict[str, object]:
    """Return random references, predictions that share some two thirds of the tags, and seqeval's scores."""
    sentences = range(rng.choice([1, 1, 2, 4]))
    references = ["".join(rng.choices(tags, k=rng.randint(1, 9))) for _ in sentences]
    predictions = ["".join(tag if rng.random() < 0.65 else rng.choice(tags) for tag in each) for each in references]
    if rng.random() < 0.04 and "o" in tags:
        predictions = ["o" * len(each) for each in predictions]
    stored = {"settings": settings, "references": " ".join(references), "predictions": " ".join(predictions)}
    try:
        return stored | scores(references, predictions, **settings)
    except (ValueError, KeyError) as error:
        return stored | {"error": type(error).__name__}


def scores(references, predictions, *, scheme=None, suffix=False, **settings) -> dict[str, object]:
    """Return what the published ``evaluate`` metric returns, which reads it from seqeval's report."""
    from seqeval import scheme as schemes
    from seqeval.metrics import accuracy_score, classification_report

    rows = [[spelled(sentence, suffix) for sentence in column] for column in (references, predictions)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = classification_report(
            *rows, output_dict=True, scheme=scheme and getattr(schemes, scheme), suffix=suffix, **settings
        )
    report = {name: [float(v) for v in row.values()] for name, row in report.items()}
    total = report.pop("micro avg")
    del report["macro avg"], report["weighted avg"]
    said = sorted({word for w in caught for word in ("Precision", "Recall", "NE tag") if word in str(w.message)})
    return {"types": report, "overall": [*total[:3], accuracy_score(*rows)], "warned": said}


def spelled(sentence: str, suffix: bool) -> list[str]:
    """Return the tags of a sentence by name; as ``X-B`` where the prefix stands behind the type."""
    tags = [TAGS[tag] for tag in sentence]
    return ["-".join((*tag.split("-", 1)[1:], tag.split("-", 1)[0])) for tag in tags] if suffix else tags


if __name__ == "__main__":
    main()
