"""What becomes of resources in a cluster, apart from rollouts: specs, deletion, conflicts, statuses."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kubebee.planner.cluster import FINALIZER, ClusterPlan
from kubebee.planner.cluster_planner import ClusterPlanner, plan_cluster
from kubebee.planner.nodes import read_bpf_node
from kubebee.planner.plan import ResourceKey
from support.small_cluster import KEY, SmallCluster, broken, program, render

OTHER = ResourceKey("BpfProgram", "other")
SHOP, MALL = ResourceKey("ServiceLB", "shop"), ResourceKey("ServiceLB", "mall")


def plan(cluster: SmallCluster) -> ClusterPlan:
    return plan_cluster(cluster.state, cluster.now, render)


def settle(cluster: SmallCluster) -> None:
    for _ in range(30):
        cluster.write(plan(cluster))
        before = repr(cluster.bpf_nodes)
        cluster.load_all()
        if plan(cluster).empty and before == repr(cluster.bpf_nodes):
            return
    raise AssertionError("it never comes to rest")


@pytest.fixture
def cluster() -> SmallCluster:
    cluster = SmallCluster()
    cluster.join("n1", {"zone": "a"})
    cluster.join("n2", {"zone": "b"})
    return cluster


def service(address: str, **spec: Any) -> dict[str, Any]:
    backends = [{"address": "10.0.0.1", "port": 8080}]
    return {
        "frontends": [
            {"name": "web", "address": address, "port": 80, "protocol": "TCP", "backends": backends}
        ],
        **spec,
    }


def statuses(cluster: SmallCluster, key: ResourceKey = KEY) -> tuple[str, str, bool]:
    """Ready's status and reason, and whether it is Stalled."""
    ready = cluster.condition("Ready", key)
    return ready["status"], ready["reason"], bool(cluster.condition("Stalled", key))


# -- nodes ---------------------------------------------------------------------------------------------------


def test_a_selector_chooses_nodes_and_an_edit_of_it_moves_the_program(cluster: SmallCluster) -> None:
    cluster.apply(program("v1", nodeSelector={"zone": "a"}))
    settle(cluster)
    assert [bool(cluster.has(name)) for name in ("n1", "n2")] == [True, False]
    assert set(cluster.bpf_nodes) == {"n1"}
    cluster.apply(program("v1", nodeSelector={"zone": "b"}))
    settle(cluster)
    assert [bool(cluster.has(name)) for name in ("n1", "n2")] == [False, True]
    assert set(cluster.bpf_nodes) == {"n2"}, "an empty BpfNode is of no use to anybody"
    assert statuses(cluster) == ("True", "Running", False)


def test_a_node_that_still_has_it_keeps_the_resource_from_being_ready(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    cluster.apply(program("v1", nodeSelector={"zone": "b"}))
    for _ in range(4):
        cluster.write(plan(cluster))
    assert cluster.condition("Ready")["message"] == "being removed from n1"
    assert cluster.condition("Reconciling")["status"] == "True"


def test_a_selector_that_no_node_has_says_so(cluster: SmallCluster) -> None:
    cluster.apply(program("v1", nodeSelector={"zone": "c"}))
    settle(cluster)
    assert statuses(cluster) == ("True", "NoNodeSelected", False)
    assert not cluster.resources[KEY]["metadata"].get("finalizers")
    assert not cluster.bpf_nodes
    assert not cluster.bundles


def test_a_suspended_program_is_on_no_node_and_comes_back_as_it_was(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    digest = cluster.has("n1")
    cluster.apply(program("v1", suspend=True))
    settle(cluster)
    assert statuses(cluster) == ("True", "Suspended", False)
    assert plan(cluster).loaders.nowhere
    cluster.apply(program("v1"))
    settle(cluster)
    assert cluster.has("n1") == digest


def test_the_bpf_node_of_a_node_that_is_gone_is_deleted(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    cluster.leave("n2")
    settle(cluster)
    assert set(cluster.bpf_nodes) == {"n1"}
    assert cluster.status()["nodes"]["summary"] == "1/1"


def test_a_bpf_node_edited_by_hand_is_put_right(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    good = repr(cluster.bpf_nodes["n1"]["spec"])
    for damage in (
        lambda refs: refs.clear(),
        lambda refs: refs[0].update(hash="0" * 16),
        lambda refs: refs[0].update(configMap="another"),
        lambda refs: refs.append({**refs[0], "name": "never-heard-of"}),
    ):
        damage(cluster.bpf_nodes["n1"]["spec"]["bundles"])
        for _ in range(3):
            cluster.write(plan(cluster))
        assert repr(cluster.bpf_nodes["n1"]["spec"]) == good


def test_a_status_that_nobody_can_read_counts_as_none(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    cluster.bpf_nodes["n1"]["status"] = {"resources": "many"}
    assert read_bpf_node(cluster.bpf_nodes["n1"]).reports == {}
    cluster.resources[KEY]["status"] = {"conditions": 7}
    settle(cluster)
    assert statuses(cluster) == ("True", "Running", False)


def test_a_balancer_says_how_full_the_tables_of_its_fullest_node_are(cluster: SmallCluster) -> None:
    cluster.apply(service("10.9.0.1"), SHOP)
    settle(cluster)

    def report(name: str, percent: int) -> None:
        (resource,) = cluster.bpf_nodes[name]["status"]["resources"]
        table = {"limit": "flows", "family": "IPv4", "used": percent, "size": 100, "percent": percent}
        resource["fill"] = [table]

    report("n1", 40)
    report("n2", 60)
    cluster.write(plan(cluster))
    (table,) = cluster.status(SHOP)["fill"]
    assert (table["node"], table["used"], table["size"]) == ("n2", 60, 100)
    assert cluster.status(SHOP)["fullest"] == "flows 60%"
    report("n1", 64)
    assert plan(cluster).empty, "about as full as the other: no write"
    cluster.set_ready("n2", False)
    cluster.write(plan(cluster))
    assert cluster.status(SHOP)["fullest"] == "flows 64%", "what a node that is down said is of no use"


# -- deletion ------------------------------------------------------------------------------------------------


def test_a_deleted_resource_goes_when_no_node_that_is_up_has_it(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    assert cluster.resources[KEY]["metadata"]["finalizers"] == [FINALIZER]
    cluster.delete()
    for _ in range(3):
        cluster.write(plan(cluster))
    assert KEY in cluster.resources, "the nodes have not said yet that it is gone"
    assert cluster.condition("Ready")["message"] == "being removed from n1, n2"
    cluster.load("n1")
    cluster.set_ready("n2", False)
    cluster.write(plan(cluster))
    assert KEY not in cluster.resources
    cluster.set_ready("n2", True)
    settle(cluster)
    assert not cluster.bpf_nodes
    assert not cluster.bundles


def test_a_resource_whose_finalizer_was_torn_off_is_taken_from_the_nodes(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    del cluster.resources[KEY]
    settle(cluster)
    assert not cluster.bpf_nodes


# -- refused specs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fromTheFuture": 1}, "UnknownField"),
        ({"toolchain": "Rust"}, "InvalidSpec"),
        ({"metrics": [{"name": "m", "map": "m", "type": "Gauge"}]}, "NotImplemented"),
        ({"source": None}, "InvalidSpec"),
        ({"nodeSelector": ["a"]}, "InvalidSpec"),
    ],
)
def test_a_refused_spec_is_stalled_and_changes_no_node(
    cluster: SmallCluster, change: dict[str, Any], reason: str
) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    before = repr({name: node["spec"] for name, node in cluster.bpf_nodes.items()})
    cluster.apply({**program("v2"), **change})
    settle(cluster)
    assert statuses(cluster) == ("False", reason, True)
    assert cluster.status()["observedGeneration"] == 2
    assert "the version before it stays on n1, n2" in cluster.condition("Ready")["message"]
    assert repr({name: node["spec"] for name, node in cluster.bpf_nodes.items()}) == before
    assert [event.reason for event in cluster.events.values()].count(reason) == 1


def test_a_node_that_joins_while_the_spec_is_refused_gets_what_the_others_run(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    cluster.apply({**program("v2"), "fromTheFuture": 1})
    cluster.join("n3")
    settle(cluster)
    assert cluster.has("n3") == cluster.has("n1") != ""


def test_a_resource_that_was_never_valid_needs_no_loader(cluster: SmallCluster) -> None:
    cluster.apply({"nonsense": True})
    settle(cluster)
    assert statuses(cluster)[2]
    assert plan(cluster).loaders.nowhere


def test_a_source_of_more_than_900_kib_is_refused_by_name(cluster: SmallCluster) -> None:
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=1_800_000))
    cluster.config_maps["tools", "code"] = {"probe.c": noise}
    wanted = {"namespace": "tools", "name": "code", "key": "probe.c"}
    cluster.apply({**program(""), "source": {"configMap": wanted}})
    settle(cluster)
    assert statuses(cluster)[:2] == ("False", "BundleTooLarge")


def test_a_config_map_as_source_is_followed_and_may_come_late(cluster: SmallCluster) -> None:
    wanted = {"namespace": "tools", "name": "code", "key": "probe.c"}
    cluster.apply({**program(""), "source": {"configMap": wanted}})
    settle(cluster)
    assert statuses(cluster) == ("False", "SourceNotFound", False)
    cluster.config_maps["tools", "code"] = {"probe.c": "int x;"}
    settle(cluster)
    assert statuses(cluster) == ("True", "Running", False)
    first = cluster.has("n1")
    cluster.config_maps["tools", "code"] = {"probe.c": "int y;"}
    settle(cluster)
    second = cluster.has("n1")
    assert second not in ("", first)
    del cluster.config_maps["tools", "code"]
    settle(cluster)
    assert statuses(cluster) == ("False", "SourceNotFound", False)
    assert cluster.has("n1") == second


def test_which_config_maps_to_watch_is_told(cluster: SmallCluster) -> None:
    planner = ClusterPlanner(render)
    wanted = {"namespace": "tools", "name": "code", "key": "probe.c"}
    cluster.apply({**program(""), "source": {"configMap": wanted}})
    planner.put_resource(cluster.resources[KEY])
    assert planner.sources == {("tools", "code")}


# -- resources beside each other -----------------------------------------------------------------------------


def test_of_two_services_with_one_frontend_the_younger_is_refused(cluster: SmallCluster) -> None:
    cluster.apply(service("10.9.0.1"), SHOP)
    cluster.apply(service("10.9.0.1"), MALL)
    settle(cluster)
    assert statuses(cluster, SHOP)[0] == "True"
    assert statuses(cluster, MALL) == ("False", "DuplicateFrontend", True)
    assert not cluster.has("n1", MALL)
    cluster.delete(SHOP)
    settle(cluster)
    assert statuses(cluster, MALL) == ("True", "Running", False)


def test_on_different_nodes_two_services_may_have_one_frontend(cluster: SmallCluster) -> None:
    cluster.apply(service("10.9.0.1", nodeSelector={"zone": "a"}), SHOP)
    cluster.apply(service("10.9.0.1", nodeSelector={"zone": "b"}), MALL)
    settle(cluster)
    assert statuses(cluster, SHOP)[0] == statuses(cluster, MALL)[0] == "True"
    cluster.join("n2", {"zone": "a"})
    cluster.apply(service("10.9.0.1", nodeSelector={"zone": "a"}), MALL)
    settle(cluster)
    assert statuses(cluster, MALL) == ("False", "DuplicateFrontend", True)


def test_policies_that_contradict_each_other_on_a_node_are_in_force_with_a_warning(
    cluster: SmallCluster,
) -> None:
    one, two = ResourceKey("HostPolicy", "one"), ResourceKey("HostPolicy", "two")
    for key, action in ((one, "Allow"), (two, "Deny")):
        rule = {"name": "r", "action": action, "protocols": [{"protocol": "TCP", "ports": ["80"]}]}
        cluster.apply({"ingress": [rule]}, key)
    settle(cluster)
    assert statuses(cluster, one)[0] == "True"
    assert "one/r hides two/r" in cluster.condition("Ready", one)["message"]


# -- statuses and Events -------------------------------------------------------------------------------------


def test_a_failure_on_one_node_of_two_is_not_stalled_and_names_the_node(cluster: SmallCluster) -> None:
    cluster.apply(program(broken("v1", "n2")))
    settle(cluster)
    assert statuses(cluster) == ("False", "CompileFailed", False)
    assert cluster.status()["nodes"] == {"desired": 2, "ready": 1, "failed": 1, "summary": "1/2"}
    cluster.apply(program(broken("v2")))
    settle(cluster)
    assert statuses(cluster) == ("False", "CompileFailed", True)
    assert [failure["node"] for failure in cluster.status()["failures"]] == ["n1", "n2"]


def test_what_nodes_say_of_the_version_before_does_not_make_the_newest_stalled(cluster: SmallCluster) -> None:
    cluster.apply(program(broken("v1")))
    settle(cluster)
    assert statuses(cluster) == ("False", "CompileFailed", True)
    cluster.apply(program("v2"))
    for number in range(3):
        cluster.write(plan(cluster))
        assert cluster.status()["observedGeneration"] == 2
        assert statuses(cluster) == ("False", "Progressing", False), number
    assert "failures" not in cluster.status()
    settle(cluster)
    assert statuses(cluster) == ("True", "Running", False)


def test_each_version_that_fails_is_told_of(cluster: SmallCluster) -> None:
    for number in (1, 2):
        cluster.apply(program(broken(f"v{number}")))
        settle(cluster)
    assert [event.type for event in cluster.events.values()] == ["Normal", "Warning", "Normal", "Warning"]


def test_a_node_that_fails_later_is_told_of(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    failure = {"node": "", "stage": "Attach", "reason": "EBUSY", "message": "eth0 is busy"}
    cluster.bpf_nodes["n2"]["status"]["resources"][0].update(stage="Attach", failure=failure)
    cluster.write(plan(cluster))
    assert [event.message for event in cluster.events.values()][-1] == "n2: eth0 is busy"
    assert statuses(cluster) == ("False", "EBUSY", False)
    assert cluster.phase() == "Complete"


def test_where_every_node_is_down_nothing_is_known_to_run(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    for name in cluster.nodes:
        cluster.set_ready(name, False)
    settle(cluster)
    assert statuses(cluster) == ("False", "NodesNotReady", False)


def test_a_transition_time_stays_while_the_condition_does(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    since = cluster.condition("Ready")["lastTransitionTime"]
    cluster.pass_time(100)
    cluster.join("n3")
    settle(cluster)
    cluster.apply(program("v2"))
    for _ in range(5):
        cluster.write(plan(cluster))
    assert cluster.condition("Ready")["lastTransitionTime"] != since


def test_events_tell_of_a_rollout_once_each(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    cluster.apply(program(broken("v2", "n2")))
    settle(cluster)
    told = [(event.type, event.reason) for event in cluster.events.values()]
    assert told == [
        ("Normal", "RolloutStarted"),
        ("Normal", "RolloutComplete"),
        ("Normal", "RolloutStarted"),
        ("Warning", "CompileFailed"),
    ]
    assert [event.message for event in cluster.events.values()][-1] == "n2: probe.c:3:1: error: no such type"
    settle(cluster)
    assert len(cluster.events) == 4


def test_happenings_of_nodes_become_events_of_the_resource_and_are_bounded(cluster: SmallCluster) -> None:
    for number in range(30):
        cluster.join(f"m{number}")
    cluster.apply(program("v1"))
    settle(cluster)
    planner = ClusterPlanner(render)
    state = cluster.state
    for node in state.nodes.values():
        planner.put_node(node)
    planner.put_resource(state.resources[KEY])
    happening = {"kind": KEY.kind, "name": KEY.name, "reason": "Loaded", "message": "loaded c0de"}
    for name in cluster.bpf_nodes:
        cluster.bpf_nodes[name]["status"]["happenings"] = [{**happening, "time": cluster.moment}]
        planner.put_bpf_node(read_bpf_node(cluster.bpf_nodes[name]))
    events = [event for event in planner.plan(cluster.now).events if event.reason == "Loaded"]
    assert len(events) == 10
    assert len({event.name for event in events}) == 10
    assert all(event.message == f"{event.node}: loaded c0de" for event in events)
    assert not [event for event in planner.plan(cluster.now).events if event.reason == "Loaded"]


def test_a_failure_that_a_node_tells_and_its_status_has_is_one_event(cluster: SmallCluster) -> None:
    cluster.apply(program(broken("v1", "n2")))
    for _ in range(3):
        cluster.write(plan(cluster))
    cluster.load_all()
    message = "probe.c:3:1: error: no such type"
    happening = {"kind": KEY.kind, "name": KEY.name, "type": "Warning", "reason": "CompileFailed"}
    happening |= {"message": message, "time": cluster.moment}
    cluster.bpf_nodes["n2"]["status"]["happenings"] = [happening]
    planner, state = ClusterPlanner(render), cluster.state
    for node in state.nodes.values():
        planner.put_node(node)
    planner.put_resource(state.resources[KEY])
    for record in state.bpf_nodes.values():
        planner.put_bpf_node(record)
    told = [event.message for event in planner.plan(cluster.now).events if event.type == "Warning"]
    assert told == [f"n2: {message}"]


def test_old_happenings_are_not_told_by_a_controller_that_starts(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    happening = {
        "kind": KEY.kind,
        "name": KEY.name,
        "reason": "Loaded",
        "message": "m",
        "time": cluster.moment,
    }
    cluster.bpf_nodes["n1"]["status"]["happenings"] = [happening]
    cluster.pass_time(301)
    assert plan(cluster).events == ()


# -- scale ---------------------------------------------------------------------------------------------------


def test_an_event_that_changes_nothing_costs_no_plan(cluster: SmallCluster) -> None:
    cluster.apply(program("v1"))
    settle(cluster)
    planner = ClusterPlanner(render)
    state = cluster.state
    for record in state.bpf_nodes.values():
        planner.put_bpf_node(record)
    for node in state.nodes.values():
        planner.put_node(node)
    for bundle in state.bundles:
        planner.put_bundle(bundle)
    planner.put_resource(state.resources[KEY])
    assert planner.plan(cluster.now).empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kubebee.planner.cluster_planner.plan_resource", None)
        planner.put_bpf_node(read_bpf_node(cluster.bpf_nodes["n1"]))
        planner.put_node(cluster.nodes["n1"])
        planner.put_resource(cluster.resources[KEY])
        assert planner.plan(cluster.now).empty
