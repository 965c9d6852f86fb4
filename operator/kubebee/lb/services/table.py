"""All Services of a cluster and what this node serves of them; a change costs what changed, not all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubebee.lb.model import Frontend, FrontendKey
from kubebee.lb.services.claims import Claims, LeftOut, Name, Shape
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.frontends import Claim, HealthCheck, Made, Rank, make
from kubebee.lb.services.host_ports import HostPorts
from kubebee.lb.services.references import with_references
from kubebee.lb.services.service import Service
from kubebee.lb.services.slices import Slice
from kubebee.lb.services.wanted import Reference, ServicesWanted


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is.

    Attributes:
        services: those that are served, if only in part.
        endpoints: theirs, each once for each Service, whether they serve or not.
        frontends: addresses with port, those of host ports too.
        left_out: addresses with port that somebody else has the stronger claim to.
        host_ports: of this node's pods.
    """

    services: int = 0
    endpoints: int = 0
    frontends: int = 0
    left_out: int = 0
    host_ports: int = 0


@dataclass(slots=True)
class _Entry:
    """One Service; its slices may be known before it."""

    service: Service | None = None
    slices: tuple[tuple[str, Slice], ...] = ()  # by name; most have one, and a dict takes 250 bytes
    claims: tuple[Claim, ...] = ()  # as they were placed
    endpoints: int = 0


class ServiceTable:
    """Takes in objects as they come; `refresh` brings the frontends up to date.

    Attributes:
        synced: all there is has been put in at least once. Until then what is missing means nothing.
        frontends: what this node serves, as of the last refresh; explicit frontends are not in it, and one of
            them has its key whatever a Service asks for.
        host_ports: those of this node's pods, a part of `frontends`.

    Args:
        facts: the node.
    """

    def __init__(self, facts: NodeFacts) -> None:
        self.synced = False
        self.facts = facts
        self.frontends: dict[FrontendKey, Frontend] = {}
        self._wanted = ServicesWanted(())
        self._references: dict[Name, list[Reference]] = {}
        self._entries: dict[Name, _Entry] = {}
        self._dirty: set[Name] = set()
        self._warned: dict[Name, tuple[str, ...]] = {}
        self._checks: dict[Name, HealthCheck] = {}
        self._claims = Claims(self.frontends)
        self.host_ports = HostPorts(self._claims)
        self._served = 0
        self._endpoints = 0

    # -- what comes in ---------------------------------------------------------------------------------------

    def put_service(self, name: Name, service: Service | None) -> None:
        """A Service as it is now; None: it is gone, or no proxy's business."""
        entry = self._entry(name)
        if entry.service != service:
            entry.service = service
            self._dirty.add(name)
        self._drop_if_empty(name, entry)

    def put_slice(self, name: Name, slice_name: str, packed: Slice | None) -> None:
        """An EndpointSlice of the Service `name`; None: it is gone, or has nothing to serve."""
        entry = self._entry(name)
        known = dict(entry.slices)
        if known.get(slice_name) == packed:
            self._drop_if_empty(name, entry)
            return
        if packed is None:
            del known[slice_name]
        else:
            known[slice_name] = packed
        entry.slices = tuple(known.items())
        self._dirty.add(name)
        self._drop_if_empty(name, entry)

    def put_facts(self, facts: NodeFacts) -> None:
        """The node as it is now."""
        if facts != self.facts:
            self.facts = facts
            self._all_dirty()

    def want(self, wanted: ServicesWanted) -> None:
        """Which of the Services are served from now on."""
        if wanted != self._wanted:
            self._wanted, self._references = wanted, {}
            for reference in wanted.references:
                self._entry(reference.service)
                self._references.setdefault(reference.service, []).append(reference)
            self._all_dirty()

    def _entry(self, name: Name) -> _Entry:
        return self._entries.setdefault(name, _Entry())

    def _drop_if_empty(self, name: Name, entry: _Entry) -> None:
        if name not in self._references and not (entry.service or entry.slices or entry.claims):
            del self._entries[name]
            self._dirty.discard(name)
            self._warned.pop(name, None)

    def _all_dirty(self) -> None:
        self._dirty |= self._references.keys()
        self._dirty.update(
            name for name, entry in self._entries.items() if entry.service is not None or entry.claims
        )
        self.host_ports.all_dirty()

    # -- what comes out --------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Bring `frontends` up to date; returns whether anything of them changed."""
        changed = False
        for name in sorted(self._dirty):
            changed |= self._remake(name)
        self._dirty.clear()
        return self.host_ports.refresh(self.facts, self._wanted) or changed

    def _remake(self, name: Name) -> bool:
        entry = self._entries[name]
        made = self._made(name, entry)
        self._served += _is_served(made.claims) - _is_served(entry.claims)
        self._endpoints += made.endpoints - entry.endpoints
        created = entry.service.created if entry.service else ""
        changed = self._claims.place(name, created, entry.claims, made.claims)
        entry.claims, entry.endpoints = made.claims, made.endpoints
        self._checks.pop(name, None)
        if entry.service is not None and made.claims and entry.service.health_check_port:
            self._checks[name] = HealthCheck(*name, entry.service.health_check_port, made.ready_here)
        self._warned.pop(name, None)
        if made.warnings:
            self._warned[name] = made.warnings
        self._drop_if_empty(name, entry)
        return changed

    def _made(self, name: Name, entry: _Entry) -> Made:
        service = entry.service
        selection = self._wanted.selection(name[0], dict(service.labels)) if service else None
        slices = [one for _, one in entry.slices]
        made, references = Made((), 0, 0, ()), self._references.get(name)
        if service is not None and selection is not None:
            balanced = selection.balances(service.load_balancer_class)
            own = service if balanced else service._replace(ingress=())
            made = make("/".join(name), own, slices, self.facts, selection)
        return with_references(made, references, service, slices, self.facts) if references else made

    @property
    def counts(self) -> Counts:
        """How much is served."""
        return Counts(
            self._served, self._endpoints, len(self.frontends), self._claims.lost, self.host_ports.count
        )

    @property
    def shape(self) -> Shape:
        """What the datapath needs for the frontends."""
        return self._claims.shape

    @property
    def addresses(self) -> frozenset[bytes]:
        """Addresses of the frontends that packets from outside may be for."""
        return frozenset(self._claims.addresses)

    def left_out(self, explicit: Mapping[FrontendKey, Frontend]) -> list[LeftOut]:
        """What is not served because something else has its address and port.

        Args:
            explicit: frontends that take precedence.
        """
        found = self._claims.left_out()
        for key in explicit.keys() & self.frontends.keys():
            found.append(LeftOut(self.frontends[key].owner, key, explicit[key].owner))
        return sorted(found)

    def warnings(self) -> list[tuple[str, str]]:
        """What of Services and host ports can't be acted on: (namespace/name, text)."""
        services = [("/".join(name), text) for name in sorted(self._warned) for text in self._warned[name]]
        return [*services, *self.host_ports.warnings()]

    def health_checks(self) -> list[HealthCheck]:
        """What load balancers ask about."""
        return [check for _, check in sorted(self._checks.items())]


def _is_served(claims: Iterable[Claim]) -> bool:
    """Whether a Service has a frontend of its own, and is not only referred to."""
    return any(claim.rank is not Rank.EXPLICIT for claim in claims)
