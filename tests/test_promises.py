"""The page of promises names tests: they must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "concepts" / "promises.md"


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table behind a heading."""
    text = PAGE.read_text(encoding="utf-8").partition(heading)[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_promise_names_tests_that_are_there_and_says_what_was_found() -> None:
    promises = rows("# What bertkit promises")
    assert [number for number, *_ in promises] == [str(number) for number in range(1, 12)]
    assert [number for number, _ in rows("## What was found")] == [number for number, *_ in promises]
    for number, _, tests, trials in promises:
        named = re.findall(r"`(tests/[^`]+)`", tests)
        assert named, f"promise {number} names no test"
        assert trials
        missing = [name for name in named if not (ROOT / name).is_file()]
        assert not missing, f"promise {number}: {missing}"
