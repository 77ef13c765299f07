"""One training, from reading the data to the card: what ``finetune`` starts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bertkit import (
    auxiliary,
    card,
    compiling,
    config,
    device,
    dropout,
    embeddings,
    encoder,
    freezing,
    frozen,
    heads,
    infer,
    loop,
    lora,
    processes,
    replicas,
    static,
    trackers,
    unpad,
)
from bertkit.adapters.base import Adapter, Batch, Feature, Loss, Prediction
from bertkit.baselines.stored import Beside
from bertkit.config import DeviceConfig, TrainConfig
from bertkit.data import Dataset, Split, sources
from bertkit.data.batches import TrainingBatches
from bertkit.data.sources import Data
from bertkit.device import Device
from bertkit.encoder import Encoder, Source
from bertkit.errors import BertkitError, ConfigError, RunError, joined, one_line, together
from bertkit.events import Checkpoint, Event, Listener, Note, Phase, Scores, Start, Step, Stop, counter, ignore
from bertkit.run import MODEL_FACTS, Run, command_line, new_folder, now
from bertkit.task import Task, from_table
from bertkit.workflows import following, footprint, locks, standing, surroundings
from bertkit.workflows.preparation import (
    Prepared,
    import_libraries,
    prepare,
)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


COMPARED = 64
"""Validation examples on which the saved model is compared with the trained one."""
TOLERANCE = {"float32": 1e-5, "bf16": 3e-2, "fp16": 1e-2}
"""Largest difference of a probability between the model in memory and the one on the disk."""


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What a training came to."""

    run: Path
    """The run folder."""
    task: str
    encoder: str
    status: str
    """``finished`` or ``interrupted``."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """split -> metric -> value, intervals beside."""
    best_step: int | None = None
    steps: int = 0
    seconds: float = 0.0
    """Wall-clock time of the whole command."""
    examples_per_second: float = 0.0
    """Training examples over the time of the optimizer steps."""
    tokens_per_second: float = 0.0
    """Real tokens, padding not counted, over the time of the optimizer steps."""
    already: bool = False
    """The run was finished before, and nothing was done."""
    baselines: Beside = field(default_factory=dict)
    """Name of a stored baseline -> split -> metric -> value, where ``bertkit baseline`` was run on the same rows."""
    warnings: list[str] = field(default_factory=list)
    """What is to be said of scores that are worth little: one answer only, or a baseline that is better."""

    @property
    def path(self) -> Path:
        """Return the run folder."""
        return self.run

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        keys = (
            "task",
            "encoder",
            "scores",
            "best_step",
            "steps",
            "seconds",
            "examples_per_second",
            "tokens_per_second",
        )
        some = {key: value for key in ("baselines", "warnings") if (value := getattr(self, key))}
        return {"run": str(self.run), **{key: getattr(self, key) for key in keys}, **some}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, fully resolved; stored in ``run.json``, so that ``--resume`` needs nothing else."""

    task: Task
    encoder: str
    revision: str
    data: Data | None
    seed: int
    limit: int
    device: DeviceConfig
    offline: bool = False
    start_from: str = ""
    """Folder of the run whose body, its head left out, training starts from in place of the encoder's own."""
    scored: tuple[str, ...] = ()
    """Labelled splits to score at the end; all where empty."""
    teacher: str = ""
    """Run, model folder or Hub name of the model that is learned from, where there is one."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values; Python rows are named, not stored."""
        data = self.data
        if isinstance(data, str | Path):
            data = str(Path(data).expanduser().resolve())
        started: dict[str, Any] = {"start_from": self.start_from} if self.start_from else {}
        started |= {"scored": list(self.scored)} if self.scored else {}
        started |= {"teacher": self.teacher} if self.teacher else {}
        return started | {
            "task": self.task.name,
            "task_table": self.task.to_table(),
            "encoder": self.encoder,
            "revision": self.revision,
            "data": data if data is None or isinstance(data, str) else "python rows",
            "seed": self.seed,
            "limit": self.limit,
            "device": config.describe(self.device),
        }

    def arguments(self) -> dict[str, Any]:
        """Return it as :func:`bertkit.finetune` takes it."""
        names = ("task", "encoder", "revision", "data", "seed", "limit", "offline", "scored")
        given = {name: getattr(self, name) for name in names}
        return given | {"start_from": self.start_from or None} | config.describe(self.device)

    @classmethod
    def of_json(cls, stored: Mapping[str, Any], where: str, *, offline: bool = False) -> Request:
        """Return the request that :meth:`to_json` wrote into the file ``where``."""
        return cls(
            task=from_table(stored["task_table"], name=stored["task"], where=where),
            encoder=stored["encoder"],
            revision=stored["revision"],
            data=stored["data"],
            seed=stored["seed"],
            limit=stored["limit"],
            device=DeviceConfig(**stored["device"]),
            offline=offline,
            start_from=stored.get("start_from", ""),
            scored=tuple(stored.get("scored", ())),
            teacher=stored.get("teacher", ""),
        )

    @classmethod
    def of_run(cls, run: Run, *, data: Data | None = None, offline: bool = False) -> Request:
        """Return the request that a run was made from.

        Raises:
            RunError: if it was made from Python rows and ``data`` does not give them again.
        """
        stored = run.record["request"]
        if stored["data"] == "python rows" and data is None:
            raise RunError(f"{run.folder} was trained on rows given in Python; give them again with data=.")
        request = cls.of_json(stored, f"{run.folder}/run.json", offline=offline)
        return request if data is None else replace(request, data=data)


class Training:
    """One training, from reading the data to the card; holds what its stages share."""

    looks_inside: ClassVar[bool] = False
    """Whether what is minimised takes more of the encoder than its head does."""

    def __init__(self, request: Request, listen: Listener, should_stop: Callable[[], bool], began: float) -> None:
        self.request = request
        self.tell = listen
        self.should_stop = should_stop
        self.began = began
        self.seconds = 0.0
        self.examples = 0
        self.tokens = 0
        self.steps = 0
        self.imbalances: list[float] = []
        """Of each step, where several processes share it."""
        self.advised = False
        self.asked = False
        """Whether to stop was asked for before: what is being computed since then is finished."""
        self.runs = Path("runs")
        self.tracking = trackers.Tracking({}, listen)
        self.room: infer.Room | None = None
        self.language: auxiliary.LanguageModel | None = None
        """Head of the auxiliary language model, where there is one."""
        self.table: dict[str, Any] = {}
        """What is known of the encoder where it is a table of word vectors."""

    def run(self, existing: Run | None, runs: Path, out: Path | None) -> Finetuned:
        """Do it all, in a new run folder or in the unfinished one that ``existing`` is."""
        self.runs = runs
        if existing is not None:
            with locks.run_folder(existing.folder):
                return self._go_on(existing.folder)
        prepared, source = self.check()
        record = self.facts(prepared, source)
        short = f"{prepared.task.name.replace('/', '-')}-{source.short_name}"
        try:
            folder = new_folder(runs, name=short, out=out)
        except RunError:
            # Another process, started at the same time with the same --out, may have made it meanwhile.
            if out is None or not (out / "run.json").is_file():
                raise
            folder = out
        try:
            with locks.run_folder(folder):
                if (folder / "run.json").exists():
                    return self._go_on(folder)
                return self._guarded(Run.begin(folder, record), prepared, source, None, new=True)
        finally:
            # It is empty where not even the lock could be written, and only then does this work.
            with suppress(OSError):
                folder.rmdir()

    def follow(self, given: following.Assignment) -> Finetuned:
        """Do, as one of the other processes, what the main one does."""
        start = following.start_of(given)
        prepared, source = self.check()
        following.require_same(given, self.facts(prepared, source))
        run = following.Follower(given.folder, given.record)
        return self._guarded(run, prepared, source, start, new=given.new)

    def _go_on(self, folder: Path) -> Finetuned:
        """Go on with an unfinished run, whose lock is held, from its newest whole checkpoint."""
        # Anew: another process may have trained in it until a moment ago.
        run = Run.open(folder)
        if run.status == "finished":
            raise RunError(f"{folder} was finished by another process in this moment. Give the command again.")
        prepared, source = self.check()
        self._refuse_other(run, self.facts(prepared, source))
        run.tidy()
        return self._guarded(run, prepared, source, self._start_of(run), new=False)

    def _guarded(
        self, run: Run, prepared: Prepared, source: Source, start: dict[str, Any] | None, *, new: bool
    ) -> Finetuned:
        """Train, and note a fault in ``run.json``; before the first step a new folder does not stay."""
        try:
            following.lead(self.request, run, start, new=new)
            self.tell(Phase(name="importing torch and transformers"))
            import_libraries()
            with processes.contact():
                return self._train(run, prepared, source, start)
        except BaseException as error:
            if new and not self.steps:
                run.remove()
            elif isinstance(error, Exception):
                # On a full disk this fails as well; the fault to tell of is the first one.
                with suppress(RunError):
                    rows = {"error_rows": list(error.rows)} if isinstance(error, loop.DivergedError) else {}
                    run.update(status="failed", error=one_line(str(error)), **rows)
            raise

    def check(self) -> tuple[Prepared, Source]:
        """Find data and encoder and check them, before anything heavy is imported; train nothing.

        Raises:
            BertkitError: for whatever would make training wrong; the faults of both in one message.
        """
        faults: list[BertkitError] = []
        source: Source | None = None
        prepared: Prepared | None = None
        request = self.request
        try:
            trackers.check(request.task.track, offline=request.offline)
        except BertkitError as error:
            faults.append(error)
        try:
            source = self._source()
        except BertkitError as error:
            faults.append(error)
        # A Hub that was out of reach a moment ago is not waited for a second time.
        without_hub = any(fault.absence for fault in faults)
        try:
            prepared = prepare(
                request.task,
                data=request.data,
                offline=request.offline or without_hub,
                limit=request.limit,
                seed=request.seed,
                listen=self.tell,
            )
            if prepared.train.lora_rank:
                lora.require()
            if prepared.train.lm_weight:
                auxiliary.require_type(prepared.task)
        except BertkitError as error:
            faults.append(error)
        if faults:
            raise together(faults)
        assert source is not None
        assert prepared is not None
        self.table = static.facts(source.folder)
        prepared = _holding_vectors(prepared) if self.table else prepared
        wanted = tuple(name for name in prepared.scored if name in request.scored or not request.scored)
        return replace(prepared, scored=wanted), source

    def _source(self) -> Source:
        """Find the encoder, or the trained body of another run in its place."""
        request = self.request
        if not request.start_from:
            return encoder.find(request.encoder, revision=request.revision, offline=request.offline)
        folder = Run.open(Path(request.start_from)).model_folder
        encoder.check_folder(folder)
        return Source(name=request.encoder, folder=folder, revision=encoder.weights_hash(folder))

    def _started_from(self) -> str:
        """Return the task of the run whose body training starts from, where there is one."""
        folder = self.request.start_from
        return str(Run.open(Path(folder)).record["task"]) if folder else ""

    def facts(self, prepared: Prepared, source: Source) -> dict[str, Any]:
        """Return what ``run.json`` knows before training."""
        return {
            "task": prepared.task.name,
            "encoder": source.name,
            "seed": self.request.seed,
            "argv": command_line(),
            "request": self.request.to_json(),
            "resolved_task": prepared.task.to_table(),
            "config": {
                "train": config.describe(prepared.train),
                "eval": config.describe(prepared.eval),
                "predict": config.describe(prepared.predict),
            },
            "encoder_revision": source.revision,
            # A folder has no revision, and what is in it may change.
            "encoder_hash": self._encoder_hash(source),
            "started_from": self._started_from(),
            "dataset_revision": prepared.dataset.revision,
            "data_hash": self._data_hash(prepared),
            "label_map": dict(enumerate(prepared.adapter.labels)),
            "num_examples": {name: len(split.examples) for name, split in prepared.dataset.splits.items()},
            "held_out_rows": list(prepared.held_out),
            "tuning_rows": list(prepared.tuning_rows),
            "calibration_rows": list(prepared.calibration_rows),
            "held_out_hash": _hash_of(prepared.dataset, "validation")
            if prepared.held_out or prepared.calibration_rows
            else "",
            "versions": surroundings.versions(),
        }

    def _encoder_hash(self, source: Source) -> str:
        """Return what says that an encoder without a revision is the same one."""
        return "" if source.revision else encoder.folder_hash(source.folder)

    def _data_hash(self, prepared: Prepared) -> str:
        """Return what says that the data is the same."""
        return sources.fingerprint(prepared.dataset)

    def _refuse_other(self, run: Run, record: dict[str, Any]) -> None:
        """Refuse a run that was made from anything else.

        Raises:
            RunError: naming the first difference.
        """
        rows = ("held_out_rows", "tuning_rows", "calibration_rows")
        inputs = ("request", "config", "encoder_revision", "encoder_hash", "data_hash", *rows)
        # Runs of before it was noted have no hash of the encoder.
        same = [key for key in inputs if key != "encoder_hash" or key in run.record]
        # JSON has no tuples and no integer keys, so both sides are compared as JSON has them.
        difference = config.first_difference(
            {key: as_json(record[key]) for key in same}, {key: run.record.get(key) for key in same}
        )
        if difference:
            raise RunError(
                f"{run.folder} was made from something else: {plainly(difference)}. "
                "Name another --out, or start a new run."
            )

    def _start_of(self, run: Run) -> dict[str, Any] | None:
        """Return the state to go on from, and tell which checkpoints are damaged."""
        start, faults = run.newest_checkpoint()
        for fault in faults:
            last = start is None and fault is faults[-1]
            rest = "" if last else " The one before it is used."
            self.tell(Note(message=f"{fault}{rest}", level="warning"))
        if start is None:
            self.tell(Note(message=f"{run.folder} has no whole checkpoint, so it starts again"))
        return start

    def completed(self, run: Run, prepared: Prepared) -> Prepared:
        """Return what is trained on, with what its run folder holds of it."""
        return prepared

    def _train(self, run: Run, prepared: Prepared, source: Source, start: dict[str, Any] | None) -> Finetuned:
        prepared = self.completed(run, prepared)
        request, adapter = self.request, prepared.adapter
        place = device.choose(request.device)
        handlers = replicas.handlers() if processes.size() > 1 else ()
        accelerator = device.accelerator(place, handlers, compiled=prepared.train.compile)
        loaded, features, layers = self.load(prepared, source, accelerator)
        done = start["progress"]["step"] if start is not None else 0
        here = self._surroundings(run, place, done)
        for key in ("error", "error_rows", "processes"):
            run.record.pop(key, None)
        run.update(
            status="running",
            **here,
            new_weights=list(loaded.new_weights),
            layers=layers,
            trained=self._tell_trained(prepared, loaded),
            **({static.KEY: self.table} if self.table else {}),
            **processes_of(accelerator),
            truncation={
                name: adapter.truncation(rows, prepared.dataset.splits[name].examples)
                for name, rows in features.items()
            },
        )
        run.cut_events(start["events"] if start is not None else 0)
        tracked = request.task.track if processes.is_main() else ()
        with trackers.tracking(tracked, self._tracked(run, done), self.tell) as self.tracking:
            stop = self._steps(run, prepared, loaded, features, accelerator, start)
            if stop.reason == "interrupted":
                return self._interrupted(run, prepared, stop)
            self.asked = processes.any_of(self.should_stop())
            try:
                return self._finish(run, prepared, loaded, features, accelerator, stop, place.precision)
            except loop.Interrupted:
                return self._interrupted(run, prepared, stop)

    def _shares(self, run: Run) -> dict[str, Any]:
        """Return, and tell, how evenly the steps were dealt; nothing in one process."""
        if processes.size() == 1 or not self.imbalances:
            return {}
        mean, most = sum(self.imbalances) / len(self.imbalances), max(self.imbalances)
        self.tell(
            Note(
                message=f"{processes.size()} processes: the fullest had {mean:.3f} times the mean of a step's tokens, "
                f"at most {most:.2f} times"
            )
        )
        return {"processes": run.record["processes"] | {"imbalance": {"mean": round(mean, 4), "most": round(most, 4)}}}

    def _surroundings(self, run: Run, place: Device, done: int) -> dict[str, Any]:
        """Return what ``run.json`` says of the machine: the one that took the first step, and what changed since."""
        here = surroundings.here(place)
        if not done:
            return {**here, "resumed": []}
        changed = list(surroundings.differences(run.record, here))
        if changed:
            self.tell(
                Note(
                    message=f"{run.folder} goes on after step {done}, and not all is as it was: {'; '.join(changed)}. "
                    "The result may differ by rounding from that of a run in one go",
                    level="warning",
                )
            )
        # The loop tells of that one, which changes more than rounding.
        number = run.record.get("processes", {}).get("number", 1)
        if number != processes.size():
            changed.append(f"number of processes was {number} and is {processes.size()}")
        return {"resumed": [*run.record.get("resumed", []), {"step": done, "changed": changed}]}

    def _interrupted(self, run: Run, prepared: Prepared, stop: Stop) -> Finetuned:
        """Note that the run can be gone on with; its last checkpoint is written."""
        run.update(status="interrupted")
        return self._result(run, prepared, "interrupted", stop)

    def load(
        self, prepared: Prepared, source: Source, accelerator: Accelerator
    ) -> tuple[Encoder, dict[str, list[Feature]], dict[str, str]]:
        """Return the model as it is before the first step, the features of each split, and how the layers run."""
        adapter = prepared.adapter
        self.tell(Phase(name="loading the encoder"))
        loaded = self._chosen(prepared, self._open(prepared, source), accelerator)
        _check_length(prepared, loaded)
        if prepared.train.gradient_checkpointing:
            checkpoint_layers(loaded.model, source.name)
        adapter.bind(loaded.tokenizer)
        features = self._encode(prepared, loaded)
        self._tell_unknown(features, source)
        if prepared.train.lm_weight:
            self.language = auxiliary.install(loaded.model, source.name)
        layers = self._quicken(prepared, loaded, accelerator)
        return loaded, features, layers

    def _open(self, prepared: Prepared, source: Source) -> Encoder:
        """Return the model under its head, on the CPU."""
        adapter = prepared.adapter
        return encoder.load(
            source,
            auto_class=adapter.auto_class,
            labels=adapter.labels,
            problem_type=adapter.problem_type,
            num_outputs=adapter.num_outputs,
            seed=self.request.seed,
            new_head=bool(self.request.start_from),
            head=heads.asked(
                prepared.train,
                auto_class=adapter.auto_class,
                outputs=adapter.num_outputs or len(adapter.labels),
                static=bool(self.table),
            ),
        )

    def _chosen(self, prepared: Prepared, loaded: Encoder, accelerator: Accelerator) -> Encoder:
        """Return the model with its recipe: what starts anew, what stands beside its weights, what is trained."""
        train, model, name = prepared.train, loaded.model, loaded.source.name
        if replicas.is_fsdp(accelerator):
            _refuse_sharded(train)
        new = (*loaded.new_weights, *freezing.draw_anew(model, train.reinit_layers, name=name))
        found = lora.install(model, train, new=new, name=name) if train.lora_rank else None
        return replace(loaded, plan=freezing.plan_of(model, train, new=new, name=name), lora=found)

    def _tell_trained(self, prepared: Prepared, loaded: Encoder) -> dict[str, Any]:
        """Return how much of the model is trained, for ``run.json``; where that is not all, say so."""
        plan = loaded.plan or freezing.plan_of(loaded.model, prepared.train)
        facts = plan.facts()
        if loaded.lora:
            facts["lora"] = loaded.lora.facts(prepared.train)
        if prepared.train.reinit_layers:
            facts["reinitialised"] = prepared.train.reinit_layers
        if facts["parameters"] < facts["all"]:
            self.tell(Note(message=freezing.said(facts)))
        return facts

    def _tell_unknown(self, features: Mapping[str, Sequence[Feature]], source: Source) -> None:
        """Note and tell which share of the words a table of vectors does not hold.

        Raises:
            ModelError: if it holds none of train's.
        """
        if self.table:
            unknown = {
                name: static.unknown_share(feature.input_ids for feature in rows) for name, rows in features.items()
            }
            static.require_known(unknown, source.name)
            self.tell(Note(message=static.said(self.table, unknown)))
            self.table = self.table | {"unknown": {name: round(share, 6) for name, share in unknown.items()}}

    def _tracked(self, run: Run, done: int) -> trackers.Tracked:
        """Return what trackers are told of a run."""
        record = run.record
        facts = {key: record[key] for key in ("task", "encoder", "seed", "num_examples", "device")}
        return trackers.Tracked(
            folder=run.folder,
            runs=self.runs,
            project=record["task"].replace("/", "-"),
            created=record["created"],
            step=done,
            config=facts | record["config"],
        )

    def _quicken(self, prepared: Prepared, loaded: Encoder, accelerator: Accelerator) -> dict[str, str]:
        """Let the model run without padding, if it can and may; return how it runs, for ``run.json``."""
        if self.table:
            return {"form": "padded", "reason": "a table of word vectors has no layers"}
        if not prepared.train.fast:
            return {"form": "padded", "reason": "train.fast is false"}
        if prepared.train.compile:
            return {"form": "padded", "reason": compiling.PADDED}
        kind = accelerator.device.type
        if not unpad.is_proven(kind):
            reason = f"layers without padding have not been tried on {kind} yet; {unpad.SWITCH}={kind} switches them on"
            return {"form": "padded", "reason": reason}
        # Where it will run: another device has other kernels, and the trial is of those.
        installed = unpad.install(loaded.model.to(accelerator.device))
        dropout.install(loaded.model)
        if not installed.fast:
            self.tell(Note(message=f"{loaded.source.name} runs padded: {installed.reason}"))
        elif prepared.train.gradient_checkpointing:
            return {
                "form": installed.form,
                "reason": "with gradient checkpointing only evaluation runs without padding",
            }
        return {"form": installed.form, "reason": installed.reason}

    def _shrink(self, prepared: Prepared, loaded: Encoder, train: Sequence[Feature]) -> dict[str, Any]:
        """Train only the word embeddings that are used, where that is exact; return what ``run.json`` says."""
        if not prepared.train.fast:
            return {"reason": "train.fast is false"}
        if prepared.train.compile:
            return {"reason": "train.compile compiles the plain model"}
        if prepared.train.lm_weight:
            return {"reason": "the language model predicts any of its rows"}
        if processes.size() > 1:
            # What is trained is then no parameter of the model, and gradients are exchanged of its parameters.
            return {"reason": "several processes train all rows"}
        padding = prepared.adapter.padding.token
        installed = embeddings.install(loaded.model, (feature.input_ids for feature in train), others=[padding])
        return asdict(installed)

    def ready(
        self, prepared: Prepared, loaded: Encoder, train: Sequence[Feature], accelerator: Accelerator
    ) -> dict[str, Any]:
        """Do the last of what comes before the first step; return which embeddings are trained, for ``run.json``."""
        loop.seed_generators(self.request.seed)
        prepared.adapter.prepare(train)
        loaded.model.to(accelerator.device)
        return self._shrink(prepared, loaded, train)

    def _encode(self, prepared: Prepared, loaded: Encoder) -> dict[str, list[Feature]]:
        self.tell(Phase(name="encoding"))
        features = {}
        adapter = prepared.adapter
        for name in ("train", *prepared.scored):
            split = prepared.dataset.splits[name]
            features[name] = following.encoded(adapter, split, loaded.tokenizer)
            for said in adapter.truncation_notes(adapter.truncation(features[name], split.examples)):
                self.tell(Note(message=f"{name}: {said}", level="warning"))
        return features

    def _steps(
        self,
        run: Run,
        prepared: Prepared,
        loaded: Encoder,
        features: dict[str, list[Feature]],
        accelerator: Accelerator,
        start: dict[str, Any] | None,
    ) -> Stop:
        """Run the loop; store and show what it yields."""
        adapter, train = prepared.adapter, features["train"]
        run.update(embeddings=self.ready(prepared, loaded, train, accelerator))
        batches = self.batches(prepared, train)
        if start is None and accelerator.device.type == "cpu" and processes.is_main():
            if loaded.plan:
                # What is trained later needs its room, too; the loop freezes it again.
                loaded.plan.reach_all()
            need = footprint.of(adapter, loaded.model, train, batches, accelerator)
            footprint.warn(need.times(processes.local_size()), self.tell)

        def evaluate() -> loop.Evaluation:
            split = prepared.dataset.splits["validation"]
            predictions = self._predict(prepared, loaded, split, features["validation"], accelerator)
            examples = split.examples
            return processes.on_main(
                lambda: loop.Evaluation(
                    scores=adapter.score(predictions, examples), constant=adapter.constant(predictions, examples)
                )
            )

        given: dict[str, Any] = {"evaluate": evaluate, "should_stop": self.should_stop, "start": start}
        with self.features_kept(prepared, loaded, features, accelerator) as kept:
            if kept:
                run.update(**kept)
            for event in self.events(prepared, loaded, train, batches, accelerator, **given):
                self._take(run, event)
                if isinstance(event, Stop):
                    return event
        raise AssertionError("the loop ends with a Stop")

    def _no_features(self, train: TrainConfig) -> str:
        """Return why features of a frozen encoder are not kept, or an empty text."""
        if not train.cache_features:
            return "train.cache_features is false"
        if train.compile:
            return "train.compile compiles the whole model"
        if train.lm_weight:
            return "the language model's loss takes the states of all tokens"
        return "what is minimised takes more of the encoder than its head reads" if self.looks_inside else ""

    @contextmanager
    def features_kept(
        self, prepared: Prepared, loaded: Encoder, features: dict[str, list[Feature]], accelerator: Accelerator
    ) -> Iterator[dict[str, Any]]:
        """Have a head train on kept features of its encoder, where that is frozen; yield what ``run.json`` says."""
        with frozen.features(
            loaded,
            prepared.adapter,
            {name: features[name] for name in ("train", "validation") if name in features},
            refused=self._no_features(prepared.train),
            accelerator=accelerator,
            room=self._room(prepared),
            listen=self.tell,
        ) as facts:
            yield {"features": facts} if facts else {}

    def events(
        self,
        prepared: Prepared,
        loaded: Encoder,
        train: Sequence[Feature],
        batches: TrainingBatches,
        accelerator: Accelerator,
        **given: Any,
    ) -> Iterator[Event]:
        """Return what the loop yields; ``given`` as for :func:`events_of`."""
        return events_of(prepared, loaded, train, batches, accelerator, language=self.language, **given)

    def batches(self, prepared: Prepared, train: Sequence[Feature]) -> TrainingBatches:
        """Return the steps of the training."""
        return batches_of(prepared, train, self.request.seed)

    def _take(self, run: Run, event: Step | Scores | Checkpoint | Start | Stop | Any) -> None:
        if isinstance(event, Step):
            self.steps = event.step
            self.seconds += event.seconds
            self.examples += event.num_examples
            self.tokens += event.num_tokens
            self.imbalances.append(event.imbalance)
        if isinstance(event, Checkpoint):
            run.save_checkpoint(event)
        elif not (isinstance(event, Start) and run.num_events):
            # A run that goes on has its start in the log.
            run.append(event)
        self.tracking.take(event)
        self.tell(event)
        if isinstance(event, Scores) and event.constant is not None and not self.advised:
            self.advised = True
            self.tell(Note(message=standing.constant_warning(event.constant), level="warning"))

    def _predict(
        self, prepared: Prepared, loaded: Encoder, split: Split, features: list[Feature], accelerator: Accelerator
    ) -> list[Prediction]:
        return infer.predict(
            prepared.adapter,
            loaded.model,
            loaded.tokenizer,
            split.examples,
            features=features,
            accelerator=accelerator,
            batch_tokens=self._room(prepared),
            advance=self._advance(split.name.strip(), len(features)),
            together=processes.size() > 1,
        )

    def _advance(self, name: str, total: int) -> Callable[[int], None]:
        """Return what is called with each number of examples that was evaluated; where asked to stop, it does."""
        count = counter(self.tell, f"evaluating {name}", total)

        def advance(number: int) -> None:
            count(number)
            if not self.asked and self.should_stop():
                raise loop.Interrupted

        return advance

    def _room(self, prepared: Prepared) -> infer.Room:
        """Return the tokens of a batch without gradients, one and the same for every evaluation."""
        self.room = self.room or infer.Room(prepared.eval.batch_tokens, self.tell)
        return self.room

    def _tune(self, prepared: Prepared, loaded: Encoder, accelerator: Accelerator) -> None:
        """Let the adapter choose what it tunes on training rows that were held out for it."""
        split = prepared.tuning
        if split is None:
            return
        features = following.encoded(prepared.adapter, split, loaded.tokenizer)
        predictions = self._predict(prepared, loaded, split, features, accelerator)
        if processes.is_main():
            self.tell(Note(message=prepared.adapter.tune(predictions, split.examples)))

    def _finish(
        self,
        run: Run,
        prepared: Prepared,
        loaded: Encoder,
        features: dict[str, list[Feature]],
        accelerator: Accelerator,
        stop: Stop,
        precision: str,
    ) -> Finetuned:
        """Take the best weights, score every labelled split, save, reopen and compare, write the card."""
        embeddings.remove(loaded.model)
        best = stop.best_step if stop.best_step is not None else stop.step
        if best != stop.step:
            tensors = run.load_checkpoint(best)["model"] if processes.is_main() else None
            loop.load_tensors(loaded.model, processes.share_tensors(tensors))
        if loaded.lora:
            lora.merge(loaded.lora)
        self._settle(loaded)
        accelerator.free_memory()
        self._tune(prepared, loaded, accelerator)
        scores: dict[str, Any] = {}
        details: dict[str, Any] = {}
        constant: dict[str, str] = {}
        for name in prepared.scored:
            split = prepared.dataset.splits[name]
            predictions = self._predict(prepared, loaded, split, features[name], accelerator)
            if not processes.is_main():
                continue
            scores[name] = prepared.adapter.score(predictions, split.examples, resamples=prepared.eval.resamples)
            found = prepared.adapter.details(predictions, split.examples)
            details |= {name: found} if found else {}
            if name == "validation" and prepared.calibration_rows:
                self._tell_calibration(run, prepared, found, len(split.examples))
            only = prepared.adapter.constant(predictions, split.examples)
            constant |= {name: only} if only is not None else {}
            self._keep(run, prepared, name, predictions)
        save_model(run, prepared.adapter, loaded, accelerator)
        self._tell_head(run, loaded)
        self._compare_saved(run, prepared, loaded, accelerator, precision)
        if not processes.is_main():
            return processes.share()
        behind = {"details": details} if details else {}
        self.tracking.final(scores, stop.step)
        run.write_json("scores.json", {"splits": scores, **behind, "best_step": best, "last_step": stop.step})
        self._place(run, prepared.adapter, scores, constant)
        run.write_text("README.md", self._card(run, scores, best))
        run.update(
            status="finished",
            finished=now(),
            seconds=round(time.perf_counter() - self.began, 3),
            examples_per_second=round(self.examples / self.seconds, 1) if self.seconds else 0.0,
            tokens_per_second=round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
            **self._shares(run),
        )
        run.keep_checkpoints(prepared.train.keep_checkpoints)
        return processes.share(self._result(run, prepared, "finished", stop, scores=scores))

    def _tell_head(self, run: Run, loaded: Encoder) -> None:
        """Note what a head of our own is, and tell what its mix of layers has learned."""
        found = heads.facts(loaded.model)
        run.record |= found
        if mix := found.get("head", {}).get("mix"):
            self.tell(Note(message=heads.sentence(mix)))

    def _settle(self, loaded: Encoder) -> None:
        """Take away what a model has while it learns and is not saved with it."""

    def _keep(self, run: Run, prepared: Prepared, name: str, predictions: Sequence[Prediction]) -> None:
        """Write what was predicted on a scored split."""
        split = prepared.dataset.splits[name]
        run.write_lines(f"predictions/{name}.jsonl", _with_predictions(split, predictions, prepared.predict.column))

    def _card(self, run: Run, scores: dict[str, Any], best_step: int) -> str:
        """Return the model card."""
        return card.render(run.record, scores, best_step=best_step)

    def _tell_calibration(self, run: Run, prepared: Prepared, found: dict[str, Any], scored: int) -> None:
        """Note for the card what was fitted, and tell what it changes on the half that it was not fitted on."""
        fitted = {key: found[key] for key in ("temperature", "threshold") if key in found}
        run.record["calibration"] = {"fitted_on": len(prepared.calibration_rows), "scored": scored, **fitted}
        if found:
            before, after = found["calibration_error_before"], found["calibration_error"]
            self.tell(
                Note(
                    message=f"expected calibration error {before:.4f} before and {after:.4f} after, "
                    f"on the {scored} rows of validation that are scored"
                )
            )

    def _place(self, run: Run, adapter: Adapter, scores: dict[str, Any], constant: dict[str, str]) -> None:
        """Note which baselines stand beside the scores, and say plainly where a score is worth little."""
        beside = standing.of_run(self.runs, run, self.tell)
        found = standing.warnings(adapter, scores, constant, beside)
        run.record |= {"baselines": beside, "constant": constant, "warnings": found}
        standing.say(found, self.tell)

    def _compare_saved(
        self, run: Run, prepared: Prepared, loaded: Encoder, accelerator: Accelerator, precision: str
    ) -> None:
        """Open the saved folder again and compare it with the model in memory, on the same batches.

        Raises:
            RunError: if the two disagree.
        """
        self.tell(Phase(name="checking the saved model"))
        examples = prepared.dataset.splits["validation"].examples[:COMPARED]
        about: dict[str, Any] = {"accelerator": accelerator, "batch_tokens": self._room(prepared)}
        trained = infer.predict(
            prepared.adapter, loaded.model, loaded.tokenizer, examples, **about, together=processes.size() > 1
        )
        if not processes.is_main():
            return
        source = Source(name=str(run.folder), folder=run.folder / "model")
        reopened = self._reopen(prepared, source)
        reopened.model.to(accelerator.device)
        if run.record["layers"]["form"] != "padded":
            # In 16 bits, padded and packed rows round differently, and near spans or tags may change places.
            unpad.install(reopened.model)
        again = infer.predict(prepared.adapter, reopened.model, reopened.tokenizer, examples, **about)
        gaps = sorted(map(_gap, trained, again))
        # The same batches give the same bits on a CPU; a GPU may round otherwise the second time.
        spared = 0 if precision == "float32" else len(gaps) // 10
        gap = gaps[-1 - spared] if gaps else 0.0
        if gap > TOLERANCE[precision]:
            raise RunError(
                f"{run.folder / 'model'} does not predict what was trained: a value differs by {gap:.2g}, more than "
                f"{TOLERANCE[precision]}. Please report this; the checkpoints in the folder are whole."
            )

    def _reopen(self, prepared: Prepared, source: Source) -> Encoder:
        """Return the saved model as the one in memory computes."""
        return encoder.load(source, auto_class=prepared.adapter.auto_class, head=heads.stored(source.folder))

    def _result(
        self, run: Run, prepared: Prepared, status: str, stop: Stop, *, scores: dict[str, Any] | None = None
    ) -> Finetuned:
        return Finetuned(
            run=run.folder,
            task=prepared.task.name,
            encoder=self.request.encoder,
            status=status,
            scores=scores or {},
            baselines=run.record.get("baselines", {}),
            warnings=run.record.get("warnings", []),
            best_step=stop.best_step,
            steps=stop.step,
            seconds=time.perf_counter() - self.began,
            examples_per_second=self.examples / self.seconds if self.seconds else 0.0,
            tokens_per_second=self.tokens / self.seconds if self.seconds else 0.0,
        )


def follow(data: Data | None, should_stop: Callable[[], bool], began: float) -> Finetuned:
    """Be one of the other processes of a training, whatever the main one finds there is to do.

    Args:
        data: Python rows, which are not sent.
        should_stop, began: as in :class:`Training`.
    """
    given: following.Assignment | Finetuned = processes.share()
    if isinstance(given, Finetuned):
        return given
    request = replace(given.request, data=data) if given.rows else given.request
    return Training(request, ignore, should_stop, began).follow(given)


def _holding_vectors(prepared: Prepared) -> Prepared:
    """Return a training whose word vectors stay as they are, unless the task or ``--set`` says what is frozen."""
    if "freeze" in prepared.task.settings.get("train", {}) or prepared.train.lora_rank:
        return prepared
    return replace(prepared, train=replace(prepared.train, freeze="encoder"))


def processes_of(accelerator: Accelerator) -> dict[str, Any]:
    """Return what ``run.json`` says of several processes; nothing of one."""
    if processes.size() == 1:
        return {}
    kind = "FSDP2" if replicas.is_fsdp(accelerator) else "DDP"
    return {"processes": {"number": processes.size(), "on_this_machine": processes.local_size(), "engine": kind}}


def objective_of(prepared: Prepared, language: auxiliary.LanguageModel | None = None) -> loop.Objective:
    """Return what is minimised: a model's loss on a batch, and that of the language model that it is."""
    adapter = prepared.adapter
    if language is not None:
        return language.objective(adapter, prepared.train.lm_weight)

    def objective(model: Any, batch: Batch) -> Loss:
        with compiling.explained() if prepared.train.compile else nullcontext():
            return adapter.loss(model(**adapter.inputs(batch)), batch)

    return objective


def batches_of(prepared: Prepared, train: Sequence[Feature], seed: int) -> TrainingBatches:
    """Return the steps of a training over its features."""
    kind: Callable[..., TrainingBatches] = TrainingBatches
    if prepared.train.lm_weight:
        kind = partial(auxiliary.JointBatches, weights=[prepared.adapter.weight_of(feature) for feature in train])
    return kind(
        [feature.example for feature in train],
        [len(feature) for feature in train],
        batch_size=prepared.train.batch_size,
        micro_batch_tokens=prepared.train.micro_batch_tokens,
        seed=seed,
        group_by_length=prepared.train.group_by_length,
    )


def events_of(
    prepared: Prepared,
    loaded: Encoder,
    train: Sequence[Feature],
    batches: TrainingBatches,
    accelerator: Accelerator,
    *,
    evaluate: Callable[[], loop.Evaluation],
    should_stop: Callable[[], bool] = lambda: False,
    start: Mapping[str, Any] | None = None,
    language: auxiliary.LanguageModel | None = None,
) -> Iterator[Event]:
    """Return what the loop yields for a task: its loss, its metric, its rows."""
    adapter, rows = prepared.adapter, prepared.dataset.splits["train"]

    def collate(chosen: Sequence[int]) -> Batch:
        return adapter.collate([train[feature] for feature in chosen])

    return loop.training(
        loaded.model,
        batches,
        objective_of(prepared, language),
        collate=auxiliary.collate(adapter, train, batches) if isinstance(batches, auxiliary.JointBatches) else collate,
        config=prepared.train,
        accelerator=accelerator,
        metric=prepared.task.metrics[0],
        better=adapter.better,
        evaluate=evaluate,
        should_stop=should_stop,
        places=lambda chosen: [rows.place(train[feature % len(train)].example) for feature in chosen],
        start=start,
        plan=loaded.plan,
    )


def save_model(run: Run, adapter: Adapter, loaded: Encoder, accelerator: Accelerator) -> None:
    """Write ``model/``: what transformers opens, and ``bertkit.json`` with what it does not know.

    Raises:
        RunError: if a weight is not finite.
    """
    import json

    broken, head = loop.not_finite(loaded.model), heads.facts(loaded.model)
    # What the model has no place for goes with it, and then the others are named, too.
    apart = replicas.is_sharded(loaded.model) or bool(loaded.kept)
    whole = {**replicas.whole_state(loaded.model), **loaded.kept} if apart else None
    if not processes.is_main():
        return
    if broken:
        raise RunError(f"Weights of {run.folder} are not finite: {joined(broken, most=3)}. No model is saved.")
    facts = adapter.facts() | {"encoder": encoder.public_name(loaded.source.name), "revision": loaded.source.revision}
    facts |= head
    with run.whole_folder("model") as folder:
        plain = accelerator.unwrap_model(loaded.model, keep_fp32_wrapper=False)
        encoder.save(plain, loaded.tokenizer, folder, state=whole)
        (folder / MODEL_FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _hash_of(dataset: Dataset, name: str) -> str:
    """Return the fingerprint of one split."""
    return sources.fingerprint(Dataset(splits={name: dataset.splits[name]}))


def _check_length(prepared: Prepared, loaded: Encoder) -> None:
    if prepared.train.max_length > loaded.max_length:
        raise ConfigError(
            f"train.max_length is {prepared.train.max_length}, and {loaded.source.name} has positions for "
            f"{loaded.max_length} tokens. --set train.max_length={loaded.max_length} is its most."
        )


def _refuse_sharded(train: TrainConfig) -> None:
    """Refuse what FSDP2 cannot do: it keeps for good which parameters had a gradient when they were sharded.

    Raises:
        ConfigError: naming the setting.
    """
    names = [name for name in ("unfreeze_epochs", "unfreeze_steps", "lora_rank", "lm_weight") if getattr(train, name)]
    if names:
        raise ConfigError(
            f"train.{names[0]} is {getattr(train, names[0])}, which does not go with FSDP2. --processes N without a "
            "configuration of Accelerate's trains with DDP."
        )


def checkpoint_layers(model: PreTrainedModel, name: str) -> None:
    """Let the layers be computed again in the backward pass.

    Raises:
        ConfigError: if the encoder's family cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"train.gradient_checkpointing is true, and {name} ({type(model).__name__}) cannot do it. "
            "A smaller train.micro_batch_tokens also saves memory, and changes no result."
        )
    # transformers 5 renames it on the way; the old name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _with_predictions(split: Split, predictions: Sequence[Prediction], column: str) -> list[dict[str, Any]]:
    return [example | {column: prediction} for example, prediction in zip(split.examples, predictions, strict=True)]


def _gap(one: Any, other: Any) -> float:
    """Return the largest difference between the numbers of two predictions; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((_gap(value, other[key]) for key, value in one.items()), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(_gap, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(1.0, abs(one))
    return 0.0 if one == other else math.inf


def as_json(value: Any) -> Any:
    """Return a value as it comes back from a JSON file: without tuples and integer keys."""
    import json

    return json.loads(json.dumps(value))


def plainly(difference: str) -> str:
    """Return a difference in the user's words."""
    if difference.startswith(("data_hash", "held_out_rows", "tuning_rows", "calibration_rows")):
        return "the data is not what it was then"
    if difference.startswith("encoder_hash"):
        return "the files of the encoder are not what they were then"
    return difference.removeprefix("request.").removeprefix("task_table.")
