"""Gives connections that the load balancer translates to the kernel's conntrack, which goes on with them.

Conntrack is told what to make of a connection's packets, and then the load balancer forgets it. Between the
two either would do the same.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from kubebee.bpf import conntrack
from kubebee.bpf.conntrack import Ends, Translated
from kubebee.bpf.map import Map
from kubebee.lb.family import Family
from kubebee.lb.gc import Backends
from kubebee.lb.layout import Flow, FlowFlag, FlowKey, Reverse

_ENDING = FlowFlag.FIN | FlowFlag.RST

Known = Mapping[tuple[int, Ends], Ends]
"""Of connections that conntrack translates: how their answers look, by protocol and how they come in."""


class Ours(NamedTuple):
    """A connection in the load balancer's tables.

    Attributes:
        forward, reverse: keys of its entries.
        connection: as conntrack shall have it.
    """

    forward: bytes
    reverse: bytes
    connection: Translated


def ours(maps: Mapping[str, Map], family: Family) -> Iterator[Ours]:
    """Connections of one family to other hosts, without those that end or have one half only.

    Those to backends of the node itself can't be given away: conntrack sees their packets translated already,
    as another connection with the same answers, and would give one that is under way meanwhile another port.
    """
    backends = Backends(maps[family.backends])
    reverses = dict(maps[family.reverse].items())
    for raw, value in maps[family.flows].items():
        key, flow = FlowKey.unpack(raw), Flow.unpack(value)
        reverse = backends.reverse_key(flow, key.protocol)
        if reverse is None or reverse not in reverses:
            continue
        if (flow.flags | Reverse.unpack(reverses[reverse]).flags) & _ENDING:
            continue
        back = FlowKey.unpack(reverse)
        if back.daddr == key.saddr:
            continue
        yield Ours(raw, reverse, Translated(key.protocol, Ends(*key[:4]), Ends(*back[:4]), opening=False))


def known_to_conntrack(family: Family) -> Known:
    """What conntrack translates already.

    Raises:
        BpfError: the kernel has no ctnetlink, or refuses.
    """
    return {(each.protocol, each.original): each.reply for each in conntrack.translated(family.number)}


def give(maps: Mapping[str, Map], family: Family, given: Sequence[Ours], known: Known) -> int:
    """Have conntrack translate connections instead of the load balancer; returns how many it does now.

    What it has of the same client's port from before is of a connection that is over.

    Raises:
        BpfError: the kernel has no ctnetlink, or refuses.
    """
    over: list[tuple[int, Ends]] = []
    for each in given:
        protocol, original, reply, _ = each.connection
        if known.get((protocol, original), reply) != reply:
            over.append((protocol, original))
    conntrack.forget(family.number, over)
    refused = conntrack.adopt(family.number, [each.connection for each in given])
    done = [each for each, error in zip(given, refused, strict=True) if _is_there(each, error, known)]
    # As in gc: the other way round answers would find no way back for a moment.
    maps[family.flows].delete_batch(b"".join(each.forward for each in done), len(done))
    maps[family.reverse].delete_batch(b"".join(each.reverse for each in done), len(done))
    return len(done)


def _is_there(each: Ours, error: int, known: Known) -> bool:
    protocol, original, reply, _ = each.connection
    return not error or (error == errno.EEXIST and known.get((protocol, original)) == reply)
