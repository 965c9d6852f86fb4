"""ServiceLB against a model: random frames of both families, equal verdicts and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kubebee.lb.layout import NextHop
from kubebee.lb.model import LbConfig, parse_address
from lab.netns import Namespace
from support.frames import TCP, UDP
from support.lb_model import MAC, Model, Seen, Served, mac_of
from support.servicelb import HOOKS, LOOPBACK, TC, Balancer, Hook, balancer
from support.wire import IPV4, IPV6, Wire

pytestmark = pytest.mark.root

CONFIGURATIONS, FRAMES, MORE_FRAMES = 50, 500, 2000
LEAST_OF_TC = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""Bytes that a test run of tc takes at least, by protocol."""
NODE_MAC, SIDE_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
SIDE = bytes.fromhex((SIDE_MAC + NODE_MAC).replace(":", ""))


def number(address: str) -> int:
    return int.from_bytes(parse_address(address))


@dataclass(frozen=True)
class Plan:
    """Addresses of one family.

    Attributes:
        hosts: what backends' addresses begin with, before their last four bytes.
        here: of a frontend with backends on this node.
        others: that nobody serves.
        least_mtu: from where MTUs are tried.
    """

    wire: Wire
    node: bytes
    vips: tuple[int, ...]
    here: int
    pods: frozenset[bytes]
    hosts: bytes
    clients: tuple[int, ...]
    others: tuple[int, ...]
    least_mtu: int


PLANS = (
    Plan(
        wire=IPV4,
        node=parse_address("10.0.0.1"),
        vips=tuple(number(f"192.0.2.{end}") for end in (10, 11, 12)),
        here=number("203.0.113.12"),
        pods=frozenset(parse_address(f"10.244.1.{i}") for i in (5, 6)),
        hosts=b"",
        clients=tuple(number(f"198.51.100.{i}") for i in range(1, 9)),
        others=(number("192.0.2.99"), number("10.0.0.10")),
        least_mtu=60,
    ),
    Plan(
        wire=IPV6,
        node=parse_address("2001:db8:1::1"),
        vips=tuple(number(f"2001:db8:f::{end}") for end in (10, 11, 12)),
        here=number("2001:db8:e::12"),
        pods=frozenset(parse_address(f"2001:db8:2::{i}") for i in (5, 6)),
        hosts=parse_address("2001:db8:7::")[:12],
        clients=tuple(number(f"2001:db8:c::{i}") for i in range(1, 9)),
        others=(number("2001:db8:f::99"), number("2001:db8:1::10")),
        least_mtu=100,
    ),
)


class Site:
    """A balancer on a node with a way to clients; test runs come in on loopback."""

    def __init__(self, lb: Balancer, node: Namespace, plan: Plan) -> None:
        self.lb = lb
        self.node = node
        self.plan = plan

    def serve(self, served: Served, mtu: int) -> None:
        """Serve this alone, as a node that has served nothing yet: flows would stay where they were."""
        lb, plan = self.lb, self.plan
        lb.serve()
        lb.collect(after_seconds=100_000)
        lb.collect(after_seconds=200_000)
        fragments = lb.maps["kb_lb_frags" + "6" * plan.wire.six]
        for datagram in list(fragments.keys()):
            fragments.delete(datagram)
        assert lb.flows() == (0, 0)
        config = LbConfig(snat_address6=plan.node) if plan.wire.six else LbConfig(snat_address=plan.node)
        lb.serve(*served.frontends(plan.wire.width), config=config, hop=None)
        hops = {backend: NextHop(LOOPBACK, mac_of(backend) + MAC, mtu) for backend in served.backends}
        lb.state.set_next_hops(lb.maps, hops | dict.fromkeys(plan.pods, NextHop.local(77)))


@pytest.fixture(scope="module", params=PLANS, ids=["IPv4", "IPv6"])
def plan(request: pytest.FixtureRequest) -> Plan:
    chosen: Plan = request.param
    return chosen


@pytest.fixture(scope="module", params=HOOKS, ids=lambda hook: hook.name)
def site(request: pytest.FixtureRequest, plan: Plan) -> Iterator[Site]:
    hook: Hook = request.param
    with Namespace("node") as node, balancer(hook, six=plan.wire.six) as lb:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.sysctl("net.ipv6.conf.all.forwarding", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        for gateway, address, nodad in (
            ("100.64.0.2", "100.64.0.1/30", ()),
            ("2001:db8:64::2", "2001:db8:64::1/64", ("nodad",)),
        ):
            node.ip("addr", "add", address, "dev", "up0", *nodad)
            node.ip("neigh", "replace", gateway, "lladdr", SIDE_MAC, "dev", "up0", "nud", "permanent")
            node.ip("route", "add", "default", "via", gateway)
        lb.takes_frames(node.ifindex("up0"))
        yield Site(lb, node, plan)


def try_frames(site: Site, mtu: int, seed: int, count: int) -> None:
    """Send random frames to a random configuration; errors and answers are about what has left so far."""
    random, plan, lb = Random(seed), site.plan, site.lb
    here = frozenset({(plan.here, 80, TCP), (plan.here, 53, UDP)})
    served = Served.random(random, plan.vips, plan.hosts, here, plan.pods)
    site.serve(served, mtu)
    model = Model(lb.hook, plan.wire, plan.node, mtu, SIDE, frozenset(plan.clients), served)
    pods = tuple(map(int.from_bytes, plan.pods))
    frames = plan.wire.frames(
        random,
        plan.clients,
        (*plan.vips, *plan.vips, plan.others[0]),
        (53, 80, 443, 8080, 40000),
        (*pods, *pods, *pods, *plan.others),
        (*[plan.here] * 6, plan.vips[0], plan.others[0]),
        tuple(sorted(served.places)),
        tuple(sorted(here)),
        tagged=3,
    )
    hosts = sorted(frozenset[bytes]().union(*served.l2.values())) or [plan.node]
    for _ in range(count):
        kind = random.random()
        if kind < 0.15 and model.sent:
            about = random.choice(model.sent[-500:])
            frame = frames.error(int.from_bytes(plan.wire.ends(about, 0)[0]), about)
        elif kind < 0.3 and model.reverse:
            backend, port, to, protocol = random.choice(list(model.reverse)[-500:])
            ends = int.from_bytes(backend), int.from_bytes(plan.node)
            frame = frames.answer(*ends, protocol, (port, to))
        elif kind < 0.35 and model.parts:
            datagram, followed = random.choice(list(model.parts.items())[-100:])
            end = int.from_bytes(followed.backend) if followed.way == "up" else None
            frame = frames.later(*datagram, end)
        else:
            frame = frames.one()
        if random.random() < 0.02:
            frame = frame[:6] + mac_of(random.choice(hosts)) + frame[12:]
        if lb.hook is TC and len(frame) < LEAST_OF_TC.get(frame[12:14], 0):
            continue
        run = lb.send(frame)
        assert model.check(frame, Seen(run.retval, run.data)), (frame.hex(), run.retval, run.data.hex())


mtus = st.one_of(st.integers(0, 60), st.just(None))
seeds = st.integers(0, 1 << 32)
quick = settings(max_examples=CONFIGURATIONS, deadline=None, derandomize=True, phases=[Phase.generate])


@quick
@given(more=mtus, seed=seeds)
def test_every_frame_leaves_as_the_model_says(site: Site, more: int | None, seed: int) -> None:
    mtu = 1500 if more is None else site.plan.least_mtu + more
    site.node.call(lambda: try_frames(site, mtu, seed, FRAMES))


@pytest.mark.full
@quick
@given(more=mtus, seed=seeds)
def test_every_one_of_100_000_frames_does(site: Site, more: int | None, seed: int) -> None:
    mtu = 1500 if more is None else site.plan.least_mtu + more
    site.node.call(lambda: try_frames(site, mtu, seed, MORE_FRAMES))
