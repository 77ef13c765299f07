"""``--offline``: all that is missing is named before anything is done, and no socket is opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bertkit
from bertkit import trackers
from bertkit.errors import BertkitError, ConfigError, DataError, ModelError
from tests.conftest import LEARNING, reviews, write_jsonl
from tests.hub.server import environment

ROOT = Path(bertkit.__file__).parents[1]
REFUSE = """
import os, sys

ASKED = ("__new__", "connect", "bind", "getaddrinfo", "gethostbyname", "sendto")

def refuse(event, arguments):
    if event.startswith("socket.") and event.split(".")[1] in ASKED:
        # urllib3 tries, while it is imported, whether this machine has IPv6: refused too, and no fault of bertkit's.
        if sys._getframe(2).f_code.co_name == "_has_ipv6":
            raise OSError("a socket")
        with open(os.environ["SOCKETS"], "a") as file:
            file.write(f"{event} {arguments!r}\\n")
        raise OSError(f"a socket: {event} {arguments!r}")

sys.addaudithook(refuse)
"""
"""What the interpreter runs first: from then on nothing in the process, C code of Python included, opens a socket."""


@pytest.fixture
def here(tmp_path: Path, tiny_encoder: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    write_jsonl(folder / "reviews.jsonl", reviews(80))
    (folder / "first").mkdir()
    (folder / "first" / "sitecustomize.py").write_text(REFUSE)
    shutil.copytree(tiny_encoder, folder / "encoder")
    return folder


def run(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to which every socket is refused, with a Hub that nothing keeps out but ``--offline``."""
    env = environment(here.parent / "home") | {"SOCKETS": str(here / "sockets.txt")}
    env = {key: value for key, value in env.items() if key not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    env["PYTHONPATH"] = os.pathsep.join([str(here / "first"), str(ROOT)])
    command = [sys.executable, "-m", "bertkit", *arguments]
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=900, check=False)


def asked(here: Path) -> str:
    file = here / "sockets.txt"
    return file.read_text() if file.exists() else ""


@pytest.mark.slow
def test_refusal_of_sockets_works(here: Path) -> None:
    """Were sockets not refused, the tests below would show nothing."""
    done = run(here, "doctor")
    assert "socket." in asked(here)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_whole_way_opens_no_socket(here: Path) -> None:
    over = [part for key, value in LEARNING.items() for part in ("--set", f"{key}={value}")]
    common = ["--threads", "1", "--offline"]
    for command in (
        ["finetune", "reviews.jsonl", "--encoder", "encoder", "--set", "track=tensorboard", *over, *common],
        ["eval", *common],
        ["predict", "reviews.jsonl", "--out", "out.jsonl", *common],
        ["runs", "show", "--json"],
        ["check", "reviews.jsonl", "--encoder", "encoder", *over, "--offline"],
        ["baseline", "reviews.jsonl", "--offline"],
        ["tasks"],
        ["doctor", "--offline"],
    ):
        done = run(here, *command)
        assert done.returncode == 0, (command, done.stderr)
        assert asked(here) == "", command
    assert len((here / "out.jsonl").read_text().splitlines()) == 80


def slow(arguments: list[str], missing: list[str]) -> Any:
    return pytest.param(arguments, missing, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (
            ["finetune", "glue/sst2", "--encoder", "owner/tiny"],
            ["encoder 'owner/tiny'", "data set 'nyu-mll/glue' (sst2)"],
        ),
        (
            ["finetune", "glue/rte,ner/weibo", "--encoder", "owner/tiny"],
            ["encoder 'owner/tiny'", "data set 'nyu-mll/glue' (rte)", "data set 'hltcoe/weibo_ner'"],
        ),
        slow(["eval", "owner/tiny", "--task", "glue/sst2"], ["encoder 'owner/tiny'", "data set 'nyu-mll/glue' (sst2)"]),
        slow(
            ["sweep", "glue/sst2", "--encoder", "owner/tiny"],
            ["encoder 'owner/tiny'", "data set 'nyu-mll/glue' (sst2)"],
        ),
        slow(["check", "glue/sst2"], ["data set 'nyu-mll/glue' (sst2)"]),
        slow(["baseline", "glue/sst2"], ["data set 'nyu-mll/glue' (sst2)"]),
    ],
    ids=lambda value: value[0] if value[0].isalpha() else "",
)
def test_all_that_is_missing_is_named_at_once(here: Path, arguments: list[str], missing: list[str]) -> None:
    done = run(here, *arguments, "--offline")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (1, 1), done.stderr
    assert [what for what in missing if what not in errors[0]] == []
    assert errors[0].count("offline mode (--offline) keeps the Hub out") == 1
    assert "Ways out: " in errors[0]
    assert not (here / "runs").exists()
    assert asked(here) == ""


def test_files_that_are_missing_are_all_named(tmp_path: Path, tiny_encoder: Path) -> None:
    named = 'train = "a.jsonl", validation = "b.jsonl", test = "c.csv"'
    (tmp_path / "task.toml").write_text(f'type = "sequence-classification"\n[data]\nfiles = {{ {named} }}\n')
    write_jsonl(tmp_path / "b.jsonl", reviews(4))
    with pytest.raises(DataError, match=r"There is no file \S+a\.jsonl\..* Also: There is no file \S+c\.csv\."):
        bertkit.finetune(tmp_path / "task.toml", encoder=tiny_encoder, offline=True)
    with pytest.raises(BertkitError, match=r"/none is not a folder.*Also: .*a\.jsonl.*Also: .*c\.csv"):
        bertkit.finetune(tmp_path / "task.toml", encoder="/none", offline=True)


def test_encoder_without_a_tokenizer_is_named_at_once(tmp_path: Path, tiny_encoder: Path) -> None:
    own = Path(shutil.copytree(tiny_encoder, tmp_path / "own"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).unlink()
    with pytest.raises(
        ModelError, match=r"own holds no tokenizer \(tokenizer\.json, .* Also: There is no file .*no\.jsonl"
    ):
        bertkit.finetune(tmp_path / "no.jsonl", encoder=own, offline=True, settings={"type": "sequence-classification"})


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every tracker look installed, to trackers alone."""
    monkeypatch.setattr(trackers, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: object())))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("wandb", {"WANDB_MODE": "online"}),
        ("trackio", {"TRACKIO_SPACE_ID": "me/space"}),
        ("mlflow", {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}),
    ],
)
def test_tracker_that_would_send_is_refused(
    name: str, setting: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    for variable in ("WANDB_MODE", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    trackers.check([name], offline=True)
    for variable, value in setting.items():
        monkeypatch.setenv(variable, value)
    trackers.check([name])
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} has {name} send .* --offline asks no network"):
        trackers.check([name], offline=True)


def test_tracker_that_keeps_a_database_here_is_none_that_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    for address in ("sqlite:///mlflow.db", "file:///tmp/mlruns", "mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        trackers.check(["mlflow"], offline=True)


def test_tracker_is_refused_beside_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "online")
    settings: dict[str, Any] = {"type": "sequence-classification", "track": ["wandb"]}
    with pytest.raises(
        ConfigError, match=r"WANDB_MODE has wandb send .* Also: /none is not a folder\. .* Also: There is no"
    ):
        bertkit.finetune(tmp_path / "no.jsonl", encoder="/none", offline=True, settings=settings)
