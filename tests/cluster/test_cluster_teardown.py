"""The e2e cluster leaves nothing on the machine, not even when it was killed while it came up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import Cluster, ClusterSpec
from cluster.cgroups import hierarchies
from cluster.commands import run, wait_until
from cluster.teardown import leftovers

pytestmark = pytest.mark.full
SPEC = ClusterSpec("kbd", 15)
_ROOT = Path(__file__).parents[2]


def names_in(folder: str) -> set[str]:
    """Names of what is in a folder."""
    return {path.name for path in Path(folder).iterdir()}


def namespace_of(pid: int | str, kind: str) -> str:
    """A namespace of a process, as the kernel names it."""
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def seen() -> dict[str, set[str]]:
    """What of a cluster would show on the machine, whatever it was called."""
    name = SPEC.name
    return {
        "links": {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(name)},
        "cgroups": {str(path) for root in hierarchies() for path in root.rglob(f"{name}-*")},
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
        "routes": {line for line in run(["ip", "route"]).stdout.splitlines() if SPEC.gateway[:-1] in line},
        "/var/lib": names_in("/var/lib"),
        "/run": names_in("/run"),
        "/sys/fs/bpf": names_in("/sys/fs/bpf"),
        "state": {str(SPEC.state)} if SPEC.state.exists() else set(),
    }


def left_since(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What shows now and did not before."""
    return {kind: new for kind, names in seen().items() if (new := names - before[kind])}


def processes_in(namespaces: set[str]) -> list[str]:
    """Command lines of processes in any of such network or mount namespaces."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            own = {namespace_of(folder.name, kind) for kind in ("net", "mnt")}
            if own & namespaces:
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended
            continue
    return found


@pytest.fixture
def doomed() -> Cluster:
    cluster = Cluster(SPEC)
    cluster.down()
    return cluster


def test_down_leaves_nothing_and_may_be_repeated(doomed: Cluster) -> None:
    before = seen()
    try:
        doomed.up(nodes=1)
        hosts = (doomed.nodes[0], doomed.client)
        namespaces = {namespace_of(host.pid, "net") for host in hosts}
        namespaces.add(namespace_of(doomed.nodes[0].pid, "mnt"))
        assert processes_in(namespaces)
        assert left_since(before)
    finally:
        doomed.down()
    assert leftovers(SPEC) == []
    assert left_since(before) == {}
    assert processes_in(namespaces) == []
    doomed.down()


def test_killed_while_it_comes_up_it_is_completed_or_removed_all_the_same(doomed: Cluster) -> None:
    before = seen()
    argv = [
        sys.executable,
        "-m",
        "cluster",
        "--name",
        SPEC.name,
        "--number",
        str(SPEC.number),
        "up",
        "--nodes=1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT / "e2e")}
    try:
        for point in (SPEC.certificates / "ca.crt", SPEC.node(1).home / "booted"):
            starting = subprocess.Popen(argv, env=environment, start_new_session=True)
            wait_until(point.exists, f"{point} made", 60)
            os.killpg(starting.pid, signal.SIGKILL)
            starting.wait()
        doomed.up(nodes=1)
        assert "Ready" in doomed.kubectl("get", "nodes").stdout
    finally:
        doomed.down()
    assert left_since(before) == {}
