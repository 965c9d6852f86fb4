"""Which flows stay with kube-proxy while the load balancer takes over from it, or hands back to it.

The maps are those of templates/include/lb_cut_over.h.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum

from kubebee.bpf.conntrack import Translated
from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.family import Family
from kubebee.lb.layout import FlowKey
from kubebee.lb.model import FrontendKey, Protocol

PHASE_MAP = "kb_lb_cut"
_U32 = struct.Struct("=I")
_PORTS_OF = frozenset(map(int, (Protocol.TCP, Protocol.UDP)))


class Phase(IntEnum):
    """enum lb_cut_phase."""

    RECORDS = 0
    SERVES = 1
    OVER = 2
    HANDS_BACK = 3


def theirs_map(family: Family) -> str:
    """Name of the map of a family's flows that kube-proxy began."""
    return "kb_lb_theirs" + family.suffix


def phase_of(maps: Mapping[str, Map]) -> Phase:
    """How far it has come; OVER where nothing is taken over."""
    if PHASE_MAP not in maps:
        return Phase.OVER
    value = maps[PHASE_MAP].lookup(layout.u32(0))
    return Phase(_U32.unpack(value)[0]) if value else Phase.RECORDS


def enter(maps: Mapping[str, Map], phase: Phase) -> None:
    """Let packets be treated so from now on."""
    maps[PHASE_MAP].update(layout.u32(0), _U32.pack(phase))


def their_flows(
    tracked: Iterable[Translated], served: Collection[FrontendKey]
) -> tuple[dict[bytes, bytes], int]:
    """What the map shall have of connections in conntrack, and how many connections that are.

    Each is in it as its client's packets look and as its answers do: a source port that answers to kube-proxy
    come to is not free. Sockets that send without connecting have no address of their own before there is a
    packet, so that those of UDP are in it without one, too.

    Args:
        tracked: connections of one family.
        served: frontends; other connections are no business of this load balancer.
    """
    found: dict[bytes, bytes] = {}
    count = 0
    for protocol, original, reply, opening in tracked:
        if protocol not in _PORTS_OF:
            continue
        if FrontendKey(original.daddr, original.dport, Protocol(protocol)) not in served:
            continue
        count += 1
        found[FlowKey(*original, protocol).pack()] = _U32.pack(opening)
        found[FlowKey(*reply, protocol).pack()] = _U32.pack(0)
        if protocol == Protocol.UDP:
            anywhere = original._replace(saddr=bytes(len(original.saddr)))
            found[FlowKey(*anywhere, protocol).pack()] = _U32.pack(0)
    return found, count


def note(theirs: Map, wanted: Mapping[bytes, bytes]) -> None:
    """Add flows that the datapath has not noted itself."""
    known = set(theirs.keys())
    missing = {key: value for key, value in wanted.items() if key not in known}
    theirs.update_batch(b"".join(missing), b"".join(missing.values()), len(missing))


def forget_others(theirs: Map, before: Mapping[bytes, bytes], wanted: Mapping[bytes, bytes]) -> None:
    """Remove flows that conntrack has no more, and say of those that were opening what became of them.

    Args:
        theirs: the map.
        before: what it had before conntrack was read; a flow that began since then stays.
        wanted: from conntrack.
    """
    gone = [key for key in before if key not in wanted]
    theirs.delete_batch(b"".join(gone), len(gone))
    opening = _U32.pack(1)
    for key, value in before.items():
        if value == opening and wanted.get(key, opening) != opening:
            theirs.update(key, wanted[key])
