"""Direct server return to a pod on another node that runs kubebee too, with real sockets.

::

    client -- balancer -- backend1 -- pod
       \\____________________/

The client's packets reach the pod by the balancer, inside IP-in-IP or with an option; answers go back by the
other link.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from lab.netns import Namespace, veth
from lab.node import Node
from support.running import KUBEBEE, Running, wait_for

pytestmark = pytest.mark.root

VIPS = {socket.AF_INET: "10.200.0.77", socket.AF_INET6: "2001:db8:f::77"}
PODS = {socket.AF_INET: "10.244.1.5", socket.AF_INET6: "2001:db8:244::5"}
CLIENTS = {socket.AF_INET: "10.1.0.2", socket.AF_INET6: "2001:db8:c::2"}
PORT = 80
OTHER_PORT = 8080
"""Of the pod, where it may be another one."""
MUCH = 1 << 20


def without_dad(*hosts: Namespace) -> None:
    """Let IPv6 addresses be usable at once."""
    for host in hosts:
        for name in ("all", "default"):
            host.sysctl(f"net.ipv6.conf.{name}.accept_dad", 0)


def link(left: Namespace, left_name: str, left_net: str, right: Namespace, right_name: str) -> None:
    """Addresses of an IPv6 network, ::1 and ::2, on the two ends of a link."""
    left.ip("address", "add", f"{left_net}::1/64", "dev", left_name, "nodad")
    right.ip("address", "add", f"{left_net}::2/64", "dev", right_name, "nodad")


@pytest.fixture
def pod(lab: Lab) -> Iterator[Namespace]:
    """A pod on backend1, which has a link of its own to the client and is no DSR server as in the lab."""
    balancer, backend, client = lab.node.network, lab.backends["backend1"], lab.client
    backend.ip("link", "set", "dev", "eth0", "xdpdrv", "off")
    with Namespace("pod") as made:
        without_dad(balancer, backend, client, made)
        veth(backend, "back0", client, "back0")
        veth(backend, "pod1", made, "eth0")
        for host in (balancer, backend):
            host.sysctl("net.ipv4.ip_forward", 1)
            host.sysctl("net.ipv6.conf.all.forwarding", 1)
        for host, names in ((client, ("all", "eth0", "back0")), (backend, ("all", "eth0", "back0"))):
            for name in names:
                host.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        link(balancer, "eth0", "2001:db8:c", client, "eth0")
        link(balancer, "eth1", "2001:db8:1", backend, "eth0")
        client.ip("-6", "route", "add", "default", "via", "2001:db8:c::1")
        backend.ip("-6", "route", "add", "default", "via", "2001:db8:1::1")
        balancer.ip("-6", "route", "add", "default", "via", "2001:db8:c::2")
        balancer.ip("route", "add", PODS[socket.AF_INET], "via", "10.2.1.2")
        balancer.ip("-6", "route", "add", PODS[socket.AF_INET6], "via", "2001:db8:1::2")

        backend.ip("address", "add", "10.3.0.1/24", "dev", "back0")
        client.ip("address", "add", "10.3.0.2/24", "dev", "back0")
        link(backend, "back0", "2001:db8:3", client, "back0")
        backend.ip("route", "add", CLIENTS[socket.AF_INET], "via", "10.3.0.2")
        backend.ip("-6", "route", "add", CLIENTS[socket.AF_INET6], "via", "2001:db8:3::2")

        backend.ip("address", "add", "10.244.1.1/32", "dev", "pod1")
        backend.ip("address", "add", "fe80::1/64", "dev", "pod1", "nodad")
        backend.ip("route", "add", PODS[socket.AF_INET], "dev", "pod1", "scope", "link")
        backend.ip("-6", "route", "add", PODS[socket.AF_INET6], "dev", "pod1")
        made.ip("address", "add", f"{PODS[socket.AF_INET]}/32", "dev", "eth0")
        made.ip("address", "add", f"{PODS[socket.AF_INET6]}/128", "dev", "eth0", "nodad")
        made.ip("route", "add", "10.244.1.1/32", "dev", "eth0", "scope", "link")
        made.ip("route", "add", "default", "via", "10.244.1.1")
        made.ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        yield made


@contextlib.contextmanager
def serving(host: Namespace, port: int = PORT) -> Iterator[None]:
    """A server of both families on TCP and UDP: it tells each client its address and how much it sent."""
    tcp, udp = host.socket(family=socket.AF_INET6), host.socket(socket.SOCK_DGRAM, family=socket.AF_INET6)
    for each in (tcp, udp):
        each.bind(("::", port))
    tcp.listen()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = tcp.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    size = 0
                    while part := connection.recv(1 << 16):
                        size += len(part)
                    connection.sendall(f"{peer[0].removeprefix('::ffff:')} {size}".encode())

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = udp.recvfrom(4096)
                if not data:
                    return
                udp.sendto(f"{peer[0].removeprefix('::ffff:')} {len(data)}".encode(), peer)

    threads = [threading.Thread(target=target, daemon=True) for target in (accept, answer)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        tcp.shutdown(socket.SHUT_RDWR)
        tcp.close()
        with host.socket(socket.SOCK_DGRAM, family=socket.AF_INET6) as end:
            end.sendto(b"", ("::1", port))
        for thread in threads:
            thread.join(5)
        udp.close()


def manifest(mode: str, dispatch: str) -> dict[str, Any]:
    """The same ServiceLB for both nodes; no sockets, so that all depends on packets."""
    port = OTHER_PORT if dispatch == "IPOption" else PORT
    frontends = [
        {
            "name": f"{protocol.lower()}{number}",
            "address": VIPS[family],
            "port": PORT,
            "protocol": protocol,
            "backends": [{"address": PODS[family], "port": port}],
        }
        for number, family in enumerate(VIPS)
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "shop"},
        "spec": {
            "interfaces": {"all": True},
            "northSouth": {"mode": mode},
            "socketLB": {"enabled": False},
            "forwarding": {"mode": "DSR", "dispatch": dispatch},
            "frontends": frontends,
        },
    }


@contextlib.contextmanager
def both_nodes(lab: Lab, folder: Path, mode: str, dispatch: str = "IPIP") -> Iterator[Running]:
    """kubebee on the balancer and on the backend's node, which is returned."""
    with Node(lab.backends["backend1"]) as other:
        nodes = [
            Running(command, folder / name)
            for name, command in (("balancer", lab.node_command), ("backend", other.command))
        ]
        with nodes[0], nodes[1]:
            for node in nodes:
                node.apply(manifest(mode, dispatch))
            for node in nodes:
                places = node.wait_ready("ServiceLB", "shop").attachments
                assert ("XDP" in {each["type"] for each in places}) == (mode == "Native")
            yield nodes[1]


def by_tcp(client: Namespace, family: socket.AddressFamily, size: int) -> str:
    with client.socket(family=family) as sock:
        sock.settimeout(3)
        sock.connect((VIPS[family], PORT))
        sock.sendall(bytes(size))
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(100):
            answer += part
        return answer.decode()


def by_udp(client: Namespace, family: socket.AddressFamily, size: int) -> str:
    with client.socket(socket.SOCK_DGRAM, family=family) as sock:
        sock.settimeout(3)
        sock.connect((VIPS[family], PORT))
        sock.send(bytes(size))
        return sock.recv(100).decode()


def sent_back(lab: Lab) -> int:
    """Packets that the client got by the link past the balancer."""
    folder = "/sys/class/net/back0/statistics/rx_packets"
    return int(lab.client.run("ip", "netns", "exec", lab.client.name, "cat", folder).stdout)


@pytest.mark.parametrize(("mode", "offload"), [("Native", "off"), ("TC", "on")])
def test_a_pod_behind_another_node_answers_its_clients_directly(
    lab: Lab, pod: Namespace, tmp_path: Path, mode: str, offload: str
) -> None:
    """It sees their addresses; nobody made a tunnel device."""
    lab.client.run("ethtool", "-K", "eth0", "tx", offload)
    with both_nodes(lab, tmp_path, mode), serving(pod):
        ask_all(lab)


@pytest.mark.parametrize(("mode", "offload"), [("Native", "off"), ("TC", "on")])
def test_by_ip_option_it_may_listen_on_another_port(
    lab: Lab, pod: Namespace, tmp_path: Path, mode: str, offload: str
) -> None:
    lab.client.run("ethtool", "-K", "eth0", "tx", offload)
    with both_nodes(lab, tmp_path, mode, "IPOption") as backend, serving(pod, OTHER_PORT):
        ask_all(lab)
        wait_for("both sides' ends noted", lambda: tcp_states(backend) == {"Closed"})


def tcp_states(node: Running) -> set[str]:
    """Of the connections that a node knows."""
    flows = json.loads(node.run(KUBEBEE, "lb", "flows", "-o", "json").stdout)
    return {each["state"] for each in flows if each["frontend"]["protocol"] == "TCP"}


def ask_all(lab: Lab) -> None:
    """A client is answered by both families and protocols, past the balancer."""
    for family, address in CLIENTS.items():
        wait_for("an answer", lambda f=family: by_udp(lab.client, f, 1))
        before = sent_back(lab)
        assert by_tcp(lab.client, family, 5) == f"{address} 5"
        assert sent_back(lab) > before
        assert by_udp(lab.client, family, 7) == f"{address} 7"
        assert by_tcp(lab.client, family, MUCH) == f"{address} {MUCH}"
