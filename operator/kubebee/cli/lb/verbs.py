"""`kubebee lb`: its verbs."""

from __future__ import annotations

import click

from kubebee.cli.lb.flows import flows
from kubebee.cli.lb.frontends import get, list_
from kubebee.cli.lb.top import top
from kubebee.cli.lb.trace import trace


@click.group()
def lb() -> None:
    """The load balancer of this node: frontends, backends, connections, and what happens to a packet.

    Everything is read from the kernel, and nothing is changed there. No kubebee need be running.

    \b
    Examples:
      kubebee lb list
      kubebee lb get shop/web
      kubebee lb flows --client 192.0.2.7
      kubebee lb trace 192.0.2.7:40000 10.96.0.10:53/UDP
      kubebee lb top
    """  # noqa: D301 (click wants the character)


for _verb in (list_, get, flows, trace, top):
    lb.add_command(_verb)
