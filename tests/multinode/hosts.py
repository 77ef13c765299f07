"""Hosts on one machine: each a network namespace with an address, a host name, processes and a folder of its own.

Nothing is shared but the cable: a host sees neither the loopback nor the processes of another, and works in its own
folder. Killing one is a power cut: all its processes end at once, and with :meth:`Host.unplug` before it not even the
network says goodbye.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "bertkit"
NETWORK = "10.77.0"
"""Of the cable between the hosts; nothing outside of the namespaces sees it."""
TOOLS = ("ip", "unshare", "setpriv", "mount", "hostname")
BOOT = 'hostname "$1" && mount --bind "$2" /etc/hosts && mount --bind "$3" "$4" && cd "$4" && shift 4 && exec "$@"'
PATIENCE = 900.0
"""Seconds after which a command hangs; it takes ten on an idle machine."""


class NotShownError(Exception):
    """A scenario did not come out as it must."""


def missing() -> str:
    """Return what this machine lacks to make hosts; nothing where it lacks nothing."""
    if sys.platform != "linux":
        return "network namespaces, which only Linux has"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"the commands {', '.join(absent)} (Debian: apt-get install iproute2 util-linux hostname)"
    if os.geteuid() != 0:
        return "root, to make network namespaces"
    name = f"{PREFIX}-{os.getpid()}-probe"
    try:
        ip("netns", "add", name)
        _run("ip", "netns", "exec", name, *_isolated(), "true")
    except NotShownError as error:
        return f"a kernel that lets root make namespaces ({error})"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return ""


def _run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NotShownError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout


def ip(*words: str) -> str:
    """Run an ``ip`` command."""
    return _run("ip", *words)


def _isolated() -> list[str]:
    """Return the command before a command that shares neither processes, host name nor mounts with anything."""
    return ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Command:
    """A command that runs on a host."""

    def __init__(self, host: Host, words: list[str], variables: Mapping[str, str]) -> None:
        self.words = words
        self.log = Path(tempfile.mkstemp(prefix="log-", dir=host.folder.parent)[1])
        before = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", host.namespace, *_isolated()]
        disk = str(host.folder.parent / "disk")
        boot = ["sh", "-c", BOOT, "boot", host.name, str(host.names), str(host.folder), disk]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*before, *boot, *words], env=environment(Path(disk)) | dict(variables),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for the end and return the exit code.

        Raises:
            NotShownError: if it does not come.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise NotShownError(f"hangs for {seconds:.0f} s: {self.tail()}") from error

    def tail(self) -> str:
        """Return the last of what it said."""
        return f"{' '.join(self.words)} said:\n{self.said[-3000:]}"

    def kill(self) -> None:
        """End it and all that it started, at once."""
        # The first process of the namespace dies with its parent, and all others with the first.
        self.process.kill()
        self.process.wait()

    def workers(self) -> dict[int, int]:
        """Return rank -> process id of the processes that a launcher started here."""
        import psutil

        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                words, variables = child.cmdline(), child.environ()
                if "RANK" in variables and "finetune" in words and "torch.distributed.run" not in words:
                    found[int(variables["RANK"])] = child.pid
        return found


@dataclass
class Host:
    """One machine."""

    name: str
    namespace: str
    address: str
    folder: Path
    """Its disk: every host finds its own under the same path, ``disk`` beside this, so that none reads another's."""
    names: Path
    """Its ``/etc/hosts``."""
    commands: list[Command] = field(default_factory=list)

    def start(self, *words: object, **variables: str) -> Command:
        """Start a command on this host."""
        command = Command(self, [str(word) for word in words], variables)
        self.commands.append(command)
        return command

    def kill(self) -> None:
        """End all that runs here, at once."""
        for command in self.commands:
            command.kill()
        self.commands.clear()

    def unplug(self) -> None:
        """Pull the cable: nothing arrives any more, and nobody is told."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")

    def plug(self) -> None:
        """Put the cable back."""
        ip("-n", self.namespace, "link", "set", "eth0", "up")


def environment(folder: Path) -> dict[str, str]:
    """Return what a shell on a host has: nothing of this one that a launcher or bertkit reads."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "VIRTUAL_ENV") if name in os.environ}
    own = {"HOME": str(folder), "BERTKIT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return kept | own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def sweep() -> None:
    """Delete namespaces of a script that was killed."""
    for line in ip("netns", "list").splitlines():
        words = line.split()[0].split("-")
        if len(words) == 3 and words[0] == PREFIX and words[1].isdigit() and not Path("/proc", words[1]).exists():
            ip("netns", "delete", "-".join(words))


@contextmanager
def two(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Make two hosts with a cable between them; whatever happens, nothing of them stays behind."""
    sweep()
    addresses = {f"node{number}": f"{NETWORK}.{number}" for number in (1, 2)}
    known = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
    (folder / "disk").mkdir()
    hosts = []
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for number, (name, address) in enumerate(addresses.items(), 1):
            host = Host(name, f"{PREFIX}-{os.getpid()}-{number}", address, folder / name, folder / f"{name}.hosts")
            host.folder.mkdir()
            host.names.write_text(known)
            ip("netns", "add", host.namespace)
            hosts.append(host)
        one, other = hosts
        ip(
            "link",
            "add",
            "eth0",
            "netns",
            one.namespace,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            other.namespace,
        )
        for host in hosts:
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.namespace, "link", "set", device, "up")
        yield one, other
    finally:
        for host in hosts:
            host.kill()
            subprocess.run(["ip", "netns", "delete", host.namespace], check=False)
        signal.signal(signal.SIGTERM, before)


def wait_for(there: Callable[[], bool], *commands: Command, seconds: float = PATIENCE) -> None:
    """Wait until something is so, while commands run.

    Raises:
        NotShownError: if one of them ends, or nothing happens.
    """
    end = time.monotonic() + seconds
    while not there():
        for command in commands:
            if command.process.poll() is not None:
                raise NotShownError(f"ended with {command.process.returncode} too early: {command.tail()}")
        if time.monotonic() > end:
            raise NotShownError("nothing happens: " + "\n".join(command.tail() for command in commands))
        time.sleep(0.02)
