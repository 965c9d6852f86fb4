"""Real sockets through ServiceLB at native XDP: a client, the node, two backends."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from kubebee.bpf import attach
from kubebee.lb import stats
from kubebee.lb.model import Forwarding, LbConfig, Protocol, merge, parse_ipv4
from lab import BACKENDS, NODE, VIP, Lab, http_get, is_denied, tcp_connect, udp_ask
from lab.netns import inside
from lab.traffic import http_ask
from support.servicelb import Balancer, balancer, frontend

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
CONFIG = LbConfig(snat_address=parse_ipv4(NODE))
INTERFACES = ("eth0", "eth1", "eth2")
BOTH = set(BACKENDS)


@pytest.fixture
def lb(lab: Lab) -> Iterator[Balancer]:
    network = lab.node.network
    with balancer(last_stage=True) as loaded, contextlib.ExitStack() as stack:
        for name in INTERFACES:
            with inside(network):
                link = attach.attach_xdp(loaded.program.fd, network.ifindex(name), "native")
            stack.callback(link.close)
        for address in (ONE, TWO):
            network.run("ping", "-c1", "-W2", address)  # neighbours, as the loader keeps them
        yield loaded


def serve(lb: Balancer, forwarding: Forwarding, *backends: str) -> None:
    tcp = frontend(*(f"{b}:80" for b in backends), vip=VIP, forwarding=forwarding)
    udp = frontend(
        *(f"{b}:53" for b in backends), vip=VIP, port=53, protocol=Protocol.UDP, forwarding=forwarding
    )
    lb.state.apply(lb.maps, merge([tcp, udp]), CONFIG)


@pytest.mark.parametrize("forwarding", list(Forwarding))
def test_http_and_udp_reach_both_backends(lab: Lab, lb: Balancer, forwarding: Forwarding) -> None:
    serve(lb, forwarding, ONE, TWO)
    http = Counter(http_get(lab.client, VIP) for _ in range(30))
    udp = Counter(udp_ask(lab.client, VIP, 53) for _ in range(30))
    assert (set(http), set(udp)) == (BOTH, BOTH)
    assert lb.drops() == {}
    (_, tcp_stats) = stats.read(lb.maps, lb.state)
    assert tcp_stats.counts.connections == 30
    assert {b.counts.connections for b in tcp_stats.backends} == set(http.values())


def test_a_snat_connection_outlives_its_backends_removal(lab: Lab, lb: Balancer) -> None:
    serve(lb, Forwarding.SNAT, ONE)
    with tcp_connect(lab.client, VIP, 80) as connection:
        assert http_ask(connection) == "backend1"
        serve(lb, Forwarding.SNAT, TWO)
        lb.collect()
        assert http_ask(connection) == "backend1"
        assert http_get(lab.client, VIP) == "backend2"


@pytest.mark.parametrize("forwarding", list(Forwarding))
def test_without_backends_nobody_answers_and_the_reason_is_counted(
    lab: Lab, lb: Balancer, forwarding: Forwarding
) -> None:
    serve(lb, forwarding)
    assert is_denied(lab.client, VIP, 80)
    assert set(lb.drops()) == {"lb_no_backend"}


def test_traffic_that_is_not_for_a_frontend_passes(lab: Lab, lb: Balancer) -> None:
    serve(lb, Forwarding.SNAT, ONE, TWO)
    assert http_get(lab.client, ONE) == "backend1"
    assert udp_ask(lab.client, TWO, 53) == "backend2"


def test_flows_end_with_their_connections(lab: Lab, lb: Balancer) -> None:
    serve(lb, Forwarding.SNAT, ONE, TWO)
    for _ in range(5):
        http_get(lab.client, VIP)
    assert lb.flows() == (5, 5)
    assert lb.collect(after_seconds=20).expired == 5
    assert lb.flows() == (0, 0)
