"""Which nodes a resource is for."""

from __future__ import annotations

from kubebee.api.parse import parse_resource
from kubebee.api.v1alpha1.resources import AnyResource
from kubebee.planner.build import Planned, Planner
from kubebee.planner.declared import Declared, Inputs, Node, Rendered
from kubebee.planner.plan import ResourceKey
from kubebee.planner.prepare import prepare
from kubebee.render.builtin import Datapaths

NODE = Node("this", {"kubernetes.io/hostname": "this", "zone": "a"})
KEY = ResourceKey("HostPolicy", "edge")


def policy(selector: dict[str, str]) -> AnyResource:
    return parse_resource(
        {
            "apiVersion": "kubebee.dev/v1alpha1",
            "kind": "HostPolicy",
            "metadata": {"name": "edge"},
            "spec": {"nodeSelector": selector},
        }
    )


def plan(selector: dict[str, str]) -> Planned:
    resource = policy(selector)
    declared = Declared(KEY, resource, 1, "2026-01-01T00:00:00Z", prepare(resource))
    return Planner(Datapaths()).plan(Inputs((declared,), {}, NODE, lambda _: Rendered("")))


def test_a_node_that_is_not_selected_runs_nothing() -> None:
    planned = plan({"kubernetes.io/hostname": "this", "zone": "b"})
    assert planned.idle == {KEY: "NoNodeSelected"}
    assert planned.plan.policies == ()


def test_a_node_with_all_labels_is_selected() -> None:
    planned = plan({"zone": "a"})
    assert planned.idle == {}
    assert [unit.owners for unit in planned.plan.policies] == [((KEY, 1),)]


def test_without_a_selector_every_node_is_selected() -> None:
    assert plan({}).idle == {}
