"""Active checks as pure functions: thresholds, turns, and what they make of frontends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from kubebee.lb.health.agenda import FIRST_RATE, JITTER, Agenda
from kubebee.lb.health.board import HealthBoard
from kubebee.lb.health.check import Check, Probe, Target
from kubebee.lb.health.state import Health
from kubebee.lb.model import Backend, Frontend, FrontendKey, Protocol, parse_address

CHECK = Check(Probe.TCP, interval=5.0, failures=3, successes=2)
VIP = FrontendKey(parse_address("192.0.2.10"), 80, Protocol.TCP)
DNS = VIP._replace(port=53, protocol=Protocol.UDP)
ONE, TWO = (Backend(parse_address(f"10.0.0.{number}"), 8080) for number in (1, 2))
FULL = {ONE[:2]: 1, TWO[:2]: 1}


def after(health: Health, results: str, check: Check = CHECK) -> Health:
    """The state after results: "." passed, "x" failed."""
    for result in results:
        health = health.after("refused" if result == "x" else "", check)
    return health


@pytest.mark.parametrize(
    ("results", "up"),
    [("xx", True), ("xxx", False), ("xx.xx", True), ("xxx.", False), ("xxx..", True), ("xxx.x.", False)],
)
def test_only_so_many_results_in_a_row_change_the_state(results: str, up: bool) -> None:
    assert after(Health(up=True), results).up is up


def test_of_a_server_that_was_never_tried_the_first_result_decides() -> None:
    assert not after(Health.doubted(CHECK, up=True), "x").up
    assert after(Health.doubted(CHECK, up=False), ".").up
    assert after(Health.doubted(CHECK, up=True), ".xx").up


def test_the_reason_is_that_of_the_last_failure() -> None:
    assert after(Health(up=True), "xxx").why == "refused"
    assert after(Health(up=True), "xxx..").why == ""


class Turns:
    """An agenda with numbers instead of chance."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)
        self.agenda = Agenda(self._next)

    def _next(self) -> float:
        self._numbers.append(self._numbers.pop(0))
        return self._numbers[-1]


def target(number: int, check: Check = CHECK) -> Target:
    return Target(number.to_bytes(4, "big"), 80, check)


def taken(agenda: Agenda, now: float) -> list[Target]:
    found = []
    while (one := agenda.take(now)) is not None:
        found.append(one)
    return found


def test_thousands_of_new_targets_are_spread_over_their_interval() -> None:
    count = 4000
    agenda = Turns(*(index / count for index in range(count))).agenda
    agenda.want(map(target, range(count)), 0.0)
    per_tenth = Counter(len(taken(agenda, tenth / 10)) for tenth in range(51))
    assert max(per_tenth) <= count / 5.0 / 10 + 1
    assert not taken(agenda, 100.0), "all are being tried"


def test_a_few_new_targets_are_tried_at_once() -> None:
    agenda = Turns(1.0).agenda
    agenda.want([target(1), target(2)], 0.0)
    assert len(taken(agenda, 2 / FIRST_RATE)) == 2


@pytest.mark.parametrize(
    ("number", "due"), [(0.5, 5.0), (0.0, 5.0 * (1 - JITTER)), (1.0, 5.0 * (1 + JITTER))]
)
def test_a_target_comes_again_an_interval_after_it_began(number: float, due: float) -> None:
    agenda = Turns(number).agenda
    agenda.want([target(1)], 0.0)
    (one,) = taken(agenda, 1.0)
    assert agenda.next_due() is None
    agenda.done(one, 1.0, 1.5)
    assert agenda.next_due() == pytest.approx(1.0 + due)


def test_what_is_no_longer_wanted_does_not_come_again() -> None:
    agenda = Turns(0.0).agenda
    agenda.want([target(1), target(2)], 0.0)
    one = agenda.take(0.0)
    assert one is not None
    agenda.want([], 0.0)
    agenda.done(one, 0.0, 0.0)
    assert (agenda.next_due(), agenda.take(99.0), len(agenda)) == (None, None, 0)


def test_an_edit_of_others_keeps_turns() -> None:
    agenda = Turns(0.5).agenda
    agenda.want([target(1)], 0.0)
    due = agenda.next_due()
    agenda.want([target(1), target(2)], 3.0)
    assert agenda.next_due() == due


class Board:
    """A board with one frontend; `found` is what the maps have of it."""

    def __init__(
        self,
        *backends: Backend,
        key: FrontendKey = VIP,
        found: dict[tuple[bytes, int], int] | None = None,
        starting: bool = False,
    ) -> None:
        self.board = HealthBoard()
        self.key, self.found = key, found
        self.frontend = Frontend(key, backends, owner="ServiceLB/web")
        self.edit(*backends, starting=starting)

    def edit(self, *backends: Backend, check: Check = CHECK, starting: bool = False) -> bool:
        self.frontend = replace(self.frontend, backends=backends)
        wanted = {self.key: self.frontend}
        return self.board.want(wanted, {self.key: check}, lambda _: self.found, starting=starting)

    def results(self, backend: Backend, results: str, check: Check = CHECK) -> None:
        for result in results:
            self.board.result(Target.of(backend, check), "refused" if result == "x" else "")

    @property
    def serving(self) -> tuple[Backend, ...]:
        return self.board.applied({self.key: self.frontend})[self.key].backends


def test_a_tcp_backend_that_fails_takes_no_new_connections_and_keeps_its_number() -> None:
    board = Board(ONE, TWO)
    board.results(ONE, "x")
    assert board.serving == (ONE._replace(weight=0), TWO)


def test_a_udp_backend_that_fails_is_left() -> None:
    board = Board(ONE, TWO, key=DNS)
    board.results(ONE, "x")
    assert board.serving == (TWO,)


@pytest.mark.parametrize("key", [VIP, DNS], ids=["tcp", "udp"])
def test_when_all_fail_all_serve_and_it_is_said(key: FrontendKey) -> None:
    board = Board(ONE, TWO, key=key)
    board.results(ONE, "x")
    board.results(TWO, "x")
    assert board.serving == (ONE, TWO)
    (change,) = board.board.take_changes()
    assert change.all_down
    board.results(ONE, "..")
    assert ONE in board.serving
    assert TWO not in board.serving
    (change,) = board.board.take_changes()
    assert (change.rose, change.all_down) == ((ONE,), False)


def test_a_backend_of_weight_0_does_not_count_as_one_that_is_left() -> None:
    idle = TWO._replace(weight=0)
    board = Board(ONE, idle)
    board.results(ONE, "x")
    assert board.serving == (ONE, idle)


def test_without_a_failure_frontends_are_the_very_same_objects() -> None:
    board = Board(ONE, TWO)
    wanted = {VIP: board.frontend}
    assert board.board.applied(wanted) is wanted


def test_an_edit_keeps_what_is_known_of_the_others_also_under_another_check() -> None:
    board = Board(ONE, TWO)
    board.results(ONE, "x")
    assert board.serving[0].weight == 0
    three = TWO._replace(port=9090)
    board.found = FULL
    board.edit(ONE._replace(weight=7), TWO, three)
    assert [one.weight for one in board.serving] == [0, 1, 0], "what joins is tried first"
    faster = CHECK._replace(interval=1.0)
    board.edit(ONE, TWO, check=faster)
    assert [one.weight for one in board.serving] == [0, 1]
    board.results(ONE, "..", faster)
    assert board.serving == (ONE, TWO)


def test_a_backend_that_joins_serves_after_one_passed_check() -> None:
    board = Board(ONE, found={ONE[:2]: 1})
    board.edit(ONE, TWO)
    board.results(TWO, ".")
    assert board.serving == (ONE, TWO)


@pytest.mark.parametrize("had", [{ONE[:2]: 0, TWO[:2]: 1}, {TWO[:2]: 1}], ids=["weight 0", "left out"])
def test_after_a_restart_backends_start_as_the_maps_have_them(had: dict[tuple[bytes, int], int]) -> None:
    board = Board(ONE, TWO, found=had, starting=True)
    assert board.serving == (ONE._replace(weight=0), TWO)
    board.results(TWO, "xx")
    board.results(ONE, ".")
    assert board.serving == (ONE._replace(weight=0), TWO), "thresholds hold as before"
    board.results(ONE, ".")
    assert board.serving == (ONE, TWO)


def test_backends_that_several_frontends_share_are_tried_once() -> None:
    board = HealthBoard()
    keys = [VIP, VIP._replace(port=81)]
    wanted = {key: Frontend(key, (ONE, TWO._replace(weight=3))) for key in keys}
    board.want(wanted, dict.fromkeys(keys, CHECK._replace(port=7)), lambda _: None, starting=False)
    assert [(one.port, one.check.port) for one in board.targets] == [(7, 0), (7, 0)]


def test_a_change_is_told_once() -> None:
    board = Board(ONE, TWO)
    board.results(ONE, "x")
    assert board.serving
    assert board.serving
    (change,) = board.board.take_changes()
    assert (change.fell, change.all_down) == (((ONE, "refused"),), False)
    assert board.board.take_changes() == []
