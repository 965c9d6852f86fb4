"""Leave nothing: all is found by what names begin with, not by a state file, so a crash hides nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster import cgroups, network
from cluster.commands import run
from cluster.spec import ClusterSpec


def leftovers(spec: ClusterSpec) -> list[str]:
    """What there is of a cluster on this machine, in words; empty when it is down."""
    found = [f"cgroup {name}" for name in cgroups.of_cluster(spec.name)]
    found += [f"link {name}" for name in network.of_cluster(spec.name)]
    found += [f"mount {path}" for path in _mounts(spec.state)]
    return found + ([f"folder {spec.state}"] if spec.state.exists() else [])


def remove_all(spec: ClusterSpec) -> None:
    """Kill its processes, with which their namespaces and mounts go; remove cgroups, links and files."""
    for name in cgroups.of_cluster(spec.name):
        cgroups.remove_everywhere(name)
    network.remove_links(spec.name)
    for path in reversed(_mounts(spec.state)):
        run(["umount", "--lazy", path], check=False)
    shutil.rmtree(spec.state, ignore_errors=True)


def _mounts(below: Path) -> list[str]:
    mounts = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return [where for where in mounts if Path(where).is_relative_to(below)]
