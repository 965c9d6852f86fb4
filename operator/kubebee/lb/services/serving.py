"""Which endpoints of a port serve: the rules of kube-proxy (KEP-1669, KEP-2086, KEP-2433, KEP-3015).

Ready endpoints serve. Where none is ready, those do that are ending and still answer. Hints narrow the ready
ones to a node or a zone, as long as every ready endpoint has hints and one of them is for us.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kubebee.lb.model import Backend, Protocol
from kubebee.lb.services.slices import Condition, Slice

_READY, _LOCAL = int(Condition.READY), int(Condition.LOCAL)
_ENDING = int(Condition.SERVING | Condition.TERMINATING)
_NODE_HINTS, _THIS_NODE = int(Condition.NODE_HINTS), int(Condition.THIS_NODE)
_READY_HERE = _READY | _LOCAL


class State(NamedTuple):
    """An endpoint's conditions, and the zones that its hints name."""

    flags: int
    zones: tuple[str, ...] = ()


class Serving(NamedTuple):
    """What serves a port, sorted.

    Attributes:
        everywhere: endpoints for clients without a preference for this node.
        here: endpoints on this node.
        exists: whether any endpoint serves, wherever it is.
        ready_here: ready endpoints on this node.
    """

    everywhere: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()
    exists: bool = False
    ready_here: int = 0


def endpoints(slices: Iterable[Slice], name: str, protocol: Protocol, length: int) -> dict[Backend, State]:
    """Endpoints of a port in one family.

    While endpoints move between slices one may be in two of them: the ready and the near one counts.

    Args:
        slices: of the Service.
        name: of the Service's port.
        protocol: of that port.
        length: bytes of an address.
    """
    found: dict[Backend, State] = {}
    for one in slices:
        if one.length != length:
            continue
        number = next((p.port for p in one.ports if p.name == name and p.protocol == protocol), 0)
        if not number:
            continue
        for index, flags in enumerate(one.conditions):
            backend = Backend(one.addresses[index * length : (index + 1) * length], number)
            state = State(flags, one.zones[index]) if one.zones else _PLAIN[flags]
            known = found.setdefault(backend, state)
            if known is not state and flags & _READY_HERE > known.flags & _READY_HERE:
                found[backend] = state
    return found


_PLAIN = tuple(State(flags) for flags in range(256))


def serving(found: Mapping[Backend, State], zone: str) -> Serving:
    """Which of them serve.

    Args:
        found: endpoints of a port.
        zone: of this node, "" for none.
    """
    ready = [backend for backend, state in found.items() if state.flags & _READY]
    if not ready:
        ending = [backend for backend, state in found.items() if state.flags & _ENDING == _ENDING]
        here = [backend for backend in ending if found[backend].flags & _LOCAL]
        return Serving(tuple(sorted(ending)), tuple(sorted(here)), bool(ending))
    here = [backend for backend in ready if found[backend].flags & _LOCAL]
    ready_here = len(here)
    if not here:
        local_ending = _LOCAL | _ENDING
        here = [backend for backend, state in found.items() if state.flags & local_ending == local_ending]
    near = _near(found, ready, zone)
    return Serving(tuple(sorted(near)), tuple(sorted(here)), True, ready_here)


def _near(found: Mapping[Backend, State], ready: list[Backend], zone: str) -> list[Backend]:
    """Ready endpoints that hints leave to this node; all of them where hints don't say enough."""
    states = [found[backend] for backend in ready]
    if all(state.flags & _NODE_HINTS for state in states):
        chosen = [backend for backend in ready if found[backend].flags & _THIS_NODE]
        if chosen:
            return chosen
    if zone and all(state.zones for state in states):
        chosen = [backend for backend in ready if zone in found[backend].zones]
        if chosen:
            return chosen
    return ready
