"""The model card that a run writes: what was trained on what, how well it does, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bertkit import adapters, encoder
from bertkit.adapters.base import Adapter
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
        f"{_started(record)}{_table(record.get('static_vectors', {}))}",
        f"## Scores\n\n{_score_table(scores, record)}{_warnings(record)}\n\n95 % bootstrap intervals in brackets. "
        f"The weights are those of step {best_step}, the best by `{task['metrics'][0]}` on validation, "
        "so the validation score is a little flattered by the choice.",
        _comparison(record),
        f"## Use\n\n{_usage(task, record.get('head', {}))}",
        f"## Training\n\n{_training(record)}{_mix(record.get('head', {}))}",
        f"## Limits\n\n{_limits(record)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_pretrained(record: Mapping[str, Any], scores: Mapping[str, Any], *, best_step: int) -> str:
    """Return the card of a pre-trained encoder.

    Args:
        record: what ``run.json`` holds.
        scores: metric -> value on held-out text, ``<metric>_interval`` beside.
        best_step: the step whose weights are in ``model/``.
    """
    name, corpus, request = _text(encoder.public_name(record["encoder"])), record["corpus"], record["request"]
    objective = record["config"]["pretrain"]["objective"]
    begun = "from random weights" if request["size"] else f"from `{name}`{_revision(record['encoder_revision'])}"
    tokens = f"{corpus['train']['tokens']:,} tokens of {corpus['train']['documents']:,} documents"
    rows = ["| metric | held-out text |", "| --- | --- |"]
    for metric, value, interval in with_intervals(scores):
        between = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        rows.append(f"| {metric} | {value:.4f}{between} |")
    base = encoder.hub_name(record["encoder"])
    lines = ["---", "library_name: transformers", *([f"base_model: {json.dumps(base)}"] if base else [])]
    parts = [
        "\n".join([*lines, "pipeline_tag: fill-mask", "tags: [bertkit]", "---"]),
        f"# Pre-trained: {name}",
        f"Pre-trained with bertkit {record['versions']['bertkit']} {begun} on {tokens}; objective `{objective}`, "
        f"{corpus['vocabulary']:,} tokens in the vocabulary.",
        "## Scores\n\n" + "\n".join(rows) + "\n\nLosses in nats over masked positions, 95 % bootstrap intervals over "
        f"rows in brackets, {record['num_examples']['validation']:,} rows of {corpus['validation']['documents']:,} "
        f"documents that were not trained on. The weights are those of step {best_step}, the best by `mlm_loss`.",
        f"## Use\n\n{_PRETRAINED_USE}",
        f"## Training\n\n{_training(record)}",
    ]
    return "\n\n".join(parts) + "\n"


_PRETRAINED_USE = """```
bertkit finetune TASK --encoder .
```

```python
from transformers import pipeline

fill = pipeline("fill-mask", "model")
print(fill(f"The capital of France is {fill.tokenizer.mask_token}."))
```"""


def _started(record: Mapping[str, Any]) -> str:
    """Return which task the body was trained on before, where there was one."""
    before = record.get("started_from", "")
    return f" Its body had been trained on `{_text(before)}` before; the head is new." if before else ""


def _table(found: Mapping[str, Any]) -> str:
    """Return what an encoder is that is a table of word vectors."""
    if not found:
        return ""
    return (
        f" The encoder is a table of static vectors of {found['words']:,} words ({found['width']} numbers each), which "
        "know nothing of their neighbours; it is saved as an XLNet without layers, so that plain transformers opens "
        f"it. Of the training words {found['unknown']['train']:.1%} are not in it."
    )


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


def _comparison(record: Mapping[str, Any]) -> str:
    """Return what a student is beside its teacher, and beside itself without one, where it was compared."""
    found = record.get("comparison", [])
    if not found:
        return ""
    metric = record["resolved_task"]["metrics"][0]
    rows = [f"| model | {metric} | layers | parameters | MB | examples/s |", "| --- | --- | --- | --- | --- | --- |"]
    for line in found:
        scores = line["scores"]["validation"]
        between = scores.get(f"{metric}_interval")
        shown = f"{scores[metric]:.4f}" + (f" [{between[0]:.4f}, {between[1]:.4f}]" if between else "")
        sizes = f"{line['layers']} | {line['parameters'] / 1e6:.2f} M | {line['megabytes']:.1f}"
        rows.append(f"| {line['name']} | {shown} | {sizes} | {line['examples_per_second']:,.0f} |")
    teacher = _text(encoder.public_name(record["teacher"]["encoder"]))
    about = (
        f"Distilled from a teacher of `{teacher}`. Scores are of validation; the speeds are predict's, of all models "
        "in turn on the same rows and the same machine."
    )
    return "## Beside its teacher\n\n" + about + "\n\n" + "\n".join(rows)


def _warnings(record: Mapping[str, Any]) -> str:
    return "".join(f"\n\n**{_text(said[:1].upper() + said[1:])}**" for said in record.get("warnings", []))


def _usage(task: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    plain = Adapter.usage if head else adapters.find(task["type"]).usage
    said = ""
    if head:
        said = (
            f"The head ({head['kind']} on `{head['layers']}`) is none of transformers' and stands in "
            f"`model/{head['file']}`: bertkit predicts with it, and plain transformers opens the encoder alone.\n\n"
        )
    return f"{said}```\nbertkit predict file.jsonl --run .\n```\n\n```python\n{plain}\n```"


def _mix(head: Mapping[str, Any]) -> str:
    """Return the learned weights of the layers, where the head mixes them."""
    mix = head.get("mix")
    if not mix:
        return ""
    rows = ["| layer | share |", "| --- | --- |"]
    rows += [f"| {name} | {share:.4f} |" for name, share in zip(mix["layers"], mix["shares"], strict=True)]
    return (
        f"\n\nThe head reads a mix of layers whose shares were learned, scaled by {mix['gamma']:.4f} "
        "(arXiv:1802.05365, equation 1):\n\n" + "\n".join(rows)
    )


def _training(record: Mapping[str, Any]) -> str:
    train = record["config"]["train"]
    rows = ["| setting | value |", "| --- | --- |"]
    rows += [f"| {name} | {_text(str(value))} |" for name, value in train.items()]
    rows += [
        f"| seed | {record['seed']} |",
        f"| training examples | {record['num_examples']['train']} |",
        f"| device, precision | {record['device']['name']}, {record['device']['precision']} |",
        *_trained(record.get("trained", {})),
    ]
    labels = record["label_map"]
    shown = ", ".join(f"`{key}` {_text(name)}" for key, name in list(labels.items())[:50])
    return "\n".join(rows) + (f"\n\nLabels: {shown}." if labels else "")


def _trained(found: Mapping[str, Any]) -> list[str]:
    """Return the row that says how much of the model was trained, where that is not all of it."""
    if not found or found["parameters"] == found["all"]:
        return []
    later = ", more of them later" if found.get("unfreezing") else ""
    merged = f", by LoRA of rank {found['lora']['rank']}, merged" if found.get("lora") else ""
    return [f"| trained parameters | {found['parameters']:,} of {found['all']:,}{later}{merged} |"]


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
