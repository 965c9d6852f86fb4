"""What the planner is given: valid resources with what their store knows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kubebee.api.v1alpha1.bpfprogram import TemplateSource
from kubebee.api.v1alpha1.resources import AnyResource
from kubebee.lb.services.claims import Shape
from kubebee.planner.frontends import Balanced
from kubebee.planner.plan import ResourceKey
from kubebee.policy.model import Policy
from kubebee.toolchain.diagnostics import SourceLine

Prepared = Balanced | Policy | None
"""What a ServiceLB or a HostPolicy comes to; nothing for other kinds."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A template's result, and for each of its lines where it comes from."""

    text: str
    line_map: tuple[SourceLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """A resource in force.

    Attributes:
        created: RFC 3339; of two resources that claim one thing the older has it.
        prepared: what `planner.prepare` made of it.
        rendered: C text that came with it, in place of its template or ConfigMap.
        version: digest of all this where the store has one; equal ones are the same whatever the generation.
    """

    key: ResourceKey
    resource: AnyResource
    generation: int
    created: str
    prepared: Prepared = None
    rendered: Rendered | None = None
    version: str = ""

    @property
    def seniority(self) -> tuple[str, str]:
        """Sort key: the oldest first."""
        return (self.created, self.key.name)


@dataclass(frozen=True, slots=True)
class Node:
    """The node that is planned for."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Everything a plan depends on.

    Attributes:
        config_maps: data by (namespace, name).
        render: turns a template source into C; raises KubebeeError.
        services: what the datapath needs for the Services that are served, as far as they are known.
    """

    resources: tuple[Declared, ...]
    config_maps: Mapping[tuple[str, str], Mapping[str, str]]
    node: Node
    render: Callable[[TemplateSource], Rendered]
    services: Shape = field(default_factory=Shape)
