"""What became of each resource that a node was given, and its status as a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kubebee.api.v1alpha1.common import API_VERSION
from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.planner.build import Planned
from kubebee.planner.node_status import Outcome
from kubebee.planner.plan import LbUnit, PolicyUnit, ResourceKey
from kubebee.planner.report import NodeReport
from kubebee.store.snapshot import Snapshot


def outcomes(snapshot: Snapshot, planned: Planned, report: NodeReport) -> Iterator[Outcome]:
    """What became of each resource that the node was given, valid or not."""
    units = unit_keys(planned)
    rejected = {r.key: r for r in snapshot.rejected if r.key is not None}
    for declared in snapshot.resources:
        key, unit = declared.key, report.of(declared.key, units.get(declared.key, declared.key))
        if key not in rejected and key not in planned.idle:
            error = planned.refused.get(key)
            yield Outcome(key, declared.generation, declared.version, unit, error)
    for key, refusal in rejected.items():
        unit = report.of(key, units.get(key, key))
        yield Outcome(key, refusal.generation, refusal.version, unit, refusal.error)


def unit_keys(planned: Planned) -> Mapping[ResourceKey, ResourceKey]:
    """The unit that a ServiceLB or HostPolicy is part of."""
    units: list[LbUnit | PolicyUnit] = [*planned.plan.policies]
    if planned.plan.lb is not None:
        units.append(planned.plan.lb)
    return {owner: unit.key for unit in units for owner, _ in unit.owners}


def status_document(key: ResourceKey, generation: int, status: CommonStatus) -> dict[str, object]:
    """The resource's status as `kubectl get -o yaml` shows it."""
    return {
        "apiVersion": API_VERSION,
        "kind": key.kind,
        "metadata": {"name": key.name, "generation": generation},
        "status": status.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
