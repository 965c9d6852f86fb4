"""`kubebee template`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubebee.cli import output

if TYPE_CHECKING:
    from kubebee.render.catalog import BuiltinTemplate


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    from kubebee.render import catalog

    return [name for name in catalog.names() if name.startswith(incomplete)]


@click.group()
def template() -> None:
    """Built-in templates for BpfProgram.

    \b
    Examples:
      kubebee template list
      kubebee template show syn-guard
      kubebee template show syn-guard --source
    """  # noqa: D301 (click wants the character)


@template.command("list")
@output.format_option("table", "json", "yaml")
def list_(style: str) -> None:
    """List all templates."""
    from kubebee.render import catalog

    found = [catalog.get(name) for name in catalog.names()]
    if style == "table":
        rows = [(t.name, ", ".join(_types(t)), t.summary) for t in found]
        click.echo(output.table(("NAME", "ATTACH", "SUMMARY"), rows))
    else:
        rest = [{"name": t.name, "summary": t.summary, "attach": _types(t)} for t in found]
        click.echo(output.document(style, rest))


@template.command()
@click.argument("name", shell_complete=_complete)
@click.option("--source", is_flag=True, help="Print the template itself: C with Jinja.")
@output.format_option("table", "json", "yaml")
def show(name: str, source: bool, style: str) -> None:
    """Explain a template, its parameters and how to use it."""
    from kubebee.render import catalog

    found = catalog.get(name)
    if source:
        click.echo(found.text, nl=False)
        return
    if style != "table":
        click.echo(output.document(style, found))
        return
    click.echo(f"{found.name}: {found.summary}\n\n{found.description.strip()}\n")
    if found.params:
        rows = [
            (p.name, p.type, "(required)" if p.default is None else p.default, p.description)
            for p in found.params
        ]
        click.echo(output.table(("PARAMETER", "TYPE", "DEFAULT", "MEANING"), rows) + "\n")
    click.echo("Manifest:\n")
    click.echo(output.document("yaml", _manifest(found)))


def _types(found: BuiltinTemplate) -> list[str]:
    return list(dict.fromkeys(str(program.attach["type"]) for program in found.programs))


def _manifest(found: BuiltinTemplate) -> dict[str, object]:
    from kubebee.api.v1alpha1.common import API_VERSION

    source: dict[str, object] = {"name": found.name}
    if found.params:
        source["params"] = {p.name: "..." if p.default is None else p.default for p in found.params}
    programs = [{"name": program.name, "attach": program.attach} for program in found.programs]
    return {
        "apiVersion": API_VERSION,
        "kind": "BpfProgram",
        "metadata": {"name": found.name},
        "spec": {"source": {"template": source}, "programs": programs},
    }
