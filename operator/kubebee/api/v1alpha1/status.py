"""The status that all user-facing kinds share, read right by kstatus, kubectl wait and Argo CD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kubebee.api.v1alpha1.common import Bool, Int, Line, LogTail, Sentence, StatusModel, Time, Word, list_map
from kubebee.api.v1alpha1.rollout import RolloutStatus


class Condition(StatusModel):
    """One aspect of the state of an object."""

    type: Word
    """Ready, Reconciling or Stalled."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Word
    """Why, one CamelCase word."""
    message: Sentence = ""
    """Why, for people, and what to do next."""
    last_transition_time: Time
    """When `status` last changed, RFC 3339."""
    observed_generation: Int = 0
    """Generation of the spec that this speaks of."""


class NodeCounts(StatusModel):
    """How far the nodes are."""

    desired: Int = 0
    """Nodes that the object is for."""
    ready: Int = 0
    """Nodes that run the current generation in full."""
    failed: Int = 0
    """Nodes that reported a failure."""
    pending: Int = 0
    """Nodes at work, or not heard from."""
    summary: Word = ""
    """`ready/desired`, for `kubectl get`."""


class NodeFailure(StatusModel):
    """Why a node does not run the object."""

    node: Line
    """Name of the node."""
    stage: Word
    """Step that failed: Fetch, Compile, Verify, Maps, Attach or Confirm."""
    reason: Word
    """One CamelCase word."""
    errno: Word = ""
    """Name of the error of the system call, such as EPERM."""
    message: Sentence
    """What went wrong."""
    log: LogTail = ""
    """End of the compiler's or the verifier's output."""
    hint: Sentence = ""
    """What to do next."""
    permanent: Bool = False
    """Whether only an edit of the object can mend it."""


class Attachment(StatusModel):
    """One place where a program runs, as read back from the kernel."""

    node: Line
    """Name of the node."""
    function: Line
    """Function of the program."""
    type: Word
    """Attach type."""
    point: Line
    """Interface, hook, symbol or cgroup."""
    mode: Word = ""
    """XDP: Native or Generic; TC: TCX or Clsact."""
    position: Int = -1
    """Place in the chain of the interface, 0 runs first; -1 where there is no chain."""
    prog_id: Int = 0
    """Id of the program in the kernel."""
    link_id: Int = 0
    """Id of the link in the kernel; 0 for a filter of tc."""


class TableFill(StatusModel):
    """How full a table of the load balancer is."""

    limit: Word
    """The field of `spec.limits` that bounds it: frontends, backends, slots or flows."""
    family: Word
    """IPv4 or IPv6: each has tables of its own."""
    used: Int
    """Entries that are taken."""
    size: Int
    """Entries that there is room for."""
    percent: Int
    """The one of the other, rounded down."""


class CommonStatus(StatusModel):
    """State of an object over all nodes."""

    observed_generation: Int = 0
    """Generation of the spec that this status speaks of."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8, json_schema_extra=list_map("type"))] = ()
    """Ready; Reconciling while work is under way; Stalled for what only an edit of the spec can fix."""
    nodes: NodeCounts = NodeCounts()
    """How far the nodes are."""
    failures: Annotated[tuple[NodeFailure, ...], Field(max_length=20)] = ()
    """The first nodes that fail, and why."""
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    """The first places where it runs."""
    rollout: RolloutStatus | None = None
    """How far the newest version has come; only in a cluster."""
