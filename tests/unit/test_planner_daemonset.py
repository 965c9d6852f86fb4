"""Where loaders run: the chart's DaemonSet with the node affinity that the resources come to."""

from __future__ import annotations

from typing import Any

import pytest

from kubebee.planner.cluster_planner import plan_cluster
from kubebee.planner.daemonset import MOST_TERMS, Placement, daemonset
from kubebee.planner.plan import ResourceKey
from support.small_cluster import SmallCluster, program, render

OTHER = ResourceKey("BpfProgram", "other")


def manifest(**affinity: Any) -> dict[str, Any]:
    pod: dict[str, Any] = {"nodeSelector": {"kubernetes.io/os": "linux"}, "containers": []}
    if affinity:
        pod["affinity"] = affinity
    return {"kind": "DaemonSet", "spec": {"template": {"spec": pod}}}


def terms(made: dict[str, Any] | None) -> list[dict[str, Any]]:
    assert made is not None
    affinity = made["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    found: list[dict[str, Any]] = affinity["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    return found


def label(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}


def test_where_nothing_is_wanted_there_is_none() -> None:
    assert daemonset(manifest(), Placement()) is None


def test_for_all_nodes_the_manifest_is_as_it_was() -> None:
    assert daemonset(manifest(), Placement(everywhere=True)) == manifest()


def test_each_selector_and_each_leftover_node_is_a_term() -> None:
    placement = Placement(selectors=((("a", "1"), ("b", "2")), (("c", "3"),)), names=("n7",))
    assert terms(daemonset(manifest(), placement)) == [
        {"matchExpressions": [label("a", "1"), label("b", "2")]},
        {"matchExpressions": [label("c", "3")]},
        {"matchFields": [label("metadata.name", "n7")]},
    ]


def test_the_affinity_of_the_chart_goes_on_to_hold() -> None:
    own = [{"matchExpressions": [label("pool", "x")]}, {"matchFields": [label("metadata.name", "n1")]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": own}}
    given = manifest(nodeAffinity=required, podAffinity={"some": "thing"})
    made = daemonset(given, Placement(selectors=((("a", "1"),),), names=("n7",)))
    assert terms(made) == [
        {"matchExpressions": [label("pool", "x"), label("a", "1")]},
        {"matchExpressions": [label("pool", "x")], "matchFields": [label("metadata.name", "n7")]},
        {"matchExpressions": [label("a", "1")], "matchFields": [label("metadata.name", "n1")]},
        {"matchFields": [label("metadata.name", "n1"), label("metadata.name", "n7")]},
    ]
    assert made is not None
    assert made["spec"]["template"]["spec"]["affinity"]["podAffinity"] == {"some": "thing"}
    everywhere = daemonset(given, Placement(everywhere=True))
    assert terms(everywhere) == own


@pytest.mark.parametrize("count", [MOST_TERMS, MOST_TERMS + 1])
def test_with_too_many_terms_it_goes_everywhere(count: int) -> None:
    made = daemonset(manifest(), Placement(names=tuple(f"n{number}" for number in range(count))))
    if count <= MOST_TERMS:
        assert len(terms(made)) == count
    else:
        assert "requiredDuringSchedulingIgnoredDuringExecution" not in str(made)


def test_the_manifest_that_is_given_is_left_alone() -> None:
    given = manifest(nodeAffinity={})
    daemonset(given, Placement(names=("n1",)))
    assert given == manifest(nodeAffinity={})


# -- placement -----------------------------------------------------------------------------------------------


def settled(cluster: SmallCluster, loaders: bool = True) -> Placement:
    for _ in range(10):
        cluster.write(plan_cluster(cluster.state, cluster.now, render))
        if loaders:
            cluster.load_all()
    return plan_cluster(cluster.state, cluster.now, render).loaders


@pytest.fixture
def cluster() -> SmallCluster:
    cluster = SmallCluster()
    cluster.join("n1", {"zone": "a"})
    cluster.join("n2", {"zone": "b"})
    return cluster


def test_loaders_run_where_any_resource_is_wanted(cluster: SmallCluster) -> None:
    assert settled(cluster).nowhere
    cluster.apply(program("v1", nodeSelector={"zone": "a"}))
    assert settled(cluster) == Placement(selectors=((("zone", "a"),),))
    cluster.apply(program("v1", nodeSelector={"zone": "b"}), OTHER)
    assert settled(cluster) == Placement(selectors=((("zone", "a"),), (("zone", "b"),)))
    cluster.apply(program("v1"), OTHER)
    assert settled(cluster) == Placement(everywhere=True)


def test_a_node_keeps_its_loader_until_it_has_cleaned_up(cluster: SmallCluster) -> None:
    cluster.apply(program("v1", nodeSelector={"zone": "a"}))
    settled(cluster)
    cluster.apply(program("v1", nodeSelector={"zone": "b"}))
    placement = settled(cluster, loaders=False)
    assert placement == Placement(selectors=((("zone", "b"),),), names=("n1",))
    assert settled(cluster) == Placement(selectors=((("zone", "b"),),))


def test_a_resource_that_is_deleted_keeps_its_loaders_until_it_is_gone(cluster: SmallCluster) -> None:
    cluster.apply(program("v1", nodeSelector={"zone": "a"}))
    settled(cluster)
    cluster.delete()
    assert settled(cluster, loaders=False) == Placement(selectors=((("zone", "a"),),))
    assert settled(cluster).nowhere
