"""Services and host ports that the load balancer serves beside explicit frontends, and news of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from kubebee.errors import KubebeeError
from kubebee.lb.model import Frontend, FrontendKey
from kubebee.lb.services.frontends import HealthCheck
from kubebee.lb.services.table import ServiceTable
from kubebee.loader.failures import describe
from kubebee.planner.plan import LbUnit
from kubebee.planner.report import Failure, Stage

POD = "Pod/"
"""Owners of host ports begin so."""
SHOWN = 5
"""Of many messages of one kind so many are said, and how many there are."""


class ServiceSource(Protocol):
    """Where Services come from."""

    @property
    def table(self) -> ServiceTable:
        """All that is known of them."""

    @property
    def trouble(self) -> KubebeeError | None:
        """Why there is no news of them."""

    @property
    def pods_trouble(self) -> KubebeeError | None:
        """Why there is no news of this node's pods."""

    @property
    def wanted(self) -> bool:
        """Whether somebody wants them."""

    @property
    def watching(self) -> bool:
        """Whether news would come in now."""

    @property
    def heard_at(self) -> float:
        """time.time() when the source said anything last, 0 if never."""


class LbServices:
    """Adds the frontends of Services and host ports to a load balancer.

    Args:
        source: where Services come from.
    """

    def __init__(self, source: ServiceSource) -> None:
        self._source = source
        self._explicit: dict[FrontendKey, Frontend] = {}
        self._said: dict[str, frozenset[str]] = {}
        self._trouble: Failure | None = None

    def awaited(self, lb: LbUnit) -> bool:
        """Whether it wants Services and not all of them are known: those in the maps may be among them."""
        return lb.services is not None and not self._source.table.synced

    def kept(self, lb: LbUnit) -> Callable[[Frontend], bool] | None:
        """Which frontends stay in the maps though it does not have them: it is not known yet if they go.

        None: none does.
        """
        if self.awaited(lb):
            return lambda _: True
        if lb.services is not None and lb.services.host_ports and not self._source.table.host_ports.synced:
            return lambda frontend: frontend.owner.startswith(POD)
        return None

    def added_to(self, lb: LbUnit) -> LbUnit:
        """The load balancer with the frontends of Services, as last refreshed; of its own none gives way."""
        self._explicit = dict(lb.frontends)
        if lb.services is None or not self._source.table.synced:
            return lb
        found = self._source.table.frontends
        return replace(lb, frontends=found | self._explicit)

    def health_checks(self, lb: LbUnit) -> list[HealthCheck]:
        """What load balancers ask this node about."""
        return self._source.table.health_checks() if lb.services is not None else []

    @property
    def eligible(self) -> bool:
        """Whether balancers in front of the node may send it new connections."""
        return self._source.table.facts.eligible

    def trouble(self, lb: LbUnit) -> tuple[Failure | None, Failure | None]:
        """Why Services were not served when this was asked last, and why they are not now.

        That news of those that are known stays away is no reason to say so.
        """
        before, why = self._trouble, self._source.trouble
        self._trouble = None
        if why is not None and self.awaited(lb):
            self._trouble = replace(describe(why, Stage.MAPS), permanent=False)
        return before, self._trouble

    def left_out(self) -> list[str]:
        """Frontends of Services that something else has the place of."""
        return list(map(str, self._source.table.left_out(self._explicit)))

    def warnings(self) -> list[str]:
        """What of Services can't be acted on."""
        return [f"{name}: {text}" for name, text in self._source.table.warnings()]

    def news(self) -> Iterator[tuple[str, str]]:
        """Reason and text of what can't be served and was not said yet."""
        left_out = self.left_out()
        yield from self._fresh((one for one in left_out if not one.startswith(POD)), reason="ServiceLeftOut")
        yield from self._fresh((one for one in left_out if one.startswith(POD)), reason="HostPortLeftOut")
        yield from self._fresh(self.warnings(), reason="ServiceWarning")
        trouble = self._source.pods_trouble
        unknown = [f"host ports of pods are not known: {trouble}"] if trouble is not None else []
        yield from self._fresh(unknown, reason="HostPortsUnknown")

    def _fresh(self, texts: Iterable[str], *, reason: str) -> Iterator[tuple[str, str]]:
        now = frozenset(texts)
        fresh: Sequence[str] = sorted(now - self._said.get(reason, frozenset()))
        self._said[reason] = now
        for text in fresh[:SHOWN]:
            yield reason, text
        if len(fresh) > SHOWN:
            yield reason, f"and {len(fresh) - SHOWN} more; `kubebee status` shows how many there are"
