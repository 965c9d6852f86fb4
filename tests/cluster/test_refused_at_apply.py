"""What the API server itself refuses at `kubectl apply`, in words that name the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from support.cluster_manifests import COUNT, XDP, balancer, counter, policy, resource

ROOT = Path(__file__).parents[2]
LONG = "a" * 300


@pytest.fixture(scope="module", autouse=True)
def crds(cluster: Cluster) -> None:
    """The definitions, as the repository has them."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def program(**spec: Any) -> dict[str, Any]:
    return resource("BpfProgram", "bad", spec)


def rule(**fields: Any) -> dict[str, Any]:
    return policy("bad", {"name": "r", "action": "Deny", **fields})


ONE = [{"name": "f", "attach": XDP}]
BAD = {
    "unknown field": (counter("bad", nope=1), 'unknown field "spec.nope"'),
    "unknown field far down": (
        program(source={"inline": "x"}, programs=[{"name": "f", "attach": {"type": "XDP", "iface": "x"}}]),
        "iface",
    ),
    "name of 300 characters": (counter(LONG), "must be no more than 253"),
    "name with dots in a row": (counter("a..b"), "RFC 1123"),
    "no source": (program(source={}, programs=ONE), "exactly one of"),
    "two sources": (
        program(source={"inline": "x", "object": {"path": "/x"}}, programs=ONE),
        "exactly one of",
    ),
    "source of 10 MB": (counter("bad", code="x" * 10_000_000), ""),
    "source of 600 KiB": (counter("bad", code="/" * 600 * 1024), "524288"),
    "no programs": (program(source={"inline": "x"}, programs=[]), "programs must name at least one"),
    "function that is no identifier": (
        program(source={"inline": "x"}, programs=[{"name": "a-b", "attach": XDP}]),
        "spec.programs[0].name",
    ),
    "unknown attach type": (
        program(source={"inline": "x"}, programs=[{"name": "f", "attach": {"type": "Xpd"}}]),
        "Xpd",
    ),
    "attach type without what it needs": (
        program(source={"inline": "x"}, programs=[{"name": "f", "attach": {"type": "Tracepoint"}}]),
        "spec.programs[0].attach",
    ),
    "no interface chosen": (
        program(
            source={"inline": "x"}, programs=[{"name": "f", "attach": {"type": "XDP", "interfaces": {}}}]
        ),
        "no interface is chosen",
    ),
    "toolchain for an object": (
        program(source={"object": {"path": "/x.o"}}, toolchain="Clang", programs=ONE),
        "toolchain is for source code",
    ),
    "backend that is no address": (balancer("bad", "10.0.0.1", 80, [("web", 80)]), "backends[0].address"),
    "port 0": (balancer("bad", "10.0.0.1", 0, [("10.0.0.2", 80)]), "spec.frontends[0].port"),
    "address with an octet above 255": (balancer("bad", "10.0.0.256", 80, []), "spec.frontends[0].address"),
    "network that is none": (rule(**{"from": [{"cidr": "10.0.0.0/33"}]}), "cidr"),
    "range of ports that is none": (
        rule(protocols=[{"protocol": "TCP", "ports": ["80-"]}]),
        "ports",
    ),
    "ports without a protocol that has any": (
        rule(protocols=[{"protocol": "ICMP", "ports": ["80"]}]),
        "ports",
    ),
    "two rules of one name": (
        policy("bad", {"name": "r", "action": "Deny"}, {"name": "r", "action": "Allow"}),
        "Duplicate value",
    ),
    "action that is none": (policy("bad", {"name": "r", "action": "Drop"}), "Drop"),
    "canary by nothing": (counter("bad", rollout={"canary": {}}), "exactly one of"),
    "more than all unavailable": (counter("bad", rollout={"maxUnavailable": "101%"}), "maxUnavailable"),
}


@pytest.mark.parametrize("case", BAD)
def test_is_refused_with_the_field(cluster: Cluster, case: str) -> None:
    manifest, words = BAD[case]
    done = cluster.kubectl("apply", "--validate=strict", "-f", "-", stdin=json.dumps(manifest), check=False)
    assert done.returncode != 0, done.stdout
    assert words in done.stderr, done.stderr


def test_broken_yaml_is_refused_with_its_line(cluster: Cluster) -> None:
    done = cluster.kubectl("apply", "-f", "-", stdin="apiVersion: v1\nkind: [", check=False)
    assert done.returncode != 0
    assert "line" in done.stderr


def test_every_example_is_taken(cluster: Cluster) -> None:
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        cluster.kubectl("apply", "--dry-run=server", "-f", file)


def test_defaults_are_not_written_into_what_the_user_applied(cluster: Cluster) -> None:
    manifest = counter("plain", code=COUNT)
    words = ("apply", "--dry-run=server", "-o", "json", "-f", "-")
    stored = json.loads(cluster.kubectl(*words, stdin=json.dumps(manifest)).stdout)
    assert stored["spec"] == manifest["spec"]


def test_a_resource_and_its_definition_come_in_one_apply(cluster: Cluster) -> None:
    """As Flux and Argo CD do it: definitions first, established, then what uses them."""
    text = "\n---\n".join(file.read_text() for file in sorted((ROOT / "crds").glob("*.yaml")))
    text += "\n---\n" + json.dumps(counter("together"))
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    cluster.kubectl("delete", "bpfprogram", "together", "--wait=false")
