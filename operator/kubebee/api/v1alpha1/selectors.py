"""Which nodes, pods and network interfaces something is for."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from kubebee.api.v1alpha1.common import (
    LATER,
    ApiModel,
    Bool,
    InterfaceName,
    LabelKey,
    LabelValue,
    LabelValues,
    Rule,
    RuledModel,
    Word,
)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        # An invalid expression must never be read as "all interfaces".
        raise PydanticCustomError(
            "regex", "'{pattern}' is not a regular expression: {why}", {"pattern": pattern, "why": str(error)}
        ) from error
    return pattern


Regex = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_compiles)]


class Expression(RuledModel):
    """One requirement on a label."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",  # Selectors sit deep in lists of lists, which is beyond the API server's budget for rules.
            "values belong to the operators In and NotIn, and they need at least one",
            lambda self: (self.operator in ("In", "NotIn")) == bool(self.values),
        ),
    )

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How its value compares with `values`."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = ()
    """Values for In and NotIn."""


class LabelSelector(ApiModel):
    """Objects by their labels; all requirements must hold, an empty selector matches everything."""

    match_labels: LabelValues = Field(default_factory=dict)
    """Labels and the values they must have."""
    match_expressions: Annotated[tuple[Expression, ...], Field(max_length=32)] = ()
    """Further requirements."""


class PodTargets(ApiModel):
    """Containers of pods on the node."""

    selector: LabelSelector
    """Labels of the pods."""
    namespaces: Annotated[tuple[Word, ...], Field(max_length=64)] = ()
    """Namespaces of the pods; none given: all."""
    containers: Annotated[tuple[Word, ...], Field(max_length=32)] = ()
    """Names of the containers; none given: all."""


class Interfaces(RuledModel):
    """Network interfaces of a node, as they come and go.

    An interface is chosen when any of names, regexes, primary or all chooses it and exclude does not.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.names) && self.names.size() > 0) || (has(self.regexes) && self.regexes.size() > 0)"
            " || (has(self.primary) && self.primary) || (has(self.all) && self.all) || has(self.pods)",
            "no interface is chosen: set names, regexes, primary, all or pods",
            lambda self: bool(self.names or self.regexes or self.primary or self.all or self.pods),
        ),
    )

    names: Annotated[tuple[InterfaceName, ...], Field(max_length=64)] = ()
    """Exact names. One that does not exist yet is attached as soon as it appears."""
    regexes: Annotated[tuple[Regex, ...], Field(max_length=16)] = ()
    """Regular expressions that the whole name must match: `eth` does not match `veth0`."""
    primary: Bool = False
    """The interfaces of the node's default routes."""
    all: Bool = False
    """All interfaces except loopback."""
    exclude: Annotated[tuple[Regex, ...], Field(max_length=16)] = ()
    """Regular expressions of whole names that are left out, whatever chose them."""
    pods: Annotated[PodTargets | None, LATER] = None
    """Interfaces inside the network namespaces of these pods, instead of the node's own."""
