"""Where Services are served: every kind of address that kube-proxy serves, and none that it leaves alone."""

from __future__ import annotations

import pytest

from kubebee.lb.model import Forwarding
from kubebee.lb.services.wanted import Selection, ServicesWanted
from support.services import (
    NODE_ADDRESSES,
    VIP,
    VIP6,
    Site,
    dsr,
    endpoint_slice,
    ingress,
    random,
    service,
)

TWO = endpoint_slice("10.1.0.1", "10.1.0.2")
TWO_SERVED = ["10.1.0.1:8080", "10.1.0.2:8080"]


def test_a_cluster_ip_leads_to_the_endpoints_of_the_port_of_its_name() -> None:
    assert Site(service(), TWO).served(VIP) == TWO_SERVED


def test_a_dual_stack_service_leads_each_family_to_endpoints_of_that_family() -> None:
    site = Site(service(clusterIPs=[VIP, VIP6]), TWO, endpoint_slice("fd00::1"))
    assert site.served(VIP) == TWO_SERVED
    assert site.served(VIP6) == ["[fd00::1]:8080"]


def test_a_single_stack_service_is_served_in_its_own_family_only() -> None:
    spec = {"type": "NodePort", "externalIPs": ["2001:db8::1"], "ports": [{"port": 80, "nodePort": 30080}]}
    assert Site(service(**spec)).places == {
        f"{VIP}:80/TCP",
        "172.18.0.11:30080/TCP",
        "127.0.0.1:30080/TCP",
    }


def test_a_service_without_endpoints_is_served_with_no_backend_so_that_clients_are_refused() -> None:
    site = Site(service())
    assert site.served(VIP) == []
    assert not site.frontend(VIP).drop_outside


def test_endpoints_are_found_by_the_name_of_the_port_so_named_target_ports_may_differ_by_slice() -> None:
    web = service(ports=[{"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53}])
    one = endpoint_slice("10.1.0.1", name="one", ports=[{"name": "http", "port": 8080}])
    other = endpoint_slice("10.1.0.2", name="other", ports=[{"name": "http", "port": 9090}])
    dns = endpoint_slice("10.1.0.3", name="dns", ports=[{"name": "dns", "port": 5353}])
    site = Site(web, one, other, dns)
    assert site.served(VIP) == ["10.1.0.1:8080", "10.1.0.2:9090"]
    assert site.served(VIP, 53) == ["10.1.0.3:5353"]


def test_a_port_without_a_name_is_found_too() -> None:
    site = Site(service(ports=[{"port": 80}]), endpoint_slice("10.1.0.1", ports=[{"port": 8080}]))
    assert site.served(VIP) == ["10.1.0.1:8080"]


def test_one_port_serves_tcp_udp_and_sctp_each_by_its_own_endpoints() -> None:
    ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("tcp", "udp", "sctp")]
    targets = [{**port, "port": 5000 + index} for index, port in enumerate(ports)]
    site = Site(service(ports=ports), endpoint_slice("10.1.0.1", ports=targets))
    assert site.served(VIP, 53, "TCP") == ["10.1.0.1:5000"]
    assert site.served(VIP, 53, "UDP") == ["10.1.0.1:5001"]
    assert site.served(VIP, 53, "SCTP") == ["10.1.0.1:5002"]


def test_a_protocol_that_is_removed_is_served_no_more_and_the_other_goes_on() -> None:
    ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("tcp", "udp")]
    site = Site(service(ports=ports), endpoint_slice("10.1.0.1", ports=ports))
    site.put(service(ports=ports[:1]))
    assert site.served(VIP, 53, "TCP") == ["10.1.0.1:53"]
    assert site.served(VIP, 53, "UDP") is None


def test_a_node_port_is_served_on_every_address_of_the_node_and_for_sockets_on_loopback() -> None:
    spec = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
    site = Site(service(clusterIPs=[VIP, VIP6], **spec), TWO)
    assert site.served(NODE_ADDRESSES[0], 30080) == TWO_SERVED
    assert site.served(NODE_ADDRESSES[1], 30080) == []
    assert site.served("127.0.0.1", 30080) == TWO_SERVED
    assert site.frontend("127.0.0.1", 30080).sockets_only
    assert not site.frontend(NODE_ADDRESSES[0], 30080).sockets_only
    assert site.frontend("::1", 30080).sockets_only


def test_node_ports_follow_the_addresses_of_the_node() -> None:
    spec = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
    site = Site(service(**spec), TWO)
    site.table.put_facts(site.table.facts._replace(addresses=(bytes((192, 0, 2, 1)),)))
    assert site.table.refresh()
    assert site.served("192.0.2.1", 30080) == TWO_SERVED
    assert site.served(NODE_ADDRESSES[0], 30080) is None


def test_external_ips_lead_to_the_endpoints() -> None:
    assert Site(service(externalIPs=["203.0.113.5"]), TWO).served("203.0.113.5") == TWO_SERVED


def test_addresses_of_load_balancers_are_served_unless_they_are_proxies() -> None:
    def served(**more: str) -> list[str] | None:
        status = ingress("203.0.113.6", **more)
        return Site(service(type="LoadBalancer", status=status), TWO).served("203.0.113.6")

    assert served() == TWO_SERVED
    assert served(mode="VIP") == TWO_SERVED
    assert served(mode="Proxy") is None


def test_an_ingress_that_is_a_host_name_is_passed_over() -> None:
    status = {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}
    site = Site(service(type="LoadBalancer", status=status), TWO)
    assert site.places == {f"{VIP}:80/TCP"}
    assert not site.warnings


def test_source_ranges_bound_load_balancers_addresses_of_their_family_and_nothing_else() -> None:
    status = ingress("203.0.113.6", "2001:db8::6")
    ranges = ["192.0.2.0/24", "198.51.100.7/32", "2001:db8:1::/48"]
    site = Site(
        service(
            type="LoadBalancer",
            clusterIPs=[VIP, VIP6],
            loadBalancerSourceRanges=ranges,
            externalIPs=["203.0.113.5"],
            status=status,
        )
    )
    assert [str(one) for one in site.frontend("203.0.113.6").source_ranges] == ranges[:2]
    assert [str(one) for one in site.frontend("2001:db8::6").source_ranges] == ranges[2:]
    assert site.frontend("203.0.113.5").source_ranges == ()
    assert site.frontend(VIP).source_ranges == ()


def test_a_source_range_of_everybody_is_no_bound() -> None:
    status = ingress("203.0.113.6")
    ranges = ["192.0.2.0/24", "0.0.0.0/0"]
    site = Site(service(type="LoadBalancer", loadBalancerSourceRanges=ranges, status=status))
    assert site.frontend("203.0.113.6").source_ranges == ()


def test_source_ranges_of_one_family_leave_the_other_open_as_kube_proxy_does_and_that_is_said() -> None:
    status = ingress("203.0.113.6", "2001:db8::6")
    site = Site(
        service(
            clusterIPs=[VIP, VIP6],
            type="LoadBalancer",
            loadBalancerSourceRanges=["192.0.2.0/24"],
            status=status,
        )
    )
    assert site.frontend("2001:db8::6").source_ranges == ()
    assert "no IPv6 range" in site.warnings


def test_source_ranges_that_can_not_be_read_let_nobody_in_rather_than_everybody() -> None:
    status = ingress("203.0.113.6")
    site = Site(service(type="LoadBalancer", loadBalancerSourceRanges=["all"], status=status), TWO)
    assert site.served("203.0.113.6") is None
    assert site.served(VIP) == TWO_SERVED
    assert "'all'" in site.warnings


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"},
        {"clusterIP": "None", "externalIPs": ["203.0.113.5"]},
        {"type": "ExternalName", "externalName": "example.org", "clusterIP": ""},
        {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
        {"labels": {"service.kubernetes.io/service-proxy-name": ""}},
        {"labels": {"service.kubernetes.io/headless": ""}},
    ],
)
def test_what_proxies_leave_alone_is_left_alone(spec: dict[str, object]) -> None:
    site = Site(service(**spec), TWO)
    assert site.places == set()
    assert site.table.counts.services == 0


def test_a_service_that_becomes_an_external_name_is_served_no_more() -> None:
    site = Site(service(), TWO)
    assert site.put(service(type="ExternalName", externalName="example.org", clusterIP=""))
    assert site.places == set()
    assert site.put(service())
    assert site.served(VIP) == TWO_SERVED


def test_a_manifest_without_an_address_says_what_is_missing() -> None:
    site = Site(service(clusterIP=""), TWO)
    assert "no address to serve" in site.warnings


def test_an_affinity_by_client_has_the_seconds_of_the_service_or_three_hours() -> None:
    def seconds(**spec: object) -> int:
        return Site(service(**spec)).frontend(VIP).affinity_seconds

    config = {"clientIP": {"timeoutSeconds": 30}}
    assert seconds() == 0
    assert seconds(sessionAffinity="None", sessionAffinityConfig=config) == 0
    assert seconds(sessionAffinity="ClientIP") == 10800
    assert seconds(sessionAffinity="ClientIP", sessionAffinityConfig=config) == 30


def test_affinity_goes_on_off_and_on_again_each_a_change_of_the_same_frontend() -> None:
    site = Site(service(), TWO)
    seen = []
    for affinity in ("ClientIP", "None", "ClientIP"):
        assert site.put(service(sessionAffinity=affinity))
        seen.append(site.frontend(VIP).affinity_seconds)
    assert seen == [10800, 0, 10800]


def test_the_annotation_chooses_dsr_where_the_ports_are_the_same() -> None:
    web = service(annotations={"kubebee.dev/forwarding": "DSR"})
    same = endpoint_slice("10.1.0.1", ports=[{"name": "http", "port": 80}])
    site = Site(web, same)
    assert site.frontend(VIP).forwarding is Forwarding.DSR_IPIP
    assert site.table.shape.dsr == {Forwarding.DSR_IPIP}
    assert not site.warnings


def test_dsr_that_would_have_to_translate_a_port_is_snat_and_said() -> None:
    site = Site(service(annotations={"kubebee.dev/forwarding": "DSR"}), TWO)
    assert site.frontend(VIP).forwarding is Forwarding.SNAT
    assert "port 80 is served by SNAT: DSR cannot translate port 80 to 8080" in site.warnings


def test_the_annotation_chooses_snat_where_the_servicelb_has_dsr() -> None:
    same = endpoint_slice("10.1.0.1", ports=[{"name": "http", "port": 80}])
    assert Site(service(), same, wanted=dsr()).frontend(VIP).forwarding is Forwarding.DSR_IPIP
    snat = service(annotations={"kubebee.dev/forwarding": "SNAT"})
    assert Site(snat, same, wanted=dsr()).frontend(VIP).forwarding is Forwarding.SNAT


def test_a_service_of_a_servicelb_that_draws_backends_has_them_drawn() -> None:
    assert Site(service(), TWO, wanted=random()).frontend(VIP).random
    assert not Site(service(), TWO).frontend(VIP).random


def test_a_dsr_service_of_a_servicelb_that_draws_backends_goes_by_maglev_and_that_is_said() -> None:
    same = endpoint_slice("10.1.0.1", ports=[{"name": "http", "port": 80}])
    site = Site(service(annotations={"kubebee.dev/forwarding": "DSR"}), same, wanted=random())
    assert (site.frontend(VIP).forwarding, site.frontend(VIP).random) == (Forwarding.DSR_IPIP, False)
    assert "chosen by Maglev" in site.warnings


def by_ip_option(**forwarding: Forwarding) -> ServicesWanted:
    return ServicesWanted((Selection("all", direct=Forwarding.DSR_IP_OPTION, **forwarding),))


def test_by_ip_option_ports_may_differ_and_node_ports_are_served_so_too() -> None:
    spec = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
    site = Site(service(**spec), TWO, wanted=by_ip_option(forwarding=Forwarding.DSR_IP_OPTION))
    for place in ((VIP, 80), (NODE_ADDRESSES[0], 30080)):
        assert site.frontend(*place).forwarding is Forwarding.DSR_IP_OPTION
    assert not site.warnings


def test_a_service_that_asks_for_dsr_gets_the_way_of_a_servicelb_that_has_snat() -> None:
    asks = service("asks", annotations={"kubebee.dev/forwarding": "DSR"})
    other = service("other", clusterIP="10.96.0.99")
    site = Site(asks, other, wanted=by_ip_option())
    assert site.frontend(VIP).forwarding is Forwarding.DSR_IP_OPTION
    assert site.frontend("10.96.0.99").forwarding is Forwarding.SNAT
    assert site.table.shape.dsr == {Forwarding.DSR_IP_OPTION}


def test_two_endpoints_at_one_address_are_served_by_snat_and_that_is_said() -> None:
    slices = [
        endpoint_slice("10.1.0.1", name=f"s{port}", ports=[{"name": "http", "port": port}])
        for port in (81, 82)
    ]
    web = service(annotations={"kubebee.dev/forwarding": "DSR"})
    site = Site(web, *slices, wanted=by_ip_option())
    assert site.frontend(VIP).forwarding is Forwarding.SNAT
    assert "served by SNAT: DSR by IPOption reaches one backend at 10.1.0.1" in site.warnings


def test_node_ports_of_a_dsr_service_are_snat_without_a_word() -> None:
    spec = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
    web = service(annotations={"kubebee.dev/forwarding": "DSR"}, **spec)
    site = Site(web, endpoint_slice("10.1.0.1", ports=[{"name": "http", "port": 80}]))
    assert site.frontend(NODE_ADDRESSES[0], 30080).forwarding is Forwarding.SNAT
    assert not site.warnings


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kubebee.dev/forwarding", "dsr", "'dsr' is neither SNAT nor DSR"),
        ("kubebee.dev/weight", "1", "annotation kubebee.dev/weight is not known"),
    ],
)
def test_an_annotation_of_ours_that_is_not_understood_is_said_and_the_service_served(
    name: str, value: str, said: str
) -> None:
    site = Site(service(annotations={name: value, "example.org/x": "y"}), TWO)
    assert said in site.warnings
    assert "example.org" not in site.warnings
    assert site.served(VIP) == TWO_SERVED
