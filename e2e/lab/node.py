"""The node's surroundings: its own bpffs and tracefs, and a cgroup that looks like the root."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.netns import Namespace, owner_is_dead, unique_name

_MOUNTS = """
set -e
mount -t bpf bpf /sys/fs/bpf
mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
mount --bind "$1" "$2"
echo ready
exec cat >/dev/null
"""
_JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
_DEADLINE_S = 5.0


def cgroup2_root() -> Path:
    """Where the machine has cgroup v2 mounted (on hybrid machines below the v1 hierarchies)."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise RuntimeError("cgroup v2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")


def stop_started(process: subprocess.Popen[str]) -> None:
    """End a child whose life hangs on its stdin, and wait for it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def start_and_wait_ready(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command that prints ``ready`` once it is, and ends when its stdin does."""
    process = subprocess.Popen(  # in a session of its own: Ctrl-C is for the lab's user, who cleans up
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        stop_started(process)
        raise RuntimeError(f"{' '.join(argv[:4])} ...: did not get ready, exit code {process.returncode}")
    return process


def remove_cgroup(path: Path) -> None:
    """Kill what still runs in a cgroup of ours, and remove it and those below it."""
    if not path.is_dir():
        return
    deadline = time.monotonic() + _DEADLINE_S
    _kill_all(path)
    while "populated 1" in (path / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.005)
        _kill_all(path)
    for child in path.iterdir():
        if child.is_dir():
            remove_cgroup(child)
    path.rmdir()


def _kill_all(path: Path) -> None:
    """Kill the processes of a cgroup and of those below it."""
    if (path / "cgroup.kill").exists():  # Linux 5.14
        (path / "cgroup.kill").write_text("1")
        return
    for processes in path.rglob("cgroup.procs"):
        for pid in processes.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Node:
    """Where kubebee runs: a network namespace seen with mounts and a cgroup of its own.

    Within, ``/sys/fs/bpf`` is fresh, tracefs is mounted, and the cgroup v2 root is the node's cgroup: what
    attaches "to the root cgroup" reaches the node's processes and no others.
    """

    def __init__(self, network: Namespace) -> None:
        self.network = network
        self._root = cgroup2_root()
        self.cgroup = self._root / unique_name("node")
        self.cgroup.mkdir()
        mounts = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNTS, "sh"]
        try:
            self._keeper = start_and_wait_ready([*mounts, str(self.cgroup), str(self._root)])
        except BaseException:
            remove_cgroup(self.cgroup)
            raise

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it runs on the node; its working directory is ``/``."""
        enter = ["nsenter", f"--net={self.network.path}", f"--mount=/proc/{self._keeper.pid}/ns/mnt"]
        return [*enter, "--", "sh", "-c", _JOIN, str(self._root), *argv]

    @property
    def files(self) -> Path:
        """The node's file tree, its mounts included, as others can open it."""
        return Path(f"/proc/{self._keeper.pid}/root")

    def close(self) -> None:
        """Kill what runs on the node; its mounts and, with them, pins and links go."""
        remove_cgroup(self.cgroup)
        stop_started(self._keeper)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_leftover_cgroups() -> None:
    """Remove the cgroups of runs that were killed."""
    for path in cgroup2_root().glob("kb-*-node"):
        if owner_is_dead(path.name):
            with contextlib.suppress(OSError):  # another run may clean up at the same time
                remove_cgroup(path)
