"""Service, EndpointSlice, Pod and Node as the API server or a manifest has them, as far as they are read.

Unknown fields are passed over, and null is taken for an absent list: Go writes an empty one so. Types are
those of the API; what values mean, wrong ones too, is for those who read them.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kubebee.errors import KubebeeError

SERVICE_NAME = "kubernetes.io/service-name"
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"


class ServiceObjectError(KubebeeError):
    """A document is no Service, EndpointSlice or Pod."""

    reason = "InvalidManifest"


class _Struct(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    pass


class Metadata(_Struct, frozen=True):
    """metadata of any object."""

    name: str = ""
    namespace: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    resource_version: str = ""


class ServicePort(_Struct, frozen=True):
    """spec.ports[] of a Service; targetPort is what its EndpointSlices are made from."""

    port: int = 0
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIPConfig(_Struct, frozen=True):
    """spec.sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(_Struct, frozen=True):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(_Struct, frozen=True):
    """spec of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    load_balancer_source_ranges: list[str] | None = None
    load_balancer_class: str | None = None
    health_check_node_port: int | None = None


class Ingress(_Struct, frozen=True):
    """status.loadBalancer.ingress[] of a Service."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(_Struct, frozen=True):
    """status.loadBalancer of a Service."""

    ingress: list[Ingress] | None = None


class ServiceStatus(_Struct, frozen=True):
    """status of a Service."""

    load_balancer: LoadBalancerStatus | None = None


class ServiceObject(_Struct, frozen=True):
    """A Service, v1."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus | None = None


class Conditions(_Struct, frozen=True):
    """endpoints[].conditions of an EndpointSlice."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(_Struct, frozen=True):
    """A zone or a node by name."""

    name: str = ""


class Hints(_Struct, frozen=True):
    """endpoints[].hints of an EndpointSlice."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(_Struct, frozen=True):
    """endpoints[] of an EndpointSlice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class EndpointPort(_Struct, frozen=True):
    """ports[] of an EndpointSlice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class SliceObject(_Struct, frozen=True):
    """An EndpointSlice, discovery.k8s.io/v1."""

    metadata: Metadata
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class NodeAddress(_Struct, frozen=True):
    """status.addresses[] of a Node."""

    type: str = ""
    address: str = ""


class NodeStatus(_Struct, frozen=True):
    """status of a Node."""

    addresses: list[NodeAddress] | None = None


class Taint(_Struct, frozen=True):
    """spec.taints[] of a Node."""

    key: str = ""


class NodeSpec(_Struct, frozen=True):
    """spec of a Node."""

    taints: list[Taint] | None = None


class NodeObject(_Struct, frozen=True):
    """A Node, v1."""

    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class PodMetadata(_Struct, frozen=True):
    """metadata of a Pod; its annotations may be long, and none is read."""

    name: str = ""
    namespace: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    resource_version: str = ""


class ContainerPort(_Struct, frozen=True):
    """spec.containers[].ports[] of a Pod."""

    container_port: int = 0
    host_port: int = 0
    host_ip: str | None = msgspec.field(default=None, name="hostIP")
    protocol: str | None = None
    name: str | None = None


class Container(_Struct, frozen=True):
    """spec.containers[] and spec.initContainers[] of a Pod."""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodSpec(_Struct, frozen=True):
    """spec of a Pod."""

    node_name: str | None = None
    host_network: bool | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodIP(_Struct, frozen=True):
    """status.podIPs[] of a Pod."""

    ip: str | None = None


class PodStatus(_Struct, frozen=True):
    """status of a Pod."""

    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")


class PodObject(_Struct, frozen=True):
    """A Pod, v1."""

    metadata: PodMetadata
    spec: PodSpec = PodSpec()
    status: PodStatus | None = None


_T = TypeVar("_T", ServiceObject, SliceObject, PodObject)


def service_from(document: object, where: str) -> ServiceObject:
    """A manifest's Service.

    Raises:
        ServiceObjectError: it is none; the message names the field.
    """
    return _convert(document, "v1", ServiceObject, where)


def slice_from(document: object, where: str) -> SliceObject:
    """A manifest's EndpointSlice.

    Raises:
        ServiceObjectError: it is none; the message names the field.
    """
    found = _convert(document, "discovery.k8s.io/v1", SliceObject, where)
    if not (found.metadata.labels or {}).get(SERVICE_NAME):
        raise ServiceObjectError(
            f"it has no label {SERVICE_NAME}", where=where, hint="the label names the Service it is for"
        )
    return found


def pod_from(document: object, where: str) -> PodObject:
    """A manifest's Pod.

    Raises:
        ServiceObjectError: it is none; the message names the field.
    """
    return _convert(document, "v1", PodObject, where)


def _convert(document: object, version: str, kind: type[_T], where: str) -> _T:
    said = document.get("apiVersion") if isinstance(document, dict) else None
    if said != version:
        raise ServiceObjectError(f"apiVersion is {said!r}, not {version}", where=where, hint="write that one")
    try:
        found = msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise ServiceObjectError(str(error), where=where, hint="mend this field") from error
    if not found.metadata.name:
        raise ServiceObjectError("it has no metadata.name", where=where, hint="give it one")
    return found
