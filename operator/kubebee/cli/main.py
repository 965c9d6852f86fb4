"""The `kubebee` command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import click

from kubebee import __version__
from kubebee.cli import logs
from kubebee.errors import KubebeeError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn manifests into eBPF: programs, load balancing and host firewall."""


@cli.command()
@click.option(
    "-f", "--file", "directory", type=click.Path(path_type=Path), required=True, help="Folder of manifests."
)
@click.option("--bpffs", type=click.Path(path_type=Path), default=Path("/sys/fs/bpf"), show_default=True)
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path("/var/cache/kubebee"), show_default=True
)
@click.option("--node", default=lambda: os.uname().nodename, help="Name of this node.")
@click.option("--cgroup", type=click.Path(path_type=Path), default=None, help="Root for cgroup paths.")
@click.option("--log", "style", type=click.Choice(["auto", "text", "json"]), default="auto")
@click.option("-v", "--verbose", is_flag=True)
def run(
    directory: Path, bpffs: Path, cache: Path, node: str, cgroup: Path | None, style: str, verbose: bool
) -> None:
    """Make this machine's kernel match a folder of manifests."""
    from kubebee.cli.agent import make_agent
    from kubebee.planner.declared import Node

    logs.set_up(verbose, style)

    async def main_loop() -> None:
        labels = {"kubernetes.io/hostname": node}
        agent = make_agent(directory, bpffs, cache, Node(node, labels), cgroup)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, agent.stop)
        await agent.run()

    asyncio.run(main_loop())


def main() -> None:
    """Entry point: errors on standard error as what, where, why and what to do."""
    try:
        cli(standalone_mode=True)
    except KubebeeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
