"""Hosts on the bridge: a set of namespaces, kept by a process, that commands are run in."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster import network
from cluster.cgroups import Group, remove_everywhere
from cluster.commands import Done, run, wait_until
from cluster.errors import ClusterError
from cluster.spec import ClusterSpec

_BOOT_WITHIN_S = 20.0


class Host:
    """Something with namespaces of its own that commands can be run in.

    Args:
        name: its cgroup, and in errors.
        namespaces: which of net, mount, uts it has of its own.
    """

    namespaces: Sequence[str] = ("net",)

    def __init__(self, name: str) -> None:
        self.name = name
        self.keeper = Group(f"{name}/keeper")

    @property
    def runs(self) -> bool:
        """Whether it is up."""
        return bool(self.keeper.pids)

    @property
    def pid(self) -> int:
        """A process that is in its namespaces.

        Raises:
            ClusterError: it is down.
        """
        pids = self.keeper.pids
        if not pids:
            raise ClusterError(f"{self.name} is down", hint="start it first")
        return pids[0]

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` as it runs in its namespaces and its cgroup."""
        enter = ["nsenter", "--target", str(self.pid), *(f"--{each}" for each in self.namespaces), "--"]
        return Group(f"{self.name}/commands").command([*enter, *map(str, argv)])

    def run(
        self, *argv: str | Path, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> Done:
        """Run a command there and wait for it.

        Raises:
            ClusterError: it failed or took too long.
        """
        return run(self._ready(argv), check=check, stdin=stdin, timeout=timeout)

    def popen(self, *argv: str | Path, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command there; its output goes to `log`, or to pipes. End it with `end`."""
        words = self._ready(argv)
        if log is None:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        with log.open("ab") as output:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def kill(self) -> None:
        """End it as if its power were cut: every process, its namespaces, its cgroups."""
        remove_everywhere(self.name)

    def _ready(self, argv: Sequence[str | Path]) -> list[str]:
        words = self.command(argv)
        Group(f"{self.name}/commands").path.mkdir(exist_ok=True)
        return words


def end(process: subprocess.Popen[bytes], within: float = 10) -> bytes:
    """Interrupt a process that `Host.popen` started, and return what it wrote to its pipe."""
    process.send_signal(signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return output or b""


class Client(Host):
    """A host outside the cluster, on its nodes' network: where clients of NodePorts and VIPs are."""

    def __init__(self, spec: ClusterSpec) -> None:
        super().__init__(f"{spec.name}-client")
        self._spec = spec
        self.address = spec.client_address

    def start(self) -> None:
        """Start it, unless it runs."""
        connected = self._spec.state / "client-connected"
        if self.runs and connected.exists():
            return
        self.kill()
        connected.unlink(missing_ok=True)
        self.keeper.start(["unshare", "--net", "sleep", "infinity"], self._spec.logs / "client.log")
        ours = Path("/proc/self/ns/net").stat().st_ino

        def apart() -> bool:
            return self.runs and Path(f"/proc/{self.pid}/ns/net").stat().st_ino != ours

        wait_until(apart, "the client's network namespace", _BOOT_WITHIN_S)
        network.connect(self._spec, f"{self._spec.name}-vc", self.pid, self.address)
        connected.touch()
