"""A node's report to the status of its BpfNode: everything that runs there, ours and others'."""

from __future__ import annotations

from collections.abc import Sequence

from kubebee.api.v1alpha1.bpfnode import BpfNodeStatus, Feature, ForeignProgram, RunningProgram
from kubebee.planner.report import NodeReport, UnitReport
from kubebee.planner.status import node_failure, shown_point, summary_status

MAX_PROGRAMS = 1000
MAX_FOREIGN = 200
MAX_IDS = 64
MAX_NOTES = 16


def node_status(
    report: NodeReport,
    kernel: str,
    features: Sequence[Feature],
    foreign: Sequence[ForeignProgram],
    previous: BpfNodeStatus | None,
    now: str,
) -> BpfNodeStatus:
    """Status of the node that `report` is of.

    Args:
        report: the last pass.
        kernel: its release.
        features: what the kernel has.
        foreign: programs on the node that are not ours.
        previous: the status before, whose transition times are kept.
        now: RFC 3339.
    """
    units = sorted(report.units.values(), key=lambda unit: str(unit.key))
    failed = [unit for unit in units if unit.failure is not None]
    common = summary_status(len(units), len(failed), previous, now)
    programs = [program for unit in units for program in _programs(report.node, unit)]
    return BpfNodeStatus(
        conditions=common.conditions,
        nodes=common.nodes,
        kernel=kernel,
        features=tuple(features),
        programs=tuple(programs[:MAX_PROGRAMS]),
        foreign=tuple(foreign[:MAX_FOREIGN]),
    )


def _programs(node: str, unit: UnitReport) -> list[RunningProgram]:
    functions = dict.fromkeys(attached.function for attached in unit.attached) or {"": None}
    return [_program(node, unit, function) for function in functions]


def _program(node: str, unit: UnitReport, function: str) -> RunningProgram:
    places = [attached for attached in unit.attached if attached.function == function]
    return RunningProgram(
        kind=unit.key.kind,
        resource=unit.key.name,
        function=function,
        generation=unit.generation,
        stage=unit.stage.value,
        wanted_hash=unit.wanted_hash[:12],
        running_hash=unit.running_hash[:12],
        prog_id=places[0].prog_id if places else 0,
        link_ids=tuple(place.link_id for place in places[:MAX_IDS]),
        map_ids=tuple(fact.id for fact in unit.maps[:MAX_IDS]),
        points=tuple(shown_point(place.point) for place in places[:MAX_IDS]),
        failure=node_failure(node, unit.failure) if unit.failure else None,
        notes=unit.notes[:MAX_NOTES],
    )
