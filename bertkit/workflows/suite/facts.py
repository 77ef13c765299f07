"""What is known of GLUE: the rule of its average, its leaderboard's files, and published rows (``glue.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bertkit import encoder

FILE = Path(__file__).with_name("glue.toml")


@cache
def facts() -> dict[str, Any]:
    """Return what ``glue.toml`` says."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def published_row(name: str) -> Mapping[str, Any] | None:
    """Return the published row of exactly this encoder."""
    known = {name, encoder.hub_name(name)}
    found = [row for row in facts()["published"] if known & set(row["encoders"])]
    return found[0] if found else None


def share(percent: str) -> str:
    """Return a percentage as a share, with as many digits as were printed."""
    return f"{float(percent) / 100:.{len(percent.partition('.')[2]) + 2}f}" if percent else ""
