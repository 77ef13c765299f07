"""``python -m tests.multinode`` (``make multinode``): trainings over two hosts that are network namespaces.

Needs Linux, root and iproute2, and says so where it cannot run. It exits 1 where anything was not as it must.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.multinode import hosts
from tests.multinode.hosts import NotShownError
from tests.multinode.scenarios import ALL, Stage, show


def table() -> Table:
    """Return the table of what was shown."""
    found = Table("what", "result", "seconds", "what was found", title="Two hosts, network namespaces on this machine")
    found.columns[2].justify = "right"
    return found


def main() -> int:
    """Play the scenarios that the arguments name, or all."""
    names = [scenario.__name__ for scenario in ALL]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all where none is given")
    given = parser.parse_args().names
    if unknown := sorted(set(given) - set(names)):
        parser.error(f"no scenario {', '.join(unknown)}: {', '.join(names)}")
    if lacks := hosts.missing():
        sys.stderr.write(f"nothing was shown: this machine lacks {lacks}\n")
        return 1
    shown, failed = table(), 0
    with tempfile.TemporaryDirectory(prefix="multinode-") as folder:
        stage = Stage(Path(folder))
        for scenario in ALL:
            if given and scenario.__name__ not in given:
                continue
            began = time.monotonic()
            try:
                found, result = show(stage, scenario), "shown"
            except (NotShownError, AssertionError, OSError) as failure:
                found, result, failed = str(failure), "FAILED", failed + 1
            seconds = f"{time.monotonic() - began:.0f}"
            sys.stderr.write(f"{result} in {seconds} s: {scenario.__doc__}: {found}\n")
            shown.add_row(scenario.__doc__, result, seconds, found.splitlines()[0])
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
