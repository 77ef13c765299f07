"""Ctrl-C, SIGTERM and SIGUSR1 during training: finish the step and save; a second one stops at once.

Kubernetes and systemd announce the end with SIGTERM, Slurm with the signal of ``--signal``, by custom SIGUSR1.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bertkit import processes
from bertkit.cli import console

NUMBERS = [number for name in ("SIGINT", "SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None]
"""Signals that ask training to stop; Windows has no SIGUSR1."""


ECHO = 3.0
"""Seconds in which a launcher passes on the signal that its processes have got already."""
SAID = "stopping after this step; once more stops at once"


def exit_code(number: int) -> int:
    """Return the shell's exit code for a signal: 130 for Ctrl-C, 143 for SIGTERM and what stands for it."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class Interrupt:
    """Whether a signal came, and which."""

    def __init__(self) -> None:
        self.number = 0
        self.deaf_until = 0.0

    def __call__(self) -> bool:
        """Say whether training should stop."""
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """Return the shell's exit code for the signal that came."""
        return exit_code(self.number)

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a first signal; from then on each has its usual effect, even where Python code cannot run.

        A launcher passes on the signal that the terminal has sent already, so in several processes the second counts
        only when some seconds are over.
        """
        if self.number and time.monotonic() < self.deaf_until:
            return
        if not self.number and processes.world().size > 1:
            self.number, self.deaf_until = number, time.monotonic() + ECHO
            console.say(SAID)
            return
        for each in NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        if self.number:
            signal.raise_signal(number)
        self.number = number
        console.say(SAID)


@contextmanager
def handled() -> Iterator[Interrupt]:
    """Take the signals while the block runs, and give the old handlers back."""
    interrupt = Interrupt()
    old = {number: signal.signal(number, interrupt.take) for number in NUMBERS}
    try:
        yield interrupt
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
