"""``python -m tests.fuzz``: a finding is kept, and ends the command with 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import targets

ROOT = Path(__file__).parents[2]


def fuzz(findings: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tests.fuzz", "--findings", str(findings), *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def test_every_target_is_fuzzed() -> None:
    assert {*command.ALL, "planted"} == set(targets.ALL)


def test_unknown_reader_is_a_usage_error(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "csvv")
    assert done.returncode == 2
    assert "there is no reader 'csvv'; there are jsonl, csv" in done.stderr


@pytest.mark.slow
def test_finding_is_kept_and_ends_with_1(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    done = fuzz(tmp_path / "findings", "--minutes", "0.5", "planted")
    assert done.returncode == 1, done.stdout + done.stderr
    (kept,) = (tmp_path / "findings").iterdir()
    assert kept.name.startswith("planted-crash-")
    assert kept.read_bytes().startswith(b"a,")
    assert "AssertionError" in done.stdout


@pytest.mark.slow
def test_nothing_found_ends_with_0(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    done = fuzz(tmp_path / "findings", "--minutes", "0.1", "jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "findings").exists()
    assert "jsonl: " in done.stdout
