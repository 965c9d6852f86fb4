"""The bridge that nodes and the outside client are on, and their ends of it."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.commands import run
from cluster.node_files import pod_routes
from cluster.spec import ClusterSpec, NodeSpec

_CLANG = "/usr/bin/clang-19"
_SOURCE = Path(__file__).with_name("pass.bpf.c")
_MULTIARCH = f"/usr/include/{os.uname().machine}-linux-gnu"


def exists(link: str) -> bool:
    """Whether this machine has such a link."""
    return Path(f"/sys/class/net/{link}").exists()


def of_cluster(prefix: str) -> list[str]:
    """This machine's links whose names begin with ``PREFIX-``."""
    return sorted(path.name for path in Path("/sys/class/net").glob(f"{prefix}-*"))


def make_bridge(spec: ClusterSpec) -> None:
    """Make the bridge, with routes to the pods, so that this machine and its API server reach them."""
    if not exists(spec.bridge):
        run(["ip", "link", "add", spec.bridge, "type", "bridge"])
    # Left to itself a bridge takes the lowest address of its ports: a node that joins would change it, and
    # the others would miss the API server until they noticed, for 24 s when it was seen.
    run(["ip", "link", "set", spec.bridge, "address", _mac(spec.gateway)])
    run(["ip", "address", "replace", f"{spec.gateway}/24", "dev", spec.bridge])
    run(["ip", "link", "set", spec.bridge, "up"])
    run(["ip", "-batch", "-"], stdin=pod_routes(spec))


def remove_links(prefix: str) -> None:
    """Remove the links of a cluster."""
    for link in of_cluster(prefix):
        run(["ip", "link", "delete", link], check=False)


def compile_pass(spec: ClusterSpec) -> Path:
    """Compile the XDP program of the bridge's ends."""
    target = spec.state / "pass.o"
    flags = ["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{_MULTIARCH}"]
    run([_CLANG, *flags, "-c", _SOURCE, "-o", target])
    return target


def connect(spec: ClusterSpec, end: str, pid: int, address: str) -> None:
    """Put a host on the bridge: ``eth0`` in the network namespace of process `pid`, its other end `end`.

    A real card passes on what XDP sends out, and sums up checksums before the wire. A veth does the one only
    with an XDP program at its other end, the other only if told not to leave checksums to its peer.
    """
    if exists(end):
        run(["ip", "link", "delete", end])
    peer = ("peer", "name", "eth0", "netns", str(pid))
    run(["ip", "link", "add", end, "type", "veth", *peer])
    run(["ip", "link", "set", end, "master", spec.bridge, "up"])
    attach = (
        f"mount -t bpf bpf /sys/fs/bpf && ip link set dev {end} xdpdrv object {spec.state}/pass.o section xdp"
    )
    # In mounts of its own: ip mounts a BPF file system where there is none, and makes folders in any.
    run(["unshare", "--mount", "--propagation", "private", "sh", "-c", attach])
    run(["ethtool", "-K", end, "tx", "off"])
    inside = ("nsenter", "--target", str(pid), "--net")
    lines = f"link set eth0 address {_mac(address)}\naddress replace {address}/24 dev eth0\n"
    run(
        [*inside, "ip", "-batch", "-"],
        stdin=f"{lines}link set lo up\nlink set eth0 up\nroute replace default via {spec.gateway}\n",
    )
    run([*inside, "ethtool", "-K", "eth0", "tx", "off"])


def _mac(address: str) -> str:
    """The link address of a host: the same at each boot, as a card's is, so no neighbour table gets stale."""
    return "02:00:" + ":".join(f"{int(byte):02x}" for byte in address.split("."))


def add_pod_routes(node: NodeSpec, pid: int) -> None:
    """Give a node the routes to all other nodes' pods."""
    routes = pod_routes(node.cluster, but=node.number)
    run(["nsenter", "--target", str(pid), "--net", "ip", "-batch", "-"], stdin=routes)
