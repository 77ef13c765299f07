"""Ctrl-C and SIGTERM during training: finish the step and save; a second one stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bertkit.cli import console


class Interrupt:
    """Whether a signal came, and which."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Say whether training should stop."""
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """Return the shell's exit code for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a first signal; a second one has its usual effect."""
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        console.say("stopping after this step; once more stops at once")


@contextmanager
def handled() -> Iterator[Interrupt]:
    """Take Ctrl-C and SIGTERM while the block runs, and give the old handlers back."""
    interrupt = Interrupt()
    old = {number: signal.signal(number, interrupt.take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
