"""Trackers: a run's events, sent on to TensorBoard, trackio, Weights & Biases or MLflow by accelerate's trackers.

None is asked for unless ``track`` names it, none is let ask for a login, and none goes to the network unless the user
has configured it to, in its own way (``WANDB_MODE``, ``TRACKIO_SPACE_ID``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bertkit.errors import ConfigError, one_line
from bertkit.events import Event, Listener, Note, Scores, Step

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "WANDB_ERROR_REPORTING": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
"""What keeps the trackers from reporting to their makers and from writing on the terminal; what the user has set stays.
They read it when they are imported, so it has to be in the environment by then."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """The run that is tracked."""

    folder: Path
    """The run folder."""
    runs: Path
    """Where run folders are."""
    project: str
    """What groups runs that can be compared: the task."""
    created: str
    """When the run was made, from ``run.json``."""
    step: int = 0
    """Optimizer steps already done, by the run that is resumed."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's settings, as nested tables."""

    @property
    def name(self) -> str:
        """Its folder below ``runs``, so that trials and seeds of several suites keep apart."""
        folder, runs = self.folder.resolve(), self.runs.resolve()
        return folder.relative_to(runs).as_posix() if folder.is_relative_to(runs) else folder.name

    @property
    def id(self) -> str:
        """What the resumed run is known by again."""
        return hashlib.sha256(f"{self.created} {self.name}".encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings under names with dots."""
        return dict(_flat(self.config))


class Tracking:
    """The trackers of one run. One that fails is dropped, with one warning; training goes on."""

    def __init__(self, sinks: Mapping[str, GeneralTracker], tell: Listener) -> None:
        self._sinks = dict(sinks)
        self._tell = tell

    def take(self, event: Event) -> None:
        """Send on an optimizer step or an evaluation; other events say nothing that has a number."""
        if isinstance(event, Step):
            names = ("loss", "learning_rate", "gradient_norm", "epoch", "tokens_per_second")
            parts = {f"train/loss_{name}": value for name, value in event.parts.items()}
            self._log({f"train/{name}": getattr(event, name) for name in names} | parts, event.step)
        elif isinstance(event, Scores):
            self._log({f"{event.split}/{name}": value for name, value in event.scores.items()}, event.step)

    def final(self, scores: Mapping[str, Mapping[str, Any]], step: int) -> None:
        """Send the scores of the model that is kept, at the last step, since steps may only grow."""
        values = {f"best/{split}/{name}": value for split, found in scores.items() for name, value in found.items()}
        self._log({name: value for name, value in values.items() if isinstance(value, int | float)}, step)

    def close(self) -> None:
        """Let the trackers write out what they hold."""
        self._each(lambda sink: sink.finish())
        self._sinks.clear()

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._each(lambda sink: sink.log(values, step=step))

    def _each(self, act: Callable[[GeneralTracker], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                with _quiet():
                    act(sink)
            # Whatever another library raises: hours of training are worth more than their plots.
            except Exception as error:
                del self._sinks[name]
                why = f"{name} failed ({type(error).__name__}: {one_line(str(error))})"
                self._tell(Note(message=f"{why}, so the rest of this run is not tracked there", level="warning"))


def check(names: Sequence[str], *, offline: bool = False) -> None:
    """Refuse trackers that are not installed or may not do what the user has set, before anything is loaded.

    Raises:
        ConfigError: naming the first, and how it is installed; or what would have it ask the network under --offline.
    """
    for name in names:
        setting = _asks_the_network(name) if offline else ""
        if setting:
            raise ConfigError(f"{setting} has {name} send the run's events, and --offline asks no network. Drop one.")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"track = {name} needs a package that is not installed: pip install 'bertkit[{name}]'.")


def _asks_the_network(name: str) -> str:
    """Return the variable of the environment by which a tracker would send events, or an empty text."""
    if name == "wandb":
        return "WANDB_MODE" if os.environ.get("WANDB_MODE") in {"online", "shared"} else ""
    if name == "mlflow":
        scheme = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).scheme
        return "MLFLOW_TRACKING_URI" if scheme in {"http", "https", "databricks"} else ""
    variables = {"trackio": ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")}.get(name, ())
    return next((variable for variable in variables if os.environ.get(variable)), "")


@contextlib.contextmanager
def tracking(names: Sequence[str], run: Tracked, tell: Listener) -> Iterator[Tracking]:
    """Start trackers, and close them at the end, whatever that is.

    Raises:
        ConfigError: if one cannot be started.
    """
    found = Tracking({}, tell)
    try:
        sinks = {name: _started(name, run, tell) for name in names}
        found = Tracking(sinks, tell)
        yield found
    finally:
        found.close()


def _started(name: str, run: Tracked, tell: Listener) -> GeneralTracker:
    for variable, value in SILENT.items():
        os.environ.setdefault(variable, value)
    try:
        with _quiet():
            sink, where = START[name](run)
    except Exception as error:
        why = one_line(str(error)) or type(error).__name__
        raise ConfigError(f"track = {name} could not be started: {why}. Drop it, or put that right.") from error
    tell(Note(message=where))
    return sink


def _tensorboard(run: Tracked) -> tuple[GeneralTracker, str]:
    from accelerate.tracking import TensorBoardTracker

    # Events after the checkpoint that a resumed run starts from come again; TensorBoard forgets the old ones.
    sink = TensorBoardTracker("tensorboard", run.folder, purge_step=run.step + 1 if run.step else None)
    sink.start()
    # accelerate's own way makes two more "runs" in TensorBoard for each of ours.
    sink.log({"settings": "    " + json.dumps(run.settings, indent=2, default=str).replace("\n", "\n    ")}, step=0)
    return sink, f"TensorBoard's events are in {run.folder / 'tensorboard'} (tensorboard --logdir {run.runs})"


def _trackio(run: Tracked) -> tuple[Any, str]:
    import trackio
    from accelerate.tracking import TrackioTracker

    name = f"{run.name}-{run.id[:6]}"
    sink = TrackioTracker(run.project, name=name, resume="allow", auto_log_cpu=False, auto_log_gpu=False, embed=False)
    sink.start()
    # accelerate's own way leaves the run open, and trackio writes on stdout when the interpreter ends.
    sink.finish = trackio.finish
    sink.store_init_configuration(run.settings)
    space = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
    where = f"at {space}" if space else f"on this machine (trackio show --project {run.project})"
    return sink, f"trackio keeps {name} {where}"


def _wandb(run: Tracked) -> tuple[GeneralTracker, str]:
    import wandb
    from accelerate.tracking import WandBTracker

    mode = os.environ.get("WANDB_MODE", "offline")
    if mode in {"online", "shared"} and not wandb.login(prompt=False):
        raise ConfigError(f"WANDB_MODE is {mode} and there is no API key; 'wandb login' asks for one, bertkit does not")
    options = {"name": run.name, "id": run.id, "resume": "allow", "mode": mode, "dir": str(run.folder)}
    sink = WandBTracker(os.environ.get("WANDB_PROJECT", run.project), **options, settings=wandb.Settings(silent=True))
    sink.start()
    sink.store_init_configuration(run.settings)
    folder = run.folder / "wandb"
    if mode == "offline":
        return (
            sink,
            f"W&B writes to {folder} and sends nothing ('wandb sync' sends it; WANDB_MODE=online sends at once)",
        )
    return sink, f"W&B writes to {folder}, in mode {mode}, as WANDB_MODE says"


def _mlflow(run: Tracked) -> tuple[GeneralTracker, str]:
    import mlflow
    from accelerate.tracking import MLflowTracker

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run.runs / 'mlflow.db').resolve().as_posix()}"
    mlflow.set_tracking_uri(address)
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(project)
    known = client.search_runs([experiment.experiment_id], f"tags.bertkit = '{run.id}'") if experiment else []
    sink = MLflowTracker(
        project, run_name=run.name, run_id=known[0].info.run_id if known else None, tags={"bertkit": run.id}
    )
    sink.start()
    if not known:
        sink.store_init_configuration(run.settings)
    return sink, f"MLflow writes to {address} (mlflow ui --backend-store-uri {address})"


START: dict[str, Callable[[Tracked], tuple[GeneralTracker, str]]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what trackers print off stdout, which may be one JSON object, and their warnings to themselves."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            yield prefix + key, value
