"""News of what decides how packets leave: interfaces, neighbours, routes and rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kubebee.bpf.neighbours import RTM_DELNEIGH, RTM_NEWNEIGH, Neighbour, parse_neighbour
from kubebee.bpf.netlink import LinkChange, messages, open_event_socket, parse_changes, receive
from kubebee.bpf.routes import RTM_DELROUTE, RTM_NEWROUTE, changed_prefix

_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_GROUPS = sum(1 << (number - 1) for number in (1, 3, 7, 8))
"""Interfaces, neighbours of both families, IPv4 routes, IPv4 rules."""
_GROUPS_IPV6 = sum(1 << (number - 1) for number in (11, 19))
"""Routes and rules."""


@dataclass(slots=True)
class NetChanges:
    """What happened since the last look, in order within each kind.

    Attributes:
        neighbours: with True for those that are gone.
        prefixes: address and length of routes that came, changed or went.
        everything: rules changed, or news got lost: look at all of it anew.
    """

    links: list[LinkChange] = field(default_factory=list)
    neighbours: list[tuple[Neighbour, bool]] = field(default_factory=list)
    prefixes: set[tuple[bytes, int]] = field(default_factory=set)
    everything: bool = False


class NetEvents:
    """A socket that hears of changes in the network namespace of the thread that made it.

    Args:
        ipv6: whether IPv6 routes and rules are of interest.
    """

    def __init__(self, *, ipv6: bool = False) -> None:
        self._socket = open_event_socket(_GROUPS | _GROUPS_IPV6 if ipv6 else _GROUPS)

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        return self._socket.fileno()

    def read(self) -> NetChanges:
        """Take all news there is, without waiting.

        Raises:
            BpfError: the socket can't be read.
        """
        changes = NetChanges()
        for datagram in self._datagrams(changes):
            changes.links += parse_changes(datagram)
            for kind, _, payload in messages(datagram):
                _add(changes, kind, payload)
        return changes

    def _datagrams(self, changes: NetChanges) -> Iterator[bytes]:
        while True:
            datagram = receive(self._socket)
            if datagram is None:
                changes.everything = True
            elif datagram:
                yield datagram
            else:
                return

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _add(changes: NetChanges, kind: int, payload: bytes) -> None:
    if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        neighbour = parse_neighbour(payload)
        if neighbour is not None:
            changes.neighbours.append((neighbour, kind == RTM_DELNEIGH))
    elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
        prefix = changed_prefix(payload)
        if prefix is not None:
            changes.prefixes.add(prefix)
    elif kind in (_RTM_NEWRULE, _RTM_DELRULE):
        changes.everything = True
