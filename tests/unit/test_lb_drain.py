"""Since when backends drain, and when that is over."""

from __future__ import annotations

from kubebee.lb.drain import Drains
from kubebee.lb.family import IPV4
from kubebee.lb.family_state import FamilyState
from kubebee.lb.layout import BackendValue, FrontendValue
from kubebee.lb.model import FrontendKey, Protocol, parse_address
from kubebee.lb.served import Served

KEY = FrontendKey(parse_address("192.0.2.10"), 80, Protocol.TCP)
LIMIT = {KEY: 30}


def gone(address: str = "10.0.0.1", frontend: int = 1) -> BackendValue:
    return BackendValue(parse_address(address), 80, 1, frontend, None, 3)


def state(**backends: BackendValue) -> FamilyState:
    """A frontend of id 1 and gone backends, b1 of number 1 and so on."""
    made = FamilyState(IPV4, 16, 16, 16)
    made.served[KEY] = Served(FrontendValue(0, 0, 0, 0, 1, 0, 0, 0))
    made.gone = {int(name[1:]): value for name, value in backends.items()}
    return made


def test_flows_of_a_gone_backend_end_after_the_limit_and_not_before() -> None:
    drains = Drains()
    drains.follow(state(b7=gone()), LIMIT, 100.0)
    drains.follow(state(b7=gone()), LIMIT, 120.0)
    assert drains.over(129.0) == frozenset()
    assert drains.over(130.0) == {7}


def test_without_a_limit_flows_end_by_themselves() -> None:
    drains = Drains()
    drains.follow(state(b7=gone()), {}, 100.0)
    assert drains.over(1e9) == frozenset()


def test_a_limit_that_is_edited_counts_from_when_the_backend_left() -> None:
    drains = Drains()
    drains.follow(state(b7=gone()), {}, 100.0)
    drains.follow(state(b7=gone()), {KEY: 5}, 200.0)
    assert drains.over(200.0) == {7}


def test_a_frontend_that_is_removed_drains_as_it_was_told_to() -> None:
    drains = Drains()
    drains.follow(state(), LIMIT, 50.0)
    without = state(b7=gone())
    without.served.clear()
    drains.follow(without, {}, 100.0)
    drains.follow(without, {}, 101.0)
    assert drains.over(129.0) == frozenset()
    assert drains.over(130.0) == {7}


def test_another_backend_of_the_same_number_drains_anew() -> None:
    drains = Drains()
    drains.follow(state(b7=gone()), LIMIT, 100.0)
    drains.follow(state(b7=gone("10.0.0.2")), LIMIT, 125.0)
    assert drains.over(140.0) == frozenset()
    assert drains.over(155.0) == {7}


def test_a_backend_that_came_back_and_left_again_drains_anew() -> None:
    drains = Drains()
    for now, left in ((100.0, True), (110.0, False), (120.0, True)):
        drains.follow(state(b7=gone()) if left else state(), LIMIT, now)
    assert drains.over(140.0) == frozenset()
