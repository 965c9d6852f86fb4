"""Which nodes labels choose."""

from __future__ import annotations

from collections.abc import Mapping

from kubebee.api.v1alpha1.rollout import Canary
from kubebee.api.v1alpha1.selectors import Expression, LabelSelector

Labels = tuple[tuple[str, str], ...]
"""Labels and the values they must have, sorted; none of them: every node."""


def labels_of(selector: object) -> Labels | None:
    """A `nodeSelector`, None where it is none."""
    if selector is None:
        return ()
    if not isinstance(selector, Mapping):
        return None
    pairs = [
        (key, value) for key, value in selector.items() if isinstance(key, str) and isinstance(value, str)
    ]
    return tuple(sorted(pairs)) if len(pairs) == len(selector) else None


def is_canary(canary: Canary, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a node gets a new version first."""
    if canary.nodes is not None:
        return name in canary.nodes
    return canary.selector is not None and matches(canary.selector, labels)


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels fulfil all requirements, as of metav1.LabelSelector."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(expression, labels) for expression in selector.match_expressions
    )


def _holds(expression: Expression, labels: Mapping[str, str]) -> bool:
    if expression.operator == "In":
        return labels.get(expression.key) in expression.values
    if expression.operator == "NotIn":  # holds without the label, too
        return labels.get(expression.key) not in expression.values
    return (expression.key in labels) == (expression.operator == "Exists")


class Selection:
    """The names of the nodes that each selector chooses, kept until a node's labels change."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str]] = {}
        self._chosen: dict[Labels, tuple[str, ...]] = {}

    def put(self, name: str, labels: Mapping[str, str]) -> bool:
        """A node's labels; returns whether they are news."""
        if self._labels.get(name) == labels:
            return False
        self._labels[name] = dict(labels)
        self._chosen.clear()
        return True

    def drop(self, name: str) -> None:
        """There is no such node any more."""
        if self._labels.pop(name, None) is not None:
            self._chosen.clear()

    def chosen(self, selector: Labels) -> tuple[str, ...]:
        """Nodes with all these labels, in order of name."""
        if selector not in self._chosen:
            self._chosen[selector] = tuple(
                sorted(name for name, labels in self._labels.items() if selects(selector, labels))
            )
        return self._chosen[selector]


def selects(selector: Labels, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is chosen."""
    return all(labels.get(key) == value for key, value in selector)
