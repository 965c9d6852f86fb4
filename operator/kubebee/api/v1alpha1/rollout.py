"""How a new version of a resource reaches the nodes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubebee.api.v1alpha1.common import (
    ApiModel,
    Bool,
    Int,
    IntOrPercent,
    Line,
    Rule,
    RuledModel,
    Sentence,
    StatusModel,
    Subdomain,
    Time,
    Word,
    exactly_one,
)
from kubebee.api.v1alpha1.selectors import LabelSelector


class Canary(RuledModel):
    """Nodes that get a new generation first."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("nodes", "selector"),)

    nodes: Annotated[tuple[Subdomain, ...], Field(max_length=100)] | None = None
    """Nodes by name."""
    selector: LabelSelector | None = None
    """Nodes by label."""
    min_ready_seconds: Annotated[Int, Field(ge=0, le=86400)] = 30
    """How long it must run there before the others follow."""


class Rollout(ApiModel):
    """How a new generation reaches the nodes."""

    max_unavailable: IntOrPercent = "100%"
    """How many nodes may change at the same time."""
    canary: Canary | None = None
    """Nodes that go first."""
    paused: Bool = False
    """Keep every node at what it runs now."""
    auto_rollback: Bool = False
    """Go back to the last good generation on all nodes when one fails."""


class RolloutStatus(StatusModel):
    """How far the newest version has come, and what the other nodes run."""

    phase: Word
    """Canary, Rolling, Paused, RolledBack or Complete."""
    generation: Int = 0
    """Generation that is being rolled out."""
    bundle: Word = ""
    """Digest of what it asks for."""
    updated: Int = 0
    """Nodes that run it."""
    stable_generation: Int = 0
    """Last generation that ran on all nodes; what a rollback goes back to."""
    stable_bundle: Line = ""
    """ConfigMap with that generation."""
    on_stable: Int = 0
    """Nodes that run that generation."""
    since: Time | None = None
    """When the phase began, RFC 3339."""
    message: Sentence = ""
    """What it waits for, or why it stopped."""
