"""`make multinode` in part, where the machine lets it; and what its script and the guide must agree on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.multinode import guide, hosts, scenarios
from tests.multinode.__main__ import main


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [scenarios.curve, scenarios.machine_killed], ids=lambda found: found.__name__)
def test_two_hosts_train_as_one_does(scenario: Callable[..., str], tmp_path: Path) -> None:
    if lacks := hosts.missing():
        pytest.skip(f"this machine lacks {lacks}")
    assert "bit for bit" in scenarios.show(scenarios.Stage(tmp_path), scenario)


def test_machine_without_the_tools_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["multinode"])
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    monkeypatch.setattr("sys.platform", "linux")
    assert main() == 1
    assert "nothing was shown: this machine lacks the commands ip, unshare" in capsys.readouterr().err


def test_user_without_rights_shows_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["multinode"])
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main() == 1
    assert "nothing was shown: this machine lacks root, to make network namespaces" in capsys.readouterr().err


def test_commands_of_the_guide_are_what_is_run() -> None:
    variables, words = guide.shell("torchrun")
    assert variables == {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    found = guide.adapted(words, ["rows.jsonl"])
    assert found[1:3] == ["-m", "torch.distributed.run"]
    assert found[found.index("--nproc-per-node") + 1] == "1"
    assert found[found.index("--rdzv-endpoint") + 1] == "node1:29400"
    assert found[-5:] == ["bertkit", "finetune", "rows.jsonl", "--out", guide.RUN]
    _, words = guide.shell("accelerate")
    found = guide.adapted(words, ["rows.jsonl"], {"--machine_rank": "1"})
    assert found[found.index("--machine_rank") + 1] == "1"
    assert guide.step_of_slurm()[:4] == ["python", "-m", "bertkit", "finetune"]


def test_job_of_the_guide_is_whole() -> None:
    variables, words, names = guide.pod()
    assert variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert names == ["sst2-0.sst2", "sst2-1.sst2"]
    assert f"--rdzv-endpoint={names[0]}:29400" in words
    assert "--nproc-per-node=1" in guide.adapted(words, ["rows.jsonl"])


@pytest.mark.slow
def test_hosts_leave_nothing_behind(tmp_path: Path) -> None:
    if lacks := hosts.missing():
        pytest.skip(f"this machine lacks {lacks}")
    started: list[hosts.Command] = []

    def interrupted() -> None:
        with hosts.two(tmp_path) as (one, other):
            started.append(one.start("sleep", "1000"))
            started.append(other.start("sleep", "1000"))
            assert one.namespace in hosts.ip("netns", "list")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(command.process.poll() is not None for command in started)
    assert f"bertkit-{os.getpid()}-" not in hosts.ip("netns", "list")
