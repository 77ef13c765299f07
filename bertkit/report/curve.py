"""The learning curve of a run, from its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bertkit.metrics.classification import Array
from bertkit.report import plots
from bertkit.report.parts import Plot, Section

MOST = 200
"""Points of a curve; the losses of more steps are averaged."""


def sections(events: Iterable[Mapping[str, Any]]) -> Iterator[Section]:
    """Yield training loss and validation score over the steps; nothing where there were no steps."""
    steps, losses, scored, metric = read(events)
    drawn = []
    if len(steps) > 1:
        x, y = averaged(steps, losses)
        caption = "" if len(steps) <= MOST else f"Each point is the mean of about {len(steps) // len(x)} steps."
        svg = plots.lines(x.tolist(), y.tolist(), name="training loss", labels=("step", "training loss"))
        drawn.append(Plot(svg=svg, caption=caption))
    if scored:
        best = [step for step, _, is_best in scored if is_best]
        svg = plots.lines(
            [step for step, _, _ in scored],
            [value for _, value, _ in scored],
            name=f"validation {metric}",
            labels=("step", f"validation {metric}"),
            mark=best[-1] if best else None,
        )
        drawn.append(Plot(svg=svg, caption="The weights that were kept are those of the marked step." if best else ""))
    if drawn:
        text = "A validation score that falls while the loss does too means that the model learns its rows by heart."
        yield Section(title="Learning curve", text=text, plots=drawn)


def read(events: Iterable[Mapping[str, Any]]) -> tuple[Array, Array, list[tuple[int, float, bool]], str]:
    """Return steps ``(n,)``, their losses ``(n,)``, (step, score, best so far) of each evaluation, and the metric."""
    steps, losses, scored, metric = [], [], [], ""
    for event in events:
        if event.get("event") == "step":
            steps.append(int(event["step"]))
            losses.append(float(event["loss"]))
        elif event.get("event") == "scores" and event["metric"] in event["scores"]:
            metric = str(event["metric"])
            scored.append((int(event["step"]), float(event["scores"][metric]), bool(event["best"])))
    return np.array(steps, dtype=np.int64), np.array(losses), scored, metric


def averaged(x: Array, y: Array, most: int = MOST) -> tuple[Array, Array]:
    """Return at most ``most`` points: the means of neighbours, all of about the same number."""
    if len(x) <= most:
        return x, y
    parts: Sequence[Array] = np.array_split(np.arange(len(x)), most)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])
