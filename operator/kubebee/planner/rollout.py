"""How a new version reaches the nodes: one decision from what they run, what they say and what is on record.

What must survive the controller is in the record, which is the resource's `status.rollout`. It is written
before it is acted on: no node gets a version that the record does not name, and none goes back before the
record says RolledBack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from kubebee.api.v1alpha1.rollout import Rollout, RolloutStatus
from kubebee.planner.members import Member, Version, names, recorded_version, stable_version
from kubebee.planner.moments import parse_time, rfc3339
from kubebee.planner.plan import ResourceKey

PATIENCE = timedelta(seconds=60)
"""How long a failure that may pass is waited for before a rollback."""
AFTERMATH = timedelta(minutes=5)
"""How long a node that went down while it changed counts as unavailable: the change may be why it went down,
so the next one shall not follow at once. A reboot takes less."""
_MESSAGE_CHARS = 1024


class Phase(StrEnum):
    """How far a version has come."""

    CANARY = "Canary"
    ROLLING = "Rolling"
    PAUSED = "Paused"
    FAILED = "Failed"
    ROLLED_BACK = "RolledBack"
    COMPLETE = "Complete"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a resource's nodes.

    Attributes:
        record: the resource's new `status.rollout`.
        give: by node, the version that it shall run in place of what it has.
        due: when to decide anew though nothing changed.
    """

    record: RolloutStatus
    give: Mapping[str, Version]
    due: datetime | None = None


def decide(
    key: ResourceKey,
    target: Version,
    members: Sequence[Member],
    asked: Rollout | None,
    record: RolloutStatus | None,
    there: Callable[[Version], bool],
    now: datetime,
) -> Decision:
    """What to do about the newest version of a resource.

    Args:
        key: the resource.
        target: its newest version.
        members: the nodes it is for, in order of name.
        asked: its `spec.rollout`; None: all nodes at once, whatever happens.
        record: its `status.rollout`.
        there: whether a version's bundle is there to be named.
        now: with a time zone.
    """
    case = _Case(key, target, members, asked, record, there, now)
    phase, message = case.phase()
    give = case.give(phase)
    return Decision(case.new_record(phase, message, give), give, case.due(phase))


def settled(
    key: ResourceKey, members: Sequence[Member], record: RolloutStatus | None, why: str, now: datetime
) -> RolloutStatus | None:
    """The record while the newest spec can't be acted on: nothing changes, what runs everywhere is stable."""
    if record is None:
        return None
    proven = _proven(key, members, record) if record.phase != Phase.CANARY else None
    stable = proven or stable_version(record)
    lasting = record.phase in (Phase.COMPLETE, Phase.ROLLED_BACK, Phase.PAUSED)
    return record.model_copy(
        update={
            "phase": record.phase if lasting else Phase.PAUSED.value,
            "since": record.since if lasting else rfc3339(now),
            "message": record.message if lasting else why[:_MESSAGE_CHARS],
            "updated": sum(member.has == record.bundle for member in members),
            "stable_generation": stable.generation if stable else 0,
            "stable_bundle": stable.config_map if stable else "",
            "on_stable": sum(member.has == stable.digest for member in members) if stable else 0,
        }
    )


class _Case:
    """One resource at one moment."""

    def __init__(
        self,
        key: ResourceKey,
        target: Version,
        members: Sequence[Member],
        asked: Rollout | None,
        record: RolloutStatus | None,
        there: Callable[[Version], bool],
        now: datetime,
    ) -> None:
        self.target, self.members, self.asked, self.record, self.now = target, members, asked, record, now
        self.there = there
        self.on_record = record is not None and record.bundle == target.digest
        if record is not None and self.on_record:  # an edit that comes to the same is no new version
            self.target = replace(target, generation=record.generation)
        self.up = [member for member in members if member.up]
        self.failing = [(m.name, why) for m in self.up if (why := m.failure(target.digest)) is not None]
        self.ready_since = self._canaries_ready_since()
        earlier = record is not None and not self.on_record and record.phase != Phase.CANARY
        self.stable = stable_version(record)
        passed = earlier or (self.on_record and (self._going_back or self._canaries_passed()))
        proven = _proven(key, members, record) if record is not None and passed else None
        self.stable = proven or self.stable
        if self.stable is not None and self.stable.digest != target.digest and not there(self.stable):
            self.stable = None  # somebody deleted its bundle: no node could fetch it
        self.complete = self.on_record and (
            (record is not None and record.phase == Phase.COMPLETE)
            or (proven is not None and proven.digest == target.digest)
        )

    # -- canaries --------------------------------------------------------------------------------------------

    def _canaries_ready_since(self) -> datetime | None:
        if self.asked is None or self.asked.canary is None or not self.on_record:
            return None
        known = parse_time(self.record.ready_since) if self.record else None
        canaries = [member for member in self.up if member.canary]
        if not canaries:
            return known  # nodes that are down don't take back what they have shown
        return (known or self.now) if all(m.runs(self.target.digest) for m in canaries) else None

    def _canaries_passed(self) -> bool:
        """Whether they have been ready for long enough, by the record: it must survive us."""
        if self.asked is None or self.asked.canary is None:
            return True
        on_record = parse_time(self.record.ready_since) if self.record else None
        return self.ready_since is not None and on_record is not None and self.now >= self._others_follow_at()

    def _others_follow_at(self) -> datetime:
        assert self.asked is not None
        assert self.asked.canary is not None
        assert self.ready_since is not None
        return self.ready_since + timedelta(seconds=self.asked.canary.min_ready_seconds)

    # -- phase -----------------------------------------------------------------------------------------------

    @property
    def _going_back(self) -> bool:
        """The user asks for the version that is known to be good: no reason to be careful."""
        return self.stable is not None and self.stable.digest == self.target.digest

    def phase(self) -> tuple[Phase, str]:
        """The phase, and what it waits for or why it stopped."""
        asked = self.asked
        if self._rolled_back():
            assert self.record is not None
            return Phase.ROLLED_BACK, self.record.message
        if self.complete:
            return Phase.COMPLETE, ""
        rest = [member for member in self.up if member.has != self.target.digest]
        if asked is not None and asked.paused and rest:
            return Phase.PAUSED, f"{_nodes(rest)} at what they run now, as spec.rollout.paused asks for"
        if self.failing:
            return self._failed()
        if asked is not None and asked.canary and not self._going_back and not self._canaries_passed():
            return Phase.CANARY, self._canary_message()
        return Phase.ROLLING, _waiting([m for m in self.up if not m.runs(self.target.digest)])

    def _rolled_back(self) -> bool:
        """For good: until the spec comes to another version."""
        return (
            self.on_record
            and self.record is not None
            and self.record.phase == Phase.ROLLED_BACK
            and self.stable is not None
        )

    def _failed(self) -> tuple[Phase, str]:
        node, why = self.failing[0]
        permanent = any(failure.permanent for _, failure in self.failing)
        if self._may_roll_back() and self.stable and (permanent or self.now >= self._patience_ends()):
            return Phase.ROLLED_BACK, (
                f"generation {self.target.generation} failed on {node}: {why.reason}: {why.message}; "
                f"nodes go back to generation {self.stable.generation}"
            )
        return Phase.FAILED, f"{node}: {why.reason}: {why.message}"

    def _may_roll_back(self) -> bool:
        return self.asked is not None and self.asked.auto_rollback and not self._going_back

    def _patience_ends(self) -> datetime:
        since = (
            self.record.since
            if self.on_record and self.record and self.record.phase == Phase.FAILED
            else None
        )
        return (parse_time(since) or self.now) + PATIENCE

    def _canary_message(self) -> str:
        canaries = [member for member in self.up if member.canary]
        if self.ready_since is not None:
            return f"canary nodes are ready; the others follow at {rfc3339(self._others_follow_at())}"
        if not canaries:
            return "none of the nodes that spec.rollout.canary names is ready"
        return "canary nodes: " + _waiting([m for m in canaries if not m.runs(self.target.digest)])

    # -- nodes -----------------------------------------------------------------------------------------------

    def give(self, phase: Phase) -> dict[str, Version]:
        """By node, the version that it shall run in place of what it has."""
        if phase is Phase.ROLLED_BACK:
            decided = self.record is not None and self.record.phase == Phase.ROLLED_BACK and self.on_record
            given = self.members if decided else []
            return {**self._newcomers(), **self._all(given, self.stable)}
        if not self.on_record or phase is Phase.PAUSED:
            return self._newcomers()
        if self.complete or self.asked is None or self._going_back:
            return self._all(self.members, self.target)
        if phase is Phase.FAILED:
            return self._newcomers()
        return {**self._newcomers(), **self._all(self._next(phase), self.target)}

    def _all(self, members: Sequence[Member], version: Version | None) -> dict[str, Version]:
        if version is None or not self.there(version):
            return {}
        return {member.name: version for member in members if member.has != version.digest}

    def _newcomers(self) -> dict[str, Version]:
        """Nodes without any version need not wait for the new one where there is a good one."""
        return self._all([member for member in self.members if not member.has], self.stable)

    def _next(self, phase: Phase) -> list[Member]:
        """Nodes whose turn it is: canaries first, then by name. Those that are down wait for all others."""
        digest = self.target.digest
        unavailable = sum(m.has == digest and not m.runs(digest) for m in self.up) + len(self._aftermath())
        waiting = [m for m in self.up if m.has != digest and (m.canary or phase is not Phase.CANARY)]
        waiting.sort(key=lambda member: (not member.canary, member.name))
        return waiting[: max(0, self._at_a_time() - unavailable)]

    def _at_a_time(self) -> int:
        text = self.asked.max_unavailable if self.asked else "100%"
        number = -(-len(self.members) * int(text[:-1]) // 100) if text.endswith("%") else int(text)
        return max(1, number)

    def _aftermath(self) -> list[datetime]:
        """Ends of the time for which nodes that went down while they changed count as unavailable."""
        ends = [
            member.down_since + AFTERMATH
            for member in self.members
            if not member.up
            and member.down_since is not None
            and member.has == self.target.digest
            and not member.runs(self.target.digest)
        ]
        return [end for end in ends if self.now < end]

    # -- record ----------------------------------------------------------------------------------------------

    def due(self, phase: Phase) -> datetime | None:
        """When time alone changes the decision."""
        if phase is Phase.CANARY and self.ready_since is not None:
            return self._others_follow_at()
        if phase is Phase.FAILED and self._may_roll_back() and self.stable:
            return self._patience_ends()
        if phase in (Phase.CANARY, Phase.ROLLING):
            return min(self._aftermath(), default=None)
        return None

    def new_record(self, phase: Phase, message: str, give: Mapping[str, Version]) -> RolloutStatus:
        """The record, with nodes counted as they will be."""
        record, stable = self.record, self.stable
        has = [give[m.name].digest if m.name in give else m.has for m in self.members]
        lasts = self.on_record and record is not None and record.phase == phase
        ready_since = None if phase in (Phase.COMPLETE, Phase.ROLLED_BACK) else self.ready_since
        return RolloutStatus(
            phase=phase.value,
            generation=self.target.generation,
            bundle=self.target.digest,
            updated=has.count(self.target.digest),
            stable_generation=stable.generation if stable else 0,
            stable_bundle=stable.config_map if stable else "",
            on_stable=has.count(stable.digest) if stable else 0,
            ready_since=rfc3339(ready_since) if ready_since else None,
            since=record.since if lasts and record and record.since else rfc3339(self.now),
            message=message[:_MESSAGE_CHARS],
        )


def _proven(key: ResourceKey, members: Sequence[Member], record: RolloutStatus) -> Version | None:
    """The version on record, if it is ready on every node that is up."""
    version = recorded_version(key, record)
    if version is None or record.phase == Phase.ROLLED_BACK:
        return None
    up = [member for member in members if member.up]
    return version if up and all(member.runs(version.digest) for member in up) else None


def _nodes(members: Sequence[Member]) -> str:
    return f"{len(members)} nodes stay" if len(members) > 1 else f"{members[0].name} stays"


def _waiting(members: Sequence[Member]) -> str:
    return f"waiting for {names(members)}" if members else ""
