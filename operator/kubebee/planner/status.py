"""Node reports to statuses: pure, so that one report always reads the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from kubebee.api.v1alpha1.status import Attachment, CommonStatus, Condition, NodeCounts, NodeFailure
from kubebee.errors import KubebeeError
from kubebee.planner.report import Failure, Stage, UnitReport

MAX_FAILURES = 20
MAX_ATTACHMENTS = 100
POINT_CHARS = 256
MESSAGE_CHARS = 1024
LOG_BYTES = 2048
HASH_CHARS = 12


def refused_status(
    generation: int,
    error: KubebeeError,
    previous: CommonStatus | None,
    now: str,
    reports: Sequence[tuple[str, UnitReport]] = (),
) -> CommonStatus:
    """Status of a resource whose newest spec can't be acted on.

    Args:
        generation: of the refused spec.
        error: why.
        previous: the status before, whose transition times are kept.
        now: RFC 3339.
        reports: by node, of the version before it, which stays in force.
    """
    running = any(report.attached for _, report in reports)
    message = f"{error}" + ("; the version before it goes on running" if running else "")
    failure = Failure(Stage.FETCH, error.reason, str(error), hint=error.hint)
    return CommonStatus(
        observed_generation=generation,
        conditions=conditions(False, error.reason, message, True, generation, previous, now),
        nodes=NodeCounts(desired=len(reports), failed=len(reports), summary=f"0/{len(reports)}"),
        failures=tuple(node_failure(node, failure) for node, _ in reports[:MAX_FAILURES]),
        attachments=attachments_of(reports),
    )


def status_of(
    generation: int,
    reports: Sequence[tuple[str, UnitReport | None]],
    previous: CommonStatus | None,
    now: str,
    warnings: Sequence[str] = (),
) -> CommonStatus:
    """Status of a resource over its nodes; None stands for a node that has not reported yet.

    Args:
        generation: of the spec.
        reports: by node.
        previous: the status before, whose transition times are kept.
        now: RFC 3339.
        warnings: what the user should know though it is in force.
    """
    known = [(node, report) for node, report in reports if report is not None]
    failed = [(node, report.failure) for node, report in known if report.failure is not None]
    ready = sum(report.ready for _, report in known)
    counts = NodeCounts(
        desired=len(reports),
        ready=ready,
        failed=len(failed),
        pending=len(reports) - ready - len(failed),
        summary=f"{ready}/{len(reports)}",
    )
    if failed:
        node, first = failed[0]
        message = f"{node}: {first.message}" + kept_version(dict(known)[node])
        stalled = len(failed) == len(reports) and all(failure.permanent for _, failure in failed)
        told = conditions(False, first.reason, message, stalled, generation, previous, now)
    elif ready == len(reports):
        notes = "; ".join(dict.fromkeys([*warnings, *(note for _, report in known for note in report.notes)]))
        what = f"running on {ready} of {len(reports)} nodes"
        told = conditions(
            True, "Running", f"{what}; {notes}" if notes else what, False, generation, previous, now
        )
    else:
        message = f"waiting for {counts.pending} of {len(reports)} nodes"
        told = conditions(False, "Progressing", message, False, generation, previous, now)
    return CommonStatus(
        observed_generation=generation,
        conditions=told,
        nodes=counts,
        failures=tuple(node_failure(node, failure) for node, failure in failed[:MAX_FAILURES]),
        attachments=attachments_of(known),
    )


def summary_status(units: int, failed: int, previous: CommonStatus | None, now: str) -> CommonStatus:
    """Status of a node as a whole: ready when nothing on it fails."""
    reason = "Running" if not failed else "UnitsFailed"
    message = f"{units - failed} of {units} units run" if units else "nothing to run"
    return CommonStatus(
        conditions=conditions(not failed, reason, message, False, 0, previous, now),
        nodes=NodeCounts(
            desired=1, ready=int(not failed), failed=int(bool(failed)), summary=f"{int(not failed)}/1"
        ),
    )


def idle_status(generation: int, reason: str, previous: CommonStatus | None, now: str) -> CommonStatus:
    """Status of a resource that no node runs, which is what it asks for."""
    return CommonStatus(
        observed_generation=generation,
        conditions=conditions(True, reason, "no node runs it", False, generation, previous, now),
        nodes=NodeCounts(summary="0/0"),
    )


def kept_version(report: UnitReport) -> str:
    """What a message about a failure adds where the version before it is still attached."""
    if report.running_hash and report.running_hash != report.wanted_hash and report.attached:
        return f"; the version before it ({report.running_hash[:HASH_CHARS]}) stays attached"
    return ""


def conditions(
    ready: bool,
    reason: str,
    message: str,
    stalled: bool,
    generation: int,
    previous: CommonStatus | None,
    now: str,
) -> tuple[Condition, ...]:
    """Ready always; Reconciling and Stalled only while they hold, as kstatus expects."""
    before = {condition.type: condition for condition in previous.conditions} if previous else {}
    message = message if len(message) <= MESSAGE_CHARS else f"{message[: MESSAGE_CHARS - 1]}…"

    def condition(type_: str, holds: bool) -> Condition:
        status: Literal["True", "False"] = "True" if holds else "False"
        old = before.get(type_)
        since = old.last_transition_time if old and old.status == status else now
        return Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since,
            observed_generation=generation,
        )

    told = [condition("Ready", ready)]
    if stalled:
        told.append(condition("Stalled", True))
    elif not ready:
        told.append(condition("Reconciling", True))
    return tuple(told)


def node_failure(node: str, failure: Failure) -> NodeFailure:
    """A failure as the API has it: bounded, the log from its end."""
    return NodeFailure(
        node=node,
        stage=failure.stage.value,
        reason=failure.reason,
        errno=failure.errno_name,
        message=failure.message[:MESSAGE_CHARS],
        log=failure.log[-LOG_BYTES:],
        hint=failure.hint[:MESSAGE_CHARS],
        permanent=failure.permanent,
    )


def shown_point(point: str) -> str:
    """An attach point in the space that a status has for it; of a long path the end says most."""
    return point if len(point) <= POINT_CHARS else f"…{point[1 - POINT_CHARS :]}"


def attachments_of(reports: Iterable[tuple[str, UnitReport]]) -> tuple[Attachment, ...]:
    """The first places where a resource runs; no more of `reports` is read than that takes."""
    found = (
        Attachment(
            node=node,
            function=a.function,
            type=a.type,
            point=shown_point(a.point),
            mode=a.mode,
            position=a.position,
            prog_id=a.prog_id,
            link_id=a.link_id,
        )
        for node, report in reports
        for a in report.attached
    )
    return tuple(attachment for _, attachment in zip(range(MAX_ATTACHMENTS), found, strict=False))
