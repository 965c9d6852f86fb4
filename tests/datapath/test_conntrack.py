"""Connections that conntrack is told of: it has them as they were told, and lets go of them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from kubebee.bpf import conntrack
from kubebee.bpf.conntrack import Ends, Translated
from kubebee.lb import hand_back
from kubebee.lb.family import IPV4
from kubebee.lb.layout import NextHop
from kubebee.lb.model import parse_address
from lab.netns import Namespace, inside
from support.servicelb import CLIENT, ETHER, VIP, balancer, frontend

pytestmark = pytest.mark.root

NAMES = {
    socket.AF_INET: ("192.0.2.7", "10.200.0.10", "10.0.0.11", "10.0.0.1"),
    socket.AF_INET6: ("2001:db8::7", "2001:db8:1::10", "2001:db8:2::11", "2001:db8:2::1"),
}
FAMILIES = pytest.mark.parametrize("family", NAMES, ids=["IPv4", "IPv6"])


@pytest.fixture(autouse=True)
def node(netns: Callable[[str], Namespace]) -> Iterator[None]:
    with inside(netns("node")):
        yield


def connection(family: int, protocol: int, sport: int = 40000, *, keeps_client: bool = False) -> Translated:
    """From a client's port to 80 of a VIP, led to 8080 of a backend."""
    client, vip, backend, own = map(parse_address, NAMES[family])
    back = (
        Ends(backend, client, 8080, sport) if keeps_client else Ends(backend, own, 8080, 61000 + sport % 1000)
    )
    return Translated(protocol, Ends(client, vip, sport, 80), back, opening=False)


@FAMILIES
def test_connections_are_translated_as_told(family: int) -> None:
    told = [
        connection(family, socket.IPPROTO_TCP),
        connection(family, socket.IPPROTO_UDP),
        connection(family, socket.IPPROTO_TCP, 40001, keeps_client=True),
    ]
    assert conntrack.adopt(family, told) == [0, 0, 0]
    assert sorted(conntrack.translated(family)) == sorted(told)


@FAMILIES
def test_one_that_is_known_or_has_the_answers_of_another_is_refused(family: int) -> None:
    first, other = connection(family, socket.IPPROTO_TCP), connection(family, socket.IPPROTO_TCP, 41000)
    assert conntrack.adopt(family, [first, first, other]) == [0, errno.EEXIST, errno.EEXIST]
    assert list(conntrack.translated(family)) == [first]


@FAMILIES
def test_one_that_is_forgotten_can_be_told_anew(family: int) -> None:
    one = connection(family, socket.IPPROTO_UDP)
    conntrack.adopt(family, [one])
    assert conntrack.forget(family, [(one.protocol, one.original)]) == [0]
    assert conntrack.forget(family, [(one.protocol, one.original)]) == [errno.ENOENT]
    assert not list(conntrack.translated(family))
    assert conntrack.adopt(family, [one]) == [0]


def test_a_thousand_are_told_in_one_call() -> None:
    told = [connection(socket.AF_INET, socket.IPPROTO_TCP, 40000 + number) for number in range(1000)]
    assert not any(conntrack.adopt(socket.AF_INET, told))
    assert len(list(conntrack.translated(socket.AF_INET))) == 1000


# -- connections of the load balancer ------------------------------------------------------------------------


def packet(flags: str, sport: int = 40000) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=sport, dport=80, flags=flags)


def test_connections_to_other_hosts_are_given_to_conntrack_as_they_are() -> None:
    with balancer() as lb:
        lb.serve(frontend("10.0.0.11:8080"))
        for sport in (40000, 40001, 40002):
            lb.send(packet("S", sport))
        lb.send(packet("FA", 40002))
        given = list(hand_back.ours(lb.maps, IPV4))
        assert sorted(each.connection.original.sport for each in given) == [40000, 40001], "one is ending"
        old = given[0].connection._replace(reply=given[0].connection.reply._replace(dport=5))
        conntrack.adopt(socket.AF_INET, [old])
        assert hand_back.give(lb.maps, IPV4, given, hand_back.known_to_conntrack(IPV4)) == 2
        assert lb.flows() == (1, 1)
        assert sorted(conntrack.translated(socket.AF_INET)) == sorted(each.connection for each in given)


def test_those_to_backends_of_the_node_are_kept() -> None:
    with balancer() as lb:
        lb.serve(frontend("10.244.1.5:8080"), hop=NextHop.local(77))
        lb.send(packet("S"))
        assert not list(hand_back.ours(lb.maps, IPV4))
        assert lb.flows() == (1, 1)


def test_one_that_conntrack_was_told_of_before_a_crash_is_given_again() -> None:
    with balancer() as lb:
        lb.serve(frontend("10.0.0.11:8080"))
        lb.send(packet("S"))
        (ours,) = hand_back.ours(lb.maps, IPV4)
        conntrack.adopt(socket.AF_INET, [ours.connection])
        assert hand_back.give(lb.maps, IPV4, [ours], hand_back.known_to_conntrack(IPV4)) == 1
        assert lb.flows() == (0, 0)
