"""``bertkit pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bertkit.cli import console, interrupt, launch, options

if TYPE_CHECKING:
    from bertkit.workflows.training import Finetuned


def command(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(metavar="CORPUS", help="Text files, folders of them, or a Hub data set."),
    ] = None,
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="NAME|DIR", help="A Hub name, a folder, a run or minilm.")
    ] = "",
    revision: options.Revision = "",
    new_tokenizer: Annotated[
        int, typer.Option("--new-tokenizer", metavar="N", min=0, help="Train a tokenizer of N tokens on the corpus.")
    ] = 0,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="From scratch: tiny, mini, small, medium or base.")
    ] = "",
    valid: Annotated[
        Path | None, typer.Option("--valid", metavar="FILE", help="Held-out text; else a part of the corpus.")
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", metavar="NAME", help="mlm, mlm+nsp or mlm+sop.  [default: mlm]")
    ] = "",
    whole_words: Annotated[bool, typer.Option("--whole-words", help="Mask whole words.")] = False,
    out: options.RunFolder = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of weights, masks and order.  [default: 42]")
    ] = None,
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
    """Pre-train an encoder on text, from scratch or from one that there is."""
    if bool(corpus) == (resume is not None):
        raise typer.BadParameter("give a CORPUS (files, folders or a Hub data set) or --resume RUN, one of the two.")
    given: dict[str, Any] = {"encoder": encoder, "revision": revision, "new_tokenizer": new_tokenizer, "size": size}
    given |= {"valid": valid, "objective": objective, "whole_words": whole_words, "out": out, "seed": seed}
    given |= {"runs": runs, "resume": resume, "settings": options.settings(set_), "offline": offline}
    given |= {"device": device, "precision": precision, "threads": threads}
    launch.spread(processes, device=device, threads=threads)
    from bertkit.workflows.pretrain import pretrain

    with interrupt.handled() as stopping, console.listening() as listen:
        result = pretrain(corpus or (), **given, listen=listen, should_stop=stopping)
    if result.status == "interrupted":
        console.next_command("bertkit", "pretrain", "--resume", result.run)
        raise typer.Exit(stopping.exit_code)
    if json:
        console.emit_json(result.to_json())
    else:
        _show(result)


def _show(result: Finetuned) -> None:
    console.score_table(
        f"{result.encoder}, best step {result.best_step} of {result.steps}", {"held-out": result.scores["validation"]}
    )
    console.say(f"{result.run}: {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s in training")
    console.next_command("bertkit", "finetune", "TASK", "--encoder", result.run)
