"""`kubebee agent`: what runs on every node of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubebee.cli import logs, options
from kubebee.cli.allocator import give_back_memory
from kubebee.cli.run import exit_if_unfit, statistics

if TYPE_CHECKING:
    from kubebee.cli.agent import Agent
    from kubebee.loader.host import TcChoice
    from kubebee.loader.loader import Loader
    from kubebee.planner.report import NodeReport
    from kubebee.store.api_client import ApiClient
    from kubebee.store.node import NodeStore

DEFAULT_CACHE = Path("/var/lib/kubebee")
DEFAULT_NAMESPACE = "kubebee-system"
API_PATIENCE = 1.0
"""Seconds to wait for the API server before the plan on disk is acted on: readiness takes under 2 s."""
LAST_WORDS = 2.0
_CACHED = ("node", "facts", "objects", "running", "vmlinux")
"""What is in the cache folder; the folder itself may be anybody's."""


@dataclass(frozen=True, slots=True)
class _Setup:
    """What the command line says."""

    node: str
    bpffs: Path
    cgroup: Path | None
    tc_mode: TcChoice
    host_root: Path
    cache: Path
    namespace: str
    kubeconfig: Path | None
    address: str | None
    port: int


@click.command()
@click.option("--node", envvar="KUBEBEE_NODE", show_envvar=True, required=True, help="Name of this Node.")
@options.bpffs
@options.cgroup
@options.tc_mode
@click.option(
    "--host-root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    show_default=True,
    envvar="KUBEBEE_HOST_ROOT",
    show_envvar=True,
    help="Folder that the node's own files are below: those of uprobes, and objects that are given by path.",
)
@options.cache_at(
    DEFAULT_CACHE, "Folder of compiled objects and of the last plan; it should outlive the pod."
)
@click.option(
    "--namespace",
    default=None,
    envvar="KUBEBEE_NAMESPACE",
    show_envvar=True,
    help=f"Where the bundles are. [default: the pod's own, else {DEFAULT_NAMESPACE}]",
)
@options.kubeconfig("as the pod")
@options.metrics(9750, None, "/metrics, /healthz and /readyz")
@options.enable_stats
@options.log_style
@options.verbose
def agent(
    node: str,
    bpffs: Path,
    cgroup: Path | None,
    tc_mode: TcChoice,
    host_root: Path,
    cache: Path,
    namespace: str | None,
    kubeconfig: Path | None,
    metrics_port: int,
    metrics_address: str | None,
    enable_stats: bool,
    style: str,
    verbose: bool,
) -> None:
    """Make this node's kernel match its BpfNode, and keep it so; the loader pods run it.

    It follows the BpfNode of its own name and writes that object's status. Without an API server it goes on
    with the last plan, which is kept in the cache folder. What runs goes on running when this process ends,
    also by kill -9; the next one takes it over.

    \b
    Examples:
      kubebee agent --node node1                     in a pod
      kubebee agent --node node1 --kubeconfig FILE   outside of one

    \b
    Signals:
      TERM, INT   end; everything runs on
      HUP         look at the kernel again
    """  # noqa: D301 (click wants the character)
    from kubebee.store import api_access

    logs.set_up(verbose, style)
    give_back_memory()
    exit_if_unfit(bpffs)
    namespace = namespace or api_access.pod_namespace() or DEFAULT_NAMESPACE
    setup = _Setup(
        node=node,
        bpffs=bpffs,
        cgroup=cgroup,
        tc_mode=tc_mode,
        host_root=host_root,
        cache=cache,
        namespace=namespace,
        kubeconfig=kubeconfig,
        address=metrics_address,
        port=metrics_port,
    )
    with statistics(enable_stats):
        asyncio.run(_run(setup))


async def _run(setup: _Setup) -> None:
    from kubebee.cli.agent import Agent, host_view
    from kubebee.lb.services.facts import NodeFacts
    from kubebee.lb.services.table import ServiceTable
    from kubebee.loader.loader import Loader
    from kubebee.loader.pins import PinRoot
    from kubebee.planner.declared import Node
    from kubebee.store import api_access
    from kubebee.store.api_client import ApiClient
    from kubebee.store.node import NodeStore
    from kubebee.store.node_api import NodeApi
    from kubebee.store.node_cache import NodeCache
    from kubebee.store.services import ClusterServices

    kubeconfig = setup.kubeconfig
    access = api_access.from_kubeconfig(kubeconfig) if kubeconfig else api_access.in_cluster(os.environ)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with ApiClient(access) as client:
        api = NodeApi(client, setup.node, setup.namespace)
        store = NodeStore(api, NodeCache(setup.cache / "node", setup.node))
        host = host_view(setup.cgroup, setup.tc_mode, setup.host_root)
        loader = Loader(PinRoot(setup.bpffs), setup.cache, setup.node, host)
        services = ClusterServices(client, ServiceTable(NodeFacts(setup.node)))
        made = Agent(store, loader, Node(setup.node), services)
        loop.add_signal_handler(signal.SIGHUP, made.rescan)
        async with _served(setup, made, store, loader, client):
            await _until_stopped(made, store, stop)
    if store.wants_nothing:
        _leave_nothing(setup)


async def _until_stopped(agent: Agent, store: NodeStore, stop: asyncio.Event) -> None:
    """Nothing is touched before a spec is known: until then an empty plan would be a guess."""
    following = asyncio.create_task(store.follow(API_PATIENCE))
    stopped = asyncio.create_task(stop.wait())
    known = asyncio.create_task(store.known.wait())
    tasks: list[asyncio.Task[object]] = [following, stopped, known]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if known.done():
            running = asyncio.create_task(agent.run())
            await asyncio.wait([following, stopped, running], return_when=asyncio.FIRST_COMPLETED)
            agent.stop()
            await running
            await store.finish(LAST_WORDS)
        if following.done():
            following.result()  # it ends only by an error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _leave_nothing(setup: _Setup) -> None:
    """Of a node that shall run nothing no file stays: this may be the last loader that it ever has."""
    from kubebee.loader.pins import PinRoot

    PinRoot(setup.bpffs).remove_all()
    for name in _CACHED:
        shutil.rmtree(setup.cache / name, ignore_errors=True)


@contextlib.asynccontextmanager
async def _served(
    setup: _Setup, agent: Agent, store: NodeStore, loader: Loader, client: ApiClient
) -> AsyncIterator[None]:
    """Health and metrics within this block, unless the port is 0."""
    if not setup.port:
        yield
        return
    from kubebee.loader import health
    from kubebee.loader.api_metrics import ApiMetrics
    from kubebee.loader.metrics import Metrics
    from kubebee.loader.service_metrics import ServiceMetrics

    metrics = Metrics(loader, asyncio.get_running_loop())
    ServiceMetrics(metrics.registry, agent.services)
    client.answered = ApiMetrics(metrics.registry, lambda: store.watching).observe
    passed = False

    def observe(report: NodeReport) -> None:
        nonlocal passed
        passed = True
        metrics.observe_pass(report, agent.pass_seconds)

    def not_ready() -> str:
        if not store.known.is_set():
            return "no plan: the API server has not given one, and none is on disk"
        return "" if passed else "the first pass is not done"

    agent.on_report = observe
    agent.on_refusal = metrics.observe_refusal
    async with health.serve(setup.address, setup.port, metrics.registry, not_ready):
        yield
