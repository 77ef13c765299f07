"""``bertkit pretrain``: from text to an encoder, from scratch or from one that there is."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from bertkit import auxiliary, card, config, dropout, encoder, lora, processes, trackers, vocabulary
from bertkit.adapters.base import Adapter, Feature, Prediction
from bertkit.config import DeviceConfig, PredictConfig, PretrainConfig, TrainConfig
from bertkit.data import Dataset, Split, cache, corpus, pairs, passages
from bertkit.data.batches import TrainingBatches
from bertkit.data.epochs import EpochBatches, Epochs
from bertkit.data.masking import Masker
from bertkit.data.sources import Data
from bertkit.encoder import Encoder, Source
from bertkit.errors import (
    BertkitError,
    ConfigError,
    DataError,
    ModelError,
    RunError,
    did_you_mean,
    joined,
    looked_for,
    together,
)
from bertkit.events import Listener, Note, Phase, ignore
from bertkit.pretraining import HELD_OUT_SEED, PAIRS, TYPE, MaskedLm, Rows, held_out
from bertkit.run import Run
from bertkit.run import find as find_run
from bertkit.task import DataSource, from_table
from bertkit.workflows.finetune import (
    already,
    asked,
    check_seed,
    existing,
    folder_or_name,
    refuse_command,
    refuse_with_resume,
)
from bertkit.workflows.preparation import Prepared, Settings, tables
from bertkit.workflows.training import Finetuned, Request, Training, as_json, plainly

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

COMMAND = "pretrain"
NAME = "pretrain"
"""What runs of this command have for a task."""
SECTIONS = ("train", "eval", "pretrain", "track")
"""What ``--set`` reaches here."""
MEANINGLESS = ("on_long", "class_weights", "layers", "head", "pooling", "head_width", "head_dropout")
"""Training settings that mean nothing here."""


def pretrain(
    corpus: str | Path | Sequence[str | Path] = (),
    *,
    encoder: str | Path = "",
    revision: str = "",
    new_tokenizer: int = 0,
    size: str = "",
    valid: str | Path | None = None,
    objective: str = "",
    whole_words: bool = False,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    seed: int | None = None,
    resume: str | Path | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
    should_stop: Callable[[], bool] = lambda: False,
) -> Finetuned:
    """Pre-train an encoder on text and keep everything in a run folder.

    Args:
        corpus: files or folders of text, or a Hub data set. Left out with ``resume``.
        encoder: the encoder to go on with; with ``size``, the one whose tokenizer is taken.
        revision: branch, tag or commit of a Hub encoder.
        new_tokenizer: train a WordPiece tokenizer of so many tokens on the corpus; 0 does not.
        size: start from random weights: ``tiny``, ``mini``, ``small``, ``medium`` or ``base``.
        valid: held-out text; else a part of the corpus.
        objective: ``mlm``, ``mlm+nsp`` or ``mlm+sop``.
        whole_words: mask whole words.
        out: the run folder; else a new one below ``runs``.
        runs: where run folders are made.
        seed: of weights, masks, pairs, order and dropout; 42 where not given.
        resume: a run to go on with, from its newest whole checkpoint.
        settings: what ``--set`` gives: ``{"train.max_steps": 10_000}``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        threads: CPU threads; 0 leaves torch's choice.
        offline: ask no network.
        listen: is given every event.
        should_stop: asked after each step; where true, the state is saved and training ends.

    Returns:
        Scores on held-out text and figures; ``status`` says whether training finished.

    Raises:
        BertkitError: one of its kinds, for whatever is wrong; before the first step it leaves no folder behind.
    """
    began = time.perf_counter()
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    check_seed(seed)
    processes.join(device)
    if not processes.is_main():
        return _follow(should_stop, began)
    given: dict[str, Any] = {"encoder": folder_or_name(str(encoder)), "revision": revision, "size": size}
    given |= {"new_tokenizer": new_tokenizer, "valid": _absolute(valid), "corpus": _places(corpus)}
    run: Run | None
    if resume is not None:
        run = find_run(resume, Path(runs))
        refuse_command(run, COMMAND)
        over = tables(settings or {}) | ({"objective": objective} if objective else {})
        over |= {"whole_words": True} if whole_words else {}
        about = given | {"corpus": list(given["corpus"])}
        refuse_with_resume(run, settings=over, out=out, seed=seed, **about, **asked(where))
        if run.status == "finished":
            return processes.share(already(run, listen))
        request = PretrainRequest.of_run(run, offline=offline)
    else:
        over = _with_flags(settings, objective=objective, whole_words=whole_words)
        seed = 42 if seed is None else seed
        request = request_of(given, over, seed=seed, device=where, offline=offline)
        run = existing(Path(out), COMMAND) if out else None
    if run is not None and run.status == "finished":
        _refuse_other(run, request)
        return processes.share(already(run, listen))
    return Pretraining(request, listen, should_stop, began).run(run, Path(runs), Path(out) if out else None)


def request_of(
    given: Mapping[str, Any], over: Mapping[str, Any], *, seed: int, device: DeviceConfig, offline: bool
) -> PretrainRequest:
    """Return what :func:`pretrain` was asked for, fully resolved.

    Raises:
        ConfigError: naming what is missing, or does not go together.
    """
    if not given["corpus"]:
        raise ConfigError("pretrain needs a CORPUS: text files, folders of them, or a Hub data set.")
    _check_start(given)
    unknown = [key for key in over if key not in SECTIONS]
    if unknown:
        raise ConfigError(
            f"--set {unknown[0]} is no setting of pretrain.{did_you_mean(unknown[0], SECTIONS)} "
            "There are train.KEY, eval.KEY, pretrain.KEY and track."
        )
    ignored = [key for key in MEANINGLESS if key in over.get("train", {})]
    if ignored:
        raise ConfigError(f"--set train.{ignored[0]} changes nothing about pre-training. Drop it.")
    if "init" in over.get("pretrain", {}) and not given["size"]:
        raise ConfigError(
            f"--set pretrain.init is of weights from scratch, and those of {given['encoder']} are there. Drop it."
        )
    settings = {name: dict(over[name]) for name in ("train", "eval") if name in over}
    table = {"type": TYPE, "data": {"hub": "in/corpus"}, "metrics": ["mlm_loss"], **settings}
    table |= {"track": over["track"]} if "track" in over else {}
    return PretrainRequest(
        task=replace(from_table(table, name=NAME, where="--set"), data=DataSource()),
        data=None,
        limit=0,
        seed=seed,
        device=device,
        offline=offline,
        pretrain=config.build(PretrainConfig, over.get("pretrain", {})),
        **given,
    )


def _check_start(given: Mapping[str, Any]) -> None:
    """Check what weights and tokenizer training is to begin with.

    Raises:
        ConfigError: if that is nothing, or not one thing.
    """
    name, size, tokens = given["encoder"], given["size"], given["new_tokenizer"]
    if size and size not in encoder.SIZES:
        raise ConfigError(
            f"--size is '{size}', and there are {', '.join(encoder.SIZES)}.{did_you_mean(size, encoder.SIZES)}"
        )
    if tokens and name:
        raise ConfigError(f"--new-tokenizer and --encoder {name} are two tokenizers. Drop one of the two.")
    if tokens and not size:
        raise ConfigError(
            f"--new-tokenizer {tokens} starts from scratch, so a size is needed: --size {'|'.join(encoder.SIZES)}."
        )
    if size and not (tokens or name):
        raise ConfigError(
            f"--size {size} starts from random weights and needs a tokenizer: --new-tokenizer 8000 trains one, "
            "--encoder NAME takes that of an encoder."
        )
    if not (size or name):
        raise ConfigError(
            "pretrain needs a start: --encoder NAME goes on with an encoder, --new-tokenizer 8000 --size mini begins "
            "from scratch."
        )


def _with_flags(settings: Settings | None, *, objective: str, whole_words: bool) -> dict[str, Any]:
    """Return settings as tables, with the flags among them."""
    over = tables(settings or {})
    flags = ({"objective": objective} if objective else {}) | ({"whole_words": True} if whole_words else {})
    return over | {"pretrain": over.get("pretrain", {}) | flags} if flags else over


def _places(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Return the places of a corpus, files and folders as absolute paths."""
    several = [given] if isinstance(given, str | Path) else given
    return tuple(_absolute(one) for one in several)


def _absolute(given: str | Path | None) -> str:
    """Return a file or folder that is there as an absolute path, and any other name as it is."""
    if given is None or not str(given):
        return ""
    place = looked_for(given, ConfigError, "The corpus")
    return str(place.resolve()) if place.exists() else str(given)


def _refuse_other(run: Run, request: PretrainRequest) -> None:
    """Refuse a finished run that was made from another request.

    Raises:
        RunError: naming the first difference.
    """
    difference = config.first_difference(as_json(request.to_json()), run.record["request"])
    if difference:
        raise RunError(f"{run.folder} is finished, and {plainly(difference)}. Name another --out, or start a new run.")


def _follow(should_stop: Callable[[], bool], began: float) -> Finetuned:
    """Be one of the other processes of a pre-training."""
    given: Any = processes.share()
    if isinstance(given, Finetuned):
        return given
    return Pretraining(given.request, ignore, should_stop, began).follow(given)


@dataclass(frozen=True, kw_only=True)
class PretrainRequest(Request):
    """What the user asked ``pretrain`` for; stored in ``run.json``."""

    corpus: tuple[str, ...] = ()
    valid: str = ""
    size: str = ""
    new_tokenizer: int = 0
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        own: dict[str, Any] = {"corpus": list(self.corpus), "valid": self.valid, "size": self.size}
        own |= {"new_tokenizer": self.new_tokenizer, "pretrain": config.describe(self.pretrain)}
        return super().to_json() | own

    @classmethod
    def of_run(cls, run: Run, *, data: Data | None = None, offline: bool = False) -> PretrainRequest:
        """Return the request that a run was made from.

        Raises:
            RunError: if rows are given for it.
        """
        if data is not None:
            raise RunError(f"{run.folder} was trained on a corpus, and reads it again. Drop --data.")
        stored = run.record["request"]
        table = stored["task_table"] | {"data": {"hub": "in/corpus"}}
        return cls(
            task=replace(from_table(table, name=NAME, where=f"{run.folder}/run.json"), data=DataSource()),
            encoder=stored["encoder"],
            revision=stored["revision"],
            data=None,
            seed=stored["seed"],
            limit=0,
            device=DeviceConfig(**stored["device"]),
            offline=offline,
            corpus=tuple(stored["corpus"]),
            valid=stored["valid"],
            size=stored["size"],
            new_tokenizer=stored["new_tokenizer"],
            pretrain=config.build(PretrainConfig, stored["pretrain"]),
        )


@dataclass(frozen=True, kw_only=True)
class _Text:
    """What a pre-training learns from."""

    tokenizer: PreTrainedTokenizerBase
    train: corpus.Corpus
    valid: corpus.Corpus
    epochs: Epochs
    held_out: pairs.Instances

    def facts(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it."""
        parts = {"train": self.train, "validation": self.valid}
        found: dict[str, Any] = {
            name: {"documents": one.num_documents, "tokens": one.num_tokens} for name, one in parts.items()
        }
        return found | {"vocabulary": len(self.tokenizer)}


class Pretraining(Training):
    """A training whose rows are made of a corpus, epoch by epoch."""

    request: PretrainRequest
    text: _Text
    looks_inside: ClassVar[bool] = True
    """Rows are others in each epoch, so that features of a frozen encoder cannot be kept."""

    # Before the first step ----------------------------------------------------------------------------------------

    def check(self) -> tuple[Prepared, Source]:
        """Find the encoder, read the corpus and lay out the first epoch."""
        request = self.request
        adapter = _adapter(request)
        if adapter.config.lm_weight:
            auxiliary.require_type(request.task)
        faults: list[BertkitError] = []
        try:
            trackers.check(request.task.track, offline=request.offline)
        except BertkitError as error:
            faults.append(error)
        try:
            source = self._source()
            if not request.size:
                encoder.require_pretraining(source, pairs=request.pretrain.objective in PAIRS)
                _require_positions(source, adapter.config.max_length)
        except BertkitError as error:
            faults.append(error)
        missing = [place for place in (*request.corpus, request.valid) if place and _is_lost(place)]
        if missing:
            faults.append(ConfigError(f"There is no file or folder {joined(missing, most=3)}."))
        if faults:
            raise together(faults)
        if adapter.config.lora_rank:
            lora.require()
        self.text = self._read(source, adapter)
        splits: dict[str, Any] = {"train": range(self.text.epochs.size)}
        splits["validation"] = range(min(len(self.text.held_out), request.pretrain.valid_rows))
        dataset = {name: Split(name=name, examples=rows, source=f"{name} row") for name, rows in splits.items()}
        prepared = Prepared(
            task=request.task,
            train=adapter.config,
            eval=adapter.evaluation,
            predict=PredictConfig(),
            adapter=adapter,
            dataset=Dataset(splits=dataset),
            scored=("validation",),
        )
        return prepared, source

    def _source(self) -> Source:
        """Find the encoder to go on with, or the one whose tokenizer is taken."""
        request = self.request
        found = None
        if request.encoder:
            found = encoder.find(request.encoder, revision=request.revision, offline=request.offline)
        if not request.size:
            assert found is not None
            return found
        return Source(name=f"bert-{request.size}", folder=found.folder if found else Path())

    def _read(self, source: Source, adapter: MaskedLm) -> _Text:
        """Read the corpus and what is held out."""
        request, settings = self.request, self.request.pretrain
        about: dict[str, Any] = {"reading": reading_of(settings), "offline": request.offline, "listen": self.tell}
        tokenizer = self._tokenizer(source, about)
        # What cannot be masked is refused before the corpus is read, which may take hours.
        Masker(tokenizer, whole_words=settings.whole_words)
        self.tell(Phase(name="reading the corpus"))
        whole = corpus.load(request.corpus, tokenizer, cache=cache.folder(), **about)
        if request.valid:
            train, valid = whole, corpus.load([request.valid], tokenizer, cache=cache.folder(), beside=whole, **about)
        else:
            train, valid = whole.split(settings.valid_share, HELD_OUT_SEED)
        options: dict[str, Any] = {"max_length": adapter.config.max_length, "short_share": settings.short_share}
        options |= {"objective": adapter.pair or "none"}

        def made(epoch: int, number: int) -> pairs.Instances:
            return pairs.instances(train, tokenizer, seed=request.seed, epoch=epoch, number=number, **options)

        self.tell(Phase(name="laying out rows"))
        try:
            rows = pairs.instances(valid, tokenizer, seed=HELD_OUT_SEED, **options)
        except DataError as error:
            where = request.valid or "the part that is held out"
            more = "" if request.valid else " Raise pretrain.valid_share, or name held-out text with --valid."
            raise DataError(f"Of {where}: {error}{more}") from error
        return _Text(tokenizer=tokenizer, train=train, valid=valid, epochs=Epochs(made), held_out=rows)

    def _tokenizer(self, source: Source, about: Mapping[str, Any]) -> PreTrainedTokenizerBase:
        """Return the encoder's tokenizer, or a new one of the corpus."""
        request = self.request
        if not request.new_tokenizer:
            return encoder.load_tokenizer(source)
        self.tell(Phase(name="training a tokenizer"))
        return new_tokenizer(
            corpus.texts(request.corpus, **about),
            request.new_tokenizer,
            lowercase=request.pretrain.lowercase,
            max_length=max(512, _adapter(request).config.max_length),
        )

    def facts(self, prepared: Prepared, source: Source) -> dict[str, Any]:
        """Return what ``run.json`` knows before training."""
        record = super().facts(prepared, source)
        settings = config.describe(self.request.pretrain)
        about = {"command": COMMAND, "corpus": self.text.facts()}
        return record | about | {"config": record["config"] | {"pretrain": settings}}

    def _encoder_hash(self, source: Source) -> str:
        """Return what says that weights and tokenizer begin as they did: from scratch, the tokenizer alone decides."""
        if not self.request.size:
            return super()._encoder_hash(source)
        backend = self.text.tokenizer.backend_tokenizer.to_str()
        return f"sha256:{hashlib.sha256(backend.encode()).hexdigest()}"

    def _data_hash(self, prepared: Prepared) -> str:
        """Return a hash of both texts."""
        return hashlib.sha256(f"{self.text.train.hash} {self.text.valid.hash}".encode()).hexdigest()

    def _open(self, prepared: Prepared, source: Source) -> Encoder:
        """Return the model under its pre-training heads, on the CPU."""
        adapter, seed = _masked_lm(prepared.adapter), self.request.seed
        paired = bool(adapter.pair)
        if self.request.size:
            length = prepared.train.max_length
            init = self.request.pretrain.init
            loaded = encoder.from_size(
                self.request.size, self.text.tokenizer, source, pairs=paired, max_length=length, seed=seed, init=init
            )
        else:
            loaded = encoder.load_for_pretraining(source, pairs=paired, seed=seed)
            self._tell_heads(loaded)
        if not self.request.pretrain.dropout:
            dropout.silence(loaded.model)
        if prepared.train.compile:
            adapter.selection.reason = "train.compile compiles the plain model"
        else:
            adapter.selection.install(loaded.model)
        return loaded

    def _tell_heads(self, loaded: Encoder) -> None:
        """Say which heads the checkpoint lacks."""
        new = list(loaded.new_weights)
        if new:
            self.tell(
                Note(
                    message=f"{loaded.source.name} holds no weights for {joined(new, most=3)}: they start at random; "
                    "the output embeddings are those of the input"
                )
            )

    def _encode(self, prepared: Prepared, loaded: Encoder) -> dict[str, list[Feature]]:
        """Return the rows of both texts; those to train on are masked when a step asks for them."""
        settings = self.request.pretrain
        masker = Masker(
            loaded.tokenizer,
            share=settings.mask_share,
            most=settings.most_masked,
            whole_words=settings.whole_words,
            mask_share=settings.mask_token_share,
            random_share=settings.random_share,
        )
        segments = "token_type_ids" in loaded.tokenizer.model_input_names
        train = Rows(self._batches(prepared), masker, seed=self.request.seed, segments=segments)
        kept = held_out(self.text.held_out, masker, most=settings.valid_rows, segments=segments)
        _masked_lm(prepared.adapter).rows = kept
        rows: dict[str, Any] = {"train": train, "validation": kept}
        return rows

    def _batches(self, prepared: Prepared) -> EpochBatches:
        train = prepared.train
        return EpochBatches(
            self.text.epochs,
            batch_size=train.batch_size,
            micro_batch_tokens=train.micro_batch_tokens,
            seed=self.request.seed,
            group_by_length=train.group_by_length,
        )

    def batches(self, prepared: Prepared, train: Sequence[Feature]) -> TrainingBatches:
        """Return the steps of the training."""
        assert isinstance(train, Rows)
        return train.batches

    def _quicken(self, prepared: Prepared, loaded: Encoder, accelerator: Accelerator) -> dict[str, str]:
        """Let the model run without padding, if it can and may; return how layers and head run, for ``run.json``."""
        reason = _masked_lm(prepared.adapter).selection.reason
        head = f"all positions: {reason}" if reason else "masked positions"
        return super()._quicken(prepared, loaded, accelerator) | {"head": head}

    def _shrink(self, prepared: Prepared, loaded: Encoder, train: Sequence[Feature]) -> dict[str, Any]:
        """Train all word embeddings: every word may be predicted."""
        return {"reason": "masked LM trains every row"}

    # After the last step ------------------------------------------------------------------------------------------

    def _reopen(self, prepared: Prepared, source: Source) -> Encoder:
        """Return the saved model as the one in memory computes."""
        loaded = super()._reopen(prepared, source)
        if loaded.new_weights:
            raise RunError(f"{source.folder} lacks {joined(loaded.new_weights, most=3)}. Please report this.")
        if not prepared.train.compile:
            _masked_lm(prepared.adapter).selection.install(loaded.model)
        return loaded

    def _keep(self, run: Run, prepared: Prepared, name: str, predictions: Sequence[Prediction]) -> None:
        """Keep no predictions: they are of tokens, and the scores say what they are worth."""

    def _place(self, run: Run, adapter: Adapter, scores: dict[str, Any], constant: dict[str, str]) -> None:
        """Put no baselines beside the scores: there are none."""
        run.record |= {"baselines": {}, "constant": {}, "warnings": []}

    def _result(self, run: Run, *rest: Any, **options: Any) -> Finetuned:
        """Return what came of it, under the name of what it began with."""
        return replace(super()._result(run, *rest, **options), encoder=run.record["encoder"])

    def _card(self, run: Run, scores: dict[str, Any], best_step: int) -> str:
        """Return the model card."""
        return card.render_pretrained(run.record, scores["validation"], best_step=best_step)


def new_tokenizer(texts: corpus.Texts, size: int, *, lowercase: bool, max_length: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer trained on texts, or the one that was kept of the same texts.

    Either is read from its files, as it will be from the model's.
    """
    code = hashlib.sha256(Path(vocabulary.__file__).read_bytes()).hexdigest()
    facts = [texts.hash(), size, lowercase, max_length, code, metadata.version("tokenizers")]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    features = cache.folder()
    place = features.with_name(f"{features.name}-tokenizers") if features else None
    if place and (place / key).is_dir():
        with suppress(ModelError):
            return encoder.load_tokenizer(Source(name="the kept tokenizer", folder=place / key))
    made = vocabulary.train(texts, size, lowercase=lowercase, max_length=max_length)
    with TemporaryDirectory(prefix="bertkit-tokenizer-") as folder:
        made.save_pretrained(folder)
        if place:
            _keep_folder(Path(folder), place / key)
        return encoder.load_tokenizer(Source(name="the new tokenizer", folder=Path(folder)))


def _keep_folder(folder: Path, kept: Path) -> None:
    """Copy a folder beside its place and rename it; a cache that cannot be written is none."""
    beside = kept.with_name(f".{uuid4().hex}")
    with suppress(OSError):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, beside)
        beside.rename(kept)
    shutil.rmtree(beside, ignore_errors=True)


def reading_of(settings: PretrainConfig) -> corpus.Reading:
    """Return how a corpus is read."""
    return corpus.Reading(
        layout="" if settings.layout == "auto" else settings.layout,
        column=settings.column,
        sentences=settings.sentences,
        words="" if settings.words == "none" else settings.words,
        name=settings.name,
        split=settings.split,
        revision=settings.revision,
    )


def _require_positions(source: Source, max_length: int) -> None:
    """Refuse rows that are longer than an encoder has positions for, before a corpus is read.

    Raises:
        ConfigError: naming both.
    """
    positions = encoder.stored_positions(source.folder)
    if positions is not None and max_length > positions:
        raise ConfigError(f"train.max_length is {max_length}, and {source.name} has positions for {positions} tokens.")


def _adapter(request: PretrainRequest) -> MaskedLm:
    train = config.build(TrainConfig, MaskedLm.defaults, request.task.settings.get("train", {}))
    return MaskedLm(request.task, train, pretrain=request.pretrain)


def _masked_lm(adapter: Adapter) -> MaskedLm:
    assert isinstance(adapter, MaskedLm)
    return adapter


def _is_lost(place: str) -> bool:
    """Say whether a place is a file or folder that is not there; a Hub data set is ``owner/name``."""
    path = Path(place).expanduser()
    hub = passages.HUB_NAME.fullmatch(place) and not path.parent.is_dir()
    return not path.exists() and not hub
