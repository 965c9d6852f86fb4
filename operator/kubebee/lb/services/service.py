"""A Service packed: what of it decides how this node serves it."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from kubebee.lb.model import MAX_AFFINITY_SECONDS, Forwarding, Prefix, Protocol
from kubebee.lb.services.facts import address_of
from kubebee.lb.services.objects import HEADLESS, PROXY_NAME, ServiceObject
from kubebee.lb.services.slices import PROTOCOLS

ANNOTATIONS = "kubebee.dev/"
FORWARDING = ANNOTATIONS + "forwarding"
AFFINITY_SECONDS = 10800
"""Of sessionAffinityConfig where it says nothing."""
_MODES = {"SNAT": Forwarding.SNAT, "DSR": Forwarding.DSR_IPIP}


class Port(NamedTuple):
    """A port of a Service; its name ties it to ports of EndpointSlices. `node_port` 0 = none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int


class Service(NamedTuple):
    """A Service that a proxy serves.

    Attributes:
        created: RFC 3339: of two that claim one address and port the older has it.
        cluster, ingress, external: addresses of three kinds, of both families: those given by the cluster, by
            load balancers and by the user.
        source_ranges: who may use `ingress` from outside; () = everybody.
        closed: source ranges are given and none of them can be read: nobody may use `ingress`.
        affinity_seconds: 0 = none.
        internal_local, external_local: only endpoints of this node serve clients that use `cluster`, or
            clients from outside.
        health_check_port: where load balancers ask whether this node has endpoints; 0 = nowhere.
        labels: sorted pairs.
        load_balancer_class: "" = none given.
        forwarding: None = that of the ServiceLB.
        warnings: what of it can't be acted on.
    """

    created: str
    ports: tuple[Port, ...]
    cluster: tuple[bytes, ...]
    ingress: tuple[bytes, ...]
    external: tuple[bytes, ...]
    source_ranges: tuple[Prefix, ...]
    closed: bool
    affinity_seconds: int
    internal_local: bool
    external_local: bool
    health_check_port: int
    labels: tuple[tuple[str, str], ...]
    load_balancer_class: str
    forwarding: Forwarding | None
    warnings: tuple[str, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of an address, by family: it is served in those of its cluster addresses."""
        if not self.cluster:
            return (4, 16)  # a manifest without a cluster, where nobody gives it an address
        return tuple(dict.fromkeys(map(len, self.cluster)))


def pack_service(found: ServiceObject) -> Service | None:
    """A Service in brief; None if proxies leave it alone.

    These are headless ones, names for other names, and those labelled as another proxy's.
    """
    spec, labels = found.spec, found.metadata.labels or {}
    if PROXY_NAME in labels or HEADLESS in labels or spec.type == "ExternalName":
        return None
    if spec.cluster_ip == "None" or "None" in (spec.cluster_ips or ()):
        return None
    warnings: list[str] = []
    ranges, closed = _ranges(spec.load_balancer_source_ranges or (), warnings)
    balancer = found.status.load_balancer if found.status else None
    ingress = [one.ip for one in (balancer.ingress if balancer else None) or () if one.ip_mode != "Proxy"]
    balanced = _addresses(ingress, "loadBalancer.ingress", warnings)
    _warn_of_ranges(ranges, closed, balanced, warnings)
    reachable = bool(spec.external_ips) or spec.type in ("NodePort", "LoadBalancer")
    external_local = reachable and spec.external_traffic_policy == "Local"
    return Service(
        created=sys.intern(found.metadata.creation_timestamp or ""),
        ports=_ports(found, warnings),
        cluster=_addresses(spec.cluster_ips or [spec.cluster_ip], "clusterIPs", warnings),
        ingress=balanced,
        external=_addresses(spec.external_ips or (), "externalIPs", warnings),
        source_ranges=ranges,
        closed=closed,
        affinity_seconds=_affinity(found, warnings),
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=external_local,
        health_check_port=(spec.health_check_node_port or 0) if external_local else 0,
        labels=tuple(sorted((sys.intern(key), sys.intern(value)) for key, value in labels.items())),
        load_balancer_class=sys.intern(spec.load_balancer_class or ""),
        forwarding=_forwarding(found.metadata.annotations or {}, warnings),
        warnings=tuple(warnings),
    )


def _addresses(texts: Iterable[str | None], field: str, warnings: list[str]) -> tuple[bytes, ...]:
    found: dict[bytes, None] = {}
    for text in texts:
        address = address_of(text)
        if address:
            found[address] = None
        elif text:
            warnings.append(f"{field}: {text!r} is no address of a host")
    return tuple(found)


def _ports(found: ServiceObject, warnings: list[str]) -> tuple[Port, ...]:
    ports: dict[tuple[int, Protocol], Port] = {}
    for port in found.spec.ports or ():
        protocol = PROTOCOLS.get(port.protocol or "TCP")
        node_port = port.node_port or 0
        if protocol is None:
            warnings.append(f"port {port.port}: protocol {port.protocol!r} is not balanced")
        elif not 0 < port.port <= 0xFFFF or not 0 <= node_port <= 0xFFFF:
            warnings.append(f"port {port.port}, nodePort {node_port}: not within 1-65535")
        elif (port.port, protocol) in ports:
            warnings.append(f"port {port.port}/{protocol.name} is listed twice")
        else:
            made = Port(sys.intern(port.name or ""), protocol, port.port, node_port)
            ports[port.port, protocol] = made
    return _once(tuple(ports.values()))


@lru_cache(maxsize=4096)
def _once(ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Equal ones that are known already: most Services have the same few."""
    return ports


def _ranges(texts: Iterable[str], warnings: list[str]) -> tuple[tuple[Prefix, ...], bool]:
    found: dict[Prefix, None] = {}
    given = False
    for text in texts:
        given = True
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            warnings.append(f"loadBalancerSourceRanges: {text!r} is no range of addresses")
            continue
        found[Prefix(network.network_address.packed, network.prefixlen)] = None
    return tuple(found), given and not found


def _warn_of_ranges(
    ranges: Iterable[Prefix], closed: bool, ingress: Iterable[bytes], warnings: list[str]
) -> None:
    if closed:
        warnings.append("loadBalancerSourceRanges has no valid range: loadBalancer.ingress is not served")
        return
    said = {len(one.address) for one in ranges}
    for length in {len(address) for address in ingress} - said if said else ():
        family = "IPv4" if length == 4 else "IPv6"
        warnings.append(f"loadBalancerSourceRanges has no {family} range, so everybody may come by {family}")


def _affinity(found: ServiceObject, warnings: list[str]) -> int:
    if found.spec.session_affinity != "ClientIP":
        return 0
    config = found.spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        return AFFINITY_SECONDS
    if not 0 < seconds <= MAX_AFFINITY_SECONDS:
        warnings.append(f"sessionAffinityConfig: {seconds} s are not within 1-{MAX_AFFINITY_SECONDS}")
        return AFFINITY_SECONDS
    return seconds


def _forwarding(annotations: Mapping[str, str], warnings: list[str]) -> Forwarding | None:
    for name in sorted(annotations):
        if name.startswith(ANNOTATIONS) and name != FORWARDING:
            warnings.append(f"annotation {name} is not known to this version")
    wanted = annotations.get(FORWARDING)
    if wanted is not None and wanted not in _MODES:
        warnings.append(f"annotation {FORWARDING}: {wanted!r} is neither SNAT nor DSR")
    return _MODES.get(wanted or "")
