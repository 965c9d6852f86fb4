"""What connect() of a process on this node would get: read from the tables.

The kernel runs no cgroup socket program on request, and for TCP the choice is random: what can be told is
where it may go and how likely that is.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.lb.model import Protocol
from kubebee.lb.reading import Member, Shown, read_tables, shares
from kubebee.loader.pins import PinRoot
from kubebee.planner.plan import LbUnit
from kubebee.trace.gather import find
from kubebee.trace.packet import Flow


@dataclass(frozen=True)
class SocketTrace:
    """Where a socket of this node would get to.

    Attributes:
        served: whether a program is attached that translates at the socket.
        frontend: that it asks for, None if none.
        chances: backends and their parts of all, 0 to 1; empty: it is refused.
    """

    flow: Flow
    served: bool
    frontend: Shown | None
    chances: tuple[tuple[Member, float], ...]


def trace_socket(pins: PinRoot, flow: Flow) -> SocketTrace:
    """Look up what a socket that asks for the flow's destination would get.

    Raises:
        BpfError: a map can't be read.
    """
    with contextlib.ExitStack() as stack:
        maps = {
            name: stack.enter_context(Map.from_pin(paths[-1]))
            for name, paths in pins.maps_of(LbUnit.key).items()
        }
        found = find(read_tables(maps), flow)
        if found is None:
            return SocketTrace(flow, _served(pins, flow), None, ())
        tables, shown = found
        _, inside = shares(maps, tables, shown)
    total = sum(inside.values())
    chances = tuple(
        (member, inside[member.number] / total) for member in shown.members if inside.get(member.number)
    )
    return SocketTrace(flow, _served(pins, flow), shown, chances)


def _served(pins: PinRoot, flow: Flow) -> bool:
    family = "4" if len(flow.source) == 4 else "6"
    wanted = f"kb_connect{family}" if flow.protocol == Protocol.TCP else f"kb_sendmsg{family}"
    return any(link.function == wanted for link in pins.links_of(LbUnit.key))
