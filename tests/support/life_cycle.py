"""Statuses of one resource over its life, made by the functions that the controller uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubebee.api.v1alpha1.rollout import RolloutStatus
from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.errors import KubebeeError
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Failure, Stage, UnitReport
from kubebee.planner.status import idle_status, refused_status, status_of

KEY = ResourceKey("BpfProgram", "packets")
NOW = "2026-01-01T00:00:00Z"
RUNS = UnitReport(KEY, 1, Stage.RUNNING, "a" * 64, "a" * 64)
COMPILES = UnitReport(KEY, 1, Stage.COMPILE, "a" * 64)
BROKEN = UnitReport(
    KEY, 1, Stage.COMPILE, "b" * 64, failure=Failure(Stage.COMPILE, "CompileFailed", "line 3: no such name")
)
BUSY = UnitReport(
    KEY, 1, Stage.ATTACH, "b" * 64, failure=Failure(Stage.ATTACH, "Busy", "is in use", permanent=False)
)


@dataclass(frozen=True)
class Moment:
    """A moment of a life, and what tools shall make of it.

    Attributes:
        kstatus: Current, InProgress, Failed or Terminating.
        argo: Healthy, Progressing, Degraded or Suspended.
    """

    what: str
    object: dict[str, Any]
    kstatus: str
    argo: str


def life() -> list[Moment]:
    """From kubectl apply to kubectl delete."""
    ready = status_of(1, [("a", RUNS), ("b", RUNS)], None, NOW)
    paused = RolloutStatus(phase="Paused", generation=2, message="spec.rollout.paused is set")
    back = RolloutStatus(phase="RolledBack", generation=2, message="a: line 3: no such name")
    waiting = status_of(2, [("a", RUNS), ("b", COMPILES)], ready, NOW)
    refused = refused_status(2, KubebeeError("no such field", where="spec.x"), ready, NOW)
    return [
        moment("just applied, as the API server fills it in", 1, None, "InProgress", "Progressing"),
        moment(
            "no node has reported", 1, status_of(1, [("a", None)], None, NOW), "InProgress", "Progressing"
        ),
        moment(
            "one of two runs",
            1,
            status_of(1, [("a", RUNS), ("b", None)], None, NOW),
            "InProgress",
            "Progressing",
        ),
        moment("both run", 1, ready, "Current", "Healthy"),
        moment("edited, not looked at yet", 2, ready, "InProgress", "Progressing"),
        moment("edited, one compiles", 2, waiting, "InProgress", "Progressing"),
        moment(
            "fails everywhere",
            2,
            status_of(2, [("a", BROKEN), ("b", BROKEN)], ready, NOW),
            "Failed",
            "Degraded",
        ),
        moment("may still pass", 2, status_of(2, [("a", BUSY)], ready, NOW), "InProgress", "Progressing"),
        moment("can't be acted on", 2, refused, "Failed", "Degraded"),
        moment("paused", 2, waiting.model_copy(update={"rollout": paused}), "InProgress", "Suspended"),
        moment("rolled back", 2, waiting.model_copy(update={"rollout": back}), "InProgress", "Degraded"),
        moment("suspended", 3, idle_status(3, "Suspended", ready, NOW), "Current", "Suspended", suspend=True),
        moment("no node selected", 3, idle_status(3, "NoNodeSelected", ready, NOW), "Current", "Healthy"),
        moment("deleted, nodes clean up", 3, ready, "Terminating", "Progressing", deleted=True),
    ]


def moment(
    what: str,
    generation: int,
    status: CommonStatus | None,
    kstatus: str,
    argo: str,
    *,
    suspend: bool = False,
    deleted: bool = False,
) -> Moment:
    """The object as kubectl has it at that moment."""
    metadata: dict[str, Any] = {"name": KEY.name, "generation": generation}
    if deleted:
        metadata |= {"deletionTimestamp": NOW, "finalizers": ["kubebee.dev/nodes"]}
    shown: dict[str, Any] = {"observedGeneration": -1}
    if status is not None:
        shown = status.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return Moment(
        what,
        {"kind": KEY.kind, "metadata": metadata, "spec": {"suspend": suspend}, "status": shown},
        kstatus,
        argo,
    )
