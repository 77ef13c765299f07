"""One training of a student by a teacher: what :mod:`bertkit.workflows.distill` starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import augmentation, config, distillation, encoder, heads, infer, loop, processes, teaching
from bertkit.adapters.base import Feature
from bertkit.config import DistillConfig, TrainConfig
from bertkit.data.batches import TrainingBatches
from bertkit.data.sources import Data
from bertkit.encoder import Encoder, Source
from bertkit.errors import ConfigError, ModelError, RunError
from bertkit.events import Event, Listener, Note, Phase, Scores, counter, ignore
from bertkit.run import MODEL_FACTS, Run
from bertkit.task import Task
from bertkit.teaching import Answers, PhasedBatches, Teacher
from bertkit.workflows import following, saved
from bertkit.workflows.preparation import Prepared
from bertkit.workflows.saved import Saved
from bertkit.workflows.training import Finetuned, Request, Training

if TYPE_CHECKING:
    from accelerate import Accelerator

COMMAND = "distill"
CUT = "teacher:"
"""What the name of an encoder begins with that is cut out of the teacher; its layers follow, from 0."""
COPIES = "augmented.jsonl"
"""File of a run that holds the copies of the training examples."""


class Distilling(Training):
    """A training whose loss a teacher has a part in; all else of it is :class:`Training`'s."""

    looks_inside = True

    def __init__(self, request: Request, listen: Listener, should_stop: Callable[[], bool], began: float) -> None:
        super().__init__(request, listen, should_stop, began)
        self.config = config.build(DistillConfig, request.task.settings.get("distill", {}))
        self.kept = layers_of(request.encoder)
        self.saved: Saved | None = None
        self.lessons: distillation.Lessons | None = None
        self.answers: Answers | None = None
        self.general_steps = 0

    # Before anything heavy is loaded ---------------------------------------------------------------------------

    def _source(self) -> Source:
        """Find the student: an encoder, or layers of the teacher."""
        if not self.kept:
            return super()._source()
        found = teacher_of(self.request.teacher, self.request.task, offline=self.request.offline)
        encoder.check_folder(found.source.folder)
        before = str(found.run.record["encoder"]) if found.run else found.source.name
        name = f"{Path(encoder.public_name(before)).name}-layers-{'-'.join(map(str, self.kept))}"
        return Source(name=name, folder=found.source.folder, revision=found.source.revision)

    def check(self) -> tuple[Prepared, Source]:
        """Find data and student, and the teacher; check that it has learned the same task."""
        prepared, source = super().check()
        self._refuse_recipe(prepared)
        self.saved = fitted(teacher_of(self.request.teacher, prepared.task, offline=self.request.offline), prepared)
        self._refuse_own_heads(prepared)
        return prepared, source

    def _refuse_recipe(self, prepared: Prepared) -> None:
        if prepared.task.type not in distillation.TYPES:
            raise ConfigError(
                f"The task '{prepared.task.name}' is of type {prepared.task.type}, and a teacher's answers are known "
                f"for {', '.join(distillation.TYPES)}."
            )
        if prepared.train.lm_weight:
            raise ConfigError(
                "train.lm_weight is set, and a student's loss is that of its teacher and of the labels. Set it to 0."
            )
        if self.config.general_epochs and prepared.train.patience:
            raise ConfigError(
                "train.patience counts evaluations without a better score, and the general phase "
                f"(distill.general_epochs = {self.config.general_epochs}) is not after scores. Set one of the two to 0."
            )

    def _refuse_own_heads(self, prepared: Prepared) -> None:
        """Refuse to look inside models whose head is none of transformers', and to cut a student for such a one."""
        assert self.saved is not None
        adapter = prepared.adapter
        outputs = adapter.num_outputs or len(adapter.labels)
        ours = heads.asked(prepared.train, auto_class=adapter.auto_class, outputs=outputs)
        if ours and self.kept:
            raise ConfigError(
                "A student that is cut out of its teacher has the teacher's kind of head, and train.head, train.layers "
                "or train.pooling asks for one of bertkit's. Leave them out, or name another student with --encoder."
            )
        if self.config.matches and (ours or heads.stored(self.saved.source.folder)):
            who = "student" if ours else "teacher"
            raise ConfigError(
                f"distill.hidden and distill.attention look inside models with Hugging Face's own heads, and the {who} "
                "has one of bertkit's (train.head, train.layers, train.pooling). Set both to 0."
            )

    def facts(self, prepared: Prepared, source: Source) -> dict[str, Any]:
        """Return what ``run.json`` knows before training, the teacher with it."""
        assert self.saved is not None
        record = super().facts(prepared, source)
        record["config"] = record["config"] | {"distill": config.describe(self.config)}
        run, folder = self.saved.run, self.saved.source.folder
        teacher = {
            "name": self.saved.name,
            "encoder": str(run.record["encoder"]) if run else encoder.public_name(self.saved.source.name),
            "hash": encoder.folder_hash(folder),
        }
        helper = self.config.augment_encoder if self.config.augment else ""
        if helper:
            found = encoder.find(helper, offline=self.request.offline)
            teacher["augment_hash"] = found.revision or encoder.folder_hash(found.folder)
        return record | {"command": COMMAND, "teacher": teacher}

    def _refuse_other(self, run: Run, record: dict[str, Any]) -> None:
        """Refuse a run that was made from anything else, the teacher's files among it."""
        super()._refuse_other(run, record)
        if run.record.get("teacher") != record["teacher"]:
            raise RunError(
                f"{run.folder} learned from other files than {self.request.teacher} holds now (or another "
                "distill.augment_encoder). Restore them, name another --out, or start a new run."
            )

    # Before the first step -------------------------------------------------------------------------------------

    def completed(self, run: Run, prepared: Prepared) -> Prepared:
        """Add copies of the training examples, where they are asked for: those of the folder, else new ones.

        Raises:
            RunError: if a finished run has lost them.
        """
        if not self.config.augment:
            return prepared
        train = prepared.dataset.splits["train"]
        added = [json.loads(line) for line in processes.on_main(partial(self._kept_copies, run, prepared)) if line]
        number = len(train.examples)
        self.tell(Note(message=f"{len(added)} copies with other words were added to {number} training examples"))
        whole = replace(
            train,
            examples=[*train.examples, *added],
            lines=None if train.lines is None else _again(train.lines, self.config.augment),
            rows=_again(train.rows or range(1, number + 1), self.config.augment),
        )
        splits = prepared.dataset.splits | {"train": whole}
        return replace(prepared, dataset=replace(prepared.dataset, splits=splits))

    def _kept_copies(self, run: Run, prepared: Prepared) -> list[str]:
        """Return the lines of the file that holds the copies, made where it is not there."""
        file = run.folder / COPIES
        if not file.is_file():
            if run.status == "finished":
                raise RunError(f"{file} is missing, so what {run.folder} learned from is not known. Restore it.")
            run.write_lines(COPIES, self._copies(prepared))
        # A text may hold what str.splitlines() takes for the end of a line.
        return file.read_text(encoding="utf-8").split("\n")

    def _copies(self, prepared: Prepared) -> list[dict[str, Any]]:
        from bertkit import device

        source = encoder.find(self.config.augment_encoder, offline=self.request.offline)
        self.tell(Phase(name="replacing words"))
        model = encoder.load(source, auto_class="AutoModelForMaskedLM", seed=self.request.seed)
        augmentation.require_head(model)
        examples = prepared.dataset.splits["train"].examples
        place = device.choose(self.request.device)
        return augmentation.copies(
            examples,
            prepared.adapter,
            model,
            device.accelerator(place),
            number=self.config.augment,
            share=self.config.augment_share,
            candidates=self.config.augment_candidates,
            seed=self.request.seed,
            advance=counter(self.tell, "replacing words", len(examples) * self.config.augment),
        )

    def _open(self, prepared: Prepared, source: Source) -> Encoder:
        """Return the student as it is before the first step."""
        loaded = super()._open(prepared, source)
        if self.kept:
            assert self.saved is not None
            distillation.keep_layers(loaded.model, self.kept, self.saved.name)
            if loaded.new_weights:
                message = f"the head of {self.saved.name} is none of Hugging Face's, so the student's starts at random"
                self.tell(Note(message=message))
            elif (order := _order(self.saved, prepared)) is not None:
                distillation.reorder_head(loaded.model, order)
        return loaded

    def _quicken(self, prepared: Prepared, loaded: Encoder, accelerator: Accelerator) -> dict[str, str]:
        """Let the student run without padding, unless what is compared are the insides of padded rows."""
        if self.config.attention:
            loaded.model.set_attn_implementation("eager")
            return {"form": "padded", "reason": "distill.attention compares probabilities that only padded rows give"}
        found = super()._quicken(prepared, loaded, accelerator)
        if not self.config.hidden or found["form"] == "padded":
            return found
        when = "training" if self.config.matching == "always" else "the general phase"
        return found | {"reason": f"distill.hidden compares the states of all layers, for which {when} runs padded"}

    def _no_features(self, train: TrainConfig) -> str:
        """Return why features of a frozen student are not kept, or an empty text."""
        inside = (
            "distill.hidden and distill.attention compare what is inside the encoder" if self.config.matches else ""
        )
        return super()._no_features(train) or inside

    def ready(
        self, prepared: Prepared, loaded: Encoder, train: Sequence[Feature], accelerator: Accelerator
    ) -> dict[str, Any]:
        """Do the last of what comes before the first step: the teacher is loaded, and answers."""
        layers: tuple[int, ...] = ()
        think = None
        if self.config.alpha or self.config.matches:
            teacher = self._teacher(prepared, accelerator)
            if self.config.matches:
                theirs = teacher.loaded.model.config
                sizes = {"student": loaded.model.config.num_hidden_layers, "teacher": theirs.num_hidden_layers}
                layers = distillation.layer_map(self.config.layer_map, **sizes, cut=self.kept)
                distillation.attach(loaded.model, theirs.hidden_size)
                think = partial(
                    teacher.think,
                    output_hidden_states=self.config.hidden > 0,
                    output_attentions=self.config.attention > 0,
                )
            self._hear(teacher, prepared, loaded, train)
        self.lessons = distillation.Lessons(adapter=prepared.adapter, config=self.config, think=think, layers=layers)
        return super().ready(prepared, loaded, train, accelerator)

    def _teacher(self, prepared: Prepared, accelerator: Accelerator) -> Teacher:
        """Load the teacher.

        Raises:
            ModelError: if it has no trained head.
        """
        assert self.saved is not None
        self.tell(Phase(name="loading the teacher"))
        head = heads.stored(self.saved.source.folder)
        found = encoder.load(self.saved.source, auto_class=self.saved.adapter.auto_class, head=head)
        if found.new_weights:
            raise ModelError(
                f"The teacher {self.saved.name} has no trained head ({found.new_weights[0]} is missing): it is an "
                f"encoder. 'bertkit finetune TASK --encoder {self.saved.name}' trains one."
            )
        return Teacher(
            adapter=self.saved.adapter,
            loaded=found,
            accelerator=accelerator,
            order=_order(self.saved, prepared),
            attention=self.config.attention > 0,
        )

    def _hear(self, teacher: Teacher, prepared: Prepared, loaded: Encoder, train: Sequence[Feature]) -> None:
        """Have the teacher answer the training rows, where the loss takes its answers from there."""
        same = self._same_features(teacher, prepared, loaded)
        if not self.config.alpha or (self.config.matches and self.config.matching == "always"):
            return
        split = prepared.dataset.splits["train"]
        own = None if same else following.encoded(teacher.adapter, split, teacher.loaded.tokenizer)
        self.tell(Phase(name="asking the teacher"))
        room = infer.Room(prepared.eval.batch_tokens, self.tell)
        self.answers = Answers(teacher, train, own, room=room, kept_mb=self.config.kept_mb)
        if self.answers.kept is None:
            self.tell(
                Note(
                    message=f"the teacher's answers would take {self.answers.megabytes:,.0f} MB, more than "
                    f"distill.kept_mb = {self.config.kept_mb}, so it answers anew in each step"
                )
            )

    def _same_features(self, teacher: Teacher, prepared: Prepared, loaded: Encoder) -> bool:
        """Say whether the teacher can read the student's features.

        Raises:
            ModelError: if it must, and cannot.
        """
        ours, theirs = loaded.tokenizer, teacher.loaded.tokenizer
        same = ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
        same = same and set(theirs.model_input_names) <= set(ours.model_input_names)
        spans = prepared.task.type == "span-qa"
        if not same and (spans or self.config.matches):
            what = "answers of span QA" if spans else "hidden states and attention"
            raise ModelError(
                f"The student {loaded.source.name} and the teacher {teacher.loaded.source.name} have different "
                f"tokenizers, and {what} are compared token by token. Take a student of the teacher's kind "
                "(--student-layers 2 cuts one out of it), or, but for span QA, set distill.hidden and "
                "distill.attention to 0."
            )
        if same and (spans or self.config.matches) and prepared.train.max_length > teacher.loaded.max_length:
            raise ConfigError(
                f"train.max_length is {prepared.train.max_length}, and the teacher has positions for "
                f"{teacher.loaded.max_length} tokens. Set it to that."
            )
        if spans or self.config.matches:
            return True
        length, own = teacher.adapter.config, prepared.train
        return same and (length.max_length, length.on_long) == (own.max_length, own.on_long)

    # The steps -------------------------------------------------------------------------------------------------

    def batches(self, prepared: Prepared, train: Sequence[Feature]) -> TrainingBatches:
        """Return the steps of both phases."""
        found = PhasedBatches(
            [feature.example for feature in train],
            [len(feature) for feature in train],
            general_epochs=self.config.general_epochs,
            batch_size=prepared.train.batch_size,
            micro_batch_tokens=prepared.train.micro_batch_tokens,
            seed=self.request.seed,
            group_by_length=prepared.train.group_by_length,
        )
        self.general_steps = self.config.general_epochs * found.steps_per_epoch
        return found

    def events(
        self,
        prepared: Prepared,
        loaded: Encoder,
        train: Sequence[Feature],
        batches: TrainingBatches,
        accelerator: Accelerator,
        **given: Any,
    ) -> Iterator[Event]:
        """Return what the loop yields: the teacher's loss, the task's metric, its rows."""
        assert self.lessons is not None
        rows = prepared.dataset.splits["train"]
        return loop.training(
            loaded.model,
            batches,
            self.lessons,
            collate=teaching.collate(prepared.adapter, train, self.answers),
            config=replace(prepared.train, epochs=prepared.train.epochs + self.config.general_epochs),
            accelerator=accelerator,
            metric=prepared.task.metrics[0],
            better=prepared.adapter.better,
            plan=loaded.plan,
            places=lambda chosen: [rows.place(train[number % len(train)].example) for number in chosen],
            **given,
        )

    def _take(self, run: Run, event: Any) -> None:
        """Store and show an event; that a head which has not learned yet gives one answer only is nothing to tell."""
        if isinstance(event, Scores) and event.step <= self.general_steps:
            event = replace(event, constant=None)
        super()._take(run, event)

    def _reopen(self, prepared: Prepared, source: Source) -> Encoder:
        """Return the saved model as the one in memory computes: in 16 bits, other attention rounds differently."""
        found = super()._reopen(prepared, source)
        if self.config.attention:
            found.model.set_attn_implementation("eager")
        return found

    def _settle(self, loaded: Encoder) -> None:
        """Take the projections away, which are not saved."""
        distillation.detach(loaded.model)


def follow(data: Data | None, should_stop: Callable[[], bool], began: float) -> Finetuned:
    """Be one of the other processes of a distillation; see :func:`bertkit.workflows.training.follow`."""
    given: following.Assignment | Finetuned = processes.share()
    if isinstance(given, Finetuned):
        return given
    request = replace(given.request, data=data) if given.rows else given.request
    return Distilling(request, ignore, should_stop, began).follow(given)


def layers_of(name: str) -> tuple[int, ...]:
    """Return the layers of the teacher that an encoder's name asks for; none where it names an encoder.

    Raises:
        ConfigError: if they are no numbers.
    """
    if not name.startswith(CUT):
        return ()
    parts = [part.strip() for part in name.removeprefix(CUT).split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--encoder is '{name}', and must name layers of the teacher, from 0: teacher:0,5.")
    return tuple(map(int, parts))


def teacher_of(name: str, task: Task, *, offline: bool) -> Saved:
    """Find a teacher: a finished run or a folder that bertkit saved, else somebody's checkpoint for the task.

    Raises:
        RunError, ModelError: if there is none, or it cannot be used.
    """
    ours = any((Path(name) / file).is_file() for file in ("run.json", MODEL_FACTS))
    return saved.find(name, runs=Path(), task=None if ours else task, offline=offline)


def fitted(found: Saved, prepared: Prepared) -> Saved:
    """Return a teacher that reads the task's columns.

    Raises:
        ConfigError: if it has learned another task: another type or kind, other labels or columns.
    """
    task, theirs = prepared.task, found.adapter.task
    kinds = [" ".join(filter(None, (each.type, each.kind))) for each in (theirs, task)]
    if kinds[0] != kinds[1] and not found.foreign:
        raise ConfigError(f"The teacher {found.name} is for {kinds[0]}, and '{task.name}' is {kinds[1]}.")
    if set(found.adapter.labels) != set(prepared.adapter.labels):
        ours, other = (", ".join(labels[:8]) for labels in (prepared.adapter.labels, found.adapter.labels))
        raise ConfigError(
            f"The teacher {found.name} has the labels {other}, and '{task.name}' has {ours}: it has learned another "
            "task. Fine-tune a teacher on this one."
        )
    both = [sorted(role for role in each.columns if role in ("text", "text_pair")) for each in (theirs, task)]
    if both[0] != both[1] and not found.foreign and task.type == "sequence-classification":
        raise ConfigError(
            f"The teacher {found.name} reads {' and '.join(both[0]) or 'nothing'}, and '{task.name}' has "
            f"{' and '.join(both[1]) or 'nothing'}. Name the columns with --set columns.text_pair=NAME."
        )
    own = replace(
        task, labels=tuple(found.adapter.labels), options=theirs.options if not found.foreign else task.options
    )
    adapter = type(prepared.adapter)(own, found.adapter.config, found.adapter.labels)
    return replace(found, task=own, adapter=adapter)


def _order(found: Saved, prepared: Prepared) -> list[int] | None:
    """Return the place of each of the student's labels among the teacher's; None where they are the same."""
    theirs = list(found.adapter.labels)
    order = [theirs.index(label) for label in prepared.adapter.labels]
    return None if order == list(range(len(theirs))) else order


def _again(numbers: Sequence[int], times: int) -> list[int]:
    """Return numbers, and behind them each so many times over, as copies stand behind their examples."""
    return [*numbers, *(number for number in numbers for _ in range(times))]
