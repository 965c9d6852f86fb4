"""ServiceLBs of one node merged: what is remembered of the last plan changes no result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.api.parse import parse_resource
from kubebee.api.v1alpha1.servicelb import ServiceLB, SessionAffinity
from kubebee.errors import KubebeeError
from kubebee.lb.features import Features
from kubebee.lb.model import parse_address
from kubebee.lb.services.claims import Shape
from kubebee.loader.data import with_own_sources
from kubebee.planner.declared import Declared
from kubebee.planner.frontends import Balanced, mode_of
from kubebee.planner.plan import ResourceKey
from kubebee.planner.servicelb import Merged, Served, unit
from kubebee.render.builtin import Datapaths


class Text:
    """Sources that say what they were asked for."""

    def servicelb(self, features: Features, tc: bool, six: bool) -> str:
        return f"servicelb {features} {tc} {six}"

    def socketlb(self, features: Features) -> str:
        return f"socketlb {features}"


def served(
    name: str,
    wanted: tuple[tuple[int, int], ...],
    mode: str = "SNAT",
    ports: str = "",
    sockets: str = "",
) -> Served:
    """A ServiceLB. `wanted`: last number of the address, and how many backends."""
    spec: dict[str, Any] = {
        "frontends": [
            {
                "name": f"f{number}",
                "address": f"10.96.0.{number}",
                "port": 80,
                "backends": [{"address": f"10.1.0.{each}", "port": 80} for each in range(1, count + 1)],
            }
            for number, count in wanted
        ],
        "forwarding": {"mode": mode},
    }
    if ports:
        spec["snat"] = {"portRange": ports}
    if sockets:
        spec["socketLB"] = {sockets: sockets != "enabled"}
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
            st.sampled_from(["", "", "enabled", "hostNamespaceOnly"]),
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
        for name, (items, mode, ports, sockets) in sorted(plan.items()):
            wanted = (name, repr((items, mode, ports, sockets)))
            if wanted not in known:
                known[wanted] = served(name, tuple(items), mode, ports, sockets)
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


def test_socket_lb_is_for_all_namespaces_or_for_the_hosts_in_all_resources_that_have_it_on() -> None:
    host_only = served("a", ((1, 1),), sockets="hostNamespaceOnly")
    everywhere, without = served("b", ((2, 1),)), served("c", ((3, 1),), sockets="enabled")
    refused: dict[ResourceKey, KubebeeError] = {}
    merged = unit([(host_only, None), (everywhere, None), (without, None)], Text(), refused.__setitem__)
    assert [(key.name, error.reason) for key, error in refused.items()] == [("b", "ConflictingSettings")]
    assert merged.unit is not None
    assert merged.unit.socket is not None
    assert merged.unit.socket.source == f"socketlb {Features(host_only=True)}"


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


def six(*backends: str, address: str = "2001:db8::10", **spec: Any) -> ServiceLB:
    """A ServiceLB with one frontend, IPv6 if nothing else is said."""
    servers = [{"address": each, "port": 8080} for each in backends]
    frontend = {"name": "web", "address": address, "port": 80, "backends": servers}
    document = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "six"},
        "spec": {"frontends": [frontend], **spec},
    }
    resource = parse_resource(document)
    assert isinstance(resource, ServiceLB)
    return resource


def test_an_ipv6_frontend_brings_its_maps_and_code() -> None:
    resource = six("2001:db8:1::1", "2001:db8:1::2", snat={"addresses": ["10.0.0.9", "2001:db8::9"]})
    balanced = Balanced.of(resource)
    ((key, frontend),) = balanced.frontends.items()
    assert str(key) == "[2001:db8::10]:80/TCP"
    assert [str(each) for each in frontend.backends] == ["[2001:db8:1::1]:8080", "[2001:db8:1::2]:8080"]
    assert balanced.config.snat_address == parse_address("10.0.0.9")
    assert balanced.config.snat_address6 == parse_address("2001:db8::9")

    declared = Declared(ResourceKey("ServiceLB", "six"), resource, 1, "2026-01-01T00:00:00Z", balanced)
    planned = unit([(Served(declared, resource.spec, balanced), None)], Text(), {}.__setitem__).unit
    assert planned is not None
    assert [code.suffix for code in planned.packets] == ["", "6"]
    assert "ipv6=True" in planned.packets[0].xdp.source
    assert {"kb_lb_fe", "kb_lb_fe6", "kb_lb_sources6"} <= planned.map_sizes.keys()


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (six("10.0.0.1"), "of another family than its frontend"),
        (six("2001:db8:1::1", address="192.0.2.1"), "of another family than its frontend"),
    ],
    ids=["IPv4 behind IPv6", "IPv6 behind IPv4"],
)
def test_mixed_families_are_refused_by_name(resource: ServiceLB, says: str) -> None:
    with pytest.raises(KubebeeError, match=says):
        Balanced.of(resource)


def test_without_ipv6_there_are_neither_its_maps_nor_its_code() -> None:
    planned = unit([(served("a", ((1, 1),)), None)], Text(), {}.__setitem__).unit
    assert planned is not None
    assert [code.suffix for code in planned.packets] == [""]
    assert "ipv6=False" in planned.packets[0].xdp.source
    assert not any(name.endswith("6") for name in planned.map_sizes)


CLIENT_IP, NO_AFFINITY = {"type": "ClientIP", "timeoutSeconds": 600}, {"type": "None"}


@pytest.mark.parametrize(
    ("of_spec", "of_frontend", "seconds"),
    [
        (None, None, 0),
        (CLIENT_IP, None, 600),
        (CLIENT_IP, NO_AFFINITY, 0),
        (CLIENT_IP, {"type": "ClientIP"}, 10800),
        (None, CLIENT_IP, 600),
        (NO_AFFINITY, None, 0),
    ],
)
def test_affinity_is_that_of_the_frontend_else_that_of_the_spec(
    of_spec: dict[str, Any] | None, of_frontend: dict[str, Any] | None, seconds: int
) -> None:
    frontend: dict[str, Any] = {"name": "web", "address": "10.96.0.1", "port": 80}
    if of_frontend is not None:
        frontend["sessionAffinity"] = of_frontend
    spec: dict[str, Any] = {"frontends": [frontend]}
    if of_spec is not None:
        spec["sessionAffinity"] = of_spec
    made = balanced(spec)
    assert [each.affinity_seconds for each in made.frontends.values()] == [seconds]
    assert made.affinity is bool(seconds)


def test_affinity_that_changes_in_the_spec_changes_frontends_that_are_known() -> None:
    spec: dict[str, Any] = {"frontends": [{"name": "web", "address": "10.96.0.1", "port": 80}]}
    before = load_balancer(spec)
    after = before.model_copy(
        update={"spec": before.spec.model_copy(update={"session_affinity": SessionAffinity(type="ClientIP")})}
    )
    (frontend,) = Balanced.of(after, Balanced.of(before)).frontends.values()
    assert frontend.affinity_seconds == 10800


def ranged(port: str, *backends: dict[str, Any], **more: Any) -> Balanced:
    frontend = {"name": "web", "address": "10.96.0.1", "port": port, "backends": list(backends), **more}
    return balanced({"frontends": [frontend]})


@pytest.mark.parametrize(
    ("backend", "ports"),
    [({"address": "10.1.0.1"}, [8000, 8001]), ({"address": "10.1.0.1", "port": 80}, [80, 80])],
)
def test_each_port_of_a_range_leads_to_the_same_port_of_backends_unless_they_name_one(
    backend: dict[str, Any], ports: list[int]
) -> None:
    made = ranged("8000-8001", backend).frontends.values()
    assert [each.key.port for each in made] == [8000, 8001]
    assert [each.backends[0].port for each in made] == ports
    assert {each.owner for each in made} == {"ServiceLB/it:web"}


def test_of_many_ranges_no_more_than_the_maps_hold_are_taken() -> None:
    frontends = [{"name": f"f{i}", "address": f"10.96.0.{i}", "port": "1-1000"} for i in range(66)]
    with pytest.raises(KubebeeError, match="66000 ports of all frontends together, at most 65536"):
        balanced({"frontends": frontends})


def test_a_range_is_checked_on_a_port_that_is_named() -> None:
    check, one = {"protocol": "TCP"}, {"address": "10.1.0.1"}
    with pytest.raises(KubebeeError, match="none is named") as caught:
        ranged("8000-8001", one, healthCheck=check)
    assert caught.value.where == "spec.frontends[0].healthCheck.port (web)"
    assert len(ranged("8000-8001", one, healthCheck=check | {"port": 9000}).checks) == 2
    assert len(ranged("8000-8001", one | {"port": 80}, healthCheck=check).checks) == 2
    assert len(ranged("8000", one, healthCheck=check).checks) == 1


def test_a_range_that_is_edited_takes_what_did_not_change_from_before() -> None:
    spec: dict[str, Any] = {
        "frontends": [
            {"name": "a", "address": "10.96.0.1", "port": "80-81"},
            {"name": "b", "address": "10.96.0.2", "port": 80},
        ]
    }
    first = load_balancer(spec)
    before = Balanced.of(first)
    kept, edited = first.spec.frontends
    items = (kept, edited.model_copy(update={"port": "80-90"}))
    after = Balanced.of(
        first.model_copy(update={"spec": first.spec.model_copy(update={"frontends": items})}), before
    )
    assert after.items[0] is before.items[0]
    assert [len(made) for made in after.items] == [2, 11]


TO_SERVICE = {
    "name": "web",
    "address": "10.96.0.1",
    "port": "80-81",
    "service": {"name": "web", "port": 8080},
}


def test_frontends_that_refer_to_a_service_come_with_services_and_still_claim_their_places() -> None:
    other = {"name": "other", "address": "10.96.0.2", "port": 80}
    resource = load_balancer({"frontends": [TO_SERVICE, other]})
    prepared = Balanced.of(resource)
    declared = Declared(ResourceKey("ServiceLB", "it"), resource, 1, "2026-01-01T00:00:00Z", prepared)
    refused: dict[ResourceKey, KubebeeError] = {}
    referring, thief = Served(declared, resource.spec, prepared), served("thief", ((1, 1),))
    made = unit([(referring, None), (thief, None)], Text(), refused.__setitem__).unit
    assert made is not None
    assert [str(key) for key in made.frontends] == ["10.96.0.2:80/TCP"]
    assert made.services is not None
    assert [(one.service, one.port, one.frontend.key.port) for one in made.services.references] == [
        (("default", "web"), "8080", 80),
        (("default", "web"), "8080", 81),
    ]
    assert [error.reason for error in refused.values()] == ["DuplicateFrontend"]


def test_a_frontend_has_backends_or_a_service() -> None:
    both = TO_SERVICE | {"backends": [{"address": "10.1.0.1"}]}
    with pytest.raises(KubebeeError, match="backends and service can't both be set"):
        balanced({"frontends": [both]})


def test_of_the_limits_of_a_nodes_resources_the_largest_of_each_counts() -> None:
    found = []
    wanted: list[dict[str, int]] = [{"flows": 4096, "slots": 512}, {"flows": 2048}, {}]
    for number, limits in enumerate(wanted, 1):
        frontends = [{"name": "web", "address": f"10.96.0.{number}", "port": 80}]
        resource = load_balancer({"frontends": frontends, "limits": limits})
        prepared = Balanced.of(resource)
        key = ResourceKey("ServiceLB", f"lb{number}")
        declared = Declared(key, resource, 1, "2026-01-01T00:00:00Z", prepared)
        found.append((Served(declared, resource.spec, prepared), None))
    made = unit(found, Text(), lambda *_: None).unit
    assert made is not None
    assert made.fixed_sizes == {"kb_lb_flow", "kb_lb_rev", "kb_lb_dsr_flow", "kb_lb_slots"}
    assert (made.map_sizes["kb_lb_flow"], made.map_sizes["kb_lb_slots"]) == (4096, 32)
    assert made.map_sizes["kb_lb_be"] >= 16384


SOURCES = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "10.0.0.2"]


@pytest.mark.parametrize(
    ("own", "kept", "kept6", "said"),
    [
        (["10.0.0.1", "10.0.0.2", "2001:db8::1"], ["10.0.0.1", "10.0.0.2"], ["2001:db8::1"], ""),
        (["10.0.0.2", "10.9.9.9"], ["10.0.0.2"], [], "this node has none of 2001:db8::1; its own IPv6"),
        (["2001:db8::1"], [], ["2001:db8::1"], "this node has none of 10.0.0.1, 10.0.0.2; its own IPv4"),
    ],
)
def test_of_snat_addresses_a_node_uses_those_that_it_has(
    own: list[str], kept: list[str], kept6: list[str], said: str
) -> None:
    resource = load_balancer({"snat": {"addresses": SOURCES}})
    prepared = Balanced.of(resource)
    declared = Declared(ResourceKey("ServiceLB", "it"), resource, 1, "2026-01-01T00:00:00Z", prepared)
    made = unit([(Served(declared, resource.spec, prepared), None)], Text(), lambda *_: None).unit
    assert made is not None
    bounded, notes = with_own_sources(made, [parse_address(address) for address in own])
    assert list(bounded.config.snat_sources) == [parse_address(address) for address in kept]
    assert list(bounded.config.snat_sources6) == [parse_address(address) for address in kept6]
    assert said in "".join(notes)
    assert bool(notes) is bool(said)


def load_balancer(spec: dict[str, Any]) -> ServiceLB:
    document = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "it"},
        "spec": spec,
    }
    resource = parse_resource(document)
    assert isinstance(resource, ServiceLB)
    return resource


def balanced(spec: dict[str, Any]) -> Balanced:
    return Balanced.of(load_balancer(spec))


def test_only_a_resource_that_takes_over_from_kube_proxy_brings_code_for_that() -> None:
    plain, taking = six(), six(cutOver={"from": "KubeProxy"})
    for resource, expected in ((plain, False), (taking, True)):
        declared = Declared(ResourceKey("ServiceLB", "six"), resource, 1, "2026-01-01T00:00:00Z")
        made = unit(
            [(Served(declared, resource.spec, Balanced.of(resource)), None)], Datapaths(), {}.__setitem__
        )
        assert made.unit is not None
        sources = [code.source for packets in made.unit.packets for code in (packets.xdp, packets.tc)]
        assert made.unit.socket is not None
        assert {"KB_LB_CUT_OVER" in source for source in (*sources, made.unit.socket.source)} == {expected}


FRONTEND = {"name": "web", "address": "10.96.0.1", "port": 80}


def test_only_a_resource_that_draws_backends_brings_code_for_that() -> None:
    for resource, expected in ((six(), False), (six(algorithm="Random"), True)):
        declared = Declared(ResourceKey("ServiceLB", "six"), resource, 1, "2026-01-01T00:00:00Z")
        served = Served(declared, resource.spec, Balanced.of(resource))
        planned = unit([(served, None)], Datapaths(), {}.__setitem__).unit
        assert planned is not None
        assert [each.random for each in planned.frontends.values()] == [expected]
        sources = [code.source for packets in planned.packets for code in (packets.xdp, packets.tc)]
        assert {"#define KB_LB_RANDOM" in source for source in sources} == {expected}


def test_services_of_a_resource_that_draws_backends_are_drawn_too() -> None:
    resource = load_balancer({"services": {"all": True}, "algorithm": "Random"})
    declared = Declared(ResourceKey("ServiceLB", "it"), resource, 1, "2026-01-01T00:00:00Z")
    served = Served(declared, resource.spec, Balanced.of(resource))
    planned = unit([(served, None)], Text(), {}.__setitem__).unit
    assert planned is not None
    assert planned.services is not None
    assert [each.random for each in planned.services.selections] == [True]
    assert planned.features.random


def test_an_algorithm_that_changes_changes_frontends_that_are_known() -> None:
    before = load_balancer({"frontends": [FRONTEND]})
    after = before.model_copy(update={"spec": before.spec.model_copy(update={"algorithm": "Random"})})
    (frontend,) = Balanced.of(after, Balanced.of(before)).frontends.values()
    assert frontend.random


def test_random_with_dsr_is_refused_by_the_field_that_asks_for_it() -> None:
    with pytest.raises(KubebeeError, match="algorithm Random needs"):
        load_balancer({"algorithm": "Random", "forwarding": {"mode": "DSR"}})
    one = {**FRONTEND, "forwarding": {"mode": "DSR"}}
    with pytest.raises(KubebeeError, match="finds the backend of each packet by its hash") as refused:
        balanced({"algorithm": "Random", "frontends": [one]})
    assert refused.value.where == "spec.frontends[0].forwarding (web)"
    assert "Maglev" in refused.value.hint


@pytest.mark.parametrize("dispatch", ["IPIP", "L2", "IPOption"])
@pytest.mark.parametrize("of", ["frontend", "Service"])
def test_only_who_is_forwarded_by_ip_option_brings_code_for_that(of: str, dispatch: str) -> None:
    """Explicit frontends, or Services that the loader has found."""
    resource = load_balancer(
        {"forwarding": {"mode": "DSR", "dispatch": dispatch}}
        | ({"services": {"all": True}} if of == "Service" else {"frontends": [FRONTEND]})
    )
    balanced = Balanced.of(resource)
    declared = Declared(ResourceKey("ServiceLB", "it"), resource, 1, "2026-01-01T00:00:00Z", balanced)
    found = Shape(dsr=frozenset({mode_of(resource.spec.forwarding)})) if of == "Service" else Shape()
    candidates = [(Served(declared, resource.spec, balanced), None)]
    made = unit(candidates, Datapaths(), {}.__setitem__, services=found).unit
    assert made is not None
    sources = [code.source for packets in made.packets for code in (packets.xdp, packets.tc)]
    assert {"lb_ip_option.h" in source for source in sources} == {dispatch == "IPOption"}


def test_what_many_resources_have_in_common_is_attached_once() -> None:
    found = [(served(f"lb{number}", ((number, 1),)), None) for number in range(1, 101)]
    made = unit(found, Text(), lambda *_: None).unit
    assert made is not None
    assert len(made.owners) == 100
    assert [mode for _, mode in made.interfaces] == ["Auto"]
