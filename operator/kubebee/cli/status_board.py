"""Statuses between a pass and the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.planner.plan import ResourceKey

STATUS_SECONDS = 1.0


@dataclass
class StatusBoard:
    """Statuses as last computed, and which of them are not written yet: one write a second and resource."""

    current: dict[ResourceKey, tuple[int, CommonStatus]] = field(default_factory=dict)
    dirty: set[ResourceKey] = field(default_factory=set)
    written_at: dict[ResourceKey, float] = field(default_factory=dict)

    def set(self, key: ResourceKey, generation: int, status: CommonStatus) -> None:
        """Take over a status if it says anything new."""
        known = self.current.get(key)
        if known is None or known != (generation, status):
            self.current[key] = (generation, status)
            self.dirty.add(key)

    def due(self, clock: float) -> list[ResourceKey]:
        """Resources whose status may be written now."""
        return [
            key for key in self.dirty if clock - self.written_at.get(key, -STATUS_SECONDS) >= STATUS_SECONDS
        ]
