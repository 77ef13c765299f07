"""``bertkit distill``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bertkit.cli import console, interrupt, launch, options

if TYPE_CHECKING:
    from bertkit.workflows.distill import Distilled


def command(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK|FILE", help="A task's name or file, or a data file.")
    ] = None,
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="RUN|MODEL", help="A finished run of the task, or a model's folder.")
    ] = "",
    encoder: Annotated[
        str,
        typer.Option("--encoder", metavar="NAME|DIR", help="The student; teacher:0,5 takes layers 0 and 5 of it."),
    ] = "",
    student_layers: Annotated[
        int, typer.Option("--student-layers", metavar="N", min=0, help="In its place: N of the teacher's layers.")
    ] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="Fine-tune the student without the teacher, too.")] = False,
    revision: options.Revision = "",
    data: options.Data = None,
    out: options.RunFolder = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of head, dropout and order.  [default: 42]")
    ] = None,
    limit: options.Limit = 0,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an unfinished one.")
    ] = None,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    processes: options.Processes = "1",
) -> None:
    """Train a small student by the answers of a trained teacher, and compare the two."""
    if (task is None) == (resume is None):
        raise typer.BadParameter("give a TASK (a name, a task file or a data file) or --resume RUN, one of the two.")
    given: dict[str, Any] = {"teacher": teacher, "encoder": encoder, "student_layers": student_layers}
    given |= {"compare": compare, "revision": revision, "data": data, "out": out, "runs": runs, "seed": seed}
    given |= {"limit": limit, "resume": resume, "settings": options.settings(set_), "device": device}
    given |= {"precision": precision, "threads": threads, "offline": offline}
    launch.spread(processes, device=device, threads=threads)
    from bertkit.workflows.distill import distill

    with interrupt.handled() as stopping, console.listening() as listen:
        result = distill(task, **given, listen=listen, should_stop=stopping)
    if result.interrupted is not None:
        console.next_command("bertkit", "distill", "--resume", result.interrupted, *(["--compare"] if compare else []))
        raise typer.Exit(stopping.exit_code)
    if json:
        console.emit_json(result.to_json())
    else:
        _show(result, runs)


def _show(result: Distilled, runs: Path) -> None:
    """Show a line for each model, its scores on validation first."""
    rows = []
    for line in result.contenders:
        sizes = (line.layers, f"{line.parameters / 1e6:.2f} M", f"{line.megabytes:.1f}")
        rows.append((line.name, *_scores(line.scores["validation"], result.metric), *sizes, _speed(line)))
    columns = ("model", result.metric, "95 % interval", "layers", "parameters", "MB", "examples/s")
    student = result.student
    console.table(f"{student.task}, validation, best step {student.best_step} of {student.steps}", columns, rows)
    if result.contenders:
        first, last = result.contenders[:2]
        faster = last.examples_per_second / first.examples_per_second
        console.say(
            f"the student keeps {result.kept():.1%} of the teacher's {result.metric}, {faster:.1f} times as fast"
        )
    console.say(f"{student.run}: {student.seconds:.0f} s, {student.tokens_per_second:,.0f} tokens/s in training")
    # The student that learned alone has finished last.
    alone = any(line.name == "alone" for line in result.contenders)
    where = [] if student.run.parent == runs and not alone else ["--run", student.run]
    console.next_command("bertkit", "predict", "file.jsonl", *where)


def _scores(found: dict[str, Any], metric: str) -> tuple[str, str]:
    between = found.get(f"{metric}_interval")
    return f"{found[metric]:.4f}", f"{between[0]:.4f} .. {between[1]:.4f}" if between else ""


def _speed(line: Any) -> str:
    return f"{line.examples_per_second:,.0f}"
