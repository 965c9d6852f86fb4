"""ServiceLB: layer 4 load balancing at XDP and at the sockets of the node."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from kubebee.api.v1alpha1.common import (
    Address,
    ApiModel,
    Bool,
    HttpPath,
    Int,
    Label,
    LabelValues,
    Line,
    Names,
    Port,
    PortName,
    PortRange,
    Resource,
    Rule,
    RuledModel,
    ServedPorts,
    Word,
    exactly_one,
    list_map,
)
from kubebee.api.v1alpha1.rollout import Rollout
from kubebee.api.v1alpha1.selectors import Interfaces, LabelSelector
from kubebee.api.v1alpha1.status import CommonStatus, TableFill

MAX_PORTS = 1000
"""Of one range: each port has a table of its own."""


def ports_of(text: str) -> range:
    """The ports of "80" or "8000-8010", both ends included."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _sound(text: str) -> str:
    ports = ports_of(text)
    if not ports or not ports[0] or ports[-1] > 0xFFFF:
        raise PydanticCustomError(
            "ports", "'{text}' is no port from 1 to 65535 nor a range of them, first to last", {"text": text}
        )
    if len(ports) > MAX_PORTS:
        values = {"text": text, "count": len(ports), "most": MAX_PORTS}
        raise PydanticCustomError("ports", "'{text}' are {count} ports, at most {most} are allowed", values)
    return text


Ports = Annotated[ServedPorts, AfterValidator(_sound)]
Seconds = Annotated[Int, Field(ge=1, le=86400)]
LoadBalancerClass = Annotated[str, Field(max_length=316)]


class Forwarding(ApiModel):
    """How a packet gets to its backend, and the answer to the client."""

    mode: Literal["SNAT", "DSR"] = "SNAT"
    """SNAT: answers return through this node. DSR: the backend answers the client itself."""
    dispatch: Literal["IPIP", "L2", "IPOption"] = "IPIP"
    """DSR only: how the packet travels to the backend. L2: to backends on a link of the node alone, which
    hold the frontend's address; those behind a gateway get nothing. IPOption: translated to the backend, on a
    node with kubebee, which an option of the packet tells the frontend."""


class HealthCheck(ApiModel):
    """Active checks of the backends. While all fail, all serve."""

    protocol: Literal["TCP", "HTTP", "HTTPS", "UDP"] = "TCP"
    """What is tried: that a connection is accepted, GET answered by 200 to 399, a datagram not refused."""
    port: Port | None = None
    """Port to try; default: that of the backend."""
    path: HttpPath = "/"
    """HTTP and HTTPS: path asked for."""
    interval_seconds: Seconds = 5
    """Seconds between checks."""
    timeout_seconds: Seconds = 2
    """Seconds to wait for an answer."""
    failures: Annotated[Int, Field(ge=1, le=100)] = 3
    """Failed checks in a row that take the backend out."""
    successes: Annotated[Int, Field(ge=1, le=100)] = 2
    """Passed checks in a row that take it in again."""


class SessionAffinity(ApiModel):
    """Whether a client stays with one backend."""

    type: Literal["None", "ClientIP"] = "None"
    """ClientIP: all connections of one address go to one backend."""
    timeout_seconds: Seconds = 10800
    """Idle seconds after which it may change."""


# Not a model: 100,000 of them take 8 MB and 70 ms to validate with slots, 49 MB and 230 ms as models.
@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Backend:
    """A server."""

    address: Address
    """IP address, of the same family as the frontend's."""
    port: Port | None = None
    """Port on it; default: the one that the client used. DSR by IPIP or L2 can't translate it."""
    weight: Annotated[Int, Field(ge=0, le=1000)] = 1
    """Share of new connections relative to the other backends; 0 gets none and keeps what it has."""


class ServiceReference(ApiModel):
    """A Service of the cluster, for its endpoints alone: none of its addresses and policies counts."""

    name: Label
    """Name of the Service."""
    namespace: Label = "default"
    """Its namespace."""
    port: PortName | None = None
    """Its port, by name or number; default: the only one of the frontend's protocol."""


class Frontend(RuledModel):
    """A virtual address and port, and the servers behind it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",  # In a list of 1,000, which is beyond the API server's budget for rules.
            "backends and service can't both be set",
            lambda self: self.service is None or not self.backends,
        ),
    )

    name: Label
    """Name, unique in this object; metrics carry it."""
    address: Address
    """Virtual IP address."""
    port: Ports
    """Port on it, or a range such as 8000-8010, both ends included, of at most 1,000 ports."""
    protocol: Literal["TCP", "UDP"] = "TCP"
    """Transport protocol."""
    backends: Annotated[tuple[Backend, ...], Field(max_length=100)] = ()
    """The servers; none: clients are refused at once."""
    service: ServiceReference | None = None
    """Instead of backends: the endpoints of a Service, as they come and go."""
    forwarding: Forwarding | None = None
    """Instead of that of the spec."""
    session_affinity: SessionAffinity | None = None
    """Instead of that of the spec."""
    health_check: HealthCheck | None = None
    """Active checks of the backends; those that fail get no new connections."""
    drain_seconds: Annotated[Int, Field(ge=0, le=86400)] | None = None
    """How long a backend that was removed keeps its connections; default: until they end."""


class ServicesSelector(RuledModel):
    """Services of the cluster: all, or those with some labels, and of these those in some namespaces."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("all", "selector"),)

    all: Bool | None = None
    """All Services, and host ports of pods: takes the place of kube-proxy."""
    selector: LabelSelector | None = None
    """Services by label."""
    namespaces: Annotated[tuple[Label, ...], Field(max_length=64)] = ()
    """Namespaces of the Services, and of pods with host ports; none given: all."""
    load_balancer_classes: Annotated[tuple[LoadBalancerClass, ...], Field(max_length=16)] | None = None
    """Values of spec.loadBalancerClass, "" for none: of Services with another one addresses of load balancers
    are not served, all else is. Default: whatever the class."""


class SocketLB(ApiModel):
    """Translation when a process connects or sends, before there is a packet."""

    enabled: Bool = True
    """Whether it is on."""
    host_namespace_only: Bool = False
    """Serve processes in the node's own network namespace only, none of pods in theirs."""
    cgroup: Line = ""
    """Path in the cgroup2 hierarchy of the processes served; empty: its root."""


NorthSouthMode = Literal["Auto", "Native", "Generic", "TC", "Off"]


class NorthSouth(ApiModel):
    """Traffic that arrives from outside the node."""

    mode: NorthSouthMode = "Auto"
    """XDP in the driver (Native) or in the stack (Generic), with tc behind it for what XDP can't send; tc
    alone (TC); nowhere, for sockets only (Off). Auto: on each interface the first of the three that works."""


class Limits(ApiModel):
    """Sizes of the maps, of each family; they decide the memory that a node needs, see docs/servicelb.md."""

    frontends: Annotated[Int, Field(ge=1, le=65536)] | None = None
    """Virtual addresses with port, those of Services and host ports too. Default: as many as there are."""
    backends: Annotated[Int, Field(ge=1, le=1048576)] | None = None
    """Servers of all of them, those that drain too. Default: as many as there are."""
    slots: Annotated[Int, Field(ge=256, le=16777216)] | None = None
    """Slots of all Maglev tables together. Default: as many as there are."""
    flows: Annotated[Int, Field(ge=1024, le=16777216)] | None = None
    """Connections that are tracked. Default: with SNAT 65,536, with DSR, in slots that changed, 131,072."""


class Snat(ApiModel):
    """Source addresses and ports towards backends."""

    port_range: PortRange = "61000-65535"
    """Ports used, both ends included; keep them apart from net.ipv4.ip_local_port_range."""
    addresses: Annotated[tuple[Address, ...], Field(max_length=16)] = ()
    """Addresses used, those that the node has; none: its address that leads to the backend."""


class CutOver(ApiModel):
    """Taking over from, and handing back to, a running kube-proxy."""

    from_: Literal["KubeProxy"]
    """Who serves now."""
    hand_back: Bool = False
    """Let a kube-proxy that was started again take over: its rules are left alone and new connections are
    its, those served here go on. Once none is left here this object can be deleted."""


class ServiceLBSpec(RuledModel):
    """What is balanced, to where and how."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.algorithm) || self.algorithm != 'Random' || !has(self.forwarding)"
            " || !has(self.forwarding.mode) || self.forwarding.mode != 'DSR'",
            "algorithm Random needs forwarding.mode SNAT: DSR finds the backend of each packet by its hash",
            lambda self: self.algorithm != "Random" or self.forwarding.mode != "DSR",
        ),
    )

    frontends: Annotated[
        tuple[Frontend, ...], Field(max_length=1000, json_schema_extra=list_map("name"))
    ] = ()
    """Virtual addresses given by hand, with servers inside or outside Kubernetes."""
    services: ServicesSelector | None = None
    """Services of the cluster to serve. One that several objects choose is served as the oldest says."""
    interfaces: Interfaces | None = None
    """Where traffic from outside arrives. Default: the primary interfaces."""
    forwarding: Forwarding = Forwarding()
    """How packets get to backends."""
    socket_lb: SocketLB = SocketLB()
    """Translation at the sockets of the node."""
    algorithm: Literal["Maglev", "Random"] = "Maglev"
    """How a backend is chosen for a new connection from outside. Maglev: by a hash, alike on all nodes.
    Random: it is drawn, by weight; with SNAT alone, which keeps a connection's backend. Services that ask for
    DSR have Maglev."""
    north_south: NorthSouth = NorthSouth()
    """Traffic that arrives from outside the node."""
    limits: Limits = Limits()
    """Sizes of the maps. Where several objects serve a node, the largest of each counts."""
    snat: Snat = Snat()
    """Source addresses and ports towards backends."""
    session_affinity: SessionAffinity | None = None
    """Whether a client of `frontends` stays with one backend; Services have a field of their own for it."""
    healthz_port: Port | None = None
    """Port where each node answers whether it serves, under /healthz; kube-proxy's is 10256."""
    cut_over: CutOver | None = None
    """Take over from kube-proxy without dropping connections. Those that it has go on by it, new ones are
    served here; once it is gone from a node its rules are removed there."""
    node_selector: LabelValues = Field(default_factory=dict)
    """Labels of the nodes it is for; none given: all nodes."""
    rollout: Rollout | None = None
    """How a new generation reaches the nodes of a cluster; one machine without a cluster takes it at once."""

    @model_validator(mode="after")
    def _frontends_differ(self) -> Self:
        # Too costly for CEL at 1,000 frontends; the API server checks the names by the list's keys.
        names: dict[str, int] = {}
        places: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for index, frontend in enumerate(self.frontends):
            ports = ports_of(frontend.port)
            span = ports[0], ports[-1], index
            places.setdefault((frontend.address, frontend.protocol), []).append(span)
            other = names.setdefault(frontend.name, index)
            if other != index:
                raise _double(other, index, f"the name {frontend.name}")
        for (address, protocol), spans in places.items():
            spans.sort()
            for (_, last, one), (first, _, other) in pairwise(spans):
                if first <= last:
                    raise _double(min(one, other), max(one, other), f"{address} port {first}/{protocol}")
        return self


def _double(first: int, second: int, what: str) -> PydanticCustomError:
    return PydanticCustomError(
        "double",
        "frontends[{first}] and frontends[{second}] both have {what}",
        {"first": first, "second": second, "what": what},
    )


class FullestTable(TableFill):
    """A table on the node where it is fullest."""

    node: Line
    """Name of the node."""


class ServiceLBStatus(CommonStatus):
    """State of the load balancer over all nodes."""

    fill: Annotated[tuple[FullestTable, ...], Field(max_length=8)] = ()
    """How full each table is where it is fullest; BpfNodes say it of every node, metrics at any moment."""
    fullest: Word = ""
    """The fullest of these, for `kubectl get`."""


class ServiceLB(Resource):
    """Layer 4 load balancing: virtual addresses at XDP, and for the node's own processes at their sockets."""

    names: ClassVar[Names] = Names(plural="servicelbs", short="slb")

    kind: Literal["ServiceLB"] = "ServiceLB"
    """Always ServiceLB."""
    spec: ServiceLBSpec
    """What is balanced, to where and how."""
    status: ServiceLBStatus | None = None
    """What the nodes report."""
