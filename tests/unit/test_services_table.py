"""The table of Services: a change costs what changed, and of two claims on one place the stronger has it."""

from __future__ import annotations

import pytest

from kubebee.lb.model import Frontend, FrontendKey, Protocol, parse_address
from kubebee.lb.services import table as table_module
from kubebee.lb.services.wanted import Requirement, Selection, ServicesWanted
from support.services import (
    ALL,
    OLD,
    VIP,
    YOUNG,
    Site,
    endpoint_slice,
    here,
    host_port,
    ingress,
    pod,
    service,
)

PLACE = "203.0.113.5"


def many(count: int) -> Site:
    services = [service(f"s{i}", clusterIP=f"10.96.{i >> 8}.{i & 255}") for i in range(1, count + 1)]
    slices = [endpoint_slice(f"10.1.{i >> 8}.{i & 255}", of=f"s{i}") for i in range(1, count + 1)]
    return Site(*services, *slices)


def test_a_change_of_one_slice_remakes_one_service(monkeypatch: pytest.MonkeyPatch) -> None:
    site = many(50)
    made: list[str] = []
    make = table_module.make
    monkeypatch.setattr(table_module, "make", lambda name, *rest: made.append(name) or make(name, *rest))
    before = dict(site.table.frontends)
    assert site.put(endpoint_slice("10.9.9.9", of="s7"))
    assert made == ["default/s7"]
    changed = [key for key, frontend in site.table.frontends.items() if before[key] is not frontend]
    assert [str(key) for key in changed] == ["10.96.0.7:80/TCP"]


def test_an_object_that_says_the_same_again_changes_nothing() -> None:
    site = Site(service(), endpoint_slice("10.1.0.1", "10.1.0.2"))
    before = site.frontend(VIP)
    again = endpoint_slice("10.1.0.1", "10.1.0.2")
    again["metadata"]["resourceVersion"] = "7"
    assert not site.put(service(), again)
    assert site.frontend(VIP) is before


def test_endpoints_in_another_order_are_the_same_endpoints() -> None:
    site = Site(service(), endpoint_slice("10.1.0.1", "10.1.0.2"))
    assert not site.put(endpoint_slice("10.1.0.2", "10.1.0.1"))


def test_slices_may_come_before_their_service_and_outlive_it() -> None:
    site = Site(endpoint_slice("10.1.0.1"))
    assert site.places == set()
    site.put(service())
    assert site.served(VIP) == ["10.1.0.1:8080"]
    site.drop(service())
    assert site.places == set()
    site.put(service())
    assert site.served(VIP) == ["10.1.0.1:8080"]


def test_a_slice_that_goes_takes_its_endpoints_along() -> None:
    one, other = endpoint_slice("10.1.0.1", name="one"), endpoint_slice("10.1.0.2", name="other")
    site = Site(service(), one, other)
    assert site.drop(one)
    assert site.served(VIP) == ["10.1.0.2:8080"]


def test_a_slice_that_changes_its_service_leaves_the_old_one() -> None:
    site = Site(service(), service("api", clusterIP="10.96.0.11"), endpoint_slice("10.1.0.1", name="x"))
    site.put(endpoint_slice("10.1.0.1", name="x", of="api"))
    assert site.served(VIP) == []
    assert site.served("10.96.0.11") == ["10.1.0.1:8080"]


def test_services_of_one_name_in_two_namespaces_are_two() -> None:
    other = service(clusterIP="10.96.0.11")
    other["metadata"]["namespace"] = "other"
    site = Site(service(), other, endpoint_slice("10.1.0.1"))
    assert site.served(VIP) == ["10.1.0.1:8080"]
    assert site.served("10.96.0.11") == []


def test_what_a_new_list_does_not_have_is_gone() -> None:
    site = Site(service(), service("api", clusterIP="10.96.0.11"), endpoint_slice("10.1.0.1"))
    site.intake.keep_services({("default", "api")})
    site.intake.keep_slices(set())
    site.table.refresh()
    assert site.places == {"10.96.0.11:80/TCP"}
    site.put(service())
    assert site.served(VIP) == []


def test_nothing_stays_of_a_service_that_is_gone_with_its_slices() -> None:
    site = many(3)
    for i in (1, 2, 3):
        site.drop(service(f"s{i}"))
        site.drop(endpoint_slice("10.1.0.1", of=f"s{i}"))
    assert site.table._entries == {}
    assert site.table.shape == Site().table.shape
    assert site.table.addresses == frozenset()
    assert (site.table.counts.services, site.table.counts.endpoints) == (0, 0)


# -- what is wanted ------------------------------------------------------------------------------------------

GOLD = Requirement("tier", "In", frozenset({"gold", "silver"}))


@pytest.mark.parametrize(
    ("requirement", "labels", "served"),
    [
        (GOLD, {"tier": "gold"}, True),
        (GOLD, {"tier": "lead"}, False),
        (GOLD, {}, False),
        (GOLD._replace(operator="NotIn"), {"tier": "gold"}, False),
        (GOLD._replace(operator="NotIn"), {}, True),
        (Requirement("tier", "Exists"), {"tier": ""}, True),
        (Requirement("tier", "Exists"), {}, False),
        (Requirement("tier", "DoesNotExist"), {"tier": ""}, False),
        (Requirement("tier", "DoesNotExist"), {}, True),
    ],
)
def test_a_selector_chooses_services_by_their_labels(
    requirement: Requirement, labels: dict[str, str], served: bool
) -> None:
    wanted = ServicesWanted((Selection("some", (requirement,)),))
    assert bool(Site(service(labels=labels), wanted=wanted).places) is served


def test_namespaces_bound_which_services_and_host_ports_are_served() -> None:
    wanted = ServicesWanted((Selection("some", host_ports=True, namespaces=frozenset({"shop"})),))
    documents = []
    for i, namespace in enumerate(("shop", "default"), 1):
        for document in (service(clusterIP=f"10.96.0.{i}"), pod("web-0", host_port(8000 + i))):
            document["metadata"]["namespace"] = namespace
            documents.append(document)
    site = Site(*documents, wanted=wanted, addresses=())
    assert site.places == {"10.96.0.1:80/TCP", "127.0.0.1:8001/TCP"}


@pytest.mark.parametrize(
    ("of_service", "classes", "served"),
    [
        (None, None, True),
        ("example.com/vip", None, True),
        ("example.com/vip", {"example.com/vip"}, True),
        ("example.com/other", {"example.com/vip"}, False),
        (None, {"example.com/vip"}, False),
        (None, {"example.com/vip", ""}, True),
        (None, set(), False),
    ],
)
def test_classes_bound_load_balancers_addresses_alone(
    of_service: str | None, classes: set[str] | None, served: bool
) -> None:
    chosen = None if classes is None else frozenset(classes)
    fields = {"type": "LoadBalancer", "status": ingress("192.0.2.7"), "loadBalancerClass": of_service}
    site = Site(service(**fields), wanted=ServicesWanted((Selection("some", classes=chosen),)))
    assert (site.served("192.0.2.7") is not None) is served
    assert site.served(VIP) == []


def test_a_service_is_served_as_the_first_selection_that_takes_it_says() -> None:
    shop = Selection("shop", namespaces=frozenset({"shop"}), classes=frozenset())
    site = Site(service(status=ingress("192.0.2.7")), wanted=ServicesWanted((shop, Selection("rest"))))
    assert site.served("192.0.2.7") == []


def test_without_a_servicelb_that_wants_services_none_is_served() -> None:
    site = Site(service(), endpoint_slice("10.1.0.1"))
    site.table.want(ServicesWanted(()))
    assert site.table.refresh()
    assert site.places == set()
    site.table.want(ALL)
    site.table.refresh()
    assert site.served(VIP) == ["10.1.0.1:8080"]


def test_a_label_that_changes_takes_a_service_in_and_out() -> None:
    site = Site(service(), wanted=ServicesWanted((Selection("some", (GOLD,)),)))
    site.put(service(labels={"tier": "gold"}))
    assert site.served(VIP) == []
    site.put(service(labels={"tier": "lead"}))
    assert site.places == set()


# -- claims --------------------------------------------------------------------------------------------------


def claimed(name: str, last: int, created: str, **spec: object) -> dict[str, object]:
    return service(name, created=created, clusterIP=f"10.96.0.{last}", externalIPs=[PLACE], **spec)


ELDER = claimed("elder", 1, OLD)
YOUNGER = claimed("younger", 2, YOUNG)
ELDERS, YOUNGERS = endpoint_slice("10.1.0.1", of="elder"), endpoint_slice("10.1.0.2", of="younger")


@pytest.mark.parametrize("order", [(ELDER, YOUNGER), (YOUNGER, ELDER)])
def test_of_two_services_with_one_external_ip_the_older_is_served_and_the_other_named(
    order: tuple[dict[str, object], ...],
) -> None:
    site = Site(*order, ELDERS, YOUNGERS)
    assert site.served(PLACE) == ["10.1.0.1:8080"]
    assert site.left_out == [
        f"Service/default/younger:http: {PLACE}:80/TCP is already served for Service/default/elder:http"
    ]
    assert site.served("10.96.0.2") == ["10.1.0.2:8080"]


def test_the_younger_has_the_place_once_the_older_goes() -> None:
    site = Site(ELDER, YOUNGER, ELDERS, YOUNGERS)
    assert site.drop(ELDER)
    assert site.served(PLACE) == ["10.1.0.2:8080"]
    assert site.left_out == []


def test_one_that_was_left_out_and_goes_leaves_the_place_as_it_was() -> None:
    site = Site(ELDER, YOUNGER, ELDERS, YOUNGERS)
    site.drop(YOUNGER)
    assert site.served(PLACE) == ["10.1.0.1:8080"]
    assert site.left_out == []
    assert site.drop(ELDER)
    assert site.served(PLACE) is None


def test_the_older_gets_its_place_back_from_the_younger() -> None:
    site = Site(YOUNGER, YOUNGERS)
    site.put(ELDER, ELDERS)
    assert site.served(PLACE) == ["10.1.0.1:8080"]
    site.put(endpoint_slice("10.1.0.3", of="elder"))
    assert site.served(PLACE) == ["10.1.0.3:8080"]
    site.put(endpoint_slice("10.1.0.4", of="younger"))
    assert site.served(PLACE) == ["10.1.0.3:8080"]


def test_three_claims_are_settled_by_age_whatever_comes_and_goes() -> None:
    last = claimed("last", 3, "2026-03-03T00:00:00Z")
    site = Site(last, YOUNGER, ELDER, ELDERS, YOUNGERS, endpoint_slice("10.1.0.3", of="last"))
    assert len(site.left_out) == 2
    site.drop(ELDER)
    assert site.served(PLACE) == ["10.1.0.2:8080"]
    site.drop(YOUNGER)
    assert site.served(PLACE) == ["10.1.0.3:8080"]


def test_a_cluster_ip_is_never_taken_by_an_older_services_external_ip() -> None:
    thief = service("thief", created=OLD, clusterIP="10.96.0.66", externalIPs=[VIP])
    site = Site(
        thief, service(created=YOUNG), endpoint_slice("10.1.0.66", of="thief"), endpoint_slice("10.1.0.1")
    )
    assert site.served(VIP) == ["10.1.0.1:8080"]
    assert len(site.left_out) == 1


def test_one_service_that_names_an_address_twice_is_no_clash() -> None:
    site = Site(service(externalIPs=[VIP, VIP]), endpoint_slice("10.1.0.1"))
    assert site.places == {f"{VIP}:80/TCP"}
    assert site.left_out == []


def test_explicit_frontends_come_first_and_the_service_is_named() -> None:
    site = Site(ELDER)
    key = FrontendKey(parse_address(PLACE), 80, Protocol.TCP)
    explicit = {key: Frontend(key, (), owner="ServiceLB/shop")}
    assert [str(one) for one in site.table.left_out(explicit)] == [
        f"Service/default/elder:http: {PLACE}:80/TCP is already served for ServiceLB/shop"
    ]


# -- what others ask -----------------------------------------------------------------------------------------


def test_counts_and_needs_are_of_what_is_served() -> None:
    site = Site(
        service(clusterIPs=[VIP, "fd00:96::10"]),
        endpoint_slice("10.1.0.1", "10.1.0.2"),
        endpoint_slice("fd00::1"),
        service("api", clusterIP="10.96.0.11"),
        endpoint_slice("10.1.0.3", of="nobody"),
    )
    counts, shape = site.table.counts, site.table.shape
    assert (counts.services, counts.endpoints, counts.frontends) == (2, 3, 3)
    assert (shape.needs.ipv4.frontends, shape.needs.ipv4.backends) == (2, 2)
    assert (shape.needs.ipv6.frontends, shape.needs.ipv6.backends) == (1, 1)
    assert (shape.dsr, shape.affinity) == (frozenset(), False)


def test_addresses_are_those_that_packets_from_outside_may_be_for() -> None:
    spec = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
    site = Site(service(**spec), endpoint_slice(here("10.1.0.1")), addresses=("172.18.0.11",))
    assert site.table.addresses == {parse_address(VIP), parse_address("172.18.0.11")}
