"""What happens in a run: the loop yields these, the run folder stores them, the console shows them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something the user should know: a default that was taken, a guess, a file that was made."""

    message: str
    """One sentence."""
    level: str = "info"
    """``info`` or ``warning``."""
    step: int = 0
    """The optimizer step that it is about; 0 where it is about none."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of work without steps began: reading data, loading the encoder, encoding."""

    name: str
    """What is done (``reading data``), for the console."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Training is about to begin."""

    num_examples: int
    """Training examples in one epoch."""
    num_steps: int
    """Optimizer steps in the whole training."""
    step: int = 0
    """Optimizer steps already done, by the run that is resumed."""
    num_parameters: int = 0
    """Parameters that are trained."""
    device: str = "cpu"
    precision: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step was taken."""

    step: int
    """Steps taken so far, from 1."""
    epoch: float
    """Epochs done so far, with a fraction."""
    loss: float
    """Mean training loss over the effective batch, in nats (squared error for regression)."""
    learning_rate: float
    """The rate that this step used; of the head, where lower layers have smaller ones."""
    gradient_norm: float
    """Global L2 norm of the gradient before clipping."""
    num_examples: int
    """Examples in the effective batch."""
    num_tokens: int
    """Real tokens in the effective batch, padding not counted."""
    seconds: float
    """Wall-clock time of this optimizer step."""
    tokens_per_second: float
    """``num_tokens / seconds``."""
    imbalance: float = 1.0
    """Tokens of the process that has most of them in this step, over the mean of all processes; 1 is even."""
    parts: dict[str, float] = field(default_factory=dict)
    """What the loss is the sum of, by name, where an objective has several terms."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A split was scored."""

    step: int
    """Steps taken when it was."""
    split: str
    scores: dict[str, float]
    metric: str
    """The score that selects the best checkpoint."""
    best: bool
    """Whether this is the best of the run so far."""
    constant: str | None = None
    """The one label that every prediction named, if that is so."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The loop offers its whole state to be stored. ``state`` holds tensors and is not itself logged."""

    step: int
    best: bool
    state: dict[str, Any] = field(repr=False)
    passing: bool = False
    """Offered only because training was asked to stop: a run that nobody interrupts has no such one."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``done`` of ``total`` examples went through the model (evaluation, prediction). Shown, not stored."""

    name: str
    done: int
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Training ended."""

    step: int
    reason: str
    """``finished``, ``early stopping`` or ``interrupted``."""
    best_step: int | None
    best_score: float | None
    last_score: float | None


Event = Note | Phase | Start | Step | Scores | Checkpoint | Progress | Stop
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Take an event and do nothing: the default listener."""


def once(listen: Listener) -> Listener:
    """Return a listener that passes each note on the first time only: what is true of several runs is told once."""
    told: set[str] = set()

    def pass_on(event: Event) -> None:
        if isinstance(event, Note):
            if event.message in told:
                return
            told.add(event.message)
        listen(event)

    return pass_on


def to_json(event: Event) -> dict[str, Any]:
    """Return the line that ``events.jsonl`` holds for ``event``; tensors are left out."""
    row = asdict(event) if not isinstance(event, Checkpoint) else {"step": event.step, "best": event.best}
    if isinstance(event, Step) and not event.parts:
        del row["parts"]
    return {"event": type(event).__name__.lower(), **row}


def counter(listen: Listener, name: str, total: int) -> Callable[[int], None]:
    """Return a function that is called with each number of examples done, and tells ``listen`` of the sum."""
    done = 0

    def advance(number: int) -> None:
        nonlocal done
        done += number
        listen(Progress(name=name, done=done, total=total))

    return advance
