"""Removes flows that are over, and frees the backends they kept."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import reduce

from kubebee.bpf.map import Map
from kubebee.lb.family import Family
from kubebee.lb.family_state import FamilyState
from kubebee.lb.grace import wait_for_readers
from kubebee.lb.layout import BackendValue, Flow, FlowFlag, FlowKey, Reverse, of_client, u32
from kubebee.lb.model import Protocol
from kubebee.lb.settle import DsrTimeouts, settle
from kubebee.lb.sync import LbState

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without a packet after which a flow is over. Stamps lag by up to a second.

    The established one is above the two hours after which TCP keepalive first probes (RFC 9293, 3.8.4).
    """

    tcp_established: int = 8000
    tcp_opening: int = 60
    tcp_closed: int = 10
    udp_answered: int = 180
    udp_unanswered: int = 30
    dsr: DsrTimeouts = field(default_factory=DsrTimeouts)

    def of(self, protocol: int, client: int, backend: int) -> int:
        """Return the seconds for a flow, by its protocol and both sides' flags."""
        answered = bool(backend & FlowFlag.SEEN)
        if protocol == Protocol.UDP:
            return self.udp_answered if answered else self.udp_unanswered
        client = of_client(client)
        if (client | backend) & FlowFlag.RST or client & backend & FlowFlag.FIN:
            return self.tcp_closed
        return self.tcp_established if answered else self.tcp_opening


@dataclass(frozen=True, slots=True)
class GcReport:
    """What one collection saw and did.

    Attributes:
        live: flows with SNAT that remain.
        orphans: had lost their other half.
        drained: were ended, as their backend had drained for long enough.
        held: entries that remain, by name of the map.
    """

    live: int = 0
    expired: int = 0
    orphans: int = 0
    backends_freed: int = 0
    drained: int = 0
    held: Mapping[str, int] = field(default_factory=dict)

    def plus(self, other: GcReport) -> GcReport:
        """What both saw and did."""
        return GcReport(
            self.live + other.live,
            self.expired + other.expired,
            self.orphans + other.orphans,
            self.backends_freed + other.backends_freed,
            self.drained + other.drained,
            {**self.held, **other.held},
        )


def collect(
    maps: Mapping[str, Map],
    state: LbState,
    now_ns: int,
    timeouts: Timeouts | None = None,
    drained: Mapping[Family, Set[int]] | None = None,
) -> GcReport:
    """Delete flows that are over. Call it every few seconds.

    Args:
        maps: ServiceLB's; without flows (no SNAT) only gone backends are freed.
        state: the state of the same maps.
        now_ns: CLOCK_MONOTONIC.
        timeouts: when a flow is over.
        drained: numbers of gone backends whose flows end now.
    """
    drained = drained or {}
    timeouts = timeouts or Timeouts()
    if any(part.gone or part.is_moving or part.own.unsettled for part in state.families.values()):
        wait_for_readers()  # a flow that is being made is in the map afterwards
    parts = state.families.values()
    reports = (
        _collect_family(maps, part, now_ns, timeouts, drained.get(part.family, frozenset())) for part in parts
    )
    return reduce(GcReport.plus, reports)


def _collect_family(
    maps: Mapping[str, Map], state: FamilyState, now_ns: int, timeouts: Timeouts, drained: Set[int]
) -> GcReport:
    direct = settle(maps, state, now_ns, timeouts.dsr, drained)
    translated, used = _collect_translated(maps, state, now_ns, timeouts, drained)
    state.own.settle(maps, used)
    freed = state.free_gone(maps, frozenset(used | direct.used))
    counts = {state.family.flows: translated.live, state.family.dsr_flows: direct.live}
    held = {name: count for name, count in counts.items() if name in maps}
    return translated.plus(GcReport(0, direct.expired, 0, freed, direct.drained, held))


def _collect_translated(
    maps: Mapping[str, Map], state: FamilyState, now_ns: int, timeouts: Timeouts, drained: Set[int]
) -> tuple[GcReport, set[int]]:
    """Of flows with SNAT; also the numbers of backends that they use."""
    family = state.family
    if family.flows not in maps:
        return GcReport(), set()

    flows, other_half = maps[family.flows], maps[family.reverse]
    backends = Backends(maps[family.backends])
    reverse = {key: Reverse.unpack(value) for key, value in other_half.items()}
    used: set[int] = set()
    live = ended = 0
    over: list[tuple[bytes, bytes | None]] = []
    for raw, value in flows.items():
        protocol, flow = FlowKey.unpack(raw).protocol, Flow.unpack(value)
        other_key = backends.reverse_key(flow, protocol)
        other = reverse.pop(other_key, None) if other_key else None
        if flow.backend in drained:
            ended += 1
            over.append((raw, other_key))
        elif _is_over(protocol, flow, other, now_ns, timeouts):
            over.append((raw, other_key))
        else:
            live += 1
            used.add(flow.backend)
    # A reverse half without its forward half is one being made just now, or what a crash left.
    orphans = [key for key, entry in reverse.items() if now_ns - entry.seen > timeouts.tcp_closed * _SECOND]
    used.update(entry.backend for entry in reverse.values())

    # The forward half first: were it last, packets in between would go out and have no way back.
    _delete(flows, [raw for raw, _ in over])
    _delete(other_half, [key for _, key in over if key])
    _delete(other_half, orphans)
    return GcReport(live, len(over) - ended, len(orphans), 0, ended), used


def _is_over(protocol: int, flow: Flow, other: Reverse | None, now_ns: int, timeouts: Timeouts) -> bool:
    seen = max(flow.seen, other.seen if other else 0)
    limit = timeouts.of(protocol, flow.flags, other.flags) if other else timeouts.tcp_closed
    return now_ns - seen > limit * _SECOND


def _delete(table: Map, keys: list[bytes]) -> None:
    table.delete_batch(b"".join(keys), len(keys))


class Backends:
    """Backends by number, read once each."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._known: dict[int, BackendValue] = {}

    def reverse_key(self, flow: Flow, protocol: int) -> bytes | None:
        """Key of a flow's other half; None: its backend is not there."""
        backend = self._known.get(flow.backend)
        if backend is None:
            raw = self._table.lookup(u32(flow.backend))
            if raw is None:
                return None
            backend = self._known[flow.backend] = BackendValue.unpack(raw)
        return FlowKey(backend.address, flow.nat_address, backend.port, flow.nat_port, protocol).pack()
