"""Ctrl-C, SIGTERM and SIGUSR1 during training: finish the step and save; a second one stops at once.

Kubernetes and systemd announce the end with SIGTERM, Slurm with the signal of ``--signal``, by custom SIGUSR1.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bertkit.cli import console

NUMBERS = [number for name in ("SIGINT", "SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None]
"""Signals that ask training to stop; Windows has no SIGUSR1."""


class Interrupt:
    """Whether a signal came, and which."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Say whether training should stop."""
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """Return the shell's exit code for the signal: 130 for Ctrl-C, 143 for SIGTERM and what stands for it."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a first signal; from then on each has its usual effect, even where Python code cannot run."""
        for each in NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        self.number = number
        console.say("stopping after this step; once more stops at once")


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
