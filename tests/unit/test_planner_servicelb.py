"""ServiceLBs of one node merged: what is remembered of the last plan changes no result."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.api.parse import parse_resource
from kubebee.api.v1alpha1.servicelb import ServiceLB
from kubebee.errors import KubebeeError
from kubebee.planner.declared import Declared
from kubebee.planner.frontends import Balanced
from kubebee.planner.plan import ResourceKey
from kubebee.planner.servicelb import Merged, Served, unit


class Text:
    """Sources that say what they were asked for."""

    def servicelb(self, dsr: bool, snat: bool) -> str:
        return f"dsr {dsr}, snat {snat}"

    def socketlb(self) -> str:
        return "socketlb"


def served(name: str, frontends: tuple[tuple[int, int], ...], mode: str = "SNAT", ports: str = "") -> Served:
    """A ServiceLB. `frontends`: last number of the address, and how many backends."""
    spec: dict[str, Any] = {
        "frontends": [
            {
                "name": f"f{number}",
                "address": f"10.96.0.{number}",
                "port": 80,
                "backends": [{"address": f"10.1.0.{each}", "port": 80} for each in range(1, count + 1)],
            }
            for number, count in frontends
        ],
        "forwarding": {"mode": mode},
    }
    if ports:
        spec["snat"] = {"portRange": ports}
    document = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": name},
        "spec": spec,
    }
    resource = parse_resource(document)
    assert isinstance(resource, ServiceLB)
    prepared = Balanced.of(resource)
    declared = Declared(ResourceKey("ServiceLB", name), resource, 1, "2026-01-01T00:00:00Z", prepared)
    return Served(declared, resource.spec, prepared)


plans = st.lists(
    st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(
            st.lists(
                st.tuples(st.integers(1, 5), st.integers(0, 2)), max_size=3, unique_by=lambda one: one[0]
            ),
            st.sampled_from(["SNAT", "SNAT", "DSR"]),
            st.sampled_from(["", "", "", "61000-62000"]),
        ),
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(plans)
def test_a_plan_does_not_depend_on_the_plans_before_it(history: list[dict[str, Any]]) -> None:
    last = Merged()
    known: dict[tuple[str, str], Served] = {}
    for plan in history:
        newest = []
        for name, (frontends, mode, ports) in sorted(plan.items()):
            wanted = (name, repr((frontends, mode, ports)))
            if wanted not in known:
                known[wanted] = served(name, tuple(frontends), mode, ports)
            newest.append(known[wanted])
        candidates = [(each, last.in_force.get(each.declared.key)) for each in newest]
        refused: dict[ResourceKey, KubebeeError] = {}
        refused_anew: dict[ResourceKey, KubebeeError] = {}
        anew = unit(candidates, Text(), refused_anew.__setitem__)
        last = unit(candidates, Text(), refused.__setitem__, last)
        assert (last.unit, last.in_force, last.whole) == (anew.unit, anew.in_force, anew.whole)
        assert list(last.in_force) == list(anew.in_force)
        assert list(last.unit.frontends if last.unit else ()) == list(
            anew.unit.frontends if anew.unit else ()
        )
        assert {str(key): str(error) for key, error in refused.items()} == {
            str(key): str(error) for key, error in refused_anew.items()
        }


def test_the_older_of_two_keeps_a_frontend_when_the_younger_takes_it() -> None:
    older, younger = served("a", ((1, 1),)), served("b", ((2, 1),))
    refused: dict[ResourceKey, KubebeeError] = {}
    first = unit([(older, None), (younger, None)], Text(), refused.__setitem__)
    taking = served("b", ((1, 2),))
    second = unit([(older, older), (taking, younger)], Text(), refused.__setitem__, first)
    assert [error.reason for error in refused.values()] == ["DuplicateFrontend"]
    assert second.in_force[younger.declared.key] is younger
    assert not second.whole
    refused.clear()
    third = unit([(older, older), (taking, younger)], Text(), refused.__setitem__, second)
    assert [error.reason for error in refused.values()] == ["DuplicateFrontend"]
    assert third.in_force[younger.declared.key] is younger
