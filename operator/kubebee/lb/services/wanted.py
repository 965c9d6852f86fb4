"""Which Services are served, as the ServiceLBs of a node ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kubebee.lb.model import Forwarding, Frontend


class Requirement(NamedTuple):
    """One requirement on a label (meta/v1 LabelSelectorRequirement).

    Attributes:
        operator: In, NotIn, Exists or DoesNotExist.
        values: for In and NotIn.
    """

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it; an absent one is not in any values."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case _:
                return value is None


@dataclass(frozen=True, slots=True)
class Selection:
    """Services that one ServiceLB asks for.

    Attributes:
        owner: the ServiceLB's name.
        requirements: all must hold; none given: all Services.
        namespaces: of Services and of pods with host ports; none given: all.
        classes: loadBalancerClass of Services whose load balancers' addresses are served, "" for none given;
            None: whatever the class.
        forwarding: of Services that name none.
        direct: the way of those that ask for DSR.
        host_ports: host ports of the node's pods too.
        random: backends are drawn, but for Services that ask for DSR.
    """

    owner: str
    requirements: tuple[Requirement, ...] = ()
    forwarding: Forwarding = Forwarding.SNAT
    direct: Forwarding = Forwarding.DSR_IPIP
    host_ports: bool = False
    namespaces: frozenset[str] = frozenset()
    classes: frozenset[str] | None = None
    random: bool = False

    def is_of(self, namespace: str) -> bool:
        """Whether it is for a namespace."""
        return not self.namespaces or namespace in self.namespaces

    def takes(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether a Service is among these."""
        return self.is_of(namespace) and all(one.holds(labels) for one in self.requirements)

    def balances(self, load_balancer_class: str) -> bool:
        """Whether load balancers' addresses of a Service of this class are served."""
        return self.classes is None or load_balancer_class in self.classes


class Reference(NamedTuple):
    """An explicit frontend whose backends are the endpoints of a Service.

    Attributes:
        service: namespace and name.
        port: name or number of the Service's port; "" = the only one of the frontend's protocol.
        frontend: as it is without backends.
    """

    service: tuple[str, str]
    port: str
    frontend: Frontend


@dataclass(frozen=True, slots=True)
class ServicesWanted:
    """All that a node serves: a Service is served as the first selection that it meets says."""

    selections: tuple[Selection, ...]
    references: tuple[Reference, ...] = ()

    @property
    def host_ports(self) -> bool:
        """Whether the host ports of the node's pods are served."""
        return any(one.host_ports for one in self.selections)

    def serves_host_ports(self, namespace: str) -> bool:
        """Whether those of pods in this namespace are."""
        return any(one.host_ports and one.is_of(namespace) for one in self.selections)

    def selection(self, namespace: str, labels: Mapping[str, str]) -> Selection | None:
        """The selection that a Service in this namespace, of these labels, is served by, if there is one."""
        return next((one for one in self.selections if one.takes(namespace, labels)), None)
