"""Explicit frontends whose backends are the endpoints of a Service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kubebee.lb.model import MAX_BACKENDS, Forwarding, Frontend, unservable
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.frontends import Claim, Made, Rank
from kubebee.lb.services.service import Port, Service
from kubebee.lb.services.serving import endpoints, serving
from kubebee.lb.services.slices import Slice
from kubebee.lb.services.wanted import Reference


def with_references(
    made: Made,
    references: Iterable[Reference],
    service: Service | None,
    slices: Iterable[Slice],
    facts: NodeFacts,
) -> Made:
    """What a Service comes to together with the frontends that refer to it, whose claims are stronger.

    Args:
        made: the Service's own.
        references: to this Service.
        service: None: there is none that a proxy serves; the frontends refuse clients then.
        slices: its EndpointSlices.
        facts: the node.
    """
    ordered = sorted(slices)
    claims, warnings = [], list(made.warnings)
    for reference in references:
        frontend, warning = _resolved(reference, service, ordered, facts)
        claims.append(Claim(Rank.EXPLICIT, frontend))
        if warning:
            warnings.append(f"{reference.frontend.owner}: {warning}")
    taken = {claim.frontend.key for claim in claims}
    others = (claim for claim in made.claims if claim.frontend.key not in taken)
    return made._replace(claims=(*claims, *others), warnings=tuple(dict.fromkeys(warnings)))


def _resolved(
    reference: Reference, service: Service | None, slices: Sequence[Slice], facts: NodeFacts
) -> tuple[Frontend, str]:
    """The frontend with its backends, and what is wrong with it."""
    frontend = reference.frontend
    port = _port(reference, service) if service is not None else "there is no such Service, or it is headless"
    if isinstance(port, str):
        return frontend, f"{port}; its clients are refused"
    found = endpoints(slices, port.name, port.protocol, len(frontend.key.address))
    backends, warning = serving(found, facts.zone).everywhere, ""
    if len(backends) > MAX_BACKENDS:
        warning = f"{MAX_BACKENDS} of {len(backends)} endpoints serve, as more don't fit a table"
        backends = backends[:MAX_BACKENDS]
    forwarding = frontend.forwarding
    if problem := unservable(forwarding, frontend.key.port, backends):
        forwarding = Forwarding.SNAT
        warning = f"port {frontend.key.port} is served by SNAT: {problem}"
    return replace(frontend, backends=backends, forwarding=forwarding), warning


def _port(reference: Reference, service: Service) -> Port | str:
    """The port that is meant, or why there is none."""
    wanted, protocol = reference.port, reference.frontend.key.protocol
    ports = [port for port in service.ports if port.protocol is protocol]
    if not wanted and len(ports) > 1:
        return f"it has {len(ports)} ports of {protocol.name}, and none is named"
    found = [port for port in ports if wanted in ("", port.name, str(port.port))]
    if not found:
        return " ".join(filter(None, ("it has no port", wanted, f"of {protocol.name}")))
    return found[0]
