"""The commands of the guide on several machines, as its page has them: what is shown is what is told."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tests.multinode.hosts import ROOT

PAGE = ROOT / "docs/guides/several-machines.md"
BLOCK = r"^<!-- multinode: {} -->\n```[^\n]*\n(.*?)^```"
TASK = "glue/sst2"
RUN = "runs/sst2"
HERE = {
    "--nproc-per-node": "1",
    "--num_processes": "2",
    "--mixed_precision": "no",
}
"""What is given otherwise than in the guide: one process a machine, on a CPU."""
PROGRAMS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    "python": [sys.executable],
}


def block(name: str) -> str:
    """Return the text of a marked block."""
    found = re.search(BLOCK.format(re.escape(name)), PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{PAGE.name} has no block '{name}'"
    return found[1]


def shell(name: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a block of shell commands exports, and the words of its last command."""
    variables: dict[str, str] = {}
    words: list[str] = []
    for line in block(name).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) or words
        if words[:1] == ["export"]:
            variables |= dict(word.split("=", 1) for word in words[1:])
    return variables, words


def step_of_slurm() -> list[str]:
    """Return what the batch script has ``srun`` start."""
    _, words = shell("slurm")
    assert words[0] == "srun", words
    return words[next(place for place, word in enumerate(words[1:], 1) if not word.startswith("-")) :]


def job() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Service and the Job of Kubernetes."""
    import yaml  # type: ignore[import-untyped]

    service, found = yaml.safe_load_all(block("kubernetes"))
    return service, found


def pod() -> tuple[dict[str, str], list[str], list[str]]:
    """Return the variables and the command of a pod, and the names that the Service gives both of them."""
    service, found = job()
    name, spec = found["metadata"]["name"], found["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert spec["subdomain"] == service["metadata"]["name"]
    assert (found["spec"]["completionMode"], found["spec"]["completions"]) == ("Indexed", found["spec"]["parallelism"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    variables = {each["name"]: each["value"] for each in container["env"]}
    names = [f"{name}-{index}.{spec['subdomain']}" for index in range(found["spec"]["completions"])]
    return variables, container["command"], names


def adapted(words: list[str], task: list[str], given: Mapping[str, str] | None = None) -> list[str]:
    """Return a command with this machine's program, options and task in place of the guide's.

    Args:
        words: the guide's.
        task: what is trained in place of the guide's task.
        given: options of one host, with their values.
    """
    options = HERE | dict(given or {})
    found = list(PROGRAMS[words[0]])
    for before, word in pairwise(words):
        name, equals, _ = word.partition("=")
        if before in options:
            found.append(options[before])
        elif word == TASK:
            found += task
        else:
            found.append(f"{name}={options[name]}" if equals and name in options else word)
    return found
