"""`kubebee run`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import logs, options
from kubebee.cli.allocator import give_back_memory
from kubebee.cli.exit_codes import Exit

if TYPE_CHECKING:
    from kubebee.cli.agent import Agent
    from kubebee.loader.host import TcChoice


@click.command()
@options.directory
@options.bpffs
@options.cache
@click.option("--node", default=lambda: os.uname().nodename, help="Name of this node. [default: host name]")
@options.cgroup
@options.tc_mode
@options.metrics(0, "127.0.0.1", "Prometheus metrics")
@options.enable_stats
@click.option(
    "--remove-on-exit", is_flag=True, help="At the end detach and unload everything; else it runs on."
)
@options.log_style
@options.verbose
def run(
    directory: Path,
    bpffs: Path,
    cache: Path,
    node: str,
    cgroup: Path | None,
    tc_mode: TcChoice,
    metrics_port: int,
    metrics_address: str,
    enable_stats: bool,
    remove_on_exit: bool,
    style: str,
    verbose: bool,
) -> None:
    """Make this machine's kernel match a folder of manifests, and keep it so.

    Edits, additions and removals in the folder are in force within a second. What runs goes on running when
    this process ends, also by kill -9; the next one takes it over.

    \b
    Examples:
      kubebee run -f examples/quickstart
      kubebee run -f /etc/kubebee/manifests --log json --metrics-port 9750
      kubebee run -f DIR --remove-on-exit        to try something out

    \b
    Signals:
      TERM, INT   end; with --remove-on-exit after removing everything
      HUP         read the folder and look at the kernel again
    """  # noqa: D301 (click wants the character)
    from kubebee.cli.agent import make_agent
    from kubebee.planner.declared import Node

    logs.set_up(verbose, style)
    give_back_memory()
    exit_if_unfit(bpffs)
    labels = {"kubernetes.io/hostname": node}
    agent = make_agent(directory, bpffs, cache, Node(node, labels), cgroup, tc_mode)
    with statistics(enable_stats):
        asyncio.run(_until_stopped(agent, metrics_address, metrics_port))
    if remove_on_exit:
        _remove(agent, bpffs)


def exit_if_unfit(bpffs: Path) -> None:
    """End with what this machine lacks, one line each, before anything is touched."""
    from kubebee.bpf.features import preflight

    problems = preflight(bpffs)
    for problem in problems:
        click.echo(f"error: {problem.message} ({problem.reason}): {problem.hint}", err=True)
    if problems:
        sys.exit(Exit.ENVIRONMENT)


@contextlib.contextmanager
def statistics(enabled: bool) -> Iterator[None]:
    """Run statistics of the kernel are on within this block; they go off even if we are killed."""
    from kubebee.bpf.features import enable_stats

    fd = enable_stats() if enabled else -1
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)


async def _until_stopped(agent: Agent, address: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGHUP, agent.rescan)
    with _metrics(agent, address, port):
        await agent.run()


@contextlib.contextmanager
def _metrics(agent: Agent, address: str, port: int) -> Iterator[None]:
    """Serve metrics within this block; port 0: don't, and don't even import what serves them."""
    if not port:
        yield
        return
    from kubebee.loader.metrics import Metrics
    from kubebee.loader.service_metrics import ServiceMetrics

    metrics = Metrics(agent.loader, asyncio.get_running_loop())
    ServiceMetrics(metrics.registry, agent.services)
    agent.on_report = lambda report: metrics.observe_pass(report, agent.pass_seconds)
    agent.on_refusal = metrics.observe_refusal
    with metrics.serve(address, port):
        yield


def _remove(agent: Agent, bpffs: Path) -> None:
    """Detach everything, then unpin it: a program goes with its last link."""
    from kubebee.loader.pins import PinRoot

    for interface in list(agent.loader.xdp.active):
        agent.loader.xdp.detach(interface)
    for key in list(agent.loader.states):
        agent.loader.links.drop_unit(key)
    agent.loader.links.sweep(kept=())
    PinRoot(bpffs).remove_all()
