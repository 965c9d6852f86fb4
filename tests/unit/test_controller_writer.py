"""The writer when the API server refuses; a stand-in answers, as a real one can't be made to on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kubebee.controller.api import ApiError
from kubebee.controller.inbox import Inbox
from kubebee.controller.writer import EVENTS_KEPT, STATUS_SECONDS, NotHeldError, Writer
from kubebee.planner.cluster import ClusterPlan
from kubebee.planner.events import PlannedEvent
from kubebee.planner.plan import ResourceKey

KEY = ResourceKey("BpfProgram", "p")
RESOURCES = {KEY: {"metadata": {"name": "p", "uid": "u", "resourceVersion": "1"}}}
STATUS = ClusterPlan(statuses={KEY: {"observedGeneration": 1}})


@dataclass
class Server:
    """Answers requests as it is told to."""

    refusals: list[ApiError] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    versions: Iterator[int] = field(default_factory=lambda: iter(range(2, 10_000)))

    def apply(self, collection: Any, document: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        return self._answer("apply", collection, document["metadata"]["name"], subresource)

    def create(self, collection: Any, document: dict[str, Any]) -> dict[str, Any]:
        return self._answer("create", collection, document["metadata"]["name"])

    def delete(self, collection: Any, name: str) -> None:
        self._answer("delete", collection, name)

    def _answer(self, verb: str, collection: Any, name: str, subresource: str = "") -> dict[str, Any]:
        self.asked.append(" ".join(part for part in (verb, collection.kind, name, subresource) if part))
        if self.refusals:
            raise self.refusals.pop(0)
        metadata = {"name": name, "resourceVersion": str(next(self.versions)), "generation": 1, "uid": "u"}
        return {"metadata": metadata, "apiVersion": collection.api_version, "kind": collection.kind}


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def make(server: Server, clock: Clock, inbox: Inbox) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def writer(may_write: Callable[[], bool] = lambda: True) -> Writer:
        made.append(Writer(server, inbox, "ns", may_write, clock=clock))  # type: ignore[arg-type]
        return made[-1]

    yield writer
    for each in made:
        each.close()


def refusal(status: int, retry_after: float = 0.0) -> ApiError:
    return ApiError("no", status=status, retry_after=retry_after)


def test_the_answer_to_a_write_is_news(make: Callable[..., Writer], inbox: Inbox) -> None:
    assert make().write(STATUS, RESOURCES, None) is None
    (news,) = inbox.take()
    assert (news.key.kind, news.key.name, news.version) == ("BpfProgram", "p", 2)


def test_a_status_is_written_at_most_once_a_second(
    make: Callable[..., Writer], server: Server, clock: Clock
) -> None:
    writer = make()
    writer.write(STATUS, RESOURCES, None)
    clock.now += 0.25
    assert writer.write(STATUS, RESOURCES, None) == pytest.approx(STATUS_SECONDS - 0.25)
    assert len(server.asked) == 1
    clock.now += 0.75
    writer.write(STATUS, RESOURCES, None)
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_an_overloaded_server_is_left_alone_with_all_writes(
    status: int, make: Callable[..., Writer], server: Server, clock: Clock
) -> None:
    writer = make()
    server.refusals = [refusal(status, retry_after=7)]
    plan = ClusterPlan(statuses={KEY: {}}, gone=("n1",), unused=("b",))
    wait = writer.write(plan, RESOURCES, None)
    assert wait == pytest.approx(7)
    assert server.asked == ["apply BpfProgram p status"]
    clock.now += 6.5
    assert writer.write(plan, RESOURCES, None) == pytest.approx(0.5)
    assert len(server.asked) == 1
    clock.now += 0.5
    assert writer.write(plan, RESOURCES, None) is None
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [403, 409, 422])
def test_one_refused_write_keeps_no_other_from_being_made_and_is_tried_again(
    status: int, make: Callable[..., Writer], server: Server, clock: Clock
) -> None:
    writer = make()
    server.refusals = [refusal(status)]
    plan = ClusterPlan(statuses={KEY: {}}, gone=("n1",))
    wait = writer.write(plan, RESOURCES, None)
    assert wait is not None
    assert 0 < wait <= 1
    assert server.asked == ["apply BpfProgram p status", "delete BpfNode n1"]
    writer.write(STATUS, RESOURCES, None)
    assert len(server.asked) == 2
    clock.now += STATUS_SECONDS
    writer.write(STATUS, RESOURCES, None)
    assert len(server.asked) == 3


def test_each_further_refusal_is_waited_for_longer(
    make: Callable[..., Writer], server: Server, clock: Clock
) -> None:
    writer, waits = make(), []
    server.refusals = [refusal(403)] * 8
    plan = ClusterPlan(gone=("n1",))
    for _ in range(8):
        wait = writer.write(plan, RESOURCES, None)
        assert wait is not None
        waits.append(wait)
        clock.now += wait
    assert waits[0] <= 0.5
    assert 5 <= waits[-1] <= 10
    assert writer.write(plan, RESOURCES, None) is None


def test_nothing_is_written_once_the_lease_is_lost(make: Callable[..., Writer], server: Server) -> None:
    allowed = iter([True, False])
    writer = make(lambda: next(allowed, False))
    with pytest.raises(NotHeldError):
        writer.write(ClusterPlan(gone=("a", "b", "c")), RESOURCES, None)
    assert len(server.asked) == 1


def event(name: str) -> PlannedEvent:
    return PlannedEvent(name, KEY, "u", "Normal", "Loaded", "message", "2026-01-01T00:00:00Z")


def test_an_event_that_could_not_be_made_is_made_later(
    make: Callable[..., Writer], server: Server, clock: Clock
) -> None:
    writer = make()
    server.refusals = [refusal(503)]
    wait = writer.write(ClusterPlan(events=(event("e"),)), RESOURCES, None)
    assert wait is not None
    clock.now += wait
    assert writer.write(ClusterPlan(), RESOURCES, None) is None
    assert server.asked == ["create Event e"] * 2
    writer.write(ClusterPlan(), RESOURCES, None)
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [409, 403, 422])
def test_an_event_that_is_there_or_refused_is_not_made_again(
    status: int, make: Callable[..., Writer], server: Server
) -> None:
    writer = make()
    server.refusals = [refusal(status)]
    assert writer.write(ClusterPlan(events=(event("e"),)), RESOURCES, None) is None
    writer.write(ClusterPlan(), RESOURCES, None)
    assert len(server.asked) == 1


def test_events_that_wait_for_the_server_are_bounded(make: Callable[..., Writer], server: Server) -> None:
    writer = make()
    server.refusals = [refusal(0, retry_after=60)]
    events = tuple(event(str(number)) for number in range(EVENTS_KEPT + 10))
    writer.write(ClusterPlan(events=events), RESOURCES, None)
    assert len(writer.waiting_events) == EVENTS_KEPT


def test_a_status_of_a_resource_that_is_gone_is_not_written(
    make: Callable[..., Writer], server: Server
) -> None:
    assert make().write(STATUS, {}, None) is None
    assert server.asked == []
