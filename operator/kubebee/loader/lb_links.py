"""DSR by L2 reaches hosts on a link of the node alone: backends behind a gateway get no packets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter

from kubebee.lb.family_state import Ahead
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Frontend, FrontendKey
from kubebee.lb.sync import LbState
from kubebee.planner.plan import LbUnit

_forwarding = attrgetter("forwarding")
SHOWN = 5
"""Of many frontends or backends so many are named, and how many there are."""


class LbLinks:
    """Knows which backends of frontends by L2 are behind a gateway.

    Attributes:
        on_change: called when frontends may have to change: apply again then.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._addresses: frozenset[bytes] = frozenset()
        self._far: set[bytes] = set()
        self._made: dict[FrontendKey, tuple[Frontend, Frontend]] = {}
        """What was wanted, and what serves."""

    def applied_to(self, lb: LbUnit, state: LbState, ahead: Ahead) -> LbUnit:
        """The load balancer without packets to backends behind a gateway; the node's own sockets keep them.

        Args:
            lb: as it is wanted.
            state: what the maps have.
            ahead: told of addresses whose way is not known yet; it finds it.

        Raises:
            BpfError: netlink failed, or a map refused a write.
        """
        if Forwarding.DSR_L2 not in map(_forwarding, lb.frontends.values()):
            self._addresses, self._far, self._made = frozenset(), set(), {}
            return lb
        by_l2 = [(key, one) for key, one in lb.frontends.items() if one.forwarding is Forwarding.DSR_L2]
        self._addresses = frozenset(backend.address for _, one in by_l2 for backend in one.backends)
        if unknown := {address for address in self._addresses if state.next_hop(address) is None}:
            ahead(unknown)
        self._far &= self._addresses
        for address in self._addresses:
            self._learn(address, state.next_hop(address))
        self._made = {key: (one, self._served(key, one)) for key, one in by_l2}
        return replace(lb, frontends={**lb.frontends, **{key: made for key, (_, made) in self._made.items()}})

    def take(self, hops: Mapping[bytes, NextHop | None]) -> None:
        """Backends are reached by these from now on."""
        known = [self._learn(address, hop) for address, hop in hops.items() if address in self._addresses]
        if any(known):
            self.on_change()

    def _learn(self, address: bytes, hop: NextHop | None) -> bool:
        """Whether it changes anything; while no hop is known it is taken to be where it was."""
        if hop is None or hop.is_behind_gateway == (address in self._far):
            return False
        (self._far.add if hop.is_behind_gateway else self._far.discard)(address)
        return True

    def _served(self, key: FrontendKey, wanted: Frontend) -> Frontend:
        near = tuple(backend for backend in wanted.backends if backend.address not in self._far)
        if len(near) == len(wanted.backends):
            return wanted
        before = self._made.get(key)
        if before is not None and before[0] is wanted and before[1].backends == near:
            return before[1]
        inside = wanted.backends if wanted.inside is None else wanted.inside
        return replace(wanted, backends=near, inside=inside)

    def notes(self) -> Iterator[str]:
        """What a status says of backends that get nothing."""
        notes = (_note(key, wanted, made) for key, (wanted, made) in self._made.items())
        texts = [text for text in notes if text]
        yield from texts[:SHOWN]
        if len(texts) > SHOWN:
            yield f"backends of {len(texts) - SHOWN} more frontends are behind a gateway"


def _note(key: FrontendKey, wanted: Frontend, made: Frontend) -> str:
    far = [str(backend) for backend in wanted.backends if backend not in made.backends]
    if not far:
        return ""
    more = f" and {len(far) - SHOWN} more" if len(far) > SHOWN else ""
    return (
        f"{len(far)} of {len(wanted.backends)} backends of {key} are behind a gateway, where DSR by L2 "
        f"reaches nobody: {', '.join(far[:SHOWN])}{more}; use dispatch IPIP for them"
    )
