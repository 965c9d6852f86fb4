"""Which backends are up, and what that makes of the frontends: no sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from kubebee.lb.health import serving
from kubebee.lb.health.check import Check, Target
from kubebee.lb.health.state import Health
from kubebee.lb.model import Backend, Frontend, FrontendKey

Found = Callable[[FrontendKey], Mapping[tuple[bytes, int], int] | None]
"""Weights of the backends that the maps have of a frontend, by address and port; None: it is not there."""


class Change(NamedTuple):
    """What became of a frontend's backends since this was asked last. `all_down`: they serve all the same."""

    frontend: Frontend
    fell: tuple[tuple[Backend, str], ...]
    rose: tuple[Backend, ...]
    all_down: bool


class Reading(NamedTuple):
    """A backend that is checked."""

    owner: str
    frontend: FrontendKey
    backend: Backend
    up: bool
    why: str


class _Checked:
    """A frontend with the checks of its backends."""

    def __init__(self, frontend: Frontend, check: Check) -> None:
        self.frontend = frontend
        self.check = check
        self.targets = {backend: Target.of(backend, check) for backend in frontend.backends}
        self.down: frozenset[Backend] = frozenset()
        self.serving = frontend


class HealthBoard:
    """The state of every server that is checked.

    Attributes:
        health: by target.
    """

    def __init__(self) -> None:
        self.health: dict[Target, Health] = {}
        self._frontends: dict[FrontendKey, _Checked] = {}
        self._changes: list[Change] = []

    def want(
        self,
        frontends: Mapping[FrontendKey, Frontend],
        checks: Mapping[FrontendKey, Check],
        found: Found,
        *,
        starting: bool,
    ) -> bool:
        """Follow these frontends; returns whether what is to be tried changed.

        A backend of a frontend that is known keeps its state, also under another check. Of one that the maps
        have, backends start as they are there: what is not in them, or takes nothing, is down. Backends of a
        frontend that is nowhere yet are up. What was never tried is decided by its first result.

        Args:
            frontends: all of them.
            checks: of those that have one.
            found: what the maps have.
            starting: what is down in the maps was found so by an earlier run.
        """
        before, self._frontends = self._frontends, {}
        changed = before.keys() != checks.keys()
        for key, check in checks.items():
            frontend, known = frontends.get(key), before.get(key)
            if frontend is None:
                continue
            if known is not None and known.check == check and known.frontend == frontend:
                self._frontends[key] = known
                continue
            changed = True
            checked = self._frontends[key] = _Checked(frontend, check)
            self._start(checked, known, found(key), starting=starting)
            if known is not None:
                checked.down = known.down & frozenset(checked.targets)
        if changed:
            wanted = {target for one in self._frontends.values() for target in one.targets.values()}
            self.health = {target: health for target, health in self.health.items() if target in wanted}
        return changed

    def _start(
        self,
        checked: _Checked,
        known: _Checked | None,
        found: Mapping[tuple[bytes, int], int] | None,
        *,
        starting: bool,
    ) -> None:
        had = {backend[:2]: target for backend, target in known.targets.items()} if known else {}
        for backend, target in checked.targets.items():
            if target in self.health:
                continue
            before = had.get(backend[:2])
            if before is not None and before in self.health:
                self.health[target] = self.health[before]._replace(streak=0)
            elif found is None:
                self.health[target] = Health.doubted(checked.check, up=True)
            elif found.get(backend[:2], 0) or not backend.weight:
                self.health[target] = Health(up=True)
            elif starting:
                self.health[target] = Health(up=False, why="found so")
            else:
                self.health[target] = Health.doubted(checked.check, up=False)._replace(why="not tried yet")

    @property
    def targets(self) -> Iterable[Target]:
        """What is to be tried."""
        return self.health.keys()

    def result(self, target: Target, failure: str) -> bool:
        """Take in a result; returns whether frontends may change by it."""
        health = self.health.get(target)
        if health is None:
            return False
        after = self.health[target] = health.after(failure, target.check)
        return after.up is not health.up

    def applied(self, frontends: Mapping[FrontendKey, Frontend]) -> Mapping[FrontendKey, Frontend]:
        """The frontends as they shall serve; what changes by that is kept for `take_changes`."""
        replaced: dict[FrontendKey, Frontend] = {}
        for key, checked in self._frontends.items():
            self._decide(checked)
            if checked.serving is not checked.frontend and key in frontends:
                replaced[key] = checked.serving
        return {**frontends, **replaced} if replaced else frontends

    def _decide(self, checked: _Checked) -> None:
        frontend, before = checked.frontend, checked.down
        down = frozenset(b for b, target in checked.targets.items() if not self.health[target].up)
        if down == before and (checked.serving is not frontend or not down):
            return
        checked.down, checked.serving = down, serving.without(frontend, down)
        if down != before:
            fell = tuple(
                (b, self.health[checked.targets[b]].why) for b in frontend.backends if b in down - before
            )
            rose = tuple(b for b in frontend.backends if b in before - down)
            self._changes.append(Change(frontend, fell, rose, serving.all_down(frontend, down)))

    def take_changes(self) -> list[Change]:
        """What changed since this was called last."""
        changes, self._changes = self._changes, []
        return changes

    def readings(self) -> Iterator[Reading]:
        """All backends that are checked."""
        for key, checked in self._frontends.items():
            for backend, target in checked.targets.items():
                health = self.health[target]
                yield Reading(checked.frontend.owner, key, backend, health.up, health.why)
