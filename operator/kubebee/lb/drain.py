"""How long backends that were taken out keep their flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kubebee.lb.family_state import FamilyState
from kubebee.lb.layout import BackendValue
from kubebee.lb.model import FrontendKey


class _Leaving(NamedTuple):
    """Who a number was when it left, as numbers are used again, and when that was."""

    who: tuple[bytes, int, int]
    since: float


class Drains:
    """Notes since when each gone backend of one family drains.

    Times are seconds of any clock that only goes on. A frontend that is removed drains as it was last told
    to. What an earlier loader left drains from when it is first seen.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, int] = {}  # by id of the frontend; without one flows end by themselves
        self._leaving: dict[int, _Leaving] = {}

    def follow(self, state: FamilyState, seconds: Mapping[FrontendKey, int], now: float) -> None:
        """Take in what is gone now.

        Args:
            state: what the maps have.
            seconds: of the frontends that have a limit.
            now: the time.
        """
        limited = {state.served[key].value.id: value for key, value in seconds.items() if key in state.served}
        kept: dict[int, int] = {}
        if self._seconds:  # else there is no need to look at every frontend at each edit
            present = {served.value.id for served in state.served.values()}
            left = {gone.frontend for gone in state.gone.values()} - present
            kept = {id_: value for id_, value in self._seconds.items() if id_ in left}
        self._seconds = kept | limited
        self._leaving = {
            number: self._known(number, gone) or _Leaving(_who(gone), now)
            for number, gone in state.gone.items()
        }

    def _known(self, number: int, gone: BackendValue) -> _Leaving | None:
        known = self._leaving.get(number)
        return known if known is not None and known.who == _who(gone) else None

    def over(self, now: float) -> frozenset[int]:
        """Numbers of backends whose flows shall end."""
        return frozenset(
            number
            for number, (who, since) in self._leaving.items()
            if (limit := self._seconds.get(who[2])) is not None and now - since >= limit
        )


def _who(gone: BackendValue) -> tuple[bytes, int, int]:
    return gone.address, gone.port, gone.frontend
