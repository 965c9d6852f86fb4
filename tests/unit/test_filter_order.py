"""Priorities of tc filters follow the order of our programs, and meet nobody else's."""

from __future__ import annotations

from itertools import permutations

import pytest

from kubebee.loader.filter_order import FIRST, LAST, HookFullError, between, in_order

OTHERS = [((100, "a", "f"), 20_000), ((300, "c", "f"), 20_100)]
EVERY = range(FIRST, LAST + 1)


def test_a_program_goes_between_its_neighbours() -> None:
    assert 20_000 < between((200, "b", "f"), OTHERS, {20_000, 20_100}) < 20_100
    assert between((50, "z", "f"), OTHERS, {20_000, 20_100}) < 20_000
    assert between((900, "a", "f"), OTHERS, {20_000, 20_100}) > 20_100


def test_equal_priorities_go_by_name() -> None:
    assert 20_000 < between((100, "b", "f"), OTHERS, {20_000, 20_100}) < 20_100


def test_priorities_of_others_are_not_used() -> None:
    alone = between((500, "a", "f"), [], set())
    assert between((500, "a", "f"), [], {alone}) != alone
    assert between((200, "b", "f"), OTHERS, set(range(20_000, 20_100)) - {20_007}) == 20_007


def test_without_room_between_neighbours_any_free_one_will_do() -> None:
    tight = [((100, "a", "f"), 20_000), ((300, "c", "f"), 20_001)]
    found = between((200, "b", "f"), tight, {20_000, 20_001})
    assert found in EVERY
    assert found not in {20_000, 20_001}


def test_of_an_order_that_is_right_nothing_changes() -> None:
    assert in_order([20_000, 20_100, 20_200], {20_000, 20_100, 20_200}) == [20_000, 20_100, 20_200]


@pytest.mark.parametrize("current", list(permutations([20_000, 20_001, 20_100, 39_999, 40_000])))
def test_any_order_is_mended_by_priorities_that_are_free(current: tuple[int, ...]) -> None:
    foreign = {20_050, 20_051, 30_000}
    wanted = in_order(current, foreign)
    assert wanted == sorted(set(wanted))
    changed = {new for new, old in zip(wanted, current, strict=True) if new != old}
    assert not changed & (foreign | set(current)), "what moves must find its place free"
    assert set(wanted) <= set(EVERY)


def test_no_more_move_than_must() -> None:
    current = [30_000, 20_000, 20_100, 20_200]
    wanted = in_order(current, set(current))
    assert wanted[1:] == current[1:]
    assert wanted[0] < 20_000


def test_a_hook_without_a_free_priority_says_so() -> None:
    with pytest.raises(HookFullError, match="no priority"):
        between((100, "a", "f"), [], EVERY)
    with pytest.raises(HookFullError, match="no priority"):
        in_order([FIRST + 1, FIRST], EVERY)
