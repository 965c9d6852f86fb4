"""`kubebee completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_KUBEBEE_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      kubebee completion bash > /etc/bash_completion.d/kubebee
      kubebee completion zsh  > "${fpath[1]}/_kubebee"
      kubebee completion fish > ~/.config/fish/completions/kubebee.fish
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "kubebee", _VARIABLE).source())
