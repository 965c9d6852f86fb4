"""ServiceLB's packet programs, loaded alone: frontends in, packets through."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kubebee import drops
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program, TestRun
from kubebee.lb import devices, gc
from kubebee.lb.devices import Device
from kubebee.lb.family import FAMILIES
from kubebee.lb.features import Features
from kubebee.lb.layout import DevFlag, NextHop
from kubebee.lb.model import (
    Backend,
    Forwarding,
    Frontend,
    FrontendKey,
    LbConfig,
    Protocol,
    merge,
    parse_address,
)
from kubebee.lb.sync import LbState, SyncReport
from kubebee.render.environment import render_builtin
from support.clang import compile_c
from support.loaded_once import Loaded, lent

CONTINUE, DROP, PASS, TX, REDIRECT = 0xFFFFFFFF, 1, 2, 3, 4
"""As a test run returns them: KB_CONTINUE is -1."""


class Hook(NamedTuple):
    """Where packets are seen, and what its verdicts are called by a test run.

    Attributes:
        sent: out of the interface that the packet came by.
        redirected: out of another one.
        up: translated, for the stack.
    """

    name: str
    sent: int
    redirected: int
    dropped: int
    up: int


XDP = Hook("xdp", TX, REDIRECT, DROP, PASS)
TC = Hook("tc", 7, 7, 2, CONTINUE)
HOOKS = (XDP, TC)

LOOPBACK = 1
"""Where a test run without context comes in."""

NODE_MAC, CLIENT_MAC, ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
CLIENT, VIP, NODE = "198.51.100.7", "192.0.2.10", "10.0.0.1"
HOP = NextHop(LOOPBACK, bytes.fromhex((ROUTER_MAC + NODE_MAC).replace(":", "")), 1500)
CONFIG = LbConfig(snat_address=parse_address(NODE))
ETHER = Ether(src=CLIENT_MAC, dst=NODE_MAC)
SENT = Ether(src=NODE_MAC, dst=ROUTER_MAC)
ALL = Features(dsr=True, ip_option=True, ipv6=True, affinity=True, random=True)

_ENTRY = 'SEC("xdp")\nint LB_V(kb_servicelb)('
_LAST_STAGE = """
SEC("xdp")
int last_stage(struct xdp_md *ctx)
{
	int verdict = LB_V(kb_servicelb)(ctx);

	return verdict == KB_CONTINUE ? XDP_PASS : verdict;
}
"""


@functools.cache
def elf(last_stage: bool = False, six: bool = False, features: Features = ALL) -> bytes:
    """Render and compile the stage; as the `last_stage` of a chain what goes on goes to the kernel."""
    source = render_builtin("servicelb", features.context() | {"tc": False, "six": six})
    if last_stage:
        assert _ENTRY in source
        source = source.replace(_ENTRY, "__noinline int LB_V(kb_servicelb)(") + _LAST_STAGE
    return compile_c(source)


@functools.cache
def tc_elf(six: bool = False, features: Features = ALL) -> bytes:
    """Render and compile the programs of tc."""
    return compile_c(render_builtin("servicelb", features.context() | {"tc": True, "six": six}))


def frontend(
    *backends: str,
    vip: str = VIP,
    port: int = 80,
    protocol: Protocol = Protocol.TCP,
    forwarding: Forwarding = Forwarding.SNAT,
    owner: str = "",
) -> Frontend:
    """A frontend; backends as "address:port" or "address:port*weight", IPv6 in brackets."""
    parsed = []
    for text in backends:
        endpoint, _, weight = text.partition("*")
        address, _, backend_port = endpoint.rpartition(":")
        parsed.append(Backend(parse_address(address.strip("[]")), int(backend_port), int(weight or 1)))
    return Frontend(
        FrontendKey(parse_address(vip), port, protocol), tuple(parsed), forwarding=forwarding, owner=owner
    )


class Balancer:
    """Loaded programs with their maps.

    Attributes:
        hook: where `send` lets packets come in.
        program: what they meet there.
        ingress, egress: what packets meet at tc on their way in and out.
    """

    def __init__(
        self,
        program: Program,
        maps: dict[str, Map],
        hook: Hook = XDP,
        ingress: Program | None = None,
        egress: Program | None = None,
    ) -> None:
        self.program = program
        self.maps = maps
        self.hook = hook
        self.ingress = ingress
        self.egress = egress
        self.state = LbState.adopt(maps)

    def serve(self, *frontends: Frontend, config: LbConfig = CONFIG, hop: NextHop | None = HOP) -> SyncReport:
        """Serve exactly these; their backends are reached by `hop`, None = by the routing table."""
        report = self.state.apply(self.maps, merge(frontends), config)
        addresses = {backend.address for item in frontends for backend in item.backends}
        self.state.set_next_hops(self.maps, dict.fromkeys(addresses, hop))
        return report

    def send(self, packet: Packet | bytes) -> TestRun:
        """What becomes of one packet that comes in."""
        return self.program.test_run(bytes(packet))

    def refuses(self, packet: Packet | bytes) -> bool:
        """Whether nobody serves a packet."""
        before = self.drops().get("lb_no_backend", 0)
        self.send(packet)
        return self.drops().get("lb_no_backend", 0) == before + 1

    def leave(self, packet: Packet | bytes) -> TestRun:
        """What becomes of one packet that goes out."""
        assert self.egress is not None
        return self.egress.test_run(bytes(packet))

    def takes_frames(self, *interfaces: int) -> None:
        """Let XDP redirect to these interfaces."""
        devices.write(self.maps[devices.MAP], dict.fromkeys(interfaces, Device(DevFlag.FRAMES)))

    def collect(self, after_seconds: float = 0) -> gc.GcReport:
        """Collect as if so much time had passed."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(after_seconds * 1e9)
        return gc.collect(self.maps, self.state, now)

    def backend_of(self, packet: Packet) -> str:
        """The address that a packet is sent on to."""
        return str(Ether(self.send(packet).data)[IP].dst)

    def flows(self) -> tuple[int, int]:
        """Entries of the two flow maps, of both families."""
        counts = (
            sum(len(list(self.maps[name + family.suffix].keys())) for family in FAMILIES)
            for name in ("kb_lb_flow", "kb_lb_rev")
        )
        return next(counts), next(counts)

    def drops(self) -> dict[str, int]:
        """Packets by drop reason, zeroes left out."""
        return {reason: count for reason, count in drops.read(self.maps).items() if count}


_SMALL = {"kb_lb_slots": 4096, "kb_lb_be": 1024, "kb_lb_be_stat": 1024, "kb_lb_fe_stat": 1024}
SMALL = {name + family.suffix: entries for family in FAMILIES for name, entries in _SMALL.items()}
"""Sizes that tests do with: adopting maps reads them."""


@contextmanager
def balancer(
    hook: Hook = XDP,
    *,
    last_stage: bool = False,
    six: bool = False,
    features: Features = ALL,
    **max_entries: int,
) -> Iterator[Balancer]:
    """Load all programs of a family over one set of maps.

    Args:
        hook: where packets come in.
        last_stage: of XDP the stage and the end of a chain.
        six: IPv6.
        features: what is rendered.
        max_entries: sizes of maps, by name.
    """
    suffix, sizes = "6" * six, SMALL | max_entries
    key = (last_stage, six, features, *sorted(sizes.items()))
    with lent(key, lambda: _load(elf(last_stage, six, features), tc_elf(six, features), sizes)) as loaded:
        named = loaded.programs
        stage = named["last_stage" if last_stage else f"kb_servicelb{suffix}"]
        ingress, egress = named[f"kb_lb_ingress{suffix}"], named[f"kb_lb_egress{suffix}"]
        yield Balancer(stage if hook is XDP else ingress, dict(loaded.maps), hook, ingress, egress)


def _load(xdp_elf: bytes, of_tc: bytes, sizes: Mapping[str, int]) -> Loaded:
    with BpfObject.open(xdp_elf, "servicelb") as xdp, BpfObject.open(of_tc, "servicelb_tc") as tc:
        for name, count in sizes.items():
            xdp.maps[name].set_max_entries(count)
        xdp.load()
        for name, item in tc.maps.items():
            if name in xdp.maps and not name.startswith("."):
                item.reuse_fd(xdp.maps[name].fd)
        tc.load()
        programs = {**xdp.programs, **tc.programs}
        own = (item for name, item in tc.maps.items() if name not in xdp.maps or name.startswith("."))
        return Loaded(
            {name: each.duplicate() for name, each in programs.items()},
            {name: each.duplicate() for name, each in xdp.maps.items()},
            tuple(each.duplicate() for each in own if not each.name.startswith(".rodata")),
        )
