"""BpfNodes as the controller keeps them: what each node shall run and what it last said of it.

A thousand nodes of twenty resources change often, so these are msgspec structures, not the API's models,
which take several times as long to read. `tests/unit/test_planner_nodes.py` holds them to the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kubebee.lb.fill import Fill
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Attached, Failure, Stage, UnitReport


class Ref(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of `spec.bundles`; see `api.v1alpha1.bpfnode.BundleRef`."""

    kind: str
    name: str
    generation: int
    hash: str
    config_map: str

    @property
    def key(self) -> ResourceKey:
        """The resource that this is a version of."""
        return ResourceKey(self.kind, self.name)


class Trouble(msgspec.Struct, frozen=True, rename="camel"):
    """Why a node does not run a resource; see `api.v1alpha1.status.NodeFailure`."""

    stage: str = "Fetch"
    reason: str = "Error"
    errno: str = ""
    message: str = ""
    log: str = ""
    hint: str = ""
    permanent: bool = False


class Place(msgspec.Struct, frozen=True, rename="camel"):
    """Where a function runs; see `NodeAttachment`."""

    type: str
    point: str
    mode: str = ""
    position: int = -1
    link_id: int = 0


class Running(msgspec.Struct, frozen=True, rename="camel"):
    """A function that runs; see `NodeProgram`."""

    function: str
    prog_id: int = 0
    attachments: tuple[Place, ...] = ()


class Taken(msgspec.Struct, frozen=True, rename="camel"):
    """How full a table is; see `TableFill`."""

    limit: str
    family: str
    used: int = 0
    size: int = 0


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one resource on a node; see `NodeResource`."""

    kind: str
    name: str
    stage: str
    bundle: str = ""
    generation: int = 0
    wanted_hash: str = ""
    running_hash: str = ""
    programs: tuple[Running, ...] = ()
    failure: Trouble | None = None
    notes: tuple[str, ...] = ()
    fill: tuple[Taken, ...] = ()

    @property
    def key(self) -> ResourceKey:
        """The resource that this speaks of."""
        return ResourceKey(self.kind, self.name)

    def ready(self, digest: str) -> bool:
        """Whether this version runs here in full."""
        return self.bundle == digest and self.failure is None and self.stage == Stage.RUNNING.value

    def failed(self, digest: str) -> bool:
        """Whether this version was tried here in vain."""
        return self.bundle == digest and self.failure is not None


class Happened(msgspec.Struct, frozen=True, rename="camel"):
    """Something worth an Event; see `NodeHappening`."""

    kind: str
    name: str
    reason: str
    message: str
    time: str
    type: str = "Normal"


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    generation: int = 0


class _Spec(msgspec.Struct, frozen=True):
    bundles: tuple[Ref, ...] = ()


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    observed_generation: int = 0
    resources: tuple[Report, ...] = ()
    happenings: tuple[Happened, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


class BpfNodeRecord(msgspec.Struct, frozen=True):
    """A BpfNode.

    Attributes:
        generation: metadata.generation: number of the spec.
        observed: number of the spec that the status speaks of.
        bundles, reports: by resource.
        happenings: the latest, oldest first.
    """

    name: str
    generation: int = 0
    observed: int = 0
    bundles: Mapping[ResourceKey, Ref] = {}
    reports: Mapping[ResourceKey, Report] = {}
    happenings: tuple[Happened, ...] = ()

    def names(self, key: ResourceKey) -> bool:
        """Whether it shall run this resource, or last said that it does."""
        return key in self.bundles or key in self.reports

    @property
    def occupied(self) -> bool:
        """Whether it shall run something, or last said that it does."""
        return bool(self.bundles or self.reports)


def read_bpf_node(document: Mapping[str, Any]) -> BpfNodeRecord:
    """The record of a BpfNode as the API server has it.

    A status that can't be read counts as none, a spec that can't as empty: both are written anew.
    """
    parts: dict[str, Any] = {"metadata": document["metadata"]}
    for part, model in (("spec", _Spec), ("status", _Status)):
        try:
            parts[part] = msgspec.convert(document.get(part) or {}, model)
        except msgspec.ValidationError:
            parts[part] = model()
    metadata = msgspec.convert(parts["metadata"], _Metadata)
    spec, status = parts["spec"], parts["status"]
    return BpfNodeRecord(
        name=metadata.name,
        generation=metadata.generation,
        observed=status.observed_generation,
        bundles={ref.key: ref for ref in spec.bundles},
        reports={report.key: report for report in status.resources},
        happenings=status.happenings,
    )


def bpf_node_spec(refs: tuple[Ref, ...]) -> dict[str, Any]:
    """`spec` of a BpfNode as the API server takes it."""
    return {"bundles": [msgspec.to_builtins(ref) for ref in refs]}


def unit_report(report: Report) -> UnitReport:
    """A report as the functions for statuses take it; of maps only the node's own status tells."""
    trouble = report.failure
    return UnitReport(
        key=report.key,
        generation=report.generation,
        stage=_stage(report.stage),
        wanted_hash=report.wanted_hash,
        running_hash=report.running_hash,
        attached=tuple(
            Attached(
                running.function,
                place.type,
                place.point,
                place.mode,
                place.position,
                running.prog_id,
                place.link_id,
            )
            for running in report.programs
            for place in running.attachments
        ),
        failure=failure_of(trouble) if trouble else None,
        notes=report.notes,
        fill=fill_of(report),
    )


def fill_of(report: Report) -> tuple[Fill, ...]:
    """How full a node's tables are, as the functions for statuses take it."""
    return tuple(Fill(taken.limit, taken.family, taken.used, taken.size) for taken in report.fill)


def failure_of(trouble: Trouble) -> Failure:
    """A node's trouble as the functions for statuses take it."""
    return Failure(
        _stage(trouble.stage),
        trouble.reason,
        trouble.message,
        trouble.errno,
        trouble.log,
        trouble.hint,
        trouble.permanent,
    )


def _stage(word: str) -> Stage:
    """A stage that only a newer loader knows is told as the first one."""
    return Stage(word) if word in Stage.__members__.values() else Stage.FETCH
