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
    """How many nodes may be at work on a new generation at the same time; a percentage is rounded up, and it
    is at least one."""
    canary: Canary | None = None
    """Nodes that go first."""
    paused: Bool = False
    """Keep every node at what it runs now; a node that joins gets the last good generation."""
    auto_rollback: Bool = False
    """Go back to the last good generation on all nodes when one fails: at once where only an edit can mend
    it, else after a minute."""


class RolloutStatus(StatusModel):
    """How far the newest version has come, and what the other nodes run."""

    phase: Word
    """Canary, Rolling, Paused, Failed, RolledBack or Complete."""
    generation: Int = 0
    """Generation that is being rolled out."""
    bundle: Word = ""
    """Digest of what it asks for."""
    updated: Int = 0
    """Nodes that were given it."""
    stable_generation: Int = 0
    """Last generation that was ready on all nodes; what a rollback goes back to, and what new nodes get."""
    stable_bundle: Line = ""
    """ConfigMap with that generation."""
    on_stable: Int = 0
    """Nodes that were given that generation."""
    ready_since: Time | None = None
    """Since when all canary nodes are ready, RFC 3339."""
    since: Time | None = None
    """When the phase began, RFC 3339."""
    message: Sentence = ""
    """What it waits for, or why it stopped."""
