"""A real API server takes every object of the chart, with no field that it does not know."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import Cluster
from helm.binaries import MAJORS, ROOT, build
from helm.manifests import render

PLAIN = ()
ALL_ON = (
    "--set=controller.networkPolicy.enabled=true",
    "--set=controller.hostNetwork=true",
    "--set=monitoring.dashboard.enabled=true",
    "--set=loader.kernelHeaders=true",
    "--set=loader.capabilities.sysAdmin=true",
    "--set=loader.enableStats=true",
    "--set=kubebee.k8sServiceHost=192.0.2.7",
    "--set=image.pullSecrets[0].name=mine",
    "--set=loader.resources.limits.memory=1Gi",
)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """An empty namespace."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def try_out(cluster: Cluster, documents: list[dict[str, Any]]) -> list[str]:
    """Server dry run; unknown fields and values that can't be raise a ClusterError."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    options = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    return cluster.kubectl("apply", *options, "-f", "-", stdin=text, timeout=120).stdout.splitlines()


@pytest.mark.parametrize("options", [PLAIN, ALL_ON], ids=["plain", "all on"])
@pytest.mark.parametrize("major", MAJORS)
def test_the_server_takes_every_object(
    cluster: Cluster, namespace: str, major: int, options: tuple[str, ...]
) -> None:
    documents = render(build(major), f"--namespace={namespace}", *options)
    for each in documents:
        if each["kind"] == "Pod":  # its account exists only once it is really created
            each["spec"]["serviceAccountName"] = "default"
    (loader,) = [
        each for each in documents if each["kind"] == "ConfigMap" and "daemonset.yaml" in each["data"]
    ]
    documents.append(yaml.safe_load(loader["data"]["daemonset.yaml"]))
    lines = try_out(cluster, documents)
    assert len(lines) == len(documents)
    assert "daemonset.apps/kubebee-loader serverside-applied (server dry run)" in lines


def test_the_server_takes_the_plain_manifests(cluster: Cluster) -> None:
    options = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    definitions = Path(ROOT, "manifests", "crds.yaml")
    assert cluster.kubectl("apply", *options, "-f", str(definitions)).stdout.count("dry run") == 4
    build_result = cluster.kubectl("kustomize", str(ROOT / "manifests")).stdout
    namespaced = [
        {**each, "metadata": {**each["metadata"], "namespace": "default"}}
        if each["metadata"].get("namespace") == "kubebee-system"
        else each
        for each in yaml.safe_load_all(build_result)
    ]
    # Dry runs keep nothing, so the namespace that the manifests make is not there for the rest of them.
    assert len(try_out(cluster, namespaced)) == len(namespaced)
