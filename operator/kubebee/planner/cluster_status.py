"""The status of a resource over all nodes of a cluster.

Nodes that are down (their condition Ready is not True) are named and counted as pending, and keep nothing
from being Ready: what a resource asks for is done as far as it can be, and the node's own condition says the
rest. Where every node is down, nothing is known to run: Ready is False, NodesNotReady.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubebee.api.v1alpha1.rollout import RolloutStatus
from kubebee.api.v1alpha1.status import Attachment, CommonStatus, Condition, NodeCounts, NodeFailure
from kubebee.errors import KubebeeError
from kubebee.planner.members import Member, names
from kubebee.planner.nodes import Report, Trouble, failure_of, unit_report
from kubebee.planner.rollout import Phase
from kubebee.planner.status import (
    MAX_FAILURES,
    attachments_of,
    conditions,
    idle_status,
    kept_version,
    node_failure,
)

_Told = tuple[Report, str, Trouble]
"""What a node reported, its name, and the failure in it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a status is about.

    Attributes:
        generation: of the spec that the status speaks of.
        previous: the status before, whose transition times are kept.
        leaving: nodes that are up and still run the resource though it is not for them, in order of name.
        now: RFC 3339.
    """

    generation: int
    previous: CommonStatus | None
    leaving: Sequence[Member]
    now: str

    def conditions(
        self, ready: bool, reason: str, message: str, stalled: bool = False
    ) -> tuple[Condition, ...]:
        """The conditions; their arguments are those of `status.conditions`."""
        return conditions(ready, reason, message, stalled, self.generation, self.previous, self.now)


def rolled_status(
    subject: Subject,
    digest: str,
    members: Sequence[Member],
    record: RolloutStatus,
    careful: bool,
    warnings: Sequence[str] = (),
) -> CommonStatus:
    """Status of a resource whose newest version is on its way to its nodes, or there.

    Args:
        subject: what it is about.
        digest: of the newest version.
        members: the nodes it is for, in order of name; at least one.
        record: its rollout.
        careful: whether a failure stops the rollout.
        warnings: what the user should know though it is in force.
    """
    up = [member for member in members if member.up]
    ready = [member for member in up if member.runs(digest)]
    # What a node says of a version that it no longer has is no news of this one: it would read as Stalled.
    troubled, elsewhere = _troubled(up, digest)
    if record.phase == Phase.ROLLED_BACK:
        told = subject.conditions(False, "RolledBack", record.message, stalled=True)
    elif troubled:
        told = _failing(subject, members, troubled, careful and record.phase == Phase.FAILED)
    elif record.phase == Phase.PAUSED:
        told = subject.conditions(False, "RolloutPaused", record.message)
    elif not up:
        message = f"no node that it is for is ready: {names(members)}"
        told = subject.conditions(False, "NodesNotReady", message)
    elif len(ready) < len(up):
        told = subject.conditions(False, "Progressing", _progress(digest, up, members, record))
    elif subject.leaving:
        told = _leaving(subject)
    else:
        told = subject.conditions(True, "Running", _running(ready, members, warnings))
    return CommonStatus(
        observed_generation=subject.generation,
        conditions=told,
        nodes=_counts(len(members), len(ready), len(troubled) + len(elsewhere)),
        failures=_failures([*troubled, *elsewhere]) or _reason_to_go_back(subject, record),
        attachments=_attachments([*members, *subject.leaving]),
        rollout=record,
    )


def refused_cluster_status(
    subject: Subject, error: KubebeeError, members: Sequence[Member], record: RolloutStatus | None
) -> CommonStatus:
    """Status of a resource whose newest spec can't be acted on.

    Args:
        subject: what it is about.
        error: why; Stalled, unless it may pass.
        members: nodes that run the version before it, or shall, in order of name.
        record: its rollout.
    """
    running = [member for member in members if member.has]
    keeps = f"; the version before it stays on {names(running)}" if running else ""
    _, troubled = _troubled([member for member in members if member.up], "")
    return CommonStatus(
        observed_generation=subject.generation,
        conditions=subject.conditions(False, error.reason, f"{error}{keeps}", stalled=not error.may_pass),
        nodes=_counts(len(members), 0, len(troubled)),
        failures=_failures(troubled),
        attachments=_attachments(members),
        rollout=record,
    )


def absent_status(subject: Subject, reason: str) -> CommonStatus:
    """Status of a resource that no node shall run.

    Args:
        subject: what it is about.
        reason: why none shall.
    """
    record = subject.previous.rollout if subject.previous else None
    if not subject.leaving:
        idle = idle_status(subject.generation, reason, subject.previous, subject.now)
        return idle.model_copy(update={"rollout": record})
    return CommonStatus(
        observed_generation=subject.generation,
        conditions=_leaving(subject),
        nodes=_counts(0, 0, 0),
        attachments=_attachments(subject.leaving),
        rollout=record,
    )


def _failing(
    subject: Subject,
    members: Sequence[Member],
    troubled: Sequence[_Told],
    stopped: bool,
) -> tuple[Condition, ...]:
    report, node, trouble = troubled[0]
    message = f"{node}: {trouble.message}{kept_version(unit_report(report))}"
    if len(troubled) > 1:
        message += f"; {len(troubled) - 1} more of {len(members)} nodes fail"
    if stopped:
        message += "; the other nodes keep what they run"
    only_an_edit = all(each.permanent for _, _, each in troubled)
    stalled = only_an_edit and (stopped or len(troubled) == len(members))
    return subject.conditions(False, trouble.reason, message, stalled)


def _progress(digest: str, up: Sequence[Member], members: Sequence[Member], record: RolloutStatus) -> str:
    waiting = [member for member in up if not member.runs(digest)]
    text = f"waiting for {len(waiting)} of {len(members)} nodes: {names(waiting)}"
    return f"{text}; {record.message}" if record.phase == Phase.CANARY and record.message else text


def _running(ready: Sequence[Member], members: Sequence[Member], warnings: Sequence[str]) -> str:
    text = f"running on {len(ready)} of {len(members)} nodes"
    down = [member for member in members if not member.up]
    if down:
        text += f"; not ready: {names(down)}"
    notes = (note for member in ready if member.report for note in member.report.notes)
    return "; ".join(dict.fromkeys([text, *warnings, *notes]))


def _leaving(subject: Subject) -> tuple[Condition, ...]:
    return subject.conditions(False, "Progressing", f"being removed from {names(subject.leaving)}")


def _troubled(up: Iterable[Member], digest: str) -> tuple[list[_Told], list[_Told]]:
    """Failures of this version, and of others that nodes are to run for now."""
    these: list[_Told] = []
    others: list[_Told] = []
    for member in up:
        trouble = member.failure(member.has) if member.has else None
        if trouble is not None and member.report is not None:
            (these if member.has == digest else others).append((member.report, member.name, trouble))
    return these, others


def _failures(troubled: Sequence[_Told]) -> tuple[NodeFailure, ...]:
    return tuple(node_failure(node, failure_of(trouble)) for _, node, trouble in troubled[:MAX_FAILURES])


def _reason_to_go_back(subject: Subject, record: RolloutStatus) -> tuple[NodeFailure, ...]:
    """What made a rollback is told for as long as it lasts, though its nodes are well again."""
    before = subject.previous
    same = before is not None and before.rollout is not None and before.rollout.bundle == record.bundle
    return before.failures if before and same and record.phase == Phase.ROLLED_BACK else ()


def _counts(desired: int, ready: int, failed: int) -> NodeCounts:
    return NodeCounts(
        desired=desired,
        ready=ready,
        failed=failed,
        pending=desired - ready - failed,
        summary=f"{ready}/{desired}",
    )


def _attachments(members: Sequence[Member]) -> tuple[Attachment, ...]:
    return attachments_of((member.name, unit_report(member.report)) for member in members if member.report)
