"""Remake every golden file: ``python -m tests.golden.make``. Read the difference before you commit it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent


def make_families() -> None:
    """Write what each encoder family supports, found by trying; the docs' table is made of it."""
    from tests.families import FAMILIES
    from tests.test_families import describe

    rows = [describe(family, Path(tempfile.mkdtemp()) / "body") for family in FAMILIES]
    (FOLDER / "families.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def make_help() -> None:
    """Write the help of every command."""
    from tests.cli.test_help import render

    (FOLDER / "help.txt").write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    make_families()
    make_help()
