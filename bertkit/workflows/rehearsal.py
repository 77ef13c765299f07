"""The first steps of a training, taken in memory alone: no run folder, and the weights are thrown away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bertkit import device, loop
from bertkit.adapters.base import Feature
from bertkit.data.batches import TrainingBatches
from bertkit.device import Device
from bertkit.events import Listener, Note, Step
from bertkit.workflows.preparation import Prepared, import_libraries
from bertkit.workflows.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bertkit.encoder import Encoder, Source


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A training that stands before its first step."""

    training: Training
    prepared: Prepared
    loaded: Encoder
    features: dict[str, list[Feature]]
    batches: TrainingBatches
    place: Device
    accelerator: Accelerator
    tell: Listener

    @classmethod
    def of(cls, training: Training, prepared: Prepared, source: Source) -> Rehearsal:
        """Do all that comes before the first step, as the training itself would."""
        import_libraries()
        place = device.choose(training.request.device)
        accelerator = device.accelerator(place, compiled=prepared.train.compile)
        loaded, features, _ = training.load(prepared, source, accelerator)
        train = features["train"]
        training.ready(prepared, loaded, train, accelerator)
        return cls(
            training=training,
            prepared=prepared,
            loaded=loaded,
            features=features,
            batches=training.batches(prepared, train),
            place=place,
            accelerator=accelerator,
            tell=training.tell,
        )

    def first_steps(self, number: int) -> list[Step]:
        """Take the first ``number`` steps, or as many as there are; evaluations, which change nothing, are left out."""
        with self.training.features_kept(self.prepared, self.loaded, self.features, self.accelerator):
            return self.some_steps(number)

    def some_steps(self, number: int) -> list[Step]:
        """Take steps as :meth:`first_steps` does, with features of a frozen encoder computed in each of them."""
        metric = self.prepared.task.metrics[0]
        taken: list[Step] = []
        for event in self.training.events(
            # No score is better than another here, and early stopping would end it.
            replace(self.prepared, train=replace(self.prepared.train, patience=0)),
            self.loaded,
            self.features["train"],
            self.batches,
            self.accelerator,
            evaluate=lambda: loop.Evaluation(scores={metric: 0.0}),
        ):
            if isinstance(event, Note):
                self.tell(event)
            if isinstance(event, Step):
                taken.append(event)
                if len(taken) == number:
                    break
        return taken
