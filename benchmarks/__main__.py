"""All measurements of speed and memory, one after another, and one table of what they found.

python -m benchmarks            under 20 minutes on two cores
python -m benchmarks --full     hours: 384-token windows, every variant, longer series
python -m benchmarks --table    measure nothing; the table of the results that there are

Each script writes ``results/NAME.json``; the table goes to stdout and to ``results/bench.md``, all results together to
``results/bench.json``. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import machine

SHORT = (
    "training sst2 --rounds 2 --short",
    "training base --rounds 1 --short --no-groups",
    "prediction",
    "startup",
    "memory --peak-steps 20 --small-steps 2000 --minilm-steps 300",
    "tokenisation",
)
FULL = (
    "training sst2 --rounds 3",
    "training sst2_removed --rounds 3",
    "training windows --rounds 2",
    "training windows_removed --rounds 2",
    "training base --rounds 2",
    "prediction",
    "startup",
    "memory --minilm-steps 2000",
    "tokenisation",
    "demo_reviews",
)
NAMES = (
    *("training_sst2", "training_sst2_removed", "training_windows", "training_windows_removed", "training_base"),
    *("prediction", "startup", "memory", "tokenisation"),
)
"""Results that the table is of."""
LEFT_OUT = {"command", "machine", "runs", "spread", "setting", "rounds", "steps", "characters"}
"""Keys that are no findings."""
Line = tuple[str, str, str]


def run(command: str) -> bool:
    """Run one script, say how long it took, and whether it ended well."""
    began = time.perf_counter()
    sys.stderr.write(f"python -m benchmarks.{command}\n")
    module, *arguments = command.split()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments], stdout=subprocess.DEVNULL)
    sys.stderr.write(f"exit code {done.returncode}, {(time.perf_counter() - began) / 60:.1f} minutes\n\n")
    return done.returncode == 0


def training(found: dict[str, Any]) -> Iterator[Line]:
    """Yield the lines of a training result: a variant each, then the ratios."""
    for name, one in found["variants"].items():
        low, high = one["spread"]
        yield name, f"{one['milliseconds']:,.0f} ms ({low:,.0f} to {high:,.0f})", f"{one['peak_mb']:,} MB"
    for name, ratio in found["ratios"].items():
        yield name, f"{ratio:.2f}", ""


def findings(found: Any, name: str = "") -> Iterator[Line]:
    """Yield every number of a result under the path of its keys; series are left to the file."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key not in LEFT_OUT:
                yield from findings(value, f"{name}, {key.replace('_', ' ')}" if name else key.replace("_", " "))
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield name, f"{found:,.4g}" if isinstance(found, float) and abs(found) < 1000 else f"{found:,.0f}", ""


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return one Markdown table of all results, and below it what made them."""
    lines = ["| measured | what | found | peak memory |", "| --- | --- | --- | --- |"]
    for name, found in results.items():
        for what, value, memory in training(found) if name.startswith("training_") else findings(found):
            lines.append(f"| {name} | {what} | {value} | {memory} |")
    made = [f"- {name}: `{found['command']}`, {found['machine']['date']}" for name, found in results.items()]
    return "\n".join([*lines, "", *made, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    failed = [command for command in (FULL if given.full else SHORT) if not given.table and not run(command)]
    files = {name: machine.RESULTS / f"{name}.json" for name in NAMES}
    results = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    text = table(results)
    (machine.RESULTS / "bench.md").write_text(text, encoding="utf-8")
    whole = {"machine": machine.describe(), "results": results}
    (machine.RESULTS / "bench.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(text)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
