"""How large ServiceLB's maps have to be: a map's size is fixed when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kubebee.lb.model import Frontend
from kubebee.lb.tables import rows_of, table_size

_LEAST = {
    "kb_lb_fe": 4096,
    "kb_lb_slots": 16384,
    "kb_lb_be": 16384,
    "kb_lb_be_stat": 16384,
    "kb_lb_fe_stat": 4096,
}
"""For a node with few frontends: about 3 MiB of kernel memory on 2 CPUs."""

_GROWTH = 2
"""Room for as much again, which also holds new tables and backends beside those they replace."""


class Need(NamedTuple):
    """What frontends occupy; needs of several sets of frontends add up."""

    frontends: int = 0
    backends: int = 0
    rows: int = 0

    def plus(self, other: Need) -> Need:
        """What both sets occupy."""
        return Need(*(mine + its for mine, its in zip(self, other, strict=True)))


def need_of(frontends: Iterable[Frontend]) -> Need:
    """Return what `frontends` occupy."""
    count = backends = rows = 0
    for frontend in frontends:
        count += 1
        rows += rows_of(table_size(frontend.backends))
        if frontend.inside is None:
            backends += len(frontend.backends)
        else:
            backends += len({*frontend.backends, *frontend.inside})
            rows += rows_of(table_size(frontend.inside))
    return Need(count, backends, rows)


def map_sizes(need: Need) -> dict[str, int]:
    """Return max_entries by map name, powers of two, with room to grow.

    Maps that exist need not be made anew while each is at least half of it. 10,000 frontends of 10
    backends each take 2,097,152 rows, which are 128 MiB of kernel memory.
    """
    entries = {
        "kb_lb_fe": 2 * need.frontends,  # one entry each, and one an address
        "kb_lb_slots": need.rows,
        "kb_lb_be": need.backends,
        "kb_lb_be_stat": need.backends,
        "kb_lb_fe_stat": need.frontends,
    }
    return {
        name: max(_LEAST[name], 1 << max(_GROWTH * number - 1, 0).bit_length())
        for name, number in entries.items()
    }
