"""Who acts: two candidates, one Lease, a clock that the tests move."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubebee.controller.api import ApiError, NotThere
from kubebee.controller.lease import LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, Lease


class Store:
    """One Lease as an API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away = False

    def get(self, _collection: object, _name: str) -> dict[str, Any]:
        self._reach()
        if self.lease is None:
            raise NotThere("none", status=404)
        return copy.deepcopy(self.lease)

    def create(self, _collection: object, document: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        if self.lease is not None:
            raise ApiError("there", status=409)
        return self._keep(document)

    def replace(self, _collection: object, document: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        assert self.lease is not None
        if document["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError("changed", status=409)
        return self._keep(document)

    def _reach(self) -> None:
        if self.away:
            raise ApiError("away", status=0)

    def _keep(self, document: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        metadata = {**document["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**document, "metadata": metadata}
        return copy.deepcopy(self.lease)


class Clock:
    """Seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(store: Store, clock: Clock, identity: str) -> Lease:
    return Lease(store, "ns", "lease", identity, clock)  # type: ignore[arg-type]


def test_the_first_gets_it_and_the_second_does_not(store: Store, clock: Clock) -> None:
    a, b = candidate(store, clock, "a"), candidate(store, clock, "b")
    assert a.try_once()
    assert not b.try_once()
    assert (a.held, b.held) == (True, False)


def test_who_renews_keeps_it(store: Store, clock: Clock) -> None:
    a, b = candidate(store, clock, "a"), candidate(store, clock, "b")
    for _ in range(60):
        assert a.try_once()
        assert not b.try_once()
        clock.now += RETRY_SECONDS


def test_who_cannot_renew_stops_before_another_one_starts(store: Store, clock: Clock) -> None:
    a, b = candidate(store, clock, "a"), candidate(store, clock, "b")
    a.try_once()
    b.try_once()
    began = clock.now
    while not b.try_once():
        assert a.held == (clock.now < began + RENEW_SECONDS)
        clock.now += 0.5
    assert clock.now == began + LEASE_SECONDS
    assert not a.held


def test_a_lease_is_taken_by_the_own_clock_alone(store: Store, clock: Clock) -> None:
    a, b = candidate(store, clock, "a"), candidate(store, clock, "b")
    a.try_once()
    assert store.lease is not None
    store.lease["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"  # a machine whose clock is wrong
    assert not b.try_once()
    clock.now += LEASE_SECONDS - 1
    assert not b.try_once()


def test_it_is_let_go_of_for_another_one_to_take_at_once(store: Store, clock: Clock) -> None:
    a, b = candidate(store, clock, "a"), candidate(store, clock, "b")
    a.try_once()
    b.try_once()
    a.release()
    assert not a.held
    assert b.try_once()
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 1


def test_of_two_that_are_equally_fast_one_gets_it(store: Store, clock: Clock) -> None:
    a, b = candidate(store, clock, "a"), candidate(store, clock, "b")
    a.try_once()
    a.release()
    free = store.get(None, "")
    assert b.try_once()
    store_get, store.get = store.get, lambda *_: free  # type: ignore[method-assign]
    assert not a.try_once()
    store.get = store_get  # type: ignore[method-assign]
    assert (a.held, b.held) == (False, True)


def test_an_unreachable_server_takes_it_away_in_time(store: Store, clock: Clock) -> None:
    a = candidate(store, clock, "a")
    a.try_once()
    store.away = True
    clock.now += RENEW_SECONDS - 0.1
    with pytest.raises(ApiError):
        a.try_once()
    assert a.held
    clock.now += 0.1
    assert not a.held
    store.away = False
    assert a.try_once()


def test_silence_is_measured_from_the_last_answer(store: Store, clock: Clock) -> None:
    a = candidate(store, clock, "a")
    clock.now += 5
    a.try_once()
    clock.now += 3
    assert a.silent_for == 3
