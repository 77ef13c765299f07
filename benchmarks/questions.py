"""Span question answering: bertkit on the halves of SQuAD's dev sets, beside ``benchmarks.plain_questions``.

python -m benchmarks.questions squad --data DIR --seeds 1,2,3
python -m benchmarks.questions squad2 --data DIR --seeds 1,2,3
python -m benchmarks.questions squad --data DIR --seeds 1 --train-questions 0 --length 384 --rate 2e-4 \\
    --name squad_longer

DIR holds dev-v1.1.json.gz, dev-v2.0.json.gz and article_halves.json. halfA trains and all of halfB is scored: NOT the
official setting, since SQuAD's train is not used. With squad2 the no-answer threshold is tuned on articles of halfA.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine
from benchmarks.plain_questions import FILES
from benchmarks.plain_tagging import summary
from bertkit.data import files

TASKS = {"squad": "squad/v1", "squad2": "squad/v2"}
SAMPLE = 200


def halves(folder: Path, file: str, epochs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of halfA as ``train``, and those of halfB."""
    titles = json.loads((folder / "article_halves.json").read_text(encoding="utf-8"))
    rows = files.read(folder / file).examples
    train, scored = ([row for row in rows if row["title"] in titles[half]] for half in ("halfA", "halfB"))
    data = {"train": train, "halfB": scored}
    # One epoch leaves nothing to choose, and a sample is scored for form's sake; else articles of halfA are held out.
    return data | ({"validation": scored[:: len(scored) // SAMPLE]} if epochs == 1 else {})


def one(data: dict[str, Any], seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train with one seed, or take the finished run."""
    settings = {"train.epochs": given.epochs, "train.max_length": given.length, "train.learning_rate": given.rate}
    run = bertkit.finetune(
        TASKS[given.data_set],
        data=data,
        encoder=given.encoder,
        seed=seed,
        limit=given.train_questions,
        out=Path(given.runs) / f"{given.name or given.data_set}-{given.encoder}-{seed}",
        settings=settings,
    )
    stored = json.loads((run.path / "scores.json").read_text(encoding="utf-8"))
    scores = {name: value for name, value in run.scores["halfB"].items() if not name.endswith("_interval")}
    return {
        "seed": seed,
        "scores": {"halfB": scores},
        "details": stored["details"]["halfB"],
        "seconds": run.seconds,
        "tokens_per_second": run.tokens_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(TASKS))
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--train-questions", default=1500, type=int, help="0 is all")
    parser.add_argument("--epochs", default=1, type=int)
    parser.add_argument("--length", default=256, type=int)
    parser.add_argument("--rate", default=5e-5, type=float, help="learning rate")
    parser.add_argument("--runs", default="runs/questions-benchmark")
    parser.add_argument("--name", default="", help="of the result file, else the data set's")
    given = parser.parse_args()
    data = halves(given.data, FILES[given.data_set], given.epochs)
    command = f"python -m benchmarks.questions {given.data_set} --data DIR --encoder {given.encoder} "
    command += f"--seeds {given.seeds} --train-questions {given.train_questions} --epochs {given.epochs} "
    command += f"--length {given.length} --rate {given.rate}" + (f" --name {given.name}" if given.name else "")
    runs: list[dict[str, Any]] = []
    for seed in map(int, given.seeds.split(",")):
        runs.append(one(data, seed, given))
        questions = {split: len(rows) for split, rows in data.items()} | {"trained_on": given.train_questions}
        result = {"questions": questions, "runs": runs, "summary": summary(runs)}
        machine.write(given.name or given.data_set, command, result)


if __name__ == "__main__":
    main()
