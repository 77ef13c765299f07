"""The first steps of a training, taken in memory alone: no run folder, and the weights are thrown away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from bertkit import device, loop
from bertkit.adapters.base import Feature
from bertkit.data.batches import TrainingBatches
from bertkit.device import Device
from bertkit.events import Step
from bertkit.workflows.preparation import Prepared, import_libraries
from bertkit.workflows.training import Training, batches_of, objective_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bertkit.encoder import Encoder, Source


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A training that stands before its first step."""

    prepared: Prepared
    loaded: Encoder
    features: dict[str, list[Feature]]
    batches: TrainingBatches
    place: Device
    accelerator: Accelerator

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
            prepared=prepared,
            loaded=loaded,
            features=features,
            batches=batches_of(prepared, train, training.request.seed),
            place=place,
            accelerator=accelerator,
        )

    def first_steps(self, number: int) -> list[Step]:
        """Take the first ``number`` steps, or as many as there are; evaluations, which change nothing, are left out."""
        adapter, train = self.prepared.adapter, self.features["train"]
        metric = self.prepared.task.metrics[0]
        events = loop.training(
            self.loaded.model,
            self.batches,
            objective_of(self.prepared),
            collate=lambda rows: adapter.collate([train[row] for row in rows]),
            config=replace(self.prepared.train, patience=0),
            accelerator=self.accelerator,
            metric=metric,
            better=adapter.better,
            evaluate=lambda: loop.Evaluation(scores={metric: 0.0}),
        )
        return list(islice((event for event in events if isinstance(event, Step)), number))
