"""`kubebee lb trace`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import options, output
from kubebee.cli.exit_codes import Exit
from kubebee.cli.lb.completing import complete_frontend, complete_interface

if TYPE_CHECKING:
    from kubebee.lb.reading import Tables
    from kubebee.trace.packet import Flow

DEFAULT_PORT = 40000
_FLAGS = ("syn", "ack", "fin", "rst")


@click.command()
@click.argument("source", metavar="SRC[:PORT]")
@click.argument("destination", metavar="DST", shell_complete=complete_frontend)
@click.option(
    "-i",
    "--interface",
    default="",
    help="Where it comes in. [default: the interface that leads to SRC]",
    shell_complete=complete_interface,
)
@click.option("--syn", "flags", flag_value="syn", help="TCP: it opens a connection; the default.")
@click.option("--ack", "flags", flag_value="ack", help="TCP: it belongs to an open connection.")
@click.option("--fin", "flags", flag_value="fin", help="TCP: it closes its side.")
@click.option("--rst", "flags", flag_value="rst", help="TCP: it resets the connection.")
@click.option("--length", type=click.IntRange(0, 65535), default=0, help="Bytes of the IP packet.")
@click.option("--ttl", type=click.IntRange(1, 255), default=64, show_default=True, help="TTL or hop limit.")
@click.option(
    "--tunnel", metavar="BACKEND", default="", help="It comes from another balancer to BACKEND: DSR."
)
@click.option(
    "--at",
    type=click.Choice(["xdp", "tc"]),
    default=None,
    help="Who sees it. [default: xdp where the load balancer is there, else tc]",
)
@click.option("--socket", "of_socket", is_flag=True, help="Ask what a process on this node would get.")
@options.bpffs
@output.format_option("text", "json", "yaml")
def trace(
    source: str,
    destination: str,
    interface: str,
    flags: str | None,
    length: int,
    ttl: int,
    tunnel: str,
    at: str | None,
    of_socket: bool,
    bpffs: Path,
    style: str,
) -> None:
    """Tell what would happen to a packet, and why, by running the real program on it.

    SRC is the client, DST an address with port and protocol (10.96.0.10:53/UDP; TCP if it isn't said) or
    the name of a frontend (shop/web:http). The code that the interface runs now gets the packet, with the
    live frontends, backends and rules, and copies of everything that it would write to: nothing is sent, and
    nothing live changes. Run it where kubebee runs: in the node's network namespace.

    Where XDP serves, tc behind it gets what XDP leaves to it, as where a neighbour is not known yet: --at tc
    tells what is done there.

    With --socket nothing is run, as the kernel has no test run for socket programs: the tables say it.

    Exits with 3 if the packet would be dropped or refused.

    \b
    Examples:
      kubebee lb trace 192.0.2.7 shop/web
      kubebee lb trace 192.0.2.7:40000 10.96.0.10:53/UDP --interface eth0
      kubebee lb trace 192.0.2.7:40000 10.200.0.10:80 --ack --length 1500
      kubebee lb trace 10.2.1.2:8080 10.2.1.1:61234 -i eth1 --ack     a backend's answer
      kubebee lb trace 192.0.2.7 shop/web -i eth0 --tunnel 10.244.1.5     as another balancer sends it here
      kubebee lb trace 192.0.2.7 shop/web --at tc
      kubebee lb trace 127.0.0.1 10.96.0.1:443 --socket
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.lb import trace_view
    from kubebee.cli.lb.opening import open_balancer

    with open_balancer(bpffs) as balancer:
        flow = _flow(balancer.tables, source, destination)
        if of_socket:
            from kubebee.trace.sockets import trace_socket

            asked = trace_socket(balancer.pins, flow)
            text, document, lost = (
                trace_view.socket_text(asked),
                trace_view.socket_document(asked),
                trace_view.is_refused(asked),
            )
        else:
            from kubebee.trace import gather
            from kubebee.trace.live import At
            from kubebee.trace.packet import TcpFlag

            tcp = {"syn": TcpFlag.SYN, "ack": TcpFlag.ACK, "fin": TcpFlag.FIN | TcpFlag.ACK}
            wanted = gather.Asked(
                flow=flow,
                interface=interface or _way_in(flow),
                tcp_flags=tcp.get(flags or "syn", TcpFlag.RST),
                ip_length=length,
                ttl=ttl,
                tunnel=_backend(flow, tunnel),
                at=At(at) if at else None,
            )
            traced = gather.trace(balancer.pins, wanted)
            text, document, lost = (
                trace_view.text(traced),
                trace_view.document(traced),
                trace_view.is_lost(traced),
            )
    click.echo(text if style == "text" else output.document(style, document))
    sys.exit(Exit.NOT_READY if lost else Exit.OK)


def _way_in(flow: Flow) -> str:
    from kubebee.cli.lb.naming import EndError
    from kubebee.lb.model import format_address
    from kubebee.trace.gather import way_to

    found = way_to(flow.source)
    if found is None:
        raise EndError(
            f"no route leads to {format_address(flow.source)}: where its packets come in is not known",
            hint="say it by --interface",
        )
    return found


def _backend(flow: Flow, tunnel: str) -> bytes:
    """The outer destination, from what was typed."""
    from kubebee.cli.lb.naming import EndError
    from kubebee.lb.model import parse_address

    address = parse_address(tunnel) if tunnel else b""
    if address and len(address) != len(flow.source):
        raise EndError(f"--tunnel {tunnel} and the packet inside are of different families")
    return address


def _flow(every: tuple[Tables, ...], source: str, destination: str) -> Flow:
    """The two ends, from what was typed."""
    from kubebee.cli.lb.naming import EndError, find_frontends, parse_end
    from kubebee.lb.model import Protocol
    from kubebee.trace.packet import Flow

    client = parse_end(source)
    try:
        end = parse_end(destination)
    except EndError:
        keys = [key for _, key in find_frontends(every, destination)]
        keys = [key for key in keys if len(key.address) == len(client.address)]
        if len(keys) != 1:
            named = ", ".join(map(str, keys)) or "none of the client's family"
            raise EndError(f"{destination!r} means several frontends: {named}", hint="name one") from None
        address, port, protocol = keys[0]
    else:
        address, port, protocol = end.address, end.port, end.protocol or client.protocol or Protocol.TCP
    if not port:
        raise EndError(f"{destination!r} says no port", hint="write one as in 10.96.0.10:53/UDP")
    if len(address) != len(client.address):
        raise EndError(f"{source} and {destination} are of different families")
    return Flow(client.address, client.port or DEFAULT_PORT, address, port, int(protocol))
