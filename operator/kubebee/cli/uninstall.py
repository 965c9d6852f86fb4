"""`kubebee uninstall`: takes kubebee off a cluster; the chart's pre-delete hook runs it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click

from kubebee.cli import logs
from kubebee.cli.controller import kubeconfig_option, lease_option, namespace_option


@click.command()
@namespace_option
@click.option(
    "--deployment", default="kubebee-controller", show_default=True, help="Deployment of the controllers."
)
@click.option("--daemonset", default="kubebee-loader", show_default=True, help="DaemonSet of the loaders.")
@lease_option
@kubeconfig_option
@click.option(
    "--timeout",
    type=click.IntRange(1, 86400),
    default=300,
    show_default=True,
    help="Seconds that it may take.",
)
@click.option("--force", is_flag=True, help="Go on although nodes still run something when the time is over.")
def uninstall(
    namespace: str,
    deployment: str,
    daemonset: str,
    lease: str,
    kubeconfig: Path | None,
    timeout: int,
    force: bool,
) -> None:
    """Take kubebee off a cluster: all programs off the nodes, then loaders and what the controller made.

    It stops the controllers, empties the nodes and waits until each node that is ready says that nothing
    runs there. Then it removes the loaders, BpfNodes and bundles, and the finalizers and statuses of the
    resources; the resources stay. Nodes that are not ready are not waited for. It may be run again.

    \b
    Examples:
      kubebee uninstall --timeout 120
    """  # noqa: D301 (click wants the character)
    from kubebee.controller.access import client
    from kubebee.controller.api import Api
    from kubebee.controller.lease import ANSWER_SECONDS, Lease
    from kubebee.controller.uninstall import Names, Uninstall

    logs.set_up(False, "text")
    access = client(kubeconfig, 4)
    identity = f"uninstall-{os.uname().nodename}_{uuid.uuid4()}"
    names = Names(namespace, deployment, daemonset, lease)
    held = Lease(Api(access, patience=ANSWER_SECONDS), namespace, lease, identity)
    Uninstall(Api(access), names, held, timeout, force).run()
    click.echo("kubebee is off this cluster; its resources and CustomResourceDefinitions are still there")
