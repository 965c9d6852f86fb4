"""The ServiceLB stage, loaded alone: frontends in, packets through."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kubebee import drops
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program, TestRun
from kubebee.lb import gc
from kubebee.lb.family import FAMILIES
from kubebee.lb.features import Features
from kubebee.lb.layout import NextHop
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

CONTINUE, DROP, PASS, TX, REDIRECT = 0xFFFFFFFF, 1, 2, 3, 4
"""As a test run returns them: KB_CONTINUE is -1."""

LOOPBACK = 1
"""Where a test run without context comes in."""

NODE_MAC, CLIENT_MAC, ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
CLIENT, VIP, NODE = "198.51.100.7", "192.0.2.10", "10.0.0.1"
HOP = NextHop(LOOPBACK, bytes.fromhex((ROUTER_MAC + NODE_MAC).replace(":", "")), 1500)
CONFIG = LbConfig(snat_address=parse_address(NODE))
ETHER = Ether(src=CLIENT_MAC, dst=NODE_MAC)
SENT = Ether(src=NODE_MAC, dst=ROUTER_MAC)
ALL = Features(dsr=True, snat=True, ipv6=True, affinity=True)

_ENTRY = 'SEC("xdp")\nint kb_servicelb('
_LAST_STAGE = """
SEC("xdp")
int last_stage(struct xdp_md *ctx)
{
	int verdict = kb_servicelb(ctx);

	return verdict == KB_CONTINUE ? XDP_PASS : verdict;
}
"""


@functools.cache
def elf(last_stage: bool = False) -> bytes:
    """Render and compile the stage; as the `last_stage` of a chain what goes on goes to the kernel."""
    source = render_builtin("servicelb", ALL.context())
    assert _ENTRY in source
    if last_stage:
        source = source.replace(_ENTRY, "__noinline int kb_servicelb(") + _LAST_STAGE
    return compile_c(source)


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
    """A loaded stage with its maps."""

    def __init__(self, program: Program, maps: dict[str, Map]) -> None:
        self.program = program
        self.maps = maps
        self.state = LbState.adopt(maps)

    def serve(self, *frontends: Frontend, config: LbConfig = CONFIG, hop: NextHop | None = HOP) -> SyncReport:
        """Serve exactly these; their backends are reached by `hop`, None = by the routing table."""
        report = self.state.apply(self.maps, merge(frontends), config)
        addresses = {backend.address for item in frontends for backend in item.backends}
        self.state.set_next_hops(self.maps, dict.fromkeys(addresses, hop))
        return report

    def send(self, packet: Packet | bytes) -> TestRun:
        """What becomes of one packet."""
        return self.program.test_run(bytes(packet))

    def collect(self, after_seconds: float = 0) -> gc.GcReport:
        """Collect as if so much time had passed."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(after_seconds * 1e9)
        return gc.collect(self.maps, self.state, now)

    def backend_of(self, packet: Packet) -> str:
        """The address that a packet is sent on to."""
        return str(Ether(self.send(packet).data)[IP].dst)

    def flows(self) -> tuple[int, int]:
        """Entries of the two flow maps."""
        return len(list(self.maps["kb_lb_flow"].keys())), len(list(self.maps["kb_lb_rev"].keys()))

    def drops(self) -> dict[str, int]:
        """Packets by drop reason, zeroes left out."""
        return {reason: count for reason, count in drops.read(self.maps).items() if count}


_SMALL = {"kb_lb_slots": 4096, "kb_lb_be": 1024, "kb_lb_be_stat": 1024, "kb_lb_fe_stat": 1024}
SMALL = {name + family.suffix: entries for family in FAMILIES for name, entries in _SMALL.items()}
"""Sizes that tests do with: adopting maps reads them."""


@contextmanager
def balancer(*, last_stage: bool = False, **max_entries: int) -> Iterator[Balancer]:
    """Load the stage, or it and the end of a chain; `max_entries` sizes maps by name."""
    with BpfObject.open(elf(last_stage), "servicelb") as loaded:
        for name, count in (SMALL | max_entries).items():
            loaded.maps[name].set_max_entries(count)
        loaded.load()
        maps = {name: loaded_map.duplicate() for name, loaded_map in loaded.maps.items()}
        with loaded.programs["last_stage" if last_stage else "kb_servicelb"].duplicate() as program:
            yield Balancer(program, maps)
        for opened in maps.values():
            opened.close()
