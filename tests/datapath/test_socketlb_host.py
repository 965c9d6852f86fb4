"""What is the host's own: loopback addresses, node and host ports, and where asked for all of socket LB."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_codec import decode
from kubebee.bpf.elf import parse_elf
from kubebee.lb.features import Features
from kubebee.lb.model import Frontend, Protocol, Reserved
from kubebee.lb.sockets import host_cookie
from kubebee.render.environment import render_builtin
from lab.netns import Namespace
from support.clang import compile_c
from support.servicelb import VIP, frontend
from support.socketlb import DATAGRAM, ONE, STREAM, TCP, UDP, Node, socket_node

pytestmark = pytest.mark.root

NODE_PORT = 30080
HOST_ONLY = Features(host_only=True)
LOOPBACK, ANY = "127.0.0.1", "0.0.0.0"  # noqa: S104 - clients name it


def node_port(protocol: Protocol) -> Frontend:
    """The entry of a node port that no packet is for."""
    backends = (f"{ONE}:8080",)
    entry = frontend(*backends, vip=LOOPBACK, port=NODE_PORT, protocol=protocol)
    return replace(entry, sockets_only=True, reserved=Reserved.PORT)


def host_port(address: str, port: int = 8000) -> Frontend:
    """The entry of a host port of one address."""
    entry = frontend(f"{ONE}:8080", vip=address, port=port)
    return replace(entry, sockets_only=True, reserved=Reserved.PLACE)


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        made.serve(node_port(TCP), node_port(UDP), frontend(f"{ONE}:8080", port=80))
        yield made


@pytest.fixture
def pod(node: Node) -> Iterator[Namespace]:
    with Namespace("pod") as made:
        yield made


@pytest.mark.parametrize("address", [LOOPBACK, ANY, f"::ffff:{LOOPBACK}"])
def test_a_process_of_the_host_reaches_a_node_port_on_loopback(node: Node, address: str) -> None:
    with node.listen(), node.connect(address, NODE_PORT) as client:
        shown = address.replace(ANY, LOOPBACK)
        assert client.getpeername()[:2] == (shown, NODE_PORT)


def test_the_loopback_address_of_a_pod_is_its_own(node: Node, pod: Namespace) -> None:
    with pod.socket() as server, pod.socket() as client:
        server.bind((LOOPBACK, NODE_PORT))
        server.listen()
        client.connect((LOOPBACK, NODE_PORT))
        assert server.accept()[1] == client.getsockname()
    assert node.stats(NODE_PORT).counts.connections == 0


BINDS = [
    (socket.AF_INET, ANY),
    (socket.AF_INET, LOOPBACK),
    (socket.AF_INET, "127.0.0.77"),
    (socket.AF_INET6, "::"),
    (socket.AF_INET6, f"::ffff:{LOOPBACK}"),
]


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM])
@pytest.mark.parametrize(("family", "address"), BINDS)
def test_no_process_of_the_host_binds_a_node_port(
    node: Node, kind: int, family: socket.AddressFamily, address: str
) -> None:
    with node.network.socket(kind, family=family) as sock:
        with pytest.raises(OSError, match="Address already in use"):
            sock.bind((address, NODE_PORT))
        sock.bind((address, NODE_PORT + 1))  # it is as good as new
    assert node.drops() == {"lb_sock_bind": 1}


def test_other_ports_of_a_protocol_are_free(node: Node) -> None:
    node.serve(node_port(TCP), frontend(f"{ONE}:8080", vip=LOOPBACK, port=8888))
    for kind, port in ((DATAGRAM, NODE_PORT), (STREAM, 8888), (STREAM, 0), (DATAGRAM, 0)):
        with node.network.socket(kind) as sock:
            sock.bind((ANY, port))
    assert node.drops() == {}


@pytest.mark.parametrize("address", [LOOPBACK, "127.0.0.7"])
def test_a_host_port_of_one_address_is_taken_there_and_free_elsewhere(node: Node, address: str) -> None:
    node.serve(host_port(address))
    for family, text in ((socket.AF_INET, address), (socket.AF_INET6, f"::ffff:{address}")):
        with node.network.socket(family=family) as sock, pytest.raises(OSError, match="Address already"):
            sock.bind((text, 8000))
    others = (("127.0.0.9", 8000, STREAM), (ANY, 8000, STREAM))
    for text, port, kind in (*others, (address, 8000, DATAGRAM), (address, 8001, STREAM)):
        with node.network.socket(kind) as sock:
            sock.bind((text, port))
    assert node.drops() == {"lb_sock_bind": 2}


def test_a_node_port_that_went_is_free(node: Node) -> None:
    node.serve()
    with node.network.socket() as sock:
        sock.bind((ANY, NODE_PORT))


def test_a_pod_binds_what_it_likes(node: Node, pod: Namespace) -> None:
    with pod.socket() as sock:
        sock.bind((ANY, NODE_PORT))
    assert node.drops() == {}


def ways(network: Namespace) -> list[Callable[[], object]]:
    """Calls that socket LB would answer for, by a process in a namespace."""

    def connect(kind: int, family: socket.AddressFamily, address: str) -> None:
        with network.socket(kind, family=family) as sock:
            sock.connect((address, 80))

    def send() -> None:
        with network.socket(DATAGRAM) as sock:
            sock.sendto(b"who", (VIP, 80))

    return [
        lambda: connect(STREAM, socket.AF_INET, VIP),
        lambda: connect(STREAM, socket.AF_INET6, f"::ffff:{VIP}"),
        send,
    ]


def test_for_the_host_alone_pods_are_left_to_the_network() -> None:
    with socket_node(HOST_ONLY) as node, Namespace("pod") as pod:
        node.serve(frontend(port=80), frontend(port=80, protocol=UDP))
        for call in ways(node.network):
            with pytest.raises(OSError, match=r"refused|No route to host"):
                call()
        assert node.drops() == {"lb_sock_no_backend": 3}
        for call in ways(pod):
            with pytest.raises(OSError, match="Network is unreachable"):
                call()
        assert node.drops() == {"lb_sock_no_backend": 3}


def test_for_the_host_alone_it_serves_the_host() -> None:
    with socket_node(HOST_ONLY) as node:
        node.serve(frontend(f"{ONE}:8080", port=80))
        with node.listen(), node.connect(VIP, 80) as client:
            assert client.getpeername() == (VIP, 80)


def test_pods_are_served_where_nothing_else_is_asked_for(node: Node, pod: Namespace) -> None:
    with pod.socket() as server, pod.socket() as client:
        server.bind((ONE, 8080))
        server.listen()
        client.connect((VIP, 80))
        assert client.getpeername() == (VIP, 80)


def test_settings_are_laid_out_as_the_programs_read_them(node: Node) -> None:
    section = parse_elf(compile_c(render_builtin("socketlb", HOST_ONLY.context()))).section(".BTF")
    assert section is not None
    btf = Btf(section.data)
    settings = node.maps["kb_lb_sock_cfg"].lookup(bytes(4))
    cookie = node.network.call(host_cookie)
    assert decode(btf, btf.find("kb_lb_sock_config") or 0, settings or b"") == {"host": cookie}
    assert cookie != host_cookie()
