"""UDP sockets that are connected to a backend that left are ended, wherever they are, and no others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubebee.bpf import features, netns
from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_codec import decode
from kubebee.bpf.elf import parse_elf
from kubebee.lb.cut import CutReport, SocketCut, pack_left
from kubebee.lb.model import Frontend, parse_address
from kubebee.lb.reports import Left
from kubebee.render.environment import render_builtin
from lab.netns import Namespace, inside
from support.clang import compile_c
from support.servicelb import VIP, frontend
from support.socketlb import DATAGRAM, ONE, STREAM, TWO, UDP, Node, socket_node

VIP6, ONE6, TWO6 = "2001:db8::10", "fd00::11", "fd00::12"
OTHER_VIP = "192.0.2.11"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not features.feature("sock_destroy").available, reason="no bpf_sock_destroy"),
]


def elf(ipv6: bool = True) -> bytes:
    return compile_c(render_builtin("socketcut", {"ipv6": ipv6}))


def dns(address: str, vip: str = VIP) -> Frontend:
    host = f"[{address}]" if ":" in address else address
    return frontend(f"{host}:5353", vip=vip, port=53, protocol=UDP)


def web(address: str) -> Frontend:
    return frontend(f"{address}:8080", port=80)


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        for address in (ONE6, TWO6):
            made.network.ip("address", "add", f"{address}/128", "dev", "lo", "nodad")
        made.serve(dns(ONE), dns(ONE6, VIP6), dns(TWO, OTHER_VIP), web(ONE))
        made.state.take_left()
        yield made


@pytest.fixture
def cutter(node: Node) -> Iterator[SocketCut]:
    made = SocketCut.load(elf(), node.maps)
    yield made
    made.close()


def cut(node: Node, cutter: SocketCut, *frontends: Frontend) -> CutReport:
    """Serve other frontends, and cut off who is connected to backends that thereby left."""
    node.serve(*frontends)
    left = node.state.take_left()
    with inside(node.network):
        return cutter.cut(left)


def is_ended(sock: socket.socket) -> bool:
    """Whether the next receive says so, and the next send too."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    except ConnectionAbortedError:
        with pytest.raises(OSError, match="Destination address required"):
            sock.send(b"x")
        return True
    return False


@pytest.mark.parametrize("vip", [VIP, f"::ffff:{VIP}", VIP6])
def test_a_connected_client_of_a_backend_that_left_is_told(node: Node, cutter: SocketCut, vip: str) -> None:
    with node.connect(vip, 53, DATAGRAM) as client:
        assert cut(node, cutter, dns(TWO), dns(TWO6, VIP6)) == CutReport(cut=1)
        assert is_ended(client)


def test_one_whose_frontend_was_removed_is_told_too(node: Node, cutter: SocketCut) -> None:
    with node.connect(VIP, 53, DATAGRAM) as client:
        assert cut(node, cutter).cut == 1
        assert is_ended(client)


def test_clients_of_other_backends_go_on(node: Node, cutter: SocketCut) -> None:
    with node.connect(OTHER_VIP, 53, DATAGRAM) as other, node.connect(VIP6, 53, DATAGRAM) as sixth:
        assert cut(node, cutter, dns(TWO), dns(ONE6, VIP6), dns(TWO, OTHER_VIP)) == CutReport()
        assert not is_ended(other)
        assert not is_ended(sixth)


def test_tcp_is_not_touched(node: Node, cutter: SocketCut) -> None:
    with node.listen(ONE) as server, node.connect(VIP, 80, STREAM) as client:
        assert cut(node, cutter, web(TWO)) == CutReport()
        client.send(b"still there")
        assert server.accept()[0].recv(64) == b"still there"


def test_a_socket_that_only_sends_is_not_ended_and_finds_another_backend(
    node: Node, cutter: SocketCut
) -> None:
    with node.udp(TWO, 5353) as server, node.udp() as client:
        client.sendto(b"first", (VIP, 53))
        assert cut(node, cutter, dns(TWO)) == CutReport()
        assert not is_ended(client)
        client.sendto(b"second", (VIP, 53))
        assert server.recv(64) == b"second"


def test_a_socket_that_turned_elsewhere_meanwhile_goes_on(node: Node, cutter: SocketCut) -> None:
    with node.connect(VIP, 53, DATAGRAM) as client:
        client.connect((OTHER_VIP, 53))
        assert cut(node, cutter, dns(TWO), dns(TWO, OTHER_VIP)) == CutReport()
        assert not is_ended(client)


def test_who_reached_for_the_address_itself_goes_on(node: Node, cutter: SocketCut) -> None:
    with node.connect(ONE, 5353, DATAGRAM) as client:
        assert cut(node, cutter, dns(TWO)) == CutReport()
        assert not is_ended(client)


def test_clients_of_a_backend_that_came_back_meanwhile_go_on(node: Node, cutter: SocketCut) -> None:
    with node.connect(VIP, 53, DATAGRAM) as client:
        node.serve(dns(TWO))
        assert cut(node, cutter, dns(ONE)).cut == 0
        assert not is_ended(client)


def test_clients_in_pods_are_told_wherever_their_namespace_is(node: Node, cutter: SocketCut) -> None:
    with Namespace("pod") as one, Namespace("pod") as two:
        clients = [pod.socket(DATAGRAM) for pod in (one, two, two)]
        for client in clients:
            client.connect((VIP, 53))
        assert cut(node, cutter, dns(TWO)) == CutReport(cut=3)
        assert all(is_ended(client) for client in clients)
        for client in clients:
            client.close()


def test_what_can_not_be_reached_is_counted_and_said(
    node: Node, cutter: SocketCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Namespace("pod") as pod, pod.socket(DATAGRAM) as client, node.connect(VIP, 53, DATAGRAM) as own:
        client.connect((VIP, 53))
        monkeypatch.setattr(netns, "find", lambda _wanted: dict[int, Path]())
        report = cut(node, cutter, dns(TWO))
        assert report[:2] == (1, 1)
        assert "no file of their network namespace" in report.why
        assert is_ended(own)
        assert not is_ended(client)


def test_an_earlier_loaders_backends_that_left_are_known(node: Node) -> None:
    node.serve()
    again = type(node.state).adopt(node.maps)
    assert {(each.address, each.port) for each in again.take_left()} >= {(parse_address(ONE), 5353)}
    assert again.take_left() == []


@pytest.mark.parametrize("address", [ONE, ONE6])
def test_a_backend_that_left_is_laid_out_as_the_iterators_read_it(address: str) -> None:
    section = parse_elf(elf()).section(".BTF")
    assert section is not None
    btf = Btf(section.data)
    packed = pack_left(Left(7, parse_address(address), 5353))
    found = decode(btf, btf.find("kb_lb_left_key") or 0, packed)
    assert isinstance(found, dict)
    assert (found["number"], found["port"]) == (7, 5353)
    assert found["family"] == (6 if ":" in address else 4)


def test_it_loads_for_ipv4_alone(node: Node) -> None:
    maps = {name: each for name, each in node.maps.items() if not name.endswith("6")}
    SocketCut.load(elf(ipv6=False), maps).close()
