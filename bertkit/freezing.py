"""Which weights of an encoder are trained, from which step on, and how fast.

An encoder has parts, from the bottom up: the embeddings, L layers, and what stands on them (a pooler, a last
normalisation). :func:`plan_of` reads ``train.freeze``, ``train.unfreeze_*`` and ``train.layer_decay`` against the parts
of the model at hand. What is frozen needs no gradient, so the backward pass ends above it; it has no moments and no
weight decay, and computes in evaluation mode, without dropout.

A pooler belongs to the encoder where the checkpoint holds it. Where it starts at random it is trained like the head:
frozen, it would stay noise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertkit import unpad
from bertkit.config import Frozen, TrainConfig
from bertkit.errors import ConfigError

if TYPE_CHECKING:
    import torch

RELATIVE = "rel"
"""Modules beside the layers whose names begin so hold relative positions: DeBERTa's, MPNet's."""
POOLER = "pooler"
"""What families call the module that makes ``C`` of the states of [CLS]."""
LOADED = "_is_hf_initialized"
"""transformers' mark on weights that came from a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of an encoder."""

    name: str
    """``embeddings``, ``layer 3``, ``pooler``."""
    modules: tuple[torch.nn.Module, ...]
    parameters: tuple[str, ...]
    """Their names in the whole model."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts of an encoder, whatever its family."""

    embeddings: Part
    stack: Part
    """All layers together."""
    layers: tuple[Part, ...]
    """From the bottom up; empty where they cannot be told apart."""
    top: tuple[Part, ...]
    """What stands on the layers."""
    reason: str = ""
    """Why the layers cannot be told apart."""

    def layers_for(self, setting: str, name: str) -> tuple[Part, ...]:
        """Return the layers for a setting that needs them one by one.

        Args:
            setting: as it was given: ``train.layer_decay is 0.9``.
            name: of the encoder.

        Raises:
            ConfigError: if they cannot be told apart.
        """
        if not self.layers:
            raise ConfigError(f"{setting}, and the layers of {name} cannot be told apart: {self.reason}.")
        return self.layers


def anatomy(model: Any) -> Anatomy:
    """Return the parts of a model's encoder: found by where its list of layers is, no family by its name."""
    body = getattr(model, "base_model", model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = unpad.stack_of(body)
    layers = found[1] if found else None
    below, above, loose = _around(body, layers)
    embeddings = _part("embeddings", [module for _, module in below], names, loose)
    top = tuple(_part(name, [module], names) for name, module in above)
    reason = _not_apart(body, layers)
    parts = tuple(_part(f"layer {number}", [layer], names) for number, layer in enumerate(layers or ()))
    stack = _part("all layers", list(layers or ()), names)
    return Anatomy(embeddings=embeddings, stack=stack, layers=() if reason else parts, top=top, reason=reason)


def _part(name: str, modules: Sequence[Any], names: Mapping[int, str], loose: Sequence[Any] = ()) -> Part:
    """Return a part; a parameter that another module lent has the name that it is trained under."""
    parameters = [*loose, *(parameter for module in modules for parameter in module.parameters())]
    held = tuple(dict.fromkeys(names[id(parameter)] for parameter in parameters if id(parameter) in names))
    return Part(name=name, modules=tuple(modules), parameters=held)


def _around(node: Any, layers: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]], list[Any]]:
    """Return the modules below and above a list of layers, by name, and the parameters that stand beside them."""
    below: list[tuple[str, Any]] = []
    above: list[tuple[str, Any]] = []
    loose = list(node.parameters(recurse=False))
    passed = False
    # DeBERTa keeps its relative positions, and their normalisation, behind its layers: they are embeddings.
    relative = any(name.startswith(RELATIVE) for name, _ in node.named_children())
    for name, child in node.named_children():
        if child is layers:
            passed = True
        elif any(inner is layers for inner in child.modules()):
            inside = _around(child, layers)
            below, above, loose = below + inside[0], above + inside[1], loose + inside[2]
            passed = True
        else:
            (above if (passed and not relative) or POOLER in name else below).append((name, child))
    return below, above, loose


def _not_apart(body: Any, layers: Any) -> str:
    """Return why layers cannot be told apart, or an empty text."""
    number = getattr(body.config, "num_hidden_layers", None) if hasattr(body, "config") else None
    if getattr(getattr(body, "config", None), "is_encoder_decoder", False):
        return "it is an encoder and a decoder"
    if layers is None:
        return "it has no list of layers with attention in them"
    if isinstance(number, int) and len(layers) < number:
        return f"all {number} share {'one set' if len(layers) == 1 else f'{len(layers)} sets'} of weights"
    return ""


@dataclass(kw_only=True)
class Plan:
    """What of a model is trained; made by :func:`plan_of`."""

    model: Any
    frozen: tuple[tuple[Part, ...], ...] = ()
    """Groups of parts in the order in which they are trained, where they are at all: the top ones first."""
    every_epochs: float = 0
    every_steps: int = 0
    """After how much of training one more group is trained; both 0: none ever is."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Share of the learning rate that a parameter has, by name; 1 where it is not named."""
    fresh: frozenset[str] = frozenset()
    """Parameters that start at random."""
    reached: int = 0
    """Groups of ``frozen`` that are trained now."""

    @property
    def thaws(self) -> bool:
        """Whether something that is frozen at first is trained later."""
        return bool(self.frozen) and bool(self.every_epochs or self.every_steps)

    @property
    def states_are_fixed(self) -> bool:
        """Whether the hidden states of all layers stay the same in all of training: nothing that makes them is trained.

        A pooler, which makes no hidden state, may be trained all the same (:attr:`pooler_is_trained`).
        """
        body = getattr(self.model, "base_model", self.model)
        aside = {id(p) for pooler in _poolers(body) for p in pooler.parameters()}
        trains = any(p.requires_grad for p in body.parameters() if id(p) not in aside)
        return bool(self.frozen) and not self.thaws and not trains

    @property
    def pooler_is_trained(self) -> bool:
        """Whether the encoder has a pooler that is trained."""
        body = getattr(self.model, "base_model", self.model)
        return any(p.requires_grad for pooler in _poolers(body) for p in pooler.parameters())

    def groups_at(self, step: int, steps_per_epoch: int) -> int:
        """Return how many groups of ``frozen`` the step after ``step`` steps trains."""
        if not self.thaws:
            return 0
        every = self.every_steps or max(1, round(self.every_epochs * steps_per_epoch))
        return min(len(self.frozen), step // every)

    def reach(self, number: int) -> list[Part]:
        """Let the first ``number`` groups be trained and the others be frozen; return the parts that are new."""
        new = [part for group in self.frozen[self.reached : number] for part in group]
        self.reached = number
        for place, group in enumerate(self.frozen):
            for name in (name for part in group for name in part.parameters):
                self.model.get_parameter(name).requires_grad_(place < number)
        return [part for part in new if part.parameters]

    def reach_all(self) -> None:
        """Let all be trained that ever is, for an optimizer and an exchange of gradients that are set up once."""
        self.reach(len(self.frozen) if self.thaws else 0)

    def rest(self) -> None:
        """Hold what is frozen in evaluation mode; to be called after ``model.train()``."""
        for part in (part for group in self.frozen[self.reached :] for part in group):
            for module in part.modules:
                # Asked first: going through every module of an encoder takes longer than a step of a head alone.
                if module.training:
                    module.eval()

    def facts(self) -> dict[str, Any]:
        """Return what ``run.json`` says: numbers of parameters, what is frozen, when it is trained, which rates."""
        parameters = dict(self.model.named_parameters())
        trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
        found: dict[str, Any] = {"parameters": trained, "all": sum(p.numel() for p in parameters.values())}
        if self.frozen:
            found["frozen"] = [name for group in reversed(self.frozen) for name in _named(group)]
            if self.pooler_is_trained:
                found["pooler"] = "trained: it starts at random" if self._pooler_is_fresh() else "trained"
        if self.thaws:
            found["unfreezing"] = [_named(group) for group in self.frozen]
        if self.scales:
            found["rates"] = {name: round(scale, 6) for name, scale in self._rates().items()}
        return found

    def _pooler_is_fresh(self) -> bool:
        return any(POOLER in name for name in self.fresh)

    def _rates(self) -> dict[str, float]:
        """Return the share of the learning rate of each part, the head's first."""
        parts = anatomy(self.model)
        held = {part.name: self.scales[part.parameters[0]] for part in (parts.embeddings, *parts.layers)}
        return {"head": 1.0, **dict(reversed(held.items()))}


def _named(group: Sequence[Part]) -> list[str]:
    """Return the names of the parts that hold weights."""
    return [part.name for part in group if part.parameters]


def said(facts: Mapping[str, Any]) -> str:
    """Return the one line of what :meth:`Plan.facts` counted."""
    share = 100 * facts["parameters"] / facts["all"]
    line = f"training {count(facts['parameters'])} of {count(facts['all'])} parameters ({share:.2g} %)"
    if facts.get("frozen"):
        line += f"; frozen: {', '.join(_ranges(facts['frozen']))}"
    if facts.get("unfreezing"):
        line += ", one after another trained from the top down"
    if facts.get("lora"):
        line += f"; LoRA of rank {facts['lora']['rank']} beside {facts['lora']['matrices']} matrices"
    return line


def count(number: int) -> str:
    """Return a number of parameters in words: ``770``, ``22.7 M``."""
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def _ranges(names: Sequence[str]) -> list[str]:
    """Return names of parts with neighbouring layers together: ``layers 0-5``."""
    found: list[str] = []
    numbers = sorted(int(name.split()[1]) for name in names if name.startswith("layer "))
    while numbers:
        run = [n for place, n in enumerate(numbers) if n - numbers[0] == place]
        found.append(f"layers {run[0]}-{run[-1]}" if len(run) > 1 else f"layer {run[0]}")
        numbers = numbers[len(run) :]
    others = [name for name in names if not name.startswith("layer ")]
    return [*(name for name in others if name == "embeddings"), *found, *(n for n in others if n != "embeddings")]


def plan_of(model: Any, config: TrainConfig, *, new: Collection[str] = (), name: str = "the encoder") -> Plan:
    """Read a recipe against a model, and freeze what it freezes.

    Args:
        model: with or without a head, not wrapped yet.
        config: ``freeze``, ``unfreeze_epochs``, ``unfreeze_steps`` and ``layer_decay`` are read.
        new: names of parameters that start at random.
        name: of the encoder, for messages.

    Raises:
        ConfigError: if it names layers that the model does not have, or cannot tell apart; or if it freezes a part that
            starts at random.
    """
    frozen = Frozen.of(config.freeze)
    if not frozen and config.layer_decay == 1:
        return Plan(model=model)
    parts = anatomy(model)
    plan = Plan(
        model=model,
        frozen=_frozen_groups(parts, frozen, config, frozenset(new), name),
        every_epochs=config.unfreeze_epochs,
        every_steps=config.unfreeze_steps,
        scales=_scales(parts, config, name),
        fresh=frozenset(new),
    )
    plan.reach(0)
    return plan


def _frozen_groups(
    parts: Anatomy, frozen: Frozen, config: TrainConfig, new: frozenset[str], name: str
) -> tuple[tuple[Part, ...], ...]:
    """Return what is frozen, the topmost first: each layer a group, the encoder's top with its top layer."""
    setting = f"train.freeze is {config.freeze!r}"
    layers: list[Part] = []
    if frozen.layers:
        layers = list(parts.layers_for(setting, name))
        if max(frozen.layers) >= len(layers):
            raise ConfigError(f"{setting}, and {name} has {len(layers)} layers, 0 to {len(layers) - 1}.")
    if frozen.encoder and (config.unfreeze_epochs or config.unfreeze_steps):
        layers = list(parts.layers_for(f"{setting} and unfreezing is gradual", name))
    chosen = [layer for number, layer in enumerate(layers) if frozen.encoder or number in frozen.layers]
    if frozen.encoder:
        chosen = chosen or list(parts.layers) or [parts.stack]
    top = tuple(part for part in parts.top if not new.intersection(part.parameters)) if frozen.encoder else ()
    groups: list[tuple[Part, ...]] = [(layer,) for layer in reversed(chosen)]
    groups += [(parts.embeddings,)] if frozen.encoder or frozen.embeddings else []
    if top:
        groups[0] = (*groups[0], *top)
    for part in (part for group in groups for part in group):
        if new.intersection(part.parameters):
            raise ConfigError(
                f"{setting}, and {part.name} of {name} starts from random weights, as which it would stay. "
                "Freeze only what the checkpoint holds, with train.reinit_layers=0."
            )
    return tuple(groups)


def _scales(parts: Anatomy, config: TrainConfig, name: str) -> dict[str, float]:
    """Return the share of the learning rate of each parameter below the head; empty where all have the whole."""
    if config.layer_decay == 1:
        return {}
    layers = parts.layers_for(f"train.layer_decay is {config.layer_decay}", name)
    rising = [parts.embeddings, *layers]
    return {
        parameter: config.layer_decay ** (len(rising) - place)
        for place, part in enumerate(rising)
        for parameter in part.parameters
    }


def _poolers(body: Any) -> list[Any]:
    return [module for name, module in body.named_children() if POOLER in name]


# Starting anew ---------------------------------------------------------------------------------------------------


def draw_anew(model: Any, number: int, *, name: str = "the encoder") -> list[str]:
    """Give the top layers, and the pooler, weights drawn as the model's family draws them; return their names.

    Source: Zhang et al. 2021 (arXiv:2006.05987), 5.

    Args:
        model: on its device, its torch generator seeded.
        number: of layers; 0 changes nothing.
        name: of the encoder, for messages.

    Raises:
        ConfigError: if there are not so many layers, or they cannot be told apart.
    """
    if not number:
        return []
    parts = anatomy(model)
    layers = parts.layers_for(f"train.reinit_layers is {number}", name)
    if number > len(layers):
        raise ConfigError(f"train.reinit_layers is {number}, and {name} has {len(layers)} layers.")
    chosen = [*layers[-number:], *(part for part in parts.top if POOLER in part.name)]
    for module in (module for part in chosen for module in part.modules):
        _draw(model, module)
    return [parameter for part in chosen for parameter in part.parameters]


def _draw(model: Any, module: torch.nn.Module) -> None:
    """Draw a module's weights, and those of all in it, as ``from_config`` does."""
    import torch

    body = getattr(model, "base_model", model)
    for part in (*module.modules(), *module.parameters()):
        # What was loaded carries it, and transformers draws nothing that does.
        if hasattr(part, LOADED):
            delattr(part, LOADED)
    with torch.no_grad():
        module.apply(body._init_weights)
