"""How large ServiceLB's maps have to be: a map's size is fixed when it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kubebee.lb.family import FAMILIES, IPV4, IPV6, Family
from kubebee.lb.layout import ROW_SLOTS
from kubebee.lb.model import Frontend
from kubebee.lb.served import flags_of, keeps_connections
from kubebee.lb.tables import rows_of, table_size

_GROWTH = 2
"""Room for as much again, which also holds new tables and backends beside those they replace."""


class Need(NamedTuple):
    """What frontends of one family occupy; needs of several sets of them add up.

    Attributes:
        rows: of the slot array.
        ranges: source ranges.
    """

    frontends: int = 0
    backends: int = 0
    rows: int = 0
    ranges: int = 0

    def plus(self, other: Need) -> Need:
        """What both sets occupy."""
        return Need(*(mine + its for mine, its in zip(self, other, strict=True)))


_LEAST = Need(4096, 16384, 16384, 4096)
"""Entries for a node with few frontends: about 3 MiB of kernel memory a family on 2 CPUs."""


class Needs(NamedTuple):
    """What frontends of both families occupy."""

    ipv4: Need = Need()
    ipv6: Need = Need()

    def plus(self, other: Needs) -> Needs:
        """What both sets occupy."""
        return Needs(self.ipv4.plus(other.ipv4), self.ipv6.plus(other.ipv6))

    @property
    def families(self) -> Mapping[Family, Need]:
        """By family; IPv6 only where it has a frontend, for else it has no maps."""
        return {IPV4: self.ipv4} | ({IPV6: self.ipv6} if self.ipv6.frontends else {})


def need_of(frontends: Iterable[Frontend]) -> Need:
    """Return what `frontends`, of one family, occupy."""
    count = backends = rows = ranges = 0
    for frontend in frontends:
        count += 1
        own = rows_of(table_size(frontend.backends))
        # With the table before, and a row, behind it: for hours after each change.
        rows += 2 * own + 1 if keeps_connections(frontend.key, flags_of(frontend)) else own
        ranges += len(frontend.source_ranges)
        if frontend.inside is None:
            backends += len(frontend.backends)
        else:
            backends += len({*frontend.backends, *frontend.inside})
            rows += rows_of(table_size(frontend.inside))
    return Need(count, backends, rows, ranges)


def needs_of(frontends: Collection[Frontend]) -> Needs:
    """Return what `frontends` occupy."""
    lengths = (family.address_bytes for family in FAMILIES)
    return Needs(
        *(need_of(each for each in frontends if len(each.key.address) == length) for length in lengths)
    )


def map_sizes(needs: Needs) -> dict[str, int]:
    """Return max_entries by map name, powers of two, with room to grow.

    Maps that exist need not be made anew while each is at least half of it. 10,000 frontends of 10
    backends each take 2,097,152 rows, which are 128 MiB of kernel memory.
    """
    sizes: dict[str, int] = {}
    for family, need in needs.families.items():
        frontends, backends, rows, ranges = (
            max(least, 1 << max(_GROWTH * number - 1, 0).bit_length())
            for least, number in zip(_LEAST, need._replace(frontends=2 * need.frontends), strict=True)
        )
        sizes |= {
            family.frontends: frontends,  # one entry each, and one an address
            family.slots: rows,
            family.backends: backends,
            family.backend_counts: backends,
            family.here: backends,
            family.frontend_counts: frontends,
            family.sources: ranges,
            family.names: frontends,
        }
    return sizes


class Limits(NamedTuple):
    """What users say of sizes, of each family; 0 = nothing."""

    frontends: int = 0
    backends: int = 0
    slots: int = 0
    flows: int = 0

    def largest(self, other: Limits) -> Limits:
        """The larger of each."""
        return Limits(*map(max, self, other))


def fixed_sizes(needs: Needs, limits: Limits) -> dict[str, int]:
    """Return max_entries by name of the maps that limits decide, whatever is needed.

    A frontend takes two entries: its own and, if nobody else has it, its address's.
    """
    sizes: dict[str, int] = {}
    for family in needs.families:
        sizes |= {
            family.frontends: 2 * limits.frontends,
            family.frontend_counts: limits.frontends,
            family.names: limits.frontends,
            family.slots: -(-limits.slots // ROW_SLOTS),
            family.backends: limits.backends,
            family.backend_counts: limits.backends,
            family.here: limits.backends,
            family.flows: limits.flows,
            family.reverse: limits.flows,
            family.dsr_flows: limits.flows,
        }
    return {name: size for name, size in sizes.items() if size}
