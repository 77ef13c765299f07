"""``bertkit --help`` beside ``import typer``, A B A B, medians of ten.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import machine

COMMANDS = {
    "import typer": [sys.executable, "-c", "import typer"],
    "bertkit --help": [sys.executable, "-m", "bertkit", "--help"],
    "import bertkit": [sys.executable, "-c", "import bertkit"],
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(10):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    ratio = medians["bertkit --help"] / medians["import typer"]
    machine.write(
        "startup", "python -m benchmarks.startup", {"median_seconds": medians, "help_over_typer": round(ratio, 2)}
    )


if __name__ == "__main__":
    main()
