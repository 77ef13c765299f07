"""Predict in processes that are killed, over and over; a program of its own, because it forks.

python -m tests.workflows.killing RUN SOURCE OUT HOW ARGUMENT [KEY=VALUE ...]

HOW is ``lines``: kill at every ARGUMENT-th line that ``workflows/partial.py`` runs, a new output for each; or
``moments``: kill ARGUMENT times at random moments, going on from what is there. It prints how many processes were
killed. Every output is compared, byte for byte, with that of a process that was not; a difference is a traceback.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from bertkit.workflows import partial, predict

Work = Callable[[Path], None]


class Suicide:
    """Kills this process at a line of ``partial.py``; counts the lines where it does not."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.seen = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != partial.__file__:
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def forked(work: Work, out: Path, *, line: int = 0, seconds: float | None = None) -> bool:
    """Run in a child, killed at a line or after a time; say whether it lived to the end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if line:
                sys.settrace(Suicide(line))
            work(out)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a child failed"
    return not os.WIFSIGNALED(status)


def whole(out: Path) -> tuple[bytes, bytes]:
    """Return output and rejects; nothing else may be there."""
    beside = partial.rejects_of(out)
    assert not partial.folder_of(out).exists()
    return out.read_bytes(), beside.read_bytes() if beside.exists() else b""


def lines(work: Work, out: Path, step: int) -> int:
    """Kill at every ``step``-th line, and finish what is left by another process."""
    count = Suicide(0)
    sys.settrace(count)
    work(out)
    sys.settrace(None)
    wanted = whole(out)
    for line in range(1, count.seen + 1, step):
        for left in (out, partial.rejects_of(out)):
            left.unlink(missing_ok=True)
        assert not forked(work, out, line=line)
        assert not out.exists() or out.read_bytes() == wanted[0], line
        assert forked(work, out)
        assert whole(out) == wanted, line
    return len(range(1, count.seen + 1, step))


def moments(work: Work, out: Path, number: int) -> int:
    """Kill at so many moments between the start and the time that a whole run takes."""
    start = time.monotonic()
    work(out)
    took = time.monotonic() - start
    wanted = whole(out)
    chance = random.Random(7)
    killed = 0
    while killed < number:
        out.unlink(missing_ok=True)
        while not forked(work, out, seconds=chance.uniform(0, took * 0.6)):
            killed += 1
            assert not out.exists() or out.read_bytes() == wanted[0]
        assert whole(out) == wanted
    return killed


def main() -> None:
    """Run the kills that the arguments ask for."""
    run, source, out, how, argument, *given = sys.argv[1:]
    settings: dict[str, Any] = dict(pair.split("=", 1) for pair in given)
    options: dict[str, Any] = {"format": settings.pop("format", ""), "on_error": settings.pop("on_error", "stop")}
    loading = {
        "precision": "float32",
        "threads": 1,
        "settings": settings | {"predict.chunk": int(settings["predict.chunk"])},
    }
    predictor = predict.load(run, **loading)
    predict.load = lambda **_: predictor  # type: ignore[assignment]
    partial.SECONDS = 0 if how == "lines" else 0.01

    def work(place: Path) -> None:
        predict.predict_file(Path(source), out=place, run=run, **options, **loading)

    shutil.rmtree(partial.folder_of(Path(out)), ignore_errors=True)
    killed = {"lines": lines, "moments": moments}[how](work, Path(out), int(argument))
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    main()
