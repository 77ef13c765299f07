"""The model card that a run writes: what was trained on what, how well it does, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bertkit import adapters, encoder
from bertkit.errors import one_line
from bertkit.metrics.names import with_intervals


def render(record: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]], *, best_step: int) -> str:
    """Return the card as Markdown with the Hub's metadata block.

    Args:
        record: what ``run.json`` holds; its ``baselines`` stand beside the scores, its ``warnings`` below.
        scores: split -> metric -> value, ``<metric>_interval`` beside.
        best_step: the step whose weights are in ``model/``.
    """
    task, name = record["resolved_task"], _text(encoder.public_name(record["encoder"]))
    parts = [
        _metadata(record),
        f"# {_text(record['task'])}: {name}",
        _text(task.get("summary", "")),
        f"Fine-tuned with bertkit {record['versions']['bertkit']} from `{name}`"
        f"{_revision(record['encoder_revision'])} on `{_text(record['task'])}`{_revision(record['dataset_revision'])}."
        f"{_started(record)}",
        f"## Scores\n\n{_score_table(scores, record)}{_warnings(record)}\n\n95 % bootstrap intervals in brackets. "
        f"The weights are those of step {best_step}, the best by `{task['metrics'][0]}` on validation, "
        "so the validation score is a little flattered by the choice.",
        f"## Use\n\n{_usage(task)}",
        f"## Training\n\n{_training(record)}",
        f"## Limits\n\n{_limits(record)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _started(record: Mapping[str, Any]) -> str:
    """Return which task the body was trained on before, where there was one."""
    before = record.get("started_from", "")
    return f" Its body had been trained on `{_text(before)}` before; the head is new." if before else ""


def _metadata(record: Mapping[str, Any]) -> str:
    task = record["resolved_task"]
    lines = ["---", "library_name: transformers"]
    base = encoder.hub_name(record["encoder"])
    lines += [f"base_model: {json.dumps(base)}"] if base else []
    pipeline = adapters.find(task["type"]).pipeline
    lines += [f"pipeline_tag: {pipeline}"] if pipeline else []
    lines += ["tags: [bertkit]"]
    # Under --data the rows are whatever the user has there, and the Hub's data set may not be what was read.
    if task["data"].get("hub") and record["request"]["data"] is None:
        lines += [f"datasets: [{json.dumps(task['data']['hub'])}]"]
    return "\n".join([*lines, "---"])


def _score_table(scores: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    beside = record.get("baselines", {})
    columns = ["split", "rows", "metric", "score", *(f"baseline {_text(name)}" for name in beside)]
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for split, values in scores.items():
        for name, value, interval in with_intervals(values):
            between = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
            others = (found.get(split, {}).get(name) for found in beside.values())
            cells = "".join(f" {'' if other is None else f'{other:.4f}'} |" for other in others)
            rows.append(f"| {_text(split)} | {record['num_examples'][split]} | {name} | {value:.4f}{between} |{cells}")
    return "\n".join(rows)


def _warnings(record: Mapping[str, Any]) -> str:
    return "".join(f"\n\n**{_text(said[:1].upper() + said[1:])}**" for said in record.get("warnings", []))


def _usage(task: Mapping[str, Any]) -> str:
    plain = adapters.find(task["type"]).usage
    return f"```\nbertkit predict file.jsonl --run .\n```\n\n```python\n{plain}\n```"


def _training(record: Mapping[str, Any]) -> str:
    train = record["config"]["train"]
    rows = ["| setting | value |", "| --- | --- |"]
    rows += [f"| {name} | {_text(str(value))} |" for name, value in train.items()]
    rows += [
        f"| seed | {record['seed']} |",
        f"| training examples | {record['num_examples']['train']} |",
        f"| device, precision | {record['device']['name']}, {record['device']['precision']} |",
    ]
    labels = record["label_map"]
    shown = ", ".join(f"`{key}` {_text(name)}" for key, name in list(labels.items())[:50])
    return "\n".join(rows) + (f"\n\nLabels: {shown}." if labels else "")


def _limits(record: Mapping[str, Any]) -> str:
    task, train = record["resolved_task"], record["config"]["train"]
    found = record["truncation"].get("train", {})
    cut, parts = found.get("share_of_examples", 0), found.get("examples_in_windows", 0)
    sentences = [
        f"Reads at most {train['max_length']} tokens (on_long = `{train['on_long']}`); "
        + (f"{parts} training examples were longer and read in overlapping windows." if parts else "")
        + ("" if parts else f"{cut:.1%} of the training examples were longer."),
    ]
    if record["held_out_rows"]:
        sentences.append(
            f"Validation is {len(record['held_out_rows'])} rows held out from train, not an official split."
        )
    if record.get("calibration"):
        sentences.append(_calibration(record["calibration"]))
    if task.get("source"):
        sentences.append(f"The data is described at {_text(task['source'])}.")
    if task.get("license"):
        sentences.append(f"Its licence: {_text(task['license'])}.")
    return " ".join(sentences)


def _calibration(found: Mapping[str, Any]) -> str:
    """Return what was fitted after training, and what plain transformers does not know of it."""
    half = (
        f"{found['fitted_on']} rows of validation were kept for the calibration and are not scored; the validation "
        f"scores are of the other {found['scored']}."
    )
    if "temperature" not in found:
        return half
    known = [f"the logits are divided by the temperature {found['temperature']:.4f}"]
    if "threshold" in found:
        known.append(f"a label is given from a probability of {found['threshold']:.4f} on (of two, the one with id 1)")
    return (
        f"{half} In bertkit {' and '.join(known)}, both from `model/bertkit.json`; plain transformers has the same "
        "logits and does neither."
    )


def _revision(revision: str) -> str:
    return f" (revision `{_text(revision)}`)" if revision else ""


def _text(value: str) -> str:
    """Return text from data or configuration as one safe line of Markdown."""
    return re.sub(r"([\\|\[\]])", r"\\\1", one_line(value)).replace("<", "&lt;").replace("`", "'")
