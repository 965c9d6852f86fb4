"""HostPolicy: the firewall of the node itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubebee.api.v1alpha1.common import (
    LATER,
    ApiModel,
    Bool,
    Cidr,
    Int,
    IpProtocol,
    Label,
    LabelValues,
    Names,
    Port,
    PortRange,
    Resource,
    Rule,
    RuledModel,
    Subdomain,
    exactly_one,
    list_map,
)
from kubebee.api.v1alpha1.rollout import Rollout
from kubebee.api.v1alpha1.selectors import Interfaces, LabelSelector
from kubebee.api.v1alpha1.status import CommonStatus

Action = Literal["Allow", "Deny"]
Octet = Annotated[Int, Field(ge=0, le=255)]
Cidrs = Annotated[tuple[Cidr, ...], Field(max_length=64)]


class PodPeer(ApiModel):
    """Pods, by their addresses."""

    selector: LabelSelector | None = None
    """Labels of the pods."""
    namespace_selector: LabelSelector | None = None
    """Labels of their namespaces."""


class Peer(RuledModel):
    """The other end of a connection."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("cidr", "nodes", "pods", "entity", "set"),
        Rule(
            "!has(self.except) || self.except.size() == 0 || has(self.cidr)",
            "except belongs to cidr",
            lambda self: not self.except_ or self.cidr is not None,
        ),
    )

    cidr: Cidr | None = None
    """Addresses with this prefix."""
    except_: Cidrs = ()
    """Parts of `cidr` that are not meant."""
    nodes: Annotated[LabelSelector | None, LATER] = None
    """Nodes of the cluster by label."""
    pods: Annotated[PodPeer | None, LATER] = None
    """Pods of the cluster."""
    entity: Annotated[Literal["KubeAPIServer", "NodeLocal", "Cluster", "World"] | None, LATER] = None
    """A group that the cluster knows."""
    set: Annotated[Subdomain | None, LATER] = None
    """A named set of prefixes."""


class Icmp(ApiModel):
    """ICMP messages."""

    type: Octet
    """Type, such as 8 for an echo request."""
    code: Octet | None = None
    """Code; not given: any."""


TcpFlag = Literal["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"]


class TcpFlags(ApiModel):
    """Flags of a TCP segment."""

    set: Annotated[tuple[TcpFlag, ...], Field(max_length=8)] = ()
    """Flags that must be set."""
    unset: Annotated[tuple[TcpFlag, ...], Field(max_length=8)] = ()
    """Flags that must not be set."""


def _protocol_in(*protocols: str | int) -> str:
    # A list in the expression language holds one type only, and a number may come as either.
    words = [f"'{protocol}'" for protocol in protocols]
    numbers = [str(protocol) for protocol in protocols if isinstance(protocol, int)]
    return f"(self.protocol in [{', '.join(words)}] || self.protocol in [{', '.join(numbers)}])"


class ProtocolMatch(RuledModel):
    """A protocol, and ports or messages of it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.ports) || self.ports.size() == 0 || {_protocol_in('TCP', 'UDP', 'SCTP', 6, 17, 132)}",
            "ports are for TCP, UDP and SCTP only",
            lambda self: not self.ports or self.protocol in ("TCP", "UDP", "SCTP", "6", "17", "132"),
        ),
        Rule(
            f"!has(self.icmp) || {_protocol_in('ICMP', 1, 58)}",
            "icmp is for the protocol ICMP only",
            lambda self: self.icmp is None or self.protocol in ("ICMP", "1", "58"),
        ),
        Rule(
            f"!has(self.tcpFlags) || {_protocol_in('TCP', 6)}",
            "tcpFlags is for the protocol TCP only",
            lambda self: self.tcp_flags is None or self.protocol in ("TCP", "6"),
        ),
        Rule(
            "",
            "a port range ends before it starts, or a port is not between 1 and 65535",
            lambda self: all(_is_range(ports) for ports in self.ports),
        ),
    )

    protocol: IpProtocol
    """TCP, UDP, ICMP (with IPv6: ICMPv6), SCTP, or a protocol number."""
    ports: Annotated[tuple[PortRange, ...], Field(max_length=64)] = ()
    """Destination ports: numbers, or ranges such as "8000-8010" with both ends included. None given: all."""
    icmp: Icmp | None = None
    """Which ICMP messages; not given: all."""
    tcp_flags: Annotated[TcpFlags | None, LATER] = None
    """Which TCP segments."""


def _is_range(text: str) -> bool:
    first, _, last = text.partition("-")
    return 1 <= int(first) <= int(last or first) <= 65535


class RateLimit(ApiModel):
    """How much may pass."""

    packets_per_second: Annotated[Int, Field(ge=1, le=100_000_000)]
    """Packets a second."""
    burst: Annotated[Int, Field(ge=1, le=100_000_000)] | None = None
    """Packets at once; default: those of one second."""
    per: Literal["Source", "Prefix24", "Rule"] = "Source"
    """What is counted together."""


class PolicyRule(ApiModel):
    """What both directions have."""

    name: Label
    """Name, unique in its list; counters carry it."""
    action: Action
    """What happens to a packet for which this is the first rule that matches."""
    protocols: Annotated[tuple[ProtocolMatch, ...], Field(max_length=32)] = ()
    """Protocols and ports, any of which matches. None given: all."""
    rate_limit: Annotated[RateLimit | None, LATER] = None
    """Allow only so much."""
    log: Annotated[Bool, LATER] = False
    """Report matches as events."""


class IngressRule(PolicyRule):
    """A rule for what comes to the node."""

    from_: Annotated[tuple[Peer, ...], Field(max_length=64)] = ()
    """Sources, any of which matches. None given: all."""


class EgressRule(PolicyRule):
    """A rule for what leaves the node."""

    to: Annotated[tuple[Peer, ...], Field(max_length=64)] = ()
    """Destinations, any of which matches. None given: all."""


class DefaultAction(ApiModel):
    """What happens to a packet that no rule matches."""

    ingress: Action = "Allow"
    """To what comes to the node. Of several policies on a node, one Deny is enough."""
    egress: Annotated[Action | None, LATER] = None
    """To what leaves the node."""


class FailsafePort(ApiModel):
    """A port that stays open."""

    protocol: Literal["TCP", "UDP"] = "TCP"
    """Transport protocol."""
    port: Port
    """Port on the node."""


class Failsafe(ApiModel):
    """Ports that no rule can close, so that a mistake does not lock you out."""

    enabled: Bool = True
    """Whether they stay open."""
    inbound_ports: Annotated[tuple[FailsafePort, ...], Field(max_length=64)] | None = None
    """Your own list, instead of TCP 22, 179, 2379, 2380, 6443 and 10250."""
    outbound_ports: Annotated[tuple[FailsafePort, ...] | None, Field(max_length=64), LATER] = None
    """Your own list, instead of 53, 67, 123, 2379, 2380 and 6443."""


class CommitConfirm(ApiModel):
    """Take a new policy back on a node that is cut off by it."""

    timeout_seconds: Annotated[Int, Field(ge=5, le=3600)] = 60
    """Seconds within which the node must reach the API server again."""
    probe: Annotated[str, Field(max_length=256)] = ""
    """Further address and port that must be reached."""


class HostPolicySpec(ApiModel):
    """Which packets may reach the node."""

    order: Annotated[Int, Field(ge=0, le=65535)] = 1000
    """Order among policies: the rules of the lower one come first. Among equals, the name decides."""
    interfaces: Interfaces | None = None
    """Where it holds. Default: the primary interfaces."""
    node_selector: LabelValues = Field(default_factory=dict)
    """Labels of the nodes it is for; none given: all nodes."""
    rollout: Rollout | None = None
    """How a new generation reaches the nodes of a cluster; one machine without a cluster takes it at once."""
    audit: Bool = False
    """Count what would be denied, and let it pass."""
    default_action: DefaultAction = DefaultAction()
    """What happens to a packet that no rule matches."""
    ingress: Annotated[
        tuple[IngressRule, ...], Field(max_length=1000, json_schema_extra=list_map("name"))
    ] = ()
    """Rules for what comes to the node; the first that matches decides."""
    egress: Annotated[
        tuple[EgressRule, ...], Field(max_length=1000, json_schema_extra=list_map("name")), LATER
    ] = ()
    """Rules for what leaves the node; the first that matches decides."""
    failsafe: Failsafe = Failsafe()
    """Ports that no rule can close."""
    commit_confirm: Annotated[CommitConfirm | None, LATER] = None
    """Take a new policy back on a node that is cut off by it."""


class HostPolicyStatus(CommonStatus):
    """State of the policy over all nodes."""

    rules: Int = 0
    """Rules in force."""


class HostPolicy(Resource):
    """The firewall of the nodes themselves: rules in order, matched at XDP, however many, at one cost."""

    names: ClassVar[Names] = Names(plural="hostpolicies", short="hpol")

    kind: Literal["HostPolicy"] = "HostPolicy"
    """Always HostPolicy."""
    spec: HostPolicySpec
    """Which packets may reach the node."""
    status: HostPolicyStatus | None = None
    """What the nodes report."""
