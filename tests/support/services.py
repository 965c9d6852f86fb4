"""Services, EndpointSlices and pods of tests: short calls to the documents that an API server would have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubebee.lb.model import Forwarding, Frontend, FrontendKey, Protocol, format_address, parse_address
from kubebee.lb.services.facts import NodeFacts, addresses_of
from kubebee.lb.services.intake import Intake
from kubebee.lb.services.objects import pod_from, service_from, slice_from
from kubebee.lb.services.table import ServiceTable
from kubebee.lb.services.wanted import Selection, ServicesWanted

HERE, ZONE = "node-1", "zone-a"
NODE_ADDRESSES = ("172.18.0.11", "fd00::11")
VIP, VIP6 = "10.96.0.10", "fd00:96::10"
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"
ALL = ServicesWanted((Selection("all", host_ports=True),))


def service(name: str = "web", *, created: str = OLD, **fields: Any) -> dict[str, Any]:
    """A Service with one port 80 at `VIP`; `labels`, `annotations` and `status` go where they belong."""
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "creationTimestamp": created}
    metadata |= {key: fields.pop(key) for key in ("labels", "annotations") if key in fields}
    status = fields.pop("status", {})
    spec = {"clusterIP": VIP, "ports": [{"name": "http", "port": 80}], **fields}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status}


def ingress(*addresses: str, mode: str | None = None) -> dict[str, Any]:
    """Status of a Service that a load balancer gave addresses to."""
    more = {"ipMode": mode} if mode else {}
    return {"loadBalancer": {"ingress": [{"ip": address, **more} for address in addresses]}}


def endpoint(address: str, *, node: str = "node-2", **more: Any) -> dict[str, Any]:
    """An endpoint; `zones` and `nodes` are its hints, `ready`, `serving`, `terminating` its conditions."""
    hints = {}
    if "zones" in more:
        hints["forZones"] = [{"name": name} for name in more.pop("zones")]
    if "nodes" in more:
        hints["forNodes"] = [{"name": name} for name in more.pop("nodes")]
    conditions = {name: more.pop(name) for name in ("ready", "serving", "terminating") if name in more}
    found = {"addresses": [address], "nodeName": node, **more}
    if conditions:
        found["conditions"] = conditions
    return found | ({"hints": hints} if hints else {})


def here(address: str, **more: Any) -> dict[str, Any]:
    """An endpoint on this node."""
    return endpoint(address, node=HERE, **more)


def endpoint_slice(
    *endpoints: Mapping[str, Any] | str, of: str = "web", name: str = "", **fields: Any
) -> dict[str, Any]:
    """An EndpointSlice with port `http` at 8080."""
    labels = fields.pop("labels", {"kubernetes.io/service-name": of})
    found = [endpoint(one) if isinstance(one, str) else dict(one) for one in endpoints]
    family = "IPv6" if found and ":" in found[0]["addresses"][0] else "IPv4"
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name or f"{of}-{family.lower()}", "namespace": "default", "labels": labels},
        "addressType": family,
        "endpoints": found,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        **fields,
    }


def pod(
    name: str = "web-0", *ports: Mapping[str, Any], address: str | tuple[str, ...] = "10.1.0.7", **spec: Any
) -> dict[str, Any]:
    """A pod on this node; `ports` are its container's; `created`, `deleted`, `phase` go where they belong."""
    addresses = (address,) if isinstance(address, str) else address
    metadata = {"name": name, "namespace": "default", "creationTimestamp": spec.pop("created", OLD)}
    if "deleted" in spec:
        metadata["deletionTimestamp"] = spec.pop("deleted")
    status: dict[str, Any] = {"phase": spec.pop("phase", "Running")}
    if addresses and addresses[0]:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": each} for each in addresses]}
    whole = {"nodeName": HERE, "containers": [{"name": "c", "ports": list(ports)}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole, "status": status}


def host_port(port: int = 8000, target: int = 80, **fields: Any) -> dict[str, Any]:
    """A container's port that has one of the node."""
    return {"name": "http", "hostPort": port, "containerPort": target, "protocol": "TCP", **fields}


class Site:
    """A node's table, filled with documents.

    Args:
        documents: Services, EndpointSlices and pods.
    """

    def __init__(
        self,
        *documents: Mapping[str, Any],
        wanted: ServicesWanted = ALL,
        addresses: tuple[str, ...] = NODE_ADDRESSES,
        zone: str = ZONE,
    ) -> None:
        self.table = ServiceTable(NodeFacts(HERE, zone, addresses_of(addresses)))
        self.intake = Intake(self.table)
        self.table.want(wanted)
        self.put(*documents)

    def put(self, *documents: Mapping[str, Any]) -> bool:
        """Take in documents; returns whether a frontend changed."""
        for document in documents:
            if document["kind"] == "Service":
                self.intake.put_service(service_from(document, "test"))
            elif document["kind"] == "Pod":
                self.intake.put_pod(pod_from(document, "test"))
            else:
                self.intake.put_slice(slice_from(document, "test"))
        return self.table.refresh()

    def drop(self, document: Mapping[str, Any]) -> bool:
        """A document is gone; returns whether a frontend changed."""
        name = document["metadata"]["namespace"], document["metadata"]["name"]
        intake = self.intake
        drops = {"Service": intake.drop_service, "EndpointSlice": intake.drop_slice, "Pod": intake.drop_pod}
        drops[document["kind"]](name)
        return self.table.refresh()

    def frontend(self, address: str, port: int = 80, protocol: str = "TCP") -> Frontend:
        """What serves an address and port."""
        return self.table.frontends[FrontendKey(parse_address(address), port, Protocol[protocol])]

    def served(self, address: str, port: int = 80, protocol: str = "TCP") -> list[str] | None:
        """Where clients from outside are led, as address:port; None if nothing serves it."""
        key = FrontendKey(parse_address(address), port, Protocol[protocol])
        found = self.table.frontends.get(key)
        return None if found is None else [str(backend) for backend in found.backends]

    def inside(self, address: str, port: int = 80, protocol: str = "TCP") -> list[str]:
        """Where sockets of this node are led."""
        found = self.frontend(address, port, protocol)
        return [str(one) for one in (found.backends if found.inside is None else found.inside)]

    @property
    def places(self) -> set[str]:
        """Everything that is served, as address:port/protocol."""
        return {str(key) for key in self.table.frontends}

    @property
    def warnings(self) -> str:
        """All warnings, one a line."""
        return "\n".join(f"{name}: {text}" for name, text in self.table.warnings())

    @property
    def left_out(self) -> list[str]:
        """What is not served because of a stronger claim."""
        return [str(one) for one in self.table.left_out({})]


def dsr() -> ServicesWanted:
    """All Services, by DSR where they say nothing."""
    return ServicesWanted((Selection("all", forwarding=Forwarding.DSR_IPIP),))


def random() -> ServicesWanted:
    """All Services, their backends drawn."""
    return ServicesWanted((Selection("all", random=True),))


def text_of(address: bytes) -> str:
    """An address as people write it."""
    return format_address(address)
