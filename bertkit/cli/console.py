"""The only owner of stdout and stderr: results to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from bertkit.errors import BertkitError, RunError, one_line
from bertkit.events import Event, Listener, Note, Phase, Progress, Scores, Start, Step, Stop
from bertkit.metrics.names import with_intervals

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from bertkit.workflows.seeds import Spread
    from bertkit.workflows.suite.table import Summary

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def quiet_libraries() -> None:
    """Keep the libraries below from writing on the terminal themselves; what the user has set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def stand_in() -> None:
    """Stand in for streams that were closed (``>&-``): stdout refuses what is written, and stderr drops it.

    The first file that is opened would have their number else, and be written into by what knows them by number.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (it stays open)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def error(fault: BertkitError) -> None:
    """Write a fault as one line on stderr."""
    say(f"error: {fault}")


def say(message: str) -> None:
    """Write a message on stderr; that nobody can read it (``2>&1 | head``) ends no work."""
    try:
        sys.stderr.write(f"{one_line(message)}\n")
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def emit(text: str) -> None:
    """Write text on stdout; what would steer a terminal, which may come from data, is shown and does nothing."""
    emit_row(harmless(text))


def emit_row(text: str) -> None:
    """Write a row of data on stdout: as it is where a program reads it, harmless on a terminal.

    Raises:
        RunError: if stdout is closed, or its disk is full.
    """
    try:
        _write(text)
    except BrokenPipeError:
        # Click would take it for a fault and exit with 1; a reader that has enough (``| head``) is none.
        _drop(sys.stdout)
        sys.exit(0)
    except OSError as error:
        _drop(sys.stdout)
        raise _unwritable(error) from error


def _write(text: str) -> None:
    try:
        sys.stdout.write(f"{harmless(text) if sys.stdout.isatty() else text}\n")
    except UnicodeEncodeError:
        sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "backslashreplace"))


def _unwritable(error: OSError) -> RunError:
    return RunError(f"standard output cannot be written: {error.strerror or error}. Send it elsewhere.")


def harmless(text: str) -> str:
    """Write what steers a terminal as JSON escapes it: control characters, separators of lines, changes of direction.

    Of JSON the value stays the same: such characters stand in its strings alone. Tabs and line ends stay, and the
    joiners inside emoji and words.
    """
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def flush() -> None:
    """Write out what stdout still holds, else exit with 1; a reader that has gone away is no fault."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as fault:
        _drop(sys.stdout)
        error(_unwritable(fault))
        sys.exit(1)


def emit_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write one JSON object on stdout."""
    emit(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _drop(stream: TextIO) -> None:
    """Let the interpreter end quietly though nobody takes what a stream still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table on stdout: ruled on a terminal, plain columns elsewhere."""
    texts = [[one_line(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _plain_table(title, columns, texts)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ruled = Table(title=Text(one_line(title)) if title else None, title_justify="left", header_style="bold")
    for name in columns:
        ruled.add_column(Text(one_line(name)), overflow="fold")
    for row in texts:
        ruled.add_row(*map(Text, row))
    Console().print(ruled)


def _plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if title:
        emit(one_line(title))
    names = [one_line(name) for name in columns]
    widths = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(names)]
    for row in [names, *rows]:
        emit("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def score_table(
    title: str,
    splits: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> None:
    """Write scores with their intervals, and the baselines of the same rows beside them, a column each."""
    beside = baselines or {}
    rows = []
    for split, scores in splits.items():
        for name, value, interval in with_intervals(scores):
            others = (_cell(found.get(split, {}).get(name)) for found in beside.values())
            rows.append((split, name, f"{value:.4f}", _between(interval), *others))
    table(title, ("split", "metric", "score", "95 % interval", *beside), rows)


def baseline_table(baselines: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Write the scores of baselines with their intervals, those of one metric below each other."""
    rows = {}
    for place, (baseline, splits) in enumerate(baselines.items()):
        for split, scores in splits.items():
            for name, value, interval in with_intervals(scores):
                rows[split, name, place] = (split, name, baseline, f"{value:.4f}", _between(interval))
    order = list(dict.fromkeys((split, name) for split, name, _ in rows))
    places = range(len(baselines))
    shown = [rows[split, name, place] for split, name in order for place in places if (split, name, place) in rows]
    table("", ("split", "metric", "baseline", "score", "95 % interval"), shown)


def suite_table(found: Summary) -> None:
    """Write the table of a suite: a line for each score, the average below, and what is to be known of them."""
    several = len(found.seeds) > 1
    middle = ("mean", "standard deviation", "median", "best") if several else ("score", "95 % interval")
    extra = [name for name in ("baseline", "published") if any(getattr(line, name) for line in found.lines)]
    rows, before = [], ""
    for line in found.lines:
        time = f"{found.seconds[line.task]:.0f} s" if line.task != before else ""
        before = line.task
        beside = [getattr(line, name) for name in extra]
        rows.append((line.task, line.name, *_numbers(line.spread, line.interval, several), *beside, time))
    if found.average is not None:
        blank = [""] * (len(extra) + 1)
        rows.append((found.average.name, "", *_numbers(found.average.spread, None, several), *blank))
    title = f"{found.suite}, seeds {', '.join(map(str, found.seeds))}" if several else str(found.suite)
    table(title, ("task", "metric", *middle, *extra, "training"), rows)
    if several and found.lines:
        _seed_table(found)
    for task, state in {**found.unfinished, **found.left_out}.items():
        emit(f"{task} is not in the table: {state}.")
    for name, source in found.published.items():
        emit(f"Published for {name}: {source}.")
    for note in found.notes:
        emit(note)


def _seed_table(found: Summary) -> None:
    """Write every run of a suite with several seeds."""
    rows = []
    for line in found.lines:
        kept = found.kept.get(line.task)
        for seed, value, interval in zip(found.seeds, line.spread.values, line.intervals, strict=True):
            mark = "kept" if kept is not None and kept.seed == seed else ""
            rows.append((line.task, line.name, seed, f"{value:.4f}", _between(interval), mark))
    table("every run", ("task", "metric", "seed", "score", "95 % interval", ""), rows)


def _numbers(spread: Spread, interval: Sequence[float] | None, several: bool) -> tuple[str, ...]:
    if several:
        return tuple(_cell(value) for value in (spread.mean, spread.standard_deviation, spread.median, spread.best))
    return f"{spread.mean:.4f}", _between(interval)


def _between(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.4f} .. {interval[1]:.4f}" if interval else ""


def details(found: Mapping[str, Any]) -> None:
    """Write what stands behind scores: a table for each group of rows, then the single values."""
    single: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            columns = list(dict.fromkeys(column for row in value.values() for column in row))
            table("", (name, *columns), [(key, *(_cell(row.get(c)) for c in columns)) for key, row in value.items()])
        else:
            single.append((name, _cell(value)))
    if single:
        table("", ("detail", "value"), single)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def next_command(*words: object) -> None:
    """Say what to type next, quoted for the shell where that is needed."""
    say(f"next: {shlex.join(map(str, words))}")


@contextmanager
def listening() -> Iterator[Listener]:
    """Give what shows events while the block runs, and take a bar off the terminal at its end."""
    shown = Console()
    try:
        yield shown.show
    finally:
        shown.close()


class Console:
    """Shows events as they come: a live bar on a terminal, one line for each thing that matters elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.bar: Bar | None = None
        self.training: TaskID | None = None
        self.other: TaskID | None = None

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Note():
                self._line(f"{'warning: ' if event.level == 'warning' else ''}{event.message}")
            case Phase():
                self._phase(event)
            case Start():
                self._start(event)
            case Step():
                self._step(event)
            case Scores():
                self._scores(event)
            case Progress():
                self._progress(event)
            case Stop():
                self._stop(event)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = self.training = self.other = None

    def _line(self, text: str) -> None:
        if self.bar is not None:
            from rich.text import Text

            self.bar.console.print(Text(one_line(text)))
        else:
            say(text)

    def _phase(self, event: Phase) -> None:
        if self.live:
            self._line(f"{event.name} ...")

    def _start(self, event: Start) -> None:
        from bertkit.freezing import count

        self.close()
        begun = f", from step {event.step}" if event.step else ""
        self._line(
            f"training on {event.num_examples} examples, {event.num_steps} steps{begun}, "
            f"{count(event.num_parameters)} parameters, {event.device}, {event.precision}"
        )
        if self.live:
            self.bar = _bar()
            self.bar.start()
            self.training = self.bar.add_task("training", total=event.num_steps, completed=event.step, detail="")

    def _step(self, event: Step) -> None:
        if self.bar is not None and self.training is not None:
            detail = f"loss {event.loss:.4f}  lr {event.learning_rate:.2e}  {event.tokens_per_second:,.0f} tokens/s"
            self.bar.update(self.training, completed=event.step, detail=detail)

    def _scores(self, event: Scores) -> None:
        self._end_other()
        shown = ", ".join(f"{name} {value:.4f}" for name, value in event.scores.items())
        self._line(f"step {event.step}: {event.split} {shown}{' (best so far)' if event.best else ''}")

    def _progress(self, event: Progress) -> None:
        if not self.live:
            return
        if self.bar is None:
            self.bar = _bar()
            self.bar.start()
        if self.other is None:
            self.other = self.bar.add_task(one_line(event.name), total=event.total, detail="")
        self.bar.update(self.other, description=one_line(event.name), completed=event.done, total=event.total)
        if event.total is not None and event.done >= event.total:
            self._end_other()

    def _end_other(self) -> None:
        if self.bar is not None and self.other is not None:
            self.bar.remove_task(self.other)
            self.other = None

    def _stop(self, event: Stop) -> None:
        self.close()
        if event.best_step is None or event.best_score is None or event.last_score is None:
            self._line(f"{event.reason} at step {event.step}")
            return
        self._line(
            f"{event.reason} at step {event.step}: best {event.best_score:.4f} at step {event.best_step}, "
            f"last {event.last_score:.4f}"
        )


def _bar() -> Bar:
    from rich import progress
    from rich.console import Console as RichConsole

    return progress.Progress(
        # Names of splits are data: no markup.
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[detail]}", markup=False),
        progress.TimeRemainingColumn(compact=True),
        console=RichConsole(stderr=True),
        transient=True,
        refresh_per_second=4,
    )
