"""A pod packed: its host ports, and where they lead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kubebee.lb.model import LbModelError, Protocol, parse_address
from kubebee.lb.services.facts import address_of
from kubebee.lb.services.objects import Container, ContainerPort, PodObject
from kubebee.lb.services.slices import PROTOCOLS

_OVER = frozenset({"Succeeded", "Failed"})
_ALWAYS = "Always"
"""restartPolicy of an init container that runs beside the others (a sidecar)."""


class HostPort(NamedTuple):
    """A port of the node that leads to a port of a pod.

    Attributes:
        name: of the container's port, else its number on the node: for people.
        address: hostIP; unspecified = all of its family, b"" = all of both.
        port: on the node.
        target: in the pod.
    """

    name: str
    protocol: Protocol
    address: bytes
    port: int
    target: int


class Pod(NamedTuple):
    """A pod that has host ports.

    Attributes:
        created: RFC 3339: of two that claim one address and port the older has it.
        ending: it is being deleted, and serves until it is gone.
        addresses: one of each family that it has.
        warnings: what of it can't be acted on.
    """

    created: str
    ending: bool
    addresses: tuple[bytes, ...]
    ports: tuple[HostPort, ...]
    warnings: tuple[str, ...]


def pack_pod(found: PodObject, node: str) -> Pod | None:
    """A pod in brief; None if nothing of this node leads to it.

    That is so without host ports, on the host's network, without an address yet, on another node, and after
    its end. Whether it is ready makes no difference, as with the portmap plugin of CNI.
    """
    spec, status = found.spec, found.status
    if spec.host_network or (spec.node_name and spec.node_name != node):
        return None
    wanted = [port for one in _running(found) for port in one.ports or () if port.host_port]
    if not wanted or status is None or status.phase in _OVER:
        return None
    texts = [one.ip for one in status.pod_ips or ()] or [status.pod_ip]
    addresses = {len(address): address for address in reversed([*filter(None, map(address_of, texts))])}
    if not addresses:
        return None
    warnings: list[str] = []
    ports = tuple(_ports(wanted, warnings))
    return Pod(
        created=found.metadata.creation_timestamp or "",
        ending=bool(found.metadata.deletion_timestamp),
        addresses=tuple(addresses[length] for length in sorted(addresses)),
        ports=ports,
        warnings=tuple(warnings),
    )


def _running(found: PodObject) -> Iterator[Container]:
    yield from found.spec.containers or ()
    yield from (one for one in found.spec.init_containers or () if one.restart_policy == _ALWAYS)


def _ports(wanted: Iterable[ContainerPort], warnings: list[str]) -> Iterator[HostPort]:
    for port in wanted:
        protocol = PROTOCOLS.get(port.protocol or "TCP")
        try:
            address = parse_address(port.host_ip) if port.host_ip else b""
        except LbModelError:
            warnings.append(f"hostPort {port.host_port}: hostIP {port.host_ip!r} is no IP address")
            continue
        if protocol is None:
            warnings.append(f"hostPort {port.host_port}: protocol {port.protocol!r} is not balanced")
        elif not 0 < port.host_port <= 0xFFFF or not 0 < port.container_port <= 0xFFFF:
            text = f"hostPort {port.host_port}, containerPort {port.container_port}: not within 1-65535"
            warnings.append(text)
        else:
            name = port.name or str(port.host_port)
            yield HostPort(name, protocol, address, port.host_port, port.container_port)
