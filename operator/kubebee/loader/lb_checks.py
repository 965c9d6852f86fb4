"""Checks of the load balancer's backends: followed, applied to its frontends, and told of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from kubebee.lb.health.board import Change, HealthBoard, Reading
from kubebee.lb.health.check import Target
from kubebee.lb.health.prober import Prober
from kubebee.lb.health.probes import probe
from kubebee.lb.model import Backend, FrontendKey
from kubebee.lb.sync import LbState
from kubebee.planner.plan import LbUnit, ResourceKey
from kubebee.planner.report import Happening

SHOWN = 5
"""Of many messages or backends so many are named, and how many there are."""


class LbChecks:
    """Knows which backends are up.

    Attributes:
        on_change: called when frontends may have to change: apply again then.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._board = HealthBoard()
        self._prober = Prober(probe, self._result)
        self._owners: tuple[ResourceKey, ...] = ()
        self._starting = True

    async def run(self) -> None:
        """Try backends until cancelled."""
        await self._prober.run()

    def applied_to(self, lb: LbUnit, state: LbState) -> LbUnit:
        """The load balancer without new connections to backends that are down.

        Args:
            lb: as it is wanted.
            state: what the maps have.
        """
        if self._board.want(lb.frontends, lb.checks, _found_in(state), starting=self._starting):
            self._prober.want(self._board.targets)
        self._starting = False
        frontends = self._board.applied(lb.frontends)
        return lb if frontends is lb.frontends else replace(lb, frontends=frontends)

    def rest(self) -> None:
        """There is no load balancer: try nothing."""
        if self._board.want({}, {}, lambda _: None, starting=False):
            self._prober.want(())

    def _result(self, target: Target, failure: str) -> None:
        if self._board.result(target, failure):
            self.on_change()

    def happenings(self, node: str) -> list[Happening]:
        """What became of backends since this was called last."""
        changes = self._board.take_changes()
        told = [_happening(change, node) for change in changes[:SHOWN]]
        if len(changes) > SHOWN:
            rest = changes[SHOWN:]
            warning = any(change.fell for change in rest)
            text = f"{node}: backends of {len(rest)} more frontends too; `kubebee status` shows them"
            told.append(Happening(_owner(rest[0].frontend.owner), warning, told[-1].reason, text))
        return told

    def readings(self) -> tuple[Reading, ...]:
        """All backends that are checked."""
        return tuple(self._board.readings())

    def notes(self) -> Iterator[str]:
        """What a status says of backends that are down."""
        by_frontend: dict[tuple[str, FrontendKey], list[Reading]] = {}
        for reading in self._board.readings():
            by_frontend.setdefault((reading.owner, reading.frontend), []).append(reading)
        texts = [text for (_, key), found in by_frontend.items() for text in _note(key, found)]
        yield from texts[:SHOWN]
        if len(texts) > SHOWN:
            yield f"backends of {len(texts) - SHOWN} more frontends fail their checks"


def _found_in(state: LbState) -> Callable[[FrontendKey], Mapping[tuple[bytes, int], int] | None]:
    def found(key: FrontendKey) -> Mapping[tuple[bytes, int], int] | None:
        served = state.served.get(key)
        return {(m.address, m.port): m.weight for m in served.members} if served is not None else None

    return found


def _owner(text: str) -> ResourceKey:
    """The resource of a frontend, whose owner is written as ServiceLB/web:http."""
    kind, _, frontend = text.partition("/")
    return ResourceKey(kind, frontend.partition(":")[0])


def _happening(change: Change, node: str) -> Happening:
    key = change.frontend.key
    down = [f"{backend} ({why})" for backend, why in change.fell]
    if change.fell:
        what = "all serve on, as none is left" if change.all_down else "no new connections go there"
        text = f"backends of {key} fail their checks: {_some(down)}; {what}"
        reason = "BackendsUnhealthy"
    else:
        text = f"backends of {key} pass their checks again: {_some(map(str, change.rose))}"
        reason = "BackendsHealthy"
    return Happening(_owner(change.frontend.owner), bool(change.fell), reason, f"{node}: {text}")


def _note(key: FrontendKey, found: list[Reading]) -> Iterator[str]:
    down = [reading for reading in found if not reading.up]
    if not down:
        return
    able = [reading.backend for reading in found if reading.backend.weight]
    named = _some(f"{reading.backend} ({reading.why})" for reading in down)
    serve = "; all serve on, as none is left" if _none_left(able, down) else ""
    yield f"{len(down)} of {len(found)} backends of {key} fail their checks: {named}{serve}"


def _none_left(able: list[Backend], down: list[Reading]) -> bool:
    return {*able} <= {reading.backend for reading in down}


def _some(texts: Iterable[str]) -> str:
    every = list(texts)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
