"""Ends what is kept of connections under DSR, and lets slots that moved settle: see moving.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from kubebee.bpf.map import Map
from kubebee.lb import moving
from kubebee.lb.family_state import FamilyState
from kubebee.lb.layout import DsrFlow, FlowFlag
from kubebee.lb.model import FrontendKey

_SECOND = 1_000_000_000
_BATCH = 65536


@dataclass(frozen=True, slots=True)
class DsrTimeouts:
    """Seconds without a packet of the client after which a connection is over; the backend's are not seen.

    Attributes:
        established: also how long slots keep who has no entry: a connection from before the change that is
            silent for longer goes with the table. As with SNAT, above the two hours of TCP keepalive.
        established_short_of_room: that instead, while what is kept takes more than half of the flow table, or
            three quarters of the numbers of backends or of the rows for tables.
        opening: only SYNs came; or, short of room, a single packet of what may be an older connection.
        closing: the client has sent FIN; until the backend has too it may still acknowledge.
        reset: it has sent RST.
    """

    established: int = 8000
    established_short_of_room: int = 600
    opening: int = 60
    closing: int = 120
    reset: int = 10

    def of(self, flags: int, *, short: bool) -> int:
        """Of a connection, by its flags.

        Who sent but one packet since the slot changed may be nobody's client: no flood of those must keep the
        flow table full.
        """
        if flags & FlowFlag.RST:
            return self.reset
        if flags & FlowFlag.FIN:
            return self.closing
        if flags & FlowFlag.SEEN or (flags & FlowFlag.OLDER and not short):
            return self.established
        return self.opening


class _Entry(NamedTuple):
    key: bytes
    hash: int
    backend: int


@dataclass(slots=True)
class Settled:
    """What was seen and done.

    Attributes:
        live: entries that remain.
        expired, drained: that were over, and that were ended.
        used: numbers of backends that connections may go to.
    """

    live: int = 0
    expired: int = 0
    drained: int = 0
    used: set[int] = field(default_factory=set)


def settle(
    maps: Mapping[str, Map], state: FamilyState, now_ns: int, timeouts: DsrTimeouts, drained: Set[int]
) -> Settled:
    """Do what is due. All packets that were under way when it was last done have to be through.

    What is in use is said as it was before, for packets may be under way that go by that.

    Args:
        maps: ServiceLB's; without DSR there is nothing to do.
        state: of one family.
        now_ns: CLOCK_MONOTONIC.
        timeouts: when a connection is over.
        drained: numbers of backends whose connections end now.
    """
    report = Settled()
    if state.family.dsr_flows not in maps:
        return report
    flows = maps[state.family.dsr_flows]
    useless: list[bytes] = []
    by_frontend: defaultdict[int, list[_Entry]] = defaultdict(list)
    found = list(_read(flows))
    short = state.short_of_room or 2 * len(found) > flows.info.max_entries
    for entry, value in found:
        _, backend, flow_hash, frontend, flags = value
        if backend in drained:
            report.drained += 1
            useless.append(entry)
        elif now_ns - value[0] > timeouts.of(flags, short=short) * _SECOND:
            report.expired += 1
            useless.append(entry)
        else:
            report.live += 1
            by_frontend[frontend].append(_Entry(entry, flow_hash, backend))
    idle = timeouts.established_short_of_room if short else timeouts.established
    moved_by = now_ns // _SECOND - idle
    for key, served in state.served.items():
        if served.moving is None and served.value.id not in by_frontend:
            continue
        entries = by_frontend.pop(served.value.id, [])
        report.used.update(entry.backend for entry in entries)
        if served.moving is not None:
            report.used |= served.moving.named
            useless += _settle_one(maps, state, key, entries, moved_by, drained)
        elif not served.value.affinity:
            useless += [entry.key for entry in entries]
    for entries in by_frontend.values():  # of frontends that went
        useless += [entry.key for entry in entries]
        report.used.update(entry.backend for entry in entries)
    report.live -= len(useless) - report.expired - report.drained
    flows.delete_batch(b"".join(useless), len(useless))
    return report


def _read(flows: Map) -> Iterator[tuple[bytes, tuple[int, int, int, int, int]]]:
    size = flows.info.key_size
    for keys, values, _ in flows.batches(_BATCH):
        for i, value in enumerate(DsrFlow.unpack_many(values)):
            yield keys[i * size : (i + 1) * size], value


def _settle_one(
    maps: Mapping[str, Map],
    state: FamilyState,
    key: FrontendKey,
    entries: list[_Entry],
    moved_by: int,
    drained: Set[int],
) -> list[bytes]:
    """Do what is due of one frontend's table; returns entries that say no more than their slots."""
    served = state.served[key]
    was = served.moving
    assert was is not None
    due = any(since <= moved_by for since in was.since)
    if not due and not was.has_settled and not was.named & drained and was.since:
        return []
    old = state.read_table(maps, served)
    needed = moving.needed(old, ((entry.hash, entry.backend) for entry in entries))
    # What settles now is looked up until the next time: a packet may be under way that makes an entry.
    table = moving.forget(old, [entry.hash for entry, need in zip(entries, needed, strict=True) if need])
    table = moving.settle(moving.end(table, drained), moved_by)
    if table is not old:
        state.rewrite(maps, key, old, table)
    return [entry.key for entry, need in zip(entries, needed, strict=True) if not need]
