"""Heads that no Auto class of transformers has, on any choice of an encoder's layers.

``Headed`` holds a body, as ``AutoModel`` opens it, and a head: linear, MLP or BiLSTM. Its outputs are those of Hugging
Face's own heads, so that nothing else needs to know. Saved, the body is a plain transformers folder, and beside it
stands ``head.safetensors``, which says itself what it is.

A head on one vector a text reads [CLS] of the chosen layers (of a decoder: the last token), or the mean over a row's
tokens. BERT's pooler is no part of it: that was trained for the last layer, and for next-sentence prediction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import layers, unpad
from bertkit.config import Head, Layers, TrainConfig
from bertkit.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

FILE = "head.safetensors"
"""The head's weights, beside the body's."""
KEY = "bertkit"
"""Entry of the file's metadata that says what the head is."""
KINDS = {
    "AutoModelForSequenceClassification": "sequence",
    "AutoModelForTokenClassification": "tokens",
    "AutoModelForQuestionAnswering": "spans",
}
"""Auto class -> what a head in its place reads and gives."""
LSTM_LAYERS = 2
"""Of a BiLSTM, as in arXiv:1810.04805, 5.3."""
CLOSE = 1e-5
"""How far states that are taken from the layers may be from those that transformers gives, relative to the largest."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a head is."""

    kind: Head
    layers: Layers
    reads: str
    """``sequence``: [CLS]; ``tokens``: every token; ``spans``: every token, for start and end."""
    outputs: int
    """Numbers that it gives for each vector that it reads."""
    width: int = 0
    """Of its hidden vectors; 0: as wide as the encoder's."""
    dropout: float = 0.1
    hidden: int = 0
    """Width of the encoder's hidden states, once it is known."""
    num_layers: int = 0
    """Layers of the encoder, once they are known."""
    at_end: bool = False
    """Whether [CLS], or what stands for it, is a row's last token."""
    mean: bool = False
    """Whether the mean over a row's tokens is read in place of [CLS]; zeros, words without a vector, are left out."""

    @property
    def says(self) -> str:
        """Return it in words: ``bilstm on mix``."""
        return f"{self.kind} on {'the mean of ' if self.mean else ''}{self.layers}"


def asked(config: TrainConfig, *, auto_class: str, outputs: int, static: bool = False) -> Spec | None:
    """Return the head that a training asks for; None for Hugging Face's own.

    Args:
        config: of the training.
        auto_class: that has the task type's head in transformers.
        outputs: numbers that it gives.
        static: whether the encoder is a table of word vectors, of which a text is the mean.

    Raises:
        ConfigError: if the task type can have no other.
    """
    of_words = static and KINDS.get(auto_class) == "sequence"
    if not config.own_head and not of_words:
        return None
    check(config, auto_class)
    if of_words and config.compile:
        raise ConfigError("train.compile compiles layers, and static word vectors have none. Set it to false.")
    return Spec(
        kind=config.head,
        layers=config.layers,
        reads=KINDS[auto_class],
        outputs=outputs,
        width=config.head_width,
        dropout=config.head_dropout,
        mean=of_words or config.pooling == "mean",
    )


def check(config: TrainConfig, auto_class: str) -> None:
    """Check that a task type can have the head and the layers that are asked for.

    Raises:
        ConfigError: if it cannot.
    """
    if not config.own_head:
        return
    if auto_class not in KINDS:
        raise ConfigError(
            f"train.head is '{config.head}', train.layers '{config.layers}' and train.pooling '{config.pooling}', and "
            f"this task type has a head of its own ({auto_class or 'none'}). Leave them out."
        )
    if config.pooling != "cls" and KINDS[auto_class] != "sequence":
        raise ConfigError(
            f"train.pooling is '{config.pooling}', one vector a text, and this task type's head reads every token. "
            "Leave it out."
        )
    if config.head == "bilstm" and KINDS[auto_class] == "sequence":
        raise ConfigError(
            "train.head is 'bilstm', which reads every token, and sequence classification reads one vector a text. "
            "Use 'mlp' or 'linear'."
        )
    if config.compile:
        raise ConfigError(
            f"train.compile compiles Hugging Face's models, and '{config.head}' on '{config.layers}' "
            f"({config.pooling}) is none of their heads. Drop one of the two."
        )


# The file ---------------------------------------------------------------------------------------------------------


def stored(folder: Path) -> Spec | None:
    """Return what the head of a saved model is; None where Hugging Face's own is in the model.

    Raises:
        ModelError: if the file is damaged, or of a later version.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            found = json.loads((opened.metadata() or {})[KEY])
        known = {field.name for field in fields(Spec)}
        return Spec(**{name: value for name, value in found.items() if name in known})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{file} is damaged, or no head that bertkit saved: {type(error).__name__}: {error}. Train again, or "
            "restore it from a copy."
        ) from error


def _save(folder: Path, spec: Spec, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One entry: safetensors writes several in any order, and the same head must make the same file.
    save_file(whole, folder / FILE, metadata={KEY: json.dumps(asdict(spec))})


def load(model: Any, folder: Path) -> bool:
    """Fill a model's head from the file in a folder, where that is of the same head; say whether it was.

    Raises:
        ModelError: if the file lacks weights.
    """
    from safetensors.torch import load_file

    if stored(folder) != model.spec:
        return False
    try:
        model.head.load_state_dict(load_file(folder / FILE))
    except RuntimeError as error:
        raise ModelError(f"{folder / FILE} does not hold the head that it names: {error}") from error
    return True


# Learned weights --------------------------------------------------------------------------------------------------


def learned(model: Any) -> dict[str, Any]:
    """Return the weights of a scalar mix, JSON-able: ``layers``, their ``shares`` (sum 1), ``gamma``; else nothing."""
    mix = getattr(getattr(model, "head", None), "mix", None)
    if mix is None:
        return {}
    # Of shards all processes must ask together.
    scalars, gamma = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in (mix.scalars, mix.gamma))
    shares = [round(value, 6) for value in scalars.detach().float().softmax(0).tolist()]
    return {
        "layers": layers.names(model.spec.layers, model.spec.num_layers),
        "shares": shares,
        "gamma": round(gamma.item(), 6),
    }


def facts(model: Any) -> dict[str, Any]:
    """Return what ``run.json`` and ``bertkit.json`` say of a head; nothing of Hugging Face's own."""
    spec = getattr(model, "spec", None)
    if not isinstance(spec, Spec):
        return {}
    mix = learned(model)
    said = {"kind": spec.kind, "layers": spec.layers, "file": FILE} | ({"pooling": "mean"} if spec.mean else {})
    return {"head": said | {"width": spec.width, "dropout": spec.dropout} | ({"mix": mix} if mix else {})}


def sentence(mix: Mapping[str, Any]) -> str:
    """Return the learned weights of a mix in one line."""
    shares = zip(mix["layers"], mix["shares"], strict=True)
    return f"learned mix: {', '.join(f'{name} {share:.3f}' for name, share in shares)}; scale {mix['gamma']:.3f}"


# The modules ------------------------------------------------------------------------------------------------------


def headed(body: Any, spec: Spec) -> Any:
    """Return a body with a new head on it, drawn from torch's generator.

    Args:
        body: a model of ``AutoModel``, in evaluation mode.
        spec: what is asked for; width and layers of the encoder are filled in.

    Raises:
        ConfigError: if the encoder has too few layers.
        ModelError: if the encoder does not give its hidden states.
    """
    num_layers, hidden = _size(body)
    layers.places(spec.layers, num_layers)
    width = spec.width or hidden
    full = replace(spec, hidden=hidden, num_layers=num_layers, width=width if spec.kind != "linear" else 0)
    return _headed()(body, full)


def _size(body: Any) -> tuple[int, int]:
    """Return how many layers a body has, and how wide its states are."""
    found = _hidden_states(body, trial(body))
    return len(found) - 1, int(found[-1].shape[-1])


def trial(body: Any) -> dict[str, torch.Tensor]:
    """Return two short rows that any encoder can read, one of them padded on the right."""
    import torch

    padding = getattr(body.config, "pad_token_id", None) or 0
    ids = torch.arange(5, 15, device=body.device).view(2, 5) % body.config.vocab_size
    mask = torch.ones_like(ids)
    ids[1, 3:], mask[1, 3:] = padding, 0
    return {"input_ids": ids, "attention_mask": mask}


def _hidden_states(body: Any, inputs: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return all hidden states as transformers gives them, ``(B, T, H)`` each.

    Raises:
        ModelError: if it does not.
    """
    import torch

    with torch.no_grad():
        found = body(**inputs, output_hidden_states=True).get("hidden_states")
    if not found or any(state.shape[:2] != inputs["input_ids"].shape for state in found):
        raise ModelError(
            f"{type(body).__name__} does not give its layers' states token by token, so train.layers must be 'last' "
            "and train.head 'linear'."
        )
    return tuple(found)


def _blocks(body: Any) -> Sequence[Any]:
    """Return the layers of a body; none where they are no plain list."""
    stack = unpad.stack_of(body)
    return list(stack[1]) if stack is not None else []


class _Taps:
    """Takes the states between the layers of a body while it computes, also where the layers see packed tokens."""

    def __init__(self, body: Any, spec: Spec) -> None:
        self.wanted = list(layers.places(spec.layers, spec.num_layers))
        self.last = spec.num_layers
        self.taken: dict[int, torch.Tensor] | None = None
        self.works = self._attach(body)

    def _attach(self, body: Any) -> bool:
        """Put hooks on the layers; say whether what they take is what transformers gives."""
        inner = [place for place in self.wanted if place < self.last]
        blocks = _blocks(body)
        if not inner:
            return True
        if len(blocks) != self.last:
            return False
        handles = []
        for place in inner:
            if place:
                handles.append(blocks[place - 1].register_forward_hook(partial(self._after, place)))
            else:
                handles.append(blocks[0].register_forward_pre_hook(self._before, with_kwargs=True))
        if self._right(body):
            return True
        for handle in handles:
            handle.remove()
        return False

    def _right(self, body: Any) -> bool:
        import torch

        inputs = trial(body)
        expected = _hidden_states(body, inputs)
        with torch.no_grad(), self.taking() as taken:
            output = body(**inputs)
        taken[self.last] = output[0]
        real = inputs["attention_mask"].bool()
        return all(place in taken and _close(taken[place], expected[place], real) for place in self.wanted)

    def _after(self, place: int, module: Any, args: Any, output: Any) -> None:
        if self.taken is not None:
            self.taken[place] = unpad.as_rows(output[0] if isinstance(output, tuple) else output)

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.taken is not None:
            first = args[0] if args else next(kwargs[name] for name in unpad.HIDDEN if name in kwargs)
            self.taken[0] = unpad.as_rows(first)

    @contextmanager
    def taking(self) -> Iterator[dict[int, torch.Tensor]]:
        """Take states while the body is called inside."""
        found: dict[int, torch.Tensor] = {}
        self.taken = found
        try:
            yield found
        finally:
            self.taken = None


def _close(one: torch.Tensor, other: torch.Tensor, real: torch.Tensor) -> bool:
    """Say whether two ``(B, T, H)`` are the same at the real tokens."""
    if one.shape != other.shape:
        return False
    return bool((one - other)[real].abs().max() <= CLOSE * other[real].abs().max().clamp(min=1e-6))


@cache
def _headed() -> Any:
    import torch

    class Headed(torch.nn.Module):
        """A body of ``AutoModel`` with a head of our own; to the rest of bertkit, a model as transformers has them."""

        base_model_prefix = "body"

        def __init__(self, body: Any, spec: Spec) -> None:
            super().__init__()
            self.body = body
            self.head = _head()(spec)
            self.spec = spec
            self.taps = _Taps(body, spec)

        @property
        def base_model(self) -> Any:
            return self.body

        @property
        def config(self) -> Any:
            return self.body.config

        @property
        def device(self) -> torch.device:
            return next(self.parameters()).device

        @property
        def dtype(self) -> torch.dtype:
            return next(self.parameters()).dtype

        @property
        def supports_gradient_checkpointing(self) -> bool:
            return bool(self.body.supports_gradient_checkpointing)

        @property
        def _no_split_modules(self) -> Any:
            return self.body._no_split_modules

        def gradient_checkpointing_enable(self, settings: Mapping[str, Any]) -> None:
            enable = getattr(self.body, "activation_checkpointing_enable", None)
            (enable or self.body.gradient_checkpointing_enable)(settings)

        def get_input_embeddings(self) -> Any:
            return self.body.get_input_embeddings()

        def get_output_embeddings(self) -> None:
            return None

        def states(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
            """Return the hidden states that the head reads, ``(B, T, H)`` each."""
            if not self.taps.works:
                every = self.body(**inputs, output_hidden_states=True)["hidden_states"]
                return [every[place] for place in self.taps.wanted]
            with self.taps.taking() as taken:
                last = self.body(**inputs)[0]
            taken[self.taps.last] = last
            return [taken[place].to(last.dtype) for place in self.taps.wanted]

        def read(self, **inputs: torch.Tensor) -> torch.Tensor:
            """Return what goes into the head, without anything learned: ``(B, T, n, W)``, of [CLS] ``(B, 1, n, W)``.

            There are n vectors side by side for a mix, else one.
            """
            return self.side_by_side(self.states(**inputs), inputs["attention_mask"])

        def side_by_side(self, states: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
            """Return hidden states that the head reads as :meth:`read` does."""
            if self.spec.reads == "sequence":
                states = [_summary(state, mask, self.spec) for state in states]
            if self.spec.layers in layers.LEARNED:
                return torch.stack(states, -2)
            return layers.merged(states, self.spec.layers).unsqueeze(-2)

        def forward(self, attention_mask: torch.Tensor, hidden: torch.Tensor | None = None, **inputs: Any) -> Any:
            """Return the outputs of Hugging Face's heads; ``hidden`` is what :meth:`read` gave before."""
            if inputs.get("output_hidden_states") or inputs.get("output_attentions"):
                return self.with_insides(attention_mask=attention_mask, **inputs)
            found = self.read(attention_mask=attention_mask, **inputs) if hidden is None else hidden
            return _outputs(self.spec, self.head(found, attention_mask))

        def with_insides(self, attention_mask: torch.Tensor, **inputs: Any) -> Any:
            """Return the outputs with the body's hidden states, and its attention where that is asked for."""
            body = self.body(attention_mask=attention_mask, **inputs | {"output_hidden_states": True})
            states = [body["hidden_states"][place] for place in self.taps.wanted]
            found = _outputs(self.spec, self.head(self.side_by_side(states, attention_mask), attention_mask))
            found["hidden_states"], found["attentions"] = body["hidden_states"], body.get("attentions")
            return found

        def save_pretrained(self, folder: Path, state_dict: Mapping[str, Any] | None = None) -> None:
            """Write the body as transformers does, and the head beside it."""
            whole = self.state_dict() if state_dict is None else state_dict
            parts: dict[str, dict[str, Any]] = {"body": {}, "head": {}}
            for name, value in whole.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = value
            self.body.save_pretrained(folder, state_dict=parts["body"])
            _save(Path(folder), self.spec, parts["head"])

    return Headed


def _summary(state: torch.Tensor, mask: torch.Tensor, spec: Spec) -> torch.Tensor:
    """Return the first or the last token of each row, or the mean of those that are not zero, ``(B, 1, H)``."""
    import torch

    if spec.mean:
        known = (mask.bool() & (state != 0).any(-1)).unsqueeze(-1).to(state.dtype)
        return (state * known).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
    real = mask.long()
    place = mask.shape[1] - 1 - real.flip(1).argmax(1) if spec.at_end else real.argmax(1)
    return state[torch.arange(len(state), device=state.device), place].unsqueeze(1)


def _outputs(spec: Spec, logits: torch.Tensor) -> Any:
    """Return ``(B, T, K)`` as Hugging Face's head of the same task would."""
    from transformers.modeling_outputs import (
        QuestionAnsweringModelOutput,
        SequenceClassifierOutput,
        TokenClassifierOutput,
    )

    if spec.reads == "sequence":
        return SequenceClassifierOutput(logits=logits.squeeze(1))
    if spec.reads == "tokens":
        return TokenClassifierOutput(logits=logits)
    start, end = logits.unbind(-1)
    return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


@cache
def _head() -> Any:
    import torch

    class OwnHead(torch.nn.Module):
        """From what a body gave, ``(B, T, n, W)``, to ``(B, T, K)``."""

        def __init__(self, spec: Spec) -> None:
            super().__init__()
            given = layers.width(spec.layers, spec.hidden)
            count = len(layers.places(spec.layers, spec.num_layers))
            self.mix = layers.scalar_mix(count) if spec.layers in layers.LEARNED else None
            self.dropout = torch.nn.Dropout(spec.dropout)
            self.between = _between(spec, given)
            self.out = torch.nn.Linear(given if self.between is None else self.between.width, spec.outputs)

        def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            mixed = states.squeeze(-2) if self.mix is None else self.mix(states)
            x = self.dropout(mixed)
            if self.between is not None:
                x = self.dropout(self.between(x, mask))
            found: torch.Tensor = self.out(x)
            return found

    return OwnHead


def _between(spec: Spec, given: int) -> Any:
    """Return what stands between the states and the last, linear part of a head; None where nothing does."""
    if spec.kind == "linear":
        return None
    return (_mlp if spec.kind == "mlp" else _bilstm)()(given, spec.width)


@cache
def _mlp() -> Any:
    import torch

    class Hidden(torch.nn.Module):
        """A dense layer with tanh, as BERT's pooler and RoBERTa's head have it."""

        def __init__(self, given: int, width: int) -> None:
            super().__init__()
            self.width = width
            self.dense = torch.nn.Linear(given, width)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.dense(x))

    return Hidden


@cache
def _bilstm() -> Any:
    import torch

    class BiLstm(torch.nn.Module):
        """Two layers in both directions over the real tokens of each row; ``width`` is that of both together."""

        def __init__(self, given: int, width: int) -> None:
            super().__init__()
            self.width = 2 * (width // 2)
            self.lstm = torch.nn.LSTM(given, width // 2, LSTM_LAYERS, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

            order = torch.argsort(mask.long(), dim=1, descending=True, stable=True)
            rows = torch.take_along_dim(x, order.unsqueeze(-1), 1)
            lengths = mask.sum(1).clamp(min=1).cpu()
            # Autocast does not reach into packed sequences on every device; the head is small.
            with torch.autocast(x.device.type, enabled=False):
                packed = pack_padded_sequence(rows.float(), lengths, batch_first=True, enforce_sorted=False)
                found, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
            return torch.take_along_dim(found, order.argsort(1).unsqueeze(-1), 1)

    return BiLstm
