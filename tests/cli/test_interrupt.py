"""Signals: the first asks to stop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bertkit.cli import interrupt

WAITS = """
import time
from bertkit.cli import interrupt
with interrupt.handled() as stopping:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        if stopping():
            print(stopping.exit_code, flush=True)
            time.sleep(600)
"""
AT_IMPORT = """
from unittest import mock
import bertkit.cli
def interrupted():
    exec("raise KeyboardInterrupt")
mock.patch("bertkit.cli.app", interrupted).start()
bertkit.cli.main()
"""
"""Ctrl-C while a string is executed, as when a dataclass is made."""
TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [(INT, INT, 130), (TERM, TERM, 143), (USR1, USR1, 143), (USR1, TERM, 143), (TERM, INT, 143), (INT, TERM, 130)],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_first_signal_is_noted_and_a_second_stops_at_once(
    first: signal.Signals, second: signal.Signals, code: int
) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WAITS], text=True, env=environment, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"{code}\n"
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(900) == -second
        assert process.stderr.read().splitlines() == ["stopping after this step; once more stops at once"]


def test_an_interrupt_while_modules_are_imported_is_an_exit_status(tmp_path: Path) -> None:
    (tmp_path / "at_import.py").write_text(AT_IMPORT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(tmp_path)])}
    command = [sys.executable, "-m", "at_import"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in interrupt.NUMBERS]
    with interrupt.handled() as stopping:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stopping()
        assert stopping.exit_code == 143
    assert [signal.getsignal(number) for number in interrupt.NUMBERS] == before
    assert interrupt.NUMBERS == [INT, TERM, USR1]


def test_without_a_signal_nothing_stops() -> None:
    with interrupt.handled() as stopping:
        assert not stopping()
