"""`kubebee render`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import failures, options
from kubebee.cli.exit_codes import Exit

if TYPE_CHECKING:
    from kubebee.planner.plan import Bundle


@click.command()
@options.manifests
@click.option("--name", default="", help="Only the resource of this name.")
def render(files: tuple[Path, ...], name: str) -> None:
    """Show the C that manifests become: templates rendered, built-in datapaths chosen.

    Each source starts with a comment that says whose it is. Objects have none and are only named.

    \b
    Examples:
      kubebee render examples/xdp-syn-guard.yaml
      kubebee render examples/quickstart --name packets
    """  # noqa: D301 (click wants the character)
    from kubebee.cli import manifests

    read = manifests.read(files)
    refused = [error for _, key, error in read.errors if not name or (key and key.name == name)]
    refused += [error for key, error in read.planned.refused.items() if name in ("", key.name)]
    shown: set[str] = set()
    for key, unit in read.units.items():
        if name not in ("", key.name):
            continue
        for code in unit.objects:
            if code.bundle.code_hash not in shown:
                shown.add(code.bundle.code_hash)
                click.echo(f"/* {key}: {code.bundle.filename} {code.bundle.code_hash[:12]} */")
                click.echo(_source(code.bundle))
    for error in refused:
        click.echo(failures.describe(error), err=True)
    if not shown and not refused:
        click.echo("error: nothing to render\n  do:    name a resource that is in these files", err=True)
    sys.exit(Exit.OK if shown and not refused else Exit.ERROR)


def _source(bundle: Bundle) -> str:
    from kubebee.planner.plan import Toolchain

    if bundle.toolchain is Toolchain.OBJECT:
        return f"/* a compiled object: {bundle.path or 'given in base64'} */"
    return bundle.source.rstrip("\n")
