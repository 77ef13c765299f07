"""A model as eval and predict open it: a run's, a folder's or somebody else's, with the adapter that reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import adapters, backends, config, device, encoder, heads, static, unpad
from bertkit.adapters.base import Adapter, Example
from bertkit.config import Backend, DeviceConfig, EvalConfig, PredictConfig, TrainConfig
from bertkit.encoder import Encoder, Source
from bertkit.errors import ConfigError, ModelError, RunError, joined, looked_for
from bertkit.pretraining import TYPE
from bertkit.run import MODEL_FACTS, Run, holds_runs
from bertkit.run import find as find_run
from bertkit.task import DataSource, Task, from_table
from bertkit.workflows.preparation import Settings, configs, tables

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bertkit.infer import Model


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A model found, its files checked, nothing heavy loaded yet."""

    name: str
    """Run folder, model folder or Hub name, for messages and results."""
    source: Source
    task: Task
    adapter: Adapter
    eval: EvalConfig
    predict: PredictConfig
    run: Run | None = None
    foreign: bool = False
    """Whether bertkit did not save it."""

    def resolved(self, examples: Sequence[Example]) -> Saved:
        """Return somebody else's model with the columns and metrics that the task leaves to the data."""
        if not self.foreign:
            return self
        task, _ = type(self.adapter).resolve(self.task, examples)
        adapter = type(self.adapter)(task, self.adapter.config, self.adapter.labels)
        return replace(self, task=task, adapter=adapter)

    def open(self, where: DeviceConfig, *, backend: Backend = "torch", round_weights: bool = False) -> Opened:
        """Load model and tokenizer onto a device.

        Args:
            where: device, precision and threads; OpenVINO runs on the CPU.
            backend: what computes.
            round_weights: where the precision is bf16, hold the weights of families that run unpadded in it, too:
                faster than autocast, but not to the last digit what training evaluated.

        Raises:
            ModelError: if there is no trained head, or the backend cannot take the model.
            ConfigError: if the device is not there, or not the backend's.
        """
        head = heads.stored(self.source.folder)
        if backend == "openvino":
            _refuse_vectors(self.name, self.source.folder)
            _refuse_own_head(self.name, head)
            where = replace(where, device=_cpu(where.device))
        place = device.choose(where)
        # Beside OpenVINO, torch is what its predictions are compared with.
        accelerator = device.accelerator(place if backend == "torch" else replace(place, precision="float32"))
        loaded = encoder.load(self.source, auto_class=self.adapter.auto_class, head=head)
        if loaded.new_weights:
            raise ModelError(
                f"{self.name} has no trained head ({', '.join(loaded.new_weights[:2])} are missing): "
                f"it is an encoder. 'bertkit finetune TASK --encoder {self.name}' trains one."
            )
        self._fit(loaded)
        self.adapter.bind(loaded.tokenizer)
        loaded.model.to(accelerator.device)
        model: Model = loaded.model
        if backend == "openvino":
            beside = self.run.folder if self.run else None
            about: dict[str, Any] = {"precision": place.precision, "threads": where.threads}
            model = backends.openvino(loaded, name=self.name, beside=beside, **about)
        elif unpad.is_proven(accelerator.device.type):
            installed = unpad.install(loaded.model)
            if round_weights and place.precision == "bf16" and installed.form in unpad.PACKED:
                encoder.round_weights(loaded.model)
                accelerator = device.accelerator(replace(place, precision="float32"))
        opened = Opened(loaded=loaded, accelerator=accelerator, precision=place.precision, model=model)
        opened.release()
        return opened

    def _fit(self, loaded: Encoder) -> None:
        """Hold labels and length against the model, which a checkpoint of somebody else may contradict."""
        labels, outputs = self.adapter.labels, loaded.model.config.num_labels
        if labels and self.foreign and len(labels) != outputs:
            raise _wrong_number(self.name, labels, outputs)
        if self.adapter.config.max_length > loaded.max_length:
            self.adapter.config = replace(self.adapter.config, max_length=loaded.max_length)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A loaded model on its device."""

    loaded: Encoder
    accelerator: Accelerator
    precision: str
    model: Model
    """What computes the predictions: the loaded model, or what OpenVINO made of it."""

    def release(self) -> None:
        """Free the weights of the torch model, once another one that is trusted computes in its place."""
        if isinstance(self.model, backends.OpenVino) and self.model.trusted:
            self.loaded.model.to("meta")


def _refuse_vectors(name: str, folder: Path) -> None:
    """Refuse to convert a model that has no layers.

    Raises:
        ConfigError: if it has none.
    """
    if static.facts(folder):
        raise ConfigError(
            f"--backend openvino makes layers faster, and {name} has none: it is a head on static word vectors. "
            "--backend torch predicts with it."
        )


def _refuse_own_head(name: str, head: heads.Spec | None) -> None:
    """Refuse to convert a model whose head is none of transformers'.

    Raises:
        ConfigError: if it is not.
    """
    if head is not None:
        raise ConfigError(
            f"--backend openvino converts Hugging Face's models, and {name} has a head of bertkit's own "
            f"({head.says}, {heads.FILE}). --backend torch predicts with it."
        )


def _cpu(name: str) -> str:
    """Return the device that OpenVINO runs on.

    Raises:
        ConfigError: if another one was asked for.
    """
    if name not in ("auto", "cpu"):
        raise ConfigError(f"--backend openvino runs on the CPU, and --device is {name}. Drop one of the two.")
    return "cpu"


def find(
    where: str | Path | None,
    *,
    runs: Path,
    task: Task | None = None,
    labels: Sequence[str] = (),
    settings: Settings | None = None,
    offline: bool = False,
) -> Saved:
    """Find a model: the newest finished run, a run, a folder that bertkit saved, or somebody else's checkpoint.

    Args:
        where: a run or model folder, a run's name, a Hub name, or None for the newest finished run.
        runs: where runs are looked for.
        task: for a checkpoint that bertkit did not save: the task that says type and columns.
        labels: for a checkpoint that only says ``LABEL_0``: its label names, in id order.
        settings: what ``--set`` gives.
        offline: ask no network.

    Raises:
        RunError: if there is no such run, or it did not finish.
        ModelError: if a checkpoint cannot be used, or its labels do not fit the task's.
    """
    if tables(settings or {}).get("eval", {}).get("calibrate"):
        raise ConfigError(
            "--set eval.calibrate changes nothing about a trained model: 'bertkit finetune' calibrates, after training."
        )
    folder = looked_for(where, RunError, "The run or model") if where is not None else None
    if folder is not None and (folder / MODEL_FACTS).is_file():
        return _of_facts(str(folder), folder, None, task, labels, settings)
    named_run = (runs / str(where) / "run.json").is_file() or holds_runs(runs / str(where))
    no_model = folder is not None and not folder.is_dir() and "/" not in str(where) and task is None
    if folder is None or (folder / "run.json").is_file() or holds_runs(folder) or named_run or no_model:
        run = find_run(where, runs)
        return _of_facts(str(run.folder), run.model_folder, run, task, labels, settings)
    return _foreign(str(where), task, labels, offline=offline)


def _refuse_settings(over: Mapping[str, Any], decoding: Collection[str]) -> None:
    """Refuse a setting that a trained model takes from its training; ``decoding`` are the options that it does not.

    Raises:
        ConfigError: naming it.
    """
    for section, value in over.items():
        keys = list(value) if isinstance(value, dict) else [""]
        if section == "options":
            keys = [key for key in keys if key not in decoding]
        if section not in {"eval", "predict", "columns", "data"} and keys:
            name = f"{section}.{keys[0]}".removesuffix(".")
            late = "".join(f", options.{key}" for key in sorted(decoding))
            raise ConfigError(
                f"--set {name} changes nothing about a trained model. Here it takes eval.KEY, predict.KEY, "
                f"columns.ROLE{late} and data.format."
            )


def _of_facts(
    name: str, folder: Path, run: Run | None, task: Task | None, labels: Sequence[str], settings: Settings | None
) -> Saved:
    """Open what bertkit saved: its facts say type, columns, labels and length."""
    facts = _read_facts(folder)
    if facts["type"] == TYPE:
        raise ModelError(
            f"{name} is a pre-trained encoder without a task: its scores on held-out text are in its run's scores.json "
            f"('bertkit runs show'). 'bertkit finetune TASK --encoder {name}' trains it for a task."
        )
    if run is None and facts["type"] != (task.type if task else ""):
        _refuse_outside(name, facts["type"])
    if task is None:
        _refuse_settings(tables(settings or {}), adapters.find(facts["type"]).decoding)
    if labels and list(labels) != facts["labels"]:
        raise ModelError(f"{name} names its own labels ({', '.join(facts['labels'])}), in that order. Drop --labels.")
    encoder.check_folder(folder)
    base = task or (_task_of_run(run) if run else None)
    made = _task_of_facts(facts, base, settings)
    train = config.build(TrainConfig, {"max_length": facts["max_length"], "on_long": facts["on_long"]})
    adapter = adapters.find(made.type)(made, train, facts["labels"])
    adapter.from_state(facts["state"])
    if task is not None:
        _same_names(name, facts["labels"], task.labels)
    _, evaluation, prediction = configs(made)
    return Saved(
        name=name,
        source=Source(name=name, folder=folder),
        task=made,
        adapter=adapter,
        eval=evaluation,
        predict=prediction,
        run=run,
    )


def adapter_of(facts: dict[str, Any]) -> Adapter:
    """Return the adapter of a model that is not here, from what :meth:`Adapter.facts` said of it."""
    made = _task_of_facts(facts, None, None)
    train = config.build(TrainConfig, {"max_length": facts["max_length"], "on_long": facts["on_long"]})
    adapter = adapters.find(made.type)(made, train, facts["labels"])
    adapter.from_state(facts["state"])
    return adapter


def _read_facts(folder: Path) -> dict[str, Any]:
    file = folder / MODEL_FACTS
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}. Train again, or restore it from a copy.") from error
    if not isinstance(facts, dict):
        raise RunError(f"{file} is damaged: it must hold a JSON object.")
    kinds: dict[str, type] = {
        "type": str,
        "kind": str,
        "columns": dict,
        "labels": list,
        "max_length": int,
        "on_long": str,
    }
    kinds |= {"state": dict, "metrics": list}
    missing = kinds.keys() - facts.keys()
    if missing:
        raise RunError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}.")
    wrong = [name for name, kind in kinds.items() if not isinstance(facts[name], kind)]
    wrong += [name for name in ("eval", "options") if not isinstance(facts.get(name, {}), dict)]
    if wrong or not all(isinstance(name, str) for name in (*facts["labels"], *facts["metrics"])):
        raise RunError(f"{file} is damaged: {joined(wrong or ['labels or metrics'])} cannot be what it says there.")
    return facts


def _refuse_outside(name: str, task_type: str) -> None:
    """Refuse to import a module because a model, which may come from anybody, names it as its task type.

    Raises:
        ModelError: if the type is not one of bertkit's own.
    """
    if "." in task_type:
        raise ModelError(
            f"{name} says that its task type is the Python module '{task_type}', which would be run, and a model may "
            "come from anybody. If you trust it, name a task file of that type with --task."
        )


def _task_of_run(run: Run) -> Task:
    return from_table(run.record["resolved_task"], name=run.record["task"], where=f"{run.folder}/run.json")


def _task_of_facts(facts: dict[str, Any], base: Task | None, settings: Settings | None) -> Task:
    """Return the task with the model's own type, kind, labels and columns, and ``--set`` over them."""
    over = tables(settings or {})
    task = base or Task(name="", type=facts["type"], data=DataSource())
    columns = facts["columns"] | (base.columns if base else {}) | over.get("columns", {})
    layers = ({"eval": facts.get("eval", {})}, task.settings, {k: over[k] for k in ("eval", "predict") if k in over})
    merged: dict[str, dict[str, Any]] = {}
    for section, values in (item for layer in layers for item in layer.items()):
        merged[section] = {**merged.get(section, {}), **values}
    return replace(
        task,
        data=replace(task.data, format=over.get("data", {}).get("format", task.data.format)),
        type=facts["type"],
        kind=facts["kind"],
        labels=tuple(facts["labels"]),
        metrics=task.metrics or tuple(facts["metrics"]),
        columns=columns,
        options=facts.get("options", {}) | over.get("options", {}),
        settings=merged,
    )


def _foreign(name: str, task: Task | None, labels: Sequence[str], *, offline: bool) -> Saved:
    """Open a checkpoint that bertkit did not save: the task says what it is for, names decide about labels."""
    if not Path(name).expanduser().is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise RunError(f"There is no run or model folder {name}. 'bertkit runs ls' lists the runs.")
    if task is None:
        raise ModelError(
            f"{name} is no run and was not saved by bertkit, so name the task that it is for: --task glue/sst2."
        )
    source = encoder.find(name, offline=offline)
    own = list(labels) or encoder.config_labels(source.folder)
    train, evaluation, prediction = configs(task)
    # A head of a width of its own (regression, spans) has no label names.
    named = adapters.find(task.type)(task, train, ()).num_outputs is None
    if not named:
        own = []
    elif not own or all(re.fullmatch(r"LABEL_\d+", label) for label in own):
        wanted = ",".join(task.labels) or "negative,positive"
        raise ModelError(
            f"{name} does not name its labels ({', '.join(own) or 'none'}). "
            f"Say them in its id order: --labels {wanted} with eval and predict, or id2label in its config.json."
        )
    outputs = len(encoder.config_labels(source.folder))
    if labels and outputs and len(labels) != outputs:
        raise _wrong_number(name, labels, outputs)
    names = _same_names(name, own, task.labels) if named else ()
    made = replace(task, labels=tuple(names))
    adapter = adapters.find(made.type)(made, train, names)
    return Saved(
        name=name, source=source, task=made, adapter=adapter, eval=evaluation, predict=prediction, foreign=True
    )


def _wrong_number(name: str, labels: Sequence[str], outputs: int) -> ModelError:
    return ModelError(
        f"{name} has {outputs} labels, and {len(labels)} were named: {', '.join(labels)}. "
        "Name them all, in the model's id order."
    )


def _same_names(name: str, own: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the model's labels in its id order, spelled as the task spells them.

    Raises:
        ModelError: if the two do not name the same labels; case is not looked at.
    """
    twice = next((label for label in own if list(own).count(label) > 1), None)
    if twice is not None:
        raise ModelError(f"{name}: the label '{twice}' is named twice. Name each once, in the model's id order.")
    spelled = {label.lower(): label for label in wanted}
    if wanted and {label.lower() for label in own} != set(spelled):
        raise ModelError(
            f"{name} has the labels {', '.join(own)}, and the task {', '.join(wanted)}: they are not the same. "
            "Say the model's labels in its id order with --labels, in the task's words."
        )
    return tuple(spelled.get(label.lower(), label) for label in own)
