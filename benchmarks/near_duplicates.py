"""How long the search for near-duplicates takes: 70,000 rows, in train and validation.

python -m benchmarks.near_duplicates                     texts as long as SST-2's and as SQuAD's windows, made from
                                                         the embedded reviews, some of them changed copies of others
python -m benchmarks.near_duplicates --data train.tsv    a column ``sentence`` of one's own as well

``seconds`` is what ``bertkit check`` spends on duplicates: normal forms, MinHash, candidates, and the comparison of
each in full. Each in a process of its own. Of the changed copies it is known which rows they are of, so that what is
missed is counted too.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, texts
from bertkit.data import similar
from bertkit.data.duplicates import Row, overlaps

ROWS = 70_000
CHANGED = 1000
"""Rows that are changed copies."""
LIMIT = 60
"""Seconds that the search may take on two cores."""
MADE = {"short": texts.sst2_like, "long": texts.windows_like}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="TSV with a column 'sentence', plain or .gz")
    parser.add_argument("--name", default="one's own", help="what the results call it")
    parser.add_argument("--case", choices=[*MADE, "data"], help="measure this one, here, and print it")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(of_data(given.data, given.name) if given.case == "data" else of_made(given.case)))
        return
    cases = [*MADE, *(["data"] if given.data else [])]
    runs = [in_process(case, sys.argv[1:]) for case in cases]
    command = ["python -m benchmarks.near_duplicates"]
    command += ["--data", "train.tsv", "--name", given.name] if given.data else []
    machine.write("near_duplicates", " ".join(command), {"threshold": similar.THRESHOLD, "limit": LIMIT, "runs": runs})


def in_process(case: str, arguments: list[str]) -> dict[str, Any]:
    """Return what a case took in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.near_duplicates", *arguments, "--case", case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def of_made(case: str) -> dict[str, Any]:
    """Measure texts that were made, the last of which are changed copies of others."""
    rng = random.Random(0)
    first = MADE[case](ROWS - CHANGED, seed=0)
    chosen = rng.sample([text for text in first if len(text) > 40], CHANGED)
    copies = [changed(text, rng) for text in chosen]
    pairs = zip(chosen, copies, strict=True)
    wanted = {copy for text, copy in pairs if similar.jaccard(*map(similar.normal, (text, copy))) >= similar.THRESHOLD}
    found, result = measured(first, copies)
    seen = {pair.text for overlap in found if overlap.split == "validation" for pair in overlap.pairs}
    return {"name": f"made, {case}", **result, "changed_copies": len(wanted), "missed": len(wanted - seen)}


def changed(text: str, rng: random.Random) -> str:
    """Return a text with another word in the place of one, capitals and a full stop."""
    words = text.split()
    words[rng.randrange(len(words))] = rng.choice(texts.words())
    return f"{' '.join(words).capitalize()}."


def of_data(path: Path, name: str) -> dict[str, Any]:
    """Measure the rows of a file: the last tenth stands for validation."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
        rows = [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    cut = len(rows) * 9 // 10
    _, result = measured(rows[:cut], rows[cut:])
    return {"name": name, **result}


def measured(train: list[str], validation: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return what was found, and in which time and memory."""
    splits = {"train": train, "validation": validation}
    rows = {
        name: [Row(f"{name} row {n}", (text,), None) for n, text in enumerate(part)] for name, part in splits.items()
    }
    began = time.perf_counter()
    found = overlaps(rows, shown=len(train))
    seconds = time.perf_counter() - began
    return found, {
        "rows": len(train) + len(validation),
        "characters": sum(map(len, [*train, *validation])),
        "seconds": round(seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "exact": sum(overlap.exact for overlap in found),
        "near": sum(overlap.near for overlap in found),
    }


if __name__ == "__main__":
    main()
