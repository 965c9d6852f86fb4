"""When the loader may leave a unit alone."""

from __future__ import annotations

from kubebee.loader.loaded import Loaded
from kubebee.loader.state import UnitState
from kubebee.loader.unit import Rank, Unit
from kubebee.planner.plan import ResourceKey

UNIT = Unit(ResourceKey("BpfProgram", "a"), 1, Rank.USER, ())


def test_a_unit_whose_pass_broke_off_is_looked_at_again() -> None:
    state = UnitState(UNIT, active=Loaded(UNIT, "0" * 64, ()))
    assert not state.settled, "made, and perhaps not attached"
    state.done = True
    assert state.settled
