"""How full the load balancer's tables are over all nodes: pure, and slow to change its mind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kubebee.api.v1alpha1.servicelb import FullestTable, ServiceLBStatus
from kubebee.api.v1alpha1.status import CommonStatus, TableFill
from kubebee.lb.fill import Fill

STEP = 5
"""Percentage points by which another node has to be fuller to be named: those about alike take no turns."""


def table_fill(fill: Fill) -> TableFill:
    """As the API has it."""
    return TableFill(**_fields(fill))


def balancer_status(
    status: CommonStatus,
    reports: Iterable[tuple[str, Iterable[Fill]]],
    previous: CommonStatus | None = None,
) -> ServiceLBStatus:
    """A ServiceLB's status with what its nodes say of their tables.

    Args:
        status: all else.
        reports: by name of the node, in order.
        previous: the status before: of nodes that are about as full it names the same one.
    """
    by_table: dict[tuple[str, str], dict[str, Fill]] = {}
    for node, fills in reports:
        for fill in fills:
            by_table.setdefault(fill.key, {})[node] = fill
    known = previous.fill if isinstance(previous, ServiceLBStatus) else ()
    named = {(table.limit, table.family): table.node for table in known}
    fullest = tuple(_fullest(nodes, named.get(key, "")) for key, nodes in by_table.items())
    first = max(fullest, key=lambda table: table.percent, default=None)
    return ServiceLBStatus(
        **{name: getattr(status, name) for name in CommonStatus.model_fields},
        fill=fullest,
        fullest=f"{first.limit} {first.percent}%" if first else "",
    )


def _fullest(nodes: dict[str, Fill], named: str) -> FullestTable:
    node = max(nodes, key=lambda name: nodes[name].percent)
    if named in nodes and nodes[node].percent < nodes[named].percent + STEP:
        node = named
    return FullestTable(**_fields(nodes[node]), node=node)


def _fields(fill: Fill) -> dict[str, Any]:
    return {name: getattr(fill, name) for name in TableFill.model_fields}
