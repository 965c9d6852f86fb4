"""What became of a node's resources to the status of its BpfNode; `planner.nodes` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubebee.api.v1alpha1.bpfnode import (
    BpfNodeStatus,
    Feature,
    ForeignProgram,
    NodeAttachment,
    NodeProgram,
    NodeResource,
)
from kubebee.api.v1alpha1.status import NodeFailure
from kubebee.errors import KubebeeError
from kubebee.planner.fill import table_fill
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Attached, Failure, Stage, UnitReport
from kubebee.planner.status import node_failure, shown_point, summary_status

MAX_RESOURCES = 500
MAX_FOREIGN = 200
MAX_IDS = 64
MAX_NOTES = 16
HASH_CHARS = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one resource on a node.

    Attributes:
        version: digest of what this speaks of, empty where the store has none.
        unit: report of the unit that it is part of, None before the first.
        error: why the newest version can't be acted on; `unit` then is of the version before it.
    """

    key: ResourceKey
    generation: int
    version: str
    unit: UnitReport | None
    error: KubebeeError | None = None


def node_status(
    outcomes: Sequence[Outcome],
    kernel: str,
    features: Sequence[Feature],
    foreign: Sequence[ForeignProgram],
    previous: BpfNodeStatus | None,
    now: str,
) -> BpfNodeStatus:
    """Status of a node.

    Args:
        outcomes: of the last pass.
        kernel: its release.
        features: what the kernel has.
        foreign: programs on the node that are not ours.
        previous: the status before, whose transition times are kept.
        now: RFC 3339.
    """
    resources = [_resource(outcome) for outcome in sorted(outcomes, key=lambda one: str(one.key))]
    failed = sum(resource.failure is not None for resource in resources)
    common = summary_status(len(resources), failed, previous, now)
    return BpfNodeStatus(
        conditions=common.conditions,
        nodes=common.nodes,
        kernel=kernel,
        features=tuple(features),
        resources=tuple(resources[:MAX_RESOURCES]),
        foreign=tuple(foreign[:MAX_FOREIGN]),
    )


def _resource(outcome: Outcome) -> NodeResource:
    unit, failure = outcome.unit, _failure(outcome)
    return NodeResource(
        kind=outcome.key.kind,
        name=outcome.key.name,
        generation=outcome.generation,
        bundle=outcome.version,
        stage=failure.stage if failure else unit.stage.value if unit else Stage.FETCH.value,
        wanted_hash=unit.wanted_hash[:HASH_CHARS] if unit else "",
        running_hash=unit.running_hash[:HASH_CHARS] if unit else "",
        programs=tuple(_programs(unit)[:MAX_IDS]) if unit else (),
        map_ids=tuple(fact.id for fact in unit.maps[:MAX_IDS]) if unit else (),
        failure=failure,
        notes=unit.notes[:MAX_NOTES] if unit else (),
        fill=tuple(table_fill(fill) for fill in unit.fill) if unit else (),
    )


def _failure(outcome: Outcome) -> NodeFailure | None:
    """Of the resource itself, else of its unit; the node is the object's own name."""
    error = outcome.error
    if error is not None:
        failure = Failure(
            Stage.FETCH, error.reason, str(error), hint=error.hint, permanent=not error.may_pass
        )
        return node_failure("", failure)
    if outcome.unit is not None and outcome.unit.failure is not None:
        return node_failure("", outcome.unit.failure)
    return None


def _programs(unit: UnitReport) -> list[NodeProgram]:
    by_function: dict[str, list[Attached]] = {}
    for attached in unit.attached:
        by_function.setdefault(attached.function, []).append(attached)
    return [
        NodeProgram(
            function=function,
            prog_id=places[0].prog_id,
            attachments=tuple(
                NodeAttachment(
                    type=place.type,
                    point=shown_point(place.point),
                    mode=place.mode,
                    position=place.position,
                    link_id=place.link_id,
                )
                for place in places[:MAX_IDS]
            ),
        )
        for function, places in by_function.items()
    ]
