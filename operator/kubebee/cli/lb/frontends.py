"""`kubebee lb list` and `get`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import options, output
from kubebee.cli.lb.completing import complete_frontend

if TYPE_CHECKING:
    from kubebee.cli.lb.opening import Balancer
    from kubebee.cli.lb.tables import Detail
    from kubebee.lb.reading import Shown, Tables


@click.command("list")
@click.argument("frontends", metavar="[FRONTEND]...", nargs=-1, shell_complete=complete_frontend)
@options.bpffs
@output.format_option("table", "json", "yaml")
def list_(frontends: tuple[str, ...], bpffs: Path, style: str) -> None:
    """List frontends: what declared them, how they forward, backends that take connections, of how many.

    FRONTEND is an address (10.96.0.10, 10.96.0.10:53, 10.96.0.10:53/UDP) or a name (shop/web, shop/web:http,
    Service/shop/web).

    \b
    Examples:
      kubebee lb list
      kubebee lb list default/kubernetes
      kubebee lb list -o json | jq '.[] | select(.backends.active == 0) | .name'
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.lb import tables as view
    from kubebee.cli.lb.naming import chosen
    from kubebee.cli.lb.opening import open_balancer
    from kubebee.lb.reading import counts

    with open_balancer(bpffs) as balancer:
        found = []
        for tables, shown in chosen(balancer.tables, frontends):
            stats = counts(balancer.maps, tables, shown).frontends
            found += [(each, stats[each.key]) for each in shown]
    if style == "table":
        click.echo(view.list_table(found))
    else:
        click.echo(output.document(style, [view.list_document(*each) for each in found]))


@click.command()
@click.argument("frontend", shell_complete=complete_frontend)
@options.bpffs
@output.format_option("table", "json", "yaml")
def get(frontend: str, bpffs: Path, style: str) -> None:
    """Show a frontend: its backends with state, share, next hop and counters.

    FRONTEND is an address (10.96.0.10:53/UDP) or a name (shop/web:http); a Service with several addresses or
    ports has several frontends.

    \b
    Examples:
      kubebee lb get 10.96.0.10:53/UDP
      kubebee lb get shop/web
      kubebee lb get shop/web -o json | jq '.[].backends[] | select(.state == "Draining")'
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.lb import tables as view
    from kubebee.cli.lb.naming import chosen
    from kubebee.cli.lb.opening import open_balancer

    with open_balancer(bpffs) as balancer:
        found = [
            _detail(balancer, tables, shown)
            for tables, each in chosen(balancer.tables, (frontend,))
            for shown in each
        ]
    if style == "table":
        click.echo("\n\n".join(map(view.detail_text, found)))
    else:
        click.echo(output.document(style, [view.detail_document(each) for each in found]))


def _detail(balancer: Balancer, tables: Tables, shown: Shown) -> Detail:
    from kubebee.cli.lb import tables as view
    from kubebee.lb.reading import counts, shares

    outside, inside = shares(balancer.maps, tables, shown)
    counted = counts(balancer.maps, tables, [shown])
    return view.Detail(
        shown=shown,
        total=counted.frontends[shown.key],
        counts=counted.backends,
        outside=outside,
        inside=inside,
    )
