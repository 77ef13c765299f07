"""Settings: defaults, then the task's ``[train]``, ``[eval]`` and ``[predict]``, then ``--set``.

A setting is a field of a frozen dataclass; the docstring under it gives unit, range and source, and is what
``docs/reference/config.md`` shows. Every problem of one configuration is reported at once.
"""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from bertkit.errors import ConfigError, did_you_mean, joined

Scheduler = Literal["linear", "cosine", "constant"]
OnLong = Literal["truncate", "head-tail", "window", "error"]
ClassWeights = Literal["none", "balanced"]
Layers = Literal["embeddings", "last", "second-to-last", "sum-last-4", "concat-last-4", "mix-last-4", "mix"]
Head = Literal["linear", "mlp", "bilstm"]
Reads = Literal["cls", "mean"]
LoraModules = Literal["attention", "all-linear"]
Precision = Literal["auto", "float32", "bf16", "fp16"]
Backend = Literal["torch", "openvino"]
OnError = Literal["stop", "skip"]
Pooling = Literal["mean", "cls", "max", "words"]
Matching = Literal["always", "general"]
PretrainingObjective = Literal["mlm", "mlm+nsp", "mlm+sop"]
InitialWeights = Literal["mimetic", "normal"]
Layout = Literal["auto", "lines", "blocks", "wikitext"]
Sentences = Literal["split", "lines"]
Words = Literal["none", "spaces", "segmenter"]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train: ``[train]`` in a task file, ``--set train.KEY=VALUE`` on the command line."""

    section: ClassVar[str] = "train"

    learning_rate: float = 5e-5
    """Peak rate of AdamW, above 0. The BERT paper searches 5e-5, 4e-5, 3e-5, 2e-5 (arXiv:1810.04805, A.3)."""
    epochs: float = 3
    """Passes over the training examples, above 0. The paper uses 2 to 4."""
    max_steps: int = 0
    """Stop after this many optimizer steps; 0 means that ``epochs`` decides."""
    batch_size: int = 32
    """Examples that one optimizer step sees, over all processes and micro-batches; at least 1."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, that go through the model at once; bounds memory, does not change the result."""
    max_length: int = 128
    """Tokens of one example, special tokens included; 8 up to what the encoder has positions for."""
    on_long: OnLong = "truncate"
    """What to do with a longer one: keep its start, its start and end (arXiv:1905.05583, 5.3.1: a quarter of the
    room to the start), read all of it in overlapping windows, or refuse it."""
    warmup_ratio: float = 0.1
    """Share of the steps over which the rate rises from 0 to its peak, 0 to 1."""
    lr_scheduler: Scheduler = "linear"
    """What the rate does after warm-up: falls to 0 on a line, on a half cosine, or stays."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment, 0 up to but not including 1."""
    adam_beta2: float = 0.999
    """Decay of AdamW's second moment, 0 up to but not including 1."""
    adam_epsilon: float = 1e-8
    """Term added to AdamW's denominator, above 0."""
    weight_decay: float = 0.01
    """Decoupled decay (arXiv:1711.05101), at least 0; never on biases and normalisation weights."""
    max_grad_norm: float = 1.0
    """Global L2 norm to which gradients are clipped; 0 does not clip."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the other labels (arXiv:1512.00567, 7), 0 up to but not including 1."""
    class_weights: ClassWeights = "none"
    """``balanced`` weighs each label's loss by rows / (labels * rows of the label), as scikit-learn does."""
    lm_weight: float = 0.0
    """Weight of the auxiliary language-model loss on the task's texts, at least 0, for classification with a
    left-to-right language model such as GPT-2 (Radford et al. 2018, 3.2: 0.5); 0 leaves it out."""
    fast: bool = True
    """Spend no work on padding and draw dropout masks the quick way: on CPUs, where the encoder's family can. And
    train only the word embeddings that the training data uses, where that is exact."""
    group_by_length: bool = False
    """Draw batches of examples of similar length: faster, a little less random."""
    gradient_checkpointing: bool = False
    """Keep only what goes into each layer for the backward pass, and compute the layer again there
    (arXiv:1604.06174): less memory, about a third more work."""
    freeze: str = "none"
    """Parts of the encoder that stay as they are, with commas between: ``encoder`` (all that the checkpoint holds below
    the head), ``embeddings``, ``layers:0-5`` (counted from 0 at the bottom). They compute without dropout."""
    unfreeze_epochs: float = 0
    """Train one more frozen layer, from the top down and the embeddings last, after every so many epochs
    (arXiv:1801.06146, 3.3: one); 0 leaves them frozen."""
    unfreeze_steps: int = 0
    """The same after every so many optimizer steps; 0 leaves them frozen."""
    layer_decay: float = 1.0
    """Learning rate of a layer over that of the layer above it, above 0 and up to 1. Of L layers the top one has
    ``layer_decay`` times the head's rate, the embeddings its power L + 1 (as in ELECTRA's code, arXiv:2003.10555, which
    begins with the square, and uses 0.8 for its base and 0.9 for its large encoder)."""
    reinit_layers: int = 0
    """Start so many top layers, and the pooler, from random weights in place of the checkpoint's (arXiv:2006.05987, 5:
    up to 6, steadier on small tasks)."""
    lora_rank: int = 0
    """Rank of the matrices that LoRA trains beside the encoder's own, which stay as they are (arXiv:2106.09685); the
    head is trained. They are merged into the saved model. 0 trains the encoder itself."""
    lora_alpha: float = 16.0
    """What LoRA's matrices add is scaled by ``lora_alpha / lora_rank``; above 0."""
    lora_dropout: float = 0.0
    """Dropout on what goes into LoRA's matrices, 0 up to but not including 1."""
    lora_modules: LoraModules = "attention"
    """Matrices of every layer that LoRA stands beside: those of attention, or all."""
    layers: Layers = "last"
    """What of the encoder the head reads: the states of one layer, of the top four added or side by side, or a mix of
    the top four or of all (embeddings included) whose weights are learned (arXiv:1802.05365, eq. 1). ``last`` under a
    linear head is Hugging Face's own head, BERT's pooler included; any other reads [CLS] or tokens without a pooler."""
    head: Head = "linear"
    """``mlp`` has a hidden layer with tanh, ``bilstm`` two layers in both directions (arXiv:1810.04805, 5.3; token
    tagging and span QA)."""
    pooling: Reads = "cls"
    """What a classifier's head reads of a text: [CLS], or the mean over its tokens, which is what sentence encoders
    (``minilm``) were trained for. ``mean`` is read without a pooler, as by every head that is not Hugging Face's."""
    head_width: int = 0
    """Width of the hidden vectors of ``mlp`` and ``bilstm`` (both directions together), at least 2; 0: the
    encoder's."""
    head_dropout: float = 0.1
    """Dropout on what goes into the head and on its hidden vectors, 0 up to but not including 1. Hugging Face's own
    head takes the encoder's."""
    cache_features: bool = True
    """Where the whole encoder is frozen for good, compute what the head reads once, and keep it in files for all
    epochs, seeds and later runs; false computes it anew in each step."""
    compile: bool = False
    """Compile forward and backward passes by ``torch.compile`` with dynamic shapes, in place of ``fast``: the layers
    then see padding. Compiling takes a minute or so; it may pay on a GPU."""
    eval_steps: int = 0
    """Score the validation split every so many steps; 0 means once an epoch."""
    save_steps: int = 0
    """Write a checkpoint every so many steps; 0 means at each evaluation."""
    keep_checkpoints: int = 0
    """Checkpoints to keep when the run has finished. While it trains, the newest, the best and the best before it are
    always kept."""
    patience: int = 0
    """Stop after so many evaluations without a better score; 0 never stops early."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            learning_rate=(0 < self.learning_rate < math.inf, "above 0 and finite"),
            epochs=(0 < self.epochs < math.inf, "above 0 and finite"),
            max_steps=(self.max_steps >= 0, "at least 0"),
            batch_size=(self.batch_size >= 1, "at least 1"),
            micro_batch_tokens=(self.micro_batch_tokens >= 1, "at least 1"),
            max_length=(self.max_length >= 8, "at least 8"),
            warmup_ratio=(0 <= self.warmup_ratio <= 1, "between 0 and 1"),
            adam_beta1=(0 <= self.adam_beta1 < 1, "at least 0 and below 1"),
            adam_beta2=(0 <= self.adam_beta2 < 1, "at least 0 and below 1"),
            adam_epsilon=(self.adam_epsilon > 0, "above 0"),
            weight_decay=(0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            max_grad_norm=(self.max_grad_norm >= 0, "at least 0"),
            label_smoothing=(0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            lm_weight=(0 <= self.lm_weight < math.inf, "at least 0 and finite"),
            unfreeze_epochs=(0 <= self.unfreeze_epochs < math.inf, "at least 0 and finite"),
            unfreeze_steps=(self.unfreeze_steps >= 0, "at least 0"),
            layer_decay=(0 < self.layer_decay <= 1, "above 0 and at most 1"),
            reinit_layers=(self.reinit_layers >= 0, "at least 0"),
            lora_rank=(self.lora_rank >= 0, "at least 0"),
            lora_alpha=(0 < self.lora_alpha < math.inf, "above 0 and finite"),
            lora_dropout=(0 <= self.lora_dropout < 1, "at least 0 and below 1"),
            eval_steps=(self.eval_steps >= 0, "at least 0"),
            save_steps=(self.save_steps >= 0, "at least 0"),
            keep_checkpoints=(self.keep_checkpoints >= 0, "at least 0"),
            patience=(self.patience >= 0, "at least 0"),
        )
        self._check_depth()
        self._check_head()

    @property
    def own_head(self) -> bool:
        """Say whether the head is none of Hugging Face's: :mod:`bertkit.heads`."""
        return self.head != "linear" or self.layers != "last" or self.pooling != "cls"

    def _check_head(self) -> None:
        """Raise one :class:`ConfigError` for what is said of a head that is not there."""
        owned = "of a head of Hugging Face's own, which train.head, train.layers and train.pooling leave in place"
        _check(
            self,
            head_width=(
                self.head_width == 0 or (self.head != "linear" and self.head_width >= 2),
                "0, or at least 2"
                if self.head != "linear"
                else "0 where train.head is linear: it has no hidden vectors",
            ),
            head_dropout=(
                0 <= self.head_dropout < 1 and (self.own_head or self.head_dropout == TrainConfig.head_dropout),
                "at least 0 and below 1"
                if self.own_head
                else f"{TrainConfig.head_dropout}, which says nothing {owned}",
            ),
        )

    def _check_depth(self) -> None:
        """Raise one :class:`ConfigError` for what ``freeze`` names wrongly, or what does not go with it."""
        frozen = Frozen.of(self.freeze)
        lora = self.lora_rank > 0
        thaws = bool(self.unfreeze_epochs or self.unfreeze_steps)
        _check(
            self,
            lm_weight=(
                not (self.lm_weight and (self.compile or (frozen.encoder and not thaws))),
                "0 where train.compile is true: it compiles the task's loss alone"
                if self.compile
                else "0 where train.freeze holds the whole encoder: there is nothing that it would train",
            ),
            freeze=(not (lora and frozen), f"none where train.lora_rank is {self.lora_rank}: LoRA freezes the encoder"),
            reinit_layers=(
                not (lora and self.reinit_layers),
                f"0 where train.lora_rank is {self.lora_rank}: LoRA would leave what is drawn at random as it is",
            ),
            unfreeze_epochs=(
                bool(frozen) or not self.unfreeze_epochs,
                "0 where train.freeze is none: nothing is frozen",
            ),
            unfreeze_steps=(
                not self.unfreeze_steps or (bool(frozen) and not self.unfreeze_epochs),
                "0 where train.unfreeze_epochs says it already" if frozen else "0 where train.freeze is none",
            ),
            compile=(
                not (self.compile and thaws),
                "false where frozen layers are trained later: each time all would be compiled anew",
            ),
        )


FROZEN = ("none", "encoder", "embeddings", "layers")
"""Words of ``train.freeze``."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What ``train.freeze`` names."""

    encoder: bool = False
    """All that the checkpoint holds below the head."""
    embeddings: bool = False
    layers: frozenset[int] = frozenset()
    """Counted from 0 at the bottom."""

    def __bool__(self) -> bool:
        """Say whether anything is named."""
        return self.encoder or self.embeddings or bool(self.layers)

    @classmethod
    def of(cls, text: str) -> "Frozen":
        """Read a value of ``train.freeze``.

        Raises:
            ConfigError: naming the word that is none.
        """
        words = [word.strip() for word in text.split(",")]
        layers: set[int] = set()
        for word in words:
            kind, colon, numbers = word.partition(":")
            found = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", numbers, re.ASCII)
            if kind not in FROZEN:
                raise ConfigError(
                    f"train.freeze is {text!r}, and {word!r} is no part of an encoder.{did_you_mean(kind, FROZEN)} "
                    "There are none, encoder, embeddings and layers:0-5."
                )
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
            if (kind == "layers") != bool(colon) or (colon and first > last):
                raise ConfigError(
                    f"train.freeze is {text!r}, and {word!r} must be like layers:0-5 or layers:3: numbers from 0, "
                    "rising."
                )
            layers.update(range(first, last + 1))
        if "none" in words and len(words) > 1:
            raise ConfigError(f"train.freeze is {text!r}: none stands alone.")
        return cls(encoder="encoder" in words, embeddings="embeddings" in words, layers=frozenset(layers))


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How to evaluate: ``[eval]`` in a task file, ``--set eval.KEY=VALUE``."""

    section: ClassVar[str] = "eval"

    batch_tokens: int = 0
    """Tokens, padding included, that go through the model at once without gradients; 0 is 2,048 on a CPU, where more
    leave the processor's caches, and 16,384 on other devices."""
    resamples: int = 1000
    """Bootstrap resamples behind each 95 % interval; 0 leaves the intervals out."""
    decode: Literal["auto", "viterbi", "argmax"] = "auto"
    """Token tagging: ``viterbi`` gives the likeliest legal tag sequence, ``argmax`` each word's likeliest tag; ``auto``
    is ``viterbi`` where the tags are BIO-like."""
    calibrate: bool = False
    """Classification: after training, fit a temperature (arXiv:1706.04599, 4.2) on half of validation, and where there
    are two labels, or several a row, the threshold with the best first metric. The other half is what is scored."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            batch_tokens=(self.batch_tokens >= 0, "at least 0"),
            resamples=(self.resamples == 0 or self.resamples >= 100, "0, or at least 100"),
        )


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How to predict: ``[predict]`` in a task file, ``--set predict.KEY=VALUE``."""

    section: ClassVar[str] = "predict"

    column: str = "prediction"
    """Name of the field that is added to each row."""
    chunk: int = 4096
    """Rows that are held in memory, sorted by length, at one time; at least 1."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(self, column=(bool(self.column), "not empty"), chunk=(self.chunk >= 1, "at least 1"))


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How texts become vectors: ``--set embed.KEY=VALUE``."""

    section: ClassVar[str] = "embed"

    column: str = "embedding"
    """Name of the field that is added to each row; a ``.npy`` has none."""
    max_length: int = 512
    """Tokens of one text, special tokens included, at least 8; as many as the encoder has positions for, where that is
    less. What is longer is cut, and counted."""
    batch_tokens: int = 0
    """Tokens, padding included, that go through the encoder at once; 0 is as for ``eval.batch_tokens``."""
    chunk: int = 4096
    """Rows that are held in memory, sorted by length, at one time, at least 1; fewer where their texts are long."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            column=(bool(self.column), "not empty"),
            max_length=(self.max_length >= 8, "at least 8"),
            batch_tokens=(self.batch_tokens >= 0, "at least 0"),
            chunk=(self.chunk >= 1, "at least 1"),
        )


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How a student learns from a teacher: ``[distill]`` in a task file, ``--set distill.KEY=VALUE``."""

    section: ClassVar[str] = "distill"

    temperature: float = 2.0
    """What the logits of teacher and student are divided by before they are compared, above 0
    (arXiv:1503.02531, 2: 1 to 20). A number (regression) has none."""
    alpha: float = 0.9
    """Share of the teacher's answers in the loss, 0 to 1; the rest is the labels'. 1 looks at no label."""
    hidden: float = 0.0
    """Weight of the distance between hidden states, embeddings included, at least 0; through a learned projection
    where the widths differ (arXiv:1909.10351, eq. 8 and 9). Needs one tokenizer for both."""
    attention: float = 0.0
    """Weight of the distance between attention probabilities, at least 0 (arXiv:1909.10351, eq. 7, which compares
    scores). Needs one tokenizer for both, and attention that is computed the plain way."""
    matching: Matching = "always"
    """When hidden states and attention are compared: ``always``, or in the ``general`` phase alone."""
    layer_map: str = "auto"
    """Which layer of the teacher each layer of the student is compared with: ``uniform`` (layer m with layer m * N/M),
    ``last`` (with the top M), or the teacher's layers from 1 (``3,6``). ``auto``: the layers that the student was cut
    out of, else ``uniform``."""
    general_epochs: int = 0
    """Passes in front of ``train.epochs`` that look at no label and no answer: hidden states and attention alone."""
    augment: int = 0
    """Copies of each training example with words replaced by those that a masked language model proposes."""
    augment_encoder: str = ""
    """The encoder that proposes them: a name or folder, with a masked-LM head."""
    augment_share: float = 0.15
    """Share of the words of a copy that are replaced, above 0 up to 1."""
    augment_candidates: int = 15
    """Proposals among which each is drawn, at least 1 (arXiv:1909.10351, algorithm 1: 15)."""
    kept_mb: int = 1024
    """Megabytes of the teacher's answers that are computed once and kept in memory; where there are more of them, the
    teacher answers anew in each step. At least 0."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            temperature=(0 < self.temperature < math.inf, "above 0 and finite"),
            alpha=(0 <= self.alpha <= 1, "between 0 and 1"),
            hidden=(0 <= self.hidden < math.inf, "at least 0 and finite"),
            attention=(0 <= self.attention < math.inf, "at least 0 and finite"),
            layer_map=(_is_layer_map(self.layer_map), "auto, uniform, last, or layers such as 3,6"),
            general_epochs=(
                self.general_epochs >= 0 and (self.matches or not self.general_epochs),
                "at least 0, and 0 where distill.hidden and distill.attention are both 0",
            ),
            matching=(
                self.matching != "general" or bool(self.general_epochs) or not self.matches,
                "always where distill.general_epochs is 0: there is no general phase",
            ),
            augment=(self.augment >= 0, "at least 0"),
            augment_encoder=(bool(self.augment_encoder) or not self.augment, "an encoder with a masked-LM head"),
            augment_share=(0 < self.augment_share <= 1, "above 0, up to 1"),
            augment_candidates=(self.augment_candidates >= 1, "at least 1"),
            kept_mb=(self.kept_mb >= 0, "at least 0"),
        )

    @property
    def matches(self) -> bool:
        """Say whether anything inside the models is compared."""
        return self.hidden > 0 or self.attention > 0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How ``bertkit pretrain`` reads a corpus and masks it: ``--set pretrain.KEY=VALUE``."""

    section: ClassVar[str] = "pretrain"

    objective: PretrainingObjective = "mlm"
    """Masked LM alone, with next-sentence prediction (arXiv:1810.04805, 3.1: half of the second segments are from
    another document), or with sentence-order prediction (arXiv:1909.11942, 3.1: half of the pairs are swapped)."""
    init: InitialWeights = "mimetic"
    """What training from scratch starts from: ``normal`` is BERT's, all weights from N(0, 0.02); with ``mimetic``
    tokens attend to their neighbours from the first step (arXiv:2305.09828), which they learn late otherwise."""
    whole_words: bool = False
    """Mask all tokens of a word together."""
    mask_share: float = 0.15
    """Share of the tokens that are to be predicted, above 0, below 1 (arXiv:1810.04805, 3.1)."""
    mask_token_share: float = 0.8
    """Share of these that ``[MASK]`` replaces, 0 to 1."""
    random_share: float = 0.1
    """Share of these that a random token replaces, 0 to 1; the rest stays as it is."""
    most_masked: int = 0
    """Most tokens of a row that are to be predicted; 0 sets no limit (BERT: 20 of 128 tokens)."""
    dropout: bool = True
    """Whether the encoder drops out while it is trained, as BERT does (arXiv:1810.04805, A.2). Where no text is seen
    often it learns faster without (arXiv:2212.14034, 4.3); in fine-tuning, what is saved drops out all the same."""
    short_share: float = 0.1
    """Share of the rows that are filled to a random shorter length, 0 to 1 (arXiv:1810.04805, A.2; BERT's code)."""
    valid_share: float = 0.02
    """Share of the corpus, in whole documents, that is held out where ``--valid`` names no text; above 0, below 1."""
    valid_rows: int = 1000
    """Held-out rows that are scored, with the same masks each time; at least 1."""
    lowercase: bool = True
    """Whether a new tokenizer lowers case and takes accents off, as BERT's uncased models do."""
    layout: Layout = "auto"
    """Of text files: ``lines`` (a document a line), ``blocks`` (a sentence a line, an empty line between documents),
    ``wikitext`` (`` = Title = `` begins one); ``auto`` recognises it."""
    column: str = ""
    """Column of rows that holds the text; guessed where empty."""
    sentences: Sentences = "split"
    """Whether lines are cut into sentences, or each line is one."""
    words: Words = "none"
    """Where Chinese words are, for ``whole_words``: ``spaces`` stand between them, or a ``segmenter`` finds them; with
    ``none`` each ideograph is a word."""
    name: str = ""
    """Configuration of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set."""
    revision: str = ""
    """Branch, tag or commit of a Hub data set."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        _check(
            self,
            mask_share=(0 < self.mask_share < 1, "above 0 and below 1"),
            mask_token_share=(0 <= self.mask_token_share <= 1, "between 0 and 1"),
            random_share=(
                0 <= self.random_share <= 1 and self.mask_token_share + self.random_share <= 1 + 1e-9,
                "between 0 and 1, and at most 1 with pretrain.mask_token_share",
            ),
            most_masked=(self.most_masked >= 0, "at least 0"),
            short_share=(0 <= self.short_share <= 1, "between 0 and 1"),
            valid_share=(0 < self.valid_share < 1, "above 0 and below 1"),
            valid_rows=(self.valid_rows >= 1, "at least 1"),
            words=(self.whole_words or self.words == "none", "none where pretrain.whole_words is false"),
        )


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where and how precisely to compute: ``--device``, ``--precision``, ``--threads``."""

    section: ClassVar[str] = "device"

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    precision: Precision = "auto"
    """``auto`` is bf16 autocast where the device does it well, fp16 on older GPUs, else float32."""
    threads: int = 0
    """CPU threads for torch; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        """Raise one :class:`ConfigError` that names every value out of range."""
        name, _, index = self.device.partition(":")
        known = name in {"auto", "cpu", "cuda", "mps"} and (not index or (name == "cuda" and index.isdigit()))
        _check(
            self,
            device=(known, "auto, cpu, cuda, cuda:N or mps"),
            threads=(self.threads >= 0, "at least 0"),
        )


MOST_LEVELS = 16
"""Tables and lists inside each other that a task file may have, and dots of a ``--set``; the deepest in use is 3."""

Config = TypeVar(
    "Config", TrainConfig, EvalConfig, PredictConfig, EmbedConfig, DistillConfig, PretrainConfig, DeviceConfig
)
SECTIONS: dict[str, type[TrainConfig | EvalConfig | PredictConfig | DistillConfig]] = {
    kind.section: kind for kind in (TrainConfig, EvalConfig, PredictConfig, DistillConfig)
}


def build(kind: type[Config], *layers: Mapping[str, Any]) -> Config:
    """Build ``kind`` from layers of settings, later ones over earlier ones.

    Raises:
        ConfigError: naming every unknown key, wrong type and value out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    types = {f.name: f.type for f in fields(kind)}
    problems = [
        f"{kind.section}.{key} is not a setting.{did_you_mean(key, types)}" for key in merged if key not in types
    ]
    values: dict[str, Any] = {}
    for key in merged.keys() & types.keys():
        try:
            values[key] = convert(merged[key], types[key])
        except ValueError as error:
            problems.append(f"{kind.section}.{key} is {merged[key]!r}, and must be {error}")
    if problems:
        raise ConfigError(joined(sorted(problems)))
    return kind(**values)


def convert(value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind`` (a plain type or a ``Literal`` of strings).

    Raises:
        ValueError: whose text says what it must be.
    """
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        raise ValueError(f"one of {', '.join(map(repr, choices))}")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("a number that a float can hold") from None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(
        {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}[kind.__name__]
    )


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Turn ``["train.epochs=2", "columns.label=stars"]`` into ``{"train": {"epochs": 2}, "columns": {...}}``.

    A value is read as TOML where it is TOML (``2e-5``, ``true``, ``["a", "b"]``), else as text.

    Raises:
        ConfigError: for a setting without ``=`` or without a name.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set takes KEY=VALUE, for example --set train.epochs=2, and got {setting!r}.")
        if len(keys) > MOST_LEVELS:
            raise ConfigError(f"--set {setting[:40]!r}... goes {len(keys)} levels deep, and no setting does.")
        place = tree
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {setting!r} goes below {key!r}, which another --set gives a value.")
        if isinstance(place.get(keys[-1]), dict):
            raise ConfigError(
                f"--set {setting!r} replaces the whole of {path.strip()!r}, below which another --set goes."
            )
        place[keys[-1]] = _toml_value(text.strip())
    return tree


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML, and of it only what can be kept as JSON.

    Raises:
        ValueError: if it is no TOML, is nested deeper than :data:`MOST_LEVELS`, or holds an integer beyond 64 bits
            (TOML 1.0.0, "Integer", asks for no more).
    """
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    layer: list[Any] = [table]
    for _ in range(MOST_LEVELS):
        if any(isinstance(one, int) and not -(2**63) <= one < 2**63 for one in layer):
            raise ValueError("it holds a whole number of more than 64 bits")
        layer = [item for one in layer for item in _items(one)]
        if not layer:
            return table
    raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def describe(
    config: TrainConfig | EvalConfig | PredictConfig | EmbedConfig | DistillConfig | PretrainConfig | DeviceConfig,
) -> dict[str, Any]:
    """Return the settings as JSON-able values, in their order."""
    return asdict(config)


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return ``"train.epochs is 3 here and 2 there"`` for the first leaf that differs, or None."""
    left, right = dict(_leaves(ours)), dict(_leaves(theirs))
    for key in [*left, *(k for k in right if k not in left)]:
        if left.get(key) != right.get(key):
            return f"{key} is {left.get(key)!r} now and was {right.get(key)!r}"
    return None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _toml_value(text: str) -> Any:
    try:
        parsed = read_toml(f"value = {text}")
    except ValueError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _is_layer_map(text: str) -> bool:
    return text in ("auto", "uniform", "last") or all(part.strip().isdecimal() for part in text.split(","))


def _check(config: Any, **rules: tuple[bool, str]) -> None:
    problems = [
        f"{config.section}.{name} is {getattr(config, name)!r}, and must be {allowed}"
        for name, (holds, allowed) in rules.items()
        if not holds
    ]
    if problems:
        raise ConfigError(joined(problems) + ".")
