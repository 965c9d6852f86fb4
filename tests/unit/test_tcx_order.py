"""The order of our programs on a tcx hook is reached by the fewest moves."""

from __future__ import annotations

from itertools import permutations

import pytest

from kubebee.bpf.attach import Position
from kubebee.loader.tcx_order import position, to_move

OTHERS = [((100, "a", "f"), 11), ((300, "c", "f"), 13)]


def test_a_program_goes_right_after_the_one_that_runs_before_it() -> None:
    assert position((200, "b", "f"), OTHERS) == Position.after_link(11)
    assert position((900, "z", "f"), OTHERS) == Position.after_link(13)


def test_the_first_program_goes_before_ours_and_not_before_those_of_others() -> None:
    assert position((50, "z", "f"), OTHERS) == Position.before_link(11)


def test_a_program_that_is_alone_takes_the_last_place() -> None:
    assert position((50, "z", "f"), []) == Position()


def test_equal_priorities_go_by_name() -> None:
    assert position((100, "b", "f"), OTHERS) == Position.after_link(11)


@pytest.mark.parametrize("actual", list(permutations(range(1, 6))))
def test_moving_them_in_turn_makes_the_order(actual: tuple[int, ...]) -> None:
    wanted = [1, 2, 3, 4, 5]
    moved = to_move(wanted, actual)
    order = [one for one in actual if one not in moved]
    for one in moved:
        order.insert(next((i for i, other in enumerate(order) if other > one), len(order)), one)
    assert order == wanted


def test_no_more_are_moved_than_must_be() -> None:
    assert to_move([1, 2, 3, 4], [1, 2, 3, 4]) == []
    assert to_move([1, 2, 3, 4], [4, 1, 2, 3]) == [4]
    assert to_move([1, 2, 3, 4], [2, 3, 4, 1]) == [1]
