"""Explicit frontends that refer to a Service: they have its endpoints, and nothing else of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubebee.lb.model import Forwarding, Frontend, FrontendKey, Protocol, parse_address
from kubebee.lb.services.wanted import Reference, Selection, ServicesWanted
from support.services import ALL, VIP, Site, endpoint, endpoint_slice, here, service

PLACE, PLACE6 = "203.0.113.5", "2001:db8::5"
TWO_PORTS = [{"name": "http", "port": 80}, {"name": "admin", "port": 8081}]


def reference(port: str = "", address: str = PLACE, name: str = "web", **fields: Any) -> Reference:
    """A frontend at port 443."""
    key = FrontendKey(parse_address(address), 443, fields.pop("protocol", Protocol.TCP))
    frontend = replace(Frontend(key, (), owner="ServiceLB/shop:front"), **fields)
    return Reference(("default", name), port, frontend)


def site(*documents: dict[str, Any], to: Reference | None = None) -> Site:
    return Site(*documents, wanted=ServicesWanted((), (to or reference(),)))


def test_it_has_the_ready_endpoints_and_the_service_has_no_address_by_it() -> None:
    found = site(service(), endpoint_slice("10.1.0.1", endpoint("10.1.0.2", ready=False)))
    assert found.places == {f"{PLACE}:443/TCP"}
    assert found.served(PLACE, 443) == ["10.1.0.1:8080"]
    assert found.frontend(PLACE, 443).owner == "ServiceLB/shop:front"
    assert (found.table.counts.services, found.warnings) == (0, "")


def test_endpoints_that_come_and_go_are_followed() -> None:
    found = site(service(), endpoint_slice("10.1.0.1"))
    assert found.put(endpoint_slice("10.1.0.1", "10.1.0.2"))
    assert found.served(PLACE, 443) == ["10.1.0.1:8080", "10.1.0.2:8080"]


def test_policies_of_the_service_do_not_count() -> None:
    fields = {"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    found = site(service(**fields), endpoint_slice("10.1.0.1", here("10.1.0.2")))
    assert found.served(PLACE, 443) == ["10.1.0.1:8080", "10.1.0.2:8080"]


@pytest.mark.parametrize("port", ["admin", "8081"])
def test_a_port_is_named_by_name_or_number(port: str) -> None:
    ports = [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}]
    found = site(service(ports=TWO_PORTS), endpoint_slice("10.1.0.1", ports=ports), to=reference(port))
    assert found.served(PLACE, 443) == ["10.1.0.1:9090"]


@pytest.mark.parametrize(
    ("documents", "to", "warning"),
    [
        ([], reference(), "there is no such Service, or it is headless"),
        ([service(clusterIP="None")], reference(), "there is no such Service, or it is headless"),
        ([service()], reference("admin"), "it has no port admin of TCP"),
        ([service()], reference(protocol=Protocol.UDP), "it has no port of UDP"),
        ([service(ports=TWO_PORTS)], reference(), "it has 2 ports of TCP, and none is named"),
    ],
)
def test_what_is_not_there_refuses_clients_and_is_said(
    documents: list[dict[str, Any]], to: Reference, warning: str
) -> None:
    found = site(*documents, to=to)
    assert [list(one.backends) for one in found.table.frontends.values()] == [[]]
    assert found.warnings == f"default/web: ServiceLB/shop:front: {warning}; its clients are refused"


def test_a_service_that_comes_later_is_taken_and_one_that_goes_is_let_go() -> None:
    found = site()
    found.put(service(), endpoint_slice("10.1.0.1"))
    assert (found.served(PLACE, 443), found.warnings) == (["10.1.0.1:8080"], "")
    found.drop(service())
    assert found.served(PLACE, 443) == []


def test_it_has_the_endpoints_of_its_family() -> None:
    six = endpoint_slice("fd00:1::1")
    found = site(service(), endpoint_slice("10.1.0.1"), six, to=reference(address=PLACE6))
    assert found.served(PLACE6, 443) == ["[fd00:1::1]:8080"]


def test_where_dsr_would_have_to_translate_the_port_snat_serves_and_that_is_said() -> None:
    to = reference(forwarding=Forwarding.DSR_IPIP)
    found = site(service(), endpoint_slice("10.1.0.1"), to=to)
    assert found.frontend(PLACE, 443).forwarding is Forwarding.SNAT
    assert "port 443 is served by SNAT" in found.warnings
    same = endpoint_slice("10.1.0.1", ports=[{"name": "http", "port": 443}])
    found = site(service(), same, to=to)
    assert found.frontend(PLACE, 443).forwarding is Forwarding.DSR_IPIP


def test_it_comes_before_what_services_ask_for() -> None:
    thief = service("thief", clusterIP="10.96.0.99", externalIPs=[PLACE], ports=[{"port": 443}])
    wanted = ServicesWanted((Selection("all"),), (reference(),))
    found = Site(service(), endpoint_slice("10.1.0.1"), thief, wanted=wanted)
    assert found.served(PLACE, 443) == ["10.1.0.1:8080"]
    assert found.served(VIP) == ["10.1.0.1:8080"]
    assert found.left_out == [
        f"Service/default/thief:443: {PLACE}:443/TCP is already served for ServiceLB/shop:front"
    ]


def test_nothing_stays_of_a_reference_that_is_gone() -> None:
    found = site(to=reference(name="gone"))
    found.table.want(ALL)
    found.table.refresh()
    assert (found.places, found.table._entries) == (set(), {})
