"""What every store gives the agent: all resources at one moment, and a place for their statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from kubebee.errors import KubebeeError
from kubebee.lb.services.objects import PodObject, ServiceObject, SliceObject
from kubebee.planner.declared import Declared
from kubebee.planner.plan import ResourceKey
from kubebee.store.state import EventRecord, ServicesRecord


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that is not taken, and why. `key` is None where even its name can't be told.

    Attributes:
        generation: of the edit that is not taken; the version before it stays in force, if there is one.
        version: its digest where the store has one.
    """

    key: ResourceKey | None
    error: KubebeeError
    generation: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a store says at one moment.

    Attributes:
        look_again: seconds after which to scan again, because a file may be half written; 0: no need to.
        generation: of the node's own object, where the store has one.
        services, slices, pods: Services, EndpointSlices and Pods where they come with the resources.
    """

    resources: tuple[Declared, ...]
    config_maps: dict[tuple[str, str], dict[str, str]]
    rejected: tuple[Rejected, ...]
    look_again: float = 0.0
    generation: int = 0
    services: tuple[ServiceObject, ...] = ()
    slices: tuple[SliceObject, ...] = ()
    pods: tuple[PodObject, ...] = ()


class Store(Protocol):
    """Where the agent of one node takes resources from and publishes to."""

    def scan(self) -> Snapshot:
        """What is in force now.

        Raises:
            KubebeeError: nothing can be told.
        """

    def stale(self) -> bool:
        """Whether there is news that `changes` did not tell of."""

    def changes(self) -> AsyncIterator[None]:
        """Yield once for each burst of changes."""

    def save(self) -> None:
        """Keep what `scan` returned last over a restart; called once the kernel has it.

        Raises:
            OSError: it can't be kept; it is tried again at the next call.
        """

    def publish(self, key: ResourceKey, document: dict[str, object]) -> None:
        """Take the newest status of a resource or of the node; what it has no place for it drops.

        Raises:
            OSError: it can't be written; it is tried again a second later.
        """

    def publish_events(self, events: list[EventRecord]) -> None:
        """Take the recent Events, newest last.

        Raises:
            OSError: they can't be written; it is tried again a second later.
        """

    def publish_services(self, record: ServicesRecord | None) -> None:
        """Take what there is to say of Services; None: nobody wants any.

        Raises:
            OSError: it can't be written; it is tried again a second later.
        """

    def earlier_events(self) -> list[EventRecord]:
        """Events of earlier runs; empty where none are kept."""
