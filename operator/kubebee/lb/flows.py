"""The table of SNAT flows, searched: a million entries take a second or two."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from operator import itemgetter

from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.family import Family
from kubebee.lb.gc import Timeouts
from kubebee.lb.layout import BackendValue, Flow, FlowFlag, FlowKey, Reverse, of_client
from kubebee.lb.model import FrontendKey, Prefix, Protocol

_BATCH = 65536
_SECOND = 1_000_000_000
_Test = Callable[[tuple[bytes, bytes, int, int, int]], bool]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which flows to find; what is empty allows all.

    Attributes:
        frontends: that they came in by.
        client: where they come from.
        client_port: 0 = any.
        backends: numbers of backends.
    """

    frontends: Set[FrontendKey] = frozenset()
    client: Prefix | None = None
    client_port: int = 0
    backends: Set[int] = frozenset()


@dataclass(frozen=True, slots=True)
class FoundFlow:
    """A flow.

    Attributes:
        key: as the client's packets carry it.
        backend: its number.
        idle: seconds since its last packet, either way; stamps lag by up to a second.
        state: in one word, as TCP has it where it is TCP.
        timeout: seconds without a packet after which it is removed.
    """

    key: FlowKey
    flow: Flow
    backend: int
    idle: float
    state: str
    timeout: int

    @property
    def frontend(self) -> FrontendKey:
        """What the client connected to."""
        return FrontendKey(self.key.daddr, self.key.dport, Protocol(self.key.protocol))


def find(
    maps: Mapping[str, Map],
    family: Family,
    backends: Mapping[int, BackendValue],
    wanted: Wanted,
    now_ns: int,
) -> Iterator[FoundFlow]:
    """Yield flows of one family in no order, as they are read.

    Args:
        maps: ServiceLB's; without SNAT there are no flows.
        family: whose.
        backends: by number.
        wanted: which.
        now_ns: CLOCK_MONOTONIC.

    Raises:
        BpfError: a map can't be read.
    """
    if family.flows not in maps:
        return
    table, reverse = maps[family.flows], maps[family.reverse]
    key_size, value_size = table.info.key_size, table.info.value_size
    for keys, values, hits in _search(table, wanted, family):
        for i in hits:
            key = FlowKey.unpack(keys[i * key_size : (i + 1) * key_size])
            flow = Flow.unpack(values[i * value_size : (i + 1) * value_size])
            yield _found(key, flow, _answering(reverse, key, flow, backends), now_ns)


def count(maps: Mapping[str, Map], family: Family, wanted: Wanted) -> int:
    """How many flows of one family there are.

    Raises:
        BpfError: a map can't be read.
    """
    if family.flows not in maps:
        return 0
    if wanted == Wanted():
        return sum(number for _, _, number in maps[family.flows].batches(_BATCH))
    return sum(len(hits) for _, _, hits in _search(maps[family.flows], wanted, family))


def _search(table: Map, wanted: Wanted, family: Family) -> Iterator[tuple[bytes, bytes, list[int]]]:
    """Yield keys and values of a batch, and which of them are wanted."""
    matches = _test(wanted)
    head = struct.Struct(f"=QI{table.info.value_size - 12}x")
    for keys, values, number in table.batches(_BATCH):
        rows = layout.flow_keys(keys, family.address_bytes)
        if wanted.backends:
            numbers = map(itemgetter(1), head.iter_unpack(values))
            hits = [
                i
                for i, (row, of) in enumerate(zip(rows, numbers, strict=True))
                if of in wanted.backends and matches(row)
            ]
        elif wanted == Wanted():
            hits = list(range(number))
        else:
            hits = [i for i, row in enumerate(rows) if matches(row)]
        yield keys, values, hits


def _test(wanted: Wanted) -> _Test:
    """Whether a flow's addresses and ports are wanted; looks at no more than it must."""
    tests: list[_Test] = []
    ends = {(key.address, key.port, int(key.protocol)) for key in wanted.frontends}
    if ends:
        tests.append(lambda row: (row[1], row[3], row[4]) in ends)
    if wanted.client is not None:
        client = wanted.client
        if client.length == 8 * len(client.address):
            tests.append(lambda row: row[0] == client.address)
        else:
            tests.append(lambda row: client.covers(row[0]))
    if wanted.client_port:
        tests.append(lambda row: row[2] == wanted.client_port)
    if not tests:
        return lambda _row: True
    if len(tests) == 1:
        return tests[0]
    return lambda row: all(test(row) for test in tests)


def _answering(
    reverse: Map, key: FlowKey, flow: Flow, backends: Mapping[int, BackendValue]
) -> Reverse | None:
    """The other half of a flow: how answers of its backend come back."""
    backend = backends.get(flow.backend)
    if backend is None:
        return None
    other = FlowKey(backend.address, flow.nat_address, backend.port, flow.nat_port, key.protocol)
    value = reverse.lookup(other.pack())
    return Reverse.unpack(value) if value is not None else None


def _found(key: FlowKey, flow: Flow, other: Reverse | None, now_ns: int) -> FoundFlow:
    back = other.flags if other else 0
    seen = max(flow.seen, other.seen if other else 0)
    return FoundFlow(
        key=key,
        flow=flow,
        backend=flow.backend,
        idle=max(0.0, (now_ns - seen) / _SECOND),
        state=state_of(key.protocol, flow.flags, back),
        timeout=Timeouts().of(key.protocol, flow.flags, back),
    )


def state_of(protocol: int, client: int, backend: int) -> str:
    """In one word, from the flags that both sides' packets set."""
    if protocol != Protocol.TCP:
        return "Answered" if backend & FlowFlag.SEEN else "Unanswered"
    client = of_client(client)
    both = client | backend
    if both & FlowFlag.RST:
        return "Reset"
    if client & backend & FlowFlag.FIN:
        return "Closed"
    if both & FlowFlag.FIN:
        return "Closing"
    return "Established" if backend & FlowFlag.SEEN else "Opening"
