"""A Service and its endpoints to frontends of this node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple

from kubebee.lb.model import (
    MAX_BACKENDS,
    Backend,
    Forwarding,
    Frontend,
    FrontendKey,
    Prefix,
    Reserved,
    unservable,
)
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.service import Port, Service
from kubebee.lb.services.serving import Serving, endpoints, serving
from kubebee.lb.services.slices import Slice
from kubebee.lb.services.wanted import Selection

LOOPBACKS = {len(address): address for address in (bytes((127, 0, 0, 1)), bytes(15) + b"\x01")}
"""By length. The programs that keep ports from being bound know those by their entry there."""


class Rank(IntEnum):
    """Whose claim to an address and port is stronger, whatever its age: what the cluster gave comes first.

    Else a Service of any namespace could take another's address by its externalIPs (CVE-2020-8554). Of a pod
    that ends and the one that follows it the latter has the host port.
    """

    EXPLICIT = 0
    CLUSTER = 1
    NODE_PORT = 2
    INGRESS = 3
    HOST_PORT = 4
    HOST_PORT_ENDING = 5
    EXTERNAL = 6


class Claim(NamedTuple):
    """A frontend that a Service or a pod asks for."""

    rank: Rank
    frontend: Frontend


class HealthCheck(NamedTuple):
    """What answers load balancers on healthCheckNodePort: whether this node has ready endpoints."""

    namespace: str
    name: str
    port: int
    endpoints: int


class Made(NamedTuple):
    """What a Service comes to.

    Attributes:
        endpoints: of all ports and both families, each once.
        ready_here: ready endpoints on this node; for its health check.
    """

    claims: tuple[Claim, ...]
    endpoints: int
    ready_here: int
    warnings: tuple[str, ...]


def make(
    name: str, service: Service, slices: Iterable[Slice], facts: NodeFacts, selection: Selection
) -> Made:
    """The frontends of a Service.

    Args:
        name: namespace/name.
        service: the Service.
        slices: its EndpointSlices.
        facts: the node.
        selection: how the ServiceLB that serves it forwards.
    """
    ordered = sorted(slices)
    claims: dict[FrontendKey, Claim] = {}
    every: set[Backend] = set()
    here: set[bytes] = set()
    warnings = list(service.warnings)
    for port in service.ports:
        for length in service.lengths:
            found = endpoints(ordered, port.name, port.protocol, length)
            chosen = serving(found, facts.zone)
            every.update(found)
            if service.health_check_port and chosen.ready_here:
                here.update(backend.address for backend in chosen.here)
            maker = _Maker(name, service, port, length, _bounded(chosen, port, warnings), selection)
            for claim in maker.claims(facts):
                claims.setdefault(claim.frontend.key, claim)  # the strongest of one Service's own is first
            if maker.untranslatable:
                warnings.append(f"port {port.port} is served by SNAT: {maker.untranslatable}")
    if selection.random and any(claim.frontend.forwarding.is_dsr for claim in claims.values()):
        warnings.append("its backends are chosen by Maglev, as Random can't be had with DSR")
    if not claims:
        warnings.append("it has no address to serve: clusterIP, externalIPs, or a nodePort")
    return Made(tuple(claims.values()), len(every), len(here), tuple(warnings))


def _bounded(chosen: Serving, port: Port, warnings: list[str]) -> Serving:
    most = max(len(chosen.everywhere), len(chosen.here))
    if most <= MAX_BACKENDS:
        return chosen
    warnings.append(f"port {port.port}: {MAX_BACKENDS} of {most} endpoints serve, as more don't fit a table")
    return chosen._replace(everywhere=chosen.everywhere[:MAX_BACKENDS], here=chosen.here[:MAX_BACKENDS])


class _Maker:
    """Frontends of one port in one family."""

    def __init__(
        self, name: str, service: Service, port: Port, length: int, chosen: Serving, selection: Selection
    ) -> None:
        self._owner = f"Service/{name}:{port.name or port.port}"
        self._service = service
        self._port = port
        self._length = length
        self._chosen = chosen
        # A Service asks for DSR; by which way is the ServiceLB's to say.
        asked = service.forwarding or selection.forwarding
        self._forwarding = selection.direct if asked.is_dsr else asked
        self._random = selection.random
        self.untranslatable = ""

    def claims(self, facts: NodeFacts) -> Iterator[Claim]:
        """All of them, the strongest claims first."""
        service, port = self._service, self._port
        for address in self._own(service.cluster):
            yield Claim(Rank.CLUSTER, self._internal(address))
        if port.node_port:
            for address in self._own(facts.addresses):
                yield Claim(Rank.NODE_PORT, self._external(address, port.node_port))
            loopback = LOOPBACKS[self._length]
            entry = self._external(loopback, port.node_port)
            yield Claim(Rank.NODE_PORT, replace(entry, sockets_only=True, reserved=Reserved.PORT))
        if not service.closed:
            ranges = tuple(one for one in service.source_ranges if len(one.address) == self._length)
            if any(one.length == 0 for one in ranges):
                ranges = ()
            for address in self._own(service.ingress):
                yield Claim(Rank.INGRESS, self._external(address, port.port, ranges))
        for address in self._own(service.external):
            yield Claim(Rank.EXTERNAL, self._external(address, port.port))

    def _own(self, addresses: Iterable[bytes]) -> Iterator[bytes]:
        return (address for address in addresses if len(address) == self._length)

    def _internal(self, address: bytes) -> Frontend:
        """A cluster address: who uses it is in the cluster, on this node or, by a route, elsewhere."""
        chosen, local = self._chosen, self._service.internal_local
        key = FrontendKey(address, self._port.port, self._port.protocol)
        backends = chosen.here if local else chosen.everywhere
        return self._frontend(key, backends, drop=local and chosen.exists and not backends)

    def _external(self, address: bytes, port: int, ranges: tuple[Prefix, ...] = ()) -> Frontend:
        """An address for clients outside the cluster; those on this node get any endpoint all the same."""
        chosen = self._chosen
        key = FrontendKey(address, port, self._port.protocol)
        if not self._service.external_local or chosen.here == chosen.everywhere:
            return self._frontend(key, chosen.everywhere, ranges=ranges)
        return self._frontend(
            key,
            chosen.here,
            inside=chosen.everywhere,
            ranges=ranges,
            drop=not chosen.here and chosen.exists,
        )

    def _frontend(
        self,
        key: FrontendKey,
        backends: tuple[Backend, ...],
        inside: tuple[Backend, ...] | None = None,
        ranges: tuple[Prefix, ...] = (),
        *,
        drop: bool = False,
    ) -> Frontend:
        forwarding = self._forwarding_of(key.port, (*backends, *(inside or ())))
        return Frontend(
            key=key,
            backends=backends,
            inside=inside,
            forwarding=forwarding,
            affinity_seconds=self._service.affinity_seconds,
            source_ranges=ranges,
            drop_outside=drop,
            random=self._random and not forwarding.is_dsr,
            owner=self._owner,
        )

    def _forwarding_of(self, port: int, backends: Iterable[Backend]) -> Forwarding:
        """DSR where it can be: most ways translate no ports, and a node port is no endpoint's."""
        problem = unservable(self._forwarding, port, backends)
        if not problem:
            return self._forwarding
        if self._service.forwarding and self._service.forwarding.is_dsr and port == self._port.port:
            self.untranslatable = problem
        return Forwarding.SNAT
