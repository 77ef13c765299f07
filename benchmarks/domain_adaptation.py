"""Domain adaptation: continued pre-training on in-domain text before fine-tuning, beside fine-tuning alone.

python -m benchmarks.domain_adaptation sst2 --data GLUE --limit 1000 --steps 1000
python -m benchmarks.domain_adaptation sst2 --data GLUE --text reviews.txt --limit 1000

GLUE is a folder in the classic GLUE download layout. The in-domain text is all of the task's training texts without
their labels, a document a line, unless --text names another. Both ways fine-tune on the same --limit rows; of several
learning rates each is shown at its own best. Runs that are finished are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import machine, pretraining
from benchmarks.pretraining import Row, finetuned, settings, summary


def text_of(task: str, data: Path, file: Path) -> Path:
    """Write the texts of a task's training split, a line each, without labels and repetitions."""
    from bertkit import find_task
    from bertkit.data import sources

    found = find_task(f"glue/{task}")
    rows = sources.load(found, data=data, offline=True).splits["train"].examples
    columns = [found.columns[role] for role in ("text", "text_pair") if role in found.columns]
    texts = dict.fromkeys(" ".join(row[column].split()) for row in rows for column in columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{text}\n" for text in texts if text), encoding="utf-8")
    return file


def adapted(text: Path, given: argparse.Namespace) -> Row:
    """Go on with pre-training, or take the finished run; return the curve on held-out text."""
    out = given.runs / "adapted"
    values = {"train.max_steps": given.steps, "train.eval_steps": max(1, given.steps // given.points)}
    values |= {"train.learning_rate": given.rate, "train.batch_size": given.batch_size, "eval.resamples": 0}
    values |= {"pretrain.layout": "lines"} if not given.text else {}
    found = pretraining.bertkit(
        "pretrain", text, "--encoder", given.encoder, "--seed", 1, "--out", out, *settings(values)
    )
    keys = ("steps", "best_step", "seconds", "tokens_per_second")
    points = pretraining.curve(pretraining.events(out))
    return {**{key: found[key] for key in keys}, "scores": found["scores"]["validation"], "curve": points}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a task of glue/: sst2, cola, ...")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--text", type=Path, help="in-domain text in place of the task's own")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10, help="evaluations on held-out text")
    parser.add_argument("--rate", type=float, default=1e-4, help="of pre-training")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--limit", type=int, default=1000, help="fine-tune on so many rows; 0: all")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rates", default="5e-5,1e-4", help="of fine-tuning")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--runs", type=Path, default=Path("runs/domain-adaptation-benchmark"))
    given = parser.parse_args()
    command = (
        f"python -m benchmarks.domain_adaptation {given.task} --data DIR{' --text FILE' if given.text else ''} "
        f"--encoder {given.encoder} --steps {given.steps} --rate {given.rate:g} --batch-size {given.batch_size} "
        f"--limit {given.limit} --epochs {given.epochs} --rates {given.rates} --seeds {given.seeds}"
    )
    text = given.text or text_of(given.task, given.data, given.runs / f"{given.task}.txt")
    facts: dict[str, Any] = {"task": given.task, "encoder": given.encoder, "limit": given.limit}
    facts |= {"epochs": given.epochs, "pretraining": adapted(text, given)}
    runs: list[Row] = []
    for seed in map(int, given.seeds.split(",")):
        for start, encoder in {"adapted": given.runs / "adapted", "as it is": given.encoder}.items():
            runs += [
                finetuned(given.task, start, encoder, rate, seed, given) for rate in map(float, given.rates.split(","))
            ]
        machine.write("domain_adaptation", command, {**facts, "runs": runs, "summary": summary(runs)})


if __name__ == "__main__":
    main()
