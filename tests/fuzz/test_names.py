"""Names that nothing can have: each place that takes the name of a file, a folder, a run or a task says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import BertkitError
from bertkit.workflows import runs
from tests.fuzz import targets

NOWHERE = "/nowhere/at/all"
TAKEN: dict[str, Callable[[str], Any]] = {
    "finetune": lambda name: bertkit.finetune(name, encoder=NOWHERE),
    "finetune --data": lambda name: bertkit.finetune("demo/reviews", data=name, encoder=NOWHERE),
    "finetune --encoder": lambda name: bertkit.finetune("demo/reviews", encoder=name, data=NOWHERE),
    "finetune --out": lambda name: bertkit.finetune("demo/reviews", out=name, encoder=NOWHERE),
    "finetune --resume": lambda name: bertkit.finetune(resume=name),
    "finetune start_from": lambda name: bertkit.finetune("demo/reviews", start_from=name, encoder=NOWHERE),
    "predict": lambda name: list(bertkit.predict(name, run=NOWHERE)),
    "predict --run": lambda name: list(bertkit.predict([{"text": "a"}], run=name)),
    "load": bertkit.load,
    "eval": bertkit.evaluate,
    "eval --report": lambda name: bertkit.evaluate(NOWHERE, report=name),
    "check": bertkit.check,
    "check --data": lambda name: bertkit.check("demo/reviews", data=name),
    "runs show": lambda name: runs.show(name, runs=NOWHERE),
    "runs --runs": lambda name: runs.ls(Path(name)),
    "find_task": bertkit.find_task,
}
NAMES = {
    "long": "a" * 5000,
    "long file": "a" * 300 + ".jsonl",
    "no home": "~nobody-of-this-name/x",
    "NUL": "a\0b",
    "NUL file": "a\0b.jsonl",
    "surrogate": "\ud800",
    "root": "//",
    "device": "/dev/null",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
@pytest.mark.parametrize("place", TAKEN.values(), ids=list(TAKEN))
def test_impossible_name_is_one_error(place: Callable[[str], Any], name: str) -> None:
    with targets.result_or_error():
        place(name)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("finetune", "The task a{5000} cannot be looked for: File name too long"),
        ("finetune --data", "--data a{5000} cannot be looked for"),
        ("finetune --encoder", "The encoder a{5000} cannot be looked for"),
        ("finetune --out", "--out a{5000} cannot be looked for"),
        ("finetune --resume", "The run a{5000} cannot be looked for"),
        ("predict --run", "The run or model a{5000} cannot be looked for"),
        ("runs --runs", "The folder of runs a{5000} cannot be looked for"),
    ],
)
def test_name_that_is_too_long_is_named(place: str, says: str) -> None:
    with pytest.raises(BertkitError, match=says):
        TAKEN[place](NAMES["long"])
