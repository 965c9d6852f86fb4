"""`kubebee map`."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import click

from kubebee.cli import options, output
from kubebee.errors import KubebeeError

DEFAULT_LIMIT = 1000
_KINDS = ("BpfProgram", "ServiceLB", "HostPolicy")
_RUN_MAP_PREFIX = "kb_run-"  # counters of a chain's stages: shown only if asked for by name


class MapNotFoundError(KubebeeError):
    """Nothing of that name is pinned."""

    reason = "MapNotFound"


@click.group("map")
def map_() -> None:
    """Maps of what kubebee runs, decoded by their BTF.

    \b
    Examples:
      kubebee map dump flows                    all maps of BpfProgram flows
      kubebee map dump flows/counts -o json     one of them
      kubebee map dump --kind ServiceLB _all    the load balancer's
    """  # noqa: D301 (click wants the character)


@map_.command()
@click.argument("name", metavar="NAME[/MAP]")
@click.option("--kind", type=click.Choice(_KINDS), default=_KINDS[0], show_default=True)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="At most so many entries of each map.",
)
@options.bpffs
@output.format_option("table", "json", "yaml")
def dump(name: str, kind: str, limit: int, bpffs: Path, style: str) -> None:
    """Print the entries of a resource's maps.

    A map without BTF is shown in hexadecimal; arrays by index; per-CPU maps with one value a CPU.
    """
    unit, _, wanted = name.partition("/")
    pins = _pins(bpffs, kind, unit, wanted)
    found = [_read(map_name, path, limit) for map_name, path in pins.items()]
    if style == "table":
        click.echo("\n\n".join(_text(each) for each in found))
    else:
        click.echo(output.document(style, found))


def _pins(bpffs: Path, kind: str, unit: str, wanted: str) -> dict[str, Path]:
    """The newest pin of each map that is asked for."""
    from kubebee.bpf.features import is_bpffs
    from kubebee.loader.pins import PinRoot
    from kubebee.planner.plan import ResourceKey

    root = PinRoot(bpffs)
    if not is_bpffs(bpffs) or (root.root.exists() and not os.access(root.root, os.R_OK | os.X_OK)):
        raise MapNotFoundError(
            "no BPF file system that could be read is mounted there",
            reason="BpffsMissing",
            where=str(bpffs),
            hint="run as root, or name the one that kubebee uses by --bpffs",
        )
    known = {name: paths[-1] for name, paths in root.maps_of(ResourceKey(kind, unit)).items()}
    shown = {name: path for name, path in known.items() if not name.startswith(_RUN_MAP_PREFIX)}
    if wanted:
        shown = {name: path for name, path in known.items() if name == wanted}
    if shown:
        return shown
    place = f"{kind}/{unit}"
    if not known:
        raise MapNotFoundError(
            "no map of it is pinned here", where=place, hint="`kubebee status` says whether it runs"
        )
    raise MapNotFoundError(
        f"it has no map {wanted!r}" if wanted else "it has no maps",
        where=place,
        hint=f"it has {', '.join(known)}",
    )


def _read(name: str, path: Path, limit: int) -> dict[str, object]:
    from kubebee.bpf.map import Map
    from kubebee.bpf.map_decode import entries

    with Map.from_pin(path) as opened:
        info = opened.info
        listed = []
        readable = info.key_size > 0  # ring buffers and the like have no entries
        for entry in itertools.islice(entries(opened), limit) if readable else ():
            value = {"perCpu": list(entry.per_cpu)} if entry.per_cpu else {"value": entry.value}
            listed.append({"key": entry.key, **value})
        return {
            "name": name,
            "id": info.id,
            "type": info.type.name.lower(),
            "maxEntries": info.max_entries,
            "entries": listed,
        }


def _text(found: dict[str, object]) -> str:
    listed = found["entries"]
    assert isinstance(listed, list)
    head = f"{found['name']} (id {found['id']}, {found['type']}, at most {found['maxEntries']} entries)"
    lines = [f"  {_flat(e['key'])}: {_flat(e['perCpu'] if 'perCpu' in e else e['value'])}" for e in listed]
    return "\n".join([head, *(lines or ["  (empty)"])])


def _flat(value: object) -> str:
    """One line: `{packets: 3, bytes: 180}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flat(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flat(each) for each in value) + "]"
    return str(value)
