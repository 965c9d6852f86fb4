"""Changes of a resource to Events.

An Event's name says what it tells: telling the same again is refused by the API server (409), which is all
that keeps a restarted controller from repeating itself. So make Events before the status that they come from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.errors import KubebeeError
from kubebee.planner.candidate import Candidate
from kubebee.planner.moments import parse_time, rfc3339
from kubebee.planner.nodes import BpfNodeRecord, Happened
from kubebee.planner.plan import ResourceKey
from kubebee.planner.rollout import Phase

MOST_OF_A_KIND = 10
"""Events that nodes may make for one resource, generation and reason: a thousand nodes tell nothing more."""
RECENT = timedelta(minutes=5)
"""Older happenings of nodes are not told: the controller has just started, and may have told them before."""
REMEMBERED = 5000
_MESSAGE_CHARS = 1024
_NAME_CHARS = 200

EventType = Literal["Normal", "Warning"]
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """An Event to make; one that is there already (409) was told before.

    Attributes:
        name: of the Event; equal for what is the same thing to tell.
        key, uid: the resource it is about.
        time: RFC 3339, when it happened.
        node: where it happened, empty for what concerns all.
        by_node: whether the node's loader told it as it happened; else it was read from a status.
    """

    name: str
    key: ResourceKey
    uid: str
    type: EventType
    reason: str
    message: str
    time: str
    node: str = ""
    by_node: bool = False


def rollout_events(candidate: Candidate, status: CommonStatus, now: datetime) -> list[PlannedEvent]:
    """What to tell of a status that is about to replace the one before."""
    before, record = candidate.status, status.rollout
    old = before.rollout if before else None
    found: list[PlannedEvent] = []

    def tell(type_: EventType, *, reason: str, message: str, node: str = "") -> None:
        mark = f"{record.bundle}/{record.generation}" if record else str(candidate.generation)
        found.append(_event(candidate, type_, reason, message, rfc3339(now), node, mark))

    if record is not None:
        generation = f"generation {record.generation}"
        if old is None or old.bundle != record.bundle:
            tell(
                "Normal",
                reason="RolloutStarted",
                message=f"{generation} goes to {status.nodes.desired} nodes",
            )
            old = None
        if old is None or old.phase != record.phase:
            if record.phase == Phase.COMPLETE:
                tell(
                    "Normal",
                    reason="RolloutComplete",
                    message=f"{generation} runs on {status.nodes.summary} nodes",
                )
            elif record.phase == Phase.ROLLED_BACK:
                tell("Warning", reason="RolledBack", message=record.message)
            elif record.phase == Phase.PAUSED:
                tell("Normal", reason="RolloutPaused", message=f"{generation}: {record.message}")
    failed = (
        record is not None and record.phase == Phase.FAILED and (old is None or old.phase != record.phase)
    )
    complete = record is not None and record.phase == Phase.COMPLETE and not (before and before.failures)
    if status.failures and (failed or complete):
        first = status.failures[0]
        tell("Warning", reason=first.reason, message=f"{first.node}: {first.message}", node=first.node)
    return found


def refusal_event(candidate: Candidate, error: KubebeeError, now: datetime) -> list[PlannedEvent]:
    """What to tell of a spec that can't be acted on, once for each reason and generation."""
    before = (
        {condition.type: condition for condition in candidate.status.conditions} if candidate.status else {}
    )
    ready = before.get("Ready")
    told = ready is not None and (ready.reason, ready.observed_generation) == (
        error.reason,
        candidate.generation,
    )
    message, mark = str(error), str(candidate.generation)
    return [] if told else [_event(candidate, "Warning", error.reason, message, rfc3339(now), "", mark)]


class Told:
    """The latest Events: a status that waits to be written is planned more than once.

    A failure of a node is told by its loader and read from its status: only the first of the two is an Event.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._by_node: dict[tuple[str, str, str, str], bool] = {}

    def first(self, event: PlannedEvent) -> bool:
        """Whether this Event was not asked for before, and nobody else tells the same."""
        if event.name in self._names:
            return False
        _remember(self._names, event.name, None)
        content = (event.uid, event.reason, event.message, event.node)
        if content not in self._by_node:
            _remember(self._by_node, content, event.by_node)
        return self._by_node[content] == event.by_node


class NodeNews:
    """Happenings on nodes that were not told yet, and how many were."""

    def __init__(self) -> None:
        self._told: Counter[tuple[ResourceKey, int, str]] = Counter()
        self._waiting: list[tuple[str, Happened]] = []

    def put(self, before: BpfNodeRecord | None, record: BpfNodeRecord) -> None:
        """Take what is new in a BpfNode."""
        if before is not None and before.happenings == record.happenings:
            return
        known = set(before.happenings) if before else set()
        self._waiting += [(record.name, each) for each in record.happenings if each not in known]

    @property
    def waiting(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._waiting)

    def take(self, candidates: dict[ResourceKey, Candidate], now: datetime) -> list[PlannedEvent]:
        """Events of what came in since the last call."""
        events = []
        for node, each in self._waiting:
            candidate = candidates.get(ResourceKey(each.kind, each.name))
            moment = parse_time(each.time)
            if candidate is None or moment is None or now - moment > RECENT:
                continue
            kind = (candidate.key, candidate.generation, each.reason)
            self._told[kind] += 1
            if self._told[kind] <= MOST_OF_A_KIND:
                type_: EventType = "Warning" if each.type == "Warning" else "Normal"
                message = f"{node}: {each.message.removeprefix(f'{node}: ')}"
                event = _event(candidate, type_, each.reason, message, each.time, node, each.time)
                events.append(replace(event, by_node=True))
        self._waiting.clear()
        return events

    def forget(self, key: ResourceKey) -> None:
        """The resource is gone."""
        for kind in [kind for kind in self._told if kind[0] == key]:
            del self._told[kind]


def _event(
    candidate: Candidate, type_: EventType, reason: str, message: str, time: str, node: str, mark: str
) -> PlannedEvent:
    message = message if len(message) <= _MESSAGE_CHARS else f"{message[: _MESSAGE_CHARS - 1]}…"
    name = _name(candidate.key, [candidate.uid, reason, message, node, mark])
    return PlannedEvent(name, candidate.key, candidate.uid, type_, reason, message, time, node)


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    """Add an entry, and forget the oldest one of too many."""
    known[key] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


def _name(key: ResourceKey, parts: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join([str(key), *parts]).encode()).hexdigest()[:16]
    return f"{key.name[:_NAME_CHARS].rstrip('.-')}.{digest}"
