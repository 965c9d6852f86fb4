"""When the loader may leave a unit alone, and whom it tells of what happens to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from kubebee.loader.loaded import Loaded
from kubebee.loader.state import UnitState
from kubebee.loader.unit import Rank, Unit, resources_of
from kubebee.planner.plan import LbUnit, NodePlan, ResourceKey

UNIT = Unit(ResourceKey("BpfProgram", "a"), 1, Rank.USER, ())


def test_a_unit_whose_pass_broke_off_is_looked_at_again() -> None:
    state = UnitState(UNIT, active=Loaded(UNIT, "0" * 64, ()))
    assert not state.settled, "made, and perhaps not attached"
    state.done = True
    assert state.settled


def test_what_happens_to_a_unit_is_told_of_its_first_resources() -> None:
    names = [(ResourceKey("ServiceLB", f"shop{number}"), 1) for number in range(100)]
    unit = cast("LbUnit", SimpleNamespace(key=LbUnit.key, owners=tuple(names)))
    told = resources_of(NodePlan(lb=unit))
    assert told == {LbUnit.key: tuple(key for key, _ in names[:5])}
