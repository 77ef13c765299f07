"""A corpus for pre-training: text of any size as token ids on disk, mapped into memory.

Text is read in a stream (:mod:`bertkit.data.passages`), cut into sentences (:mod:`bertkit.data.sentences`), tokenised
in chunks by the fast tokenizer and written to arrays in a folder that is named by the hash of text, tokenizer and
:class:`~bertkit.data.passages.Reading`. The folder is written beside and renamed, so that it is whole or not there;
the next time it is used as it is. What is in memory at one time is one chunk of text.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from itertools import chain, pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import finalize

import numpy as np

from bertkit.data.passages import Reading as Reading
from bertkit.data.passages import Source, passages, sources
from bertkit.data.sentences import Piece, Splitter
from bertkit.data.subwords import UNSPACED
from bertkit.errors import MALFORMED, DataError, ModelError
from bertkit.events import Event, Listener, Note, Progress, ignore, once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Of the folders; one of another number is made anew."""
CHUNK = 2_000_000
"""Characters that are tokenised at one time; what is in memory for it are some hundred megabytes."""
MOST_BYTES = 16 * 1024**3
"""What all corpora in the cache may have together; beyond, those that were not used for longest are removed. The one
in use is kept whatever its size."""
ABOUT = "corpus.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Documents as token ids; special tokens not among them.

    Arrays are mapped files and may be larger than the memory. A corpus may be a part of one: ``documents`` says which.
    """

    ids: np.ndarray = field(repr=False)
    """``(N,)`` uint16 or uint32, all tokens of the folder, document after document."""
    sentence_starts: np.ndarray = field(repr=False)
    """``(S + 1,)`` int64: where each sentence begins in ``ids``, ascending; the last is N."""
    document_starts: np.ndarray = field(repr=False)
    """``(D + 1,)`` int64: where each document begins in ``sentence_starts``, ascending; the last is S."""
    documents: np.ndarray = field(repr=False)
    """``(D',)`` int64: which of the D documents are meant, ascending."""
    hash: str
    """SHA-256 of text, tokenizer and reading, and of the split where it is a part."""
    continues: np.ndarray | None = field(default=None, repr=False)
    """``(N,)`` uint8: 1 where a token goes on with the Chinese word before it; None where nobody asked."""
    num_empty: int = 0
    """Documents of the whole corpus without a token, left out."""
    _keeps: Any = field(default=None, repr=False)
    """The temporary folder, where it is one: it is removed when the last corpus of it is forgotten."""

    @property
    def num_documents(self) -> int:
        """Return the documents that are meant."""
        return len(self.documents)

    @property
    def num_sentences(self) -> int:
        """Return the sentences of the documents that are meant."""
        return int((self.document_starts[self.documents + 1] - self.document_starts[self.documents]).sum())

    @property
    def num_tokens(self) -> int:
        """Return the tokens of the documents that are meant."""
        return int(self.sizes().sum())

    def sizes(self) -> np.ndarray:
        """Return the tokens of each document that is meant, ``(D',)`` int64."""
        starts = self.sentence_starts[self.document_starts[self.documents]]
        return np.asarray(self.sentence_starts[self.document_starts[self.documents + 1]] - starts)

    def split(self, valid_share: float, seed: int) -> tuple[Corpus, Corpus]:
        """Return two parts, train and validation: whole documents, drawn by the seed.

        Args:
            valid_share: of the tokens, more than 0 and less than 1. Documents are taken in a random order while they
                fit; the smallest where none does.
            seed: of the draw.

        Raises:
            DataError: if there are fewer than two documents.
        """
        if self.num_documents < 2:
            raise DataError(
                "The corpus has one document, so none can be held out: name a text for it with --valid FILE, or say "
                "how documents are told apart (pretrain.layout)."
            )
        sizes = self.sizes()
        held = np.zeros(len(sizes), dtype=bool)
        held[_fitting(sizes, valid_share * sizes.sum(), np.random.default_rng(seed))] = True
        return self._part(~held, f"train {valid_share} {seed}"), self._part(held, f"valid {valid_share} {seed}")

    def _part(self, chosen: np.ndarray, about: str) -> Corpus:
        found = hashlib.sha256(f"{self.hash} {about}".encode()).hexdigest()
        return replace(self, documents=self.documents[chosen], hash=found)


def _fitting(sizes: np.ndarray, budget: float, rng: np.random.Generator) -> list[int]:
    """Return documents in a random order while they fit, at least the smallest, and never all."""
    chosen: list[int] = []
    smallest = int(sizes.min())
    for place in map(int, rng.permutation(len(sizes))):
        if budget < smallest or len(chosen) == len(sizes) - 1:
            break
        if sizes[place] <= budget:
            chosen.append(place)
            budget -= int(sizes[place])
    return chosen or [int(sizes.argmin())]


def load(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache: Path | None,
    reading: Reading | None = None,
    offline: bool = False,
    listen: Listener = ignore,
    beside: Corpus | None = None,
) -> Corpus:
    """Return a corpus: from the cache where it is there, else read, tokenised and kept.

    Of two processes that want the same one, the second waits.

    Args:
        paths: files (``.jsonl .csv .tsv .parquet``, all but the last also with ``.gz``; any other suffix is text, also
            with ``.gz``), folders of them (all files, hidden ones left out, sorted by name), or Hub data sets,
            ``owner/name``.
        tokenizer: a fast one.
        cache: the folder of :func:`bertkit.data.cache.folder`; corpora are beside it. Where None, the arrays are in a
            temporary folder as long as the corpus is.
        reading: how to read.
        offline: do not ask the Hub.
        listen: is told progress (documents so far) and notes; the notes also where it is in the cache.
        beside: another one that is in use, and stays in the cache.

    Raises:
        DataError: if something cannot be read (with file:line), there is no text, or the disk is full.
        ConfigError: if the segmenter is wanted and not installed.
        ModelError: if the tokenizer is not a fast one.
    """
    reading = reading or Reading()
    found = sources(paths)
    backend = _backend(tokenizer)
    key = _key(found, backend, reading, offline=offline)

    def build(folder: Path) -> None:
        with closing(_Building(folder, backend, reading, listen)) as building:
            building.run(found, offline=offline)

    if cache is None:
        temporary = _Temporary()
        with _disk(temporary.folder):
            build(temporary.folder)
        return replace(_opened(temporary.folder, key), _keeps=temporary)
    keep = (key, beside.hash) if beside else (key,)
    return _kept(cache.with_name(f"{cache.name}-corpora"), keep, build, listen)


class _Temporary:
    """A folder that goes with the last corpus that is in it; without the warning of Python's own."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="bertkit-corpus-"))
        finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


class Texts:
    """The text of a corpus, line by line, in a stream that can be begun anew."""

    def __init__(self, found: list[Source], reading: Reading, *, offline: bool, listen: Listener) -> None:
        self._found, self._reading, self._offline, self._listen = found, reading, offline, listen

    def hash(self) -> str:
        """Return a SHA-256 of what the text is read from, and how."""
        total = hashlib.sha256(json.dumps(asdict(self._reading), sort_keys=True).encode())
        for source in self._found:
            total.update(f"\n{source.suffix} {_content(source, self._reading, offline=self._offline)}".encode())
        return total.hexdigest()

    def __iter__(self) -> Iterator[str]:
        splitter = Splitter("lines", "spaces" if self._reading.words == "spaces" else "")
        for passage in passages(self._found, self._reading, offline=self._offline, listen=self._listen):
            for piece in splitter.pieces(passage.text):
                yield piece.text


def texts(
    paths: Sequence[str | Path], *, reading: Reading | None = None, offline: bool = False, listen: Listener = ignore
) -> Texts:
    """Return the text of a corpus: what :func:`bertkit.vocabulary.train` learns from.

    Args:
        paths: as for :func:`load`, and so are the others; notes are told the first time the text is read.

    Raises:
        DataError: if there is nothing; iterating raises it if something cannot be read.
    """
    return Texts(sources(paths), reading or Reading(), offline=offline, listen=once(listen))


# What a corpus is made from -------------------------------------------------------------------------------------


def _backend(tokenizer: Any) -> Any:
    """Return a copy of the fast tokenizer that cuts, pads and adds nothing, and reads ``[MASK]`` in a text as text."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"The tokenizer {type(tokenizer).__name__} is not a fast one, which a corpus needs: take an encoder with "
            "a tokenizer.json."
        )
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _key(found: Iterable[Source], backend: Any, reading: Reading, *, offline: bool) -> str:
    """Return the SHA-256 of all that decides what the arrays hold."""
    about = {"format": FORMAT, "reading": asdict(reading), "sentencex": metadata.version("sentencex")}
    if reading.words == "segmenter":
        with suppress(metadata.PackageNotFoundError):  # building says what to install
            about["rjieba"] = metadata.version("rjieba")
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    total.update(hashlib.sha256(backend.to_str().encode()).digest())
    for source in found:
        total.update(f"\n{source.suffix} {_content(source, reading, offline=offline)}".encode())
    return total.hexdigest()


def _content(source: Source, reading: Reading, *, offline: bool) -> str:
    """Return what tells the content of a source from any other."""
    if source.path is None:
        from bertkit.data import hub

        commit = hub.data_commit(source.hub, name=reading.name, revision=reading.revision, offline=offline)
        return f"{source.hub} {commit}"
    try:
        with source.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{source.path} cannot be read: {error.strerror or error}.") from error


# The cache ------------------------------------------------------------------------------------------------------


def _kept(place: Path, keep: Sequence[str], build: Callable[[Path], None], listen: Listener) -> Corpus:
    """Return the corpus in ``place / keep[0]``, made if it is not there, or not whole; the others of ``keep`` stay."""
    from filelock import FileLock

    key = keep[0]
    folder = place / key
    with _disk(place):
        # What is there is whole, so that only building takes a lock, and a cache that cannot be written serves too.
        if (found := _whole(folder, key, listen)) is not None:
            return found
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(place / f".{key}.lock"):
            if (found := _whole(folder, key, listen)) is not None:
                return found
            _make(folder, build)
            _bound(place, keep)
            return _opened(folder, key)


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The corpus cannot be kept in {place}: {error.strerror or error}. Make room there, or set BERTKIT_CACHE "
            "to another folder."
        ) from error


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    """Build beside and rename."""
    beside = folder.with_name(f".{uuid4().hex}")
    beside.mkdir(mode=0o700)
    try:
        build(beside)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _whole(folder: Path, key: str, listen: Listener) -> Corpus | None:
    """Return the corpus of a folder, and tell its notes; None where there is none, or one that is damaged."""
    try:
        about = _about(folder)
        for name, expected in about["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return None
        found = _opened(folder, key)
    except (OSError, *MALFORMED):
        return None
    for message in about["notes"]:
        listen(Note(message=message))
    with suppress(OSError):  # another user's folder, which several share, is read and not touched
        os.utime(folder)
    return found


def _about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return found


def _opened(folder: Path, key: str) -> Corpus:
    """Map the arrays of a folder."""
    about = _about(folder)

    def mapped(name: str, dtype: str) -> np.ndarray:
        return np.memmap(folder / name, dtype=dtype, mode="r")

    return Corpus(
        ids=mapped("ids", about["dtype"]),
        sentence_starts=mapped("sentences", "int64"),
        document_starts=mapped("documents", "int64"),
        documents=np.arange(about["documents"], dtype=np.int64),
        hash=key,
        continues=mapped("continues", "uint8") if "continues" in about["files"] else None,
        num_empty=about["empty"],
    )


def _bound(place: Path, keep: Sequence[str]) -> None:
    """Remove the corpora that were not used for longest until the others are small enough; not those of ``keep``."""
    found = []
    total = 0
    for folder in place.iterdir():
        # Another process may remove it in the meantime.
        with suppress(OSError):
            if folder.is_dir() and not folder.name.startswith("."):
                size = sum(file.stat().st_size for file in folder.iterdir())
                if folder.name in keep:
                    total += size
                else:
                    found.append((folder.stat().st_mtime, size, folder))
    for _, size, folder in sorted(found, reverse=True):
        total += size
        if total > MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
            (place / f".{folder.name}.lock").unlink(missing_ok=True)


# Building -------------------------------------------------------------------------------------------------------


class _Array:
    """A file that arrays are appended to, and its SHA-256."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.file = path.open("wb")
        self.dtype = np.dtype(dtype)
        self.digest = hashlib.sha256()

    def add(self, values: np.ndarray | Sequence[int]) -> None:
        data = np.ascontiguousarray(values, dtype=self.dtype).tobytes()
        self.file.write(data)
        self.digest.update(data)

    def close(self) -> str:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return self.digest.hexdigest()


class _Building:
    """Writes the arrays of a corpus into a folder."""

    def __init__(self, folder: Path, backend: Any, reading: Reading, listen: Listener) -> None:
        self.folder, self.backend, self.listen = folder, backend, listen
        self.splitter = Splitter(reading.sentences, reading.words)
        self.reading = reading
        self.dtype = "uint16" if max(backend.get_vocab().values()) < 2**16 else "uint32"
        self.gap = _gap(backend)
        self.notes: list[str] = []
        dtypes = {"ids": self.dtype, "sentences": "int64", "documents": "int64"}
        dtypes |= {"continues": "uint8"} if reading.words else {}
        self.arrays = {name: _Array(folder / name, dtype) for name, dtype in dtypes.items()}
        self.tokens = self.sentences = self.documents = self.empty = 0
        self.begun = self.filled = False
        """Whether a document has begun, and has a token."""

    def run(self, found: list[Source], *, offline: bool) -> None:
        """Read, tokenise and write everything.

        Raises:
            DataError: if something cannot be read, or there is no text.
        """
        chunk: list[Piece | None] = []
        size = 0
        for passage in passages(found, self.reading, offline=offline, listen=self._told):
            chunk += [None] if passage.starts else []
            for piece in self.splitter.pieces(passage.text):
                chunk.append(piece)
                size += len(piece.text)
            # Empty documents are few bytes, and many of them are as many.
            size += 1
            if size >= CHUNK:
                self._write(chunk)
                chunk, size = [], 0
        self._write(chunk)
        self._begin(last=True)
        self._finish(", ".join(source.name for source in found[:3]))

    def _told(self, event: Event) -> None:
        """Keep notes: they are told again whenever the corpus is used."""
        if isinstance(event, Note):
            self.notes.append(event.message)
        self.listen(event)

    def _write(self, chunk: list[Piece | None]) -> None:
        """Tokenise pieces, None standing where a document begins, and append them to the arrays."""
        inputs = list(self._inputs(chunk))
        encodings = iter(self.backend.encode_batch([text for text, _ in inputs], add_special_tokens=False))
        shifts = iter(shift for _, shift in inputs)
        parts: list[list[int]] = []
        sentences, documents = array("q"), array("q")
        for piece in chunk:
            if piece is None:
                self._begin()
                continue
            encoding, shift = next(encodings), next(shifts)
            if not (ids := encoding.ids):
                continue
            if not self.filled:
                documents.append(self.sentences + len(sentences))
                self.filled = True
            sentences.extend(self.tokens + place for place in _token_starts(encoding, piece, shift))
            self.tokens += len(ids)
            parts.append(ids)
            if "continues" in self.arrays:
                self.arrays["continues"].add(_continuing(encoding, piece, shift))
        self.arrays["ids"].add(np.fromiter(chain.from_iterable(parts), dtype=self.dtype))
        self.arrays["sentences"].add(sentences)
        self.arrays["documents"].add(documents)
        self.sentences += len(sentences)
        self.documents += len(documents)
        self.listen(Progress(name="tokenising documents", done=self.documents))

    def _inputs(self, chunk: list[Piece | None]) -> Iterator[tuple[str, int]]:
        """Yield each text as it is tokenised, and by how much it is shifted: a space where words begin with one."""
        first = not self.filled
        for piece in chunk:
            if piece is None:
                first = True
                continue
            gap = self.gap if piece.apart and not first else ""
            yield gap + piece.text, len(gap)
            first = False

    def _begin(self, *, last: bool = False) -> None:
        """Begin a document, or end the last one."""
        self.empty += self.begun and not self.filled
        self.begun, self.filled = not last, False

    def _finish(self, names: str) -> None:
        """Close the arrays, and write what they are."""
        if not self.tokens:
            raise DataError(f"There is no text in {names}: each line is empty, or nothing that the tokenizer knows.")
        if self.empty:
            self._told(Note(message=f"{self.empty} empty documents are left out"))
        self.listen(Progress(name="tokenising documents", done=self.documents, total=self.documents))
        self.arrays["sentences"].add([self.tokens])
        self.arrays["documents"].add([self.sentences])
        about = {
            "format": FORMAT,
            "dtype": self.dtype,
            "documents": self.documents,
            "sentences": self.sentences,
            "tokens": self.tokens,
            "empty": self.empty,
            "notes": self.notes,
            "files": {name: array.close() for name, array in self.arrays.items()},
        }
        (self.folder / ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")

    def close(self) -> None:
        """Let the files go, whatever happened."""
        for one in self.arrays.values():
            one.file.close()


def _gap(backend: Any) -> str:
    """Return what stands between two lines of a document: a space, where the tokenizer tells words by it.

    Byte-level BPE gives a word behind a space another token than one at the start of a text.
    """
    one, two = (backend.encode(text, add_special_tokens=False).ids for text in ("a", "a a"))
    return "" if two == one + one else " "


def _token_starts(encoding: Any, piece: Piece, shift: int) -> list[int]:
    """Return at which token each sentence begins, those without a token left out."""
    found = [0]
    for place, end in pairwise([*piece.sentences[1:], len(piece.text)]):
        # A space before it is its own, where it is a token. What the tokenizer drops has none.
        begin = place - piece.text[place - 1].isspace()
        tokens = (encoding.char_to_token(char + shift) for char in range(begin, end))
        token = next((token for token in tokens if token is not None), None)
        if token is not None and token > found[-1]:
            found.append(token)
    return found


def _continuing(encoding: Any, piece: Piece, shift: int) -> np.ndarray:
    """Say of each token whether it goes on with a Chinese word: ``(T,)`` bool."""
    codes = np.frombuffer(piece.text.encode("utf-32-le"), dtype=np.uint32)
    inside = np.zeros(len(codes), dtype=bool)
    for low, high in UNSPACED:
        inside |= (codes >= low) & (codes <= high)
    inside[1:] &= inside[:-1]
    inside[:1] = False
    inside[[place for place in piece.words if place < len(codes)]] = False
    starts = np.maximum(np.array([start for start, _ in encoding.offsets]) - shift, 0)
    return np.asarray(inside[starts])
