"""``bertkit eval SUITE``: the table again, of what is stored or scored anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertkit import config, processes
from bertkit.baselines.stored import Beside
from bertkit.config import DeviceConfig
from bertkit.errors import RunError
from bertkit.events import Listener, Note, ignore
from bertkit.run import SUITE
from bertkit.workflows import report as reports
from bertkit.workflows.eval import Evaluated, evaluate
from bertkit.workflows.finetune import asked
from bertkit.workflows.preparation import Settings
from bertkit.workflows.suite.folder import Suite, at
from bertkit.workflows.suite.plan import Member
from bertkit.workflows.suite.table import Scores, Summary, summarize, summary


def evaluate_suite(
    where: str | Path,
    *,
    data: str | Path | None = None,
    split: str = "",
    report: str | Path = "",
    runs: str | Path = "runs",
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
) -> Summary:
    """Return the table of a suite: of the scores that its runs have stored, unless anything else is asked for.

    Args:
        where: the suite's folder, that of one of its tasks with several seeds, or its name below ``runs``.
        data: other data; as ``split``, ``settings`` and the device, it lets every finished run be evaluated anew.
        split: else the splits that a run was scored on after training.
        report: file of the HTML report, ``none`` for none; in the suite's folder where not given.
        runs, settings, device, precision, threads, offline, listen: as in :func:`bertkit.evaluate`.

    Raises:
        BertkitError: if there is no such suite, or one of its runs cannot be evaluated so.
    """
    processes.refuse("a suite", "Start it without a launcher.")
    folder = at(where, runs)
    if folder is None:
        raise RunError(f"There is no suite '{where}': no folder of that name has a {SUITE}.")
    suite = Suite.open(folder)
    place = DeviceConfig(device=device, precision=precision, threads=threads)
    if not (data or split or settings or asked(place)):
        return _reported(summarize(suite), suite, folder, report, listen)
    results: dict[Member, tuple[Scores, Mapping[str, Any]]] = {}
    options: dict[str, Any] = {"data": data, "settings": settings, "offline": offline, "listen": listen}
    options |= config.describe(place)
    for member in suite.members:
        run = suite.finished(member)
        if run is None:
            continue
        listen(Note(message=f"{member.task}, seed {member.seed}"))
        splits = [split] if split or data is not None else list(run.scores()["splits"])
        found = [evaluate(run.folder, split=name, **options) for name in splits]
        scores = {one.split: one.scores for one in found}
        whole = found[0].to_json() | {"seed": member.seed, "scores": scores, "baselines": _merged(found)}
        results[member] = (scores, whole)
    return _reported(summary(suite, results), suite, folder, report, listen)


def _reported(found: Summary, suite: Suite, folder: Path, given: str | Path, listen: Listener) -> Summary:
    """Write the report of a suite."""
    return replace(found, report=reports.suite(found, suite, folder=folder, given=given, listen=listen))


def _merged(found: Sequence[Evaluated]) -> Beside:
    """Return the baselines that stand beside several splits of one run."""
    merged: Beside = {}
    for one in found:
        for name, scores in one.baselines.items():
            merged.setdefault(name, {}).update(scores)
    return merged
