"""From what a run left behind to the decisions that it took: pure."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kubebee.bpf.netlink import Interface
from kubebee.lb.family import IPV4
from kubebee.lb.flows import state_of
from kubebee.lb.layout import Affinity, DsrFlow, FlowFlag, Reverse, flow_hash
from kubebee.lb.layout import Flow as FlowValue
from kubebee.lb.model import Forwarding, FrontendKey, Protocol
from kubebee.lb.moving import BEFORE, NUMBER
from kubebee.lb.reading import Member, Shown
from kubebee.loader.counted import WENT_ON
from kubebee.trace.live import At
from kubebee.trace.packet import ICMP, ICMPV6, Decoded, Flow, Layer, decode
from kubebee.trace.private import ipv4_twin
from kubebee.trace.rehearsal import Entry, Rehearsal, StageRun

_SENT = frozenset({"TX", "REDIRECT"})
_OPEN = FlowFlag.SEEN | FlowFlag.OLDER
_LOST = frozenset({"DROP", "ABORTED"})


class Ending(StrEnum):
    """What becomes of the packet."""

    FORWARDED = "Forwarded"
    """It leaves by an interface, to a backend or back to a client."""
    LEFT_TO_KERNEL = "LeftToKernel"
    """Changed already; the kernel delivers it on this node, or forwards it and finds the next hop."""
    PASSED = "Passed"
    """It goes on to the kernel as it came."""
    ANSWERED = "Answered"
    """An ICMP error or a reset goes back."""
    DROPPED = "Dropped"
    USER = "DecidedByProgram"
    """A program of a user sent it on."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A live entry that the packet belongs to.

    Attributes:
        answer: it is a backend's answer on its way to the client.
        direct: it is kept though nothing is translated (DSR), as its slot changed since.
        frontend: that the client connected to.
        client: address and port.
        backend: number.
    """

    answer: bool
    frontend: FrontendKey
    client: tuple[bytes, int]
    backend: int
    state: str
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Habit:
    """What is known of a client's last visit, for session affinity.

    Attributes:
        backend: number of the one it had.
        age: seconds since it last came.
        counts: it is young enough.
    """

    backend: int
    age: float
    counts: bool


@dataclass(frozen=True, slots=True)
class Pick:
    """What the frontend's table says for a packet.

    Attributes:
        slot: of `size`.
        number: of the backend there.
        changed: of late, so that connections which are older go to the backend of before.
    """

    hash: int
    slot: int
    size: int
    number: int
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """The way out.

    Attributes:
        macs: of the frame; b"" if the kernel resolves the neighbour.
        kept: next hop as kept with the backend, else by a route lookup.
    """

    interface: str
    macs: bytes
    kept: bool


@dataclass(frozen=True)
class Table:
    """A frontend's table for packets, its slots with flags, and what its choice depends on."""

    slots: array[int]
    seed: int


@dataclass(frozen=True)
class Trace:
    """All decisions.

    Attributes:
        frontend: that the packet is for, None if for none.
        connection: None if it belongs to none.
        pick: None without a frontend or a backend, and where backends are drawn.
        drawn: its backend is one of those that it may get at random.
        backend: that it goes to, None if to none; `position` is its place among those that stay, from 1.
        by_table_before: it is of a connection that is older than a change of its slot, and not known.
        disagrees: the table says otherwise, and nothing explains it.
    """

    run: Rehearsal
    before: Decoded
    after: Decoded
    frontend: Shown | None
    connection: Connection | None
    habit: Habit | None
    pick: Pick | None
    drawn: bool
    backend: Member | None
    position: int
    exit: Exit | None
    ending: Ending
    decided_by: StageRun | None
    by_table_before: bool
    disagrees: bool

    @property
    def tunnel(self) -> bytes:
        """The backend that another balancer sent it to, in a tunnel or with an option; b"": none did."""
        return self.before.layers[0].flow.destination if _has_sender(self.before) else b""

    @property
    def by_option(self) -> bool:
        """Whether it has the option that names a frontend."""
        return any(layer.has_option for layer in self.before.layers[:1])

    @property
    def is_tunnels_end(self) -> bool:
        """Whether the outer header, or the option, is taken off here."""
        return _has_sender(self.before) and not _has_sender(self.after)

    @property
    def source(self) -> tuple[bytes, int] | None:
        """Address and port that a backend sees instead of the client's."""
        first, last = self.before.innermost, self.after.innermost
        if first is None or last is None or self.ending not in (Ending.FORWARDED, Ending.LEFT_TO_KERNEL):
            return None
        mine, theirs = (
            (first.flow.source, first.flow.source_port),
            (last.flow.source, last.flow.source_port),
        )
        return theirs if mine != theirs else None


def decide(
    run: Rehearsal,
    flow: Flow,
    frontend: Shown | None,
    table: Table | None,
    interfaces: Sequence[Interface],
    now_ns: int,
    way_to: Callable[[bytes], str | None] = lambda _address: None,
) -> Trace:
    """Read the decisions off a run.

    Args:
        run: what it left behind.
        flow: of the packet.
        frontend: that the packet is for, if any.
        table: of the frontend.
        interfaces: of the node.
        now_ns: CLOCK_MONOTONIC.
        way_to: the interface that leads to an address.
    """
    before, after = decode(run.before), decode(run.after)
    connection = _connection(run.found, flow)
    habit = _habit(run.found, frontend, now_ns) if frontend is not None else None
    pick = _pick(flow, table) if frontend is not None and table is not None and not frontend.random else None
    ending = _ending(run, before, after)
    backend = _backend(frontend, before, after, connection, run.made) if frontend else None
    chosen = backend.number if backend else None
    explained = connection is not None or habit is not None or pick is None or chosen is None
    explained |= _has_sender(before)  # which has chosen
    moved = pick is not None and pick.changed and chosen is not None and connection is None
    made = [DsrFlow.unpack(entry.value) for entry in run.made if ipv4_twin(entry.table) == IPV4.dsr_flows]
    staying = [each for each in frontend.members if not each.leaving] if frontend else []
    return Trace(
        run=run,
        before=before,
        after=after,
        frontend=frontend,
        connection=connection,
        habit=habit,
        pick=pick,
        drawn=_is_drawn(frontend, backend, connection, habit),
        backend=backend,
        position=staying.index(backend) + 1 if backend in staying else 0,
        exit=_exit(run, before, after, backend, interfaces, way_to),
        ending=ending,
        decided_by=next((stage for stage in run.stages if stage.verdict not in ("", WENT_ON)), None),
        # A full flow table takes no entry: then all go there.
        by_table_before=moved and all(flow.flags & FlowFlag.OLDER for flow in made),
        disagrees=not explained and not moved and pick is not None and chosen != pick.number,
    )


def _has_sender(packet: Decoded) -> bool:
    """Whether it is as balancers send packets on."""
    return len(packet.layers) > 1 or any(layer.has_option for layer in packet.layers)


def _connection(found: Sequence[Entry], flow: Flow) -> Connection | None:
    by_table = {ipv4_twin(entry.table): entry.value for entry in found}
    if raw := by_table.get("kb_lb_flow"):
        kept = FlowValue.unpack(raw)
        frontend = FrontendKey(flow.destination, flow.destination_port, Protocol(flow.protocol))
        client = (flow.source, flow.source_port)
        return Connection(False, frontend, client, kept.backend, state_of(flow.protocol, kept.flags, 0))
    if raw := by_table.get(IPV4.dsr_flows):
        known = DsrFlow.unpack(raw)
        frontend = FrontendKey(flow.destination, flow.destination_port, Protocol(flow.protocol))
        state = state_of(flow.protocol, known.flags, FlowFlag.SEEN if known.flags & _OPEN else 0)
        return Connection(False, frontend, (flow.source, flow.source_port), known.backend, state, direct=True)
    if raw := by_table.get("kb_lb_rev"):
        back = Reverse.unpack(raw)
        frontend = FrontendKey(back.vip, back.vip_port, Protocol(flow.protocol))
        client = (back.client, back.client_port)
        return Connection(True, frontend, client, back.backend, state_of(flow.protocol, 0, back.flags))
    return None


def _habit(found: Sequence[Entry], frontend: Shown, now_ns: int) -> Habit | None:
    for entry in found:
        if ipv4_twin(entry.table) == IPV4.affinity:
            known = Affinity.unpack(entry.value)
            age = max(0.0, (now_ns - known.used) / 1e9)
            return Habit(known.backend, age, age < frontend.value.affinity)
    return None


def _pick(flow: Flow, table: Table) -> Pick | None:
    size = len(table.slots)
    if not size:
        return None
    number = flow_hash(flow.source, flow.destination, flow.source_port, flow.destination_port, table.seed)
    slot = number * size >> 32
    word = table.slots[slot]
    return Pick(number, slot, size, word & NUMBER, changed=bool(word & BEFORE))


def _is_drawn(
    frontend: Shown | None, backend: Member | None, connection: Connection | None, habit: Habit | None
) -> bool:
    """Whether another run might find another backend: neither a connection nor the client's habit has it."""
    if frontend is None or backend is None or not frontend.random:
        return False
    if connection is not None and (connection.answer or connection.backend == backend.number):
        return False
    return habit is None or not habit.counts or habit.backend != backend.number


def _ending(run: Rehearsal, before: Decoded, after: Decoded) -> Ending:
    last = next((stage for stage in run.stages if stage.verdict not in ("", WENT_ON)), None)
    if run.verdict in _LOST:
        return Ending.DROPPED
    if last is not None and not last.builtin and run.verdict in _SENT:
        return Ending.USER
    if run.verdict in _SENT:
        if last is not None and last.dropped:
            return Ending.ANSWERED
        inner = after.innermost
        icmp = inner is not None and inner.flow.protocol in (ICMP, ICMPV6)
        first = before.innermost
        was = first is not None and first.flow.protocol in (ICMP, ICMPV6)
        return Ending.ANSWERED if icmp and not was else Ending.FORWARDED
    changed = [layer.text for layer in before.layers] != [layer.text for layer in after.layers]
    return Ending.LEFT_TO_KERNEL if changed else Ending.PASSED


def _backend(
    frontend: Shown,
    before: Decoded,
    after: Decoded,
    connection: Connection | None,
    made: Sequence[Entry],
) -> Member | None:
    """Where it went, by what left; of a packet that did not leave, by the connection that it has or made."""
    by_number = {member.number: member for member in frontend.members}
    for entry in made:
        if ipv4_twin(entry.table) in (IPV4.flows, IPV4.dsr_flows):
            return by_number.get(entry.backend)
    if connection is not None and connection.backend in by_number:
        return by_number[connection.backend]
    outer = after.layers[0] if after.layers else None
    if outer is None or _same(before.layers, after.layers):
        return None
    port = outer.flow.destination_port or frontend.key.port
    ends = {(member.backend.address, member.backend.port): member for member in frontend.members}
    return ends.get((outer.flow.destination, port))


def _same(before: Sequence[Layer], after: Sequence[Layer]) -> bool:
    return [layer.flow for layer in before] == [layer.flow for layer in after]


def _exit(
    run: Rehearsal,
    before: Decoded,
    after: Decoded,
    backend: Member | None,
    interfaces: Sequence[Interface],
    way_to: Callable[[bytes], str | None],
) -> Exit | None:
    if run.verdict not in _SENT:
        return None
    macs = after.destination_mac + after.source_mac
    names = {interface.index: interface.name for interface in interfaces}
    hop = backend.hop if backend else None
    if hop is not None and hop.macs == macs:
        return Exit(names.get(hop.ifindex, f"interface {hop.ifindex}"), macs, kept=True)
    if run.live.at is At.TC and macs == before.destination_mac + before.source_mac:
        to = after.layers[0].flow.destination if after.layers else b""
        return Exit((to and way_to(to)) or "an interface", b"", kept=False)
    if run.verdict == "TX":
        return Exit(run.live.interface, macs, kept=False)
    senders = [interface.name for interface in interfaces if interface.address == after.source_mac]
    return Exit(" or ".join(senders) or "an interface", macs, kept=False)


def forwarding_of(trace: Trace) -> Forwarding | None:
    """How it was forwarded."""
    return trace.frontend.forwarding if trace.frontend and trace.ending is Ending.FORWARDED else None
