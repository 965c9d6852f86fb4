"""The four kinds together."""

from __future__ import annotations

from pydantic import BaseModel

from kubebee.api.v1alpha1.bpfnode import BpfNode, BpfNodeSpec, BpfNodeStatus
from kubebee.api.v1alpha1.bpfprogram import BpfProgram, BpfProgramSpec, BpfProgramStatus
from kubebee.api.v1alpha1.common import StatusModel
from kubebee.api.v1alpha1.hostpolicy import HostPolicy, HostPolicySpec, HostPolicyStatus
from kubebee.api.v1alpha1.servicelb import ServiceLB, ServiceLBSpec, ServiceLBStatus

AnyResource = BpfProgram | ServiceLB | HostPolicy | BpfNode

KINDS: tuple[type[AnyResource], ...] = (BpfProgram, ServiceLB, HostPolicy, BpfNode)

_PARTS: dict[type[AnyResource], tuple[type[BaseModel], type[StatusModel]]] = {
    BpfProgram: (BpfProgramSpec, BpfProgramStatus),
    ServiceLB: (ServiceLBSpec, ServiceLBStatus),
    HostPolicy: (HostPolicySpec, HostPolicyStatus),
    BpfNode: (BpfNodeSpec, BpfNodeStatus),
}


def spec_model(kind: type[AnyResource]) -> type[BaseModel]:
    """Return the model of a kind's spec."""
    return _PARTS[kind][0]


def status_model(kind: type[AnyResource]) -> type[StatusModel]:
    """Return the model of a kind's status."""
    return _PARTS[kind][1]
