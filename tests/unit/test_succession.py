"""Which units go on under another name when policies choose other interfaces."""

from __future__ import annotations

from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.loader.succession import successors
from kubebee.planner.plan import Bundle, PolicyUnit, ResourceKey, Toolchain
from kubebee.policy.model import Failsafe


def unit(name: str, *owners: str) -> PolicyUnit:
    return PolicyUnit(
        key=ResourceKey("HostPolicy", name),
        owners=tuple((ResourceKey("HostPolicy", owner), 1) for owner in owners),
        xdp=Bundle(Toolchain.CLANG, "", "hostpolicy.bpf.c", trusted=True),
        interfaces=(Interfaces(primary=True),),
        policies=(),
        failsafe=Failsafe(),
    )


def names(before: list[PolicyUnit], now: list[PolicyUnit], held: tuple[str, ...] = ()) -> dict[str, str]:
    keys = [ResourceKey("HostPolicy", name) for name in held]
    return {old.name: new.name for old, new in successors(before, now, keys).items()}


def test_a_policy_that_moves_takes_its_unit_along() -> None:
    assert names([unit("_old", "a")], [unit("_new", "a")]) == {"_old": "_new"}


def test_those_that_move_together_stay_one_unit() -> None:
    assert names([unit("_old", "a", "b")], [unit("_new", "a", "b")]) == {"_old": "_new"}


def test_the_unit_stays_with_those_that_stay() -> None:
    assert names([unit("_old", "a", "b")], [unit("_old", "b"), unit("_new", "a")]) == {}


def test_one_that_joins_others_finds_their_unit() -> None:
    assert names([unit("_one", "a"), unit("_two", "b")], [unit("_two", "a", "b")]) == {}


def test_of_two_units_from_one_only_one_is_its_successor() -> None:
    assert names([unit("_old", "a", "b")], [unit("_x", "a"), unit("_y", "b")]) == {"_old": "_x"}


def test_other_policies_inherit_nothing() -> None:
    assert names([unit("_old", "a")], [unit("_new", "b")]) == {}


def test_what_is_held_stays_itself() -> None:
    assert names([unit("_old", "a")], [unit("_new", "a")], held=("_old",)) == {}
