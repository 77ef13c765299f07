"""The command line is frozen: a changed flag shows here before a user meets it."""

from __future__ import annotations

from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from bertkit.cli import app

GOLDEN = Path(__file__).parents[1] / "golden" / "help.txt"


def commands() -> list[tuple[str, ...]]:
    """Return every command, groups included, in order."""
    found: list[tuple[str, ...]] = [()]
    top = get_command(app)
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        found.append((name,))
        found += [(name, below) for below in getattr(command, "commands", {})]
    return found


def render() -> str:
    """Return the help of every command, 80 columns wide."""
    parts = []
    for path in commands():
        result = CliRunner().invoke(
            app, [*path, "--help"], prog_name="bertkit", env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
        )
        assert result.exit_code == 0, result.output
        parts.append(f"$ bertkit {' '.join([*path, '--help'])}\n{result.output.rstrip()}\n")
    return "\n".join(parts)


def test_help_is_as_frozen() -> None:
    assert render() == GOLDEN.read_text(encoding="utf-8"), "remake it with: python -m tests.golden.make"
