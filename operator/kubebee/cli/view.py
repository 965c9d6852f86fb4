"""What `kubebee status` shows people: programs, frontends, rules, drops and Events as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from kubebee.cli.rates import NONE, Rates
from kubebee.cli.snapshot import Place, Resource, Snapshot
from kubebee.lb.fill import HIGH
from kubebee.loader.counted import FunctionReading
from kubebee.planner.plan import ResourceKey
from kubebee.policy.compile import BUILTIN
from kubebee.policy.stats import RuleStats
from kubebee.store.state import ServicesRecord

ROWS = 30
"""Resources, frontends or rules shown at most: those that count most, and how many more there are."""
EVENTS = 8
HOOKS = 3
"""Hooks of one cgroup that are named; of more only their number is."""
LOG_LINES = 20
_Item = TypeVar("_Item")


def render(now: Snapshot, before: Snapshot | None = None) -> Group:
    """Everything in `now`; rates only if there is a snapshot before it."""
    rates = Rates.of(now, before)
    blocks: list[RenderableType] = [_headline(now), _programs(now, rates)]
    blocks += [_failure(resource) for resource in now.resources if not resource.ready]
    blocks += [_services(now.services)] if now.services is not None else []
    blocks += [_fill(now)] if any(resource.status.get("fill") for resource in now.resources) else []
    tables = (_frontends(now, rates), _rules(now, rates), _drops(now, rates), _events(now))
    blocks += [table for table in tables if table.row_count]
    return Group(*_spaced(blocks))


def _spaced(blocks: Sequence[RenderableType]) -> Iterator[RenderableType]:
    for index, block in enumerate(blocks):
        if index:
            yield Text()
        yield block


def _headline(now: Snapshot) -> Text:
    resources = _programmed(now)
    ready = sum(resource.ready for resource in resources)
    style = "bold green" if ready == len(resources) else "bold red"
    line = Text(f"{ready} of {len(resources)} ready", style=style)
    if now.counters_missing:
        line.append(f"   no counters: {now.counters_missing}", style="yellow")
    return line


def _services(record: ServicesRecord) -> Text:
    """How many Services are served, and what is wrong with some."""
    ports = f"{record.host_ports} host ports, " if record.host_ports else ""
    text = f"{record.services} Services, {record.endpoints} endpoints, {ports}{record.frontends} addresses"
    line = Text(text)
    if not record.synced:
        line.append("   not all of them are known yet: those served before go on", style="yellow")
    for title, count, texts in (
        ("left out", record.left_out_count, record.left_out),
        ("warnings", record.warnings_count, record.warnings),
    ):
        if count:
            line.append(f"   {count} {title}", style="yellow")
            for text in texts[:EVENTS]:
                line.append(f"\n  {text}", style="yellow")
    return line


def _fill(now: Snapshot) -> Text:
    """How full the load balancer's tables are, a line for each family; all ServiceLBs share them."""
    tables = next(resource.status["fill"] for resource in now.resources if resource.status.get("fill"))
    lines: dict[str, list[Text]] = {}
    for table in tables:
        text = f"{table['used']:,} of {table['size']:,} {table['limit']}"
        style = "yellow" if table["percent"] >= HIGH else ""
        lines.setdefault(str(table["family"]), []).append(Text(text, style=style))
    return Text("\n").join(
        Text(f"{family}: ").append_text(Text(", ").join(texts)) for family, texts in lines.items()
    )


def columns(*texts: str, numbers: Sequence[str] = ()) -> Table:
    """A table without rules, as kubectl's: long text goes on in the next line, numbers are never cut."""
    shown = [Column(name, overflow="fold") for name in texts]
    shown += [Column(name, justify="right", no_wrap=True) for name in numbers]
    return Table(*shown, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _most(items: Iterable[_Item], weight: Callable[[_Item], int]) -> tuple[list[_Item], int]:
    """All items, or the `ROWS` that weigh most, in their order; and how many are left out."""
    every = list(items)
    if len(every) <= ROWS:
        return every, 0
    heaviest = sorted(range(len(every)), key=lambda i: -weight(every[i]))[:ROWS]
    return [every[i] for i in sorted(heaviest)], len(every) - ROWS


def _add_left_out(table: Table, left_out: int) -> None:
    if left_out:
        table.add_row(f"and {left_out} more", style="dim")


def _programs(now: Snapshot, rates: Rates) -> Table:
    table = columns("PROGRAM", "STATE", "ATTACHED TO", numbers=("RUNS", "RUNS/S", "NS/RUN"))
    shown, left_out = _most(_programmed(now), lambda resource: not resource.ready)
    first: dict[ResourceKey, ResourceKey] = {}
    for resource in shown:
        style = "" if resource.ready else "red"
        unit = now.units.get(resource.key, resource.key)
        sharing = first.setdefault(unit, resource.key)
        if sharing != resource.key or not resource.places:
            where = NONE if sharing == resource.key else f"together with {sharing}"
            table.add_row(str(resource.key), _state(resource), where, NONE, NONE, NONE, style=style)
            continue
        for name, places in _rows(resource).items():
            functions = {place.function for place in places}
            readings = [f for f in now.counters.functions if f.key == unit and f.function in functions]
            table.add_row(name, _state(resource), _points(places), *_runs(readings, rates), style=style)
    _add_left_out(table, left_out)
    return table


def _programmed(now: Snapshot) -> list[Resource]:
    """What users ask for; the node itself only if something is wrong with it."""
    return [each for each in now.resources if each.kind != "BpfNode" or not each.ready]


_PARTS = {"XDP": "", "TC": "tc"}
"""What a row of ours is called after the resource, by attach type; else it is about sockets."""


def _rows(resource: Resource) -> dict[str, list[Place]]:
    """Places by what one row is about: a function of the user's, or all of ours of one attach type."""
    rows: dict[str, list[Place]] = {}
    for place in resource.places:
        part = place.function
        if resource.kind != "BpfProgram":
            part = _PARTS.get(place.type, "sockets")
        rows.setdefault(f"{resource.key} {part}".rstrip(), []).append(place)
    return rows


def _runs(readings: Sequence[FunctionReading], rates: Rates) -> tuple[str, str, str]:
    # The kernel counts what isn't XDP only while statistics are on: 0 may well mean "not counted".
    counted = [each for each in readings if each.runs or each.verdicts]
    runs = sum(each.runs for each in counted)
    mean = f"{sum(each.seconds for each in counted) * 1e9 / runs:.0f}" if runs else NONE
    return *rates.cells(*(("runs", each.key, each.function) for each in counted)), mean


def _state(resource: Resource) -> str:
    if int(resource.status.get("observedGeneration", 0)) < resource.generation:
        return "Updating"
    return str(resource.condition.get("reason", "Pending"))


def _points(places: Iterable[Place]) -> str:
    """Attach points by type and mode; what comes first in several of them (a cgroup's path) is said once."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for place in places:
        groups.setdefault((place.type, place.mode), {})[place.point] = None
    return "; ".join(
        f"{type_} {_once(names)}" + (f" ({mode})" if mode else "") for (type_, mode), names in groups.items()
    )


def _once(names: Iterable[str]) -> str:
    by_start: dict[str, list[str]] = {}
    for name in names:
        start, _, rest = name.rpartition(" ")
        by_start.setdefault(start, []).append(rest)
    return ", ".join(
        f"{start} ({len(rests)} hooks)"
        if start and len(rests) > HOOKS
        else f"{start} {', '.join(rests)}".lstrip()
        for start, rests in by_start.items()
    )


def _failure(resource: Resource) -> Text:
    """Why a resource is not ready: its condition, then what the first failing node says."""
    text = Text(f"{resource.key}: {resource.condition.get('message', 'no condition yet')}", style="red")
    for failure in resource.status.get("failures", ())[:1]:
        where = " ".join(str(failure.get(name, "")) for name in ("stage", "reason", "errno")).strip()
        lines = [f"  why:   {where} on {failure.get('node', '')}"]
        lines += [f"  do:    {failure['hint']}"] if failure.get("hint") else []
        lines += [f"  | {line}" for line in str(failure.get("log", "")).strip().splitlines()[-LOG_LINES:]]
        text.append("\n" + "\n".join(lines), style="not bold default")
    return text


def _frontends(now: Snapshot, rates: Rates) -> Table:
    table = columns("FRONTEND", "ADDRESS", numbers=("CONNECTIONS", "CONN/S", "PACKETS", "PACKETS/S"))
    shown, left_out = _most(now.counters.frontends, lambda frontend: frontend.counts.packets)
    for frontend in shown:
        table.add_row(
            now.frontends.get(frontend.key, frontend.owner or NONE),
            str(frontend.key),
            *rates.cells(("connections", frontend.key)),
            *rates.cells(("packets", frontend.key)),
        )
        for member in frontend.backends:
            address = str(member.backend)
            table.add_row(
                "  leaving" if member.draining else "  backend",
                address,
                *rates.cells(("connections", frontend.key, member.backend)),
                *rates.cells(("packets", frontend.key, member.backend)),
                style="dim" if member.draining else "",
            )
    _add_left_out(table, left_out)
    return table


def _rules(now: Snapshot, rates: Rates) -> Table:
    table = columns("RULE", "ACTION", numbers=("HITS", "HITS/S"))
    named = (rule for rule in now.counters.rules if rule.policy != BUILTIN or _hits(rule))
    shown, left_out = _most(named, _hits)
    for rule in shown:
        action = f"{rule.action.value} (audit only)" if rule.audit else rule.action.value
        table.add_row(f"{rule.policy}/{rule.rule}", action, *rates.cells(("hits", rule.policy, rule.rule)))
    _add_left_out(table, left_out)
    return table


def _hits(rule: RuleStats) -> int:
    return rule.audit_packets if rule.audit else rule.packets


def _drops(now: Snapshot, rates: Rates) -> Table:
    table = columns("DROPPED BY", "REASON", numbers=("PACKETS", "PACKETS/S"))
    owners = _owners(now)
    for drop in now.counters.drops:
        for reason, packets in drop.packets.items():
            if packets:
                cells = rates.cells(("dropped", drop.key, reason))
                table.add_row(owners.get(drop.key, str(drop.key)), reason.replace("_", " "), *cells)
    return table


def _events(now: Snapshot) -> Table:
    table = columns("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE")
    owners = _owners(now)
    for event in now.events[-EVENTS:]:
        key = ResourceKey(event.kind, event.name)
        what = owners.get(key, str(key))
        style = "yellow" if event.type == "Warning" else "dim"
        message = " ".join(event.message.split())
        table.add_row(event.last_timestamp[11:19], event.type, event.reason, what, message, style=style)
    return table


def _owners(now: Snapshot) -> dict[ResourceKey, str]:
    """What users call a unit: the resources that it runs."""
    owners: dict[ResourceKey, list[str]] = {}
    for resource, unit in now.units.items():
        owners.setdefault(unit, []).append(str(resource))
    return {unit: ", ".join(names) for unit, names in owners.items()}
