"""The lab itself.

::

    client 10.1.0.2 -- eth0 10.1.0.1  node  eth1 10.2.1.1 -- 10.2.1.2 backend1
                                            eth2 10.2.2.1 -- 10.2.2.2 backend2

The client reaches all else, VIPs too, by the node. Backends hold the VIP on loopback and take off an
outer IPv4 header, so that direct server return works; every host's interface is called eth0. The node has a
server of its own, on NODE_PORT.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.netns import Namespace, remove_leftovers, run, veth
from lab.node import Node, remove_leftover_cgroups, start_and_wait_ready, stop_started

CLIENT = "10.1.0.2"
NODE = "10.1.0.1"
BACKENDS = {"backend1": "10.2.1.2", "backend2": "10.2.2.2"}
VIP = "10.200.0.10"
SERVICE = "10.96.0.77"
"""Cluster address of the Service in examples/quickstart."""
TCP_PORTS = (80, 8080)
UDP_PORTS = (53, 8080)
NODE_PORT = 8080

_SERVER = Path(__file__).with_name("server.py")
_PEER = Path(__file__).with_name("peer.bpf.c")
_CLANG = "/usr/bin/clang-19"
_MULTIARCH = "/usr/include/x86_64-linux-gnu"


class Lab:
    """Namespaces ``client``, ``backends`` and the ``node``; a context manager that removes all it made."""

    client: Namespace
    backends: dict[str, Namespace]
    node: Node

    def __enter__(self) -> Self:
        remove_leftovers()
        remove_leftover_cgroups()
        with tempfile.TemporaryDirectory(prefix="kb-lab-") as folder, contextlib.ExitStack() as stack:
            self._build(stack, compile_peer(Path(folder)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def node_command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it runs on the node: its network, its bpffs, its cgroup."""
        return self.node.command(argv)

    def on_node(
        self, *argv: str, check: bool = True, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the node and wait for it."""
        return run(self.node_command(argv), check=check, timeout=timeout)

    def stop_backend(self, name: str) -> None:
        """End a backend's servers; its address stays."""
        stop_started(self._servers.pop(name))

    def start_backend(self, name: str) -> None:
        """Start a backend's servers."""
        self._serve(name, self.backends[name], TCP_PORTS, UDP_PORTS)

    def _serve(self, name: str, where: Namespace, tcp: Sequence[int], udp: Sequence[int]) -> None:
        ports = [",".join(map(str, each)) for each in (tcp, udp)]
        argv = [sys.executable, "-I", str(_SERVER), name, *ports]
        self._servers[name] = start_and_wait_ready(where.command(argv))

    def _stop_servers(self) -> None:
        while self._servers:
            _, server = self._servers.popitem()
            stop_started(server)

    def _build(self, stack: contextlib.ExitStack, peer: Path) -> None:
        network = stack.enter_context(Namespace("node"))
        self.client = stack.enter_context(Namespace("client"))
        self._connect_host(network, "eth0", NODE, self.client, CLIENT, peer)
        self.client.ip("route", "add", "default", "via", NODE)
        network.ip("route", "add", "default", "via", CLIENT)  # makes eth0 the node's primary interface

        self.backends = {}
        for number, (name, address) in enumerate(BACKENDS.items(), start=1):
            backend = self.backends[name] = stack.enter_context(Namespace(name))
            gateway = address.rsplit(".", 1)[0] + ".1"
            self._connect_host(network, f"eth{number}", gateway, backend, address, peer)
            backend.ip("route", "add", "default", "via", gateway)
            backend.ip("address", "add", f"{VIP}/32", "dev", "lo")

        network.sysctl("net.ipv4.ip_forward", 1)
        # Direct server return: a backend's answer has the VIP as source, and no route leads back there.
        network.sysctl("net.ipv4.conf.all.rp_filter", 0)
        for name in ("eth0", "eth1", "eth2"):
            network.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        self.node = stack.enter_context(Node(network))

        self._servers: dict[str, subprocess.Popen[str]] = {}
        stack.callback(self._stop_servers)
        for name in BACKENDS:
            self.start_backend(name)
        self._serve("node", network, (NODE_PORT,), (NODE_PORT,))

    @staticmethod
    def _connect_host(
        node: Namespace, node_end: str, node_address: str, host: Namespace, address: str, peer: Path
    ) -> None:
        veth(node, node_end, host, "eth0")
        node.ip("address", "add", f"{node_address}/24", "dev", node_end)
        host.ip("address", "add", f"{address}/24", "dev", "eth0")
        # A veth leaves checksums to a device that does not exist; what XDP turns round would carry a bad one.
        node.run("ethtool", "-K", node_end, "tx", "off")
        host.run("ethtool", "-K", "eth0", "tx", "off")
        host.ip("link", "set", "dev", "eth0", "xdpdrv", "object", str(peer), "section", "xdp")


def compile_peer(folder: Path) -> Path:
    """Compile the hosts' XDP program; returns the object."""
    target = folder / "peer.o"
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{_MULTIARCH}"]
    run([_CLANG, *flags, "-c", str(_PEER), "-o", str(target)], timeout=100)  # under qemu it takes its time
    return target
