"""`kubebee lb flows`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import options, output
from kubebee.cli.lb.completing import complete_frontend

if TYPE_CHECKING:
    from kubebee.cli.lb.opening import Balancer
    from kubebee.lb.flows import FoundFlow, Wanted
    from kubebee.lb.model import Backend
    from kubebee.lb.reading import Tables

DEFAULT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the options say; "" = anything."""

    frontend: str
    client: str
    backend: str


@click.command()
@click.option("--frontend", default="", help="Only those of a frontend.", shell_complete=complete_frontend)
@click.option("--client", default="", help="Only those from an address, with or without port, or a range.")
@click.option("--backend", default="", help="Only those to an address, with or without port.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Show at most so many; 0 shows all.",
)
@click.option("--count", is_flag=True, help="Say only how many there are.")
@options.bpffs
@output.format_option("table", "json", "yaml")
def flows(frontend: str, client: str, backend: str, limit: int, count: bool, bpffs: Path, style: str) -> None:
    """Show connections that SNAT keeps: client, backend, state, and when they are forgotten.

    They are in no order. Those of DSR are not shown, and the node's own sockets need no such table.

    \b
    Examples:
      kubebee lb flows
      kubebee lb flows --frontend shop/web --client 192.0.2.0/24 --limit 0
      kubebee lb flows --backend 10.2.1.2:8080 -o json | jq -r '.[].client.address' | sort | uniq -c
      kubebee lb flows --count
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.lb import tables as view
    from kubebee.cli.lb.opening import open_balancer

    asked = _Asked(frontend, client, backend)
    with open_balancer(bpffs) as balancer:
        if count:
            click.echo(_count(balancer, asked))
            return
        found = list(itertools.islice(_find(balancer, asked), limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if style == "table":
        click.echo(view.flows_table(shown))
    else:
        click.echo(output.document(style, [view.flow_document(*each) for each in shown]))
    if len(found) > len(shown):
        click.echo(f"only the first {limit} that were found; --limit 0 shows all", err=True)


def _find(balancer: Balancer, asked: _Asked) -> Iterator[tuple[FoundFlow, Backend | None]]:
    from kubebee.lb import flows as search
    from kubebee.lb.model import Backend

    now = time.monotonic_ns()
    for tables, wanted in _searches(balancer, asked):
        for found in search.find(balancer.maps, tables.family, tables.backends, wanted, now):
            value = tables.backends.get(found.backend)
            yield found, Backend(*value[:3]) if value else None


def _count(balancer: Balancer, asked: _Asked) -> int:
    from kubebee.lb import flows as search

    return sum(
        search.count(balancer.maps, tables.family, wanted) for tables, wanted in _searches(balancer, asked)
    )


def _searches(balancer: Balancer, asked: _Asked) -> Iterator[tuple[Tables, Wanted]]:
    """What to look for in each family; a family in which nothing can be found is left out."""
    from kubebee.cli.lb.naming import find_frontends, parse_end, parse_range
    from kubebee.lb.flows import Wanted

    frontends = find_frontends(balancer.tables, asked.frontend) if asked.frontend else []
    client, port = parse_range(asked.client) if asked.client else (None, 0)
    backend = parse_end(asked.backend) if asked.backend else None
    for tables in balancer.tables:
        keys = frozenset(key for of, key in frontends if of is tables)
        numbers: frozenset[int] = frozenset()
        if backend is not None:
            numbers = frozenset(
                number
                for number, value in tables.backends.items()
                if value.address == backend.address and backend.port in (0, value.port)
            )
        impossible = (frontends and not keys) or (backend and not numbers)
        if client is not None and len(client.address) != tables.family.address_bytes:
            impossible = True
        if not impossible:
            yield tables, Wanted(keys, client, port, numbers)
