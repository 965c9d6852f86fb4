"""Which endpoints serve: conditions, traffic policies and hints, as kube-proxy has them."""

from __future__ import annotations

from typing import Any

import pytest

from support.services import NODE_ADDRESSES, VIP, Site, endpoint, endpoint_slice, here, ingress, service

BALANCER = "203.0.113.6"
ENDING = {"ready": False, "serving": True, "terminating": True}
NODE_PORT = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}


def served(*endpoints: dict[str, Any] | str, zone: str = "zone-a") -> list[str] | None:
    """Addresses that serve a plain Service of these endpoints."""
    found = Site(service(), endpoint_slice(*endpoints), zone=zone).served(VIP)
    return found and [one.removesuffix(":8080") for one in found]


def test_an_endpoint_that_says_nothing_is_ready() -> None:
    assert served("10.1.0.1", endpoint("10.1.0.2", conditions={})) == ["10.1.0.1", "10.1.0.2"]


def test_an_endpoint_that_is_not_ready_does_not_serve() -> None:
    assert served("10.1.0.1", endpoint("10.1.0.2", ready=False)) == ["10.1.0.1"]
    assert served(endpoint("10.1.0.2", ready=False, serving=False)) == []


def test_an_endpoint_that_ends_serves_only_when_no_other_is_ready() -> None:
    ending = endpoint("10.1.0.2", **ENDING)
    assert served("10.1.0.1", ending) == ["10.1.0.1"]
    assert served(endpoint("10.1.0.1", ready=False), ending) == ["10.1.0.2"]


def test_an_endpoint_that_ends_and_no_longer_serves_is_left_out_even_when_it_is_the_last() -> None:
    assert served(endpoint("10.1.0.2", ready=False, serving=False, terminating=True)) == []


def test_an_endpoint_published_though_not_ready_is_ready_in_its_slice_and_serves() -> None:
    web = service(publishNotReadyAddresses=True)
    site = Site(web, endpoint_slice(endpoint("10.1.0.1", ready=True, serving=False, terminating=True)))
    assert site.served(VIP) == ["10.1.0.1:8080"]


# -- traffic policies ----------------------------------------------------------------------------------------


def balanced(*endpoints: dict[str, Any] | str, **spec: Any) -> Site:
    return Site(
        service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            status=ingress(BALANCER),
            ports=NODE_PORT["ports"],
            **spec,
        ),
        endpoint_slice(*endpoints),
    )


@pytest.mark.parametrize(("address", "port"), [(BALANCER, 80), (NODE_ADDRESSES[0], 30080)])
def test_external_policy_local_leads_outsiders_to_this_node_and_its_own_sockets_everywhere(
    address: str, port: int
) -> None:
    site = balanced("10.1.0.1", here("10.1.0.2"))
    assert site.served(address, port) == ["10.1.0.2:8080"]
    assert site.inside(address, port) == ["10.1.0.1:8080", "10.1.0.2:8080"]
    assert not site.frontend(address, port).drop_outside


def test_external_policy_local_leaves_the_cluster_ip_alone() -> None:
    site = balanced("10.1.0.1", here("10.1.0.2"))
    assert site.served(VIP) == ["10.1.0.1:8080", "10.1.0.2:8080"]
    assert site.frontend(VIP).inside is None


def test_external_policy_local_drops_outsiders_where_no_endpoint_is_on_this_node() -> None:
    site = balanced("10.1.0.1")
    assert site.served(BALANCER) == []
    assert site.frontend(BALANCER).drop_outside
    assert site.inside(BALANCER) == ["10.1.0.1:8080"]


def test_external_policy_local_refuses_outsiders_where_there_is_no_endpoint_at_all() -> None:
    site = balanced(endpoint("10.1.0.1", ready=False, serving=False))
    assert site.served(BALANCER) == []
    assert not site.frontend(BALANCER).drop_outside


def test_external_policy_local_lets_ending_endpoints_of_this_node_serve_outsiders_when_none_is_ready() -> (
    None
):
    site = balanced("10.1.0.1", here("10.1.0.2", **ENDING))
    assert site.served(BALANCER) == ["10.1.0.2:8080"]
    assert site.inside(BALANCER) == ["10.1.0.1:8080"]


def test_external_policy_local_means_nothing_for_a_service_that_has_no_external_address() -> None:
    site = Site(service(externalTrafficPolicy="Local"), endpoint_slice("10.1.0.1"))
    assert site.served(VIP) == ["10.1.0.1:8080"]


def test_internal_policy_local_leads_the_cluster_ip_to_this_node_only() -> None:
    site = Site(
        service(internalTrafficPolicy="Local", **NODE_PORT), endpoint_slice("10.1.0.1", here("10.1.0.2"))
    )
    assert site.served(VIP) == site.inside(VIP) == ["10.1.0.2:8080"]
    assert site.served(NODE_ADDRESSES[0], 30080) == ["10.1.0.1:8080", "10.1.0.2:8080"]


def test_internal_policy_local_drops_where_no_endpoint_is_on_this_node() -> None:
    site = Site(service(internalTrafficPolicy="Local"), endpoint_slice("10.1.0.1"))
    assert site.served(VIP) == site.inside(VIP) == []
    assert site.frontend(VIP).drop_outside


def test_a_health_check_of_a_local_policy_counts_ready_endpoints_of_this_node_each_once() -> None:
    ports = [
        {"name": "http", "port": 80, "nodePort": 30080},
        {"name": "https", "port": 443, "nodePort": 30443},
    ]
    site = balanced(here("10.1.0.1"), here("10.1.0.2", **ENDING), "10.1.0.3", healthCheckNodePort=31000)
    assert site.table.health_checks() == [("default", "web", 31000, 1)]
    targets = [{"name": "http", "port": 8080}, {"name": "https", "port": 8443}]
    site.put(
        service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            ports=ports,
            healthCheckNodePort=31000,
            status=ingress(BALANCER),
        ),
        endpoint_slice(here("10.1.0.1"), here("10.1.0.2"), ports=targets),
    )
    assert site.table.health_checks() == [("default", "web", 31000, 2)]


def test_a_health_check_with_only_ending_endpoints_counts_none_so_that_balancers_turn_away() -> None:
    site = balanced(here("10.1.0.2", **ENDING), healthCheckNodePort=31000)
    assert site.table.health_checks() == [("default", "web", 31000, 0)]


def test_a_cluster_policy_has_no_health_check() -> None:
    site = Site(service(healthCheckNodePort=31000, **NODE_PORT), endpoint_slice(here("10.1.0.1")))
    assert site.table.health_checks() == []


# -- hints ---------------------------------------------------------------------------------------------------

NEAR = endpoint("10.1.0.1", zones=["zone-a"])
FAR = endpoint("10.1.0.2", zones=["zone-b"])


def test_zone_hints_keep_traffic_in_the_zone() -> None:
    assert served(NEAR, FAR) == ["10.1.0.1"]


def test_an_endpoint_may_be_hinted_for_several_zones() -> None:
    assert served(endpoint("10.1.0.3", zones=["zone-b", "zone-a"]), FAR) == ["10.1.0.3"]


def test_zone_hints_are_ignored_when_one_ready_endpoint_has_none() -> None:
    assert served(NEAR, FAR, "10.1.0.3") == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]


def test_zone_hints_are_ignored_when_none_is_for_this_zone_or_the_node_is_in_none() -> None:
    assert served(FAR) == ["10.1.0.2"]
    assert served(NEAR, FAR, zone="") == ["10.1.0.1", "10.1.0.2"]


def test_an_endpoint_that_is_not_ready_has_no_say_in_hints() -> None:
    assert served(NEAR, FAR, endpoint("10.1.0.3", ready=False)) == ["10.1.0.1"]


def test_endpoints_that_end_serve_whatever_their_hints() -> None:
    assert served(endpoint("10.1.0.2", zones=["zone-b"], **ENDING)) == ["10.1.0.2"]


def test_node_hints_keep_traffic_on_the_node_and_come_before_zones() -> None:
    ours = endpoint("10.1.0.1", nodes=["node-1"], zones=["zone-b"])
    theirs = endpoint("10.1.0.2", nodes=["node-2"], zones=["zone-a"])
    assert served(ours, theirs) == ["10.1.0.1"]


def test_node_hints_for_other_nodes_leave_it_to_the_zones() -> None:
    same_zone = endpoint("10.1.0.1", nodes=["node-3"], zones=["zone-a"])
    other_zone = endpoint("10.1.0.2", nodes=["node-2"], zones=["zone-b"])
    assert served(same_zone, other_zone) == ["10.1.0.1"]


def test_hints_have_no_say_in_local_policies() -> None:
    site = balanced(here("10.1.0.1", zones=["zone-b"]), endpoint("10.1.0.2", zones=["zone-a"]))
    assert site.served(BALANCER) == ["10.1.0.1:8080"]
    assert site.inside(BALANCER) == ["10.1.0.2:8080"]


def test_a_node_that_changes_its_zone_is_served_by_the_new_one() -> None:
    site = Site(service(), endpoint_slice(NEAR, FAR))
    site.table.put_facts(site.table.facts._replace(zone="zone-b"))
    assert site.table.refresh()
    assert site.served(VIP) == ["10.1.0.2:8080"]


# -- slices as they come -------------------------------------------------------------------------------------


def test_several_slices_of_a_service_are_one_set_of_endpoints() -> None:
    one, other = endpoint_slice("10.1.0.1", name="one"), endpoint_slice("10.1.0.2", name="other")
    assert Site(service(), one, other).served(VIP) == ["10.1.0.1:8080", "10.1.0.2:8080"]


def test_an_endpoint_in_two_slices_serves_once_and_the_ready_one_counts() -> None:
    one = endpoint_slice("10.1.0.1", name="one")
    other = endpoint_slice(endpoint("10.1.0.1", ready=False), name="other")
    assert Site(service(), one, other).served(VIP) == ["10.1.0.1:8080"]
    assert Site(service(), other, one).served(VIP) == ["10.1.0.1:8080"]


def test_an_endpoint_twice_in_a_slice_serves_once() -> None:
    assert served("10.1.0.1", "10.1.0.1") == ["10.1.0.1"]


def test_of_several_addresses_of_an_endpoint_the_first_serves() -> None:
    assert served({"addresses": ["10.1.0.1", "10.1.0.9"]}) == ["10.1.0.1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"addressType": "FQDN", "endpoints": [{"addresses": ["web.example"]}]},
        {"addressType": "IPv9"},
        {"ports": None},
        {"ports": [{"name": "http"}]},
        {"ports": [{"name": "http", "port": None}]},
        {"ports": [{"name": "http", "port": 0}]},
        {"ports": [{"name": "http", "port": 70000}]},
        {"ports": [{"name": "http", "port": 80, "protocol": "QUIC"}]},
        {"ports": [{"name": "http", "port": 80, "protocol": "UDP"}]},
        {"ports": [{"name": "other", "port": 80}]},
        {"endpoints": None},
        {"endpoints": [{"addresses": None}]},
        {"endpoints": [{"addresses": []}]},
        {"endpoints": [{"addresses": ["nonsense"]}]},
        {"endpoints": [{"addresses": ["fd00::1"]}]},
        {"addressType": "IPv6", "endpoints": [{"addresses": ["::"]}]},
        {"endpoints": [{"addresses": ["224.0.0.1"]}]},
    ],
)
def test_what_can_not_be_an_endpoint_of_this_port_is_passed_over(fields: dict[str, Any]) -> None:
    good = endpoint_slice("10.1.0.7", name="good")
    assert Site(service(), endpoint_slice("10.1.0.1", **fields), good).served(VIP) == ["10.1.0.7:8080"]


def test_more_endpoints_than_a_table_holds_serve_up_to_that_and_it_is_said() -> None:
    slices = [
        endpoint_slice(
            *(f"10.{block}.{high}.{low}" for high in range(20) for low in range(250)), name=str(block)
        )
        for block in (1, 2)
    ]
    site = Site(service(), *slices)
    assert len(site.served(VIP) or ()) == 4096
    assert "4096 of 10000 endpoints" in site.warnings
