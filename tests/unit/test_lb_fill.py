"""How full ServiceLB's tables are: what of it is told, and when it is worth a write."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kubebee.api.v1alpha1.servicelb import ServiceLBStatus
from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.bpf.map import Map
from kubebee.lb.family import IPV4, IPV6
from kubebee.lb.family_state import FamilyState
from kubebee.lb.fill import HIGH_SECONDS, SHOW_SECONDS, Fill, fills, is_news
from kubebee.lb.sync import LbState
from kubebee.loader.lb_fill import LOOK_SECONDS, LbFill
from kubebee.planner.fill import balancer_status

FLOWS = Fill("flows", "IPv4", 100, 1000)
SLOTS = Fill("slots", "IPv4", 20, 100)


def used(count: int) -> tuple[Fill, ...]:
    return (SLOTS, replace(FLOWS, used=count))


# -- one node ------------------------------------------------------------------------------------------------


def test_each_family_has_tables_of_its_own_and_of_two_tables_of_flows_the_fuller_counts() -> None:
    rooms = {IPV4: {"slots": (20, 100)}, IPV6: {"slots": (0, 50)}}
    flows = {"kb_lb_flow": 10, "kb_lb_dsr_flow": 90, "kb_lb_flow6": 1}
    sizes = {"kb_lb_flow": 100, "kb_lb_dsr_flow": 200, "kb_lb_flow6": 100}
    assert fills(rooms, flows, sizes) == (
        Fill("slots", "IPv4", 20, 100),
        Fill("flows", "IPv4", 90, 200),
        Fill("slots", "IPv6", 0, 50),
        Fill("flows", "IPv6", 1, 100),
    )


def test_only_a_full_table_is_full() -> None:
    assert [Fill("flows", "IPv4", count, 1000).percent for count in (0, 9, 999, 1000)] == [0, 0, 99, 100]


def test_a_frontend_counts_by_its_number_or_by_its_entries_whichever_runs_out_first() -> None:
    many = FamilyState(IPV4, 64, 100, 100)
    many._capacity = 128
    assert many.rooms["frontends"] == (0, 64)
    many._frontend_ids.take()
    assert many.rooms["frontends"] == (1, 64)
    assert many.rooms["backends"] == (0, 100)


@pytest.mark.parametrize(
    ("count", "seconds", "news"),
    [
        (199, SHOW_SECONDS, False),
        (200, SHOW_SECONDS, True),
        (0, SHOW_SECONDS, True),
        (800, SHOW_SECONDS - 1, False),
        (900, HIGH_SECONDS, True),
        (900, HIGH_SECONDS - 1, False),
    ],
    ids=["less than a step", "a step", "a step down", "too soon", "high", "high too soon"],
)
def test_a_change_is_news_once_it_is_large_and_the_last_one_is_old(
    count: int, seconds: float, news: bool
) -> None:
    assert is_news(used(100), used(count), seconds) is news


def test_what_goes_up_and_down_about_a_high_mark_is_told_once() -> None:
    assert is_news(used(890), used(900), HIGH_SECONDS)
    assert not is_news(used(900), used(890), SHOW_SECONDS)
    assert not is_news(used(900), used(910), SHOW_SECONDS)


def test_another_size_or_another_family_is_news_at_once() -> None:
    larger = (SLOTS, replace(FLOWS, size=2000))
    assert is_news(used(100), larger, 0)
    assert is_news(used(100), (*used(100), Fill("slots", "IPv6", 0, 10)), 0)


class Node:
    """A node whose tables of flows fill up; an hour goes by in no time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.held = 0
        self.fill = LbFill(lambda: self.now)
        part = SimpleNamespace(rooms={"slots": (20, 100)})
        self._state = cast("LbState", SimpleNamespace(families={IPV4: part}))
        sized = SimpleNamespace(info=SimpleNamespace(max_entries=1000))
        self._maps = {"kb_lb_flow": cast("Map", sized)}

    def look(self, version: object = 1) -> bool:
        return self.fill.look(self._maps, self._state, {"kb_lb_flow": self.held}, cast("Any", version))


@pytest.fixture
def node() -> Node:
    made = Node()
    assert made.look()
    return made


def test_a_day_of_connections_that_come_and_go_by_less_than_a_step_changes_nothing(node: Node) -> None:
    for minute in range(24 * 60):
        node.now += 60
        node.held = minute % 100
        assert not node.look()
    assert node.fill.shown[-1] == Fill("flows", "IPv4", 0, 1000)


def test_under_any_load_at_most_one_change_in_five_minutes_is_shown(node: Node) -> None:
    changes = 0
    for look in range(int(3600 / LOOK_SECONDS)):
        node.now += LOOK_SECONDS
        node.held = 800 * (look % 2)
        changes += node.look()
    assert changes <= 3600 / SHOW_SECONDS


def test_with_an_edit_it_is_told_as_it_is_now(node: Node) -> None:
    node.held = 7
    assert node.look(version=2)
    assert node.fill.shown[-1].used == 7


def test_a_new_balancer_after_none_is_told_of_anew(node: Node) -> None:
    node.fill.rest()
    assert not node.fill.shown
    assert node.look()


# -- all nodes -----------------------------------------------------------------------------------------------


def summary(previous: ServiceLBStatus | None = None, **flows: int) -> ServiceLBStatus:
    reports = [(name, used(count)) for name, count in flows.items()]
    return balancer_status(CommonStatus(observed_generation=3), reports, previous)


def named(status: ServiceLBStatus) -> dict[str, tuple[str, int]]:
    return {table.limit: (table.node, table.used) for table in status.fill}


def test_each_table_is_told_of_where_it_is_fullest() -> None:
    status = summary(n1=100, n2=700, n3=300)
    assert named(status) == {"slots": ("n1", 20), "flows": ("n2", 700)}
    assert status.fullest == "flows 70%"
    assert status.observed_generation == 3


def test_nodes_that_are_about_as_full_take_no_turns() -> None:
    before = summary(n1=100, n2=700, n3=300)
    assert named(summary(before, n1=100, n2=700, n3=740))["flows"] == ("n2", 700)
    assert named(summary(before, n1=100, n2=700, n3=750))["flows"] == ("n3", 750)


def test_a_node_that_is_gone_is_not_named_any_more() -> None:
    before = summary(n1=100, n2=700)
    assert named(summary(before, n1=100))["flows"] == ("n1", 100)


def test_without_a_report_nothing_is_said() -> None:
    status = balancer_status(CommonStatus(), [])
    assert (status.fill, status.fullest) == ((), "")
