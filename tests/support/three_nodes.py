"""Three nodes on one wire, a kubebee and a pod on each, and a client outside that knows the nodes alone.

::

    client 10.9.0.100 --+-- 10.9.0.1 node1 -- 10.244.1.2 pod1
                        +-- 10.9.0.2 node2 -- 10.244.2.2 pod2
                        +-- 10.9.0.3 node3 -- 10.244.3.2 pod3
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.netns import Namespace, veth
from lab.node import Node, start_and_wait_ready, stop_started
from support.clang import HEADERS, LICENSE, compile_c
from support.running import Running, wait_for
from support.services import endpoint, endpoint_slice, service

CLIENT = "10.9.0.100"
WEB, DNS, IPERF = 30080, 30053, 30521
"""Node ports."""
_PORTS = {
    "web": [("web", "TCP", 80, WEB), ("dns", "UDP", 53, DNS)],
    "iperf": [("iperf", "TCP", 5201, IPERF)],
}
_MORE: dict[str, dict[str, Any]] = {
    "web": {"clusterIP": "10.96.0.10"},
    # A client's two connections have to meet the same server.
    "iperf": {"clusterIP": "10.96.0.11", "sessionAffinity": "ClientIP"},
}
_SERVERS = Path(__file__).parent
_HTTP = Path(__file__).parents[2] / "e2e" / "lab" / "server.py"
_PASS = 'SEC("xdp") int pass(struct xdp_md *ctx) { return ctx->data_end ? XDP_PASS : XDP_DROP; }\n'


@dataclass(frozen=True)
class Host:
    """A node with its pod.

    Attributes:
        address: of the node.
        pod_address: of its pod.
        servers: what runs in the pod.
    """

    name: str
    address: str
    node: Node
    running: Running
    pod: Namespace
    pod_address: str
    servers: list[subprocess.Popen[str]]

    def end_servers(self) -> None:
        """Let the pod's servers die."""
        while self.servers:
            stop_started(self.servers.pop())


class ThreeNodes:
    """The network with all that runs in it; a context manager that removes it."""

    client: Namespace
    hosts: tuple[Host, ...]

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._wire = stack.enter_context(Namespace("wire"))
            self._wire.ip("link", "add", "br0", "type", "bridge")
            self._wire.ip("link", "set", "br0", "up")
            self._passing = self._folder / "pass.o"
            self._passing.write_bytes(compile_c(HEADERS + _PASS + LICENSE))
            self.client = stack.enter_context(Namespace("client"))
            self._join(self.client, "client", CLIENT)
            self.hosts = tuple(self._host(stack, number) for number in (1, 2, 3))
            for host in self.hosts:
                for other in self.hosts:
                    if other is not host:
                        route = f"{other.pod_address}/32", "via", other.address
                        host.node.network.ip("route", "add", *route)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def serve(self, *without: Host) -> None:
        """Declare the Services to every node, with the pods of all nodes but these."""
        endpoints = [endpoint(host.pod_address, node=host.name) for host in self.hosts if host not in without]
        for host in self.hosts:
            host.running.apply(_ALL)
            for name, ports in _PORTS.items():
                host.running.apply(service(name, type="NodePort", ports=_ports(name), **_MORE[name]))
                host.running.apply(
                    endpoint_slice(
                        *endpoints,
                        of=name,
                        ports=[
                            {"name": each, "protocol": protocol, "port": port}
                            for each, protocol, port, _ in ports
                        ],
                    )
                )

    def wait_served(self) -> None:
        """Until each node leads clients to pods."""
        for host in self.hosts:
            host.running.wait_ready("ServiceLB", "cluster")
            wait_for(f"{host.name} serves", lambda at=host.address: self.ask(at))  # type: ignore[misc]

    def ask(self, address: str) -> str:
        """The pod that answers a new HTTP connection of the client, by curl; "" where none does."""
        argv = ["curl", "-sS", "--max-time", "3", f"http://{address}:{WEB}/"]
        return self.client.run(*argv, check=False).stdout.strip()

    def resolve(self, address: str) -> str:
        """What dig is answered: the pod's address; one try."""
        options = ["+short", "+tries=1", "+time=2", "-p", str(DNS)]
        return self.client.run("dig", *options, f"@{address}", "name.test", check=False).stdout.strip()

    def _host(self, stack: contextlib.ExitStack, number: int) -> Host:
        network = stack.enter_context(Namespace(f"node{number}"))
        address, pod_address = f"10.9.0.{number}", f"10.244.{number}.2"
        self._join(network, f"node{number}", address)
        network.ip("route", "add", "default", "via", CLIENT)  # makes eth0 the primary interface
        pod = stack.enter_context(Namespace(f"pod{number}"))
        veth(network, "pod", pod, "eth0")
        network.ip("address", "add", f"10.244.{number}.1/32", "dev", "pod")
        network.ip("route", "add", f"{pod_address}/32", "dev", "pod", "scope", "link")
        pod.ip("address", "add", f"{pod_address}/32", "dev", "eth0")
        pod.ip("route", "add", f"10.244.{number}.1/32", "dev", "eth0", "scope", "link")
        pod.ip("route", "add", "default", "via", f"10.244.{number}.1")
        network.sysctl("net.ipv4.ip_forward", 1)
        node = stack.enter_context(Node(network))
        servers = [
            start_and_wait_ready(pod.command([sys.executable, "-I", *argv]))
            for argv in (
                (str(_HTTP), f"pod{number}", "80", "9"),
                (str(_SERVERS / "dns_server.py"), pod_address),
            )
        ]
        servers.append(start_and_wait_ready(pod.command(["sh", "-c", _IPERF])))
        name = f"node{number}"
        options = ["--node", name]
        running = stack.enter_context(Running(node.command, self._folder / name, options))
        host = Host(name, address, node, running, pod, pod_address, servers)
        stack.callback(host.end_servers)
        return host

    def _join(self, host: Namespace, name: str, address: str) -> None:
        veth(self._wire, name, host, "eth0")
        self._wire.ip("link", "set", name, "master", "br0")
        host.ip("address", "add", f"{address}/24", "dev", "eth0")
        host.run(
            "ethtool", "-K", "eth0", "tx", "off"
        )  # a veth leaves checksums to a device that does not exist
        for end, at in ((self._wire, name), (host, "eth0")):
            if end is self._wire or address == CLIENT:
                end.ip("link", "set", "dev", at, "xdpdrv", "object", str(self._passing), "section", "xdp")


_IPERF = "iperf3 -s -D -I /dev/null && echo ready && cat"
_ALL: dict[str, Any] = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "cluster"},
    "spec": {"interfaces": {"names": ["eth0"]}, "services": {"all": True}},
}


def _ports(name: str) -> list[dict[str, Any]]:
    return [
        {"name": each, "protocol": protocol, "port": port, "nodePort": node_port}
        for each, protocol, port, node_port in _PORTS[name]
    ]
