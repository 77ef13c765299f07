"""A small Hub on loopback: serves folders as model and data set repositories to the real clients.

A repository is a folder, ``ROOT/models/OWNER/NAME`` or ``ROOT/datasets/OWNER/NAME``; another revision of it is a
folder beside it, ``NAME@refs%2Fpr%2F1``. The commit is a hash of the content, so a changed file is a new commit.

>>> with serve(root) as hub:
...     subprocess.run([...], env=hub.env(tmp_path))
...     assert hub.requests
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

ALWAYS = -1
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>.+?)"
    r"(?:/(?P<verb>revision|tree|paths-info|refs|discussions)(?:/(?P<rest>.*))?)?"
)
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
LINKED = (".safetensors", ".bin", ".parquet", ".model")
"""Suffixes that the Hub keeps in large-file storage: their metadata goes by other names."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong. ``on`` is a regular expression over ``"GET /path"`` that limits the first three."""

    unavailable: int = 0
    """Answer 503 to so many requests first; :data:`ALWAYS` never stops."""
    delay: float = 0.0
    """Seconds before an answer."""
    cut: int | None = None
    """Close the connection after so many bytes of a file's body."""
    cut_times: int = ALWAYS
    """How often to do so."""
    on: str = ""
    gated: Mapping[str, int] = field(default_factory=dict)
    """repository -> 401 or 403, which its files answer."""
    private: frozenset[str] = frozenset()
    """Repositories that are there only for who sends :attr:`token`."""
    token: str = ""


class Hub(ThreadingHTTPServer):
    """The running server."""

    daemon_threads = True

    def __init__(self, root: Path, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults = faults
        self.requests: list[str] = []
        """``"GET /api/models/a/b"``, without the query, in the order of arrival."""
        self.authorizations: list[str] = []
        """The ``Authorization`` header of each of them, or an empty text."""
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._left = {"unavailable": faults.unavailable, "cut": faults.cut_times}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """Return an environment for a subprocess whose only Hub is this one and whose cache is ``home``."""
        return environment(home, HF_ENDPOINT=self.url, **more)

    def forget(self) -> None:
        """Empty the log of requests."""
        self.requests.clear()
        self.authorizations.clear()

    def note(self, request: str, authorization: str) -> None:
        with self._lock:
            self.requests.append(request)
            self.authorizations.append(authorization)

    def spend(self, fault: str) -> bool:
        """Say whether ``fault`` is still due, and count it."""
        with self._lock:
            left = self._left[fault]
            self._left[fault] = left - 1 if left > 0 else left
            return left != 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing on stderr."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        form = parse_qs(self.rfile.read(length).decode()) if length else {}
        address = urlsplit(self.path)
        request = f"{self.command} {unquote(address.path)}"
        self.server.note(request, self.headers.get("Authorization", ""))
        faulty = re.search(self.server.faults.on, request) is not None
        if faulty and self.server.faults.delay:
            self.server.stopping.wait(self.server.faults.delay)
        if faulty and self.server.spend("unavailable"):
            self.send_error_json(503, "", "Service Unavailable")
        elif match := API.fullmatch(address.path):
            self.answer_api(match["kind"], unquote(match["repo"]), match["verb"] or "", match["rest"] or "", form)
        elif match := FILE.fullmatch(address.path):
            kind = "datasets" if match["kind"] else "models"
            self.answer_file(kind, match["repo"], unquote(match["revision"]), unquote(match["path"]), faulty)
        else:
            self.send_error_json(404, "", "no such address")

    def answer_api(self, kind: str, repo: str, verb: str, rest: str, form: Mapping[str, list[str]]) -> None:
        if not self.may_see(kind, repo):
            return
        if verb == "refs":
            self.send_json({"branches": [], "converts": [], "tags": [], "pullRequests": []})
        elif verb == "discussions":
            self.send_json(discussions(self.server.root / kind, repo))
        else:
            name, _, path = rest.partition("/")
            folder = self.folder(kind, repo, unquote(name) or "main")
            if folder is None:
                return
            if verb == "tree":
                self.answer_tree(folder, unquote(path))
            elif verb == "paths-info":
                self.send_json([entry(folder, p) for p in form.get("paths", []) if (folder / p).exists()])
            else:
                self.send_json(info(folder, repo))

    def answer_tree(self, folder: Path, path: str) -> None:
        if not (folder / path).exists():
            self.send_error_json(404, "EntryNotFound", f"{path} does not exist")
            return
        recursive = "recursive=true" in self.path.lower()
        found = (folder / path).rglob("*") if recursive else (folder / path).iterdir()
        self.send_json([entry(folder, str(p.relative_to(folder))) for p in sorted(found)])

    def answer_file(self, kind: str, repo: str, revision: str, path: str, faulty: bool) -> None:
        gate = self.server.faults.gated.get(repo)
        if gate:
            self.send_error_json(gate, "GatedRepo", f"Access to {kind[:-1]} {repo} is restricted.")
            return
        folder = self.folder(kind, repo, revision) if self.may_see(kind, repo) else None
        if folder is None:
            return
        if not (folder / path).is_file():
            self.send_error_json(404, "EntryNotFound", f"{path} does not exist", **{"X-Repo-Commit": commit(folder)})
            return
        self.send_file(folder, path, cut=self.server.faults.cut if faulty else None)

    def send_file(self, folder: Path, path: str, *, cut: int | None) -> None:
        body = (folder / path).read_bytes()
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, "0"])[1])
        self.send_response(206 if start else 200)
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers = {"X-Repo-Commit": commit(folder), "ETag": tag, "Accept-Ranges": "bytes"}
        if path.endswith(LINKED):
            headers |= {"X-Linked-Size": str(len(body)), "X-Linked-Etag": tag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        for name, value in (headers | {"Content-Length": str(len(body) - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None and cut < len(body) - start and self.server.spend("cut"):
            self.wfile.write(body[start : start + cut])
            self.close_connection = True
        else:
            self.wfile.write(body[start:])

    def may_see(self, kind: str, repo: str) -> bool:
        """Answer as the Hub does for what is not there: 401 to strangers, 404 to who is logged in."""
        token = self.server.faults.token
        known = self.headers.get("Authorization", "") == f"Bearer {token}" if token else False
        there = (self.server.root / kind / repo).is_dir()
        if there and (repo not in self.server.faults.private or known):
            return True
        self.send_error_json(404 if known else 401, "RepoNotFound", "Repository not found")
        return False

    def folder(self, kind: str, repo: str, revision: str) -> Path | None:
        base = self.server.root / kind / repo
        found = [base, *sorted(base.parent.glob(f"{base.name}@*"))]
        for folder in found:
            name = unquote(folder.name.partition("@")[2]) or "main"
            if revision in (name, commit(folder)):
                return folder
        self.send_error_json(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error_json(self, status: int, code: str, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self.send_json({"error": message}, status, **named, **headers)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def commit(folder: Path) -> str:
    """Return 40 hex digits that change whenever a file of the repository does."""
    total = hashlib.sha1(folder.name.encode())
    for path in files_of(folder):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def info(folder: Path, repo: str) -> dict[str, Any]:
    siblings = [{"rfilename": str(path.relative_to(folder))} for path in files_of(folder)]
    return {"id": repo, "sha": commit(folder), "siblings": siblings, "private": False, "tags": [], "downloads": 0}


def entry(folder: Path, path: str) -> dict[str, Any]:
    place = folder / path
    if place.is_dir():
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    body = place.read_bytes()
    row = {"type": "file", "oid": hashlib.sha1(body).hexdigest(), "size": len(body), "path": path}
    if path.endswith(LINKED):
        row["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return row


def discussions(base: Path, repo: str) -> dict[str, Any]:
    """List a pull request for every revision ``refs/pr/N``."""
    numbers = [int(folder.name.rpartition("%2F")[2]) for folder in base.glob(f"{repo}@refs%2Fpr%2F*")]
    rows = [
        {
            "title": "Adding `safetensors` variant of this model",
            "num": number,
            "author": {"name": "SFconvertbot"},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "status": "open",
            "repo": {"name": repo, "type": "model"},
            "isPullRequest": True,
        }
        for number in sorted(numbers)
    ]
    return {"discussions": rows, "count": len(rows), "start": 0}


@contextmanager
def serve(root: Path, **faults: Any) -> Iterator[Hub]:
    """Serve the repositories below ``root`` on loopback until the block ends; ``faults`` as in :class:`Faults`."""
    hub = Hub(Path(root), Faults(**faults))
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopping.set()
        hub.shutdown()
        hub.server_close()
        thread.join(5)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return this environment without what would lead to another Hub, cache, token or proxy."""
    led = re.compile(r"HF_|HUGGING|XDG_CACHE|TRANSFORMERS_|(https?|all|no)_proxy$", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not led.match(name)}
    return kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}


def repository(root: Path, name: str, *, kind: str = "models", revision: str = "main") -> Path:
    """Make and return the folder of a repository; whatever is put there is served."""
    folder = root / kind / (name if revision == "main" else f"{name}@{quote(revision, safe='')}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


MODEL_FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"weights" * 20_000,
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b'{"do_lower_case": true}',
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "modeling_custom.py": b"raise RuntimeError('code of a stranger ran')\n",
    "onnx/model.onnx": b"onnx",
    "README.md": b"# a model\n",
}
"""A repository that has all that a model repository may have; nothing in it can be loaded."""


def make_model_repo(root: Path, name: str, files: Mapping[str, bytes] = MODEL_FILES, *, revision: str = "main") -> Path:
    """Write a model repository of these files."""
    folder = repository(root, name, revision=revision)
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


SUBJECTS = ("The kettle", "This film", "Her third novel", "The ferry", "Our guide", "The keyboard", "That soup")
PRAISE = ("works a treat", "held me to the end", "is a small wonder", "was worth every penny", "left us smiling")
BLAME = ("broke within a week", "bored me to tears", "is a sorry mess", "was late and cold", "left us puzzled")
CARD = """---
configs:
{configs}
dataset_info:
{infos}
---

# A small GLUE
"""
CONFIG = """- config_name: {name}
  data_files:
"""
INFO = """- config_name: {name}
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': {negative}
          '1': {positive}
  - name: idx
    dtype: int32
  splits:
"""


def make_glue_repo(root: Path, sizes: Mapping[str, int], *, name: str = "nyu-mll/glue") -> Path:
    """Write a data set repository laid out like ``nyu-mll/glue``, with the configurations ``cola`` and ``sst2``.

    Args:
        root: the folder that :func:`serve` serves.
        sizes: split -> rows; the labels of ``test`` are hidden (-1).
        name: the repository.
    """
    folder = repository(root, name, kind="datasets")
    labels = {"cola": ("unacceptable", "acceptable"), "sst2": ("negative", "positive")}
    configs = infos = ""
    for config, names in labels.items():
        configs += CONFIG.format(name=config)
        infos += INFO.format(name=config, negative=names[0], positive=names[1])
        for split, size in sizes.items():
            write_parquet(folder / config / f"{split}-00000-of-00001.parquet", names, size, hidden=split == "test")
            configs += f"  - split: {split}\n    path: {config}/{split}-*\n"
            infos += f"  - name: {split}\n    num_bytes: {size * 40}\n    num_examples: {size}\n"
    (folder / "README.md").write_text(CARD.format(configs=configs.rstrip(), infos=infos.rstrip()), encoding="utf-8")
    return folder


def write_parquet(path: Path, names: tuple[str, str], size: int, *, hidden: bool) -> None:
    """Write invented sentences, with ``names`` as the label's names in the schema, as ``datasets`` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Value

    features = Features({"sentence": Value("string"), "label": ClassLabel(names=list(names)), "idx": Value("int32")})
    columns = {
        "sentence": [sentence(index) for index in range(size)],
        "label": [-1 if hidden else index % 2 for index in range(size)],
        "idx": list(range(size)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=features.arrow_schema), path)


def sentence(index: int) -> str:
    """Return an invented sentence, praise where ``index`` is odd."""
    endings = PRAISE if index % 2 else BLAME
    return f"{SUBJECTS[index % len(SUBJECTS)]} {endings[index // 2 % len(endings)]}, visit {index}."
