"""What the shell may complete: frontends and interfaces."""

from __future__ import annotations

import socket

import click

from kubebee.cli import options


def complete_frontend(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Addresses and names of frontends; none if the maps can't be read."""
    from kubebee.cli.lb.opening import open_balancer
    from kubebee.errors import KubebeeError

    try:
        with open_balancer(ctx.params.get("bpffs") or options.DEFAULT_BPFFS) as balancer:
            every = [shown for tables in balancer.tables for shown in tables.every()]
    except (KubebeeError, OSError):
        return []
    words = [word for shown in every for word in (str(shown.key), shown.name.partition("/")[2])]
    return sorted({word for word in words if word and word.startswith(incomplete)})


def complete_interface(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Interfaces of this network namespace."""
    return [name for _, name in socket.if_nameindex() if name.startswith(incomplete)]
