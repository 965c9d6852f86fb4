"""Processes by cgroup: started into one of their own, found by it, and killed with all they started.

A process identifier may be another's tomorrow; a cgroup of ours is ours, and nothing started within gets out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.commands import wait_until
from cluster.errors import ClusterError

_JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
_STOP_WITHIN_S = 20.0


def hierarchies() -> list[Path]:
    """Where cgroups are mounted: v2, and on hybrid machines the v1 controllers."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(where) for _, where, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]


def unified() -> Path:
    """Where cgroup v2 is mounted.

    Raises:
        ClusterError: it is not, or is the only one, which was never tried.
    """
    found = [path for path in hierarchies() if (path / "cgroup.controllers").exists()]
    if not found:
        raise ClusterError("cgroup v2 is not mounted", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    if len(hierarchies()) == 1:
        raise ClusterError(
            "this machine has cgroup v2 alone, and nodes are set up for v1 controllers beside it",
            hint="boot with systemd.unified_cgroup_hierarchy=0",
        )
    return found[0]


class Group:
    """A v2 cgroup of ours and what runs in it and below.

    Args:
        name: path below the v2 root.
    """

    def __init__(self, name: str) -> None:
        self.path = unified() / name

    def start(self, argv: Sequence[str | Path], log: Path) -> None:
        """Start a command in the group, in a session of its own, its output appended to `log`.

        It is nobody's child but init's: it stays when we end, and leaves no zombie when it ends before us.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        words = ["sh", "-c", _JOIN, str(self.path), "setsid", "--fork", *map(str, argv)]
        with log.open("ab") as output:
            subprocess.run(
                words, check=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", timeout=20
            )

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it runs in the group."""
        return ["sh", "-c", _JOIN, str(self.path), *argv]

    @property
    def pids(self) -> list[int]:
        """Processes of the group itself."""
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    @property
    def alive(self) -> bool:
        """Whether anything runs in it or below."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except OSError:
            return False

    def kill(self) -> None:
        """Kill everything in it and below, wait for their end, and remove it."""
        if not self.path.is_dir():
            return
        (self.path / "cgroup.kill").write_text("1")
        wait_until(lambda: not self.alive, f"all processes of {self.path} ended", _STOP_WITHIN_S)
        remove_tree(self.path)


def remove_tree(path: Path) -> None:
    """Remove a cgroup without processes, and those below it."""

    def removed() -> bool:
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):  # what has just ended may hold it for a moment
                Path(folder).rmdir()
        return not path.exists()

    wait_until(removed, f"{path} removed", _STOP_WITHIN_S)


def make_everywhere(name: str) -> None:
    """Make a cgroup in every hierarchy, as a kubelet's cgroupRoot must be."""
    for root in hierarchies():
        path = root / name
        path.mkdir(exist_ok=True)
        for setting in (
            "cpuset.cpus",
            "cpuset.mems",
        ):  # empty at first, and nothing can join a cpuset without
            if (root / setting).exists() and (path / setting).exists():
                (path / setting).write_text((root / setting).read_text())


def remove_everywhere(name: str) -> None:
    """Kill all in a cgroup of ours and remove it from every hierarchy."""
    Group(name).kill()
    for root in hierarchies():
        if (root / name).is_dir():
            remove_tree(root / name)


def of_cluster(prefix: str) -> list[str]:
    """Names of the top cgroups that begin with ``PREFIX-``, in any hierarchy."""
    return sorted({path.name for root in hierarchies() for path in root.glob(f"{prefix}-*") if path.is_dir()})
