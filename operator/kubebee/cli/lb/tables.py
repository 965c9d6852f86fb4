"""Frontends, backends and flows as tables for people and documents for programs."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubebee.cli import output
from kubebee.lb.flows import FoundFlow
from kubebee.lb.layout import NextHop, Stat
from kubebee.lb.model import Backend, FrontendKey, format_address
from kubebee.lb.reading import Member, Shown

NONE = "-"
_LIST = ("FRONTEND", "NAME", "FORWARDING", "AFFINITY", "BACKENDS", "CONNECTIONS", "PACKETS")
_FLOWS = ("CLIENT", "FRONTEND", "BACKEND", "FROM", "STATE", "IDLE", "EXPIRES")
_Document = dict[str, object]


def list_table(frontends: Sequence[tuple[Shown, Stat]]) -> str:
    """A row a frontend."""
    if not frontends:
        return "no frontends"
    return output.table(_LIST, [_list_row(shown, stat) for shown, stat in frontends])


def _list_row(shown: Shown, stat: Stat) -> tuple[object, ...]:
    staying = sum(1 for member in shown.members if not member.leaving)
    forwarding = "sockets only" if shown.sockets_only else shown.forwarding.value
    return (
        shown.key,
        shown.name or NONE,
        forwarding,
        seconds(shown.value.affinity) if shown.value.affinity else NONE,
        f"{shown.active}/{staying}",
        stat.connections,
        stat.packets,
    )


def list_document(shown: Shown, stat: Stat) -> _Document:
    """A frontend without its backends."""
    staying = sum(1 for member in shown.members if not member.leaving)
    return {
        "name": shown.name,
        **_key(shown.key),
        "forwarding": shown.forwarding.value,
        "algorithm": shown.algorithm,
        "affinitySeconds": shown.value.affinity,
        "sourceRanges": [str(prefix) for prefix in shown.source_ranges],
        "socketsOnly": shown.sockets_only,
        "dropOutside": shown.drop_outside,
        "backends": {
            "active": shown.active,
            "total": staying,
            "draining": len(shown.members) - staying,
        },
        **_stat(stat),
    }


@dataclass(frozen=True)
class Detail:
    """A frontend with all that is known of it.

    Attributes:
        counts: of each backend, by number.
        outside, inside: slots of each backend, by number, in the two tables.
    """

    shown: Shown
    total: Stat
    counts: Mapping[int, Stat]
    outside: Mapping[int, int]
    inside: Mapping[int, int]


def detail_text(detail: Detail) -> str:
    """A frontend, then its backends."""
    shown, value = detail.shown, detail.shown.value
    facts = [
        ("Frontend", shown.key),
        ("Name", shown.name or NONE),
        ("Forwarding", shown.forwarding.value),
        ("Algorithm", shown.algorithm),
        ("Affinity", f"by client, {seconds(value.affinity)}" if value.affinity else "none"),
        ("May come", _who(shown)),
        ("Tables", _tables(shown)),
        ("Connections", detail.total.connections),
        ("Packets", f"{detail.total.packets} ({detail.total.ip_bytes} bytes)"),
    ]
    head = "\n".join(f"{f'{name}:':<13}{fact}" for name, fact in facts)
    if not shown.members:
        return f"{head}\n\nno backends: {_without_backends(shown)}"
    headers = ["BACKEND", "STATE", "WEIGHT", "SHARE", "NEXT HOP", "CONNECTIONS", "PACKETS"]
    if shown.split:
        headers[3:4] = ["OUTSIDE", "INSIDE"]
    return f"{head}\n\n{output.table(headers, [_backend_row(detail, member) for member in shown.members])}"


def _who(shown: Shown) -> str:
    if shown.sockets_only:
        return "processes of this node only"
    if shown.source_ranges:
        return "from " + ", ".join(map(str, shown.source_ranges)) + ", and processes of this node"
    return "everybody"


def _tables(shown: Shown) -> str:
    value = shown.value
    if not shown.split:
        return f"{value.size} slots"
    return f"{value.size} slots for packets, {value.inside_size} for this node's sockets"


def _without_backends(shown: Shown) -> str:
    return "packets are dropped" if shown.drop_outside else "clients are refused"


def _backend_row(detail: Detail, member: Member) -> tuple[object, ...]:
    value, stat = detail.shown.value, detail.counts[member.number]
    cells = [share(detail.outside.get(member.number, 0), value.size)]
    if detail.shown.split:
        cells.append(share(detail.inside.get(member.number, 0), value.inside_size))
    backend, hop = member.backend, hop_text(member.hop)
    return (backend, member.state, backend.weight, *cells, hop, stat.connections, stat.packets)


def detail_document(detail: Detail) -> _Document:
    """A frontend with its backends."""
    value = detail.shown.value
    return list_document(detail.shown, detail.total) | {
        "slots": {"outside": value.size, "inside": value.inside_size},
        "backends": [_backend_document(detail, member) for member in detail.shown.members],
    }


def _backend_document(detail: Detail, member: Member) -> _Document:
    hop, backend = member.hop, member.backend
    return {
        "number": member.number,
        "address": format_address(backend.address),
        "port": backend.port,
        "weight": backend.weight,
        "state": member.state,
        "slots": {
            "outside": detail.outside.get(member.number, 0),
            "inside": detail.inside.get(member.number, 0),
        },
        "nextHop": _hop(hop) if hop else None,
        **_stat(detail.counts[member.number]),
    }


def flows_table(flows: Sequence[tuple[FoundFlow, Backend | None]]) -> str:
    """A row a flow, with its backend if that is still known."""
    if not flows:
        return "no flows"
    return output.table(_FLOWS, [_flow_row(*each) for each in flows])


def _flow_row(found: FoundFlow, backend: Backend | None) -> tuple[object, ...]:
    key, flow = found.key, found.flow
    return (
        str(Backend(key.saddr, key.sport)),
        found.frontend,
        str(backend) if backend else f"number {found.backend}",
        str(Backend(flow.nat_address, flow.nat_port)),
        found.state,
        seconds(round(found.idle)),
        seconds(max(0, round(found.timeout - found.idle))),
    )


def flow_document(found: FoundFlow, backend: Backend | None) -> _Document:
    """A flow."""
    key, flow = found.key, found.flow
    return {
        "client": {"address": format_address(key.saddr), "port": key.sport},
        "frontend": _key(found.frontend),
        "backend": {"address": format_address(backend.address), "port": backend.port} if backend else None,
        "from": {"address": format_address(flow.nat_address), "port": flow.nat_port},
        "state": found.state,
        "idleSeconds": round(found.idle, 3),
        "timeoutSeconds": found.timeout,
    }


def _key(key: FrontendKey) -> _Document:
    return {"address": format_address(key.address), "port": key.port, "protocol": key.protocol.name}


def _stat(stat: Stat) -> _Document:
    return {"connections": stat.connections, "packets": stat.packets, "bytes": stat.ip_bytes}


def _hop(hop: NextHop) -> _Document:
    return {"interface": interface_name(hop.ifindex), "mac": hop.macs[:6].hex(":"), "mtu": hop.mtu}


def hop_text(hop: NextHop | None) -> str:
    """How a backend is reached."""
    return f"{interface_name(hop.ifindex)} {hop.macs[:6].hex(':')}" if hop else "by routes"


def interface_name(ifindex: int) -> str:
    """Of this network namespace; its number if it has none here."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"


def share(slots: int, size: int) -> str:
    """A part of a table."""
    return f"{slots / size:.1%}" if size else NONE


def seconds(number: int) -> str:
    """A time in its largest two units: 5425 is 1h30m."""
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for name, length in units:
        count, number = divmod(number, length)
        if count and len(parts) < 2:
            parts.append(f"{count}{name}")
        elif parts:
            break
    return "".join(parts) or "0s"
