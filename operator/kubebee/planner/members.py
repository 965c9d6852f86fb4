"""The versions of a resource and the nodes that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kubebee.api.v1alpha1.rollout import RolloutStatus
from kubebee.planner.nodes import Report, Trouble
from kubebee.planner.plan import ResourceKey
from kubebee.planner.wire import bundle_name, digest_in

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource.

    Attributes:
        generation: the first that came to it.
        digest, config_map: as in `wire.Encoded`.
    """

    generation: int
    digest: str
    config_map: str


@dataclass(frozen=True, slots=True)
class Member:
    """A node that a resource is for.

    Attributes:
        up: the node is Ready.
        down_since: since when it is not, None where it is or that is unknown.
        canary: it goes first.
        has: digest of the version that its BpfNode names, empty for none.
        report: what it last said of the resource.
    """

    name: str
    up: bool = True
    down_since: datetime | None = None
    canary: bool = False
    has: str = ""
    report: Report | None = None

    def runs(self, digest: str) -> bool:
        """Whether it was given this version and runs it in full."""
        return self.has == digest and self.report is not None and self.report.ready(digest)

    def failure(self, digest: str) -> Trouble | None:
        """Why it does not run this version, where it tried."""
        if self.has == digest and self.report is not None and self.report.failed(digest):
            return self.report.failure
        return None


def stable_version(record: RolloutStatus | None) -> Version | None:
    """The last version that was ready on all nodes."""
    if record is None or not record.stable_bundle:
        return None
    return Version(record.stable_generation, digest_in(record.stable_bundle), record.stable_bundle)


def recorded_version(key: ResourceKey, record: RolloutStatus | None) -> Version | None:
    """The version that the record is about."""
    if record is None or not record.bundle:
        return None
    return Version(record.generation, record.bundle, bundle_name(key, record.bundle))


def names(members: Sequence[Member]) -> str:
    """The first few by name, the others by number."""
    shown = ", ".join(member.name for member in members[:_NAMED])
    return f"{shown} and {len(members) - _NAMED} more" if len(members) > _NAMED else shown
