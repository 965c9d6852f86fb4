"""A trace for people: every decision a line, and one sentence; and the same for programs."""

from __future__ import annotations

from collections.abc import Iterator

from kubebee import drops
from kubebee.cli.lb.tables import seconds, share
from kubebee.lb.family import IPV6
from kubebee.lb.model import Forwarding, FrontendKey, format_address
from kubebee.lb.reading import Member, Shown
from kubebee.loader.counted import WENT_ON
from kubebee.trace.decisions import Connection, Ending, Habit, Trace
from kubebee.trace.live import At, is_balancer
from kubebee.trace.packet import Decoded, end, mac
from kubebee.trace.rehearsal import StageRun
from kubebee.trace.sockets import SocketTrace

_Document = dict[str, object]


def text(trace: Trace) -> str:
    """All of it."""
    lines = [("packet", _packet(trace.before)), ("comes in", _comes_in(trace))]
    for stage in trace.run.stages:
        lines.append((_stage_name(stage), _stage(stage)))
        if stage.verdict and _is_its_balancer(stage, trace):
            lines += [(f"  {name}", what) for name, what in _balancer(trace)]
    if trace.before.layers != trace.after.layers and trace.ending is not Ending.DROPPED:
        lines.append(("goes out", _packet(trace.after)))
    lines.append(("verdict", trace.run.verdict))
    lines += [("note", note) for note in _notes(trace)]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join([*(f"{name:<{width}}{what}".rstrip() for name, what in lines), "", summary(trace)])


def _is_its_balancer(stage: StageRun, trace: Trace) -> bool:
    """Whether a stage is the load balancer of the packet's family."""
    first = trace.before.innermost
    six = first is not None and len(first.flow.source) == IPV6.address_bytes
    return stage.builtin and is_balancer(stage.function) and stage.function.endswith(IPV6.suffix) is six


def _packet(decoded: Decoded) -> str:
    tags = "".join(f"vlan {tag} " for tag in decoded.tags)
    return tags + " inside ".join(layer.text for layer in reversed(decoded.layers))


def _comes_in(trace: Trace) -> str:
    live = trace.run.live
    at = " at tc" if live.at is At.TC else ""
    program = f"program {live.program_id} (tag {live.tag})"
    return f"by {live.interface}{at}; {program} runs on a copy of what it writes"


def _stage_name(stage: StageRun) -> str:
    kind, _, name = stage.unit.partition("/")
    return kind if stage.builtin else f"{kind}/{name}"


def _stage(stage: StageRun) -> str:
    if not stage.verdict:
        return "not reached"
    said = "went on to the next" if stage.verdict == WENT_ON else stage.verdict
    why = [f"rule {rule}" for rule in stage.rules]
    why += [f"rule {rule} would have decided (audit)" for rule in stage.audited]
    why += [_reason(reason) for reason in stage.dropped]
    return ": ".join([said, ", ".join(why)]) if why else said


def _reason(reason: str) -> str:
    meaning = drops.explain(reason)
    return f"{reason} ({meaning})" if meaning else reason


def _balancer(trace: Trace) -> Iterator[tuple[str, str]]:
    shown = trace.frontend
    if trace.tunnel:
        yield ("option" if trace.by_option else "tunnel"), _tunnel(trace)
    yield "frontend", _frontend(shown) if shown else "none has this address, port and protocol"
    if shown is not None and shown.source_ranges:
        yield "may come", _may_come(trace, shown)
    if (known := _known(trace)) is not None:
        yield "connection", known
    if shown is not None and shown.value.affinity:
        yield "affinity", _affinity(trace, shown)
    if shown is not None and not trace.tunnel:
        yield "choice", _choice(trace, shown)
    if trace.backend is not None:
        yield "backend", f"{trace.backend.backend} ({trace.backend.state}), {_place(trace)}"
    if trace.source is not None:
        yield "source", f"{end(*trace.source)} stands for the client"
    yield from _next_hop(trace)


def _next_hop(trace: Trace) -> Iterator[tuple[str, str]]:
    if trace.exit is not None:
        how = "kept with the backend" if trace.exit.kept else "by a route lookup"
        to = mac(trace.exit.macs[:6]) if trace.exit.macs else "the kernel finds its neighbour's MAC address"
        yield "next hop", f"{trace.exit.interface}, {to} ({how})"
    elif trace.ending is Ending.LEFT_TO_KERNEL:
        unknown = "its MAC address is not known: the kernel forwards it, and resolves"
        yield "next hop", "on this node: the kernel delivers it" if _is_here(trace) else unknown


def _is_here(trace: Trace) -> bool:
    """Whether the kernel delivers it on this node."""
    hop = trace.backend.hop if trace.backend else None
    return hop.is_local if hop is not None else trace.is_tunnels_end


def _tunnel(trace: Trace) -> str:
    to = end(trace.tunnel, 0)
    if trace.by_option:
        if trace.is_tunnels_end:
            return f"taken off, as {to} is a backend of its frontend on this node"
        return f"left on: {to} is no backend on this node of the frontend that it names"
    if not trace.is_tunnels_end:
        return f"to {to}: goes on untouched, as no backend there is on this node and serves the packet inside"
    if trace.backend is None:
        return f"to {to}: ends here, as the node has the frontend's address itself"
    return f"to {to}: ends here, at the backend that another balancer chose"


def _frontend(shown: Shown) -> str:
    staying = sum(1 for member in shown.members if not member.leaving)
    words = [
        str(shown.key),
        shown.name,
        f"{shown.forwarding},",
        f"{shown.active} of {staying} backends active",
    ]
    if shown.sockets_only:
        words.append("for processes of this node only")
    if shown.value.affinity:
        words.append(f"affinity {seconds(shown.value.affinity)}")
    return " ".join(filter(None, words))


def _may_come(trace: Trace, shown: Shown) -> str:
    first = trace.before.innermost
    for prefix in shown.source_ranges:
        if first is not None and prefix.covers(first.flow.source):
            return f"yes, {prefix} covers the client"
    return f"no: the client is in none of {', '.join(map(str, shown.source_ranges))}"


def _known(trace: Trace) -> str | None:
    """What is known of the packet's connection; None: nobody would expect anything to be."""
    if trace.connection is not None:
        return _connection(trace, trace.connection)
    if trace.tunnel:
        return None
    if trace.by_table_before:
        return "not known, and older than a change of its slot: by the table before"
    if trace.frontend is not None and trace.frontend.forwarding is Forwarding.SNAT:
        return "none is known: a new one"
    if trace.pick is not None and trace.pick.changed:
        return "none is known: a new one, which is noted as its slot changed of late"
    return None


def _connection(trace: Trace, connection: Connection) -> str:
    client = end(*connection.client)
    if connection.answer:
        return f"{connection.state}: an answer to {client}, which asked {connection.frontend}"
    if trace.backend is not None and trace.backend.number != connection.backend:
        return f"{connection.state}: is over or its backend left; it starts anew"
    if connection.direct:
        return f"{connection.state}: in the flow table, as its slot changed; it keeps its backend"
    return f"{connection.state}: it keeps its backend"


def _affinity(trace: Trace, shown: Shown) -> str:
    habit = trace.habit
    if habit is None:
        return "the client was not here lately"
    member = next((each for each in shown.members if each.number == habit.backend), None)
    whom = f"{member.backend} ({member.state})" if member else "a backend that is gone"
    age = f"{seconds(round(habit.age))} ago the client had {whom}"
    return age if habit.counts else f"{age}: too long ago"


def _choice(trace: Trace, shown: Shown) -> str:
    pick = trace.pick
    if shown.random and shown.value.size:
        drawn = f", in this run {trace.backend.backend}" if trace.drawn and trace.backend else ""
        return f"one of {shown.value.size} slots at random{drawn or ', for new connections'}"
    if pick is None:
        return "no backend takes packets from outside"
    member = next((each for each in shown.members if each.number == pick.number), None)
    whom = str(member.backend) if member else f"number {pick.number}"
    text = f"hash {pick.hash:#010x} is slot {pick.slot} of {pick.size}: {whom}"
    kept = trace.backend is not None and trace.backend.number != pick.number
    return f"{text}, for new connections" if kept else text


def _place(trace: Trace) -> str:
    assert trace.frontend is not None
    staying = sum(1 for member in trace.frontend.members if not member.leaving)
    return f"{trace.position} of {staying}" if trace.position else "removed, and kept for its connections"


def _notes(trace: Trace) -> Iterator[str]:
    yield from trace.run.notes
    if trace.disagrees:
        yield "the table's choice is another backend: please report it"
    if trace.run.live.at is At.XDP and trace.ending is Ending.PASSED and trace.frontend is not None:
        yield "tc, behind it, sees the packet next: --at tc tells what is done there"
    if trace.run.live.balancer is None:
        yield f"no load balancer runs on {trace.run.live.interface}"


def is_lost(trace: Trace) -> bool:
    """Whether the packet ends here."""
    return trace.ending in (Ending.DROPPED, Ending.ANSWERED)


def summary(trace: Trace) -> str:
    """What would happen, in one sentence."""
    ending, decided, shown = trace.ending, trace.decided_by, trace.frontend
    if ending is Ending.DROPPED:
        return f"would be dropped by {_decider(decided)}"
    if ending is Ending.ANSWERED:
        layer = trace.after.innermost
        return f"would be refused: {layer.text if layer else 'an ICMP error'} goes back to the client"
    if ending is Ending.USER:
        assert decided is not None
        return f"would be sent on by {decided.unit} ({decided.verdict})"
    if trace.connection is not None and trace.connection.answer and ending is not Ending.PASSED:
        return f"would go back to the client {end(*trace.connection.client)}{_as_seen(trace)}{_out(trace)}"
    if trace.is_tunnels_end and trace.backend is None:
        return "would go on to the kernel without its outer header: the node has the frontend's address"
    if ending is Ending.PASSED or trace.backend is None or shown is None:
        return f"would go on to the kernel as it is: {_why_passed(trace)}"
    who = f"{_place(trace)} of {shown.name or shown.key}"
    place = f"backend {who}" if trace.position else f"a backend of {shown.name or shown.key} that was removed"
    if trace.is_tunnels_end:
        how = "as another balancer chose" if trace.by_option else "out of another balancer's tunnel"
        return f"would go to {trace.backend.backend} ({place}), {how}{_out(trace)}"
    how = f"by {shown.forwarding}"
    source = f" from {end(*trace.source)}" if trace.source else ""
    to = f"would go to {trace.backend.backend} ({place}) {how}{source}{_out(trace)}"
    return f"{to}; another new connection may get another backend, at random" if trace.drawn else to


def _decider(stage: StageRun | None) -> str:
    if stage is None:
        return "the kernel: no stage gave a verdict"
    why = [f"rule {rule}" for rule in stage.rules] + [_reason(reason) for reason in stage.dropped]
    name = _stage_name(stage)
    return f"{name}: {', '.join(why)}" if why else f"{name} ({stage.verdict})"


def _as_seen(trace: Trace) -> str:
    assert trace.connection is not None
    return f", as an answer of {trace.connection.frontend}"


def _out(trace: Trace) -> str:
    if trace.ending is Ending.LEFT_TO_KERNEL:
        return ", on this node" if _is_here(trace) else ", forwarded by the kernel"
    return f", out of {trace.exit.interface}" if trace.exit else ""


def _why_passed(trace: Trace) -> str:
    if trace.tunnel:
        return "its option is not for this node" if trace.by_option else "the tunnel does not end here"
    if trace.frontend is not None and trace.frontend.sockets_only:
        return "the frontend is for processes of this node only"
    if trace.frontend is not None:
        return "the load balancer left it alone"
    return "no frontend has this address, port and protocol"


def document(trace: Trace) -> _Document:
    """All of it, for programs."""
    live, shown, pick, habit = trace.run.live, trace.frontend, trace.pick, trace.habit
    return {
        "summary": summary(trace),
        "outcome": trace.ending.value,
        "verdict": trace.run.verdict,
        "interface": live.interface,
        "at": live.at.value,
        "program": {"id": live.program_id, "tag": live.tag},
        "stages": [_stage_document(stage) for stage in trace.run.stages],
        "frontend": _frontend_document(shown) if shown else None,
        "connection": _connection_document(trace.connection) if trace.connection else None,
        "affinity": _habit_document(habit) if habit else None,
        "choice": {"hash": pick.hash, "slot": pick.slot, "slots": pick.size} if pick else None,
        "drawn": trace.drawn,
        "tunnel": {"to": end(trace.tunnel, 0), "endsHere": trace.is_tunnels_end} if trace.tunnel else None,
        "backend": _member_document(trace.backend) | {"position": trace.position} if trace.backend else None,
        "source": _end_document(*trace.source) if trace.source else None,
        "exit": {
            "interface": trace.exit.interface,
            "mac": mac(trace.exit.macs[:6]) if trace.exit.macs else None,
            "nextHopKept": trace.exit.kept,
        }
        if trace.exit
        else None,
        "before": _packet_document(trace.before, trace.run.before),
        "after": _packet_document(trace.after, trace.run.after),
        "notes": list(_notes(trace)),
    }


def _stage_document(stage: StageRun) -> _Document:
    return {
        "unit": stage.unit,
        "function": stage.function,
        "reached": bool(stage.verdict),
        "verdict": stage.verdict,
        "dropReasons": list(stage.dropped),
        "rules": list(stage.rules),
        "auditRules": list(stage.audited),
    }


def _frontend_document(shown: Shown) -> _Document:
    return {
        "name": shown.name,
        **_key_document(shown.key),
        "forwarding": shown.forwarding.value,
        "algorithm": shown.algorithm,
        "affinitySeconds": shown.value.affinity,
    }


def _key_document(key: FrontendKey) -> _Document:
    return {"address": format_address(key.address), "port": key.port, "protocol": key.protocol.name}


def _end_document(address: bytes, port: int) -> _Document:
    return {"address": format_address(address), "port": port}


def _member_document(member: Member) -> _Document:
    backend = member.backend
    return {
        "number": member.number,
        **_end_document(backend.address, backend.port),
        "weight": backend.weight,
        "state": member.state,
    }


def _connection_document(connection: Connection) -> _Document:
    return {
        "answer": connection.answer,
        "state": connection.state,
        "direct": connection.direct,
        "client": _end_document(*connection.client),
        "frontend": _key_document(connection.frontend),
        "backendNumber": connection.backend,
    }


def _habit_document(habit: Habit) -> _Document:
    return {
        "backendNumber": habit.backend,
        "ageSeconds": round(habit.age, 3),
        "counts": habit.counts,
    }


def _packet_document(decoded: Decoded, raw: bytes) -> _Document:
    return {
        "destinationMac": mac(decoded.destination_mac),
        "sourceMac": mac(decoded.source_mac),
        "layers": [layer.text for layer in decoded.layers],
        "hex": raw.hex(),
    }


def is_refused(asked: SocketTrace) -> bool:
    """Whether connect() fails at once."""
    return asked.served and asked.frontend is not None and not asked.chances


def socket_text(asked: SocketTrace) -> str:
    """What a process of this node would get."""
    lines = [
        ("asks for", end(asked.flow.destination, asked.flow.destination_port)),
        ("frontend", _frontend(asked.frontend) if asked.frontend else "none has this address and port"),
    ]
    lines += [("may get", f"{member.backend} ({_percent(part)})") for member, part in asked.chances]
    lines.append(("note", "the kernel has no test run for socket programs: this is read from their tables"))
    return "\n".join([*(f"{name:<12}{what}" for name, what in lines), "", socket_summary(asked)])


def _percent(part: float) -> str:
    return share(round(part * 1_000_000), 1_000_000)


def socket_summary(asked: SocketTrace) -> str:
    """The same in one sentence."""
    shown = asked.frontend
    if shown is None:
        return "connect() would be left as it is: no frontend has this address, port and protocol"
    name = shown.name or str(shown.key)
    if not asked.served:
        return f"connect() would be left as it is, though {name} is a frontend: no socket program is attached"
    if not asked.chances:
        return f"connect() would fail with EHOSTUNREACH: {name} has no backend for processes of this node"
    if len(asked.chances) == 1:
        return f"connect() would reach {asked.chances[0][0].backend}, the only backend of {name}"
    how = "at random" if asked.flow.protocol == 6 else "by the socket: one socket always the same one"
    return f"connect() would reach one of {len(asked.chances)} backends of {name}, chosen {how}"


def socket_document(asked: SocketTrace) -> _Document:
    """The same for programs."""
    return {
        "summary": socket_summary(asked),
        "served": asked.served,
        "frontend": _frontend_document(asked.frontend) if asked.frontend else None,
        "backends": [_member_document(member) | {"chance": part} for member, part in asked.chances],
    }
