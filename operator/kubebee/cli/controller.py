"""`kubebee controller`: what decides for a cluster."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from pathlib import Path

import click

from kubebee.cli import logs, options
from kubebee.cli.allocator import give_back_memory
from kubebee.cli.serving import until_stopped

DEFAULT_NAMESPACE = "kubebee-system"
DEFAULT_LEASE = "kubebee-controller"

namespace_option = click.option(
    "--namespace",
    default=DEFAULT_NAMESPACE,
    show_default=True,
    envvar=["KUBEBEE_NAMESPACE", "POD_NAMESPACE"],
    show_envvar=True,
    help="Where bundles, the Lease and the loaders' DaemonSet are.",
)
lease_option = click.option(
    "--lease",
    default=DEFAULT_LEASE,
    show_default=True,
    help="Lease whose holder acts; the other controllers stand by.",
)
kubeconfig_option = options.kubeconfig("as the pod, else $KUBECONFIG")


@click.command()
@namespace_option
@click.option(
    "--loader-manifest",
    type=click.Path(path_type=Path),
    default=None,
    envvar="KUBEBEE_LOADER_MANIFEST",
    show_envvar=True,
    help="YAML file with the loaders' DaemonSet, which the controller applies where nodes need one. "
    "[default: it leaves loaders to others]",
)
@lease_option
@kubeconfig_option
@options.metrics(8080, None, "/metrics, /healthz and /readyz")
@options.log_style
@options.verbose
def controller(
    namespace: str,
    loader_manifest: Path | None,
    lease: str,
    kubeconfig: Path | None,
    metrics_port: int,
    metrics_address: str | None,
    style: str,
    verbose: bool,
) -> None:
    """Decide what each node of a cluster runs, and say what became of it.

    It watches BpfPrograms, ServiceLBs, HostPolicies, Nodes and BpfNodes, and writes bundles, BpfNodes,
    statuses, Events and the loaders' DaemonSet. All that it must remember is in the API server: it may be
    killed at any time. Of several controllers one acts.

    \b
    Examples:
      kubebee controller --loader-manifest /etc/kubebee/daemonset.yaml   in a pod
      kubebee controller --kubeconfig FILE                               outside of one
    """  # noqa: D301 (click wants the character)
    from kubebee.controller.access import client
    from kubebee.controller.controller import CONNECTIONS, Controller, Setup
    from kubebee.controller.metrics import Metrics
    from kubebee.render.template_source import render_template

    give_back_memory()
    logs.set_up(verbose, style)
    pod = os.environ.get("POD_NAME", "")
    identity = f"{pod or os.uname().nodename}_{uuid.uuid4()}"
    metrics = Metrics()
    made = Controller(
        Setup(namespace, loader_manifest, lease, identity, pod),
        client(kubeconfig, CONNECTIONS),
        render_template,
        metrics,
    )

    async def serve(stop: threading.Event) -> None:
        from kubebee.loader import health

        if not metrics_port:
            await asyncio.to_thread(made.run, stop)
            return
        async with health.serve(metrics_address, metrics_port, metrics.registry, made.not_ready):
            await asyncio.to_thread(made.run, stop)

    until_stopped(serve)
