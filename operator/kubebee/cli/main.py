"""The `kubebee` command: its verbs, each loaded only when it is called."""

from __future__ import annotations

import faulthandler
import importlib
import sys

import click

from kubebee import __version__
from kubebee.cli.exit_codes import EXIT_HELP

_VERBS = {
    "run": ("run:run", "Make this machine's kernel match a folder of manifests."),
    "controller": ("controller:controller", "Decide for a cluster; the controller pod does."),
    "agent": ("agent_cluster:agent", "Run a node of a cluster; the loader pods do."),
    "uninstall": ("uninstall:uninstall", "Take kubebee off a cluster; the chart does when it is deleted."),
    "status": ("status:status", "Show the resources of a folder and how far each is."),
    "render": ("render:render", "Show the C that manifests become."),
    "verify": ("verify:verify", "Check manifests against this kernel; attach nothing."),
    "crds": ("crds:crds", "Write or check the CustomResourceDefinitions and their reference."),
    "prog": ("prog:prog", "Programs on this machine, whoever loaded them."),
    "map": ("map:map_", "Maps of what kubebee runs, decoded."),
    "lb": ("lb.verbs:lb", "The load balancer: frontends, connections, and what happens to a packet."),
    "template": ("template:template", "Built-in templates for BpfProgram."),
    "completion": ("completion:completion", "Print the shell's completion script."),
}


class _Verbs(click.Group):
    """A group that imports a verb's module when it is called: `kubebee --help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"kubebee.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _VERBS.items()])


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_HELP,
)
@click.version_option(__version__, "--version", message="kubebee %(version)s")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def cli() -> None:
    """Turn manifests into eBPF: programs, load balancing and a host firewall.

    \b
    Examples:
      kubebee run -f examples/quickstart
      kubebee status -f examples/quickstart
      kubebee verify examples/*.yaml
      kubebee prog list
    """  # noqa: D301 (click wants the character)


def main() -> None:
    """Entry point; every error ends as lines on standard error and an exit status."""
    faulthandler.enable()  # a crash in C would else end it without a word
    try:
        cli(prog_name="kubebee")
    except Exception as error:
        from kubebee.cli import failures

        sys.exit(failures.report(error, verbose=bool({"-v", "--verbose"} & set(sys.argv))))


if __name__ == "__main__":
    main()
