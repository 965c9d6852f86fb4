"""The HostPolicy stage, loaded alone: policies in, verdicts and counters out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from scapy.packet import Packet

from kubebee import drops
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.policy import stats
from kubebee.policy.compile import CompiledPolicy, compile_policies
from kubebee.policy.local import apply_local
from kubebee.policy.model import Failsafe, Policy
from kubebee.policy.sync import PolicyState, SyncReport
from kubebee.render.environment import render_builtin
from support.clang import compile_c

CONTINUE, DROP = 0xFFFFFFFF, 1
"""As a test run returns them: KB_CONTINUE is -1."""


@functools.cache
def elf(lb_reverse: bool = False) -> bytes:
    """Render and compile the stage."""
    return compile_c(render_builtin("hostpolicy", {"lb_reverse": lb_reverse}))


class Firewall:
    """A loaded stage with its maps."""

    def __init__(self, program: Program, maps: dict[str, Map]) -> None:
        self.program = program
        self.maps = maps
        self.state = PolicyState.adopt(maps)
        self.compiled: CompiledPolicy = compile_policies([])

    def enforce(self, *policies: Policy, failsafe: Failsafe | None = None) -> SyncReport:
        """Put policies in force."""
        self.compiled = compile_policies(policies, self.state.slots, failsafe)
        return self.state.apply(self.maps, self.compiled)

    def verdict(self, packet: Packet | bytes) -> int:
        """What becomes of one packet."""
        return self.program.test_run(bytes(packet)).retval

    def hits(self) -> dict[str, tuple[int, int]]:
        """Packets that were decided, and would have been in audit mode, by "policy/rule"; zeroes left out."""
        read = stats.read(self.maps, self.compiled)
        return {
            f"{rule.policy}/{rule.rule}": (rule.packets, rule.audit_packets)
            for rule in read
            if rule.packets or rule.audit_packets
        }

    def drops(self) -> dict[str, int]:
        """Packets by drop reason, zeroes left out."""
        return {reason: count for reason, count in drops.read(self.maps).items() if count}


@contextmanager
def firewall(*local: str, lb_reverse: bool = False) -> Iterator[Firewall]:
    """Load the stage on a host with these addresses."""
    with BpfObject.open(elf(lb_reverse), "hostpolicy") as loaded:
        loaded.load()
        maps = {name: loaded_map.duplicate() for name, loaded_map in loaded.maps.items()}
        with loaded.programs["kb_hostpolicy"].duplicate() as program:
            apply_local(maps, (IPv4Address(address).packed for address in local))
            yield Firewall(program, maps)
        for opened in maps.values():
            opened.close()
