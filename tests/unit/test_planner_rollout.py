"""How a new version reaches the nodes of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from kubebee.planner.cluster_planner import plan_cluster
from support.small_cluster import KEY, SmallCluster, broken, program, render

CANARY = {"nodes": ["n1"], "minReadySeconds": 30}


def settle(cluster: SmallCluster, loaders: bool = True) -> None:
    """Plan and write until nothing is left to write; every plan by a controller that has just started."""
    for _ in range(60):
        plan = plan_cluster(cluster.state, cluster.now, render)
        cluster.write(plan)
        before = repr(cluster.bpf_nodes)
        if loaders:
            cluster.load_all()
        if plan_cluster(cluster.state, cluster.now, render).empty and before == repr(cluster.bpf_nodes):
            return
    raise AssertionError("it never comes to rest")


def given(cluster: SmallCluster) -> dict[str, str]:
    return {name: cluster.has(name) for name in cluster.nodes}


def cluster_of(count: int) -> SmallCluster:
    cluster = SmallCluster()
    for number in range(1, count + 1):
        cluster.join(f"n{number}", {"disk": "ssd" if number % 2 else "hdd"})
    return cluster


def with_stable(count: int, **rollout: Any) -> tuple[SmallCluster, str]:
    """A cluster that runs version v1, and its digest."""
    cluster = cluster_of(count)
    cluster.apply(program("v1", rollout=rollout))
    settle(cluster)
    cluster.pass_time(60)
    settle(cluster)
    assert cluster.phase() == "Complete"
    return cluster, cluster.has("n1")


def updated(cluster: SmallCluster, old: str) -> list[str]:
    return [name for name, digest in given(cluster).items() if digest != old]


def test_without_a_rollout_all_nodes_get_it_at_once() -> None:
    cluster = cluster_of(3)
    cluster.apply(program("v1"))
    settle(cluster)
    assert len(set(given(cluster).values()) - {""}) == 1
    assert cluster.condition("Ready")["status"] == "True"
    assert cluster.status()["nodes"] == {"desired": 3, "ready": 3, "summary": "3/3"}
    assert cluster.phase() == "Complete"


def test_a_bundle_and_the_finalizer_and_the_record_come_before_the_first_node() -> None:
    cluster = cluster_of(1)
    cluster.apply(program("v1"))
    first = plan_cluster(cluster.state, cluster.now, render)
    assert [bundle.key for bundle in first.bundles] == [KEY]
    assert first.finalizers == {KEY: True}
    assert first.statuses[KEY]["rollout"]["phase"] == "Rolling"
    assert not first.bpf_nodes
    for missing in ("bundle", "finalizer", "status"):
        partly = cluster_of(1)
        partly.apply(program("v1"))
        for write in partly.writes(first):
            if write[0] != missing:
                partly.make(first, write)
        assert not plan_cluster(partly.state, partly.now, render).bpf_nodes, missing
    cluster.write(first)
    assert list(plan_cluster(cluster.state, cluster.now, render).bpf_nodes) == ["n1"]


def test_max_unavailable_nodes_are_at_work_at_one_time() -> None:
    cluster, old = with_stable(5, maxUnavailable=2)
    cluster.apply(program("v2", rollout={"maxUnavailable": 2}))
    settle(cluster, loaders=False)
    assert updated(cluster, old) == ["n1", "n2"]
    cluster.load("n1")
    settle(cluster, loaders=False)
    assert updated(cluster, old) == ["n1", "n2", "n3"]
    settle(cluster)
    assert len(updated(cluster, old)) == 5
    assert cluster.condition("Ready")["status"] == "True"


@pytest.mark.parametrize(("share", "at_once"), [("1%", 1), ("0%", 1), ("21%", 2), ("100%", 5), ("0", 1)])
def test_a_percentage_is_rounded_up_and_is_at_least_one(share: str, at_once: int) -> None:
    cluster, old = with_stable(5, maxUnavailable=share)
    cluster.apply(program("v2", rollout={"maxUnavailable": share}))
    settle(cluster, loaders=False)
    assert len(updated(cluster, old)) == at_once


def test_canaries_go_first_and_must_be_ready_for_a_while() -> None:
    cluster, old = with_stable(3, canary=CANARY)
    cluster.apply(program("v2", rollout={"canary": CANARY}))
    settle(cluster)
    assert updated(cluster, old) == ["n1"]
    assert cluster.phase() == "Canary"
    plan = plan_cluster(cluster.state, cluster.now, render)
    assert plan.next_at is not None
    assert (plan.next_at - cluster.now).total_seconds() == 30
    cluster.pass_time(29)
    settle(cluster)
    assert updated(cluster, old) == ["n1"]
    cluster.pass_time(1)
    settle(cluster)
    assert len(updated(cluster, old)) == 3
    assert cluster.phase() == "Complete"


def test_a_canary_that_is_not_ready_for_a_moment_starts_the_wait_anew() -> None:
    cluster, old = with_stable(3, canary=CANARY)
    cluster.apply(program("v2", rollout={"canary": CANARY}))
    settle(cluster)
    cluster.pass_time(20)
    cluster.bpf_nodes["n1"]["status"]["resources"][0]["stage"] = "Attach"
    settle(cluster, loaders=False)
    assert "readySince" not in cluster.status()["rollout"]
    settle(cluster)
    cluster.pass_time(29)
    settle(cluster)
    assert updated(cluster, old) == ["n1"]
    cluster.pass_time(1)
    settle(cluster)
    assert len(updated(cluster, old)) == 3


def test_canaries_can_be_chosen_by_labels() -> None:
    selector = {"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}
    rollout = {"canary": {"selector": selector, "minReadySeconds": 30}}
    cluster, old = with_stable(3, **rollout)
    cluster.apply(program("v2", rollout=rollout))
    settle(cluster)
    assert updated(cluster, old) == ["n2"]


def test_without_a_canary_that_is_up_the_others_wait_and_the_status_says_so() -> None:
    cluster, old = with_stable(3, canary=CANARY)
    cluster.set_ready("n1", False)
    cluster.apply(program("v2", rollout={"canary": CANARY}))
    settle(cluster)
    cluster.pass_time(3600)
    settle(cluster)
    assert updated(cluster, old) == []
    assert "spec.rollout.canary" in cluster.condition("Ready")["message"]


def test_a_failure_stops_the_rollout_and_names_node_and_line() -> None:
    cluster, old = with_stable(4, maxUnavailable=1)
    cluster.apply(program(broken("v2", "n2"), rollout={"maxUnavailable": 1}))
    settle(cluster)
    cluster.pass_time(3600)
    settle(cluster)
    assert updated(cluster, old) == ["n1", "n2"]
    assert cluster.phase() == "Failed"
    ready = cluster.condition("Ready")
    assert ready["reason"] == "CompileFailed"
    assert "n2: probe.c:3:1" in ready["message"]
    assert cluster.condition("Stalled")["status"] == "True"
    assert cluster.status()["failures"][0]["node"] == "n2"
    assert cluster.status()["nodes"] == {
        "desired": 4,
        "ready": 1,
        "failed": 1,
        "pending": 2,
        "summary": "1/4",
    }
    rollout = cluster.status()["rollout"]
    assert (rollout["generation"], rollout["updated"]) == (2, 2)
    assert (rollout["stableGeneration"], rollout["onStable"]) == (1, 2)


def test_a_failure_that_passes_holds_the_rollout_up_only_while_it_lasts() -> None:
    cluster, old = with_stable(3, maxUnavailable=1)
    cluster.apply(program(broken("v2", "n1", passing=True), rollout={"maxUnavailable": 1}))
    settle(cluster)
    assert updated(cluster, old) == ["n1"]
    assert not cluster.condition("Stalled")
    resource = cluster.bpf_nodes["n1"]["status"]["resources"][0]
    del resource["failure"]
    resource["stage"] = "Running"
    settle(cluster, loaders=False)
    assert updated(cluster, old) == ["n1", "n2"]


def test_with_auto_rollback_all_nodes_go_back_and_stay_until_the_next_edit() -> None:
    rollout = {"canary": CANARY, "autoRollback": True}
    cluster, old = with_stable(3, **rollout)
    cluster.apply(program(broken("v2", "n1"), rollout=rollout))
    settle(cluster)
    assert given(cluster) == dict.fromkeys(("n1", "n2", "n3"), old)
    assert cluster.phase() == "RolledBack"
    ready = cluster.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RolledBack")
    assert "n1" in ready["message"]
    assert "probe.c:3:1" in ready["message"]
    assert cluster.status()["failures"][0]["node"] == "n1"
    cluster.pass_time(3600)
    cluster.apply(program(broken("v2", "n1"), rollout={**rollout, "maxUnavailable": 1}))
    settle(cluster)
    assert given(cluster) == dict.fromkeys(("n1", "n2", "n3"), old)
    cluster.apply(program("v3", rollout=rollout))
    settle(cluster)
    cluster.pass_time(30)
    settle(cluster)
    assert cluster.phase() == "Complete"
    assert old not in given(cluster).values()


def test_a_failure_that_may_pass_rolls_back_after_a_minute() -> None:
    rollout = {"maxUnavailable": 1, "autoRollback": True}
    cluster, old = with_stable(3, **rollout)
    cluster.apply(program(broken("v2", "n1", passing=True), rollout=rollout))
    settle(cluster)
    assert (cluster.phase(), updated(cluster, old)) == ("Failed", ["n1"])
    cluster.pass_time(60)
    settle(cluster)
    assert (cluster.phase(), updated(cluster, old)) == ("RolledBack", [])


def test_no_node_goes_back_before_the_record_says_so() -> None:
    rollout = {"autoRollback": True}
    cluster, _ = with_stable(2, **rollout)
    cluster.apply(program(broken("v2"), rollout=rollout))
    for _ in range(4):
        cluster.write(plan_cluster(cluster.state, cluster.now, render))
    assert cluster.phase() == "Rolling"
    cluster.load_all()
    decided = plan_cluster(cluster.state, cluster.now, render)
    assert decided.statuses[KEY]["rollout"]["phase"] == "RolledBack"
    assert not decided.bpf_nodes
    cluster.write(decided)
    assert set(plan_cluster(cluster.state, cluster.now, render).bpf_nodes) == {"n1", "n2"}


def test_the_first_version_has_nothing_to_go_back_to() -> None:
    cluster = cluster_of(2)
    cluster.apply(program(broken("v1"), rollout={"autoRollback": True, "maxUnavailable": 1}))
    settle(cluster)
    assert cluster.phase() == "Failed"
    assert [name for name, digest in given(cluster).items() if digest] == ["n1"]


def test_while_paused_nodes_keep_what_they_run_and_new_ones_get_the_stable_version() -> None:
    cluster, old = with_stable(2, maxUnavailable=1)
    cluster.apply(program("v2", rollout={"paused": True}))
    cluster.join("n3")
    settle(cluster)
    assert given(cluster) == dict.fromkeys(("n1", "n2", "n3"), old)
    assert cluster.phase() == "Paused"
    assert cluster.condition("Ready")["reason"] == "RolloutPaused"
    cluster.apply(program("v2", rollout={"paused": False}))
    settle(cluster)
    assert old not in given(cluster).values()


def test_a_node_that_joins_a_stopped_rollout_gets_the_stable_version() -> None:
    cluster, old = with_stable(2, maxUnavailable=1)
    cluster.apply(program(broken("v2", "n1"), rollout={"maxUnavailable": 1}))
    settle(cluster)
    cluster.join("n0")
    settle(cluster)
    assert given(cluster)["n0"] == old


def test_nodes_that_are_down_keep_nothing_up_and_get_the_version_last() -> None:
    cluster, old = with_stable(4, maxUnavailable=1)
    cluster.set_ready("n1", False)
    cluster.apply(program("v2", rollout={"maxUnavailable": 1}))
    settle(cluster, loaders=False)
    assert updated(cluster, old) == ["n2"]
    settle(cluster)
    assert updated(cluster, old) == ["n1", "n2", "n3", "n4"]
    ready = cluster.condition("Ready")
    assert ready["status"] == "True"
    assert "not ready: n1" in ready["message"]
    assert cluster.status()["nodes"]["summary"] == "3/4"


def test_a_node_that_goes_down_while_it_changes_holds_the_others_up_for_five_minutes() -> None:
    cluster, old = with_stable(3, maxUnavailable=1)
    cluster.apply(program("v2", rollout={"maxUnavailable": 1}))
    settle(cluster, loaders=False)
    cluster.set_ready("n1", False)
    settle(cluster)
    assert updated(cluster, old) == ["n1"]
    plan = plan_cluster(cluster.state, cluster.now, render)
    assert plan.next_at is not None
    cluster.now = plan.next_at
    settle(cluster)
    assert updated(cluster, old) == ["n1", "n2", "n3"]


def test_going_back_by_hand_to_the_stable_version_is_done_at_once() -> None:
    rollout = {"canary": CANARY, "maxUnavailable": 1}
    cluster, old = with_stable(4, **rollout)
    cluster.apply(program(broken("v2", "n3"), rollout=rollout))
    settle(cluster)
    cluster.pass_time(30)
    settle(cluster)
    assert len(updated(cluster, old)) == 3
    cluster.apply(program("v1", rollout=rollout))
    settle(cluster, loaders=False)
    assert updated(cluster, old) == []
    settle(cluster)
    assert cluster.phase() == "Complete"


def test_an_edit_that_comes_to_the_same_version_changes_no_node() -> None:
    cluster, _ = with_stable(3)
    specs = {name: document["metadata"]["generation"] for name, document in cluster.bpf_nodes.items()}
    cluster.apply(program("v1", rollout={"maxUnavailable": 1}))
    settle(cluster)
    assert cluster.status()["observedGeneration"] == 2
    assert cluster.status()["rollout"]["generation"] == 1
    assert specs == {name: document["metadata"]["generation"] for name, document in cluster.bpf_nodes.items()}


def test_the_bundle_of_the_stable_version_is_kept_and_others_are_deleted() -> None:
    cluster, old = with_stable(3, maxUnavailable=1)
    for number in range(2, 5):
        cluster.apply(program(broken(f"v{number}", "n1"), rollout={"maxUnavailable": 1}))
        settle(cluster)
    assert len(cluster.bundles) == 2
    assert any(name.endswith(old) for name in cluster.bundles)
    cluster.apply(program("v9"))
    settle(cluster)
    assert [name[-16:] for name in cluster.bundles] == [cluster.has("n1")]
