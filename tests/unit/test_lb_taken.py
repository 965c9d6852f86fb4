"""Frontends at the node's own addresses leave the ports of its processes alone."""

from __future__ import annotations

import socket

import pytest

from kubebee.bpf.listeners import Listener
from kubebee.lb.model import Frontend, FrontendKey, Protocol, parse_address
from kubebee.loader.lb_taken import taken
from support.servicelb import frontend

OWN, OTHER, OWN6 = "10.0.0.1", "10.0.0.2", "fd00::1"
ADDRESSES = frozenset(map(parse_address, (OWN, OWN6)))
ANY, ANY6 = bytes(4), bytes(16)
TCP = socket.IPPROTO_TCP


def at(
    vip: str, port: int = 22, *backends: str, owner: str = "ServiceLB/shop:ssh"
) -> dict[FrontendKey, Frontend]:
    one = frontend(*(backends or ("10.0.0.9:22",)), vip=vip, port=port, owner=owner)
    return {one.key: one}


@pytest.mark.parametrize("bound", [ANY, ANY6, parse_address(OWN)], ids=["any", "any of IPv6", "its own"])
def test_one_in_the_place_of_a_process_is_taken(bound: bytes) -> None:
    assert taken(at(OWN), ADDRESSES, [Listener(bound, 22, TCP)]).keys() == at(OWN).keys()


@pytest.mark.parametrize(
    "listener",
    [
        Listener(ANY, 23, TCP),
        Listener(ANY, 22, socket.IPPROTO_UDP),
        Listener(parse_address("127.0.0.1"), 22, TCP),
        Listener(parse_address(OWN6), 22, TCP),
    ],
    ids=["another port", "another protocol", "loopback alone", "the other family alone"],
)
def test_a_process_elsewhere_is_in_nobodys_way(listener: Listener) -> None:
    assert not taken(at(OWN), ADDRESSES, [listener])


def test_other_addresses_are_not_the_nodes_business() -> None:
    assert not taken(at(OTHER), ADDRESSES, [Listener(ANY, 22, TCP)])


def test_one_that_leads_to_that_process_is_meant_so() -> None:
    assert not taken(at(OWN, 80, f"{OWN}:80", "10.0.0.9:80"), ADDRESSES, [Listener(ANY, 80, TCP)])


def test_what_the_cluster_gave_out_stays() -> None:
    assert not taken(at(OWN, owner="Service/shop/web:http"), ADDRESSES, [Listener(ANY, 22, TCP)])


def test_ipv6_alike() -> None:
    one = frontend("[fd00::9]:22", vip=OWN6, port=22, owner="ServiceLB/shop:ssh")
    found = taken({one.key: one}, ADDRESSES, [Listener(ANY6, 22, TCP)])
    assert found.keys() == {FrontendKey(parse_address(OWN6), 22, Protocol.TCP)}
