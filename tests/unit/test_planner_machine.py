"""Any course of edits, failures, nodes and killed controllers: what holds at each write, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kubebee.planner.cluster import ClusterPlan, ClusterState
from kubebee.planner.cluster_planner import ClusterPlanner, plan_cluster
from kubebee.planner.moments import parse_time
from kubebee.planner.plan import ResourceKey
from support.small_cluster import KEY, SmallCluster, broken, program, render

OTHER = ResourceKey("HostPolicy", "edge")
NAMES = [f"n{number}" for number in range(1, 7)]
MIN_READY = 30

labels = st.fixed_dictionaries({}, optional={"zone": st.sampled_from(["a", "b"]), "canary": st.just("yes")})
canaries = st.sampled_from(
    [
        {"nodes": ["n1", "n2"], "minReadySeconds": MIN_READY},
        {"selector": {"matchLabels": {"canary": "yes"}}, "minReadySeconds": MIN_READY},
    ]
)
rollouts = st.none() | st.fixed_dictionaries(
    {"maxUnavailable": st.sampled_from([1, 1, 2, "30%", "100%"])},
    optional={
        "canary": canaries,
        "paused": st.booleans(),
        "autoRollback": st.booleans(),
    },
)
sources = st.builds(
    lambda number, bad, passing: broken(f"v{number}", *bad, passing=passing) if bad else f"v{number}",
    st.integers(1, 4),
    st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    st.booleans(),
)
selectors = st.sampled_from([{}, {}, {}, {"zone": "a"}])


class Cluster(RuleBasedStateMachine):
    """One BpfProgram under all that can happen, a HostPolicy beside it that nothing may disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = SmallCluster()
        self.planner = ClusterPlanner(render)

    @initialize(count=st.integers(2, 5))
    def start(self, count: int) -> None:
        for name in NAMES[:count]:
            self.cluster.join(name)
        self.cluster.apply({"defaultAction": {"ingress": "Allow"}}, OTHER)

    # -- users -----------------------------------------------------------------------------------------------

    @rule(source=sources, rollout=rollouts, selector=selectors)
    def edit(self, source: str, rollout: dict[str, Any] | None, selector: dict[str, str]) -> None:
        if "deletionTimestamp" in self.metadata:
            return
        asked = {"rollout": rollout} if rollout is not None else {}
        self.cluster.apply(program(source, nodeSelector=selector, **asked))

    @precondition(lambda self: KEY in self.cluster.resources and not self.deleting)
    @rule(
        change=st.sampled_from([{"fromTheFuture": 1}, {"suspend": True}, {"programs": []}, {"metrics": [1]}])
    )
    def edit_badly(self, change: dict[str, Any]) -> None:
        self.cluster.apply({**self.cluster.resources[KEY]["spec"], **change})

    @precondition(lambda self: KEY in self.cluster.resources)
    @rule()
    def delete(self) -> None:
        self.cluster.delete()

    # -- nodes -----------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), labels=labels)
    def join(self, name: str, labels: dict[str, str]) -> None:
        if name not in self.cluster.nodes:
            self.cluster.join(name, labels)

    @rule(data=st.data(), labels=labels)
    def label(self, data: st.DataObject, labels: dict[str, str]) -> None:
        if name := self.some_node(data):
            self.cluster.join(name, labels)

    @rule(data=st.data(), ready=st.booleans())
    def go_up_or_down(self, data: st.DataObject, ready: bool) -> None:
        if name := self.some_node(data):
            self.cluster.set_ready(name, ready)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if name := self.some_node(data):
            self.cluster.leave(name)

    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        if name := self.some_node(data):
            self.cluster.load(name)

    @rule()
    def load_all(self) -> None:
        self.cluster.load_all()

    @rule(data=st.data())
    def lose_a_bpf_node(self, data: st.DataObject) -> None:
        if name := self.some_node(data):
            self.cluster.bpf_nodes.pop(name, None)

    @rule(seconds=st.sampled_from([1, MIN_READY - 1, MIN_READY, 61, 301]))
    def pass_time(self, seconds: int) -> None:
        self.cluster.pass_time(seconds)

    # -- the controller --------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.planner = ClusterPlanner(render)

    @rule(rounds=st.integers(1, 4), data=st.data())
    def work(self, rounds: int, data: st.DataObject) -> None:
        """Plans of which some writes are made, in any order."""
        for _ in range(rounds):
            plan = self.plan()
            writes = data.draw(st.permutations(self.cluster.writes(plan)))
            for write in writes[: len(writes) - data.draw(st.integers(0, len(writes)))]:
                self.make(plan, write)

    @rule(data=st.data())
    def write_one(self, data: st.DataObject) -> None:
        plan = self.plan()
        writes = self.cluster.writes(plan)
        if writes:
            self.make(plan, writes[data.draw(st.integers(0, len(writes) - 1))])

    @rule()
    def rest(self) -> None:
        """With nothing else happening, a few plans leave nothing to write."""
        for _ in range(8):
            plan = self.plan()
            if plan.empty:
                return
            for write in self.cluster.writes(plan):
                self.make(plan, write)
        raise AssertionError(f"still to be written: {plan}")

    @rule(seconds=st.sampled_from([0, 1, MIN_READY]))
    def go_on(self, seconds: int) -> None:
        """All is done that can be done until loaders report again, and they do."""
        self.rest()
        self.cluster.load_all()
        self.cluster.pass_time(seconds)
        self.rest()

    def plan(self) -> ClusterPlan:
        state = self.cluster.state
        tell(self.planner, state)
        plan = self.planner.plan(self.cluster.now)
        assert essence(plan) == essence(plan_cluster(state, self.cluster.now, render)), "it forgot something"
        return plan

    def make(self, plan: ClusterPlan, write: tuple[str, Any]) -> None:
        before = {name: self.cluster.has(name) for name in self.cluster.nodes}
        unavailable = self.unavailable()
        self.cluster.make(plan, write)
        for name, had in before.items():
            has = self.cluster.has(name)
            if had and not has and name in self.cluster.bpf_nodes:
                assert self.may_lose_it(name), f"{name} had a version and has none"
            if has != had:
                assert has in ("", self.target, self.stable), f"{name} got what is not on record"
            if has != had and has == self.target and self.careful(name):
                assert self.unavailable() <= max(unavailable, self.limit)
                assert self.is_canary(name) or self.canaries_have_been_ready(), (
                    f"{name} is before the canaries"
                )

    # -- what must hold --------------------------------------------------------------------------------------

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.cluster.resources[KEY]["spec"]
        return spec

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.cluster.resources.get(KEY, {}).get("metadata", {})
        return metadata

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.metadata

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = self.cluster.status().get("rollout", {}) if self.metadata else {}
        return record

    @property
    def target(self) -> str:
        return str(self.record.get("bundle", ""))

    @property
    def stable(self) -> str:
        return str(self.record.get("stableBundle", ""))[-16:]

    @property
    def limit(self) -> int:
        asked = str(self.spec["rollout"].get("maxUnavailable", "100%"))
        if asked.endswith("%"):
            return max(1, math.ceil(len(self.selected()) * int(asked[:-1]) / 100))
        return int(asked)

    def selected(self) -> list[str]:
        wanted = self.spec.get("nodeSelector", {}).items()
        return [name for name, node in self.cluster.nodes.items() if wanted <= node.labels.items()]

    def unavailable(self) -> int:
        return sum(
            self.cluster.has(name) == self.target and not self.cluster.runs(name, self.target)
            for name, node in self.cluster.nodes.items()
            if node.ready and self.target
        )

    def careful(self, name: str) -> bool:
        """Whether a rollout's limits apply: not to a version that is known to be good."""
        proven = self.record.get("phase") == "Complete" or self.stable == self.target
        everywhere = all(
            self.cluster.runs(each, self.target)
            for each in self.selected()
            if self.cluster.nodes[each].ready and each != name
        )
        return "rollout" in self.spec and not proven and self.cluster.nodes[name].ready and not everywhere

    def may_lose_it(self, name: str) -> bool:
        return (
            KEY not in self.cluster.resources
            or self.deleting
            or bool(self.spec.get("suspend"))
            or name not in self.selected()
        )

    def is_canary(self, name: str) -> bool:
        canary = self.spec["rollout"].get("canary")
        if canary is None:
            return True
        if "nodes" in canary:
            return name in canary["nodes"]
        return "canary" in self.cluster.nodes[name].labels

    def canaries_have_been_ready(self) -> bool:
        """Since when they are is on record; that they are is seen from outside."""
        since = parse_time(self.record.get("readySince"))
        up = [name for name in self.selected() if self.cluster.nodes[name].ready and self.is_canary(name)]
        return (
            since is not None
            and self.cluster.now - since >= timedelta(seconds=MIN_READY)
            and all(self.cluster.runs(name, self.target) for name in up)
        )

    def some_node(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.cluster.nodes))) if self.cluster.nodes else ""

    # -- where it ends ---------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Once nothing fails any more, all nodes run what is asked for, whatever came before."""
        if not self.cluster.nodes:
            self.cluster.join("n1", {"canary": "yes"})
        for name in self.cluster.nodes:
            self.cluster.set_ready(name, True)
        if not self.deleting:
            asked = self.metadata and self.spec.get("rollout")
            self.cluster.apply(program("good", rollout={**(asked or {}), "paused": False, "canary": None}))
        for _ in self.until_at_rest():
            self.cluster.load_all()
        assert plan_cluster(self.cluster.state, self.cluster.now, render).empty
        assert self.cluster.condition("Ready", OTHER)["status"] == "True"
        if KEY not in self.cluster.resources:
            assert not any(self.cluster.has(name) for name in self.cluster.nodes)
            return
        assert self.cluster.condition("Ready")["status"] == "True", self.cluster.status()
        assert self.cluster.phase() == "Complete"
        assert all(self.cluster.runs(name, self.target) for name in self.cluster.nodes)
        assert {name[-16:] for name in self.cluster.bundles} == {
            self.target,
            self.cluster.has("n1", OTHER),
        } or ("n1" not in self.cluster.nodes)
        assert set(self.cluster.bpf_nodes) == set(self.cluster.nodes)

    def until_at_rest(self) -> Iterator[None]:
        for _ in range(60):
            yield
            before = repr(self.cluster.bpf_nodes)
            self.rest()
            self.cluster.load_all()
            if before == repr(self.cluster.bpf_nodes) and self.plan().empty:
                return
        raise AssertionError("it never comes to rest")


def tell(planner: ClusterPlanner, state: ClusterState) -> None:
    """Bring a planner up to date, as a controller's watches do."""
    known = planner.state
    for source, data in state.config_maps.items():
        planner.put_config_map(*source, data)
    for name in known.nodes.keys() - state.nodes.keys():
        planner.drop_node(name)
    for node in state.nodes.values():
        planner.put_node(node)
    for name in known.bpf_nodes.keys() - state.bpf_nodes.keys():
        planner.drop_bpf_node(name)
    for record in state.bpf_nodes.values():
        planner.put_bpf_node(record)
    for bundle in known.bundles - state.bundles:
        planner.drop_bundle(bundle)
    for bundle in state.bundles:
        planner.put_bundle(bundle)
    for key in known.resources.keys() - state.resources.keys():
        planner.drop_resource(key)
    for manifest in state.resources.values():
        planner.put_resource(manifest)


def essence(plan: ClusterPlan) -> tuple[Any, ...]:
    """A plan without its Events, which are asked for once."""
    return (
        {bundle.config_map for bundle in plan.bundles},
        plan.finalizers,
        plan.bpf_nodes,
        plan.statuses,
        set(plan.gone),
        plan.unused,
        plan.loaders,
        plan.next_at,
    )


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
