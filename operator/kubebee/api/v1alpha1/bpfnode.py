"""BpfNode: what one node shall run and what it does run; written by kubebee alone."""

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
    Word,
    list_map,
)
from kubebee.api.v1alpha1.status import CommonStatus, NodeFailure

Kind = Literal["BpfProgram", "ServiceLB", "HostPolicy"]


class BundleRef(ApiModel):
    """Code of one resource, as the planner chose it for this node."""

    kind: Kind
    """Kind of the resource."""
    name: Subdomain
    """Name of the resource."""
    generation: Annotated[Int, Field(ge=0)]
    """Generation of the resource that this node shall run; a canary's may be ahead of the others'."""
    hash: Word
    """Digest of the code."""
    config_map: Subdomain
    """ConfigMap that carries the bundle."""


class BpfNodeSpec(ApiModel):
    """What the node shall run."""

    generation: Annotated[Int, Field(ge=0)] = 0
    """Number of the plan; the status repeats the one it speaks of."""
    bundles: Annotated[
        tuple[BundleRef, ...], Field(max_length=500, json_schema_extra=list_map("kind", "name"))
    ] = ()
    """Code to run, one entry for each resource."""


class Feature(StatusModel):
    """Something a kernel may have."""

    name: Word
    """What, such as XDPNative, TCX or BTF."""
    available: Bool
    """Whether this kernel has it."""
    detail: Line = ""
    """What is missing, or the version."""


class RunningProgram(StatusModel):
    """One function on this node."""

    kind: Word
    """Kind of the resource."""
    resource: Line
    """Name of the resource."""
    function: Line
    """Function in the object."""
    generation: Int = 0
    """Generation of the resource that this speaks of."""
    stage: Word
    """Last step: Fetch, Compile, Verify, Maps, Attach, Confirm or Running."""
    wanted_hash: Word = ""
    """Digest of the code that it shall run."""
    running_hash: Word = ""
    """Digest of the code that it runs; the old one while the new one fails."""
    prog_id: Int = 0
    """Id of the program in the kernel."""
    link_ids: Annotated[tuple[Int, ...], Field(max_length=64)] = ()
    """Ids of its links in the kernel."""
    map_ids: Annotated[tuple[Int, ...], Field(max_length=64)] = ()
    """Ids of its maps in the kernel."""
    points: Annotated[tuple[Line, ...], Field(max_length=64)] = ()
    """Where it is attached."""
    failure: NodeFailure | None = None
    """Why it does not run as asked."""
    notes: Annotated[tuple[Sentence, ...], Field(max_length=16)] = ()
    """What to know though nothing failed."""


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


class BpfNodeStatus(CommonStatus):
    """What the node runs."""

    kernel: Line = ""
    """Release of the kernel."""
    features: Annotated[tuple[Feature, ...], Field(max_length=64, json_schema_extra=list_map("name"))] = ()
    """What the kernel has."""
    programs: Annotated[tuple[RunningProgram, ...], Field(max_length=1000)] = ()
    """Functions of kubebee's resources."""
    foreign: Annotated[tuple[ForeignProgram, ...], Field(max_length=200)] = ()
    """Programs of others."""


class BpfNode(Resource):
    """One node: what it shall run (spec, by the controller) and what it does run (status, by its loader)."""

    names: ClassVar[Names] = Names(plural="bpfnodes", short="bpfn")

    kind: Literal["BpfNode"] = "BpfNode"
    """Always BpfNode."""
    spec: BpfNodeSpec = BpfNodeSpec()
    """What the node shall run."""
    status: BpfNodeStatus | None = None
    """What the node runs."""
