"""Any Services and EndpointSlices, in any order: what comes out can be served, and depends on no history."""

from __future__ import annotations

import contextlib
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.lb.model import check, merge
from kubebee.lb.services.objects import ServiceObjectError, service_from, slice_from
from support.services import Site

ADDRESSES = st.sampled_from(
    [
        "10.96.0.1",
        "10.96.0.2",
        "203.0.113.5",
        "172.18.0.11",
        "fd00::1",
        "fd00::2",
        "2001:db8::5",
        "127.0.0.1",
        "None",
        "",
        "::",
        "224.0.0.1",
        "ff02::1",
        "10.1",
        "10.0.0.256",
        "web.example",
    ]
)
NUMBERS = st.sampled_from([0, 1, 53, 80, 8080, 30080, 65535, 65536, -1, 2**40])
PORT_NAMES = st.sampled_from(["http", "dns", "", None])
PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP", "QUIC", "", None])
YES_NO = st.sampled_from([True, False, None])
NAMES = st.sampled_from(["a", "b", "c"])
POLICIES = st.sampled_from(["Local", "Cluster", "", "Nearest", None])
RANGES = st.sampled_from(
    ["192.0.2.0/24", "192.0.2.1/24", "::/0", "0.0.0.0/0", "fd00::/8", "all", "", "1.2.3.4"]
)


def lists(of: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(of, max_size=most)


SERVICE_PORTS = st.fixed_dictionaries(
    {"port": NUMBERS}, optional={"name": PORT_NAMES, "protocol": PROTOCOLS, "nodePort": NUMBERS | st.none()}
)
SERVICES = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("Service"),
        "metadata": st.fixed_dictionaries(
            {"name": NAMES, "namespace": st.just("default")},
            optional={
                "creationTimestamp": st.sampled_from(["2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z", None]),
                "annotations": st.none()
                | st.dictionaries(
                    st.sampled_from(["kubebee.dev/forwarding", "kubebee.dev/x", "other"]),
                    st.sampled_from(["DSR", "SNAT", "dsr", ""]),
                ),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "X", None]),
                "clusterIP": ADDRESSES | st.none(),
                "clusterIPs": lists(ADDRESSES, 2),
                "externalIPs": lists(ADDRESSES),
                "ports": lists(SERVICE_PORTS),
                "sessionAffinity": st.sampled_from(["ClientIP", "None", "Cookie", None]),
                "sessionAffinityConfig": st.sampled_from(
                    [
                        None,
                        {},
                        {"clientIP": None},
                        *({"clientIP": {"timeoutSeconds": n}} for n in (0, 9, 2**40)),
                    ]
                ),
                "externalTrafficPolicy": POLICIES,
                "internalTrafficPolicy": POLICIES,
                "loadBalancerSourceRanges": lists(RANGES),
                "healthCheckNodePort": NUMBERS | st.none(),
            },
        ),
        "status": st.sampled_from([None, {}, {"loadBalancer": None}])
        | st.fixed_dictionaries(
            {
                "loadBalancer": st.fixed_dictionaries(
                    {"ingress": lists(st.fixed_dictionaries({"ip": ADDRESSES | st.none()}))}
                )
            }
        ),
    }
)
HINTS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "forZones": lists(st.fixed_dictionaries({"name": st.sampled_from(["zone-a", "zone-b", ""])})),
        "forNodes": lists(st.fixed_dictionaries({"name": st.sampled_from(["node-1", "node-2", ""])})),
    },
)
ENDPOINTS = st.fixed_dictionaries(
    {"addresses": lists(ADDRESSES, 2)},
    optional={
        "conditions": st.none()
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("ready", "serving", "terminating"), YES_NO)),
        "nodeName": st.sampled_from(["node-1", "node-2", "", None]),
        "hints": HINTS,
    },
)
SLICES = st.fixed_dictionaries(
    {
        "apiVersion": st.just("discovery.k8s.io/v1"),
        "kind": st.just("EndpointSlice"),
        "metadata": st.builds(
            lambda name, of: {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": of},
            },
            st.sampled_from(["x", "y"]),
            NAMES,
        ),
        "addressType": st.sampled_from(["IPv4", "IPv6", "FQDN", "", None]),
        "endpoints": lists(ENDPOINTS, 5),
        "ports": lists(
            st.fixed_dictionaries(
                {}, optional={"name": PORT_NAMES, "protocol": PROTOCOLS, "port": NUMBERS | st.none()}
            )
        ),
    }
)
STEPS = st.lists(st.tuples(st.booleans(), SERVICES | SLICES), max_size=12)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_what_comes_out_can_be_served_and_depends_on_no_history(
    steps: list[tuple[bool, dict[str, Any]]], shuffled: random.Random
) -> None:
    site = Site()
    there: dict[tuple[str, str], dict[str, Any]] = {}
    for stays, document in steps:
        site.put(document)
        there[document["kind"], document["metadata"]["name"]] = document
        if not stays:
            site.drop(document)
            del there[document["kind"], document["metadata"]["name"]]
    for frontend in site.table.frontends.values():
        check(frontend)
    assert merge(site.table.frontends.values()) == site.table.frontends

    documents = list(there.values())
    shuffled.shuffle(documents)
    fresh = Site(*documents)
    assert fresh.table.frontends == site.table.frontends
    assert fresh.table.shape == site.table.shape
    assert fresh.table.counts == site.table.counts
    assert fresh.table.addresses == site.table.addresses
    assert fresh.table.warnings() == site.table.warnings()
    assert sorted(fresh.left_out) == sorted(site.left_out)
    assert fresh.table.health_checks() == site.table.health_checks()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "name", "ports", "endpoints", "addresses", "labels", "port"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_a_document_of_any_shape_is_taken_or_refused_with_words(a: Any, b: Any, c: Any) -> None:
    body = {"metadata": a, "spec": b, "status": b, "endpoints": b, "ports": c}
    for version, read in (("v1", service_from), ("discovery.k8s.io/v1", slice_from)):
        with contextlib.suppress(ServiceObjectError):
            assert read({"apiVersion": version, **body}, "here").metadata.name
