"""The loader's DaemonSet: the chart's manifest, on the nodes that something is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes need a loader.

    Attributes:
        everywhere: all nodes.
        selectors: label maps, sorted; a node with all labels of one of them needs a loader.
        names: nodes that none of them selects and that still run something of ours, sorted.
    """

    everywhere: bool = False
    selectors: tuple[tuple[tuple[str, str], ...], ...] = ()
    names: tuple[str, ...] = ()

    @property
    def nowhere(self) -> bool:
        """Whether no node needs one."""
        return not (self.everywhere or self.selectors or self.names)


def daemonset(manifest: Mapping[str, Any], placement: Placement) -> dict[str, Any] | None:
    """The DaemonSet to apply, None where there shall be none.

    Args:
        manifest: of the chart; its own node affinity and nodeSelector go on to hold.
        placement: where loaders are needed.
    """
    raise NotImplementedError
