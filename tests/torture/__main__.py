"""``python -m tests.torture``: the series of kills, and beside it the long fuzz of the readers, where there is one.

Figures go to stdout as JSON, with ``--write`` also where the documentation finds them; it exits 1 where anything
failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from tests.torture.kills import Found, series


class Fuzz:
    """``python -m tests.fuzz`` in a process of its own, on the second core."""

    def __init__(self, minutes: float, folder: Path) -> None:
        self.log = folder / "fuzz.log"
        self.minutes = minutes
        command = [sys.executable, "-m", "tests.fuzz", "--minutes", f"{minutes:g}", "--jobs", "1"]
        self.process: subprocess.Popen[str] | None = None
        if minutes and importlib.util.find_spec("tests.fuzz.__main__") is not None:
            with self.log.open("w") as log:
                self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def figures(self) -> dict[str, Any] | None:
        """Wait for its end and return what it wrote, and its exit code; None where there is no fuzz."""
        if self.process is None:
            return None
        out, _ = self.process.communicate()
        if self.process.returncode:
            tell(self.log.read_text()[-4000:])
            tell(out[-4000:])
        inputs, findings = counted(out)
        return {
            "minutes": self.minutes,
            "inputs": inputs,
            "findings": findings,
            "exit_code": self.process.returncode,
        }


def counted(out: str) -> tuple[dict[str, int], int]:
    """Return how many inputs each reader was given, and how many findings there were, from what the fuzz printed."""
    found = re.findall(r"^(\w+): ([\d,]+) inputs, (\d+) findings$", out, re.MULTILINE)
    return {name: int(inputs.replace(",", "")) for name, inputs, _ in found}, sum(int(few) for _, _, few in found)


def tell(text: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def kill(folder: Path, *, kills: int, seed: int) -> dict[str, Any]:
    """Run the series of kills and return its figures."""
    began = time.monotonic()
    found: Found = series(folder, kills=kills, seed=seed, tell=tell)
    return found.to_json() | {"seed": seed, "minutes": round((time.monotonic() - began) / 60, 1)}


def main() -> int:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the three task types together")
    parser.add_argument("--fuzz-minutes", type=float, default=10, help="for all readers together; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/torture.json")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(given.fuzz_minutes, Path(folder))
        figures: dict[str, Any] = {"kills": kill(Path(folder), kills=given.kills, seed=given.seed)}
        if (found := fuzz.figures()) is not None:
            figures["fuzz"] = found
    figures["minutes"] = round((time.monotonic() - began) / 60, 1)
    if given.write:
        machine.write("torture", "make torture", figures)
    else:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["kills"]["failures"] or figures.get("fuzz", {}).get("exit_code") else 0


if __name__ == "__main__":
    sys.exit(main())
