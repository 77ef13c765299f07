"""A small student of a fine-tuned encoder, distilled and fine-tuned alone: scores, sizes, speeds.

python -m benchmarks.distillation --data DIR
python -m benchmarks.distillation --data DIR --teacher runs/glue-sst2-minilm-001 --limit 10000 --seeds 1

DIR holds the GLUE folders. The teacher is fine-tuned by the task's own recipe unless a run is named. The student is
cut out of it (``copied``), or out of the encoder as it was before fine-tuning (``pretrained``: what an encoder of so
many layers would be that has never seen the teacher), and each is trained with the teacher's answers and without.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bertkit
from benchmarks import machine
from bertkit import distillation, encoder


def teacher(given: argparse.Namespace) -> Path:
    """Return the teacher's run, fine-tuned where none is named."""
    if given.teacher:
        return Path(given.teacher)
    settings = {"train.epochs": given.teacher_epochs}
    out = Path(given.runs) / "teacher"
    return bertkit.finetune(given.task, data=given.data, encoder=given.encoder, settings=settings, out=out).run


def small(given: argparse.Namespace) -> Path:
    """Write the layers of the encoder as it was before fine-tuning, as an encoder of its own."""
    folder = Path(given.runs) / f"{given.encoder}-layers-{given.layers.replace(',', '-')}"
    if not folder.is_dir():
        found = encoder.load(encoder.find(given.encoder), auto_class="AutoModel")
        distillation.keep_layers(found.model, [int(layer) for layer in given.layers.split(",")], given.encoder)
        encoder.save(found.model, found.tokenizer, folder)
    return folder


def one(student: str, seed: int, of: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Distil one student and fine-tune it alone, or take the finished runs; return a line for each model."""
    name = f"teacher:{given.layers}" if student == "copied" else str(small(given))
    result = bertkit.distill(
        given.task,
        teacher=of,
        encoder=name,
        compare=True,
        data=given.data,
        limit=given.limit,
        seed=seed,
        out=Path(given.runs) / f"{student}-{seed}",
        settings={
            "train.learning_rate": given.learning_rate,
            "train.epochs": given.epochs,
            "distill.temperature": given.temperature,
            "distill.alpha": given.alpha,
        },
    )
    lines = [asdict(line) for line in result.contenders]
    for line in lines:
        line["scores"] = line["scores"]["validation"]
        del line["model"]
    return [{"student": student, "seed": seed, "metric": result.metric, **line} for line in lines]


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each student's mean score, the share of the teacher's that it is, and how much faster it predicts."""
    found: dict[str, Any] = {}
    for student, name in dict.fromkeys((line["student"], line["name"]) for line in lines):
        chosen = [line for line in lines if (line["student"], line["name"]) == (student, name)]
        teachers = [line for line in lines if (line["student"], line["name"]) == (student, "teacher")]
        scores, theirs = ([line["scores"][line["metric"]] for line in each] for each in (chosen, teachers))
        speeds, their_speeds = ([line["examples_per_second"] for line in each] for each in (chosen, teachers))
        found["teacher" if name == "teacher" else f"{student}, {name}"] = {
            "mean": statistics.mean(scores),
            "scores": scores,
            "share_of_teacher": statistics.mean(scores) / statistics.mean(theirs),
            "times_as_fast": statistics.median(one / other for one, other in zip(speeds, their_speeds, strict=True)),
            "megabytes": chosen[0]["megabytes"],
            "parameters": chosen[0]["parameters"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="glue/sst2")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--teacher", default="")
    parser.add_argument("--teacher-epochs", type=float, default=3)
    parser.add_argument("--layers", default="0,5")
    parser.add_argument("--students", default="copied,pretrained")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--alpha", type=float, default=0.9)
    parser.add_argument("--runs", default="runs/distillation-benchmark")
    given = parser.parse_args()
    own = {key: value for key, value in vars(given).items() if key not in ("data", "runs", "teacher")}
    flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in own.items() if value != "")
    flags += " --teacher RUN" if given.teacher else ""
    of = teacher(given)
    lines: list[dict[str, Any]] = []
    for seed in map(int, given.seeds.split(",")):
        for student in given.students.split(","):
            lines += one(student, seed, of, given)
            result = {"settings": own, "summary": summary(lines), "lines": lines}
            machine.write("distillation", f"python -m benchmarks.distillation --data DIR {flags}", result)


if __name__ == "__main__":
    main()
