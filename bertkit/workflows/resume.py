"""``--resume`` of a suite or a sweep: it goes on with what it was started with, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertkit.errors import RunError


def refuse_changes(folder: Path, request: Mapping[str, Any], given: Mapping[str, Any], *, kind: str) -> None:
    """Refuse what would change a suite or a sweep that is gone on with.

    Args:
        folder: where it is.
        request: what it was started with, as its JSON file holds it.
        given: what is asked for now; what is None or empty asks for nothing.
        kind: ``suite`` or ``sweep``.

    Raises:
        RunError: naming the first argument that asks for something else.
    """
    known = request | request["device"] | {"out": folder}
    for name, value in given.items():
        asked_for = value is not None and value not in ("", {}, [], ())
        if asked_for and _plain(name, value) != _plain(name, known.get(name)):
            raise RunError(
                f"--resume {folder} goes on with what the {kind} was started with. Drop {name} ({value}), "
                f"or start a new {kind}."
            )


def _plain(name: str, value: Any) -> str:
    """Return a value as text; a place is the same however it is spelled."""
    return str(Path(value).expanduser().resolve()) if name in ("data", "out") and value else str(value)
