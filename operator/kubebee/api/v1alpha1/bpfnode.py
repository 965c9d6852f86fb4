"""BpfNode: what one node shall run and what it does run; written by kubebee alone.

Its lists are replaced whole (list type atomic), for each has one writer: server-side apply of an associative
list that loses its last item stores null, which the schema refuses (seen on Kubernetes 1.34).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubebee.api.v1alpha1.common import (
    ApiModel,
    Bool,
    Int,
    Line,
    Names,
    Resource,
    Sentence,
    StatusModel,
    Subdomain,
    Time,
    Word,
)
from kubebee.api.v1alpha1.status import CommonStatus, NodeFailure, TableFill

Kind = Literal["BpfProgram", "ServiceLB", "HostPolicy"]


class BundleRef(ApiModel):
    """One version of a resource, as the planner chose it for this node."""

    kind: Kind
    """Kind of the resource."""
    name: Subdomain
    """Name of the resource."""
    generation: Annotated[Int, Field(ge=0)]
    """Generation of the resource that this node shall run; a canary's may be ahead of the others'."""
    hash: Word
    """Digest of the version, whatever its generation: of two equal ones nothing is done anew."""
    config_map: Subdomain
    """ConfigMap that carries it."""


class BpfNodeSpec(ApiModel):
    """What the node shall run."""

    generation: Annotated[Int, Field(ge=0)] = 0
    """Number of the plan; the status repeats the one it speaks of."""
    bundles: Annotated[tuple[BundleRef, ...], Field(max_length=500)] = ()
    """Code to run, one entry for each resource."""


class Feature(StatusModel):
    """Something a kernel may have."""

    name: Word
    """What, such as XDPNative, TCX or BTF."""
    available: Bool
    """Whether this kernel has it."""
    detail: Line = ""
    """What is missing, or the version."""


class NodeAttachment(StatusModel):
    """One place where a function runs, as read back from the kernel."""

    type: Word
    """Attach type."""
    point: Line
    """Interface, hook, symbol or cgroup."""
    mode: Word = ""
    """XDP: Native or Generic; TC: TCX or Clsact."""
    position: Int = -1
    """Place in the chain of the interface, 0 runs first; -1 where there is no chain."""
    link_id: Int = 0
    """Id of the link in the kernel."""


class NodeProgram(StatusModel):
    """One function that runs on this node."""

    function: Line
    """Function in the object."""
    prog_id: Int = 0
    """Id of the program in the kernel."""
    attachments: Annotated[tuple[NodeAttachment, ...], Field(max_length=64)] = ()
    """Where it runs."""


class NodeResource(StatusModel):
    """What became of one resource on this node."""

    kind: Word
    """Kind of the resource."""
    name: Line
    """Name of the resource."""
    generation: Int = 0
    """Generation of the resource that this speaks of."""
    bundle: Word = ""
    """Digest of the version that this speaks of, as in `spec.bundles`."""
    stage: Word
    """Last step: Fetch, Compile, Verify, Maps, Attach, Confirm or Running."""
    wanted_hash: Word = ""
    """Digest of the code that it shall run."""
    running_hash: Word = ""
    """Digest of the code that it runs; the old one while the new one fails."""
    programs: Annotated[tuple[NodeProgram, ...], Field(max_length=64)] = ()
    """Its functions."""
    map_ids: Annotated[tuple[Int, ...], Field(max_length=64)] = ()
    """Ids of its maps in the kernel."""
    failure: NodeFailure | None = None
    """Why it does not run as asked."""
    notes: Annotated[tuple[Sentence, ...], Field(max_length=16)] = ()
    """What to know though nothing failed."""
    fill: Annotated[tuple[TableFill, ...], Field(max_length=8)] = ()
    """ServiceLB: how full the node's tables are, which all its ServiceLBs share. A change of less than 10
    percentage points is not written, nor one within five minutes, unless a table comes to 90."""


class ForeignProgram(StatusModel):
    """A BPF program on the node that kubebee did not load."""

    id: Int
    """Id in the kernel."""
    name: Line = ""
    """Name."""
    type: Word
    """Type of program."""
    point: Line = ""
    """Where it is attached."""
    owner: Line = ""
    """Process or product that loaded it, where known."""


class NodeHappening(StatusModel):
    """Something worth an Event."""

    kind: Word
    """Kind of the resource that it is about."""
    name: Line
    """Name of that resource."""
    type: Literal["Normal", "Warning"] = "Normal"
    """As of an Event."""
    reason: Word
    """One CamelCase word."""
    message: Sentence
    """What happened."""
    time: Time
    """When, RFC 3339."""


class BpfNodeStatus(CommonStatus):
    """What the node runs."""

    kernel: Line = ""
    """Release of the kernel."""
    features: Annotated[tuple[Feature, ...], Field(max_length=64)] = ()
    """What the kernel has."""
    resources: Annotated[tuple[NodeResource, ...], Field(max_length=500)] = ()
    """What became of each resource here."""
    foreign: Annotated[tuple[ForeignProgram, ...], Field(max_length=200)] = ()
    """Programs of others."""
    happenings: Annotated[tuple[NodeHappening, ...], Field(max_length=50)] = ()
    """The latest of what happened here; the controller makes Events of them."""


class BpfNode(Resource):
    """One node: what it shall run (spec, by the controller) and what it does run (status, by its loader)."""

    names: ClassVar[Names] = Names(plural="bpfnodes", short="bpfn")

    kind: Literal["BpfNode"] = "BpfNode"
    """Always BpfNode."""
    spec: BpfNodeSpec = BpfNodeSpec()
    """What the node shall run."""
    status: BpfNodeStatus | None = None
    """What the node runs."""
