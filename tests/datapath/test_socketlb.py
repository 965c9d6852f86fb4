"""The node's own sockets reach frontends without a packet being translated, and don't notice."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubebee.bpf import attach
from kubebee.bpf.constants import AttachType
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.lb import stats
from kubebee.lb.features import Features
from kubebee.lb.model import Protocol, merge
from kubebee.lb.sync import LbState
from kubebee.render.environment import render_builtin
from lab.netns import Namespace
from lab.node import cgroup2_root
from support.clang import compile_c
from support.servicelb import CONFIG, SMALL, VIP, frontend

pytestmark = pytest.mark.root

HOOKS = {
    "kb_connect4": AttachType.CGROUP_INET4_CONNECT,
    "kb_sendmsg4": AttachType.CGROUP_UDP4_SENDMSG,
    "kb_recvmsg4": AttachType.CGROUP_UDP4_RECVMSG,
    "kb_getpeername4": AttachType.CGROUP_INET4_GETPEERNAME,
}
UDP, TCP = Protocol.UDP, Protocol.TCP
NO_ROUTE = os.strerror(errno.EHOSTUNREACH)
ONE, TWO = "127.0.0.11", "127.0.0.12"


class Node:
    """A namespace with two backends on loopback; this process's sockets in it go through socket LB."""

    def __init__(self, network: Namespace, maps: dict[str, Map]) -> None:
        self.network = network
        self.maps = maps
        self.state = LbState.adopt(maps)
        self.state.apply(
            maps,
            merge(
                [
                    frontend(f"{ONE}:8080", f"{TWO}:8080", port=80),
                    frontend(f"{ONE}:5353", port=53, protocol=UDP),
                    frontend(f"{TWO}:5353", port=54, protocol=UDP),
                    frontend(port=81),
                    frontend(port=81, protocol=UDP),
                    replace(frontend(port=82), inside=frontend(f"{ONE}:8080").backends, drop_outside=True),
                    replace(frontend(f"{ONE}:8080", port=83), inside=(), sockets_only=True),
                ]
            ),
            CONFIG,
        )

    def listen(self, address: str) -> socket.socket:
        server = self.network.socket()
        server.bind((address, 8080))
        server.listen(64)
        return server

    def udp(self, address: str = "", port: int = 0) -> socket.socket:
        sock = self.network.socket(socket.SOCK_DGRAM)
        sock.settimeout(2)
        if address:
            sock.bind((address, port))
        return sock

    def connect(self, address: str, port: int) -> socket.socket:
        sock = self.network.socket()
        sock.settimeout(2)
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup that this process is in for the test."""
    folder = cgroup2_root() / f"kb-{os.getpid()}-socketlb-node"
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    home = cgroup2_root() / own.partition("::/")[2]
    folder.mkdir()
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    yield folder
    (home / "cgroup.procs").write_text(str(os.getpid()))
    folder.rmdir()


@pytest.fixture
def node(cgroup: Path) -> Iterator[Node]:
    source = render_builtin("socketlb", Features(ipv6=True, affinity=True).context())
    with (
        Namespace("socketlb") as network,
        BpfObject.open(compile_c(source), "socketlb") as loaded,
        contextlib.ExitStack() as stack,
    ):
        for name, count in SMALL.items():
            loaded.maps[name].set_max_entries(count)
        loaded.load()
        maps = {name: stack.enter_context(item.duplicate()) for name, item in loaded.maps.items()}
        for name, hook in HOOKS.items():
            stack.callback(attach.attach_cgroup(loaded.programs[name].fd, cgroup, hook).close)
        yield Node(network, maps)


def test_a_connection_to_a_frontend_reaches_a_backend_and_shows_the_frontend(node: Node) -> None:
    with node.listen(ONE), node.listen(TWO), node.connect(VIP, 80) as client:
        assert client.getpeername() == (VIP, 80)


def test_connections_spread_over_backends_and_are_counted(node: Node) -> None:
    with node.listen(ONE), node.listen(TWO):
        for _ in range(40):
            node.connect(VIP, 80).close()
    counts = {s.key.port: s for s in stats.read(node.maps, node.state) if s.key.protocol is TCP}[80]
    assert counts.counts.connections == 40
    assert all(backend.counts.connections > 5 for backend in counts.backends)


def test_a_backend_for_sockets_alone_is_reached_and_one_for_packets_alone_is_not(node: Node) -> None:
    with node.listen(ONE), node.connect(VIP, 82) as client:
        assert client.getpeername() == (VIP, 82)
        with pytest.raises(OSError, match=NO_ROUTE):
            node.connect(VIP, 83)


def test_without_a_backend_connect_says_no_route_to_host_not_permission(node: Node) -> None:
    with pytest.raises(OSError, match=NO_ROUTE):
        node.connect(VIP, 81)


def test_without_a_backend_sending_says_so_too(node: Node) -> None:
    with node.udp() as client, pytest.raises(OSError, match=NO_ROUTE):
        client.sendto(b"who", (VIP, 81))


def test_an_answer_over_udp_comes_from_the_frontend(node: Node) -> None:
    with node.udp(ONE, 5353) as server, node.udp() as client:
        client.sendto(b"who", (VIP, 53))
        question, peer = server.recvfrom(64)
        server.sendto(question.upper(), peer)
        assert client.recvfrom(64) == (b"WHO", (VIP, 53))


def test_one_udp_socket_talks_to_several_frontends(node: Node) -> None:
    with node.udp(ONE, 5353) as first, node.udp(TWO, 5353) as second, node.udp() as client:
        for port, server in ((53, first), (54, second), (53, first)):
            client.sendto(b"who", (VIP, port))
            server.sendto(b"me", server.recvfrom(64)[1])
            assert client.recvfrom(64) == (b"me", (VIP, port))


def test_a_connected_udp_socket_sees_the_frontend(node: Node) -> None:
    with node.udp(ONE, 5353) as server, node.udp() as client:
        client.connect((VIP, 53))
        assert client.getpeername() == (VIP, 53)
        client.send(b"who")
        server.sendto(b"me", server.recvfrom(64)[1])
        assert client.recvfrom(64) == (b"me", (VIP, 53))


def test_other_addresses_are_left_alone(node: Node) -> None:
    with node.listen(ONE), node.connect(ONE, 8080) as client:
        assert client.getpeername() == (ONE, 8080)
    with pytest.raises(ConnectionRefusedError):
        node.connect(TWO, 8080)


def test_a_socket_that_turns_to_a_backend_itself_sees_the_backend(node: Node) -> None:
    with node.udp(ONE, 5353), node.udp() as client:
        client.connect((VIP, 53))
        client.connect((ONE, 5353))
        assert client.getpeername() == (ONE, 5353)


def test_what_a_socket_remembers_goes_with_it(node: Node) -> None:
    with node.udp() as client:
        client.sendto(b"who", (VIP, 53))
        remembered = node.maps["kb_lb_sk"].lookup(client.fileno().to_bytes(4, "little"))
        assert remembered is not None
        assert socket.inet_aton(VIP) in remembered
    with node.udp() as fresh:
        assert node.maps["kb_lb_sk"].lookup(fresh.fileno().to_bytes(4, "little")) is None
