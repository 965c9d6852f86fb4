"""One resource and its nodes to what is to be written for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubebee.api.v1alpha1.rollout import Rollout
from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.errors import KubebeeError
from kubebee.planner.candidate import Candidate
from kubebee.planner.cluster import FINALIZER, ClusterNode
from kubebee.planner.cluster_status import Subject, absent_status, refused_cluster_status, rolled_status
from kubebee.planner.events import PlannedEvent, refusal_event, rollout_events
from kubebee.planner.fill import balancer_status
from kubebee.planner.members import Member, Version, recorded_version, stable_version
from kubebee.planner.moments import parse_time, rfc3339
from kubebee.planner.nodes import BpfNodeRecord, Ref, fill_of
from kubebee.planner.plan import ResourceKey
from kubebee.planner.rollout import decide, settled
from kubebee.planner.selection import is_canary
from kubebee.planner.wire import Encoded


@dataclass(frozen=True, slots=True)
class KnownMember:
    """A member and what it was made of: nothing else changes it, and most stay from plan to plan."""

    node: ClusterNode
    record: BpfNodeRecord | None
    rollout: Rollout | None
    member: Member


@dataclass(frozen=True)
class Outlook:
    """A resource and all that bears upon it.

    Attributes:
        candidate: the resource; None: there is none of this key any more.
        chosen: nodes that its selector chooses, in order of name.
        holders: nodes whose BpfNode names it, in spec or status.
        nodes, records: of the cluster.
        there: whether a version's bundle is there to be named.
        known: members of earlier plans by name, brought up to date.
    """

    key: ResourceKey
    candidate: Candidate | None
    chosen: Sequence[str]
    holders: Set[str]
    nodes: Mapping[str, ClusterNode]
    records: Mapping[str, BpfNodeRecord]
    there: Callable[[Version], bool]
    known: dict[str, KnownMember]

    def others(self) -> list[Member]:
        """Nodes of the cluster that have it and are not chosen, in order of name."""
        chosen = set(self.chosen)
        return self.members(sorted(n for n in self.holders if n in self.nodes and n not in chosen))

    def members(self, names: Iterable[str], rollout: Rollout | None = None) -> list[Member]:
        """These nodes as a rollout sees them."""
        return [self._member(self.nodes[name], rollout) for name in names]

    def holding(self) -> list[Member]:
        """Nodes of the cluster that have it, in order of name."""
        return self.members(sorted(name for name in self.holders if name in self.nodes))

    def _member(self, node: ClusterNode, rollout: Rollout | None) -> Member:
        known, record = self.known.get(node.name), self.records.get(node.name)
        if known and known.node is node and known.record is record and known.rollout is rollout:
            return known.member
        member = self._made(node, record, rollout)
        self.known[node.name] = KnownMember(node, record, rollout, member)
        return member

    def _made(self, node: ClusterNode, record: BpfNodeRecord | None, rollout: Rollout | None) -> Member:
        ref = record.bundles.get(self.key) if record else None
        return Member(
            name=node.name,
            up=node.ready,
            down_since=None if node.ready else parse_time(node.since),
            canary=bool(rollout and rollout.canary and is_canary(rollout.canary, node.name, node.labels)),
            has=ref.hash if ref and ref.config_map.endswith(ref.hash) else "",
            report=record.reports.get(self.key) if record else None,
        )


@dataclass(frozen=True)
class ResourcePlan:
    """What to write for one resource; see `ClusterPlan`.

    Attributes:
        refs: by node, its new entry for the resource; None: it has one and shall have none.
        due: when to plan it again though nothing changed.
    """

    refs: Mapping[str, Ref | None] = field(default_factory=dict)
    bundle: Encoded | None = None
    finalizer: bool | None = None
    status: dict[str, Any] | None = None
    events: Sequence[PlannedEvent] = ()
    due: datetime | None = None

    @property
    def nothing(self) -> bool:
        """Whether all is as it shall be."""
        return not (self.refs or self.bundle or self.status) and self.finalizer is None


def plan_resource(outlook: Outlook, warnings: Sequence[str], now: datetime) -> ResourcePlan:
    """What to write for a resource.

    Args:
        outlook: the resource and its nodes.
        warnings: what its user should know though it is in force.
        now: with a time zone.
    """
    candidate = outlook.candidate
    if candidate is None:
        return ResourcePlan(refs=_taken_from(outlook, outlook.holding()))
    if candidate.deleting:
        return _absent(outlook, candidate, "Deleting", now)
    if candidate.wish.error is not None:
        return _refused(outlook, candidate, candidate.wish.error, now)
    if candidate.wish.suspended:
        return _absent(outlook, candidate, "Suspended", now)
    version = candidate.version
    if version is None or not outlook.chosen:
        return _absent(outlook, candidate, "NoNodeSelected", now)
    return _rolled(outlook, candidate, version, warnings, now)


def _rolled(
    outlook: Outlook, candidate: Candidate, version: Version, warnings: Sequence[str], now: datetime
) -> ResourcePlan:
    asked, before = candidate.wish.rollout, candidate.status
    members = outlook.members(outlook.chosen, asked)
    others = outlook.others()
    record = before.rollout if before else None
    decision = decide(outlook.key, version, members, asked, record, outlook.there, now)
    subject = _subject(candidate, others, now)
    status = rolled_status(subject, version.digest, members, decision.record, asked is not None, warnings)
    status = _with_fill(candidate, status, members)
    return ResourcePlan(
        refs={**_given(candidate, decision.give), **_taken_from(outlook, others)},
        bundle=None if outlook.there(version) else candidate.wish.encoded,
        finalizer=_finalizer(candidate, True),
        status=_news(candidate, status),
        events=rollout_events(candidate, status, now),
        due=decision.due,
    )


def _refused(outlook: Outlook, candidate: Candidate, error: KubebeeError, now: datetime) -> ResourcePlan:
    """A spec that can't be acted on changes nothing, but nodes that join get what runs on the others."""
    record = candidate.status.rollout if candidate.status else None
    names = {*outlook.chosen, *(name for name in outlook.holders if name in outlook.nodes)}
    members = outlook.members(sorted(names))
    good = stable_version(record)
    if good is None and candidate.wish.rollout is None:
        good = recorded_version(outlook.key, record)  # nobody asked to be careful with it
    given = good is not None and outlook.there(good)
    give = {member.name: good for member in members if good is not None and given and not member.has}
    record = settled(outlook.key, members, record, f"generation {candidate.generation} is refused", now)
    served = [member for member in members if member.has or member.report or member.name in give]
    status = refused_cluster_status(_subject(candidate, (), now), error, served, record)
    status = _with_fill(candidate, status, served)
    return ResourcePlan(
        refs=_given(candidate, give),
        finalizer=_finalizer(candidate, bool(served)),
        status=_news(candidate, status),
        events=refusal_event(candidate, error, now),
    )


def _absent(outlook: Outlook, candidate: Candidate, reason: str, now: datetime) -> ResourcePlan:
    """No node shall run it; one that is down keeps nothing from being deleted."""
    holding = outlook.holding()
    up = [member for member in holding if member.up]
    status = _with_fill(candidate, absent_status(_subject(candidate, holding, now), reason), ())
    return ResourcePlan(
        refs=_taken_from(outlook, holding),
        finalizer=_finalizer(candidate, bool(up if candidate.deleting else holding)),
        status=None if candidate.deleting and not up else _news(candidate, status),
    )


def _subject(candidate: Candidate, others: Sequence[Member], now: datetime) -> Subject:
    leaving = [member for member in others if member.up]
    return Subject(candidate.generation, candidate.status, leaving, rfc3339(now))


def _given(candidate: Candidate, give: Mapping[str, Version]) -> dict[str, Ref | None]:
    """Entries for nodes; none before the finalizer is there, without which nobody would clean up."""
    if FINALIZER not in candidate.finalizers:
        return {}
    kind, name = candidate.key.kind, candidate.key.name
    return {
        node: Ref(kind, name, version.generation, version.digest, version.config_map)
        for node, version in give.items()
    }


def _taken_from(outlook: Outlook, members: Iterable[Member]) -> dict[str, Ref | None]:
    """Nodes whose spec names it, though it shall not."""
    return {
        member.name: None
        for member in members
        if (record := outlook.records.get(member.name)) is not None and outlook.key in record.bundles
    }


def _finalizer(candidate: Candidate, wanted: bool) -> bool | None:
    """Whether to add (never to what is being deleted: the API server refuses it) or remove the finalizer."""
    there = FINALIZER in candidate.finalizers
    if wanted == there or (wanted and candidate.deleting):
        return None
    return wanted


def _with_fill(candidate: Candidate, status: CommonStatus, members: Iterable[Member]) -> CommonStatus:
    """Of a ServiceLB also how full its tables are, on nodes that are up."""
    if candidate.key.kind != "ServiceLB":
        return status
    reports = ((each.name, fill_of(each.report)) for each in members if each.up and each.report)
    return balancer_status(status, reports, candidate.status)


def _news(candidate: Candidate, status: CommonStatus) -> dict[str, Any] | None:
    """A status as it is written, None where it says nothing new."""
    if candidate.status == status:
        return None
    return status.model_dump(mode="json", by_alias=True, exclude_defaults=True)
