"""ClientIP affinity at the socket: a network namespace comes back to its backend, while that is there."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kubebee.lb.model import Backend, Frontend, parse_address
from lab.netns import Namespace
from support.servicelb import VIP, frontend
from support.socketlb import DATAGRAM, UDP, Node, socket_node

pytestmark = pytest.mark.root

ADDRESSES = tuple(f"127.0.0.{number}" for number in range(11, 31))
TIMEOUT = 20  # seconds; the clock that is turned back starts with the machine


def web(*addresses: str, seconds: int = TIMEOUT) -> Frontend:
    backends = tuple(Backend(parse_address(each), 8080) for each in addresses)
    return replace(frontend(port=80, protocol=UDP), backends=backends, affinity_seconds=seconds)


@pytest.fixture
def node() -> Iterator[Node]:
    with socket_node() as made:
        made.serve(web(*ADDRESSES))
        yield made


def backend_of(network: Namespace) -> str:
    """Which backend a new connection of a namespace gets: what it is connected to behind the frontend."""
    with network.socket(DATAGRAM) as client:
        client.connect((VIP, 80))
        return real_peer(client.getsockname()[1], network)


def real_peer(port: int, network: Namespace) -> str:
    """The other end of the UDP socket with this port, as the kernel has it."""
    shown = network.run("ss", "-unH", f"sport = :{port}").stdout.split()
    return shown[3].rpartition(":")[0]


def backends(network: Namespace, times: int = 12) -> set[str]:
    return {backend_of(network) for _ in range(times)}


def let_pass(node: Node, seconds: float) -> None:
    """Make every entry older, as if so much time had passed."""
    entries = node.maps["kb_lb_aff_sock"]
    for key, value in list(entries.items()):
        used, backend = struct.unpack("=QI4x", value)
        entries.update(key, struct.pack("=QI4x", max(0, used - int(seconds * 1e9)), backend))


def test_a_namespace_comes_back_to_its_backend(node: Node) -> None:
    assert len(backends(node.network)) == 1


def test_without_affinity_it_does_not(node: Node) -> None:
    node.serve(web(*ADDRESSES, seconds=0))
    assert len(backends(node.network)) > 1


def test_each_namespace_is_a_client_of_its_own(node: Node) -> None:
    found = set()
    for _ in range(5):
        with Namespace("pod") as pod:
            chosen = backends(pod, 3)
            assert len(chosen) == 1
            found |= chosen
    assert len(found) > 1


def test_it_gets_another_backend_when_its_own_left_and_keeps_that(node: Node) -> None:
    (first,) = backends(node.network)
    node.serve(web(*(each for each in ADDRESSES if each != first)))
    (second,) = backends(node.network)
    node.serve(web(*ADDRESSES))
    assert backends(node.network) == {second}


def test_a_backend_of_weight_0_gets_no_new_connections_by_affinity_either(node: Node) -> None:
    (first,) = backends(node.network)
    full = web(*ADDRESSES)
    drained = tuple(
        each._replace(weight=0 if each.address == parse_address(first) else 1) for each in full.backends
    )
    node.serve(replace(full, backends=drained))
    assert first not in backends(node.network)


def test_a_backend_that_only_packets_may_reach_is_not_come_back_to(node: Node) -> None:
    (first,) = backends(node.network)
    full = web(*ADDRESSES)
    inside = tuple(each for each in full.backends if each.address != parse_address(first))
    node.serve(replace(full, inside=inside))
    assert first not in backends(node.network)


def test_it_ends_when_it_is_not_used_for_its_time(node: Node) -> None:
    found = set()
    for _ in range(10):
        found |= backends(node.network, 1)
        let_pass(node, TIMEOUT + 1)
    assert len(found) > 1


def test_use_makes_it_last(node: Node) -> None:
    found = set()
    for _ in range(10):
        found |= backends(node.network, 1)
        let_pass(node, TIMEOUT * 0.6)
    assert len(found) == 1


def test_switched_off_it_holds_nobody_and_on_again_it_does(node: Node) -> None:
    assert len(backends(node.network)) == 1
    node.serve(web(*ADDRESSES, seconds=0))
    assert len(backends(node.network)) > 1
    node.serve(web(*ADDRESSES))
    assert len(backends(node.network)) == 1


def test_sent_datagrams_have_it_too(node: Node) -> None:
    (chosen,) = backends(node.network)
    servers = {address: node.udp(address, 8080) for address in ADDRESSES}
    for _ in range(6):
        with node.udp() as client:
            client.sendto(b"who", (VIP, 80))
    servers[chosen].settimeout(10)
    assert [servers[chosen].recv(8) for _ in range(6)] == [b"who"] * 6
    for server in servers.values():
        server.close()


def test_an_entry_is_of_this_moment(node: Node) -> None:
    backends(node.network, 1)
    ((_, value),) = node.maps["kb_lb_aff_sock"].items()
    age = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - struct.unpack_from("=Q", value)[0]
    assert 0 <= age < 60e9
