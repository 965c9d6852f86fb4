"""BpfNodes as the planner reads them agree with the API's models."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from kubebee.api.v1alpha1 import bpfnode, status
from kubebee.lb.fill import Fill
from kubebee.planner import nodes
from kubebee.planner.node_status import Outcome, node_status
from kubebee.planner.plan import LbUnit, ResourceKey
from kubebee.planner.report import Stage, UnitReport

PAIRS = [
    (nodes.Ref, bpfnode.BundleRef),
    (nodes.Trouble, status.NodeFailure),
    (nodes.Place, bpfnode.NodeAttachment),
    (nodes.Running, bpfnode.NodeProgram),
    (nodes.Report, bpfnode.NodeResource),
    (nodes.Taken, status.TableFill),
    (nodes.Happened, bpfnode.NodeHappening),
]


@pytest.mark.parametrize(("structure", "model"), PAIRS, ids=lambda item: item.__name__)
def test_every_field_is_one_of_the_model_with_the_same_default(
    structure: type[msgspec.Struct], model: type[BaseModel]
) -> None:
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    for field in msgspec.structs.fields(structure):
        assert field.encode_name in fields, field.name
        info = fields[field.encode_name]
        if not info.is_required():
            assert field.default == info.get_default(), field.name


def document(**report: Any) -> dict[str, Any]:
    resource = {"kind": "BpfProgram", "name": "probe", "stage": "Running", "bundle": "b" * 16, **report}
    ref = {"kind": "BpfProgram", "name": "probe", "generation": 3, "hash": "b" * 16, "configMap": "c"}
    return {
        "metadata": {"name": "n1", "generation": 5, "managedFields": []},
        "spec": {"bundles": [ref]},
        "status": {"observedGeneration": 4, "resources": [resource], "kernel": "6.18", "new": {"field": 1}},
    }


def test_a_bpf_node_is_read_as_the_api_server_has_it() -> None:
    record = nodes.read_bpf_node(document())
    assert (record.name, record.generation, record.observed) == ("n1", 5, 4)
    (key,) = record.bundles
    assert record.reports[key].ready("b" * 16)
    assert not record.reports[key].ready("a" * 16), "it speaks of another version"
    assert nodes.bpf_node_spec(tuple(record.bundles.values())) == document()["spec"]


def test_how_full_tables_are_is_read_as_a_loader_writes_it() -> None:
    written = Fill("flows", "IPv6", 12, 1000)
    unit = UnitReport(LbUnit.key, 3, Stage.RUNNING, "", fill=(written,))
    outcome = Outcome(ResourceKey("ServiceLB", "shop"), 3, "b" * 16, unit)
    told = node_status([outcome], "6.18", (), (), None, "2026-01-01T00:00:00Z")
    (resource,) = told.model_dump(mode="json", by_alias=True, exclude_defaults=True)["resources"]
    assert resource["fill"] == [{"limit": "flows", "family": "IPv6", "used": 12, "size": 1000, "percent": 1}]
    (report,) = nodes.read_bpf_node({**document(), "status": {"resources": [resource]}}).reports.values()
    assert nodes.fill_of(report) == (written,)


def test_a_report_is_ready_only_at_the_last_stage_and_without_failure() -> None:
    failure = {"node": "", "stage": "Attach", "reason": "EBUSY", "message": "busy"}
    for report, ready, failed in (
        ({}, True, False),
        ({"stage": "Compile"}, False, False),
        ({"stage": "Attach", "failure": failure}, False, True),
    ):
        (found,) = nodes.read_bpf_node(document(**report)).reports.values()
        assert (found.ready("b" * 16), found.failed("b" * 16)) == (ready, failed)


def test_a_stage_of_a_newer_loader_is_told_as_the_first() -> None:
    (report,) = nodes.read_bpf_node(document(stage="Levitate")).reports.values()
    assert nodes.unit_report(report).stage is Stage.FETCH
    assert not report.ready("b" * 16)


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize(
    "value", [None, {}, {"bundles": None, "resources": 1}, {"bundles": [{}], "resources": [{}]}]
)
def test_what_can_t_be_read_counts_as_empty(part: str, value: Any) -> None:
    record = nodes.read_bpf_node({**document(), part: value})
    assert not (record.bundles if part == "spec" else record.reports)
